"""The processes a measurement is made of: a new nats-server, and hosts."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from hub import limits
from hub.ledger.connection import connect
from hub.ledger.streams import StreamSizes, provision
from hub.service.natsd import NatsServer

GIB = 1024 * limits.MIB
TICKS = os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def server(parent: Path | None = None) -> AsyncIterator[NatsServer]:
    """A new nats-server with the hub's streams, its data below `parent` or the usual place."""
    with tempfile.TemporaryDirectory(prefix="tact-bench-", dir=parent) as directory:
        async with NatsServer(Path(directory) / "data") as natsd:
            connection = await connect(
                natsd.url, name="bench", user=natsd.hub.user, password=natsd.hub.password
            )
            await provision(connection, sizes=StreamSizes(intake=4 * GIB, ledger=8 * GIB))
            await connection.close()
            yield natsd


async def start_host(
    natsd: NatsServer,
    policy: str,
    name: str,
    own: list[int],
    inputs: int,
    *,
    relay: str = "",
) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "TACT_USER": natsd.hub.user,
        "TACT_PASSWORD": natsd.hub.password,
    }
    command = [sys.executable, "-m", "benchmarks.host", "--nats-url", natsd.url]
    command += ["--policy", policy, "--inputs", str(inputs), "--name", name]
    command += ["--partitions", str(limits.PARTITIONS), "--own", ",".join(map(str, own))]
    if relay:
        command += ["--relay", relay]
    return await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE
    )


async def result_of(child: asyncio.subprocess.Process) -> dict[str, Any]:
    output, _ = await child.communicate()
    if child.returncode != 0:
        raise SystemExit(f"a host ended with {child.returncode}; see its words above")
    return msgspec.json.decode(output.splitlines()[-1])  # type: ignore[no-any-return]


def cpu_s(pid: int | None) -> float:
    """CPU seconds a process has used, children not included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
