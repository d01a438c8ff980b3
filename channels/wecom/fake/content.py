"""Whether a message is one that WeCom takes.

Sources: WeCom's pages 90236 (application), 90248 (groups), 94677 (customer service), 92135 (mass
messages and welcome messages).
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from channels.wecom.fake.media import Media
from channels.wecom.fake.world import Call, Refused

APP_TYPES: Final = frozenset(
    [
        "text",
        "image",
        "voice",
        "video",
        "file",
        "textcard",
        "news",
        "mpnews",
        "markdown",
        "miniprogram_notice",
        "template_card",
    ]
)
CHAT_TYPES: Final = frozenset(
    ["text", "image", "voice", "video", "file", "textcard", "news", "mpnews", "markdown"]
)
KF_TYPES: Final = frozenset(
    [
        "text",
        "image",
        "voice",
        "video",
        "file",
        "link",
        "miniprogram",
        "msgmenu",
        "location",
        "ca_link",
    ]
)
ATTACHMENTS: Final = frozenset(["image", "link", "miniprogram", "video", "file"])

TEXT_BYTES: Final = 2_048
MASS_TEXT_BYTES: Final = 4_000
NEWS: Final = 8
ATTACHMENTS_MOST: Final = 9

_WITH_MEDIA: Final = ("image", "voice", "video", "file")
_NEEDS: Final = {
    "text": ("content",),
    "markdown": ("content",),
    "textcard": ("title", "description", "url"),
    "miniprogram_notice": ("appid", "title"),
    "template_card": ("card_type",),
    "link": ("title", "url", "thumb_media_id"),
    "miniprogram": ("appid", "pagepath", "thumb_media_id"),
    "location": ("latitude", "longitude"),
    "ca_link": ("link_url",),
}
_ARTICLES_NEED: Final = {"news": ("title",), "mpnews": ("title", "thumb_media_id", "content")}
_ATTACHED_NEED: Final = {
    "link": ("title", "url"),
    "miniprogram": ("title", "pic_media_id", "appid", "page"),
}


def checked(call: Call, types: Container[str], media: Media) -> tuple[str, dict[str, Any]]:
    """The type of a message, and what it says. Raises Refused: 40008, 40058, 40007, 45002."""
    kind = call.text("msgtype")
    if kind not in types:
        raise Refused(40008)
    said = call.body.get(kind)
    if not isinstance(said, dict):
        raise Refused(40058)
    _whole(said, _NEEDS.get(kind, ()))
    if kind in _WITH_MEDIA:
        media.checked(call.corp, said.get("media_id"), call.now_ms)
    if "thumb_media_id" in _NEEDS.get(kind, ()):
        media.checked(call.corp, said["thumb_media_id"], call.now_ms)
    if kind in ("text", "markdown") and len(str(said["content"]).encode()) > TEXT_BYTES:
        raise Refused(45002)
    if kind in ("news", "mpnews"):
        articles = said.get("articles")
        if not isinstance(articles, list) or not 1 <= len(articles) <= NEWS:
            raise Refused(40058)
        for article in articles:
            _whole(article, _ARTICLES_NEED[kind])
    return kind, said


def _whole(said: Any, needs: tuple[str, ...]) -> None:
    """Raises Refused(40058) unless it has all that it needs."""
    if not isinstance(said, dict) or any(said.get(name) in (None, "") for name in needs):
        raise Refused(40058)


def checked_mass(call: Call, media: Media) -> dict[str, Any]:
    """The text and the attachments of what members send to customers. Raises Refused: 40063 when
    there is neither, 45002, 41064, 41065, 40007."""
    text = call.body.get("text") or {}
    attachments = call.body.get("attachments") or []
    content = text.get("content", "") if isinstance(text, dict) else None
    if not isinstance(content, str) or not isinstance(attachments, list):
        raise Refused(40058)
    if not content and not attachments:
        raise Refused(40063)
    if len(content.encode()) > MASS_TEXT_BYTES:
        raise Refused(45002)
    if len(attachments) > ATTACHMENTS_MOST:
        raise Refused(41064)
    for kind, said in parts(attachments):
        _whole(said, _ATTACHED_NEED.get(kind, ()))
        if kind == "miniprogram":
            media.checked(call.corp, said["pic_media_id"], call.now_ms)
        if kind in ("video", "file") or (kind == "image" and "pic_url" not in said):
            media.checked(call.corp, said.get("media_id"), call.now_ms)
    return {"text": {"content": content}, "attachments": attachments}


def parts(attachments: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The type of each attachment, and what it says. Raises Refused(41065)."""
    found = []
    for one in attachments:
        kind = one.get("msgtype") if isinstance(one, dict) else None
        said = one.get(kind) if isinstance(kind, str) and kind in ATTACHMENTS else None
        if not isinstance(kind, str) or not isinstance(said, dict):
            raise Refused(41065)
        found.append((kind, said))
    return found


def shown(kind: str, said: dict[str, Any]) -> dict[str, Any]:
    """What the record says of a message."""
    return {"type": kind, "content": said.get("content", said)}
