"""What a delivery for WeCom says, checked before anything leaves, in the words of WeCom's API.

`{"text": "…"}` works everywhere. Anything else is WeCom's own object for a message type, under the
type's name: `{"image": {"media_id": "…"}}`, with or without `"msgtype": "image"`. A string stands
for the one field that matters (`{"image": "MEDIA_ID"}`, `{"markdown": "…"}`), a list for the only
list (`{"news": [{…}]}`). What WeCom would refuse, cut off or drop in silence is refused here.

Lengths are bytes of UTF-8. Sources: WeCom's pages 90236 (application), 90248 (appchat), 96427 and
95122 (customer service), 92135 and 92137 (mass and welcome messages).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from channels.provider import Unsendable
from hub.contract.types import Delivery

Kind = Literal["app", "appchat", "kf", "event", "external"]
"""Where it goes: to a member from an application, to an internal group, to a customer of a customer
service account, there in answer to an event (`send_msg_on_event`), or to customers through a member
(mass and welcome messages)."""

_Size = Annotated[int, Meta(ge=1, le=1_048_576)]


class ContentLimits(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What WeCom takes of each part, as its pages say: bytes, or a number of things."""

    text: _Size = 2_048
    mass_text: _Size = 4_000
    """Of mass and welcome messages."""
    markdown: _Size = 2_048
    title: _Size = 128
    description: _Size = 512
    url: _Size = 2_048
    media_id: _Size = 256
    name: _Size = 128
    """Ids, keys, names of places: nothing that is read as a text."""
    page: _Size = 1_024
    """The page of a mini-program."""
    button: _Size = 12
    """The button of a text card: four characters of Chinese."""
    author: _Size = 64
    articles: _Size = 8
    article: _Size = 666 * 1_024
    """The HTML of one article of mpnews."""
    notice_title: _Size = 36
    """Title and description of a mini-program notice: 12 characters of Chinese."""
    notice_items: _Size = 10
    notice_key: _Size = 30
    notice_value: _Size = 90
    program_title: _Size = 64
    menu_items: _Size = 10
    menu_text: _Size = 1_024
    menu_choice: _Size = 128
    menu_line: _Size = 256
    attachments: _Size = 9


LIMITS: Final = ContentLimits()

CARDS: Final = (
    "text_notice",
    "news_notice",
    "button_interaction",
    "vote_interaction",
    "multiple_interaction",
)
ASKING_CARDS: Final = CARDS[2:]
"""Those a member answers: each needs a `task_id` of its own."""
DUPLICATE_CHECK_MAX_S: Final = 4 * 3_600
"""The longest `duplicate_check_interval` that WeCom takes."""
DEPTH: Final = 16
"""Levels of a template card. Real ones have five."""

_TASK_ID = re.compile(r"[0-9A-Za-z_@-]{1,128}\Z")

_Check = Callable[[Any, str, ContentLimits], Any]
"""(value, where it stands, limits) -> what is sent. Raises Unsendable."""


