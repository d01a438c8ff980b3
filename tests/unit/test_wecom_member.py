"""A member's account against a scripted WeCom, in virtual time: mass messages are made, looked
after and told once, whatever ends the process and when; moments and transfers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from channels.http import NotSent, Unanswered
from channels.wecom.errors import refused
from channels.wecom.member_intake import WINDOW
from channels.wecom.tasks import PART, TASK_CUSTOMERS
from tests.support.wecom_member import (
    HOUR_S,
    Scene,
    delivery,
    scene,
    submitted,
    until,
)

# ---- mass messages ---------------------------------------------------------------------------


def test_single_deliveries_become_one_task_and_are_sent_when_the_member_confirmed() -> None:
    async def play(s: Scene) -> None:
        for number in range(5):
            s.host.submit(delivery(number))
            await asyncio.sleep(1)
        assert len(s.account.answers) == 5 and not s.wecom.calls  # taken over, and told nothing
        assert all(one.status is None for one in s.account.answers.values())
        await s.until_over()

    s = scene(play)
    ((at, body),) = s.wecom.named("add_msg_template")
    assert 10 <= at < 10.2
    assert body == {
        "chat_type": "single",
        "external_userid": [f"wm{n}" for n in range(5)],
        "sender": "u1",
        "text": {"content": "hello"},
    }
    assert set(s.words().values()) == {("sent", None, "")}
    looks = [at - 10 for at, _ in s.wecom.named("get_groupmsg_task")]
    assert [round(at) for at in looks] == [30, 90, 210, 510]  # confirmed after 300 s
    assert not s.account.notes


def test_other_contents_other_ends_and_the_same_customer_twice_are_other_tasks() -> None:
    async def play(s: Scene) -> None:
        s.host.submit(delivery(1))
        s.host.submit(delivery(2, {"text": "other"}))
        s.host.submit(delivery(3), expires_s=2 * HOUR_S)
        s.host.submit(delivery(4, to="wm1"))
        s.host.submit(delivery(5, customer="~wr1", to="wr1"))
        await s.until_over()

    s = scene(play)
    bodies = [body for _, body in s.wecom.named("add_msg_template")]
    assert len(bodies) == 5
    assert {"chat_type": "group", "chat_id_list": ["wr1"]}.items() <= bodies[4].items()
    assert set(s.words().values()) == {("sent", None, "")}


def test_each_customer_has_a_last_word_of_its_own() -> None:
    async def play(s: Scene) -> None:
        s.wecom.bad = {"wm1": -1, "wm2": 2, "wm3": 3}
        for number in range(5):
            s.host.submit(delivery(number))
        await s.until_over()

    words = scene(play).words()
    assert [words[f"shop:i{n}:1"] for n in range(5)] == [
        ("sent", None, ""),
        ("failed", "dead_address", "fail-list"),
        ("failed", "dead_address", "not-a-friend"),
        ("failed", "window_closed", "had-another"),
        ("sent", None, ""),
    ]


def test_a_member_who_does_not_confirm_is_reminded_and_the_task_ends_with_its_deliveries() -> None:
    async def play(s: Scene) -> None:
        s.wecom.confirms_s = None
        s.host.submit(delivery(1), expires_s=40 * HOUR_S)
        await s.until_over()

    s = scene(play)
    hours = [round(at / HOUR_S) for at, _ in s.wecom.named("remind_groupmsg_send")]
    assert hours == [4, 8, 12, 28, 32, 36]  # not more than 3 in 24 h
    ((at, _),) = s.wecom.named("cancel_groupmsg_send")
    assert round(at / HOUR_S, 1) == 40
    assert s.words() == {"shop:i1:1": ("failed", "expired", "not-confirmed")}
    assert not s.account.notes


def test_what_a_member_may_have_sent_is_not_told_to_have_failed() -> None:
    async def play(s: Scene) -> None:
        s.wecom.confirms_s = 20 * HOUR_S
        s.wecom.problems["cancel_groupmsg_send"] = [Unanswered("cut") for _ in range(20)]
        s.host.submit(delivery(1), expires_s=20 * HOUR_S + 60)
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": ("unknown", None, "unanswered")}
    assert not s.account.notes


def test_a_bug_keeps_no_task_for_ever() -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["get_groupmsg_task"] = [ValueError("a bug") for _ in range(2_000)]
        s.host.submit(delivery(1), expires_s=HOUR_S)
        await s.until_over(hours=2)

    s = scene(play)
    assert s.words() == {"shop:i1:1": ("unknown", None, "unanswered")}
    assert s.account.counts["internal"] and not s.account.notes


def test_a_task_ends_with_the_first_of_its_deliveries_that_does() -> None:
    async def play(s: Scene) -> None:
        s.wecom.confirms_s = None
        s.host.submit(delivery(1), expires_s=2 * HOUR_S + 600)
        s.host.submit(delivery(2), expires_s=2 * HOUR_S + 2_400)  # in the same hour of the clock
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.tasks) == 1
    ((at, _),) = s.wecom.named("cancel_groupmsg_send")
    assert 2 * HOUR_S + 600 <= at < 2 * HOUR_S + 601


def test_an_application_can_cancel_what_is_not_confirmed() -> None:
    async def play(s: Scene) -> None:
        s.host.submit(delivery(1))
        s.host.submit(delivery(2))
        await asyncio.sleep(60)
        s.host.submit(delivery(3, {"op": "mass.cancel", "intent": "i2"}, customer="c2", to="wm2"))
        s.host.submit(delivery(4, {"op": "mass.cancel", "intent": "i9"}, customer="c2", to="wm2"))
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.named("cancel_groupmsg_send")) == 1
    assert set(s.words().values()) == {("failed", "expired", "cancelled")}
    assert [s.account.answers[f"shop:i{n}:1"].kind for n in (3, 4)] == ["accepted", "failed"]


def test_a_task_that_is_cancelled_while_it_is_noted_stays_cancelled() -> None:
    async def play(s: Scene) -> None:
        stored = iter(range(100))

        def dies_before_the_end_is_stored(what: str) -> None:
            if what == "before a bundle" and next(stored) == 2:
                s.host.process.kill()

        s.host.step = dies_before_the_end_is_stored
        s.host.submit(delivery(1))
        await asyncio.sleep(0)
        s.host.submit(delivery(2, {"op": "mass.cancel", "intent": "i1"}, customer="c1", to="wm1"))
        await until(lambda: not s.host.process.alive, s.loop)
        s.own()
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": ("failed", "expired", "cancelled")} and not s.wecom.tasks
    assert not s.account.notes


def test_what_wecom_refuses_fails_and_what_it_cannot_do_now_is_made_later() -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["add_msg_template"] = [
            refused(-1),
            refused(45009),
            NotSent("no connection"),
            refused(41048),
        ]
        s.host.submit(delivery(1))
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": ("failed", "dead_address", "41048")}
    at = [at for at, _ in s.wecom.named("add_msg_template")]
    assert [round(b - a) for a, b in pairwise(at)] == [5, 60, 20]
    assert [link.window > 0 for link in s.account.links] == [True, False, True]


@pytest.mark.parametrize(
    ("times", "word"), [(3, ("sent", None, "")), (20, ("failed", "config", "48002"))]
)
def test_what_a_person_must_put_right_stops_the_account_and_fails_later(
    times: int, word: Any
) -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["add_msg_template"] = [refused(48002) for _ in range(times)]
        s.host.submit(delivery(1))
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": word}
    assert [(link.window > 0, link.config) for link in s.account.links[:3]] == [
        (True, False),
        (False, True),
        (True, False),
    ]


@pytest.mark.parametrize(("problem", "calls"), [("lost", 1), (Unanswered("cut"), 2)])
def test_a_lost_answer_is_looked_for_before_the_call_is_made_again(
    problem: Any, calls: int
) -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["add_msg_template"] = [problem]
        s.host.submit(delivery(1))
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.named("add_msg_template")) == calls
    assert len(s.wecom.tasks) == 1 and set(s.words().values()) == {("sent", None, "")}


def test_a_list_that_does_not_end_proves_nothing() -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["add_msg_template"] = ["lost"]
        s.wecom.answers["get_groupmsg_list_v2"] = lambda body: {"next_cursor": "more"}
        s.host.submit(delivery(1))
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.named("add_msg_template")) == 1
    assert s.words() == {"shop:i1:1": ("unknown", None, "unanswered")}
    assert not s.account.notes


def test_more_than_one_task_holds_are_two_and_urgent_ones_wait_for_none_of_them() -> None:
    count = TASK_CUSTOMERS + 50
    took: list[float] = []

    async def play(s: Scene) -> None:
        for number in range(count):
            submitted(s.account, s.host.provider, delivery(number))
        before = s.host
        before.process.kill()
        s.own()  # with everything claimed
        await asyncio.sleep(0.05)
        await until(lambda: s.host._open >= WINDOW / 2, s.loop, every_s=0.001)
        content = {"text": "hi", "welcome_code": "W"}
        begin = s.loop.time()
        s.host.submit(delivery(count, content))
        await until(lambda: f"shop:i{count}:1" in s.account.answers, s.loop, every_s=0.01)
        took.append(s.loop.time() - begin)
        await s.until_over()

    s = scene(play)
    assert took[0] < 0.2
    sizes = [len(body["external_userid"]) for _, body in s.wecom.named("add_msg_template")]
    assert sizes == [TASK_CUSTOMERS, 50]
    assert s.account.notes_most == 2 + count // PART + 1
    assert Counter(word[0] for word in s.words().values()) == {"sent": count}


KINDS: dict[str, dict[str, Any]] = {
    "mass": {"text": "hello"},
    "moment": {"op": "moment.create", "text": "hello"},
}


def killed_at(steps: list[int], content: dict[str, Any]) -> Scene:
    """The host is killed after so many steps, and the next one after so many of its own, …"""

    async def play(s: Scene) -> None:
        s.kill_at(steps)
        s.host.submit(delivery(1, content))
        s.host.submit(delivery(2, content))
        await s.until_over_by_owners()

    return scene(play)


CHANCE = random.Random(11)
KILLS = [
    *[("mass", [step]) for step in range(1, 21)],
    *[("moment", [step]) for step in range(1, 43)],
    *[("mass", [CHANCE.randint(1, 12) for _ in range(4)]) for _ in range(40)],
    *[("moment", [CHANCE.randint(1, 24) for _ in range(4)]) for _ in range(40)],
]


@pytest.mark.parametrize(("kind", "steps"), KILLS, ids=str)
def test_whenever_hosts_die_each_is_sent_once_and_told_once(kind: str, steps: list[int]) -> None:
    s = killed_at(steps, KINDS[kind])
    in_tasks = Counter(to for task in s.wecom.tasks.values() for to in task["to"])
    assert set(in_tasks.values()) <= {1}
    assert len(s.wecom.moments) == (2 if kind == "moment" else 0)
    assert {word[0] for word in s.words().values()} == {"sent"} and len(s.words()) == 2
    assert all(len(told) == 1 for told in s.account.receipts.values())
    assert not s.account.notes


@pytest.mark.parametrize("after_s", [0, 5, 10.02, 10.05, 490])
def test_an_owner_whose_notes_are_not_stored_calls_nothing_more(after_s: float) -> None:
    """It does not know yet that there is another, who begins a minute later."""

    async def play(s: Scene) -> None:
        s.host.submit(delivery(1))
        await asyncio.sleep(after_s)
        s.host.lost = True
        if after_s < 10:
            s.host.submit(delivery(2))
        await asyncio.sleep(60)
        s.host.process.kill()
        s.own()
        await s.until_over()

    s = scene(play)
    in_tasks = Counter(to for task in s.wecom.tasks.values() for to in task["to"])
    assert set(in_tasks.values()) == {1} and set(s.words().values()) == {("sent", None, "")}
    assert all(len(told) == 1 for told in s.account.receipts.values()) and not s.account.notes
    assert s.account.counts["not_stored"]


def test_stopping_hands_back_what_is_in_no_task() -> None:
    kinds: list[str] = []

    async def play(s: Scene) -> None:
        s.host.answered = lambda _, answer: kinds.append(answer.kind)  # type: ignore[method-assign]
        s.host.submit(delivery(1))
        await asyncio.sleep(0.5)
        s.host.submit(delivery(2))
        await s.host.provider.stop(0.1)

    scene(play)
    assert kinds == ["accepted", "retry"]


def test_nothing_is_idle_while_its_last_word_is_not_stored() -> None:
    idle: list[tuple[bool, bool]] = []

    async def play(s: Scene) -> None:
        s.host.step = lambda _: idle.append(
            (bool(s.host.provider._shelf.tasks), s.host.provider.idle)
        )
        s.host.submit(delivery(1))
        await s.until_over()
        s.host.step("over")

    scene(play)
    assert idle[-3:] == [(False, False), (False, False), (False, True)]


# ---- moments and transfers -------------------------------------------------------------------


def test_a_moment_is_sent_when_it_is_published_and_says_who_sees_it() -> None:
    async def play(s: Scene) -> None:
        s.host.submit(delivery(1, KINDS["moment"]))
        await s.until_over()

    s = scene(play)
    ((_, body),) = s.wecom.named("add_moment_task")
    assert body["visible_range"] == {"sender_list": {"user_list": ["u1"]}}
    assert s.words() == {"shop:i1:1": ("sent", None, "")}
    (inbound,) = s.account.inbound
    assert inbound.content == {
        "event": "moment_published",
        "moment": "mo0",
        "members": 1,
        "customers": 3,
    }


def test_nobody_is_reminded_of_a_moment() -> None:
    async def play(s: Scene) -> None:
        s.wecom.confirms_s = None
        s.host.submit(delivery(1, KINDS["moment"]))
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": ("failed", "expired", "not-confirmed")}
    assert s.wecom.named("cancel_moment_task") and not s.account.counts["reminded"]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("status", "word", "owner"),
    [
        (1, ("delivered", None, ""), [{"owner": "a2"}]),
        (3, ("failed", "provider", "customer-refused"), []),
        (2, ("failed", "expired", "not-confirmed"), []),
    ],
)
def test_a_transfer_ends_as_the_customer_or_wecom_decides(
    left: bool, status: int, word: Any, owner: Any
) -> None:
    async def play(s: Scene) -> None:
        s.wecom.answers["transfer_customer"] = lambda body: {
            "customer": [{"external_userid": "wm1", "errcode": 0}]
        }
        s.wecom.answers["transfer_result"] = lambda body: {
            "customer": [{"external_userid": "wm1", "status": status}]
        }
        content = {"op": "customer.transfer", "to": "u2", "left": left, "owner": "a2"}
        s.host.submit(delivery(1, content))
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": word}
    assert [one.fields for one in s.account.commands] == owner
    assert all(("resigned" in name) == left for _, name, _ in s.wecom.calls)
