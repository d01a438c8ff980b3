"""Many small objects, few messages: grouping, bounded flight, retries that cannot store twice.

One message of a group (a lane, source and partition) is in flight at a time; what comes meanwhile
is sent together as the next one. So a single object never waits for company, objects of one
conversation are stored in the order they were put, and arrays grow with the load by themselves.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from hub import limits
from hub.clock import Clock
from hub.errors import TactError
from hub.ledger.connection import Connection, backoff_ms
from hub.ledger.port import LedgerUnavailable, ServerRefused
from hub.ledger.publishing import Ack, publish

Send = Callable[[str, bytes, str], Awaitable[Ack]]
"""(subject, payload, message id) -> acknowledgement, tried once; raises like `publish`."""
Settle = Callable[[int | TactError], None]
"""Told once: the sequence of the message that holds the object, or why there is none."""

_UNDECIDED: Final = frozenset({"duplicate-in-flight", "unknown"})
"""Refusals that do not say whether the message is stored; the next try finds out."""

assert limits.PUBLISH_PATIENCE_S + limits.PUBLISH_TIMEOUT_S < limits.DUPLICATE_WINDOW_S


class Outgoing(Struct):
    """One object to publish. `message_id` is what it is stored under when it goes alone."""

    subject: str
    payload: bytes
    message_id: str
    settle: Settle
    alone: bool = False
    """Never in an array, but in its place among the others."""


class _Group:
    """What waits to be sent for one lane, source and partition."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Outgoing] = deque()
        self.busy = False
        """In flight, or in line to be sent."""


class Publisher:
    """Publishes objects as messages of one or many. `room()`, then `put()`; `close()` at the end.

    `send` does one try. `chance` spreads the retries of many clients.
    """

    def __init__(self, send: Send, *, clock: Clock, chance: random.Random) -> None:
        self._send = send
        self._clock = clock
        self._chance = chance
        self._groups: dict[Hashable, _Group] = {}
        self._line: deque[Hashable] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._objects = 0
        self._bytes = 0
        self._promised = 0  # turns given and not used yet
        self._queue: deque[asyncio.Future[None]] = deque()  # callers of room(), in order
        self._woken = False

    # ---- for callers -------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Objects put and not yet settled."""
        return self._objects

    async def room(self) -> None:
        """Wait for a turn to put one object. First come, first served; every turn is used."""
        if not self._queue and self._has_room():
            self._promised += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it came as we were cancelled: pass it on
                self._promised -= 1
                self._let_in()
            raise

    def put(self, group: Hashable, outgoing: Outgoing) -> None:
        """Take an object over; `settle` will be told. Objects of a group must share a partition."""
        self._promised -= 1
        self._objects += 1
        self._bytes += len(outgoing.payload)
        waiting = self._groups.get(group)
        if waiting is None:
            waiting = self._groups[group] = _Group()
        waiting.waiting.append(outgoing)
        if not waiting.busy:
            waiting.busy = True
            self._line.append(group)
            self._wake()

    async def close(self) -> None:
        """Wait for everything put to be settled; tries end after limits.PUBLISH_PATIENCE_S."""
        while self._objects:
            self._pump()
            await asyncio.wait(self._flights, return_when=asyncio.FIRST_COMPLETED)

    # ---- sending -----------------------------------------------------------------------------

    def _wake(self) -> None:
        # Not at once: tasks that are ready to put now shall be in the first message.
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._woken = False
        while self._line and len(self._flights) < limits.PUBLISH_IN_FLIGHT:
            group = self._line.popleft()
            message = _take(self._groups[group].waiting)
            flight = asyncio.create_task(self._fly(group, message))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._line:
            self._wake()
        if not flight.cancelled():
            flight.result()  # a bug: into the loop's exception handler, not into silence

    async def _fly(self, name: Hashable, message: list[Outgoing]) -> None:
        result: int | TactError = LedgerUnavailable("the client was ended; it may be stored")
        try:
            result = await self._deliver(message)
        except TactError as error:
            result = error
        finally:
            self._objects -= len(message)
            self._bytes -= sum([len(each.payload) for each in message])
            group = self._groups[name]
            if group.waiting:
                self._line.append(name)
            else:
                del self._groups[name]  # groups come and go with their traffic
            for each in message:
                each.settle(result)
            self._let_in()

    async def _deliver(self, message: list[Outgoing]) -> int:
        """Try until it is stored. The same bytes under the same id every time."""
        subject, payload, message_id = _pack(message)
        end_s = self._clock.steady_s() + limits.PUBLISH_PATIENCE_S
        tries = 0
        while True:
            try:
                return (await self._send(subject, payload, message_id)).sequence
            except LedgerUnavailable as error:
                failed: TactError = error
            except ServerRefused as error:
                if error.facts.get("outcome") not in _UNDECIDED:
                    raise
                failed = error
            wait_s = backoff_ms(tries, self._chance) / 1000
            if self._clock.steady_s() + wait_s > end_s:
                raise failed
            tries += 1
            await asyncio.sleep(wait_s)

    # ---- room --------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return (
            self._objects + self._promised < limits.PUBLISH_WAITING_OBJECTS
            and self._bytes < limits.PUBLISH_WAITING_BYTES
        )

    def _let_in(self) -> None:
        while self._queue and self._has_room():
            turn = self._queue.popleft()
            if not turn.done():
                self._promised += 1
                turn.set_result(None)


def _take(waiting: deque[Outgoing]) -> list[Outgoing]:
    """As many objects as one message may hold: at least one."""
    message = [waiting.popleft()]
    size = len(message[0].payload) + 2
    while waiting and len(message) < limits.ARRAY_OBJECTS:
        if message[0].alone or waiting[0].alone:
            break
        size += len(waiting[0].payload) + 1
        if size > limits.MESSAGE_BYTES:
            break
        message.append(waiting.popleft())
    return message


def _pack(message: list[Outgoing]) -> tuple[str, bytes, str]:
    """(subject, payload, message id). Any subject of an array will do: they share a partition."""
    first = message[0]
    if len(message) == 1:
        return first.subject, first.payload, first.message_id
    digest = blake2b("\n".join([each.message_id for each in message]).encode(), digest_size=20)
    payload = b"[" + b",".join([each.payload for each in message]) + b"]"
    return first.subject, payload, f"array/{digest.hexdigest()}"


def sender(connection: Connection) -> Send:
    """`send` on a real connection."""

    async def send(subject: str, payload: bytes, message_id: str) -> Ack:
        return await publish(
            connection, subject, payload, msg_id=message_id, timeout_s=limits.PUBLISH_TIMEOUT_S
        )

    return send
