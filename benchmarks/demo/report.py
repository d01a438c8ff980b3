"""The demo's tables: what happened, in plain words, and the promises as the checkers found them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.demo.facts import Facts, Until, percentile
from benchmarks.demo.pushed import Pushes, PushFacts
from benchmarks.demo.report_push import add_pushes
from benchmarks.demo.report_wecom import add_talks
from benchmarks.demo.sent import Sent, SentFacts
from benchmarks.demo.talks import TalkFacts, Talks
from hub.checkers import Violation
from hub.checkers.records import FAILED

WIDTH = 100
SUPPRESSED_SHOWN = 6
VIOLATIONS_SHOWN = 5

PROMISES = {
    "exactly-once": ("decided twice", "intents"),
    "nothing-lost": ("lost", "intents"),
    "final-is-final": ("decided after the end", "intents"),
    "caps": ("over a cap", "deliveries"),
    "gaps": ("closer than a gap", "deliveries"),
    "quiet-hours": ("inside quiet hours", "deliveries"),
    "in-order": ("out of order", "deliveries"),
    "reason-given": ("no reason given", "outcomes"),
    "taken-back": ("failed ones counted", "outcomes"),
    "fallback": ("fallback for no cause", "fallbacks"),
    "sent-once": ("submitted twice", "sent"),
    "one-open-attempt": ("two attempts open", "attempts"),
    "account-limits": ("over account's limits", "sent"),
    "leaves-in-order": ("left out of order", "sent"),
    "every-delivery-ends": ("end never told", "messages"),
    "receipts-count": ("receipt without effect", "receipts"),
    "replies-are-kept": ("SMS of customers lost", "replies"),
    "refusals-obeyed": ("marketing after a refusal", "refusals"),
    "windows": ("window was closed", "deliveries"),
    "everybody-is-heard": ("not heard, or twice", "written in"),
    "written-once": ("sent twice by WeCom", "by WeCom"),
    "welcomed-in-time": ("welcome late or none", "who came"),
    "wecom-limits": ("over a limit of WeCom", "by WeCom"),
    "takeover-holds": ("campaign in a takeover", "campaigns"),
    "dead-devices": ("push to a dead device", "pushes"),
    "counted-once": ("device counted by a cap", "dispatches"),
    "pushed-as-told": ("pushed twice, or never", "pushes"),
    "one-key": ("repeat under another id", "webhooks"),
    "live-feed": ("wrong in the live feed", "lines"),
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
    killed: tuple[int, int, int]
    """Pids of the host that decided, the one that sent, and the one that pushed."""
    silence_s: float
    """From the kill to the next decision for the last of the dead host's partitions."""
    sms_silence_s: float
    """From the kill of the host that sent to the next SMS."""
    push_silence_s: float
    """From the kill of the host that pushed to the next push by FCM."""
    end_ms: float


class Parts(NamedTuple):
    """What the hub's own accounts did, and the counts of it."""

    sent: Sent
    sms: SentFacts
    talks: Talks
    spoken: TalkFacts
    pushes: Pushes
    pushed: PushFacts


def show(
    console: Console, run: Run, facts: Facts, parts: Parts, violations: list[Violation]
) -> None:
    among = _among(run, facts, parts)
    for table in (
        _published(run),
        _became(run, facts),
        _pushed(parts.pushed),
        _sent(facts, parts.sent, parts.sms),
        _talked(parts.talks, parts.spoken),
        _speed(run, facts),
        _promises(among, violations),
    ):
        console.print(table)
        console.print()
    for violation in violations[:VIOLATIONS_SHOWN]:
        console.print(f"  {violation}", style="red", markup=False)
    if len(violations) > VIOLATIONS_SHOWN:
        console.print(f"  … and {len(violations) - VIOLATIONS_SHOWN:,} more", style="red")


def _table(*columns: str, ratios: tuple[int, ...] = (26, 9, 65)) -> Table:
    """The name of its first column is the table's."""
    table = Table(box=None, width=WIDTH, pad_edge=False, header_style="bold underline")
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number == 1 and len(columns) == 3 else "left",
            ratio=ratios[number],
            overflow="fold",
        )
    return table


