"""The policy document is strict: a typo must not switch a cap off. docs/policy.md, "Document"."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import UNSET

from hub import limits
from hub.contract.subjects import CHANNELS
from hub.errors import PolicyError
from hub.policy.document import (
    convert_policy,
    date_ordinals,
    duration_ms,
    load_policy,
    parse_policy,
    policy_version,
    time_of_day_ms,
)

HEAD = """
version = 1
timezone = "Asia/Shanghai"
"""
MARKETING = """
[categories.marketing]
route = ["wecom", "sms"]
"""
BASE = HEAD + MARKETING
CAP = """
[[caps]]
name = "three-a-day"
limit = 3
window = "24h"
on = "hold"
"""
GAP = """
[[gaps]]
name = "apart"
min = "2h"
on = "hold"
"""
QUIET = """
[[quiet]]
name = "night"
from = "21:00"
to = "08:00"
on = "hold"
"""
DATES = """
[[quiet]]
name = "holiday"
dates = ["2026-10-01/2026-10-07"]
on = "drop"
"""
PRESENCE = """
[[presence]]
name = "talking"
within = "30m"
on = "hold"
"""
RULES = {"caps": CAP, "gaps": GAP, "quiet": QUIET, "presence": PRESENCE}

EXAMPLE = """
version  = 1
timezone = "Asia/Shanghai"            # for customers whose zone is unknown
hold_max = "72h"                      # an intent without expires_at expires this long after it was accepted

[categories.marketing]
route    = ["wecom", "push", "sms"]
priority = 3
[categories.service]
route    = ["wecom", "sms"]
priority = 6
fallback_after = "10m"                # optional, at most 7d: without `delivered` for so long, the next channel is tried
[categories.otp]
route    = ["sms"]
priority = 9
bypass   = ["cap", "gap", "quiet", "presence", "dnd"]

[[caps]]
name       = "three-a-day"
categories = ["marketing"]            # each of categories, channels, apps: omitted means any
limit      = 3
window     = "24h"                    # rolling: Nm, Nh, Nd; or calendar in the customer's zone: "day" "week" "month"
per        = "customer"               # or "channel": counted for each channel separately; or "account"
on         = "hold"                   # hold | drop | next
reserve    = { slots = 1, priority = 8 }   # the last slot is kept for priority 8 and above

[[gaps]]
name = "two-hours-apart"
categories = ["marketing"]
min  = "2h"
on   = "hold"

[[quiet]]
name = "night"
categories = ["marketing"]
from = "21:00"                        # local to the customer; wraps midnight when from > to
to   = "08:00"
days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]   # optional: the local day on which the window starts
on   = "hold"
spread = "30m"                        # release each customer at a fixed point of the half hour after the window

[[quiet]]
name  = "national-day"
dates = ["2026-10-01/2026-10-07"]     # whole local days instead of from and to
on    = "drop"

