"""How often something happened lately: windows that slide, days that do not, and WeCom's block."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

GRAINS: Final = 4_000
"""A window slides in so many steps: 15 ms of a minute. What is counted lies within the period, so
that nobody who keeps to a limit is ever told that he does not."""
CHINA_MS: Final = 8 * 3_600_000
DAY_MS: Final = 24 * 3_600_000


class Window:
    """At most `limit` in any `period_ms`; 0: any number."""

    __slots__ = ("_grain", "_lately", "_period", "_sum", "limit")

    def __init__(self, limit: int, period_ms: int) -> None:
        self.limit = limit
        self._period = period_ms
        self._grain = max(period_ms // GRAINS, 1)
        self._lately: deque[list[int]] = deque()
        self._sum = 0

    @property
    def period_ms(self) -> int:
        return self._period

    def room(self, now_ms: int) -> int | None:
        """How many more there may be; None: any number."""
        if not self.limit:
            return None
        while self._lately and self._lately[0][0] <= now_ms - self._period:
            self._sum -= self._lately.popleft()[1]
        return self.limit - self._sum

    def add(self, now_ms: int, number: int = 1) -> None:
        """They have happened."""
        if not self.limit:
            return
        step = now_ms - now_ms % self._grain
        if self._lately and self._lately[-1][0] == step:
            self._lately[-1][1] += number
        else:
            self._lately.append([step, number])
        self._sum += number


class Day:
    """At most `limit` in a day of China; 0: any number."""

    __slots__ = ("_day", "_sum", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._day = -1
        self._sum = 0

    def room(self, now_ms: int) -> int | None:
        """How many more there may be; None: any number."""
        if not self.limit:
            return None
        day = (now_ms + CHINA_MS) // DAY_MS
        if day != self._day:
            self._day, self._sum = day, 0
        return self.limit - self._sum

    def add(self, now_ms: int, number: int = 1) -> None:
        """They have happened."""
        self._sum += number


def taken(windows: Sequence[Window | Day], now_ms: int, number: int = 1) -> bool:
    """Count them in all windows if all have room for them; False: in none."""
    for window in windows:
        room = window.room(now_ms)
        if room is not None and room < number:
            return False
    for window in windows:
        window.add(now_ms, number)
    return True


class Gate:
    """Windows, and the block that follows when one is full: it lasts as long as its period
    (45009), of a day until the day is over."""

    def __init__(self, *windows: Window | Day) -> None:
        self._windows = windows
        self._until = 0

    def take(self, now_ms: int, number: int = 1) -> bool:
        """Whether it may pass."""
        if now_ms < self._until:
            return False
        if taken(self._windows, now_ms, number):
            return True
        for window in self._windows:
            room = window.room(now_ms)
            if room is not None and room < number:
                self._until = max(self._until, _free_at(window, now_ms))
        return False


def _free_at(window: Window | Day, now_ms: int) -> int:
    if isinstance(window, Day):
        return (now_ms + CHINA_MS) // DAY_MS * DAY_MS + DAY_MS - CHINA_MS
    return now_ms + window.period_ms