def _published(run: Run) -> Table:
    kinds, words = run.published["messages"], run.published
    table = _table("What the shop published", "count", "what it was")
    cut = "" if run.complete else "; the time was up before the end of the log"
    table.add_row(
        "purchases",
        f"{words['purchases']:,}",
        f"an order notice and an offer each, to {run.customers:,} customers{cut}",
    )
    table.add_row(
        "  in messages",
        f"{kinds['purchase'] + kinds['batch']:,}",
        f"{kinds['purchase']:,} of one purchase; {kinds['batch']:,} of a week's, by partition",
    )
    table.add_row("one-time codes", f"{kinds['code']:,}", "alone, on the urgent lane")
    table.add_row(
        "repeats, mistakes",
        f"{kinds['repeat'] + kinds['mistake']:,}",
        f"{kinds['repeat']:,} repeats, {words['refused_repeats']:,} refused by the server; "
        f"{kinds['mistake']:,} mistakes of all kinds",
    )
    table.add_row("intents acknowledged", f"{words['intents']:,}", f"in {words['seconds']:.0f} s")
    return table


def _became(run: Run, facts: Facts) -> Table:
    table = _table("What became of it", "count", "why, and until when")
    for channel, count in facts.dispatched.most_common():
        who = _WHO.get(channel, "")
        table.add_row(f"dispatched by {channel}", f"{count:,}", who)
    table.add_row("  intents held first", f"{facts.held_before:,}", "released when they might go")
    words = facts.reported
    table.add_row(
        "  intents delivered",
        f"{words['delivered'] + words['read']:,}",
        f"{words['read']:,} read; {words['sent']:,} sent, and FCM tells no more; {facts.gave_up:,} "
        f"failed, no channel of the route was left; {words['']:,} without a word",
    )
    for rules, until in sorted(facts.held.items(), key=lambda item: -item[1].count):
        table.add_row("held", f"{until.count:,}", f"{rules}: {_until(until, run.end_ms)}")
    _add_most_common(table, "suppressed", facts.suppressed, _suppressed, SUPPRESSED_SHOWN)
    for state, count in facts.ended.most_common():
        table.add_row(state, f"{count:,}", _ENDINGS.get(state, ""))
    reason, most = next(iter(facts.rejected.most_common(1)), ("", 0))
    table.add_row(
        "rejected",
        f"{facts.rejected.total():,}",
        f"for {len(facts.rejected):,} reasons; {most:,} {reason}",
    )
    return table


_WHO = {
    "push": "by accounts at FCM and of signed webhooks, and by a gateway over NATS",
    "sms": "by an account at an SMS centre",
    "wecom": "by four accounts of a corp",
}
_ENDINGS = {
    "superseded": "a newer offer with the same collapse key took its place",
    "duplicate": "the shop had already sent this id to this customer",
    "expired": "its time ran out",
    "cancelled": "taken back by a command",
}


def _suppressed(rules: str) -> str:
    if rules == "dnd:all":
        return "the customer has refused by SMS"
    if rules == "address":
        return "no address known for any channel of the route"
    return f"{rules}: would end before it may go"


def _add_most_common(
    table: Table, name: str, counts: Counter[str], word: Callable[[str], str], most: int
) -> None:
    shown = counts.most_common(most)
    for rules, count in shown:
        table.add_row(name, f"{count:,}", word(rules))
    if others := counts.total() - sum(count for _, count in shown):
        table.add_row(name, f"{others:,}", f"for {len(counts) - most:,} other reasons")


def _until(until: Until, now_ms: float) -> str:
    if until.first_ms is None or until.last_ms is None:
        return "until somebody releases it"
    first = datetime.fromtimestamp(until.first_ms / 1000, UTC)
    minutes = max(0, round((until.last_ms - now_ms) / 60_000))
    return f"next at {first:%H:%M} UTC, the last in {minutes // 60} h {minutes % 60:02d}"


def _sent(facts: Facts, sent: Sent, sms: SentFacts) -> Table:
    allowed = ", ".join(sent.account.limits_of("account")) or "none"
    a_number = ", ".join(sent.account.limits_of("recipient")) or "none"
    words = sms.reported
    table = _table("What the SMS account did", "count", f"limits {allowed}; a number {a_number}")
    table.add_row(
        "submitted",
        f"{sms.submitted:,}",
        f"to an SMPP centre in a process of its own; {sms.throttled:,} throttled by it",
    )
    table.add_row("  delivered", f"{words['delivered'] + words['read']:,}", "by its receipts")
    failures = ", ".join(f"{count:,} {why}" for why, count in sms.failures.most_common(3))
    table.add_row("  failed", f"{words['failed']:,}", failures)
    table.add_row(
        "  unknown",
        f"{words['unknown']:,}",
        f"{sms.found_open:,} were open at the kill ({sms.arrived:,} of them had arrived: none is "
        f"sent again), {sms.unanswered:,} answers were lost",
    )
    table.add_row("throttled seconds", f"{sent.throttled_s:.1f}", "the centre had it pause")
    for step, became in sorted(facts.fallbacks.items(), key=lambda item: -item[1].total()):
        cause = "failed" if step.cause == FAILED else "did not deliver in time"
        told = ", ".join(
            f"{count:,} {word or 'no word yet'}" for word, count in became.most_common()
        )
        table.add_row(
            f"fallback to {step.channel}", f"{became.total():,}", f"{step.before} {cause}: {told}"
        )
    table.add_row(
        "customers who answered",
        f"{len(sent.said):,}",
        f"{sms.refusals:,} refused: {sms.replies:,} got an answer, {sms.withheld:,} offers to them "
        "were not sent",
    )
    return table


