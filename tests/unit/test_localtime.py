"""Local readings against zoneinfo itself, at and around every clock change of some years."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from hub.contract.times import EPOCH, to_ms
from hub.contract.zones import zone as zone_of
from hub.policy import localtime

ZONES = (
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Chatham",
    "Africa/Casablanca",
    "America/Asuncion",
)
HOUR = 3_600_000


def changes(zone: str) -> list[int]:
    """Instants of 2024 to 2027 at which the zone's offset changes, to the minute."""
    tz = zone_of(zone)
    found, moment = [], datetime(2024, 1, 1, tzinfo=UTC)
    before = moment.astimezone(tz).utcoffset()
    while moment.year < 2028:
        after = (moment + timedelta(hours=6)).astimezone(tz).utcoffset()
        if after != before:
            low = moment
            while low.astimezone(tz).utcoffset() == before:
                low += timedelta(minutes=1)
            found.append(to_ms(low))
            before = after
        moment += timedelta(hours=6)
    return found


def expected_reading(zone: str, instant: int) -> int:
    local = (EPOCH + timedelta(milliseconds=instant)).astimezone(zone_of(zone))
    return to_ms(local.replace(tzinfo=UTC))


@pytest.mark.parametrize("zone", ZONES)
def test_reading_is_zoneinfos_around_every_change(zone):
    for change in changes(zone) or [to_ms(datetime(2026, 6, 1, tzinfo=UTC))]:
        for delta in (-HOUR, -60_000, -1, 0, 1, 60_000, HOUR, 13 * HOUR):
            instant = change + delta
            assert localtime.reading(zone, instant) == expected_reading(zone, instant)


@pytest.mark.parametrize("zone", ZONES)
def test_first_at_or_past_is_the_first_minute_that_a_scan_finds(zone):
    for change in changes(zone)[:6] or [to_ms(datetime(2026, 6, 1, tzinfo=UTC))]:
        start = change - 3 * HOUR
        for ahead in (0, HOUR, 2 * HOUR + 30 * 60_000, 3 * HOUR, 4 * HOUR):
            target = expected_reading(zone, start) + ahead
            scan = start
            while expected_reading(zone, scan) < target:
                scan += 60_000
            assert localtime.first_at_or_past(zone, start, target) == scan


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_begins_at_the_first_instant_of_its_date(zone):
    for change in changes(zone):
        for instant in (change - 30 * HOUR, change - 1, change, change + 20 * HOUR):
            first, following = localtime.period(zone, "day", instant)
            assert first <= instant < following
            assert _date(zone, first) == _date(zone, instant) != _date(zone, first - 1)
            assert _date(zone, following) != _date(zone, following - 1) == _date(zone, instant)


def test_weeks_begin_on_monday_and_months_on_the_first():
    instant = to_ms(datetime(2026, 11, 21, 12, tzinfo=UTC))
    week = localtime.period("Europe/Berlin", "week", instant)
    month = localtime.period("Europe/Berlin", "month", instant)
    assert [_date("Europe/Berlin", moment) for moment in week] == [
        date(2026, 11, 16),
        date(2026, 11, 23),
    ]
    assert [_date("Europe/Berlin", moment) for moment in month] == [
        date(2026, 11, 1),
        date(2026, 12, 1),
    ]
    december = to_ms(datetime(2026, 12, 31, 12, tzinfo=UTC))
    assert _date("UTC", localtime.period("UTC", "month", december)[1]) == date(2027, 1, 1)


def _date(zone: str, instant: int) -> date:
    return (EPOCH + timedelta(milliseconds=instant)).astimezone(zone_of(zone)).date()
