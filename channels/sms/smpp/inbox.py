"""What a centre tells an account: receipts, and what customers wrote. Confirmed once it is stored.

The parts of a long message are confirmed together, when the whole is stored (`confirm_parts`).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from channels.provider import Events, ProviderInbound, ProviderReceipt
from channels.sms.alphabet import Coding, decode
from channels.sms.message import Sms
from channels.sms.numbers import spelled
from channels.sms.parts import Parts
from channels.sms.segments import Part, Place, Whole, parse_udh, place, place_of
from channels.sms.smpp.config import SmppConfig
from channels.sms.smpp.pdu import METRIC, EsmClass, Message, Tag, number
from channels.sms.smpp.receipts import is_receipt, receipt_of
from channels.sms.smpp.session import Session
from hub.clock import Clock

_TON_INTERNATIONAL: Final = 1

_CODINGS: Final = {
    1: Coding.ASCII,
    2: Coding.LATIN1,  # octets: kept one to one
    3: Coding.LATIN1,
    4: Coding.LATIN1,
    8: Coding.UCS2,
}
"""data_coding of what comes in (SMPP 3.4, 5.2.19); 0 is `inbound_default`."""


class Inbox:
    """Of one account, for all its binds."""

    def __init__(self, config: SmppConfig, sms: Sms, events: Events, clock: Clock) -> None:
        self._config = config
        self._sms = sms
        self._events = events
        self._clock = clock
        own = {data_coding: Coding(name) for name, data_coding in config.data_coding.items()}
        self._codings = {0: Coding(config.inbound_default)} | _CODINGS | own
        self._parts = Parts(self._tell_all)

    def take(self, session: Session, message: Message) -> None:
        """Report one deliver_sm, and confirm it when the account says that it is stored."""
        if is_receipt(message):
            self._receipt(session, message)
        elif message.esm_class & EsmClass.TYPE_MASK:
            # acknowledgements that a handset's user sends: there is nothing to tell
            self._events.counted(METRIC, "acknowledgement_ignored")
            session.confirm(message, True)
        else:
            self._written(session, message)

    def close(self) -> None:
        """Forget parts that wait: they are not confirmed, and come again. Those that are confirmed
        (`confirm_parts = "each"`) are told as they are."""
        wholes = self._parts.close()
        if self._config.confirm_parts == "each":
            self._tell_all(wholes)

    def _receipt(self, session: Session, message: Message) -> None:
        receipt = receipt_of(message, self._config.id_form)
        if receipt is None:
            # repeating it would not help: it names no message
            self._events.counted(METRIC, "receipt_unreadable")
            session.confirm(message, True)
            return
        session.hold(message)
        self._events.receipt(
            ProviderReceipt(
                status=receipt.status,
                # `done date` is in a time zone that nobody states
                at_ms=self._clock.now_ms(),
                provider_id=receipt.id,
                failure=receipt.failure,
                code=receipt.code,
            ),
            partial(session.confirm, message),
        )

    def _written(self, session: Session, message: Message) -> None:
        payload, where = _payload(message)
        sender = self._sender(message)
        coding = self._coding(message.data_coding)
        if where is None or where.total == 1:
            session.hold(message)
            self._tell(sender, decode(payload, coding), 1, ((session, message),))
            return
        token = (session, message)
        if self._config.confirm_parts == "each":
            session.confirm(message, True)
            token = None
        part = Part(sender, message.dest, where, coding, payload, token)
        self._parts.add(part)

    def _tell_all(self, wholes: list[Whole]) -> None:
        for whole in wholes:
            if not whole.complete:
                self._events.counted(METRIC, "inbound_incomplete")
            tokens = tuple(token for token in whole.tokens if token is not None)
            for session, message in tokens:
                session.hold(message)
            self._tell(whole.sender, whole.text, whole.parts, tokens)

    def _tell(
        self, sender: str, text: str, parts: int, tokens: tuple[tuple[Session, Message], ...]
    ) -> None:
        def stored(done: bool) -> None:
            for session, message in tokens:
                session.confirm(message, done)

        self._events.inbound(
            ProviderInbound(
                id="",
                sender=sender,
                content={"text": text},
                at_ms=self._clock.now_ms(),
                opt_out=self._sms.is_opt_out(text),
                parts=parts,
            ),
            stored,
        )

    def _sender(self, message: Message) -> str:
        text = message.source
        if message.source_ton == _TON_INTERNATIONAL and not text.startswith("+"):
            text = "+" + text
        return spelled(text, self._sms.config.region)

    def _coding(self, data_coding: int) -> Coding:
        """The alphabet of a data_coding. Beyond the specification's list they are those of GSM
        03.38, section 4: two bits tell the alphabet, and what is compressed cannot be read."""
        found = self._codings.get(data_coding)
        if found is not None:
            return found
        if data_coding >= 0xF0:
            return Coding.LATIN1 if data_coding & 0x04 else self._codings[0]
        if data_coding < 0x40:
            alphabets = (self._codings[0], Coding.LATIN1, Coding.UCS2, Coding.LATIN1)
            return alphabets[data_coding >> 2 & 3]
        return Coding.LATIN1


def _payload(message: Message) -> tuple[bytes, Place | None]:
    """The content without its header, and where it belongs in a long message."""
    content = message.content
    if message.esm_class & EsmClass.UDHI:
        headers, payload = parse_udh(content)
        return payload, place_of(headers)
    total = number(message.tlvs, Tag.SAR_TOTAL_SEGMENTS)
    index = number(message.tlvs, Tag.SAR_SEGMENT_SEQNUM)
    reference = number(message.tlvs, Tag.SAR_MSG_REF_NUM)
    if total is None or index is None or reference is None:
        return content, None
    return content, place(reference, total, index)
