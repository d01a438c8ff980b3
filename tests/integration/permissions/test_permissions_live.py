"""Who may read events and the conversations of accounts, by deploy/nats.conf on a real server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from hub.client import HubClient, HubUnavailable
from tests.support.ledger import eventually
from tests.support.permissions import (
    FORBIDDEN_WRITES,
    World,
    password,
    stored,
)

pytestmark = pytest.mark.nats


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
