"""An account at an SMPP centre: a `channels.provider.Provider`.

A long message is one submission of several submit_sm, and has one answer, when the last of them has
its own. The worst counts: unknown before refused before throttled before "again". What was taken of
a message that was not taken whole is in `Answer.provider_ids`, and is not sent again.

Source: ADR 6; SMPP 3.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from msgspec import Struct

from channels.provider import (
    Answer,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
    Unsendable,
)
from channels.sms.message import Sms, SmsConfig
from channels.sms.segments import Segment
from channels.sms.smpp.codec import message_body, validity_octets
from channels.sms.smpp.config import SmppConfig
from channels.sms.smpp.inbox import Inbox
from channels.sms.smpp.pdu import METRIC, Command, EsmClass, Message, Tag, Unencodable
from channels.sms.smpp.receipts import answer_id
from channels.sms.smpp.session import Session
from channels.sms.smpp.status import Status, verdict_of
from hub.clock import Clock
from hub.contract.types import Delivery
from hub.errors import ConfigError

QUEUE_PARTS_MAX: Final = 10_000
"""Parts of long messages that wait for room in a window. The account keeps within the windows, so
only parts of messages longer than a window wait, and those that lost their connection."""
WITHOUT_ID: Final = "-"
"""Stands for the id of a part that the centre has taken without giving it one."""

_RANK: Final = {"accepted": 0, "retry": 1, "throttled": 2, "failed": 3, "unknown": 4}
UNBIND_S: Final = 2.0
"""How long the centre may take to answer the unbind: all else is settled by then."""


class Part(Struct, frozen=True):
    """One submit_sm without its header: what stands before and after validity_period."""

    head: bytes
    tail: bytes

    def __repr__(self) -> str:
        return f"Part({len(self.head) + len(self.tail)} octets)"


class _Sending:
    """A submission that has begun."""

    __slots__ = ("code", "failure", "ids", "kind", "open", "submission")

    def __init__(self, submission: Submission) -> None:
        parts = len(submission.prepared.parts)
        self.submission = submission
        self.ids = list(submission.accepted) or [""] * parts
        self.open = self.ids.count("")
        """Parts without an end."""
        self.kind = "accepted"
        """The worst so far."""
        self.code = ""
        self.failure: Any = None

    def worsen(self, kind: str, code: str, failure: Any = None) -> None:
        if _RANK[kind] > _RANK[self.kind]:
            self.kind, self.code, self.failure = kind, code, failure


class SmppProvider:
    """One account: its binds, its texts, and what is under way.

    Raises ConfigError for a configuration that cannot work. `chance` draws the jitter of
    reconnecting.
    """

    resend = False

    def __init__(
        self,
        config: SmppConfig,
        sms_config: SmsConfig,
        events: Events,
        clock: Clock,
        chance: Random,
    ) -> None:
        check(config, sms_config)
        self.config = config
        self._events = events
        self.clock = clock
        self._codings = config.codings()
        self._sms = Sms(sms_config, codings=self._codings)
        self._statuses = config.own_statuses()
        self.tls = _tls(config)
        self._inbox = Inbox(config, self._sms, events, clock)
        pair = (
            (Command.BIND_TRANSCEIVER,)
            if config.bind == "transceiver"
            else (Command.BIND_TRANSMITTER, Command.BIND_RECEIVER)
        )
        self._lines = [_Line(self, bind, chance) for _ in range(config.binds) for bind in pair]
        self._senders: list[Session] = []
        self._queue: deque[tuple[_Sending, int]] = deque()
        self._under_way = 0
        self._idle: asyncio.Event | None = None
        self._link: Link | None = None
        self._stopping = False

    # ---- Provider ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Never: receipts and customers come by the connection."""
        return False

    def prepare(self, delivery: Delivery) -> Prepared:
        """The segments as submit_sm. Raises Unsendable."""
        recipient, segmented = self._sms.prepare(delivery)
        total = len(segmented.segments)
        asked = self.config.registered_delivery
        parts = []
        for segment in segmented.segments:
            last = segment.number == total
            message = self._submit_sm(
                recipient,
                segment,
                self._codings[segmented.coding],
                asked if last or self.config.receipts == "segment" else 0,
            )
            try:
                parts.append(Part(*message_body(message)))
            except Unencodable as error:
                raise Unsendable(str(error), failure="rejected_content") from None
        return Prepared(recipient=recipient, units=total, parts=tuple(parts))

    def start(self, _notes: Mapping[str, bytes]) -> None:
        """Begin to connect."""
        self._idle = asyncio.Event()
        self._idle.set()
        for line in self._lines:
            line.start()

    def submit(self, submission: Submission) -> None:
        """Send now what is not taken yet of it."""
        sending = _Sending(submission)
        loop = asyncio.get_running_loop()
        self._under_way += 1
        if self._idle is not None:
            self._idle.clear()
        if not sending.open:
            loop.call_soon(self._answer, sending)
        elif self._stopping or not self._senders or len(self._queue) >= QUEUE_PARTS_MAX:
            sending.worsen("retry", "not connected" if not self._senders else "queue full")
            loop.call_soon(self._answer, sending)
        else:
            self._queue.extend((sending, i) for i, taken in enumerate(sending.ids) if not taken)
            self._pump()

    def flush(self) -> None:
        """Write what was submitted, not at the end of the loop's pass."""
        for session in self._senders:
            session.flush()

    async def callback(self, request: Callback) -> Reply:
        """SMPP has no callbacks."""
        return Reply(status=404)

    async def stop(self, drain_s: float) -> None:
        """Unbind when all is answered, or after `drain_s` whatever is."""
        self._stopping = True
        self._give_back(lambda _: True, "stopping")
        if self._idle is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain_s)
        for line in self._lines:
            await line.stop()
        self._inbox.close()

    # ---- sending -----------------------------------------------------------------------------

    def _submit_sm(
        self, recipient: str, segment: Segment, data_coding: int, registered: int
    ) -> Message:
        config = self.config
        tlvs = {}
        if segment.total > 1 and not segment.udh:
            tlvs = {
                int(Tag.SAR_MSG_REF_NUM): segment.reference.to_bytes(2, "big"),
                int(Tag.SAR_TOTAL_SEGMENTS): bytes((segment.total,)),
                int(Tag.SAR_SEGMENT_SEQNUM): bytes((segment.number,)),
            }
        return Message(
            command=Command.SUBMIT_SM,
            sequence=0,
            service_type=config.service_type,
            source_ton=config.source_ton,
            source_npi=config.source_npi,
            source=config.source,
            dest_ton=config.dest_ton,
            dest_npi=config.dest_npi,
            dest=recipient if config.dest_plus else recipient.removeprefix("+"),
            esm_class=config.esm_class | (EsmClass.UDHI if segment.udh else 0),
            protocol_id=config.protocol_id,
            priority=config.priority_flag,
            registered=registered,
            data_coding=data_coding,
            short_message=segment.udh + segment.payload,
            tlvs=tlvs,
        )

    def _pump(self) -> None:
        """Give what waits to the binds that have room."""
        queue = self._queue
        while queue:
            session = max(self._senders, key=_room, default=None)
            if session is None or session.room <= 0:
                return
            ticket = queue.popleft()
            sending, index = ticket
            part = sending.submission.prepared.parts[index]
            validity = validity_octets(self._validity(sending.submission.expires_ms))
            session.submit(ticket, part.head + validity + part.tail)

    def _validity(self, expires_ms: int) -> str:
        """validity_period (7.1.1): of UTC, or from now (rounded up, 1 s at least)."""
        if self.config.validity == "none":
            return ""
        if self.config.validity == "absolute":
            try:
                when = datetime.fromtimestamp(expires_ms / 1000, UTC)
            except (OverflowError, ValueError, OSError):
                return ""  # beyond what a calendar holds: as long as the centre likes
            return f"{when:%y%m%d%H%M%S}000+"
        seconds = max(1, -(-(expires_ms - self.clock.now_ms()) // 1000))
        days, rest = divmod(min(seconds, 99 * 86_400 - 1), 86_400)
        hours, rest = divmod(rest, 3600)
        months, days = divmod(days, 30)
        return f"00{months:02d}{days:02d}{hours:02d}{rest // 60:02d}{rest % 60:02d}000R"

    def _part_ends(self, sending: _Sending) -> None:
        """One more part has its end. A message of which one part is not taken goes no further."""
        sending.open -= 1
        if sending.kind != "accepted" and sending.open:
            self._give_back(lambda one: one is sending, "")
        elif not sending.open:
            self._answer(sending)

    def _give_back(self, which: Callable[[_Sending], bool], code: str) -> None:
        """Take what never left out of the queue: those messages end with what they have."""
        waiting = [ticket for ticket in self._queue if which(ticket[0])]
        if not waiting:
            return
        self._queue = deque(ticket for ticket in self._queue if not which(ticket[0]))
        for sending, _ in waiting:
            sending.worsen("retry", code)
            sending.open -= 1
            if not sending.open:
                self._answer(sending)

    def _answer(self, sending: _Sending) -> None:
        ids = tuple(sending.ids)
        receipts = 0
        if sending.kind == "accepted" and self.config.registered_delivery & 0x03 == 1:
            receipts = len(ids) if self.config.receipts == "segment" else 1
        pause_ms = round(self.config.throttle_pause_s * 1000)
        answer = Answer(
            kind=sending.kind,  # type: ignore[arg-type]
            provider_ids=ids,
            receipts=receipts,
            failure=sending.failure,
            code=sending.code,
            retry_after_ms=pause_ms if sending.kind == "throttled" else None,
        )
        self._under_way -= 1
        if not self._under_way and self._idle is not None:
            self._idle.set()
        self._events.answered(sending.submission.delivery, answer)

    # ---- Owner of the sessions ---------------------------------------------------------------

    def bound(self, session: Session) -> None:
        for line in self._lines:
            line.up(session)
        if session.sends:
            self._senders.append(session)
        self.tell_link()
        self._pump()

    def answered(self, session: Session, ticket: Any, status: int, message_id: str) -> None:
        sending, index = ticket
        if status == Status.ROK:
            if not message_id:
                self.counted("answer_without_id")
            name = answer_id(message_id, self.config.id_form)
            sending.ids[index] = name or WITHOUT_ID
        else:
            verdict = verdict_of(status, self._statuses)
            if not verdict.known:
                self.counted("unknown_status")
            sending.worsen(verdict.kind, verdict.code, verdict.failure)
        self._part_ends(sending)
        if self._queue:
            self._pump()

    def unanswered(self, session: Session, ticket: Any, *, written: bool, reason: str) -> None:
        sending, _ = ticket
        if not written and sending.kind == "accepted" and any(one.sends for one in self._senders):
            self._queue.appendleft(ticket)  # it never left: another bind may take it
            self._pump()
            return
        sending.worsen("unknown" if written else "retry", reason)
        self._part_ends(sending)

    def delivered(self, session: Session, message: Message) -> None:
        self._inbox.take(session, message)

    def counted(self, what: str) -> None:
        self._events.counted(METRIC, what)

    def leaving(self, session: Session) -> None:
        self.closed(session)

    def closed(self, session: Session) -> None:
        for line in self._lines:
            line.down(session)
        if session in self._senders:
            self._senders.remove(session)
        if not self._senders:
            self._give_back(lambda _: True, "not connected")
        self.tell_link()

    # ---- connections -------------------------------------------------------------------------

    def tell_link(self) -> None:
        """Report the connections, if that has changed."""
        sending = [session for session in self._senders if session.sends]
        down = [line for line in self._lines if line.reason]
        link = Link(
            window=0 if self._stopping else len(sending) * self.config.window,
            reason=down[0].reason if down else "",
            config=not sending and any(line.config_fault for line in down),
        )
        if link != self._link:
            self._link = link
            self._events.link(link)


class _Line:
    """Keeps one bind up: connects, waits until it ends, and connects again, slower each time."""

    def __init__(self, provider: SmppProvider, bind: Command, chance: Random) -> None:
        self._provider = provider
        self._config = provider.config
        self._bind = bind
        self._chance = chance
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._delay_s = self._config.reconnect_min_s
        self._up_at: float | None = None
        self.reason = ""
        """Why it is down; "" while it is up or has not been tried."""
        self.config_fault = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    def up(self, session: Session) -> None:
        """The bind was accepted."""
        if session is self._session:
            self.reason, self.config_fault = "", False
            self._up_at = self._provider.clock.steady_s()

    def down(self, session: Session) -> None:
        """The connection has ended."""
        if session is self._session:
            self._fails(session.reason, session.config_fault)

    async def stop(self) -> None:
        """Unbind if nothing is unanswered, then close."""
        session = self._session
        if session is not None and session.connected:
            if session.bound and not session.unanswered:
                session.leave()
                await asyncio.wait([session.ended], timeout=UNBIND_S)
            session.close("stopped")
            await asyncio.wait([session.ended])
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        while True:
            self._session = None
            await self._connect()
            if self._session is not None:
                await self._session.ended
            await asyncio.sleep(self._pause_s())

    async def _connect(self) -> None:
        config = self._config
        loop = asyncio.get_running_loop()
        tls = self._provider.tls
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                await loop.create_connection(
                    self._begin,
                    config.host,
                    config.port,
                    ssl=tls,
                    server_hostname=(config.tls_name or config.host) if tls else None,
                )
            return
        except TimeoutError:
            reason, config_fault = "no connection in time", False
        except ssl.SSLCertVerificationError as error:
            reason, config_fault = f"TLS: {error.verify_message}", True
        except UnicodeError:
            reason, config_fault = "host: not a name", True
        except OSError as error:
            reason, config_fault = f"no connection: {error.strerror or type(error).__name__}", False
        self._session = None
        self._fails(reason, config_fault)
        self._provider.tell_link()

    def _begin(self) -> Session:
        self._session = Session(self._bind, self._config, self._provider)
        return self._session

    def _fails(self, reason: str, config_fault: bool) -> None:
        which = {Command.BIND_RECEIVER: "receiver: ", Command.BIND_TRANSMITTER: "transmitter: "}
        self.reason = which.get(self._bind, "") + reason
        self.config_fault = config_fault

    def _pause_s(self) -> float:
        """How long to wait now: twice as long each time, unless it was up for longer than that."""
        up_at, self._up_at = self._up_at, None
        if up_at is not None and self._provider.clock.steady_s() - up_at > self._delay_s:
            self._delay_s = self._config.reconnect_min_s
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._config.reconnect_max_s)
        if self.config_fault:
            delay_s = self._config.reconnect_max_s
        return delay_s * (0.5 + self._chance.random() / 2)


def _room(session: Session) -> int:
    return session.room


def check(config: SmppConfig, sms_config: SmsConfig) -> None:
    """What the types of a configuration cannot say. Raises ConfigError, which names the key."""
    config.own_statuses()
    Sms(sms_config, codings=config.codings())
    if config.reconnect_max_s < config.reconnect_min_s:
        raise ConfigError(
            "reconnect_max_s: must not be below reconnect_min_s", key="reconnect_max_s"
        )
    _tls(config)


def _tls(config: SmppConfig) -> ssl.SSLContext | None:
    """Certificates are always checked. Raises ConfigError."""
    if not config.tls:
        return None
    try:
        return ssl.create_default_context(cafile=config.tls_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"tls_ca: not a file of certificates ({type(error).__name__})", key="tls_ca"
        ) from error
