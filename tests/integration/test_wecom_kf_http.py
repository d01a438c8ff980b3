"""A customer service account against the fake WeCom over HTTP: callbacks encrypted, the reader and
the sender as they are, and what the account keeps as an account keeps it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Link,
    ProviderCommand,
    ProviderInbound,
    ProviderReceipt,
    Reply,
    Stored,
    Submission,
)
from channels.wecom.callbacks import Event, answer
from channels.wecom.config import KfConfig
from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import AGENT_ID, CALLBACK_KEY, CALLBACK_TOKEN, SECRET, Settings
from channels.wecom.kf import KfProvider, msgid_of
from hub.clock import SystemClock
from hub.contract.types import Delivery
from tests.support.callbacks import CallbackServer
from tests.support.wecom import CORP, until, wecom

KF = "wk000001"
CUSTOMER = "wm000001"


class Account:
    """What is reported, and what is kept. `stores` says of each bundle whether it is stored."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.heard: list[ProviderInbound] = []
        self.commands: list[ProviderCommand] = []
        self.receipts: list[ProviderReceipt] = []
        self.answers: dict[str, list[Answer]] = {}
        self.counts: dict[str, int] = {}
        self.links: list[Link] = []

    def answered(self, delivery: str, answer: Answer) -> None:
        self.answers.setdefault(delivery, []).append(answer)

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        raise AssertionError("all comes in bundles")

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        raise AssertionError("all comes in bundles")

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        self.heard += bundle.inbound
        self.commands += bundle.commands
        self.receipts += bundle.receipts
        self.notes |= {key: value for key, value in bundle.notes.items() if value is not None}
        stored(True)

    def link(self, link: Link) -> None:
        self.links.append(link)

    def counted(self, name: str, *labels: str) -> None:
        self.counts[labels[-1]] = self.counts.get(labels[-1], 0) + 1

    @property
    def texts(self) -> list[str]:
        return [one.content["text"] for one in self.heard if "text" in one.content]


class Owner:
    """A process that owns the account. `kill` ends it without a word; another goes on."""

    def __init__(self, config: KfConfig, account: Account) -> None:
        self.alive = True
        self._account = account
        self.config = config
        chance = random.Random(1)
        self.provider = KfProvider(config, None, self, SystemClock(), chance, account="kf")
        self.provider.start(dict(account.notes))

    def __getattr__(self, name: str) -> Any:
        """Reports reach the account while this is the owner."""
        return getattr(self._account, name) if self.alive else _deaf

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        if self.alive:
            self._account.bundle(bundle, stored)
        else:
            stored(False)

    async def callback(self, request: Callback) -> Reply:
        """As the hub's endpoint does it: the signed request is opened, the event passed on."""
        event = answer(self.config, request, SystemClock().now_ms())
        if not isinstance(event, Event):
            return event
        return await self.provider.callback(Callback("EVENT", {}, {}, event.encode()))

    def send(self, name: str, content: Any, to: str = CUSTOMER, *, again: bool = False) -> str:
        """Submit a delivery; gives its id."""
        delivery = Delivery(
            id=f"shop:{name}:1", intent=name, app="shop", customer=to, category="note",
            priority=5, channel="wecom", account="kf", to=to,
            content=msgspec.Raw(msgspec.json.encode(content)), attempt=1, at="", expires_at="",
        )  # fmt: skip
        prepared = self.provider.prepare(delivery)
        expires_ms = SystemClock().now_ms() + 60_000
        self.provider.submit(Submission(delivery.id, prepared, expires_ms, again=again))
        return delivery.id

    async def sent(
        self, name: str, content: Any, to: str = CUSTOMER, *, again: bool = False
    ) -> Answer:
        """Submit it and wait for the answer."""
        answers = self._account.answers
        before = len(answers.get(f"shop:{name}:1", []))
        id = self.send(name, content, to, again=again)
        await until(lambda: len(answers.get(id, [])) > before)
        return answers[id][-1]

    async def kill(self) -> None:
        self.alive = False
        await self.provider.stop(0.0)


def _deaf(*_: object) -> None:
    """The owner is another now."""


