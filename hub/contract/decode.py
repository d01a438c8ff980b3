"""Strict and total decoding: any bytes give messages, rejections, or both; nothing is raised.

One message holds one object or an array of 1 to 256. In an array each object stands for itself.
MessagePack is turned into JSON at the border, so that everything behind it knows one encoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from hub import limits
from hub.contract.subjects import CHANNELS, INTENT_LANES, is_key
from hub.contract.types import AnyCommand, Inbound, Intent, Receipt
from hub.contract.zones import zone_exists

MSGPACK: Final = "application/msgpack"

Message = Intent | Receipt | Inbound | AnyCommand


class Rejection(Struct, frozen=True):
    """An object that is not a valid message. Ids are what could be read of them, else empty."""

    reason: str
    id: str = ""
    customer: str = ""


_KINDS: Final[dict[str, Any]] = {
    **dict.fromkeys(INTENT_LANES, Intent),
    "receipt": Receipt,
    "inbound": Inbound,
    "command": AnyCommand,
}
_ONE: Final = {lane: msgspec.json.Decoder(kind) for lane, kind in _KINDS.items()}
_MANY: Final = {lane: msgspec.json.Decoder(list[kind]) for lane, kind in _KINDS.items()}
_RAWS: Final = msgspec.json.Decoder(list[Raw])
_ANY_PACKED: Final = msgspec.msgpack.Decoder()

_ID = re.compile(r"[!-~]{1,64}\Z")
_DELIVERY = re.compile(r"([a-z0-9-]{1,32}):([!-~]{1,64}):([1-9][0-9]{0,3})\Z")
_SCOPE = re.compile(r"(all|category:.{1,64}|channel:(wecom|sms|push))\Z")
_BLANK: Final = b" \t\r\n"
_CONTENT_KEYS: Final = frozenset((*CHANNELS, "*"))


def decode(lane: str, source: str, payload: bytes, packed: bool = False) -> list[Message | Rejection]:
    """All objects of one message from `lane`, published under `source`, in order.

    `packed` says that the payload is MessagePack. Never raises.
    """
    if len(payload) > limits.MESSAGE_BYTES:
        return [Rejection(f"message of {len(payload)} bytes, at most {limits.MESSAGE_BYTES}")]
    if packed:
        try:
            payload = msgspec.json.encode(_ANY_PACKED.decode(payload))
        except Exception as error:  # any bytes: msgspec raises several kinds, all mean "not valid"
            return [Rejection(_reason(f"not MessagePack: {error}"))]
    head = payload[:1]
    if head in _BLANK:  # also when empty
        payload = payload.lstrip(_BLANK)
        head = payload[:1]
    if head == b"[":
        return _decode_array(lane, source, payload)
    return [_decode_object(lane, source, payload)]


def _decode_array(lane: str, source: str, payload: bytes) -> list[Message | Rejection]:
    if len(payload) <= limits.MESSAGE_OBJECT_BYTES:
        try:
            messages = _MANY[lane].decode(payload)
        except Exception:  # one bad object: go through them one by one
            messages = None
        if messages and len(messages) <= limits.ARRAY_OBJECTS:
            check = _CHECKS[lane]
            return [
                message if (reason := check(message, source)) is None else _refuse(message, reason)
                for message in messages
            ]
    try:
        raws = _RAWS.decode(payload)
    except Exception as error:
        return [Rejection(_reason(f"not JSON: {error}"))]
    if not raws:
        return [Rejection("an empty array")]
    if len(raws) > limits.ARRAY_OBJECTS:
        reason = f"in an array of {len(raws)} objects, at most {limits.ARRAY_OBJECTS}"
        return [_refuse_raw(bytes(raw), reason) for raw in raws]
    return [_decode_object(lane, source, bytes(raw)) for raw in raws]


def _decode_object(lane: str, source: str, payload: bytes) -> Message | Rejection:
    if len(payload) > limits.MESSAGE_OBJECT_BYTES:
        return _refuse_raw(
            payload, f"object of {len(payload)} bytes, at most {limits.MESSAGE_OBJECT_BYTES}"
        )
    try:
        message = _ONE[lane].decode(payload)
    except msgspec.ValidationError as error:
        return _refuse_raw(payload, _validation_reason(lane, str(error)))
    except Exception as error:  # truncated, bad UTF-8, nested too deeply …
        return Rejection(_reason(f"not JSON: {error}"))
    reason = _CHECKS[lane](message, source)
    return message if reason is None else _refuse(message, reason)


# ---- what msgspec does not check -------------------------------------------------------------


def check_intent(intent: Intent, source: str) -> str | None:
    """Why this intent is not valid, or None. The category is the policy's matter."""
    if intent.app != source:
        return f"app {intent.app!r} is not the subject's source {source!r}"
    if _ID.match(intent.id) is None:
        return "id: 1 to 64 printable ASCII characters without spaces"
    if not is_key(intent.customer):
        return "customer: 1 to 64 of A-Z a-z 0-9 _ -, or ~ and a group chat's id"
    if (reason := _check_content(intent.content)) is not None:
        return reason
    if intent.route is not None and len(set(intent.route)) != len(intent.route):
        return "route names a channel twice"
    if intent.timezone is not None and not zone_exists(intent.timezone):
        return f"timezone {intent.timezone!r} is not an IANA zone"
    return None


