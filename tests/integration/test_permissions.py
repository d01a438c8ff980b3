"""What deploy/nats.conf lets whom do: asked of a real server, with plain nats-py as others do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from channels.gateway import Gateway, GatewayUnavailable
from hub import limits
from hub.client import HubClient, HubUnavailable
from hub.ledger.streams import StreamSizes, stream_configs
from hub.service.natsd import NatsServer, find_binary
from tests.support.ledger import eventually

pytestmark = pytest.mark.nats

CONFIG = Path(__file__).parents[2] / "deploy" / "nats.conf"
USERS = ("hub", "sys", "shop", "crm", "desk", "sms-gw", "ops")
SIZES = StreamSizes(8 * limits.MIB, 8 * limits.MIB, 8 * limits.MIB)
FORBIDDEN_WRITES = (
    "hub.out.sms.0",
    "hub.outcome.shop",
    "hub.outcome.crm",
    "hub.event.shop",
    "hub.live.sales",
    "hub.parked.0.b",
    "hub.log.0",
    "hub.in.0.normal.shop",
    "hub.snap.0.a",
)


def password(user: str) -> str:
    return f"p{user.replace('-', '')}secret"


def with_crm(text: str) -> str:
    """The file with a second application, made as its comment says: the block copied."""
    start = text.index("  SHOP: {")
    block = text[start : text.index("\n  }\n", start) + 5]
    return text.replace(block, block + block.replace("SHOP", "CRM").replace("shop", "crm"))


class World:
    """A server with the documented configuration, and connections to it by user."""

    def __init__(self, url: str, stack: contextlib.AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    async def connect(self, user: str, **options: Any) -> Client:
        client = await nats.connect(self.url, user=user, password=password(user), **options)
        self._stack.push_async_callback(client.close)
        return client

    async def hub(self) -> JetStreamContext:
        return (await self.connect("hub")).jetstream()


async def stored(js: JetStreamContext) -> dict[str, int]:
    """Messages by subject in all streams."""
    counts: dict[str, int] = {}
    for stream in ("INTAKE", "LEDGER", "SNAPSHOTS"):
        counts |= (await js.stream_info(stream, subjects_filter=">")).state.subjects or {}
    return counts


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("permissions")
    text = CONFIG.read_text().replace('"/data"', f'"{directory / "store"}"')
    config = directory / "nats.conf"
    config.write_text(with_crm(text))
    variable = {f"TACT_{user.upper().replace('-', '_')}_PASSWORD": password(user) for user in USERS}
    command = [str(find_binary()), "--config", str(config), "-a", "127.0.0.1", "-p", "-1"]
    command += ["-l", str(directory / "log"), "-m", "-1", "--ports_file_dir", str(directory)]

    def address() -> str:
        for file in directory.glob("*.ports"):
            with contextlib.suppress(json.JSONDecodeError):  # being written
                return str(json.loads(file.read_text())["nats"][0])
        return ""

    with subprocess.Popen(command, env={**os.environ, **variable}) as process:
        try:
            asyncio.run(eventually(address))
            yield address()
        finally:
            process.kill()


@pytest.fixture
async def world(server_url: str) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(server_url, stack)
        await provision(await world.hub())
        yield world


async def provision(js: JetStreamContext) -> None:
    """The hub's streams, new and empty."""
    for config in stream_configs(partitions=4, replicas=1, sizes=SIZES):
        with contextlib.suppress(NotFoundError):
            await js.delete_stream(config["name"])
        await js._api_request(
            f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(config).encode()
        )


async def refused(client: Client, subject: str, body: object = None) -> None:
    """A request that reaches nobody."""
    payload = b"" if body is None else json.dumps(body).encode()
    with pytest.raises(NoRespondersError):
        await client.request(subject, payload, timeout=2)


