"""Several push devices of a customer: who gets what, what is told, and what is remembered."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.partition import Partition
from actors.questions import describe
from actors.turn import Turn
from hub import limits
from hub.checkers import ExactlyOnce, Handed, check_all
from hub.contract.decode import split_number
from hub.contract.times import rfc3339
from hub.errors import PolicyError
from hub.policy import devices
from hub.policy.document import parse_policy, policy_version
from hub.policy.policy import Policy
from hub.policy.state import ConversationState, pack_state, unpack_state
from tests.support.histories import Recorder, kinds
from tests.support.told import (
    Told,
    by_both,
    cap,
    command,
    event,
    intent,
    product_deliveries,
    receipt,
)
from tests.unit.test_turn import NOW, PARTITIONS, keys_of, message, partition
from tests.unit.test_turn import intent as turn_intent

HEAD = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["push", "sms"]
[categories.solo]
route = ["push"]
"""
PUSH = "[push]\ndevices = 3\n"
KEY = keys_of(1, 1)[0]


def seen(at: str, *addresses: str) -> list[dict[str, Any]]:
    """Addresses told one after another: the last one is seen last."""
    return [command(at, "profile.set", to={"push": each}) for each in addresses]


def push(at: str, name: str, **fields: Any) -> dict[str, Any]:
    return intent(at, name, **({"to": {"sms": "+1"}} | fields))


THREE = [*seen("11-21 07:00", "fcm/a", "b", "apns/c"), push("11-21 08:00", "i")]
"""Deliveries 1 to c, 101 to b, 201 to a."""


def word(number: int, status: str, minute: int = 1, **more: Any) -> dict[str, Any]:
    return receipt(f"11-21 08:{minute:02d}", "i", status, number, **more)


def dead(number: int, to: str, minute: int = 1, **more: Any) -> dict[str, Any]:
    more = {"class": "dead_address", "to": to} | more
    return word(number, "failed", minute, **more)


# ---- who gets it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "account", "token"),
    [
        ("fcm-1/d:APA91_x-y", "fcm-1", "d:APA91_x-y"),
        ("d:APA91_x-y", None, "d:APA91_x-y"),
        ("apns/00ff/x", "apns", "00ff/x"),
        ("https://push.example/s/1", None, "https://push.example/s/1"),
        ('{"endpoint":"https://push.example/s"}', None, '{"endpoint":"https://push.example/s"}'),
        ('web/{"endpoint":"https://p"}', "web", '{"endpoint":"https://p"}'),
        ("a/\nb", "a", "\nb"),
        ("/x", None, "/x"),
        ("x/", None, "x/"),
        ("ü/x", None, "ü/x"),
        ("x" * 64 + "/t", "x" * 64, "t"),
        ("x" * 65 + "/t", None, "x" * 65 + "/t"),
    ],
)
def test_an_address_may_begin_with_its_account(address: str, account: str | None, token: str):
    assert devices.split_address(address) == (account, token)


def test_the_number_of_a_delivery_says_attempt_and_device():
    assert [split_number(n) for n in (1, 8, 101, 908, 100)] == [
        *((1, 0), (8, 0), (1, 1), (8, 9), (0, 1)),
    ]


def handed(policy: str, *events: dict[str, Any]) -> list[tuple[str, str, str]]:
    deliveries = product_deliveries(tomllib.loads(HEAD + policy), list(events))
    assert all(each.id.endswith(f":{each.attempt}") for each in deliveries)
    return [(each.id, each.account, each.to) for each in deliveries]


ALL = [("shop:i:1", "apns", "c"), ("shop:i:101", "push", "b"), ("shop:i:201", "fcm", "a")]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", ALL[:1]),
        ("[push]\n", ALL[:1]),
        ("[push]\ndevices = 2\n", ALL[:2]),
        (PUSH, ALL),
        ("[push]\ndevices = 10\n", ALL),
        (PUSH + 'seen_within = "60m"\n', ALL),
        (PUSH + 'seen_within = "59m"\n', ALL[:1]),
    ],
)
def test_the_devices_seen_last_get_it(policy: str, expected: list[Any]):
    assert handed(policy, *THREE) == expected


def test_the_account_in_front_wins_and_one_that_is_stated_serves_the_others():
    stated = push("11-21 08:00", "i", account="own")
    assert [account for _, account, _ in handed(PUSH, *THREE[:3], stated)] == ["apns", "own", "fcm"]


