"""Route, time, order, identity and commands of docs/policy.md: cases computed by hand.

They hold the reference, which the property tests trust, and the product alike.
"""

from __future__ import annotations

import pytest

from tests.support.told import (
    ALL_TO,
    CATEGORIES,
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

# ---- route -------------------------------------------------------------------------------------


def quiet_on(name: str, channel: str, end: str, on: str) -> str:
    return (
        f'[[quiet]]\nname = "{name}"\nchannels = ["{channel}"]\nfrom = "06:00"\nto = "{end}"\n'
        f'on = "{on}"\n'
    )


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        # all hold on the first: stop there, though the second is free
        ([("w", "wecom", "10:00", "hold")], "held wecom [w hold 11-21 10:00] > 11-21 10:00"),
        # next wins over hold
        (
            [("w", "wecom", "10:00", "hold"), ("x", "wecom", "09:00", "next")],
            "dispatched push [w hold 11-21 10:00, x next 11-21 09:00]",
        ),
        # drop wins over next, also behind a skipped channel
        (
            [("w", "wecom", "10:00", "next"), ("x", "wecom", "09:00", "drop")],
            "suppressed [w next 11-21 10:00, x drop 11-21 09:00]",
        ),
        (
            [("w", "wecom", "10:00", "next"), ("p", "push", "09:00", "drop")],
            "suppressed [w next 11-21 10:00, p drop 11-21 09:00]",
        ),
        # a channel that is not reached does not matter
        (
            [("w", "wecom", "10:00", "hold"), ("p", "push", "09:00", "drop")],
            "held wecom [w hold 11-21 10:00] > 11-21 10:00",
        ),
        # all skipped: the channel whose latest block ends first; the first of equals
        (
            [
                ("w", "wecom", "09:30", "next"),
                ("p", "push", "09:00", "next"),
                ("p2", "push", "10:00", "hold"),
                ("s", "sms", "09:30", "next"),
            ],
            "held wecom [w next 11-21 09:30, p next 11-21 09:00, p2 hold 11-21 10:00,"
            " s next 11-21 09:30] > 11-21 09:30",
        ),
        (
            [
                ("w", "wecom", "11:00", "next"),
                ("p", "push", "09:00", "next"),
                ("s", "sms", "10:00", "next"),
            ],
            "held push [w next 11-21 11:00, p next 11-21 09:00, s next 11-21 10:00] > 11-21 09:00",
        ),
    ],
)
@by_both
def test_going_through_the_route(told: Told, rules: list[tuple[str, str, str, str]], line: str):
    text = "".join(quiet_on(*rule) for rule in rules)
    assert told(text, intent("11-21 08:00", "a", "wide", to=ALL_TO))[0] == f"11-21 08:00 a {line}"


@by_both
def test_all_skipped_with_nothing_ever_ready_on_some(told: Told):
    rules = quiet_on("w", "wecom", "09:30", "next")
    assert told(
        rules,
        command("11-21 07:00", "dnd.set", scope="channel:sms"),
        intent("11-21 08:00", "a", "wide", to={"wecom": "w", "sms": "s"}),
    ) == [
        "11-21 08:00 a held wecom [w next 11-21 09:30, address next never,"
        " dnd:channel:sms next never] > 11-21 09:30",
        "11-21 09:30 a dispatched wecom",
    ]


@by_both
def test_blocks_are_reported_once_and_in_order(told: Told):
    rules = GAP_2H.replace('"hold"', '"next"') + cap(1, "24h", on="next") + NIGHT + TALK
    assert told(
        rules,
        intent("11-20 20:00", "z", "otp"),
        inbound("11-20 21:00"),
        intent("11-20 21:01", "a", route=["sms", "push"], to=ALL_TO),
    )[1] == (
        "11-20 21:01 a held sms [cap next 11-21 20:00, apart next 11-20 22:00,"
        " night hold 11-21 08:00, talk hold 11-20 21:30] > 11-21 20:00"
    )


@by_both
def test_route_is_the_intents_less_what_its_content_has_nothing_for(told: Told):
    sms_only, star = {"sms": {"text": "x"}}, {"sms": {}, "*": {}}
    assert told(
        "",
        intent("11-21 08:00", "a", "wide", to=ALL_TO, content=sms_only),
        intent("11-21 08:00", "b", "wide", to=ALL_TO, content=star),
        intent("11-21 08:00", "c", "wide", to=ALL_TO, route=["push"], content=sms_only),
        intent("11-21 08:00", "c", "wide", to=ALL_TO, route=["push"]),
        intent("11-21 08:00", "d", "nothing"),
    ) == [
        "11-21 08:00 a dispatched sms",
        "11-21 08:00 b dispatched wecom",
        "11-21 08:00 c rejected",
        "11-21 08:00 c dispatched push",
        "11-21 08:00 d rejected",
    ]