# ---- an application --------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["urgent", "normal", "bulk", "command"])
async def test_an_app_publishes_under_its_own_name(world: World, lane: str) -> None:
    shop, hub = (await world.connect("shop")).jetstream(), await world.hub()
    first = await shop.publish(f"hub.to.{lane}.shop.c1", b"{}", headers={"Nats-Msg-Id": "shop:1"})
    again = await shop.publish(f"hub.to.{lane}.shop.c1", b"{}", headers={"Nats-Msg-Id": "shop:1"})
    assert (first.stream, again.duplicate) == ("INTAKE", True)
    (subject,) = await stored(hub)
    assert subject.startswith("hub.in.") and subject.endswith(f".{lane}.shop")


@pytest.mark.parametrize(
    "subject",
    [
        "hub.to.normal.crm.c1",
        "hub.to.command.ops.c1",
        "hub.to.receipt.shop.c1",
        "hub.to.inbound.shop.c1",
        "hub.to.receipt.sms-gw.c1",
        "hub.to.normal.shop",
        "hub.to.normal.shop.c1.more",
        *FORBIDDEN_WRITES,
    ],
)
async def test_an_app_publishes_nothing_else(world: World, subject: str) -> None:
    shop, hub = await world.connect("shop"), await world.hub()
    with pytest.raises(NoStreamResponseError):
        await shop.jetstream().publish(subject, b"{}", timeout=2)
    assert await stored(hub) == {}


async def test_a_reply_subject_writes_nothing(world: World) -> None:
    """The way around permissions: let the server itself write, as a reply."""
    shop, hub = await world.connect("shop"), await world.hub()
    await hub.publish("hub.outcome.shop", b"{}")
    await shop.jetstream().pull_subscribe("hub.outcome.shop", durable="shop")
    requests = (
        "hub.to.normal.shop.c1",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.CONSUMER.INFO.LEDGER.shop",
        "$JS.API.CONSUMER.MSG.NEXT.LEDGER.shop",
    )
    for request in requests:
        for reply in (*FORBIDDEN_WRITES, "hub.to.normal.crm.c1", "$JS.API.STREAM.PURGE.LEDGER"):
            await shop.publish(request, b"", reply=reply)
    await shop.flush()
    own = await shop.jetstream().publish("hub.to.normal.shop.c1", b"{}")  # all before it is done
    counts = await stored(hub)
    assert counts.pop("hub.outcome.shop") == 1
    assert {subject.split(".", 3)[3] for subject in counts} == {"normal.shop"}
    assert own.seq == sum(counts.values())


async def test_an_app_reads_its_own_outcomes(world: World) -> None:
    shop, hub = await world.connect("shop"), await world.hub()
    for text in (b"1", b"2", b"3"):
        await hub.publish("hub.outcome.shop", text)
    await hub.publish("hub.outcome.crm", b"not yours")
    reader = await shop.jetstream().pull_subscribe("hub.outcome.shop", durable="shop")
    messages = await reader.fetch(2, timeout=2)
    assert [(message.subject, message.data) for message in messages] == [
        ("hub.outcome.shop", b"1"),
        ("hub.outcome.shop", b"2"),
    ]
    for message in messages:
        await message.ack_sync()
    await shop.close()

    again = await world.connect("shop")
    reader = await again.jetstream().pull_subscribe("hub.outcome.shop", durable="shop")
    assert [message.data for message in await reader.fetch(2, timeout=0.5)] == [b"3"]
    assert (await reader.consumer_info()).ack_floor.consumer_seq == 2


