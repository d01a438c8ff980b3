"""Bytes a host spends on an idle conversation, at 1,000,000 of them."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from pathlib import Path

from rich.console import Console

from actors.partition import Partition
from actors.turn import Turn
from benchmarks import workload
from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import partition_of
from hub.ledger.port import IntakeMessage, PartitionImage
from hub.policy.document import parse_policy
from hub.policy.policy import Policy

CONVERSATIONS = 1_000_000
WANTED_BYTES = 300


def resident_bytes() -> int:
    """Resident set of this process."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def fill(conversations: int) -> tuple[int, float]:
    """Decide one intent for each of so many customers; returns (bytes added, bytes packed each).

    Each then has an address and one remembered dispatch: a customer we once wrote to.
    """
    count = limits.PARTITIONS
    policy = Policy(parse_policy(workload.policy("drop")))
    partitions = {n: Partition(PartitionImage(n, 1, 0)) for n in range(count)}
    now_ms = SystemClock().now_ms()  # the policy has its noon now: nothing is held for the night
    gc.collect()
    before = resident_bytes()
    turn = Turn(partitions, count, policy)
    for number in range(conversations):
        key = workload.customer(number)
        payload = workload.intent(number, key)
        home = partition_of(key, count)
        turn.receive(
            IntakeMessage(home, "bulk", workload.APP, number + 1, now_ms, payload, False), now_ms
        )
        if turn.full:
            turn.close()
            turn = Turn(partitions, count, policy)
    turn.close()
    del turn
    gc.collect()
    packed = sum(len(state) for p in partitions.values() for state in p.states.values())
    known = sum(len(p.states) for p in partitions.values())
    if known != conversations:
        raise SystemExit(f"{known} conversations instead of {conversations}")
    return resident_bytes() - before, packed / known


async def measure_idle(console: Console) -> list[tuple[str, str, bool]]:
    """In a process of its own, so that only the conversations count."""
    console.print("[dim]1,000,000 idle conversations …[/dim]")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        added, packed = await asyncio.to_thread(pool.apply, fill, (CONVERSATIONS,))
    each = added / CONVERSATIONS
    measured = f"{each:.0f} bytes ({packed:.0f} packed)"
    return [(f"idle conversation ≤ {WANTED_BYTES} bytes", measured, each <= WANTED_BYTES)]
