"""A real nats-server for tests: a free port, a directory of its own, ended by its pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import log_subject, outcome_subject
from hub.ledger.commit import decode_record
from hub.ledger.connection import Connection, connect
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.port import LOG_VERSION, Entry, LogRecord, PartitionImage
from hub.ledger.reading import read_subject
from hub.ledger.streams import LEDGER, StreamSizes
from tests.support.hub import free_port

SERVER = shutil.which("nats-server") or str(Path(sys.executable).with_name("nats-server"))


class NatsServer:
    """One server process. Restarted, it has the same port and the same store."""

    def __init__(
        self, directory: Path, *, jetstream: bool = True, sync: str = "always", extra: str = ""
    ) -> None:
        self.directory = directory
        self.port = free_port()
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
async def connected(server: NatsServer | Wire, name: str = "test") -> AsyncIterator[Connection]:
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


class Wire:
    """A TCP relay between a client and a server that can lose what passes.

    Losing bytes in the middle would only garble the protocol, so a direction that loses goes on
    losing until `cut`, which ends the connections as a failed network does.
    """

    def __init__(self, port: int) -> None:
        self.url = ""
        self.lose_replies = False
        self.lose_requests = False
        self.lost = 0
        """Bytes lost so far."""
        self._port = port
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"nats://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """End all connections; new ones pass everything again."""
        self.lose_replies = self.lose_requests = False
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._ends.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._ends.add(up_writer)
        await asyncio.gather(
            self._relay(reader, up_writer, lambda: self.lose_requests),
            self._relay(up_reader, writer, lambda: self.lose_replies),
        )
        for end in (writer, up_writer):
            self._ends.discard(end)
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lose: Callable[[], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if lose():
                    self.lost += len(data)
                else:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()


SMALL = StreamSizes(intake=64 * limits.MIB, ledger=64 * limits.MIB, snapshots=64 * limits.MIB)


def log_entry(
    image: PartitionImage,
    commit_id: str,
    states: dict[str, bytes | None] | None = None,
    checkpoint: dict[str, int] | None = None,
) -> Entry:
    """The log record of one commit to a partition, as the turn writes it."""
    record = LogRecord(
        LOG_VERSION,
        commit_id,
        image.epoch,
        image.fence,
        image.at_ms,
        "policy",
        image.checkpoint if checkpoint is None else checkpoint,
        states or {},
    )
    subject = log_subject(image.partition)
    return Entry(subject, msgspec.msgpack.encode(record), expected=image.fence)


async def commit_one(
    ledger: JetStreamLedger,
    image: PartitionImage,
    commit_id: str,
    states: dict[str, bytes | None] | None = None,
    checkpoint: dict[str, int] | None = None,
) -> None:
    """An outcome and a log record in one commit; moves the image as the turn does."""
    entries = [
        Entry(outcome_subject("shop"), commit_id.encode(), ttl_s=3600),
        log_entry(image, commit_id, states, checkpoint),
    ]
    image.fence = await ledger.commit(commit_id, entries, {image.partition: image.fence})
    image.checkpoint = checkpoint or image.checkpoint
    for key, packed in (states or {}).items():
        if packed is None:
            image.states.pop(key, None)
        else:
            image.states[key] = packed


async def outcomes(connection: Connection) -> list[str]:
    """The commit ids that `commit_one` stored as outcomes, in order."""
    subject = outcome_subject("shop")
    return [m.payload.decode() async for m in read_subject(connection, LEDGER, subject, 100_000)]


async def log_records(connection: Connection, partition: int) -> list[tuple[int, LogRecord]]:
    """All stored log records of a partition with their sequences."""
    subject = log_subject(partition)
    return [
        (message.sequence, decode_record(message))
        async for message in read_subject(connection, LEDGER, subject, 100_000)
    ]


async def last_sequence(connection: Connection, stream: str) -> int:
    return int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"])


@contextlib.asynccontextmanager
async def nats_cluster(directory: Path) -> AsyncIterator[list[NatsServer]]:
    """Three started servers of one cluster with a meta leader, ended by their pids afterwards."""
    routes = [free_port() for _ in range(3)]
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    servers = []
    for index, port in enumerate(routes):
        extra = (
            f"server_name: n{index}\n"
            f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [ {urls} ] }}'
        )
        (home := directory / f"n{index}").mkdir()
        servers.append(NatsServer(home, extra=extra))
    try:
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
    finally:
        await asyncio.gather(*(server.kill() for server in servers))
