"""Fallback of docs/policy.md: cases worked out by hand, for the reference and the product."""

from __future__ import annotations

import pytest

from tests.support.told import (
    ALL_TO,
    CATEGORIES,
    TALK,
    Told,
    by_both,
    cap,
    command,
    inbound,
    intent,
    receipt,
    window,
)

TIMED = CATEGORIES.replace(
    'route = ["wecom", "push", "sms"]', 'route = ["wecom", "push", "sms"]\nfallback_after = "10m"'
)
LATE = "(wecom: not delivered within fallback_after)"
DEAD = {"class": "dead_address", "code": "81013"}


def wide(at: str, name: str, **fields: object):
    return intent(at, name, "wide", **({"to": ALL_TO} | fields))


# ---- after a failure ---------------------------------------------------------------------------


@by_both
def test_each_failure_tries_the_next_channel_and_the_last_one_is_told(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a"),
        receipt("11-21 08:01", "a", "sent"),
        receipt("11-21 08:02", "a", "failed", **DEAD),
        receipt("11-21 08:03", "a", "failed", 2),
        receipt("11-21 08:03", "a", "failed", 2),
        receipt("11-21 08:04", "a", "failed", 3, **{"class": "expired"}),
        receipt("11-21 08:05", "a", "failed", 3),
    ) == [
        "11-21 08:00 a dispatched wecom",
        "11-21 08:01 a sent wecom",
        "11-21 08:02 a dispatched push as shop:a:2 (wecom failed: dead_address 81013)",
        "11-21 08:03 a dispatched sms as shop:a:3 (push failed: provider)",
        "11-21 08:04 a failed sms as shop:a:3 (expired)",
    ]


@by_both
def test_the_rest_of_the_route_is_what_lies_behind_the_channel_not_what_was_skipped(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a", to={"push": "p", "sms": "s"}),
        command("11-21 08:01", "profile.set", to={"wecom": "w"}),
        receipt("11-21 08:02", "a", "failed"),
        receipt("11-21 08:03", "a", "failed", 2),
    ) == [
        "11-21 08:00 a dispatched push [address next never]",
        "11-21 08:02 a dispatched sms as shop:a:2 (push failed: provider)",
        "11-21 08:03 a failed sms as shop:a:2",
    ]


@by_both
def test_a_failed_dispatch_gives_its_slot_to_its_own_fallback(told: Told):
    assert told(
        cap(1, "24h"),
        wide("11-21 08:00", "a"),
        receipt("11-21 08:01", "a", "failed"),
        wide("11-21 08:02", "b"),
    ) == [
        "11-21 08:00 a dispatched wecom",
        "11-21 08:01 a dispatched push as shop:a:2 (wecom failed: provider)",
        "11-21 08:02 b held wecom [cap hold 11-22 08:01] > 11-22 08:01",
        "11-22 08:01 b dispatched wecom",
    ]


@by_both
def test_a_fallback_that_is_held_says_why_and_goes_in_its_time(told: Told):
    assert told(
        TALK,
        wide("11-21 08:00", "a"),
        inbound("11-21 08:01"),
        receipt("11-21 08:02", "a", "failed", **DEAD),
        receipt("11-21 08:40", "a", "failed", 2),
    ) == [
        "11-21 08:00 a dispatched wecom",
        "11-21 08:02 a held push [talk hold 11-21 08:31] > 11-21 08:31"
        " (wecom failed: dead_address 81013)",
        "11-21 08:31 a dispatched push as shop:a:2 (wecom failed: dead_address 81013)",
        "11-21 08:40 a dispatched sms as shop:a:3 (push failed: provider)",
    ]


@by_both
def test_what_is_left_and_may_not_go_fails_with_the_rules(told: Told):
    assert told(
        "",
        command("11-21 07:00", "dnd.set", scope="channel:push"),
        wide("11-21 08:00", "a", to={"wecom": "w"}),
        receipt("11-21 08:02", "a", "failed", **DEAD),
    ) == [
        "11-21 08:00 a dispatched wecom",
        "11-21 08:02 a failed wecom [address next never, dnd:channel:push next never]"
        " (dead_address 81013)",
    ]