@pytest.mark.parametrize(
    ("call", "config"),
    [
        (
            "CREATE.LEDGER.shop.hub.outcome.crm",
            {"name": "shop", "filter_subject": "hub.outcome.crm"},
        ),
        (
            "CREATE.LEDGER.crm.hub.outcome.shop",
            {"name": "crm", "filter_subject": "hub.outcome.shop"},
        ),
        (
            "CREATE.LEDGER.shop-events.hub.event.crm",
            {"name": "shop-events", "filter_subject": "hub.event.crm"},
        ),
        (
            "CREATE.LEDGER.shop-events.hub.live.sales",
            {"name": "shop-events", "filter_subject": "hub.live.sales"},
        ),
        (
            "CREATE.LEDGER.desk-live-sales.hub.live.sales",
            {"name": "desk-live-sales", "filter_subject": "hub.live.sales"},
        ),
        ("CREATE.LEDGER.shop", {"name": "shop"}),
        ("CREATE.LEDGER", {}),
        ("DURABLE.CREATE.LEDGER.shop", {"durable_name": "shop"}),
        ("CREATE.INTAKE.shop.hub.in.*.*.*", {"name": "shop", "filter_subject": "hub.in.*.*.*"}),
    ],
)
async def test_an_app_makes_no_other_consumer(
    world: World, call: str, config: dict[str, str]
) -> None:
    shop = await world.connect("shop")
    body = {"stream_name": "LEDGER", "config": config}
    await refused(shop, f"$JS.API.CONSUMER.{call}", body)


@pytest.mark.parametrize(
    "config",
    [
        {"filter_subject": "hub.outcome.crm"},
        {"filter_subject": "hub.outcome.>"},
        {"filter_subjects": ["hub.outcome.shop", "hub.outcome.crm"]},
        {"filter_subjects": ["hub.outcome.crm"]},
        {},
        {"filter_subject": "hub.outcome.shop", "filter_subjects": ["hub.outcome.crm"]},
        {"filter_subject": "hub.outcome.shop", "name": "crm", "durable_name": "crm"},
    ],
)
async def test_the_body_cannot_ask_for_more_than_the_subject(
    world: World, config: dict[str, Any]
) -> None:
    shop, hub = (await world.connect("shop")).jetstream(), await world.hub()
    body = {
        "stream_name": "LEDGER",
        "config": {"name": "shop", "durable_name": "shop", "ack_policy": "explicit"} | config,
    }
    with pytest.raises(APIError):
        await shop._api_request(
            "$JS.API.CONSUMER.CREATE.LEDGER.shop.hub.outcome.shop", json.dumps(body).encode()
        )
    assert await hub.consumers_info("LEDGER") == []


async def test_an_app_cannot_touch_the_consumer_of_another(world: World) -> None:
    shop, crm, hub = await world.connect("shop"), await world.connect("crm"), await world.hub()
    await hub.publish("hub.outcome.crm", b"private")
    theirs = await crm.jetstream().pull_subscribe("hub.outcome.crm", durable="crm")
    (message,) = await theirs.fetch(1, timeout=2)
    for call in ("MSG.NEXT", "INFO", "DELETE", "RESET", "PAUSE"):
        await refused(shop, f"$JS.API.CONSUMER.{call}.LEDGER.crm")
    await shop.publish(message.reply, b"")  # an acknowledgement of what was given to another
    await shop.flush()
    info = await theirs.consumer_info()
    assert (info.num_ack_pending, info.ack_floor.consumer_seq) == (1, 0)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("DIRECT.GET.LEDGER.hub.outcome.crm", None),
        ("DIRECT.GET.LEDGER", {"last_by_subj": "hub.outcome.crm"}),
        ("DIRECT.GET.LEDGER", {"multi_last": ["hub.outcome.crm"]}),
        ("DIRECT.GET.LEDGER.hub.live.sales", None),
        ("DIRECT.GET.LEDGER", {"seq": 1, "next_by_subj": "hub.live.*", "batch": 10}),
        ("STREAM.MSG.GET.LEDGER", {"seq": 1}),
        ("STREAM.INFO.LEDGER", {"subjects_filter": ">"}),
        ("STREAM.SNAPSHOT.LEDGER", {"deliver_subject": "_INBOX.x"}),
        ("CONSUMER.NAMES.LEDGER", None),
    ],
)
async def test_an_app_cannot_look_into_the_ledger(world: World, call: str, body: object) -> None:
    shop, hub = await world.connect("shop"), await world.hub()
    await hub.publish("hub.outcome.crm", b"private")
    await refused(shop, f"$JS.API.{call}", body)


