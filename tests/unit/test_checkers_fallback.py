"""What the checkers say of histories in which intents fall back on further channels."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from hub.checkers import (
    Caps,
    ExactlyOnce,
    Fallback,
    History,
    NoDecisionAfterFinal,
    NothingLost,
    TakenBack,
    Told,
    check_all,
)
from hub.checkers.records import follows
from hub.contract.times import rfc3339
from hub.policy.document import parse_policy
from tests.support.histories import (
    HOUR_MS,
    MINUTE_MS,
    START_MS,
    Recorder,
    altered,
    altered_end,
    edited,
    intent,
    kinds,
    recorded,
)

POLICY = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["wecom", "push", "sms"]
[categories.timed]
route = ["wecom", "push", "sms"]
fallback_after = "10m"
[[caps]]
name = "one"
categories = ["ad"]
limit = 1
window = "24h"
on = "hold"
[[gaps]]
name = "apart"
categories = ["ad"]
min = "2h"
on = "drop"
[[presence]]
name = "talk"
within = "30m"
on = "hold"
"""
TO = {"wecom": "w", "push": "p", "sms": "s"}


def receipt(recorder: Recorder, name: str, attempt: int, status: str) -> None:
    """A minute later, the gateway says what became of a delivery."""
    recorder.now += MINUTE_MS
    fields = {"delivery": f"shop:{name}:{attempt}", "customer": "c1", "status": status}
    recorder.publish("receipt", {**fields, "at": rfc3339(recorder.now)}, "gateway")


def talk(recorder: Recorder) -> None:
    said = {"id": "m", "channel": "sms", "account": "a", "customer": "c1", "content": {"text": "x"}}
    recorder.publish("inbound", {**said, "at": rfc3339(recorder.now)}, "gateway")


def send(recorder: Recorder, name: str, category: str, **more: Any) -> None:
    recorder.publish("normal", intent(name, category=category, to=TO, **more))


def failing(policy: str = POLICY) -> Recorder:
    """One intent that fails on its first two channels and arrives by the third."""
    recorder = Recorder(parse_policy(policy))
    send(recorder, "a", "ad")
    receipt(recorder, "a", 1, "failed")
    receipt(recorder, "a", 2, "failed")
    receipt(recorder, "a", 3, "delivered")
    assert states(recorder) == ["dispatched", "dispatched", "dispatched", "delivered"]
    assert check_all(recorder.history()) == []
    return recorder


def waiting() -> Recorder:
    """One intent that nobody says anything of for twenty minutes, then arrives by the second."""
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "timed")
    recorder.now += 12 * MINUTE_MS
    receipt(recorder, "a", 1, "failed")
    receipt(recorder, "a", 2, "delivered")
    assert states(recorder) == ["dispatched", "dispatched", "delivered"]
    assert check_all(recorder.history()) == []
    return recorder


def states(recorder: Recorder) -> list[str]:
    return [told.outcome.state for told in recorder.told]


def test_histories_that_are_right_fall_back_in_every_way():
    found = {follows(told.outcome) for seed in range(4) for told in recorded(seed).told}
    assert found == {"", "failed", "waited"}


# ---- attempts ----------------------------------------------------------------------------------


def test_every_attempt_has_its_number_and_goes_out_once():
    recorder = failing()
    told, handed = recorder.told, recorder.handed
    again = altered(recorder, told=[*told[:2], told[1], *told[2:]], handed=[*handed, handed[1]])
    assert kinds(ExactlyOnce(), again) == {"dispatched-twice"}
    jumped = [told[0], edited(told[1], delivery="shop:a:3"), *told[3:]]
    third = replace(handed[1], delivery=replace(handed[1].delivery, id="shop:a:3"))
    assert kinds(ExactlyOnce(), altered(recorder, told=jumped, handed=[handed[0], third])) == {
        "wrong-delivery-id"
    }


def keyed(recorder: Recorder, *keys: str | None) -> History:
    """The same, but that the messages published have had these collapse keys."""
    history = altered(recorder)
    for place, key in enumerate(keys):
        one = history.published[place]
        history.published[place] = replace(one, message=replace(one.message, collapse_key=key))
    return history


