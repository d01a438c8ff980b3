"""An application's provider against the fake WeCom, over HTTP, callbacks encrypted."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from channels.accounts import AccountConfig
from channels.provider import Answer, Bundle, Callback, Reply, Stored, Submission, Unsendable
from channels.wecom.app import AppConfig, AppProvider
from channels.wecom.callbacks import Directory
from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import AGENT_ID, CALLBACK_KEY, CALLBACK_TOKEN, SECRET, Size
from hub.clock import Clock, SystemClock
from hub.contract.types import Delivery
from tests.support.sms_web import Told
from tests.support.wecom import CORP, NOW_MS, StandingClock, wecom

ACCOUNT = "staff"


class Heard(Told):
    """Also what comes in bundles; notes are kept as an account keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, bytes] = {}

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        self.notes |= {key: value for key, value in bundle.notes.items() if value is not None}
        self._confirm(stored)


class Staff:
    """A provider at work."""

    def __init__(self, config: AppConfig, clock: Clock, notes: Mapping[str, bytes]) -> None:
        self.told = Heard()
        self.provider = AppProvider(config, None, self.told, clock, random.Random(3), ACCOUNT)
        self.provider.start(notes)

    def submit(self, to: str, content: dict[str, Any], id: str) -> str:
        delivery = Delivery(
            id=f"crm:{id}:1",
            intent=id,
            app="crm",
            customer=to,
            category="notice",
            priority=5,
            channel="wecom",
            account=ACCOUNT,
            to=to.removeprefix("~"),
            content=msgspec.Raw(msgspec.json.encode(content)),
            attempt=1,
            at="2026-11-22T00:00:00Z",
            expires_at="2026-11-23T00:00:00Z",
        )
        prepared = self.provider.prepare(delivery)
        self.provider.submit(Submission(delivery.id, prepared, NOW_MS + 90_000))
        return delivery.id

    async def send(self, to: str, content: dict[str, Any], id: str) -> Answer:
        return await self.told.answer(self.submit(to, content, id))


def _config(fake: FakeWecom, **more: Any) -> AppConfig:
    values = {"corp_id": CORP, "agent_id": AGENT_ID, "secret": SECRET, "collect": "1ms"} | more
    return AppConfig(base_url=fake.url, **values)


@asynccontextmanager
async def _at_work(
    fake: FakeWecom, notes: Mapping[str, bytes] | None = None, **more: Any
) -> AsyncIterator[Staff]:
    staff = Staff(_config(fake, **more), StandingClock(), notes or {})
    try:
        yield staff
    finally:
        await staff.provider.stop(0)


@pytest.fixture
async def fake() -> AsyncIterator[FakeWecom]:
    async with wecom(size=Size(members=1_200)) as running:
        yield running


async def test_many_members_few_requests_and_each_knows_what_became_of_hers(
    fake: FakeWecom,
) -> None:
    await fake.do("member-leaves", userid="m7")
    await fake.do("unlicense", userid="m8")
    users = [f"m{n}" for n in range(1, 1_201)] + ["nobody"]
    async with _at_work(fake, connections=100) as staff:
        ids = {user: staff.submit(user, {"text": "您好"}, user) for user in users}
        answers = {user: await staff.told.answer(id) for user, id in ids.items()}
    assert answers.pop("m7").failure == answers.pop("nobody").failure == "dead_address"
    assert answers.pop("m8") == Answer("failed", failure="config", code="unlicenseduser")
    assert {answer.kind for answer in answers.values()} == {"accepted"}
    book = fake.world.book
    assert book.apis["message/send"] == 2
    assert book.sends["app"] == dict.fromkeys(answers, 1)
    assert not book.violations


async def test_kinds_of_messages_and_a_card_that_comes_once(fake: FakeWecom) -> None:
    card = {
        "template_card": {
            "card_type": "button_interaction",
            "main_title": {"title": "Leave?"},
            "button_list": [{"text": "yes", "key": "y"}],
        }
    }
    contents = [
        {"markdown": "**hi**"},
        {"news": [{"title": "t", "url": "https://example.com"}]},
        {"textcard": {"title": "t", "description": "d", "url": "https://example.com"}},
        {"miniprogram_notice": {"appid": "wx1", "title": "订单状态"}},
        card,
    ]
    async with _at_work(fake) as staff:
        for number, content in enumerate(contents):
            assert (await staff.send("m1", content, f"k{number}")).kind == "accepted"
        assert (await staff.send("m1", {"image": "no-such"}, "i")).failure == "rejected_content"
        # As an account that may repeat what was unanswered: the same delivery, the same request.
        staff.told.answers.clear()
        assert (await staff.send("m1", card, "k4")).kind == "accepted"
        # Another delivery that says the same is none.
        assert (await staff.send("m1", card, "k5")).kind == "accepted"
    assert fake.world.book.counts["app_duplicates_dropped"] == 1
    assert fake.world.book.sends["app"] == {"m1": len(contents) + 1}


