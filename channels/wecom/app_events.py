"""What members write to an application, and do with it, as what the hub understands. Pure.

A text becomes `{"text": …}`, any other message its own object under the type's name, with WeCom's
fields in the spelling of its other APIs (`{"image": {"media_id": …}}`), a type that is not known
`{"unsupported": type}`. What is no message becomes `{"event": name, …}`.

Sources: WeCom's pages 90239 (messages) and 90240 (events).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from channels.provider import ProviderInbound
from channels.wecom.app_groups import USERID
from channels.wecom.callbacks import SEVERAL, Event

FIELD_BYTES: Final = 8 * 1024
"""Of one field that is passed on. A text has up to 2 KiB, an address of a page as much."""
CHOICES: Final = 64
"""Answers of one card that are passed on; it has up to 20 questions or options."""

MESSAGES: Final[dict[str, dict[str, str]]] = {
    "text": {"Content": "text"},
    "image": {"MediaId": "media_id", "PicUrl": "pic_url"},
    "voice": {"MediaId": "media_id", "Format": "format"},
    "video": {"MediaId": "media_id", "ThumbMediaId": "thumb_media_id"},
    "file": {"MediaId": "media_id", "Title": "title"},
    "location": {
        "Location_X": "latitude",
        "Location_Y": "longitude",
        "Label": "address",
        "Scale": "scale",
    },
    "link": {"Title": "title", "Description": "desc", "Url": "url", "PicUrl": "picurl"},
}
"""Types of messages, and what their fields are called here. Media are fetched by their `media_id`
within three days."""

EVENTS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "enter_agent": ("entered", {}),
    "subscribe": ("subscribed", {}),
    "unsubscribe": ("unsubscribed", {}),
    "click": ("menu_clicked", {"EventKey": "key"}),
    "view": ("link_opened", {"EventKey": "url"}),
    "template_card_event": (
        "card_answered",
        {
            "TaskId": "task",
            "CardType": "card",
            "EventKey": "key",
            "ResponseCode": "response_code",
            "SelectedItems.SelectedItem.QuestionKey": "questions",
            "SelectedItems.SelectedItem.OptionIds.OptionId": "options",
        },
    ),
    "template_card_menu_event": (
        "card_menu_clicked",
        {
            "TaskId": "task",
            "CardType": "card",
            "EventKey": "key",
            "ResponseCode": "response_code",
        },
    ),
}
"""WeCom's events, what they are called here, and their fields. Any other is `event_unknown`."""

_LISTS = ("questions", "options")
_NUMBERS = ("latitude", "longitude", "scale")


def happened(event: Event, now_ms: int) -> ProviderInbound | None:
    """What a member has written or done; None for what no member has (the system tells of itself
    as `sys`). Never raises."""
    sender = event.fields.get("FromUserName", "")
    if USERID.match(sender) is None or sender == "sys":
        return None
    content = _message(event) if event.name == "message" else _event(event)
    return ProviderInbound(
        id=event.id,
        sender=sender.lower(),
        content=content,
        at_ms=min(max(event.at_ms, 0), now_ms),
    )


def _message(event: Event) -> dict[str, Any]:
    names = MESSAGES.get(event.change)
    if names is None:
        return {"unsupported": event.change[:64]}
    told = _told(event.fields, names)
    return told if event.change == "text" else {event.change: told}


def _event(event: Event) -> dict[str, Any]:
    name, fields = EVENTS.get(event.name, ("event_unknown", {}))
    if name == "event_unknown":
        return {"event": name, "name": event.name[:64]}
    return {"event": name, **_told(event.fields, fields)}


def _told(fields: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any]:
    """Those of the fields that are there, by their new names."""
    told: dict[str, Any] = {}
    for source, name in names.items():
        value = fields.get(source, "")
        if name == "text":
            told[name] = _cut(value)
        elif name in _LISTS and value:
            told[name] = [_cut(one) for one in value.split(SEVERAL)[:CHOICES]]
        elif name in _NUMBERS:
            told |= _number(name, value)
        elif value:
            told[name] = _cut(value)
    return told


def _cut(text: str) -> str:
    return text.encode()[:FIELD_BYTES].decode("utf-8", "ignore")


def _number(name: str, value: str) -> dict[str, float]:
    try:
        number = float(value[:32])
    except ValueError:
        return {}  # an element that is missing or odd is left out
    return {name: number} if abs(number) <= 1_000 else {}
