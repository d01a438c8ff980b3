"""One TCP connection to an ISMG: login, window, silence, and what arrives.

The specification tells the sender to repeat a SUBMIT that nobody answered. We do not: the first one
may have been taken, and CMPP has no key by which a repeat would be seen. What is unanswered after
the response timeout is told as such, once.

No task runs here: the loop calls when bytes come, when they can leave, and when something is due.
Source: QB-GF-028-2003, sections 6.2 to 6.4 (windows, C, T and N) and 8.4.1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from msgspec import Struct

from channels.sms.cmpp import values
from channels.sms.cmpp.config import CmppConfig
from channels.sms.cmpp.layout import CmppError, MalformedError, UnencodableError
from channels.sms.cmpp.messages import (
    V20,
    V30,
    ActiveTest,
    ActiveTestResp,
    Command,
    Connect,
    ConnectResp,
    Deliver,
    DeliverResp,
    Message,
    Submit,
    SubmitResp,
    Terminate,
    TerminateResp,
)
from channels.sms.cmpp.pdu import (
    SEQUENCE_MAX,
    Frame,
    Framer,
    FramingError,
    UnknownCommandError,
    connect_resp_version,
    decode,
    encode,
)
from channels.sms.cmpp.results import STRUCTURE, refusal_of
from hub.clock import Clock

UNSTORED: Final = 64
"""DELIVERs given to the account and not stored yet. The ISMG's window is 16 by the specification;
one that sends more is not read until half of these are stored."""
ANSWERS_HELD: Final = 1_000
"""Answers that wait because the ISMG does not read: one that asks so much and reads nothing is
disconnected."""


class LostError(CmppError):
    """The connection has ended, or never came about."""

    code = "cmpp-lost"
    retryable = True


class RefusedError(CmppError):
    """The login did not succeed. `facts`: status, and config (a person must change something)."""

    code = "cmpp-refused"


class Owner(Protocol):
    """Whom a session serves. Calls return at once and never raise."""

    def answered(self, token: Any, answer: SubmitResp | None) -> None:
        """The answer to a `submit`; None when none came: it may have been taken."""

    def wanted(self, token: Any) -> bool:
        """Asked before a `submit` is written: False gives it back as `unsent`."""

    def unsent(self, token: Any, error: CmppError) -> None:
        """A `submit` that never left; UnencodableError: nor ever will."""

    def delivered(self, session: Session, sequence: int, deliver: Deliver) -> None:
        """A DELIVER; to be answered with `confirm`."""

    def counted(self, what: str) -> None:
        """Something that is worth a metric."""


class _Pending(Struct, gc=False):
    """A SUBMIT on its way."""

    token: Any
    deadline_s: float


class Session(asyncio.Protocol):
    """One connection from CONNECT to its end. Not used again after that."""

    def __init__(
        self,
        config: CmppConfig,
        version: int,
        owner: Owner,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.opened: asyncio.Future[CmppError | None] = loop.create_future()
        """None when the ISMG has let us in and has proved that it knows the secret."""
        self.closed: asyncio.Future[CmppError] = loop.create_future()
        """Why it has ended; everything submitted is answered by then."""
        self.version = version
        """The one asked for; after `opened` the one spoken."""
        self._config = config
        self._owner = owner
        self._clock = clock
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._framer = Framer()
        self._authenticator = b""
        self._ready = False
        self._sequence = 0
        self._waiting: deque[tuple[Submit, Any]] = deque()  # bounded by the caller's window
        self._pending: dict[int, _Pending] = {}  # the oldest first
        self._out: list[bytes] = []
        self._flushing = False
        self._blocked = False
        self._unstored = 0
        self._held = False
        self._heard_s = 0.0
        self._silences = 0
        self._test: int | None = None
        self._test_deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._handlers: dict[type[Message], Callable[[int, Any], None]] = {
            SubmitResp: self._on_submit_resp,
            Deliver: self._on_deliver,
            ActiveTest: self._on_active_test,
            ActiveTestResp: self._on_active_test_resp,
            Terminate: self._on_terminate,
            TerminateResp: self._on_terminate_resp,
        }

    # ---- for the owner -----------------------------------------------------------------------

    @property
    def load(self) -> int:
        """SUBMITs that are unanswered or wait to be written."""
        return len(self._pending) + len(self._waiting)

    def submit(self, message: Submit, token: Any) -> None:
        """Write it as soon as the window and the socket allow. The token comes back once."""
        if self.closed.done():
            self._loop.call_soon(self._owner.unsent, token, self.closed.result())
            return
        self._waiting.append((message, token))
        self._soon()

    def flush(self) -> None:
        """Write what waits now, as far as the window and the socket allow."""
        self._flush()

    def confirm(self, sequence: int, msg_id: int, result: int) -> None:
        """Answer a DELIVER. Of a connection that has ended: nothing, the ISMG will repeat it."""
        self._say(DeliverResp(msg_id, result), sequence)

    def entrust(self) -> None:
        """One more DELIVER lies with the account."""
        self._unstored += 1
        if self._unstored < UNSTORED or self._held or self.closed.done():
            return
        if self._transport is not None:
            self._held = True
            self._transport.pause_reading()
            self._owner.counted("reading_held")

    def settle(self) -> None:
        """The account has stored one, or could not."""
        self._unstored -= 1
        if self._held and self._unstored <= UNSTORED // 2:
            self._loop.call_soon(self._read_on)

    def terminate(self) -> None:
        """Say goodbye; `closed` follows when the ISMG has answered."""
        self._say(Terminate(), self._next())

    def abort(self, error: CmppError) -> None:
        """End it now."""
        self._end(error)

    # ---- the transport -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self.closed.done():  # given up while it was being made
            transport.abort()
            return
        self._transport = transport
        # What the socket does not take waits here, where it is known not to have left.
        # Not 0: asyncio's TLS says at 0 that it is full when it is empty.
        transport.set_write_buffer_limits(high=1, low=0)
        config = self._config
        stamp = values.timestamp(self._clock.now_ms())
        self._authenticator = values.authenticator_source(config.sp_id, config.secret, stamp)
        self._say(Connect(config.sp_id, self._authenticator, self.version, stamp), self._next())

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._silences = 0
        self._framer.feed(data)
        self._read()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._soon()

    def connection_lost(self, error: Exception | None) -> None:
        what = "was closed by the ISMG" if error is None else f"broke: {type(error).__name__}"
        self._end(LostError(f"the connection {what}"))

    # ---- what arrives ------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._held and not self.closed.done():
            try:
                frame = self._framer.take()
            except FramingError as error:
                self._owner.counted("framing")
                self._end(error)
                return
            if frame is None:
                return
            self._take(frame)

    def _read_on(self) -> None:
        if not self._held or self._transport is None or self.closed.done():
            return
        self._held = False
        self._transport.resume_reading()
        # What came meanwhile counts as come in time.
        now = self._loop.time()
        self._arm(now + self._config.response_timeout_s, anew=True)
        self._read()

    def _take(self, frame: Frame) -> None:
        if not self._ready:
            self._login(frame)
            return
        try:
            message = decode(frame, self.version)
        except UnknownCommandError:
            self._owner.counted("unknown_command")
            return
        except MalformedError:
            self._owner.counted("malformed")
            self._on_malformed(frame)
            return
        handler = self._handlers.get(type(message))
        if handler is None:
            self._owner.counted("unexpected_command")
            return
        handler(frame.sequence, message)

    def _login(self, frame: Frame) -> None:
        try:
            if frame.command != Command.CONNECT_RESP:
                raise MalformedError("the ISMG does not answer the CONNECT")
            layout = connect_resp_version(frame)
            answer = decode(frame, self.version)
            assert isinstance(answer, ConnectResp)
            self._check(answer, layout)
        except CmppError as error:
            self._end(error)
            return
        self._ready = True
        self.opened.set_result(None)
        self._arm(self._heard_s + self._config.active_test_s)

    def _check(self, answer: ConnectResp, layout: int) -> None:
        """Whether we are in, and in which version. Raises RefusedError, MalformedError."""
        if answer.status:
            reason, config = refusal_of(answer.status)
            raise RefusedError(reason, status=answer.status, config=config)
        asked = V30 if self.version >= V30 else V20
        if layout != asked and (layout == V30 or self._config.version != "auto"):
            raise RefusedError(
                f"the ISMG answers in CMPP {layout >> 4}.0: set version", status=0, config=True
            )
        if self._config.verify_ismg and not self._proven(answer.authenticator, layout):
            raise RefusedError(
                "the ISMG does not know the secret: check secret, or whether host is the carrier's",
                status=0,
                config=True,
            )
        if layout != asked:
            self.version = layout

    def _proven(self, proof: bytes, version: int) -> bool:
        """Whether the ISMG knows the secret. Some of 3.0 still write the status as one byte there,
        which proves as much."""
        secret, sent = self._config.secret, self._authenticator
        return any(
            values.same(proof, values.authenticator_ismg(0, sent, secret, form))
            for form in {version, V20}
        )

    def _on_submit_resp(self, sequence: int, answer: SubmitResp) -> None:
        pending = self._pending.pop(sequence, None)
        if pending is None:
            self._owner.counted("unknown_sequence")
            return
        self._owner.answered(pending.token, answer)
        if self._waiting:
            self._soon()

    def _on_deliver(self, sequence: int, deliver: Deliver) -> None:
        self._owner.delivered(self, sequence, deliver)

    def _on_active_test(self, sequence: int, _message: ActiveTest) -> None:
        self._say(ActiveTestResp(), sequence)

    def _on_active_test_resp(self, sequence: int, _message: ActiveTestResp) -> None:
        if sequence == self._test:
            self._test = None
            self._arm(self._heard_s + self._config.active_test_s)
        else:
            self._owner.counted("unknown_sequence")

    def _on_terminate(self, sequence: int, _message: Terminate) -> None:
        self._say(TerminateResp(), sequence)
        self._flush()
        self._end(LostError("the ISMG has ended the connection"), gently=True)

    def _on_terminate_resp(self, _sequence: int, _message: TerminateResp) -> None:
        self._end(LostError("the connection was ended by us"), gently=True)

    def _on_malformed(self, frame: Frame) -> None:
        """The frame is whole and its body is not: the stream can still be followed."""
        if frame.command == Command.SUBMIT_RESP:
            pending = self._pending.pop(frame.sequence, None)
            if pending is not None:
                self._owner.answered(pending.token, None)
                self._soon()
        elif frame.command == Command.DELIVER:
            msg_id = int.from_bytes(frame.body[:8].ljust(8, b"\0"), "big")
            self.confirm(frame.sequence, msg_id, STRUCTURE)

    # ---- what leaves -------------------------------------------------------------------------

    def _say(self, message: Message, sequence: int) -> None:
        if self.closed.done():
            return
        if len(self._out) >= ANSWERS_HELD:
            self._end(LostError("the ISMG does not read what it asks for"))
            return
        self._out.append(encode(message, sequence, self.version))
        self._soon()

    def _next(self) -> int:
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        return self._sequence

    def _soon(self) -> None:
        """One write for all that is said in this round of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._blocked or self._transport is None or self.closed.done():
            return
        deadline_s = self._loop.time() + self._config.response_timeout_s
        while self._ready and self._waiting and len(self._pending) < self._config.window:
            message, token = self._waiting.popleft()
            if not self._owner.wanted(token):
                self._owner.unsent(token, LostError("it was not wanted any more"))
                continue
            sequence = self._next()
            try:
                self._out.append(encode(message, sequence, self.version))
            except UnencodableError as error:
                self._owner.unsent(token, error)
                continue
            self._pending[sequence] = _Pending(token, deadline_s)
        if self._pending:
            self._arm(deadline_s)
        if self._out:
            octets = b"".join(self._out)
            self._out.clear()
            self._transport.write(octets)

    # ---- silence -----------------------------------------------------------------------------

    def _arm(self, at_s: float, *, anew: bool = False) -> None:
        """Look what is due no later than at this time of the loop; `anew`: exactly then."""
        if self._timer is not None:
            if self._timer.when() <= at_s and not anew:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        config, now = self._config, self._loop.time()
        if self._held:  # we do not listen: silence means nothing
            self._arm(now + config.response_timeout_s)
            return
        unanswered = self._expire(now)
        if self._test is not None and self._test_deadline_s <= now:
            self._test = None
            unanswered = True
        if unanswered:
            self._silences += 1
            self._owner.counted("unanswered")
        if self._silences >= config.tries:
            self._end(LostError(f"the ISMG has been silent for {config.tries} response timeouts"))
            return
        if self._test is None and (unanswered or self._heard_s + config.active_test_s <= now):
            self._test = self._next()
            self._test_deadline_s = now + config.response_timeout_s
            self._say(ActiveTest(), self._test)
        due = self._heard_s + config.active_test_s if self._test is None else self._test_deadline_s
        if self._pending:
            due = min(due, next(iter(self._pending.values())).deadline_s)
        self._arm(due)

    def _expire(self, now: float) -> bool:
        """Tell of the SUBMITs whose time is up. Whether there were any."""
        found = False
        while self._pending:
            sequence, oldest = next(iter(self._pending.items()))
            if oldest.deadline_s > now:
                break
            del self._pending[sequence]
            self._owner.answered(oldest.token, None)
            found = True
        if found and self._waiting:
            self._soon()
        return found

    # ---- the end -----------------------------------------------------------------------------

    def _end(self, error: CmppError, *, gently: bool = False) -> None:
        """Close, answer everything, and tell why. The first reason counts.

        What was given to the socket may have arrived; what waits here has not left.
        """
        if self.closed.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            if gently:
                self._transport.close()
            else:
                self._transport.abort()
        if not self.opened.done():
            self.opened.set_result(error)
        self.closed.set_result(error)
        pending, self._pending = self._pending, {}
        for one in pending.values():
            self._owner.answered(one.token, None)
        waiting, self._waiting = self._waiting, deque()
        for _message, token in waiting:
            self._owner.unsent(token, error)
        self._out.clear()
