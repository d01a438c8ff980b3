"""HubClient against a real server: what is acknowledged is stored once, what is told is heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from hub import limits
from hub.client import (
    HubClient,
    HubFull,
    HubRefused,
    HubUnavailable,
    InvalidIntent,
    PublishFailed,
)
from hub.contract.decode import MSGPACK, Rejection, decode
from hub.contract.subjects import partition_of
from hub.contract.types import Cancel, Intent, Outcome
from hub.ledger.connection import Connection, connect
from hub.ledger.publishing import publish
from hub.ledger.streams import StreamSizes, provision
from hub.service.natsd import NatsServer
from tests.support.ledger import eventually

pytestmark = pytest.mark.nats

PARTITIONS = 5
OUTCOME = {"app": "shop", "customer": "c", "state": "dispatched", "at": "2026-11-21T08:00:00.000Z"}


class Stored(NamedTuple):
    """A message of INTAKE."""

    partition: int
    lane: str
    source: str
    message_id: str
    objects: list[dict[str, Any]]


class World:
    """The embedded server with its streams, the hub's own connection, and clients."""

    def __init__(self, server: NatsServer, hub: Connection) -> None:
        self.server = server
        self.hub = hub

    def client(self, app: str = "shop", **options: Any) -> HubClient:
        return HubClient(self.server.url, app, chance=random.Random(1), **options)

    async def intake(self) -> list[Stored]:
        """All of INTAKE, in order."""
        js = self.hub.client.jetstream()
        last = (await js.stream_info("INTAKE")).state
        found = []
        for sequence in range(last.first_seq, last.last_seq + 1):
            message = await js.get_msg("INTAKE", sequence, direct=True)
            _, _, partition, lane, source = message.subject.split(".")
            objects = json.loads(message.data)
            found.append(
                Stored(
                    int(partition),
                    lane,
                    source,
                    (message.headers or {})["Nats-Msg-Id"],
                    objects if isinstance(objects, list) else [objects],
                )
            )
        return found

    async def tell(self, *outcomes: str, packed: bool = False) -> None:
        """As the hub does: one outcome alone, many as an array."""
        objects = [OUTCOME | {"intent": intent} for intent in outcomes]
        encode = msgspec.msgpack.encode if packed else msgspec.json.encode
        await publish(
            self.hub,
            "hub.outcome.shop",
            encode(objects if len(objects) > 1 else objects[0]),
            headers={"Content-Type": MSGPACK} if packed else None,
        )

    async def consumer(self, name: str = "shop") -> dict[str, Any]:
        return await self.hub.api(f"CONSUMER.INFO.LEDGER.{name}")


@contextlib.asynccontextmanager
async def running(path: Path, intake_bytes: int = 64 * limits.MIB) -> AsyncIterator[World]:
    async with NatsServer(path) as server:
        hub = await connect(
            server.url, name="hub", user="hub", password=server.hub.password, wait_s=10
        )
        try:
            sizes = StreamSizes(intake_bytes, 64 * limits.MIB, 8 * limits.MIB)
            await provision(hub, partitions=PARTITIONS, sizes=sizes)
            yield World(server, hub)
        finally:
            await hub.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


def intent(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"i-{number}",
        "app": "shop",
        "customer": f"c-{number % 97}",
        "category": "marketing",
        "content": {"text": "hello"},
    } | fields


# ---- publishing ------------------------------------------------------------------------------


async def test_one_intent_is_one_message_under_its_own_id(world: World) -> None:
    async with world.client() as hub:
        typed = Intent(**intent(1, content={"text": msgspec.Raw(b'"hello"')}))
        assert await hub.publish(typed, lane="urgent") == 1
        assert await hub.publish(intent(1), lane="urgent") == 1  # a repeat, found by the server
        assert await hub.command(Cancel(id="i-1", app="shop", customer="c-1", intent="i-1")) == 2
    place = partition_of("c-1", PARTITIONS)
    assert [message[:4] for message in await world.intake()] == [
        (place, "urgent", "shop", "shop:i-1"),
        (place, "command", "shop", "command/shop:i-1"),
    ]


