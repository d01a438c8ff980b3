"""The only place that reads the machine's clock. Everything else is given a `Clock`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time in Unix milliseconds, and a steady time in seconds for measuring."""

    def now_ms(self) -> int: ...

    def steady_s(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def steady_s(self) -> float:
        return time.monotonic()
