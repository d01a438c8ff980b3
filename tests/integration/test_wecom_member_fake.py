"""A member's account over HTTP: against the fake WeCom, whose clock is put forward by days."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from channels.provider import Answer, Bundle, Callback, Link, Reply, Stored
from channels.wecom.callbacks import Event, answer
from channels.wecom.config import MemberConfig
from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import CALLBACK_KEY, CALLBACK_TOKEN, SECRET, Settings, Size
from channels.wecom.member import MemberProvider
from hub.contract.types import Delivery
from tests.support.wecom import CORP, Inbox, api_of, until, wecom
from tests.support.wecom_member import Account, delivery, submitted

DAY_S = 24 * 3_600
SETTINGS = Settings(short_pages=0.0, transfer_s=DAY_S)
MORE = Size(members=2, customers=40)
"""The members serve the customers in turn: wm000001 and all odd ones are m1's."""


class Passing:
    """The fake's clock; the steady one goes with it."""

    def __init__(self, fake: FakeWecom) -> None:
        self._clock = fake.clock

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def steady_s(self) -> float:
        return self._clock.now_ms() / 1_000


class Member:
    """m1's account: stores what it is told at once."""

    def __init__(self, fake: FakeWecom, account: Account, **settings: Any) -> None:
        self.fake = fake
        self.account = account
        self.config = MemberConfig(
            base_url=fake.url,
            corp_id=CORP,
            secret=SECRET,
            callback_token=CALLBACK_TOKEN,
            callback_key=CALLBACK_KEY,
            userid="m1",
            **{"answer_s": 5.0} | settings,
        )
        chance = random.Random(3)
        self.provider = MemberProvider(
            self.config, None, self, Passing(fake), chance, account="m1-account"
        )

    def submit(self, one: Delivery, expires_s: float = 2 * DAY_S) -> str:
        """Claimed, and put before the provider; gives its id."""
        start_s = self.fake.clock.now_ms() / 1_000 - 1_790_000_000
        submitted(self.account, self.provider, one, expires_s=start_s + expires_s)
        self.provider.submit(self.account.submissions[one.id])
        return one.id

    async def passes(self, seconds: float) -> None:
        """Time, for WeCom and for us."""
        self.fake.clock.advance(seconds)
        await self.fake.do("advance", seconds=0)
        self.provider._shelf.news.set()

    async def until_told(self, *names: str, step_s: float = 60, steps: int = 5_000) -> None:
        """Time passes until all have their last word."""
        for _ in range(steps):
            if all(self.account.last(name) for name in names):
                return
            before = len(self.fake.record()["apis"]), sum(self.fake.record()["apis"].values())
            await self.passes(step_s)
            try:
                await until(
                    lambda before=before: (
                        sum(self.fake.record()["apis"].values()) != before[1]
                        or all(self.account.last(name) for name in names)
                    ),
                    0.05,
                )
            except TimeoutError:
                continue  # nothing was due
        raise AssertionError("nothing was told")

    def word(self, name: str) -> tuple[str, Any, str]:
        """The last on a delivery."""
        told = self.account.last(name)
        assert told is not None
        return told.status, told.failure, told.code

    # What the provider tells.

    def answered(self, delivery: str, answer: Answer) -> None:
        if answer.kind in ("accepted", "failed"):
            assert delivery not in self.account.answers
            self.account.answers[delivery] = answer

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        self.account.take(bundle)
        stored(True)

    def link(self, link: Link) -> None:
        self.account.links.append(link)

    def counted(self, name: str, *labels: str) -> None:
        self.account.counts[labels[-1]] += 1

    receipt = inbound = None


@asynccontextmanager
async def member(
    fake: FakeWecom, account: Account | None = None, **settings: Any
) -> AsyncIterator[Member]:
    """m1's account, running."""
    account = account or Account()
    one = Member(fake, account, **settings)
    one.provider.start(dict(account.notes))
    try:
        yield one
    finally:
        await one.provider.stop(0.1)


def to(number: int) -> str:
    return f"wm{number:06}"


async def test_a_mass_message_is_told_as_the_member_confirms_it() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake, collect="1s") as m1:
        names = [m1.submit(delivery(n, to=to(n))) for n in (1, 2, 3)]
        await fake.do("delete-contact", userid="m1", external_userid=to(3))
        await m1.until_told(*names, step_s=30)
        assert [m1.word(name) for name in names] == [
            ("sent", None, ""),
            ("failed", "dead_address", "fail-list"),  # m2's customer
            ("failed", "dead_address", "not-a-friend"),
        ]
        assert fake.record()["sends"]["mass"] == {to(1): 1}
        assert not m1.account.notes and not fake.record()["violations"]