async def test_many_travel_in_arrays_of_one_partition(world: World) -> None:
    count = 3_000
    async with world.client() as hub:
        first = await hub.publish_many((intent(number) for number in range(count)), lane="bulk")
        waiting = [hub.publish(intent(number)) for number in range(count, 2 * count)]
        second = await asyncio.gather(*waiting)
    stored = await world.intake()
    assert len(stored) < 2 * count / 20
    for message in stored:
        assert len(message.objects) <= limits.ARRAY_OBJECTS
        for each in message.objects:
            assert partition_of(each["customer"], PARTITIONS) == message.partition
    # The sequence returned for an intent is that of the message which holds it.
    for number, sequence in enumerate(first + second):
        assert intent(number) in stored[sequence - 1].objects
    # What one customer is sent keeps its order.
    for lane in ("bulk", "normal"):
        order: dict[str, list[int]] = {}
        for message in stored:
            if message.lane == lane:
                for each in message.objects:
                    order.setdefault(each["customer"], []).append(int(each["id"][2:]))
        assert all(numbers == sorted(numbers) for numbers in order.values())


async def test_large_intents_are_split_by_size(world: World) -> None:
    async with world.client() as hub:
        await hub.publish_many(
            intent(number, customer="c", content={"text": "x" * 60_000}) for number in range(40)
        )
    assert [len(message.objects) for message in await world.intake()] == [17, 17, 6]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (intent(1, app="crm"), "app"),
        (intent(1, customer="no spaces"), "customer"),
        (intent(1, content={}), "content"),
        (intent(1, prio=3), "prio"),
        (intent(1, expires_at="2026-11-21T08:00:00"), "expires_at"),
        (intent(1, content={"text": "x" * limits.MESSAGE_OBJECT_BYTES}), "bytes"),
        ({}, "id"),
    ],
)
async def test_an_invalid_intent_is_refused_here_for_the_hub_s_reason(
    world: World, bad: dict[str, Any], fault: str
) -> None:
    (there,) = decode("normal", "shop", msgspec.json.encode(bad))
    assert isinstance(there, Rejection) and fault in there.reason
    async with world.client() as hub:
        with pytest.raises(InvalidIntent) as here:
            await hub.publish(bad)
        assert here.value.message == there.reason
        with pytest.raises(PublishFailed) as some:
            await hub.publish_many([intent(5), bad, intent(6)])
    good, refused, other = some.value.results
    assert isinstance(refused, InvalidIntent) and refused.message == there.reason
    stored = await world.intake()
    assert [each["id"] for message in stored for each in message.objects].count("i-1") == 0
    assert {good, other} <= set(range(1, len(stored) + 1))


@pytest.mark.parametrize("lane", ["receipt", "command", "slow"])
async def test_intents_go_to_lanes_for_intents(world: World, lane: str) -> None:
    async with world.client() as hub:
        with pytest.raises(InvalidIntent, match="urgent, normal, bulk"):
            await hub.publish(intent(1), lane=lane)


@pytest.mark.parametrize("what", [[intent(1)], "text", object(), {"id": {1, 2}, "x": object()}])
async def test_only_an_object_is_published(world: World, what: Any) -> None:
    async with world.client() as hub:
        with pytest.raises(InvalidIntent):
            await hub.publish(what)


async def test_a_full_hub_says_so_and_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, intake_bytes=256 * limits.KIB) as world, world.client() as hub:
        body = {"text": "x" * 8_000}
        with pytest.raises(PublishFailed) as failed:
            await hub.publish_many(intent(number, content=body) for number in range(10_000))
        results = failed.value.results
        assert len(results) < 10_000  # nothing is taken that cannot be stored
        full = [number for number, result in enumerate(results) if isinstance(result, HubFull)]
        assert full and len(full) + sum(isinstance(result, int) for result in results) == len(
            results
        )
        acknowledged = set(range(len(results))) - set(full)
        with pytest.raises(HubFull) as single:
            for number in full:  # where an array does not fit, some may fit alone
                await hub.publish(intent(number, content=body))
                acknowledged.add(number)
        assert single.value.retryable and (single.value.retry_after_ms or 0) > 0
        kept = {each["id"] for message in await world.intake() for each in message.objects}
        assert kept == {f"i-{number}" for number in acknowledged}

        await world.hub.api("STREAM.PURGE.INTAKE")
        refused = [number for number in full if number not in acknowledged][:20]
        for number in refused:  # the refused ids were not remembered as stored
            await hub.publish(intent(number, content=body))
        kept = {each["id"] for message in await world.intake() for each in message.objects}
        assert kept == {f"i-{number}" for number in refused}


