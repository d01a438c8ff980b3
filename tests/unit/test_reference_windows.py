"""Windows and words, computed by hand: they hold the reference and the product alike."""

from __future__ import annotations

import pytest

from tests.support.told import (
    ALL_TO,
    CATEGORIES,
    NIGHT,
    TALK,
    Told,
    by_both,
    cap,
    command,
    event,
    intent,
    receipt,
)


def window(on: str, more: str = "") -> str:
    return f'[[windows]]\nname = "win"\nchannels = ["wecom"]\non = "{on}"\n{more}\n'


def words(*listed: str, more: str = 'on = "drop"', name: str = "bad") -> str:
    return f'[[words]]\nname = "{name}"\nwords = {list(listed)}\n{more}\n'


def wrote(at: str, channel: str = "wecom", account: str = "wecom") -> dict[str, object]:
    return event("inbound", at, id="m", channel=channel, account=account, content={"text": "hi"})


def wecom(at: str, name: str, category: str = "note", **fields: object) -> dict[str, object]:
    return intent(at, name, category, **({"route": ["wecom"], "to": ALL_TO} | fields))


# ---- windows: open and closed --------------------------------------------------------------------


@by_both
def test_a_window_counts_from_the_last_message_and_closes_to_the_millisecond(told: Told):
    limits = 'limit = 2\nwithin = "48h"'
    assert told(
        window("hold", limits),
        wecom("11-20 08:00", "a"),
        wrote("11-20 09:00"),
        wecom("11-20 10:00", "b"),
        wecom("11-20 10:00", "c"),
        wrote("11-20 11:00"),
        wecom("11-22 10:59:59.999", "d"),
        wecom("11-22 11:00", "e", expires_at="11-22 12:00"),
    ) == [
        "11-20 08:00 a held wecom [win hold never]",
        "11-20 09:00 a dispatched wecom",
        "11-20 10:00 b dispatched wecom",
        "11-20 10:00 c held wecom [win hold never]",
        "11-20 11:00 c dispatched wecom",
        "11-22 10:59:59.999 d dispatched wecom",
        "11-22 11:00 e held wecom [win hold never]",
        "11-22 12:00 e expired",
    ]


@by_both
def test_a_window_belongs_to_a_channel_and_an_account_and_counts_whatever_goes_there(told: Told):
    assert told(
        window("hold", 'limit = 1\ncategories = ["note"]'),
        wrote("11-20 09:00", account="ann"),
        wrote("11-20 09:00", "sms"),
        wecom("11-20 10:00", "a"),
        wecom("11-20 10:00", "b", "ad", account="ann"),
        receipt("11-20 10:01", "b", "failed"),
        wecom("11-20 10:02", "c", account="ann"),
        wrote("11-20 11:00"),
        wrote("11-20 12:00", account="ann"),
    ) == [
        "11-20 10:00 a held wecom [win hold never]",
        "11-20 10:00 b dispatched wecom",
        "11-20 10:01 b failed wecom",
        "11-20 10:02 c held wecom [win hold never]",
        "11-20 11:00 a dispatched wecom",
        "11-20 12:00 c dispatched wecom",
    ]


@by_both
def test_a_category_may_bypass_windows_and_what_it_sends_still_counts(told: Told):
    head = CATEGORIES.replace('"dnd"]', '"dnd", "window"]')
    assert told(
        window("hold", "limit = 1"),
        wecom("11-20 08:00", "a", "otp"),
        wrote("11-20 09:00"),
        wecom("11-20 10:00", "b", "otp"),
        wecom("11-20 10:00", "c"),
        head=head,
    ) == [
        "11-20 08:00 a dispatched wecom",
        "11-20 10:00 b dispatched wecom",
        "11-20 10:00 c held wecom [win hold never]",
        "11-23 10:00 c expired",
    ]


@by_both
def test_forgetting_a_customer_closes_her_windows(told: Told):
    assert told(
        window("hold"),
        wrote("11-20 08:00"),
        command("11-20 09:00", "forget"),
        wecom("11-20 10:00", "a", expires_at="11-20 11:00"),
    ) == ["11-20 10:00 a held wecom [win hold never]", "11-20 11:00 a expired"]


# ---- windows: the rest of the route --------------------------------------------------------------