async def test_a_token_that_dies_and_a_wecom_that_is_busy(fake: FakeWecom) -> None:
    async with _at_work(fake) as staff:
        assert (await staff.send("m1", {"text": "a"}, "a")).kind == "accepted"
        await fake.do("kill-token")
        assert (await staff.send("m1", {"text": "b"}, "b")).kind == "accepted"
        await fake.do("fault", api="message/send", errcode=-1, times=1)
        assert await staff.send("m1", {"text": "c"}, "c") == Answer("retry", code="-1")
        assert (await staff.send("m1", {"text": "c"}, "c2")).kind == "accepted"
        await fake.do("fault", api="message/send", kind="html", taken=True, times=1)
        assert (await staff.send("m1", {"text": "d"}, "d")).kind == "unknown"
    assert fake.world.book.sends["app"] == {"m1": 4}


async def test_the_life_of_a_group(fake: FakeWecom) -> None:
    async with _at_work(fake) as staff:
        create = {"op": "group.create", "name": "Sales", "members": ["m1", "m2", "m3"]}
        assert (await staff.send("~g1", create, "1")).kind == "accepted"
        assert (await staff.send("~g1", create, "2")).kind == "accepted"  # it is there
        assert (await staff.send("~g1", {"text": "hi all"}, "3")).kind == "accepted"
        update = {"op": "group.update", "name": "Sales 2", "owner": "m2", "add": ["m4"]}
        assert (await staff.send("~g1", update, "4")).kind == "accepted"
        assert await fake.do("appchats") == {
            "g1": {"name": "Sales 2", "owner": "m2", "userlist": ["m1", "m2", "m3", "m4"]}
        }
        strange = {"op": "group.update", "add": ["nobody"]}
        assert (await staff.send("~g1", strange, "5")).failure == "rejected_content"
        assert (await staff.send("~g9", {"text": "hi"}, "6")).failure == "dead_address"

        assert (await staff.send("~g1", {"op": "group.dissolve"}, "7")).kind == "accepted"
        assert (await fake.do("appchats"))["g1"]["userlist"] == ["m1", "m2"]
        notes = staff.told.notes
    async with _at_work(fake, notes) as another:
        with pytest.raises(Unsendable, match="dissolved"):
            another.submit("~g1", {"text": "late"}, "8")
    assert fake.world.book.sends["appchat"] == {"g1": 1}


class _Endpoint:
    """What receives callbacks in place of the hub's endpoint."""

    def __init__(self, account: AccountConfig, provider: AppProvider) -> None:
        self._account = account
        self._provider = provider
        self.statuses: list[int] = []

    async def handle(self, request: web.Request) -> web.Response:
        callback = Callback(request.method, dict(request.query), {}, await request.read())
        directory = Directory({ACCOUNT: self._account})
        found = directory.targets(self._account, callback, SystemClock().now_ms())
        reply = found if isinstance(found, Reply) else Reply()
        for _, event in found if isinstance(found, list) else []:
            reply = await self._provider.callback(event)
        self.statuses.append(reply.status)
        return web.Response(status=reply.status, body=reply.body)


async def test_what_members_write_comes_by_encrypted_callbacks() -> None:
    async with wecom(still=False) as fake:
        config = _config(fake, callback_token=CALLBACK_TOKEN, callback_key=CALLBACK_KEY)
        staff = Staff(config, SystemClock(), {})
        account = AccountConfig(
            name=ACCOUNT, channel="wecom", provider="wecom-app", settings=config
        )
        endpoint = _Endpoint(account, staff.provider)
        app = web.Application()
        app.router.add_route("*", "/cb", endpoint.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/cb"
            await fake.do("callback-url", url=url, verify=True)
            staff.told.store = False  # so that it is repeated
            await fake.do("member-writes", userid="m1", text="收到 <&>")
            await staff.told.until(lambda: staff.told.inbounds)
            staff.told.store = True
            await staff.told.until(lambda: len(staff.told.inbounds) == 2)
            await fake.do("event", event="enter_agent", fields={"FromUserName": "m2"})
            await staff.told.until(lambda: len(staff.told.inbounds) == 3)
        finally:
            await runner.cleanup()
            await staff.provider.stop(0)
    first, again, entered = staff.told.inbounds
    assert (first.sender, first.content, first.id) == ("m1", {"text": "收到 <&>"}, again.id)
    assert entered.content == {"event": "entered"}
    assert endpoint.statuses[:3] == [200, 503, 200]
