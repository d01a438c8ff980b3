"""What is read of a channel: messages taken apart, parcels given out, and their ends.

What is given out and not settled is bounded; of one customer only one parcel is given out at a
time, so that what a customer gets keeps its order however many are sent at once. A message of the
stream is acknowledged when all of its deliveries are settled.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Set
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from channels.gateway_errors import GatewayError, public
from channels.gateway_parcels import RETRY_MAX_S, Held, Memory, Parcel
from hub.clock import Clock
from hub.contract.types import Delivery
from hub.errors import TactError
from hub.ledger.consumer import Taken
from hub.ledger.deliveries import DeliveryConsumer

_log = structlog.get_logger(__name__)

STUCK_S: Final = 60.0
"""So long without room for one more before the log says that nothing is settled."""

Report = Callable[..., Awaitable[None]]
"""`Gateway.receipt`, but it waits until the receipt is stored."""

_ONE: Final = msgspec.json.Decoder(Delivery)
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Ids(Struct):
    """What must be readable of a delivery to say that it cannot be sent."""

    id: str
    customer: str
    account: str = ""


_IDS: Final = msgspec.json.Decoder(_Ids)


class Deliveries:
    """An endless asynchronous iterator over parcels. For one reader; made by `Gateway`."""

    def __init__(
        self,
        consumer: DeliveryConsumer,
        report: Report,
        *,
        in_flight: int,
        seen: Memory,
        clock: Clock,
        counts: Counter[str],
        accounts: Set[str] | None = None,
    ) -> None:
        """`accounts`: all others' deliveries are passed over; None: every account's are ours."""
        self._consumer = consumer
        self._accounts = accounts
        self.report = report
        self._in_flight = in_flight
        self._seen = seen
        self._clock = clock
        self._counts = counts
        self._open = 0
        self._turns: dict[str, deque[Parcel]] = {}  # customers with one out or ready, who waits
        self._ready: deque[Parcel] = deque()
        self._wake = asyncio.Event()  # for the reader
        self._freed = asyncio.Event()  # for the pump
        self._timers: set[asyncio.TimerHandle] = set()
        self._expiring: set[asyncio.Task[None]] = set()
        self._failure: GatewayError | None = None
        self._stopped = False
        self._pump_task: asyncio.Task[None] | None = None

    @property
    def open(self) -> int:
        """Parcels that are not settled: given out, or waiting for their turn."""
        return self._open

    def __aiter__(self) -> Deliveries:
        return self

    async def __anext__(self) -> Parcel:
        """The next parcel. Raises GatewayUnavailable at first, GatewayRefused at any time."""
        if self._pump_task is None and not self._stopped:
            self._pump_task = asyncio.create_task(self._pump(), name="gateway-deliveries")
        while not self._stopped:
            if self._ready:
                parcel = self._ready.popleft()
                if parcel.expires_ms > self._clock.now_ms():
                    self._counts["given_out"] += 1
                    return parcel
                self._aside(self._expire(parcel))
            elif self._failure is not None:
                raise self._failure
            else:
                self._wake.clear()
                await self._wake.wait()
        raise StopAsyncIteration

    def stop(self) -> None:
        """Give nothing more out: the iteration ends. What is out can still be settled."""
        self._stopped = True
        self._wake.set()

    def fail(self, error: GatewayError) -> None:
        """End the iteration with this error."""
        self._failure = self._failure or error
        self._ready.clear()
        self._wake.set()

    async def aclose(self) -> None:
        """Stop, and give everything back that is not settled."""
        self.stop()
        for timer in self._timers:
            timer.cancel()
        if self._pump_task is not None:
            while not self._pump_task.done():  # nats-py may swallow a cancellation
                self._pump_task.cancel()
                await asyncio.wait([self._pump_task], timeout=1)
        if self._expiring:
            await asyncio.wait(self._expiring)
        await self._consumer.close()

    # ---- taking messages apart -----------------------------------------------------------------

    async def _pump(self) -> None:
        try:
            await self._consumer.open()
            while True:
                await self._spread(await self._consumer.next())
        except TactError as error:
            self.fail(public(error))
        except Exception as error:  # a bug, here or in the `Memory` that was given to us
            broken = GatewayError(f"reading deliveries broke: {type(error).__name__}")
            broken.__cause__ = error
            self.fail(broken)

    async def _spread(self, taken: Taken) -> None:
        """All deliveries of a message, as there is room for them."""
        raws = _split(taken.payload)
        if not raws:
            _log.error("gateway.message_unreadable", sequence=taken.sequence)
        message = Held(taken, len(raws) + 1)
        for raw in raws:
            await self._room()
            try:
                delivery = _ONE.decode(raw)
            except (msgspec.MsgspecError, ValueError) as error:
                self._open += 1
                self._aside(self._refuse(raw, message, type(error).__name__))
                continue
            if self._elsewhere(delivery.account):
                message.left -= 1
                continue
            parcel = Parcel(delivery, self, message)
            if parcel.id in self._seen:
                self._counts["repeats"] += 1
                message.left -= 1
                continue
            self._open += 1
            if (waiting := self._turns.get(parcel.delivery.customer)) is not None:
                waiting.append(parcel)
            else:
                self._turns[parcel.delivery.customer] = deque()
                self._offer(parcel)
        await self._finish_one(message)

    def _elsewhere(self, account: str) -> bool:
        """Whether it is for an account that others serve."""
        if self._accounts is None or account in self._accounts:
            return False
        self._counts["others"] += 1
        return True

    async def _room(self) -> None:
        while self._open >= self._in_flight:
            self._freed.clear()
            try:
                async with asyncio.timeout(STUCK_S):
                    await self._freed.wait()
            except TimeoutError:
                _log.warning("gateway.full", unsettled=self._open, waited_s=STUCK_S)

    def _offer(self, parcel: Parcel) -> None:
        self._ready.append(parcel)
        self._wake.set()

    # ---- settling ------------------------------------------------------------------------------

    async def settle(self, parcel: Parcel, state: str) -> None:
        if parcel.settled:
            return
        parcel.state = state
        if state == "settled":
            self._seen.add(parcel.id)
        customer = parcel.delivery.customer
        if waiting := self._turns[customer]:
            self._offer(waiting.popleft())
        else:
            del self._turns[customer]
        self._leave()
        await self._finish_one(parcel.held)

    def _leave(self) -> None:
        self._open -= 1
        self._freed.set()

    async def _finish_one(self, message: Held) -> None:
        message.left -= 1
        if message.left:
            return
        if message.again_s is None:
            await self._consumer.acknowledge(message.taken)
        else:
            self._counts["given_back"] += 1
            await self._consumer.give_back(message.taken, message.again_s)

    def retry(self, parcel: Parcel, after_s: float) -> None:
        """The parcel keeps its customer's turn until it is offered again."""
        self._counts["retries"] += 1

        def due() -> None:
            self._timers.discard(timer)
            self._offer(parcel)

        wait_s = max(0.0, min(after_s, RETRY_MAX_S))
        timer = asyncio.get_running_loop().call_later(wait_s, due)
        self._timers.add(timer)

    # ---- what is not given out -----------------------------------------------------------------

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        # As many at most as there may be parcels open.
        task = asyncio.create_task(work)
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    async def _expire(self, parcel: Parcel) -> None:
        self._counts["expired"] += 1
        try:
            if parcel.again:  # perhaps it was sent in time, by who died before saying so
                await parcel.unknown(code="expired")
            else:
                await parcel.failed("expired")
        except GatewayError as error:
            self.give_up(error)

    async def _refuse(self, raw: msgspec.Raw, message: Held, reason: str) -> None:
        """A delivery of a newer hub that this library cannot read: it is not sent, and says so."""
        try:
            ids = _IDS.decode(raw)
            if not self._elsewhere(ids.account):
                self._unreadable(message, reason)
                await self.report(
                    ids.id, ids.customer, "failed", failure="config", code="unreadable"
                )
        except msgspec.MsgspecError:  # no name to tell it by
            self._unreadable(message, reason)
        except GatewayError as error:
            self.give_up(error)
            return
        self._leave()
        await self._finish_one(message)

    def _unreadable(self, message: Held, reason: str) -> None:
        self._counts["unreadable"] += 1
        _log.error("gateway.delivery_unreadable", sequence=message.taken.sequence, error=reason)

    def give_up(self, error: GatewayError) -> None:
        """A report was not stored, for good: end with its error."""
        # While closing it comes again; else the server refuses our receipts for good.
        if not self._stopped:
            self.fail(error)


def _split(payload: bytes) -> list[msgspec.Raw]:
    """The objects of a message, an array or one; empty when it is no JSON."""
    try:
        if payload.lstrip()[:1] == b"[":
            return _RAWS.decode(payload)
        return [msgspec.Raw(payload)]
    except msgspec.MsgspecError:
        return []
