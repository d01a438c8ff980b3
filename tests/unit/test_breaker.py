"""The circuit of an account, moment by moment."""

from __future__ import annotations

import math

from actors.breaker import Breaker, BreakerSettings

SETTINGS = BreakerSettings(failures=3, down_ms=30_000, open_ms=1_000, open_max_ms=3_000)
NOW = 1_790_000_000_000.0


def opened() -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        breaker.sent(NOW)
        breaker.failed(NOW)
    return breaker


def test_opens_only_after_failures_in_a_row():
    breaker = Breaker(SETTINGS)
    for outcome in "ffsffsff":
        (breaker.failed if outcome == "f" else breaker.succeeded)(NOW)
        assert breaker.state(NOW) == "closed" and breaker.allowed(NOW)
    breaker.failed(NOW)
    assert breaker.state(NOW) == "open" and not breaker.allowed(NOW)
    assert breaker.ready_ms(NOW) == NOW + 1_000


def test_one_probe_at_a_time_and_its_success_closes():
    breaker = opened()
    later = NOW + 1_000
    assert breaker.state(later) == "half_open" and breaker.allowed(later)
    breaker.sent(later)
    assert not breaker.allowed(later) and breaker.ready_ms(later) == math.inf
    breaker.unsent()
    assert breaker.allowed(later), "a probe that did not leave leaves room for another"
    breaker.sent(later)
    breaker.succeeded(later + 5)
    assert breaker.state(later + 5) == "closed"
    breaker.failed(later + 6)
    assert breaker.state(later + 6) == "closed", "the count began anew"


def test_failed_probes_wait_longer_up_to_the_most_and_a_success_forgets_it():
    breaker = opened()
    now, waits = NOW, []
    for _ in range(4):
        waits.append(breaker.ready_ms(now) - now)
        now = breaker.ready_ms(now)
        breaker.sent(now)
        breaker.failed(now)
    assert waits == [1_000, 2_000, 3_000, 3_000]
    now = breaker.ready_ms(now)
    breaker.sent(now)
    breaker.succeeded(now)
    for _ in range(3):
        breaker.failed(now)
    assert breaker.ready_ms(now) == now + 1_000


def test_answers_to_what_left_before_it_opened():
    breaker = opened()
    breaker.failed(NOW + 500)
    assert breaker.ready_ms(NOW + 500) == NOW + 1_000, "late failures do not prolong it"
    breaker.succeeded(NOW + 600)
    assert breaker.state(NOW + 600) == "half_open", "a late success is worth a probe, not all"
    breaker.failed(NOW + 700)
    assert breaker.allowed(NOW + 700), "no probe was under way that could have failed"


def test_a_link_long_down_opens_and_its_return_asks_for_a_probe():
    breaker = Breaker(SETTINGS)
    breaker.link(False, NOW)
    breaker.link(False, NOW + 20_000)
    assert breaker.state(NOW + 29_999) == "closed", "a reconnection is no failure"
    assert breaker.state(NOW + 30_000) == "open"
    assert breaker.ready_ms(NOW + 30_000) == math.inf
    back = NOW + 90_000
    breaker.link(True, back)
    assert breaker.state(back) == "half_open" and breaker.allowed(back)
    breaker.sent(back)
    breaker.failed(back)
    assert breaker.ready_ms(back) == back + 1_000

    short = Breaker(SETTINGS)
    short.link(False, NOW)
    short.link(True, NOW + 29_999)
    assert short.state(NOW + 90_000) == "closed"


def test_a_probe_lost_with_the_link_leaves_room_for_the_next():
    breaker = opened()
    breaker.sent(NOW + 1_000)
    breaker.link(False, NOW + 1_100)
    breaker.failed(NOW + 40_000)
    breaker.link(True, NOW + 50_000)
    assert breaker.allowed(NOW + 50_000)
