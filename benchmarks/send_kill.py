"""SIGKILL of a host with a thousand submissions open: nothing lost, nothing sent twice."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.figures import Row
from benchmarks.send_parts import (
    PATIENCE_S,
    Bench,
    bench,
    deliveries,
    delivery_of,
    smpp_account,
    submitted,
)
from hub.checkers.account_records import AccountHistory, Confirmed
from hub.checkers.accounts import check_accounts
from hub.clock import SystemClock
from hub.contract.types import Receipt
from hub.ledger.audit import Streams

COUNT = 4_000
OPEN = 1_000
LATENCY_MS = 3_000
"""Of an answer, between half and one and a half of it: so all of the window is open."""
UNKNOWN_AFTER_S = 10
WANTED_S = 5.0
"""From the kill to the next submission; and for telling what is unknown, after its deadline."""
ENDS = ("delivered", "failed", "unknown")


@dataclass
class Killed:
    """What a killed host left, and what became of it."""

    open: int
    """Submitted and unanswered at the kill."""
    next_s: float
    """From the kill to the successor's first submission."""
    resolved_s: float
    """To the last end told of what was open."""
    ends: Counter[str]
    """Of what was open."""
    twice: int
    lost: int
    violations: int


async def measure_send_kill(console: Console, options: argparse.Namespace) -> list[Row]:
    """With a second host beside it, as `account_hosts = 2` runs, told at once."""
    console.print(f"[dim]SIGKILL of a host with {OPEN:,} submissions open …[/dim]")
    found = await kill()
    ends = ", ".join(f"{count:,} {end}" for end, count in sorted(found.ends.items()))
    console.print(f"open at the kill: {found.open:,}; of these in the end {ends}")
    deadline_s = UNKNOWN_AFTER_S + WANTED_S
    return [
        (f"SIGKILL → next SMS ≤ {WANTED_S:g} s", f"{found.next_s:.2f} s", found.next_s <= WANTED_S),
        (
            f"what was open told within {UNKNOWN_AFTER_S} + {WANTED_S:g} s",
            f"{found.resolved_s:.1f} s",
            found.resolved_s <= deadline_s and found.open >= OPEN * 0.95,
        ),
        ("submitted twice", str(found.twice), not found.twice),
        ("lost", str(found.lost), not found.lost),
        ("other promises of accounts broken", str(found.violations), not found.violations),
    ]


async def kill() -> Killed:
    """Kill one host in mid-flight, and let the other finish."""
    clock = SystemClock()
    async with bench() as made:
        centre = await made.simulator("--latency-ms", str(LATENCY_MS))
        account = smpp_account(centre.port, window=OPEN, unknown_after=f"{UNKNOWN_AFTER_S}s")
        await made.store(list(deliveries(COUNT)))
        host, successor = [await made.host([account], name) for name in ("first", "second")]
        await host.ask("assign", list(range(made.partitions)))
        await host.until(lambda s: s["told"].get("sent", 0) >= OPEN and s["open"] >= OPEN * 0.99)
        await host.end(signal.SIGKILL)
        killed_ms = clock.now_ms()
        await successor.ask("assign", list(range(made.partitions)))
        await successor.until(lambda status: not status["waiting"] and not status["open"])
        streams = await ended(made)
        await successor.ask("stop")
        record = await centre.finished()
    return judge(record, streams, killed_ms)


async def ended(made: Bench) -> Streams:
    """Both streams, once every delivery has an end, or after a while."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            streams = await made.streams()
            if len(ends_of(streams)) >= COUNT:
                return streams
            await asyncio.sleep(1)


def ends_of(streams: Streams) -> dict[str, tuple[str, float]]:
    """Delivery to its end as told, and when that was stored."""
    return {
        each.message.delivery: (each.message.status, each.stored_ms)
        for each in streams.published
        if isinstance(each.message, Receipt) and each.message.status in ENDS
    }


def judge(record: list[dict[str, Any]], streams: Streams, killed_ms: int) -> Killed:
    """By the simulator's record and the receipts in INTAKE."""
    lines = [line for line in record if line["kind"] == "submit"]
    first_bind = lines[0]["bind"]
    by_first = {delivery_of(line): line for line in lines if line["bind"] == first_bind}
    later = [line for line in lines if line["bind"] != first_bind]
    told = ends_of(streams)
    answered = {
        each.message.delivery
        for each in streams.published
        if isinstance(each.message, Receipt) and each.message.status in ("sent", "delivered")
    }
    left_open = [id for id in by_first if id not in answered]
    known = {line["id"]: delivery_of(line) for line in later}
    confirmed = [
        Confirmed(line["at"], "bench", known[line["id"]], 0, 1, "delivered")
        for line in record
        if line["kind"] == "confirmed" and line["id"] in known
    ]
    submits = submitted(lines)
    history = AccountHistory(
        submits=submits,
        handed=streams.deliveries,
        published=streams.published,
        confirmed=confirmed,
    )
    return Killed(
        open=len(left_open),
        next_s=(min(line["at"] for line in later) - killed_ms) / 1000,
        resolved_s=(max(told[id][1] for id in left_open) - killed_ms) / 1000,
        ends=Counter(told[id][0] for id in left_open),
        twice=len(submits) - len({submit.delivery for submit in submits}),
        lost=COUNT - len({handed.delivery.id for handed in streams.deliveries} & told.keys()),
        violations=len(check_accounts(history)),
    )
