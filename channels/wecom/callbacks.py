"""WeCom calling us: the check of a URL, and events, from the HTTP request to plain data and the
accounts that it concerns. Pure.

A request is believed when its signature is made with our token, it is not older than AGE_S, and
what it holds was encrypted with our key for our corp. XML is read by defusedxml with document types
refused, so that there are no entities of any kind. A repeat has the id of the first one.

Sources: WeCom's pages 90930 and 91116 (callbacks), 92130 (customers), 92131 (groups), 94670 (kf).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, ParseError

import msgspec
from defusedxml.ElementTree import fromstring
from msgspec import Struct

from channels.provider import Callback, Reply
from channels.wecom.config import KfConfig, MemberConfig, WecomConfig
from channels.wecom.crypto import CallbackRefused, Crypto

if TYPE_CHECKING:
    from channels.accounts import AccountConfig

AGE_S: Final = 300
"""A callback with an older (or a later) time is refused: a replay, or clocks that differ. WeCom
repeats within seconds."""
BODY_BYTES: Final = 64 * 1024
"""Of one callback. The longest, 500 members who left a group, has 45 KiB; and anybody may make us
parse so much before the signature is looked at."""
ELEMENTS_MAX: Final = 2_000
"""Elements of an event. Events have about ten, and one for each of up to 500 members of a group who
came or went."""
DEPTH_MAX: Final = 4
"""Elements within each other; WeCom's have three."""
SEVERAL: Final = "\n"
"""Between the values of an element that comes several times: ids have none."""

_SECONDS = re.compile(r"[0-9]{1,12}\Z")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Event(Struct, frozen=True):
    """What a callback said."""

    name: str
    """Of the event (`change_external_contact`); `message` for what a member wrote."""
    change: str
    """What changed (`add_external_contact`), the type of a message (`text`), or ""."""
    fields: dict[str, str]
    """Elements by name; those in others as `Outer.Inner`, several of one name with a newline
    between."""
    at_ms: int
    id: str
    """The same for each repeat."""

    def __repr__(self) -> str:
        return f"Event({self.name!r}, {self.change!r}, {self.id!r})"

    def encode(self) -> bytes:
        """As the body of a Callback with the method EVENT."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(body: bytes) -> Event:
        """What `encode` made. Raises CallbackRefused."""
        try:
            return _EVENT_DECODER.decode(body)
        except _UNREADABLE:
            raise CallbackRefused("not an event", status=400) from None


_EVENT_DECODER = msgspec.json.Decoder(Event)


def answer(config: WecomConfig, callback: Callback, now_ms: int) -> Reply | Event:
    """What a request says: an Event to be stored (and then to be answered with 200), or the reply
    to it, which is an error unless a URL was checked. Never raises."""
    try:
        return _understood(config, callback, now_ms)
    except CallbackRefused as error:
        return Reply(status=error.status, body=error.message.encode())


def _understood(config: WecomConfig, callback: Callback, now_ms: int) -> Reply | Event:
    if not config.callback_key or not config.callback_token:
        raise CallbackRefused("no callbacks for this account", status=404)
    if callback.method not in ("GET", "POST"):
        raise CallbackRefused("GET and POST only", status=405)
    if len(callback.body) > BODY_BYTES:
        raise CallbackRefused("too long", status=413)
    crypto = Crypto(config.callback_token, config.callback_key, config.corp_id)
    if callback.method == "GET":
        # A + that was not quoted has become a space on its way.
        return Reply(body=_opened(crypto, callback, _query(callback, "echostr"), now_ms))
    outer = fields_of(callback.body)
    return event_of(_opened(crypto, callback, outer.get("Encrypt", ""), now_ms), now_ms)


def _opened(crypto: Crypto, callback: Callback, encrypted: str, now_ms: int) -> bytes:
    timestamp = _query(callback, "timestamp")
    crypto.check(_query(callback, "msg_signature"), timestamp, _query(callback, "nonce"), encrypted)
    if _SECONDS.match(timestamp) is None or abs(now_ms - int(timestamp) * 1_000) > AGE_S * 1_000:
        raise CallbackRefused("its time is not now")
    return crypto.decrypt(encrypted)


def _query(callback: Callback, name: str) -> str:
    return callback.query.get(name, "").replace(" ", "+")


def event_of(message: bytes, now_ms: int) -> Event:
    """The event in a decrypted message. Raises CallbackRefused."""
    fields = fields_of(message)
    kind = fields.get("MsgType", "")
    name, change = fields.get("Event", ""), fields.get("ChangeType", "")
    if kind != "event":
        name, change = "message", kind
    if not (name and (change or kind == "event")):
        raise CallbackRefused("no event and no message", status=400)
    created = fields.get("CreateTime", "")
    at_ms = int(created) * 1_000 if _SECONDS.match(created) else now_ms
    own_id = fields.get("MsgId", "")
    if kind == "event" or not 0 < len(own_id) <= 64:
        # An event has no id. Its repeats are the same in all that they say.
        content = msgspec.json.encode(sorted(fields.items()))
        own_id = sha256(content).hexdigest()[:32]
    return Event(name, change, fields, min(at_ms, now_ms), f"{name}-{own_id}"[:128])


def fields_of(body: bytes) -> dict[str, str]:
    """The elements in a document's root. Raises CallbackRefused for what is not plain XML."""
    try:
        root = fromstring(body.decode("utf-8-sig"), forbid_dtd=True)
    except (ParseError, ValueError):  # ValueError: also of decoding, and all of defusedxml's
        raise CallbackRefused("not plain XML", status=400) from None
    found: dict[str, list[str]] = {}
    if sum(1 for _ in root.iter()) > ELEMENTS_MAX:
        raise CallbackRefused("too many elements", status=400)
    _collect(root, "", 1, found)
    return {name: SEVERAL.join(values) for name, values in found.items()}


