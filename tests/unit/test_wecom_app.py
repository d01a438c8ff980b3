"""Application messages with a scripted WeCom: batches, who was not reached, groups, callbacks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.http import NotSent, Unanswered
from channels.provider import Answer, Callback, Prepared, Submission, Unsendable
from channels.wecom.app import AppConfig, AppProvider, check
from channels.wecom.app_groups import CLOSED_NOTES, ClosedGroups
from channels.wecom.app_rates import GroupRates, KnownMembers
from channels.wecom.callbacks import Event
from channels.wecom.errors import refused
from hub.contract.types import Delivery
from hub.errors import ConfigError, TactError
from tests.support.sms_web import NOW_MS, StillClock, Told

CONFIG = AppConfig(corp_id="ww1", agent_id=7, secret="s", collect="1ms", connections=2)
Reply = dict[str, Any] | TactError
Script = Callable[[str, Mapping[str, Any]], Reply]


class Scripted:
    """A client that answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.script: Script = lambda name, body: {"errcode": 0, "msgid": "MSG"}
        self.held: asyncio.Event | None = None
        """Requests wait for it."""
        self.under_way = self.most = 0
        self.called = asyncio.Event()
        """There are two requests under way."""

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        self.calls.append((name, {**(body or {}), **query}))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.most == 2:
            self.called.set()
        try:
            if self.held is not None:
                await self.held.wait()
            reply = self.script(name, {**(body or {}), **query})
        finally:
            self.under_way -= 1
        if isinstance(reply, TactError):
            raise reply
        return reply

    async def reach(self, url: str) -> None:
        """It is always there."""

    async def close(self) -> None:
        """Nothing is open."""

    def users(self) -> list[list[str]]:
        return [body["touser"].split("|") for name, body in self.calls if name == "message/send"]


class Bench:
    """A provider with its scripted client, started."""

    def __init__(
        self, config: AppConfig = CONFIG, notes: Mapping[str, bytes] | None = None
    ) -> None:
        self.client, self.told = Scripted(), Told()
        self.provider = AppProvider(
            config, None, self.told, StillClock(), random.Random(1), "app", self.client
        )
        self.provider.start(notes or {})

    def submit(self, delivery: Delivery) -> str:
        prepared = self.provider.prepare(delivery)
        self.provider.submit(Submission(delivery.id, prepared, NOW_MS + 90_000))
        return delivery.id

    async def send(self, delivery: Delivery) -> Answer:
        return await self.told.answer(self.submit(delivery))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.provider.stop(0)


def to(user: str, content: dict[str, Any] | None = None, id: str = "", **more: Any) -> Delivery:
    """A delivery for a member, or for a group when its name begins with ~."""
    return Delivery(
        id=id or f"shop:{user}:1",
        intent=user,
        app="shop",
        customer=user if user.startswith("~") else f"c-{user}",
        category="notice",
        priority=5,
        channel="wecom",
        account="app",
        to=user.removeprefix("~"),
        content=msgspec.Raw(msgspec.json.encode(content or {"text": "hello"})),
        attempt=1,
        at="2026-11-22T00:00:00Z",
        expires_at="2026-11-23T00:00:00Z",
        **more,
    )


# ---- messages ----------------------------------------------------------------------------------


async def test_the_same_content_goes_in_one_request_another_in_its_own(bench: Bench) -> None:
    ids = [bench.submit(to(f"U{n}")) for n in range(5)]
    other = bench.submit(to("U9", {"text": "other"}))
    for id in [*ids, other]:
        assert await bench.told.answer(id) == Answer("accepted", provider_ids=("MSG",))
    assert bench.client.calls == [
        (
            "message/send",
            {
                "touser": "U0|U1|U2|U3|U4",
                "agentid": 7,
                "msgtype": "text",
                "text": {"content": "hello"},
            },
        ),
        (
            "message/send",
            {"touser": "U9", "agentid": 7, "msgtype": "text", "text": {"content": "other"}},
        ),
    ]


