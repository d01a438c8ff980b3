"""Reading a stream: every lane in stream order, without gaps, ahead of what is being decided.

Hosts of conversations read INTAKE lane by lane, hosts of accounts the deliveries of LEDGER channel
by channel; what differs is `hub.ledger.lanes.Source`.

One ordered consumer a lane, that is: an ephemeral pull consumer without acknowledgements, made at
the checkpoint and made anew from the last message taken in whenever anything looks wrong. What is
missed is found by the consumer's own numbering, which has no holes.

Messages are not fetched in rounds but arrive on an inbox, fed by pull requests that are renewed
before they run out: a waiting request costs nothing, and a new message comes at once. Every pull
has a byte limit, for then the server ends each with a status (ADR-37), and what is still to come is
known exactly. They come over a connection of their own, `hub.ledger.wire`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from nats.nuid import NUID

from hub import limits
from hub.contract.subjects import LANES
from hub.ledger.connection import Connection, backoff_ms
from hub.ledger.lanes import INTAKE_LANES, NS, Feed, Lane, Source, ack_tokens
from hub.ledger.port import IntakeMessage, LedgerCorrupt, LedgerError, LedgerUnavailable
from hub.ledger.wire import Wire

__all__ = ["StreamReader", "ack_tokens"]

_log = structlog.get_logger(__name__)


class StreamReader:
    """`hub.ledger.port.IntakeReader` on a real server. One task tends all lanes.

    After `open` it heals itself: gaps, lost consumers and reconnects cost a new consumer, counted
    in `restarts` by cause. Only a stream that cannot be the one we read is raised, by `take` and
    `wait`.
    """

    def __init__(
        self,
        connection: Connection,
        partitions: int,
        *,
        source: Source = INTAKE_LANES,
        chance: random.Random | None = None,
    ) -> None:
        self.restarts: Counter[str] = Counter()
        self._source = source
        self._connection = connection
        self._partitions = partitions
        self._chance = chance or random.Random()
        self._ids = NUID()
        self._lanes: dict[str, Lane] = {}
        self._wire: Wire | None = None
        self._owned: tuple[int, ...] = ()
        self._look = asyncio.Event()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: LedgerCorrupt | None = None

    # ---- what the turn calls -----------------------------------------------------------------

    async def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        """Read on from these positions; see the protocol.

        A server that is away is waited for in the background. Raises LedgerCorrupt when the stream
        ends before a position.
        """
        await self._stop()
        self._owned = tuple(sorted(positions))
        self._failure = None
        if not positions:
            return
        self._lanes = {
            name: Lane(
                self._source,
                name,
                {partition: lanes.get(name, 0) for partition, lanes in positions.items()},
                self._look.set,
                self._arrived.set,
            )
            for name in self._source.lanes
        }
        for lane in self._lanes.values():
            await self._restart(lane)
        self._raise_failure()
        self._look.set()
        self._task = asyncio.create_task(self._tend(), name="tact-intake")

    def take(self, lane: str, most: int) -> list[IntakeMessage]:
        self._raise_failure()
        reading = self._lanes.get(lane)
        if reading is None:
            return []
        taken = reading.take(most)
        if taken and reading.wants_pull:
            self._look.set()
        return taken

    def urgent(self, lane: str, most: int) -> list[IntakeMessage]:
        """See `hub.ledger.port.DeliveryReader`."""
        self._raise_failure()
        reading = self._lanes.get(lane)
        return [] if reading is None else reading.urgent(most)

    def buffered(self, lane: str) -> int:
        reading = self._lanes.get(lane)
        return 0 if reading is None else len(reading)

    async def wait(self, timeout_s: float, lanes: Iterable[str] = LANES) -> bool:
        lanes = tuple(lanes)
        self._raise_failure()
        await asyncio.sleep(0)  # who asks in a loop must not keep messages from arriving
        try:
            async with asyncio.timeout(timeout_s):
                while not any(map(self.buffered, lanes)):
                    self._arrived.clear()
                    await self._arrived.wait()
                    self._raise_failure()
        except TimeoutError:
            return False
        return True

    def pending(self, lane: str) -> int:
        reading = self._lanes.get(lane)
        return 0 if reading is None else reading.waiting + len(reading)

    async def close(self) -> None:
        await self._stop()
        if self._wire is not None:
            wire, self._wire = self._wire, None
            wire.close()

    def _wire_lost(self) -> None:
        # What was on its way is lost without a trace.
        self._wire = None
        for lane in self._lanes.values():
            if lane.feed is not None:
                lane.feed.fail("reconnect")

    # ---- tending -----------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Until cancelled: renew pulls when told to look, and listen for silence."""
        loop = asyncio.get_running_loop()
        next_count_s = loop.time() + limits.PULL_HEARTBEAT_S
        while self._failure is None:
            try:
                async with asyncio.timeout_at(next_count_s):
                    await self._look.wait()
            except TimeoutError:
                pass  # time to listen for silence
            self._look.clear()
            if loop.time() >= next_count_s:
                next_count_s = loop.time() + limits.PULL_HEARTBEAT_S
                self._count_silence()
            for lane in self._lanes.values():
                await self._tend_lane(lane, loop.time())
        self._arrived.set()

    async def _tend_lane(self, lane: Lane, now_s: float) -> None:
        feed = lane.feed
        if feed is not None and feed.broken:
            self._drop(lane, feed)
        if feed is None or feed.broken:
            if now_s < lane.retry_s:
                return
            await self._restart(lane)
            feed = lane.feed
        while feed is not None and lane.wants_pull:
            feed.pull()

    def _count_silence(self) -> None:
        for lane in self._lanes.values():
            feed = lane.feed
            if feed is not None and feed.open:
                feed.silent += 1
                if feed.silent > limits.PULL_SILENCE:
                    feed.fail("silence")

    def _drop(self, lane: Lane, feed: Feed) -> None:
        """Account for a broken consumer, once, and say when another may be made."""
        if feed.counted:
            return
        feed.counted = True
        self.restarts[feed.broken] += 1
        _log.info("intake.restart", lane=lane.name, why=feed.broken)
        if feed.useful:
            lane.tries = 0
        else:
            self._look_again(lane)

    async def _restart(self, lane: Lane) -> None:
        """Replace a lane's consumer by one that starts after the last message taken in."""
        inbox = self._connection.client.new_inbox
        if lane.feed is not None:
            lane.feed.stop(inbox())
            lane.feed = None
        try:
            await self._check_end(lane)
            name = f"tact-{self._ids.next().decode()}"
            lane.feed = Feed(lane, await self._opened(), name, inbox())
            await lane.feed.start(self._connection, self._config(lane))
        except LedgerCorrupt as error:
            self._failure = error
        except LedgerError as error:
            self.restarts[error.code] += 1
            self._look_again(lane)
            if lane.feed is not None:
                lane.feed.counted = True
                lane.feed.fail(error.code)

    async def _opened(self) -> Wire:
        """The connection messages come over. Only one task at a time asks for it."""
        if self._wire is None:
            self._wire = await self._connection.open_wire(self._wire_lost)
            if self._wire.lost:
                self._wire = None
                raise LedgerUnavailable("the connection was lost as soon as it was made")
        return self._wire

    def _look_again(self, lane: Lane) -> None:
        """The server is away or refuses: try again after a growing wait."""
        lane.tries += 1
        loop = asyncio.get_running_loop()
        lane.retry_s = loop.time() + backoff_ms(lane.tries, self._chance) / 1000
        loop.call_at(lane.retry_s, self._look.set)

    async def _check_end(self, lane: Lane) -> None:
        info = await self._connection.api(f"STREAM.INFO.{self._source.stream}")
        end = info["state"]["last_seq"]
        if end < lane.last:
            raise LedgerCorrupt(
                f"{self._source.stream} ends at {end}, but messages up to {lane.last} of lane "
                f"{lane.name} have been decided: it was replaced or restored from an older copy, "
                "and what comes now would be taken for already decided; restore both streams from "
                "one copy",
                lane=lane.name,
            )

    def _config(self, lane: Lane) -> dict[str, Any]:
        owned: Iterable[int | str] = self._owned
        if len(self._owned) == self._partitions:
            owned = ("*",)
        return {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": lane.last + 1,
            "filter_subjects": [self._source.subject(partition, lane.name) for partition in owned],
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": limits.CONSUMER_INACTIVE_S * NS,
        }

    async def _stop(self) -> None:
        if self._task is not None:
            while not self._task.done():  # nats-py may swallow a cancellation
                self._task.cancel()
                await asyncio.wait([self._task], timeout=1)
            self._task = None
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            if lane.feed is not None:
                lane.feed.stop(self._connection.client.new_inbox())
        self._arrived.clear()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is not None and self._task.done():
            self._task.result()  # a bug: raise it where it is seen
