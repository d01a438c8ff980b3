"""What the fake centres share: submissions answered as the plan has it, receipts and customers'
messages repeated until a client confirms them, and the record of both."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from channels.sms.alphabet import Coding
from channels.sms.fake.command import Line, SaidTo
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.link import Link, Outgoing
from channels.sms.segments import Segment, parse_udh, place_of, segment
from hub.clock import Clock, SystemClock

OUTBOX_MAX: Final = 200_000
"""Messages that wait for a client; the oldest is dropped (and counted) beyond it: 100 seconds of
receipts at 2,000 a second, 100 MB."""


class CentreSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every centre lets one set. Times are seconds."""

    rate: float = 0.0
    """Submissions a second, beyond which they are throttled; 0: any."""
    repeat_s: float = 5.0
    """What is not confirmed for so long is sent again."""
    again_s: float = 0.2
    """What is refused is sent again after this."""


class Submitted(Struct, frozen=True, kw_only=True):
    """A submission, as far as it is the same in all protocols."""

    sequence: int
    sender: str
    to: str
    coding: int
    """The protocol's number of it."""
    has_udh: bool
    content: bytes
    """With its user data header."""
    receipt: Callable[[str, bool], None]
    """Sends a receipt if it is wanted: for this id, delivered or not."""


class Centre(ABC):
    """A centre. `await start()`, then `port`; `await stop()`."""

    formats: ClassVar[dict[Coding, int]]
    """What it writes customers' messages in, and the protocol's number of each."""
    settings: CentreSettings

    def __init__(
        self,
        plan: Plan | None,
        settings: CentreSettings,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.plan = plan or Plan()
        self.settings = settings
        self.host, self.port = host, port
        self.counts: dict[str, int] = {}
        """How often each thing has happened: `accept`, `throttle`, `confirmed`, `repeated`…"""
        self.links: list[Link] = []
        self.clock = clock or SystemClock()
        self._recorder = recorder or Recorder()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._outbox: deque[Outgoing] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        self._references = 0
        self._allowance = 0.0
        self._allowed_at = 0.0

    # ---- of each protocol --------------------------------------------------------------------

    @abstractmethod
    def link(self) -> Link:
        """A new connection."""

    @abstractmethod
    def new_id(self) -> str:
        """For the next message that is taken."""

    @abstractmethod
    def written(self, sender: str, to: str, coding: Coding, part: Segment) -> Any:
        """A customer's message, or a part of one, as `Outgoing.message`."""

    # ---- for users ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.link, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self._recorder.start()

    async def stop(self) -> None:
        """End all connections and close the record."""
        if self._server is not None:
            self._server.close()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        ends = [link.end() for link in list(self.links)]
        if ends:
            await asyncio.wait(ends)
        self._recorder.close()

    def say(self, sender: str, to: str, text: str) -> None:
        """A customer's message, in as many parts as it needs."""
        self._references = (self._references + 1) & 0xFF
        cut = segment(text, tuple(self.formats), reference=self._references, most=255)
        for part in cut.segments:
            self.deliver(self.written(sender.removeprefix("+"), to, cut.coding, part), "mo")

    async def hear(self, line: bytes) -> None:
        """A line of standard input. Raises MsgspecError or TactError."""
        said = msgspec.json.decode(line, type=Line[SaidTo]).mo
        self.say(said.sender, said.to, said.text)

    def deliver(self, message: Any, about: str) -> None:
        """Send an `Outgoing.message` by any connection, until it is confirmed."""
        if len(self._outbox) >= OUTBOX_MAX:
            self._outbox.popleft()
            self.count("outbox_dropped")
        self._outbox.append(Outgoing(message, about))
        self.pump()

    def count(self, what: str) -> None:
        """Add one to `counts`."""
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- for the connections -----------------------------------------------------------------

    def take(self, link: Link, submitted: Submitted) -> None:
        """Take a submission, or not, as the plan has it."""
        if not self._within_rate():
            self.count("over_rate")
            self._record(link, submitted, "", "throttle")
            link.answer(submitted.sequence, "throttle")
            return
        fate = self.plan.fate(submitted.to.encode("latin-1") + b"\0" + submitted.content)
        name = self.new_id() if fate.taken else ""
        self.count(fate.answer)
        self._record(link, submitted, name, fate.answer)
        early = fate.taken and fate.receipt_ms < 0
        if early:
            self._receipts(submitted, name, fate)
        if fate.answer == "cut":
            link.cut()
        else:
            latency_ms = fate.latency_ms + (10.0 if early else 0.0)
            for _ in range(fate.answers):
                self._later(latency_ms, link.answer, submitted.sequence, fate.answer, name)
        if fate.taken and not early:
            self._later(fate.latency_ms + fate.receipt_ms, self._receipts, submitted, name, fate)

    def answered(self, outgoing: Outgoing, *, taken: bool) -> None:
        """A client has answered; what it refuses is sent again."""
        if taken:
            self.count("confirmed")
            self._recorder.write(
                {"kind": "confirmed", "at": self.clock.now_ms(), "id": outgoing.about}
            )
        else:
            self.count("refused")
            self._later(self.settings.again_s * 1000, self.again, outgoing)
        self.pump()

    def again(self, outgoing: Outgoing) -> None:
        """Send once more what is not confirmed."""
        self.count("repeated")
        self._outbox.appendleft(outgoing)
        self.pump()

    def pump(self) -> None:
        """Give what waits to connections with room."""
        while self._outbox:
            link = max(self.links, key=_room, default=None)
            if link is None or link.room <= 0:
                return
            link.deliver(self._outbox.popleft())

    # ---- inside ------------------------------------------------------------------------------

    def _later(self, delay_ms: float, what: Any, *arguments: Any) -> None:
        """Call it after a delay; at once when there is none."""
        if delay_ms <= 0:
            what(*arguments)
            return
        timer: asyncio.TimerHandle | None = None

        def run() -> None:
            self._timers.discard(timer)  # type: ignore[arg-type]
            what(*arguments)

        timer = asyncio.get_running_loop().call_later(delay_ms / 1000, run)
        self._timers.add(timer)

    def _within_rate(self) -> bool:
        rate = self.settings.rate
        if rate <= 0:
            return True
        now = self.clock.steady_s()
        most = max(1.0, rate / 10)
        self._allowance = min(most, self._allowance + (now - self._allowed_at) * rate)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _receipts(self, submitted: Submitted, name: str, fate: Fate) -> None:
        for _ in range(fate.receipts):
            submitted.receipt(name, fate.delivered)

    def _record(self, link: Link, submitted: Submitted, name: str, answer: str) -> None:
        content, udh, where = submitted.content, b"", None
        if submitted.has_udh:
            headers, payload = parse_udh(content)
            udh = content[: len(content) - len(payload)]
            where = place_of(headers)
        self._recorder.write(
            {
                "kind": "submit",
                "at": self.clock.now_ms(),
                "id": name,
                "answer": answer,
                "from": submitted.sender,
                "to": submitted.to,
                "sequence": submitted.sequence,
                "bind": link.number,
                "coding": submitted.coding,
                "reference": where.reference if where else None,
                "part": where.number if where else 1,
                "parts": where.total if where else 1,
                "udh": udh.hex(),
                "content": content[len(udh) :].hex(),
            }
        )


def _room(link: Link) -> int:
    return link.room
