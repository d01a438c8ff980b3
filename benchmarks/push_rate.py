"""How fast one host of accounts pushes, and what that costs beside a bare loop of the same client.

Nothing is raised above the documented limits: 600,000 messages a minute of a project and 240 of a
device at FCM; at APNs the streams that the other side allows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.processes import cpu_s
from benchmarks.push_parts import APNS, FCM, Service, fake_of, pushes, taken
from benchmarks.send_parts import bench
from benchmarks.wecom_parts import copy_of
from benchmarks.wecom_rate import ended
from hub.checkers.account_records import AccountHistory, Submit
from hub.checkers.accounts import check_accounts
from hub.contract.types import Receipt
from hub.ledger.audit import Streams


@dataclass
class Run:
    """One backlog sent, by the hub and by a bare loop."""

    count: int
    seconds: float
    """First push that the fake took to the last, by the fake's clock."""
    told_seconds: float
    """The same to the last receipt stored in INTAKE."""
    cpu_us: dict[str, float] = field(default_factory=dict)
    """Of each process, for one push."""
    bare_us: float = 0.0
    """Of the bare loop's process, for one push."""
    connections: int = 0
    """Of APNs, by the fake's count."""
    not_taken: int = 0
    """Requests that the fake refused, for whatever reason."""
    violations: int = 0

    @property
    def per_s(self) -> float:
        """Of the slower, taking and telling."""
        return self.count / max(self.seconds, self.told_seconds)

    @property
    def ratio(self) -> float:
        """The host's CPU to the bare loop's."""
        return self.cpu_us["host"] / self.bare_us


async def measure_fcm(console: Console, options: argparse.Namespace) -> list[Row]:
    """3,000 a second."""
    return await measure(FCM, console, options)


async def measure_apns(console: Console, options: argparse.Namespace) -> list[Row]:
    """2,000 a second over two connections."""
    runs: list[Run] = []
    rows = await measure(APNS, console, options, runs)
    most = max(run.connections for run in runs)
    return [*rows, ("connections to APNs ≤ 2", str(most), most <= 2)]


async def measure(
    service: Service,
    console: Console,
    options: argparse.Namespace,
    runs: list[Run] | None = None,
) -> list[Row]:
    """Bare loop and hub in turns; `runs` gets them all."""
    runs = [] if runs is None else runs
    for number in range(options.rounds):
        about = f"round {number + 1}: {options.messages:,} pushes, {service.name}"
        console.print(f"[dim]{about}, bare loop …[/dim]")
        bare_us = await bare(service, options)
        console.print(f"[dim]{about}, one host …[/dim]")
        run = await send(service, options)
        run.bare_us = bare_us
        runs.append(run)
    console.print(table(service, runs))
    per_s = median(run.per_s for run in runs)
    broken, refused = sum(run.violations for run in runs), sum(run.not_taken for run in runs)
    wanted = service.wanted_per_s
    return [
        (f"{service.name}, one host ≥ {wanted:,}/s", f"{per_s:,.0f}/s", per_s >= wanted),
        (f"{service.name}: repeats, losses, out of order", str(broken), not broken),
        (f"{service.name}: requests that were not taken", str(refused), not refused),
    ]


async def bare(service: Service, options: argparse.Namespace) -> float:
    """CPU µs of one push in a bare loop."""
    async with bench() as made:
        fake, account = await fake_of(made, service)
        command = ["-m", "benchmarks.push_bare", "--accounts", made.pickled([account])]
        command += ["--count", str(options.messages)]
        child = await made.beside([sys.executable, *command])
        before = cpu_s(child.pid)
        statuses = await child.ask("begin")
        used_us: float = (cpu_s(child.pid) - before) / options.messages * 1e6
        await fake.finished()
    if statuses != {"200": options.messages}:
        raise SystemExit(f"the bare loop was answered {statuses}")
    return used_us


async def send(service: Service, options: argparse.Namespace) -> Run:
    """Store everything, start the host, and let it send."""
    count = options.messages
    async with bench() as made:
        fake, account = await fake_of(made, service)
        await made.store(list(pushes(service, count)))
        host = await made.host([account], profile=copy_of(options.profile, service.provider))
        processes: dict[str, Callable[[], float]] = {
            "host": lambda: cpu_s(host.pid),
            "fake": lambda: cpu_s(fake.pid),
            "server": made.cpu_s,
        }
        before = {who: used() for who, used in processes.items()}
        await host.ask("assign", list(range(made.partitions)))
        await host.until(lambda status: ended(status) == count and not status["unsent"])
        cpu_us = {who: (used() - before[who]) / count * 1e6 for who, used in processes.items()}
        await host.ask("stop")
        submits = taken(service, await fake.finished())
        streams = await made.streams()
    first_ms = min(submit.at_ms for submit in submits)
    last_ms = max(submit.at_ms for submit in submits)
    told_ms = max(p.stored_ms for p in streams.published if isinstance(p.message, Receipt))
    return Run(
        count,
        (last_ms - first_ms) / 1000,
        (told_ms - first_ms) / 1000,
        cpu_us,
        connections=fake.counts.get("connections", 0),
        not_taken=fake.counts["requests"] - fake.counts["taken"],
        violations=violations(streams, submits, count),
    )


def violations(streams: Streams, submits: list[Submit], count: int) -> int:
    """Of the promises of accounts; what was not sent, not told as sent, or sent by nobody."""
    history = AccountHistory(
        submits=submits, handed=streams.deliveries, published=streams.published
    )
    handed = {each.delivery.id for each in streams.deliveries}
    sent = {submit.delivery for submit in submits}
    told = {
        each.message.delivery
        for each in streams.published
        if isinstance(each.message, Receipt) and each.message.status == "sent"
    }
    return len(check_accounts(history)) + 2 * count - len(sent & told) - len(sent & handed)


def table(service: Service, runs: list[Run]) -> Table:
    """Medians of all rounds."""
    made = Table(title=f"{service.name}: stored in LEDGER → taken, through one host; medians")
    for heading in (
        "pushes/s",
        "range",
        "told/s",
        "host µs",
        "bare loop µs",
        "ratio",
        "fake µs",
        "server µs",
    ):
        made.add_column(heading, justify="right")
    speeds = sorted(run.count / run.seconds for run in runs)
    host, fake, server = (
        f"{median(run.cpu_us[who] for run in runs):.0f}" for who in ("host", "fake", "server")
    )
    made.add_row(
        f"{median(speeds):,.0f}",
        f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}",
        f"{median(run.count / run.told_seconds for run in runs):,.0f}",
        host,
        f"{median(run.bare_us for run in runs):.0f}",
        f"{median(run.ratio for run in runs):.2f}",
        fake,
        server,
    )
    return made
