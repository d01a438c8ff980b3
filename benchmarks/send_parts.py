"""What the measurements of sending are made of: deliveries, hosts, simulators and their records."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from actors.batch import arrays
from benchmarks.processes import GIB, cpu_s
from channels.accounts import AccountConfig, LimitsTable
from channels.sms.smpp.config import SmppConfig
from hub import limits
from hub.checkers.account_records import Submit, submits_of
from hub.checkers.records import Shown
from hub.clock import SystemClock
from hub.contract.subjects import account_partition, delivery_subject
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from hub.ledger.audit import Streams, read_feeds, read_streams
from hub.ledger.connection import Connection, connect
from hub.ledger.publishing import TTL, publish
from hub.ledger.streams import StreamSizes, provision
from hub.service.natsd import NatsServer

APP = "shop"
CUSTOMERS = 20_000
LIFE_MS = 24 * 3_600_000
PATIENCE_S = 300.0
LOOK_S = 0.1
IN_FLIGHT = 64

_DELIVERY = re.compile(r"<([^ >]+)>")


class Child:
    """A process that is asked line by line. Ended by its own process id."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.ready: Any = None
        """Its first line."""
        self.last = b""
        """What it said when it was ended."""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def line(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("a process ended too soon; see its words above")
        return msgspec.json.decode(line)

    async def ask(self, *order: Any) -> Any:
        """Give an order; returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        return await self.line()

    async def until(self, condition: Callable[[Any], bool]) -> Any:
        """Look until its status is as wanted."""
        clock = SystemClock()
        end_s = clock.steady_s() + PATIENCE_S
        while not condition(status := await self.ask("status")):
            if clock.steady_s() > end_s:
                raise SystemExit(f"never came: {status}")
            await asyncio.sleep(LOOK_S)
        return status

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Signal it and wait for its end."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                self._process.send_signal(how)
            self.last, _ = await self._process.communicate()


class Simulator(Child):
    """Our SMSC, and the record it keeps."""

    def __init__(self, process: asyncio.subprocess.Process, record: Path | None) -> None:
        super().__init__(process)
        self.port = 0
        self._record = record

    def record(self) -> list[dict[str, Any]]:
        """What it has seen so far; the line it is writing now is left out."""
        assert self._record is not None
        lines = self._record.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line) for line in lines]

    async def finished(self) -> list[dict[str, Any]]:
        """End it, and read all that it has seen."""
        await self.end()
        return self.record()

    @property
    def counts(self) -> dict[str, int]:
        """How often each thing has happened, as it says at its end."""
        return dict(msgspec.json.decode(self.last.splitlines()[-1])["counts"])


class Bench:
    """A server with the hub's streams, and what is started beside it; all ended with it."""

    def __init__(self, natsd: NatsServer, connection: Connection, directory: Path) -> None:
        self.natsd = natsd
        self.directory = directory
        self.partitions = limits.PARTITIONS
        self._connection = connection
        self._children: list[Child] = []

    async def simulator(
        self, *options: str, record: bool = True, module: str = "channels.sms.fake.smsc"
    ) -> Simulator:
        """A centre that takes everything, unless the options of its command say otherwise; or
        another of our fakes."""
        file = self.directory / f"record-{len(self._children)}.jsonl" if record else None
        command = ["-m", module, "--port", "0", *options]
        command += ["--record", str(file)] if file else []
        child = Simulator(await spawn([sys.executable, *command]), file)
        self._children.append(child)
        child.ready = await child.line()
        child.port = child.ready["port"]
        return child

    async def fake_gateway(self) -> str:
        """The URL of a gateway that takes everything."""
        child = Child(await spawn([sys.executable, "-m", "channels.sms.fake.urlgateway"]))
        self._children.append(child)
        return str((await child.line())["url"])

    async def host(
        self,
        accounts: Sequence[AccountConfig],
        name: str = "bench",
        *,
        watch: bool = False,
        profile: str = "",
    ) -> Child:
        """A host of accounts that is connected and owns nothing yet."""
        command = ["-m", "benchmarks.send_host", "--nats-url", self.natsd.url, "--name", name]
        command += ["--partitions", str(self.partitions), "--accounts", self.pickled(accounts)]
        command += ["--watch"] if watch else []
        command += ["--profile", profile] if profile else []
        login = self.natsd.hub
        return await self.beside(
            [sys.executable, *command], TACT_USER=login.user, TACT_PASSWORD=login.password
        )

    async def beside(self, command: list[str], **environment: str) -> Child:
        """Another process, once it has said its first line (`ready`); ended with the others."""
        child = Child(await spawn(command, **environment))
        self._children.append(child)
        child.ready = await child.line()
        return child

    def pickled(self, accounts: Sequence[AccountConfig]) -> str:
        """A file of accounts, as Ray passes them to its actors."""
        with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as file:
            pickle.dump(tuple(accounts), file)
        return file.name

    async def store(self, deliveries: Sequence[Delivery]) -> None:
        """Store deliveries of one channel in LEDGER as hosts do: arrays for each partition of
        accounts."""
        channel = deliveries[0].channel
        of: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            of.setdefault(account_partition(delivery.account, self.partitions), []).append(delivery)
        waiting = ((n, payload) for n, some in of.items() for payload in arrays(some))
        headers = {TTL: f"{limits.DELIVERY_TTL_S}s"}

        async def worker() -> None:
            for number, payload in waiting:
                await publish(
                    self._connection, delivery_subject(channel, number), payload, headers=headers
                )

        # One at a time where the order of the ledger is what is measured: arrays of one partition.
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT if len(of) > 1 else 1)))

    def cpu_s(self) -> float:
        """CPU seconds of the server so far."""
        return cpu_s(self.natsd.pid)

    async def streams(self) -> Streams:
        """Everything both streams hold."""
        login = self.natsd.hub
        return await read_streams(self.natsd.url, user=login.user, password=login.password)

    async def feeds(self) -> list[Shown]:
        """What applications are shown of conversations."""
        return await read_feeds(self._connection)

    async def end(self) -> None:
        """End every process that was started, the last one first."""
        for child in reversed(self._children):
            await child.end()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A new nats-server (`sync_interval: always`) in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="tact-send-") as directory:
        async with NatsServer(Path(directory) / "data") as natsd:
            connection = await connect(
                natsd.url, name="bench", user=natsd.hub.user, password=natsd.hub.password
            )
            await provision(connection, sizes=StreamSizes(intake=4 * GIB, ledger=8 * GIB))
            made = Bench(natsd, connection, Path(directory))
            try:
                yield made
            finally:
                await made.end()
                await connection.close()