def test_one_token_with_and_without_its_account_is_one_device_of_that_account():
    events = [*seen("11-21 07:00", "x", "own/x"), push("11-21 08:00", "i", account="own")]
    assert handed(PUSH, *events) == [("shop:i:1", "own", "x")]


def test_an_intent_s_own_address_is_the_one_seen_last_and_each_is_kept_once():
    to = {"push": "fcm/a", "sms": "+1"}
    assert [to for *_, to in handed(PUSH, *THREE[:3], push("11-21 08:00", "i", to=to))] == [
        *("a", "c", "b"),
    ]


def test_a_delivery_says_its_collapse_key_and_a_fallback_goes_to_one_number():
    events = [*THREE[:3], push("11-21 08:00", "i", collapse_key="k")]
    events += [word(number, "failed") for number in (1, 101, 201)]
    deliveries = product_deliveries(tomllib.loads(HEAD + PUSH), events)
    assert [(each.id, each.collapse_key) for each in deliveries[2:]] == [
        ("shop:i:201", "k"),
        ("shop:i:2", "k"),
    ]


@pytest.mark.parametrize(
    ("policy", "first"),
    [("", "apns/c"), ("[push]\n", "x"), (PUSH, "x")],
)
def test_where_devices_matter_she_is_seen_with_the_one_she_writes_from(policy: str, first: str):
    wrote = event("inbound", "11-21 07:30", id="m", channel="push", account="push", sender="x",
                  content={"text": "hi"})  # fmt: skip
    expected = devices.split_address(first)[1]
    assert handed(policy, *THREE[:3], wrote, THREE[3])[0][2] == expected


def test_what_she_wrote_late_moves_no_device_back():
    state = ConversationState()
    for address, at in (("a", 10), ("b", 20), ("c", 30)):
        devices.tell(state, address, at)
    devices.hear(state, "a", 25)
    devices.hear(state, "d", 15)
    devices.hear(state, "c", 5)
    assert [(each.address, each.seen) for each in devices.known(state)] == [
        *(("c", 30), ("a", 25), ("b", 20), ("d", 15)),
    ]
    devices.hear(state, "d", 30)
    assert state.to["push"] == "d"


# ---- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([(1, "sent"), (101, "sent"), (201, "delivered"), (1, "delivered")], "sent delivered"),
        ([(101, "delivered"), (1, "sent"), (201, "read"), (1, "read")], "delivered read"),
        ([(1, "failed"), (101, "failed"), (101, "failed")], ""),
        ([(1, "failed"), (101, "failed"), (201, "unknown")], ""),
        ([(1, "failed"), (101, "unknown"), (201, "failed"), (101, "failed")], "dispatched"),
        ([(1, "failed"), (101, "failed"), (201, "failed"), (201, "failed")], "dispatched"),
        ([(1, "sent"), (1, "failed"), (101, "failed"), (201, "failed")], "sent dispatched"),
        ([(1, "failed"), (101, "failed"), (201, "delivered")], "delivered"),
        ([(301, "delivered"), (100, "delivered"), (2, "delivered")], ""),
    ],
)
@by_both
def test_the_devices_speak_as_one(told: Told, words: list[tuple[int, str]], expected: str):
    said = told(PUSH, *THREE, *(word(number, status) for number, status in words), head=HEAD)
    assert [line.split()[3] for line in said] == ["dispatched", *expected.split()]


@by_both
def test_failed_is_told_when_all_have_and_nothing_is_left(told: Told):
    said = told(
        PUSH,
        *THREE[:3],
        push("11-21 08:00", "i", category="solo"),
        word(201, "failed", 1, code="x"),
        word(1, "failed", 2, **{"class": "expired"}),
        word(101, "failed", 3, **{"class": "provider", "code": "y"}),
        word(101, "delivered", 4),
        head=HEAD,
    )
    assert said == [
        "11-21 08:00 i dispatched push",
        "11-21 08:03 i failed push (provider y)",
        "11-21 08:04 i delivered push",
    ]