def content_of(delivery: Delivery) -> dict[str, Any]:
    """The object that a delivery's content is. Raises Unsendable."""
    try:
        content = msgspec.json.decode(delivery.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        _refuse("the content must be an object")
    return content


def render(
    content: Mapping[str, Any], kind: Kind, limits: ContentLimits = LIMITS
) -> dict[str, Any]:
    """What WeCom is given of a message, without recipients and senders.

    For external: `{"text": {…}?, "attachments": […]?}`; else `{"msgtype": t, t: {…}, …options}`.
    Raises Unsendable, class rejected_content.
    """
    if not isinstance(content, Mapping):
        _refuse("the content must be an object")
    if is_command(content):
        _refuse("a command (op) is not a message")
    if kind == "external":
        return _external(content, limits)
    shapes, options = _SHAPES[kind], _OPTIONS.get(kind, {})
    _only(content, (*shapes, *options, "msgtype"), "the content")
    name = _type_of(content, shapes)
    sent = {"msgtype": name, name: shapes[name](content[name], name, limits)}
    for option, check in options.items():
        if option in content:
            sent |= check(content[option], option, limits)
    return sent


def is_command(content: Mapping[str, Any]) -> bool:
    """Whether it orders something (`{"op": "group.create", …}`) instead of saying something."""
    return "op" in content


def asks(message: Mapping[str, Any]) -> bool:
    """Whether a rendered message is a card that a member answers."""
    card = message.get("template_card")
    return isinstance(card, Mapping) and card.get("card_type") in ASKING_CARDS


def _type_of(content: Mapping[str, Any], shapes: Mapping[str, _Check]) -> str:
    given = [name for name in shapes if name in content]
    wanted = content.get("msgtype")
    if wanted is not None and given != [wanted]:
        _refuse("msgtype must be the name of the one message that the content has")
    if len(given) != 1:
        _refuse(f"the content must have one of {', '.join(shapes)}")
    return given[0]


def _external(content: Mapping[str, Any], limits: ContentLimits) -> dict[str, Any]:
    _only(content, ("text", "attachments", "msgtype", *_ATTACHMENTS), "the content")
    wanted = content.get("msgtype")
    if wanted is not None and [k for k in content if k != "msgtype"] != [wanted]:
        _refuse("msgtype must be the name of the one message that the content has")
    listed = content.get("attachments", [])
    if not isinstance(listed, list):
        _refuse("attachments must be a list")
    attachments = [_attachment(one, f"attachments[{i}]", limits) for i, one in enumerate(listed)]
    attachments += [
        _attachment({name: content[name]}, name, limits) for name in content if name in _ATTACHMENTS
    ]
    if len(attachments) > limits.attachments:
        _refuse(f"there are more than {limits.attachments} attachments")
    sent: dict[str, Any] = {}
    if "text" in content:
        sent["text"] = _MASS_TEXT(content["text"], "text", limits)
    if attachments:
        sent["attachments"] = attachments
    if not sent:
        _refuse("the content must have text or attachments")
    return sent


def _attachment(value: Any, place: str, limits: ContentLimits) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(f"{place} must be an object")
    _only(value, (*_ATTACHMENTS, "msgtype"), place)
    name = _type_of(value, _ATTACHMENTS)
    return {"msgtype": name, name: _ATTACHMENTS[name](value[name], f"{place}.{name}", limits)}


# ---- checks ----------------------------------------------------------------------------------


def _refuse(problem: str) -> NoReturn:
    raise Unsendable(problem, failure="rejected_content", code="content")


def _only(value: Mapping[Any, Any], allowed: tuple[str, ...], place: str) -> None:
    if any(key not in allowed for key in value):
        # The key itself may be a piece of the content: it is not quoted.
        _refuse(f"{place} has a key that is not known; allowed: {', '.join(allowed)}")


def _text(limit: str) -> _Check:
    """A text that is not empty, of so many bytes."""

    def check(value: Any, place: str, limits: ContentLimits) -> str:
        if not isinstance(value, str) or not value.strip():
            _refuse(f"{place} must be a text that is not empty")
        if not _is_unicode(value):
            _refuse(f"{place} is not valid Unicode")
        most = getattr(limits, limit)
        if len(value.encode()) > most:
            _refuse(f"{place} is longer than {most} bytes of UTF-8")
        return value

    return check


def _url(value: Any, place: str, limits: ContentLimits) -> str:
    text: str = _text("url")(value, place, limits)
    try:
        valid = urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).netloc)
    except ValueError:
        valid = False
    if not valid:
        _refuse(f"{place} must be a URL, http:// or https://")
    return text


def _flag(value: Any, place: str, limits: ContentLimits) -> int:
    if not (isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))):
        _refuse(f"{place} must be true or false")
    return int(value)


def _between(low: float, high: float) -> _Check:
    def check(value: Any, place: str, limits: ContentLimits) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:  # NaN is not between
            _refuse(f"{place} must be a number from {low:g} to {high:g}")
        return value  # type: ignore[no-any-return]

    return check


def _object(fields: Mapping[str, _Check], needed: str = "", shorthand: str = "") -> _Check:
    """An object of these fields; `needed` names those it must have, and a value that is no object
    stands for the field `shorthand`."""
    must = needed.split()

    def check(value: Any, place: str, limits: ContentLimits) -> dict[str, Any]:
        if shorthand and isinstance(value, str | list):
            value = {shorthand: value}
        if not isinstance(value, Mapping):
            _refuse(f"{place} must be an object")
        _only(value, tuple(fields), place)
        for name in must:
            if name not in value:
                _refuse(f"{place} must have {name}")
        return {name: fields[name](some, f"{place}.{name}", limits) for name, some in value.items()}

    return check