class Scene:
    """The fake, the endpoint, the account, and whoever owns it."""

    def __init__(self, fake: FakeWecom, server: CallbackServer) -> None:
        self.fake = fake
        self.server = server
        self.account = Account()
        self.config = KfConfig(
            base_url=fake.url, corp_id=CORP, agent_id=AGENT_ID, secret=SECRET, open_kfid=KF,
            callback_token=CALLBACK_TOKEN, callback_key=CALLBACK_KEY, servicers=("m1",),
            answer_s=2.0,
        )  # fmt: skip
        self.owner = self.started()

    def started(self) -> Owner:
        self.owner = Owner(self.config, self.account)
        self.server.provider = self.owner
        return self.owner

    async def writes(self, **what: Any) -> None:
        await self.fake.do("customer-writes", **({"external_userid": CUSTOMER} | what))


@asynccontextmanager
async def scene(settings: Settings | None = None, seed: int = 0) -> AsyncIterator[Scene]:
    server = CallbackServer()
    await server.start()
    try:
        async with wecom(settings, seed=seed, still=False) as fake:
            await fake.do("callback-url", url=server.url)
            one = Scene(fake, server)
            try:
                yield one
            finally:
                await one.owner.kill()
    finally:
        await server.stop()


async def test_what_customers_and_members_do_arrives_in_order() -> None:
    async with scene() as it:
        account = it.account
        await it.fake.do("customer-enters", external_userid=CUSTOMER, scene="shop")
        await it.writes(text="在吗")
        await it.writes(msgtype="image", data="picture")
        await it.writes(msgtype="hologram", content={"x": 1})
        await it.fake.do("agent", userid="m2", external_userid=CUSTOMER, do="accept")
        await it.fake.do("agent-writes", userid="m2", external_userid=CUSTOMER, text="在的")
        await it.fake.do("agent", userid="m2", external_userid=CUSTOMER, do="end")
        await it.fake.do("servicer-status", userid="m2", status=2)
        await it.fake.do("kf-event", event_type="new_thing", fields={"external_userid": CUSTOMER})
        await it.writes(text="退订")
        await until(lambda: account.texts[-1:] == ["退订"])
        told = [next(iter(one.content.items())) for one in account.heard]
        assert [key if key == "image" else value for key, value in told] == [
            "session_opened", "在吗", "image", "hologram", "session_changed", "在的",
            "session_changed", "event_unknown", "退订",
        ]  # fmt: skip
        assert [one.agent for one in account.heard if one.agent] == ["m2"]
        assert [one.opt_out for one in account.heard] == [False] * 8 + [True]
        assert [(one.op, one.sender) for one in account.commands] == [
            ("takeover", CUSTOMER),
            ("release", CUSTOMER),
        ]
        await until(lambda: account.counts.get("kf_servicer_status_change") == 1)
        assert it.fake.world.book.violations == {}


async def test_a_message_that_was_unanswered_is_sent_once() -> None:
    async with scene() as it:
        await it.writes(text="hi")
        for kind in ("cut", "html", "http500"):
            fault = {"api": "kf/send_msg", "kind": kind, "taken": True, "times": 1}
            await it.fake.do("fault", **fault)
            first = await it.owner.sent(kind, {"text": kind})
            assert first.kind == "unknown"
            second = await it.owner.sent(kind, {"text": kind}, again=True)
            assert second == Answer("accepted", provider_ids=(msgid_of(f"shop:{kind}:1"),))
        await it.owner.kill()
        it.started()  # another owner is told by the account
        assert (await it.owner.sent("cut", {"text": "cut"}, again=True)).kind == "accepted"
        assert it.fake.record()["sends"]["kf"] == {CUSTOMER: 3}
        assert it.fake.counts["kf_repeated_msgid"] == 4


async def test_a_closed_window_is_said_at_once_or_corrected_afterwards() -> None:
    async with scene() as it:
        await it.writes(text="hi")
        answers = [await it.owner.sent(f"n{n}", {"text": "x"}) for n in range(6)]
        assert [one.kind for one in answers] == ["accepted"] * 5 + ["failed"]
        assert (answers[5].failure, answers[5].code) == ("window_closed", "95001")
        unheard = await it.owner.sent("n7", {"text": "x"}, to="wm000002")
        assert (unheard.kind, unheard.failure) == ("failed", "window_closed")

    async with scene(Settings(short_pages=0.0, late_window=1.0)) as it:
        await it.writes(text="hi")
        for n in range(6):
            assert (await it.owner.sent(f"n{n}", {"text": "x"})).kind == "accepted"
        await until(lambda: it.account.receipts)
        (receipt,) = it.account.receipts
        assert receipt.provider_id == msgid_of("shop:n5:1")
        assert (receipt.status, receipt.failure) == ("failed", "window_closed")