async def spawn(command: list[str], **environment: str) -> asyncio.subprocess.Process:
    """A process that is asked line by line."""
    return await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * limits.MIB,
    )


# ---- accounts and deliveries -------------------------------------------------------------------


def smpp_account(
    port: int, name: str = "bench", *, window: int = 64, per: Sequence[str] = (), **fields: Any
) -> AccountConfig:
    """One bind at a simulator, receipts wanted; `per`: limits of the account."""
    settings = SmppConfig(
        host="127.0.0.1", port=port, system_id="tact", password="secret", window=window
    )
    return AccountConfig(
        name=name,
        channel="sms",
        provider="smpp",
        settings=settings,
        limits=LimitsTable(account=list(per)),
        **fields,
    )


def deliveries(count: int, account: str = "bench", *, urgent: bool = False) -> Iterator[Delivery]:
    """To customers at random; urgent ones to customers for whom nothing else waits.

    The text, one segment, names its delivery: the simulator's record then says which it was.
    """
    chance, now_ms = random.Random(1), SystemClock().now_ms()
    at, expires_at = rfc3339(now_ms), rfc3339(now_ms + LIFE_MS)
    for number in range(count):
        intent = f"{'u' if urgent else 'd'}{number:07d}"
        id = f"{APP}:{intent}:1"
        customer = CUSTOMERS + number if urgent else chance.randrange(CUSTOMERS)
        yield Delivery(
            id=id,
            intent=intent,
            app=APP,
            customer=f"c{customer:07d}",
            category="otp" if urgent else "marketing",
            priority=9 if urgent else 3,
            channel="sms",
            account=account,
            to=f"+86138{customer:08d}",
            content=msgspec.Raw(msgspec.json.encode({"text": f"<{id}> {'x' * 100}"})),
            attempt=1,
            at=at,
            expires_at=expires_at,
        )


def submitted(record: Iterable[dict[str, Any]], account: str = "bench") -> list[Submit]:
    """The submissions of a record, each with the delivery that its text names."""
    return submits_of(record, account, lambda line: (delivery_of(line), APP))


def delivery_of(line: Any) -> str:
    """The delivery that a submission's text names."""
    found = _DELIVERY.search(bytes.fromhex(line["content"]).decode("latin-1"))
    if found is None:
        raise SystemExit("the simulator was given a text that nobody sent")
    return found[1]
