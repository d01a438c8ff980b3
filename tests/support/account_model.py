"""Accounts without a network: their ledger on the model of the streams, and a scripted provider."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from actors.account_partition import SOURCE
from channels.provider import (
    Answer,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
    Unsendable,
)
from hub.contract.types import Delivery
from hub.ledger.port import IntakeMessage, Outbound
from tests.support.model import ModelLedger, Stored, Streams
from tests.support.network import Network


class DeliveryReader:
    """`IntakeReader` over the deliveries of the model's LEDGER: a lane is a channel."""

    def __init__(self, streams: Streams, network: Network, channels: Iterable[str]) -> None:
        self._streams = streams
        self._network = network
        self._lanes: dict[str, deque[IntakeMessage]] = {channel: deque() for channel in channels}
        self._positions: dict[int, dict[str, int]] = {}
        self._arrived = asyncio.Event()
        self._clear_s = 0.0
        self._open = False

    async def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        self._positions = {number: dict(lanes) for number, lanes in positions.items()}
        self._open = True
        for stored in self._streams.ledger:
            self._send(stored)
        self._streams.ledger_listeners.append(self._send)

    def _send(self, stored: Stored) -> None:
        kind, *rest = stored.subject.split(".")[1:]
        if kind != "out" or rest[0] not in self._lanes or int(rest[1]) not in self._positions:
            return
        channel, number = rest[0], int(rest[1])
        if stored.sequence <= self._positions[number].get(channel, 0):
            return
        message = IntakeMessage(
            number, channel, "", stored.sequence, stored.stored_ms, stored.payload, False
        )
        now_s = self._network.loop.time()
        self._clear_s = max(self._clear_s + 1e-7, now_s + self._network.latency_s())
        self._network.later(self._clear_s - now_s, self._arrive, message)

    def _arrive(self, message: IntakeMessage) -> None:
        if self._open:
            self._lanes[message.lane].append(message)
            self._arrived.set()

    def take(self, lane: str, most: int) -> list[IntakeMessage]:
        buffered = self._lanes[lane]
        return [buffered.popleft() for _ in range(min(most, len(buffered)))]

    def buffered(self, lane: str) -> int:
        return len(self._lanes[lane])

    async def wait(self, timeout_s: float, lanes: Iterable[str] = ()) -> bool:
        lanes = tuple(lanes)
        try:
            async with asyncio.timeout(timeout_s):
                while not any(self._lanes[lane] for lane in lanes):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    def pending(self, lane: str) -> int:
        return len(self._lanes[lane])

    async def close(self) -> None:
        self._open = False
        if self._send in self._streams.ledger_listeners:
            self._streams.ledger_listeners.remove(self._send)


class AccountModelLedger(ModelLedger):
    """`actors.account_runner.AccountLedger` on the model."""

    def deliveries(self, channels: Iterable[str]) -> DeliveryReader:
        return DeliveryReader(self.streams, self.network, channels)

    async def stored(self, sequence: int) -> bytes | None:
        def read() -> bytes | None:
            return self.streams.ledger[sequence - 1].payload if sequence else None

        return await self.network.request("stored", read)

    async def tell(self, outbound: Sequence[Outbound]) -> None:
        for one in outbound:

            def store(one: Outbound = one) -> None:
                self.streams.publish(
                    one.lane, SOURCE, one.customer, one.payload, False, one.message_id
                )

            await self.network.request("tell", store)


Script = Callable[[Submission, "ScriptedProvider"], None]


class ScriptedProvider:
    """A provider that does what a script says; `log` is what reached the other side."""

    def __init__(
        self,
        name: str,
        events: Events,
        script: Script,
        *,
        window: int = 10,
        resend: bool = False,
        log: list[tuple[str, str]] | None = None,
    ) -> None:
        self.name = name
        self.events = events
        self.resend = resend
        self.window = window
        self.log = [] if log is None else log
        self.stopped = False
        self._script = script

    def prepare(self, delivery: Delivery) -> Prepared:
        content = msgspec.json.decode(delivery.content)
        if "text" not in content:
            raise Unsendable("no text", failure="rejected_content", code="no-text")
        units = int(content.get("units", 1))
        return Prepared(delivery.to, units, tuple(range(units)))

    def start(self) -> None:
        self.events.link(Link(self.window))

    def submit(self, submission: Submission) -> None:
        assert not self.stopped, "submitted after the end"
        self.log.append((self.name, submission.delivery))
        self._script(submission, self)

    async def callback(self, request: Callback) -> Reply:
        return Reply(404)

    async def stop(self, drain_s: float) -> None:
        self.stopped = True


def accept(submission: Submission, provider: ScriptedProvider) -> None:
    """Takes everything, and that is the last word."""
    provider.events.answered(
        submission.delivery, Answer("accepted", tuple(f"id-{submission.delivery}" for _ in "1"))
    )


__all__ = ["AccountModelLedger", "DeliveryReader", "ScriptedProvider", "accept", "random"]
