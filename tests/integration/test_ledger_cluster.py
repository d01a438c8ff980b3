"""Three servers, every stream on all of them: leaders change and servers die under the writers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import publish_subject
from hub.errors import TactError
from hub.ledger.connection import Connection, connect
from hub.ledger.janitor import Janitor
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.port import FenceLost, LedgerError, LedgerUnavailable
from hub.ledger.streams import INTAKE, LEDGER, check_server, provision
from tests.support.ledger import (
    SMALL,
    NatsServer,
    commit_one,
    eventually,
    log_records,
    nats_cluster,
    outcomes,
)

pytestmark = pytest.mark.nats

T = TypeVar("T")


@pytest.fixture
async def servers(tmp_path):
    async with nats_cluster(tmp_path) as servers:
        yield servers


@pytest.fixture
async def connection(servers: list[NatsServer]):
    url = ",".join(server.url for server in servers)
    connection = await connect(url, name="test", clock=SystemClock())

    async def provisioned() -> bool:
        try:
            await provision(connection, partitions=2, replicas=3, sizes=SMALL)
        except TactError:
            return False  # no meta leader yet, or not all servers have joined
        return True

    await eventually(provisioned, within_s=30)
    yield connection
    await connection.close()


async def step_down(connection: Connection, stream: str) -> None:
    """Have another server lead a stream; returns when one does."""

    async def stepped() -> bool:
        try:
            await connection.api(f"STREAM.LEADER.STEPDOWN.{stream}")
        except LedgerError:
            return False
        return True

    await eventually(stepped, within_s=20)

    async def led() -> bool:
        info = await patiently(lambda: connection.api(f"STREAM.INFO.{stream}"))
        return bool(info.get("cluster", {}).get("leader"))

    await eventually(led, within_s=20)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call that may find streams without a leader for a while."""
    results: list[T] = []

    async def answered() -> bool:
        try:
            results.append(await call())
        except LedgerUnavailable:
            return False
        return True

    await eventually(answered, within_s=40)
    return results[0]


async def publish_until_stored(ledger: JetStreamLedger, number: int) -> None:
    while True:
        try:
            subject = publish_subject("normal", "shop", f"c{number % 20}")
            await ledger.publish(subject, b"%d" % number, msg_id=f"m{number}")
            return
        except LedgerUnavailable:
            await asyncio.sleep(limits.BACKOFF_FIRST_MS / 1000)


async def test_nothing_is_lost_or_doubled_while_leaders_change_and_a_server_dies(
    servers, connection
):
    await check_server(connection, allow_lazy_sync=True)
    ledger = JetStreamLedger(connection, 2)
    image = await ledger.claim(0, "host", 1_000)
    reader = ledger.reader()
    await reader.open({0: {}, 1: {}})
    done: list[str] = []
    published, stopping = 0, False

    async def commit_on() -> None:
        while not stopping:
            commit_id = f"c{len(done)}"
            await commit_one(ledger, image, commit_id, {commit_id: b"x"}, {"normal": 0})
            done.append(commit_id)

    async def publish_on() -> None:
        nonlocal published
        while not stopping:
            await publish_until_stored(ledger, published)
            published += 1

    async def more() -> None:
        commits, messages = len(done) + 5, published + 5
        await eventually(lambda: len(done) >= commits and published >= messages, within_s=40)

    tasks = [asyncio.create_task(commit_on()), asyncio.create_task(publish_on())]
    await more()
    for stream in (LEDGER, INTAKE):
        await step_down(connection, stream)
        await more()
    victim = next(s for s in servers if str(s.port) in str(connection.client.connected_url))
    await victim.kill()
    await more()
    await victim.start()
    await more()
    stopping = True
    await asyncio.gather(*tasks)

    assert await patiently(lambda: outcomes(connection)) == done
    records = await patiently(lambda: log_records(connection, 0))
    assert [record.commit_id for _, record in records[1:]] == done
    assert [record.previous for _, record in records[1:]] == [seq for seq, _ in records[:-1]]
    taken: list[bytes] = []

    def all_taken() -> bool:
        taken.extend(message.payload for message in reader.take("normal", 10_000))
        return len(taken) >= published

    await eventually(all_taken, within_s=30)
    assert taken == [b"%d" % number for number in range(published)]
    await reader.close()

    other = JetStreamLedger(connection, 2)
    await patiently(
        lambda: other.snapshot(0, image.fence, 1_000, image.checkpoint, image.states, image.epoch)
    )
    claimed = await other.claim(0, "next", 2_000)
    assert claimed.states == dict.fromkeys(done, b"x")
    with pytest.raises(FenceLost):
        await commit_one(ledger, image, "late")
    janitor = Janitor(connection, 2)
    await patiently(janitor.sweep)
    assert (await patiently(janitor.sweep)).purged == 0
