"""The checkers of caps, gaps, quiet hours, order and reasons, on histories made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from hub.checkers import (
    Caps,
    Gaps,
    Handed,
    History,
    Order,
    QuietHours,
    ReasonGiven,
    Told,
    check_all,
)
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery
from hub.policy.document import parse_policy
from tests.support.histories import (
    HOUR_MS,
    MINUTE_MS,
    PLAIN,
    POLICY,
    START_MS,
    TO,
    Recorder,
    altered,
    edited,
    intent,
    kinds,
    plain,
)

CAP = '[[caps]]\nname = "c"\nlimit = 2\nwindow = "1h"\non = "hold"\n'
QUIET = '[[quiet]]\nname = "q"\nfrom = "21:00"\nto = "08:00"\non = "hold"\n'


# ---- caps and gaps ----------------------------------------------------------------------------


def handed_at(*times: int, **fields: Any) -> list[Handed]:
    """Deliveries to one customer at these times, nothing else known of them."""
    return [handed(place, at, **fields) for place, at in enumerate(times)]


def handed(place: int, at: int, **fields: Any) -> Handed:
    known = {"category": "service", "priority": 6, "channel": "wecom", "account": "a", **fields}
    delivery = Delivery(
        id=f"shop:i{place}:1",
        intent=f"i{place}",
        app="shop",
        customer="c1",
        to="w",
        content=b"{}",  # type: ignore[arg-type]
        attempt=1,
        at=rfc3339(at),
        expires_at=rfc3339(at + HOUR_MS),
        **known,
    )
    return Handed(place + 1, at, delivery)


def over(policy: str, deliveries: list[Handed], *told: Told, checker: Any = None) -> list[str]:
    history = History([], list(told), deliveries, [parse_policy(PLAIN + policy)], START_MS)
    return [violation.intent for violation in (checker or Caps()).check(history)]


def test_a_rolling_window_forgets_exactly_its_length():
    t = START_MS
    assert over(CAP, handed_at(t, t + 1, t + HOUR_MS - 1)) == ["i2"]
    assert over(CAP, handed_at(t, t + 1, t + HOUR_MS)) == []
    assert over(CAP, handed_at(t, t, t)) == ["i2"]


def test_a_calendar_cap_counts_local_periods():
    midnight = parse_rfc3339("2026-03-28T00:00:00+08:00")
    for window, start in (
        ("day", midnight),
        ("week", parse_rfc3339("2026-03-23T00:00:00+08:00")),
        ("month", parse_rfc3339("2026-03-01T00:00:00+08:00")),
    ):
        policy = CAP.replace('"1h"', f'"{window}"')
        assert over(policy, handed_at(start - 1, start, start + 1)) == []
        assert over(policy, handed_at(start, start + 1, start + HOUR_MS)) == ["i2"]


def test_a_cap_per_channel_or_account_counts_each_apart():
    t = START_MS
    by_channel = CAP + 'per = "channel"\n'
    by_account = CAP + 'per = "account"\n'
    other = [handed(2, t + 2, channel="sms", account="b")]
    assert over(CAP, handed_at(t, t + 1) + other) == ["i2"]
    assert over(by_channel, handed_at(t, t + 1) + other) == []
    assert over(by_account, handed_at(t, t + 1) + other) == []
    same_account = [handed(2, t + 2, channel="sms")]
    assert over(by_account, handed_at(t, t + 1) + same_account) == ["i2"]


def test_a_reserve_is_kept_for_its_priority_whatever_the_order_in_one_millisecond():
    policy = CAP.replace("limit = 2", "limit = 3\nreserve = { slots = 1, priority = 8 }")
    t = START_MS
    low, high = handed_at(t, t + 1, t + 2), handed(2, t + 2, priority=8)
    assert over(policy, low) == ["i2"]
    assert over(policy, [*low[:2], high]) == []
    together = [handed(0, t, priority=8), handed(1, t), handed(2, t)]
    assert over(policy, together) == []
    assert over(policy, [*together, handed(3, t)]) == ["i3", "i0"]


def test_a_bypassing_category_counts_and_is_not_asked():
    t = START_MS
    code = handed(2, t + 2, category="otp")
    assert over(CAP, [*handed_at(t, t + 1), code]) == []
    assert over(CAP, [handed(0, t, category="otp"), handed(1, t + 1), handed(2, t + 2)]) == ["i2"]


def told_of(delivery: Handed, state: str, at: int) -> Told:
    recorder = plain()
    about = {"delivery": delivery.delivery.id, "intent": delivery.delivery.intent}
    return edited(recorder.told[3], state=state, at=rfc3339(at), **about)


def test_a_failed_dispatch_is_taken_back_until_the_provider_changes_its_mind():
    t = START_MS
    deliveries = handed_at(t, t + 1, t + 20)
    assert over(CAP, deliveries, told_of(deliveries[0], "failed", t + 20)) == []
    assert over(CAP, deliveries, told_of(deliveries[0], "failed", t + 21)) == ["i2"]
    back = [
        told_of(deliveries[0], "failed", t + 5),
        told_of(deliveries[0], "delivered", t + 19),
    ]
    assert over(CAP, deliveries, *back) == ["i2"]
    gap = '[[gaps]]\nname = "g"\nmin = "10ms"\non = "hold"\n'
    late = handed_at(t, t + 9)
    assert over(gap, late, checker=Gaps()) == ["i1"]
    assert over(gap, late, told_of(late[0], "failed", t + 3), checker=Gaps()) == []


def test_a_gap_ends_exactly_after_its_length():
    gap = '[[gaps]]\nname = "g"\nchannels = ["wecom"]\nmin = "10m"\non = "hold"\n'
    t = START_MS
    assert over(gap, handed_at(t, t + 10 * MINUTE_MS - 1), checker=Gaps()) == ["i1"]
    assert over(gap, handed_at(t, t + 10 * MINUTE_MS), checker=Gaps()) == []
    assert over(gap, [handed(0, t, channel="sms"), handed(1, t + 1)], checker=Gaps()) == []
    code = handed(0, t, category="otp")
    assert over(gap, [code, handed(1, t)], checker=Gaps()) == []
    assert over(gap, [code, handed(1, t + 1)], checker=Gaps()) == ["i1"]


def test_a_delivery_answers_to_the_policy_it_was_decided_under():
    old = plain()  # three within two minutes, without a cap
    new = parse_policy(PLAIN + CAP)
    both = [new, old.policy.document]
    assert Caps().check(History([], old.told, old.handed, both, 0)) == []
    assert Caps().check(History([], old.told, old.handed, both[::-1], 0)) == []
    assert len(Caps().check(History([], old.told, old.handed, [new], 0))) == 1


# ---- quiet hours and zones --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "inside"),
    [
        ("2026-03-28T20:59:59.999", False),
        ("2026-03-28T21:00:00.000", True),
        ("2026-03-29T07:59:59.999", True),
        ("2026-03-29T08:00:00.000", False),
    ],
)
def test_a_window_holds_from_its_first_millisecond_to_its_last(local, inside):
    at = parse_rfc3339(f"{local}+08:00")
    assert over(QUIET, handed_at(at), checker=QuietHours()) == (["i0"] if inside else [])


def test_days_name_the_day_on_which_a_window_starts_and_dates_whole_days():
    friday = QUIET + 'days = ["fri"]\n'
    for local, inside in (
        ("2026-03-27T22:00", True),  # a Friday
        ("2026-03-28T07:00", True),
        ("2026-03-28T22:00", False),
        ("2026-03-27T07:00", False),
    ):
        at = parse_rfc3339(f"{local}:00+08:00")
        assert bool(over(friday, handed_at(at), checker=QuietHours())) is inside
    dates = '[[quiet]]\nname = "q"\ndates = ["2026-03-28"]\non = "drop"\n'
    day = parse_rfc3339("2026-03-28T00:00:00+08:00")
    found = over(dates, handed_at(day - 1, day, day + 24 * HOUR_MS), checker=QuietHours())
    assert found == ["i1"]


def test_bypassing_and_other_categories_may_go_out_at_night():
    night = parse_rfc3339("2026-03-28T23:00:00+08:00")
    rule = QUIET + 'categories = ["service"]\n'
    assert over(rule, [handed(0, night, category="otp")], checker=QuietHours()) == []
    assert over(rule, [handed(0, night, category="news")], checker=QuietHours()) == []
    assert over(rule, [handed(0, night)], checker=QuietHours()) == ["i0"]


NIGHT_IN_BERLIN = parse_rfc3339("2026-03-28T23:30:00+01:00")  # 06:30 next day in Shanghai
NOON_IN_BERLIN = parse_rfc3339("2026-03-28T12:00:00+01:00")  # 19:00 in Shanghai


def quiet_after(say: Callable[[Recorder], None], at: int) -> bool:
    """Whether a dispatch at `at`, decided without quiet hours, is found to be inside of them."""
    recorder = Recorder(parse_policy(PLAIN))
    recorder.now = at - 2 * HOUR_MS
    say(recorder)
    recorder.now = at
    recorder.publish("normal", intent("late", category="service", to=TO))
    history = recorder.history(parse_policy(PLAIN + QUIET))
    return "late" in {violation.intent for violation in QuietHours().check(history)}


def in_zone(zone: str) -> Callable[[Recorder], None]:
    return lambda recorder: recorder.publish(
        "normal", intent("z", category="service", to=TO, timezone=zone)
    )


def test_the_zone_is_the_last_one_stated():
    assert quiet_after(in_zone("Europe/Berlin"), NIGHT_IN_BERLIN)
    assert not quiet_after(in_zone("Europe/Berlin"), NOON_IN_BERLIN)
    assert quiet_after(in_zone("America/New_York"), NOON_IN_BERLIN)  # 07:00
    assert quiet_after(lambda _: None, NIGHT_IN_BERLIN)  # the policy's zone
    assert not quiet_after(lambda _: None, NOON_IN_BERLIN)

    def twice(recorder: Recorder) -> None:
        in_zone("America/New_York")(recorder)
        recorder.now += MINUTE_MS
        recorder.publish("normal", intent("y", category="service", timezone="Europe/Berlin"))

    assert not quiet_after(twice, NOON_IN_BERLIN)


def test_a_zone_set_by_command_counts_once_it_must_have_been_decided():
    def command(minutes_before: int, **fields: Any) -> Callable[[Recorder], None]:
        def say(recorder: Recorder) -> None:
            in_zone("Europe/Berlin")(recorder)
            recorder.now += 2 * HOUR_MS - minutes_before * MINUTE_MS
            recorder.publish("command", {"id": "x", "app": "shop", "customer": "c1", **fields})

        return say

    new_york = {"op": "profile.set", "timezone": "America/New_York"}
    assert quiet_after(command(11, **new_york), NOON_IN_BERLIN)
    assert not quiet_after(command(9, **new_york), NOON_IN_BERLIN)  # may not be decided yet
    noon_in_shanghai = NOON_IN_BERLIN - 7 * HOUR_MS  # 05:00 in Berlin
    assert quiet_after(in_zone("Europe/Berlin"), noon_in_shanghai)
    assert not quiet_after(command(11, op="forget"), noon_in_shanghai)


# ---- order ------------------------------------------------------------------------------------


def test_deliveries_stored_in_another_order_than_they_came():
    recorder = plain()
    a, b, c = recorder.handed
    swapped = [replace(b, sequence=a.sequence), replace(a, sequence=b.sequence), c]
    assert kinds(Order(), altered(recorder, handed=swapped)) == {"stored-before-its-predecessor"}
    in_array = [replace(a, sequence=9, index=1), replace(b, sequence=9, index=0)]
    assert kinds(
        Order(), altered(recorder, handed=[*in_array, replace(c, sequence=9, index=2)])
    ) == {"stored-before-its-predecessor"}


def test_deliveries_decided_in_another_order_than_they_came():
    recorder = plain()
    a, b, c = recorder.handed
    late = [replace(a, delivery=replace(a.delivery, at=c.delivery.at)), b, c]
    assert kinds(Order(), altered(recorder, handed=late)) == {"decided-before-its-predecessor"}


def test_another_priority_lane_or_way_may_overtake_and_so_may_what_was_held():
    for change in ({"priority": 1}, {"channel": "sms"}, {"account": "other"}):
        recorder = plain()
        a, b, c = recorder.handed
        other = replace(a, sequence=99, delivery=replace(a.delivery, **change))
        assert kinds(Order(), altered(recorder, handed=[b, c, other])) == set()
    held = edited(recorder.told[0], state="held")
    history = altered(recorder, told=[held, *recorder.told], handed=[b, c, replace(a, sequence=99)])
    assert kinds(Order(), history) == set()


def test_time_that_goes_back():
    recorder = plain()
    back = [edited(recorder.told[0], at=recorder.told[1].outcome.at), *recorder.told[1:]]
    assert kinds(Order(), altered(recorder, told=back)) == set()
    later = rfc3339(recorder.told[1].at_ms + 1)
    back = [edited(recorder.told[0], at=later), *recorder.told[1:]]
    assert kinds(Order(), altered(recorder, told=back)) == {"time-goes-back"}
    back[0] = edited(back[0], state="rejected")  # perhaps by another partition
    assert kinds(Order(), altered(recorder, told=back)) == set()


# ---- reasons ----------------------------------------------------------------------------------


def held_by_night() -> Recorder:
    recorder = Recorder(parse_policy(POLICY))
    recorder.now = parse_rfc3339("2026-03-26T23:00:00+08:00")
    recorder.publish("bulk", intent("a", to=TO))
    assert recorder.told[0].outcome.state == "held"
    assert check_all(recorder.history()) == []
    return recorder


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"rules": None}, "held-without-a-rule"),
        ({"next_eligible_at": None}, "held-without-a-time"),
        ({"next_eligible_at": "2026-03-26T15:00:00.000Z"}, "held-until-the-past"),
        ({"policy": "0123456789ab"}, "unknown-policy-version"),
        ({"state": "suppressed", "rules": None}, "suppressed-without-a-rule"),
        ({"state": "rejected"}, "rejected-without-a-reason"),
        ({"state": "superseded"}, "superseded-without-a-reason"),
        ({"state": "failed"}, "failed-without-a-reason"),
    ],
)
def test_what_is_not_sent_says_why(change, kind):
    recorder = held_by_night()
    history = altered(recorder, told=[edited(recorder.told[0], **change)])
    assert kind in kinds(ReasonGiven(), history)


def test_rules_must_exist_and_be_of_their_kind():
    recorder = held_by_night()
    (block,) = recorder.told[0].outcome.rules or ()
    assert block.rule == "night"
    for wrong in (
        replace(block, rule="nobody"),
        replace(block, kind="cap"),
        replace(block, rule="dnd:all"),
        replace(block, rule="night", kind="dnd"),
    ):
        history = altered(recorder, told=[edited(recorder.told[0], rules=[wrong])])
        (violation,) = ReasonGiven().check(history)
        assert (violation.kind, violation.rule) == ("unknown-rule", wrong.rule)


# ---- violations -------------------------------------------------------------------------------


def test_a_violation_says_where_to_look_and_nothing_of_what_was_written():
    night = parse_rfc3339("2026-03-28T23:00:00+08:00")
    policies = [parse_policy(PLAIN + QUIET)]
    (violation,) = QuietHours().check(History([], [], handed_at(night), policies, night))
    assert str(violation) == (
        "quiet-hours: inside-quiet-hours: app=shop intent=i0 customer=c1 delivery=shop:i0:1 "
        "channel=wecom rule=q at 2026-03-28T15:00:00.000Z sequence 1"
    )
