"""An SMSC on this machine: speaks SMPP 3.4 and delivers nothing.

    python -m channels.sms.fake.smsc --port 2775 --seed 7 --throttle 0.01 --record submits.jsonl

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "+8613800138000", "to": "10690001", "text": "R"}}` is a customer's message.
What becomes of a submission is drawn by `faults.Plan`. A receipt that is not confirmed is repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import ssl
import sys
from collections import deque
from typing import Any, Final, cast

import msgspec
import structlog
from msgspec import Struct

from channels.sms.alphabet import Coding
from channels.sms.fake import faults
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.segments import parse_udh, place_of, segment
from channels.sms.smpp.codec import Framer, encode, header
from channels.sms.smpp.pdu import (
    RESPONSE,
    SEQUENCE_MAX,
    Bind,
    BindResp,
    Command,
    EsmClass,
    Message,
    MessageResp,
    Pdu,
    PduError,
    Plain,
    Tag,
)
from channels.sms.smpp.status import Status
from hub.clock import Clock, SystemClock
from hub.errors import TactError

log = structlog.get_logger(__name__)

BINDS_MAX: Final = 64
"""Connections at once; a further one is closed."""
DELIVER_WINDOW: Final = 100
"""deliver_sm unanswered at once on one bind."""
OUTBOX_MAX: Final = 200_000
"""deliver_sm that wait for a receiving bind; the oldest is dropped (and counted) beyond it: 100
seconds of receipts at 2,000 a second, 100 MB."""
FLUSH_S: Final = 0.2
"""How often what is recorded goes to the file."""
LINE_BYTES: Final = 64 * 1024
"""The longest line on standard input."""

_STATUS_OF: Final = {
    "throttle": Status.RTHROTTLED,
    "busy": Status.RSYSERR,
    "refuse": Status.RINVDSTADR,
}


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the fake presents itself. Times are seconds."""

    system_id: str = "tact"
    password: str = "secret"
    rate: float = 0.0
    """Submissions a second, beyond which they are throttled; 0: any."""
    repeat_s: float = 5.0
    """A deliver_sm that is not confirmed for so long is sent again."""
    again_s: float = 0.2
    """One that is refused is sent again after this."""
    hex_receipts: bool = False
    """The ids in receipts are hexadecimal, those in answers decimal."""


class _Outgoing(Struct):
    """A deliver_sm until it is confirmed."""

    message: Message
    about: str
    tries: int = 0