def _pushed(pushed: PushFacts) -> Table:
    table = _table("What was pushed", "count", "FCM, a partner's system, a gateway: each a process")
    add_pushes(table, pushed)
    return table


def _talked(talks: Talks, spoken: TalkFacts) -> Table:
    table = _table("What happened at WeCom", "count", "WeCom: a fake in a process of its own")
    add_talks(table, spoken, talks.told)
    return table


def _speed(run: Run, facts: Facts) -> Table:
    table = _table("How fast", "p50", "acknowledged to committed")
    for name, urgent in (("one-time codes", True), ("all other intents", False)):
        calm, whole = (_waits(waits, urgent) for waits in (facts.calm_ms, facts.waits_ms))
        table.add_row(
            name,
            f"{percentile(calm, 0.5):,.0f} ms",
            f"p99 {percentile(calm, 0.99):,.0f} ms, before the first kill; whole run "
            f"{percentile(whole, 0.5):,.0f} and {percentile(whole, 0.99):,.0f} ms",
        )
    per_s = facts.decided / facts.seconds if facts.seconds else 0.0
    table.add_row("intents decided", f"{per_s:,.0f}/s", "at the shop's pace")
    table.add_row(
        "longest silence",
        f"{run.silence_s:.1f} s",
        f"after SIGKILL of host {run.killed[0]}, which decided; "
        f"{run.sms_silence_s:.1f} s without an SMS after that of {run.killed[1]}, "
        f"{run.push_silence_s:.1f} s without a push after that of {run.killed[2]}",
    )
    return table


def _waits(by_lane: dict[str, list[float]], urgent: bool) -> list[float]:
    return sorted(
        wait for lane, waits in by_lane.items() if (lane == "urgent") is urgent for wait in waits
    )


def _among(run: Run, facts: Facts, parts: Parts) -> dict[str, int]:
    """Among how many things broken promises were looked for."""
    sent, sms, talks, spoken, pushes, pushed = parts
    openings = [each for log in (*talks.logs, *pushes.logs) for each in log.openings]
    taken = len(talks.seen.taken)
    requests = len(pushes.at_fcm) + len(pushes.posts) + len(pushes.in_inbox)
    return {
        "intents": facts.intents,
        "deliveries": run.deliveries,
        "outcomes": run.outcomes,
        "fallbacks": sum(became.total() for became in facts.fallbacks.values()),
        "sent": sms.submitted + taken + requests,
        "attempts": sum(opening.open for opening in [*sent.openings, *openings]),
        "messages": sms.reported.total() + spoken.handed + pushed.handed,
        "receipts": sum(line["kind"] == "confirmed" for line in sent.lines)
        + pushed.receipts.total(),
        "replies": len(sent.said),
        "refusals": sms.refusals,
        "lines": spoken.shown,
        "written in": len(talks.seen.wrote),
        "by WeCom": taken,
        "who came": len(talks.seen.came),
        "campaigns": spoken.campaigns,
        "pushes": pushed.handed,
        "dispatches": pushed.dispatches,
        "webhooks": len(pushes.posts),
    }


def _promises(among: dict[str, int], violations: list[Violation]) -> Table:
    found = Counter(violation.promise for violation in violations)
    cells = []
    for promise, (name, what) in PROMISES.items():
        style = "bold red" if found[promise] else "bold green"
        cells.append((name, f"[{style}]{found[promise]:,}[/] of {among[what]:,} {what}"))
    table = _table("What was promised", "broken", "", "broken", ratios=(23, 25, 29, 23))
    half = (len(cells) + 1) // 2
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=("", "")):
        table.add_row(*left, *right)
    return table
