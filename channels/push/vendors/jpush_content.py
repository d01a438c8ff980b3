"""A note as JPush's `POST /v3/push` is given it. Pure.

Documented (Jiguang's page "Push API v3"): the fields, their limits in bytes, `extras`,
`apns_collapse_id` (iOS only: Android replaces by an earlier `msg_id`, which nobody here remembers),
`classification`, `third_party_channel` and what of it each vendor has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from channels.provider import Unsendable
from channels.push.content import Note, check_size, merged
from channels.push.vendors.categories import Table, Words

ANDROID_BYTES: Final = 4_000
"""Of the notification for Android and the message together."""
IOS_BYTES: Final = 2_000
"""Of the notification for iOS."""
BIG_PICTURE: Final = 3
"""A `style` of Android."""

TABLE: Final[Table] = {
    "huawei": Words("huawei", "category", {"category": "MARKETING"}),
    "honor": Words("honor", "importance", {"importance": "LOW"}, {"importance": "NORMAL"}),
    "xiaomi": Words("xiaomi", "channel_id"),
    "oppo": Words("oppo", "category"),
    "vivo": Words("vivo", "category"),  # its class is that of `classification`
    "meizu": Words("meizu", ""),
}


def body_of(
    note: Note,
    collapse_id: str,
    *,
    marketing: bool,
    production: bool,
    vendors: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The request without what is ours alone: `cid`, `audience`, `options.time_to_live`. Raises
    Unsendable."""
    made: dict[str, Any] = {"platform": "all"}
    if note.silent:
        made |= _silent(note)
    elif note.text:
        made["notification"] = _shown(note)
    options: dict[str, Any] = {
        "classification": 0 if marketing else 1,
        "apns_production": production,
    }
    if collapse_id:
        options["apns_collapse_id"] = collapse_id
    if vendors:
        options["third_party_channel"] = vendors
    made["options"] = options
    made = merged(made, note.own)
    _check(made)
    return made


def _shown(note: Note) -> dict[str, Any]:
    android: dict[str, Any] = {"alert": note.text}
    ios: dict[str, Any] = {"alert": note.text, "sound": note.sound or "default"}
    if note.title:
        android["title"] = note.title
        ios["alert"] = {"title": note.title, "body": note.text}
    if note.image:
        android |= {"style": BIG_PICTURE, "big_pic_path": note.image}
    if note.link.startswith("intent:"):
        android["intent"] = {"url": note.link}
    if note.badge is not None:
        ios["badge"] = note.badge
    if extras := _extras(note):
        android["extras"] = ios["extras"] = extras
    # `alert` by itself is for what is neither of the two.
    return {"alert": note.text, "android": android, "ios": ios}


def _silent(note: Note) -> dict[str, Any]:
    """A message for the app on Android; iOS is woken by a notification that shows nothing."""
    extras = _extras(note)
    message: dict[str, Any] = {"msg_content": msgspec.json.encode(extras).decode()}
    ios: dict[str, Any] = {"alert": "", "content-available": True}
    if extras:
        message["extras"] = ios["extras"] = extras
    return {"message": message, "notification": {"ios": ios}}


def _extras(note: Note) -> dict[str, str]:
    return note.data | ({"link": note.link} if note.link else {})


def _check(body: dict[str, Any]) -> None:
    """What JPush would refuse, also of the note's own table. Raises Unsendable."""
    notification, message = body.get("notification"), body.get("message")
    if not notification and not message:
        raise Unsendable(
            "the content has no notification and no message",
            failure="rejected_content",
            code="no-notification",
        )
    parts = notification if isinstance(notification, dict) else {}
    check_size(_size(parts.get("android")) + _size(message), ANDROID_BYTES)
    check_size(_size(parts.get("ios")), IOS_BYTES)


def _size(part: Any) -> int:
    return len(msgspec.json.encode(part)) if part else 0
