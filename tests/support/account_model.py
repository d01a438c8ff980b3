"""Accounts without a network: their ledger on the model of the streams, and a scripted provider."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
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
from hub.ledger.port import IntakeMessage, LedgerUnavailable, Outbound
from tests.support.model import ModelLedger, Stored, Streams
from tests.support.network import Network


class DeliveryReader:
    """`IntakeReader` over the deliveries of the model's LEDGER: a lane is a channel.

    Like `tests.support.model_reader`: after a gap, or while the server is away, what is buffered
    and under way is lost, and read anew from what was last taken, or from the beginning.
    """

    def __init__(
        self, streams: Streams, network: Network, chance: random.Random, channels: Iterable[str]
    ) -> None:
        self._streams = streams
        self._network = network
        self._chance = chance
        self._lanes: dict[str, deque[IntakeMessage]] = {channel: deque() for channel in channels}
        self._positions: dict[int, dict[str, int]] = {}
        self._taken: dict[str, int] = {}
        self._ahead: Counter[str] = Counter()
        """Up to where what is urgent was given out of its turn."""
        self._arrived = asyncio.Event()
        self._clear_s: dict[str, float] = {}
        """Loop time at which the last message under way in a lane arrives."""
        self._generation: Counter[str] = Counter()
        """What is under way from an earlier one is lost."""
        self._recovering: set[str] = set()
        self._open = False

    async def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        while True:
            try:
                await self._network.request("open", lambda: None)
                break
            except LedgerUnavailable:
                await asyncio.sleep(self._chance.uniform(0.01, 0.5))
        self._positions = {number: dict(lanes) for number, lanes in positions.items()}
        self._open = True
        self._streams.ledger_listeners.append(self._stored)
        for lane in self._lanes:
            self._read_anew(lane, 0, self._generation[lane])

    def _stored(self, stored: Stored) -> None:
        """LEDGER has one more. A lane that is being read anew comes across it by itself."""
        kind, *rest = stored.subject.split(".")[1:]
        if kind == "out" and rest[0] in self._lanes and rest[0] not in self._recovering:
            self._send(rest[0], int(rest[1]), stored)

    def _send(self, channel: str, number: int, stored: Stored) -> None:
        lanes = self._positions.get(number)
        if lanes is None or stored.sequence <= lanes.get(channel, 0):
            return
        message = IntakeMessage(
            number, channel, "", stored.sequence, stored.stored_ms, stored.payload, False
        )
        now_s = self._network.loop.time()
        # Timers of one and the same moment go off in any order, messages of a lane must not.
        arrives_s = max(self._clear_s.get(channel, 0.0) + 1e-7, now_s + self._network.latency_s())
        self._clear_s[channel] = arrives_s
        self._network.later(arrives_s - now_s, self._arrive, message, self._generation[channel])

    def _arrive(self, message: IntakeMessage, generation: int) -> None:
        lane = message.lane
        if not self._open or generation != self._generation[lane]:
            return
        if self._network.down or self._network.faults.draw("read") == "gap":
            self.lose(lane)
        else:
            self._lanes[lane].append(message)
            self._arrived.set()

    def lose(self, lane: str) -> None:
        """A gap: what is buffered and under way is lost, and read again a moment later."""
        if not self._open:
            return
        self._lanes[lane].clear()
        self._ahead[lane] = 0
        self._generation[lane] += 1
        self._recovering.add(lane)
        after = self._chance.choice((0, self._taken.get(lane, 0)))
        delay_s = self._chance.uniform(0.01, 3.0)
        self._network.later(delay_s, self._read_anew, lane, after, self._generation[lane])

    def _read_anew(self, lane: str, after: int, generation: int) -> None:
        if not self._open or generation != self._generation[lane]:
            return
        if self._network.down:
            self.lose(lane)
            return
        self._recovering.discard(lane)
        self._clear_s[lane] = 0.0
        for stored in self._streams.ledger[after:]:
            kind, *rest = stored.subject.split(".")[1:]
            if kind == "out" and rest[0] == lane:
                self._send(lane, int(rest[1]), stored)

    def take(self, lane: str, most: int) -> list[IntakeMessage]:
        buffered = self._lanes[lane]
        taken = [buffered.popleft() for _ in range(min(most, len(buffered)))]
        if taken:
            self._taken[lane] = taken[-1].sequence
        return taken

    def urgent(self, lane: str, most: int) -> list[IntakeMessage]:
        """Of what is buffered; again what was read again after a gap."""
        found = [m for m in self._lanes[lane] if m.sequence > self._ahead[lane]]
        found = [m for m in found if b'"urgent":true' in m.payload and m.payload[:1] == b"{"][:most]
        if found:
            self._ahead[lane] = found[-1].sequence
        return found

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
        if self._stored in self._streams.ledger_listeners:
            self._streams.ledger_listeners.remove(self._stored)


class AccountModelLedger(ModelLedger):
    """`actors.account_runner.AccountLedger` on the model."""

    def deliveries(self, channels: Iterable[str]) -> DeliveryReader:
        return DeliveryReader(self.streams, self.network, self._chance, channels)

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
        self.flushed: Callable[[], None] = lambda: None
        self.notes: dict[str, bytes] = {}
        """What it was given at its start."""
        self.spared = False
        """Whether it need not stay in memory."""
        self._script = script

    def prepare(self, delivery: Delivery) -> Prepared:
        content = msgspec.json.decode(delivery.content)
        if "text" not in content:
            raise Unsendable("no text", failure="rejected_content", code="no-text")
        units = int(content.get("units", 1))
        return Prepared(delivery.to, units, tuple(range(units)))

    def start(self, notes: Mapping[str, bytes]) -> None:
        self.notes = dict(notes)
        self.events.link(Link(self.window))

    def submit(self, submission: Submission) -> None:
        assert not self.stopped, "submitted after the end"
        self.log.append((self.name, submission.delivery))
        self._script(submission, self)

    @property
    def idle(self) -> bool:
        return self.spared

    def flush(self) -> None:
        self.flushed()

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
