"""Every checker finds what is planted for it, and is silent when the hub did right."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from hub import limits
from hub.checkers import (
    Caps,
    ExactlyOnce,
    Gaps,
    History,
    NoDecisionAfterFinal,
    NothingLost,
    QuietHours,
    ReasonGiven,
    Told,
    all_checkers,
    check_all,
)
from hub.contract.times import rfc3339
from hub.policy.document import parse_policy
from tests.support.histories import (
    HOUR_MS,
    PLAIN,
    POLICY,
    START_MS,
    TO,
    Recorder,
    also,
    altered,
    altered_end,
    edited,
    intent,
    kinds,
    plain,
    recorded,
)

# ---- right histories --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_silent_on_what_the_product_decides(seed):
    recorder = recorded(seed)
    states = {told.outcome.state for told in recorder.told}
    assert {"held", "dispatched", "suppressed", "superseded", "failed", "read"} <= states
    assert check_all(recorder.history()) == []


def test_silent_on_nothing():
    assert check_all(History([], [], [], [parse_policy(POLICY)], 0)) == []


# ---- one line more or less anywhere -----------------------------------------------------------


@pytest.fixture(scope="module")
def right() -> Recorder:
    return recorded(3, events=80)


def test_every_delivery_is_missed_and_every_second_one_noticed(right):
    for place, handed in enumerate(right.handed):
        without = right.handed[:place] + right.handed[place + 1 :]
        assert "outcome-without-delivery" in kinds(ExactlyOnce(), altered(right, handed=without))
        twice = [*right.handed, handed]
        assert "delivery-without-outcome" in kinds(ExactlyOnce(), altered(right, handed=twice))


def test_every_answer_is_missed_and_every_second_line_noticed(right):
    answered = set()
    for place, told in enumerate(right.told):
        state = told.outcome.state
        if state == "held":  # it may be said again, and what follows stands for it
            continue
        before = [other for other in right.told[:place] if about_the_same(other, told)]
        if state in ("rejected", "duplicate", "dispatched") or not before:
            answered.add(state)
            without = [*right.told[:place], *right.told[place + 1 :]]
            assert check_all(altered(right, told=without)), f"{state} is not missed"
        twice = [*right.told[: place + 1], told, *right.told[place + 1 :]]
        assert check_all(altered(right, told=twice)), f"{state} twice is not noticed"
    assert answered == {"dispatched", "suppressed", "expired", "rejected", "duplicate"}


def about_the_same(one: Told, other: Told) -> bool:
    return (one.outcome.customer, one.outcome.intent) == (
        other.outcome.customer,
        other.outcome.intent,
    )


# ---- a hub that leaves one rule out -----------------------------------------------------------

RULES: dict[str, type[Any]] = {
    "four-a-day": Caps,
    "six-a-calendar-day": Caps,
    "wecom-account": Caps,
    "half-an-hour": Gaps,
    "night": QuietHours,
    "sunday-noon": QuietHours,
    "closed": QuietHours,
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_left_out_is_found_by_name(name):
    decided_by = without_rule(name)
    found = set()
    for seed in range(4):
        history = recorded(seed, decided_by=decided_by).history(parse_policy(POLICY))
        for checker in (Caps(), Gaps(), QuietHours()):
            found |= {(violation.promise, violation.rule) for violation in checker.check(history)}
    assert found == {(RULES[name].promise, name)}


def test_a_reserve_left_out_is_found():
    decided_by = POLICY.replace("reserve = { slots = 1, priority = 5 }\n", "")
    history = recorded(1, decided_by=decided_by).history(parse_policy(POLICY))
    assert {violation.rule for violation in Caps().check(history)} == {"four-a-day"}


def without_rule(name: str) -> str:
    parts = POLICY.split("\n[[")
    kept = [part for part in parts if f'name = "{name}"' not in part]
    assert len(kept) == len(parts) - 1
    return "\n[[".join(kept)


# ---- exactly once -----------------------------------------------------------------------------


def test_an_outcome_of_nobody():
    recorder = plain()
    assert kinds(ExactlyOnce(), also(recorder, edited(recorder.told[0], intent="z"))) >= {
        "outcome-of-an-unknown-intent"
    }


def test_an_answer_too_many():
    recorder = plain()
    more = edited(recorder.told[0], state="duplicate", delivery=None)
    assert kinds(ExactlyOnce(), also(recorder, more)) == {"answered-more-often-than-published"}


def test_dispatched_twice_with_two_deliveries():
    recorder = plain()
    history = altered(
        recorder,
        told=[*recorder.told, recorder.told[0]],
        handed=[*recorder.handed, recorder.handed[0]],
    )
    assert kinds(ExactlyOnce(), history) == {"dispatched-twice"}


def test_ended_twice():
    recorder = plain()
    assert kinds(ExactlyOnce(), also(recorder, recorder.told[3])) == {"ended-twice"}


def test_a_delivery_of_another_number_or_another_channel():
    recorder = plain()
    told, handed = recorder.told, recorder.handed
    second = replace(handed[0], delivery=replace(handed[0].delivery, id="shop:a:2"))
    history = altered(
        recorder,
        told=[edited(told[0], delivery="shop:a:2"), *told[1:]],
        handed=[second, *handed[1:]],
    )
    assert kinds(ExactlyOnce(), history) == {"wrong-delivery-id"}
    other = replace(handed[0], delivery=replace(handed[0].delivery, channel="sms"))
    assert kinds(ExactlyOnce(), altered(recorder, handed=[other, *handed[1:]])) == {
        "delivery-differs-from-outcome"
    }


def test_a_combined_send_is_one_decision_for_each_channel():
    recorder = Recorder(parse_policy(PLAIN))
    recorder.publish("normal", intent("a", category="service", to=TO, reach="all"))
    assert [handed.delivery.id for handed in recorder.handed] == ["shop:a:1", "shop:a:2"]
    assert check_all(recorder.history()) == []
    swapped = [
        edited(told, delivery=f"shop:a:{2 - place}") for place, told in enumerate(recorder.told)
    ]
    assert "wrong-delivery-id" in kinds(ExactlyOnce(), altered(recorder, told=swapped))
    half = altered(recorder, told=recorder.told[:1], handed=recorder.handed[:1])
    assert kinds(NothingLost(), half) == {"never-decided-for-sms"}
    nameless = [edited(recorder.told[0], channel=None), recorder.told[1]]
    assert "no-channel-of-a-combined-send" in kinds(ReasonGiven(), altered(recorder, told=nameless))


def test_repeats_that_differ_in_reach_have_only_their_deliveries_checked():
    recorder = Recorder(parse_policy(PLAIN))
    for reach in ("all", "first"):
        recorder.publish("normal", intent("a", category="service", to=TO, reach=reach))
    assert check_all(recorder.history()) == []
    assert check_all(altered(recorder, handed=recorder.handed[:1]))


def test_a_repeat_is_new_only_after_the_memory_has_gone():
    recorder = Recorder(parse_policy(PLAIN))
    early, late = limits.REMEMBER_MS - 1, limits.REMEMBER_MS
    for apart, found in ((early, {"dispatched-twice"}), (late, set())):
        first = Recorder(parse_policy(PLAIN))
        first.publish("normal", intent("a", category="service", to=TO))
        second = Recorder(parse_policy(PLAIN))  # it remembers nothing
        second.now = first.now + apart
        second.publish("normal", intent("a", category="service", to=TO))
        recorder.published = [first.published[0], replace(second.published[0], sequence=2)]
        recorder.told = first.told + second.told
        recorder.handed = first.handed + second.handed
        recorder.now = second.now
        assert (
            kinds(ExactlyOnce(), recorder.history()) - {"answered-more-often-than-published"}
            == found
        )


def test_a_body_that_was_lost_needs_no_delivery_but_a_reported_failure_does():
    recorder = plain()
    without = recorder.handed[:2]
    assert kinds(ExactlyOnce(), altered(recorder, handed=without)) == {"outcome-without-delivery"}
    unreported = History(
        recorder.published[:3], recorder.told, without, [recorder.policy.document], recorder.now
    )
    assert kinds(ExactlyOnce(), unreported) == set()


# ---- nothing lost -----------------------------------------------------------------------------


def test_an_acknowledged_intent_that_is_not_stored():
    recorder = plain()
    assert NothingLost([("shop", "a")]).check(recorder.history()) == []
    (violation,) = NothingLost([("shop", "a"), ("shop", "z")]).check(recorder.history())
    assert (violation.kind, violation.intent) == ("acknowledged-and-not-stored", "z")
    assert all_checkers([("shop", "z")])[1].check(recorder.history()) == [violation]


def test_an_intent_and_a_repeat_that_are_never_answered():
    recorder = plain()
    recorder.publish("normal", intent("b", category="service"))
    assert recorder.told[-1].outcome.state == "duplicate"
    (violation,) = NothingLost().check(altered(recorder, told=recorder.told[:-1]))
    assert (violation.kind, violation.sequences) == ("never-decided", (5,))
    gone = [told for told in recorder.told if told.outcome.intent != "b"]
    (violation,) = NothingLost().check(altered(recorder, told=gone))
    assert (violation.kind, violation.sequences) == ("never-decided", (2, 5))


def test_bad_objects_must_be_rejected():
    recorder = plain()
    recorder.publish("command", {"no": "command"})
    recorder.publish("normal", [{"id": "bad"}, {"id": "worse"}, intent("d", category="service")])
    assert check_all(recorder.history()) == []
    without = [told for told in recorder.told if told.outcome.intent != "worse"]
    assert kinds(NothingLost(), altered(recorder, told=without)) == {"never-decided"}
    decided = [
        edited(told, state="suppressed") if told.outcome.intent == "bad" else told
        for told in recorder.told
    ]
    assert kinds(NothingLost(), altered(recorder, told=decided)) == {"invalid-and-not-rejected"}


def test_a_held_intent_is_forgotten_when_its_time_has_passed():
    recorder = Recorder(parse_policy(PLAIN))
    recorder.publish(
        "normal",
        intent("a", category="service", to=TO, not_before=rfc3339(START_MS + HOUR_MS)),
    )
    due = START_MS + HOUR_MS
    for late_ms, found in ((-1, set()), (9_999, set()), (10_000, {"held-and-forgotten"})):
        recorder.now = due + late_ms
        assert kinds(NothingLost(), recorder.history()) == found
    assert kinds(NothingLost(overdue_ms=0), altered_end(recorder, due)) == {"held-and-forgotten"}


def test_what_a_takeover_holds_is_forgotten_when_it_should_have_expired():
    recorder = Recorder(parse_policy(POLICY))
    command = {"id": "t", "app": "shop", "customer": "c1", "op": "takeover", "agent": "x"}
    recorder.publish("command", command)
    recorder.publish("normal", intent("a", to=TO))
    assert recorder.told[-1].outcome.next_eligible_at is None
    expiry = recorder.now + 48 * HOUR_MS
    assert check_all(altered_end(recorder, expiry)) == []
    assert kinds(NothingLost(), altered_end(recorder, expiry + 10_000)) == {"held-and-forgotten"}


def test_a_receipt_without_effect():
    recorder = plain()
    assert kinds(NothingLost(), altered(recorder, told=recorder.told[:3])) == {
        "receipt-without-effect"
    }


# ---- final is final ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        (["held", "held", "dispatched", "sent", "failed", "delivered", "read"], None),
        (["suppressed", "held"], "said-after-the-end"),
        (["held", "expired", "dispatched"], "said-after-the-end"),
        (["held", "superseded", "sent"], "said-after-the-end"),
        (["dispatched", "failed", "held"], "said-after-the-end"),
        (["dispatched", "failed", "sent"], "receipt-moves-backwards"),
        (["dispatched", "read", "delivered"], "receipt-moves-backwards"),
        (["dispatched", "sent", "sent"], "receipt-moves-backwards"),
        (["dispatched", "held"], "decided-after-a-dispatch"),
        (["dispatched", "sent", "suppressed"], "decided-after-a-dispatch"),
        (["held", "delivered"], "receipt-before-a-dispatch"),
        (["cancelled"], "said-before-a-decision"),
        (["sent", "dispatched"], "said-before-a-decision"),
    ],
)
def test_states_that_may_and_may_not_follow(states, kind):
    recorder = plain()
    told = [edited(recorder.told[0], state=state) for state in states]
    found = kinds(NoDecisionAfterFinal(), altered(recorder, told=told))
    assert kind in found if kind else found == set()