@by_both
def test_a_held_fallback_that_may_not_go_after_all_fails(told: Told):
    held = "11-21 08:02 a held push [talk hold 11-21 08:31] > 11-21 08:31 (wecom failed: provider)"
    start = [
        wide("11-21 08:00", "a", expires_at="11-21 08:40"),
        inbound("11-21 08:01"),
        receipt("11-21 08:02", "a", "failed"),
    ]
    opted_out = command("11-21 08:03", "dnd.set", scope="all")
    assert told(TALK, *start, opted_out)[1:] == [
        held,
        "11-21 08:03 a failed wecom [dnd:all next never, talk hold 11-21 08:31]",
    ]
    assert told(TALK, *start, inbound("11-21 08:20"))[1:] == [
        held,
        "11-21 08:31 a failed wecom [talk hold 11-21 08:50]",
    ]


@by_both
def test_a_spread_rule_that_once_blocked_the_intent_goes_on_blocking_its_fallback(told: Told):
    quiet = window("21:00", "08:00", 'channels = ["push", "sms"]\nspread = "7h"')
    lines = told(
        quiet.replace('"hold"', '"next"'),
        wide("11-20 22:00", "a", route=["push", "wecom", "sms"]),
        receipt("11-21 08:00", "a", "failed"),
        wide("11-21 08:00", "b", route=["sms"]),
    )
    ready = lines[0].partition(" next ")[2].rstrip("]")
    assert ready > "11-21 08:00"
    assert lines == [
        f"11-20 22:00 a dispatched wecom [q next {ready}]",
        f"11-21 08:00 a held sms [q next {ready}] > {ready} (wecom failed: provider)",
        "11-21 08:00 b dispatched sms",
        f"{ready} a dispatched sms as shop:a:2 (wecom failed: provider)",
    ]


@by_both
def test_a_failure_after_the_expiry_or_the_week_of_receipts_ends_it(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a", expires_at="11-21 09:00"),
        wide("11-21 08:00", "b", expires_at="11-21 09:00"),
        wide("11-21 08:00", "c", expires_at="12-21 09:00"),
        receipt("11-21 08:59:59.999", "a", "failed"),
        receipt("11-21 09:00", "b", "failed"),
        receipt("11-28 07:59:59.999", "c", "failed"),
    )[3:] == [
        "11-21 08:59:59.999 a dispatched push as shop:a:2 (wecom failed: provider)",
        "11-21 09:00 b failed wecom",
        "11-28 07:59:59.999 c dispatched push as shop:c:2 (wecom failed: provider)",
    ]


@by_both
def test_a_combined_send_has_nothing_to_fall_back_on(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a", reach="all"),
        receipt("11-21 08:01", "a", "failed", 1),
        receipt("11-21 08:02", "a", "failed", 3),
        receipt("11-21 08:03", "a", "delivered", 2),
        head=TIMED,
    )[3:] == [
        "11-21 08:01 a failed wecom",
        "11-21 08:02 a failed sms as shop:a:3",
        "11-21 08:03 a delivered push as shop:a:2",
    ]


# ---- after a wait ------------------------------------------------------------------------------


@by_both
def test_the_wait_ends_with_the_next_channel_and_begins_anew(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a"),
        receipt("11-21 08:01", "a", "sent"),
        receipt("11-21 08:02", "a", "unknown"),
        receipt("11-21 08:15", "a", "delivered", 2),
        wide("11-21 09:00", "b", route=["sms"]),
        head=TIMED,
    ) == [
        "11-21 08:00 a dispatched wecom",
        "11-21 08:01 a sent wecom",
        f"11-21 08:10 a dispatched push as shop:a:2 {LATE}",
        "11-21 08:15 a delivered push as shop:a:2",
        "11-21 09:00 b dispatched sms",
    ]


@by_both
def test_a_dispatch_that_is_waited_for_still_counts(told: Told):
    assert told(cap(1, "1h"), wide("11-21 08:00", "a"), head=TIMED) == [
        "11-21 08:00 a dispatched wecom",
        f"11-21 08:10 a held push [cap hold 11-21 09:00] > 11-21 09:00 {LATE}",
        f"11-21 09:00 a dispatched push as shop:a:2 {LATE}",
        "11-21 09:10 a held sms [cap hold 11-21 10:00] > 11-21 10:00"
        " (push: not delivered within fallback_after)",
        "11-21 10:00 a dispatched sms as shop:a:3 (push: not delivered within fallback_after)",
    ]


