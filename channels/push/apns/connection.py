"""One HTTP/2 connection to Apple's push service, from its first byte to its last.

It sends what it is given within the streams that the other side allows, tells what came of each,
asks a silent peer whether it lives, and hands received data back to the peer's window. It does not
come back: who owns it opens another one.

The protocol is h2's; here is what only who holds the socket can know: which request has left whole,
which never did, and which one nobody knows about. All that is written in one pass of the event loop
goes out in one write; there is no task and no future for a push.

Source: RFC 9113 (5.1.2 concurrency, 5.2 flow control, 6.4 RST_STREAM, 6.7 PING, 6.8 GOAWAY, 8.7
request reliability).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import msgspec
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error, StreamClosedError
from hpack.struct import HeaderTuple

from channels.push.apns.engine import Engine

Headers = Sequence[HeaderTuple | tuple[bytes, bytes]]

STREAMS_MAX: Final = 500
"""Requests at once on one connection, whatever more the other side allows (Apple: 1,000): at 50 ms
to an answer it is 10,000 pushes a second."""
BODY_BYTES: Final = 4 * 1024
"""Kept of one answer; Apple's have some fifty bytes. What is more is read and dropped."""
OUT_BYTES_MAX: Final = 1024 * 1024
"""What waits because the other side does not read; more ends the connection. Requests do not begin
then: only answers to a flood of PINGs can get here."""
TICKS_PER_TIMEOUT: Final = 4
"""Timers are looked at this often in the shortest of them."""
LATE_S: Final = 1.0
"""A timer that comes so late says nothing about the other side."""
STREAM_ID_MAX: Final = 2**31 - 3
"""Another connection is opened before ids run out (RFC 9113, 5.1.1)."""


class Owner(Protocol):
    """What a connection tells. Calls return at once and never raise."""

    def opened(self, connection: Connection) -> None:
        """The other side has told its settings: requests can leave."""

    def resized(self, connection: Connection) -> None:
        """There is more or less place for requests than before: `limit`, or `room`."""

    def answered(
        self, connection: Connection, ticket: Any, status: int, headers: Headers, body: bytes
    ) -> None:
        """The answer to a request."""

    def unanswered(self, connection: Connection, ticket: Any, *, left: bool, reason: str) -> None:
        """There will be no answer; not `left`: the request was not acted on, and can be sent
        again."""

    def leaving(self, connection: Connection) -> None:
        """Nothing more can be sent by it; what is unanswered may still be answered."""

    def closed(self, connection: Connection) -> None:
        """The last call. `connection.reason` says why."""


class Timing(msgspec.Struct, frozen=True):
    """How long a connection waits, in seconds."""

    connect_s: float
    """For the other side's settings, and for the answer to a PING."""
    answer_s: float
    ping_s: float
    """Silence after which the other side is asked whether it lives."""


class _Stream:
    """One request that has no answer yet."""

    __slots__ = ("body", "deadline", "headers", "rest", "status", "ticket")

    def __init__(self, ticket: Any, deadline: float, rest: bytes) -> None:
        self.ticket = ticket
        self.deadline = deadline
        self.rest = rest
        """Of its body: what the other side has not let us send yet."""
        self.status = 0
        self.headers: Headers = ()
        self.body = b""