def test_what_was_replaced_is_not_tried_elsewhere():
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "timed")
    send(recorder, "b", "timed")
    send(recorder, "a", "timed")  # once more, perhaps with other words
    receipt(recorder, "a", 1, "failed")
    assert states(recorder) == ["dispatched", "dispatched", "duplicate", "dispatched"]
    wrong = {"tried-after-it-was-replaced"}
    assert kinds(Fallback(), keyed(recorder, "k", "k", "k")) == wrong
    assert kinds(Fallback(), keyed(recorder, "k", "l", "k")) == set()
    assert kinds(Fallback(), keyed(recorder, None, "k", "k")) == set()  # the key came too late


def test_a_repeat_a_day_later_is_no_new_life_when_it_is_a_fallback():
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "timed", not_before=rfc3339(START_MS + HOUR_MS))
    send(recorder, "a", "timed")
    recorder.now += HOUR_MS
    receipt(recorder, "a", 1, "sent")
    command = {"id": "t", "app": "shop", "customer": "c1", "op": "takeover", "agent": "x"}
    until = rfc3339(recorder.now + 30 * HOUR_MS)
    recorder.publish("command", command | {"until": until})
    recorder.now += 30 * HOUR_MS
    receipt(recorder, "a", 2, "delivered")
    words = ["held", "duplicate", "dispatched", "sent", "held", "dispatched", "delivered"]
    assert states(recorder) == words
    assert check_all(recorder.history()) == []


def test_a_delivery_that_an_account_hands_over_is_no_second_one():
    recorder = failing()
    handed = recorder.handed[1]
    passed_on = replace(handed.delivery, account="spare", via=handed.delivery.account)
    again = [*recorder.handed, replace(handed, delivery=passed_on)]
    assert check_all(altered(recorder, handed=again)) == []


# ---- causes ------------------------------------------------------------------------------------


def test_the_next_channel_needs_a_failure_or_a_wait():
    recorder = failing()
    unheard = [each for each in recorder.published if each.lane != "receipt"]
    assert kinds(Fallback(), without(recorder, unheard)) == {"next-channel-without-a-cause"}
    recorder = waiting()
    early = [recorder.told[0], *(later(told, -3 * MINUTE_MS) for told in recorder.told[1:])]
    assert kinds(Fallback(), altered(recorder, told=early)) == {"next-channel-without-a-cause"}


def test_channels_follow_as_the_route_says():
    recorder = failing()
    for channel in ("wecom", "push"):
        told = [*recorder.told[:2], edited(recorder.told[2], channel=channel), recorder.told[3]]
        assert kinds(Fallback(), altered(recorder, told=told)) == {"not-a-channel-that-is-left"}


def test_failed_is_the_word_of_the_newest_attempt_when_no_channel_is_left():
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "ad")
    receipt(recorder, "a", 1, "failed")
    ends = edited(recorder.told[1], state="failed", delivery="shop:a:1", policy=None)
    ended = altered(recorder, told=[recorder.told[0], ends], handed=recorder.handed[:1])
    assert kinds(Fallback(), ended) == {"failed-with-a-channel-left"}
    older = [*recorder.told, ends]
    assert kinds(Fallback(), altered(recorder, told=older)) == {"failed-by-an-older-attempt"}
    # who has cancelled it, or whose intent has expired, asks for no further channel
    send(recorder, "b", "timed", expires_at=rfc3339(recorder.now + MINUTE_MS))
    receipt(recorder, "b", 1, "failed")
    cancel = {"id": "x", "app": "shop", "customer": "c1", "op": "cancel", "intent": "c"}
    send(recorder, "c", "timed")
    recorder.publish("command", cancel)
    receipt(recorder, "c", 1, "failed")
    assert states(recorder)[2:] == ["dispatched", "failed", "dispatched", "failed"]
    assert check_all(recorder.history()) == []


# ---- what is said ------------------------------------------------------------------------------


