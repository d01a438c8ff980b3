"""How exactly an account keeps to its limit: by its own clock, by the kernel's at the packets it
sends, and by the simulator's, which also tells how late that reads."""

from __future__ import annotations

import argparse
import asyncio
import sys
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.send_parts import bench, deliveries, smpp_account, submitted
from hub.checkers.account_limits import WithinLimits
from hub.checkers.account_records import AccountHistory, LimitRule, Submit

RATES = (50, 500)
SECONDS = 60
WANTED_SHARE = 0.01

Watch = Callable[[int], Awaitable[None]]


async def measure_pacing(console: Console, options: argparse.Namespace) -> list[Row]:
    """A minute at each limit, with more waiting than may leave."""
    table = Table(title=f"{SECONDS} s at a limit of the account")
    headings = (
        "limit",
        "sent",
        "of it",
        "most in 1 s: own clock",
        "packets",
        "simulator",
        "over",
        "commit ms",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    rows: list[Row] = []
    for rate in RATES:
        console.print(f"[dim]{SECONDS} s at {rate}/s …[/dim]")
        arrived, left, sent_ms, commit_ms = await pace(rate)
        begin = arrived[0].at_ms
        sent = sum(submit.at_ms < begin + SECONDS * 1000 for submit in arrived)
        share = sent / (rate * SECONDS)
        most_arrived = most_in_a_second([submit.at_ms for submit in arrived])
        most_left = most_in_a_second([submit.at_ms for submit in left])
        most_sent = most_in_a_second(sent_ms)
        over = len(violations(rate, left))
        table.add_row(
            f"{rate}/s",
            f"{sent:,}",
            f"{share:.4f}",
            str(most_left),
            str(most_sent) if sent_ms else "not seen",
            str(most_arrived),
            str(over),
            f"{commit_ms:.1f}",
        )
        exact = abs(share - 1) <= WANTED_SHARE
        rows += [
            (f"{rate}/s within 1 %", f"{(share - 1) * 100:+.2f} %", exact),
            (
                f"never more than {rate} in a second",
                f"{most_left} by its own clock, {most_sent or '?'} by its packets; {most_arrived} "
                "when the simulator reads",
                not over and 0 < most_sent <= rate,
            ),
        ]
    console.print(table)
    return rows


async def pace(rate: int) -> tuple[list[Submit], list[Submit], list[float], float]:
    """Submissions of a good minute, as they arrived and as they left; times (ms) of the packets,
    none where they may not be seen; ms of a mean commit."""
    sent_ms: list[float] = []
    async with bench() as made, packets(made.directory, sent_ms) as watch:
        centre = await made.simulator()
        await watch(centre.port)
        await made.store(list(deliveries(rate * (SECONDS + 10))))
        host = await made.host([smpp_account(centre.port, per=[f"{rate}/s"])], watch=True)
        await host.ask("assign", list(range(made.partitions)))
        wanted = rate * (SECONDS + 2)
        status = await host.until(lambda status: status["told"].get("sent", 0) >= wanted)
        file = made.directory / "departures"
        await host.ask("departures", str(file))
        await host.ask("stop")
        arrived = submitted(await centre.finished())
        left = departures(file, arrived)
    return arrived, left, sent_ms, status["commit_ms"]


@asynccontextmanager
async def packets(directory: Path, sent_ms: list[float]) -> AsyncIterator[Watch]:
    """`watch(port)` begins to note submissions on their way; `sent_ms` has them in the end."""
    processes: list[asyncio.subprocess.Process] = []
    file = directory / "packets"

    async def watch(port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.packets", str(port), str(file)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        if await process.stdout.readline():  # else it may not: CAP_NET_RAW is missing
            processes.append(process)

    yield watch
    for process in processes:
        process.terminate()
        await process.wait()
        times = array("q")
        times.frombytes(file.read_bytes())
        sent_ms.extend(at / 1_000_000 for at in times)


def departures(file: Path, arrived: list[Submit]) -> list[Submit]:
    """When submissions left, by the account's own clock."""
    times = array("q")
    times.frombytes(file.read_bytes())
    example = arrived[0]
    return [
        Submit(at_ms, example.account, f"departure {n}", example.app, "")
        for n, at_ms in enumerate(times)
    ]


def violations(rate: int, submits: list[Submit]) -> list[object]:
    """What the checker of limits finds."""
    rule = LimitRule(submits[0].account, rate, window_ms=1_000)
    history = AccountHistory(submits=submits, handed=[], limits=[rule])
    return list(WithinLimits().check(history))


def most_in_a_second(times: Sequence[float]) -> int:
    """The largest number in any (t - 1 s, t]."""
    times = sorted(times)
    first = most = 0
    for place, at_ms in enumerate(times):
        while times[first] <= at_ms - 1_000:
            first += 1
        most = max(most, place - first + 1)
    return most