async def test_the_enterprises_rule_closes_the_window_of_a_customer() -> None:
    settings = Settings(short_pages=0.0, rule="daily_1")
    async with wecom(settings, size=MORE) as fake, member(fake, collect="1s") as m1:
        first = m1.submit(delivery(1, to=to(1)))
        await m1.until_told(first, step_s=30)
        second = m1.submit(delivery(2, {"text": "again"}, to=to(1)))
        await m1.until_told(second, step_s=30)
        assert m1.word(second) == ("failed", "window_closed", "had-another")


async def test_a_member_who_never_confirms_is_reminded_within_the_limit_and_it_ends() -> None:
    settings = Settings(short_pages=0.0, confirm=0.0)
    async with wecom(settings, size=MORE) as fake, member(fake, collect="1s") as m1:
        name = m1.submit(delivery(1, to=to(1)), expires_s=2 * DAY_S)
        await m1.until_told(name, step_s=1_800)
        assert m1.word(name) == ("failed", "expired", "not-confirmed")
        assert fake.counts["mass_cancelled"] == 1 and 3 <= fake.counts["mass_reminders"] <= 6
        assert "mass_reminders" not in fake.record()["violations"]


TROUBLES: list[dict[str, Any]] = [
    {"kind": "cut", "taken": True},
    {"kind": "html", "taken": True},
    {"kind": "cut"},
    {"kind": "http500"},
    {"kind": "errcode", "errcode": -1},
    {"kind": "errcode", "errcode": 45009},
]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_whatever_happens_to_the_call_there_is_one_task(trouble: dict[str, Any]) -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake, collect="1s") as m1:
        api = "externalcontact/add_msg_template"
        async with api_of(fake) as other:  # another member sends the same at the same time
            same = {"external_userid": [to(2)], "sender": "m2", "text": {"content": "hello"}}
            assert (await other(api, **same))["errcode"] == 0
        await fake.do("fault", api=api, times=1, seconds=3_600, **trouble)
        name = m1.submit(delivery(1, to=to(1)))
        await m1.until_told(name, step_s=30)
        assert m1.word(name) == ("sent", None, "") and fake.counts["mass_tasks"] == 2
        assert fake.record()["sends"]["mass"] == {to(1): 1, to(2): 1}


async def test_another_owner_goes_on_from_the_notes_and_sends_nothing_again() -> None:
    account = Account()
    async with wecom(SETTINGS, size=MORE) as fake:
        async with member(fake, account, collect="1s") as first:
            name = first.submit(delivery(1, to=to(1)))
            await until(lambda: name in account.answers)
            await first.passes(2)
            await until(lambda: fake.counts.get("mass_tasks"))
            before = dict(account.submissions)
        account.answers.clear()  # the first one's answer was not stored
        async with member(fake, account, collect="1s") as second:
            second.provider.submit(before[name])
            await until(lambda: name in account.answers)
            await second.until_told(name, step_s=30)
            assert second.word(name) == ("sent", None, "") and fake.counts["mass_tasks"] == 1


# ---- superseded --------------------------------------------------------------------------------

WAITS = Settings(short_pages=0.0, confirm=0.0)
"""Members confirm when the test says so."""
CANCEL = "externalcontact/cancel_groupmsg_send"
GONE = ("failed", "superseded", "collapse-key")
SENT = ("sent", None, "")


def keyed(number: int, whose: int, text: str = "hello", **fields: Any) -> Delivery:
    known = {"customer": f"c{whose}", "to": to(whose), "collapse_key": "cart"}
    return delivery(number, {"text": text}, **known | fields)


async def made(m1: Member, count: int) -> None:
    """What was collected is a task at WeCom, and handed out."""
    await m1.passes(2)
    await until(lambda: m1.fake.counts.get("mass_tasks") == count)
    await m1.passes(5)


async def replaced(m1: Member, *deliveries: Delivery) -> list[str]:
    """Newer ones, taken over."""
    names = [m1.submit(one) for one in deliveries]
    await until(lambda: all(name in m1.account.answers for name in names))
    return names


async def test_what_is_collected_is_replaced_before_wecom_hears_of_it() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake, collect="10s") as m1:
        (older,) = await replaced(m1, keyed(1, 1, "old price"))
        (newer,) = await replaced(m1, keyed(2, 1, "new price"))
        await m1.until_told(older, newer, step_s=30)
        assert (m1.word(older), m1.word(newer)) == (GONE, SENT)
        assert fake.record()["sends"]["mass"] == {to(1): 1} and fake.counts["mass_tasks"] == 1
        assert not m1.account.notes and not fake.record()["violations"]