async def test_a_request_has_a_thousand_members_and_there_are_no_more_than_connections() -> None:
    wide = Bench(msgspec.structs.replace(CONFIG, connections=160))
    ids = [wide.submit(to(f"u{n}")) for n in range(2_500)]
    for id in ids:
        await wide.told.answer(id)
    assert [len(users) for users in wide.client.users()] == [1_000, 1_000, 500]
    await wide.provider.stop(0)

    narrow = Bench()
    narrow.client.held = asyncio.Event()
    ids = [narrow.submit(to(f"u{n}", {"text": str(n)})) for n in range(20)]
    await narrow.client.called.wait()
    narrow.client.held.set()
    for id in ids:
        assert (await narrow.told.answer(id)).kind == "accepted"
    assert narrow.client.most == 2
    await narrow.provider.stop(0)


async def test_one_member_is_named_once_in_a_request_whatever_the_case(bench: Bench) -> None:
    ids = [bench.submit(to(user, id=f"shop:{n}:1")) for n, user in enumerate(("Li", "wu", "LI"))]
    for id in ids:
        assert (await bench.told.answer(id)).kind == "accepted"
    assert bench.client.users() == [["Li", "wu"], ["LI"]]


async def test_what_follows_soon_is_collected_and_what_comes_first_is_not(bench: Bench) -> None:
    await bench.provider.stop(0)
    late = Bench(msgspec.structs.replace(CONFIG, collect="10s"))
    await late.send(to("a"))
    for user in ("b", "c"):
        late.submit(to(user))
    await late.send(to("d", {"text": "other"}))
    assert late.client.users() == [["a"], ["d"]]
    await late.provider.stop(1)
    assert [late.told.answers[f"shop:{user}:1"][0].kind for user in "bc"] == ["retry", "retry"]
    assert late.client.users() == [["a"], ["d"]]


async def test_members_who_were_not_reached_are_told_apart(bench: Bench) -> None:
    bench.client.script = lambda name, body: {
        "errcode": 0,
        "msgid": "M1",
        "invaliduser": "ghost|stranger",
        "unlicenseduser": "poor",
    }
    ids = [bench.submit(to(user)) for user in ("Wu", "Ghost", "poor")]
    answers = [await bench.told.answer(id) for id in ids]
    assert answers == [
        Answer("accepted", provider_ids=("M1",)),
        Answer("failed", failure="dead_address", code="invaliduser"),
        Answer("failed", failure="config", code="unlicenseduser"),
    ]
    assert list(bench.told.answers) == [ids[1], ids[2], ids[0]]  # a circuit is closed at the end


@pytest.mark.parametrize(
    ("errcode", "answer"),
    [
        (81013, Answer("failed", failure="dead_address", code="81013")),
        (60111, Answer("failed", failure="provider", code="60111")),  # it does not say whose
        (85002, Answer("failed", failure="rejected_content", code="85002")),
        (-1, Answer("retry", code="-1")),
        (45009, Answer("throttled", code="45009", retry_after_ms=60_000)),
        (99999, Answer("failed", failure="provider", code="99999")),
    ],
)
async def test_a_refusal_is_that_of_all(bench: Bench, errcode: int, answer: Answer) -> None:
    bench.client.script = lambda name, body: refused(errcode, api=name)
    for id in [bench.submit(to(user)) for user in ("a", "b")]:
        assert await bench.told.answer(id) == answer


async def test_a_member_alone_is_given_up_for_a_code_of_its_address(bench: Bench) -> None:
    bench.client.script = lambda name, body: refused(60111, api=name)
    assert (await bench.send(to("a"))).failure == "dead_address"


@pytest.mark.parametrize(("error", "kind"), [(NotSent("x"), "retry"), (Unanswered("x"), "unknown")])
async def test_what_nobody_knows_is_unknown_and_what_never_left_is_not(
    bench: Bench, error: TactError, kind: str
) -> None:
    bench.client.script = lambda name, body: error
    ids = [bench.submit(to(user)) for user in ("a", "b")]
    assert [(await bench.told.answer(id)).kind for id in ids] == [kind, kind]
    assert (bench.told.links[-1].window == 0) == (kind == "retry")