def _list(item: _Check, most: str) -> _Check:
    """One to `most` of them."""

    def check(value: Any, place: str, limits: ContentLimits) -> list[Any]:
        bound = getattr(limits, most)
        if not isinstance(value, list) or not 1 <= len(value) <= bound:
            _refuse(f"{place} must be a list of 1 to {bound}")
        return [item(one, f"{place}[{index}]", limits) for index, one in enumerate(value)]

    return check


def _either(check: _Check, *choices: tuple[str, ...]) -> _Check:
    """As `check`, and all fields of one of the choices are there."""

    def both(value: Any, place: str, limits: ContentLimits) -> Any:
        made = check(value, place, limits)
        if not any(all(name in made for name in choice) for choice in choices):
            _refuse(f"{place} must have {' or '.join(' and '.join(one) for one in choices)}")
        return made

    return both


def _card(value: Any, place: str, limits: ContentLimits) -> dict[str, Any]:
    """A template card: its sort and its task are checked, its many fields are WeCom's to judge."""
    if not isinstance(value, Mapping) or value.get("card_type") not in CARDS:
        _refuse(f"{place}.card_type must be one of {', '.join(CARDS)}")
    task = value.get("task_id")
    if task is not None and not (isinstance(task, str) and _TASK_ID.match(task)):
        _refuse(f"{place}.task_id: 1 to 128 of 0-9 A-Z a-z _ - @")
    if not _is_json(value, DEPTH):
        _refuse(f"{place} is nested more than {DEPTH} levels deep, or is not JSON")
    return dict(value)


