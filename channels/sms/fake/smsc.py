"""An SMSC on this machine: speaks SMPP 3.4 and delivers nothing.

    python -m channels.sms.fake.smsc --port 2775 --seed 7 --throttle 0.01 --record submits.jsonl

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "+8613800138000", "to": "10690001", "text": "R"}}` is a customer's message.
What becomes of a submission is drawn by `faults.Plan`. A receipt that is not confirmed is repeated.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from channels.sms.alphabet import Coding
from channels.sms.fake import command
from channels.sms.fake.centre import Centre, CentreSettings, Submitted
from channels.sms.fake.faults import Plan, Recorder
from channels.sms.fake.smsc_bind import EsmeBind
from channels.sms.segments import Segment
from channels.sms.smpp.pdu import Bind, Command, EsmClass, Message, Tag
from channels.sms.smpp.status import Status
from hub.clock import Clock


class Settings(CentreSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the fake presents itself. Times are seconds."""

    system_id: str = "tact"
    password: str = "secret"
    hex_receipts: bool = False
    """The ids in receipts are hexadecimal, those in answers decimal."""


class Smsc(Centre):
    """The centre. `await start()`, then `port`; `await stop()`."""

    formats: ClassVar = {Coding.GSM7: 0, Coding.UCS2: 8}
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
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            plan,
            settings or Settings(),
            host=host,
            port=port,
            recorder=recorder,
            clock=clock,
            tls=tls,
        )
        # ids that no earlier run has given, however many it gave a millisecond
        self._taken = self.clock.now_ms() * 1_000

    def link(self) -> EsmeBind:
        return EsmeBind(self)

    def new_id(self) -> str:
        self._taken += 1
        return str(self._taken)

    def written(self, sender: str, to: str, coding: Coding, part: Segment) -> Message:
        return Message(
            command=Command.DELIVER_SM,
            sequence=0,
            source_ton=1,
            source_npi=1,
            source=sender,
            dest=to,
            esm_class=EsmClass.UDHI if part.udh else 0,
            data_coding=self.formats[coding],
            short_message=part.udh + part.payload,
        )

    def admit(self, bind: Bind) -> Status:
        """Whether a bind is let in."""
        if bind.system_id != self.settings.system_id:
            return Status.RINVSYSID
        if bind.password != self.settings.password:
            return Status.RINVPASWD
        return Status.ROK

    def submitted(self, bind: EsmeBind, message: Message) -> None:
        """Take a submit_sm, or not, as the plan has it."""
        submitted = Submitted(
            sequence=message.sequence,
            sender=message.source,
            to=message.dest,
            coding=message.data_coding,
            has_udh=bool(message.esm_class & EsmClass.UDHI),
            content=message.content,
            receipt=partial(self._receipt, message),
        )
        self.take(bind, submitted)

    def _receipt(self, message: Message, name: str, delivered: bool) -> None:
        wanted = message.registered & 0x03
        if wanted == 0 or (wanted == 2 and delivered):
            return
        if self.settings.hex_receipts:
            name = f"{int(name):X}"
        self.deliver(_receipt(message, name, delivered), name)


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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    command.run_centre(Smsc, Settings, "smsc", __doc__, argv)


if __name__ == "__main__":
    main()