# ---- time: not_before, expiry, look-ahead -------------------------------------------------------


@by_both
def test_not_before_looks_ahead_from_its_moment(told: Told):
    wait = "[not-before hold 11-20 22:00]"
    assert told(
        NIGHT,
        intent("11-20 12:00", "a", not_before="11-20 22:00"),
        intent("11-20 12:00", "b", not_before="11-20 22:00", expires_at="11-21 08:00"),
        intent("11-20 12:00", "c", "note", not_before="11-20 22:00"),
        intent("11-20 12:00", "d", "note", not_before="11-20 12:00"),
        intent("11-20 12:00", "e", "note", not_before="11-20 22:00", expires_at="11-20 22:00"),
    ) == [
        f"11-20 12:00 a held {wait} > 11-21 08:00",
        f"11-20 12:00 b suppressed {wait}",
        f"11-20 12:00 c held {wait} > 11-20 22:00",
        "11-20 12:00 d dispatched sms",
        f"11-20 12:00 e suppressed {wait}",
        "11-20 22:00 c dispatched sms",
        "11-21 08:00 a dispatched sms",
    ]


@by_both
def test_expired_at_arrival_and_suppressed_when_it_would_expire_first(told: Told):
    assert told(
        NIGHT,
        intent("11-20 22:00", "a", expires_at="11-20 22:00"),
        intent("11-20 22:00", "b", expires_at="11-20 22:00:00.001"),
        intent("11-20 22:00", "c", expires_at="11-21 08:00"),
        intent("11-20 22:00", "d", expires_at="11-21 08:00:00.001"),
        intent("11-20 22:00", "a", expires_at="11-29 08:00"),
    ) == [
        "11-20 22:00 a expired",
        "11-20 22:00 b suppressed [night hold 11-21 08:00]",
        "11-20 22:00 c suppressed [night hold 11-21 08:00]",
        "11-20 22:00 d held sms [night hold 11-21 08:00] > 11-21 08:00",
        "11-20 22:00 a duplicate",
        "11-21 08:00 d dispatched sms",
    ]


@by_both
def test_hold_max_runs_from_acceptance(told: Told):
    head = CATEGORIES.replace("version = 1", 'version = 1\nhold_max = "10h"')
    lines = told(
        NIGHT, intent("11-20 21:59:59.999", "a"), intent("11-20 22:00:00.001", "b"), head=head
    )
    assert lines[0] == "11-20 21:59:59.999 a suppressed [night hold 11-21 08:00]"
    assert lines[1] == "11-20 22:00:00.001 b held sms [night hold 11-21 08:00] > 11-21 08:00"


@by_both
def test_look_ahead_goes_from_rule_to_rule(told: Told):
    # the cap ends at 22:00, in the night; at 08:00 the next morning a drop rule is in force
    assert told(
        NIGHT + cap(1, "24h"),
        intent("11-20 22:00", "a", "otp"),
        intent("11-21 12:00", "b"),
        intent("11-21 12:00", "c", "note"),
    )[1:3] == [
        "11-21 12:00 b held sms [cap hold 11-21 22:00] > 11-22 08:00",
        "11-21 12:00 c held sms [cap hold 11-21 22:00] > 11-21 22:00",
    ]
    drop = window("07:00", "09:00").replace('"hold"', '"drop"')
    assert told(NIGHT + drop, intent("11-20 22:00", "a")) == [
        "11-20 22:00 a suppressed [night hold 11-21 08:00]"
    ]


@by_both
def test_look_ahead_asks_the_whole_route(told: Told):
    # at 22:00 wecom is blocked with next, and push is free
    rules = window("08:00", "22:00", 'channels = ["wecom"]') + NIGHT.replace(
        'on = "hold"', 'on = "next"\nchannels = ["wecom"]'
    )
    assert told(rules, intent("11-20 12:00", "a", route=["wecom", "push"], to=ALL_TO)) == [
        "11-20 12:00 a held wecom [q hold 11-20 22:00] > 11-20 22:00",
        "11-20 22:00 a dispatched push [night next 11-21 08:00]",
    ]


@by_both
def test_look_ahead_ends_after_366_days(told: Told):
    # 366 days after 2026-11-20 22:00 is 2027-11-21 22:00
    def lines(not_before: str) -> list[str]:
        late = intent("11-20 22:00", "a", "note")
        late |= {"not_before": not_before, "expires_at": "2028-11-21T22:00:00Z"}
        return told("", late)

    assert lines("2027-11-21T22:00:00Z")[0].endswith("> 2027-11-21 22:00")
    assert lines("2027-11-21T22:00:00.001Z") == [
        "11-20 22:00 a suppressed [not-before hold 2027-11-21 22:00:00.001]"
    ]


