"""Time in the fake: a clock that can be put forward, and what happens by itself at its moment."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from hub.clock import Clock, SystemClock


class MovableClock:
    """Another clock, put forward as often as one likes: what takes days can be tried at once."""

    def __init__(self, base: Clock | None = None) -> None:
        self._base = base or SystemClock()
        self._ahead_ms = 0

    def now_ms(self) -> int:
        return self._base.now_ms() + self._ahead_ms

    def steady_s(self) -> float:
        return self._base.steady_s()

    def advance(self, seconds: float) -> None:
        """Put it forward."""
        self._ahead_ms += int(seconds * 1_000)


class Timers:
    """Things that happen at their moment, in their order, also when the clock jumps over it."""

    def __init__(self, clock: MovableClock) -> None:
        self._clock = clock
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Let them happen by themselves from now on; without it only `settle` makes them."""
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        """No more."""
        self._loop = None
        if self._handle is not None:
            self._handle.cancel()

    def at(self, at_ms: int, act: Callable[[], object]) -> None:
        """Do it then."""
        heapq.heappush(self._due, (at_ms, next(self._numbers), act))
        if self._due[0][2] is act:
            self._arm()

    def settle(self) -> None:
        """Do all that is due."""
        while self._due and self._due[0][0] <= self._clock.now_ms():
            heapq.heappop(self._due)[2]()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._loop is not None and self._due:
            wait_s = max(self._due[0][0] - self._clock.now_ms(), 0) / 1_000
            self._handle = self._loop.call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._handle = None
        self.settle()
        self._arm()

    def moved(self) -> None:
        """The clock was put forward."""
        self.settle()
        self._arm()