class Connection(asyncio.Protocol):
    """One connection. Made by its owner's `create_connection`; ends by itself or by `close`."""

    def __init__(self, timing: Timing, owner: Owner) -> None:
        self._timing = timing
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._h2 = Engine()
        self._state = "new"  # settling, open, leaving, closing, closed
        self.reason = ""
        """Why it ended."""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.limit = 0
        """Requests that the other side takes at once, within STREAMS_MAX."""
        self._streams: dict[int, _Stream] = {}  # oldest first: one timeout for all
        self._next_id = 1
        self._stalled: list[int] = []  # have a `rest`
        self._unwritten: list[int] = []  # begun in this pass of the loop
        self._out = bytearray()
        self._flushing = False
        self._full = False
        self._heard = 0.0
        self._asked: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0.0
        self._tick_s = min(1.0, *(v / TICKS_PER_TIMEOUT for v in msgspec.structs.astuple(timing)))
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            ResponseReceived: self._on_response,
            DataReceived: self._on_data,
            StreamEnded: self._on_ended,
            StreamReset: self._on_reset,
            RemoteSettingsChanged: self._on_settings,
            WindowUpdated: self._on_window,
            ConnectionTerminated: self._on_goaway,
        }

    def __repr__(self) -> str:
        return f"Connection({self._state}, {len(self._streams)} unanswered)"

    # ---- for the owner -----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether requests can leave by it."""
        return self._state == "open"

    @property
    def connected(self) -> bool:
        """Whether there is a connection, so that `ended` will be set."""
        return self._transport is not None and not self.ended.done()

    @property
    def unanswered(self) -> int:
        return len(self._streams)

    @property
    def begun(self) -> int:
        """Requests in all."""
        return self._next_id // 2

    @property
    def room(self) -> int:
        """Requests that may begin now. None while a body waits for the peer's window, or the
        socket is full: what has not begun can still leave by another connection."""
        if self._state != "open" or self._full or self._stalled:
            return 0
        return self.limit - len(self._streams)

    def begin(self, ticket: Any, headers: Headers, body: bytes) -> None:
        """Send a request; only while there is `room`. `ticket` comes back with the answer."""
        stream_id = self._next_id
        self._next_id += 2
        self._streams[stream_id] = stream = _Stream(
            ticket, self._loop.time() + self._timing.answer_s, body
        )
        self._unwritten.append(stream_id)
        self._h2.send_headers(stream_id, headers)
        self._send_body(stream_id, stream)
        self._schedule()
        if self._next_id > STREAM_ID_MAX:
            self.leave("its stream ids are used up")

    def flush(self) -> None:
        """Write what waits now, not at the end of the loop's pass."""
        self._flush()

    def leave(self, reason: str) -> None:
        """Send nothing more, close when all is answered."""
        if self._state not in ("open", "settling"):
            return
        self.reason = self.reason or reason
        self._state = "leaving"
        self._owner.leaving(self)
        if not self._streams:
            self.close(self.reason)

    def close(self, reason: str) -> None:
        """End the connection now; what is unanswered is told so."""
        if self._state in ("closing", "closed"):
            return
        self.reason = self.reason or reason
        if self._transport is None:
            self._state = "closed"
            return
        if self._state != "settling":
            self._h2.close_connection()
        self._flush()
        self._state = "closing"
        self._transport.close()
        self._stop_timer()
        # a peer that reads nothing would keep a polite close waiting for ever
        self._timer = self._loop.call_later(self._tick_s, self._transport.abort)

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport = transport
        # What the system does not take is known at once, and nothing more begins. Not 0: asyncio's
        # TLS says at 0 that it is full when it is empty.
        transport.set_write_buffer_limits(high=1, low=0)
        self._heard = self._loop.time()
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.reason = "the server does not speak HTTP/2 (ALPN)"
            transport.abort()
            return
        self._state = "settling"
        self._h2.initiate_connection()
        self._flush()
        self._ticked = self._heard
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def data_received(self, data: bytes) -> None:
        if self._state in ("closing", "closed"):
            return
        self._heard = self._loop.time()
        self._asked = None
        self._collect()  # h2 drops what it holds when it reads a GOAWAY
        try:
            events = self._h2.receive_data(data)
        except (H2Error, ValueError, LookupError):  # all that h2 says to bytes that are no HTTP/2
            self._abort("the other side sent what is no HTTP/2")
            return
        handlers = self._handlers
        for event in events:
            handler = handlers.get(event.__class__)
            if handler is not None:
                handler(event)
        self._schedule()

    def eof_received(self) -> None:
        self.reason = self.reason or "the other side closed the connection"

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush()
        self._owner.resized(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reason = self.reason or "the connection was lost"
        self._state = "closed"
        self._stop_timer()
        self._out.clear()
        self._stalled.clear()
        unwritten = set(self._unwritten)
        streams, self._streams = self._streams, {}
        self._owner.leaving(self)
        for stream_id, stream in streams.items():
            # A request without its end was not acted on, whatever of it has left.
            left = stream_id not in unwritten and not stream.rest
            self._owner.unanswered(self, stream.ticket, left=left, reason="connection-lost")
        self._owner.closed(self)
        if not self.ended.done():
            self.ended.set_result(None)

    # ---- what is heard -----------------------------------------------------------------------

    def _on_response(self, event: ResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return  # late: its push is already told `unknown`
        stream.headers = event.headers
        for name, value in event.headers:
            if name == b":status":
                stream.status = int(value) if value.isdigit() and len(value) == 3 else 0
                return

    def _on_data(self, event: DataReceived) -> None:
        # Also of streams that nobody waits for: the window is the connection's.
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is not None and len(stream.body) < BODY_BYTES:
            stream.body = (stream.body + event.data)[:BODY_BYTES]

    def _on_ended(self, event: StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if stream.rest:  # answered before it was whole
            with contextlib.suppress(StreamClosedError):  # the other side has ended it as well
                self._h2.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)
        self._forget(event.stream_id)
        self._owner.answered(self, stream.ticket, stream.status, stream.headers, stream.body)
        self._close_if_done()

    def _on_reset(self, event: StreamReset) -> None:
        refused = event.error_code == ErrorCodes.REFUSED_STREAM
        name = getattr(event.error_code, "name", "unknown")
        self._unanswered(event.stream_id, left=not refused, reason=f"stream-reset {name}")

    def _on_settings(self, _: RemoteSettingsChanged) -> None:
        limit = min(self._h2.remote_settings.max_concurrent_streams, STREAMS_MAX)
        changed, self.limit = limit != self.limit, limit
        if self._state == "settling":
            self._state = "open"
            self._owner.opened(self)
        elif changed:
            self._owner.resized(self)

    def _on_window(self, _: WindowUpdated) -> None:
        if not self._stalled:
            return
        stalled, self._stalled = self._stalled, []
        for stream_id in stalled:
            self._send_body(stream_id, self._streams[stream_id])
        if not self._stalled:
            self._owner.resized(self)

    def _on_goaway(self, event: ConnectionTerminated) -> None:
        """Streams above the last were not and will not be acted on; the others may be answered."""
        self.reason = self.reason or f"GOAWAY {_goaway_reason(event)}"
        beyond = [one for one in self._streams if one > (event.last_stream_id or 0)]
        if self._state != "closing":
            self._state = "leaving"
            self._owner.leaving(self)
        for stream_id in beyond:
            self._unanswered(stream_id, left=False, reason="goaway")
        self._close_if_done()

    # ---- within ------------------------------------------------------------------------------

    def _send_body(self, stream_id: int, stream: _Stream) -> None:
        """As much of the rest as the windows of connection and stream let through."""
        h2 = self._h2
        try:
            while True:
                size = min(h2.local_flow_control_window(stream_id), h2.max_outbound_frame_size)
                if len(stream.rest) <= size:
                    h2.send_data(stream_id, stream.rest, end_stream=True)
                    stream.rest = b""
                    return
                if size <= 0:
                    break
                h2.send_data(stream_id, stream.rest[:size])
                stream.rest = stream.rest[size:]
        except StreamClosedError:
            return  # the other side has ended it: its event is the next to be handled
        self._stalled.append(stream_id)

    def _unanswered(self, stream_id: int, *, left: bool, reason: str) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        left = left and not stream.rest
        self._forget(stream_id)
        self._owner.unanswered(self, stream.ticket, left=left, reason=reason)
        self._close_if_done()

    def _forget(self, stream_id: int) -> None:
        del self._streams[stream_id]
        if stream_id in self._stalled:
            self._stalled.remove(stream_id)
        if stream_id in self._unwritten:
            self._unwritten.remove(stream_id)

    def _close_if_done(self) -> None:
        if self._state == "leaving" and not self._streams:
            self.close(self.reason)

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _collect(self) -> None:
        if data := self._h2.data_to_send():
            self._out += data

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is None or self._state in ("closing", "closed"):
            return
        self._collect()
        if self._full:
            if len(self._out) > OUT_BYTES_MAX:
                self._abort("the other side reads nothing")
            return
        if self._out:
            self._unwritten.clear()
            data, self._out = self._out, bytearray()
            self._transport.write(data)

    def _tick(self) -> None:
        assert self._transport is not None
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        now = self._loop.time()
        late_s, self._ticked = now - self._ticked - self._tick_s, now
        if late_s > LATE_S:
            return  # this process stood still: what has come meanwhile is read first
        if self._state == "settling":
            if now - self._heard >= self._timing.connect_s:
                self._abort("the server told no HTTP/2 settings")
            return
        self._expire(now)
        if self._state in ("open", "leaving"):
            self._keep_alive(now)

    def _expire(self, now: float) -> None:
        while self._streams:
            stream_id, stream = next(iter(self._streams.items()))
            if stream.deadline > now or self._state not in ("open", "leaving"):
                return
            self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            self._schedule()
            self._unanswered(stream_id, left=True, reason="no-answer")

    def _keep_alive(self, now: float) -> None:
        if self._asked is not None:
            if now - self._asked >= self._timing.connect_s:
                self._abort("the other side is silent")
        elif now - self._heard >= self._timing.ping_s:
            self._asked = now
            self._h2.ping(b"tact-h2?")
            self._flush()

    def _abort(self, reason: str) -> None:
        """End a connection whose other side no longer does its part."""
        if self._state in ("closing", "closed"):
            return
        self.reason = self.reason or reason
        self._state = "closing"
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Said(msgspec.Struct):
    reason: str = ""


def _goaway_reason(event: ConnectionTerminated) -> str:
    """Apple's word for it if there is one, else HTTP/2's."""
    name = getattr(event.error_code, "name", "unknown")
    try:
        said = msgspec.json.decode(event.additional_data or b"{}", type=_Said).reason
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return name
    return said if said.isascii() and said.isalnum() and len(said) <= 64 else name
