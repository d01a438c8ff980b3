"""On a real server: what is urgent does not wait behind a backlog, and is not taken again after a
crash with the backlog still before it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from actors import account_intake, account_runner
from actors.account_runner import AccountRunner
from actors.account_state import ahead_key
from channels.accounts import AccountConfig
from channels.provider import Events, Submission
from hub.clock import SystemClock
from hub.contract.subjects import account_log, account_partition, delivery_subject, log_subject
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from hub.ledger.accounts import AccountStreams
from hub.ledger.commit import decode_record
from hub.ledger.connection import Connection
from hub.ledger.port import LogRecord
from hub.ledger.publishing import publish
from hub.ledger.reading import read_subject
from hub.ledger.streams import LEDGER, provision
from hub.metrics import Metrics
from tests.support.account_model import ScriptedProvider, accept
from tests.support.ledger import SMALL, connected, nats_server
from tests.unit.test_accounts import config, delivery

pytestmark = pytest.mark.nats

PARTITIONS = 2
NUMBER = account_partition("sms", PARTITIONS)
ARRAYS, TOGETHER = 40, 16


def fresh(id: str, **fields: object) -> Delivery:
    later = rfc3339(SystemClock().now_ms() + 3_600_000)
    return delivery(id, expires_at=later, **fields)


async def store(connection: Connection, some: Delivery | list[Delivery]) -> int:
    subject = delivery_subject("sms", NUMBER)
    return (await publish(connection, subject, msgspec.json.encode(some))).sequence


async def records(connection: Connection) -> list[LogRecord]:
    """What was committed of the account's partition."""
    subject = log_subject(account_log(NUMBER, PARTITIONS))
    return [decode_record(each) async for each in read_subject(connection, LEDGER, subject, 10_000)]


async def test_a_crash_behind_what_was_taken_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_intake, "DELIVERIES_SLICE", 1)
    monkeypatch.setattr(account_runner, "TURN_SLICES", 1)
    sent: list[tuple[str, str]] = []
    hurried, done = asyncio.Event(), asyncio.Event()

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        accept(submission, provider)
        if submission.delivery == "shop:code:1":
            hurried.set()
        if submission.delivery == "shop:last:1":
            done.set()

    def make(account: AccountConfig, events: Events) -> ScriptedProvider:
        return ScriptedProvider(account.name, events, script, log=sent)

    def host(connection: Connection, name: str) -> AccountRunner:
        streams = AccountStreams(
            connection, PARTITIONS, clock=SystemClock(), chance=random.Random(1)
        )
        return AccountRunner(streams, SystemClock(), [config()], name, Metrics(), make)

    async with nats_server(tmp_path) as server, connected(server) as connection:
        await provision(connection, partitions=PARTITIONS, sizes=SMALL)
        for array in range(ARRAYS):
            await store(connection, [fresh(f"{array}-{n}") for n in range(TOGETHER)])
        code = await store(connection, fresh("code", urgent=True, priority=9))
        last = await store(connection, fresh("last"))

        first = host(connection, "first")
        running = asyncio.create_task(first.run())
        await first.assign([NUMBER])
        await asyncio.wait_for(hurried.wait(), 20)
        while not running.done():  # nats-py may swallow a cancellation
            running.cancel()
            await asyncio.wait([running], timeout=1)
        before = (await records(connection))[-1]
        assert before.checkpoint.get("sms", 0) < code  # the backlog is not taken over yet
        assert ("sms", "shop:code:1") in sent

        second = host(connection, "second")
        running = asyncio.create_task(second.run())
        await second.assign([NUMBER])
        await asyncio.wait_for(done.wait(), 30)
        await second.stop()
        await running
        told = await records(connection)

    key = ahead_key("sms", code)
    assert [each.states[key] for each in told if key in each.states] == [b"", None]
    assert told[-1].checkpoint["sms"] == last
    assert Counter(sent).most_common(1)[0][1] == 1
    assert sent.index(("sms", "shop:code:1")) < ARRAYS * TOGETHER // 2