async def test_a_killed_server_loses_nothing_and_stores_nothing_twice(world: World) -> None:
    acknowledged: list[int] = []
    enough = asyncio.Event()

    async def work(hub: HubClient, numbers: range) -> None:
        for number in numbers:
            await hub.publish(intent(number))
            acknowledged.append(number)
            if len(acknowledged) == 400:
                enough.set()

    async with world.client() as hub:
        workers = [
            asyncio.create_task(work(hub, range(first, first + 100)))
            for first in range(0, 2_000, 100)
        ]
        await enough.wait()
        world.server.kill()
        seen = len(acknowledged)
        await world.server.start()
        await asyncio.gather(*workers)
    assert 400 <= seen < 2_000 == len(acknowledged)
    await eventually(lambda: world.hub.connected)
    stored = await world.intake()
    names = [message.message_id for message in stored]
    assert len(set(names)) == len(names)
    objects = [each["id"] for message in stored for each in message.objects]
    assert sorted(objects) == sorted(f"i-{number}" for number in acknowledged)


async def test_a_server_that_answers_late_stores_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every try of a message reaches the server: it was stopped, not gone."""
    monkeypatch.setattr(limits, "PUBLISH_TIMEOUT_S", 0.1)
    count = 300
    async with world.client() as hub:
        assert world.server.pid is not None
        os.kill(world.server.pid, signal.SIGSTOP)
        many = asyncio.create_task(hub.publish_many(map(intent, range(count))))
        begin = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() > begin + 0.5)
        assert not many.done()
        os.kill(world.server.pid, signal.SIGCONT)
        await many
        await world.hub.client.flush()
        stored = await world.intake()
    assert len({message.message_id for message in stored}) == len(stored)
    objects = [each["id"] for message in stored for each in message.objects]
    assert sorted(objects) == sorted(f"i-{number}" for number in range(count))


async def test_a_server_that_stays_away_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISH_PATIENCE_S", 0.2)
    monkeypatch.setattr(limits, "PUBLISH_TIMEOUT_S", 0.2)
    async with world.client() as hub:
        world.server.kill()
        with pytest.raises(HubUnavailable):
            await hub.publish(intent(1))
        await world.server.start()
        await eventually(lambda: hub.connected)
        assert await hub.publish(intent(1)) == 1


async def test_connecting_says_what_is_wrong(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        with pytest.raises(HubUnavailable, match="tact up"):
            await HubClient(server.url, "shop").open()
        with pytest.raises(HubRefused, match="credentials"):
            await HubClient.connect(server.url, app="shop", user="hub", password="guess").open()
    with pytest.raises(HubUnavailable, match="no NATS server"):
        await HubClient(server.url, "shop", wait_s=0.1).open()
    with pytest.raises(HubUnavailable, match="async with"):
        await HubClient(server.url, "shop").publish(intent(1))


# ---- outcomes --------------------------------------------------------------------------------


async def take(outcomes: AsyncIterator[Outcome], count: int) -> list[str]:
    async with asyncio.timeout(10):
        return [(await anext(outcomes)).intent for _ in range(count)]


async def test_outcomes_come_one_by_one_in_order(world: World) -> None:
    await world.tell("a")
    await world.tell("b", "c", "d")
    await world.tell("e", "f", packed=True)
    await publish(world.hub, "hub.outcome.crm", b"not for us")
    async with world.client() as hub:
        outcomes = hub.outcomes()
        assert await take(outcomes, 6) == list("abcdef")
        waiting = asyncio.create_task(take(outcomes, 1))
        await world.tell("g")
        assert await waiting == ["g"]


async def test_an_array_is_acknowledged_when_the_last_is_done_with(world: World) -> None:
    await world.tell("a", "b")
    await world.tell("c")
    async with world.client() as hub:
        outcomes = hub.outcomes(durable="place")
        assert await take(outcomes, 2) == ["a", "b"]
        assert (await world.consumer("place"))["ack_floor"]["consumer_seq"] == 0
        assert await take(outcomes, 1) == ["c"]
        await eventually(lambda: acknowledged(world, "place", 1))
    async with world.client() as hub:  # `c` was not done with
        assert await take(hub.outcomes(durable="place"), 1) == ["c"]
        assert await take(hub.outcomes(durable="other"), 3) == ["a", "b", "c"]


async def acknowledged(world: World, name: str, stream_sequence: int) -> bool:
    return (await world.consumer(name))["ack_floor"]["stream_seq"] >= stream_sequence


async def test_more_outcomes_than_are_held_at_once(world: World) -> None:
    count = 3 * limits.OUTCOME_PULL_MESSAGES
    for number in range(count):
        await world.tell(str(number))
    async with world.client() as hub:
        outcomes = hub.outcomes()
        assert await take(outcomes, count) == [str(number) for number in range(count)]
        held = (await world.consumer())["num_ack_pending"]
        assert held <= limits.OUTCOME_PULL_MESSAGES


async def until_told(outcomes: AsyncIterator[Outcome], intent_id: str) -> None:
    """Read on to this outcome. Others may come again before it: at least once."""
    async with asyncio.timeout(10):
        async for outcome in outcomes:
            if outcome.intent == intent_id:
                return


async def test_outcomes_survive_a_killed_server(world: World) -> None:
    async with world.client() as hub:
        outcomes = hub.outcomes()
        await world.tell("a")
        assert await take(outcomes, 1) == ["a"]
        waiting = asyncio.create_task(until_told(outcomes, "b"))
        await eventually(lambda: acknowledged(world, "shop", 1))
        world.server.kill()
        await world.server.start()
        await eventually(lambda: world.hub.connected)
        await world.tell("b")
        await waiting


async def test_a_deleted_consumer_is_made_again(world: World) -> None:
    async with world.client() as hub:
        outcomes = hub.outcomes()
        await world.tell("a")
        assert await take(outcomes, 1) == ["a"]
        waiting = asyncio.create_task(until_told(outcomes, "b"))
        await eventually(lambda: acknowledged(world, "shop", 1))
        await world.hub.api("CONSUMER.DELETE.LEDGER.shop")
        await world.tell("b")
        await waiting


async def test_a_slow_reader_is_not_given_the_same_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTCOME_ACK_WAIT_S", 1)
    async with world.client() as hub:
        outcomes = hub.outcomes()
        await world.tell("a")
        await world.tell("b")
        assert await take(outcomes, 1) == ["a"]
        begin = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() > begin + 2.5)
        assert (await world.consumer())["num_redelivered"] == 0
        assert await take(outcomes, 1) == ["b"]


async def test_what_is_unreadable_is_passed_over(world: World) -> None:
    await publish(world.hub, "hub.outcome.shop", b'{"state":"unheard-of"}')
    await world.tell("a")
    async with world.client() as hub:
        assert await take(hub.outcomes(), 1) == ["a"]
        await eventually(lambda: acknowledged(world, "shop", 1))


async def test_closing_ends_the_iteration(world: World) -> None:
    async with world.client() as hub:
        outcomes = hub.outcomes()

        async def read() -> list[Outcome]:
            return [outcome async for outcome in outcomes]

        reading = asyncio.create_task(read())
        await eventually(lambda: has_consumer(world))
        await outcomes.aclose()
        async with asyncio.timeout(5):
            assert await reading == []
        await outcomes.aclose()


async def has_consumer(world: World) -> bool:
    return (await world.hub.api("CONSUMER.NAMES.LEDGER"))["total"] == 1
