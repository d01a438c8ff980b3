"""What deploy/nats.conf lets whom do: asked of a real server, with plain nats-py as others do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from channels.gateway import Gateway, GatewayUnavailable
from hub.client import HubClient
from hub.service.natsd import NatsServer
from tests.support.ledger import eventually
from tests.support.permissions import (
    FORBIDDEN_WRITES,
    World,
    password,
    provision,
    refused,
    stored,
)

pytestmark = pytest.mark.nats


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
    reply = None
    async with asyncio.timeout(10):
        while reply is None:  # a subscription is seen from another account a moment later
            with contextlib.suppress(nats.errors.NoRespondersError):
                reply = await ops.request("hub.ask.3", b"{}", timeout=2)
    assert reply.data == b"state"
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
