"""One lane of a stream: the consumer that feeds it, and what is buffered of it.

Of INTAKE a lane is a lane; of LEDGER, as hosts of accounts read it, a lane is a channel: there what
is urgent can be taken out of its turn, so that it does not wait behind a mass message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from hub import limits
from hub.contract.decode import MSGPACK
from hub.contract.subjects import LANES, delivery_subject, intake_subject
from hub.ledger.connection import Connection
from hub.ledger.port import IntakeMessage
from hub.ledger.streams import INTAKE, LEDGER
from hub.ledger.wire import Wire

_log = structlog.get_logger(__name__)

NS: Final = 1_000_000_000
_PULL_BYTES: Final = limits.READ_AHEAD_BYTES * limits.PULL_BATCH // limits.READ_AHEAD_MESSAGES
_OPEN_PULLS: Final = 2
_SUBJECTS: Final = 4_096
"""Subjects a lane remembers the parts of: partitions times sources, of which there are few."""
DELIVERIES_AHEAD: Final = 4
"""Of a channel so many times as much is buffered as of a lane of INTAKE, for only what is buffered
is seen to be urgent: 64 MiB are some 180,000 deliveries, which take 5 s to be taken over, and hosts
that decide are seldom so far ahead."""
_URGENT: Final = b'"urgent":true'
"""In a delivery as we write it, if not in its content."""
_STATUS: Final = b"NATS/1.0 "
_PACKED: Final = MSGPACK.encode()
_ENDED: Final = ("Batch Completed", "Message Size Exceeds MaxBytes")
"""Ways in which a pull ends in order; another follows."""

assert _PULL_BYTES >= 2 * limits.MESSAGE_BYTES, "a pull must hold any one message"


class Source(Struct, frozen=True):
    """What a reader reads: some lanes of a stream, each a subject for every partition."""

    stream: str
    lanes: tuple[str, ...]
    subject: Callable[[int | str, str], str]
    """(partition or `*`, lane) to subject."""
    split: Callable[[list[str]], tuple[int, str]]
    """The tokens of a subject to (partition, who published it)."""
    urgent: Callable[[bytes], bool] = lambda _: False
    """Whether a payload looks urgent: what is, does."""
    ahead: int = 1
    """So many times READ_AHEAD_MESSAGES and READ_AHEAD_BYTES are buffered of a lane."""


INTAKE_LANES: Final = Source(
    INTAKE, LANES, intake_subject, lambda tokens: (int(tokens[2]), tokens[4])
)


def deliveries(channels: Iterable[str]) -> Source:
    """The deliveries of some channels, by the accounts' partition."""
    return Source(
        LEDGER,
        tuple(channels),
        lambda partition, channel: delivery_subject(channel, partition),
        lambda tokens: (int(tokens[3]), ""),
        _looks_urgent,
        DELIVERIES_AHEAD,
    )


def _looks_urgent(payload: bytes) -> bool:
    # Urgent deliveries come alone: an array is not looked through.
    return payload.startswith(b"{") and _URGENT in payload


class Feed:
    """One consumer on the server, and the inbox it delivers to. Never repaired, only replaced."""

    def __init__(self, lane: Lane, wire: Wire, name: str, inbox: str) -> None:
        self.name = name
        self.open = 0
        """Pulls the server has not ended."""
        self.next = 1
        """The consumer sequence that must come next."""
        self.broken = ""
        """Why it must be replaced; empty while it is well."""
        self.silent = 0
        """Heartbeat times since anything was heard."""
        self.useful = False
        """It has worked: when it breaks, another is made at once."""
        self.counted = False
        self._lane = lane
        self._stream = lane.source.stream
        self._wire = wire
        self._inbox = inbox
        self._sid = wire.subscribe(inbox, self.take)
        self._fresh = True

    async def start(self, connection: Connection, config: dict[str, Any]) -> None:
        """Make the consumer. Raises LedgerError."""
        reply = await connection.api(
            f"CONSUMER.CREATE.{self._stream}.{self.name}",
            {
                "stream_name": self._stream,
                "action": "create",
                "config": config | {"name": self.name},
            },
        )
        self._lane.waiting = int(reply.get("num_pending", 0))

    def pull(self) -> None:
        """One more request to the server."""
        # A first half request keeps two open ones from running out at the same moment: the server
        # serves them in turns.
        batch = limits.PULL_BATCH // 2 if self._fresh else limits.PULL_BATCH
        self._fresh = False
        self.open += 1
        request = {
            "batch": batch,
            "max_bytes": _PULL_BYTES,
            "expires": int(limits.PULL_EXPIRES_S * NS),
            "idle_heartbeat": int(limits.PULL_HEARTBEAT_S * NS),
        }
        self._wire.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.name}",
            self._inbox,
            msgspec.json.encode(request),
        )

    def take(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """A message, or a status, from the server. On the path of every message."""
        self.silent = 0
        if self.broken:
            return
        if headers and headers.startswith(_STATUS):
            self._status(headers)
            self._lane.look()
            return
        sequence, number, stored_ns, pending = ack_tokens(reply)
        if number != self.next:
            self.fail("gap")
            return
        self.next = number + 1
        self._lane.add(subject, headers, payload, sequence, stored_ns, pending)

    def _status(self, block: bytes) -> None:
        status, reason, headers = parse_status(block)
        self.useful = self.useful or status in ("100", "408")
        if status == "100":  # idle heartbeat: is what the server sent what we got?
            if int(headers.get("Nats-Last-Consumer", self.next - 1)) != self.next - 1:
                self.fail("gap")
        elif status == "408":
            self.open -= 1
            self._fresh = True
        elif status == "404" or (status == "409" and reason in _ENDED):
            self.open -= 1
        else:  # 409 deleted, leadership change, shutdown; 503 no such consumer; 400 …
            _log.info("intake.status", lane=self._lane.name, status=status, reason=reason)
            self.fail(f"status-{status}")

    def fail(self, why: str) -> None:
        """It must be replaced; the first reason stands."""
        self.broken = self.broken or why
        self.useful = self.useful or self.next > 1
        self._lane.look()

    def stop(self, inbox: str) -> None:
        """Drop it, here and on the server, whose answer to `inbox` nobody listens to."""
        self._wire.unsubscribe(self._sid)
        # Without a reply subject the server ignores a deletion.
        self._wire.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self.name}", inbox, b"")


