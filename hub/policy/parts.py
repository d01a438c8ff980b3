"""What the tables of a policy document are written with: names, filters, durations, times, dates.

Semantics: docs/policy.md. What is not valid is a PolicyError whose `facts["place"]` names the key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import Annotated, Literal, NoReturn

from msgspec import Meta, Struct

from hub import limits
from hub.contract.subjects import CHANNELS, is_source
from hub.errors import PolicyError

Action = Literal["hold", "drop", "next"]
Name = Annotated[str, Meta(min_length=1, max_length=64)]

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([1-9][0-9]{0,9})(ms|s|m|h|d)\Z")
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_DATES = re.compile(r"(\d{4}-\d{2}-\d{2})(?:/(\d{4}-\d{2}-\d{2}))?\Z")


class Named(Struct, forbid_unknown_fields=True, kw_only=True):
    """A rule: the name that outcomes and errors call it by."""

    name: Name


class Filter(Named, kw_only=True):
    """Whom a rule is for; an omitted list means any."""

    categories: list[Name] | None = None
    channels: list[Name] | None = None
    apps: list[Name] | None = None


class Blocking(Filter, kw_only=True):
    """A rule that can stand in the way, and what is done then."""

    on: Action


def fail(place: str, problem: str) -> NoReturn:
    """Raises the PolicyError that says what is wrong at a place of the document."""
    message = f"{place}: {problem}" if place else problem
    raise PolicyError(message, place=place, problem=problem)


# ---- units -------------------------------------------------------------------------------------


def duration_ms(text: str, place: str, most_days: int = limits.WINDOW_MS // 86_400_000) -> int:
    """`"90m"` in milliseconds: a whole number of ms, s, m, h or d. Raises PolicyError."""
    match = _DURATION.match(text)
    if match is None:
        fail(place, f"{text!r} is not a duration; write a number and a unit, as 30m, 24h or 7d")
    value = int(match[1]) * _UNIT_MS[match[2]]
    if value > most_days * _UNIT_MS["d"]:
        fail(place, f"{text!r} is longer than {most_days}d")
    return value


def time_of_day_ms(text: str, place: str) -> int:
    """`"21:00"` in milliseconds after local midnight. Raises PolicyError."""
    match = _TIME_OF_DAY.match(text)
    if match is None:
        fail(place, f"{text!r} is not a time of day; write HH:MM, 00:00 to 23:59")
    return int(match[1]) * 3_600_000 + int(match[2]) * 60_000


def date_ordinals(text: str, place: str) -> range:
    """`"2026-10-01/2026-10-07"` (or one date) as proleptic ordinals, both ends included."""
    match = _DATES.match(text)
    if match is None:
        fail(place, f"{text!r} is not a date or range; write 2026-10-01 or 2026-10-01/2026-10-07")
    try:
        first = date.fromisoformat(match[1])
        last = date.fromisoformat(match[2] or match[1])
    except ValueError as error:
        fail(place, f"{text!r}: {error}")
    if last < first:
        fail(place, f"{text!r} ends before it begins")
    if last - first > timedelta(days=366):
        fail(place, f"{text!r} is longer than 366 days")
    return range(first.toordinal(), last.toordinal() + 1)


# ---- checks that many tables share ---------------------------------------------------------------


def check_filter(rule: Filter, categories: Collection[str], place: str) -> None:
    """Whether what a filter names exists. Raises PolicyError."""
    for key in ("categories", "channels", "apps"):
        check_filled(getattr(rule, key), f"{place}.{key}")
    for name in rule.categories or ():
        check_category(name, categories, f"{place}.categories")
    check_channels(rule.channels or (), f"{place}.channels")
    for app in rule.apps or ():
        check_app(app, f"{place}.apps")


def check_filled(values: Sequence[str] | None, place: str) -> None:
    """Whether a list that filters names something. Raises PolicyError."""
    if values is not None and not values:
        fail(place, "is empty and would match nothing; omit it to match any")


def check_category(name: str, categories: Collection[str], place: str) -> None:
    """Whether the document has this category. Raises PolicyError."""
    if name not in categories:
        fail(place, f"unknown category {name!r}; known: {', '.join(categories)}")


def check_channels(channels: Sequence[str], place: str) -> None:
    """Whether there are these channels. Raises PolicyError."""
    for channel in channels:
        if channel not in CHANNELS:
            fail(place, f"unknown channel {channel!r}; known: {', '.join(CHANNELS)}")


def check_app(app: str, place: str) -> None:
    """Whether an application can have this name. Raises PolicyError."""
    if not is_source(app):
        fail(place, f"{app!r} cannot be an app: 1 to 32 of a-z 0-9 -")
