"""What each rule of docs/policy.md blocks and until when: cases computed by hand.

They hold the reference, which the property tests trust, and the product alike.
"""

from __future__ import annotations

import pytest

from tests.support.reference import fnv1a_32
from tests.support.told import (
    GAP_2H,
    NIGHT,
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

# ---- caps --------------------------------------------------------------------------------------


@by_both
def test_rolling_cap_counts_back_exactly_its_window(told: Told):
    assert told(
        cap(2, "24h"),
        intent("11-21 08:00", "a"),
        intent("11-21 09:00", "b"),
        intent("11-22 07:59:59.999", "c"),
        intent("11-22 08:00", "d"),
    ) == [
        "11-21 08:00 a dispatched sms",
        "11-21 09:00 b dispatched sms",
        "11-22 07:59:59.999 c held sms [cap hold 11-22 08:00] > 11-22 08:00",
        "11-22 08:00 c dispatched sms",
        "11-22 08:00 d held sms [cap hold 11-22 09:00] > 11-22 09:00",
        "11-22 09:00 d dispatched sms",
    ]


@by_both
def test_cap_is_ready_when_the_dispatch_at_its_limit_leaves_not_the_oldest(told: Told):
    assert told(
        cap(1, "24h"),
        intent("11-21 08:00", "a", "otp"),
        intent("11-21 09:00", "b", "otp"),
        intent("11-21 10:00", "c"),
    )[2:] == [
        "11-21 10:00 c held sms [cap hold 11-22 09:00] > 11-22 09:00",
        "11-22 09:00 c dispatched sms",
    ]


@by_both
def test_reserved_slots_are_for_high_priority_by_the_intent_or_its_category(told: Told):
    rules = cap(3, "24h", "reserve = { slots = 2, priority = 6 }")
    assert told(
        rules,
        intent("11-21 08:00", "a", "note"),
        intent("11-21 09:00", "b", "ad"),
        intent("11-21 10:00", "c", "ad", priority=6),
        intent("11-21 11:00", "d", "note"),
        intent("11-21 12:00", "e", "note"),
        intent("11-21 13:00", "f", "note", priority=5),
        command("11-21 14:00", "cancel", intent="b"),
    ) == [
        "11-21 08:00 a dispatched sms",
        "11-21 09:00 b held sms [cap hold 11-22 08:00] > 11-22 08:00",
        "11-21 10:00 c dispatched sms",
        "11-21 11:00 d dispatched sms",
        "11-21 12:00 e held sms [cap hold 11-22 08:00] > 11-22 08:00",
        "11-21 13:00 f held sms [cap hold 11-22 11:00] > 11-22 11:00",
        "11-21 14:00 b cancelled",
        "11-22 08:00 e dispatched sms",
        "11-22 11:00 f held sms [cap hold 11-23 08:00] > 11-23 08:00",
        "11-23 08:00 f dispatched sms",
    ]


@by_both
def test_failed_gives_the_slot_back_until_the_provider_says_delivered(told: Told):
    held = "held sms [cap hold 11-22 08:00] > 11-22 08:00"
    assert told(
        cap(1, "24h"),
        intent("11-21 08:00", "a"),
        receipt("11-21 08:01", "a", "unknown"),
        intent("11-21 08:02", "b", expires_at="11-21 23:00"),
        receipt("11-21 08:03", "a", "failed"),
        receipt("11-21 08:04", "a", "sent"),
        receipt("11-21 08:05", "a", "failed"),
        intent("11-21 08:06", "c"),
        receipt("11-21 08:07", "a", "delivered"),
        receipt("11-21 08:08", "c", "failed"),
        intent("11-21 08:09", "d"),
    )[:7] == [
        "11-21 08:00 a dispatched sms",
        "11-21 08:02 b suppressed [cap hold 11-22 08:00]",
        "11-21 08:03 a failed sms",
        "11-21 08:06 c dispatched sms",
        "11-21 08:07 a delivered sms",
        "11-21 08:08 c failed sms",
        f"11-21 08:09 d {held}",
    ]


@pytest.mark.parametrize(
    ("per", "states"),
    [
        ("customer", ["dispatched", "suppressed", "suppressed", "suppressed"]),
        ("channel", ["dispatched", "dispatched", "suppressed", "suppressed"]),
        ("account", ["dispatched", "dispatched", "suppressed", "dispatched"]),
    ],
)
@by_both
def test_what_a_cap_counts_for(told: Told, per: str, states: list[str]):
    both = {"sms": "+1", "push": "p"}
    lines = told(
        cap(1, "24h", f'per = "{per}"', on="drop"),
        intent("11-21 08:00", "a", to=both),
        intent("11-21 08:01", "b", route=["push"]),
        intent("11-21 08:02", "c"),
        intent("11-21 08:03", "d", account="other"),
    )
    assert [line.split()[3] for line in lines] == states


@by_both
def test_account_is_the_intents_then_the_owners_then_the_channels(told: Told):
    assert told(
        cap(1, "24h", 'per = "account"', on="drop"),
        intent("11-21 08:00", "a"),
        command("11-21 08:01", "profile.set", owner="ann"),
        intent("11-21 08:02", "b"),
        intent("11-21 08:03", "c", account="ann"),
        intent("11-21 08:04", "d", account="sms"),
    ) == [
        "11-21 08:00 a dispatched sms",
        "11-21 08:02 b dispatched sms",
        "11-21 08:03 c suppressed [cap drop 11-22 08:02]",
        "11-21 08:04 d suppressed [cap drop 11-22 08:00]",
    ]


@by_both
def test_filters_select_who_is_asked_and_what_is_counted(told: Told):
    rules = cap(1, "24h", 'apps = ["shop"]\ncategories = ["ad"]\nchannels = ["sms"]', "drop")
    both = {"sms": "+1", "push": "p"}
    assert told(
        rules,
        intent("11-21 08:00", "a", app="bot"),
        intent("11-21 08:01", "b", "note"),
        intent("11-21 08:02", "c", route=["push"], to=both),
        intent("11-21 08:03", "d"),
        intent("11-21 08:04", "e"),
        intent("11-21 08:05", "f", app="bot"),
        intent("11-21 08:06", "g", "note"),
        intent("11-21 08:07", "h", route=["push"]),
    ) == [
        "11-21 08:00 a dispatched sms",
        "11-21 08:01 b dispatched sms",
        "11-21 08:02 c dispatched push",
        "11-21 08:03 d dispatched sms",
        "11-21 08:04 e suppressed [cap drop 11-22 08:03]",
        "11-21 08:05 f dispatched sms",
        "11-21 08:06 g dispatched sms",
        "11-21 08:07 h dispatched push",
    ]


@pytest.mark.parametrize(
    ("window", "zone", "first", "second", "ready"),
    [
        # Kolkata is 5:30 ahead: its days start at 18:30
        ("day", "Asia/Kolkata", "06-10 18:30", "06-10 18:31", "06-11 18:30"),
        ("day", "Asia/Kolkata", "06-10 18:29:59.999", "06-10 18:30", None),
        # 2026-11-23 is a Monday
        ("week", "UTC", "11-16 00:00", "11-22 23:59:59.999", "11-23 00:00"),
        ("week", "UTC", "11-22 23:59:59.999", "11-23 00:00", None),
        ("month", "America/New_York", "11-01 04:00", "11-30 04:00", "12-01 05:00"),
        ("month", "America/New_York", "11-01 03:59:59.999", "11-01 04:00", None),
        # Santiago skips midnight of 09-06: the day starts at 01:00, when the clock was set on
        ("day", "America/Santiago", "09-05 12:00", "09-06 03:59:59.999", "09-06 04:00"),
        # and goes through the last hour of 04-04 twice
        ("day", "America/Santiago", "04-04 12:00", "04-05 03:10", "04-05 04:00"),
    ],
)
@by_both
def test_calendar_caps(
    told: Told, window: str, zone: str, first: str, second: str, ready: str | None
):
    events = [intent(first, "a", timezone=zone), intent(second, "b")]
    if ready is None:
        want = [f"{second} b dispatched sms"]
    else:
        want = [
            f"{second} b held sms [cap hold {ready}] > {ready}",
            f"{ready} b dispatched sms",
        ]
    assert told(cap(1, window), *events)[1:] == want


@by_both
def test_calendar_cap_uses_the_zone_in_force_when_asked(told: Told):
    # 23:00 and 01:00 UTC are two days in UTC, and one in Shanghai
    first, second = intent("06-10 23:00", "a"), intent("06-11 01:00", "b")
    assert told(cap(1, "day"), first, second)[1] == "06-11 01:00 b dispatched sms"
    second["timezone"] = "Asia/Shanghai"
    held = "06-11 01:00 b held sms [cap hold 06-11 16:00] > 06-11 16:00"
    assert told(cap(1, "day"), first, second)[1] == held


# ---- gaps --------------------------------------------------------------------------------------


@by_both
def test_gap_runs_from_the_last_dispatch_that_was_not_taken_back(told: Told):
    assert told(
        GAP_2H,
        intent("11-21 08:00", "a"),
        intent("11-21 10:00", "b"),
        intent("11-21 11:59:59.999", "c"),
        receipt("11-21 12:10", "c", "failed"),
        intent("11-21 12:20", "d"),
    ) == [
        "11-21 08:00 a dispatched sms",
        "11-21 10:00 b dispatched sms",
        "11-21 11:59:59.999 c held sms [apart hold 11-21 12:00] > 11-21 12:00",
        "11-21 12:00 c dispatched sms",
        "11-21 12:10 c failed sms",
        "11-21 12:20 d dispatched sms",
    ]


# ---- quiet -------------------------------------------------------------------------------------


@by_both
def test_quiet_window_holds_from_its_start_to_before_its_end(told: Told):
    assert told(
        NIGHT,
        intent("11-20 20:59:59.999", "a"),
        intent("11-20 21:00", "b"),
        intent("11-20 21:00", "c", "note"),
        intent("11-21 07:59:59.999", "d"),
        intent("11-21 08:00", "e"),
    ) == [
        "11-20 20:59:59.999 a dispatched sms",
        "11-20 21:00 b held sms [night hold 11-21 08:00] > 11-21 08:00",
        "11-20 21:00 c dispatched sms",
        "11-21 07:59:59.999 d held sms [night hold 11-21 08:00] > 11-21 08:00",
        "11-21 08:00 b dispatched sms",
        "11-21 08:00 d dispatched sms",
        "11-21 08:00 e dispatched sms",
    ]


BERLIN, LORD_HOWE, SANTIAGO = "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"


@pytest.mark.parametrize(
    ("rule", "zone", "at", "ready"),
    [
        # days name the day on which the window starts; 2026-11-20 is a Friday
        (window("21:00", "08:00", 'days = ["fri"]'), "UTC", "11-20 07:00", None),
        (window("21:00", "08:00", 'days = ["fri"]'), "UTC", "11-20 21:00", "11-21 08:00"),
        (window("21:00", "08:00", 'days = ["fri"]'), "UTC", "11-21 07:00", "11-21 08:00"),
        (window("21:00", "08:00", 'days = ["fri"]'), "UTC", "11-21 21:00", None),
        (window("09:00", "10:00", 'days = ["fri"]'), "UTC", "11-20 09:00", "11-20 10:00"),
        (window("09:00", "10:00", 'days = ["fri"]'), "UTC", "11-21 09:00", None),
        (window("00:00", "10:00", 'days = ["fri"]'), "UTC", "11-20 00:00", "11-20 10:00"),
        (window("10:00", "00:00", 'days = ["fri"]'), "UTC", "11-20 10:00", "11-21 00:00"),
        (window("10:00", "00:00", 'days = ["fri"]'), "UTC", "11-21 00:00", None),
        # Berlin, 03-29 01:00: 02:00 becomes 03:00
        (window("21:00", "02:30"), BERLIN, "03-28 22:00", "03-29 01:00"),
        (window("02:15", "02:45"), BERLIN, "03-29 00:59:59.999", None),
        (window("02:15", "02:45"), BERLIN, "03-29 01:00", None),
        (window("02:30", "03:30"), BERLIN, "03-29 00:59:59.999", None),
        (window("02:30", "03:30"), BERLIN, "03-29 01:00", "03-29 01:30"),
        # Berlin, 10-25 01:00: 03:00 becomes 02:00
        (window("21:00", "02:30"), BERLIN, "10-24 23:00", "10-25 00:30"),
        (window("21:00", "02:30"), BERLIN, "10-25 00:59:59.999", None),
        (window("21:00", "02:30"), BERLIN, "10-25 01:00", "10-25 01:30"),
        (window("02:30", "03:00"), BERLIN, "10-25 00:40", "10-25 01:00"),
        (window("02:30", "03:30"), BERLIN, "10-25 00:40", "10-25 01:00"),
        (window("02:30", "03:30"), BERLIN, "10-25 01:40", "10-25 02:30"),
        # Lord Howe, 04-04 15:00: 02:00 becomes 01:30; 10-03 15:30: 02:00 becomes 02:30
        (window("01:00", "01:45"), LORD_HOWE, "04-04 14:30", "04-04 14:45"),
        (window("01:00", "01:45"), LORD_HOWE, "04-04 15:00", "04-04 15:15"),
        (window("01:00", "02:15"), LORD_HOWE, "10-03 15:00", "10-03 15:30"),
        # Santiago, 09-06 04:00: midnight becomes 01:00; 04-05 03:00: midnight becomes 23:00
        (window("22:00", "00:00"), SANTIAGO, "09-06 03:00", "09-06 04:00"),
        (window("22:00", "00:30"), SANTIAGO, "09-06 03:00", "09-06 04:00"),
        (window("22:00", "23:30"), SANTIAGO, "04-05 03:10", "04-05 03:30"),
        (window("22:00", "00:00"), SANTIAGO, "04-05 02:59:59.999", "04-05 04:00"),
    ],
)
@by_both
def test_quiet_reads_the_local_clock(told: Told, rule: str, zone: str, at: str, ready: str | None):
    lines = told(rule, intent(at, "a", timezone=zone))
    if ready is None:
        assert lines == [f"{at} a dispatched sms"]
    else:
        assert lines == [
            f"{at} a held sms [q hold {ready}] > {ready}",
            f"{ready} a dispatched sms",
        ]


@by_both
def test_quiet_dates_are_whole_local_days(told: Told):
    rule = '[[quiet]]\nname="q"\non="hold"\ndates=["2026-10-01/2026-10-03","2026-10-04"]\n'
    assert told(
        rule,
        intent("09-30 15:59:59.999", "a", timezone="Asia/Shanghai"),
        intent("09-30 16:00", "b", expires_at="10-30 00:00"),
        intent("10-04 15:59:59.999", "c", expires_at="10-30 00:00"),
        intent("10-04 16:00", "d"),
    ) == [
        "09-30 15:59:59.999 a dispatched sms",
        "09-30 16:00 b held sms [q hold 10-04 16:00] > 10-04 16:00",
        "10-04 15:59:59.999 c held sms [q hold 10-04 16:00] > 10-04 16:00",
        "10-04 16:00 b dispatched sms",
        "10-04 16:00 c dispatched sms",
        "10-04 16:00 d dispatched sms",
    ]


SPREAD = NIGHT + 'spread = "30m"\n'
# FNV-1a-32 of "a" is 0xE40C292C = 3826002220, and that modulo 1800000 is 1002220 ms: 16:42.220


def test_fnv_1a():
    # vectors of the FNV authors
    assert fnv1a_32("") == 0x811C9DC5
    assert fnv1a_32("a") == 0xE40C292C
    assert fnv1a_32("foobar") == 0xBF9CF968


@by_both
def test_spread_moves_the_release_of_what_was_held_and_of_nothing_else(told: Told):
    assert told(
        SPREAD,
        intent("11-20 22:00", "x", customer="a"),
        intent("11-21 08:00", "y", customer="a"),
        command("11-21 08:16:42.219", "profile.set", customer="a", to={"push": "p"}),
    ) == [
        "11-20 22:00 x held sms [night hold 11-21 08:16:42.220] > 11-21 08:16:42.220",
        "11-21 08:00 y dispatched sms",
        "11-21 08:16:42.219 x held sms [night hold 11-21 08:16:42.220] > 11-21 08:16:42.220",
        "11-21 08:16:42.220 x dispatched sms",
    ]


@by_both
def test_spread_counts_from_the_moments_of_the_look_ahead_too(told: Told):
    # held by the gap at 20:30; at 22:30 it would be night, so it waits for its morning moment,
    # also when it is asked again outside the window
    assert told(
        SPREAD + GAP_2H,
        intent("11-20 20:30", "w", "otp", customer="a"),
        intent("11-20 20:31", "x", customer="a"),
        receipt("11-20 20:32", "w", "failed") | {"customer": "a"},
        command("11-20 20:33", "profile.set", customer="a", to={"push": "p"}),
    )[1:] == [
        "11-20 20:31 x held sms [apart hold 11-20 22:30] > 11-21 08:16:42.220",
        "11-20 20:32 w failed sms",
        "11-20 20:33 x held sms [night hold 11-21 08:16:42.220] > 11-21 08:16:42.220",
        "11-21 08:16:42.220 x dispatched sms",
    ]


@by_both
def test_spread_keeps_the_latest_moment_over_a_change_of_zone(told: Told):
    # 22:00 UTC is 06:00 in Shanghai: its window ends at 00:00 UTC, but 08:16:42.220 UTC was said
    assert told(
        SPREAD,
        intent("11-20 22:00", "x", customer="a"),
        command("11-20 22:10", "profile.set", customer="a", timezone="Asia/Shanghai"),
    )[1:] == [
        "11-20 22:10 x held sms [night hold 11-21 08:16:42.220] > 11-21 08:16:42.220",
        "11-21 08:16:42.220 x dispatched sms",
    ]


# ---- presence ----------------------------------------------------------------------------------


@by_both
def test_presence_after_an_inbound_message(told: Told):
    assert told(
        TALK,
        inbound("11-21 08:00"),
        intent("11-21 08:29:59.999", "a"),
        intent("11-21 08:30", "b"),
    ) == [
        "11-21 08:29:59.999 a held sms [talk hold 11-21 08:30] > 11-21 08:30",
        "11-21 08:30 a dispatched sms",
        "11-21 08:30 b dispatched sms",
    ]


@by_both
def test_an_inbound_message_counts_only_at_the_next_decision(told: Told):
    assert told(
        TALK,
        inbound("11-21 08:00"),
        intent("11-21 08:10", "a"),
        inbound("11-21 08:20"),
        inbound("11-21 08:20"),
    ) == [
        "11-21 08:10 a held sms [talk hold 11-21 08:30] > 11-21 08:30",
        "11-21 08:30 a held sms [talk hold 11-21 08:50] > 11-21 08:50",
        "11-21 08:50 a dispatched sms",
    ]


@by_both
def test_takeover_with_and_without_until(told: Told):
    assert told(
        TALK,
        inbound("11-21 08:00"),
        command("11-21 08:00", "takeover", agent="ann", until="11-21 08:10"),
        intent("11-21 08:01", "a"),
        command("11-21 08:02", "takeover", agent="ann", until="11-21 09:00"),
        command("11-21 08:02", "takeover", agent="ann", until="11-21 09:00"),
        command("11-21 08:03", "takeover", agent="ann"),
        command("11-21 11:00", "release"),
        command("11-21 11:00", "release"),
        intent("11-21 12:00", "b"),
    ) == [
        "11-21 08:01 a held sms [talk hold 11-21 08:30] > 11-21 08:30",
        "11-21 08:02 a held sms [talk hold 11-21 09:00] > 11-21 09:00",
        "11-21 08:03 a held sms [talk hold never]",
        "11-21 11:00 a dispatched sms",
        "11-21 12:00 b dispatched sms",
    ]


@by_both
def test_endless_takeover_holds_until_the_intent_expires(told: Told):
    assert told(
        TALK,
        command("11-21 08:00", "takeover", agent="ann"),
        intent("11-21 08:01", "a", expires_at="11-21 10:00"),
        intent("11-21 08:01", "b"),
    ) == [
        "11-21 08:01 a held sms [talk hold never]",
        "11-21 08:01 b held sms [talk hold never]",
        "11-21 10:00 a expired",
        "11-24 08:01 b expired",
    ]


@by_both
def test_endless_takeover_with_next_is_never_ready(told: Told):
    rule = TALK.replace('"hold"', '"next"')
    take = command("11-21 08:00", "takeover", agent="ann")
    assert told(rule, take, intent("11-21 08:01", "a")) == [
        "11-21 08:01 a suppressed [talk next never]"
    ]


# ---- dnd and address ---------------------------------------------------------------------------


@by_both
def test_dnd_scopes_in_order_and_their_end(told: Told):
    assert told(
        "",
        command("11-21 08:00", "dnd.set", scope="channel:sms", until="11-21 10:00"),
        command("11-21 08:00", "dnd.set", scope="category:ad", until="11-21 11:00"),
        command("11-21 08:00", "dnd.set", scope="all", until="11-21 09:00"),
        command("11-21 08:00", "dnd.set", scope="category:note"),
        intent("11-21 08:01", "a"),
        intent("11-21 08:02", "b", "otp"),
        intent("11-21 08:03", "c", "note"),
        intent("11-21 11:00", "d"),
    ) == [
        "11-21 08:01 a held sms [dnd:all hold 11-21 09:00, dnd:category:ad hold 11-21 11:00,"
        " dnd:channel:sms hold 11-21 10:00] > 11-21 11:00",
        "11-21 08:02 b dispatched sms",
        "11-21 08:03 c suppressed [dnd:all hold 11-21 09:00, dnd:category:note next never,"
        " dnd:channel:sms hold 11-21 10:00]",
        "11-21 11:00 a dispatched sms",
        "11-21 11:00 d dispatched sms",
    ]


@by_both
def test_setting_a_scope_again_replaces_it_and_clearing_releases(told: Told):
    later, past = "11-21 12:00", "11-21 07:00"
    assert told(
        "",
        command("11-21 08:00", "dnd.set", scope="all", until=later),
        intent("11-21 08:01", "a"),
        command("11-21 08:02", "dnd.set", scope="all", until=later),
        command("11-21 08:03", "dnd.set", scope="all", until="11-21 09:00"),
        command("11-21 08:04", "dnd.clear", scope="channel:sms"),
        command("11-21 08:05", "dnd.set", scope="all", until=past),
    ) == [
        "11-21 08:01 a held sms [dnd:all hold 11-21 12:00] > 11-21 12:00",
        "11-21 08:03 a held sms [dnd:all hold 11-21 09:00] > 11-21 09:00",
        "11-21 08:05 a dispatched sms",
    ]


@by_both
def test_opting_out_suppresses_what_is_held(told: Told):
    assert told(
        NIGHT,
        intent("11-20 22:00", "a"),
        command("11-20 22:01", "dnd.set", scope="all"),
    )[1:] == ["11-20 22:01 a suppressed [dnd:all next never, night hold 11-21 08:00]"]


@by_both
def test_no_address_means_the_next_channel_and_none_at_all_suppressed(told: Told):
    assert told(
        "",
        intent("11-21 08:00", "a", "wide", to={"sms": "+1"}),
        intent("11-21 08:01", "b", "wide", customer="d", to={}),
        command("11-21 08:02", "profile.set", customer="d", to={"push": "p"}),
        intent("11-21 08:03", "e", "wide", customer="d", to={}),
    ) == [
        "11-21 08:00 a dispatched sms [address next never]",
        "11-21 08:01 b suppressed [address next never]",
        "11-21 08:03 e dispatched push [address next never]",
    ]
