"""The atomic batch against a real server: all or nothing, whatever happens to the reply."""

from __future__ import annotations

import asyncio
import random

import pytest

from hub import limits
from hub.contract.subjects import log_subject, outcome_subject
from hub.ledger.commit import BatchWriter, Fence, ReadBack
from hub.ledger.connection import Connection
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.port import Entry, FenceLost, LedgerFull, LedgerUnavailable, ServerRefused
from hub.ledger.reading import read_subject
from hub.ledger.streams import LEDGER, StreamSizes, provision
from tests.support.ledger import (
    SMALL,
    NatsServer,
    Wire,
    commit_one,
    connected,
    eventually,
    last_sequence,
    log_entry,
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


async def no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)


# ---- all or nothing ------------------------------------------------------------------------------


async def test_a_batch_is_stored_whole_and_contiguously(connection, ledger):
    one, two = [await ledger.claim(number, "host", 1_000) for number in (1, 2)]
    entries = [Entry(outcome_subject("shop"), str(i).encode(), ttl_s=60) for i in range(150)]
    entries += [log_entry(one, "c1"), log_entry(two, "c1")]
    last = await ledger.commit("c1", entries, {1: one.fence, 2: two.fence})
    stored = [m async for m in read_subject(connection, LEDGER, ">", 1_000, after=two.fence)]
    assert [m.sequence for m in stored] == list(range(last - len(entries) + 1, last + 1))
    assert [(m.subject, m.payload) for m in stored] == [(e.subject, e.payload) for e in entries]
    assert ledger.replies == {"ack": 3}


async def test_a_stale_fence_refuses_everything_and_is_named_alone(connection, ledger):
    images = [await ledger.claim(number, "host", 1_000) for number in (0, 1, 2)]
    await ledger.claim(1, "other", 2_000)
    before = await last_sequence(connection, LEDGER)
    entries = [Entry(outcome_subject("shop"), b"never", ttl_s=60)]
    entries += [log_entry(image, "c1") for image in images]
    with pytest.raises(FenceLost) as caught:
        await ledger.commit("c1", entries, {image.partition: image.fence for image in images})
    assert caught.value.partitions == (1,)
    assert await last_sequence(connection, LEDGER) == before
    # What is left can be committed again.
    kept = [images[0], images[2]]
    entries = [log_entry(image, "c2") for image in kept]
    await ledger.commit("c2", entries, {image.partition: image.fence for image in kept})


async def test_ttl_reaches_the_stream(connection, ledger):
    image = await ledger.claim(0, "host", 1_000)
    entries = [Entry(outcome_subject("shop"), b"short", ttl_s=1), log_entry(image, "c1")]
    await ledger.commit("c1", entries, {0: image.fence})
    assert await outcomes(connection) == ["short"]

    async def gone() -> bool:
        return await outcomes(connection) == []

    await eventually(gone)
    assert len(await log_records(connection, 0)) == 2


async def test_programming_errors_are_asserted(ledger):
    image = await ledger.claim(0, "host", 1_000)
    fence = {0: image.fence}
    entry = log_entry(image, "c1")
    many = [Entry(outcome_subject("a"), b"x")] * limits.BATCH_MESSAGES
    count = limits.BATCH_BYTES // limits.MESSAGE_BYTES + 1
    large = [Entry(outcome_subject("a"), b"x" * limits.MESSAGE_BYTES)] * count
    for entries, fences in (
        ([*many, entry], fence),
        ([*large, entry], fence),
        ([entry, Entry(outcome_subject("a"), b"x")], fence),
        ([entry], {}),
        ([entry], {0: image.fence, 1: 0}),
        ([], {}),
    ):
        with pytest.raises(AssertionError):
            await ledger.commit("c1", entries, fences)


async def test_a_stream_without_batches_is_a_bug_not_a_retry(connection, ledger):
    image = await ledger.claim(0, "host", 1_000)
    config = (await connection.api(f"STREAM.INFO.{LEDGER}"))["config"]
    await connection.api(f"STREAM.UPDATE.{LEDGER}", config | {"allow_atomic": False})
    with pytest.raises(ServerRefused) as caught:
        await commit_one(ledger, image, "c1")
    assert caught.value.facts["outcome"] == "atomic-off"


# ---- replies that do not come --------------------------------------------------------------------