async def test_a_task_that_is_wholly_superseded_is_cancelled() -> None:
    async with wecom(WAITS, size=MORE) as fake, member(fake, collect="1s") as m1:
        older = await replaced(m1, keyed(1, 1), keyed(2, 3))
        await made(m1, 1)
        first = await replaced(m1, keyed(11, 1, "newer"))
        await m1.passes(600)
        assert not fake.counts.get("mass_cancelled")
        second = await replaced(m1, keyed(12, 3, "newer"))
        await m1.until_told(*older, step_s=30)
        assert [m1.word(name) for name in older] == [GONE, GONE]
        assert fake.counts["mass_cancelled"] == 1
        await made(m1, 3)
        await fake.do("confirm-mass", userid="m1")
        await m1.until_told(*first, *second, step_s=60)
        assert fake.record()["sends"]["mass"] == {to(1): 1, to(3): 1}
        assert not m1.account.notes and not fake.record()["violations"]


async def test_a_task_with_others_stays_and_what_the_member_confirms_is_sent() -> None:
    async with wecom(WAITS, size=MORE) as fake, member(fake, collect="1s") as m1:
        older = await replaced(m1, keyed(1, 1), keyed(2, 3, collapse_key=None), keyed(3, 5))
        others = [keyed(13, 5, "newer", app="bot", id="bot:i3:1"), keyed(14, 7, "newer")]
        await made(m1, 1)
        newer = await replaced(m1, keyed(11, 1, "newer"), *others)
        await made(m1, 2)
        await fake.do("confirm-mass", userid="m1")
        await m1.until_told(*older, *newer, step_s=60)
        assert {m1.word(name) for name in older + newer} == {SENT}
        assert not fake.counts.get("mass_cancelled")


async def test_a_member_who_confirms_just_before_the_cancel_has_sent_it() -> None:
    async with wecom(WAITS, size=MORE) as fake, member(fake, collect="1s") as m1:
        (older,) = await replaced(m1, keyed(1, 1))
        await made(m1, 1)
        call = m1.provider._client.call

        async def confirmed_first(name: str, *args: Any, **query: Any) -> dict[str, Any]:
            if name == CANCEL:
                await fake.do("confirm-mass", userid="m1")
            return await call(name, *args, **query)

        m1.provider._client.call = confirmed_first  # type: ignore[method-assign]
        await replaced(m1, keyed(2, 1, "newer"))
        await m1.until_told(older, step_s=30)
        assert m1.word(older) == SENT and fake.counts["mass_cancelled"] == 1


@pytest.mark.parametrize("trouble", [{"kind": "cut", "taken": True}, {"kind": "cut"}])
async def test_a_cancel_without_an_answer_is_repeated_by_the_next_owner(
    trouble: dict[str, Any],
) -> None:
    account = Account()
    async with wecom(WAITS, size=MORE) as fake:
        async with member(fake, account, collect="1s") as first:
            (older,) = await replaced(first, keyed(1, 1))
            await made(first, 1)
            await fake.do("fault", api=CANCEL, times=1, seconds=3_600, **trouble)
            (newer,) = await replaced(first, keyed(2, 1, "newer"))
            await until(lambda: fake.record()["apis"].get(CANCEL) == 1)
            assert account.last(older) is None
        async with member(fake, account, collect="1s") as second:
            await second.until_told(older, step_s=30)
            assert second.word(older) == GONE and fake.counts["mass_cancelled"] == 1
            await made(second, 2)
            await fake.do("confirm-mass", userid="m1")
            await second.until_told(newer, step_s=60)
            assert fake.record()["sends"]["mass"] == {to(1): 1}


async def test_customers_come_are_welcomed_and_go_by_encrypted_callbacks() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, Inbox() as inbox, member(fake) as m1:
        await fake.do("callback-url", url=inbox.url)

        async def event(count: int) -> Event:
            await until(lambda: len(inbox.heard) >= count)
            one = inbox.heard[count - 1]
            request = Callback(one.method, one.query, {}, one.body)
            told = answer(m1.config, request, fake.clock.now_ms())
            assert isinstance(told, Event)
            for _ in range(2):  # a repeat is no other event: its ids are the same
                reply = await m1.provider.callback(Callback("EVENT", {}, {}, told.encode()))
                assert reply == Reply()
            return told

        await fake.do("add-contact", userid="m1", external_userid="wmNew", state="door")
        await event(1)
        (added, again) = m1.account.inbound
        assert added == again and added.sender == "wmNew"
        assert [one.fields for one in m1.account.commands] == [{"owner": "m1-account"}] * 2
        content = {name: added.content[name] for name in ("welcome_code", "welcome_until")}
        name = m1.submit(delivery(1, {"text": "hello"} | content, to="wmNew"))
        late = m1.submit(delivery(2, {"text": "hello"} | content, to="wmNew"))
        await until(lambda: len(m1.account.answers) == 2)
        assert m1.account.answers[name] == Answer("accepted")
        assert m1.account.answers[late].code == "41051"
        assert fake.record()["sends"]["welcome"] == {"wmNew": 1}

        await fake.do("delete-contact", userid="m1", external_userid="wmNew")
        await event(2)
        assert m1.account.inbound[-1].content == {"event": "friend_deleted_us"}
        assert m1.account.commands[-1].fields == {"scope": "channel:wecom"}


