"""One connection of an ESME to the fake SMSC."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from channels.sms.fake.link import Link
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

_STATUS_OF: Final = {
    "throttle": Status.RTHROTTLED,
    "busy": Status.RSYSERR,
    "refuse": Status.RINVDSTADR,
}


class EsmeBind(Link):
    """One connection of an ESME. It is bound as the command that it bound with."""

    window: ClassVar = 100
    """Keeps a client busy at 2,000 receipts a second that it confirms after 50 ms."""
    sequence_max: ClassVar = SEQUENCE_MAX

    def __init__(self, smsc: Smsc) -> None:
        super().__init__(smsc)
        self._smsc = smsc
        self._framer = Framer()

    @property
    def receives(self) -> bool:
        return self._bound in (Command.BIND_RECEIVER, Command.BIND_TRANSCEIVER)

    def answer(self, sequence: int, answer: str, name: str = "") -> None:
        status = _STATUS_OF.get(answer, Status.ROK)
        body = name.encode() + b"\0" if status == Status.ROK else b""
        self._send(header(Command.SUBMIT_SM_RESP, status, sequence, len(body)) + body)

    def encoded(self, message: Message, sequence: int) -> bytes:
        return encode(msgspec.structs.replace(message, sequence=sequence))

    def data_received(self, data: bytes) -> None:
        for item in self._framer.feed(data):
            self._handle(item)

    def _handle(self, item: Pdu | PduError) -> None:
        match item:
            case Message(command=Command.SUBMIT_SM) if self._bound not in (
                0,
                Command.BIND_RECEIVER,
            ):
                self._smsc.submitted(self, item)
            case MessageResp(command=Command.DELIVER_SM_RESP):
                self._answered(item.sequence, taken=item.status == Status.ROK)
            case Bind():
                self._bind(item)
            case Plain(command=Command.ENQUIRE_LINK):
                self._plain(Command.ENQUIRE_LINK_RESP, Status.ROK, item.sequence)
            case Plain(command=Command.UNBIND):
                self._plain(Command.UNBIND_RESP, Status.ROK, item.sequence)
                self._bound = 0
                self._close_soon()
            case PduError():
                self._smsc.count("bad_pdu")
                self._plain(Command.GENERIC_NACK, item.status, item.sequence)
                if item.fatal:
                    self._close_soon()
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
            self._close_soon()

    def _plain(self, command: int, status: int, sequence: int) -> None:
        self._send(header(command, status, sequence, 0))