async def test_nobody_hears_what_is_not_sent_to_them(world: World) -> None:
    shop, hub = await world.connect("shop"), await world.hub()
    crm = await world.connect("crm")
    heard: list[str] = []

    async def listen(message: nats.aio.msg.Msg) -> None:
        heard.append(message.subject)

    await shop.subscribe(">", cb=listen)
    await shop.flush()
    await crm.jetstream().publish("hub.to.normal.crm.c1", b"{}")
    await hub.publish("hub.outcome.crm", b"private")
    await hub.publish("hub.outcome.shop", b"only through a consumer")
    reader = await crm.jetstream().pull_subscribe("hub.outcome.crm", durable="crm")
    await reader.fetch(1, timeout=2)
    await shop.publish("mine", b"")  # delivered after everything before it
    await eventually(lambda: "mine" in heard)
    assert heard == ["mine"]


@pytest.mark.parametrize("user", ["shop", "sms-gw", "ops"])
@pytest.mark.parametrize(
    "call",
    [
        "STREAM.UPDATE.LEDGER",
        "STREAM.DELETE.LEDGER",
        "STREAM.PURGE.LEDGER",
        "STREAM.PURGE.INTAKE",
        "STREAM.MSG.DELETE.LEDGER",
        "STREAM.CREATE.MINE",
        "STREAM.RESTORE.LEDGER",
        "STREAM.LEADER.STEPDOWN.LEDGER",
        "META.LEADER.STEPDOWN",
        "SERVER.REMOVE",
    ],
)
async def test_only_the_hub_changes_streams(world: World, user: str, call: str) -> None:
    await refused(await world.connect(user), f"$JS.API.{call}", {"seq": 1})


async def test_a_push_consumer_writes_nothing(world: World) -> None:
    shop, hub = (await world.connect("shop")).jetstream(), await world.hub()
    await hub.publish("hub.to.normal.crm.c1", b"{}")
    before = await stored(hub)
    for target in ("hub.to.normal.crm.c2", "$JS.API.STREAM.PURGE.INTAKE", "_INBOX.x"):
        config = {
            "name": "shop",
            "durable_name": "shop",
            "filter_subject": "hub.outcome.shop",
            "deliver_subject": target,
            "ack_policy": "none",
        }
        await shop._api_request(
            "$JS.API.CONSUMER.CREATE.LEDGER.shop.hub.outcome.shop",
            json.dumps({"stream_name": "LEDGER", "config": config}).encode(),
        )
        await hub.publish("hub.outcome.shop", b"")
        assert (await hub.consumer_info("LEDGER", "shop")).delivered.consumer_seq == 0
        await shop.delete_consumer("LEDGER", "shop")
    assert await stored(hub) == before | {"hub.outcome.shop": 3}


async def test_the_client_library_needs_no_more(world: World) -> None:
    intent = {
        "id": "i-1",
        "app": "shop",
        "customer": "c-1",
        "category": "marketing",
        "content": {"text": "hello"},
    }
    outcome = {"intent": "i-1", "app": "shop", "customer": "c-1", "state": "sent", "at": ""}
    hub = await world.hub()
    await hub.publish("hub.outcome.shop", json.dumps([outcome, outcome]).encode())
    login = {"user": "shop", "password": password("shop")}
    async with HubClient.connect(world.url, app="shop", **login) as client:
        assert await client.publish(intent, lane="urgent") == 1
        assert await client.command({"op": "release"} | dict(list(intent.items())[:3])) == 2
        async with asyncio.timeout(5):
            outcomes = client.outcomes()
            assert [(await anext(outcomes)).state for _ in range(2)] == ["sent", "sent"]


async def test_an_app_reads_its_own_events(world: World) -> None:
    shop, hub = (await world.connect("shop")).jetstream(), await world.hub()
    await hub.publish("hub.event.crm", b"not yours")
    await hub.publish("hub.event.shop", b"1")
    reader = await shop.pull_subscribe("hub.event.shop", durable="shop-events")
    (message,) = await reader.fetch(2, timeout=0.5)
    await message.ack_sync()
    assert (message.subject, message.data) == ("hub.event.shop", b"1")