async def test_a_secret_that_is_wrong_stops_the_account(bench: Bench) -> None:
    bench.client.script = lambda name, body: refused(40001, api=name)
    assert (await bench.send(to("a"))).failure == "config"
    assert bench.told.links[-1].config


async def test_when_stopped_only_what_is_on_the_wire_is_unknown(bench: Bench) -> None:
    bench.client.held = asyncio.Event()
    ids = [bench.submit(to(user, {"text": user})) for user in "abcd"]
    await bench.client.called.wait()
    await bench.provider.stop(0)
    kinds = [bench.told.answers[id][0].kind for id in ids]
    assert kinds == ["unknown", "unknown", "retry", "retry"]
    late = bench.submit(to("e"))
    assert bench.told.answers[late][0].kind == "retry"


# ---- repeats -----------------------------------------------------------------------------------


def _card(**more: Any) -> dict[str, Any]:
    return {"template_card": {"card_type": "vote_interaction", **more}}


def _body(prepared: Prepared) -> dict[str, Any]:
    return dict(prepared.parts[0].body)


def test_wecom_is_asked_to_drop_repeats_only_where_the_same_request_is_one() -> None:
    app = AppProvider(CONFIG, None, Told(), StillClock(), random.Random(1), "app", Scripted())
    plain = app.prepare(to("a"))
    assert "enable_duplicate_check" not in _body(plain)
    asked = app.prepare(to("a", {"text": "t", "duplicate_check": 60}))
    assert _body(asked)["duplicate_check_interval"] == 60
    assert asked.parts[0].key == b""

    one, again = app.prepare(to("a", _card(), "x:1:1")), app.prepare(to("a", _card(), "x:1:1"))
    another = app.prepare(to("a", _card(), "x:2:1"))
    assert _body(one) == _body(again) != _body(another)
    assert _body(one)["duplicate_check_interval"] == 1_800
    named = app.prepare(to("a", _card(task_id="mine")))
    assert _body(named)["template_card"]["task_id"] == "mine"
    assert "enable_duplicate_check" not in _body(named)
    assert not app.resend


@pytest.mark.parametrize("user", ["@all", "a|b", "", "a b", "-a", "x" * 65, "李"])
def test_an_address_is_one_member(user: str) -> None:
    app = AppProvider(CONFIG, None, Told(), StillClock(), random.Random(1), "app", Scripted())
    with pytest.raises(Unsendable) as caught:
        app.prepare(to(user))
    assert caught.value.failure == "dead_address"


# ---- groups ------------------------------------------------------------------------------------


async def test_messages_and_orders_to_a_group(bench: Bench) -> None:
    create = {"op": "group.create", "name": "Sales", "members": ["li", "Wu", "LI"], "owner": "wu"}
    assert (await bench.send(to("~g1", create, "a:1:1"))).kind == "accepted"
    assert (await bench.send(to("~g1", {"text": "hi"}, "a:2:1"))).kind == "accepted"
    update = {"op": "group.update", "name": "S", "add": ["an"], "remove": ["li"], "account": "app"}
    assert (await bench.send(to("~g1", update, "a:3:1"))).kind == "accepted"
    invite = {"op": "group.invite", "members": ["bo"]}
    assert (await bench.send(to("~g1", invite, "a:4:1"))).kind == "accepted"
    assert bench.client.calls == [
        (
            "appchat/create",
            {"chatid": "g1", "name": "Sales", "owner": "wu", "userlist": ["wu", "li"]},
        ),
        ("appchat/get", {"chatid": "g1"}),
        ("appchat/send", {"chatid": "g1", "msgtype": "text", "text": {"content": "hi"}}),
        (
            "appchat/update",
            {"chatid": "g1", "name": "S", "add_user_list": ["an"], "del_user_list": ["li"]},
        ),
        ("appchat/update", {"chatid": "g1", "add_user_list": ["bo"]}),
    ]


