"""Strict and total decoding: any bytes give messages, rejections, or both; nothing is raised.

One message holds one object or an array of 1 to 256. In an array each object stands for itself.
MessagePack is turned into JSON at the border, so that everything behind it knows one encoding.

What leaves here can be stored and sent on as it is: ids and keys have their form, times can be
written in UTC, and free-form content is JSON that every decoder reads (UTF-8, finite numbers,
bounded nesting).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Any, Final

import msgspec
import orjson
from msgspec import Raw, Struct

from hub import limits
from hub.contract.reasons import cut, misfit, unreadable
from hub.contract.salvage import cut_id, members, read_fields, read_ids
from hub.contract.subjects import CHANNELS, INTENT_LANES, is_id, is_key, is_source
from hub.contract.times import to_ms
from hub.contract.types import (
    AnyCommand,
    Cancel,
    DndClear,
    DndSet,
    GroupOrder,
    Inbound,
    Intent,
    ProfileSet,
    Receipt,
    Takeover,
)
from hub.contract.zones import zone_exists

MSGPACK: Final = "application/msgpack"

Message = Intent | Receipt | Inbound | AnyCommand
Check = Callable[[Any, str], str | None]
"""Why this message, published by this source, is not valid; None when it is."""


class Rejection(Struct, frozen=True):
    """An object that is not a valid message. Ids are what could be read of them, else empty.

    `reason` names fields and what is allowed there, and never quotes a value.
    """

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
_TEXT: Final = msgspec.json.Decoder(str)
_PACKED: Final = msgspec.msgpack.Decoder()

_DELIVERY = re.compile(r"([a-z0-9-]{1,32}):([!-~]{1,64}):([1-9][0-9]{0,3})\Z")
DEVICE_STEP: Final = 100
"""Between the delivery numbers of one attempt on several devices; a route has fewer attempts."""
_SCOPE = re.compile(r"(all|category:.{1,64}|channel:(wecom|sms|push))\Z")
_BLANK: Final = b" \t\r\n"
_OBJECT_OR_ARRAY: Final = (b"{", b"[")
_CONTENT_KEYS: Final = frozenset((*CHANNELS, "*"))

_BEYOND_DOUBLE: Final = 309
"""Digits of the smallest integer that no double holds. msgspec reads it, most decoders do not."""

_ID_FORM: Final = "1 to 64 printable ASCII characters without spaces"
_TIME_RANGE: Final = "must be after the beginning of 1970 and before the year 10000, in UTC"
_BAD_KEY: Final = "customer: 1 to 64 of A-Z a-z 0-9 _ -, or ~ and a group chat's id"
_BAD_ZONE: Final = "timezone: not an IANA zone name, such as Asia/Shanghai"


def decode(
    lane: str, source: str, payload: bytes, packed: bool = False
) -> list[Message | Rejection]:
    """All objects of one message from `lane`, published under `source`, in order: at least one.

    `packed` says that the payload is MessagePack. Never raises.
    """
    if lane not in _KINDS:
        return [Rejection(f"no such lane; known: {', '.join(_KINDS)}")]
    if len(payload) > limits.MESSAGE_BYTES:
        return [Rejection(f"message of {len(payload)} bytes, at most {limits.MESSAGE_BYTES}")]
    if packed:
        return _decode_packed(lane, source, payload)
    if not payload.startswith(_OBJECT_OR_ARRAY):
        payload = payload.lstrip(_BLANK)
    if payload.startswith(b"["):
        return _decode_array(lane, source, payload)
    return [_decode_object(lane, source, payload)]


def _decode_array(lane: str, source: str, payload: bytes) -> list[Message | Rejection]:
    small = len(payload) <= limits.MESSAGE_OBJECT_BYTES
    if small and (found := _decode_at_once(lane, source, payload)):
        return found
    try:
        objects = [bytes(raw) for raw in _RAWS.decode(payload)]
    except Exception as error:  # a bad object spoils the array, or it is no array at all
        objects, whole = members(payload)
        if not whole:
            return [Rejection(unreadable(error, payload))]
    if not objects:
        return [Rejection("an empty array")]
    if len(objects) > limits.ARRAY_OBJECTS:
        return _refuse_many(len(objects), map(read_fields, objects))
    if not small and max(map(len, objects)) <= limits.MESSAGE_OBJECT_BYTES:
        found = _decode_at_once(lane, source, payload)
        if found:
            return found
    return [_decode_object(lane, source, each.strip(_BLANK)) for each in objects]


def _decode_at_once(lane: str, source: str, payload: bytes) -> list[Message | Rejection] | None:
    """An array of well-formed objects; None when they must be looked at one by one."""
    try:
        messages = _MANY[lane].decode(payload)
    except Exception:  # what is wrong, and with which object, is found one by one
        return None
    if len(messages) > limits.ARRAY_OBJECTS:
        return None
    check = _check_for(lane, source)
    return [
        message if (reason := check(message, source)) is None else _refuse(message, reason)
        for message in messages
    ]


def _decode_object(lane: str, source: str, payload: bytes) -> Message | Rejection:
    if len(payload) > limits.MESSAGE_OBJECT_BYTES:
        reason = f"object of {len(payload)} bytes, at most {limits.MESSAGE_OBJECT_BYTES}"
        return Rejection(reason, *read_ids(read_fields(payload)))
    try:
        message = _ONE[lane].decode(payload)
    except msgspec.ValidationError as error:
        fields = read_fields(payload)
        return Rejection(misfit(lane, error, fields), *read_ids(fields))
    except Exception as error:  # truncated, bad UTF-8, half a surrogate pair, nested too deeply …
        return Rejection(unreadable(error, payload), *read_ids(read_fields(payload)))
    reason = _check_for(lane, source)(message, source)
    return message if reason is None else _refuse(message, reason)


def _refuse(message: Message, reason: str) -> Rejection:
    name = message.delivery if isinstance(message, Receipt) else message.id
    return Rejection(cut(reason), cut_id(name), cut_id(message.customer))


def _refuse_many(count: int, objects: Iterable[Mapping[str, Raw | bytes]]) -> list[Rejection]:
    """Too many objects: the first by their ids, and one rejection for the rest."""
    most = limits.ARRAY_OBJECTS
    reason = f"in an array of {count} objects, at most {most}"
    named = [Rejection(reason, *read_ids(fields)) for fields in islice(objects, most)]
    return [*named, Rejection(f"{count - most} more objects {reason}")]


# ---- MessagePack -----------------------------------------------------------------------------


def _decode_packed(lane: str, source: str, payload: bytes) -> list[Message | Rejection]:
    try:
        value = _PACKED.decode(payload)
    except Exception as error:  # msgspec raises several kinds, all mean "not valid"
        return [Rejection(unreadable(error, payload, "MessagePack"))]
    if not isinstance(value, list):
        return [_decode_unpacked(lane, source, value)]
    if len(value) > limits.ARRAY_OBJECTS:
        return _refuse_many(len(value), map(_unpacked_fields, value))
    try:
        return _decode_array(lane, source, _to_json(value))
    except ValueError:  # of one of the objects
        return [_decode_unpacked(lane, source, each) for each in value]


def _decode_unpacked(lane: str, source: str, value: Any) -> Message | Rejection:
    try:
        encoded = _to_json(value)
    except ValueError as error:
        return Rejection(cut(f"not valid: {error}"), *read_ids(_unpacked_fields(value)))
    return _decode_object(lane, source, encoded)


def _to_json(value: Any) -> bytes:
    """A MessagePack value as JSON. Raises ValueError for what JSON cannot say."""
    try:
        encoded = orjson.dumps(value)
    except TypeError as error:  # binary, extensions, keys that are no strings; quotes no values
        raise ValueError(f"MessagePack without a JSON form: {error}") from error
    if b"null" in encoded and not _all_finite(value):  # orjson writes NaN and infinity as null
        raise ValueError("MessagePack without a JSON form: a number is not finite")
    return encoded


def _all_finite(value: Any) -> bool:
    level = [value]
    while level:
        if any(type(each) is float and not isfinite(each) for each in level):
            return False
        level = _children(level)
    return True


def _unpacked_fields(value: Any) -> dict[str, bytes]:
    """Like `read_fields`, of a MessagePack value."""
    if not isinstance(value, dict):
        return {}
    return {name: orjson.dumps(each) for name, each in value.items() if isinstance(each, str)}


# ---- what msgspec does not check -------------------------------------------------------------


def check_intent(intent: Intent, source: str) -> str | None:
    """Why this intent is not valid, or None. The category is the policy's matter."""
    if intent.app != source:
        return "app: not the source that the subject names"
    if not is_id(intent.id):
        return f"id: {_ID_FORM}"
    if not is_key(intent.customer):
        return _BAD_KEY
    if (problem := _check_content(intent.content)) is not None:
        return problem
    if intent.route is not None and len(set(intent.route)) != len(intent.route):
        return "route: names a channel twice"
    if intent.not_before is not None and not _can_be_written(intent.not_before):
        return f"not_before: {_TIME_RANGE}"
    if intent.expires_at is not None and not _can_be_written(intent.expires_at):
        return f"expires_at: {_TIME_RANGE}"
    if intent.timezone is not None and not zone_exists(intent.timezone):
        return _BAD_ZONE
    return None


