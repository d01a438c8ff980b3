"""One connection of a client to a fake centre, whatever protocol it speaks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from msgspec import Struct

if TYPE_CHECKING:
    from channels.sms.fake.centre import Centre

LINKS_MAX: Final = 64
"""Connections at once; a further one is closed."""


class Outgoing(Struct):
    """What a centre says to its clients, until one of them confirms it."""

    message: Any
    """As `Link.encoded` of the protocol takes it."""
    about: str
    """For the record: a receipt's id, or `mo` for a customer's message."""


class Link(asyncio.Protocol, ABC):
    """One connection. A protocol adds how PDUs are read, answered and encoded."""

    window: ClassVar[int]
    """Messages unanswered at once."""
    sequence_max: ClassVar[int]
    _numbers: ClassVar[int] = 0

    def __init__(self, centre: Centre) -> None:
        type(self)._numbers += 1
        self.number = self._numbers
        self._centre = centre
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._bound = 0  # 0: not logged in; else what it logged in as
        self._out: list[bytes] = []
        self._full = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._sequence = 0
        self._pending: dict[int, tuple[float, Outgoing]] = {}
        self._timer: asyncio.TimerHandle | None = None

    # ---- of each protocol --------------------------------------------------------------------

    @abstractmethod
    def answer(self, sequence: int, answer: str, name: str = "") -> None:
        """Answer a submission with what `Fate.answer` says; `name` is its id when it is taken."""

    @abstractmethod
    def encoded(self, message: Any, sequence: int) -> bytes:
        """The PDU of an `Outgoing.message`."""

    @property
    def receives(self) -> bool:
        """Whether it takes messages, as far as its login goes."""
        return bool(self._bound)

    # ---- for the centre ----------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Messages that it can take now."""
        return self.window - len(self._pending) if self.receives and not self._full else 0

    def end(self) -> asyncio.Future[None]:
        """Close; done when it is."""
        if self._transport is not None:
            self._transport.abort()
        return self._ended

    def cut(self) -> None:
        """End the connection as a crash does, in the next pass of the loop."""
        self._bound = 0
        self._loop.call_soon(self.end)

    def deliver(self, outgoing: Outgoing) -> None:
        """Send it and wait for its answer."""
        self._sequence = self._sequence % self.sequence_max + 1
        deadline = self._loop.time() + self._centre.settings.repeat_s
        self._pending[self._sequence] = (deadline, outgoing)
        self._send(self.encoded(outgoing.message, self._sequence))
        self._watch()

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._centre.links.append(self)
        if len(self._centre.links) > LINKS_MAX:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._centre.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._bound = 0
        self._centre.links.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        for _, outgoing in self._pending.values():
            self._centre.again(outgoing)
        self._pending.clear()
        self._out.clear()
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- for the protocols -------------------------------------------------------------------

    def _send(self, pdu: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(pdu)

    def _answered(self, sequence: int, *, taken: bool) -> None:
        """The client has answered what `deliver` sent."""
        found = self._pending.pop(sequence, None)
        if found is not None:
            self._centre.answered(found[1], taken=taken)

    def _close_soon(self) -> None:
        """Close when what is answered in this pass of the loop is written."""
        self._loop.call_soon(self._close)

    # ---- inside ------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _watch(self) -> None:
        """Repeat what is not confirmed in time; one timer, for the oldest."""
        if self._timer is None and self._pending:
            deadline = next(iter(self._pending.values()))[0]
            self._timer = self._loop.call_at(deadline, self._late)

    def _late(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._pending:
            sequence, (deadline, outgoing) = next(iter(self._pending.items()))
            if deadline > now:
                break
            del self._pending[sequence]
            self._centre.again(outgoing)
        self._watch()
