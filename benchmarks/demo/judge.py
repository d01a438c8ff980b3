"""What is judged after a run of the demo: every promise, and the counts that its tables show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo import pushed as pushing
from benchmarks.demo import sent as sending
from benchmarks.demo import talks as talking
from benchmarks.demo.attempts import AttemptLog
from benchmarks.demo.cdnow import find_log, read_log
from benchmarks.demo.centre import Record
from benchmarks.demo.customers import Customers
from benchmarks.demo.facts import customers as customers_of
from benchmarks.demo.facts import gather, longest_silence_ms
from benchmarks.demo.report import Parts, Run, show
from channels.accounts import load_accounts
from hub import limits
from hub.checkers import History, Violation, check_all


@dataclass(frozen=True)
class Kills:
    """Which hosts were killed, and when (Unix ms)."""

    host: int = 0
    host_ms: int = 0
    sender: int = 0
    sender_ms: int = 0
    pusher: int = 0
    pusher_ms: int = 0


@dataclass(frozen=True)
class Seen:
    """What is known of a run beside the streams."""

    published: dict[str, Any]
    """The application's last words."""
    acknowledged: set[tuple[str, str]]
    """(application, intent) of everything that was acknowledged."""
    sent: sending.Sent
    talks: talking.Talks
    pushes: pushing.Pushes
    kills: Kills


def judge(console: Console, history: History, seen: Seen) -> list[Violation]:
    """Show the tables; returns every broken promise."""
    sent, talks, pushes, kills = seen.sent, seen.talks, seen.pushes, seen.kills
    violations = [
        *check_all(history, seen.acknowledged),
        *sending.check(sent, history),
        *talking.check(talks, history),
        *pushing.check(pushes, history),
    ]
    run = Run(
        published=seen.published,
        complete=seen.published["purchases"] == len(read_log(find_log())),
        customers=customers_of(history),
        deliveries=len(history.deliveries),
        outcomes=len(history.outcomes),
        killed=(kills.host, kills.sender, kills.pusher),
        silence_s=longest_silence_ms(history, limits.PARTITIONS, kills.host_ms) / 1000,
        sms_silence_s=sending.silence_ms(sent.lines, kills.sender_ms) / 1000,
        push_silence_s=pushing.silence_ms(pushes, kills.pusher_ms) / 1000,
        end_ms=history.end_ms,
    )
    facts, sms = gather(history, kills.host_ms), sending.count(sent, history)
    spoken = talking.count(talks, history, kills.host_ms)
    pushed = pushing.count(pushes, history)
    show(console, run, facts, Parts(sent, sms, talks, spoken, pushes, pushed), violations)
    return violations


def sent_by(
    accounts: Path,
    record: Record,
    log: AttemptLog,
    customers: Customers,
    last: dict[str, int],
    throttled_s: float,
) -> sending.Sent:
    """What the SMS account did. Raises ConfigError."""
    record.read()
    (account,) = (each for each in load_accounts(accounts) if each.name == log.account)
    return sending.Sent(
        account,
        record.lines,
        log.openings,
        log.decided,
        log.found_open,
        customers.said,
        last[log.account],
        throttled_s,
    )


def pushed_by(
    accounts: Path,
    records: tuple[Path, Path, Path],
    logs: list[AttemptLog],
    last: dict[str, int],
) -> pushing.Pushes:
    """What the accounts that push did, and the gateway. Raises ConfigError."""
    names = {log.account for log in logs}
    mine = [each for each in load_accounts(accounts) if each.name in names]
    at_fcm, at_grid, in_inbox = map(read_record, records)
    return pushing.Pushes(mine, at_fcm, at_grid, in_inbox, logs, last)


def read_record(path: Path) -> list[dict[str, Any]]:
    """All lines of a fake's record."""
    record = Record(path)
    record.read()
    return record.lines