@by_both
def test_three_devices_count_once_and_are_taken_back_together(told: Told):
    rules = PUSH + cap(2, "24h", on="drop")
    more = [push("11-21 09:00", "j"), push("11-21 09:01", "k"), push("11-21 09:02", "l")]
    blocked = [line.split()[2:4] for line in told(rules, *THREE, *more, head=HEAD)[1:]]
    assert blocked == [["j", "dispatched"], ["k", "suppressed"], ["l", "suppressed"]]
    failed = [receipt("11-21 09:01", "j", "failed", number) for number in (1, 201)]
    last = receipt("11-21 09:01", "j", "failed", 101, **{"class": "superseded"})
    for words, expected in ((failed, "suppressed"), ([*failed, last], "dispatched")):
        said = told(rules, *THREE, more[0], *words, more[2], head=HEAD)
        assert said[-1].split()[2:4] == ["l", expected]


@by_both
def test_what_an_account_took_back_for_a_newer_message_is_superseded_and_tried_nowhere(told: Told):
    gone = {"class": "superseded"}
    alone = told(PUSH, push("11-21 08:00", "i", to={"push": "x", "sms": "+1"}),
                 word(1, "failed", **gone), word(1, "delivered", 2), head=HEAD)  # fmt: skip
    assert [line.split()[3] for line in alone] == ["dispatched", "superseded", "delivered"]
    some = [word(1, "failed", **gone), word(101, "failed"), word(201, "failed", 2)]
    said = told(PUSH, *THREE, *some, head=HEAD)
    assert said[1:] == ["11-21 08:02 i superseded push"]


@by_both
def test_that_one_device_tells_no_delivered_is_enough(told: Told):
    head = HEAD.replace('"sms"]', '"sms"]\nfallback_after = "10m"')
    assert len(told(PUSH, *THREE, word(1, "sent"), head=head)) == 3, "sms is tried"


def test_no_delivered_is_waited_for_once_a_device_says_that_none_is_told():
    head = HEAD.replace('"sms"]', '"sms"]\nfallback_after = "10m"')
    events = [*THREE, word(1, "sent"), word(101, "sent", 2, last=True)]
    deliveries = product_deliveries(tomllib.loads(head + PUSH), events)
    assert [each.channel for each in deliveries] == ["push"] * 3


# ---- dead, signed out, forgotten -----------------------------------------------------------------


@by_both
def test_the_dead_are_forgotten_and_the_rest_lives_on(told: Told):
    only = [push("11-21 08:00", "i", to={"push": "fcm/a"}, category="solo")]
    again = push("11-21 08:05", "j", to={}, category="solo")
    blocked = "11-21 08:05 j suppressed [address next never]"
    assert told(PUSH, *only, dead(1, "a"), again, head=HEAD)[-1] == blocked
    for alive in (
        dead(1, "b"),
        dead(1, "fcm/a"),
        dead(1, "a", dead_since="2026-11-21T07:59:59Z"),
        word(1, "failed", **{"class": "dead_address"}),
        word(1, "failed", **{"class": "expired", "to": "a"}),
    ):
        assert told(PUSH, *only, alive, again, head=HEAD)[-1] == "11-21 08:05 j dispatched push"


def test_which_of_several_is_dead_its_account_says():
    told_to = seen("11-21 07:00", "fcm/a", "apns/a", "a")
    events = [*told_to, push("11-21 08:00", "i"), dead(101, "a"), push("11-21 08:05", "j")]
    assert [account for name, account, _ in handed(PUSH, *events) if ":j:" in name] == ["fcm"]


@by_both
def test_a_number_is_not_forgotten_because_a_message_there_failed(told: Told):
    failed = word(1, "failed", **{"class": "dead_address", "to": "+1"})
    said = told("", push("11-21 08:00", "i", route=["sms"]), failed,
                push("11-21 08:05", "j", route=["sms"], to={}), head=HEAD)  # fmt: skip
    assert said[-1] == "11-21 08:05 j dispatched sms"


QUIET = '[[quiet]]\nname = "q"\nfrom = "09:00"\nto = "10:00"\non = "hold"\n'


@by_both
def test_a_device_that_signs_out_lets_what_is_held_be_decided_again(told: Told):
    held = push("11-21 09:00", "i", to={"push": "apns/a"}, category="solo")
    for to in ("apns/a", "a"):
        out = command("11-21 09:01", "device.forget", to=to)
        said = told(PUSH + QUIET, held, out, head=HEAD)
        assert said[1] == "11-21 09:01 i suppressed [address next never, q hold 11-21 10:00]"
    other = command("11-21 09:01", "device.forget", to="b")
    assert told(PUSH + QUIET, held, other, head=HEAD)[1] == "11-21 10:00 i dispatched push"