def _check_content(content: dict[str, Raw]) -> str | None:
    if "text" in content:
        if len(content) > 1:
            return "content: text stands alone; what differs by channel goes under its name"
        try:
            _TEXT.decode(content["text"])
        except Exception:  # another type, or not UTF-8
            return "content.text: must be a string in UTF-8"
        return None
    if not content:
        return "content: is empty"
    for channel, body in content.items():
        if channel not in _CONTENT_KEYS:
            return f"content: has either text alone, or any of {', '.join(CHANNELS)} and *"
        raw = bytes(body)
        if raw[:1] != b"{":
            return f"content.{channel}: must be an object"
        if (problem := _check_free_form(raw)) is not None:
            return f"content.{channel}: {problem}"
    return None


def _check_free_form(raw: bytes) -> str | None:
    """Why JSON that we pass on as it is could not be read by everyone, or None."""
    try:
        value = msgspec.json.decode(raw) if len(raw) < _BEYOND_DOUBLE else orjson.loads(raw)
    except Exception:  # not UTF-8, or a number beyond the range of a double
        return "must be JSON in UTF-8 with numbers that fit a double"
    if len(raw) > 2 * limits.NESTING and _depth(raw, value) > limits.NESTING:
        return f"nested deeper than {limits.NESTING} levels"
    return None