async def test_a_desk_hears_the_account_it_was_given_and_answers(world: World) -> None:
    desk, hub = (await world.connect("desk")).jetstream(), await world.hub()
    await hub.publish("hub.live.sales", b"in")
    await hub.publish("hub.live.boss", b"not yours")
    await hub.publish("hub.live.sales", b"out")
    reader = await desk.pull_subscribe("hub.live.sales", durable="desk-live-sales")
    messages = await reader.fetch(3, timeout=0.5)
    assert [message.data for message in messages] == [b"in", b"out"]
    for message in messages:
        await message.ack_sync()
    for lane in ("urgent", "normal", "command"):
        assert (await desk.publish(f"hub.to.{lane}.desk.c1", b"{}")).stream == "INTAKE"


@pytest.mark.parametrize("subject", ["hub.live.boss", "hub.live.*", "hub.live.>", "hub.event.shop"])
@pytest.mark.parametrize("durable", ["desk-live-sales", "desk-live-boss", "desk"])
async def test_a_desk_hears_nothing_else(world: World, subject: str, durable: str) -> None:
    desk, hub = (await world.connect("desk")).jetstream(), await world.hub()
    with pytest.raises(ServiceUnavailableError):
        await desk.pull_subscribe(subject, durable=durable, stream="LEDGER")
    body = {"stream_name": "LEDGER", "config": {"name": "desk-live-sales"}}
    body["config"] |= {"durable_name": "desk-live-sales", "filter_subject": subject}  # type: ignore[operator]
    with pytest.raises(APIError):  # the way around: the right subject, another body
        await desk._api_request(
            "$JS.API.CONSUMER.CREATE.LEDGER.desk-live-sales.hub.live.sales",
            json.dumps(body).encode(),
        )
    assert await hub.consumers_info("LEDGER") == []


async def test_the_client_library_follows_conversations_and_events_with_no_more(
    world: World,
) -> None:
    hub, login = await world.hub(), {"user": "desk", "password": password("desk")}
    live = {"id": "m-0", "account": "sales", "channel": "wecom", "customer": "c-1"}
    live |= {"direction": "in", "author": "customer", "content": {"text": "hi"}, "at": ""}
    event = {"id": "e", "kind": "waiting", "app": "desk", "customer": "c-1", "rule": "r", "at": ""}
    await hub.publish("hub.event.desk", json.dumps(event).encode())
    await hub.publish("hub.live.sales", json.dumps(live).encode())
    async with HubClient.connect(world.url, app="desk", **login) as client, asyncio.timeout(10):
        assert (await anext(client.events())).kind == "waiting"
        early = client.live("sales", since=datetime(2026, 1, 1, tzinfo=UTC))
        first = await anext(early)
        assert (first.id, bytes(first.content)) == ("m-0", b'{"text": "hi"}')
    more = [live | {"id": f"m-{number}"} for number in (1, 2)]
    await hub.publish("hub.live.sales", json.dumps(more).encode())
    async with HubClient.connect(world.url, app="desk", **login) as client, asyncio.timeout(10):
        again = client.live("sales")  # m-0 was given out and not done with
        assert [(await anext(again)).id for _ in range(3)] == ["m-0", "m-1", "m-2"]
        with pytest.raises(HubUnavailable):
            await anext(client.live("boss"))


async def test_a_conversation_is_followed_from_now_on_unless_told_otherwise(world: World) -> None:
    hub, login = await world.hub(), {"user": "desk", "password": password("desk")}
    live = {"id": "old", "account": "sales", "channel": "wecom", "customer": "c-1"}
    live |= {"direction": "in", "author": "customer", "content": {"text": "hi"}, "at": ""}
    await hub.publish("hub.live.sales", json.dumps(live).encode())
    async with HubClient.connect(world.url, app="desk", **login) as client, asyncio.timeout(10):
        following = asyncio.create_task(anext(client.live("sales")))
        await eventually(lambda: hub.consumers_info("LEDGER"))
        await hub.publish("hub.live.sales", json.dumps(live | {"id": "new"}).encode())
        assert (await following).id == "new"


