"""A second, plain NATS connection for what arrives in masses: INTAKE.

nats-py spends more on a message (a regular expression, a header dictionary, a queue and a task
switch) than deciding it costs. This one speaks the few verbs reading needs, and hands a message to
its subscriber in the call that received it. It makes no promises of its own: when anything is odd
it ends, and whoever reads opens another. Protocol: docs.nats.io, "Client protocol".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from hub import limits
from hub.ledger.port import LedgerUnavailable

_log = structlog.get_logger(__name__)

_END: Final = b"\r\n"
_INFO = msgspec.json.Decoder(dict[str, Any])

Take = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply subject, header block and payload of a message."""


class Wire(asyncio.Protocol):
    """One TCP or TLS connection. Made by `open_wire`; `on_lost` is called once when it ends."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.lost = False
        loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._info: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._pong: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._takes: dict[bytes, Take] = {}
        self._sids = 0

    # ---- what a reader calls -----------------------------------------------------------------

    def subscribe(self, subject: str, take: Take) -> bytes:
        """Hand what arrives on a subject to `take`; returns what ends it."""
        self._sids += 1
        sid = b"%d" % self._sids
        self._takes[sid] = take
        self._write(b"SUB %b %b\r\n" % (subject.encode(), sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        if self._takes.pop(sid, None) is not None:
            self._write(b"UNSUB %b\r\n" % sid)

    def publish(self, subject: str, reply: str, payload: bytes) -> None:
        """Send without waiting; nothing is sent once the connection is lost."""
        head = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
        self._write(b"%b%b\r\n" % (head, payload))

    def close(self) -> None:
        """End it; `on_lost` is not called any more."""
        self._on_lost = _nothing
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if not self.lost and self._transport is not None:
            self._transport.write(data)

    # ---- opening -----------------------------------------------------------------------------

    async def greet(self, options: dict[str, Any], host: str, tls: bool) -> None:
        """From the server's INFO to its first PONG."""
        info = await self._info
        if tls or info.get("tls_required"):
            assert self._transport is not None
            self._transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, ssl.create_default_context(), server_hostname=host
            )
        self._write(b"CONNECT %b\r\nPING\r\n" % msgspec.json.encode(options))
        await self._pong

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._takes.clear()
        for waiting in (self._info, self._pong):
            if not waiting.done():
                waiting.set_exception(error or ConnectionResetError("closed by the server"))
                waiting.exception()  # seen here, in case nobody waits for it
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Hand on every message that is whole; keep the rest."""
        if self._rest:
            data = self._rest + data
        start, size, takes = 0, len(data), self._takes
        while (line_end := data.find(_END, start)) >= 0:
            first = data[start : start + 1]
            if first == b"H" or first == b"M":  # HMSG or MSG
                parts = data[start:line_end].split(b" ")
                body = line_end + 2
                end = body + int(parts[-1])
                if end + 2 > size:
                    break
                start = end + 2
                take = takes.get(parts[2])
                if take is None:
                    continue  # unsubscribed, and on its way already
                headers = b""
                if first == b"H":
                    payload = body + int(parts[-2])
                    headers, body = data[body:payload], payload
                    reply = parts[3] if len(parts) == 6 else b""
                else:
                    reply = parts[3] if len(parts) == 5 else b""
                take(parts[1], reply, headers, data[body:end])
            else:
                self._control(data[start:line_end])
                start = line_end + 2
        self._rest = data[start:]

    def _control(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"PING":
            self._write(b"PONG\r\n")
        elif verb == b"PONG":
            if not self._pong.done():
                self._pong.set_result(None)
        elif verb == b"INFO":
            if not self._info.done():  # later ones only tell of other servers
                self._info.set_result(_INFO.decode(line[5:]))
        elif verb != b"+OK":
            # Anything but an error is a garbled stream, and may hold what customers wrote.
            known = verb == b"-ERR"
            _log.warning("wire.error", line=line[:80].decode() if known else "garbled")
            if self._transport is not None:
                self._transport.abort()


async def open_wire(
    host: str, port: int, options: dict[str, Any], on_lost: Callable[[], None], *, tls: bool = False
) -> Wire:
    """Connect; `options` go into CONNECT. Raises LedgerUnavailable."""
    loop = asyncio.get_running_loop()
    wire = Wire(on_lost)
    try:
        async with asyncio.timeout(limits.WIRE_OPEN_S):
            await loop.create_connection(lambda: wire, host, port)
            await wire.greet(options, host, tls)
    except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors too
        wire.close()
        raise LedgerUnavailable(
            f"no second connection to NATS at {host}:{port} ({type(error).__name__})",
            retry_after_ms=limits.BACKOFF_MAX_MS,
        ) from error
    return wire


def _nothing() -> None:
    return None