@by_both
def test_a_wait_that_ends_with_nothing_to_go_by_is_not_told(told: Told):
    only = {"wecom": "w"}
    assert told(
        "",
        wide("11-21 08:00", "a", to=only),
        wide("11-21 08:00", "b", to=only, expires_at="11-21 08:10"),
        receipt("11-21 08:20", "a", "failed"),
        receipt("11-21 08:20", "b", "delivered"),
        head=TIMED,
    ) == [
        "11-21 08:00 a dispatched wecom",
        "11-21 08:00 b dispatched wecom",
        "11-21 08:20 a failed wecom",
        "11-21 08:20 b delivered wecom",
    ]


@by_both
def test_a_failure_decides_again_what_a_wait_has_held(told: Told):
    assert told(
        cap(1, "24h"),
        wide("11-21 08:00", "a"),
        receipt("11-21 08:30", "a", "failed"),
        receipt("11-21 08:31", "a", "delivered", 2),
        head=TIMED,
    ) == [
        "11-21 08:00 a dispatched wecom",
        f"11-21 08:10 a held push [cap hold 11-22 08:00] > 11-22 08:00 {LATE}",
        "11-21 08:30 a dispatched push as shop:a:2 (wecom failed: provider)",
        "11-21 08:31 a delivered push as shop:a:2",
    ]


@by_both
def test_several_that_are_due_go_in_the_order_of_step_7(told: Told):
    lines = told(
        "",
        wide("11-21 08:00", "low", priority=1),
        wide("11-21 08:00", "high", priority=9),
        wide("11-21 08:00", "soon", priority=1, expires_at="11-21 20:00"),
        wide("11-21 08:05", "held", priority=5, not_before="11-21 08:10"),
        receipt("11-21 08:10", "high", "delivered"),
        head=TIMED,
    )
    due = [line.split()[2] for line in lines if line.startswith("11-21 08:10")]
    assert due == ["high", "held", "soon", "low", "high"]


# ---- several attempts, and who has the last word ------------------------------------------------


@by_both
def test_delivered_by_any_attempt_ends_it_and_is_told(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a"),
        receipt("11-21 08:12", "a", "delivered"),
        receipt("11-21 08:13", "a", "sent", 2),
        receipt("11-21 08:14", "a", "failed", 2),
        receipt("11-21 08:15", "a", "delivered", 2),
        receipt("11-21 08:16", "a", "read"),
        head=TIMED,
    ) == [
        "11-21 08:00 a dispatched wecom",
        f"11-21 08:10 a dispatched push as shop:a:2 {LATE}",
        "11-21 08:12 a delivered wecom",
        "11-21 08:15 a delivered push as shop:a:2",
        "11-21 08:16 a read wecom",
    ]


@by_both
def test_of_an_older_attempt_neither_sent_nor_failed_is_told_but_it_is_taken_back(told: Told):
    assert told(
        cap(2, "24h"),
        wide("11-21 08:00", "a", route=["wecom", "push"]),
        receipt("11-21 08:11", "a", "sent"),
        receipt("11-21 08:12", "a", "failed"),
        wide("11-21 08:13", "b", route=["sms"]),
        receipt("11-21 08:14", "a", "failed", 2),
        receipt("11-21 08:15", "a", "delivered", 1),
        head=TIMED,
    ) == [
        "11-21 08:00 a dispatched wecom",
        f"11-21 08:10 a dispatched push as shop:a:2 {LATE}",
        "11-21 08:13 b dispatched sms",
        "11-21 08:14 a failed push as shop:a:2",
        "11-21 08:15 a delivered wecom",
    ]


@by_both
def test_failed_is_told_once_when_the_newest_has_failed(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a", route=["wecom", "push"]),
        receipt("11-21 08:11", "a", "failed", 2),
        receipt("11-21 08:12", "a", "failed", 1),
        head=TIMED,
    )[1:] == [
        f"11-21 08:10 a dispatched push as shop:a:2 {LATE}",
        "11-21 08:11 a failed push as shop:a:2",
    ]


