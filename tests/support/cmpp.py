"""What tests of CMPP share: an account that writes down what it is told, and a scripted ISMG."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from msgspec import Raw

from channels.provider import (
    Answer,
    Link,
    ProviderInbound,
    ProviderReceipt,
    Stored,
    Submission,
)
from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp import values
from channels.sms.cmpp.config import CmppConfig
from channels.sms.cmpp.layout import CmppError
from channels.sms.cmpp.pdu import HEADER, Frame, Framer, decode, encode
from channels.sms.cmpp.provider import CmppProvider
from channels.sms.cmpp.session import Session
from channels.sms.message import SmsConfig
from hub.clock import SystemClock
from hub.contract.types import Delivery

WAIT_S = 20.0
"""A condition that does not come by then never will."""
FAR_MS = 4_000_000_000_000


class Told:
    """The account's side: everything that was said, in order."""

    def __init__(self, *, stores: bool = True) -> None:
        self.stores = stores
        """Whether what is reported is stored at once; else `stored` collects what to call."""
        self.answers: list[tuple[str, Answer]] = []
        self.receipts: list[ProviderReceipt] = []
        self.inbounds: list[ProviderInbound] = []
        self.links: list[Link] = []
        self.counts: Counter[str] = Counter()
        self.stored: list[Stored] = []

    def answered(self, delivery: str, answer: Answer) -> None:
        self.answers.append((delivery, answer))

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        self.receipts.append(receipt)
        self._keep(stored)

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        self.inbounds.append(inbound)
        self._keep(stored)

    def link(self, link: Link) -> None:
        self.links.append(link)

    def counted(self, name: str, *labels: str) -> None:
        assert name == "tact_provider_total"
        self.counts[labels[-1]] += 1

    def _keep(self, stored: Stored) -> None:
        if self.stores:
            stored(True)
        else:
            self.stored.append(stored)

    @property
    def up(self) -> bool:
        return bool(self.links) and self.links[-1].window > 0

    @property
    def answer(self) -> Answer:
        """The only one."""
        assert len(self.answers) == 1
        return self.answers[0][1]


async def until(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no events
            await asyncio.sleep(0.002)


@asynccontextmanager
async def account(
    port: int, told: Told, sms: SmsConfig | None = None, **changes: Any
) -> AsyncIterator[CmppProvider]:
    """A provider that is started, and stopped at the end."""
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "sp_id": "900001",
        "secret": "888888",
        "src_id": "10690001",
        "reconnect_min_s": 0.01,
        "reconnect_max_s": 0.05,
    }
    config = CmppConfig(**(settings | changes))
    provider = CmppProvider(config, sms or SmsConfig(), told, SystemClock(), random.Random(1))
    provider.start({})
    try:
        yield provider
    finally:
        await provider.stop(0)


def delivery(text: str, to: str = "+8613800138000", name: str = "d1") -> Delivery:
    """As the hub would give it."""
    return Delivery(
        id=name,
        intent="i",
        app="app",
        customer="c",
        category="notice",
        priority=5,
        channel="sms",
        account="cmpp",
        to=to,
        content=Raw(json.dumps({"text": text}).encode()),
        attempt=1,
        at="2026-11-22T00:00:00.000Z",
        expires_at="2026-11-23T00:00:00.000Z",
    )


def submission(
    provider: CmppProvider,
    text: str = "hello",
    name: str = "d1",
    accepted: tuple[str, ...] = (),
    to: str = "+8613800138000",
) -> Submission:
    """Prepared and ready to go."""
    prepared = provider.prepare(delivery(text, to, name))
    return Submission(name, prepared, FAR_MS, accepted)


class Rough(asyncio.Protocol):
    """One connection of a scripted ISMG: lets the client in, then does what the script says."""

    def __init__(self, server: RoughServer) -> None:
        self._server = server
        self._framer = Framer()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self._framer.feed(data)
        while (frame := self._framer.take()) is not None:
            self._server.frames.append(frame)
            if frame.command == cmpp.Command.CONNECT:
                self.write(self._server.welcome(frame))
            else:
                self._server.script(self, frame)

    def say(self, message: cmpp.Message, sequence: int) -> None:
        self.write(encode(message, sequence, cmpp.V30))

    def write(self, octets: bytes) -> None:
        assert self.transport is not None
        self.transport.write(octets)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()


Script = Callable[[Rough, Frame], None]


