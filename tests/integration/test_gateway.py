"""The gateway's library against real streams, and a gateway in another language against a hub."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from channels.gateway import (
    Deliveries,
    Gateway,
    GatewayError,
    GatewayRefused,
    GatewayUnavailable,
    InvalidReport,
    NotHeld,
    Parcel,
    Seen,
)
from hub import limits
from hub.errors import ConfigError
from hub.ledger.connection import Connection, connect
from hub.ledger.port import ServerRefused
from hub.ledger.publishing import publish
from hub.ledger.streams import provision
from hub.service.natsd import NatsServer
from tests.support.hub import Hub, within
from tests.support.ledger import SMALL, eventually

pytestmark = pytest.mark.nats

PARTITIONS = 5
FAR = "2999-01-01T00:00:00.000Z"
PAST = "2020-01-01T00:00:00.000Z"


def delivery(number: int, **fields: Any) -> dict[str, Any]:
    """As the hub writes it."""
    return {
        "id": f"shop:i-{number}:1",
        "intent": f"i-{number}",
        "app": "shop",
        "customer": f"c-{number}",
        "category": "otp",
        "priority": 5,
        "channel": "sms",
        "account": "main",
        "to": "+8613900000001",
        "content": {"text": f"text {number}"},
        "attempt": 1,
        "at": "2026-11-22T00:00:00.000Z",
        "expires_at": FAR,
    } | fields


class World:
    """The embedded server with its streams, and what the hub sees of them."""

    def __init__(self, server: NatsServer, hub: Connection) -> None:
        self.server = server
        self.hub = hub

    def gateway(self, name: str = "sms-gw", channel: str = "sms", **options: Any) -> Gateway:
        return Gateway(self.server.url, name, channel, chance=random.Random(1), **options)

    async def tell(self, *deliveries: Any, subject: str = "hub.out.sms.0") -> None:
        """One message: one delivery alone, many as an array."""
        payload = json.dumps(deliveries if len(deliveries) > 1 else deliveries[0]).encode()
        await publish(self.hub, subject, payload)

    async def reports(self) -> list[dict[str, Any]]:
        """All objects of INTAKE in order."""
        js = self.hub.client.jetstream()
        last = (await js.stream_info("INTAKE")).state
        found: list[dict[str, Any]] = []
        for sequence in range(max(1, last.first_seq), last.last_seq + 1):
            stored = await js.get_msg("INTAKE", sequence, direct=True)
            objects = json.loads(stored.data)
            found += objects if isinstance(objects, list) else [objects]
        return found

    async def statuses(self) -> dict[str, list[str]]:
        """By delivery, in the order they were stored."""
        found: dict[str, list[str]] = {}
        for report in await self.reports():
            word = "/".join(report[name] for name in ("status", "class", "code") if name in report)
            found.setdefault(report["delivery"], []).append(word)
        return found

    async def consumer(self) -> dict[str, Any]:
        return await self.hub.api("CONSUMER.INFO.LEDGER.sms-gw")

    async def acknowledged(self, stream_sequence: int) -> bool:
        try:
            return (await self.consumer())["ack_floor"]["stream_seq"] >= stream_sequence
        except ServerRefused:  # the gateway has not made it yet
            return False


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with NatsServer(tmp_path) as server:
        hub = await connect(
            server.url, name="hub", user="hub", password=server.hub.password, wait_s=10
        )
        try:
            await provision(hub, partitions=PARTITIONS, sizes=SMALL)
            yield World(server, hub)
        finally:
            await hub.close()


async def take(deliveries: Deliveries, count: int = 1) -> list[Parcel]:
    async with asyncio.timeout(20):
        return [await anext(deliveries) for _ in range(count)]


async def nothing_more(deliveries: Deliveries) -> asyncio.Task[Parcel]:
    """A task that waits for the next parcel, after all that is ready was given out."""
    waiting = asyncio.create_task(anext(deliveries))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    return waiting


# ---- taking deliveries -----------------------------------------------------------------------


async def test_an_array_is_acknowledged_when_all_of_it_is_settled(world: World) -> None:
    await world.tell(*map(delivery, (1, 2, 3)))
    await world.tell(delivery(4), subject="hub.out.sms.3")
    await world.tell(delivery(5), subject="hub.out.push.0")
    async with world.gateway() as gateway:
        one, two, three, four = await take(gateway.deliveries(), 4)
        assert [one.id, four.id] == ["shop:i-1:1", "shop:i-4:1"]
        assert (one.text, one.content, one.again) == ("text 1", {"text": "text 1"}, False)
        assert "13900000001" not in repr(one) and "text" not in repr(one)
        await one.sent(provider_id="p-1")
        await three.failed("dead_address", code="21211")
        await four.unknown()
        await eventually(lambda: four_only(world))
        await two.done()
        await eventually(lambda: world.acknowledged(2))
        await one.delivered()  # more may follow
        await gateway.receipt("shop:i-2:1", "c-2", "delivered")
    assert await world.statuses() == {
        "shop:i-1:1": ["sent", "delivered"],
        "shop:i-2:1": ["delivered"],
        "shop:i-3:1": ["failed/dead_address/21211"],
        "shop:i-4:1": ["unknown"],
    }


async def four_only(world: World) -> bool:
    found = await world.consumer()
    return found["num_ack_pending"] == 1 and found["ack_floor"]["stream_seq"] == 0


async def test_one_of_a_customer_at_a_time_and_a_bounded_number_of_all(world: World) -> None:
    of_one = [delivery(number, customer="c") for number in range(3)]
    await world.tell(*of_one, *map(delivery, range(10, 30)))
    async with world.gateway(in_flight=6) as gateway:
        deliveries = gateway.deliveries()
        first, *others = await take(deliveries, 4)
        assert first.id == "shop:i-0:1"
        assert [parcel.delivery.customer for parcel in others] == ["c-10", "c-11", "c-12"]
        waiting = await nothing_more(deliveries)  # six are open, two of them behind the first
        assert deliveries.open == 6
        await first.retry(0)
        with pytest.raises(NotHeld):
            await first.sent()
        again = await waiting
        assert (again.id, again.tries) == ("shop:i-0:1", 1)  # before what is behind it
        await again.sent()
        (second,) = await take(deliveries)
        assert second.id == "shop:i-1:1"


async def test_what_is_given_back_comes_again_without_its_settled_neighbours(world: World) -> None:
    await world.tell(*map(delivery, (1, 2)))
    async with world.gateway() as gateway:
        deliveries = gateway.deliveries()
        one, two = await take(deliveries, 2)
        await one.give_back()
        await two.sent()
        (again,) = await take(deliveries)
        assert (again.id, again.again) == (one.id, True)
        await again.sent()
        await eventually(lambda: world.acknowledged(1))
        assert gateway.counts["repeats"] == 1


async def test_what_is_not_settled_at_the_end_comes_to_the_next(world: World) -> None:
    await world.tell(*map(delivery, (1, 2)))
    async with world.gateway() as gateway:
        one, _ = await take(gateway.deliveries(), 2)
        await one.sent()
    seen = Seen()
    seen.add(one.id)  # what a gateway keeps that must find repeats after a restart too
    async with world.gateway(seen=seen) as gateway:
        (two,) = await take(gateway.deliveries())
        assert (two.id, two.again) == ("shop:i-2:1", True)


async def test_after_a_crash_it_comes_again_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTCOME_ACK_WAIT_S", 1)
    await world.tell(delivery(1))
    async with world.gateway() as crashed, world.gateway() as gateway:
        await take(crashed.deliveries())
        assert crashed._connection is not None
        await crashed._connection.close()  # not a word to the server
        (parcel,) = await take(gateway.deliveries())
        assert parcel.again


async def test_an_expired_delivery_is_not_given_out(world: World) -> None:
    await world.tell(delivery(1, expires_at=PAST), delivery(2))
    async with world.gateway() as gateway:
        (two,) = await take(gateway.deliveries())
        assert two.id == "shop:i-2:1"
        await eventually(lambda: gateway.counts["failed"])
    async with world.gateway() as gateway:  # it may be that the last one sent it in time
        waiting = asyncio.create_task(take(gateway.deliveries(), 1))
        await eventually(lambda: gateway.counts["unknown"])
        await waiting
    assert await world.statuses() == {"shop:i-1:1": ["failed/expired", "unknown/expired"]}


async def test_accounts_of_others_are_passed_over(world: World) -> None:
    strange = delivery(1) | {"priority": {"of": "a newer hub"}}
    await world.tell(delivery(2), delivery(3, account="inbox"), strange)
    await world.tell(delivery(4))
    async with world.gateway(accounts={"inbox"}) as gateway:
        (three,) = await take(gateway.deliveries())
        await three.sent()
        await eventually(lambda: world.acknowledged(2))
        assert gateway.counts["others"] == 3
    assert await world.statuses() == {"shop:i-3:1": ["sent"]}


async def test_what_cannot_be_read_is_reported_and_passed_over(world: World) -> None:
    strange = delivery(1) | {"priority": {"of": "a newer hub"}}
    await world.tell(strange, delivery(2))
    await world.tell({"nothing": "known"})
    await publish(world.hub, "hub.out.sms.1", b"[not JSON")
    async with world.gateway() as gateway:
        (two,) = await take(gateway.deliveries())
        await two.sent()
        await eventually(lambda: world.acknowledged(3))
    assert (await world.statuses())["shop:i-1:1"] == ["failed/config/unreadable"]


# ---- reporting -------------------------------------------------------------------------------


async def test_reports_are_grouped_and_stored_once_though_the_server_dies(world: World) -> None:
    count = 600
    for start in range(0, count, 100):
        await world.tell(*map(delivery, range(start, start + 100)))
    taken: Counter[str] = Counter()

    async def send(parcel: Parcel) -> None:
        taken[parcel.id] += 1
        await parcel.sent(provider_id=f"p-{parcel.id}")
        await gateway.receipt(parcel.id, parcel.delivery.customer, "delivered")

    async with world.gateway() as gateway:
        serving = asyncio.create_task(gateway.serve(send))
        await eventually(lambda: gateway.counts["delivered"] >= 100)
        world.server.kill()
        await world.server.start()
        await eventually(lambda: gateway.counts["delivered"] == count, 40)
        gateway.stop()
        await serving
    await eventually(lambda: world.hub.connected)
    assert set(taken.values()) == {1}
    statuses = await world.statuses()
    assert len(statuses) == count
    assert set(map(tuple, statuses.values())) == {("sent", "delivered")}
    last = (await world.hub.client.jetstream().stream_info("INTAKE")).state.last_seq
    assert last < 2 * count / 4


async def test_a_report_waits_until_the_hub_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISH_PATIENCE_S", 0.1)
    monkeypatch.setattr(limits, "PUBLISH_TIMEOUT_S", 0.1)
    await world.tell(*map(delivery, (1, 2)))
    async with world.gateway() as gateway:
        one, two = await take(gateway.deliveries(), 2)
        world.server.kill()
        with pytest.raises(GatewayUnavailable):
            await gateway.inbound("m-1", "c-1", "main", "hi")  # the provider keeps it
        waiting = asyncio.create_task(one.sent())
        await world.server.start()
        await waiting
        await eventually(lambda: world.hub.connected)
        assert await world.statuses() == {"shop:i-1:1": ["sent"]}
        world.server.kill()
        waiting = asyncio.create_task(two.sent())
        gateway.stop()
        with pytest.raises(GatewayUnavailable):
            await waiting
        await world.server.start()


async def test_inbound_messages_and_commands_are_stored_once(world: World) -> None:
    async with world.gateway() as gateway:
        for _ in range(2):
            await gateway.inbound("id with\nanything", "c-1", "main", "TD")
            stop = {"id": "in-7", "customer": "c-1", "op": "dnd.set", "scope": "channel:sms"}
            await gateway.command(stop)
    inbound, command = await world.reports()
    assert (inbound["channel"], inbound["content"]) == ("sms", {"text": "TD"})
    assert (command["app"], command["op"]) == ("sms-gw", "dnd.set")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda gateway: gateway.receipt("no id", "c-1", "sent"), "delivery"),
        (lambda gateway: gateway.receipt("shop:i-1:1", "no key", "sent"), "customer"),
        (lambda gateway: gateway.receipt("shop:i-1:1", "c-1", "lost"), "status"),
        (lambda gateway: gateway.receipt("shop:i-1:1", "c-1", "sent", failure="config"), "class"),
        (lambda gateway: gateway.inbound("m", "c-1", "main", {"x": object()}), "JSON"),
        (lambda gateway: gateway.command({"id": "x", "customer": "c-1", "op": "dance"}), "op"),
        (lambda gateway: gateway.command([1]), "object"),
    ],
)
async def test_an_invalid_report_is_refused_here(world: World, call: Any, fault: str) -> None:
    async with world.gateway() as gateway:
        with pytest.raises(InvalidReport, match=fault):
            await call(gateway)
    assert await world.reports() == []


# ---- serving ---------------------------------------------------------------------------------


async def test_no_error_of_a_send_is_lost(world: World) -> None:
    await world.tell(*map(delivery, range(4)))

    async def send(parcel: Parcel) -> None:
        match parcel.id, parcel.tries:
            case "shop:i-0:1", _:
                raise ValueError("+8613900000001")
            case "shop:i-1:1", 0:
                await parcel.retry(0)
            case "shop:i-2:1", _:
                await parcel.sent(provider_id="x" * 1_000)  # a bug of the gateway
            case "shop:i-3:1", _:
                pass  # taken over: receipts come later
            case _:
                await parcel.sent()

    async with world.gateway() as gateway:
        serving = asyncio.create_task(gateway.serve(send))
        await eventually(lambda: world.acknowledged(1))
        with pytest.raises(GatewayError, match="one reader"):
            await gateway.serve(send)
        gateway.stop()
        await serving
    assert await world.statuses() == {
        "shop:i-0:1": ["unknown/ValueError"],
        "shop:i-1:1": ["sent"],
        "shop:i-2:1": ["unknown/InvalidReport"],
    }


async def test_cancelled_it_gives_everything_back(world: World) -> None:
    await world.tell(*map(delivery, range(4)))
    started: set[str] = set()

    async def send(parcel: Parcel) -> None:
        started.add(parcel.id)
        await asyncio.Event().wait()

    async with world.gateway() as gateway:
        serving = asyncio.create_task(gateway.serve(send))
        await eventually(lambda: len(started) == 4)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    async with world.gateway() as gateway:
        assert {parcel.id for parcel in await take(gateway.deliveries(), 4)} == started


async def test_connecting_says_what_is_wrong(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        with pytest.raises(GatewayUnavailable, match="tact up"):
            await Gateway(server.url, "gw", "sms").open()
        with pytest.raises(GatewayRefused, match="credentials"):
            await Gateway(server.url, "gw", "sms", user="hub", password="guess").open()
    with pytest.raises(GatewayUnavailable, match="async with"):
        Gateway(server.url, "gw", "sms").deliveries()
    for bad in (("GW", "sms", 1), ("gw", "fax", 1), ("gw", "sms", 0)):
        with pytest.raises(ConfigError):
            Gateway(server.url, bad[0], bad[1], in_flight=bad[2])
    for accounts in ("inbox", []):
        with pytest.raises(ConfigError, match="accounts"):
            Gateway(server.url, "gw", "sms", accounts=accounts)


def test_seen_is_bounded() -> None:
    seen = Seen(most=2)
    for name in ("a", "b", "a", "c"):
        seen.add(name)
    assert [name in seen for name in "abc"] == [True, False, True]
    assert len(seen) == 2


# ---- in another language, and a whole hub ------------------------------------------------------

PEERS = Path(__file__).parents[1] / "peers"
POLICY = """
version = 1
timezone = "Asia/Shanghai"
hold_max = "30d"
[categories.otp]
route = ["sms"]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm packages of tests/peers, installed outside the tree."""
    directory = tmp_path_factory.mktemp("peers")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PEERS / name, directory)
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine")
    done = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund"], cwd=directory, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("npm cannot install the packages of tests/peers here")
    return directory / "node_modules"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "policy.toml").write_text(POLICY)
    hub = Hub(tmp_path, ["--policy", "policy.toml"])
    try:
        yield hub.start()
    finally:
        hub.stop(signal.SIGKILL)


def life(hub: Hub, intent: str) -> list[str]:
    """The states an application was told, in order."""
    done = hub.tact("trace", "shop", intent, "--json")
    return [json.loads(line)["state"] for line in done.stdout.splitlines()]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gateway_in_another_language_serves_a_channel(hub: Hub, packages: Path) -> None:
    for number in range(3):
        to = "sms=+8613900000000" if number == 2 else f"sms=+861390000000{number + 1}"
        assert hub.send(category="otp", id=f"o-{number}", to=to)["state"] == "dispatched"
    environment = {"NATS_URL": hub.ready["nats"], "NODE_PATH": str(packages)}
    node = subprocess.Popen(
        ["node", str(PEERS / "gateway.js"), "node-gw", "sms"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
    )
    try:
        for number in range(2):
            told = within(30, lambda number=number: (t := life(hub, f"o-{number}"))[2:] and t)
            assert told == ["dispatched", "sent", "delivered"]
        assert within(30, lambda: (t := life(hub, "o-2"))[1:] and t) == ["dispatched", "failed"]
        node.send_signal(signal.SIGTERM)
        output, _ = node.communicate(timeout=30)
        assert json.loads(output.splitlines()[-1]) == {
            "deliveries": 3,
            "repeats": 0,
            "receipts": 5,
        }
        assert node.returncode == 0
    finally:
        node.kill()
        node.communicate()
    asyncio.run(take_over(hub, "o-3"))
    assert life(hub, "o-3") == ["dispatched", "sent", "delivered"]
    assert hub.send(category="otp", id="o-4")["state"] != "dispatched"


async def take_over(hub: Hub, intent: str) -> None:
    """The Python library goes on where the other gateway left off; then the customer opts out."""
    assert hub.send(category="otp", id=intent)["state"] == "dispatched"
    async with Gateway.connect(hub.ready["nats"], name="node-gw", channel="sms") as gateway:
        (parcel,) = await take(gateway.deliveries())
        assert (parcel.id, parcel.again) == (f"shop:{intent}:1", False)
        await parcel.sent()
        await gateway.receipt(parcel.id, "c-1", "delivered")
        await gateway.inbound("m-1", "c-1", parcel.delivery.account, "TD")
        await gateway.command(
            {"id": "m-1", "customer": "c-1", "op": "dnd.set", "scope": "channel:sms"}
        )
    await eventually(lambda: life(hub, intent)[2:], 30)
    await eventually(lambda: "channel:sms" in hub.tact("customer", "c-1", "--json").stdout, 30)
