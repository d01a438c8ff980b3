"""A note as getui's `push/single/cid` is given it. Pure.

`push_message` goes by getui's own connection to a device that is online, `push_channel` by the
vendor's (`android.ups`) or by APNs (`ios`) to one that is not: both say the same.

Documented (RestAPI v2, page "push"; getui's Java SDK v2): lengths, `click_type`, `notify_id`,
`auto_badge`, `apns-collapse-id`, the paths in `ups.options`. An Android notification carries data
or a link, not both: with an http link its data reaches iPhones only.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from channels.provider import Unsendable
from channels.push.content import Note, check_size, merged
from channels.push.vendors.categories import Table, Words

TITLE_CHARS: Final = 50
BODY_CHARS: Final = 256
PAYLOAD_CHARS: Final = 3_072
"""Of `transmission` and of `payload`."""
URL_CHARS: Final = 1_024
INTENT_CHARS: Final = 4_096
IOS_BYTES: Final = 4_096
"""Apple's own limit of a payload."""

_HUAWEI: Final = "/message/android/category"
_HONOR: Final = "/android/notification/importance"

TABLE: Final[Table] = {
    "huawei": Words("HW", _HUAWEI, {_HUAWEI: "MARKETING"}),
    "honor": Words("HO", _HONOR, {_HONOR: "LOW"}, {_HONOR: "NORMAL"}),
    "xiaomi": Words("XM", "/extra.channel_id"),
    "oppo": Words("OP", "/category"),
    "vivo": Words("VV", "/category", {"/classification": 0}, {"/classification": 1}),
    "meizu": Words("MZ", ""),
}


def body_of(
    note: Note, title: str, collapse_id: str, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The request without what is ours alone: `request_id`, `audience` and `settings.ttl`. `title`
    is shown where the note has none. Raises Unsendable."""
    made: dict[str, Any] = {}
    if note.silent:
        made = _silent(note)
    elif note.text:
        made = _shown(note, note.title or title, collapse_id, options)
    made = merged(made, note.own)
    _check(made)
    return made


def _shown(
    note: Note, title: str, collapse_id: str, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    if not title:
        raise Unsendable(
            "getui needs a title: give one, or the account's `title`",
            failure="rejected_content",
            code="no-title",
        )
    ups: dict[str, Any] = {"title": title, "body": note.text} | _click(note)
    if collapse_id:
        ups["notify_id"] = _number(collapse_id)
    shown = dict(ups)
    if note.image:
        shown["big_image"] = note.image
    if note.sound and note.sound != "default":
        shown["ring_name"] = note.sound.rpartition(".")[0] or note.sound
    android: dict[str, Any] = {"ups": {"notification": ups}}
    if options:
        android["ups"]["options"] = options
    ios: dict[str, Any] = {
        "type": "notify",
        "aps": {"alert": {"title": title, "body": note.text}, "sound": note.sound or "default"},
    }
    if note.badge is not None:
        ios["auto_badge"] = str(note.badge)
    if note.image:
        ios["multimedia"] = [{"url": note.image, "type": 1}]
    if payload := _payload(note):
        ios["payload"] = payload
    if collapse_id:
        ios["apns-collapse-id"] = collapse_id
    return {
        "push_message": {"notification": shown},
        "push_channel": {"android": android, "ios": ios},
    }


def _silent(note: Note) -> dict[str, Any]:
    """Nothing is shown. Vendors' channels carry notifications only: it waits for getui's own."""
    payload = _payload(note) or "{}"
    ios = {"type": "notify", "aps": {"content-available": 1}, "payload": payload}
    return {"push_message": {"transmission": payload}, "push_channel": {"ios": ios}}


def _click(note: Note) -> dict[str, str]:
    """What touching it does."""
    if note.link.startswith(("https://", "http://")):
        return {"click_type": "url", "url": note.link}
    if note.link.startswith("intent:"):
        return {"click_type": "intent", "intent": note.link}
    if payload := _payload(note):
        return {"click_type": "payload", "payload": payload}
    return {"click_type": "startapp"}


def _payload(note: Note) -> str:
    """What the app is given, as JSON; "" for nothing."""
    data = note.data | ({"link": note.link} if note.link else {})
    return msgspec.json.encode(data).decode() if data else ""


def _number(collapse_id: str) -> int:
    """`notify_id`, 0 to 2,147,483,647: a newer notification of the same number replaces it."""
    digest = blake2b(collapse_id.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFF_FFFF


# ---- limits ------------------------------------------------------------------------------------


def _check(body: dict[str, Any]) -> None:
    """What getui would refuse, also of the note's own table. Raises Unsendable."""
    message = body.get("push_message")
    if not isinstance(message, dict) or not message:
        raise Unsendable(
            "the content has no push_message", failure="rejected_content", code="no-push_message"
        )
    for kind in (message, _inside(body, "push_channel", "android", "ups")):
        _fits(kind, "transmission", PAYLOAD_CHARS)
        notification = _inside(kind, "notification")
        _fits(notification, "title", TITLE_CHARS)
        _fits(notification, "body", BODY_CHARS)
        _fits(notification, "url", URL_CHARS)
        _fits(notification, "intent", INTENT_CHARS)
        _fits(notification, "payload", PAYLOAD_CHARS)
    check_size(len(msgspec.json.encode(_inside(body, "push_channel", "ios"))), IOS_BYTES)


def _inside(table: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        found = table.get(name)
        table = found if isinstance(found, dict) else {}
    return table


def _fits(table: dict[str, Any], name: str, most: int) -> None:
    value = table.get(name)
    if isinstance(value, str) and len(value) > most:
        raise Unsendable(
            f"{name} has {len(value)} characters, {most} are allowed",
            failure="rejected_content",
            code="payload-too-large",
        )