@pytest.mark.parametrize("held_by", ["failure", "wait"])
@by_both
def test_a_held_fallback_is_dropped_when_the_first_has_arrived_after_all(told: Told, held_by: str):
    failed = [receipt("11-21 08:02", "a", "failed")] if held_by == "failure" else []
    lines = told(
        TALK.replace("30m", "2h"),
        wide("11-21 08:00", "a"),
        inbound("11-21 08:01"),
        *failed,
        receipt("11-21 08:30", "a", "delivered"),
        head=TIMED,
    )
    assert [line.split()[3] for line in lines] == ["dispatched", "held", "delivered"]


# ---- commands and collapse keys -----------------------------------------------------------------


@by_both
def test_cancel_and_forget_end_what_is_in_flight_without_a_word(told: Told):
    for command_ in (
        command("11-21 08:05", "cancel", intent="a"),
        command("11-21 08:05", "forget"),
    ):
        assert told(
            "",
            wide("11-21 08:00", "a"),
            command_,
            receipt("11-21 09:00", "a", "failed", **DEAD),
            head=TIMED,
        ) == ["11-21 08:00 a dispatched wecom", "11-21 09:00 a failed wecom (dead_address 81013)"]


STOPS = {
    "cancelled": command("11-21 08:20", "cancel", intent="a"),
    "superseded": intent("11-21 08:20", "b", "otp", collapse_key="k"),
}


@pytest.mark.parametrize("state", STOPS)
@by_both
def test_what_stops_a_held_fallback_is_told_after_a_failure_only(told: Told, state: str):
    start = [wide("11-21 08:00", "a", collapse_key="k"), inbound("11-21 08:01")]
    failed = receipt("11-21 08:02", "a", "failed")
    rules = TALK.replace("30m", "2h")
    after_failure = told(rules, *start, failed, STOPS[state])
    assert f"11-21 08:20 a {state}" in after_failure
    assert len([line for line in after_failure if " a " in line]) == 3
    after_wait = told(rules, *start, STOPS[state], head=TIMED)
    assert [line.split()[3] for line in after_wait if " a " in line] == ["dispatched", "held"]


@by_both
def test_a_collapse_key_ends_what_is_in_flight_and_its_dispatch_s_word_stands(told: Told):
    start = [wide("11-21 08:00", "a", collapse_key="k"), wide("11-21 08:01", "b", collapse_key="k")]
    for word in ("failed", "delivered"):
        said = told("", *start, receipt("11-21 08:02", "a", word))
        assert said[2:] == [f"11-21 08:02 a {word} wecom"]
    assert [line.split()[2] for line in told("", *start, head=TIMED)[2:]] == ["b", "b"]


@by_both
def test_a_collapse_key_of_another_app_ends_nothing(told: Told):
    assert told(
        "",
        wide("11-21 08:00", "a", collapse_key="k"),
        wide("11-21 08:01", "b", collapse_key="k", app="bot"),
        receipt("11-21 08:02", "a", "failed"),
    )[2:] == ["11-21 08:02 a dispatched push as shop:a:2 (wecom failed: provider)"]


@by_both
def test_a_command_decides_held_fallbacks_again_and_none_in_flight(told: Told):
    assert told(
        TALK.replace("30m", "2h"),
        wide("11-21 08:00", "a"),
        wide("11-21 08:00", "b"),
        inbound("11-21 08:01"),
        receipt("11-21 08:02", "a", "failed"),
        command("11-21 08:03", "dnd.set", scope="channel:push"),
    )[2:] == [
        "11-21 08:02 a held push [talk hold 11-21 10:01] > 11-21 10:01 (wecom failed: provider)",
        "11-21 08:03 a held sms [dnd:channel:push next never, talk hold 11-21 10:01]"
        " > 11-21 10:01 (wecom failed: provider)",
        "11-21 10:01 a dispatched sms as shop:a:2 [dnd:channel:push next never]"
        " (wecom failed: provider)",
    ]


@by_both
def test_an_id_in_flight_is_a_duplicate(told: Told):
    assert told("", wide("11-21 08:00", "a"), wide("11-21 08:01", "a"))[1:] == [
        "11-21 08:01 a duplicate"
    ]