@pytest.mark.parametrize("user", ["desk", "sms-gw"])
async def test_only_hosts_write_events_and_conversations(world: World, user: str) -> None:
    client, hub = (await world.connect(user)).jetstream(), await world.hub()
    for subject in FORBIDDEN_WRITES:
        with pytest.raises(NoStreamResponseError):
            await client.publish(subject, b"{}", timeout=2)
    assert await stored(hub) == {}


# ---- a gateway, an operator, a stranger --------------------------------------------------------


async def test_a_gateway_reads_its_channel_and_reports(world: World) -> None:
    gateway, hub = (await world.connect("sms-gw")).jetstream(), await world.hub()
    await hub.publish("hub.out.push.0", b"not yours")
    await hub.publish("hub.out.sms.0", b"1")
    await hub.publish("hub.out.sms.3", b"2")
    reader = await gateway.pull_subscribe("hub.out.sms.*", durable="sms-gw")
    messages = await reader.fetch(2, timeout=2)
    assert [message.data for message in messages] == [b"1", b"2"]
    for message in messages:
        await message.ack_sync()
    for lane in ("receipt", "inbound", "command"):
        assert (await gateway.publish(f"hub.to.{lane}.sms-gw.c1", b"{}")).stream == "INTAKE"


@pytest.mark.parametrize(
    "subject",
    [
        "hub.to.normal.sms-gw.c1",
        "hub.to.urgent.sms-gw.c1",
        "hub.to.command.ops.c1",
        "hub.to.receipt.push-gw.c1",
        "hub.to.inbound.shop.c1",
        *FORBIDDEN_WRITES,
    ],
)
async def test_a_gateway_publishes_nothing_else(world: World, subject: str) -> None:
    gateway, hub = await world.connect("sms-gw"), await world.hub()
    with pytest.raises(NoStreamResponseError):
        await gateway.jetstream().publish(subject, b"{}", timeout=2)
    assert await stored(hub) == {}


async def test_the_gateway_library_needs_no_more(world: World) -> None:
    hub = await world.hub()
    delivery = {"id": "shop:i-1:1", "intent": "i-1", "app": "shop", "customer": "c1"}
    delivery |= {"category": "otp", "priority": 5, "channel": "sms", "account": "main", "to": "1"}
    delivery |= {"content": {}, "attempt": 1, "at": "", "expires_at": "2999-01-01T00:00:00Z"}
    second = delivery | {"id": "shop:i-2:1", "customer": "c2"}
    await hub.publish("hub.out.sms.1", json.dumps([delivery, second]).encode())
    login = {"user": "sms-gw", "password": password("sms-gw")}
    async with Gateway.connect(world.url, name="sms-gw", channel="sms", **login) as gateway:
        async with asyncio.timeout(10):
            deliveries = gateway.deliveries()
            first = await anext(deliveries)
            await first.sent()
            await (await anext(deliveries)).give_back()
            again = await anext(deliveries)
            assert (again.id, again.again) == ("shop:i-2:1", True)
            await again.sent()
        await gateway.inbound("m-1", "c1", "main", "STOP")
        stop = {"id": "m-1", "customer": "c1", "op": "dnd.set", "scope": "channel:sms"}
        await gateway.command(stop)
    lanes = {subject.split(".", 3)[3] for subject in await stored(hub) if ".in." in subject}
    assert lanes == {"receipt.sms-gw", "inbound.sms-gw", "command.sms-gw"}
    assert (await hub.consumer_info("LEDGER", "sms-gw")).ack_floor.stream_seq == 1


async def test_a_gateway_that_lacks_a_permission_says_so(world: World) -> None:
    login = {"user": "sms-gw", "password": password("sms-gw")}
    async with Gateway.connect(world.url, name="sms-gw", channel="push", **login) as gateway:
        with pytest.raises(GatewayUnavailable, match="this user may not ask it"):
            await anext(gateway.deliveries())


