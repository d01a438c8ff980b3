"""The network of a simulation: requests with latencies from the seed, and faults by place."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, TypeVar

from hub.ledger.port import LedgerUnavailable
from tests.support.virtual_loop import Process, VirtualLoop, current_process

T = TypeVar("T")


class Refused(Exception):
    """The server's answer to a write: `fence` (wrong last sequence) or `full`."""


class Faults:
    """Faults by place: the n-th time something of a kind happens, this goes wrong."""

    def __init__(self, plan: Mapping[tuple[str, int], str]) -> None:
        self.happened: list[str] = []
        self.on = True
        self._plan = plan
        self._counts: Counter[str] = Counter()

    def draw(self, kind: str) -> str:
        """What goes wrong with this one; "" for nothing."""
        self._counts[kind] += 1
        fault = self._plan.get((kind, self._counts[kind]), "") if self.on else ""
        if fault:
            self.happened.append(f"{kind}: {fault}")
        return fault

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts


class Network:
    """Requests to the server: they travel, are carried out, and the reply travels back.

    Faults of a request: `lose-request`, `lose-reply`, `late` (arrives when its sender may have
    given it up), `crash-before` and `crash-after` it is carried out (the sender is killed; before:
    it is lost with it), `pause` (the sender stands still while its request is carried out).
    """

    def __init__(self, loop: VirtualLoop, chance: random.Random, faults: Faults) -> None:
        self.loop = loop
        self.faults = faults
        self.down = False
        """Requests are not answered, as if nobody were there."""
        self.paused: Callable[[Process], None] = Process.pause
        self.killed: Callable[[Process], None] = Process.kill
        self._chance = chance
        self._context = copy_context()  # of the server: it stays when hosts stand still

    def latency_s(self) -> float:
        """Mostly half a millisecond, sometimes much more."""
        return self._chance.choice((0.0004, 0.0005, 0.0007, 0.001, 0.004, 0.03))

    def later(self, delay_s: float, call: Callable[..., object], *args: object) -> None:
        """Something that happens outside of any host."""
        self.loop.call_later(delay_s, call, *args, context=self._context)

    async def request(self, kind: str, operation: Callable[[], T], timeout_s: float = 5.0) -> T:
        """Carry an operation out on the server. Raises Refused; LedgerUnavailable: no reply."""
        reply: asyncio.Future[T] = self.loop.create_future()
        fault = self.faults.draw(kind)
        travel_s = self.latency_s()
        if fault == "late":
            travel_s += self._chance.uniform(0.5, 2.5) * timeout_s
        self.later(travel_s, self._arrive, current_process(), fault, operation, reply)
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError as error:
            raise LedgerUnavailable(f"{kind}: no reply") from error

    def _arrive(
        self,
        sender: Process | None,
        fault: str,
        operation: Callable[[], Any],
        reply: asyncio.Future[Any],
    ) -> None:
        if sender is not None and fault in ("crash-before", "pause"):
            (self.killed if fault == "crash-before" else self.paused)(sender)
        if self.down or fault in ("crash-before", "lose-request"):
            return
        try:
            result, refused = operation(), None
        except Refused as error:
            result, refused = None, error
        if sender is not None and fault == "crash-after":
            self.killed(sender)
        if fault != "lose-reply":
            self.later(self.latency_s(), _answer, reply, result, refused)


def _answer(reply: asyncio.Future[Any], result: object, refused: Refused | None) -> None:
    if reply.done():
        return
    if refused is None:
        reply.set_result(result)
    else:
        reply.set_exception(refused)