async def test_a_dissolved_group_is_emptied_closed_and_stays_so(bench: Bench) -> None:
    few = [refused(86006)]

    def script(name: str, body: Mapping[str, Any]) -> Reply:
        if name == "appchat/get":
            return {"chat_info": {"chatid": "g1", "owner": "wu", "userlist": ["li", "wu", "an"]}}
        return few.pop() if few else {"errcode": 0}

    bench.client.script = script
    assert (await bench.send(to("~g1", {"op": "group.dissolve"}))).kind == "accepted"
    assert bench.client.calls == [
        ("appchat/get", {"chatid": "g1"}),
        ("appchat/update", {"chatid": "g1", "del_user_list": ["li", "an"]}),
        ("appchat/update", {"chatid": "g1", "del_user_list": ["an"]}),
    ]
    (bundle,) = bench.told.bundles
    notes = {key: value for key, value in bundle.notes.items() if value is not None}
    for owner in (bench, Bench(notes=notes)):
        for content in ({"text": "hi"}, {"op": "group.update", "name": "n"}):
            with pytest.raises(Unsendable) as caught:
                owner.provider.prepare(to("~g1", content))
            assert caught.value.failure == "dead_address"
            assert caught.value.provider_code == "group-closed"
        assert owner.provider.prepare(to("~g2")).recipient == "~g2"


async def test_a_group_that_could_not_be_noted_is_dissolved_again(bench: Bench) -> None:
    bench.client.script = lambda name, body: {"errcode": 0, "chat_info": {"userlist": []}}
    bench.told.store = False
    order = {"op": "group.dissolve"}
    assert await bench.send(to("~g1", order)) == Answer("retry", code="not-stored")
    bench.told.store = True
    assert (await bench.send(to("~g1", order, "x:2:1"))).kind == "accepted"


@pytest.mark.parametrize(
    ("customer", "content", "problem"),
    [
        ("~g1", {"op": "group.create", "members": ["li"]}, "2 to 2000"),
        ("~g1", {"op": "group.create", "members": [f"u{n}" for n in range(2_001)]}, "2 to 2000"),
        ("~g1", {"op": "group.create", "members": ["li", "@all"]}, "userid"),
        ("~g1", {"op": "group.create"}, "right type"),
        ("~g_1", {"op": "group.create", "members": ["li", "wu"]}, "32"),
        ("~g1", {"op": "group.create", "members": ["li", "wu"], "name": "n" * 51}, "50"),
        ("~g1", {"op": "group.update"}, "changes nothing"),
        ("~g1", {"op": "group.invite", "state": "s"}, "no way to join"),
        ("~g1", {"op": "kf.transfer"}, "knows group.create"),
        ("li", {"op": "group.dissolve"}, "not a message"),
        ("~g1", {"template_card": {}}, "not known"),
    ],
)
def test_orders_that_cannot_be_carried_out(
    customer: str, content: dict[str, Any], problem: str
) -> None:
    app = AppProvider(CONFIG, None, Told(), StillClock(), random.Random(1), "app", Scripted())
    with pytest.raises(Unsendable, match=problem) as caught:
        app.prepare(to(customer, content))
    assert caught.value.failure == "rejected_content"


