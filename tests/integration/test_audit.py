"""Reading both streams whole, from a real server."""

from __future__ import annotations

import msgspec
import pytest

from hub import limits
from hub.clock import SystemClock
from hub.contract.decode import MSGPACK, Rejection
from hub.contract.subjects import partition_of
from hub.contract.types import Delivery, Outcome
from hub.ledger.audit import NotWhole, read_all, read_streams, undecided
from hub.ledger.connection import Connection, connect
from hub.ledger.port import LOG_VERSION, LogRecord
from hub.ledger.publishing import publish
from hub.ledger.streams import provision
from tests.support.histories import intent
from tests.support.ledger import connected, nats_server

pytestmark = pytest.mark.nats

PARTITIONS = 4
AT = "2026-03-28T12:00:00.000Z"


@pytest.fixture
async def connection(tmp_path):
    async with nats_server(tmp_path) as server, connected(server) as connection:
        await provision(connection, partitions=PARTITIONS)
        yield connection


async def publish_intents(connection: Connection, count: int) -> None:
    for number in range(count):
        customer = f"c{number}"
        payload = msgspec.json.encode(intent("a", customer))
        await publish(connection, f"hub.to.normal.shop.{customer}", payload)


def outcome(name: str) -> Outcome:
    return Outcome(name, "shop", "c1", "dispatched", AT, "sms", f"shop:{name}:1")


def delivery(name: str) -> Delivery:
    content = msgspec.Raw(b'{"text":"hello"}')
    about = (f"shop:{name}:1", name, "shop", "c1", "service", 5, "sms", "sms", "+1")
    return Delivery(*about, content, 1, AT, AT)


async def test_every_object_of_both_streams_in_order(connection):
    one = intent("a", "c1")
    await publish(connection, "hub.to.normal.shop.c1", msgspec.json.encode(one))
    several = msgspec.msgpack.encode([intent("b", "c1"), {"id": "bad"}])
    await publish(connection, "hub.to.bulk.shop.c1", several, headers={"Content-Type": MSGPACK})
    await publish(connection, "hub.to.command.crm.c1", b"no json")
    for subject, payload in (
        ("hub.outcome.shop", msgspec.json.encode(outcome("a"))),
        ("hub.out.sms.1", msgspec.json.encode(delivery("a"))),
        ("hub.parked.1.x", b"a body"),
        ("hub.out.sms.1", msgspec.json.encode([delivery("b"), delivery("c")])),
        ("hub.outcome.shop", msgspec.json.encode([outcome("b"), outcome("c")])),
    ):
        await publish(connection, subject, payload)
    streams = await read_all(connection)
    assert [(p.lane, p.source, p.sequence, p.index) for p in streams.published] == [
        ("normal", "shop", 1, 0),
        ("bulk", "shop", 2, 0),
        ("bulk", "shop", 2, 1),
        ("command", "crm", 3, 0),
    ]
    assert [p.message.id for p in streams.published] == ["a", "b", "bad", ""]
    assert [isinstance(p.message, Rejection) for p in streams.published] == [0, 0, 1, 1]
    assert [(t.sequence, t.index, t.outcome.intent) for t in streams.outcomes] == [
        (1, 0, "a"),
        (5, 0, "b"),
        (5, 1, "c"),
    ]
    assert [(h.sequence, h.index, h.delivery.intent) for h in streams.deliveries] == [
        (2, 0, "a"),
        (4, 0, "b"),
        (4, 1, "c"),
    ]
    moments = [p.stored_ms for p in streams.published] + [t.stored_ms for t in streams.outcomes]
    assert moments == sorted(moments)


async def test_more_than_one_request_holds(connection, monkeypatch):
    monkeypatch.setattr(limits, "AUDIT_PULL", 7)
    for count in (0, 6, 1, 7, 11):
        await publish_intents(connection, count)
    streams = await read_all(connection)
    assert [published.sequence for published in streams.published] == list(range(1, 26))


async def test_refuses_what_is_too_much_or_no_longer_whole(connection):
    await publish_intents(connection, 3)
    with pytest.raises(NotWhole, match="holds 3 messages, at most 2"):
        await read_all(connection, most=2)
    await connection.api("STREAM.PURGE.INTAKE", {"seq": 2})
    with pytest.raises(NotWhole, match="begins at sequence 2: the janitor"):
        await read_all(connection)


async def test_connects_by_itself(tmp_path):
    users = "authorization { users: [ {user: hub, password: right} ] }"
    login = {"user": "hub", "password": "right"}
    async with nats_server(tmp_path, extra=users) as server:
        connection = await connect(server.url, name="test", clock=SystemClock(), **login)
        await provision(connection, partitions=PARTITIONS)
        await publish_intents(connection, 2)
        await connection.close()
        streams = await read_streams(server.url, **login)
    assert len(streams.published) == 2


async def test_undecided_until_every_checkpoint_has_come_to_the_newest(connection):
    assert await undecided(connection, PARTITIONS) == 0
    await publish_intents(connection, 1)
    await publish(connection, "hub.to.bulk.shop.c0", b"bad")
    assert await undecided(connection, PARTITIONS) == 2
    number = partition_of("c0", PARTITIONS)
    for checkpoint, left in (({"normal": 1}, 1), ({"normal": 1, "bulk": 2}, 0)):
        record = LogRecord(LOG_VERSION, "x", 1, 0, 0, "", checkpoint, {})
        await publish(connection, f"hub.log.{number}", msgspec.msgpack.encode(record))
        assert await undecided(connection, PARTITIONS) == left
