"""A delivery as Apple is given it: the headers of its request, and the JSON. Pure.

    {"text": "…", "title": "…", "data": {…}, "sound": "default", "badge": 1,
     "apns": {"push_type": "liveactivity", "priority": 10, "payload": {"aps": {"event": "update"}}}}

`data` stands beside `aps`, each key by itself; so do `image` and `link`, for the app's own
extension to read. The content's table `apns` sets headers, and its `payload` is laid
over ours.

Source: Apple, "Sending notification requests to APNs", "Generating a remote notification".
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from uuid import UUID, uuid5

import msgspec
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from msgspec import Meta, Struct, field

from channels.provider import Unsendable
from channels.push.apns.config import ApnsConfig, PushType, Topic
from channels.push.content import Note, check_size, collapse_id, high, merged, read, unquoted
from hub.contract.types import Delivery

PAYLOAD_BYTES: Final = 4 * 1024
PAYLOAD_BYTES_VOIP: Final = 5 * 1024
COLLAPSE_BYTES: Final = 64

_DEVICE: Final = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}\Z")
"""Device tokens have 32 bytes today; Apple says that their size may change."""
_IDS: Final = UUID("5b0f2a52-6a6f-5d5f-9d55-3f6a0d6f5f11")
"""The namespace of apns-id: the same delivery has the same id in every try."""
_SUFFIX: Final[dict[str, str]] = {
    "complication": ".complication",
    "controls": ".push-type.controls",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "location": ".location-query",
    "pushtotalk": ".voip-ptt",
    "voip": ".voip",
    "widgets": ".push-type.widgets",
}
"""What a push type adds to the bundle id."""


class Push(Struct, frozen=True):
    """One request without what is only known when it leaves (token, expiration)."""

    headers: tuple[HeaderTuple, ...]
    """Beginning with `:path`."""
    body: bytes
    once: bool = False
    """Apple tries once and stores nothing, however long the message is good for."""
    own_topic: bool = False
    """The topic is the content's and not the account's."""

    def __repr__(self) -> str:
        return f"Push({len(self.body)} bytes)"


class _Own(Struct, forbid_unknown_fields=True):
    """The content's table `apns`."""

    push_type: PushType | None = None
    priority: Literal[10, 5, 1] | None = None
    topic: Topic | None = None
    collapse_id: Annotated[str, Meta(min_length=1, max_length=COLLAPSE_BYTES)] | None = None
    expiration: Literal[0] | None = None
    payload: dict[str, Any] = field(default_factory=dict)


def push_of(delivery: Delivery, config: ApnsConfig) -> Push:
    """What would be sent for it. Raises Unsendable."""
    if _DEVICE.match(delivery.to) is None:
        raise Unsendable(
            "a device token of APNs is 64 or more hexadecimal digits",
            failure="dead_address",
            code="BadDeviceToken",
        )
    note = read(delivery.content, "apns")
    own = _own(note)
    push_type = own.push_type or _push_type(note, config)
    body = msgspec.json.encode(merged(_payload(note, push_type), own.payload))
    check_size(len(body), PAYLOAD_BYTES_VOIP if push_type == "voip" else PAYLOAD_BYTES)
    topic = own.topic or config.topic
    suffix = _SUFFIX.get(push_type, "")
    if not topic.endswith(suffix):
        topic += suffix
    # Apple's table of headers is small: what is different each time is not to be put into it.
    headers = [
        _once(":path", f"/3/device/{delivery.to}"),
        _kept("apns-topic", topic),
        _kept("apns-push-type", push_type),
        _kept("apns-priority", str(_priority(delivery, own, push_type))),
        _once("apns-id", str(apns_id(delivery.id))),
    ]
    if collapse := own.collapse_id or collapse_id(delivery):
        headers.append(_once("apns-collapse-id", collapse))
    return Push(tuple(headers), body, own.expiration == 0, own.topic is not None)


def apns_id(delivery: str) -> UUID:
    """What Apple calls a delivery."""
    return uuid5(_IDS, delivery)


def _own(note: Note) -> _Own:
    try:
        own = msgspec.convert(note.own, _Own)
    except msgspec.ValidationError as error:
        known = ", ".join(_Own.__struct_fields__)
        raise _rejected(f"apns: {unquoted(error)}; allowed: {known}", "apns-table") from None
    if own.collapse_id is not None and not _is_header(own.collapse_id):
        raise _rejected(
            f"apns: collapse_id must be at most {COLLAPSE_BYTES} printable ASCII characters",
            "apns-table",
        )
    return own


def _rejected(problem: str, code: str) -> Unsendable:
    return Unsendable(problem, failure="rejected_content", code=code)


def _is_header(value: str) -> bool:
    return value.isascii() and value.isprintable() and value.strip() == value


def _push_type(note: Note, config: ApnsConfig) -> str:
    return "background" if note.silent and config.push_type == "alert" else config.push_type


def _priority(delivery: Delivery, own: _Own, push_type: str) -> int:
    if push_type == "background":
        return min(own.priority or 5, 5)  # 10 is an error for what shows nothing
    return own.priority or (10 if high(delivery) else 5)


def _payload(note: Note, push_type: str) -> dict[str, Any]:
    aps: dict[str, Any] = {}
    if not note.silent:
        alert = {"title": note.title, "body": note.text}
        if alert := {key: value for key, value in alert.items() if value}:
            aps["alert"] = alert
        if note.sound:
            aps["sound"] = note.sound
    if note.badge is not None:
        aps["badge"] = note.badge
    if note.silent or push_type == "background":
        aps["content-available"] = 1
    if note.image:
        aps["mutable-content"] = 1  # the app's extension may load it before it is shown
    if "aps" in note.data:
        raise _rejected("data must have no key aps", "data-key")
    made: dict[str, Any] = {"aps": aps, **note.data}
    for key, value in (("image", note.image), ("link", note.link)):
        if value:
            made[key] = value
    return made


def _kept(name: str, value: str) -> HeaderTuple:
    return HeaderTuple(name.encode(), value.encode())


def _once(name: str, value: str) -> HeaderTuple:
    return NeverIndexedHeaderTuple(name.encode(), value.encode())