@by_both
def test_a_dead_device_lets_what_is_held_for_it_be_decided_again(told: Told):
    sent = push("11-21 08:59", "i", to={"push": "a"}, category="solo")
    held = push("11-21 09:00", "j", to={}, category="solo")
    failed = receipt("11-21 09:02", "i", "failed", **{"class": "dead_address", "to": "a"})
    assert told(PUSH + QUIET, sent, held, failed, head=HEAD)[2:] == [
        "11-21 09:02 i failed push (dead_address)",
        "11-21 09:02 j suppressed [address next never, q hold 11-21 10:00]",
    ]


def test_forget_takes_all_and_the_oldest_make_room():
    state = ConversationState()
    for number in range(limits.DEVICES + 1):
        devices.tell(state, f"t{number}", number)
    kept = [each.address for each in devices.known(state)]
    assert kept == [f"t{number}" for number in range(limits.DEVICES, 0, -1)]
    devices.forget_all(state)
    assert pack_state(state) == pack_state(ConversationState())


def test_a_state_that_was_packed_before_there_were_devices_is_read():
    before = msgspec.msgpack.encode([0, None, {"push": "fcm/a"}])
    state = unpack_state(before)
    assert state.devices is None
    assert [each.address for each in devices.known(state)] == ["fcm/a"]
    devices.tell(state, "b", 5)
    assert [(each.address, each.seen) for each in devices.known(state)] == [("b", 5), ("fcm/a", 0)]
    old = unpack_state(before)
    devices.forget(old, "fcm/a")
    assert old.to == {}


def test_a_customer_without_devices_takes_one_byte_more():
    state = ConversationState(to={"sms": "+1"})
    assert pack_state(state)[-1:] == b"\xc0"


# ---- the turn ------------------------------------------------------------------------------------

POLICY = HEAD.replace("solo", "news") + PUSH.replace("3", "10")


def turn_of(owned: Partition) -> Turn:
    return Turn({1: owned}, PARTITIONS, Policy(parse_policy(POLICY)))


def told_addresses(turn: Turn, several: int) -> None:
    for number in range(several):
        to = {"push": f"t{number}"}
        fields = {"id": f"p{number}", "app": "shop", "op": "profile.set", "customer": KEY, "to": to}
        turn.receive(message(number + 1, fields, lane="command"), NOW)


def test_urgent_deliveries_come_alone_and_fill_a_batch_as_what_they_are():
    turn = turn_of(partition())
    told_addresses(turn, 10)
    many = [turn_intent(f"i{n}", category="news", to={}, route=["push"]) for n in range(200)]
    turn.receive(message(20, *many, lane="urgent"), NOW)
    work = turn.works[1]
    states = [outcome.state for outcome in work.outcomes["shop"]]
    assert states.count("dispatched") * 10 == len(work.urgent_deliveries)
    assert states.count("rejected") == 200 - states.count("dispatched") > 0
    assert work.entries < limits.BATCH_MESSAGES


def test_what_goes_to_many_devices_weighs_as_often():
    turn = turn_of(partition())
    told_addresses(turn, 10)
    large = turn_intent("i", category="news", to={}, route=["push"], content={"text": "x" * 60_000})
    turn.receive(message(20, large), NOW)
    assert turn.load.payload_bytes > 9 * 60_000


def test_a_lost_body_is_told_once_for_all_devices():
    turn = turn_of(partition())
    told_addresses(turn, 3)
    later = rfc3339(NOW + 1_000)
    held = turn_intent("i", category="news", to={}, route=["push"], not_before=later)
    turn.receive(message(20, held), NOW)
    work = turn.works[1]
    turn.wake(turn.owned[1], KEY, NOW + 1_000)
    assert len(work.released) == 3
    work.fill_bodies({})
    assert [each.state for each in work.outcomes["shop"]] == ["held", "dispatched", "failed"]
    assert not any(work.deliveries.values())


