"""Parts of customers' long messages, until the whole is there or has waited long enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from channels.sms.segments import Part, Reassembly, Whole


class Parts:
    """A `Reassembly` with a timer of the running loop. `tell` gets what is whole, or given up."""

    def __init__(self, tell: Callable[[list[Whole]], None]) -> None:
        self._tell = tell
        self._reassembly = Reassembly()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, part: Part) -> None:
        """Take one more."""
        self._tell(self._reassembly.add(part, _loop_ms()))
        self._wait()

    def close(self) -> list[Whole]:
        """End; what has waited is given back as far as it is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._reassembly.flush()

    def _wait(self) -> None:
        """See to it that parts do not wait for ever."""
        deadline_ms = self._reassembly.deadline_ms
        if deadline_ms is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(deadline_ms / 1000, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self._tell(self._reassembly.expired(_loop_ms()))
        self._wait()


def _loop_ms() -> int:
    """The loop's time, by which its timers go; rounded, so that what is due is seen as due."""
    return round(asyncio.get_running_loop().time() * 1000)
