"""`make bench`: intents stored in INTAKE to decisions committed, on one machine, in one run.

    python -m benchmarks.decide [--intents 200000] [--rounds 3] [--only NAME …]

Every arm starts a real nats-server with `sync_interval: always` on a new directory. Method and the
last results: benchmarks/README.md. Nothing is printed that was not measured in this run.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import workload
from benchmarks.figures import figures
from benchmarks.idle import measure_idle
from benchmarks.kill import measure_kill
from benchmarks.latency import measure_latency
from benchmarks.load import Load
from benchmarks.processes import cpu_s, result_of, server, start_host
from hub import limits

WANTED_SINGLE = 28_000
WANTED_ARRAY = 60_000
WANTED_RELAY_RATIO = 0.8


@dataclass
class Arm:
    """One measurement: what was done, and the children's own words."""

    name: str
    intents: int
    per_message: int
    hosts: list[dict[str, Any]] = field(default_factory=list)
    server_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.intents / max(host["seconds"] for host in self.hosts)

    @property
    def host_us(self) -> float:
        return sum(host["cpu_s"] for host in self.hosts) / self.intents * 1e6

    @property
    def server_us(self) -> float:
        return self.server_cpu_s / self.intents * 1e6

    @property
    def outcomes(self) -> dict[str, int]:
        told: dict[str, int] = {}
        for host in self.hosts:
            for state, count in host["outcomes"].items():
                told[state] = told.get(state, 0) + int(count)
        return told


async def run_arm(
    name: str,
    intents: int,
    per_message: int,
    *,
    gap: str = "drop",
    relay: str = "",
    hosts: int = 1,
) -> Arm:
    """Store the intents, then start the hosts and let them decide everything."""
    arm = Arm(name, intents, per_message)
    async with server() as natsd:
        load = Load(natsd.url)
        stored = await load.publish(
            workload.messages(intents, per_message, "bulk", limits.PARTITIONS)
        )
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
            policy.write(workload.policy(gap))
            policy.flush()
            before = cpu_s(natsd.pid)
            parts = enumerate(shares(stored, hosts, per_message, relay=relay))
            children = [
                await start_host(natsd, policy.name, f"bench{index}", share, inputs, relay=relay)
                for index, (share, inputs) in parts
            ]
            arm.hosts = await asyncio.gather(*map(result_of, children))
            arm.server_cpu_s = cpu_s(natsd.pid) - before
    return arm


def shares(
    stored: dict[int, int], hosts: int, per_message: int, *, relay: str
) -> Iterator[tuple[list[int], int]]:
    """Partitions for each host, and the inputs it has to decide: messages, or objects in them."""
    per_input = 1 if relay else per_message
    for index in range(hosts):
        own = [number for number in range(limits.PARTITIONS) if number % hosts == index]
        yield own, sum(stored.get(number, 0) for number in own) * per_input


# ---- the report ------------------------------------------------------------------------------


def median_arm(several: list[Arm]) -> Arm:
    """The run in the middle: a shared machine has bad moments, and good ones."""
    return sorted(several, key=lambda arm: arm.per_s)[(len(several) - 1) // 2]


def throughput_table(arms: list[Arm], runs: dict[str, list[Arm]]) -> Table:
    table = Table(title="Stored in INTAKE → decided and committed (fsync always); medians")
    headings = ("arm", "intents/s", "range", "of relay", "host µs", "server µs", "outcomes")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("arm", "outcomes") else "right")
    relay = {arm.per_message: arm.per_s for arm in arms if arm.name.startswith("relay")}
    for arm in arms:
        ratio = arm.per_s / relay[arm.per_message] if arm.per_message in relay else None
        table.add_row(
            arm.name,
            f"{arm.per_s:,.0f}",
            range_of(runs[arm.name]),
            "" if ratio is None else f"{ratio:.2f}",
            f"{arm.host_us:.1f}",
            f"{arm.server_us:.1f}",
            ", ".join(f"{count:,} {state}" for state, count in sorted(arm.outcomes.items())),
        )
    return table


def range_of(several: list[Arm]) -> str:
    speeds = sorted(arm.per_s for arm in several)
    return f"{speeds[0] / 1000:,.0f} to {speeds[-1] / 1000:,.0f} k"


def verdicts(arms: list[Arm]) -> Iterator[tuple[str, str, bool]]:
    """(figure, measured, reached) of what the throughput arms should show."""
    by_name = {arm.name: arm for arm in arms}
    relay, single = by_name.get("relay, single"), by_name.get("one host, single")
    if single is not None:
        yield f"single ≥ {WANTED_SINGLE:,}/s", f"{single.per_s:,.0f}", single.per_s >= WANTED_SINGLE
        if relay is not None:
            ratio = single.per_s / relay.per_s
            yield (
                f"of the relay ≥ {WANTED_RELAY_RATIO}",
                f"{ratio:.2f}",
                ratio >= WANTED_RELAY_RATIO,
            )
    array = by_name.get("one host, arrays of 100")
    if array is not None:
        yield f"arrays ≥ {WANTED_ARRAY:,}/s", f"{array.per_s:,.0f}", array.per_s >= WANTED_ARRAY


ARMS: list[tuple[str, int, dict[str, Any]]] = [
    ("relay, single", 1, {"relay": "as-it-came"}),
    ("grouping relay, single", 1, {"relay": "in-arrays"}),
    ("one host, single", 1, {}),
    ("one host, single, gap holds", 1, {"gap": "hold"}),
    ("two hosts, single", 1, {"hosts": 2}),
    ("relay, arrays of 100", 100, {"relay": "as-it-came"}),
    ("one host, arrays of 100", 100, {}),
    ("one host, arrays of 100, gap holds", 100, {"gap": "hold"}),
    ("two hosts, arrays of 100", 100, {"hosts": 2}),
]


async def run(options: argparse.Namespace) -> None:
    console = Console(width=120)
    only: list[str] = options.only or ["throughput", "latency", "idle", "kill"]
    rows: list[tuple[str, str, bool]] = []
    if "throughput" in only:
        chosen = [arm for arm in ARMS if options.arms in arm[0]]
        runs: dict[str, list[Arm]] = {}
        for number in range(options.rounds):
            for name, per_message, arguments in chosen:
                console.print(f"[dim]round {number + 1}: {name} …[/dim]")
                arm = await run_arm(name, options.intents, per_message, **arguments)
                runs.setdefault(name, []).append(arm)
        arms = [median_arm(several) for several in runs.values()]
        console.print(throughput_table(arms, runs))
        rows += verdicts(arms)
    if "latency" in only:
        rows += await measure_latency(console)
    if "idle" in only:
        rows += await measure_idle(console)
    if "kill" in only:
        rows += await measure_kill(console)
    console.print(figures("Figures", rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--intents", type=int, default=200_000)
    parser.add_argument("--only", nargs="*", choices=["throughput", "latency", "idle", "kill"])
    parser.add_argument("--arms", default="", help="only throughput arms whose name has this")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput arms")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