def test_what_waited_leaves_by_and_by_when_a_commit_would_not_hold_it():
    owned = partition()
    turn = turn_of(owned)
    told_addresses(turn, 10)
    later = rfc3339(NOW + 1_000)
    fields = {"category": "news", "to": {}, "route": ["push"], "not_before": later}
    many = [turn_intent(f"i{number}", **fields) for number in range(30)]
    turn.receive(message(20, *many, lane="urgent"), NOW)
    at, sent = NOW + 1_000, 0
    while (wake := owned.next_wake()) is not None:
        at, turn = max(at, wake), turn_of(owned)
        assert owned.due(at, 1) == [KEY], "it is woken at once, and only once"
        turn.wake(owned, KEY, at)
        assert 0 < turn.works[1].entries <= limits.RELEASED_URGENT + 10 + 1
        sent += len(turn.works[1].urgent_deliveries)
    assert (sent, at) == (300, NOW + 1_029)


def test_only_so_many_dispatches_are_remembered_device_by_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "COPIES", 2)
    owned = partition()
    turn = turn_of(owned)
    told_addresses(turn, 2)
    for number in range(3):
        intent_ = turn_intent(f"i{number}", category="news", to={}, route=["push"])
        turn.receive(message(20 + number, intent_), NOW)
    state = unpack_state(owned.states[KEY])
    assert state.devices is not None
    assert [copies.attempt for copies in state.devices.copies] == [1, 1]
    assert len(state.sends) == 3


def test_a_customer_s_page_shows_her_devices():
    owned = partition()
    told_addresses(turn_of(owned), 2)
    page = describe(KEY, unpack_state(owned.states[KEY]), Policy(parse_policy(POLICY)), NOW)
    assert [device["to"] for device in page["devices"]] == ["t1", "t0"]
    assert all(device["last_seen_at"] for device in page["devices"])


# ---- the document, the checkers ------------------------------------------------------------------


def test_without_the_table_a_policy_has_the_version_it_had():
    document = parse_policy(HEAD)
    assert b"push" not in msgspec.json.encode(document).replace(b'"push"', b"", 2)
    assert policy_version(parse_policy(HEAD + PUSH)) != policy_version(document)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("[push]\ndevices = 0", "push.devices: expected `int` >= 1"),
        ("[push]\ndevices = 11", "push.devices: expected `int` <= 10"),
        ('[push]\nseen_within = "long"', "push.seen_within: 'long' is not a duration"),
        ("[push]\ndevice = 2", "push.device: unknown key (did you mean devices?)"),
    ],
)
def test_what_is_wrong_with_the_table_is_named(table: str, problem: str):
    with pytest.raises(PolicyError, match="push") as error:
        parse_policy(HEAD + table)
    assert error.value.message.startswith(problem)


def recorded() -> Recorder:
    recorder = Recorder(parse_policy(HEAD + PUSH))
    for number, address in enumerate(("fcm/a", "b", "apns/c")):
        fields = {"id": f"p{number}", "app": "shop", "customer": "c", "op": "profile.set"}
        recorder.publish("command", fields | {"to": {"push": address}})
    said = {"id": "i", "app": "shop", "customer": "c", "category": "ad", "content": {"text": "x"}}
    recorder.publish("normal", said)
    return recorder


def test_a_dispatch_to_several_devices_breaks_no_promise():
    assert check_all(recorded().history()) == []


@pytest.mark.parametrize(
    ("place", "changes", "kind"),
    [
        (2, {"attempt": 301, "id": "shop:i:301"}, "wrong-delivery-id"),
        (2, {"account": "push", "to": "b"}, "a-device-twice"),
        (1, {"content": msgspec.Raw(b'{"text":"y"}')}, "devices-get-different-things"),
        (1, {"attempt": 102, "id": "shop:i:102"}, "device-without-a-dispatch"),
    ],
)
def test_devices_that_get_something_else_are_found(place: int, changes: Any, kind: str):
    recorder = recorded()
    line = recorder.handed[place]
    recorder.handed[place] = replace(line, delivery=replace(line.delivery, **changes))
    assert kind in kinds(ExactlyOnce(), recorder.history())


def test_a_device_more_than_the_policy_says_is_found():
    recorder = recorded()
    last = recorder.handed[-1].delivery
    fourth = replace(last, id="shop:i:301", attempt=301, to="d")
    recorder.handed.append(Handed(99, recorder.now, fourth))
    assert kinds(ExactlyOnce(), recorder.history()) == {"too-many-devices"}
