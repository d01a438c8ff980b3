"""Reasons for rejections: which field is at fault and what is allowed there.

A reason goes into the ledger, logs and other people's terminals. It never quotes a value, because a
value may be a customer's address or what was written to the customer. Of what was sent it repeats
only the name of an unknown field, and that only when it is a plain word.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final, get_args

import msgspec
import orjson

from hub import limits
from hub.contract.subjects import CHANNELS, INTENT_LANES
from hub.contract.types import (
    AnyCommand,
    Command,
    FailureClass,
    Inbound,
    Intent,
    Receipt,
    ReceiptStatus,
)

COMMANDS: Final = tuple(kind.__struct_config__.tag for kind in get_args(AnyCommand))
"""The operations a command can have."""

ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "route": CHANNELS,
    "to": CHANNELS,
    "channel": CHANNELS,
    "reach": ("first", "all"),
    "status": get_args(ReceiptStatus),
    "class": get_args(FailureClass),
    "op": COMMANDS,
}
"""What may stand in the fields that have a list of values, by wire name."""

_TYPES: Final[dict[str, Any]] = {
    "intent": Intent,
    "receipt": Receipt,
    "inbound": Inbound,
    "command": Command,
}
_NAMES: Final = {
    kind: [each.encode_name for each in msgspec.structs.fields(type_)]
    for kind, type_ in _TYPES.items()
}
_REQUIRED: Final = {
    kind: {each.encode_name for each in msgspec.structs.fields(type_) if each.required}
    | ({"op"} if kind == "command" else set())
    for kind, type_ in _TYPES.items()
}
_PLACES: Final = {
    "intent": "an intent, which goes to lane urgent, normal or bulk",
    "receipt": "a receipt, which goes to lane receipt",
    "inbound": "an inbound message, which goes to lane inbound",
    "command": "a command, which goes to lane command",
}

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_PLAIN_WORD: Final = re.compile(r"[A-Za-z_]{1,40}\Z")
_PLACE: Final = re.compile(r"(.*) - at `(?:key` in `)?\$\.?([a-z_0-9.\[\]]*)`\Z", re.DOTALL)
_HARMLESS: Final = ("Expected ", "Object missing required field ", "Number out of range")
"""How the messages of msgspec begin that consist of its own words and our field names."""


def cut(text: str) -> str:
    """A reason bounded by REASON_CHARS."""
    return text if len(text) <= limits.REASON_CHARS else text[: limits.REASON_CHARS - 1] + "…"


def unreadable(error: Exception, payload: bytes = b"", encoding: str = "JSON") -> str:
    """Why bytes could not be read at all."""
    if not payload and encoding == "JSON":
        return "not JSON: empty"
    if payload.startswith(b"\xef\xbb\xbf"):
        return f"not {encoding}: begins with a byte order mark"
    if isinstance(error, RecursionError):
        return f"nested deeper than {limits.NESTING} levels"
    if encoding == "JSON":
        return cut(f"not JSON: {_syntax_error(payload)}")
    if isinstance(error, UnicodeDecodeError):
        return f"not {encoding}: a string is not UTF-8"
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
        return cut(f"not {encoding}: {error}")
    return f"not {encoding}"


def _syntax_error(payload: bytes) -> str:
    """What is wrong and where; msgspec calls half a surrogate pair "truncated", orjson does not."""
    try:
        orjson.loads(payload.decode())
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except orjson.JSONDecodeError as error:
        return str(error)
    return "cannot be read"


def misfit(lane: str, error: msgspec.ValidationError, fields: Collection[str]) -> str:
    """Why JSON is not a message of this lane. `fields` are the names of the object's fields."""
    kind = "intent" if lane in INTENT_LANES else lane
    if not _REQUIRED[kind].issubset(fields):
        for other, required in _REQUIRED.items():
            if required.issubset(fields):
                return f"wrong lane: this looks like {_PLACES[other]}"
    return cut(f"not a valid {kind}: {_problem(kind, str(error))}")


def _problem(kind: str, text: str) -> str:
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        name = f" {unknown[1]}" if _PLAIN_WORD.match(unknown[1]) else ""
        known = "" if kind == "command" else f"; known: {', '.join(_NAMES[kind])}"
        return f"unknown field{name}{known}"
    match = _PLACE.match(text)
    problem, place = (match[1], match[2]) if match else (text, "")
    where = f"{place.replace('[...]', '.*')}: " if place else ""
    if problem.startswith(("Invalid enum value", "Invalid value")):
        allowed = ALLOWED.get(place.partition("[")[0], ("the allowed values",))
        return f"{where}not one of {', '.join(allowed)}"
    if problem.startswith("Invalid RFC3339") or problem.endswith("with a timezone component"):
        return f"{where}not an RFC 3339 time with an offset, such as 2026-11-21T08:00:00+08:00"
    return where + (problem if problem.startswith(_HARMLESS) else "not valid")
