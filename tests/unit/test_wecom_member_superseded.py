"""A newer mass message of the same app, customer and collapse key replaces what the member has not
confirmed. Against a scripted WeCom, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from channels.http import Unanswered
from channels.provider import BUNDLE_BYTES, Answer, Bundle, Stored
from channels.wecom.errors import refused
from channels.wecom.member_intake import ENTRY_BYTES, HEAD_BYTES, KEEP_BYTES, WINDOW
from channels.wecom.task_results import Result, settle
from channels.wecom.tasks import (
    BODY_BYTES,
    CALLING,
    DAY_MS,
    OPEN,
    PART,
    TASK_CUSTOMERS,
    Entry,
    Head,
    Task,
    key_of,
    load,
    name_of,
)
from hub.contract.types import Delivery
from tests.support.wecom_member import HOUR_S, START_MS, Scene, delivery, scene, until

SENT = ("sent", None, "")
GONE = ("failed", "superseded", "collapse-key")
LATE = ("failed", "expired", "not-confirmed")


def keyed(number: int, whose: int, text: str = "hello", **fields: Any) -> Delivery:
    """`shop:i<number>:1` for a customer, with the collapse key `k`."""
    known = {"customer": f"c{whose}", "to": f"wm{whose}", "collapse_key": "k"}
    return delivery(number, {"text": text}, **known | fields)


def word(s: Scene, number: int) -> Any:
    """The last word on `shop:i<number>:1`."""
    return s.words().get(f"shop:i{number}:1")


def asked_for(s: Scene) -> list[list[str]]:
    """Whom the tasks at WeCom are for."""
    return [task["to"] for task in s.wecom.tasks.values()]


# ---- before WeCom has it -----------------------------------------------------------------------


def test_what_is_only_collected_is_never_made() -> None:
    early: list[Any] = []

    async def play(s: Scene) -> None:
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(5)
        s.host.submit(keyed(2, 1, "newer"))
        await asyncio.sleep(1)
        early.append(word(s, 1))
        await s.until_over()

    s = scene(play)
    assert early == [GONE]  # at once: nothing else waits for that task
    assert [body["text"] for _, body in s.wecom.named("add_msg_template")] == [{"content": "newer"}]
    assert (word(s, 1), word(s, 2)) == (GONE, SENT) and not s.account.notes
    assert not s.wecom.named("cancel_groupmsg_send")


def test_the_same_content_takes_its_place_in_the_task() -> None:
    async def play(s: Scene) -> None:
        s.host.submit(delivery(9))
        for number in (1, 2, 3):
            s.host.submit(keyed(number, 1))
            await asyncio.sleep(1)
        s.host.submit(delivery(8))
        await s.until_over()

    s = scene(play)
    assert asked_for(s) == [["wm9", "wm1", "wm8"]]
    assert [word(s, n) for n in (1, 2, 3, 8, 9)] == [GONE, GONE, SENT, SENT, SENT]


def test_a_task_is_over_when_wecom_would_have_none_of_those_that_are_left_in_it() -> None:
    async def play(s: Scene) -> None:
        s.wecom.answers["add_msg_template"] = lambda body: {"fail_list": body["external_userid"]}
        s.host.submit(keyed(1, 1))
        s.host.submit(keyed(2, 1))
        s.host.submit(delivery(3))
        s.host.submit(keyed(4, 1, "newer"))
        await s.until_over()

    s = scene(play)
    refused = ("failed", "dead_address", "fail-list")
    assert [word(s, number) for number in (1, 2, 3, 4)] == [GONE, GONE, refused, refused]
    assert len(s.wecom.named("add_msg_template")) == 2 and not s.account.notes


@pytest.mark.parametrize("after_s", [9.985, 9.995, 10.005, 10.015, 10.03, 10.05, 10.07])
def test_while_the_task_is_made_it_is_left_out_or_cancelled(after_s: float) -> None:
    async def play(s: Scene) -> None:
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(after_s)
        s.host.submit(keyed(2, 1, "newer"))
        await s.until_over()

    s = scene(play)
    assert (word(s, 1), word(s, 2)) == (GONE, SENT)
    assert len(s.wecom.named("cancel_groupmsg_send")) == len(s.wecom.tasks) - 1


@pytest.mark.parametrize(("at_s", "state"), [(10.005, CALLING), (10.055, OPEN)])
def test_changes_of_one_head_are_stored_in_the_order_they_were_made(
    at_s: float, state: int
) -> None:
    """A newer one comes while it is being stored that the call is made, or was answered."""
    first: list[str] = []
    heads: list[tuple[str, int, bool]] = []

    async def play(s: Scene) -> None:
        bundles, take = s.host.bundle, s.account.take

        def seen(what: str, bundle: Bundle) -> None:
            if not first:
                first.extend(bundle.notes)  # a head, and its part
            if note := bundle.notes.get(first[0]):
                head = msgspec.msgpack.decode(note, type=Head)
                heads.append((what, head.state, bool(head.superseded)))

        def noted(bundle: Bundle, stored: Stored) -> None:
            seen("noted", bundle)
            bundles(bundle, stored)

        def taken(bundle: Bundle) -> None:
            seen("stored", bundle)
            take(bundle)

        s.host.bundle, s.account.take = noted, taken  # type: ignore[method-assign]
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(at_s)
        s.host.submit(keyed(2, 1, "newer"))
        await s.until_over()

    s = scene(play)
    noted = [(state, marked) for what, state, marked in heads if what == "noted"]
    both = heads.index(("noted", state, False))
    assert heads[both : both + 2] == [("noted", state, False), ("noted", state, True)]
    assert noted == [(what, mark) for did, what, mark in heads if did == "stored"] == sorted(noted)
    assert (word(s, 1), word(s, 2)) == (GONE, SENT)


# ---- in a task at WeCom ------------------------------------------------------------------------


@pytest.mark.parametrize(("after_s", "told_s"), [(60, 61), (12, 43)])  # 41063 for 20 s
def test_a_task_of_which_all_is_superseded_is_cancelled(after_s: float, told_s: float) -> None:
    at: list[float] = []

    async def play(s: Scene) -> None:
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(after_s)
        s.host.submit(keyed(2, 1, "newer"))
        await until(lambda: word(s, 1), s.loop, every_s=0.1)
        at.append(s.loop.time())
        await s.until_over()

    s = scene(play)
    ((_, body),) = s.wecom.named("cancel_groupmsg_send")
    assert body == {"msgid": "msg0"} and at[0] < told_s
    assert (word(s, 1), word(s, 2)) == (GONE, SENT) and not s.account.notes


@pytest.mark.parametrize(
    ("confirms_s", "first", "other"), [(300.0, SENT, SENT), (None, GONE, LATE)]
)
def test_a_task_that_others_are_in_stays(confirms_s: float | None, first: Any, other: Any) -> None:
    async def play(s: Scene) -> None:
        s.wecom.confirms_s = confirms_s
        s.host.submit(keyed(1, 1), expires_s=3 * HOUR_S)
        s.host.submit(delivery(2), expires_s=3 * HOUR_S)
        await asyncio.sleep(60)
        s.host.submit(keyed(3, 1, "newer"), expires_s=2 * HOUR_S)
        await asyncio.sleep(200)
        assert not s.wecom.named("cancel_groupmsg_send") and word(s, 1) is None
        s.host.process.kill()
        s.own()  # what is superseded is in the notes
        await s.until_over()

    s = scene(play)
    assert (word(s, 1), word(s, 2)) == (first, other)


def test_the_last_that_is_superseded_cancels_the_task() -> None:
    async def play(s: Scene) -> None:
        for number in range(1, 4):
            s.host.submit(keyed(number, number))
        await asyncio.sleep(60)
        s.host.submit(keyed(11, 1, "newer"))
        s.host.submit(keyed(12, 2, "newer"))
        await asyncio.sleep(60)
        assert not s.wecom.named("cancel_groupmsg_send")
        s.host.submit(keyed(13, 3, "newer"))
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.named("cancel_groupmsg_send")) == 1
    assert asked_for(s) == [["wm1", "wm2", "wm3"], ["wm1", "wm2"], ["wm3"]]
    assert [word(s, n) for n in (1, 2, 3, 11, 12, 13)] == [GONE] * 3 + [SENT] * 3


def test_a_newer_one_of_a_newer_one_and_groups() -> None:
    group = {"customer": "~wr1", "to": "wr1"}

    async def play(s: Scene) -> None:
        for number, text in enumerate(("one", "two", "three")):
            s.host.submit(keyed(number, 1, text))
            s.host.submit(keyed(10 + number, 1, text, **group))
            await asyncio.sleep(60)
        await s.until_over()

    s = scene(play)
    assert [word(s, n) for n in (0, 1, 2, 10, 11, 12)] == [GONE, GONE, SENT] * 2
    assert len(s.wecom.named("cancel_groupmsg_send")) == 4


def test_others_replace_nothing() -> None:
    others = [
        {"collapse_key": "other"},
        {"collapse_key": None},
        {"app": "bot", "id": "bot:i1:1"},
        {"customer": "c2", "to": "wm2"},
    ]

    async def play(s: Scene) -> None:
        s.host.submit(keyed(1, 1))
        for number, fields in enumerate(others):
            s.host.submit(keyed(10 + number, 1, "newer", **fields))
        await asyncio.sleep(60)
        for number, fields in enumerate(others):
            id = {"id": f"bot:i{20 + number}:1"} if "app" in fields else {}
            s.host.submit(keyed(20 + number, 1, "newer", **fields | id))
        await s.until_over()

    s = scene(play)
    gone = {name for name, told in s.words().items() if told == GONE}
    assert gone == {"shop:i10:1", "bot:i1:1", "shop:i13:1"}  # by the second of their own
    assert word(s, 1) == SENT


def test_an_urgent_one_that_came_ahead_of_an_older_one_stays() -> None:
    async def play(s: Scene) -> None:
        s.host.submit(keyed(2, 1, "newer", at="2026-11-22T00:00:01Z"))
        for after_s in (1, 60):
            await asyncio.sleep(after_s)
            s.host.submit(keyed(10 + after_s, 1))
        await s.until_over()

    s = scene(play)
    late = [s.account.answers[f"shop:i{n}:1"] for n in (11, 70)]
    assert late == [Answer("failed", failure="superseded", code="collapse-key")] * 2
    assert s.words() == {"shop:i2:1": SENT} and asked_for(s) == [["wm1"]]


# ---- the member confirms meanwhile -------------------------------------------------------------


def confirmed_at(step: str) -> Scene:
    """The member confirms the older one just before WeCom hears a call of ours."""

    async def play(s: Scene) -> None:
        def confirms(what: str) -> None:
            if what.endswith(step):
                s.wecom.confirms_s = s.loop.time() - s.wecom.tasks["msg0"]["made"]
                s.wecom.step = lambda what: None

        s.wecom.confirms_s = None
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(60)
        s.wecom.step = confirms
        s.host.submit(keyed(2, 1, "newer"))
        await s.until_over()

    return scene(play)


@pytest.mark.parametrize("step", ["get_groupmsg_task asked", "cancel_groupmsg_send asked"])
def test_what_the_member_has_just_confirmed_is_sent(step: str) -> None:
    s = confirmed_at(step)
    assert (word(s, 1), word(s, 2)) == (SENT, SENT) and not s.account.notes


def test_a_cancel_that_wecom_refuses_leaves_the_word_to_the_results() -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["cancel_groupmsg_send"] = [refused(41060) for _ in range(9)]
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(60)
        s.host.submit(keyed(2, 1, "newer"))
        await s.until_over()

    s = scene(play)
    assert (word(s, 1), word(s, 2)) == (SENT, SENT)
    assert s.account.counts["cancel_refused"] == len(s.wecom.named("cancel_groupmsg_send")) == 3


@pytest.mark.parametrize("problem", ["lost", Unanswered("cut"), refused(-1), refused(45009)])
def test_a_cancel_that_was_not_answered_is_repeated(problem: Any) -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["cancel_groupmsg_send"] = [problem]
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(60)
        s.host.submit(keyed(2, 1, "newer"))
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.named("cancel_groupmsg_send")) == 2
    assert (word(s, 1), word(s, 2)) == (GONE, SENT)


def test_no_other_channel_is_tried_for_a_superseded_one_whatever_wecom_says() -> None:
    async def play(s: Scene) -> None:
        s.wecom.bad = {"wm1": 2, "wm2": 3}
        for number in (1, 2, 3):
            s.host.submit(keyed(number, number))
        await asyncio.sleep(60)
        for number in (1, 2):
            s.host.submit(keyed(10 + number, number, "newer"))
        await s.until_over()

    s = scene(play)
    assert [word(s, n) for n in (1, 2, 3)] == [GONE, GONE, SENT]
    assert [word(s, n)[1] for n in (11, 12)] == ["dead_address", "window_closed"]


# ---- hosts that die ----------------------------------------------------------------------------


def killed_at(steps: list[int], after_s: float) -> Scene:
    """The host is killed so many steps after the newer one came, and the next one after so many of
    its own, …"""

    async def play(s: Scene) -> None:
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(after_s)
        s.kill_at(steps)
        s.host.submit(keyed(2, 1, "newer"))
        await s.until_over_by_owners()

    return scene(play)


CHANCE = random.Random(23)
KILLS = [
    *[([step], after_s) for step in range(1, 24) for after_s in (5, 60)],
    *[
        ([CHANCE.randint(1, 12) for _ in range(4)], after_s)
        for _ in range(20)
        for after_s in (5, 9.98, 60)
    ],
]


@pytest.mark.parametrize(("steps", "after_s"), KILLS, ids=str)
def test_whenever_hosts_die_the_older_is_superseded_once(steps: list[int], after_s: float) -> None:
    s = killed_at(steps, after_s)
    assert (word(s, 1), word(s, 2)) == (GONE, SENT)
    assert all(len(told) == 1 for told in s.account.receipts.values())
    assert all(
        bool(task["cancelled"]) == (task["text"] == {"content": "hello"})
        for task in s.wecom.tasks.values()
    )
    assert Counter(to for task in s.wecom.tasks.values() for to in task["to"])["wm1"] <= 2
    assert not s.account.notes


def test_a_delivery_that_comes_again_does_not_replace_itself() -> None:
    async def play(s: Scene) -> None:
        s.host.submit(keyed(1, 1))
        await asyncio.sleep(60)
        answer = s.account.answers.pop("shop:i1:1")  # it was not stored
        s.host.process.kill()
        s.own()
        await until(lambda: s.account.answers, s.loop, every_s=0.1)
        assert s.account.answers == {"shop:i1:1": answer}
        await s.until_over()

    s = scene(play)
    assert s.words() == {"shop:i1:1": SENT} and len(s.wecom.tasks) == 1


def test_a_whole_campaign_replaces_another_within_the_bounds_of_notes_and_bundles() -> None:
    count = 3 * WINDOW

    async def play(s: Scene) -> None:
        s.wecom.confirms_s = HOUR_S
        for round, numbers in enumerate(
            (range(count), random.Random(4).sample(range(count), count))
        ):
            for done, number in enumerate(numbers):
                if done % (WINDOW // 2) == 0:
                    await asyncio.sleep(0.1)
                s.host.submit(keyed(round * count + number, number, f"round {round}"))
            await asyncio.sleep(120)
        await s.until_over()

    s = scene(play)
    assert len(s.wecom.tasks) == 2 and len(s.wecom.named("cancel_groupmsg_send")) == 1
    assert Counter(s.words().values()) == {GONE: count, SENT: count}


# ---- what is noted -----------------------------------------------------------------------------


def test_the_largest_of_everything_fits_a_bundle() -> None:
    entry = Entry("w" * 64, name_of("a"), True, key_of("a", "b", "c"), 1 << 50)
    head = Head("x" * 24, "single", OPEN, *[1 << 50] * 3, b"", TASK_CUSTOMERS, 1 << 50)
    head.made, head.found, head.reminded = "m" * 64, "", [1 << 50] * 3
    head.superseded = bytearray(TASK_CUSTOMERS // 8)
    assert len(msgspec.msgpack.encode(entry)) <= ENTRY_BYTES
    assert len(msgspec.msgpack.encode(head)) <= HEAD_BYTES
    assert KEEP_BYTES + 2 * (HEAD_BYTES + BODY_BYTES) + ENTRY_BYTES * PART <= BUNDLE_BYTES


def test_notes_of_before_there_were_collapse_keys_are_read() -> None:
    head = ["t1", "single", OPEN, 1, 2, START_MS + DAY_MS, b"", 2, 3, "msg0", "", [], False]
    entries = [["wm1", b"n" * 8, True], ["wm2", b"m" * 8, False]]
    notes = {
        "task/t1": msgspec.msgpack.encode(head),
        "task/t1/0": msgspec.msgpack.encode(entries),
    }
    (task,), broken = load(notes)
    assert not broken and task.waiting == ["wm2"] and not task.has_superseded and not task.is_void


def test_a_key_is_of_one_app_customer_and_word() -> None:
    assert key_of("a", "b", None) == b"" != key_of("a", "b", "")
    keys = {
        key_of(*one) for one in [("a", "b", "c"), ("a", "bc", ""), ("ab", "", "c"), ("a", "b", "d")]
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("said", "superseded_ms", "told"),
    [
        (None, None, None),
        (None, 7, ("failed", "superseded")),
        (Result("sent", 5), None, ("sent", None)),
        (Result("failed", 5, "dead_address"), None, ("failed", "superseded")),
        (Result("failed", 5, "expired"), None, ("failed", "superseded")),
        (Result("unknown", 5), None, ("unknown", None)),
    ],
)
def test_what_is_told_of_a_superseded_one(said: Any, superseded_ms: Any, told: Any) -> None:
    task = Task(Head("t1", "single", OPEN, 1, 2, 3), collecting=True)
    for number in range(20):
        task.add(Entry(f"wm{number}", b"n"))
    task.supersede(11)
    assert task.has_superseded and not task.is_void
    settled = settle(task, 0, {"wm11": said} if said else {}, superseded_ms=superseded_ms)
    receipts = settled.bundle.receipts if settled else ()
    assert [(one.status, one.failure) for one in receipts] == ([told] if told else [])
    assert all(one.provider_id == "t1/11" for one in receipts)
