"""One connection of an ESME to the fake SMSC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec import Struct

from channels.sms.smpp.codec import Framer, encode, header
from channels.sms.smpp.pdu import (
    RESPONSE,
    SEQUENCE_MAX,
    Bind,
    BindResp,
    Command,
    Message,
    MessageResp,
    Pdu,
    PduError,
    Plain,
    Tag,
)
from channels.sms.smpp.status import Status

if TYPE_CHECKING:
    from channels.sms.fake.smsc import Smsc

BINDS_MAX: Final = 64
"""Connections at once; a further one is closed."""
DELIVER_WINDOW: Final = 100
"""deliver_sm unanswered at once on one bind."""


class Outgoing(Struct):
    """A deliver_sm until it is confirmed."""

    message: Message
    about: str
    tries: int = 0


class EsmeBind(asyncio.Protocol):
    """One connection of an ESME."""

    _numbers = 0

    def __init__(self, smsc: Smsc) -> None:
        EsmeBind._numbers += 1
        self.number = EsmeBind._numbers
        self._smsc = smsc
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._framer = Framer()
        self._bound = 0  # the command it bound with
        self._out: list[bytes] = []
        self._full = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._sequence = 0
        self._pending: dict[int, tuple[float, Outgoing]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def room(self) -> int:
        """deliver_sm that it can take now."""
        receives = self._bound in (Command.BIND_RECEIVER, Command.BIND_TRANSCEIVER)
        return DELIVER_WINDOW - len(self._pending) if receives and not self._full else 0

    def end(self) -> asyncio.Future[None]:
        """Close; done when it is."""
        if self._transport is not None:
            self._transport.abort()
        return self._ended

    def cut(self) -> None:
        """End the connection as a crash does, in the next pass of the loop."""
        self._bound = 0
        self._loop.call_soon(self.end)

    def answer(self, sequence: int, status: int, name: str = "") -> None:
        """Answer a submit_sm."""
        body = name.encode() + b"\0" if status == Status.ROK else b""
        self._send(header(Command.SUBMIT_SM_RESP, status, sequence, len(body)) + body)

    def deliver(self, outgoing: Outgoing) -> None:
        """Send a deliver_sm and wait for its answer."""
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        outgoing.tries += 1
        self._pending[self._sequence] = (
            self._loop.time() + self._smsc.settings.repeat_s,
            outgoing,
        )
        message = msgspec.structs.replace(outgoing.message, sequence=self._sequence)
        self._send(encode(message))
        self._watch()

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport = transport
        self._smsc.binds.append(self)
        if len(self._smsc.binds) > BINDS_MAX:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        for item in self._framer.feed(data):
            self._handle(item)

    def pause_writing(self) -> None:
        self._full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._smsc.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._bound = 0
        self._smsc.binds.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        for _, outgoing in self._pending.values():
            self._smsc.again(outgoing)
        self._pending.clear()
        self._out.clear()
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- inside ------------------------------------------------------------------------------

    def _handle(self, item: Pdu | PduError) -> None:
        match item:
            case Message(command=Command.SUBMIT_SM) if self._bound not in (
                0,
                Command.BIND_RECEIVER,
            ):
                self._smsc.submitted(self, item)
            case MessageResp(command=Command.DELIVER_SM_RESP):
                found = self._pending.pop(item.sequence, None)
                if found is not None:
                    self._smsc.confirmed(found[1], item.status)
                    self._smsc.pump()
            case Bind():
                self._bind(item)
            case Plain(command=Command.ENQUIRE_LINK):
                self._plain(Command.ENQUIRE_LINK_RESP, Status.ROK, item.sequence)
            case Plain(command=Command.UNBIND):
                self._plain(Command.UNBIND_RESP, Status.ROK, item.sequence)
                self._bound = 0
                self._loop.call_soon(self._close)
            case PduError():
                self._smsc.count("bad_pdu")
                self._plain(Command.GENERIC_NACK, item.status, item.sequence)
                if item.fatal:
                    self._loop.call_soon(self._close)
            case _ if not item.command & RESPONSE:
                self._plain(item.command | RESPONSE, Status.RINVBNDSTS, item.sequence)
            case _:
                self._smsc.count("ignored")

    def _bind(self, bind: Bind) -> None:
        status = Status.RALYBND if self._bound else self._smsc.admit(bind)
        self._smsc.count("bound" if status == Status.ROK else "bind_refused")
        answer = BindResp(
            command=bind.command | RESPONSE,
            status=status,
            sequence=bind.sequence,
            system_id="fake" if status == Status.ROK else "",
            tlvs={int(Tag.SC_INTERFACE_VERSION): b"\x34"} if status == Status.ROK else {},
        )
        self._send(encode(answer))
        if status == Status.ROK:
            self._bound = bind.command
            self._smsc.pump()
        elif not self._bound:
            self._loop.call_soon(self._close)

    def _plain(self, command: int, status: int, sequence: int) -> None:
        self._send(header(command, status, sequence, 0))

    def _send(self, pdu: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(pdu)

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _watch(self) -> None:
        """Repeat what is not confirmed in time; one timer, for the oldest."""
        if self._timer is None and self._pending:
            deadline = next(iter(self._pending.values()))[0]
            self._timer = self._loop.call_at(deadline, self._late)

    def _late(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._pending:
            sequence, (deadline, outgoing) = next(iter(self._pending.items()))
            if deadline > now:
                break
            del self._pending[sequence]
            self._smsc.again(outgoing)
        self._watch()