async def test_a_lost_reply_to_a_stored_batch_is_found(server, connection):
    async with Wire(server.port) as wire, connected(wire) as behind:
        ledger = JetStreamLedger(behind, 4)
        image = await ledger.claim(0, "host", 1_000)
        expected = image.fence
        wire.lose_replies = True
        commit = asyncio.create_task(commit_one(ledger, image, "c1"))
        await eventually(lambda: wire.lost)  # the acknowledgement
        wire.cut()
        async with asyncio.timeout(limits.COMMIT_TIMEOUT_S - 1):  # not waited for in vain
            await commit
        assert ledger.replies["lost-reply"] == 1
        assert ledger.replies["found-stored"] == 1
        assert await outcomes(connection) == ["c1"]
        assert image.fence == expected + 2 == (await log_records(connection, 0))[-1][0]
        await commit_one(ledger, image, "c2")  # and the fence it told is the right one


async def test_a_request_that_never_arrived_is_sent_again(server, connection):
    async with Wire(server.port) as wire, connected(wire) as behind:
        ledger = JetStreamLedger(behind, 4)
        image = await ledger.claim(0, "host", 1_000)
        wire.lose_requests = True
        commit = asyncio.create_task(commit_one(ledger, image, "c1"))
        await eventually(lambda: wire.lost)
        assert await outcomes(connection) == []
        wire.cut()
        await commit
        assert ledger.replies["lost-reply"] >= 1
        assert ledger.replies["found-stored"] == 0
        assert await outcomes(connection) == ["c1"]