@by_both
def test_forbidden_for_ever_by_two_windows_is_suppressed(told: Told):
    rules = window("08:00", "20:00") + window("20:00", "08:00").replace('"q"', '"r"')
    assert told(rules, intent("11-20 12:00", "a")) == [
        "11-20 12:00 a suppressed [q hold 11-20 20:00]"
    ]


# ---- order -------------------------------------------------------------------------------------


@by_both
def test_what_is_due_together_goes_by_priority_expiry_and_acceptance(told: Told):
    night = NIGHT.replace('["ad"]', '["ad", "note"]')
    lines = told(
        night,
        intent("11-20 22:00", "a"),
        intent("11-20 22:01", "b", expires_at="11-30 00:00"),
        intent("11-20 22:02", "c", expires_at="11-29 00:00"),
        intent("11-20 22:03", "d"),
        intent("11-20 22:04", "e", "note"),
        intent("11-20 22:05", "f", priority=9),
        intent("11-21 08:00", "g", "otp"),
    )
    assert [line.split()[2] for line in lines[6:]] == list("fecbadg")


@by_both
def test_the_first_of_several_due_may_hold_the_others_again(told: Told):
    assert told(NIGHT + GAP_2H, intent("11-20 22:00", "a"), intent("11-20 22:01", "b", priority=4))[
        2:
    ] == [
        "11-21 08:00 b dispatched sms",
        "11-21 08:00 a held sms [apart hold 11-21 10:00] > 11-21 10:00",
        "11-21 10:00 a dispatched sms",
    ]


@by_both
def test_wake_ups_go_by_time_then_by_key_and_before_an_arrival(told: Told):
    assert told(
        NIGHT,
        intent("11-20 22:00", "a", customer="z"),
        intent("11-20 22:00", "b", customer="y"),
        intent("11-20 22:00", "c", customer="x", timezone="Asia/Shanghai"),
        intent("11-21 08:00", "d", customer="a"),
    )[3:] == [
        "11-21 00:00 c dispatched sms",
        "11-21 08:00 b dispatched sms",
        "11-21 08:00 a dispatched sms",
        "11-21 08:00 d dispatched sms",
    ]


# ---- identity, collapse, combined sends, commands, receipts ------------------------------------


@by_both
def test_ids_belong_to_an_app_and_a_customer(told: Told):
    lines = told(
        NIGHT,
        intent("11-20 22:00", "a"),
        intent("11-20 22:01", "a", to={"sms": "+9"}),
        intent("11-20 22:01", "a", app="bot"),
        intent("11-20 22:01", "a", customer="d"),
    )
    assert [line.split()[3] for line in lines[:4]] == ["held", "duplicate", "held", "held"]


@by_both
def test_collapse_key_replaces_what_is_held_and_only_that(told: Told):
    assert told(
        NIGHT,
        intent("11-20 20:00", "z", collapse_key="k"),
        intent("11-20 22:00", "a", collapse_key="k"),
        intent("11-20 22:01", "b", collapse_key="other"),
        intent("11-20 22:02", "c", collapse_key="k", app="bot"),
        intent("11-20 22:03", "a", collapse_key="k"),
        intent("11-20 22:04", "d", "nothing", collapse_key="k"),
        intent("11-20 22:05", "e", collapse_key="k", expires_at="11-20 22:05"),
    )[4:7] == [
        "11-20 22:03 a duplicate",
        "11-20 22:04 d rejected",
        "11-20 22:05 a superseded",
    ]


@by_both
def test_combined_send_is_decided_for_each_channel(told: Told):
    assert told(
        NIGHT + GAP_2H,
        intent("11-20 20:00", "a", reach="all", route=["push", "wecom", "sms"], to={"sms": "s"}),
        intent("11-20 20:01", "b", reach="all", route=["sms", "push"], collapse_key="k"),
        intent("11-20 20:02", "c", reach="all", route=["sms", "push"], collapse_key="k"),
        receipt("11-20 20:03", "a", "read", attempt=1),
        receipt("11-20 20:04", "a", "read", attempt=3),
        command("11-20 20:05", "profile.set", to={"push": "p"}),
        command("11-20 20:06", "cancel", intent="c"),
        intent("11-20 20:07", "d", reach="all", route=["sms", "push"], expires_at="11-20 20:00"),
        intent("11-20 20:08", "d", reach="all", route=["sms", "push"]),
    ) == [
        "11-20 20:00 a suppressed push [address next never]",
        "11-20 20:00 a suppressed wecom [address next never]",
        "11-20 20:00 a dispatched sms as shop:a:3",
        "11-20 20:01 b held sms [apart hold 11-20 22:00] > 11-21 08:00",
        "11-20 20:01 b suppressed push [address next never, apart hold 11-20 22:00]",
        "11-20 20:02 b superseded sms",
        "11-20 20:02 c held sms [apart hold 11-20 22:00] > 11-21 08:00",
        "11-20 20:02 c suppressed push [address next never, apart hold 11-20 22:00]",
        "11-20 20:04 a read sms as shop:a:3",
        "11-20 20:05 c held sms [apart hold 11-20 22:00] > 11-21 08:00",
        "11-20 20:06 c cancelled sms",
        "11-20 20:07 d expired sms",
        "11-20 20:07 d expired push",
        "11-20 20:08 d duplicate",
    ]


