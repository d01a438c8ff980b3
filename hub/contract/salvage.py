"""Reading parts of JSON that no decoder takes whole. Only bad input gets here.

A message whose third object is broken must still have its other objects decided, and the rejection
of the third should name its id. Works on brackets, commas and quotes alone, in one pass and without
recursion, so that half a surrogate pair (a text cut in the middle of an emoji) is as good as ten
thousand opened brackets. It proves nothing valid: every part is decoded on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from hub import limits

# Everything up to the next bracket or comma outside strings. Possessive, and an unterminated string
# runs to the end, so that no input makes it try twice.
_STEP: Final = re.compile(rb'(?:[^"\[\]{},]|"(?:[^"\\]|\\.)*+"?+)*+([\[\]{},])', re.DOTALL)
_MEMBER: Final = re.compile(rb'\s*"([A-Za-z_]{1,40})"\s*:(.*)\Z', re.DOTALL)
_OPENING: Final = b"[{"
_CLOSING: Final = b"]}"

_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_STRING: Final = msgspec.json.Decoder(str)


def members(payload: bytes) -> tuple[list[bytes], bool]:
    """The members of an array or object split at its commas, and whether it ends where it should.

    `payload` begins with the opening bracket. Looks at SALVAGE_STEPS brackets and commas at most.
    """
    found: list[bytes] = []
    depth, start, end = 0, 1, 0
    for _ in range(limits.SALVAGE_STEPS):
        step = _STEP.match(payload, end)
        if step is None:
            break
        end, mark = step.end(), step[1]
        if mark in _OPENING:
            depth += 1
        elif mark in _CLOSING:
            depth -= 1
        if depth == 0 or (depth == 1 and mark == b","):
            found.append(payload[start : end - 1])
            start = end
        if depth == 0:
            return found, not payload[end:].strip()
    return found, False


def read_fields(payload: bytes) -> Mapping[str, Raw | bytes]:
    """The fields of an object, each value as JSON, as far as they can be read."""
    try:
        return _FIELDS.decode(payload)
    except Exception:  # not JSON, or not an object
        if not payload.startswith(b"{"):
            return {}
    matches = map(_MEMBER.match, members(payload)[0])
    return {match[1].decode(): match[2] for match in matches if match is not None}


def read_ids(fields: Mapping[str, Raw | bytes]) -> tuple[str, str]:
    """(id or delivery, customer); "" for what cannot be read."""
    name = fields.get("id", fields.get("delivery"))
    return _string(name), _string(fields.get("customer"))


def cut_id(text: str) -> str:
    """An id for a rejection: bounded and, when cut, never equal to a valid id."""
    most = limits.REJECTED_ID_CHARS
    return text if len(text) <= most else text[: most - 1] + "…"


def _string(raw: Raw | bytes | None) -> str:
    if raw is None:
        return ""
    try:
        return cut_id(_STRING.decode(raw))
    except Exception:  # another type, bad UTF-8 or a bad escape: this id cannot be read
        return ""
