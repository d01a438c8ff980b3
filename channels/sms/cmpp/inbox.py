"""What an ISMG tells an account: status reports, and what customers wrote. Confirmed once stored.

The parts of a long message are confirmed together, when the whole is stored (`confirm_parts`).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from channels.provider import Events, ProviderInbound, ProviderReceipt, Stored
from channels.sms.alphabet import Coding, decode
from channels.sms.cmpp import values
from channels.sms.cmpp.config import CmppConfig
from channels.sms.cmpp.layout import MalformedError
from channels.sms.cmpp.messages import Deliver
from channels.sms.cmpp.results import FLOW_CONTROL, OK, STRUCTURE, fate_of
from channels.sms.cmpp.session import Session
from channels.sms.message import Sms
from channels.sms.numbers import spelled
from channels.sms.parts import Parts
from channels.sms.segments import Part, Whole, parse_udh, place_of
from hub.clock import Clock

METRIC: Final = "tact_provider_total"

_CODINGS: Final = {0: Coding.ASCII, 3: Coding.ASCII, 4: Coding.LATIN1, 8: Coding.UCS2}
"""Msg_Fmt of what customers write; GBK (15) for all others, since it contains ASCII."""

DONE_AGE_MS: Final = 7 * 24 * 3_600_000
"""A Done_time that is older than any delivery lives, or in the future, is a wrong clock."""

_Token = tuple[Session, int, int]
"""A DELIVER that waits to be confirmed: where it came, its sequence, its Msg_Id."""


class Inbox:
    """Of one account, for all its connections."""

    def __init__(self, config: CmppConfig, sms: Sms, events: Events, clock: Clock) -> None:
        self._config = config
        self._sms = sms
        self._region = sms.config.region
        self._events = events
        self._clock = clock
        self._parts = Parts(self._tell_all)

    def take(self, session: Session, sequence: int, deliver: Deliver) -> None:
        """Report one DELIVER, and confirm it when the account says that it is stored."""
        token = (session, sequence, deliver.msg_id)
        if deliver.registered_delivery == 1:
            self._receipt(token, deliver)
        else:
            self._written(token, deliver)

    def close(self) -> None:
        """Forget parts that wait: they are not confirmed, and come again. Those that are confirmed
        (`confirm_parts = "each"`) are told as they are."""
        wholes = self._parts.close()
        if self._config.confirm_parts == "each":
            self._tell_all(wholes)

    def _receipt(self, token: _Token, deliver: Deliver) -> None:
        session, sequence, msg_id = token
        try:
            report = values.decode_report(deliver.content)
        except MalformedError:
            self._events.counted(METRIC, "receipt_unreadable")
            session.confirm(sequence, msg_id, STRUCTURE)
            return
        fate = fate_of(report.stat, self._config.stats)
        if not fate.known:
            self._events.counted(METRIC, "unknown_stat")
        now = self._clock.now_ms()
        done = values.minute_ms(report.done_time)
        receipt = ProviderReceipt(
            status=fate.status,
            at_ms=done if done is not None and now - DONE_AGE_MS <= done <= now else now,
            provider_id=str(report.msg_id),
            failure=fate.failure,
            code=report.stat if report.stat.isascii() and report.stat.isprintable() else "",
        )
        self._events.receipt(receipt, self._entrusted(session, (token,)))

    def _written(self, token: _Token, deliver: Deliver) -> None:
        session, sequence, msg_id = token
        coding = _CODINGS.get(deliver.msg_fmt, Coding.GBK)
        sender = spelled(deliver.src_terminal_id, self._region)
        octets = deliver.content
        place = None
        if deliver.tp_udhi & 1:
            headers, octets = parse_udh(octets)
            place = place_of(headers)
        if place is None or place.total == 1:
            whole = Whole(sender, deliver.dest_id, decode(octets, coding), (token,), 1, 1)
            self._tell(session, whole, whole.tokens)
            return
        if self._config.confirm_parts == "each":
            session.confirm(sequence, msg_id, OK)
        part = Part(sender, deliver.dest_id, place, coding, octets, token)
        self._parts.add(part)

    def _tell_all(self, wholes: list[Whole]) -> None:
        for whole in wholes:
            if not whole.complete:
                self._events.counted(METRIC, "inbound_incomplete")
            session = whole.tokens[-1][0]
            confirmed = self._config.confirm_parts == "each"
            self._tell(session, whole, () if confirmed else whole.tokens)

    def _tell(self, session: Session, whole: Whole, tokens: tuple[_Token, ...]) -> None:
        """Tell what a customer wrote; `tokens` are those still to be confirmed."""
        inbound = ProviderInbound(
            id=str(min(msg_id for _session, _sequence, msg_id in whole.tokens)),
            sender=whole.sender,
            content={"text": whole.text},
            at_ms=self._clock.now_ms(),  # the protocol tells none
            opt_out=self._sms.is_opt_out(whole.text),
            parts=whole.parts,
        )
        self._events.inbound(inbound, self._entrusted(session, tokens))

    def _entrusted(self, session: Session, tokens: tuple[_Token, ...]) -> Stored:
        """What the account calls; until then one more lies with it."""
        session.entrust()
        return partial(self._stored, session, tokens)

    def _stored(self, session: Session, tokens: tuple[_Token, ...], stored: bool) -> None:
        for where, sequence, msg_id in tokens:
            where.confirm(sequence, msg_id, OK if stored else FLOW_CONTROL)
        session.settle()
        if not stored:
            self._events.counted(METRIC, "not_stored")