async def test_a_customer_who_rejects_us() -> None:
    async with scene() as it:
        await it.writes(text="hi")
        await it.fake.do("customer-rejects", external_userid=CUSTOMER)
        assert (await it.owner.sent("n", {"text": "x"})).kind == "accepted"
        await until(lambda: it.account.receipts)
        assert it.account.receipts[0].failure == "dead_address"
        refusals = [one for one in it.account.heard if one.opt_out]
        assert [one.content["event"] for one in refusals] == ["rejected_by_customer"] * 2


async def test_a_welcome_a_person_takes_over_and_gives_back() -> None:
    async with scene() as it:
        account = it.account
        await it.fake.do("customer-enters", external_userid=CUSTOMER)
        await until(lambda: account.heard)
        code = {key: one for key, one in account.heard[0].content.items() if "welcome" in key}
        assert (await it.owner.sent("hello", {"text": "欢迎", **code})).kind == "accepted"
        assert it.fake.record()["sends"]["kf_event"] == {CUSTOMER: 1}
        await it.writes(text="a person, please")

        assert (await it.owner.sent("to", {"op": "kf.transfer"})).kind == "accepted"
        (takeover,) = account.commands
        assert (takeover.op, takeover.fields["agent"]) == ("takeover", "m1")
        closed = await it.owner.sent("late", {"text": "an offer"})
        assert (closed.failure, closed.code) == ("window_closed", "95018")
        again = await it.owner.sent("to", {"op": "kf.transfer"})
        assert again.kind == "accepted"

        assert (await it.owner.sent("back", {"op": "kf.release"})).kind == "accepted"
        assert account.commands[-1].op == "release"
        assert (await it.owner.sent("back", {"op": "kf.release"})).kind == "accepted"
        ended = await it.owner.sent("late", {"text": "an offer"})
        assert (ended.failure, ended.code) == ("window_closed", "95013")
        await it.writes(text="me again")
        await until(lambda: account.texts[-1:] == ["me again"])
        assert (await it.owner.sent("now", {"text": "hello"})).kind == "accepted"


@pytest.mark.parametrize("kind", ["errcode", "html", "http500", "cut"])
async def test_it_goes_on_after_whatever_failed(kind: str) -> None:
    async with scene() as it:
        await it.writes(text="first")
        await until(lambda: it.account.texts == ["first"])
        await it.fake.do("fault", api="kf/sync_msg", kind=kind, times=2)
        await it.fake.do("kill-token")
        await it.fake.do("fault", api="gettoken", kind=kind, times=1)
        await it.writes(text="second")
        await until(lambda: it.account.texts == ["first", "second"])


async def test_a_cursor_that_goes_backwards() -> None:
    async with scene() as it:
        await it.writes(text="old", count=80)
        await until(lambda: len(it.account.texts) == 80)
        await it.fake.do("fault", api="kf/sync_msg", kind="cursor_back", times=3)
        for n in range(5):
            await it.writes(text=f"new {n}")
            await until(lambda n=n: it.account.texts[-1] == f"new {n}")
        assert it.account.texts == ["old"] * 80 + [f"new {n}" for n in range(5)]
        assert it.account.counts["kf_repeated"] >= 50


async def test_no_message_is_lost_or_published_twice_over_many_owners() -> None:
    settings = Settings(short_pages=0.3, drop_callbacks=0.1, repeat_callbacks=0.2)
    async with scene(settings, seed=7) as it:
        chance = random.Random(7)
        written: list[str] = []
        for _ in range(15):
            for _ in range(chance.randrange(1, 6)):
                text = f"text {len(written)}"
                written.append(text)
                await it.writes(text=text, external_userid=f"wm{chance.randrange(1, 9):06}")
            seen = len(it.account.heard)
            if chance.random() < 0.5:
                await until(lambda seen=seen: len(it.account.heard) > seen)
            await it.owner.kill()
            it.started()
        await it.fake.do("fault", api="kf/sync_msg", kind="cursor_back", times=1)
        written.append("the end")
        await it.writes(text="the end")
        await until(lambda: it.account.texts[-1:] == ["the end"], 60)
        assert it.account.texts == written
