"""An ISMG on this machine: speaks CMPP 2.0 and 3.0, as the client asks, and delivers nothing.

    python -m channels.sms.fake.ismg --port 7890 --seed 7 --throttle 0.01 --record submits.jsonl

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "13800138000", "to": "10690001", "text": "R"}}` is a customer's message.
What becomes of a submission is drawn by `faults.Plan`. Reports and messages are kept until a client
confirms them, and are repeated when it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections import deque
from typing import Any, Final, cast

import msgspec
import structlog
from msgspec import Struct

from channels.sms.alphabet import Coding
from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp import values
from channels.sms.cmpp.layout import CmppError, MalformedError
from channels.sms.cmpp.messages import V20, V30
from channels.sms.cmpp.pdu import SEQUENCE_MAX, Frame, Framer, UnknownCommandError, decode, encode
from channels.sms.cmpp.results import FLOW_CONTROL, STRUCTURE, VERSION_TOO_HIGH
from channels.sms.fake import faults
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.segments import parse_udh, place_of, segment
from hub.clock import Clock, SystemClock
from hub.errors import TactError

log = structlog.get_logger(__name__)

CLIENTS_MAX: Final = 64
"""Connections at once; a further one is closed."""
DELIVER_WINDOW: Final = 16
"""DELIVERs unanswered at once on one connection: W of the specification."""
OUTBOX_MAX: Final = 200_000
"""DELIVERs that wait for a client; the oldest is dropped (and counted) beyond it: 100 seconds of
reports at 2,000 a second, 100 MB."""
SUBMITS_SEEN: Final = 10_000
"""The last SUBMITs, for tests that look at them."""
FLUSH_S: Final = 0.2
"""How often what is recorded goes to the file."""
LINE_BYTES: Final = 64 * 1024
"""The longest line on standard input."""

_RESULT_OF: Final = {"throttle": FLOW_CONTROL, "busy": FLOW_CONTROL, "refuse": 13}
"""CMPP has no result but 8 for what can pass later."""
_FORMATS: Final = {Coding.ASCII: 0, Coding.UCS2: 8}


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the fake presents itself. Times are seconds."""

    sp_id: str = "900001"
    secret: str = "888888"
    version: str = "3.0"
    """The highest it speaks."""
    rate: float = 0.0
    """Submissions a second, beyond which they are throttled; 0: any."""
    repeat_s: float = 5.0
    """A DELIVER that is not confirmed for so long is sent again."""
    again_s: float = 0.2
    """One that is refused is sent again after this."""

    @property
    def highest(self) -> int:
        return V20 if self.version == "2.0" else V30


class _Outgoing(Struct):
    """A DELIVER until it is confirmed; `report` is its content, for whichever layout it needs."""

    deliver: cmpp.Deliver
    about: str
    report: values.Report | None = None


