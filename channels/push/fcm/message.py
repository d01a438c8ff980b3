"""A note as FCM's message: what Android, Apple and web devices are each told of it. Pure.

Names are in snake_case as in FCM's pages; what an application's own table has in lowerCamelCase is
spelled like it. Times to live depend on when it leaves, so the JSON has marks in their places until
then: control characters, which cannot stand in JSON otherwise.

Sources: FCM's reference of projects.messages; "Set message priority", "Set the lifespan",
"Collapsible messages"; RFC 8030 (5.2 to 5.4); Apple's "Sending notification requests to APNs".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw

from channels.provider import Unsendable
from channels.push.content import Note, check_size, collapse_id, high, merged, ttl_s
from hub.contract.types import Delivery

PAYLOAD_BYTES: Final = 4_096
"""Of what one device is given: keys and values of data and notification."""
TTL_MAX_S: Final = 28 * 86_400
"""Four weeks: FCM and Web Push keep nothing longer."""

_TTL: Final = b"\x01"
_UNTIL: Final = b"\x02"

_TOKEN: Final = re.compile(r"[A-Za-z0-9_:.~+/=-]{8,2048}\Z")
"""What FCM hands out has 140 to 200 characters of these, and is not promised to stay so."""
_RESERVED: Final = re.compile(r"(from|message_type)\Z|google\.|gcm\.notification\.")
_TARGETS: Final = frozenset({"token", "topic", "condition", "fid"})
_HUMP: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


def template_of(delivery: Delivery, note: Note, channel: str = "", id_key: str = "") -> bytes:
    """The request's JSON, but for the times to live; `channel`: of the Android app; `id_key`: of
    the delivery's id in data. Raises Unsendable."""
    if _TOKEN.match(delivery.to) is None:
        raise Unsendable(
            "this is not a registration token", failure="dead_address", code="malformed-token"
        )
    message = _message(delivery, note, channel)
    if note.own:
        message = merged(message, _spelled(note.own))
    data = _texts(message.get("data"), "data")
    if id_key:
        message["data"] = data = {**data, id_key: delivery.id}
    for key in data:
        if _RESERVED.match(key):
            _refuse(
                "data has a key that FCM keeps for itself (from, message_type, google.…)",
                "data-key",
            )
    message["token"] = delivery.to
    template = msgspec.json.encode({"message": message})
    if len(template) > PAYLOAD_BYTES:  # or no part of it can be longer
        check_size(payload_bytes(message), PAYLOAD_BYTES)
    return template


def body_of(template: bytes, expires_ms: int, now_ms: int) -> bytes:
    """The request's JSON as it leaves now. What is over at once is tried once (0)."""
    ttl = ttl_s(expires_ms, now_ms, TTL_MAX_S)
    until = now_ms // 1_000 + ttl if ttl else 0
    return template.replace(_TTL, b"%d" % ttl).replace(_UNTIL, b"%d" % until)


# ---- what we make of a note --------------------------------------------------------------------


def _message(delivery: Delivery, note: Note, channel: str) -> dict[str, Any]:
    urgent, collapse = high(delivery), collapse_id(delivery)
    message: dict[str, Any] = {
        "android": {"priority": "HIGH" if urgent else "NORMAL", "ttl": Raw(b'"%bs"' % _TTL)},
        "apns": _apns(note, urgent, collapse),
        "webpush": {"headers": {"TTL": Raw(b'"%b"' % _TTL), "Urgency": _urgency(urgent)}},
    }
    if collapse:
        message["android"]["collapse_key"] = collapse
        message["webpush"]["headers"]["Topic"] = collapse
    data = dict(note.data)
    if note.link:
        data.setdefault("link", note.link)  # Android and Apple leave links to the app
    if data:
        message["data"] = data
    if note.silent:
        return message
    notification = {"title": note.title, "body": note.text, "image": note.image}
    message["notification"] = {key: value for key, value in notification.items() if value}
    if android := _android(note, channel, collapse):
        message["android"]["notification"] = android
    if note.link.startswith("https://"):  # FCM takes no other for the web
        message["webpush"]["fcm_options"] = {"link": note.link}
    if collapse:
        message["webpush"]["notification"] = {"tag": collapse}
    return message


