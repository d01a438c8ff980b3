"""One bind: one connection to a centre, from its first byte to its last.

A session sends what it is given within its window and tells what came of it, keeps the connection
alive, and answers the other side. It does not come back: who owns it opens another one.

All that is written in one pass of the event loop goes out in one write, and an answer finds its
submission in a dictionary: there is no task and no future for a message.

Source: SMPP 3.4, sections 2 (states), 3.2 (sequence numbers), 4 (commands), 7.2 (timers).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, Protocol, cast

from channels.sms.smpp.codec import Framer, encode, header
from channels.sms.smpp.config import SmppConfig
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
)
from channels.sms.smpp.status import BIND_CONFIG, Status, name_of

UNSTORED_MAX: Final = 1_000
"""deliver_sm given to the account and not yet stored; at this many nothing more is read. Half a
second of receipts at 2,000 messages a second, 1 MB."""
OUT_PDUS_MAX: Final = 10_000
"""PDUs that wait because the other side does not read; one more ends the connection. Submissions
are bounded by the window: only answers to a flood of requests can get here."""
SILENT_MAX: Final = 3
"""Submissions in a row that were not answered in time before the connection is given up."""
TICKS_PER_TIMEOUT: Final = 4
"""Timers are looked at this often in the shortest of them."""

_REQUESTS: Final = frozenset(
    command for command in Command if not command & RESPONSE and command != 0x102
)


class Owner(Protocol):
    """What a session tells. Calls return at once and never raise."""

    def bound(self, session: Session) -> None:
        """The bind was accepted."""

    def answered(self, session: Session, ticket: Any, status: int, message_id: str) -> None:
        """The centre's answer to a submission."""

    def unanswered(self, session: Session, ticket: Any, *, written: bool, reason: str) -> None:
        """There will be no answer; not `written`: it never left."""

    def delivered(self, session: Session, message: Message) -> None:
        """A deliver_sm or data_sm; to be given to `confirm` later or at once."""

    def counted(self, what: str) -> None:
        """Something that should not happen has happened."""

    def leaving(self, session: Session) -> None:
        """Nothing more can be sent by it; what is unanswered may still be answered."""

    def closed(self, session: Session) -> None:
        """The last call. `session.reason` says why."""


