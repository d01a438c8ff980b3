"""Items of the session archive as what the hub understands: pure, and never raises on anything that
was JSON.

A text becomes `{"text": …}`, any other type WeCom's own object under its name; a message taken back
`{"event": "message_recalled", …}`. What a member wrote has the member as its agent. A conversation
is the customer's, or the group's (`~` and its id); among members alone there is none.

Source: WeCom's page 91774 (the decrypted items; ids of customers begin with wm or wo).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from channels.provider import ProviderInbound
from channels.wecom.archive_source import Archived
from hub import limits

CUSTOMERS: Final = 8
"""Customers one item may have been said to outside a group. WeCom's name one; with CONTENT_BYTES
for each, all of them fit one bundle. The rest is left out."""
CONTENT_BYTES: Final = 16 * 1024
"""Of one content as JSON: what a bundle of some messages can hold. A text has 2 KiB; what is longer
(forwarded chats) is named by its type."""
DEPTH: Final = 16
"""Levels of a content. Forwarded chats that hold forwarded chats have about ten."""

_CUSTOMER: Final = re.compile(r"w[mo][A-Za-z0-9_-]{14,62}\Z")
"""An external userid: WeCom's have 32 characters. Ids of members may begin alike, and are short."""
_GROUP: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MEMBER_CHARS: Final = 64
_ID_CHARS: Final = 120
_TYPE: Final = re.compile(r"[a-z_]{1,32}\Z")
_BODIES: Final = ("info", "doc", "meeting_voice_call", "voip_doc_share")
"""Where some types keep their object when it is not under their name."""


class Read(Struct, frozen=True):
    """What one item leads to."""

    inbound: tuple[ProviderInbound, ...] = ()
    counted: str = "archive_read"
    """What is added one to."""


def read_item(item: Archived, now_ms: int) -> Read:
    """The messages of the conversations that an item belongs to."""
    message = item.message
    if message.get("action") not in ("send", "recall"):
        return Read(counted="archive_ignored")  # a member changed the enterprise they act for
    author, listed = message.get("from"), message.get("tolist")
    if not isinstance(author, str) or not author:
        return Read(counted="archive_malformed")
    customer = _is_customer(author)
    senders = _conversations(message, author, listed if isinstance(listed, list) else [])
    if not senders:
        return Read(counted="archive_internal")
    content = content_of(message)
    if customer and senders[0].startswith("~"):
        content |= {"from": author}
    event = "event" in content
    return Read(
        tuple(
            ProviderInbound(
                id=_id(item, number),
                sender=sender,
                content=content,
                at_ms=_time(message.get("msgtime"), now_ms),
                agent="" if customer or event else author[:_MEMBER_CHARS],
            )
            for number, sender in enumerate(senders)
        )
    )


def _conversations(message: dict[str, Any], author: str, listed: list[Any]) -> list[str]:
    """The addresses whose conversations it is said in: the group, or each customer."""
    group = message.get("roomid")
    others = [one for one in listed if isinstance(one, str) and _is_customer(one)]
    if isinstance(group, str) and group:
        known = _GROUP.match(group) is not None and (_is_customer(author) or bool(others))
        return [f"~{group}"] if known else []
    if _is_customer(author):
        return [author]
    return list(dict.fromkeys(others))[:CUSTOMERS]


def content_of(message: dict[str, Any]) -> dict[str, Any]:
    """What was said, bounded; see the module."""
    kind = message.get("msgtype")
    if not isinstance(kind, str) or _TYPE.match(kind) is None:
        return {"unsupported": "unknown"}
    body = next(
        (message[key] for key in (kind, *_BODIES) if isinstance(message.get(key), dict)), {}
    )
    if kind == "revoke" or message.get("action") == "recall":
        return {"event": "message_recalled", "message": str(body.get("pre_msgid", ""))[:_ID_CHARS]}
    if kind == "text" and isinstance(body.get("content"), str):
        content: dict[str, Any] = {"text": body["content"]}
    else:
        content = {kind: body}
    if len(msgspec.json.encode(content)) > CONTENT_BYTES or _depth(content) > DEPTH:
        return {"unsupported": kind}
    return content


def _is_customer(userid: str) -> bool:
    return _CUSTOMER.match(userid) is not None


def _id(item: Archived, number: int) -> str:
    """WeCom's id of the message, one for each conversation it is said in."""
    own = item.message.get("msgid")
    usable = isinstance(own, str) and own.isascii() and own.isprintable() and len(own) <= _ID_CHARS
    name = own if usable and own else f"seq:{item.seq}"
    return f"{name}/{number}" if number else name


def _time(at_ms: Any, now_ms: int) -> int:
    """When it was said, never in the future."""
    known = type(at_ms) is int and 0 < at_ms <= limits.TIME_MS_MAX
    return min(at_ms, now_ms) if known else now_ms


def _depth(value: Any) -> int:
    """Levels of objects and arrays, counted without recursion."""
    level, depth = [value], 0
    while level:
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [one for each in inner for one in each if isinstance(one, dict | list)]
        depth += 1
    return depth