def _is_json(value: Any, depth: int) -> bool:
    if isinstance(value, Mapping):
        names = all(isinstance(name, str) and _is_unicode(name) for name in value)
        return depth > 0 and names and all(_is_json(one, depth - 1) for one in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(one, depth - 1) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return _is_unicode(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**63)


def _is_unicode(text: str) -> bool:
    """Whether it can be written in UTF-8: no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _menu_item(value: Any, place: str, limits: ContentLimits) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(f"{place} must be an object")
    _only(value, (*_MENU, "type"), place)
    given = [name for name in _MENU if name in value]
    if len(given) != 1 or value.get("type", given[0]) != given[0]:
        _refuse(f"{place} must have one of {', '.join(_MENU)}, and type its name")
    name = given[0]
    return {"type": name, name: _MENU[name](value[name], f"{place}.{name}", limits)}


# ---- options of application messages -----------------------------------------------------------


def _safe(value: Any, place: str, limits: ContentLimits) -> dict[str, int]:
    """0 open, 1 confidential, 2 not to be passed on outside (news and mpnews)."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in (0, 1, 2):
        _refuse(f"{place} must be 0, 1 or 2")
    return {"safe": value}


def _id_trans(value: Any, place: str, limits: ContentLimits) -> dict[str, int]:
    return {"enable_id_trans": _flag(value, place, limits)}


def _duplicate_check(value: Any, place: str, limits: ContentLimits) -> dict[str, int]:
    """`"duplicate_check": seconds`: WeCom drops what is the same as something sent within them."""
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(f"{place} must be a number of seconds")
    if not 1 <= value <= DUPLICATE_CHECK_MAX_S:
        _refuse(f"{place} must be 1 to {DUPLICATE_CHECK_MAX_S} s")
    return {"enable_duplicate_check": 1, "duplicate_check_interval": value}


_OPTIONS: Final[dict[Kind, dict[str, Callable[[Any, str, ContentLimits], dict[str, int]]]]] = {
    "app": {"safe": _safe, "enable_id_trans": _id_trans, "duplicate_check": _duplicate_check},
    "appchat": {"safe": _safe},
}

# ---- messages ----------------------------------------------------------------------------------

_ID = _text("name")
_MEDIA_ID = _text("media_id")
_TITLE = _text("title")
_DESCRIPTION = _text("description")
_PAGE = _text("page")

_TEXT = _object({"content": _text("text")}, "content", "content")
_MASS_TEXT = _object({"content": _text("mass_text")}, "content", "content")
_MEDIA = _object({"media_id": _MEDIA_ID}, "media_id", "media_id")

_ARTICLE = _either(
    _object(
        {
            "title": _TITLE,
            "description": _DESCRIPTION,
            "url": _url,
            "picurl": _url,
            "appid": _ID,
            "pagepath": _PAGE,
        },
        "title",
    ),
    ("url",),
    ("appid", "pagepath"),
)
_MP_ARTICLE = _object(
    {
        "title": _TITLE,
        "thumb_media_id": _MEDIA_ID,
        "author": _text("author"),
        "content_source_url": _url,
        "content": _text("article"),
        "digest": _DESCRIPTION,
    },
    "title thumb_media_id content",
)
_APPCHAT: Final[dict[str, _Check]] = {
    "text": _TEXT,
    "markdown": _object({"content": _text("markdown")}, "content", "content"),
    "image": _MEDIA,
    "voice": _MEDIA,
    "video": _object(
        {"media_id": _MEDIA_ID, "title": _TITLE, "description": _DESCRIPTION},
        "media_id",
        "media_id",
    ),
    "file": _MEDIA,
    "textcard": _object(
        {"title": _TITLE, "description": _DESCRIPTION, "url": _url, "btntxt": _text("button")},
        "title description url",
    ),
    "news": _object({"articles": _list(_ARTICLE, "articles")}, "articles", "articles"),
    "mpnews": _object({"articles": _list(_MP_ARTICLE, "articles")}, "articles", "articles"),
}
_NOTICE_ITEM = _object({"key": _text("notice_key"), "value": _text("notice_value")}, "key value")
_APP: Final[dict[str, _Check]] = _APPCHAT | {
    "miniprogram_notice": _object(
        {
            "appid": _ID,
            "page": _PAGE,
            "title": _text("notice_title"),
            "description": _text("notice_title"),
            "emphasis_first_item": _flag,
            "content_item": _list(_NOTICE_ITEM, "notice_items"),
        },
        "appid title",
    ),
    "template_card": _card,
}

_MENU: Final[dict[str, _Check]] = {
    "click": _object({"id": _ID, "content": _text("menu_choice")}, "content", "content"),
    "view": _object({"url": _url, "content": _text("menu_text")}, "url content"),
    "miniprogram": _object(
        {"appid": _ID, "pagepath": _PAGE, "content": _text("menu_text")}, "appid pagepath content"
    ),
    "text": _object({"content": _text("menu_line"), "no_newline": _flag}, "content", "content"),
}
_MSGMENU = _object(
    {
        "head_content": _text("menu_text"),
        "list": _list(_menu_item, "menu_items"),
        "tail_content": _text("menu_text"),
    },
    "list",
    "list",
)
_KF: Final[dict[str, _Check]] = {
    "text": _TEXT,
    "image": _MEDIA,
    "voice": _MEDIA,
    "video": _MEDIA,
    "file": _MEDIA,
    "link": _object(
        {"title": _TITLE, "desc": _DESCRIPTION, "url": _url, "thumb_media_id": _MEDIA_ID},
        "title url thumb_media_id",
    ),
    "miniprogram": _object(
        {
            "appid": _ID,
            "title": _text("program_title"),
            "thumb_media_id": _MEDIA_ID,
            "pagepath": _PAGE,
        },
        "appid thumb_media_id pagepath",
    ),
    "msgmenu": _MSGMENU,
    "location": _object(
        {
            "name": _ID,
            "address": _DESCRIPTION,
            "latitude": _between(-90, 90),
            "longitude": _between(-180, 180),
        },
        "latitude longitude",
    ),
    "ca_link": _object({"link_url": _url}, "link_url", "link_url"),
}
_SHAPES: Final[dict[Kind, dict[str, _Check]]] = {
    "app": _APP,
    "appchat": _APPCHAT,
    "kf": _KF,
    "event": {"text": _TEXT, "msgmenu": _MSGMENU},
}

_ATTACHMENTS: Final[dict[str, _Check]] = {
    "image": _either(
        _object({"media_id": _MEDIA_ID, "pic_url": _url}, shorthand="media_id"),
        ("media_id",),
        ("pic_url",),
    ),
    "link": _object(
        {"title": _TITLE, "picurl": _url, "desc": _DESCRIPTION, "url": _url}, "title url"
    ),
    "miniprogram": _object(
        {
            "title": _text("program_title"),
            "pic_media_id": _MEDIA_ID,
            "appid": _ID,
            "page": _PAGE,
        },
        "title pic_media_id appid page",
    ),
    "video": _MEDIA,
    "file": _MEDIA,
}
