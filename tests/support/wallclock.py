"""Local time of the reference (`tests/support/reference.py`): instants are tried, not computed.

Calendar periods are found by comparing local dates, their ends by bisecting, the end of a quiet
window by trying every instant at which a wall clock could begin to read something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
DAY_MS = 24 * 3_600_000
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def to_ms(text: str) -> int:
    """Unix milliseconds, floored."""
    return (datetime.fromisoformat(text) - EPOCH) // MS


def say_time(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return (EPOCH + ms * MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=1 << 16)
def local(ms: int, zone: str) -> datetime:
    """What a wall clock in `zone` reads."""
    return (EPOCH + ms * MS).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def period(window: str, zone: str, ms: int) -> tuple[int, ...]:
    """The local day, ISO week or month an instant is in; later ones are greater."""
    day = local(ms, zone).date()
    if window == "day":
        return (day.toordinal(),)
    return day.isocalendar()[:2] if window == "week" else (day.year, day.month)


def period_end(window: str, zone: str, ms: int) -> int:
    """The first instant that is in a later period, by bisecting: local dates never go back."""
    now, inside, outside = period(window, zone, ms), ms, ms + 33 * DAY_MS
    while outside - inside > 1:
        middle = (inside + outside) // 2
        if period(window, zone, middle) == now:
            inside = middle
        else:
            outside = middle
    return outside


class QuietWindow(NamedTuple):
    """A quiet rule: whole local days, or a part of each of some days (wraps when start > end)."""

    start: timedelta
    end: timedelta
    weekdays: tuple[str, ...]
    dates: tuple[tuple[date, date], ...] | None

    def covers(self, reading: datetime) -> bool:
        """Whether a wall clock that reads this is inside."""
        today = reading.date()
        if self.dates is not None:
            return any(first <= today <= last for first, last in self.dates)
        time = reading - datetime.combine(today, datetime.min.time())
        starts_today = WEEKDAYS[today.weekday()] in self.weekdays
        started_yesterday = WEEKDAYS[today.weekday() - 1] in self.weekdays
        if self.start < self.end:
            return starts_today and self.start <= time < self.end
        return (starts_today and time >= self.start) or (started_yesterday and time < self.end)


def quiet_window(rule: dict[str, Any]) -> QuietWindow:
    if "dates" in rule:
        spans = [text.split("/") for text in rule["dates"]]
        dates = tuple((date.fromisoformat(s[0]), date.fromisoformat(s[-1])) for s in spans)
        return QuietWindow(timedelta(), timedelta(), WEEKDAYS, dates)
    start, end = (
        timedelta(hours=int(rule[key][:2]), minutes=int(rule[key][3:])) for key in ("from", "to")
    )
    return QuietWindow(start, end, tuple(rule.get("days", WEEKDAYS)), None)


def window_end(window: QuietWindow, zone: str, ms: int) -> int:
    """The first instant after `ms` at which the wall clock reads something outside.

    A clock that reads something inside can only come to read something outside at a midnight, at
    the window's `to`, or when it is changed: try them all.
    """

    def outside(instants: Iterable[int]) -> list[int]:
        return [at for at in instants if at > ms and not window.covers(local(at, zone))]

    changes = outside(clock_changes(zone))
    day = local(ms, zone).date()
    while True:
        ends = outside(readings(zone, day, window.end))
        if ends:
            return min(ends + changes)
        day += timedelta(days=1)


@lru_cache(maxsize=1 << 14)
def readings(zone: str, day: date, end: timedelta) -> list[int]:
    """The instants at which a clock reads midnight or `end` on a local day, twice if set back."""
    midnight = datetime.combine(day, datetime.min.time(), tzinfo=ZoneInfo(zone))
    return [
        (reading.replace(fold=fold).astimezone(UTC) - EPOCH) // MS
        for reading in (midnight, midnight + end)
        for fold in (0, 1)
    ]


@lru_cache(maxsize=64)
def clock_changes(zone: str) -> list[int]:
    """Instants from 2025 to 2030 at which the zone's offset changes; found day by day."""

    def offset(ms: int) -> timedelta:
        return local(ms, zone) - (EPOCH + ms * MS).replace(tzinfo=None)

    found = []
    start = to_ms("2025-01-01T00:00:00Z")
    for before in range(start, start + 6 * 365 * DAY_MS, DAY_MS):
        low, high = before, before + DAY_MS
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        found.append(high)
    return found