[[presence]]
name   = "in-conversation"            # quiet while the customer is talking with us
categories = ["marketing"]
within = "30m"
on     = "hold"
"""  # noqa: E501 - the rules of docs/policy.md to the letter


def error_of(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    return caught.value


# ---- what is valid ---------------------------------------------------------------------------


def test_the_example_of_the_manual_is_valid() -> None:
    document = parse_policy(EXAMPLE)
    assert list(document.categories) == ["marketing", "service", "otp"]
    cap = document.caps[0]
    assert cap.reserve is not None
    assert (cap.limit, cap.window, cap.per, cap.reserve.slots) == (3, "24h", "customer", 1)
    assert [rule.name for rule in document.quiet] == ["night", "national-day"]


def test_defaults() -> None:
    document = parse_policy(BASE + CAP)
    assert document.hold_max == "72h"
    category, cap = document.categories["marketing"], document.caps[0]
    assert (category.priority, category.bypass, category.fallback_after) == (5, [], UNSET)
    assert (cap.per, cap.reserve, cap.categories, cap.channels, cap.apps) == (
        "customer", None, None, None, None,
    )  # fmt: skip


GOOD = [
    BASE,
    BASE + CAP + GAP + QUIET + DATES + PRESENCE,
    BASE + CAP.replace("24h", "day"),
    BASE + CAP.replace("24h", "week"),
    BASE + CAP.replace("24h", "month"),
    BASE + CAP.replace("24h", "366d"),
    BASE + CAP.replace("= 3", "= 1000") + 'per = "account"',
    BASE + CAP + 'categories = ["marketing"]\nchannels = ["push"]\napps = ["shop-2"]',
    BASE + CAP + "reserve = { slots = 2, priority = 0 }",
    BASE + QUIET.replace("21:00", "00:00").replace("08:00", "23:59"),
    BASE + QUIET + 'days = ["sun"]\nspread = "1ms"',
    BASE + DATES.replace("2026-10-01/2026-10-07", "2028-02-29"),
    HEAD + '[categories."优惠 券"]\nroute = ["sms"]',
    BASE + 'fallback_after = "1ms"',
    BASE + 'fallback_after = "7d"',
]


@pytest.mark.parametrize("text", GOOD)
def test_valid_documents(text: str) -> None:
    parse_policy(text)


# ---- docs/policy.md, "Strict:", sentence by sentence -----------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("colour = 1\n" + BASE, "colour"),
        ("cap = []\n" + BASE, "cap"),
        (BASE + "prio = 1", "categories.marketing.prio"),
        *((BASE + rule + "limt = 1", f"{kind}[0].limt") for kind, rule in RULES.items()),
        (BASE + CAP + "reserve = { slots = 1, priority = 8, x = 1 }", "caps[0].reserve.x"),
        (BASE + CAP + '"a b" = 1', 'caps[0]."a b"'),
        (BASE + '[categories."a.b"]\nroute=["sms"]\nx=1', 'categories."a.b".x'),
    ],
)
def test_an_unknown_key(text: str, place: str) -> None:
    error = error_of(text)
    assert error.facts["place"] == place
    assert "unknown key" in error.message
    assert "; allowed: " in error.message


@pytest.mark.parametrize(
    ("text", "hint", "allowed"),
    [
        (BASE + CAP + "limits = 3", "limit", "name, categories, channels, apps, on, limit, window"),
        (BASE + "bypas = []", "bypass", "route, priority, bypass"),
        ("hold = 1\n" + BASE, "hold_max", "version, timezone, categories, hold_max, caps, gaps"),
        (BASE + QUIET + "day = []", "days", "name, categories, channels, apps, on, from, to, days"),
    ],
)
def test_an_unknown_key_is_told_what_it_may_have_meant(text: str, hint: str, allowed: str) -> None:
    message = error_of(text).message
    assert f"did you mean {hint}?" in message
    assert f"; allowed: {allowed}" in message


@pytest.mark.parametrize(("kind", "rule"), RULES.items())
def test_a_rule_without_a_name(kind: str, rule: str) -> None:
    nameless = "\n".join(line for line in rule.splitlines() if not line.startswith("name"))
    error = error_of(BASE + nameless)
    assert error.facts["place"] == f"{kind}[0].name"
    assert error.message == f"{kind}[0].name: is missing"
    assert error_of(BASE + rule + rule.replace("name", "#")).facts["place"] == f"{kind}[1].name"


@pytest.mark.parametrize("first", RULES)
@pytest.mark.parametrize("second", RULES)
def test_two_rules_of_one_name(first: str, second: str) -> None:
    one, other = (
        "\n".join('name = "x"' if line.startswith("name") else line for line in rule.splitlines())
        for rule in (RULES[first], RULES[second])
    )
    error = error_of(BASE + one + "\n" + other)
    places = [f"{first}[0]", f"{second}[{1 if first == second else 0}]"]
    order = list(RULES)
    if order.index(second) < order.index(first):
        places.reverse()
    assert error.facts["place"] == f"{places[1]}.name"
    assert error.message.endswith(f"'x' is already the name of {places[0]}")


@pytest.mark.parametrize("limit", ["0", "-1", "1001", '"3"', "3.0", "true"])
def test_a_limit_below_one_or_no_number(limit: str) -> None:
    error = error_of(BASE + CAP.replace("= 3", f"= {limit}"))
    assert error.facts["place"] == "caps[0].limit"
    assert error.message.startswith("caps[0].limit (three-a-day): expected `int`")


@pytest.mark.parametrize(
    ("reserve", "place"),
    [
        ("{ slots = 3, priority = 8 }", ".slots"),
        ("{ slots = 4, priority = 8 }", ".slots"),
        ("{ slots = 0, priority = 8 }", ".slots"),
        ("{ slots = 1 }", ".priority"),
        ("{ slots = 1, priority = 10 }", ".priority"),
        ("1", ""),
    ],
)
def test_a_reserve_not_below_the_limit_or_incomplete(reserve: str, place: str) -> None:
    error = error_of(BASE + CAP + f"reserve = {reserve}")
    assert error.facts["place"] == f"caps[0].reserve{place}"


@pytest.mark.parametrize("zone", ["Asia/Bejing", "", "localtime", "UTC+8", "asia/shanghai", "CST"])
def test_a_zone_that_does_not_exist(zone: str) -> None:
    error = error_of(BASE.replace("Asia/Shanghai", zone))
    assert error.facts["place"] == "timezone"
    assert "is not an IANA zone" in error.message


def test_an_empty_window() -> None:
    error = error_of(BASE + QUIET.replace("08:00", "21:00"))
    assert error.facts["place"] == "quiet[0]"
    assert error.message == "quiet[0] (night): from and to are the same: an empty window"


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ('["wecom", "email"]', "unknown channel 'email'; known: " + ", ".join(CHANNELS)),
        ('["SMS"]', "unknown channel 'SMS'"),
        ('["sms", "sms"]', "names a channel twice"),
        ("[]", "at least one channel is needed"),
        ('"sms"', "expected `array`, got `str`"),
    ],
)
def test_a_route_with_an_unknown_channel(route: str, problem: str) -> None:
    error = error_of(BASE.replace('["wecom", "sms"]', route))
    assert error.facts["place"] == "categories.marketing.route"
    assert problem in error.message


# ---- what else is wrong or contradicts itself ------------------------------------------------

BAD = [
    ("", "version", "is missing"),
    (BASE.replace("version = 1", "version = 2"), "version", "invalid enum value 2; allowed: 1"),
    (BASE.replace("version = 1", "version = true"), "version", "expected `int`, got `bool`"),
    ("version = 1\n" + MARKETING, "timezone", "is missing"),
    (HEAD, "categories", "is missing"),
    (HEAD + "[categories]", "categories", "at least one category is needed"),
    (HEAD + "[categories.x]", "categories.x.route", "is missing"),
    (BASE + "[categories.x]\n", "categories.x.route", "is missing"),
    (HEAD + "categories = 1", "categories", "expected `object`, got `int`"),
    (HEAD + "[categories]\nx = 1", "categories.x", "expected `object`, got `int`"),
    (BASE + '[categories.""]\nroute=["sms"]', "categories", "has 1 to 64 characters"),
    (BASE + f'[categories.{"x" * 65}]\nroute=["sms"]', "categories", "has 1 to 64 characters"),
    (BASE + '[categories."a\\nb"]\nroute=["sms"]', 'categories."a\\nb"', "one line of printable"),
    (BASE + "priority = 10", "categories.marketing.priority", "expected `int` <= 9"),
    (BASE + 'bypass = ["caps"]', "categories.marketing.bypass[0]", "allowed: cap, gap, quiet"),
    (BASE + 'bypass = ["cap", "cap"]', "categories.marketing.bypass", "names a kind twice"),
    (BASE + 'bypass = "cap"', "categories.marketing.bypass", "expected `array`, got `str`"),
    (BASE + '[categories.x]\nroute=["fax"]', "categories.x.route", "unknown channel 'fax'"),
    (BASE + "fallback_after = 10", "categories.marketing.fallback_after", "expected `str`"),
    (BASE + 'fallback_after = "soon"', "categories.marketing.fallback_after", "not a duration"),
    (BASE + 'fallback_after = "169h"', "categories.marketing.fallback_after", "longer than 7d"),
    (BASE + 'fall_back = "1h"', "categories.marketing.fall_back", "unknown key"),
    ('hold_max = "forever"\n' + BASE, "hold_max", "'forever' is not a duration"),
    ('hold_max = "367d"\n' + BASE, "hold_max", "longer than 366d"),
    ("hold_max = 72\n" + BASE, "hold_max", "expected `str`, got `int`"),
    ("caps = 5\n" + BASE, "caps", "expected `array`, got `int`"),
    ("caps = [5]\n" + BASE, "caps[0]", "expected `object`, got `int`"),
    (BASE + "[caps]\nlimit = 1", "caps", "expected `array`, got `object`"),
    (BASE + CAP.replace("24h", "0h"), "caps[0].window", "'0h' is not a duration"),
    (BASE + CAP.replace("24h", "24H"), "caps[0].window", "write a number and a unit"),
    (BASE + CAP.replace("24h", "1.5h"), "caps[0].window", "is not a duration"),
    (BASE + CAP.replace("24h", "year"), "caps[0].window", "is not a duration"),
    (BASE + CAP.replace("24h", "367d"), "caps[0].window", "longer than 366d"),
    (BASE + CAP.replace('"24h"', "24"), "caps[0].window", "expected `str`, got `int`"),
    (BASE + CAP.replace('window = "24h"', ""), "caps[0].window", "is missing"),
    (BASE + CAP.replace('on = "hold"', ""), "caps[0].on", "is missing"),
    (BASE + CAP.replace("hold", "skip"), "caps[0].on", "allowed: hold, drop, next"),
    (BASE + CAP + 'per = "app"', "caps[0].per", "allowed: customer, channel, account"),
    (BASE + CAP.replace("three-a-day", ""), "caps[0].name", "length >= 1"),
    (BASE + CAP.replace("three-a-day", "a\\tb"), "caps[0].name", "one line of printable"),
    (BASE + CAP + "categories = []", "caps[0].categories", "would match nothing; omit it"),
    (BASE + CAP + "channels = []", "caps[0].channels", "would match nothing; omit it"),
    (BASE + CAP + "apps = []", "caps[0].apps", "would match nothing; omit it"),
    (BASE + CAP + 'categories = ["promo"]', "caps[0].categories", "known: marketing"),
    (BASE + CAP + 'channels = ["fax"]', "caps[0].channels", "known: wecom, sms, push"),
    (BASE + CAP + 'apps = ["Shop"]', "caps[0].apps", "'Shop' cannot be an app"),
    (BASE + GAP.replace("2h", "2"), "gaps[0].min", "'2' is not a duration"),
    (BASE + PRESENCE.replace("30m", "0m"), "presence[0].within", "'0m' is not a duration"),
    (BASE + QUIET.replace("21:00", "24:00"), "quiet[0].from", "write HH:MM, 00:00 to 23:59"),
    (BASE + QUIET.replace("08:00", "8:00"), "quiet[0].to", "write HH:MM, 00:00 to 23:59"),
    (BASE + QUIET.replace('"21:00"', "21:00:00"), "quiet[0].from", "write it in quotes"),
    (BASE + QUIET.replace('from = "21:00"', ""), "quiet[0]", "needs from and to, or dates"),
    (BASE + QUIET.replace('to = "08:00"', ""), "quiet[0]", "needs from and to, or dates"),
    (BASE + QUIET + 'days = ["mo"]', "quiet[0].days[0]", "allowed: mon, tue, wed, thu"),
    (BASE + QUIET + "days = []", "quiet[0].days", "at least one day, each once"),
    (BASE + QUIET + 'days = ["mon", "mon"]', "quiet[0].days", "at least one day, each once"),
    (BASE + QUIET + 'spread = "a while"', "quiet[0].spread", "is not a duration"),
    (BASE + DATES + 'spread = "30m"', "quiet[0].spread", "contradicts on = drop"),
    (BASE + DATES + 'from = "21:00"', "quiet[0].from", "either dates or a daily window"),
    (BASE + DATES + 'to = "21:00"', "quiet[0].to", "either dates or a daily window"),
    (BASE + DATES + 'days = ["mon"]', "quiet[0].days", "either dates or a daily window"),
    (BASE + QUIET + 'dates = ["2026-10-01"]', "quiet[0].from", "either dates or a daily window"),
    (BASE + DATES.replace('"2026-10-01/2026-10-07"', ""), "quiet[0].dates", "is empty"),
    (BASE + DATES.replace("10-07", "09-30"), "quiet[0].dates[0]", "ends before it begins"),
    (BASE + DATES.replace("10-07", "10-32"), "quiet[0].dates[0]", "day is out of range"),
    (BASE + DATES.replace("/2026", "/2028"), "quiet[0].dates[0]", "longer than 366 days"),
    (BASE + DATES.replace("/", " to "), "quiet[0].dates[0]", "write 2026-10-01 or 2026-10-01/"),
    (BASE + DATES.replace('"2026-10-01/2026-10-07"', "2026-10-01"), "quiet[0].dates[0]",
     "expected `str`, got `date`; write it in quotes"),
    (BASE + CAP + GAP + QUIET + "min = 1", "quiet[0].min", "unknown key"),
    ("version = 1\nversion = 1", "", "not TOML: Cannot overwrite a value"),
    (BASE + "limit = ", "", "not TOML: Invalid value"),
    ("x = " + "[" * 5000, "", "not TOML: nested too deeply"),
    ("x = " + "9" * 5000, "", "not TOML"),
    (BASE + CAP.replace("= 3", "= " + "9" * 30), "caps[0].limit", "expected `int`"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "problem"), BAD)
def test_the_error_names_the_place_and_what_is_allowed(text: str, place: str, problem: str) -> None:
    error = error_of(text)
    assert error.facts["place"] == place
    assert problem in error.message
    assert error.message.startswith(place)
    assert "\n" not in error.message


def test_the_error_names_the_rule_too() -> None:
    error = error_of(BASE + CAP + CAP.replace("three-a-day", "weekly").replace("24h", "7 days"))
    assert error.message.startswith("caps[1].window (weekly): '7 days' is not a duration")


def test_the_first_bad_category_is_named() -> None:
    """Not any with the same mistake further down, and not a good one before it."""
    text = BASE + "[categories.b]\nroute = 1\n[categories.c]\nroute = 1"
    assert error_of(text).facts["place"] == "categories.b.route"


def test_too_many_rules() -> None:
    rules = "".join(CAP.replace("three-a-day", f"r{n}") for n in range(limits.POLICY_RULES + 1))
    assert error_of(BASE + rules).message == "257 rules, at most 256"


def test_a_table_may_come_from_elsewhere() -> None:
    with pytest.raises(PolicyError) as caught:
        convert_policy({"version": 1, "timezone": "UTC", "categories": {"a": {"route": ["tv"]}}})
    assert caught.value.facts["place"] == "categories.a.route"


# ---- files -----------------------------------------------------------------------------------


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(EXAMPLE, encoding="utf-8")
    assert policy_version(load_policy(file)) == policy_version(parse_policy(EXAMPLE))
    file.write_text(EXAMPLE, encoding="utf-8-sig")
    assert policy_version(load_policy(file)) == policy_version(parse_policy(EXAMPLE))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version = 2", "version: invalid enum value 2"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"#" * (limits.POLICY_BYTES + 1), "larger than 1048576 bytes"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_the_error_names_the_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "policy.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PolicyError) as caught:
        load_policy(file)
    assert caught.value.message.startswith(f"{file}: ")
    assert problem in caught.value.message


def test_a_directory_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        load_policy(tmp_path)


# ---- versions and units ----------------------------------------------------------------------


def test_the_version_names_what_is_said_and_not_how() -> None:
    version = policy_version(parse_policy(BASE + CAP))
    assert len(version) == 12
    same = BASE.replace("\n", "\n# a comment\n") + CAP + 'per = "customer"'
    assert policy_version(parse_policy(same)) == version
    for other in (CAP.replace("3", "4"), CAP + 'per = "channel"', CAP + GAP, ""):
        assert policy_version(parse_policy(BASE + other)) != version


def test_the_version_of_a_document_without_fallbacks_is_the_one_it_always_had() -> None:
    """Decisions of before name it, and so do hosts of before while one after the other is new."""
    assert policy_version(parse_policy(BASE + CAP)) == "f5f3cbd39d22"
    assert policy_version(parse_policy(BASE + 'fallback_after = "1h"\n' + CAP)) != "f5f3cbd39d22"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1ms", 1),
        ("90s", 90_000),
        ("30m", 1_800_000),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        ("366d", 31_622_400_000),
    ],
)
def test_durations_are_exact_milliseconds(text: str, value: int) -> None:
    assert duration_ms(text, "x") == value


@pytest.mark.parametrize(
    "text", ["", "1", "h", "0m", "01h", "-1h", "+1h", "1 h", "1h ", "1h\n", "1w", "1h30m", "１h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^x: "):
        duration_ms(text, "x")


@pytest.mark.parametrize(
    ("text", "value"), [("00:00", 0), ("08:30", 30_600_000), ("23:59", 86_340_000)]
)
def test_times_of_day(text: str, value: int) -> None:
    assert time_of_day_ms(text, "x") == value


@pytest.mark.parametrize("text", ["", "8:00", "24:00", "08:60", "08:00:00", "08:00\n", "0８:00"])
def test_what_is_no_time_of_day(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^x: "):
        time_of_day_ms(text, "x")


def test_dates_include_both_ends() -> None:
    assert len(date_ordinals("2026-10-01/2026-10-07", "x")) == 7
    assert len(date_ordinals("2026-10-01", "x")) == 1
    assert len(date_ordinals("2028-01-01/2029-01-01", "x")) == 367


@pytest.mark.parametrize("text", ["", "2026-1-1", "2026-10-01/", "2026-10-01\n", "２026-10-01"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^x: "):
        date_ordinals(text, "x")
