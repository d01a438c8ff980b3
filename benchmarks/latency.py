"""The urgent lane beside a bulk backlog: acknowledged to committed, by the server's own clock."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import workload
from benchmarks.load import Load
from benchmarks.processes import result_of, server, start_host
from hub import limits
from hub.checkers import History, check_all
from hub.client import HubClient
from hub.clock import SystemClock
from hub.contract.types import Intent
from hub.ledger.audit import Streams, read_streams
from hub.policy.document import parse_policy

BACKLOG = 100_000
URGENT_PER_S = 2_000
URGENT = 20_000
WANTED_P99_MS = 25
MEMORY = Path("/dev/shm")
FIRST_URGENT = 50_000_000
"""Number of the first urgent intent: no bulk intent has it."""


async def measure_latency(console: Console) -> list[tuple[str, str, bool]]:
    """On the disk, and in memory if the machine has such a place: the difference is the disk's."""
    rows = []
    for name, parent in places():
        console.print(f"[dim]urgent beside a backlog, data {name} …[/dim]")
        during, violations = await measure_in(parent, console)
        p99 = quantile(during, 0.99)
        rows += [
            (
                f"urgent p99 ≤ {WANTED_P99_MS} ms, backlog waiting, data {name}",
                f"{p99:.1f} ms (p50 {quantile(during, 0.5):.1f}, {len(during):,} intents)",
                p99 <= WANTED_P99_MS,
            ),
            ("duplicates, losses, over a cap, in quiet hours", str(violations), not violations),
        ]
        console.print(f"deleting one synced file {name}: {deletion_ms(parent):.2f} ms")
    return rows


def places() -> list[tuple[str, Path | None]]:
    return [("on this disk", None), *([("in memory", MEMORY)] if MEMORY.is_dir() else [])]


def deletion_ms(parent: Path | None) -> float:
    """Median time to delete a file that was synced. The server does it five times a commit."""
    clock, took_s = SystemClock(), []
    with tempfile.TemporaryDirectory(prefix="tact-bench-", dir=parent) as directory:
        path = Path(directory) / "synced"
        for _ in range(50):
            with path.open("wb") as file:
                file.write(bytes(100_000))
                file.flush()
                os.fsync(file.fileno())
            started_s = clock.steady_s()
            path.unlink()
            took_s.append(clock.steady_s() - started_s)
    return quantile(took_s, 0.5) * 1000


async def measure_in(parent: Path | None, console: Console) -> tuple[list[float], int]:
    """2,000 urgent intents a second, started with a bulk backlog of 100,000 waiting.

    Returns the waits (ms) of urgent intents while the backlog waited, and violations found.
    """
    clock = SystemClock()
    text = workload.policy("drop")
    async with server(parent) as natsd:
        await Load(natsd.url).publish(
            workload.messages(BACKLOG, 1, "bulk", limits.PARTITIONS, seed=2)
        )
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
            policy.write(text)
            policy.flush()
            own = list(range(limits.PARTITIONS))
            host = await start_host(natsd, policy.name, "bench", own, BACKLOG + URGENT)
            assert host.stdout is not None
            await host.stdout.readline()  # it owns the partitions: what follows is not its start
            await publish_urgent(natsd.url, clock)
            await result_of(host)
        login = natsd.hub
        streams = await read_streams(natsd.url, user=login.user, password=login.password)
        end_ms = clock.now_ms()
    violations = check_all(History(*streams, policies=[parse_policy(text)], end_ms=end_ms))
    lanes, during = waits_ms(streams)
    console.print(latency_table(lanes, during))
    return during, len(violations)


async def publish_urgent(url: str, clock: SystemClock) -> None:
    """URGENT one-time codes at a steady rate, as an application does: through the hub's client."""
    async with HubClient(url, workload.APP) as hub:
        flying: set[asyncio.Task[int]] = set()
        started = clock.steady_s()
        for number in range(URGENT):
            due_s = started + number / URGENT_PER_S
            if (ahead_s := due_s - clock.steady_s()) > 0.002:
                await asyncio.sleep(ahead_s)
            key = workload.customer(number % workload.CUSTOMERS)
            code = msgspec.json.decode(workload.intent(FIRST_URGENT + number, key, "otp"))
            task = asyncio.create_task(hub.publish(code, lane="urgent"))
            flying.add(task)
            task.add_done_callback(flying.discard)
            if len(flying) >= limits.PUBLISH_IN_FLIGHT:
                await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
        if flying:
            await asyncio.wait(flying)


def waits_ms(streams: Streams) -> tuple[dict[str, list[float]], list[float]]:
    """Waits by lane, and those of urgent intents stored while bulk was still waiting."""
    stored = {
        each.message.id: (each.lane, each.stored_ms)
        for each in streams.published
        if isinstance(each.message, Intent)
    }
    decided = {each.outcome.intent: each.stored_ms for each in streams.outcomes}
    lanes: dict[str, list[float]] = {}
    for name, (lane, stored_ms) in stored.items():
        lanes.setdefault(lane, []).append(decided[name] - stored_ms)
    backlog_end_ms = max(decided[name] for name, (lane, _) in stored.items() if lane == "bulk")
    during = [
        decided[name] - stored_ms
        for name, (lane, stored_ms) in stored.items()
        if lane == "urgent" and stored_ms < backlog_end_ms
    ]
    return lanes, during


def latency_table(lanes: dict[str, list[float]], during: list[float]) -> Table:
    table = Table(title=f"{URGENT_PER_S:,} urgent intents/s beside a backlog of {BACKLOG:,}")
    for heading in ("lane", "intents", "p50 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="left" if heading == "lane" else "right")
    rows = {**lanes, "urgent, backlog waiting": during}
    for lane, waits in rows.items():
        table.add_row(
            lane,
            f"{len(waits):,}",
            f"{quantile(waits, 0.5):,.1f}",
            f"{quantile(waits, 0.99):,.1f}",
            f"{max(waits):,.1f}",
        )
    return table


def quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