def _check_content(content: dict[str, Raw]) -> str | None:
    if "text" in content:
        if bytes(content["text"])[:1] != b'"':
            return "content.text must be a string"
        return None
    if not content:
        return "content is empty"
    for channel, body in content.items():
        if channel not in _CONTENT_KEYS:
            return f"content: unknown channel {channel!r}; known: {', '.join(CHANNELS)}, *"
        if bytes(body)[:1] != b"{":
            return f"content.{channel} must be an object"
    return None


def _check_receipt(receipt: Receipt, source: str) -> str | None:
    if _DELIVERY.match(receipt.delivery) is None:
        return "delivery: <app>:<intent>:<attempt number>"
    if not is_key(receipt.customer):
        return "customer: not a conversation key"
    if receipt.failure is not None and receipt.status != "failed":
        return "class goes with status failed only"
    return None


def _check_inbound(inbound: Inbound, source: str) -> str | None:
    return None if is_key(inbound.customer) else "customer: not a conversation key"


def _check_command(command: AnyCommand, source: str) -> str | None:
    if command.app != source:
        return f"app {command.app!r} is not the subject's source {source!r}"
    if _ID.match(command.id) is None:
        return "id: 1 to 64 printable ASCII characters without spaces"
    if not is_key(command.customer):
        return "customer: not a conversation key"
    scope = getattr(command, "scope", None)
    if scope is not None and _SCOPE.match(scope) is None:
        return "scope: all, category:<name> or channel:<wecom|sms|push>"
    zone = getattr(command, "timezone", None)
    if zone is not None and not zone_exists(zone):
        return f"timezone {zone!r} is not an IANA zone"
    return None


_CHECKS: Final[dict[str, Callable[[Any, str], str | None]]] = {
    **dict.fromkeys(INTENT_LANES, check_intent),
    "receipt": _check_receipt,
    "inbound": _check_inbound,
    "command": _check_command,
}


# ---- reading parts ---------------------------------------------------------------------------


def split_delivery_id(delivery: str) -> tuple[str, str, int]:
    """(app, intent, attempt) of a delivery id that passed `decode`."""
    match = _DELIVERY.match(delivery)
    if match is None:
        raise ValueError(f"not a delivery id: {delivery!r}")
    return match[1], match[2], int(match[3])


def content_channels(content: dict[str, Raw], route: list[str]) -> list[str]:
    """The channels of `route` that this content has something to say on."""
    if "text" in content or "*" in content:
        return route
    return [channel for channel in route if channel in content]


def content_for(content: dict[str, Raw], channel: str) -> Raw:
    """The channel's own content, as JSON."""
    if "text" in content:
        return Raw(msgspec.json.encode(content))
    body = content.get(channel)
    return content["*"] if body is None else body


# ---- rejections ------------------------------------------------------------------------------


def _refuse(message: Message, reason: str) -> Rejection:
    name = message.delivery if isinstance(message, Receipt) else message.id
    return Rejection(
        _reason(reason), name[: limits.ID_CHARS], message.customer[: limits.KEY_CHARS + 1]
    )


def _refuse_raw(payload: bytes, reason: str) -> Rejection:
    """A rejection with as much of the ids as can be read."""
    try:
        fields = msgspec.json.decode(payload)
    except Exception:
        fields = None
    if not isinstance(fields, dict):
        return Rejection(_reason(reason))
    name, customer = fields.get("id", fields.get("delivery")), fields.get("customer")
    return Rejection(
        _reason(reason),
        name[: limits.ID_CHARS] if isinstance(name, str) else "",
        customer[: limits.KEY_CHARS + 1] if isinstance(customer, str) else "",
    )


def _validation_reason(lane: str, error: str) -> str:
    kind = "intent" if lane in INTENT_LANES else lane
    return _reason(f"not a valid {kind} for lane {lane}: {error}")


def _reason(text: str) -> str:
    return text if len(text) <= limits.REASON_CHARS else text[: limits.REASON_CHARS - 1] + "…"
