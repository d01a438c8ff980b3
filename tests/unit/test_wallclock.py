"""The search of `tests/support/wallclock.py` against plain scans of the clock."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.wallclock import (
    WEEKDAYS,
    QuietWindow,
    local,
    period,
    period_end,
    to_ms,
    window_end,
)

ZONES = [
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Santiago",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Apia",
]
CHANGES = [
    "2026-03-08T07:00Z",
    "2026-03-29T01:00Z",
    "2026-04-04T15:00Z",
    "2026-04-05T03:00Z",
    "2026-09-06T04:00Z",
    "2026-10-03T15:30Z",
    "2026-10-25T01:00Z",
    "2026-11-01T06:00Z",
]
CLOCK_TIMES = st.sampled_from([0, 30, 60, 90, 105, 120, 135, 150, 180, 210, 480, 1260, 1410])


@examples(150)
@given(
    st.sampled_from(ZONES),
    st.sampled_from(CHANGES),
    st.integers(-24 * 60, 24 * 60),
    CLOCK_TIMES,
    CLOCK_TIMES,
    st.sets(st.sampled_from(WEEKDAYS), min_size=1),
)
def test_end_of_a_window_is_what_a_scan_by_the_minute_finds(
    zone: str, change: str, minutes: int, start: int, end: int, days: set[str]
):
    if start == end:
        end += 15
    window = QuietWindow(timedelta(minutes=start), timedelta(minutes=end), tuple(days), None)
    at = to_ms(change) + minutes * 60_000
    scan = at + 60_000
    while window.covers(local(scan, zone)):
        scan += 60_000
    assert window_end(window, zone, at) == scan or not window.covers(local(at, zone))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("window", ["day", "week", "month"])
def test_periods_never_go_back_and_end_where_a_scan_finds(zone: str, window: str):
    at, step = to_ms("2026-01-01T00:00Z"), 30 * 60_000
    while at < to_ms("2027-12-31T00:00Z"):
        now, after = period(window, zone, at), period(window, zone, at + step)
        assert now <= after
        if now != after:
            end = period_end(window, zone, at)
            assert at < end <= at + step
            assert period(window, zone, end - 1) == now
            assert period(window, zone, end) == after
        at += step