def _urgency(urgent: bool) -> str:
    return "high" if urgent else "normal"


def _android(note: Note, channel: str, collapse: str) -> dict[str, Any]:
    # A collapse key replaces what waits at FCM, a tag what the device already shows.
    made = {"channel_id": channel, "sound": note.sound, "tag": collapse}
    android: dict[str, Any] = {key: value for key, value in made.items() if value}
    if note.badge is not None:
        android["notification_count"] = note.badge
    return android


def _apns(note: Note, urgent: bool, collapse: str) -> dict[str, Any]:
    # Apple takes silent messages with priority 5 only, and needs to be told what they are.
    headers: dict[str, Any] = {
        "apns-priority": "10" if urgent and not note.silent else "5",
        "apns-push-type": "background" if note.silent else "alert",
        "apns-expiration": Raw(b'"%b"' % _UNTIL),
    }
    if collapse:
        headers["apns-collapse-id"] = collapse
    aps: dict[str, Any] = {"content-available": 1} if note.silent else {}
    if note.badge is not None:
        aps["badge"] = note.badge
    if note.sound and not note.silent:
        aps["sound"] = note.sound
    if note.image and not note.silent:
        aps["mutable-content"] = 1  # or the app cannot fetch it
    return {"headers": headers, "payload": {"aps": aps}} if aps else {"headers": headers}


# ---- the application's own table ---------------------------------------------------------------


def _spelled(own: Mapping[str, Any]) -> dict[str, Any]:
    """The application's own table, its names as ours; what FCM passes on as it is stays."""
    made = _snake(own)
    if not made.keys().isdisjoint(_TARGETS):
        _refuse("fcm must not say to whom: token, topic, condition, fid")
    for name in ("android", "apns", "webpush"):
        if made.get(name) is None:
            continue
        table = made[name] = _snake(_table(made[name], name))
        for key in ("notification", "data", "headers", "payload"):
            if table.get(key) is not None:
                _table(table[key], f"{name}.{key}")
        if name == "android" and table.get("notification") is not None:
            table["notification"] = _snake(table["notification"])
    return made


def _snake(table: Mapping[str, Any]) -> dict[str, Any]:
    return {_HUMP.sub(lambda hump: "_" + hump[1].lower(), key): one for key, one in table.items()}


def _table(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"fcm.{place} must be an object")
    return value


def _texts(value: Any, place: str) -> dict[str, str]:
    """FCM's data: strings only."""
    table = _table({} if value is None else value, place)
    if not all(isinstance(one, str) for one in table.values()):
        _refuse(f"fcm.{place} must have strings only")
    return table


def _refuse(problem: str, code: str = "fcm-table") -> NoReturn:
    raise Unsendable(problem, failure="rejected_content", code=code)


# ---- its size ----------------------------------------------------------------------------------


def payload_bytes(message: Mapping[str, Any]) -> int:
    """Of the device that is given most: keys and values of what all are given, and its own."""
    common = _weight(message.get("data")) + _weight(message.get("notification"))
    own = (
        _weight(message.get(name, {}).get(part))
        for name, part in (
            ("android", "notification"),
            ("android", "data"),
            ("apns", "payload"),
            ("webpush", "notification"),
            ("webpush", "data"),
        )
    )
    android, android_data, apns, web, web_data = own
    return common + max(android + android_data, apns, web + web_data)


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(len(key.encode()) + _weight(one) for key, one in value.items())
    if isinstance(value, list):
        return sum(map(_weight, value))
    return 0 if value is None else len(msgspec.json.encode(value))
