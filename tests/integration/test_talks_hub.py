"""What customers write, over a real server and hosts that end: answers, the feed and reminders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.runner import HostRunner
from hub.checkers import History, check_all
from hub.clock import SystemClock
from hub.contract.times import rfc3339
from hub.ledger.audit import read_all, read_feeds, undecided
from hub.ledger.connection import Connection
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.publishing import publish
from hub.ledger.reading import read_subject
from hub.ledger.streams import LEDGER, provision
from hub.metrics import Metrics
from hub.policy.document import parse_policy
from hub.policy.policy import Policy
from tests.support.ledger import connected, eventually, nats_server

pytestmark = pytest.mark.nats

PARTITIONS = 2
POLICY = """
version = 1
timezone = "UTC"
[categories.answer]
route = ["wecom"]
[[windows]]
name = "after-her-message"
channels = ["wecom"]
limit = 3
on = "hold"
[[replies]]
name = "price"
match = ["price"]
answer = { text = "ten" }
category = "answer"
app = "bot"
[[reminders]]
name = "unanswered"
after = "3s"
again_after = "1s"
app = "desk"
manager = "chief"
[archive]
channels = ["wecom"]
keep = "1d"
"""


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    async with nats_server(tmp_path) as server, connected(server) as connection:
        await provision(connection, partitions=PARTITIONS)
        yield connection


@contextlib.asynccontextmanager
async def host(connection: Connection, name: str) -> AsyncIterator[None]:
    """A host of all partitions; it ends as in a crash, with whatever it was doing."""
    ledger = JetStreamLedger(connection, PARTITIONS)
    runner = HostRunner(ledger, SystemClock(), Policy(parse_policy(POLICY)), name, Metrics())
    running = asyncio.create_task(runner.run())
    try:
        assert await runner.assign(range(PARTITIONS)) == list(range(PARTITIONS))
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


def inbound(name: str, text: str, customer: str) -> dict[str, Any]:
    said = {"id": name, "channel": "wecom", "account": "sales.1", "customer": customer}
    return said | {"content": {"text": text}, "at": rfc3339(SystemClock().now_ms()), "sender": "w"}


async def tell(connection: Connection, lane: str, source: str, fields: dict[str, Any]) -> None:
    subject = f"hub.to.{lane}.{source}.{fields['customer']}"
    await publish(connection, subject, msgspec.json.encode(fields))


async def stored(connection: Connection, subject: str) -> list[dict[str, Any]]:
    found = [
        msgspec.json.decode(message.payload)
        async for message in read_subject(connection, LEDGER, subject, 100_000)
    ]
    return [one for each in found for one in (each if isinstance(each, list) else [each])]


async def test_a_feed_is_whole_and_reminders_are_given_once_although_hosts_end(
    connection: Connection,
):
    customers = [f"c{number}" for number in range(12)]
    async with host(connection, "first"):
        for customer in customers:
            held = {"id": "offer", "app": "shop", "customer": customer, "category": "answer"}
            held |= {"content": {"text": "an offer"}, "account": "sales.1", "to": {"wecom": "w"}}
            await tell(connection, "normal", "shop", held)
        await tell(connection, "inbound", "accounts", inbound("m1", "hello?", "waits"))
        for customer in customers[:6]:
            await tell(connection, "inbound", "accounts", inbound("m2", "the price?", customer))
    for customer in customers[6:]:  # nobody is there to hear it
        await tell(connection, "inbound", "accounts", inbound("m2", "the price?", customer))
    async with host(connection, "second"):
        await eventually(lambda: _none_undecided(connection), 20)
    async with host(connection, "third"):
        await eventually(lambda: _told(connection, 2), 20)

    events = await stored(connection, "hub.event.desk")
    assert [(each["customer"], each["level"], each.get("to")) for each in events] == [
        ("waits", 1, None),
        ("waits", 2, "chief"),
    ]
    feeds = await read_feeds(connection)
    assert len(await stored(connection, "hub.live.sales%2E1")) == len(feeds)
    shown = {
        customer: [
            (each.message.author, msgspec.json.decode(each.message.content)["text"])
            for each in feeds
            if each.message.customer == customer
        ]
        for customer in customers
    }
    expected = [("customer", "the price?"), ("app", "ten"), ("app", "an offer")]
    assert shown == dict.fromkeys(customers, expected)
    streams = await read_all(connection)
    end_ms = SystemClock().now_ms()
    assert check_all(History(*streams, [parse_policy(POLICY)], end_ms, feeds)) == []


async def _none_undecided(connection: Connection) -> bool:
    return await undecided(connection, PARTITIONS) == 0


async def _told(connection: Connection, count: int) -> bool:
    return len(await stored(connection, "hub.event.desk")) >= count
