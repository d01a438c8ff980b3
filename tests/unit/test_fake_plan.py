"""What fakes do to messages: the same for a seed, whatever the order, and as often as asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from channels.sms.fake.faults import RECORD_LINES, Odds, Plan, Recorder

ODDS = Odds(throttle=0.2, lose_answers=0.1, duplicate_receipts=0.3, fail=0.5, latency_ms=10)


def test_the_order_of_messages_changes_nothing_and_the_seed_all() -> None:
    keys = [b"%d" % number for number in range(200)]
    one, two, other = Plan(7, ODDS), Plan(7, ODDS), Plan(8, ODDS)
    fates = {key: [one.fate(key), one.fate(key)] for key in keys}
    again: dict[bytes, list] = {key: [] for key in keys}
    for key in [*reversed(keys), *keys]:
        again[key].append(two.fate(key))
    assert fates == again
    assert fates != {key: [other.fate(key), other.fate(key)] for key in keys}


def test_shares_are_about_what_was_asked_for() -> None:
    plan = Plan(1, ODDS)
    fates = [plan.fate(b"%d" % number) for number in range(4000)]
    answers = Counter(fate.answer for fate in fates)
    assert answers["throttle"] == pytest.approx(800, rel=0.15)
    assert answers["lose"] == pytest.approx(400, rel=0.2)
    assert sum(fate.receipts == 2 for fate in fates) == pytest.approx(1200, rel=0.15)
    assert all(5 <= fate.latency_ms <= 15 for fate in fates)
    assert {fate.answers for fate in fates if fate.answer == "lose"} == {0}


def test_what_is_throttled_passes_at_a_later_try() -> None:
    plan = Plan(3, Odds(throttle=0.8))
    assert any(plan.fate(b"same").taken for _ in range(60))


def test_a_record_is_whole_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    recorder = Recorder(path)
    for number in range(RECORD_LINES + 3):
        recorder.write({"n": number})
    assert path.read_bytes().count(b"\n") == RECORD_LINES
    recorder.close()
    lines = [msgspec.json.decode(line)["n"] for line in path.read_bytes().splitlines()]
    assert lines == list(range(RECORD_LINES + 3))
