"""What tests of SMPP share: an account that listens, deliveries, and a peer that says any bytes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec

from channels.provider import (
    Answer,
    Bundle,
    Link,
    Prepared,
    ProviderInbound,
    ProviderReceipt,
    Stored,
    Submission,
)
from channels.sms.message import SmsConfig
from channels.sms.smpp.codec import Framer, encode
from channels.sms.smpp.config import SmppConfig
from channels.sms.smpp.pdu import RESPONSE, Bind, BindResp, Message, MessageResp, Pdu
from channels.sms.smpp.provider import SmppProvider
from hub.clock import SystemClock
from hub.contract.types import Delivery

WAIT_S = 20.0
"""The most that a test waits for a condition."""
EXPIRES_MS = 4_000_000_000_000


class Account:
    """Listens to a provider, and stores at once unless `storing` says otherwise."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.receipts: list[ProviderReceipt] = []
        self.inbound_messages: list[ProviderInbound] = []
        self.links: list[Link] = []
        self.counts: Counter[str] = Counter()
        self.storing: Callable[[Stored], None] = lambda stored: stored(True)
        self._changed = asyncio.Event()

    def answered(self, delivery: str, answer: Answer) -> None:
        assert delivery not in self.answers, "answered twice"
        self.answers[delivery] = answer
        self._changed.set()

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        self.receipts.append(receipt)
        self._changed.set()
        self.storing(stored)

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        self.inbound_messages.append(inbound)
        self._changed.set()
        self.storing(stored)

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        raise AssertionError("SMPP reports one thing at a time")

    def link(self, link: Link) -> None:
        self.links.append(link)
        self._changed.set()

    def counted(self, name: str, *labels: str) -> None:
        self.counts[labels[-1]] += 1
        self._changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition that something told here makes true."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def up(self) -> None:
        await self.until(lambda: self.links and self.links[-1].window)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition of something that tells nobody."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def config(port: int, **changes: Any) -> SmppConfig:
    """An account at a local centre that comes back fast."""
    values = {
        "host": "127.0.0.1",
        "port": port,
        "system_id": "tact",
        "password": "secret",
        "source": "10690001",
        "reconnect_min_s": 0.01,
        "reconnect_max_s": 0.05,
    }
    return msgspec.convert(values | changes, SmppConfig)


def delivery(name: str = "d-1", text: str = "hello", to: str = "+8613800138000") -> Delivery:
    return Delivery(
        id=name,
        intent="i",
        app="app",
        customer="c",
        category="service",
        priority=5,
        channel="sms",
        account="a",
        to=to,
        content=msgspec.Raw(msgspec.json.encode({"text": text})),
        attempt=1,
        at="2026-11-22T00:00:00Z",
        expires_at="2026-11-23T00:00:00Z",
    )


def submission(prepared: Prepared, name: str = "d-1", accepted: tuple[str, ...] = ()) -> Submission:
    return Submission(delivery=name, prepared=prepared, expires_ms=EXPIRES_MS, accepted=accepted)


@asynccontextmanager
async def account_at(
    port: int, sms: SmsConfig | None = None, drain_s: float = 0.0, **changes: Any
) -> AsyncIterator[tuple[SmppProvider, Account]]:
    """A provider that connects to a port, and the account that listens to it."""
    account = Account()
    provider = SmppProvider(
        config(port, **changes), sms or SmsConfig(), account, SystemClock(), Random(1)
    )
    provider.start({})
    try:
        yield provider, account
    finally:
        await provider.stop(drain_s)


def send(
    provider: SmppProvider, name: str = "d-1", text: str = "hello", to: str = "+8613800138000"
) -> None:
    provider.submit(submission(provider.prepare(delivery(name, text, to)), name))


class Centre:
    """One connection at a centre that does what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._framer = Framer()
        self._read: list[Pdu] = []

    async def read(self, kind: type[Any] | None = None) -> Any:
        """The next PDU (of this kind: others are passed over)."""
        async with asyncio.timeout(WAIT_S):
            while True:
                while self._read:
                    pdu = self._read.pop(0)
                    if kind is None or isinstance(pdu, kind):
                        return pdu
                data = await self._reader.read(65_536)
                if not data:
                    raise ConnectionResetError
                self._read += self._framer.feed(data)  # type: ignore[arg-type]

    def write(self, data: bytes | Pdu) -> None:
        self._writer.write(data if isinstance(data, bytes) else encode(data))

    async def admit(self) -> Bind:
        bind = await self.read(Bind)
        self.write(BindResp(command=bind.command | RESPONSE, status=0, sequence=bind.sequence))
        return bind

    def accept(self, message: Message, name: str = "m1", status: int = 0) -> None:
        self.write(
            MessageResp(
                command=message.command | RESPONSE,
                status=status,
                sequence=message.sequence,
                message_id=name if not status else "",
            )
        )

    async def flushed(self) -> None:
        """Let the other side have what was written, in a piece of its own."""
        await self._writer.drain()
        await asyncio.sleep(0)

    def close(self) -> None:
        self._writer.close()

    async def gone(self) -> None:
        """Until the other side has ended the connection."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await self._reader.read(65_536):
                    pass
            except ConnectionError:
                return  # a reset is an end too


@asynccontextmanager
async def centre() -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    """A port, and a function that waits for the next connection to it."""
    connections: asyncio.Queue[Centre] = asyncio.Queue()
    open_: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.append(writer)
        connections.put_nowait(Centre(reader, writer))

    async def next_one() -> Centre:
        return await asyncio.wait_for(connections.get(), WAIT_S)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], next_one
    finally:
        server.close()
        for writer in open_:
            writer.transport.abort()
        await server.wait_closed()