def _collect(parent: Element, prefix: str, depth: int, found: dict[str, list[str]]) -> None:
    for child in parent:
        name = prefix + child.tag
        if not len(child):
            found.setdefault(name, []).append((child.text or "").strip())
        elif depth < DEPTH_MAX:
            _collect(child, f"{name}.", depth + 1, found)
        else:
            raise CallbackRefused("too deep", status=400)


# ---- whom it concerns --------------------------------------------------------------------------


class Directory:
    """The accounts at WeCom by what events name. Make one when the accounts are loaded: it looks at
    all of them."""

    def __init__(self, accounts: Mapping[str, AccountConfig]) -> None:
        self._kf: dict[tuple[str, str], str] = {}
        self._members: dict[tuple[str, str], str] = {}
        self._names = frozenset(accounts)
        for name, account in accounts.items():
            settings = account.settings
            if isinstance(settings, KfConfig):
                self._kf[settings.corp_id, settings.open_kfid] = name
            elif isinstance(settings, MemberConfig):
                self._members[settings.corp_id, settings.userid.lower()] = name

    def targets(
        self, account: AccountConfig, callback: Callback, now_ms: int
    ) -> Reply | list[tuple[str, Callback]]:
        """The reply, or which accounts must be given what before the answer is 200; an empty list
        when the event concerns none of ours. `account` is the one that the URL names."""
        config: WecomConfig = account.settings
        event = answer(config, callback, now_ms)
        if isinstance(event, Reply):
            return event
        name = self._concerned(account.name, config, event)
        if name is None:
            return []
        return [(name, Callback(method="EVENT", query={}, headers={}, body=event.encode()))]

    def _concerned(self, own: str, config: WecomConfig, event: Event) -> str | None:
        corp, fields = config.corp_id, event.fields
        if event.name == "kf_msg_or_event":
            return self._kf.get((corp, fields.get("OpenKfId", "")))
        if event.name == "change_external_contact":
            return self._members.get((corp, fields.get("UserID", "").lower()))
        app = config.app if config.app in self._names else own
        if event.name == "change_external_chat":
            return self._members.get((corp, fields.get("Owner", "").lower()), app)
        return app
