"""Reading both streams whole, as the records that `hub.checkers` judge a run by.

Not for production histories: everything is held in memory, and INTAKE must still be whole. So run
what is to be audited with a replay horizon that keeps the janitor off it, or without a janitor.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.msg import Msg
from nats.nuid import NUID

from hub import limits
from hub.checkers import Handed, Published, Shown, Told
from hub.clock import SystemClock
from hub.contract.decode import MSGPACK, decode
from hub.contract.subjects import LANES, intake_subject, log_subject
from hub.contract.types import Delivery, LiveMessage, Outcome
from hub.ledger.connection import Connection, connect
from hub.ledger.intake import ack_tokens
from hub.ledger.port import LedgerError, LedgerUnavailable, LogRecord
from hub.ledger.reading import last_message
from hub.ledger.streams import INTAKE, LEDGER

_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_OUTCOMES: Final = "hub.outcome."
_DELIVERIES: Final = "hub.out."
_FEEDS: Final = "hub.live.>"

_one_outcome = msgspec.json.Decoder(Outcome).decode
_many_outcomes = msgspec.json.Decoder(list[Outcome]).decode
_one_delivery = msgspec.json.Decoder(Delivery).decode
_many_deliveries = msgspec.json.Decoder(list[Delivery]).decode
_one_said = msgspec.json.Decoder(LiveMessage).decode
_many_said = msgspec.json.Decoder(list[LiveMessage]).decode
_log_record = msgspec.msgpack.Decoder(LogRecord).decode


class NotWhole(LedgerError):
    """A stream no longer holds everything, or holds more than may be read into memory."""

    code = "not-whole"


class Streams(NamedTuple):
    """Both streams, in stream order."""

    published: list[Published]
    outcomes: list[Told]
    deliveries: list[Handed]


async def read_streams(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    most: int = limits.AUDIT_MESSAGES,
) -> Streams:
    """Everything published and everything decided, as of now, of the hub at `url`.

    Needs the hub's own login. `most` bounds the messages of each stream. Raises NotWhole when
    INTAKE was purged or there are more, LedgerUnavailable when the connection breaks.
    """
    connection = await connect(
        url, name="tact-audit", clock=SystemClock(), user=user, password=password
    )
    try:
        return await read_all(connection, most)
    finally:
        await connection.close()


async def read_all(connection: Connection, most: int = limits.AUDIT_MESSAGES) -> Streams:
    """Like `read_streams`, over a connection that is there already."""
    state = (await connection.api(f"STREAM.INFO.{INTAKE}"))["state"]
    if state["first_seq"] > 1:
        raise NotWhole(
            f"INTAKE begins at sequence {state['first_seq']}: the janitor has purged it; "
            "run what is to be audited with a longer replay horizon"
        )
    # Up to the end of one batch, for a delivery is only right beside its outcome. INTAKE is read
    # last: what is said of an intent must have been published before.
    last = int((await connection.api(f"STREAM.INFO.{LEDGER}"))["state"]["last_seq"])
    records = _Records(last)
    ledger = [f"{_OUTCOMES}>", f"{_DELIVERIES}>"]
    with _without_collecting():
        await _read(connection, LEDGER, ledger, most, records.take_decided)
        await _read(connection, INTAKE, [intake_subject("*", "*")], most, records.take_published)
    return records.streams


async def read_feeds(connection: Connection, most: int = limits.AUDIT_MESSAGES) -> list[Shown]:
    """All live feeds, for `hub.checkers.History`: read after `read_all`, with nothing under way.

    Raises NotWhole when there are more than `most` messages.
    """
    found: list[Shown] = []

    def take(message: Msg, sequence: int, stored_ms: float) -> None:
        payload = message.data
        array = payload[:1] == b"["
        said = _many_said(payload) if array else [_one_said(payload)]
        found.extend(Shown(sequence, each, index) for index, each in enumerate(said))

    await _read(connection, LEDGER, [_FEEDS], most, take)
    return found


class _Records:
    """What is read, as records."""

    def __init__(self, last: int) -> None:
        self.streams = Streams([], [], [])
        self._last = last

    def take_decided(self, message: Msg, sequence: int, stored_ms: float) -> None:
        if sequence > self._last:
            return
        payload = message.data
        array = payload[:1] == b"["
        if message.subject.startswith(_OUTCOMES):
            outcomes = _many_outcomes(payload) if array else [_one_outcome(payload)]
            self.streams.outcomes.extend(
                Told(sequence, stored_ms, outcome, index) for index, outcome in enumerate(outcomes)
            )
        else:
            deliveries = _many_deliveries(payload) if array else [_one_delivery(payload)]
            self.streams.deliveries.extend(
                Handed(sequence, stored_ms, delivery, index)
                for index, delivery in enumerate(deliveries)
            )

    def take_published(self, message: Msg, sequence: int, stored_ms: float) -> None:
        _, _, _, lane, source = message.subject.split(".", 4)
        packed = (message.headers or {}).get("Content-Type") == MSGPACK
        self.streams.published.extend(
            Published(lane, source, sequence, stored_ms, found, index)
            for index, found in enumerate(decode(lane, source, message.data, packed))
        )


async def undecided(connection: Connection, partitions: int) -> int:
    """How many (partition, lane) hold something that is not decided yet: 0 when all is."""

    async def of_partition(number: int) -> int:
        record = await last_message(connection, LEDGER, log_subject(number))
        checkpoint = {} if record is None else _log_record(record.payload).checkpoint
        behind = 0
        for lane in LANES:
            newest = await last_message(connection, INTAKE, intake_subject(number, lane))
            behind += newest is not None and newest.sequence > checkpoint.get(lane, 0)
        return behind

    return sum(await asyncio.gather(*map(of_partition, range(partitions))))


Take = Callable[[Msg, int, float], None]


async def _read(
    connection: Connection, stream: str, subjects: list[str], most: int, take: Take
) -> None:
    """Every message of some subjects that is stored now, in order, each given to `take` once."""
    name = "tact-audit-" + NUID().next().decode()
    config = {
        "name": name,
        "filter_subjects": subjects,
        "deliver_policy": "all",
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": limits.CONSUMER_INACTIVE_S * _NS,
    }
    made = await connection.api(
        f"CONSUMER.CREATE.{stream}.{name}",
        {"stream_name": stream, "action": "create", "config": config},
    )
    count = int(made.get("num_pending", 0))
    if count > most:
        raise NotWhole(f"{stream} holds {count} messages, at most {most} are read")
    feed = _Feed(connection, stream, name, count, take)
    try:
        await feed.run()
    finally:
        if connection.connected:
            await connection.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"")


class _Feed:
    """One consumer read from its first message to its last, with two requests under way."""

    def __init__(
        self, connection: Connection, stream: str, name: str, count: int, take: Take
    ) -> None:
        self._connection = connection
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        self._inbox = connection.client.new_inbox()
        self._count = count
        self._take = take
        self._got = 0
        self._asked = 0
        self._moved = asyncio.Event()
        self._problem: Exception | None = None

    async def run(self) -> None:
        subscription = await self._connection.subscribe(self._inbox, self._on_message)
        try:
            while self._got < self._count:
                while self._asked < min(self._count, self._got + 2 * limits.AUDIT_PULL):
                    await self._ask()
                self._moved.clear()
                async with asyncio.timeout(limits.COMMIT_TIMEOUT_S):
                    await self._moved.wait()
                if self._problem is not None:
                    raise self._problem
        except TimeoutError as error:
            raise LedgerUnavailable("reading a stream: no message for too long") from error
        finally:
            if not self._connection.closed:
                await subscription.unsubscribe()

    async def _ask(self) -> None:
        batch = min(limits.AUDIT_PULL, self._count - self._asked)
        self._asked += batch
        request: dict[str, Any] = {"batch": batch, "expires": int(limits.COMMIT_TIMEOUT_S * _NS)}
        await self._connection.publish(self._next, msgspec.json.encode(request), self._inbox)

    async def _on_message(self, message: Msg) -> None:
        if message.headers is not None and "Status" in message.headers:
            status = message.headers["Status"]
            self._problem = LedgerUnavailable(f"reading a stream: the server said {status}")
            self._moved.set()
            return
        sequence, number, stored_ns, _ = ack_tokens(message.reply)
        self._got += 1
        if number != self._got:
            self._problem = LedgerUnavailable("reading a stream: messages are missing, try again")
        else:
            self._take(message, sequence, stored_ns / _NS_PER_MS)
        if self._got % limits.AUDIT_PULL == 0 or self._got >= self._count:
            self._moved.set()


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Hundreds of thousands of objects that all stay: looking for garbage among them costs more
    than reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
