"""Connection, single publishes and reads against a real server."""

from __future__ import annotations

import pytest

from hub import limits
from hub.clock import SystemClock
from hub.ledger.connection import Connection, connect
from hub.ledger.port import LedgerFull, LedgerUnavailable, ServerUnfit
from hub.ledger.publishing import Ack, publish
from hub.ledger.reading import last_message, last_messages, next_message, read_subject
from tests.support.ledger import NatsServer, connected, eventually, nats_server

pytestmark = pytest.mark.nats


@pytest.fixture
async def server(tmp_path):
    async with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer):
    async with connected(server) as connection:
        yield connection


async def make_stream(connection: Connection, **settings: object) -> None:
    config = {"name": "S", "subjects": ["s.>"], "allow_direct": True, "discard": "new"}
    await connection.api("STREAM.CREATE.S", {**config, **settings})


async def test_publish_acknowledges_and_finds_repeats(connection):
    await make_stream(connection)
    assert await publish(connection, "s.a", b"1", msg_id="x") == Ack(1)
    assert await publish(connection, "s.a", b"1", msg_id="x") == Ack(1, duplicate=True)


async def test_publish_to_nothing_is_unavailable_and_may_be_retried(connection):
    with pytest.raises(LedgerUnavailable) as caught:
        await publish(connection, "nowhere.lane.app.customer", b"1")
    assert caught.value.retryable
    assert "customer" not in str(caught.value)


async def test_publish_to_a_full_stream_is_full(connection):
    await make_stream(connection, max_bytes=1_000)
    with pytest.raises(LedgerFull) as caught:
        for _ in range(20):
            await publish(connection, "s.lane.app.customer", b"x" * 100)
    assert caught.value.facts["err_code"] == 10077
    assert "customer" not in str(caught.value)


async def test_reading_pages_in_order_and_stops_at_most(connection, monkeypatch):
    monkeypatch.setattr(limits, "READ_PAGE_MESSAGES", 7)
    await make_stream(connection)
    for number in range(20):
        await publish(connection, f"s.{number % 2}", str(number).encode())
    even = [message async for message in read_subject(connection, "S", "s.0", 100)]
    assert [int(message.payload) for message in even] == list(range(0, 20, 2))
    assert [message.sequence for message in even] == list(range(1, 21, 2))
    some = [message async for message in read_subject(connection, "S", "s.>", 9, after=3)]
    assert [message.sequence for message in some] == list(range(4, 13))
    assert [message async for message in read_subject(connection, "S", "s.9", 10)] == []


async def test_reading_stops_at_a_pages_bytes_and_goes_on(connection, monkeypatch):
    monkeypatch.setattr(limits, "READ_PAGE_BYTES", 2_500)
    await make_stream(connection)
    for number in range(10):
        await publish(connection, f"s.{number}", b"x" * 1_000)
    read = [message.sequence async for message in read_subject(connection, "S", "s.>", 100)]
    assert read == list(range(1, 11))
    found = await last_messages(connection, "S", [f"s.{number}" for number in range(12)])
    assert sorted(found) == [f"s.{number}" for number in range(10)]
    assert all(message.payload == b"x" * 1_000 for message in found.values())


async def test_leader_reads(connection):
    await make_stream(connection)
    assert await last_message(connection, "S", "s.a") is None
    for number in range(3):
        await publish(connection, "s.a", str(number).encode())
    last = await last_message(connection, "S", "s.a")
    assert last is not None
    assert (last.sequence, last.payload, last.subject) == (3, b"2", "s.a")
    assert abs(last.stored_ms - SystemClock().now_ms()) < 60_000
    following = await next_message(connection, "S", "s.*", 2)
    assert following is not None
    assert following.sequence == 2
    assert await next_message(connection, "S", "s.*", 4) is None


async def test_nothing_is_buffered_while_the_server_is_away(server, connection):
    await make_stream(connection)
    reconnects = []
    connection.on_reconnect(lambda: reconnects.append(1))
    await server.kill()
    await eventually(lambda: not connection.connected)
    with pytest.raises(LedgerUnavailable):
        await publish(connection, "s.a", b"never sent")
    await eventually(lambda: connection.down_s > 0)
    await server.start()
    await eventually(lambda: connection.connected and reconnects)
    assert connection.down_s == 0
    assert await publish(connection, "s.a", b"1") == Ack(1)


async def test_connecting_to_nothing_says_where(tmp_path):
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:1 within 0\.3 s"):
        await connect("nats://me:secret@127.0.0.1:1", name="t", clock=SystemClock(), wait_s=0.3)


async def test_wrong_credentials_are_said_at_once(tmp_path):
    users = "authorization { users: [ {user: hub, password: right} ] }"
    async with nats_server(tmp_path, extra=users) as server:
        with pytest.raises(ServerUnfit, match="credentials"):
            await connect(
                server.url, name="t", clock=SystemClock(), user="hub", password="no", wait_s=30
            )
        good = await connect(
            server.url, name="t", clock=SystemClock(), user="hub", password="right"
        )
        assert good.server_version >= (2, 15, 1)
        await good.close()