class Session(asyncio.Protocol):
    """One connection. Made by `connect`; ends by itself or by `close`."""

    def __init__(self, bind: Command, config: SmppConfig, owner: Owner) -> None:
        self._bind = bind
        self._config = config
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._framer = Framer()
        self._state = "new"  # binding, bound, leaving, closing, closed
        self.reason = ""
        """Why it ended."""
        self.config_fault = False
        """It ended for a reason that a person must change."""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._sequence = 0
        self._pending: dict[int, tuple[float, Any]] = {}  # oldest first: one timeout for all
        self._out: list[bytes] = []
        self._unwritten: list[int] = []  # of `_pending`: still in `_out`
        self._flushing = False
        self._full = False
        self._items: deque[Pdu | PduError] = deque()
        self._reading_items = False
        self._unstored: set[int] = set()
        self._paused_at: float | None = None
        self._paused_s = 0.0
        self._heard = 0.0
        self._asked: float | None = None
        self._deadline = 0.0  # of the bind, of leaving
        self._silent = 0
        self._timer: asyncio.TimerHandle | None = None
        shortest = min(config.response_timeout_s, config.enquire_link_s, config.connect_timeout_s)
        self._tick_s = min(1.0, shortest / TICKS_PER_TIMEOUT)

    def __repr__(self) -> str:
        return f"Session({self._state}, {len(self._pending)} unanswered)"

    # ---- for the owner -----------------------------------------------------------------------

    @property
    def sends(self) -> bool:
        """Whether submissions can go this way now."""
        return self._state == "bound" and self._bind != Command.BIND_RECEIVER

    @property
    def bound(self) -> bool:
        return self._state == "bound"

    @property
    def connected(self) -> bool:
        """Whether there is a connection, so that `ended` will be set."""
        return self._transport is not None and not self.ended.done()

    @property
    def room(self) -> int:
        """Submissions that the window has place for."""
        return self._config.window - len(self._pending) if self.sends else 0

    @property
    def unanswered(self) -> int:
        return len(self._pending)

    def submit(self, ticket: Any, body: bytes) -> None:
        """Send a submit_sm; only while there is `room`. `ticket` comes back with the answer."""
        sequence = self._next()
        self._pending[sequence] = (self._now() + self._config.response_timeout_s, ticket)
        self._unwritten.append(sequence)
        self._send(header(Command.SUBMIT_SM, 0, sequence, len(body)) + body)

    def flush(self) -> None:
        """Write what waits now, not at the end of the loop's pass."""
        self._flush()

    def hold(self, message: Message) -> None:
        """The account has this message and will say whether it is stored: it counts against
        UNSTORED_MAX until `confirm`."""
        self._unstored.add(message.sequence)

    def confirm(self, message: Message, stored: bool) -> None:
        """Answer a deliver_sm: taken, or (not stored) "later". Nothing on a closed connection."""
        status = Status.ROK if stored else Status.RX_T_APPN
        self._respond(message.command, status, message.sequence)
        self._unstored.discard(message.sequence)
        if self._paused_at is not None:
            self._read_items()

    def leave(self) -> None:
        """Send nothing more, unbind when all is answered."""
        if self._state in ("binding", "bound"):
            self._begin_leaving()
            if not self._pending:
                self._unbind()

    def close(self, reason: str, *, config_fault: bool = False) -> None:
        """End the connection now; what is unanswered is told so."""
        if self._over:
            return
        self._fail(reason, config_fault)
        if self._transport is not None:
            self._flush()  # a last word, as generic_nack
            self._state = "closing"
            self._transport.close()
            self._timer_stop()
            # a peer that reads nothing would keep a polite close waiting for ever
            self._timer = self._loop.call_later(self._tick_s, self._transport.abort)

    @property
    def _over(self) -> bool:
        return self._state in ("closing", "closed")

    def _fail(self, reason: str, config_fault: bool = False) -> None:
        if not self.reason:
            self.reason, self.config_fault = reason, config_fault

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport = transport
        # What the system does not take waits here, where it is known not to have left; and what it
        # takes is on its way when `write` returns.
        # Not 0: asyncio's TLS says at 0 that it is full when it is empty.
        transport.set_write_buffer_limits(high=1, low=0)
        self._state = "binding"
        self._heard = self._now()
        self._deadline = self._heard + self._config.connect_timeout_s
        bind = Bind(
            command=self._bind,
            sequence=self._next(),
            system_id=self._config.system_id,
            password=self._config.password,
            system_type=self._config.system_type,
        )
        self._send(encode(bind))
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def data_received(self, data: bytes) -> None:
        self._heard = self._now()
        self._asked = None
        self._items.extend(self._framer.feed(data))
        self._read_items()

    def eof_received(self) -> None:
        self._fail("the other side closed the connection")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was lost")
        self._state = "closed"
        self._timer_stop()
        self._items.clear()
        self._out.clear()
        unwritten = set(self._unwritten)
        pending, self._pending = self._pending, {}
        for sequence, (_, ticket) in pending.items():
            self._owner.unanswered(
                self, ticket, written=sequence not in unwritten, reason=self.reason
            )
        self._owner.closed(self)
        if not self.ended.done():
            self.ended.set_result(None)

    # ---- reading -----------------------------------------------------------------------------

    def _read_items(self) -> None:
        """Handle what has been read, while what is not stored is within its bound."""
        if self._reading_items:
            return  # called from within an item: the loop below goes on
        self._reading_items = True
        while self._items and len(self._unstored) < UNSTORED_MAX and not self._over:
            self._handle(self._items.popleft())
        self._reading_items = False
        full = len(self._unstored) >= UNSTORED_MAX
        if full and self._paused_at is None:
            self._paused_at = self._loop.time()
            self._owner.counted("reading_paused")
            if self._transport is not None:
                self._transport.pause_reading()
        elif not full and self._paused_at is not None:
            self._paused_s += self._loop.time() - self._paused_at
            self._paused_at = None
            if self._transport is not None:
                self._transport.resume_reading()

    def _handle(self, item: Pdu | PduError) -> None:
        match item:
            case MessageResp() if item.command != Command.DELIVER_SM_RESP:
                self._answer(item.sequence, item.status, item.message_id)
            case Message(command=Command.DELIVER_SM | Command.DATA_SM) if self._state != "binding":
                self._owner.delivered(self, item)
            case BindResp():
                self._bind_answer(item)
            case Plain():
                self._handle_plain(item)
            case PduError():
                self._handle_error(item)
            case _:
                # what only an ESME says to a centre, or what makes no sense before the bind
                self._owner.counted("unexpected_pdu")
                if not item.command & RESPONSE:
                    self._respond(item.command, Status.RINVBNDSTS, item.sequence)

    def _handle_plain(self, pdu: Plain) -> None:
        match pdu.command:
            case Command.ENQUIRE_LINK:
                self._respond(pdu.command, Status.ROK, pdu.sequence)
            case Command.ENQUIRE_LINK_RESP:
                pass  # that it was heard is all there is to it
            case Command.GENERIC_NACK:
                if self._state == "binding":
                    self._refused(pdu.status)
                else:
                    self._answer(pdu.sequence, pdu.status or Status.RUNKNOWNERR, "")
            case Command.UNBIND:
                self._respond(pdu.command, Status.ROK, pdu.sequence)
                self._fail("the other side unbound")
                if self._state == "bound":
                    self._begin_leaving()
                if not self._pending:
                    self.close(self.reason)
            case Command.UNBIND_RESP:
                self.close("unbound")
            case _:
                self._owner.counted("ignored_pdu")

    def _answer(self, sequence: int, status: int, message_id: str) -> None:
        found = self._pending.pop(sequence, None)
        if found is None:
            # late (its submission is already unknown), twice, or never asked for
            self._owner.counted("unexpected_answer")
            return
        self._silent = 0
        self._owner.answered(self, found[1], status, message_id)
        if self._state == "leaving" and not self._pending:
            self._unbind()

    def _handle_error(self, error: PduError) -> None:
        self._owner.counted("bad_pdu")
        if error.fatal:
            self._nack(error)
            self.close("the other side sent what is no SMPP")
        elif not error.command & RESPONSE:
            if error.command in _REQUESTS:
                self._respond(error.command, error.status, error.sequence)
            else:
                self._nack(error)
        elif (found := self._pending.pop(error.sequence, None)) is not None:
            self._owner.unanswered(self, found[1], written=True, reason="an answer without sense")
        elif self._state == "binding":
            self.close("the answer to the bind makes no sense")

    def _bind_answer(self, answer: BindResp) -> None:
        if self._state != "binding" or answer.command != self._bind | RESPONSE:
            self._owner.counted("unexpected_answer")
        elif answer.status != Status.ROK:
            self._refused(answer.status)
        else:
            self._state = "bound"
            self._owner.bound(self)

    def _refused(self, status: int) -> None:
        self.close(f"the bind was refused: {name_of(status)}", config_fault=status in BIND_CONFIG)

    # ---- writing -----------------------------------------------------------------------------

    def _next(self) -> int:
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        return self._sequence

    def _respond(self, command: int, status: int, sequence: int) -> None:
        """Answer a request of the other side; the answers that carry an id carry an empty one."""
        body = b"\0" if command in (Command.DELIVER_SM, Command.DATA_SM) else b""
        self._send(header(command | RESPONSE, status, sequence, len(body)) + body)

    def _nack(self, error: PduError) -> None:
        self._send(header(Command.GENERIC_NACK, error.status, error.sequence, 0))

    def _send(self, pdu: bytes) -> None:
        if self._over:
            return
        self._out.append(pdu)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if len(self._out) > OUT_PDUS_MAX and self._transport is not None:
            self._abort("the other side does not read")

    def _flush(self) -> None:
        """Write all of this pass at once; while the transport is full it waits here."""
        self._flushing = False
        if not self._out or self._full or self._transport is None or self._over:
            return
        data = b"".join(self._out)
        self._out.clear()
        self._unwritten.clear()
        self._transport.write(data)

    # ---- time --------------------------------------------------------------------------------

    def _now(self) -> float:
        """Seconds of which this side was reading: an answer that nobody looks for is not late."""
        now = self._loop.time()
        paused = now - self._paused_at if self._paused_at is not None else 0.0
        return now - self._paused_s - paused

    def _tick(self) -> None:
        assert self._transport is not None
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        now = self._now()
        if self._state == "binding" and now >= self._deadline:
            self.close("no answer to the bind")
        elif self._state == "leaving" and now >= self._deadline:
            self.close("no answer to the unbind")
        elif self._paused_at is None:
            self._expire(now)
            if not self._over:
                self._keep_alive(now)

    def _expire(self, now: float) -> None:
        while self._pending:
            sequence, (deadline, ticket) = next(iter(self._pending.items()))
            if deadline > now:
                return
            del self._pending[sequence]
            self._silent += 1
            self._owner.counted("answer_missing")
            # also when it still waits to be written: from there nothing is taken back
            self._owner.unanswered(self, ticket, written=True, reason="no answer in time")
            if self._silent >= SILENT_MAX:
                self._abort(f"{SILENT_MAX} submissions in a row were not answered")
                return

    def _keep_alive(self, now: float) -> None:
        if self._asked is not None:
            if now - self._asked >= self._config.response_timeout_s:
                self._abort("the other side is silent")
        elif self._state == "bound" and now - self._heard >= self._config.enquire_link_s:
            self._asked = now
            self._send(header(Command.ENQUIRE_LINK, 0, self._next(), 0))

    def _begin_leaving(self) -> None:
        self._state = "leaving"
        self._deadline = self._now() + self._config.response_timeout_s
        self._owner.leaving(self)

    def _unbind(self) -> None:
        if self.reason:  # the other side unbound first, and has its answer
            self.close(self.reason)
            return
        self._fail("unbound")
        self._deadline = self._now() + self._config.connect_timeout_s
        self._send(header(Command.UNBIND, 0, self._next(), 0))

    def _abort(self, reason: str) -> None:
        """End a connection whose other side no longer does its part."""
        self._fail(reason)
        self._state = "closing"
        self._timer_stop()
        if self._transport is not None:
            self._transport.abort()

    def _timer_stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
