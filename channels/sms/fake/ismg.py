"""An ISMG on this machine: speaks CMPP 2.0 and 3.0, as the client asks, and delivers nothing.

    python -m channels.sms.fake.ismg --port 7890 --seed 7 --throttle 0.01 --record submits.jsonl

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "13800138000", "to": "10690001", "text": "R"}}` is a customer's message.
What becomes of a submission is drawn by `faults.Plan`. Reports and messages are kept until a client
confirms them, and are repeated when it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final, Literal

import msgspec
from msgspec import Struct

from channels.sms.alphabet import Coding
from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp import values
from channels.sms.cmpp.layout import CmppError, MalformedError
from channels.sms.cmpp.messages import V20, V30
from channels.sms.cmpp.pdu import SEQUENCE_MAX, Frame, Framer, UnknownCommandError, decode, encode
from channels.sms.cmpp.results import FLOW_CONTROL, STRUCTURE, VERSION_TOO_HIGH
from channels.sms.fake import command
from channels.sms.fake.centre import Centre, CentreSettings, Submitted
from channels.sms.fake.faults import Plan, Recorder
from channels.sms.fake.link import Link
from channels.sms.segments import Segment
from hub.clock import Clock

SUBMITS_SEEN: Final = 10_000
"""The last SUBMITs, for tests that look at them."""

_RESULT_OF: Final = {"throttle": FLOW_CONTROL, "busy": FLOW_CONTROL, "refuse": 13}
"""CMPP has no result but 8 for what can pass later."""


class Settings(CentreSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the fake presents itself. Times are seconds."""

    sp_id: str = "900001"
    secret: str = "888888"
    version: Literal["2.0", "3.0"] = "3.0"
    """The highest it speaks."""

    @property
    def highest(self) -> int:
        return V20 if self.version == "2.0" else V30


class _Told(Struct, frozen=True):
    """A DELIVER; `report` is its content, for whichever layout it needs."""

    deliver: cmpp.Deliver
    report: values.Report | None = None


class Ismg(Centre):
    """The gateway. `await start()`, then `port`; `await stop()`."""

    formats: ClassVar = {Coding.ASCII: 0, Coding.UCS2: 8}
    settings: Settings

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
        super().__init__(
            plan, settings or Settings(), host=host, port=port, recorder=recorder, clock=clock
        )
        self.submits: deque[cmpp.Submit] = deque(maxlen=SUBMITS_SEEN)
        self._serial = 0

    def link(self) -> _Client:
        return _Client(self)

    def new_id(self) -> str:
        return str(self._msg_id())

    def written(self, sender: str, to: str, coding: Coding, part: Segment) -> _Told:
        return _Told(
            cmpp.Deliver(
                msg_id=self._msg_id(),
                dest_id=to,
                tp_udhi=1 if part.udh else 0,
                msg_fmt=self.formats[coding],
                src_terminal_id=sender,
                content=part.udh + part.payload,
            )
        )

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
        submitted = Submitted(
            sequence=sequence,
            sender=submit.src_id,
            to=submit.dest_terminal_ids[0],
            coding=submit.msg_fmt,
            has_udh=bool(submit.tp_udhi & 1),
            content=submit.content,
            receipt=partial(self._report, submit),
        )
        self.take(client, submitted)

    def _msg_id(self) -> int:
        self._serial += 1
        return values.new_msg_id(self.clock.now_ms(), 1 + (self._serial >> 16), self._serial)

    def _report(self, submit: cmpp.Submit, name: str, delivered: bool) -> None:
        if submit.registered_delivery != 1:
            return
        minute = values.minute_text(self.clock.now_ms())
        number = submit.dest_terminal_ids[0]
        report = values.Report(
            msg_id=int(name),
            stat="DELIVRD" if delivered else "UNDELIV",
            submit_time=minute,
            done_time=minute,
            dest_terminal_id=number,
        )
        deliver = cmpp.Deliver(
            msg_id=self._msg_id(),
            dest_id=submit.src_id,
            src_terminal_id=number,
            registered_delivery=1,
        )
        self.deliver(_Told(deliver, report), name)


class _Client(Link):
    """One connection of a service provider. It is bound as the version that it speaks."""

    window: ClassVar = 16
    """W of the specification."""
    sequence_max: ClassVar = SEQUENCE_MAX

    def __init__(self, ismg: Ismg) -> None:
        super().__init__(ismg)
        self.version = V30
        self._ismg = ismg
        self._framer = Framer()

    def answer(self, sequence: int, answer: str, name: str = "") -> None:
        self._say(cmpp.SubmitResp(int(name or 0), _RESULT_OF.get(answer, 0)), sequence)

    def encoded(self, message: _Told, sequence: int) -> bytes:
        deliver = message.deliver
        if message.report is not None:
            content = values.encode_report(message.report, self.version)
            deliver = msgspec.structs.replace(deliver, content=content)
        return encode(deliver, sequence, self.version)

    def data_received(self, data: bytes) -> None:
        self._framer.feed(data)
        try:
            while (frame := self._framer.take()) is not None:
                self._take(frame)
        except CmppError:  # what it says cannot be followed any further
            self._ismg.count("bad_pdu")
            self.cut()

    def _take(self, frame: Frame) -> None:
        try:
            message = decode(frame, self.version)
        except UnknownCommandError:
            self._ismg.count("ignored")  # CMPP has no answer for it
            return
        except MalformedError:
            self._ismg.count("bad_pdu")
            if frame.command == cmpp.Command.SUBMIT:
                self._say(cmpp.SubmitResp(0, STRUCTURE), frame.sequence)
            return
        self._handle(message, frame.sequence)

    def _handle(self, message: cmpp.Message, sequence: int) -> None:
        match message:
            case cmpp.Submit() if self._bound:
                self._ismg.submitted(self, sequence, message)
            case cmpp.DeliverResp():
                self._answered(sequence, taken=message.result == 0)
            case cmpp.Connect():
                self._connect(message, sequence)
            case cmpp.ActiveTest():
                self._ismg.count("active_test")
                self._say(cmpp.ActiveTestResp(), sequence)
            case cmpp.Terminate():
                self._ismg.count("terminated")
                self._say(cmpp.TerminateResp(), sequence)
                self._bound = 0
                self._close_soon()
            case cmpp.Query() if self._bound:
                answer = cmpp.QueryResp(message.time, message.query_type, message.query_code)
                self._say(answer, sequence)
            case cmpp.Cancel() if self._bound:
                self._say(cmpp.CancelResp(1), sequence)
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
        self._say(cmpp.ConnectResp(status, proof, settings.highest), sequence)
        self._ismg.count("refused_login" if status else "connected")
        if status:
            self._close_soon()
        else:
            self._bound = self.version
            self._ismg.pump()

    def _say(self, message: cmpp.Message, sequence: int) -> None:
        self._send(encode(message, sequence, self.version))


# ---- the command -----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    command.run_centre(Ismg, Settings, "ismg", __doc__, argv)


if __name__ == "__main__":
    main()
