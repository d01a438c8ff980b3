"""Local readings of an instant: what quiet windows and calendar caps need, and nothing else.

Instants are Unix milliseconds; a *reading* is local wall-clock time in milliseconds since the local
1970-01-01 00:00. Within a stretch of constant offset a reading is instant + offset, so everything
here is arithmetic plus the question where the offset changes. Source: docs/policy.md, "Quiet".
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from hub.contract.zones import zone

DAY_MS = 86_400_000
UNIX_ORDINAL = 719_163
"""Proleptic ordinal of 1970-01-01: local day number = ordinal - UNIX_ORDINAL."""

_SLOT_MS = 900_000
"""Offsets are cached by quarter of an hour, the grid on which zones change them."""
_STEP_MS = 6 * 3_600_000
"""Two changes of one zone are further apart than this, so that a change is never stepped over."""


def offset_ms(zone_name: str, instant: int) -> int:
    """Offset from UTC in force in a zone at an instant."""
    offset = _slot_offset(zone_name, instant // _SLOT_MS)
    return _exact_offset(zone_name, instant) if offset is None else offset


@lru_cache(maxsize=65_536)
def _slot_offset(zone_name: str, slot: int) -> int | None:
    """The offset throughout a quarter of an hour, or None when it changes within."""
    first = _exact_offset(zone_name, slot * _SLOT_MS)
    last = _exact_offset(zone_name, (slot + 1) * _SLOT_MS - 1)
    return first if first == last else None


def _exact_offset(zone_name: str, instant: int) -> int:
    tz = zone(zone_name)
    if tz is None:
        raise ValueError(f"not a zone: {zone_name!r}")  # zones are checked where they come in
    moment = datetime.fromtimestamp(instant // 1000, UTC).astimezone(tz)
    offset = moment.utcoffset()
    return 0 if offset is None else (offset.days * 86_400 + offset.seconds) * 1000


def reading(zone_name: str, instant: int) -> int:
    """Local wall-clock time of an instant."""
    return instant + offset_ms(zone_name, instant)


def advance(zone_name: str, instant: int, target: int) -> int:
    """The instant after `instant` at which the reading gets to `target` or the clocks change,
    whichever is first. `target` must be later than the reading now.
    """
    offset = offset_ms(zone_name, instant)
    arrival = target - offset
    while True:
        until = min(arrival, instant + _STEP_MS)
        change = _next_change(zone_name, instant, until)
        if change is not None:
            return change
        if until == arrival:
            return arrival
        instant = until


def first_at_or_past(zone_name: str, instant: int, target: int) -> int:
    """The first instant from `instant` on whose reading is `target` or later.

    When a clock change skips `target`, that is the instant of the change.
    """
    while reading(zone_name, instant) < target:
        instant = advance(zone_name, instant, target)
    return instant


def _next_change(zone_name: str, after: int, until: int) -> int | None:
    """The first instant in (after, until] at which another offset is in force than at `after`."""
    before = offset_ms(zone_name, after)
    if offset_ms(zone_name, until) == before:
        return None
    low, high = after, until
    while high - low > 1:
        middle = (low + high) // 2
        if offset_ms(zone_name, middle) == before:
            low = middle
        else:
            high = middle
    return high


# ---- calendar periods ------------------------------------------------------------------------


def period(zone_name: str, kind: str, instant: int) -> tuple[int, int]:
    """First instant of the local day, ISO week or month that holds `instant`, and of the next."""
    return _period(zone_name, kind, reading(zone_name, instant) // DAY_MS)


@lru_cache(maxsize=16_384)
def _period(zone_name: str, kind: str, day: int) -> tuple[int, int]:
    first, following = _PERIOD_DAYS[kind](day)
    return _start_of_day(zone_name, first), _start_of_day(zone_name, following)


def _start_of_day(zone_name: str, day: int) -> int:
    """The first instant whose local date is `day` (days since 1970-01-01)."""
    # No zone is further than 16 h from UTC: from there on the day has not begun.
    return first_at_or_past(zone_name, day * DAY_MS - 16 * 3_600_000, day * DAY_MS)


def _month(day: int) -> tuple[int, int]:
    first = datetime.fromordinal(day + UNIX_ORDINAL).replace(day=1)
    following = (
        first.replace(year=first.year + 1, month=1)
        if first.month == 12
        else first.replace(month=first.month + 1)
    )
    return first.toordinal() - UNIX_ORDINAL, following.toordinal() - UNIX_ORDINAL


def weekday(day: int) -> int:
    """0 for Monday, of a day number (1970-01-01 was a Thursday)."""
    return (day + 3) % 7


_PERIOD_DAYS = {
    "day": lambda day: (day, day + 1),
    "week": lambda day: (day - weekday(day), day - weekday(day) + 7),
    "month": _month,
}