def test_nothing_is_tried_or_fails_after_a_delivery_or_an_end():
    recorder = failing()
    told = recorder.told
    late = altered(recorder, told=[told[0], told[1], told[3], told[2]])
    assert kinds(NoDecisionAfterFinal(), late) == {"decided-after-a-delivery"}
    failed = edited(told[1], state="failed", reason="provider")
    said = altered(recorder, told=[*told, failed])
    assert kinds(NoDecisionAfterFinal(), said) == {"receipt-moves-backwards"}
    ended = altered(recorder, told=[told[0], told[1], failed, told[2]])
    assert kinds(NoDecisionAfterFinal(), ended) == {"said-after-the-end"}
    silent = altered(recorder, told=[told[0], edited(told[1], reason=None), *told[2:]])
    assert "decided-after-a-dispatch" in kinds(NoDecisionAfterFinal(), silent)


@pytest.mark.parametrize("state", ["cancelled", "superseded"])
def test_only_what_is_held_after_a_failure_is_said_to_be_stopped(state: str):
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "ad")
    talk(recorder)
    receipt(recorder, "a", 1, "failed")
    assert states(recorder) == ["dispatched", "held"]
    stop = edited(recorder.told[1], state=state)
    assert kinds(NoDecisionAfterFinal(), altered(recorder, told=[*recorder.told, stop])) == set()
    in_flight = altered(recorder, told=[recorder.told[0], stop])
    assert kinds(NoDecisionAfterFinal(), in_flight) == {"decided-after-a-dispatch"}


def test_a_failure_must_have_its_effect_and_what_it_holds_a_future():
    recorder = failing()
    told, handed = recorder.told, recorder.handed
    for left in (1, 2):
        dropped = altered(recorder, told=told[:left], handed=handed[:left])
        assert kinds(NothingLost(), dropped) == {"receipt-without-effect"}
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "ad")
    talk(recorder)
    receipt(recorder, "a", 1, "failed")
    late = recorder.now + HOUR_MS
    assert kinds(NothingLost(), altered_end(recorder, late)) == {"held-and-forgotten"}
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "timed")
    recorder.now += 9 * MINUTE_MS
    talk(recorder)
    receipt(recorder, "a", 1, "sent")
    assert states(recorder) == ["dispatched", "held", "sent"]
    assert check_all(altered_end(recorder, late)) == []


# ---- counts ------------------------------------------------------------------------------------


def test_a_failed_attempt_counts_for_no_cap_but_only_from_then_on():
    recorder = failing()
    first = recorder.told[0]
    assert kinds(Caps(), recorder.history()) == set()
    early = [first, *(later(told, -2 * MINUTE_MS) for told in recorder.told[1:])]
    handed = [recorder.handed[0]]
    for each in recorder.handed[1:]:
        at = rfc3339(each.at_ms - 2 * MINUTE_MS)
        handed.append(replace(each, delivery=replace(each.delivery, at=at)))
    assert kinds(Caps(), altered(recorder, told=early, handed=handed)) == set()
    unheard = [each for each in recorder.published if each.lane != "receipt"]
    kept = [edited(told, reason=None) for told in recorder.told]
    assert kinds(Caps(), without(recorder, unheard, kept)) == {"over-a-cap"}


@pytest.mark.parametrize(("rule", "kind"), [("one", "cap"), ("apart", "gap")])
def test_what_has_failed_is_no_reason_for_anything(rule: str, kind: str):
    recorder = Recorder(parse_policy(POLICY))
    send(recorder, "a", "ad", route=["wecom"])
    receipt(recorder, "a", 1, "failed")
    recorder.now += MINUTE_MS
    send(recorder, "b", "timed")
    assert check_all(recorder.history()) == []
    talk(recorder)
    send(recorder, "c", "timed")
    (block,) = recorder.told[-1].outcome.rules or ()
    wrong = edited(recorder.told[-1], rules=[replace(block, rule=rule, kind=kind)])
    blocked = altered(recorder, told=[*recorder.told[:-1], wrong])
    assert kinds(TakenBack(), blocked) == {"failed-and-still-counted"}
    # before it had failed it was a reason
    before = altered(recorder, told=[*recorder.told[:-1], later(wrong, -2 * MINUTE_MS)])
    assert kinds(TakenBack(), before) == set()


def later(told: Told, by_ms: int) -> Told:
    return edited(told, at=rfc3339(told.at_ms + by_ms))


def without(recorder: Recorder, published: list[Any], told: list[Told] | None = None) -> History:
    policies = [recorder.policy.document]
    told = recorder.told if told is None else told
    return History(published, told, recorder.handed, policies, recorder.now)
