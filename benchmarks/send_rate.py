"""How fast one account sends through one bind, and how long an urgent delivery waits beside it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.latency import quantile
from benchmarks.processes import cpu_s
from benchmarks.send_parts import (
    Bench,
    bench,
    deliveries,
    smpp_account,
    submitted,
)
from hub.checkers.account_records import AccountHistory, Submit
from hub.checkers.accounts import check_accounts
from hub.contract.types import Receipt
from hub.ledger.audit import Streams

WANTED_PER_S = 2_000
WINDOW = 64
URGENT_EVERY_S = 0.025
"""Between two urgent deliveries: each is stored, decided and sent by itself."""
ARMS = {"answers at once": 0.0, "answers after about 10 ms": 10.0}
"""How the simulator takes its time: it draws between half and one and a half of it, in ms."""


@dataclass
class Run:
    """One backlog sent."""

    name: str
    count: int
    seconds: float
    """First submission to last answer, by the simulator's clock."""
    told_seconds: float
    """First submission to the last receipt stored in INTAKE."""
    cpu_us: dict[str, float] = field(default_factory=dict)
    """Of each process, for one SMS with its receipts."""
    violations: int = 0

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


async def measure_rate(console: Console, options: argparse.Namespace) -> list[Row]:
    """All arms in rounds, then urgent deliveries beside a backlog."""
    runs: dict[str, list[Run]] = {}
    for number in range(options.rounds):
        for name, latency_ms in ARMS.items():
            console.print(f"[dim]round {number + 1}: {options.sms:,} SMS, {name} …[/dim]")
            runs.setdefault(name, []).append(await send(name, options, latency_ms))
    console.print(rate_table(runs))
    per_s = median(runs["answers at once"]).per_s
    lost = sum(run.violations for several in runs.values() for run in several)
    console.print(f"[dim]urgent deliveries beside {options.sms:,} …[/dim]")
    waits = {"read": await urgent(options, read=True), "unread": await urgent(options, read=False)}
    console.print(urgent_table(waits, options.sms))
    return [
        (
            f"one bind ≥ {WANTED_PER_S:,} SMS/s",
            f"{per_s:,.0f}",
            per_s >= WANTED_PER_S,
        ),
        ("repeats, losses, out of order", str(lost), not lost),
    ]


async def send(name: str, options: argparse.Namespace, latency_ms: float) -> Run:
    """Store a backlog, then start the host and let it send everything."""
    async with bench() as made:
        centre = await made.simulator("--latency-ms", str(latency_ms))
        await made.store(list(deliveries(options.sms)))
        host = await made.host([smpp_account(centre.port, window=WINDOW)], profile=options.profile)
        processes: dict[str, Callable[[], float]] = {
            "host": lambda: cpu_s(host.pid),
            "simulator": lambda: cpu_s(centre.pid),
            "server": made.cpu_s,
        }
        before = {who: used() for who, used in processes.items()}
        await host.ask("assign", list(range(made.partitions)))
        await host.until(lambda s: s["told"].get("delivered") == options.sms and not s["unsent"])
        used_us = {
            who: (used() - before[who]) / options.sms * 1e6 for who, used in processes.items()
        }
        await host.ask("stop")
        submits = submitted(await centre.finished())
        streams = await made.streams()
    first_ms = submits[0].at_ms
    last_answer_ms = submits[-1].at_ms + 1.5 * latency_ms
    told_ms = max(p.stored_ms for p in streams.published if isinstance(p.message, Receipt))
    return Run(
        name,
        options.sms,
        (last_answer_ms - first_ms) / 1000,
        (told_ms - first_ms) / 1000,
        used_us,
        violations(streams, submits),
    )


def violations(streams: Streams, submits: list[Submit]) -> int:
    """Of the promises of accounts."""
    history = AccountHistory(
        submits=submits, handed=streams.deliveries, published=streams.published
    )
    return len(check_accounts(history))


async def urgent(options: argparse.Namespace, *, read: bool) -> list[float]:
    """Waits (ms), stored in LEDGER to submitted, of urgent deliveries one at a time.

    `read`: they begin when the account knows all of the backlog; else they are stored behind it
    before the host has read anything.
    """
    async with bench() as made:
        centre = await made.simulator()
        await made.store(list(deliveries(options.sms)))
        host = await made.host([smpp_account(centre.port, window=WINDOW)])
        await host.ask("assign", list(range(made.partitions)))
        if read:
            known = options.sms - 2 * WINDOW  # the others are open, or answered just now
            await host.until(lambda status: status["waiting"] + total(status) >= known)
        probing = asyncio.create_task(probe(made, options.sms))
        await host.until(lambda status: total(status) >= options.sms)
        probing.cancel()
        await asyncio.wait([probing])
        await host.until(lambda status: not status["waiting"] and not status["open"])
        await host.ask("stop")
        submits = submitted(await centre.finished())
        streams = await made.streams()
    left = {submit.delivery: submit.at_ms for submit in submits}
    stored = {handed.delivery.id: handed for handed in streams.deliveries}
    backlog_ms = max(at for id, at in left.items() if stored[id].delivery.priority != 9)
    return [
        left[id] - handed.stored_ms
        for id, handed in stored.items()
        if handed.delivery.priority == 9 and handed.stored_ms < backlog_ms
    ]


def total(status: dict[str, dict[str, int]]) -> int:
    """How many have been told of."""
    return status["told"].get("sent", 0)


async def probe(made: Bench, most: int) -> None:
    """One urgent delivery after the other, each stored by itself."""
    for delivery in deliveries(most, urgent=True):
        await made.store([delivery])
        await asyncio.sleep(URGENT_EVERY_S)


# ---- the report ------------------------------------------------------------------------------


def median(runs: list[Run]) -> Run:
    """The run in the middle."""
    return sorted(runs, key=lambda run: run.per_s)[(len(runs) - 1) // 2]


def rate_table(runs: dict[str, list[Run]]) -> Table:
    table = Table(title=f"Stored in LEDGER → sent through one bind, window {WINDOW}; medians")
    headings = ("simulator", "SMS/s", "range", "told/s", "host µs", "simulator µs", "server µs")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    for name, several in runs.items():
        run = median(several)
        speeds = sorted(each.per_s for each in several)
        table.add_row(
            name,
            f"{run.per_s:,.0f}",
            f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}",
            f"{run.count / run.told_seconds:,.0f}",
            *(f"{used:.0f}" for used in run.cpu_us.values()),
        )
    return table


def urgent_table(waits: dict[str, list[float]], count: int) -> Table:
    table = Table(title=f"One urgent delivery at a time beside {count:,}: stored to submitted")
    for heading in ("backlog", "urgent", "p50 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="left" if heading == "backlog" else "right")
    names = {"read": "waits for the account", "unread": "waits to be read, too"}
    for which, several in waits.items():
        table.add_row(
            names[which],
            f"{len(several):,}",
            f"{quantile(several, 0.5):,.1f}",
            f"{quantile(several, 0.99):,.1f}",
            f"{max(several):,.1f}",
        )
    return table
