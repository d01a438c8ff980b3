"""Claims, snapshots and replay against a real server."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from hub import limits
from hub.contract.subjects import log_subject, snapshot_subject
from hub.ledger.connection import Connection
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.port import (
    KNOCK,
    LOG_VERSION,
    Entry,
    FenceLost,
    LedgerCorrupt,
    LedgerUnavailable,
    LogRecord,
    PartitionImage,
)
from hub.ledger.reading import read_subject
from hub.ledger.recovery import Recovery
from hub.ledger.streams import LEDGER, SNAPSHOTS, provision
from tests.support.ledger import (
    SMALL,
    NatsServer,
    commit_one,
    connected,
    eventually,
    log_records,
    nats_server,
    outcomes,
)

pytestmark = pytest.mark.nats


@pytest.fixture
async def server(tmp_path):
    async with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer):
    async with connected(server) as connection:
        await provision(connection, partitions=4, sizes=SMALL)
        yield connection


@pytest.fixture
def ledger(connection: Connection) -> JetStreamLedger:
    return JetStreamLedger(connection, 4)


async def work(
    ledger: JetStreamLedger, image: PartitionImage, commits: int, chance: random.Random
) -> None:
    """Random changes: keys set, set again and removed, checkpoints moving."""
    for number in range(commits):
        states: dict[str, bytes | None] = {}
        for _ in range(chance.randrange(1, 6)):
            key = f"c{chance.randrange(30)}"
            states[key] = None if chance.random() < 0.2 else chance.randbytes(40)
        image.at_ms += 1
        checkpoint = {"normal": image.checkpoint.get("normal", 0) + 3}
        await commit_one(ledger, image, f"e{image.epoch}-{number}", states, checkpoint)


async def take_snapshot(ledger: JetStreamLedger, image: PartitionImage) -> None:
    await ledger.snapshot(
        image.partition, image.fence, image.at_ms, image.checkpoint, image.states, image.epoch
    )


async def snapshot_parts(connection: Connection) -> set[str]:
    """The last subject token of everything stored in SNAPSHOTS for partition 1."""
    subject = snapshot_subject(1, "*")
    return {
        message.subject.rsplit(".", 1)[1]
        async for message in read_subject(connection, SNAPSHOTS, subject, 1_000)
    }


def same(one: PartitionImage, other: PartitionImage) -> bool:
    return (one.states, one.checkpoint) == (other.states, other.checkpoint)


# ---- claims --------------------------------------------------------------------------------------


async def test_the_first_claim_is_epoch_one_of_nothing(connection, ledger):
    image = await ledger.claim(1, "host", 5_000)
    assert image == PartitionImage(1, epoch=1, fence=1, at_ms=5_000)
    [(sequence, record)] = await log_records(connection, 1)
    assert (sequence, record.epoch, record.previous, record.states) == (1, 1, 0, {})
    assert record.commit_id.startswith("host/")


async def test_a_claim_replays_the_log(ledger):
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 25, random.Random(1))
    image.at_ms = 9_000
    await commit_one(ledger, image, "last", {"x": b"y"}, image.checkpoint)
    claimed = await ledger.claim(1, "next", 7_000)
    assert same(claimed, image)
    assert claimed.at_ms == 9_000  # not back to the claim's time
    assert claimed.epoch == 2
    assert claimed.fence > image.fence
    assert claimed.log_bytes > 25 * 40
    await commit_one(ledger, claimed, "on", {"x": None})


async def test_claims_at_the_same_moment_leave_one_owner(connection, ledger):
    ledgers = [JetStreamLedger(connection, 4) for _ in range(6)]
    results = await asyncio.gather(
        *(one.claim(1, f"host{index}", 1_000) for index, one in enumerate(ledgers)),
        return_exceptions=True,
    )
    images = [result for result in results if isinstance(result, PartitionImage)]
    assert images
    assert all(isinstance(r, FenceLost) for r in results if not isinstance(r, PartitionImage))
    newest = max(images, key=lambda image: image.epoch)
    records = await log_records(connection, 1)
    assert [record.epoch for _, record in records] == list(range(1, len(images) + 1))
    for image in images:
        if image is newest:
            await commit_one(ledger, image, "mine")
        else:
            with pytest.raises(FenceLost):
                await commit_one(ledger, image, "not mine")
    assert await outcomes(connection) == ["mine"]


async def test_a_claim_catches_up_with_an_owner_that_goes_on_committing(connection, ledger):
    old = await ledger.claim(1, "old", 1_000)
    committed = 0

    async def commit_on() -> None:
        nonlocal committed
        while True:
            await commit_one(ledger, old, f"c{committed}", {f"k{committed}": b"v"})
            committed += 1

    commits = asyncio.create_task(commit_on())
    await eventually(lambda: committed >= 5)
    new = await JetStreamLedger(connection, 4).claim(1, "new", 2_000)
    with pytest.raises(FenceLost):
        await commits
    assert set(new.states) == {f"k{number}" for number in range(committed)}
    assert await outcomes(connection) == [f"c{number}" for number in range(committed)]
    await commit_one(ledger, new, "on", {"x": b"y"})
    assert same(await ledger.claim(1, "next", 3_000), new)  # over the knock, if there was one
    await take_snapshot(ledger, new)
    assert same(await ledger.claim(1, "last", 4_000), new)


async def test_a_claim_that_died_after_its_knock_is_made_up_for(connection, ledger):
    image = await ledger.claim(1, "host", 1_000)
    await work(ledger, image, 3, random.Random(1))
    knock = LogRecord(LOG_VERSION, "dead/1", image.epoch, KNOCK, 0, "", {}, {})
    for _ in range(2):
        await ledger.publish(log_subject(1), msgspec.msgpack.encode(knock))
    with pytest.raises(FenceLost):
        await commit_one(ledger, image, "late")
    claimed = await ledger.claim(1, "next", 2_000)
    assert same(claimed, image)
    assert claimed.epoch == image.epoch + 1
    await work(ledger, claimed, 3, random.Random(2))
    assert same(await ledger.claim(1, "last", 3_000), claimed)


async def test_a_claim_waits_for_a_server_that_is_away(server, connection, ledger):
    image = await ledger.claim(1, "host", 1_000)
    await work(ledger, image, 3, random.Random(2))
    await server.kill()
    claim = asyncio.create_task(ledger.claim(1, "next", 2_000))
    await eventually(lambda: not connection.connected)
    assert not claim.done()
    await server.start()
    assert same(await claim, image)


# ---- snapshots -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_snapshot_and_log_together_are_the_state(connection, ledger, monkeypatch, seed):
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 300)
    chance = random.Random(seed)
    image = await ledger.claim(1, "host", 5_000)
    for _ in range(4):
        await work(ledger, image, chance.randrange(8), chance)
        if chance.random() < 0.6:
            await take_snapshot(ledger, image)
        if chance.random() < 0.6:
            claimed = await ledger.claim(1, "next", image.at_ms)
            assert same(claimed, image)
            image = claimed
    assert same(await ledger.claim(1, "last", image.at_ms), image)


async def test_a_snapshot_frees_the_log_and_older_snapshots(connection, ledger, monkeypatch):
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 300)
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 20, random.Random(4))
    await take_snapshot(ledger, image)
    assert [sequence for sequence, _ in await log_records(connection, 1)] == [image.fence]
    first = await snapshot_parts(connection)
    assert len(first) > 3
    await work(ledger, image, 20, random.Random(5))
    await take_snapshot(ledger, image)
    second = await snapshot_parts(connection)
    assert first & second == {"head"}
    assert len(second) > 3
    assert (await ledger.claim(1, "next", 6_000)).log_bytes == 0


async def test_an_empty_partition_has_a_snapshot_too(connection, ledger):
    image = await ledger.claim(1, "host", 5_000)
    await take_snapshot(ledger, image)
    assert await snapshot_parts(connection) == {"head"}
    assert same(await ledger.claim(1, "next", 5_000), image)


async def test_a_replaced_owner_cannot_overwrite_a_newer_snapshot(connection, ledger):
    zombie = await ledger.claim(1, "zombie", 5_000)
    await work(ledger, zombie, 5, random.Random(6))
    owner = await ledger.claim(1, "owner", 6_000)
    await work(ledger, owner, 5, random.Random(7))
    await take_snapshot(ledger, owner)
    with pytest.raises(FenceLost) as caught:
        await take_snapshot(ledger, zombie)
    assert caught.value.partitions == (1,)
    assert same(await ledger.claim(1, "next", 7_000), owner)


async def test_a_replaced_owner_that_already_read_the_head_is_refused(
    connection, ledger, monkeypatch
):
    """The newer snapshot comes between reading the old head and writing over it."""
    zombie = await ledger.claim(1, "zombie", 5_000)
    await work(ledger, zombie, 5, random.Random(6))
    owner = await ledger.claim(1, "owner", 6_000)
    await work(ledger, owner, 5, random.Random(7))
    write_head = Recovery._write_head

    async def between(self: Recovery, *args: object) -> int:
        monkeypatch.undo()
        await take_snapshot(ledger, owner)
        return await write_head(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Recovery, "_write_head", between)
    with pytest.raises(FenceLost):
        await take_snapshot(ledger, zombie)
    assert same(await ledger.claim(1, "next", 7_000), owner)


async def test_a_zombies_older_snapshot_harms_nobody(connection, ledger):
    """It is true as of its fence: the new owner's records follow it."""
    zombie = await ledger.claim(1, "zombie", 5_000)
    await work(ledger, zombie, 5, random.Random(6))
    owner = await ledger.claim(1, "owner", 6_000)
    await work(ledger, owner, 5, random.Random(7))
    await take_snapshot(ledger, zombie)
    assert same(await ledger.claim(1, "next", 7_000), owner)
    await take_snapshot(ledger, owner)
    assert same(await ledger.claim(1, "last", 8_000), owner)


