"""What a member's account decides without WeCom: tasks and their notes, results, moments, events of
customers and groups, transfers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.provider import BUNDLE_BYTES, BUNDLE_THINGS, NOTE_BYTES, NOTE_KEY_CHARS, Unsendable
from channels.wecom.callbacks import Event
from channels.wecom.contacts import (
    heard,
    is_under_way,
    join_way_of,
    refusal_in,
    transfer_of,
    transfer_result,
)
from channels.wecom.moments import is_moment, job_of, moment_of, published
from channels.wecom.task_results import Result, is_it, refused_list, send_results, settle
from channels.wecom.tasks import (
    BODY_BYTES,
    CALLING,
    COLLECTS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    OPEN,
    PART,
    REMINDERS,
    TASK_CUSTOMERS,
    Entry,
    Head,
    Task,
    group_of,
    head_note,
    load,
    look_after,
    name_of,
    names_of,
    part_note,
    provider_id,
    reminds,
)
from hub.contract.times import rfc3339

NOW = 1_790_000_000_000


def task(count: int = 0, state: int = COLLECTS, **fields: Any) -> Task:
    head = Head("t1", "single", state, NOW, NOW, NOW + DAY_MS, **fields)
    made = Task(head, collecting=True)
    for number in range(count):
        made.add(Entry(f"wm{number:030d}", name_of(f"shop:i{number}:1")))
    return made


def notes_of(one: Task) -> dict[str, bytes]:
    notes = head_note(one)
    for part in one.parts:
        notes |= part_note(one, part)
    return {key: value for key, value in notes.items() if value is not None}


# ---- tasks -----------------------------------------------------------------------------------


def test_the_largest_task_fits_its_notes_and_comes_back_whole() -> None:
    full = task(TASK_CUSTOMERS, body=b"x" * BODY_BYTES)
    notes = notes_of(full)
    assert all(
        len(note) <= NOTE_BYTES and len(key) <= NOTE_KEY_CHARS for key, note in notes.items()
    )
    assert not full.room("another")
    (back,), broken = load(notes)
    assert (
        not broken
        and back.everyone == full.everyone
        and msgspec.structs.asdict(back.head) == msgspec.structs.asdict(full.head)
    )


def test_a_task_takes_nobody_twice_and_none_when_it_is_called() -> None:
    one = task(2)
    assert one.room("new") and not one.room(one.everyone[0])
    one.collecting = False
    assert not one.room("new")


def test_what_is_told_of_a_part_is_one_bundle_and_its_note_goes_with_it() -> None:
    one = task(PART + 1, state=OPEN)
    everyone = one.everyone
    results = {to: Result("sent", NOW) for to in everyone[1:]}
    first, last = settle(one, 0, results), settle(one, 1, results)
    assert first is not None and last is not None
    size = len(msgspec.msgpack.encode(first.bundle.receipts))
    assert len(first.bundle.receipts) == PART - 1 <= BUNDLE_THINGS and size < BUNDLE_BYTES
    assert first.bundle.receipts[0].provider_id == provider_id("t1", 1)
    assert first.left is not None and [entry.told for entry in first.left[:2]] == [False, True]
    assert last.left is None and dict(last.bundle.notes) == {"task/t1/1": None}
    del one.parts[1]
    one.parts[0] = first.left
    assert settle(one, 0, results) is None  # told once
    end = settle(one, 0, {everyone[0]: Result("failed", NOW, "expired")})
    assert end is not None and dict(end.bundle.notes) == {"task/t1/0": None, "task/t1": None}


@given(
    st.dictionaries(st.sampled_from(["task/a", "task/a/0", "task/a/x", "task/b/1"]), st.binary())
)
def test_notes_of_any_bytes_are_broken_and_nothing_else(notes: dict[str, bytes]) -> None:
    tasks, broken = load(notes | {"other": b"?"})
    assert not tasks and set(broken) == set(notes)


@given(st.data())
def test_a_cut_note_never_takes_another_task_along(data: st.DataObject) -> None:
    good, bad = task(3), task(3)
    bad.head.id = "t2"
    notes = notes_of(good) | notes_of(bad)
    key = data.draw(st.sampled_from(["task/t2", "task/t2/0"]))
    notes[key] = notes[key][: data.draw(st.integers(0, len(notes[key]) - 1))]
    tasks, broken = load(notes)
    assert [one.head.id for one in tasks] == ["t1"] and key in broken


@given(st.integers(0, 5 * DAY_MS))
def test_looks_come_later_and_later_and_never_stop(age: int) -> None:
    at = look_after(NOW, NOW + age)
    assert NOW + age < at <= NOW + age + 30 * MINUTE_MS
    assert look_after(NOW, at - 1) == at  # what is asked meanwhile changes nothing


def test_the_first_looks() -> None:
    at, pauses = NOW, []
    for _ in range(8):
        before, at = at, look_after(NOW, at)
        pauses.append((at - before) / 60_000)
    assert pauses == [0.5, 1, 2, 5, 10, 30, 30, 30]


@given(st.lists(st.integers(0, 3 * DAY_MS), max_size=100), st.integers(1, DAY_MS))
def test_no_more_than_three_reminders_in_any_24_hours(asked: list[int], remind_ms: int) -> None:
    head = task(1, called_ms=NOW).head
    sent: list[int] = []
    for age in sorted(asked):
        if reminds(head, remind_ms, NOW + age):
            head.reminded = [*head.reminded, NOW + age][-REMINDERS:]
            sent.append(NOW + age)
    assert all(b - a >= DAY_MS for a, b in zip(sent, sent[REMINDERS:], strict=False))
    assert not sent or sent[0] - NOW >= remind_ms
    assert not reminds(head, 0, NOW + 9 * DAY_MS)


def test_same_content_and_hour_are_one_group() -> None:
    same = group_of("single", b"x", NOW)
    assert same == group_of("single", b"x", NOW + 1)
    assert same not in (
        group_of("group", b"x", NOW),
        group_of("single", b"y", NOW),
        group_of("single", b"x", NOW + HOUR_MS),
    )


def test_an_intent_is_found_by_all_names_of_its_deliveries() -> None:
    names = names_of("shop", "i7", "c1", 8)
    assert {name_of("shop:i7:1"), name_of("shop:i7:2 c1")} <= names
    assert name_of("shop:i7:1 c2") not in names


# ---- results ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, None),
        (1, ("sent", None)),
        (2, ("failed", "dead_address")),
        (3, ("failed", "window_closed")),
        (4, None),
        ("1", None),
    ],
)
def test_what_a_status_means(status: Any, said: Any) -> None:
    item = {
        "external_userid": "wm1",
        "userid": "u",
        "status": status,
        "send_time": NOW // 1_000 - 9,
    }
    found = send_results([item, {"status": 1}, None], NOW)
    assert {to: (one.status, one.failure) for to, one in found.items()} == (
        {"wm1": said} if said else {}
    )
    assert all(one.at_ms == NOW - 9_000 for one in found.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda some: (
        st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "external_userid",
        "chat_id",
        "userid",
        "status",
        "send_time",
        "msgid",
        "create_time",
        "text",
        "attachments",
        "errcode",
        "moment_id",
        "publish_status",
        "takeover_time",
        "result",
    ]
)
ITEMS = st.lists(JSON | st.dictionaries(KEYS, JSON | st.sampled_from(["wm1", 1, 3])), max_size=4)


@given(JSON | ITEMS, JSON | st.dictionaries(KEYS, JSON | ITEMS))
def test_no_answer_of_wecom_breaks_anything(listed: Any, item: Any) -> None:
    head = task(1, state=CALLING, called_ms=NOW, body=b'{"text":{"content":"x"}}').head
    send_results(listed, NOW)
    refused_list(listed, NOW)
    published(listed)
    refusal_in(listed, "external_userid", "wm1", NOW)
    transfer_result(listed, "wm1", NOW)
    is_under_way(listed, "wm1")
    is_it(item, head, {"m"})
    is_moment(item, head, "x")
    if isinstance(item, dict):
        job_of(item, NOW)


def test_the_task_of_a_lost_answer_is_known_by_time_content_and_customers() -> None:
    head = task(1, state=CALLING, called_ms=NOW, body=b'{"text":{"content":"hi"}}').head
    item = {"msgid": "m1", "create_time": NOW // 1_000 + 2, "text": {"content": "hi"}}
    assert is_it(item, head, ())
    assert is_it(item | {"create_time": str(item["create_time"])}, head, ())  # as WeCom writes it
    assert not is_it(item, head, ("m1",))  # of another task of ours
    assert not is_it(item | {"create_time": NOW // 1_000 - 3_600}, head, ())
    assert not is_it(item | {"text": {"content": "other"}}, head, ())
    assert not is_it(item | {"attachments": [{}]}, head, ())


# ---- moments ---------------------------------------------------------------------------------


def test_a_moment_is_published_by_the_member_unless_it_says_who() -> None:
    made = moment_of({"op": "moment.create", "text": "hi", "attachments": [{"image": "M"}]}, "u1")
    assert made == {
        "text": {"content": "hi"},
        "attachments": [{"msgtype": "image", "image": {"media_id": "M"}}],
        "visible_range": {"sender_list": {"user_list": ["u1"]}},
    }
    shown = {"sender_list": {"department_list": [2]}, "external_contact_list": {"tag_list": ["t"]}}
    content = {"op": "moment.create", "text": "hi", "visible_range": shown}
    assert moment_of(content, "u1")["visible_range"] == shown


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"text": ""},
        {"text": "x" * 2_001},
        {"text": "x", "else": 1},
        {"attachments": {}},
        {"attachments": [{"image": "M"}] * 10},
        {"attachments": [{"image": "M"}, {"video": "V"}]},
        {"attachments": [{"video": "V"}] * 2},
        {"attachments": [{"link": {"title": "no url"}}]},
        {"attachments": [{"image": {"media_id": 7}}]},
        {"text": "x", "visible_range": {"sender_list": {"user_list": [1]}}},
        {"text": "x", "visible_range": {"all": True}},
    ],
)
def test_what_is_no_moment_is_not_sent(content: dict[str, Any]) -> None:
    with pytest.raises(Unsendable) as raised:
        moment_of(content, "u1")
    assert raised.value.failure == "rejected_content"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"status": 2}, ""),
        ({"status": 3, "result": {"errcode": 0, "moment_id": "mo"}}, "mo"),
        ({"status": 3, "result": {"errcode": 40007}}, ("rejected_content", "40007")),
        ({"status": 3}, ("provider", "no-moment")),
    ],
)
def test_how_far_a_job_is(reply: dict[str, Any], said: Any) -> None:
    job = job_of(reply, NOW)
    assert (job if isinstance(job, str) else (job.failure, job.code)) == said


# ---- events ----------------------------------------------------------------------------------


def event(change: str, name: str = "change_external_contact", **fields: str) -> Event:
    about = {"ExternalUserID": "wm1"} if name == "change_external_contact" else {"ChatId": "wr1"}
    return Event(name, change, about | fields, NOW, f"{name}-{'0' * 32}")


EVENTS = [
    (
        event("add_external_contact", State="s", WelcomeCode="W"),
        "wm1",
        {
            "event": "friend_added",
            "state": "s",
            "welcome_code": "W",
            "welcome_until": rfc3339(NOW + 20_000),
        },
        ("profile.set", {"owner": "a1"}),
    ),
    (
        event("add_half_external_contact"),
        "wm1",
        {"event": "friend_added"},
        ("profile.set", {"owner": "a1"}),
    ),
    (
        event("del_follow_user"),
        "wm1",
        {"event": "friend_deleted_us"},
        ("dnd.set", {"scope": "channel:wecom"}),
    ),
    (event("del_external_contact"), "wm1", {"event": "friend_deleted"}, None),
    (
        event("del_external_contact", Source="DELETE_BY_TRANSFER"),
        "wm1",
        {"event": "friend_deleted", "by": "transfer"},
        None,
    ),
    (
        event("transfer_fail", FailReason="customer_refused"),
        "wm1",
        {"event": "transfer_failed", "reason": "customer_refused"},
        None,
    ),
    (event("new_one"), "wm1", {"event": "event_unknown", "name": "new_one"}, None),
    (event("create", "change_external_chat"), "~wr1", {"event": "group_created"}, None),
    (
        event("update", "change_external_chat", UpdateDetail="add_member", MemChangeCnt="2"),
        "~wr1",
        {"event": "group_changed", "what": "add_member", "members": 2},
        None,
    ),
    (event("dismiss", "change_external_chat"), "~wr1", {"event": "group_dismissed"}, None),
]


@pytest.mark.parametrize(("told", "sender", "content", "command"), EVENTS)
def test_what_an_event_means(told: Event, sender: str, content: Any, command: Any) -> None:
    bundle = heard(told, "a1")
    assert bundle is not None
    (inbound,) = bundle.inbound
    assert (inbound.sender, inbound.content, inbound.at_ms) == (sender, content, NOW)
    assert [(one.sender, one.op, one.fields) for one in bundle.commands] == (
        [(sender, *command)] if command else []
    )
    # One memory holds what was taken: a bundle must not hide its own message.
    assert bundle.id != inbound.id and all(len(one.id) <= 64 for one in bundle.commands)
    assert heard(told, "a1") == bundle


def test_an_event_of_nobody_is_nothing() -> None:
    assert heard(event("edit_external_contact"), "a1") is None
    assert heard(event("add_external_contact", ExternalUserID="no id!"), "a1") is None
    assert heard(event("create", "change_external_chat", ChatId=""), "a1") is None
    assert heard(Event("change_contact", "x", {}, NOW, "e"), "a1") is None


@given(st.text(max_size=40), st.text(max_size=40), st.dictionaries(st.text(max_size=20), st.text()))
def test_any_event_is_understood_or_nothing(name: str, change: str, fields: dict[str, str]) -> None:
    for known in (name, "change_external_contact", "change_external_chat"):
        told = Event(known, change, fields | {"ExternalUserID": "wm1", "ChatId": "wr1"}, NOW, "e")
        bundle = heard(told, "a1")
        assert bundle is None or len(msgspec.json.encode(bundle.inbound[0].content)) < 4_096


# ---- orders ----------------------------------------------------------------------------------


def test_a_join_way_names_the_group_that_follows_a_full_one() -> None:
    content = {"op": "group.invite", "auto_create": True, "name": "VIP", "state": "s1"}
    assert join_way_of(content, "wr1") == {
        "scene": 2,
        "chat_id_list": ["wr1"],
        "auto_create_room": 1,
        "room_base_name": "VIP",
        "room_base_id": 1,
        "state": "s1",
    }
    with pytest.raises(Unsendable):
        join_way_of({"state": "x" * 31}, "wr1")


def test_a_transfer_needs_a_member_and_knows_who_has_left() -> None:
    order = transfer_of({"to": "u2", "message": "hello"}, "wm1", "u1")
    assert order.body == {
        "handover_userid": "u1",
        "takeover_userid": "u2",
        "external_userid": ["wm1"],
        "transfer_success_msg": "hello",
    }
    left = transfer_of({"to": "u2", "message": "hello", "left": True}, "wm1", "u1")
    assert left.left and "transfer_success_msg" not in left.body
    for wrong in ({}, {"to": 7}, {"to": "u2", "left": "yes"}, {"to": "u2", "message": "x" * 201}):
        with pytest.raises(Unsendable):
            transfer_of(wrong, "wm1", "u1")


@pytest.mark.parametrize(
    ("status", "said"),
    [(1, ("delivered", "")), (2, None), (3, ("failed", "customer-refused")), (9, None)],
)
def test_how_a_transfer_ends(status: int, said: Any) -> None:
    listed = [
        {"external_userid": "other", "status": 1},
        {"external_userid": "wm1", "status": status},
    ]
    result = transfer_result(listed, "wm1", NOW)
    assert (result and (result.status, result.code)) == said


def test_a_refusal_of_one_in_a_list_of_several() -> None:
    listed = [
        {"external_userid": "wm2", "errcode": 0},
        {"external_userid": "wm1", "errcode": 40096},
    ]
    refused = refusal_in(listed, "external_userid", "wm1", NOW)
    assert refused is not None and (refused.failure, refused.code) == ("dead_address", "40096")
    assert refusal_in(listed, "external_userid", "wm2", NOW) is None
