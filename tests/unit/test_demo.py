"""The demo's parts, without processes: what the shop publishes, what is counted and printed."""

from __future__ import annotations

import io
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.demo import facts, gateway, partitions, purchases, report, run
from benchmarks.demo.child import Child, ChildFailed
from hub.checkers import History, Published, Violation, check_all
from hub.contract.decode import Rejection, decode
from hub.contract.subjects import partition_of
from hub.contract.types import Intent
from hub.policy.document import load_policy
from tests.support.histories import MINUTE_MS, Recorder, intent

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LOG = """ customer_id  date number_of_cds  dollar_value
 00001 19970101  1   11.77
 00002 19970112  1   12.00
 00002 19970112  5   77.00
 00003 19970102  2   20.76
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "CDNOW_master.txt"
    path.write_text(LOG)
    return path


def many(count: int) -> list[purchases.Purchase]:
    return [
        purchases.Purchase(
            number, f"{number % 97:05d}", f"199701{1 + number // 400:02d}", 1, "9.99"
        )
        for number in range(1, count + 1)
    ]


def decoded(one: purchases.Outgoing) -> list[object]:
    _, _, lane, source, _ = one.subject.split(".")
    packed = one.headers.get("Content-Type") == "application/msgpack"
    return list(decode(lane, source, one.payload, packed))


def test_the_log_is_read_in_the_order_of_its_days(log):
    assert [(p.number, p.customer, p.cds) for p in purchases.read_log(log)] == [
        (1, "00001", 1),
        (2, "00003", 2),
        (3, "00002", 1),
        (4, "00002", 5),
    ]


def test_the_log_is_found_where_packages_are(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="make demo"):
        purchases.find_log()
    (tmp_path / "lifetimes" / "datasets").mkdir(parents=True)
    (tmp_path / "lifetimes" / "datasets" / "CDNOW_master.txt").write_text(LOG)
    assert len(purchases.read_log(purchases.find_log())) == 4


def test_every_good_message_is_valid_and_the_same_every_time():
    policy = load_policy(run.POLICY)
    made = list(purchases.messages(many(1_000), NOW, 16))
    assert made == list(purchases.messages(many(1_000), NOW, 16))
    assert {one.kind for one in made} == {"purchase", "batch", "code", "repeat", "mistake"}
    for one in made:
        if one.kind == "mistake":
            continue
        found = decoded(one)
        assert all(isinstance(each, Intent) for each in found)
        assert len({partition_of(each.customer, 16) for each in found}) == 1
        assert {each.category for each in found} <= policy.categories.keys()
        assert one.kind == "repeat" or [each.id for each in found] == one.ids
    assert sum(one.purchases for one in made) == 1_000
    named = [one.message_id for one in made if one.kind in ("purchase", "batch", "code")]
    assert len(set(named)) == len(named)


def test_every_mistake_is_one_and_there_is_every_kind():
    made = purchases.messages(many(purchases.MISTAKE_EVERY * 40), NOW, 16)
    found = [one for one in made if one.kind == "mistake"]
    reasons = set()
    for one in found:
        objects = decoded(one)
        bad = [each for each in objects if isinstance(each, Rejection)]
        reasons |= {each.reason.partition(":")[0] for each in bad}
        good = [each for each in objects if isinstance(each, Intent)]
        assert bad or good[0].category == "astrology" or good[0].customer.startswith("not-")
        assert len(good) == len(one.ids) or not one.ids
    assert len(reasons) > 12
    for word in ("not JSON", "wrong lane", "not MessagePack", "in an array of", "object of"):
        assert any(reason.startswith(word) for reason in reasons), word


def test_the_gateway_knows_the_partitions_and_reports_everything_a_receipt_can_say():
    for key in ("00001", "c", "~group", "z" * 64):
        assert partitions.partition_of(key, 16) == partition_of(key, 16)
    words = {word for n in range(500) for word in gateway.answers(f"shop:order-{n}:1")}
    assert {status for status, _ in words} == {"sent", "delivered", "read", "failed", "unknown"}
    assert {failure for _, failure in words} == {None, "dead_address", "provider"}


def demo_history() -> History:
    """The shop's first 800 purchases, decided by the product under the demo's policy."""
    recorder = Recorder(load_policy(run.POLICY))
    for one in purchases.messages(many(800), NOW, 16):
        recorder.now += 40
        _, _, lane, source, _ = one.subject.split(".")
        packed = one.headers.get("Content-Type") == "application/msgpack"
        recorder.take(lane, source, one.payload, packed)
    recorder.run_wakes(recorder.now)
    return recorder.history()


def test_counts_and_tables_agree_with_the_history():
    history = demo_history()
    assert check_all(history) == []
    found = facts.gather(history, history.end_ms)
    assert sum(found.dispatched.values()) == len(history.deliveries)
    assert sum(found.rejected.values()) == sum(
        told.outcome.state == "rejected" for told in history.outcomes
    )
    assert found.held["night"].count and found.held["night"].first_ms
    assert found.suppressed["address"] and found.ended["superseded"] and found.held_before
    text = printed(history, found, [])
    for count in (*found.dispatched.values(), found.held["night"].count, found.held_before):
        assert f"{count:,}" in text
    assert "inside quiet hours" in text and "quiet-hours: inside" not in text


def test_violations_are_counted_and_shown():
    history = demo_history()
    violations = [
        Violation(promise="quiet-hours", kind="inside-quiet-hours", intent=f"i{n}")
        for n in range(7)
    ]
    text = printed(history, facts.gather(history, 0), violations)
    (line,) = [line for line in text.splitlines() if line.startswith("│ inside quiet hours")]
    assert " 7 " in line
    assert "intent=i4" in text and "intent=i5" not in text and "2 more" in text


def printed(history: History, found: facts.Facts, violations: list[Violation]) -> str:
    kinds = {"purchase": 270, "batch": 32, "code": 11, "repeat": 3, "mistake": 4}
    words = {
        "messages": kinds,
        "purchases": 800,
        "intents": 1_611,
        "refused_repeats": 1,
        "seconds": 32.0,
    }
    seen = report.Run(
        published=words,
        complete=True,
        customers=facts.customers(history),
        deliveries=len(history.deliveries),
        outcomes=len(history.outcomes),
        killed_pid=1,
        silence_s=0.5,
        end_ms=history.end_ms,
    )
    output = io.StringIO()
    report.show(Console(file=output, width=report.WIDTH), seen, found, violations)
    assert max(map(len, output.getvalue().splitlines())) <= report.WIDTH
    return output.getvalue()


def test_the_silence_after_a_kill_begins_with_it():
    recorder = Recorder(load_policy(run.POLICY))
    killed_ms = recorder.now
    for after_ms in (-MINUTE_MS, -10, 300, 2_700, 4_000):
        recorder.now = killed_ms + after_ms
        recorder.publish("normal", intent(f"i{after_ms}", "c1"))
    assert facts.longest_silence_ms(recorder.history(), 16, killed_ms) == 2_400
    assert facts.longest_silence_ms(recorder.history(), 16, killed_ms + 5_000) == 0


def test_waits_are_measured_from_the_stored_times_of_both_streams():
    recorder = Recorder(load_policy(run.POLICY))
    recorder.publish("urgent", intent("a", category="otp"))
    late = recorder.told[0]
    history = History(
        [Published("urgent", "shop", 1, recorder.now - 12.5, recorder.published[0].message)],
        [late],
        [],
        [load_policy(run.POLICY)],
        recorder.now,
    )
    found = facts.gather(history, recorder.now + 1)
    assert dict(found.waits_ms) == dict(found.calm_ms) == {"urgent": [12.5]}
    assert dict(facts.gather(history, recorder.now).calm_ms) == {}
    assert found.seconds == 0.0125
    assert [facts.percentile([1, 2, 3, 4], share) for share in (0.25, 0.5, 0.99)] == [1, 2, 4]
    assert facts.percentile([], 0.5) == 0


STUBBORN = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"done": False}), flush=True)
print("what it was", file=sys.stderr, flush=True)
time.sleep(60)
"""


async def test_a_child_that_does_not_end_is_ended_and_says_why(tmp_path):
    child = await Child.start("child", [sys.executable, "-c", STUBBORN], tmp_path)
    assert await child.line(20) == {"done": False}
    with pytest.raises(ChildFailed, match="child said nothing for 0 s"):
        await child.line(0.1)
    await child.clear_away(0.1)
    assert child.process.returncode == -signal.SIGKILL
    with pytest.raises(ChildFailed, match=r"exit code -9.*\nwhat it was"):
        child.terminate()
    await child.clear_away(0)


async def test_lines_end_with_the_one_that_is_done(tmp_path):
    code = 'print(\'{"done": false}\\n{"done": true}\\n{"done": false}\')'
    child = await Child.start("child", [sys.executable, "-c", code], tmp_path)
    assert [line["done"] async for line in child.lines(20)] == [False, True]
    assert await child.line(20) == {"done": False}
    with pytest.raises(ChildFailed, match="ended with exit code 0"):
        await child.line(20)