class Lane:
    """What is buffered of one lane, and how far it was read.

    `look` is called when something needs tending, `arrived` when a message is buffered.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        positions: Mapping[int, int],
        look: Callable[[], None],
        arrived: Callable[[], None],
    ) -> None:
        self.source = source
        self.name = name
        self.look = look
        self.feed: Feed | None = None
        self.tries = 0
        """Tries to make a consumer since the last that worked."""
        self.retry_s = 0.0
        """Loop time before which no consumer is made again."""
        self.last = min(positions.values())
        """The last sequence taken in: what a new consumer starts after."""
        self.waiting = 0
        """Messages waiting at the server, as last told."""
        self._arrived = arrived
        self._positions = positions
        self._behind_until = max(positions.values())
        """Up to here some partition may have decided a message already."""
        self._buffer: deque[IntakeMessage] = deque()
        self._urgent: deque[IntakeMessage] = deque()
        """Of the buffer what looks urgent and was not given out of its turn."""
        self._bytes = 0
        self._parts: dict[bytes, tuple[int, str]] = {}

    def add(
        self,
        subject: bytes,
        headers: bytes,
        payload: bytes,
        sequence: int,
        stored_ns: int,
        pending: int,
    ) -> None:
        """Take a message in. On the path of every message."""
        self.last = sequence
        self.waiting = pending
        parts = self._parts.get(subject)
        if parts is None:
            parts = self._split(subject)
        partition = parts[0]
        if sequence <= self._behind_until and sequence <= self._positions[partition]:
            return
        packed = _PACKED in headers and _content_type(headers) == MSGPACK
        self._bytes += len(payload)
        buffer = self._buffer
        message = IntakeMessage(
            partition, self.name, parts[1], sequence, stored_ns // 1_000_000, payload, packed
        )
        buffer.append(message)
        if self.source.urgent(payload):
            self._urgent.append(message)
        if len(buffer) == 1:  # who waits has seen every lane empty
            self._arrived()

    def _split(self, subject: bytes) -> tuple[int, str]:
        if len(self._parts) >= _SUBJECTS:
            self._parts.clear()
        parts = self.source.split(subject.decode().split("."))
        return self._parts.setdefault(subject, parts)

    def take(self, most: int) -> list[IntakeMessage]:
        """Up to `most` messages, in stream order."""
        buffer = self._buffer
        taken = [buffer.popleft() for _ in range(min(most, len(buffer)))]
        self._bytes -= sum([len(message.payload) for message in taken])
        urgent = self._urgent
        while urgent and taken and urgent[0].sequence <= taken[-1].sequence:
            urgent.popleft()
        return taken

    def urgent(self, most: int) -> list[IntakeMessage]:
        """Up to `most` that look urgent, out of their turn: each once, and `take` gives it too."""
        urgent = self._urgent
        return [urgent.popleft() for _ in range(min(most, len(urgent)))]

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def wants_pull(self) -> bool:
        """Whether there is room for one more pull beside those that are open."""
        feed = self.feed
        if feed is None or feed.broken or feed.open >= _OPEN_PULLS:
            return False
        pulls = feed.open + 1  # every open one may still deliver all it may
        ahead = self.source.ahead
        return (
            len(self._buffer) + pulls * limits.PULL_BATCH <= ahead * limits.READ_AHEAD_MESSAGES
            and self._bytes + pulls * _PULL_BYTES <= ahead * limits.READ_AHEAD_BYTES
        )


def ack_tokens(reply: bytes | str) -> tuple[int, int, int, int]:
    """(stream sequence, consumer sequence, stored ns, pending) of a message's `$JS.ACK` subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<ns>.<pending>`, or with
    domain and account after `ACK` and a random token behind. Raises ValueError for anything else.
    """
    tokens = reply.split(b".") if isinstance(reply, bytes) else reply.split(".")
    count = len(tokens)
    if count == 9:
        return int(tokens[5]), int(tokens[6]), int(tokens[7]), int(tokens[8])
    if count >= 11:
        return int(tokens[7]), int(tokens[8]), int(tokens[9]), int(tokens[10])
    raise ValueError(f"an acknowledgement subject of {count} tokens")


def parse_status(block: bytes) -> tuple[str, str, dict[str, str]]:
    """(status, reason, headers) of a header block like `NATS/1.0 409 Batch Completed`."""
    first, _, rest = block.decode(errors="replace").partition("\r\n")
    _, _, status = first.partition(" ")
    code, _, reason = status.partition(" ")
    headers = {}
    for line in rest.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return code, reason, headers


def _content_type(block: bytes) -> str:
    return parse_status(block)[2].get("Content-Type", "")
