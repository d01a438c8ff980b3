"""An SMSC on this machine: speaks SMPP 3.4 and delivers nothing.

    python -m channels.sms.fake.smsc --port 2775 --seed 7 --throttle 0.01 --record submits.jsonl

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "+8613800138000", "to": "10690001", "text": "R"}}` is a customer's message.
What becomes of a submission is drawn by `faults.Plan`. A receipt that is not confirmed is repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import stat
import sys
from collections import deque
from typing import Any, Final

import msgspec
from msgspec import Struct

from channels.sms.alphabet import Coding
from channels.sms.fake import faults
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.smsc_bind import EsmeBind, Outgoing
from channels.sms.segments import parse_udh, place_of, segment
from channels.sms.smpp.pdu import (
    Bind,
    Command,
    EsmClass,
    Message,
    Tag,
)
from channels.sms.smpp.status import Status
from hub.clock import Clock, SystemClock
from hub.errors import TactError

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
        self.binds: list[EsmeBind] = []
        self.clock = clock or SystemClock()
        self._recorder = recorder or Recorder()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._outbox: deque[Outgoing] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        # ids that no earlier run has given, however many it gave a millisecond
        self._taken = self.clock.now_ms() * 1_000
        self._references = 0
        self._allowance = 0.0
        self._allowed_at = 0.0
        self._flusher: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: EsmeBind(self), self.host, self.port, ssl=self._tls
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
        self._outbox.append(Outgoing(message, about))
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

    def submitted(self, bind: EsmeBind, message: Message) -> None:
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
            name = str(self._taken)
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

    def confirmed(self, outgoing: Outgoing, status: int) -> None:
        """The other side has answered a deliver_sm; refused ones are sent again."""
        if status == Status.ROK:
            self.count("confirmed")
            self._recorder.write(
                {"kind": "confirmed", "at": self.clock.now_ms(), "id": outgoing.about}
            )
        else:
            self.count("refused")
            self.later(self.settings.again_s * 1000, self.again, outgoing)

    def again(self, outgoing: Outgoing) -> None:
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

    def _record(self, bind: EsmeBind, message: Message, name: str, answer: str) -> None:
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


def _room(bind: EsmeBind) -> int:
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


class _Listener:
    """Customers' messages from standard input, when it is a pipe or a terminal."""

    def __init__(self, smsc: Smsc) -> None:
        self._smsc = smsc
        self._rest = b""
        kind = os.fstat(0).st_mode
        self._hears = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(0)
        if self._hears:  # files are always readable, and /dev/null cannot be waited for
            asyncio.get_running_loop().add_reader(0, self._read)

    def close(self) -> None:
        if self._hears:
            asyncio.get_running_loop().remove_reader(0)
            self._hears = False

    def _read(self) -> None:
        data = os.read(0, LINE_BYTES)
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            self._rest = b""
            lines.append(b"")  # is told as not understood
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line, type=_Line).mo
            self._smsc.say(said.sender, said.to, said.text)
        except (msgspec.MsgspecError, UnicodeError, TactError) as error:
            _tell({"error": f"line not understood: {type(error).__name__}"})


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
    _tell({"port": smsc.port})
    listener = _Listener(smsc)
    await stop.wait()
    listener.close()
    await smsc.stop()
    _tell({"counts": smsc.counts})


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> None:
    """The command."""
    import uvloop

    uvloop.run(_serve(_arguments(argv)))


if __name__ == "__main__":
    main()