def _depth(raw: bytes, value: Any) -> int:
    """How many arrays and objects lie inside one another: a cheap upper bound, or exactly."""
    brackets = raw.count(b"{") + raw.count(b"[")
    if brackets <= limits.NESTING:
        return brackets
    level, depth = [value], 0
    while level:
        level, depth = [each for each in _children(level) if type(each) in (dict, list)], depth + 1
    return depth


def _children(level: list[Any]) -> list[Any]:
    """The members of all arrays and objects in `level`."""
    children: list[Any] = []
    for each in level:
        if type(each) is dict:
            children.extend(each.values())
        elif type(each) is list:
            children.extend(each)
    return children


def _can_be_written(moment: datetime) -> bool:
    """Whether RFC 3339 in UTC has a form for it. 1970 itself would be taken for "no time"."""
    return 1970 < moment.year < 9999 or 0 < to_ms(moment) <= limits.TIME_MS_MAX


def _check_receipt(receipt: Receipt, source: str) -> str | None:
    if _DELIVERY.match(receipt.delivery) is None:
        return "delivery: <app>:<intent>:<attempt number>"
    if not is_key(receipt.customer):
        return _BAD_KEY
    if receipt.failure is not None and receipt.status != "failed":
        return "class: goes with status failed only"
    if receipt.dead_since is not None and not _can_be_written(receipt.dead_since):
        return f"dead_since: {_TIME_RANGE}"
    return None if _can_be_written(receipt.at) else f"at: {_TIME_RANGE}"


def _check_inbound(inbound: Inbound, source: str) -> str | None:
    if not is_key(inbound.customer):
        return _BAD_KEY
    if not _can_be_written(inbound.at):
        return f"at: {_TIME_RANGE}"
    for body in inbound.content.values():
        if (problem := _check_free_form(bytes(body))) is not None:
            return f"content: {problem}"
    return None


def _check_command(command: AnyCommand, source: str) -> str | None:
    if command.app != source:
        return "app: not the source that the subject names"
    if not is_id(command.id):
        return f"id: {_ID_FORM}"
    if not is_key(command.customer):
        return _BAD_KEY
    if isinstance(command, GroupOrder) and not command.customer.startswith("~"):
        return "customer: a group chat's key begins with ~"
    if isinstance(command, Cancel) and not is_id(command.intent):
        return f"intent: {_ID_FORM}"
    if isinstance(command, DndSet | DndClear) and _SCOPE.match(command.scope) is None:
        return f"scope: all, category:<name> or channel:<{'|'.join(CHANNELS)}>"
    if isinstance(command, DndSet | Takeover) and command.until is not None:
        return None if _can_be_written(command.until) else f"until: {_TIME_RANGE}"
    if isinstance(command, ProfileSet) and command.timezone is not None:
        return None if zone_exists(command.timezone) else _BAD_ZONE
    return None


def _refuse_source(message: Intent | AnyCommand, source: str) -> str:
    return "source: the subject must name it with 1 to 32 of a-z 0-9 -"


_CHECKS: Final[dict[str, Check]] = {
    **dict.fromkeys(INTENT_LANES, check_intent),
    "receipt": _check_receipt,
    "inbound": _check_inbound,
    "command": _check_command,
}


@lru_cache(maxsize=4096)
def _check_for(lane: str, source: str) -> Check:
    """The check of a lane. Receipts and inbound messages do not say who sent them."""
    has_app = lane == "command" or lane in INTENT_LANES
    return _refuse_source if has_app and not is_source(source) else _CHECKS[lane]


# ---- reading parts ---------------------------------------------------------------------------


def split_delivery_id(delivery: str) -> tuple[str, str, int]:
    """(app, intent, attempt) of a delivery id that passed `decode`."""
    match = _DELIVERY.match(delivery)
    if match is None:
        raise ValueError("not a delivery id")
    return match[1], match[2], int(match[3])


def split_number(number: int) -> tuple[int, int]:
    """(attempt of the route, device from 0) of a delivery's number: 201 is attempt 1, device 2."""
    device, attempt = divmod(number, DEVICE_STEP)
    return attempt, device


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
