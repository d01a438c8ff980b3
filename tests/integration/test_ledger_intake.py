"""The intake reader against a real server: in order, without gaps, bounded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

import pytest

from hub import limits
from hub.contract.subjects import LANES, partition_of, publish_subject
from hub.ledger.connection import Connection
from hub.ledger.intake import StreamReader, ack_tokens
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.port import IntakeMessage, LedgerCorrupt
from hub.ledger.streams import INTAKE, provision
from tests.support.ledger import SMALL, NatsServer, connected, eventually, nats_server

pytestmark = pytest.mark.nats

PARTITIONS = 4


@pytest.fixture
async def server(tmp_path):
    async with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer):
    async with connected(server) as connection:
        await provision(connection, partitions=PARTITIONS, sizes=SMALL)
        yield connection


@pytest.fixture
async def reader(connection: Connection):
    reader = JetStreamLedger(connection, PARTITIONS).reader()
    yield reader
    await reader.close()


def start(*partitions: int) -> dict[int, dict[str, int]]:
    return {partition: {} for partition in partitions or range(PARTITIONS)}


async def put(connection: Connection, lane: str, key: str, body: bytes = b"{}") -> int:
    ledger = JetStreamLedger(connection, PARTITIONS)
    return (await ledger.publish(publish_subject(lane, "shop", key), body)).sequence


async def put_many(connection: Connection, count: int, body: bytes = b"{}") -> None:
    """Stored, in order, on lane normal with keys of all partitions."""
    for first in range(0, count, 200):
        numbers = range(first, min(first + 200, count))
        await asyncio.gather(*(put(connection, "normal", f"c{n}", body) for n in numbers))


async def take_all(reader: StreamReader, lane: str, count: int) -> list[IntakeMessage]:
    """Exactly `count` messages, however long they take within a bound."""
    taken: list[IntakeMessage] = []
    while len(taken) < count:
        await eventually(lambda: reader.buffered(lane), within_s=20)
        taken += reader.take(lane, min(50, count - len(taken)))
    return taken


def sequences(messages: Sequence[IntakeMessage]) -> list[int]:
    return [message.sequence for message in messages]


async def nothing_follows(reader: StreamReader, lane: str) -> None:
    await eventually(lambda: reader.pending(lane) == reader.buffered(lane))
    assert reader.take(lane, 1) == []


# ---- order and positions -------------------------------------------------------------------------


async def test_each_lane_in_order_with_all_that_a_message_is(connection, reader):
    chance = random.Random(3)
    expected: Mapping[str, list[tuple[int, str, int]]] = {lane: [] for lane in LANES}
    for number in range(120):
        lane, key = chance.choice(LANES), f"c{chance.randrange(50)}"
        sequence = await put(connection, lane, key, str(number).encode())
        expected[lane].append((sequence, str(number), partition_of(key, PARTITIONS)))
    await reader.open(start())
    for lane in LANES:
        taken = await take_all(reader, lane, len(expected[lane]))
        assert [(m.sequence, m.payload.decode(), m.partition) for m in taken] == expected[lane]
        assert {(m.lane, m.source, m.packed) for m in taken} == {(lane, "shop", False)}
        assert all(abs(m.stored_ms - taken[0].stored_ms) < 60_000 for m in taken)
        await nothing_follows(reader, lane)


async def test_only_owned_partitions_and_only_after_their_positions(connection, reader):
    for number in range(60):
        await put(connection, "normal", f"c{number}")
    by_partition: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
    for number in range(60):
        by_partition[partition_of(f"c{number}", PARTITIONS)].append(number + 1)
    positions = {1: {"normal": by_partition[1][4]}, 3: {"normal": by_partition[3][9]}}
    await reader.open(positions)
    expected = sorted(by_partition[1][5:] + by_partition[3][10:])
    assert sequences(await take_all(reader, "normal", len(expected))) == expected
    await nothing_follows(reader, "normal")


async def test_reopening_forgets_and_starts_at_the_new_positions(connection, reader):
    await put_many(connection, 100)
    await reader.open(start())
    await take_all(reader, "normal", 40)
    await reader.open({p: {"normal": 25} for p in range(PARTITIONS)})
    assert sequences(await take_all(reader, "normal", 75)) == list(range(26, 101))
    await reader.open({})
    assert reader.take("normal", 10) == []
    assert reader.buffered("normal") == reader.pending("normal") == 0
    assert not await reader.wait(0.01)


async def test_messagepack_is_marked(connection, reader):
    ledger = JetStreamLedger(connection, PARTITIONS)
    subject = publish_subject("normal", "shop", "c1")
    await ledger.publish(subject, b"\x80", headers={"Content-Type": "application/msgpack"})
    await ledger.publish(subject, b"{}", headers={"Content-Type": "application/json"})
    await reader.open(start())
    assert [m.packed for m in await take_all(reader, "normal", 2)] == [True, False]


async def test_a_new_message_comes_at_once_after_idleness(connection, reader):
    await reader.open(start())
    assert not await reader.wait(0.2)
    waiting = asyncio.create_task(reader.wait(30))
    await put(connection, "urgent", "c1")
    async with asyncio.timeout(1):
        assert await waiting
    assert len(reader.take("urgent", 10)) == 1


async def test_lag_is_what_is_stored_after_a_position(connection):
    for number in range(60):
        await put(connection, "bulk", f"c{number}")
    of_two = [n + 1 for n in range(60) if partition_of(f"c{n}", PARTITIONS) == 2]
    ledger = JetStreamLedger(connection, PARTITIONS)
    lag = await ledger.lag({2: {"bulk": of_two[2], "urgent": 0}, 3: {"bulk": 60}})
    assert lag == {(2, "bulk"): len(of_two) - 3, (2, "urgent"): 0, (3, "bulk"): 0}


# ---- bounds --------------------------------------------------------------------------------------


async def settled(reader: StreamReader, lane: str) -> int:
    """How much is buffered once no more comes."""
    before = -1
    while before != reader.buffered(lane):
        before = reader.buffered(lane)
        await asyncio.sleep(0.2)
    return before


async def test_no_more_messages_are_buffered_than_allowed(connection, reader, monkeypatch):
    monkeypatch.setattr(limits, "READ_AHEAD_MESSAGES", 200)
    monkeypatch.setattr(limits, "PULL_BATCH", 50)
    await put_many(connection, 700)
    await reader.open(start())
    assert 100 <= await settled(reader, "normal") <= 200
    assert reader.pending("normal") == 700
    assert sequences(await take_all(reader, "normal", 700)) == list(range(1, 701))
    assert not reader.restarts


async def test_no_more_bytes_are_buffered_than_allowed(connection, reader):
    body = b"x" * 900_000
    for _ in range(30):
        await put(connection, "normal", "c1", body)
    await reader.open(start())
    buffered = await settled(reader, "normal")
    assert 4 <= buffered <= limits.READ_AHEAD_BYTES // len(body)
    assert sequences(await take_all(reader, "normal", 30)) == list(range(1, 31))
    assert not reader.restarts


# ---- what goes wrong -----------------------------------------------------------------------------


async def test_a_killed_server_costs_nothing_but_time(server, connection, reader):
    await put_many(connection, 1_000)
    await reader.open(start())
    taken = await take_all(reader, "normal", 300)
    await server.kill()
    await server.start()
    await eventually(lambda: connection.connected)
    await put_many(connection, 200)
    taken += await take_all(reader, "normal", 900)
    assert sequences(taken) == list(range(1, 1_201))
    assert reader.restarts["reconnect"] >= 1


async def test_a_lost_message_is_noticed_and_read_again(connection, reader, monkeypatch):
    await put_many(connection, 300)
    lose = {40, 41, 200}

    real_tokens = ack_tokens

    def tokens(reply: bytes) -> tuple[int, int, int, int]:
        sequence, number, stored_ns, pending = real_tokens(reply)
        if sequence in lose:  # as if this one had never come: the next has a number too many
            lose.discard(sequence)
            number = -1
        return sequence, number, stored_ns, pending

    monkeypatch.setattr("hub.ledger.lanes.ack_tokens", tokens)
    await reader.open(start())
    assert sequences(await take_all(reader, "normal", 300)) == list(range(1, 301))
    assert reader.restarts == {"gap": 3}


async def test_a_deleted_consumer_is_made_anew(connection, reader):
    await put_many(connection, 50)
    await reader.open(start())
    taken = await take_all(reader, "normal", 20)
    names = (await connection.api(f"CONSUMER.NAMES.{INTAKE}"))["consumers"]
    assert len(names) == len(LANES)
    for name in names:
        await connection.api(f"CONSUMER.DELETE.{INTAKE}.{name}")
    await eventually(lambda: sum(reader.restarts.values()) >= len(LANES))
    await put_many(connection, 50)
    taken += await take_all(reader, "normal", 80)
    assert sequences(taken) == list(range(1, 101))


async def test_a_consumer_lost_in_silence_is_replaced(connection, reader, monkeypatch):
    """No status, no message: only the missing heartbeats tell."""
    monkeypatch.setattr(limits, "PULL_HEARTBEAT_S", 0.1)
    monkeypatch.setattr(limits, "PULL_EXPIRES_S", 1)
    await reader.open(start())
    await put(connection, "normal", "c1")
    await take_all(reader, "normal", 1)
    feed = reader._lanes["normal"].feed
    assert feed is not None
    feed._wire.unsubscribe(feed._sid)
    await put(connection, "normal", "c1")
    assert sequences(await take_all(reader, "normal", 1)) == [2]
    assert reader.restarts["silence"] == 1


async def test_requests_are_renewed_when_they_expire(connection, reader, monkeypatch):
    monkeypatch.setattr(limits, "PULL_HEARTBEAT_S", 0.05)
    monkeypatch.setattr(limits, "PULL_EXPIRES_S", 0.1)
    await reader.open(start())
    assert not await reader.wait(1)
    await put(connection, "normal", "c1")
    await take_all(reader, "normal", 1)
    assert not reader.restarts


async def test_opening_while_the_server_is_away_waits_for_it(server, connection, reader):
    await put_many(connection, 10)
    await server.kill()
    await eventually(lambda: not connection.connected)
    await reader.open(start())
    assert not await reader.wait(0.05)
    await server.start()
    assert sequences(await take_all(reader, "normal", 10)) == list(range(1, 11))


async def test_an_intake_that_ends_before_a_position_is_refused(connection, reader):
    await put_many(connection, 10)
    with pytest.raises(LedgerCorrupt, match="INTAKE ends at 10"):
        await reader.open({0: {"normal": 11}, 1: {"normal": 11}})


async def test_closing_leaves_no_consumer_behind(connection, reader):
    await reader.open(start())
    await reader.close()

    async def all_gone() -> bool:
        return (await connection.api(f"CONSUMER.NAMES.{INTAKE}"))["total"] == 0

    await eventually(all_gone)


# ---- pure ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.INTAKE.name.1.7.3.1790000000000000000.12",
        "$JS.ACK.hub.ACCOUNT.INTAKE.name.1.7.3.1790000000000000000.12",
        "$JS.ACK.hub.ACCOUNT.INTAKE.name.1.7.3.1790000000000000000.12.random",
    ],
)
def test_ack_subjects_of_both_forms(reply):
    assert ack_tokens(reply) == (7, 3, 1_790_000_000_000_000_000, 12)


def test_what_is_no_ack_subject_is_an_error():
    with pytest.raises(ValueError, match="3 tokens"):
        ack_tokens("_INBOX.a.b")
