"""Limits as they are written, and what is counted of them across time, dates and restarts."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from actors import quota as quota_module
from actors.quota import RESTARTS, Limit, Quota, Window, parse_limit
from actors.window import COARSE_GRAINS, RUNS, RUNS_KEPT, guarded_ms
from hub.contract.times import to_ms
from hub.errors import ConfigError

NOW = 1_790_000_000_000.0
HOUR = 3_600_000
ZONE = "Asia/Shanghai"


def limits(*texts: str, per: str = "account") -> tuple[Limit, ...]:
    return tuple(parse_limit(text, per, "test") for text in texts)


def utc(*moment: int) -> float:
    return float(to_ms(datetime(*moment, tzinfo=UTC)))


# ---- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "window_ms", "calendar"),
    [
        ("50/s", 50, 1_000, ""),
        ("5/10s", 5, 10_000, ""),
        ("3000/min", 3_000, 60_000, ""),
        ("150000/h", 150_000, HOUR, ""),
        (" 5/24h ", 5, 24 * HOUR, ""),
        ("10/day", 10, 0, "day"),
        ("100/month", 100, 0, "month"),
        ("7/week", 7, 0, "week"),
        ("days/month", 0, 0, "month"),
    ],
)
def test_limits_as_written(text, count, window_ms, calendar):
    limit = parse_limit(text, "app", "test")
    assert limit == Limit(count, window_ms, calendar, "app", text.strip())


@pytest.mark.parametrize(
    ("text", "per"),
    [
        ("", "account"),
        ("50", "account"),
        ("50/sec", "account"),
        ("days/week", "account"),
        ("days/2month", "account"),
        ("2/3week", "account"),
        ("50/ s", "account"),
        ("-1/s", "account"),
        ("0/s", "account"),
        ("1.5/s", "account"),
        ("٣/s", "account"),
        ("50/0s", "account"),
        ("9999999999/s", "account"),
        ("5/2day", "account"),
        ("5/745h", "account"),
        ("5/s", "customer"),
    ],
)
def test_what_is_no_limit_is_refused_with_its_place(text, per):
    with pytest.raises(ConfigError, match=r"^accounts\.bulk\.limits\[2\]: ") as refused:
        parse_limit(text, per, "accounts.bulk.limits[2]")
    assert refused.value.facts["place"] == "accounts.bulk.limits[2]"


# ---- one window --------------------------------------------------------------------------------


def test_a_window_frees_what_has_left_it_and_nothing_else():
    window = Window(*limits("3/min"))
    length = guarded_ms(60_000)
    for at in (0, 10_000, 20_000):
        assert window.ready_ms(1, NOW + at) == NOW + at
        window.take(1, NOW + at)
    later = NOW + 30_000
    assert window.ready_ms(1, later) == NOW + length
    assert window.ready_ms(2, later) == NOW + 10_000 + length
    assert window.ready_ms(3, later) == NOW + 20_000 + length
    assert window.ready_ms(4, later) == math.inf
    assert window.used(NOW + length - 0.01) == 3
    assert window.used(NOW + length) == 2


def test_open_units_count_until_they_have_left_however_late_that_is():
    window = Window(*limits("3/min"))
    window.claim(3)
    assert window.used(NOW + HOUR) == 3, "they may leave at any moment"
    window.move(2, NOW + HOUR)
    window.give_back(1)
    assert window.used(NOW + HOUR) == 2
    assert window.ready_ms(2, NOW + HOUR) == NOW + HOUR + guarded_ms(60_000)


def test_a_full_window_is_small_and_coarsening_never_frees_early():
    window = Window(*limits("150000/h"))
    for index in range(-150_000, 150_000):
        window.take(1, NOW + index * 23)  # nobody asks in between
    now = NOW + 150_000 * 23
    assert len(window._at) <= RUNS + 2
    again = Window(window.limit)
    kept = window.dump(now)
    assert kept is not None and len(kept.runs) < 2 * RUNS_KEPT
    again.load(kept, now)
    slack = HOUR / RUNS * (COARSE_GRAINS + 1)
    assert 0 <= window.used(now) - HOUR // 23 < 200
    for units in (1, 1_000, 75_000, 150_000):
        exact = window.ready_ms(units, now)
        last = now + (units - 150_000) * 23
        assert last - 23 + HOUR <= exact <= last + HOUR * 1.005
        assert exact <= again.ready_ms(units, now) <= exact + slack


@pytest.mark.parametrize("between_ms", [7, 60, 400, 1_500])
def test_being_written_down_many_times_moves_nothing_further_than_once(between_ms):
    window, left = Window(*limits("9000/min")), []
    now = NOW + 13
    for _ in range(600):
        window.take(1, now)
        left.append(now)
        kept = window.dump(now)
        assert kept is not None and len(kept.runs) < 2 * RUNS_KEPT
        window = Window(window.limit)
        window.load(kept)
        now += between_ms
    length, late = guarded_ms(60_000), 60 * (COARSE_GRAINS + 1)
    for later in range(0, 62_000, 500):
        least = sum(at + length > now + later for at in left)
        most = sum(at + length > now + later - late for at in left)
        assert least <= window.used(now + later) <= most


def test_what_was_not_taken_makes_room_for_itself_and_no_more():
    window = Window(*limits("3/min"))
    for at in (0, 10, 20_000):  # the first two are one run
        window.take(1, NOW + at)
    later, length = NOW + 30_000, guarded_ms(60_000)
    window.withdraw(2, NOW + 20_000, later)
    assert window.used(later) == 2, "of one run"
    window.withdraw(1, NOW, later)
    assert window.ready_ms(3, later) == NOW + 10 + length, "the other of that run stays"
    assert window.holds(1, NOW + 10, later) and not window.holds(2, NOW + 10, later)
    for at in (NOW + 11, later):
        window.withdraw(1, at, later)
    assert window.used(later) == 1, "nothing is known of these"
    assert not window.holds(1, NOW + 10, NOW + 10 + length)
    window.withdraw(1, NOW + 10, later)
    assert window.used(later) == 0 and window.empty_ms() == 0.0
    window.take(3, later)
    assert window.ready_ms(1, later) == later + length


@pytest.mark.parametrize("step_ms", [7, 400, 1_500])
def test_what_was_merged_to_be_written_down_can_still_be_withdrawn(step_ms):
    window = Window(*limits("9000/min"))
    left = [NOW + index * step_ms for index in range(60_000 // step_ms)]
    for at in left:
        window.take(1, at)
    again, now = Window(window.limit), left[-1]
    again.load(window.dump(now))
    for at in left[::2]:
        again.withdraw(1, at, now)
    assert again.used(now) == len(left) // 2
    kept = left[1::2]
    for later in range(0, 62_000, 500):
        assert again.used(now + later) >= sum(at + 60_000 > now + later for at in kept)


# ---- the calendar ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "text", "at", "following"),
    [
        (ZONE, "2/day", utc(2026, 11, 22, 15, 59), utc(2026, 11, 22, 16)),
        (ZONE, "2/day", utc(2026, 11, 22, 16), utc(2026, 11, 23, 16)),
        (ZONE, "2/month", utc(2026, 12, 30), utc(2026, 12, 31, 16)),
        (ZONE, "2/week", utc(2026, 11, 22, 15, 59), utc(2026, 11, 22, 16)),  # Monday in Shanghai
        # The clocks change: days of 23 and 25 hours.
        ("Europe/Berlin", "2/day", utc(2026, 3, 28, 23), utc(2026, 3, 29, 22)),
        ("Europe/Berlin", "2/day", utc(2026, 10, 24, 22), utc(2026, 10, 25, 23)),
    ],
)
def test_dates_are_those_of_the_accounts_zone(zone, text, at, following):
    quota = Quota(limits(text), zone)
    quota.take("a", "r", 2, at)
    quota.move("a", "r", 2, at, at)
    wait = quota.ready("a", "r", 1, at + 1)
    assert (wait.at_ms, wait.scope, wait.limit) == (following, "account", text)
    assert quota.ready("a", "r", 2, following).at_ms == following
    assert quota.ready("a", "r", 3, following).at_ms == math.inf


@pytest.mark.parametrize(
    ("at", "days", "following"),
    [
        (utc(2026, 11, 1), 30, utc(2026, 11, 30, 16)),
        (utc(2027, 2, 1), 28, utc(2027, 2, 28, 16)),
        (utc(2027, 3, 1), 31, utc(2027, 3, 31, 16)),
    ],
)
def test_as_many_as_the_month_has_days(at, days, following):
    quota = Quota(limits("days/month", per="recipient"), ZONE)
    for n in range(days):
        assert quota.ready("a", "r", 1, at + n).at_ms == at + n
        quota.take("a", "r", 1, at + n)
        quota.move("a", "r", 1, at + n, at + n)
    wait = quota.ready("a", "r", 1, at + days)
    assert (wait.at_ms, wait.scope, wait.limit) == (following, "recipient", "days/month")
    assert quota.ready("a", "another", 1, at + days).at_ms == at + days
    assert quota.ready("a", "r", 0, at + days).at_ms == at + days  # what no limit counts


def test_what_is_open_at_midnight_counts_on_both_dates():
    quota = Quota(limits("2/day"), ZONE)
    before, midnight = utc(2026, 11, 22, 15, 59), utc(2026, 11, 22, 16)
    quota.take("a", "r", 1, before)
    quota.take("a", "r", 1, before)
    assert quota.ready("a", "r", 1, midnight).at_ms > midnight
    quota.move("a", "r", 1, before, midnight - 1)
    quota.move("a", "r", 1, before, midnight)
    assert quota.ready("a", "r", 1, midnight).at_ms == midnight
    assert quota.ready("a", "r", 2, midnight).at_ms == midnight + 24 * HOUR


def test_a_date_that_is_over_is_given_nothing_back():
    quota = Quota(limits("2/day"), ZONE)
    before, midnight = utc(2026, 11, 22, 15, 59), utc(2026, 11, 22, 16)
    for at in (before, before, midnight, midnight):
        quota.take("a", "r", 1, at)
        quota.move("a", "r", 1, at, at)
    quota.withdraw("a", "r", 1, before, midnight)
    assert quota.ready("a", "r", 1, midnight).at_ms > midnight
    quota.withdraw("a", "r", 1, midnight, midnight)
    assert quota.ready("a", "r", 1, midnight).at_ms == midnight


# ---- an account --------------------------------------------------------------------------------


def test_the_latest_of_all_limits_binds_and_is_named():
    everything = (
        *limits("4/min", "50/s"),
        *limits("2/min", per="app"),
        *limits("1/min", "3/day", per="recipient"),
    )
    quota = Quota(everything, ZONE)

    def send(app: str, recipient: str, at: float) -> None:
        quota.take(app, recipient, 1, at)
        quota.move(app, recipient, 1, at, at)

    def binding(app: str, recipient: str) -> tuple[str, str]:
        wait = quota.ready(app, recipient, 1, NOW + 30_000)
        return wait.scope, wait.limit

    send("a", "r1", NOW)
    assert binding("a", "r1") == ("recipient", "1/min")
    assert binding("a", "r2") == ("", "")
    send("a", "r2", NOW)
    assert binding("a", "r3") == ("app", "2/min")
    send("b", "r3", NOW)
    send("b", "r4", NOW + 10_000)
    assert binding("c", "r5") == ("account", "4/min")
    assert binding("a", "r4") == ("recipient", "1/min"), "frees last"


def test_after_a_crash_what_was_open_counts_as_left_at_the_restart():
    rules = (*limits("3/min"), *limits("3/min", per="app"), *limits("2/min", per="recipient"))
    quota = Quota(rules, ZONE)
    quota.take("a", "r", 1, NOW)
    written, of_recipient = quota.dump(NOW), quota.recipient_dump("r")
    quota.move("a", "r", 1, NOW, NOW + 50_000)  # known to nobody after the crash

    restarted = NOW + 55_000
    quota = Quota(rules, ZONE)
    quota.load(written, restarted)
    assert of_recipient is not None and quota.recipient_load("r", of_recipient, restarted)
    wait = quota.ready("a", "r", 2, NOW + 60_100)
    assert wait.scope == "recipient"
    assert 0 <= wait.at_ms - restarted - guarded_ms(60_000) <= 60, "written in grains"
    for rule in rules[:2]:
        alone = Quota((rule,), ZONE)
        alone.load(written, restarted)
        wait = alone.ready("a", "q", 3, NOW + 60_100)
        assert (wait.at_ms, wait.scope) == (restarted + guarded_ms(60_000), rule.per)

    quota.take("a", "q", 2, restarted)
    quota.give_back("a", "r", 1, NOW)
    assert quota.ready("a", "z", 1, restarted).at_ms > restarted, "of before: changes nothing"
    quota.give_back("a", "q", 2, restarted)
    assert quota.ready("a", "z", 1, restarted).at_ms == restarted


def test_a_changed_number_keeps_what_was_counted():
    quota = Quota(limits("100/h"), ZONE)
    quota.take("a", "r", 60, NOW)
    changed = Quota(limits("60/h", "5/day"), ZONE)
    changed.load(quota.dump(NOW), NOW)
    assert changed.ready("a", "r", 1, NOW).limit == "60/h"


def test_a_busy_account_is_written_down_in_a_few_hundred_bytes():
    quota = Quota(limits("3000/min", "150000/h", "1000000/day", "9000000/month"), ZONE)
    now = NOW
    for _ in range(100_000):
        now += 24
        quota.take("a", "r", 1, now)
        quota.move("a", "r", 1, now, now)
    assert len(quota.dump(now)) < 600


def test_recipients_are_bounded_and_forgotten_when_nothing_counts(monkeypatch):
    monkeypatch.setattr(quota_module, "RECIPIENTS", 3)
    quota = Quota(limits("2/min", per="recipient"), ZONE)
    for index, recipient in enumerate(("open", "r1", "r2")):
        quota.take("a", recipient, 1, NOW + index)
        if recipient != "open":
            quota.move("a", recipient, 1, NOW + index, NOW + index)
    wait = quota.ready("a", "new", 1, NOW + 10)
    assert wait.at_ms > NOW + 10 and (wait.scope, wait.limit) == ("recipient", "full")
    assert quota.ready("a", "r1", 1, NOW + 10).at_ms == NOW + 10, "known ones go on"

    assert quota.forget_idle(NOW + 10) == []
    later = NOW + 61_000
    assert quota.forget_idle(later) == ["r1", "r2"], "what is open is kept, and hides nobody"
    assert quota.recipient_dump("r1") is None and quota.recipient_dump("open") is not None
    assert quota.ready("a", "new", 1, later).at_ms == later


def test_a_recipients_value_counts_from_the_restart_that_ended_its_attempts():
    rules = limits("1/h", per="recipient")
    first = Quota(rules, ZONE)
    first.take("a", "r", 1, NOW)
    value = first.recipient_dump("r")
    assert value is not None

    first.move("a", "r", 1, NOW, NOW + 60_000)
    assert first.forget_idle(NOW + 2 * HOUR) == ["r"]
    assert not first.recipient_load("r", value, NOW + 2 * HOUR), "left and forgotten"

    second = Quota(rules, ZONE)
    second.load(first.dump(NOW), NOW + 2 * HOUR)
    assert not second.recipient_load("r", value, NOW + 3 * HOUR + 10_000)
    third = Quota(rules, ZONE)
    third.load(second.dump(NOW + 2 * HOUR), NOW + 3 * HOUR)
    assert third.recipient_load("r", value, NOW + 3 * HOUR)
    wait = third.ready("a", "r", 1, NOW + 3 * HOUR).at_ms
    assert 0 <= wait - (NOW + 3 * HOUR + 50) < HOUR / RUNS, "an hour after the second began"


def test_restarts_remembered_are_few_and_an_older_one_is_never_put_earlier():
    quota = Quota((), ZONE)
    for index in range(200):
        before = quota.dump(NOW)
        quota = Quota((), ZONE)
        quota.load(before, NOW + index * 1_000)
    known = quota._restarts
    assert len(known) == RESTARTS and known[-1] == NOW + 199_000
    assert set(known) <= {NOW + index * 1_000 for index in range(200)}
    month = Quota((), ZONE)
    month.load(quota.dump(NOW), NOW + 40 * 24 * HOUR)
    assert month._restarts == (NOW + 199_000, NOW + 40 * 24 * HOUR)


def test_other_limits_leave_what_is_open_open():
    quota = Quota((*limits("2/min"), *limits("2/min", per="recipient")), ZONE)
    quota.take("a", "r", 2, NOW)
    quota = quota.configured(
        (*limits("3/min", "9/h"), *limits("2/min", per="recipient")), ZONE, NOW + 1
    )
    assert quota.ready("a", "q", 2, NOW + HOUR).at_ms > NOW + HOUR
    assert quota.ready("a", "r", 1, NOW + HOUR).scope == "recipient"
    quota.move("a", "r", 2, NOW, NOW + HOUR)
    assert quota.ready("a", "q", 1, NOW + HOUR).at_ms == NOW + HOUR
    assert quota.ready("a", "q", 2, NOW + HOUR).at_ms == NOW + HOUR + guarded_ms(60_000)


@pytest.mark.parametrize("per", ["account", "app", "recipient"])
def test_the_same_once_more_needs_room_only_where_it_has_none(per):
    quota = Quota(limits("1/h", "1/day", per=per), ZONE)
    quota.take("a", "r", 1, NOW)
    quota.move("a", "r", 1, NOW, NOW)
    later = NOW + 1_800_000
    assert quota.ready("a", "r", 1, later).at_ms > later
    assert quota.ready("a", "r", 1, later, NOW).at_ms == later
    quota.take("a", "r", 1, later, NOW)
    quota.move("a", "r", 1, later, later)
    assert quota.ready("a", "r", 1, later).at_ms >= later + HOUR, "counts as leaving later"

    tomorrow = NOW + 24 * HOUR
    quota.take("a", "r", 1, tomorrow)
    quota.move("a", "r", 1, tomorrow, tomorrow)
    assert quota.ready("a", "r", 1, tomorrow + 1, later).at_ms > tomorrow + 1


@pytest.mark.parametrize("per", ["account", "app", "recipient"])
def test_what_a_new_limit_or_a_former_owner_counted_is_not_withdrawn(per):
    quota = Quota((), ZONE)
    quota.take("a", "r", 1, NOW)
    quota.move("a", "r", 1, NOW, NOW)
    rules = limits("1/h", per=per)
    quota = quota.configured(rules, ZONE, NOW)
    quota.take("a", "r", 1, NOW + 5)
    quota.move("a", "r", 1, NOW + 5, NOW + 5)
    quota.withdraw("a", "r", 1, NOW, NOW + 10)
    assert quota.ready("a", "r", 1, NOW + 10).at_ms > NOW + 10

    value, restarted = quota.recipient_dump("r"), NOW + 20
    quota, written = Quota(rules, ZONE), quota.dump(NOW + 10)
    quota.load(written, restarted)
    if value is not None:
        quota.recipient_load("r", value, restarted)
    quota.withdraw("a", "r", 1, NOW + 5, restarted)
    assert quota.ready("a", "r", 1, restarted, NOW + 5).at_ms > restarted


def test_a_value_that_counts_no_more_is_not_loaded():
    quota = Quota(limits("2/min", per="recipient"), ZONE)
    quota.take("a", "r", 1, NOW)
    quota.move("a", "r", 1, NOW, NOW)
    value = quota.recipient_dump("r")
    assert value is not None and len(value) < 30
    quota = Quota(limits("2/min", per="recipient"), ZONE)
    assert not quota.recipient_load("r", value, NOW + 61_000)