@by_both
def test_a_closed_window_lets_the_next_channel_have_it(told: Told):
    assert told(window("next"), wecom("11-20 08:00", "a", route=["wecom", "sms"])) == [
        "11-20 08:00 a dispatched sms [win next never]"
    ]


@by_both
def test_with_no_other_channel_it_is_held_for_the_one_that_only_a_window_closes(told: Told):
    assert told(
        window("next", 'channels = ["wecom", "push"]').replace('channels = ["wecom"]\n', ""),
        wecom("11-20 08:00", "a", route=["wecom", "push"], to={"push": "p"}),
        wrote("11-20 09:00"),
        wrote("11-20 10:00", "push", "push"),
    ) == [
        "11-20 08:00 a held push [address next never, win next never]",
        "11-20 09:00 a held push [address next never, win next never]",
        "11-20 10:00 a dispatched push [address next never]",
    ]


@by_both
def test_without_an_address_no_message_of_hers_would_help(told: Told):
    assert told(
        window("next"), wecom("11-20 08:00", "a", route=["wecom", "sms"], to={"push": "p"})
    ) == ["11-20 08:00 a suppressed [address next never, win next never]"]


@by_both
def test_a_channel_with_a_time_is_waited_for_until_she_writes(told: Told):
    assert told(
        window("next") + cap(1, "24h", 'channels = ["sms"]', on="next"),
        intent("11-20 08:00", "x", "note"),
        wecom("11-20 09:00", "a", route=["wecom", "sms"]),
        wrote("11-20 10:00"),
    )[1:] == [
        "11-20 09:00 a held sms [win next never, cap next 11-21 08:00] > 11-21 08:00",
        "11-20 10:00 a dispatched wecom",
    ]


# ---- windows: what her message decides again -----------------------------------------------------


@by_both
def test_her_message_releases_in_the_order_of_a_wake_up_as_many_as_the_window_takes(told: Told):
    assert told(
        window("hold", "limit = 2"),
        wecom("11-20 08:00", "a"),
        wecom("11-20 08:01", "b", expires_at="11-21 08:00"),
        wecom("11-20 08:02", "c", priority=9),
        wrote("11-20 09:00"),
        wrote("11-20 10:00"),
    )[3:] == [
        "11-20 09:00 c dispatched wecom",
        "11-20 09:00 b dispatched wecom",
        "11-20 09:00 a held wecom [win hold never]",
        "11-20 10:00 a dispatched wecom",
    ]


@by_both
def test_a_window_that_closes_before_the_night_ends_waits_for_a_message_and_not_for_the_morning(
    told: Told,
):
    """No window blocks it when it is held, nor when she writes: it would by 08:00."""
    assert told(
        window("hold", 'within = "10h"') + NIGHT,
        wrote("11-20 21:00"),
        wecom("11-20 22:00", "a", "ad"),
        wrote("11-21 06:00"),
    ) == [
        "11-20 22:00 a held wecom [night hold 11-21 08:00]",
        "11-21 06:00 a held wecom [night hold 11-21 08:00] > 11-21 08:00",
        "11-21 08:00 a dispatched wecom",
    ]


@by_both
def test_what_no_window_delays_is_not_decided_again(told: Told):
    assert told(
        window("hold") + NIGHT,
        wrote("11-20 22:00"),
        wecom("11-20 22:00", "a", "ad"),
        intent("11-20 22:00", "b", "ad"),
        wrote("11-20 23:00"),
        wrote("11-20 23:00", "sms", "sms"),
        command("11-20 23:30", "cancel", intent="a"),
        command("11-20 23:30", "cancel", intent="b"),
    ) == [
        "11-20 22:00 a held wecom [night hold 11-21 08:00] > 11-21 08:00",
        "11-20 22:00 b held sms [night hold 11-21 08:00] > 11-21 08:00",
        "11-20 23:30 a cancelled",
        "11-20 23:30 b cancelled",
    ]


@by_both
def test_waiting_for_another_channel_it_may_go_sooner_where_the_window_opens_again(told: Told):
    rules = window("next", 'within = "10h"') + NIGHT
    rules += NIGHT.replace("night", "sms-night").replace("08:00", "09:00") + 'channels = ["sms"]\n'
    assert told(
        rules,
        wrote("11-20 21:00"),
        wecom("11-20 22:00", "a", "ad", route=["wecom", "sms"]),
        wrote("11-21 06:00"),
    ) == [
        "11-20 22:00 a held wecom [night hold 11-21 08:00] > 11-21 09:00",
        "11-21 06:00 a held wecom [night hold 11-21 08:00] > 11-21 08:00",
        "11-21 08:00 a dispatched wecom",
    ]