async def test_a_server_that_stays_silent_is_given_up_after_the_bound(server, monkeypatch):
    monkeypatch.setattr(limits, "COMMIT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(limits, "COMMIT_RETRIES", 4)
    async with Wire(server.port) as wire, connected(wire) as behind:
        await provision(behind, partitions=4, sizes=SMALL)
        ledger = JetStreamLedger(behind, 4)
        image = await ledger.claim(0, "host", 1_000)
        wire.lose_replies = True
        with pytest.raises(LedgerUnavailable) as caught:
            await commit_one(ledger, image, "c1")
        assert caught.value.retryable
        assert ledger.replies == {"ack": 1, "lost-reply": 1, "read-back-failed": 4}


async def test_stored_then_claimed_by_another_counts_as_stored(connection, monkeypatch):
    """The reply is lost, and before the fence is read back somebody else takes the partition."""
    ledger, other = JetStreamLedger(connection, 4), JetStreamLedger(connection, 4)
    image = await ledger.claim(0, "host", 1_000)
    request = connection.request

    async def lose_reply(subject: str, payload: bytes, **options: object) -> object:
        reply = await request(subject, payload, **options)
        if subject == log_subject(0):
            monkeypatch.undo()
            await other.claim(0, "other", 2_000)
            raise LedgerUnavailable("lost")
        return reply

    monkeypatch.setattr(connection, "request", lose_reply)
    await commit_one(ledger, image, "c1")
    assert await outcomes(connection) == ["c1"]
    with pytest.raises(FenceLost):
        await commit_one(ledger, image, "c2")
    assert await outcomes(connection) == ["c1"]


async def test_a_lost_middle_message_costs_a_new_batch(connection, monkeypatch):
    ledger = JetStreamLedger(connection, 4)
    image = await ledger.claim(0, "host", 1_000)
    publish = connection.publish

    async def drop_once(subject: str, *rest: object) -> None:
        if subject == outcome_subject("drop"):
            monkeypatch.undo()
        else:
            await publish(subject, *rest)

    monkeypatch.setattr(connection, "publish", drop_once)
    entries = [Entry(outcome_subject(app), b"x") for app in ("a", "drop", "b")]
    entries.append(log_entry(image, "c1"))
    last = await ledger.commit("c1", entries, {0: image.fence})
    assert ledger.replies == {"ack": 2, "batch-incomplete": 1}
    stored = [m.subject async for m in read_subject(connection, LEDGER, ">", 100, after=last - 4)]
    assert stored == [entry.subject for entry in entries]


async def test_the_server_is_killed_in_the_middle_of_commits(server, connection, ledger):
    """No record lost, none doubled, the chain whole; and no commit fails."""
    image = await ledger.claim(0, "host", 1_000)
    done: list[str] = []
    stopping = False

    async def commit_on() -> None:
        while not stopping:
            commit_id = f"c{len(done)}"
            filler = [Entry(outcome_subject("filler"), b"x" * 2_000)] * 40
            entries = [
                Entry(outcome_subject("shop"), commit_id.encode()),
                *filler,
                log_entry(image, commit_id),
            ]
            image.fence = await ledger.commit(commit_id, entries, {0: image.fence})
            done.append(commit_id)

    commits = asyncio.create_task(commit_on())
    chance = random.Random(7)
    for _ in range(4):
        target = len(done) + 3
        await eventually(lambda target=target: len(done) >= target)
        await asyncio.sleep(chance.random() * 0.02)  # somewhere inside a commit
        await server.kill()
        await server.start()
    stopping = True
    await commits
    assert ledger.replies["lost-reply"] >= 1
    assert await outcomes(connection) == done
    records = await log_records(connection, 0)
    assert [record.commit_id for _, record in records[1:]] == done
    assert [record.previous for _, record in records[1:]] == [seq for seq, _ in records[:-1]]
    fillers = [m async for m in read_subject(connection, LEDGER, "hub.outcome.filler", 10**6)]
    assert len(fillers) == 40 * len(done)


# ---- no room -------------------------------------------------------------------------------------


async def fill(connection: Connection, ledger: JetStreamLedger) -> None:
    """A LEDGER with room for a few claims and nothing else."""
    sizes = StreamSizes(limits.MIB, 20_000, limits.MIB)
    await provision(connection, partitions=4, sizes=sizes)
    with pytest.raises(LedgerFull):
        while True:
            await ledger.publish(outcome_subject("filler"), b"x" * 1_000)


async def test_a_full_ledger_goes_on_once_there_is_room(connection, ledger):
    image = await ledger.claim(0, "host", 1_000)
    await fill(connection, ledger)
    seen: list[bool] = []

    async def make_room(_seconds: float) -> None:
        seen.append(writer.full)
        if len(seen) == 3:
            subject = outcome_subject("filler")
            await connection.api(f"STREAM.PURGE.{LEDGER}", {"filter": subject})

    writer = BatchWriter(connection, pause=make_room)
    entries = [Entry(outcome_subject("shop"), b"x" * 2_000), log_entry(image, "c1")]
    last = await writer.commit("c1", entries, {0: image.fence})
    assert seen == [True] * 3
    assert not writer.full
    assert writer.replies == {"store-failed": 3, "ack": 1}
    assert (await log_records(connection, 0))[-1][0] == last


async def test_a_ledger_that_stays_full_is_raised(connection, ledger, monkeypatch):
    monkeypatch.setattr(limits, "COMMIT_RETRIES", 5)
    image = await ledger.claim(0, "host", 1_000)
    await fill(connection, ledger)
    writer = BatchWriter(connection, pause=no_pause)
    entries = [Entry(outcome_subject("shop"), b"x" * 2_000), log_entry(image, "c1")]
    with pytest.raises(LedgerFull):
        await writer.commit("c1", entries, {0: image.fence})
    assert writer.full
    assert writer.replies == {"store-failed": 5}
    assert [record.commit_id for _, record in await log_records(connection, 0)][1:] == []


# ---- reading back --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fences", "stored", "torn", "taken"),
    [
        ({0: Fence.OURS, 1: Fence.OURS}, True, False, []),
        ({0: Fence.OPEN, 1: Fence.OPEN}, False, False, []),
        ({0: Fence.OURS, 1: Fence.OPEN}, False, True, []),
        ({0: Fence.OURS, 1: Fence.TAKEN}, True, False, [1]),
        ({0: Fence.OPEN, 1: Fence.TAKEN}, False, False, [1]),
        ({0: Fence.TAKEN, 1: Fence.TAKEN}, False, False, [0, 1]),
    ],
)
def test_what_the_fences_say(fences, stored, torn, taken):
    found = ReadBack(fences)
    assert (found.stored, found.torn, found.taken) == (stored, torn, taken)


async def test_a_torn_batch_is_waited_for(connection, ledger, monkeypatch):
    """One log record of two is visible: a server that failed half way finishes when it is back."""
    one, two = [await ledger.claim(number, "host", 1_000) for number in (1, 2)]
    entries = [log_entry(one, "c1"), log_entry(two, "c1")]
    request, pauses = connection.request, 0

    async def half(subject: str, payload: bytes, **options: object) -> object:
        if subject != log_subject(2):
            return await request(subject, payload, **options)
        await ledger.publish(entries[0].subject, entries[0].payload)  # visible, the other is not
        raise LedgerUnavailable("lost")

    async def finish(_seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            monkeypatch.undo()
            await ledger.publish(entries[1].subject, entries[1].payload)

    monkeypatch.setattr(connection, "request", half)
    writer = BatchWriter(connection, pause=finish)
    last = await writer.commit("c1", entries, {1: one.fence, 2: two.fence})
    assert last == await last_sequence(connection, LEDGER)
    assert pauses == 3
    assert writer.replies == {"lost-reply": 1, "found-stored": 1}
