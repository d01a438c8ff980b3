"""The published schemas as validators, made as strict as the standards they are written in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend

from hub.contract.decode import Rejection
from hub.contract.schema import json_schemas

_FORMATS = FormatChecker(formats=())
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):(\d\d)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)\Z", re.ASCII
)


@_FORMATS.checks("date-time")
def is_date_time(value: object) -> bool:
    """RFC 3339, section 5.6, by its grammar and the calendar."""
    if not isinstance(value, str):
        return True
    match = _RFC3339.match(value)
    if match is None or int(match[3]) > 60:
        return False
    try:
        datetime.fromisoformat(f"{match[1]}T{match[2]}")
    except ValueError:
        return False
    return True


def _pattern(
    validator: Any, pattern: str, instance: object, schema: object
) -> Iterator[ValidationError]:
    """In the dialect of JSON Schema (ECMA-262) `$` is the end; in Python also before a last \\n."""
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield ValidationError(f"does not match {pattern}")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})


@cache
def validator(kind: str) -> Any:
    """The validator of a kind of message, with formats checked."""
    return _Validator(json_schemas()[kind], format_checker=_FORMATS)


def accepted_by_schema(kind: str, message: object) -> bool:
    """Whether the published schema allows it."""
    return bool(validator(kind).is_valid(message))


def accepted_by_decode(found: Sequence[object]) -> bool:
    """Whether decoding took every object."""
    return not any(isinstance(each, Rejection) for each in found)
