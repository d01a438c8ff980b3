"""A real nats-server for tests: a free port, a directory of its own, ended by its pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from hub.clock import SystemClock
from hub.ledger.connection import Connection, connect

SERVER = shutil.which("nats-server") or str(Path(sys.executable).with_name("nats-server"))


class NatsServer:
    """One server process. Restarted, it has the same port and the same store."""

    def __init__(
        self, directory: Path, *, jetstream: bool = True, sync: str = "always", extra: str = ""
    ) -> None:
        self.directory = directory
        self.port = _free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None
        store = (
            f"jetstream {{ store_dir: {json.dumps(str(directory / 'js'))}, sync_interval: {sync} }}"
        )
        self._config = directory / "nats.conf"
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\nmax_payload: 1MB\n"
            f"{store if jetstream else ''}\n{extra}\n"
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(SERVER, "-c", str(self._config), "-l", str(self.directory / "nats.log"))
        )
        await eventually(self._answers)

    async def kill(self) -> None:
        """SIGKILL: as a crash of the process, the page cache stays."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, how)
            await self._process.wait()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        ready = (await reader.readline()).startswith(b"INFO")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return ready


@contextlib.asynccontextmanager
async def nats_server(directory: Path, **options: object) -> AsyncIterator[NatsServer]:
    """A started server, ended by its pid afterwards."""
    server = NatsServer(directory, **options)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@contextlib.asynccontextmanager
async def connected(server: NatsServer, name: str = "test") -> AsyncIterator[Connection]:
    """A connection to it, closed afterwards."""
    connection = await connect(server.url, name=name, clock=SystemClock())
    try:
        yield connection
    finally:
        await connection.close()


async def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for a condition, plain or async; fails the test when it does not come true in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert loop.time() < end, f"not within {within_s} s: {condition}"
        await asyncio.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
