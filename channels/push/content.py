"""What applications write for push, read once for all its providers. Pure.

    {"text": "…", "title": "…", "data": {"order": 7}, "image": "https://…", "link": "app://…",
     "sound": "default", "badge": 1, "silent": false, "fcm": {…}, "apns": {…}, "webpush": {…},
     "getui": {…}, "jpush": {…}, "webhook": {…}}

`text` is required unless the message is `silent` (nothing is shown, `data` wakes the app) or the
provider's own table says it all. A provider's own table is in that service's words, and laid over
what we make of the rest (`merged`). Source: docs/push.md.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Final, NoReturn

import msgspec
from msgspec import Meta, Raw, Struct, field

from channels.provider import Unsendable
from hub.contract.types import Delivery

HIGH_FROM: Final = 6
"""Priorities (0 to 9) from here on are high or urgent in the words of push services."""
COLLAPSE_BYTES: Final = 20
"""Of a collapse key's digest: 27 characters, within the 32 of a Web Push topic (RFC 8030, 5.4)."""
DEPTH: Final = 16
"""Levels of a provider's own table. Real ones have six."""

_Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Note(Struct, frozen=True):
    """What is to be shown on a device, and what the app is given."""

    title: str
    text: str
    data: dict[str, str]
    image: str
    link: str
    sound: str
    badge: int | None
    silent: bool
    own: dict[str, Any]
    """The provider's own table."""

    def __repr__(self) -> str:
        return "Note()"


class _Content(Struct, forbid_unknown_fields=True):
    text: str = ""
    title: str = ""
    data: dict[str, str | _Number | float | bool] = field(default_factory=dict)
    image: str = ""
    link: str = ""
    sound: str = ""
    badge: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    silent: bool = False
    fcm: Raw = Raw()
    apns: Raw = Raw()
    webpush: Raw = Raw()
    getui: Raw = Raw()
    jpush: Raw = Raw()
    webhook: Raw = Raw()


_ALLOWED: Final = ", ".join(_Content.__struct_fields__)
_TABLES: Final = frozenset({"fcm", "apns", "webpush", "getui", "jpush", "webhook"})
_DECODER: Final = msgspec.json.Decoder(_Content)
_QUOTING: Final = {
    "Object contains unknown field": "a key that is not known",
    "Invalid enum value": "a word that is not allowed",
}
_AT: Final = re.compile(r" - at `\$[\w.\[\]]*`\Z")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read(content: Raw, provider: str) -> Note:
    """The note that a delivery's content is, for the provider of this table (one that has none
    reads what is left). Raises Unsendable, class rejected_content."""
    try:
        said = _DECODER.decode(content)
    except msgspec.ValidationError as error:
        if "unknown field" in str(error):
            _refuse(f"the content has an unknown key; allowed: {_ALLOWED}", "unknown-key")
        _refuse(unquoted(error), "wrong-type")
    except _UNREADABLE:
        _refuse("the content is not JSON", "not-json")
    raw: Raw = getattr(said, provider) if provider in _TABLES else Raw()
    own = _table(raw, provider) if raw else {}
    if not (said.silent or own or said.text.strip()):
        _refuse(f"the content must have text, or silent, or a table {provider}", "no-text")
    return Note(
        title=said.title,
        text=said.text,
        data={key: _text(value) for key, value in said.data.items()} if said.data else {},
        image=said.image,
        link=said.link,
        sound=said.sound,
        badge=said.badge,
        silent=said.silent,
        own=own,
    )


def _table(raw: Raw, provider: str) -> dict[str, Any]:
    try:
        own = msgspec.json.decode(raw)
    except _UNREADABLE:
        own = None
    if not isinstance(own, dict) or not _flat(own, DEPTH):
        _refuse(f"{provider} must be an object of at most {DEPTH} levels", f"{provider}-table")
    return own


def _flat(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_flat(one, depth - 1) for one in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_flat(one, depth - 1) for one in value)
    return True


def _text(value: str | int | float | bool) -> str:
    """As JSON spells it: apps get strings only."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def unquoted(error: msgspec.ValidationError) -> str:
    """What is wrong, and where, in msgspec's words. It names types and places; a key that is not
    known, and a word that is none of those allowed, it quotes: these are not told."""
    problem = str(error)
    at = _AT.search(problem)
    for quoting, instead in _QUOTING.items():
        if problem.startswith(quoting):
            return instead + (at[0] if at else "")
    return problem


def collapse_id(delivery: Delivery) -> str:
    """What a newer message of the same app and collapse key shares with it; "" without a key.
    A digest: keys have any length and any characters, and may name an order or a person."""
    if not delivery.collapse_key:
        return ""
    words = f"{delivery.app}\0{delivery.collapse_key}".encode("utf-8", "replace")
    digest = blake2b(words, digest_size=COLLAPSE_BYTES).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def high(delivery: Delivery) -> bool:
    """Whether it may wake a device that sleeps."""
    return delivery.priority >= HIGH_FROM


def ttl_s(expires_ms: int, now_ms: int, most_s: int) -> int:
    """Seconds for which a service may keep it: 0 for now or never, at most what it allows; that
    too for what has no end (`expires_ms` 0)."""
    if not expires_ms:
        return most_s
    return max(min((expires_ms - now_ms) // 1_000, most_s), 0)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, table in table; `over` wins, and its null takes a key away (RFC 7396)."""
    made = dict(base)
    for key, value in over.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping):
            mine = made.get(key)
            made[key] = merged(mine if isinstance(mine, Mapping) else {}, value)
        else:
            made[key] = value
    return made


def check_size(size: int, most: int) -> None:
    """Hold a payload of `size` bytes against the service's limit. Raises Unsendable."""
    if size > most:
        raise Unsendable(
            f"the payload has {size} bytes, {most} are allowed",
            failure="rejected_content",
            code="payload-too-large",
        )


def _refuse(problem: str, code: str) -> NoReturn:
    raise Unsendable(problem, failure="rejected_content", code=code)
