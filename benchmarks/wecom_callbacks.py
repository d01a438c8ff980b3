"""How long WeCom waits for the answer to a callback, under a steady load of them.

Encrypted, over HTTP, to the endpoint of `tact up`. Half say that customer service has something to
read (then it is read, and stored in one commit with its place); half that a customer has added a
member, and are answered when the ledger has that. All of it is decided as well.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.processes import cpu_s
from benchmarks.send_parts import bench
from benchmarks.wecom_parts import (
    FakeWecom,
    Hub,
    accounts_file,
    fake_wecom,
    open_kfid,
    over_row,
    tact_up,
)
from hub.clock import SystemClock
from hub.contract.types import Inbound
from hub.ledger.audit import Streams

CORPS = 2
KF = 2
MEMBERS = 5
"""Of each corp: four accounts of customer service and ten members in all."""
PER_S = 500
WANTED_MS = 50
MANY = 1_000_000
"""Customers: nobody comes twice."""
POLICY = """
version = 1
timezone = "Asia/Shanghai"
[categories.service]
route = ["wecom"]
"""


@dataclass
class Acknowledged:
    """What became of the callbacks."""

    times: dict[str, float]
    """By the fake: count, p50, p99, max in ms, encrypting included."""
    per_s: float
    again: int
    """Callbacks that were not answered with 200 in time."""
    cpu_us: dict[str, float]
    """Of each process, for one callback and all that follows from it."""
    lost: int
    twice: int
    over: int


async def measure_callbacks(console: Console, options: argparse.Namespace) -> list[Row]:
    """Under the load, and alone: the difference is waiting for processors."""
    table = Table(title="Callbacks answered with 200, through `tact up`")
    headings = ("a second", "callbacks", "p50 ms", "p99 ms", "max ms", "again")
    for heading in headings:
        table.add_column(heading, justify="right")
    costs = Table(title=f"CPU µs of one of {PER_S}/s, with all that follows")
    for per_s, seconds in ((PER_S // 10, options.seconds), (PER_S, options.seconds)):
        console.print(f"[dim]{per_s} callbacks a second for {seconds} s …[/dim]")
        found = await acknowledged(per_s, seconds, options)
        table.add_row(
            f"{found.per_s:.0f}",
            f"{found.times['count']:,}",
            *(f"{found.times[name]:.1f}" for name in ("p50", "p99", "max")),
            str(found.again),
        )
    for who in found.cpu_us:
        costs.add_column(who, justify="right")
    costs.add_row(*(f"{used:.0f}" for used in found.cpu_us.values()))
    console.print(table, costs)
    p99 = found.times["p99"]
    return [
        (
            f"callback answered ≤ {WANTED_MS} ms at p99 under {PER_S}/s",
            f"{p99:.1f} ms under {found.per_s:.0f}/s",
            p99 <= WANTED_MS and found.per_s > 0.98 * PER_S,
        ),
        (
            "of what they told: lost, published twice",
            f"{found.lost}, {found.twice}",
            not found.lost and not found.twice,
        ),
        over_row([found.over]),
    ]


async def acknowledged(per_s: int, seconds: int, options: argparse.Namespace) -> Acknowledged:
    """Send them, and look what has come of each."""
    size = ["--corps", str(CORPS), "--kf-accounts", str(KF), "--members", str(MEMBERS)]
    async with bench() as made, fake_wecom(made, *size, record=False) as fake:
        accounts = accounts_file(fake, CORPS, KF, MEMBERS)
        async with tact_up(made, fake, accounts, POLICY, profile=options.profile) as hub:
            before = costs_of(made.cpu_s(), fake, hub)
            number, took_s = await call(fake, per_s, seconds)
            await hub.until("tact_inbound_total", number)
            after = costs_of(made.cpu_s(), fake, hub)
            seen = await fake.seen()
            streams = await made.streams()
    told = Counter(inbound_of(streams))
    counts = seen["counts"]
    return Acknowledged(
        seen["times"]["callback_ms"],
        number / took_s,
        counts["callbacks_sent"] - number,
        {who: (after[who] - before[who]) / number * 1e6 for who in after},
        number - len(told),
        sum(count > 1 for count in told.values()),
        sum(seen["violations"].values()),
    )


def costs_of(server_s: float, fake: FakeWecom, hub: Hub) -> dict[str, float]:
    """CPU seconds of every process."""
    return {**hub.cpu_s(), "server": server_s, "fake": cpu_s(fake.process.pid)}


async def call(fake: FakeWecom, per_s: int, seconds: int) -> tuple[int, float]:
    """Let the fake send them, half of each kind; returns their number, and the seconds until all
    were answered."""
    clock = SystemClock()
    begun_s = clock.steady_s()
    number = 0
    for corp in fake.corps:
        rate = per_s / len(fake.corps) / 2
        for kf in range(1, KF + 1):
            body = {"open_kfid": open_kfid(kf), "text": "hello"}
            each = {"rate": rate / KF, "seconds": seconds, "customers": MANY}
            told = await fake.do("repeat", corp_id=corp, do="customer-writes", body=body, **each)
            number += told["number"]
        for member in range(1, MEMBERS + 1):
            each = {"rate": rate / MEMBERS, "seconds": seconds, "customers": MANY}
            body = {"userid": f"m{member}"}
            told = await fake.do("repeat", corp_id=corp, do="add-contact", body=body, **each)
            number += told["number"]
    await fake.until("callbacks_taken", number)
    return number, clock.steady_s() - begun_s


def inbound_of(streams: Streams) -> list[tuple[str, str]]:
    """Account and id of all that was told, in the order of INTAKE."""
    return [
        (each.message.account, each.message.id)
        for each in streams.published
        if isinstance(each.message, Inbound)
    ]