@pytest.mark.parametrize(
    ("errcode", "content", "answer"),
    [
        (86001, {"text": "t"}, Answer("failed", failure="dead_address", code="86001")),
        (86008, {"text": "t"}, Answer("failed", failure="dead_address", code="86008")),
        (48002, {"text": "t"}, Answer("failed", failure="config", code="48002")),
        (86008, {"op": "group.dissolve"}, Answer("failed", failure="dead_address", code="86008")),
        (
            86216,
            {"op": "group.update", "add": ["x"]},
            Answer("failed", failure="rejected_content", code="86216"),
        ),
        (
            86006,
            {"op": "group.update", "add": ["x"]},
            Answer("failed", failure="rejected_content", code="86006"),
        ),
        (
            86215,  # it is there already: an order that was repeated
            {"op": "group.create", "members": ["x", "y"]},
            Answer("accepted", code="86215"),
        ),
        (
            45009,
            {"op": "group.create", "members": ["x", "y"]},
            Answer("throttled", code="45009", retry_after_ms=60_000, scope="recipient"),
        ),
    ],
)
async def test_what_wecom_says_of_groups(
    bench: Bench, errcode: int, content: dict[str, Any], answer: Answer
) -> None:
    bench.client.script = lambda name, body: refused(errcode, api=name)
    assert await bench.send(to("~g1", content)) == answer
    assert bench.told.links[-1].window  # messages to members go on


@pytest.mark.parametrize(
    ("silent", "content", "kind"),
    [
        ("appchat/get", {"text": "t"}, "retry"),
        ("appchat/send", {"text": "t"}, "unknown"),
        ("appchat/create", {"op": "group.create", "members": ["x", "y"]}, "retry"),
        ("appchat/update", {"op": "group.update", "add": ["x"]}, "retry"),
        ("appchat/update", {"op": "group.update", "remove": ["x"]}, "unknown"),
        ("appchat/get", {"op": "group.dissolve"}, "retry"),
    ],
)
async def test_only_what_may_be_done_twice_is_done_again(
    bench: Bench, silent: str, content: dict[str, Any], kind: str
) -> None:
    bench.client.script = lambda name, body: Unanswered("x") if name == silent else {"errcode": 0}
    assert (await bench.send(to("~g1", content))).kind == kind


async def test_a_group_is_not_told_what_its_members_would_not_get(bench: Bench) -> None:
    bench.client.script = lambda name, body: {"chat_info": {"userlist": ["li", "wu"]}}
    for number in range(CONFIG.group_member_per_min):
        group = f"~g{number % 4}"  # the members are in all of them
        assert (await bench.send(to(group, {"text": "t"}, f"x:{number}:1"))).kind == "accepted"
    answer = await bench.send(to("~g9", {"text": "t"}))
    assert (answer.kind, answer.scope, answer.code) == ("throttled", "recipient", "group-rate")
    assert answer.retry_after_ms == 60_000
    assert (
        sum(name == "appchat/send" for name, _ in bench.client.calls) == CONFIG.group_member_per_min
    )
    assert sum(name == "appchat/get" for name, _ in bench.client.calls) == 5


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.lists(st.sampled_from("abcde"), min_size=1, unique=True)),
        max_size=60,
    )
)
def test_no_limit_of_groups_is_ever_exceeded(sends: list[tuple[float, list[str]]]) -> None:
    rates, at_s, sent = GroupRates(per_min=12, per_hour=40, member_per_min=5), 0.0, []
    for pause_s, members in sends:
        at_s += pause_s
        wait_s = rates.wait_s(members, at_s)
        assert rates.wait_s(members, at_s + wait_s + 0.001) == 0.0
        at_s += wait_s + 0.001
        rates.add(members, at_s)
        sent.append((at_s, members))
    for start_s, _ in sent:
        minute = [names for t, names in sent if start_s <= t < start_s + 60]
        assert sum(map(len, minute)) <= 12
        assert all(sum(one in names for names in minute) <= 5 for one in "abcde")
        hour = [names for t, names in sent if start_s <= t < start_s + 3_600]
        assert sum(map(len, hour)) <= 40


def test_members_of_groups_are_remembered_for_a_while() -> None:
    known = KnownMembers()
    many = {"chat_info": {"userlist": [f"u{n}" for n in range(2_000)]}}
    for number in range(150):
        assert len(known.learn(f"g{number}", many, 0.0)) == 2_000
    assert known.get("g0", 1.0) is None  # the oldest went
    assert known.get("g149", 599.0) is not None
    assert known.get("g149", 600.0) is None
    for odd in ({}, {"chat_info": 7}, {"chat_info": {"userlist": 7}}):
        assert known.learn("g1", odd, 0.0) == ()


