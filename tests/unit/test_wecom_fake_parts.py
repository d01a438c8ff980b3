"""The parts of the fake WeCom that count: windows, days, blocks, rules, and the log of sync_msg."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.wecom.endpoints import ENDPOINTS
from channels.wecom.fake.kf_log import KfLog
from channels.wecom.fake.limits import Day, Gate, Window, taken
from channels.wecom.fake.quota import Quota
from channels.wecom.fake.server import EITHER, GETS, FakeWecom
from channels.wecom.fake.timers import MovableClock, Timers
from channels.wecom.fake.world import Call, Refused
from tests.support.wecom import CORP, NOW_MS, StandingClock

PERIOD_MS = 4_000
steps = st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 3)), max_size=60)


def at(text: str) -> int:
    """A time in China in ms."""
    return int(datetime.fromisoformat(f"{text}+08:00").timestamp() * 1_000)


@given(steps, st.integers(1, 6))
def test_a_window_allows_its_limit_in_any_period(steps: list[tuple[int, int]], limit: int) -> None:
    window, passed, now_ms = Window(limit, PERIOD_MS), [], 0
    for wait_ms, number in steps:
        now_ms += wait_ms
        lately = sum(1 for at_ms in passed if at_ms > now_ms - PERIOD_MS)
        allowed = lately + number <= limit
        assert taken([window], now_ms, number) is allowed
        passed += [now_ms] * (number if allowed else 0)


def test_windows_are_counted_together_or_not_at_all() -> None:
    minute, hour = Window(2, 60_000), Window(3, 3_600_000)
    assert [taken([minute, hour], 0) for _ in range(3)] == [True, True, False]
    assert [taken([minute, hour], 60_000) for _ in range(2)] == [True, False]
    assert hour.room(60_000) == 0
    assert taken([Window(0, 60_000)], 0, 1_000_000)  # 0: any number


def test_a_block_lasts_as_long_as_the_period_or_the_rest_of_the_day() -> None:
    gate = Gate(Window(1, 60_000))
    assert gate.take(0)
    assert not gate.take(59_000)
    assert not gate.take(118_999)  # the window is free again since 60,000
    assert gate.take(119_000)
    day = Gate(Day(10))
    assert day.take(at("2026-11-22T10:00"), 10)
    assert not day.take(at("2026-11-22T23:59"))
    assert day.take(at("2026-11-23T00:00"))


@pytest.mark.parametrize(
    ("rule", "times", "most"),
    [
        ("daily_1", ["2026-11-22T23:00", "2026-11-23T00:30"], 1),
        ("weekly_7", ["2026-11-22T23:00", "2026-11-23T00:30"], 7),
        ("monthly_days", ["2026-11-30T23:59", "2026-12-01T00:01"], 30),
        ("monthly_days", ["2027-02-28T23:59", "2027-03-01T00:01"], 28),
    ],
)
def test_a_rule_ends_with_its_period(rule: str, times: list[str], most: int) -> None:
    quota = Quota(rule)
    assert [quota.take("c1", at(times[0])) for _ in range(most + 1)] == [True] * most + [False]
    assert quota.take("c2", at(times[0]))
    assert quota.take("c1", at(times[1]))


@given(st.lists(st.sampled_from("ab"), max_size=40), st.integers(1, 7))
def test_pages_of_the_log_are_the_log(accounts: list[str], limit: int) -> None:
    log = KfLog(keep_ms=1_000)
    for number, account in enumerate(accounts):
        log.add(account, number, {"number": number})
    for account in ("", "a", "b"):
        wanted = [n for n, one in enumerate(accounts) if account in ("", one)]
        got, cursor, more = [], "", True
        while more:
            messages, cursor, more = log.after(account, cursor, limit, now_ms=40)
            got += [message["number"] for message in messages]
        assert got == wanted
        assert log.after(account, cursor, limit, now_ms=40) == ([], cursor, False)
        back = log.back(account, cursor, 3)
        assert [one["number"] for one in log.after(account, back, 9, 40)[0]] == wanted[-3:]
        assert log.after(account, "", limit, now_ms=10_000)[0] == []


@pytest.mark.parametrize("cursor", ["x", "fakekf", "fakekf1", "-1", "fakekfffffffffffff", "\0"])
def test_a_cursor_that_was_never_given_is_refused(cursor: str) -> None:
    with pytest.raises(Refused) as refused:
        KfLog(1).after("a", cursor, 1, 0)
    assert refused.value.errcode == 40058


def test_what_is_due_happens_in_its_order_when_the_clock_jumps() -> None:
    clock, seen = MovableClock(StandingClock()), []
    timers = Timers(clock)
    timers.at(NOW_MS + 2_000, lambda: seen.append("second"))
    timers.at(NOW_MS + 1_000, lambda: timers.at(NOW_MS + 1_500, lambda: seen.append("first")))
    timers.settle()
    assert seen == []
    clock.advance(2)
    timers.settle()
    assert seen == ["first", "second"]


_ids = ["m1", "m2", "c1", "wm000001", "wk000001", "chat", "group", "fakemass0000000001"]
_said = [{"content": "x"}, {"content": 1}, {"title": "x", "url": "x"}, {"media_id": 1}, {"list": 1}]
_odd = [
    None,
    0,
    -1,
    1.5,
    True,
    "",
    [],
    [None],
    {},
    10**30,
    "text",
    "msgmenu",
    "single",
    "p-1",
    "px",
]
_deep = [{"sender_list": {"user_list": ["m1"]}}, {"sender_list": 1}, {"userid_list": [[]]}]
_lists = [[one] for one in [*_ids, *_said, {"msgtype": "link", "link": {}}, {"msgtype": []}]]
_values = st.sampled_from([*_ids, *_said, *_odd, *_deep, *_lists])
_NAMES = """
    touser agentid msgtype text link image msgmenu news open_kfid external_userid limit
    cursor external_userid_list service_state servicer_userid chatid userlist owner name
    add_user_list del_user_list msgid userid token offset start_time end_time chat_type
    sender attachments chat_id_list visible_range jobid moment_id welcome_code
    handover_userid takeover_userid new_owner owner_filter status_filter scene config_id
    userid_list page_size code creator enable_duplicate_check duplicate_check_interval
    toparty totag chat_id auto_create_room room_base_id response_code template_card
"""


@given(st.data())
def test_no_body_makes_it_stumble(data: st.DataObject) -> None:
    fake = FakeWecom(clock=StandingClock())
    corp = fake.world.corps[CORP]
    handlers = data.draw(st.lists(st.sampled_from(sorted(fake.handlers)), min_size=1, max_size=8))
    for name in handlers:
        body = data.draw(st.dictionaries(st.sampled_from(_NAMES.split()), _values, max_size=20))
        app = next(iter(corp.apps.values()))
        call = Call(corp, app, name, NOW_MS, body, fake.plan.fate(b""))
        try:
            fake.handlers[name](call)
        except Refused as refused:
            assert refused.errcode


def test_every_endpoint_of_the_hub_is_there_and_asked_for_as_the_hub_does() -> None:
    fake = FakeWecom()
    assert set(ENDPOINTS) <= set(fake.apis)
    for name, endpoint in ENDPOINTS.items():
        assert name in EITHER or (endpoint.method == "GET") == (name in GETS), name


def test_everything_that_can_be_made_to_happen_says_what_it_takes() -> None:
    for name, told in FakeWecom().help().items():
        assert told.startswith("{"), name