@by_both
def test_a_takeover_holds_what_a_window_would_let_go(told: Told):
    assert told(
        window("hold") + TALK,
        command("11-20 08:00", "takeover", agent="ann"),
        wecom("11-20 08:01", "a"),
        wrote("11-20 09:00"),
        command("11-20 10:00", "release"),
    ) == [
        "11-20 08:01 a held wecom [talk hold never, win hold never]",
        "11-20 09:00 a held wecom [talk hold never]",
        "11-20 10:00 a dispatched wecom",
    ]


@by_both
def test_a_fallback_waits_for_a_window_like_anything_else(told: Told):
    assert told(
        window("hold"),
        wecom("11-20 08:00", "a", route=["sms", "wecom"]),
        receipt("11-20 08:01", "a", "failed"),
        wrote("11-20 09:00"),
    ) == [
        "11-20 08:00 a dispatched sms",
        "11-20 08:01 a held wecom [win hold never] (sms failed: provider)",
        "11-20 09:00 a dispatched wecom as shop:a:2 (sms failed: provider)",
    ]


# ---- words ---------------------------------------------------------------------------------------


@by_both
def test_words_suppress_at_once_and_no_category_is_exempt(told: Told):
    rules = words("赌博", "Casino") + words("x", name="other", more='alert = "shop"') + NIGHT
    assert told(
        rules,
        intent("11-20 22:00", "a", content={"text": "来 赌\u200b-博 x"}),
        intent("11-20 22:00", "b", "otp", content={"text": "ＣＡＳＩＮＯ!"}),
        intent("11-20 22:00", "c", "note", content={"text": "x"}, not_before="11-21 22:00"),
        intent("11-20 22:00", "d", content={"text": "casino"}, not_before="11-21 22:00"),
        intent("11-20 22:00", "e", content={"text": "casino"}, expires_at="11-20 22:00"),
        command("11-20 23:00", "cancel", intent="c"),
    ) == [
        "11-20 22:00 a suppressed [bad drop never]",
        "11-20 22:00 b suppressed [bad drop never]",
        "11-20 22:00 c held [not-before hold 11-21 22:00] > 11-21 22:00",
        "11-20 22:00 d suppressed [bad drop never]",
        "11-20 22:00 e expired",
        "11-20 23:00 c cancelled",
    ]


SMS_ONLY = words("casino", more='on = "drop"\nchannels = ["sms"]')
SMS_SAYS_IT = {"sms": {"text": "casino"}, "wecom": {"text": "hello", "media_id": "casino"}}


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({"route": ["wecom"]}, ["dispatched wecom"]),
        ({"route": ["wecom", "sms"]}, ["suppressed [bad drop never]"]),
        (
            {"route": ["wecom", "sms"], "reach": "all"},
            ["dispatched wecom", "suppressed sms [bad drop never]"],
        ),
        ({"route": ["wecom"], "content": {"text": "casino"}}, ["dispatched wecom"]),
        (
            {"route": ["wecom", "sms"], "content": {"*": {"rows": [{"a": "cas"}, {"b": "ino"}]}}},
            ["dispatched wecom"],
        ),
        (
            {"route": ["sms"], "content": {"*": {"rows": [{"a": 1}, {"b": ["no CAS-ino!"]}]}}},
            ["suppressed [bad drop never]"],
        ),
    ],
)
@by_both
def test_words_are_looked_for_in_what_each_channel_of_the_route_would_say(
    told: Told, fields: dict[str, object], lines: list[str]
):
    given = wecom("11-20 08:00", "a", **({"content": SMS_SAYS_IT} | fields))
    said = [line.removeprefix("11-20 08:00 a ") for line in told(SMS_ONLY, given)]
    assert [line.partition(" as ")[0] for line in said] == lines


@by_both
def test_all_rules_of_words_are_told_in_the_documents_order(told: Told):
    rules = words("b") + words("a", name="worse") + words("c", name="none")
    assert told(rules, intent("11-20 08:00", "a", content={"text": "a b"})) == [
        "11-20 08:00 a suppressed [bad drop never, worse drop never]"
    ]
