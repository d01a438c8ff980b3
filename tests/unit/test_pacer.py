"""Departures in virtual time: even, exact at every limit, and as many as are allowed."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest

from actors import pacer as pacer_module
from actors.breaker import Breaker
from actors.pacer import BURST_MS, UNLIMITED, Pacer
from actors.quota import Limit, Quota, parse_limit
from actors.window import guarded_ms

NOW = 1_790_000_000_000.0
ZONE = "Asia/Shanghai"


def limits(*texts: str, per: str = "account") -> tuple[Limit, ...]:
    return tuple(parse_limit(text, per, "test") for text in texts)


def departures(
    rules: tuple[Limit, ...],
    seconds: float,
    late_ms: float,
    units: int = 1,
    burst_ms: float = BURST_MS,
) -> list[float]:
    """When messages of `units` leave that are always waiting, with timers up to `late_ms` late."""
    lateness = random.Random(7)
    pacer, quota = Pacer(rules, burst_ms), Quota(rules, ZONE)
    now, end, left = NOW, NOW + seconds * 1_000, []
    while now < end:
        ready = max(
            pacer.ready("a", "r", units, now).at_ms, quota.ready("a", "r", units, now).at_ms
        )
        if ready > now:
            now = ready + lateness.uniform(0, late_ms)
            continue
        quota.take("a", "r", units, now)
        pacer.take("a", "r", units, now)
        quota.move("a", "r", units, now, now)
        left += [now] * units
    return left


def most_within(left: list[float], window_ms: float) -> int:
    """The most that left in any (t - window, t]."""
    first = most = 0
    for index, at in enumerate(left):
        while left[first] <= at - window_ms:
            first += 1
        most = max(most, index - first + 1)
    return most


@pytest.mark.parametrize("late_ms", [0.0, 2.0])
@pytest.mark.parametrize(
    ("rules", "units", "wanted"),
    [
        (("50/s",), 1, 3_000),
        (("500/s",), 1, 30_000),
        (("500/s",), 3, 30_000),
        (("50/s", "2999/min"), 1, 2_999),
        (("500/s", "2999/min"), 1, 2_999),
        (("500/s", "3000/10s"), 1, 18_000),
        (("10/s",), 1, 600),
    ],
)
def test_the_rate_of_a_minute_is_that_of_the_limit(rules, units, wanted, late_ms):
    left = departures(limits(*rules), 60, late_ms, units)
    assert 0.99 * wanted <= len(left) <= 1.001 * wanted + 1
    for limit in limits(*rules):
        assert most_within(left, limit.window_ms) <= limit.count


def test_departures_are_even():
    left = departures(limits("50/s"), 10, 2.0, burst_ms=8.0)
    gaps = [later - earlier for earlier, later in pairwise(left)]
    # Each is late by up to 2 ms; what leaves early at first leaves a gap a second later.
    assert min(gaps) > 20 - 8 - 2.1 and max(gaps) < 20.1 + 8 + 2.1
    assert sum(abs(gap - 20) < 4.2 for gap in gaps) > 0.95 * len(gaps)
    # 8 ms of 500/s are four units that may leave beside the one that is due.
    assert most_within(departures(limits("500/s"), 10, 2.0, burst_ms=8.0), 1) <= 5


def test_the_burst_makes_up_for_lateness_and_the_window_holds_even_so():
    rules = limits("500/s")
    late = departures(rules, 60, 6.0, burst_ms=0.0)
    made_up = departures(rules, 60, 6.0)
    assert len(late) < 0.6 * 30_000 < 0.98 * 30_000 < len(made_up)
    assert most_within(departures(rules, 60, 40.0, burst_ms=500.0), 1_000) == 500


def test_a_message_larger_than_a_limit_leaves_alone_and_is_paid_for():
    pacer = Pacer(limits("10/s"), 8.0)
    pacer.take("a", "r", 1, NOW)
    at = pacer.ready("a", "r", 12, NOW).at_ms
    assert at == NOW + guarded_ms(1_000), "when the window is empty"
    pacer.take("a", "r", 12, at)
    following = pacer.ready("a", "r", 1, at).at_ms
    assert 1_190 <= following - at <= 1_210, "the rate catches up with all 12"
    left = departures(limits("10/s"), 60, 2.0, units=12)
    assert 0.98 * 600 <= len(left) <= 612


def test_applications_and_recipients_have_windows_of_their_own():
    pacer = Pacer((*limits("2/s", per="app"), *limits("1/5s", per="recipient")))
    pacer.take("a", "r", 1, NOW)
    wait = pacer.ready("b", "r", 1, NOW)
    assert (wait.at_ms, wait.scope, wait.limit) == (NOW + 5_020, "recipient", "1/5s")
    assert pacer.ready("a", "q", 1, NOW).at_ms == NOW
    pacer.take("a", "q", 1, NOW)
    wait = pacer.ready("a", "p", 1, NOW)
    assert (wait.at_ms, wait.scope, wait.limit) == (NOW + 1_004, "app", "2/s")


def test_recipients_are_bounded_and_the_next_waits(monkeypatch):
    monkeypatch.setattr(pacer_module, "RECIPIENTS", 2)
    pacer = Pacer(limits("2/10s", per="recipient"))
    pacer.take("a", "r1", 1, NOW)
    pacer.take("a", "r2", 1, NOW + 100)
    wait = pacer.ready("a", "r3", 1, NOW + 200)
    assert (wait.at_ms, wait.limit) == (NOW + guarded_ms(10_000), "full")
    assert pacer.ready("a", "r1", 1, NOW + 200).at_ms == NOW + 200
    assert pacer.ready("a", "r3", 1, wait.at_ms).at_ms == wait.at_ms


def test_pauses_the_later_of_two_stands(monkeypatch):
    pacer = Pacer(())
    pacer.pause("recipient", "r", NOW + 9_000)
    pacer.pause("recipient", "r", NOW + 5_000)
    pacer.pause("app", "a", NOW + 3_000)
    wait = pacer.ready("a", "r", 1, NOW)
    assert (wait.at_ms, wait.scope, wait.limit) == (NOW + 9_000, "recipient", "paused")
    assert pacer.ready("a", "q", 1, NOW).scope == "app"
    assert pacer.ready("b", "q", 1, NOW).at_ms == NOW
    assert pacer.paused_until(NOW) == 0

    pacer.pause("account", "", NOW + 10_000)
    pacer.pause("account", "", NOW + 4_000)
    assert pacer.ready("b", "q", 1, NOW).at_ms == NOW + 10_000 == pacer.paused_until(NOW)
    assert pacer.paused_until(NOW + 10_000) == 0
    assert pacer.ready("a", "r", 1, NOW + 10_000).at_ms == NOW + 10_000

    monkeypatch.setattr(pacer_module, "PAUSES", 2)
    pacer.pause("recipient", "q", NOW + 20_000)
    assert pacer.ready("a", "q", 1, NOW).at_ms == NOW + 20_000
    assert pacer.ready("a", "p", 1, NOW + 2_000).scope == "account", "the first to end gave way"
    pacer.forget_idle(NOW + 60_000)
    assert pacer._pauses is None


def test_after_a_crash_nothing_leaves_for_the_longest_short_window():
    pacer = Pacer((*limits("50/s", "3000/min"), *limits("1/5s", per="recipient")))
    pacer.restarted(NOW)
    wait = pacer.ready("a", "r", 1, NOW)
    assert (wait.at_ms, wait.scope, wait.limit) == (NOW + 5_020, "account", "restarted")
    assert pacer.allowance(NOW, 1_000) == 0
    without = Pacer(limits("3000/min"))
    without.restarted(NOW)
    assert without.ready("a", "r", 1, NOW).at_ms == NOW


# ---- throttled ---------------------------------------------------------------------------------


def rate(pacer: Pacer, begin: float, seconds: int) -> float:
    """Units a second that leave from `begin` on, as many as may."""
    now, count = begin, 0
    while now < begin + seconds * 1_000:
        at = pacer.ready("a", "r", 1, now).at_ms
        if at <= now:
            pacer.take("a", "r", 1, now)
            count += 1
        now = max(at, now)
    return count / seconds


def test_a_throttle_halves_the_rate_which_comes_back_within_a_minute():
    pacer = Pacer(limits("100/s"))
    assert rate(pacer, NOW, 5) == pytest.approx(100, rel=0.02)
    at = NOW + 5_000
    for burst in range(20):
        pacer.throttled(at + burst)
    assert pacer.ready("a", "r", 1, at).limit in ("slowed", "100/s")
    assert rate(pacer, at + 1_000, 1) == pytest.approx(51, rel=0.06)
    assert rate(pacer, at + 30_000, 1) == pytest.approx(75, rel=0.06)
    assert rate(pacer, at + 62_000, 5) == pytest.approx(100, rel=0.02)

    at += 100_000
    for again in range(20):
        pacer.throttled(at + again * 1_000)
    assert rate(pacer, at + 19_000, 20) >= 100 / 64, "never stopped altogether"
    assert rate(pacer, at + 19_000 + 121_000, 5) == pytest.approx(100, rel=0.02)


def test_an_account_without_limits_is_halved_from_what_it_did():
    pacer = Pacer(())
    for index in range(1_000):
        pacer.take("a", "r", 1, NOW + index * 5)
    at = NOW + 5_000
    assert pacer.ready("a", "r", 1, at).at_ms == at
    pacer.throttled(at)
    assert rate(pacer, at, 2) == pytest.approx(100, rel=0.06)
    free = at + 61_000
    for _ in range(1_000):
        assert pacer.ready("a", "r", 1, free).at_ms == free
        pacer.take("a", "r", 1, free)


# ---- ahead, and at rest ------------------------------------------------------------------------


def test_the_allowance_is_about_what_leaves():
    pacer = Pacer(limits("50/s"), 8.0)
    assert 10 <= pacer.allowance(NOW, 200) <= 11
    assert 99 <= pacer.allowance(NOW, 2_000) <= 101
    for _ in range(10):
        pacer.take("a", "r", 1, NOW)
    assert pacer.allowance(NOW, 100) == 0
    assert 1 <= pacer.allowance(NOW + 100, 120) <= 2
    pacer.pause("account", "", NOW + 1_000)
    assert pacer.allowance(NOW, 900) == 0
    assert 5 <= pacer.allowance(NOW, 1_100) <= 6
    assert Pacer(()).allowance(NOW, 10) == UNLIMITED


def test_an_idle_account_is_tiny_also_after_it_was_busy():
    rules = (*limits("50/s", "3000/min", "9000/h", "9/day"), *limits("1/5s", per="recipient"))
    idle = []
    tracemalloc.start()
    try:
        for _ in range(100):
            idle.append((Pacer(rules), Quota(rules, ZONE), Breaker()))
        for pacer, quota, _ in idle:
            for index in range(5):
                pacer.take("a", str(index), 1, NOW)
                quota.take("a", str(index), 1, NOW)
                quota.move("a", str(index), 1, NOW, NOW)
            pacer.forget_idle(NOW + 40 * 86_400_000)
            quota.forget_idle(NOW + 40 * 86_400_000)
        size = tracemalloc.get_traced_memory()[0] / len(idle)
    finally:
        tracemalloc.stop()
    assert size < 1_500
