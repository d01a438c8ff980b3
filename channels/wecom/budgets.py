"""How often an API may be called: our own budget, and the rest that WeCom asks for (45009).

WeCom limits each API for each corp, by the minute and by the hour, and blocks it for as long as the
limit's period is without saying which. We stay below by counting, and find the period by trying: a
minute, and when the first call after it is refused as well an hour, then the rest of the day.

Sources: WeCom's pages 90454 and 90313 (45009).
"""

from __future__ import annotations

from typing import Final

BINS: Final = 60
"""A window is counted in so many parts; one more is kept, so that no window is over its limit."""
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
CHINA_MS: Final = 8 * HOUR_MS
"""Ahead of UTC: the days that WeCom counts are China's, which has no summer time."""


class Window:
    """Calls within the last `length_s` seconds; at most BINS + 1 numbers, whatever their count."""

    __slots__ = ("_bin_s", "_counts", "_last", "_total")

    def __init__(self, length_s: float) -> None:
        self._bin_s = length_s / BINS
        self._counts = [0] * (BINS + 1)
        self._last = 0
        self._total = 0

    def room_in(self, at_s: float, limit: int) -> float:
        """Seconds until one more is within the limit; 0.0: now."""
        self._move(at_s)
        left, waited = self._total, 0
        for step in range(1, BINS + 2):
            if left < limit:
                break
            # The oldest part leaves the window next.
            left -= self._counts[(self._last + step) % (BINS + 1)]
            waited = step
        return max((self._last + waited) * self._bin_s - at_s, 0.001) if waited else 0.0

    def add(self, at_s: float) -> None:
        """One more call."""
        self._move(at_s)
        self._counts[self._last % (BINS + 1)] += 1
        self._total += 1

    def _move(self, at_s: float) -> None:
        now = int(at_s / self._bin_s)
        for bin_number in range(max(self._last + 1, now - BINS), now + 1):
            place = bin_number % (BINS + 1)
            self._total -= self._counts[place]
            self._counts[place] = 0
        self._last = max(self._last, now)


class Gate:
    """One API of one corp. Times in seconds are of `Clock.steady_s`."""

    __slots__ = ("_hour", "_level", "_minute", "_until_ms", "_until_s")

    def __init__(self) -> None:
        self._minute = Window(60.0)
        self._hour = Window(3_600.0)
        self._level = 0
        """How long the next block is taken to be: 0 a minute, 1 an hour, 2 the day."""
        self._until_s = float("-inf")
        self._until_ms = 0

    def enter(self, at_s: float, per_min: int, per_hour: int) -> float:
        """Count a call and give 0.0, or give the seconds until there is room, and count nothing."""
        wait_s = self._until_s - at_s
        if wait_s > 0:
            return wait_s
        wait_s = max(self._minute.room_in(at_s, per_min), self._hour.room_in(at_s, per_hour))
        if wait_s <= 0:
            self._minute.add(at_s)
            self._hour.add(at_s)
        return wait_s

    def passed(self, left_s: float) -> None:
        """A call that left then was not refused for coming too often."""
        if left_s >= self._until_s:
            self._level = 0

    def blocked(self, left_s: float, at_s: float, now_ms: int) -> int:
        """A call that left at `left_s` was refused: Unix ms until which all of them rest. What left
        before the rest began says nothing new."""
        if left_s >= self._until_s:
            lengths = (MINUTE_MS, HOUR_MS, DAY_MS - (now_ms + CHINA_MS) % DAY_MS)
            length_ms = lengths[self._level]
            self._until_s = at_s + length_ms / 1_000
            self._until_ms = now_ms + length_ms
            self._level = min(self._level + 1, 2)
        return self._until_ms