@pytest.mark.parametrize("subject", ["hub.out.push.*", "hub.out.>", "hub.outcome.shop", ">"])
async def test_a_gateway_reads_no_other_channel(world: World, subject: str) -> None:
    gateway = (await world.connect("sms-gw")).jetstream()
    with pytest.raises(ServiceUnavailableError):
        await gateway.pull_subscribe(subject, durable="sms-gw", stream="LEDGER")


async def test_an_operator_reads_all_and_commands(world: World) -> None:
    ops, hub = await world.connect("ops"), await world.hub()
    await hub.publish("hub.outcome.crm", b"o")
    js = ops.jetstream()
    assert (await js.publish("hub.to.command.ops.c1", b"{}")).stream == "INTAKE"
    assert (await js.stream_info("LEDGER")).state.messages == 1
    assert (await js.get_last_msg("LEDGER", "hub.outcome.crm", direct=True)).data == b"o"
    assert (await js.get_msg("LEDGER", 1)).data == b"o"
    await hub.publish("hub.live.sales", b"l")
    assert (await js.get_last_msg("LEDGER", "hub.live.sales", direct=True)).data == b"l"
    for subject in ("hub.to.normal.ops.c1", "hub.to.command.shop.c1", *FORBIDDEN_WRITES):
        with pytest.raises(NoStreamResponseError):
            await js.publish(subject, b"{}", timeout=2)


async def test_an_operator_asks_and_the_hub_answers(world: World) -> None:
    ops, owner = await world.connect("ops"), await world.connect("hub")

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(b"state")

    await owner.subscribe("hub.ask.3", cb=answer)
    await owner.flush()
    assert (await ops.request("hub.ask.3", b"{}", timeout=2)).data == b"state"
    await refused(await world.connect("shop"), "hub.ask.3")


async def test_nobody_comes_in_without_a_login(world: World) -> None:
    stranger = Client()
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        await stranger.connect(world.url, allow_reconnect=False)
    await stranger.close()


# ---- the embedded server: everybody on this machine, without a login ---------------------------


async def test_embedded_anyone_keeps_to_the_contract(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server, contextlib.AsyncExitStack() as stack:
        owner = await nats.connect(server.url, user="hub", password=server.hub.password)
        stack.push_async_callback(owner.close)
        hub = owner.jetstream()
        await provision(hub)
        client = await nats.connect(server.url)
        stack.push_async_callback(client.close)
        anyone = client.jetstream()

        assert (await anyone.publish("hub.to.normal.shop.c1", b"{}")).seq == 1
        await hub.publish("hub.outcome.shop", b"1")
        await hub.publish("hub.out.sms.0", b"2")
        await hub.publish("hub.live.sales", b"3")
        await hub.publish("hub.event.shop", b"4")
        readers = (("hub.outcome.shop", "shop"), ("hub.out.sms.*", "sms-gw"))
        readers += (("hub.live.sales", "shop-live-sales"), ("hub.event.shop", "shop-events"))
        for subject, name in readers:
            reader = await anyone.pull_subscribe(subject, durable=name)
            (message,) = await reader.fetch(1, timeout=2)
            await message.ack_sync()
        pushed = await anyone.subscribe("hub.outcome.shop", durable="push", manual_ack=True)
        await (await pushed.next_msg(timeout=2)).ack_sync()
        assert (await anyone.get_last_msg("LEDGER", "hub.out.sms.0", direct=True)).data == b"2"
        for subject, text in (("hub.live.sales", b"3"), ("hub.event.shop", b"4")):
            assert (await anyone.get_last_msg("LEDGER", subject, direct=True)).data == text

        before = await stored(hub)
        for subject in FORBIDDEN_WRITES:
            with pytest.raises(NoStreamResponseError):
                await anyone.publish(subject, b"{}", timeout=2)
            await client.publish("$JS.API.INFO", b"", reply=subject)
        for call in ("UPDATE", "DELETE", "PURGE", "MSG.DELETE"):
            await refused(client, f"$JS.API.STREAM.{call}.LEDGER", {"seq": 1})
        await client.flush()
        assert await stored(hub) == before
