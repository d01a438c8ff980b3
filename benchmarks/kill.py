"""Seconds from SIGKILL of a host to the next decision about its customers, 200,000 known in all."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import nats
from rich.console import Console

from benchmarks import workload
from benchmarks.load import Load
from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import partition_of, publish_subject

KNOWN = 200_000
WANTED_S = 5.0
PROBE_S = 0.02
"""Time between two urgent intents while the host is away."""
PATIENCE_S = 120.0


async def measure_kill(console: Console) -> list[tuple[str, str, bool]]:
    """Through `tact up` as a user starts it: two hosts, an embedded server, a local Ray."""
    console.print("[dim]SIGKILL of a host that knows 200,000 customers …[/dim]")
    with tempfile.TemporaryDirectory(prefix="tact-kill-") as directory:
        policy = Path(directory) / "policy.toml"
        await asyncio.to_thread(policy.write_text, workload.policy("drop"))
        hub, ready = await start_hub(directory, str(policy))
        try:
            seconds = await kill_and_wait(ready)
        finally:
            hub.terminate()
            await hub.wait()
    measured = f"{seconds:.2f} s"
    return [(f"SIGKILL → next decision ≤ {WANTED_S:g} s", measured, seconds <= WANTED_S)]


async def start_hub(directory: str, policy: str) -> tuple[asyncio.subprocess.Process, Any]:
    tact = Path(sys.executable).with_name("tact")
    command = [str(tact), "up", "--data-dir", f"{directory}/data", "--policy", policy]
    command += ["--nats-port", "0", "--http-port", "0", "--hosts", "2"]
    hub = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert hub.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = await hub.stdout.readline()
    if not line:
        raise SystemExit("tact up did not start; see its words above")
    return hub, msgspec.json.decode(line)


async def kill_and_wait(ready: Any) -> float:
    clock = SystemClock()
    client = await nats.connect(ready["nats"])
    outcomes: asyncio.Queue[str] = asyncio.Queue()
    known = await publish_known(ready["nats"])

    stream = client.jetstream()
    follow = await stream.subscribe(f"hub.outcome.{workload.APP}", ordered_consumer=True)

    async def read() -> None:
        async for message in follow.messages:
            told = msgspec.json.decode(message.data)
            for outcome in told if isinstance(told, list) else [told]:
                outcomes.put_nowait(outcome["intent"])

    reading = asyncio.create_task(read())
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(known):
            await outcomes.get()
    pid, own = await asyncio.to_thread(busiest_host, ready["http"])
    os.kill(pid, signal.SIGKILL)
    killed_s = clock.steady_s()
    probing = asyncio.create_task(probe(client, own))
    async with asyncio.timeout(PATIENCE_S):
        while not (await outcomes.get()).startswith("probe"):
            pass
    seconds = clock.steady_s() - killed_s
    for task in (probing, reading):
        task.cancel()
    await client.close()
    return seconds


def busiest_host(http: str) -> tuple[int, set[int]]:
    """Process id and partitions of the host that owns most."""
    with urllib.request.urlopen(f"{http}/status", timeout=10) as answer:
        hosts = msgspec.json.decode(answer.read())["hosts"]
    host = max(hosts, key=lambda host: len(host["partitions"]))
    return host["pid"], set(host["partitions"])


async def publish_known(url: str) -> int:
    """One intent for each of KNOWN customers, in arrays."""
    keys: list[list[str]] = [[] for _ in range(limits.PARTITIONS)]
    for number in range(KNOWN):
        key = workload.customer(number)
        keys[partition_of(key, limits.PARTITIONS)].append(key)

    def messages() -> Any:
        number = 0
        for among in keys:
            for start in range(0, len(among), 100):
                some = among[start : start + 100]
                intents = [workload.intent(number + i, key) for i, key in enumerate(some)]
                number += len(some)
                yield (
                    publish_subject("bulk", workload.APP, some[0]),
                    b"[" + b",".join(intents) + b"]",
                )

    await Load(url).publish(messages())
    return KNOWN


async def probe(client: nats.NATS, own: set[int]) -> None:
    """Urgent intents to customers of the killed host's partitions."""
    keys = map(workload.customer, range(KNOWN))
    orphans = itertools.cycle(k for k in keys if partition_of(k, limits.PARTITIONS) in own)
    number = 0
    while True:
        key = next(orphans)
        payload = (
            f'{{"id":"probe{number}","app":"{workload.APP}","customer":"{key}","category":"otp",'
            f'"content":{{"text":"1"}}}}'
        )
        await client.publish(publish_subject("urgent", workload.APP, key), payload.encode())
        number += 1
        await asyncio.sleep(PROBE_S)