def test_closed_groups_are_few_notes_and_the_oldest_are_forgotten() -> None:
    closed = ClosedGroups({})
    notes: dict[str, bytes] = {}
    chats = [f"{n:032x}" for n in range(200_000)]
    for chat in chats[:2_000]:
        notes |= closed.add(chat)
    assert len(notes) == CLOSED_NOTES
    again = ClosedGroups({**notes, "other": b"x"})
    assert all(chat in again for chat in chats[:2_000])
    assert chats[2_000] not in again


# ---- callbacks ---------------------------------------------------------------------------------


async def _told(bench: Bench, name: str, change: str = "", **fields: str) -> int:
    event = Event(name, change, {"FromUserName": "Li.Lei", **fields}, NOW_MS - 5, f"{name}-1")
    request = Callback(method="EVENT", query={}, headers={}, body=event.encode())
    return (await bench.provider.callback(request)).status


@pytest.mark.parametrize(
    ("name", "change", "fields", "content"),
    [
        ("message", "text", {"Content": "你好"}, {"text": "你好"}),
        (
            "message",
            "image",
            {"MediaId": "M", "PicUrl": "http://p"},
            {"image": {"media_id": "M", "pic_url": "http://p"}},
        ),
        (
            "message",
            "location",
            {"Location_X": "23.1", "Location_Y": "113.2", "Scale": "x", "Label": "Road"},
            {"location": {"latitude": 23.1, "longitude": 113.2, "address": "Road"}},
        ),
        ("message", "hologram", {"X": "y"}, {"unsupported": "hologram"}),
        ("enter_agent", "", {}, {"event": "entered"}),
        ("click", "", {"EventKey": "K"}, {"event": "menu_clicked", "key": "K"}),
        (
            "template_card_event",
            "",
            {
                "TaskId": "t",
                "ResponseCode": "r",
                "SelectedItems.SelectedItem.QuestionKey": "q1\nq2",
                "SelectedItems.SelectedItem.OptionIds.OptionId": "a\nb",
            },
            {
                "event": "card_answered",
                "task": "t",
                "response_code": "r",
                "questions": ["q1", "q2"],
                "options": ["a", "b"],
            },
        ),
        ("brand_new", "", {"EventKey": "K"}, {"event": "event_unknown", "name": "brand_new"}),
    ],
)
async def test_what_members_write_and_do(
    bench: Bench, name: str, change: str, fields: dict[str, str], content: dict[str, Any]
) -> None:
    assert await _told(bench, name, change, **fields) == 200
    (inbound,) = bench.told.inbounds
    assert (inbound.sender, inbound.content) == ("li.lei", content)
    assert (inbound.id, inbound.at_ms) == (f"{name}-1", NOW_MS - 5)
    assert bench.provider.prepare(to("Li.Lei")).recipient == inbound.sender


async def test_a_callback_is_answered_once_it_is_stored(bench: Bench) -> None:
    bench.told.store = False
    assert await _told(bench, "message", "text", Content="x") == 503
    bench.told.store = True
    assert await _told(bench, "batch_job_result", FromUserName="sys") == 200
    assert await _told(bench, "change_external_chat", "dismiss", ChatId="wr1") == 200
    assert bench.told.bundles[0].inbound[0].content == {"event": "group_dismissed"}
    assert len(bench.told.inbounds) == 1
    wrong = Callback(method="EVENT", query={}, headers={}, body=b"{")
    assert (await bench.provider.callback(wrong)).status == 400
    direct = Callback(method="POST", query={}, headers={}, body=b"")
    assert (await bench.provider.callback(direct)).status == 404


# ---- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"duplicate_check": "5h"}, "duplicate_check: at most 14400s"),
        ({"collect": "11s"}, "collect: at most 10s"),
        ({"agent_id": 0}, "agent_id"),
    ],
)
def test_a_table_that_is_wrong_names_the_key(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check(msgspec.structs.replace(CONFIG, **change))