class Smsc:
    """The centre. `await start()`, then `port`; `await stop()`."""

    def __init__(
        self,
        plan: Plan | None = None,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.plan = plan or Plan()
        self.settings = settings or Settings()
        self.host, self.port = host, port
        self.counts: dict[str, int] = {}
        """How often each thing has happened: `accept`, `throttle`, `confirmed`, `repeated`…"""
        self.binds: list[_Bind] = []
        self.clock = clock or SystemClock()
        self._recorder = recorder or Recorder()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._outbox: deque[_Outgoing] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        self._taken = 0
        self._references = 0
        self._allowance = 0.0
        self._allowed_at = 0.0
        self._flusher: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Bind(self), self.host, self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._flush()

    async def stop(self) -> None:
        """End all connections and close the record."""
        if self._server is not None:
            self._server.close()
        for timer in (*self._timers, self._flusher):
            if timer is not None:
                timer.cancel()
        self._timers.clear()
        ends = [bind.end() for bind in list(self.binds)]
        if ends:
            await asyncio.wait(ends)
        self._recorder.close()

    def say(self, sender: str, to: str, text: str) -> None:
        """A customer's message, in as many parts as it needs."""
        self._references = (self._references + 1) & 0xFF
        cut = segment(text, (Coding.GSM7, Coding.UCS2), reference=self._references, most=255)
        for part in cut.segments:
            message = Message(
                command=Command.DELIVER_SM,
                sequence=0,
                source_ton=1,
                source_npi=1,
                source=sender.removeprefix("+"),
                dest=to,
                esm_class=EsmClass.UDHI if part.udh else 0,
                data_coding=8 if cut.coding is Coding.UCS2 else 0,
                short_message=part.udh + part.payload,
            )
            self.deliver(message, "mo")

    def deliver(self, message: Message, about: str) -> None:
        """Send a deliver_sm by any receiving bind, until it is confirmed."""
        if len(self._outbox) >= OUTBOX_MAX:
            self._outbox.popleft()
            self.count("outbox_dropped")
        self._outbox.append(_Outgoing(message, about))
        self.pump()

    def count(self, what: str) -> None:
        """Add one to `counts`."""
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- for the binds -----------------------------------------------------------------------

    def admit(self, bind: Bind) -> Status:
        """Whether a bind is let in."""
        if bind.system_id != self.settings.system_id:
            return Status.RINVSYSID
        if bind.password != self.settings.password:
            return Status.RINVPASWD
        return Status.ROK

    def submitted(self, bind: _Bind, message: Message) -> None:
        """Take a submit_sm, or not, as the plan has it."""
        if not self._within_rate():
            self.count("over_rate")
            self._record(bind, message, "", "throttle")
            bind.answer(message.sequence, Status.RTHROTTLED)
            return
        fate = self.plan.fate(message.dest.encode("latin-1") + b"\0" + message.content)
        name = ""
        if fate.taken:
            self._taken += 1
            name = f"{self._taken:010d}"
        self.count(fate.answer)
        self._record(bind, message, name, fate.answer)
        early = fate.taken and fate.receipt_ms < 0
        if early:
            self._receipts(message, name, fate)
        if fate.answer == "cut":
            bind.cut()
        else:
            latency_ms = fate.latency_ms + (10.0 if early else 0.0)
            for _ in range(fate.answers):
                self.later(latency_ms, bind.answer, message.sequence, _status(fate), name)
        if fate.taken and not early:
            self.later(fate.latency_ms + fate.receipt_ms, self._receipts, message, name, fate)

    def confirmed(self, outgoing: _Outgoing, status: int) -> None:
        """The other side has answered a deliver_sm; refused ones are sent again."""
        if status == Status.ROK:
            self.count("confirmed")
            self._recorder.write(
                {"kind": "confirmed", "at": self.clock.now_ms(), "id": outgoing.about}
            )
        else:
            self.count("refused")
            self.later(self.settings.again_s * 1000, self.again, outgoing)

    def again(self, outgoing: _Outgoing) -> None:
        """Send once more what is not confirmed."""
        self.count("repeated")
        self._outbox.appendleft(outgoing)
        self.pump()

    def pump(self) -> None:
        """Give what waits to receiving binds with room."""
        while self._outbox:
            bind = max(self.binds, key=_room, default=None)
            if bind is None or bind.room <= 0:
                return
            bind.deliver(self._outbox.popleft())

    def later(self, delay_ms: float, what: Any, *arguments: Any) -> None:
        """Call it after a delay; at once when there is none."""
        if delay_ms <= 0:
            what(*arguments)
            return
        timer: asyncio.TimerHandle | None = None

        def run() -> None:
            self._timers.discard(timer)  # type: ignore[arg-type]
            what(*arguments)

        timer = asyncio.get_running_loop().call_later(delay_ms / 1000, run)
        self._timers.add(timer)

    # ---- inside ------------------------------------------------------------------------------

    def _within_rate(self) -> bool:
        rate = self.settings.rate
        if rate <= 0:
            return True
        now = self.clock.steady_s()
        most = max(1.0, rate / 10)
        self._allowance = min(most, self._allowance + (now - self._allowed_at) * rate)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _receipts(self, message: Message, name: str, fate: Fate) -> None:
        wanted = message.registered & 0x03
        if wanted == 0 or (wanted == 2 and fate.delivered):
            return
        if self.settings.hex_receipts:
            name = f"{int(name):X}"
        receipt = _receipt(message, name, fate.delivered)
        for _ in range(fate.receipts):
            self.deliver(receipt, name)

    def _record(self, bind: _Bind, message: Message, name: str, answer: str) -> None:
        udh = b""
        content = message.content
        where = None
        if message.esm_class & EsmClass.UDHI:
            headers, payload = parse_udh(content)
            udh = content[: len(content) - len(payload)]
            where = place_of(headers)
        self._recorder.write(
            {
                "kind": "submit",
                "at": self.clock.now_ms(),
                "id": name,
                "answer": answer,
                "from": message.source,
                "to": message.dest,
                "sequence": message.sequence,
                "bind": bind.number,
                "coding": message.data_coding,
                "reference": where.reference if where else None,
                "part": where.number if where else 1,
                "parts": where.total if where else 1,
                "udh": udh.hex(),
                "content": content[len(udh) :].hex(),
            }
        )

    def _flush(self) -> None:
        self._recorder.flush()
        self._flusher = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)


