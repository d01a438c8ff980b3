"""The demo's tables: what happened, in plain words, and the promises as the checkers found them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.demo.facts import Facts, percentile
from hub.checkers import Violation

WIDTH = 100
REASONS_SHOWN = 10
VIOLATIONS_SHOWN = 5

PROMISES = {
    "exactly-once": ("decided twice", "intents"),
    "nothing-lost": ("lost", "intents"),
    "final-is-final": ("decided again after the end", "intents"),
    "caps": ("over a cap", "deliveries"),
    "gaps": ("closer together than a gap", "deliveries"),
    "quiet-hours": ("inside quiet hours", "deliveries"),
    "in-order": ("out of order", "deliveries"),
    "reason-given": ("held or refused without a reason", "outcomes"),
}
"""Checker to what a broken promise is called, and among what it was looked for."""


@dataclass(frozen=True)
class Run:
    """What the demo itself saw, beside the streams."""

    published: dict[str, Any]
    """The application's last words."""
    complete: bool
    """Whether the whole log was published: a slow disk ends it early."""
    customers: int
    deliveries: int
    outcomes: int
    killed_pid: int
    silence_s: float
    """From the kill to the next decision for the last of the dead host's partitions."""
    end_ms: float


def show(console: Console, run: Run, facts: Facts, violations: list[Violation]) -> None:
    for table in (
        _published(run),
        _became(run, facts),
        _speed(run, facts),
        _promises(run, facts, violations),
    ):
        console.print()
        console.print(table)
    for violation in violations[:VIOLATIONS_SHOWN]:
        console.print(f"  {violation}", style="red", markup=False)
    if len(violations) > VIOLATIONS_SHOWN:
        console.print(f"  … and {len(violations) - VIOLATIONS_SHOWN:,} more", style="red")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", width=WIDTH)
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number == 1 else "left",
            ratio=(3, 1, 5)[number],
            overflow="fold",
        )
    return table


def _published(run: Run) -> Table:
    kinds, words = run.published["messages"], run.published
    table = _table("What the shop published", "message", "count", "what it was")
    cut = "" if run.complete else "; the time was up before the end of the log"
    table.add_row(
        "purchases",
        f"{words['purchases']:,}",
        f"an order notice and an offer each, to {run.customers:,} customers{cut}",
    )
    table.add_row("  messages, one purchase", f"{kinds['purchase']:,}", "on the normal lane")
    table.add_row(
        "  messages, a week's batch", f"{kinds['batch']:,}", "arrays by partition, on the bulk lane"
    )
    table.add_row("one-time codes", f"{kinds['code']:,}", "alone, on the urgent lane")
    table.add_row(
        "repeats",
        f"{kinds['repeat']:,}",
        f"{words['refused_repeats']:,} refused by their Nats-Msg-Id, the others left to the hub",
    )
    table.add_row("mistakes", f"{kinds['mistake']:,}", "bad in every way the contract names")
    table.add_row("intents acknowledged", f"{words['intents']:,}", f"in {words['seconds']:.0f} s")
    return table


def _became(run: Run, facts: Facts) -> Table:
    table = _table("What became of it", "decision", "count", "why, and until when")
    for channel, count in facts.dispatched.most_common():
        table.add_row(f"dispatched by {channel}", f"{count:,}", "")
    table.add_row("  of these held first", f"{facts.held_before:,}", "released when they might go")
    words = facts.reported
    table.add_row(
        "  of these delivered",
        f"{words['delivered'] + words['read']:,}",
        f"{words['read']:,} read, {words['failed']:,} failed, "
        f"{words[''] + words['sent']:,} without a final word",
    )
    table.add_section()
    for rules, until in sorted(facts.held.items(), key=lambda item: -item[1].count):
        first, last = _moment(until.first_ms, run.end_ms), _moment(until.last_ms, run.end_ms)
        when = (
            f"until {first}"
            if first == last
            else f"until {first} at the earliest, {last} at the latest"
        )
        table.add_row("held", f"{until.count:,}", f"{rules}: {when}")
    for rules, count in facts.suppressed.most_common():
        table.add_row("suppressed", f"{count:,}", _suppressed(rules))
    for state, count in facts.ended.most_common():
        table.add_row(state, f"{count:,}", _ENDINGS.get(state, ""))
    table.add_section()
    _add_reasons(table, facts.rejected)
    return table


_ENDINGS = {
    "superseded": "a newer offer with the same collapse key took its place",
    "duplicate": "the shop had already sent this id to this customer",
    "expired": "its time ran out",
    "cancelled": "taken back by a command",
}


def _suppressed(rules: str) -> str:
    if rules == "address":
        return "no address known for any channel of the route"
    return f"{rules}: would end before it may go"


def _add_reasons(table: Table, rejected: Counter[str]) -> None:
    shown = rejected.most_common(REASONS_SHOWN)
    for reason, count in shown:
        table.add_row("rejected", f"{count:,}", reason)
    others = len(rejected) - len(shown)
    if others > 0:
        count = sum(rejected.values()) - sum(count for _, count in shown)
        table.add_row("rejected", f"{count:,}", f"for {others} other reasons")


def _moment(ms: int | None, now_ms: float) -> str:
    if ms is None:
        return "somebody releases it"
    at = datetime.fromtimestamp(ms / 1000, UTC)
    left_s = (ms - now_ms) / 1000
    if left_s < 90:
        return f"{at:%H:%M:%S} UTC"
    hours, minutes = divmod(round(left_s / 60), 60)
    return f"{at:%H:%M} UTC (in {hours} h {minutes:02d})" if hours else f"{at:%H:%M} UTC"


def _speed(run: Run, facts: Facts) -> Table:
    table = Table(title="How fast", title_justify="left", title_style="bold", width=WIDTH)
    table.add_column("decision time, acknowledged to committed", ratio=5)
    table.add_column("before the kill", justify="right", ratio=2)
    table.add_column("whole run", justify="right", ratio=2)
    for name, urgent in (("one-time codes", True), ("all other intents", False)):
        calm, whole = (_waits(waits, urgent) for waits in (facts.calm_ms, facts.waits_ms))
        for word, share in (("p50", 0.5), ("p99", 0.99)):
            table.add_row(
                f"{name}, {word}",
                f"{percentile(calm, share):,.0f} ms",
                f"{percentile(whole, share):,.0f} ms",
            )
    table.add_section()
    per_s = facts.decided / facts.seconds if facts.seconds else 0.0
    table.add_row("intents decided, at the shop's pace", "", f"{per_s:,.0f} /s")
    table.add_row(
        f"longest silence after SIGKILL of host {run.killed_pid}",
        "",
        f"{run.silence_s:.1f} s",
    )
    return table


def _waits(by_lane: dict[str, list[float]], urgent: bool) -> list[float]:
    return sorted(
        wait for lane, waits in by_lane.items() if (lane == "urgent") is urgent for wait in waits
    )


def _promises(run: Run, facts: Facts, violations: list[Violation]) -> Table:
    table = Table(title="What was promised", title_justify="left", title_style="bold", width=WIDTH)
    table.add_column("broken promise", ratio=4)
    table.add_column("found", justify="right", ratio=1)
    table.add_column("computed from both streams, among", ratio=4)
    among = {"intents": facts.intents, "deliveries": run.deliveries, "outcomes": run.outcomes}
    found = Counter(violation.promise for violation in violations)
    for promise, (name, what) in PROMISES.items():
        count = found[promise]
        style = "bold red" if count else "bold green"
        table.add_row(name, f"[{style}]{count:,}[/]", f"{among[what]:,} {what}")
    return table