class Ismg:
    """The gateway. `await start()`, then `port`; `await stop()`."""

    def __init__(
        self,
        plan: Plan | None = None,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.plan = plan or Plan()
        self.settings = settings or Settings()
        self.host, self.port = host, port
        self.counts: dict[str, int] = {}
        """How often each thing has happened: `accept`, `throttle`, `confirmed`, `repeated`…"""
        self.clients: list[_Client] = []
        self.submits: deque[cmpp.Submit] = deque(maxlen=SUBMITS_SEEN)
        self.clock = clock or SystemClock()
        self._recorder = recorder or Recorder()
        self._server: asyncio.Server | None = None
        self._outbox: deque[_Outgoing] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        self._serial = 0
        self._references = 0
        self._allowance = 0.0
        self._allowed_at = 0.0
        self._flusher: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), self.host, self.port)
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
        ends = [client.end() for client in list(self.clients)]
        if ends:
            await asyncio.wait(ends)
        self._recorder.close()

    def say(self, sender: str, to: str, text: str) -> None:
        """A customer's message, in as many parts as it needs."""
        self._references = (self._references + 1) & 0xFF
        cut = segment(text, tuple(_FORMATS), reference=self._references, most=255)
        for part in cut.segments:
            deliver = cmpp.Deliver(
                msg_id=self.new_id(),
                dest_id=to,
                tp_udhi=1 if part.udh else 0,
                msg_fmt=_FORMATS[cut.coding],
                src_terminal_id=sender.removeprefix("+"),
                content=part.udh + part.payload,
            )
            self.deliver(deliver, "mo")

    def report(self, report: values.Report, to: str = "") -> None:
        """A status report."""
        deliver = cmpp.Deliver(
            msg_id=self.new_id(),
            dest_id=to,
            src_terminal_id=report.dest_terminal_id,
            registered_delivery=1,
        )
        self.deliver(deliver, str(report.msg_id), report)

    def deliver(
        self, deliver: cmpp.Deliver, about: str, report: values.Report | None = None
    ) -> None:
        """Send a DELIVER by any connection, until it is confirmed."""
        if len(self._outbox) >= OUTBOX_MAX:
            self._outbox.popleft()
            self.count("outbox_dropped")
        self._outbox.append(_Outgoing(deliver, about, report))
        self.pump()

    def new_id(self) -> int:
        """The next Msg_Id."""
        self._serial += 1
        return values.new_msg_id(self.clock.now_ms(), 1 + (self._serial >> 16), self._serial)

    def count(self, what: str) -> None:
        """Add one to `counts`."""
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- for the clients ---------------------------------------------------------------------

    def admit(self, message: cmpp.Connect) -> int:
        """The status of a CONNECT."""
        settings = self.settings
        if message.version >> 4 > settings.highest >> 4:
            return VERSION_TOO_HIGH
        if message.source_addr != settings.sp_id:
            return 2
        proof = values.authenticator_source(settings.sp_id, settings.secret, message.timestamp)
        return 0 if values.same(message.authenticator, proof) else 3

    def submitted(self, client: _Client, sequence: int, submit: cmpp.Submit) -> None:
        """Take a SUBMIT, or not, as the plan has it."""
        self.submits.append(submit)
        if not self._within_rate():
            self.count("over_rate")
            self._record(client, sequence, submit, 0, "throttle")
            client.say(cmpp.SubmitResp(0, FLOW_CONTROL), sequence)
            return
        number = submit.dest_terminal_ids[0]
        fate = self.plan.fate(number.encode("latin-1") + b"\0" + submit.content)
        msg_id = self.new_id() if fate.taken else 0
        self.count(fate.answer)
        self._record(client, sequence, submit, msg_id, fate.answer)
        early = fate.taken and fate.receipt_ms < 0
        if early:
            self._reports(submit, msg_id, fate)
        if fate.answer == "cut":
            client.cut()
        else:
            latency_ms = fate.latency_ms + (10.0 if early else 0.0)
            answer = cmpp.SubmitResp(msg_id, _RESULT_OF.get(fate.answer, 0))
            for _ in range(fate.answers):
                self.later(latency_ms, client.say, answer, sequence)
        if fate.taken and not early:
            self.later(fate.latency_ms + fate.receipt_ms, self._reports, submit, msg_id, fate)

    def confirmed(self, outgoing: _Outgoing, result: int) -> None:
        """A client has answered a DELIVER; what it refuses is sent again."""
        if result == 0:
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
        """Give what waits to clients with room."""
        while self._outbox:
            client = max(self.clients, key=_room, default=None)
            if client is None or client.room <= 0:
                return
            client.deliver(self._outbox.popleft())

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

    def _reports(self, submit: cmpp.Submit, msg_id: int, fate: Fate) -> None:
        if submit.registered_delivery != 1:
            return
        minute = values.minute_text(self.clock.now_ms())
        report = values.Report(
            msg_id=msg_id,
            stat="DELIVRD" if fate.delivered else "UNDELIV",
            submit_time=minute,
            done_time=minute,
            dest_terminal_id=submit.dest_terminal_ids[0],
        )
        for _ in range(fate.receipts):
            self.report(report, submit.src_id)

    def _record(
        self, client: _Client, sequence: int, submit: cmpp.Submit, msg_id: int, answer: str
    ) -> None:
        content, udh, where = submit.content, b"", None
        if submit.tp_udhi & 1:
            headers, payload = parse_udh(content)
            udh = content[: len(content) - len(payload)]
            where = place_of(headers)
        self._recorder.write(
            {
                "kind": "submit",
                "at": self.clock.now_ms(),
                "id": str(msg_id) if msg_id else "",
                "answer": answer,
                "from": submit.src_id,
                "to": submit.dest_terminal_ids[0],
                "sequence": sequence,
                "bind": client.number,
                "coding": submit.msg_fmt,
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


class _Client(asyncio.Protocol):
    """One connection of a service provider."""

    _numbers = 0

    def __init__(self, ismg: Ismg) -> None:
        _Client._numbers += 1
        self.number = _Client._numbers
        self.version = V30
        self._ismg = ismg
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._framer = Framer()
        self._ready = False
        self._out: list[bytes] = []
        self._full = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._sequence = 0
        self._pending: dict[int, tuple[float, _Outgoing]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def room(self) -> int:
        """DELIVERs that it can take now."""
        return DELIVER_WINDOW - len(self._pending) if self._ready and not self._full else 0

    def end(self) -> asyncio.Future[None]:
        """Close; done when it is."""
        if self._transport is not None:
            self._transport.abort()
        return self._ended

    def cut(self) -> None:
        """End the connection as a crash does, in the next pass of the loop."""
        self._ready = False
        self._loop.call_soon(self.end)

    def say(self, message: cmpp.Message, sequence: int) -> None:
        """Write one PDU."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(encode(message, sequence, self.version))

    def deliver(self, outgoing: _Outgoing) -> None:
        """Send a DELIVER and wait for its answer."""
        deliver = outgoing.deliver
        if outgoing.report is not None:
            content = values.encode_report(outgoing.report, self.version)
            deliver = msgspec.structs.replace(deliver, content=content)
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        until = self._loop.time() + self._ismg.settings.repeat_s
        self._pending[self._sequence] = (until, outgoing)
        self.say(deliver, self._sequence)
        self._watch()

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._ismg.clients.append(self)
        if len(self._ismg.clients) > CLIENTS_MAX:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._framer.feed(data)
        try:
            while (frame := self._framer.take()) is not None:
                self._take(frame)
        except CmppError:  # what it says cannot be followed any further
            self._ismg.count("bad_pdu")
            self.cut()

    def pause_writing(self) -> None:
        self._full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._ismg.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ready = False
        self._ismg.clients.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        for _, outgoing in self._pending.values():
            self._ismg.again(outgoing)
        self._pending.clear()
        self._out.clear()
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- inside ------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        try:
            message = decode(frame, self.version)
        except UnknownCommandError:
            self._ismg.count("ignored")  # CMPP has no answer for it
            return
        except MalformedError:
            self._ismg.count("bad_pdu")
            if frame.command == cmpp.Command.SUBMIT:
                self.say(cmpp.SubmitResp(0, STRUCTURE), frame.sequence)
            return
        self._handle(message, frame.sequence)

    def _handle(self, message: cmpp.Message, sequence: int) -> None:
        match message:
            case cmpp.Submit() if self._ready:
                self._ismg.submitted(self, sequence, message)
            case cmpp.DeliverResp():
                found = self._pending.pop(sequence, None)
                if found is not None:
                    self._ismg.confirmed(found[1], message.result)
                    self._ismg.pump()
            case cmpp.Connect():
                self._connect(message, sequence)
            case cmpp.ActiveTest():
                self._ismg.count("active_test")
                self.say(cmpp.ActiveTestResp(), sequence)
            case cmpp.Terminate():
                self._ismg.count("terminated")
                self.say(cmpp.TerminateResp(), sequence)
                self._ready = False
                self._loop.call_soon(self._close)
            case cmpp.Query() if self._ready:
                answer = cmpp.QueryResp(message.time, message.query_type, message.query_code)
                self.say(answer, sequence)
            case cmpp.Cancel() if self._ready:
                self.say(cmpp.CancelResp(1), sequence)
            case _:
                self._ismg.count("ignored")

    def _connect(self, message: cmpp.Connect, sequence: int) -> None:
        settings = self._ismg.settings
        status = self._ismg.admit(message)
        self.version = V30 if min(message.version, settings.highest) >= V30 else V20
        proof = bytes(16)
        if status == 0:
            proof = values.authenticator_ismg(
                status, message.authenticator, settings.secret, self.version
            )
        self.say(cmpp.ConnectResp(status, proof, settings.highest), sequence)
        self._ismg.count("refused_login" if status else "connected")
        if status:
            self._loop.call_soon(self._close)
        else:
            self._ready = True
            self._ismg.pump()

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
            self._ismg.again(outgoing)
        self._watch()


def _room(client: _Client) -> int:
    return client.room


# ---- the command -----------------------------------------------------------------------------


class _Said(Struct, forbid_unknown_fields=True):
    sender: str = msgspec.field(name="from")
    to: str
    text: str


class _Line(Struct, forbid_unknown_fields=True):
    mo: _Said


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ismg", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--version", choices=("2.0", "3.0"), default="3.0")
    for name, kind in (
        ("sp_id", str),
        ("secret", str),
        ("rate", float),
        ("repeat_s", float),
        ("again_s", float),
    ):
        default = getattr(Settings(), name)
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, dest=name)
    faults.add_arguments(parser)
    return parser.parse_args(argv)


async def _listen_to(ismg: Ismg) -> None:
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
                ismg.say(said.sender, said.to, said.text)
            except (ValueError, msgspec.MsgspecError, TactError) as error:
                log.warning("line not understood", error=type(error).__name__)


async def _serve(arguments: argparse.Namespace) -> None:
    names = [field.name for field in msgspec.structs.fields(Settings)]
    ismg = Ismg(
        faults.plan_of(arguments),
        Settings(**{name: getattr(arguments, name) for name in names}),
        host=arguments.host,
        port=arguments.port,
        recorder=Recorder(arguments.record),
    )
    await ismg.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(json.dumps({"port": ismg.port}) + "\n")
    sys.stdout.flush()
    listening = asyncio.create_task(_listen_to(ismg))
    await stop.wait()
    listening.cancel()
    await asyncio.wait([listening])
    await ismg.stop()
    sys.stdout.write(json.dumps({"counts": ismg.counts}) + "\n")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    import uvloop

    uvloop.run(_serve(_arguments(argv)))


if __name__ == "__main__":
    main()