@by_both
def test_delivery_ids_count_the_channels_of_a_combined_send(told: Told):
    assert told(
        "",
        intent("11-20 20:00", "a", "wide", reach="all", to=ALL_TO),
        intent("11-20 20:01", "b", "wide", route=["sms", "push"], to={}),
        intent("11-20 20:02", "c", "wide", reach="all", content={"push": {}, "sms": {}}),
    ) == [
        "11-20 20:00 a dispatched wecom",
        "11-20 20:00 a dispatched push as shop:a:2",
        "11-20 20:00 a dispatched sms as shop:a:3",
        "11-20 20:01 b dispatched sms",
        "11-20 20:02 c dispatched push",
        "11-20 20:02 c dispatched sms as shop:c:2",
    ]


@by_both
def test_only_a_command_that_changes_something_decides_again(told: Told):
    assert told(
        NIGHT,
        intent("11-20 22:00", "a", timezone="UTC"),
        command("11-20 22:01", "profile.set", timezone="UTC", to={"sms": "+1"}),
        command("11-20 22:02", "profile.set", owner="ann"),
        command("11-20 22:03", "cancel", intent="b"),
        command("11-20 22:04", "cancel", intent="a", app="bot"),
        intent("11-20 22:05", "z", "otp", timezone="America/New_York"),
        command("11-20 22:06", "profile.set", timezone="Asia/Shanghai"),
        command("11-20 22:07", "profile.set", timezone="America/New_York"),
    ) == [
        "11-20 22:00 a held sms [night hold 11-21 08:00] > 11-21 08:00",
        "11-20 22:05 z dispatched sms",
        "11-20 22:06 a held sms [night hold 11-21 00:00] > 11-21 00:00",
        "11-20 22:07 a dispatched sms",
    ]


@by_both
def test_forget_erases_the_person_and_keeps_consent_counts_and_ids(told: Told):
    assert told(
        NIGHT + cap(1, "24h") + TALK,
        intent("11-20 20:00", "z", timezone="Asia/Shanghai"),
        intent("11-20 20:00", "a", "otp", app="bot"),
        command("11-20 20:00", "dnd.set", scope="channel:push"),
        command("11-20 20:00", "takeover", agent="ann"),
        inbound("11-20 20:00"),
        intent("11-20 20:01", "b"),
        command("11-20 20:02", "forget"),
        intent("11-20 20:03", "a", "otp", app="bot"),
        intent("11-20 20:04", "c", route=["push", "sms"], to={}),
        intent("11-20 20:05", "d", route=["push", "sms"]),
    ) == [
        "11-20 20:00 z held sms [night hold 11-21 00:00] > 11-21 00:00",
        "11-20 20:00 a dispatched sms",
        "11-20 20:00 z held sms [cap hold 11-21 20:00, night hold 11-21 00:00] > 11-22 00:00",
        "11-20 20:00 z held sms [cap hold 11-21 20:00, night hold 11-21 00:00, talk hold never]",
        "11-20 20:01 b held sms [cap hold 11-21 20:00, night hold 11-21 00:00, talk hold never]",
        "11-20 20:02 z cancelled",
        "11-20 20:02 b cancelled",
        "11-20 20:03 a duplicate",
        "11-20 20:04 c suppressed [address next never, dnd:channel:push next never,"
        " cap hold 11-21 20:00]",
        "11-20 20:05 d held sms [address next never, dnd:channel:push next never,"
        " cap hold 11-21 20:00] > 11-21 20:00",
        "11-21 20:00 d dispatched sms [address next never, dnd:channel:push next never]",
    ]


@by_both
def test_receipts_only_go_forward_and_name_a_delivery(told: Told):
    assert told(
        "",
        intent("11-20 20:00", "a"),
        receipt("11-20 20:01", "a", "sent"),
        receipt("11-20 20:02", "a", "unknown"),
        receipt("11-20 20:03", "a", "sent"),
        receipt("11-20 20:04", "a", "read"),
        receipt("11-20 20:05", "a", "delivered"),
        receipt("11-20 20:06", "b", "sent"),
        receipt("11-20 20:06", "a", "sent", attempt=2),
        receipt("11-20 20:06", "a", "sent") | {"customer": "d"},
    )[1:] == ["11-20 20:01 a sent sms", "11-20 20:04 a read sms"]
