"""asyncio in virtual time: a loop that never sleeps, and processes that can be paused and killed.

Waiting for the next timer moves the loop's clock instead of the machine's, so that `loop.time()`,
`asyncio.sleep`, timeouts and `call_later` are all virtual, and days pass in milliseconds. Nothing
else decides what runs next: the same program gives the same run.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

SPINS = 50_000
"""Rounds of the loop at one and the same moment before it counts as a hang."""


class Hang(AssertionError):
    """Nothing is scheduled any more, or time stands still. The message says what waits where."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 s and jumps from timer to timer."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._spins = 0
        super().__init__(_Selector(self._pass))
        # Timers this close count as due: sums of floats must not cost an extra round.
        self._clock_resolution = 1e-6
        self.set_task_factory(_make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._now_s

    def hold_up(self, seconds: float) -> None:
        """The process gets no processor for so long, in the middle of whatever it does."""
        self._now_s += seconds

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Every step of every task comes through here: what a paused process would do is kept."""
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None or process.parked is None:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        process.parked.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Timers of a process that stands still go off when it goes on, if it wants that."""
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None or not process.holds_timers:
            return super().call_at(when, callback, *args, context=context)
        rings: list[asyncio.TimerHandle] = []
        rings.append(super().call_at(when, _ring, process, rings, callback, args, context=context))
        return rings[0]

    def unpark(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def _pass(self, timeout_s: float | None) -> None:
        """Called instead of waiting for the network."""
        if timeout_s is None:
            raise Hang(f"nothing is scheduled at {self._now_s:.3f} s\n{self._who_waits()}")
        if timeout_s > 0:
            self._now_s += timeout_s
            self._spins = 0
            return
        self._spins += 1
        if self._spins > SPINS:
            self._spins = 0  # what cancels the tasks then needs rounds of its own
            raise Hang(f"time stands still at {self._now_s:.3f} s\n{self._who_waits()}")

    def _who_waits(self) -> str:
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            frames = task.get_stack()
            where = "".join(
                f"\n    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                for frame in frames
            )
            lines.append(f"  {task.get_name()}{where}")
        return "\n".join(lines)


def _ring(
    process: Process,
    rings: list[asyncio.TimerHandle],
    callback: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """A timer has gone off: at once, or when the pause is over, unless it is cancelled in it."""
    if process.parked is None:
        callback(*args)
    else:
        loop = asyncio.get_running_loop()
        again = (process, rings, callback, args)
        process.parked.append(asyncio.Handle(_ring_late, again, loop, copy_context()))


def _ring_late(
    process: Process,
    rings: list[asyncio.TimerHandle],
    callback: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    if not rings[0].cancelled():
        _ring(process, rings, callback, args)


class _Selector(selectors.SelectSelector):
    """Knows files only to please the loop; nothing ever arrives on them."""

    def __init__(self, passing: Callable[[float | None], None]) -> None:
        super().__init__()
        self._passing = passing

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._passing(timeout)
        return []


# ---- processes -----------------------------------------------------------------------------------


class Process:
    """Tasks that live and die together, with everything they start: one host.

    Paused, it makes no step until it goes on (its timers fire then, late). Killed, its tasks are
    cancelled where they stand; what they have handed to others before is under way and arrives.
    """

    def __init__(self, loop: VirtualLoop, name: str, *, holds_timers: bool = False) -> None:
        """`holds_timers`: plain timers (`call_later`) stand still with it, as tasks always do."""
        self.name = name
        self.holds_timers = holds_timers
        self.alive = True
        self.parked: list[asyncio.Handle] | None = None
        """Steps to make when the pause is over; None while it runs."""
        self._loop = loop
        self._context = copy_context()
        self._context.run(_PROCESS.set, self)
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def paused(self) -> bool:
        return self.parked is not None

    def start(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task of this process."""
        context = self._context.copy()
        return self._loop.create_task(coroutine, name=f"{self.name}: {name}", context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        if len(self._tasks) > 256:
            self._tasks = [task for task in self._tasks if not task.done()]
        if not self.alive:
            task.cancel()

    def busy(self) -> list[str]:
        """Names of the tasks that have not ended."""
        return [task.get_name() for task in self._tasks if not task.done()]

    def pause(self) -> None:
        if self.alive and self.parked is None:
            self.parked = []

    def go_on(self) -> None:
        if self.parked is not None:
            handles, self.parked = self.parked, None
            self._loop.unpark(handles)

    def kill(self) -> None:
        self.alive = False
        self.go_on()
        for task in self._tasks:
            task.cancel()


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose task is running."""
    return _PROCESS.get()


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T],
    context: Context | None = None,
) -> asyncio.Task[T]:
    process = _PROCESS.get() if context is None else context.get(_PROCESS)
    name = None if process is None else f"{process.name}: {coroutine.__qualname__}"
    task = asyncio.Task(coroutine, loop=loop, context=context, name=name)
    if process is not None:
        process.adopt(task)
    return task


# ---- running and clocks --------------------------------------------------------------------------


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run to the end in virtual time. Raises Hang, and what the program raises."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))


class VirtualClock:
    """A `hub.clock.Clock` on the loop's time; `skew_ms` is how far this machine is ahead."""

    def __init__(self, loop: VirtualLoop, start_ms: int, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms
        self._loop = loop
        self._start_ms = start_ms

    def now_ms(self) -> int:
        # Rounded to the microsecond first: 0.3 s must not become 299 ms.
        return self._start_ms + self.skew_ms + round(self._loop.time() * 1_000_000) // 1000

    def steady_s(self) -> float:
        return self._loop.time()