async def test_a_snapshot_that_purges_under_a_claim_makes_it_start_over(
    connection, ledger, monkeypatch
):
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 10, random.Random(8))
    replay, replays = Recovery._replay, 0

    async def after_purge(self: Recovery, loading: PartitionImage) -> int:
        nonlocal replays
        replays += 1
        if replays == 1:  # the claim has seen no snapshot, and now the log's start goes
            await take_snapshot(ledger, image)
        return await replay(self, loading)

    monkeypatch.setattr(Recovery, "_replay", after_purge)
    assert same(await ledger.claim(1, "next", 5_000), image)
    assert replays == 2


# ---- damage --------------------------------------------------------------------------------------


async def delete(connection: Connection, stream: str, sequence: int) -> None:
    await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})


async def test_a_hole_in_the_log_is_never_skipped(connection, ledger):
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 6, random.Random(9))
    await delete(connection, LEDGER, (await log_records(connection, 1))[3][0])
    with pytest.raises(LedgerCorrupt, match="hole in the log of partition 1"):
        await ledger.claim(1, "next", 6_000)


async def test_a_missing_chunk_is_never_skipped(connection, ledger, monkeypatch):
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 300)
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 10, random.Random(9))
    await take_snapshot(ledger, image)
    await delete(connection, SNAPSHOTS, 2)
    with pytest.raises(LedgerCorrupt, match="missing from the snapshot of partition 1"):
        await ledger.claim(1, "next", 6_000)


