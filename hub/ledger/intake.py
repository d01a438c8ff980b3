"""Reading INTAKE: every lane in stream order, without gaps, ahead of what is being decided.

One ordered consumer a lane, that is: an ephemeral pull consumer without acknowledgements, made at
the checkpoint and made anew from the last message taken in whenever anything looks wrong. What is
missed is found by the consumer's own numbering, which has no holes.

Messages are not fetched in rounds but arrive on an inbox, fed by pull requests that are renewed
before they run out: a waiting request costs nothing, and a new message comes at once. Every pull
has a byte limit, for then the server ends each with a status (ADR-37), and what is still to come is
known exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.nuid import NUID

from hub import limits
from hub.contract.decode import MSGPACK
from hub.contract.subjects import LANES, intake_subject
from hub.ledger.connection import Connection, backoff_ms
from hub.ledger.port import IntakeMessage, LedgerCorrupt, LedgerError
from hub.ledger.streams import INTAKE

_log = structlog.get_logger(__name__)

_PULL_BYTES: Final = limits.READ_AHEAD_BYTES * limits.PULL_BATCH // limits.READ_AHEAD_MESSAGES
_OPEN_PULLS: Final = 2
_NS: Final = 1_000_000_000
_SUBJECTS: Final = 4_096
"""Subjects a lane remembers the parts of: partitions times sources, of which there are few."""

assert _PULL_BYTES >= 2 * limits.MESSAGE_BYTES, "a pull must hold any one message"


def ack_tokens(reply: str) -> tuple[int, int, int, int]:
    """(stream sequence, consumer sequence, stored ns, pending) of a message's `$JS.ACK` subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<ns>.<pending>`, or with
    domain and account after `ACK` and a random token behind. Raises ValueError for anything else.
    """
    tokens = reply.split(".")
    count = len(tokens)
    if count == 9:
        return int(tokens[5]), int(tokens[6]), int(tokens[7]), int(tokens[8])
    if count >= 11:
        return int(tokens[7]), int(tokens[8]), int(tokens[9]), int(tokens[10])
    raise ValueError(f"an acknowledgement subject of {count} tokens")


class _Feed:
    """One consumer on the server, and the inbox it delivers to. Never repaired, only replaced."""

    def __init__(self, lane: _Lane, name: str) -> None:
        self.name = name
        self.open = 0
        """Pulls the server has not ended."""
        self.next = 1
        """The consumer sequence that must come next."""
        self.broken = ""
        """Why it must be replaced; empty while it is well."""
        self.silent = 0
        """Heartbeat times since anything was heard."""
        self.useful = False
        """It has worked: when it breaks, another is made at once."""
        self.counted = False
        self._lane = lane
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._fresh = True

    async def start(self, connection: Connection, config: dict[str, Any]) -> int:
        """Make the consumer; returns how many messages wait for it."""
        self._inbox = connection.client.new_inbox()
        self._subscription = await connection.subscribe(self._inbox, self.take)
        reply = await connection.api(
            f"CONSUMER.CREATE.{INTAKE}.{self.name}",
            {"stream_name": INTAKE, "action": "create", "config": config | {"name": self.name}},
        )
        return int(reply.get("num_pending", 0))

    async def pull(self, connection: Connection) -> None:
        """One more request to the server."""
        # A first half request keeps two open ones from running out at the same moment: the server
        # serves them in turns.
        batch = limits.PULL_BATCH // 2 if self._fresh else limits.PULL_BATCH
        self._fresh = False
        self.open += 1
        request = {
            "batch": batch,
            "max_bytes": _PULL_BYTES,
            "expires": int(limits.PULL_EXPIRES_S * _NS),
            "idle_heartbeat": int(limits.PULL_HEARTBEAT_S * _NS),
        }
        await connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{INTAKE}.{self.name}",
            msgspec.json.encode(request),
            self._inbox,
        )

    async def take(self, message: Msg) -> None:
        """A message, or a status, from the server. On the path of every message."""
        self.silent = 0
        lane = self._lane
        if lane.feed is not self or self.broken:
            return  # what a replaced consumer still sent
        headers = message.headers
        if headers is not None and "Status" in headers:
            self._status(headers["Status"], headers)
            lane.owner.look()
            return
        sequence, number, stored_ns, pending = ack_tokens(message.reply)
        if number != self.next:
            self.fail("gap")
            return
        self.next = number + 1
        lane.add(message, sequence, stored_ns, pending)

    def _status(self, status: str, headers: Mapping[str, str]) -> None:
        reason = headers.get("Description", "")
        self.useful = self.useful or status in ("100", "408")
        if status == "100":  # idle heartbeat: is what the server sent what we got?
            if int(headers.get("Nats-Last-Consumer", self.next - 1)) != self.next - 1:
                self.fail("gap")
        elif status == "408":
            self.open -= 1
            self._fresh = True
        elif status == "404" or (status == "409" and reason in _ENDED):
            self.open -= 1
        else:  # 409 deleted, leadership change, shutdown; 503 no such consumer; 400 …
            _log.info("intake.status", lane=self._lane.name, status=status, reason=reason)
            self.fail(f"status-{status}")

    def fail(self, why: str) -> None:
        """It must be replaced; the first reason stands."""
        self.broken = self.broken or why
        self.useful = self.useful or self.next > 1
        self._lane.owner.look()

    async def stop(self, connection: Connection) -> None:
        """Forget it here; the server drops it after its inactive threshold, or is told to."""
        if self._subscription is not None:
            await connection.unsubscribe(self._subscription)
        if connection.connected:
            # Without a reply subject the server ignores it; nobody listens to the answer.
            delete = f"$JS.API.CONSUMER.DELETE.{INTAKE}.{self.name}"
            await connection.publish(delete, b"", connection.client.new_inbox())


_ENDED: Final = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes"})
"""Ways in which a pull ends in order; another follows."""


class _Lane:
    """What is buffered of one lane, and how far."""

    def __init__(self, owner: StreamReader, name: str, positions: Mapping[int, int]) -> None:
        self.owner = owner
        self.name = name
        self.feed: _Feed | None = None
        self.tries = 0
        """Tries to make a consumer since the last that worked."""
        self.retry_s = 0.0
        """Loop time before which no consumer is made again."""
        self.last = min(positions.values())
        """The last sequence taken in: what a new consumer starts after."""
        self._positions = positions
        self._behind_until = max(positions.values())
        """Up to here some partition may have decided a message already."""
        self._buffer: deque[IntakeMessage] = deque()
        self._bytes = 0
        self._pending = 0  # on the server, as last told
        self._parts: dict[str, tuple[int, str]] = {}

    def add(self, message: Msg, sequence: int, stored_ns: int, pending: int) -> None:
        """Take a message in. On the path of every message."""
        self.last = sequence
        self._pending = pending
        subject = message.subject
        parts = self._parts.get(subject)
        if parts is None:
            parts = self._split(subject)
        partition = parts[0]
        if sequence <= self._behind_until and sequence <= self._positions[partition]:
            return
        headers = message.headers
        packed = headers is not None and headers.get("Content-Type") == MSGPACK
        payload = message.data
        self._bytes += len(payload)
        self._buffer.append(
            IntakeMessage(
                partition,
                self.name,
                parts[1],
                sequence,
                stored_ns // 1_000_000,
                payload,
                packed,
            )
        )
        self.owner.arrived()

    def _split(self, subject: str) -> tuple[int, str]:
        _, _, partition, _, source = subject.split(".")
        if len(self._parts) >= _SUBJECTS:
            self._parts.clear()
        return self._parts.setdefault(subject, (int(partition), source))

    def take(self, most: int) -> list[IntakeMessage]:
        buffer = self._buffer
        count = min(most, len(buffer))
        taken = [buffer.popleft() for _ in range(count)]
        self._bytes -= sum([len(message.payload) for message in taken])
        return taken

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def pending(self) -> int:
        return self._pending + len(self._buffer)

    def started(self, pending: int) -> None:
        """A new consumer was made, and told how many messages wait for it."""
        self._pending = pending

    @property
    def wants_pull(self) -> bool:
        """Whether there is room for one more pull beside those that are open."""
        feed = self.feed
        if feed is None or feed.broken or feed.open >= _OPEN_PULLS:
            return False
        pulls = feed.open + 1  # every open one may still deliver all it may
        return (
            len(self._buffer) + pulls * limits.PULL_BATCH <= limits.READ_AHEAD_MESSAGES
            and self._bytes + pulls * _PULL_BYTES <= limits.READ_AHEAD_BYTES
        )


class StreamReader:
    """`hub.ledger.port.IntakeReader` on a real server. One task tends all lanes.

    After `open` it heals itself: gaps, lost consumers and reconnects cost a new consumer, counted
    in `restarts` by cause. Only a stream that cannot be the one we read is raised, by `take` and
    `wait`.
    """

    def __init__(
        self, connection: Connection, partitions: int, *, chance: random.Random | None = None
    ) -> None:
        self.restarts: Counter[str] = Counter()
        self._connection = connection
        self._partitions = partitions
        self._chance = chance or random.Random()
        self._ids = NUID()
        self._lanes: dict[str, _Lane] = {}
        self._owned: tuple[int, ...] = ()
        self._look = asyncio.Event()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: LedgerCorrupt | None = None
        self._forget_reconnects = connection.on_reconnect(self._reconnected)

    # ---- what the turn calls -----------------------------------------------------------------

    async def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        """Read on from these positions; see the protocol.

        A server that is away is waited for in the background. Raises LedgerCorrupt when INTAKE
        ends before a position.
        """
        await self._stop()
        self._owned = tuple(sorted(positions))
        self._failure = None
        if not positions:
            return
        self._lanes = {
            name: _Lane(self, name, {p: lanes.get(name, 0) for p, lanes in positions.items()})
            for name in LANES
        }
        await asyncio.gather(*(self._restart(lane) for lane in self._lanes.values()))
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

    def buffered(self, lane: str) -> int:
        reading = self._lanes.get(lane)
        return 0 if reading is None else len(reading)

    async def wait(self, timeout_s: float) -> bool:
        self._raise_failure()
        await asyncio.sleep(0)  # who asks in a loop must not keep messages from arriving
        if not self._any_buffered():
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return False
            self._raise_failure()
        return True

    def pending(self, lane: str) -> int:
        reading = self._lanes.get(lane)
        return 0 if reading is None else reading.pending

    async def close(self) -> None:
        self._forget_reconnects()
        await self._stop()

    # ---- what lanes and feeds tell -----------------------------------------------------------

    def look(self) -> None:
        """Something needs tending."""
        self._look.set()

    def arrived(self) -> None:
        """A message is buffered. On the path of every message."""
        if not self._arrived.is_set():
            self._arrived.set()

    def _reconnected(self) -> None:
        # What was on its way to the old connection is lost without a trace.
        for lane in self._lanes.values():
            if lane.feed is not None:
                lane.feed.fail("reconnect")
        self._look.set()

    # ---- tending -----------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Until cancelled: renew pulls when told to look, and listen for silence."""
        loop = asyncio.get_running_loop()
        next_count_s = loop.time() + limits.PULL_HEARTBEAT_S
        while self._failure is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_count_s):
                    await self._look.wait()
            self._look.clear()
            if loop.time() >= next_count_s:
                next_count_s = loop.time() + limits.PULL_HEARTBEAT_S
                self._count_silence()
            for lane in self._lanes.values():
                await self._tend_lane(lane, loop.time())
        self._arrived.set()

    async def _tend_lane(self, lane: _Lane, now_s: float) -> None:
        feed = lane.feed
        if feed is not None and feed.broken:
            self._drop(lane, feed)
        if feed is None or feed.broken:
            if now_s < lane.retry_s:
                return
            await self._restart(lane)
            feed = lane.feed
        try:
            while feed is not None and lane.wants_pull:
                await feed.pull(self._connection)
        except LedgerError as error:
            feed.fail(error.code)

    def _count_silence(self) -> None:
        for lane in self._lanes.values():
            feed = lane.feed
            if feed is not None and feed.open:
                feed.silent += 1
                if feed.silent > limits.PULL_SILENCE:
                    feed.fail("silence")

    def _drop(self, lane: _Lane, feed: _Feed) -> None:
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

    async def _restart(self, lane: _Lane) -> None:
        """Replace a lane's consumer by one that starts after the last message taken in."""
        old, feed = lane.feed, _Feed(lane, f"tact-{self._ids.next().decode()}")
        try:
            if old is not None:
                lane.feed = None
                await old.stop(self._connection)
            await self._check_end(lane)
            lane.feed = feed  # before the first message
            lane.started(await feed.start(self._connection, self._config(lane)))
        except LedgerCorrupt as error:
            self._failure = error
        except LedgerError as error:
            feed.fail(error.code)
            self._look_again(lane)

    def _look_again(self, lane: _Lane) -> None:
        """The server is away or refuses: try again after a growing wait."""
        lane.tries += 1
        loop = asyncio.get_running_loop()
        lane.retry_s = loop.time() + backoff_ms(lane.tries, self._chance) / 1000
        loop.call_at(lane.retry_s, self._look.set)

    async def _check_end(self, lane: _Lane) -> None:
        info = await self._connection.api(f"STREAM.INFO.{INTAKE}")
        end = info["state"]["last_seq"]
        if end < lane.last:
            raise LedgerCorrupt(
                f"INTAKE ends at {end}, but messages up to {lane.last} of lane {lane.name} have "
                "been decided: it was replaced or restored from an older copy, and what comes now "
                "would be taken for already decided; restore both streams from one copy",
                lane=lane.name,
            )

    def _config(self, lane: _Lane) -> dict[str, Any]:
        owned: Iterable[int | str] = self._owned
        if len(self._owned) == self._partitions:
            owned = ("*",)
        return {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": lane.last + 1,
            "filter_subjects": [intake_subject(partition, lane.name) for partition in owned],
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": limits.CONSUMER_INACTIVE_S * _NS,
        }

    async def _stop(self) -> None:
        if self._task is not None:
            while not self._task.done():  # nats-py may swallow a cancellation
                self._task.cancel()
                await asyncio.wait([self._task], timeout=1)
            self._task = None
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            feed, lane.feed = lane.feed, None
            if feed is not None:
                with contextlib.suppress(LedgerError):  # the server drops it by itself
                    await feed.stop(self._connection)
        self._arrived.clear()

    def _any_buffered(self) -> bool:
        return any(map(len, self._lanes.values()))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is not None and self._task.done():
            self._task.result()  # a bug: raise it where it is seen