class RoughServer:
    """An ISMG that follows a script, in CMPP 3.0."""

    def __init__(
        self, script: Script, *, secret: str = "888888", status: int = 0, form: int = cmpp.V30
    ) -> None:
        """`form`: the version in whose way the ISMG proves itself."""
        self.script = script
        self.frames: list[Frame] = []
        self.connections: list[Rough] = []
        self.port = 0
        self._secret, self._status, self._form = secret, status, form

    def welcome(self, frame: Frame) -> bytes:
        connect = decode(frame, cmpp.V30)
        assert isinstance(connect, cmpp.Connect)
        proof = values.authenticator_ismg(0, connect.authenticator, self._secret, self._form)
        return encode(cmpp.ConnectResp(self._status, proof, cmpp.V30), frame.sequence, cmpp.V30)

    def submits(self) -> list[cmpp.Submit]:
        found = [decode(f, cmpp.V30) for f in self.frames if f.command == cmpp.Command.SUBMIT]
        return [one for one in found if isinstance(one, cmpp.Submit)]

    def results(self) -> list[int]:
        """Of the DELIVER_RESPs so far."""
        of = cmpp.Command.DELIVER_RESP
        found = [decode(frame, cmpp.V30) for frame in self.frames if frame.command == of]
        return [one.result for one in found if isinstance(one, cmpp.DeliverResp)]


@asynccontextmanager
async def rough(script: Script | None = None, **how: Any) -> AsyncIterator[RoughServer]:
    """A scripted ISMG on a port of its own."""
    server = RoughServer(script or answering(), **how)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Rough(server), "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await listening.wait_closed()


def answering(
    on_submit: Script | None = None, *, tests: bool = True, goodbyes: bool = True
) -> Script:
    """Answers what an ISMG must; SUBMITs as told, else with Msg_Ids from 1."""
    ids = iter(range(1, 1_000_000))

    def script(connection: Rough, frame: Frame) -> None:
        if frame.command == cmpp.Command.ACTIVE_TEST and tests:
            connection.say(cmpp.ActiveTestResp(), frame.sequence)
        elif frame.command == cmpp.Command.TERMINATE and goodbyes:
            connection.say(cmpp.TerminateResp(), frame.sequence)
        elif frame.command == cmpp.Command.SUBMIT:
            if on_submit is not None:
                on_submit(connection, frame)
            else:
                connection.say(cmpp.SubmitResp(next(ids)), frame.sequence)

    return script


def header(length: int, command: int, sequence: int) -> bytes:
    """The beginning of a PDU, true or not."""
    return HEADER.pack(length, command, sequence)


# ---- without a network ---------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that takes what is written and ends at once."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.open = True
        self.reading = True
        self._framer = Framer()
        self._session = session
        session.connection_made(self)

    def said(self) -> list[Frame]:
        """What was written since the last look."""
        frames = []
        while (frame := self._framer.take()) is not None:
            frames.append(frame)
        return frames

    def hear(self, message: cmpp.Message, sequence: int) -> None:
        """The ISMG says something in 3.0."""
        self._session.data_received(encode(message, sequence, cmpp.V30))

    def write(self, data: Any) -> None:
        self._framer.feed(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (1, 0)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_soon(self._session.connection_lost, None)


class Owner:
    """Whom a bare session serves: writes down what comes back for each token, and when."""

    def __init__(self, *, stores: bool = True) -> None:
        self.stores = stores
        self.back: Counter[Any] = Counter()
        self.unanswered: list[tuple[float, Any]] = []
        self.delivers: list[int] = []

    def answered(self, token: Any, answer: cmpp.SubmitResp | None) -> None:
        self.back[token] += 1
        if answer is None:
            self.unanswered.append((asyncio.get_running_loop().time(), token))

    def wanted(self, token: Any) -> bool:
        return True

    def unsent(self, token: Any, error: CmppError) -> None:
        self.back[token] += 1

    def delivered(self, session: Session, sequence: int, deliver: cmpp.Deliver) -> None:
        self.delivers.append(sequence)
        session.entrust()
        if self.stores:
            session.confirm(sequence, deliver.msg_id, 0)
            session.settle()

    def counted(self, what: str) -> None:
        pass


def welcome(wire: Wire) -> bytes:
    """The ISMG lets in whoever has just said CONNECT."""
    (frame,) = wire.said()
    connect = decode(frame, cmpp.V30)
    assert isinstance(connect, cmpp.Connect)
    proof = values.authenticator_ismg(0, connect.authenticator, "888888", cmpp.V30)
    return encode(cmpp.ConnectResp(0, proof, cmpp.V30), frame.sequence, cmpp.V30)