async def test_a_damaged_chunk_is_never_taken(connection, ledger):
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 10, random.Random(9))
    await take_snapshot(ledger, image)
    name = next(part for part in await snapshot_parts(connection) if part != "head")
    changed = msgspec.msgpack.encode(dict.fromkeys(image.states, b"other"))
    await ledger.publish(snapshot_subject(1, name), changed)
    with pytest.raises(LedgerCorrupt, match="damaged"):
        await ledger.claim(1, "next", 6_000)


async def test_a_ledger_older_than_its_snapshots_is_refused(connection, ledger):
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 10, random.Random(9))
    await take_snapshot(ledger, image)
    await connection.api(f"STREAM.PURGE.{LEDGER}", {"filter": log_subject(1)})
    with pytest.raises(LedgerCorrupt, match="LEDGER is older than SNAPSHOTS"):
        await ledger.claim(1, "next", 6_000)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (msgspec.msgpack.encode(LogRecord(99, "c", 1, 0, 0, "", {}, {})), "version 99"),
        (b"\xc1 not MessagePack", "is not a log record"),
        (msgspec.msgpack.encode([1, "c"]), "is not a log record"),
    ],
)
async def test_records_we_cannot_have_written_are_refused(ledger, payload, says):
    await ledger.publish(log_subject(1), payload)
    with pytest.raises(LedgerCorrupt, match=says):
        await ledger.claim(1, "host", 1_000)


async def test_a_lagging_replica_is_asked_again(ledger, monkeypatch):
    """A direct get that misses the newest records is no proof that they do not exist."""
    image = await ledger.claim(1, "host", 5_000)
    await work(ledger, image, 6, random.Random(10))
    asked = 0

    async def lagging(connection, stream, subject, most, *, after=0):
        nonlocal asked
        asked += 1
        async for message in read_subject(connection, stream, subject, most, after=after):
            if asked == 1 and message.sequence == image.fence:
                return
            yield message

    monkeypatch.setattr("hub.ledger.recovery.read_subject", lagging)
    assert same(await ledger.claim(1, "next", 5_000), image)
    assert asked == 2


async def test_a_claim_gives_up_after_the_bound(server, connection, ledger, monkeypatch):
    monkeypatch.setattr(limits, "COMMIT_RETRIES", 3)
    await server.kill()
    await eventually(lambda: not connection.connected)
    with pytest.raises(LedgerUnavailable):
        await ledger.claim(1, "host", 1_000)


# ---- bodies --------------------------------------------------------------------------------------


async def test_bodies_by_name_without_those_that_are_gone(connection, ledger, monkeypatch):
    monkeypatch.setattr(limits, "BODY_FETCH_SUBJECTS", 16)
    image = await ledger.claim(1, "host", 1_000)
    entries = [Entry(f"hub.parked.1.b{n}", b"%d" % n * 100) for n in range(60)]
    record = LogRecord(1, "c1", image.epoch, image.fence, 0, "", {}, {})
    entries.append(Entry(log_subject(1), msgspec.msgpack.encode(record), expected=image.fence))
    await ledger.commit("c1", entries, {1: image.fence})
    found = await ledger.bodies(1, [f"b{n}" for n in range(0, 80, 2)])
    assert found == {f"b{n}": b"%d" % n * 100 for n in range(0, 60, 2)}
    assert await ledger.bodies(2, ["b1"]) == {}
    assert await ledger.bodies(1, []) == {}
