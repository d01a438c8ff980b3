"""Requests of providers that name no account themselves: resolved at the HTTP endpoint, stored by
every owner concerned before they are answered. A real NATS server; owners and provider are played.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import msgspec
import pytest

from actors.account_host import Asked
from channels.accounts import AccountConfig
from channels.provider import Callback, Reply
from channels.registry import PROVIDERS, Kind
from channels.wecom.callbacks import Event
from channels.wecom.config import AppConfig, KfConfig, MemberConfig
from channels.wecom.crypto import Crypto
from hub.clock import SystemClock
from hub.contract.subjects import account_log, account_partition
from hub.ledger.connection import Connection
from hub.ledger.questions import serve
from hub.service import accounts as service
from hub.service.accounts import Callbacks
from hub.service.http import HttpServer, make_app
from hub.service.watch import Watch
from tests.support.ledger import connected, eventually, nats_server

pytestmark = pytest.mark.nats

PARTITIONS = 4
URL = "/v1/callbacks/app"


class Played:
    """The directory of the played provider: a GET is a check, a POST names accounts."""

    def __init__(self, accounts: Mapping[str, AccountConfig]) -> None:
        self._accounts = accounts

    def targets(
        self, account: AccountConfig, callback: Callback, now_ms: int
    ) -> Reply | list[tuple[str, Callback]]:
        assert now_ms > 0 and account.name in self._accounts
        if callback.method == "GET":
            return Reply(body=callback.query["echostr"].encode())
        if callback.body == b"forged":
            return Reply(403)
        names = [name for name in callback.body.decode().split() if name in self._accounts]
        return [(name, Callback("EVENT", {}, {}, name.encode())) for name in names]


class Owners:
    """Of all partitions: stores what it is asked, when it may."""

    def __init__(self, connection: Connection) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.replies: dict[str, list[Reply]] = {}
        """What an account answers, one after the other; then 200."""
        self.may = asyncio.Event()
        self.may.set()
        self._connection = connection

    async def serve(self, *names: str) -> None:
        numbers = {account_partition(name, PARTITIONS) for name in names}
        for number in numbers:
            log = account_log(number, PARTITIONS)
            await serve(self._connection, log, self._answer, at_once=8)

    async def _answer(self, payload: bytes) -> bytes:
        asked = msgspec.msgpack.decode(payload, type=Asked)
        self.asked.append((asked.account, asked.callback.body))
        await self.may.wait()
        replies = self.replies.get(asked.account)
        return msgspec.msgpack.encode(replies.pop(0) if replies else Reply())


class World:
    """The endpoint with a configuration, a client of it, and the owners."""

    def __init__(self, watch: Watch, owners: Owners, client: httpx.AsyncClient) -> None:
        self.watch = watch
        self.owners = owners
        self.client = client

    def configure(self, *names: str) -> None:
        self.watch.accounts = tuple(
            AccountConfig(name=name, channel="wecom", provider="played") for name in names
        )

    async def told(self, body: str, **headers: str) -> httpx.Response:
        return await self.client.post(URL, content=body.encode(), headers=headers)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    kind = Kind("wecom", "played", __name__, "", "", "", directory=f"{__name__}:Played")
    monkeypatch.setitem(PROVIDERS, "played", kind)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server(tmp_path))
        connection = await stack.enter_async_context(connected(server))
        watch = Watch(SystemClock())
        watch.connection = connection
        callbacks = Callbacks(watch)
        callbacks.partitions = PARTITIONS
        http = HttpServer("127.0.0.1", 0)
        stack.push_async_callback(http.stop)
        http.start(make_app(watch, callbacks.take))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=http.url, timeout=httpx.Timeout(30))
        )
        world = World(watch, Owners(connection), client)
        world.configure("app", "kf", "member")
        yield world


async def test_a_url_is_checked_without_any_owner(world: World) -> None:
    world.watch.connection = None
    answer = await world.client.get(URL, params={"echostr": "plain words"})
    assert (answer.status_code, answer.content) == (200, b"plain words")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await world.told("forged")).status_code == 403


async def test_an_event_is_answered_when_all_have_stored_it(world: World) -> None:
    await world.owners.serve("kf", "member")
    world.owners.may.clear()
    waiting = asyncio.create_task(world.told("kf member"))
    await eventually(lambda: len(world.owners.asked) == 2)
    assert not waiting.done()
    world.owners.may.set()
    answer = await waiting
    assert (answer.status_code, answer.content) == (200, b"success")
    assert sorted(world.owners.asked) == [("kf", b"kf"), ("member", b"member")]


async def test_an_event_for_nobody_is_not_repeated(world: World) -> None:
    answer = await world.told("somebody-else")
    assert (answer.status_code, answer.content) == (200, b"success")


async def test_one_that_stores_nothing_is_reason_enough_to_repeat(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.owners.serve("kf", "member")
    world.owners.replies["kf"] = [Reply(404)]
    assert (await world.told("kf member")).status_code == 404
    monkeypatch.setattr(service, "EVENT_S", 0.3)
    world.owners.replies["kf"] = [Reply(503)] * 100
    assert (await world.told("kf member")).status_code == 503


async def test_an_owner_that_is_replaced_is_waited_for(world: World) -> None:
    await world.owners.serve("kf")
    world.owners.replies["kf"] = [Reply(503)]
    assert (await world.told("kf")).status_code == 200
    assert len(world.owners.asked) == 2
    waiting = asyncio.create_task(world.told("member"))  # nobody owns it yet
    await asyncio.sleep(0)
    await world.owners.serve("member")
    assert (await waiting).status_code == 200


async def test_without_an_owner_it_is_repeated_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EVENT_S", 0.3)
    assert (await world.told("kf")).status_code == 503
    world.watch.connection = None
    assert (await world.told("kf")).status_code == 503


async def test_more_than_is_kept_is_refused_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.owners.serve("kf")
    monkeypatch.setattr(service, "EVENTS_WAITING", 1)
    world.owners.may.clear()
    first = asyncio.create_task(world.told("kf"))
    await eventually(lambda: len(world.owners.asked) == 1)
    assert (await world.told("kf")).status_code == 503
    world.owners.may.set()
    assert (await first).status_code == 200
    assert (await world.told("kf")).status_code == 200


async def test_another_configuration_counts_from_the_next_request_on(world: World) -> None:
    await world.owners.serve("kf", "later")
    assert (await world.told("later")).content == b"success"
    assert world.owners.asked == []
    world.configure("app", "kf", "later")
    assert (await world.told("later")).content == b"success"
    assert world.owners.asked == [("later", b"later")]
    world.configure("kf")  # without the account of the address: its owner says what it is
    await world.owners.serve("app")
    world.owners.replies["app"] = [Reply(404)]
    assert (await world.told("kf")).status_code == 404


@pytest.mark.parametrize("kind", ["text/xml", "application/xml; charset=utf-8", "text/plain", ""])
async def test_a_body_is_taken_as_it_is_whatever_it_is_called(world: World, kind: str) -> None:
    await world.owners.serve("kf")
    assert (await world.told("kf", **({"content-type": kind} if kind else {}))).status_code == 200


async def test_methods_and_sizes_are_bounded(world: World) -> None:
    assert (await world.client.put(URL, content=b"kf")).status_code == 405
    assert (await world.client.delete(URL)).status_code == 405
    assert (await world.told(" " * service.EVENT_BYTES)).status_code == 200
    assert (await world.told(" " * (service.EVENT_BYTES + 1))).status_code == 413
    assert world.owners.asked == []


# ---- WeCom's own ---------------------------------------------------------------------------------

KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"


def corp(number: int) -> list[AccountConfig]:
    """One corp: an application, a customer service account and a member."""
    said = {"corp_id": f"corp{number}", "agent_id": 7, "secret": "s"}
    said |= {"callback_token": f"token{number}", "callback_key": KEY[number:] + KEY[:number]}
    tables = {
        "app": AppConfig(**said),
        "kf": KfConfig(**said, open_kfid="wk1"),
        "member": MemberConfig(**said, userid="li"),
    }
    return [
        AccountConfig(
            name=f"{name}{number}", channel="wecom", provider=f"wecom-{name}", settings=settings
        )
        for name, settings in tables.items()
    ]


async def wecom_calls(
    world: World, number: int, method: str, message: str, receiver: str = ""
) -> httpx.Response:
    """The corp's application is called, as WeCom does it."""
    settings: AppConfig = world.watch.accounts[3 * number].settings
    receiver = receiver or settings.corp_id
    crypto = Crypto(settings.callback_token, settings.callback_key, receiver)
    encrypted = crypto.encrypt(message.encode(), b"0123456789abcdef")
    stamp = str(SystemClock().now_ms() // 1_000)
    query = {"timestamp": stamp, "nonce": "n", "msg_signature": crypto.sign(stamp, "n", encrypted)}
    url = f"/v1/callbacks/app{number}"
    if method == "GET":
        return await world.client.get(url, params=query | {"echostr": encrypted})
    body = f"<xml><ToUserName>x</ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt></xml>"
    return await world.client.post(url, params=query, content=body.encode())


def happened(event: str, **fields: str) -> str:
    fields |= {"MsgType": "event", "Event": event, "CreateTime": "1796000000"}
    return "<xml>" + "".join(f"<{k}>{v}</{k}>" for k, v in fields.items()) + "</xml>"


async def test_several_corps_and_applications_are_called_at_one_endpoint(world: World) -> None:
    world.watch.accounts = tuple(account for number in range(3) for account in corp(number))
    await world.owners.serve(*(account.name for account in world.watch.accounts))
    for number in range(3):
        checked = await wecom_calls(world, number, "GET", f"plain {number}")
        assert (checked.status_code, checked.text) == (200, f"plain {number}")
        for event in (
            happened("kf_msg_or_event", OpenKfId="wk1", Token="t"),
            happened("change_external_contact", ChangeType="del_follow_user", UserID="li"),
            happened("enter_agent", FromUserName="li"),
        ):
            answer = await wecom_calls(world, number, "POST", event)
            assert (answer.status_code, answer.content) == (200, b"success")
        asked = [account for account, _ in world.owners.asked[-3:]]
        assert asked == [f"kf{number}", f"member{number}", f"app{number}"]
    assert [Event.decode(body).name for _, body in world.owners.asked[:3]] == [
        "kf_msg_or_event",
        "change_external_contact",
        "enter_agent",
    ]


async def test_what_was_meant_for_another_corp_is_refused_and_asks_nobody(world: World) -> None:
    world.watch.accounts = tuple(corp(0))
    await world.owners.serve("app0")
    event = happened("enter_agent")
    assert (await wecom_calls(world, 0, "POST", event, receiver="another")).status_code == 403
    assert world.owners.asked == []
    assert (await wecom_calls(world, 0, "POST", event)).status_code == 200