class _Bind(asyncio.Protocol):
    """One connection of an ESME."""

    _numbers = 0

    def __init__(self, smsc: Smsc) -> None:
        _Bind._numbers += 1
        self.number = _Bind._numbers
        self._smsc = smsc
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._framer = Framer()
        self._bound = 0  # the command it bound with
        self._out: list[bytes] = []
        self._full = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._sequence = 0
        self._pending: dict[int, tuple[float, _Outgoing]] = {}
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

    def deliver(self, outgoing: _Outgoing) -> None:
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


def _room(bind: _Bind) -> int:
    return bind.room


def _status(fate: Fate) -> Status:
    return _STATUS_OF.get(fate.answer, Status.ROK)


def _receipt(message: Message, name: str, delivered: bool) -> Message:
    """The receipt in the form of appendix B, and the optional parameters beside it. Its dates are
    the same in every run."""
    stat, err, done = ("DELIVRD", "000", "001") if delivered else ("UNDELIV", "011", "000")
    text = (
        f"id:{name} sub:001 dlvrd:{done} submit date:2601010000 done date:2601010001 "
        f"stat:{stat} err:{err} text:"
    )
    return Message(
        command=Command.DELIVER_SM,
        sequence=0,
        source_ton=message.dest_ton,
        source_npi=message.dest_npi,
        source=message.dest,
        dest_ton=message.source_ton,
        dest_npi=message.source_npi,
        dest=message.source,
        esm_class=EsmClass.RECEIPT,
        short_message=text.encode("latin-1"),
        tlvs={
            int(Tag.RECEIPTED_MESSAGE_ID): name.encode() + b"\0",
            int(Tag.MESSAGE_STATE): b"\2" if delivered else b"\5",
        },
    )


# ---- the command -----------------------------------------------------------------------------


class _Said(Struct, forbid_unknown_fields=True):
    sender: str = msgspec.field(name="from")
    to: str
    text: str


class _Line(Struct, forbid_unknown_fields=True):
    mo: _Said


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="smsc", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--hex-receipts", action="store_true", dest="hex_receipts")
    for name, kind in (
        ("system_id", str),
        ("password", str),
        ("rate", float),
        ("repeat_s", float),
        ("again_s", float),
    ):
        default = getattr(Settings(), name)
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, dest=name)
    faults.add_arguments(parser)
    return parser.parse_args(argv)


async def _listen_to(smsc: Smsc) -> None:
    """Customers' messages from standard input, until its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    with contextlib.suppress(ValueError, OSError):  # a file or terminal that cannot be waited for
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            try:
                line = await reader.readline()
                if not line:
                    return
                said = msgspec.json.decode(line, type=_Line).mo
                smsc.say(said.sender, said.to, said.text)
            except (ValueError, msgspec.MsgspecError, TactError) as error:
                log.warning("line not understood", error=type(error).__name__)


async def _serve(arguments: argparse.Namespace) -> None:
    names = [field.name for field in msgspec.structs.fields(Settings)]
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    smsc = Smsc(
        faults.plan_of(arguments),
        settings,
        host=arguments.host,
        port=arguments.port,
        recorder=Recorder(arguments.record),
    )
    await smsc.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(json.dumps({"port": smsc.port}) + "\n")
    sys.stdout.flush()
    listening = asyncio.create_task(_listen_to(smsc))
    await stop.wait()
    listening.cancel()
    await asyncio.wait([listening])
    await smsc.stop()
    sys.stdout.write(json.dumps({"counts": smsc.counts}) + "\n")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    import uvloop

    uvloop.run(_serve(_arguments(argv)))


if __name__ == "__main__":
    main()
