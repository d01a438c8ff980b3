"""How exactly an account keeps to its limit, by the simulator's clock and by its own."""

from __future__ import annotations

import argparse
from array import array
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.send_parts import bench, deliveries, smpp_account, submitted
from benchmarks.send_rate import Row
from hub.checkers.account_limits import WithinLimits
from hub.checkers.account_records import AccountHistory, LimitRule, Submit

RATES = (50, 500)
SECONDS = 60
WANTED_SHARE = 0.01


async def measure_pacing(console: Console, options: argparse.Namespace) -> list[Row]:
    """A minute at each limit, with more waiting than may leave."""
    table = Table(title=f"{SECONDS} s at a limit of the account")
    headings = (
        "limit",
        "sent",
        "of it",
        "most in 1 s: simulator",
        "own clock",
        "over",
        "commit ms",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    rows: list[Row] = []
    for rate in RATES:
        console.print(f"[dim]{SECONDS} s at {rate}/s …[/dim]")
        arrived, left, commit_ms = await pace(rate)
        begin = arrived[0].at_ms
        sent = sum(submit.at_ms < begin + SECONDS * 1000 for submit in arrived)
        share = sent / (rate * SECONDS)
        most_arrived, most_left = most_in_a_second(arrived), most_in_a_second(left)
        over = len(violations(rate, left))
        table.add_row(
            f"{rate}/s",
            f"{sent:,}",
            f"{share:.4f}",
            str(most_arrived),
            str(most_left),
            str(over),
            f"{commit_ms:.1f}",
        )
        exact = abs(share - 1) <= WANTED_SHARE
        rows += [
            (f"{rate}/s within 1 %", f"{(share - 1) * 100:+.2f} %", exact),
            (
                f"never more than {rate} in a second",
                f"{most_left} by its own clock, {most_arrived} by the simulator's",
                not over and most_arrived <= rate,
            ),
        ]
    console.print(table)
    return rows


async def pace(rate: int) -> tuple[list[Submit], list[Submit], float]:
    """Submissions of a good minute, as they arrived and as they left; ms of a mean commit."""
    async with bench() as made:
        centre = await made.simulator()
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
    return arrived, left, status["commit_ms"]


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


def most_in_a_second(submits: list[Submit]) -> int:
    """The largest number in any (t - 1 s, t]."""
    times = sorted(submit.at_ms for submit in submits)
    first = most = 0
    for place, at_ms in enumerate(times):
        while times[first] <= at_ms - 1_000:
            first += 1
        most = max(most, place - first + 1)
    return most