async def test_a_late_welcome_never_reaches_wecom() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake) as m1:
        made = await fake.do("add-contact", userid="m1")
        fake.clock.advance(25)
        content = {"text": "hi", "welcome_code": made["welcome_code"]}
        name = m1.submit(delivery(1, content, to=made["external_userid"]), expires_s=-5)
        await until(lambda: name in m1.account.answers)
        assert m1.account.answers[name].failure == "expired"
        assert "welcome_late" not in fake.record()["violations"]


async def test_a_moment_is_published() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake) as m1:
        api = "externalcontact/add_moment_task"
        await fake.do("fault", api=api, times=1, seconds=3_600, kind="cut", taken=True)
        content = {"op": "moment.create", "text": "spring"}
        name = m1.submit(delivery(1, content, to=to(1)))
        await m1.until_told(name, step_s=30)
        assert m1.word(name) == ("sent", None, "")
        assert fake.record()["sends"]["moment"] == {"m1": 1}
        assert m1.account.inbound[0].content["customers"] == 20


async def test_a_customer_goes_to_another_member_or_does_not_want_to() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake) as m1:
        api = "externalcontact/transfer_customer"
        await fake.do("fault", api=api, times=1, seconds=3_600, kind="cut", taken=True)
        content = {"op": "customer.transfer", "to": "m2", "owner": "m2-account"}
        goes = m1.submit(delivery(1, content, to=to(1)))
        stays = m1.submit(delivery(2, content, to=to(3)))
        other = m1.submit(delivery(3, content, to=to(2)))
        api = "externalcontact/transfer_customer"
        await until(lambda: fake.record()["apis"].get(api, 0) >= 3)
        await fake.do("refuse-transfer", external_userid=to(3))
        await m1.until_told(goes, stays, other, step_s=3_600)
        assert m1.word(goes) == ("delivered", None, "")
        assert m1.word(stays) == ("failed", "provider", "customer-refused")
        assert m1.word(other) == ("failed", "provider", "40097")  # m2's already
        (owner,) = m1.account.commands
        assert (owner.sender, owner.fields) == (to(1), {"owner": "m2-account"})


async def test_groups_are_written_to_joined_and_given_to_another_owner() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake, collect="1s") as m1:
        chat = (await fake.do("create-group", owner="m1", name="VIP"))["chat_id"]
        group = {"customer": f"~{chat}", "to": chat}
        name = m1.submit(delivery(1, **group))
        await m1.until_told(name, step_s=30)
        assert m1.word(name) == ("sent", None, "")
        assert fake.record()["sends"]["mass_group"] == {chat: 1}

        m1.submit(delivery(2, {"op": "group.invite", "state": "s", "auto_create": True}, **group))
        await until(lambda: m1.account.inbound)
        way = m1.account.inbound[0]
        assert way.sender == f"~{chat}" and way.content["qr_code"].startswith("https://")
        joined = await fake.do("join-group", external_userid=to(1), config_id=way.content["config"])
        assert joined["chat_id"] == chat

        changed = m1.submit(delivery(3, {"op": "group.update", "owner": "m2"}, **group))
        await until(lambda: changed in m1.account.answers)
        assert m1.account.answers[changed] == Answer("accepted")
        gone = m1.submit(delivery(4, {"text": "still there?"}, **group))
        await m1.until_told(gone, step_s=30)
        assert m1.word(gone) == ("failed", "dead_address", "41048")


async def test_a_dissolved_group_is_a_dead_address() -> None:
    async with wecom(SETTINGS, size=MORE) as fake, member(fake, collect="1s") as m1:
        chat = (await fake.do("create-group", owner="m1"))["chat_id"]
        await fake.do("dismiss-group", chat_id=chat)
        name = m1.submit(delivery(1, customer=f"~{chat}", to=chat))
        await m1.until_told(name, step_s=30)
        assert m1.word(name)[:2] == ("failed", "dead_address")
