"""What the turn needs of the two streams, as plain types and protocols.

The real implementation talks to NATS (`hub.ledger.jetstream`), the simulation has a model of the
two streams (`tests/support/model.py`). Both are held to the same contract tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from hub.contract.subjects import LANES
from hub.errors import TactError


class Entry(Struct, frozen=True):
    """One message of a batch. `expected` makes it a fence: the subject's last sequence, or 0."""

    subject: str
    payload: bytes
    ttl_s: int | None = None
    expected: int | None = None


class LogRecord(Struct, array_like=True, frozen=True):
    """What one commit changed in one partition. MessagePack, subject `hub.log.<partition>`.

    `previous` is the sequence of the record before it (the fence it was written under), so that a
    reader notices a hole. A claim is a record without changes and with the next epoch. A knock,
    with `previous` KNOCK, is part of no chain and changes nothing but the fence.
    """

    version: int
    commit_id: str
    epoch: int
    previous: int
    at_ms: int
    policy: str
    checkpoint: dict[str, int]
    """Lane to the last INTAKE sequence decided; all lanes, not only the changed ones."""
    states: dict[str, bytes | None]
    """Conversation key to packed state; None removes it."""


LOG_VERSION = 1
KNOCK = -1
"""`previous` of a record written under no fence, against an owner too busy to be claimed."""


@dataclass(slots=True)
class PartitionImage:
    """A partition as the ledger knows it, right after a claim."""

    partition: int
    epoch: int
    fence: int
    """Sequence of the last record on `hub.log.<partition>`: the claim."""
    at_ms: int = 0
    """Time of the last commit: no later decision is made at an earlier time."""
    checkpoint: dict[str, int] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    log_bytes: int = 0
    """Log replayed after the snapshot: what the next snapshot would save."""


class IntakeMessage(Struct):
    """One stored message of INTAKE."""

    partition: int
    lane: str
    source: str
    sequence: int
    stored_ms: int
    """When the stream acknowledged it, by the server's clock."""
    payload: bytes
    packed: bool
    """MessagePack (header Content-Type: application/msgpack) instead of JSON."""


class Outbound(Struct, array_like=True, frozen=True):
    """One object that a host publishes to INTAKE, after it was committed that it will."""

    lane: str
    customer: str
    message_id: str
    payload: bytes


class LedgerError(TactError):
    """Root of what can go wrong between us and the streams."""

    code = "ledger"


class FenceLost(LedgerError):
    """Another owner has claimed these partitions. They must be dropped, never written again."""

    code = "fence-lost"

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(self.facts["partitions"])


class LedgerUnavailable(LedgerError):
    """The server does not answer, has no leader or is overloaded. Nothing is known to be stored."""

    code = "ledger-unavailable"
    retryable = True


class LedgerFull(LedgerError):
    """The stream is at its byte limit or the disk is full: wait, and call a person."""

    code = "ledger-full"
    retryable = True


class LedgerCorrupt(LedgerError):
    """What is stored cannot be what we wrote: a hole in the log, an unknown version."""

    code = "ledger-corrupt"


class ServerRefused(LedgerError):
    """The server's own error to an API call; `facts["err_code"]` is JetStream's number."""

    code = "server-refused"

    @property
    def err_code(self) -> int:
        return int(self.facts.get("err_code", 0))


class DataVersionError(LedgerError):
    """The streams were made with another number of partitions or by another layout version."""

    code = "data-version"


class ServerUnfit(LedgerError):
    """The server lacks what the hub needs; the message names the setting."""

    code = "server-unfit"


class IntakeReader(Protocol):
    """All lanes of some partitions, each lane in stream order, without gaps."""

    async def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        """Read on: for every partition, each lane after the given sequence (0: from the start).

        Replaces whatever was read before; buffered messages are forgotten.
        """

    def take(self, lane: str, most: int) -> Sequence[IntakeMessage]:
        """Up to `most` buffered messages of a lane, in stream order. Never waits."""

    def buffered(self, lane: str) -> int:
        """Messages buffered in a lane."""

    async def wait(self, timeout_s: float, lanes: Iterable[str] = LANES) -> bool:
        """True as soon as a message is buffered in one of the lanes, False after the timeout."""

    def pending(self, lane: str) -> int:
        """Messages stored for our partitions and not yet taken, as last told by the server."""

    async def close(self) -> None: ...


class DeliveryReader(IntakeReader, Protocol):
    """All deliveries of some channels, each channel a lane."""

    def urgent(self, lane: str, most: int) -> Sequence[IntakeMessage]:
        """Up to `most` buffered messages that look urgent, in stream order, out of their turn.

        `take` gives each of them again in its turn, unless it has done so; this gives it only once,
        unless it has had to be read again.
        """


class Ledger(Protocol):
    """The ledger as one owner of partitions sees it."""

    partitions: int

    async def claim(self, partition: int, owner: str, now_ms: int) -> PartitionImage:
        """Take a partition over: snapshot, log after it, then a claim record under the fence.

        From then on the previous owner's commits are refused. Retries while the server is away.
        Raises FenceLost when somebody else claims at the same moment.
        """

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        """Store all entries or none, as one atomic batch; returns the last entry's sequence.

        The last entry must be a fence (carry `expected`): then all fences moved means all stored.
        Entries are stored contiguously, so entry i of n has sequence `last - (n - 1 - i)`.
        `fences` maps partition to the expected last sequence of its log: the entries that carry
        `expected` (their log records hold `commit_id`). Every server reply has a named outcome; a
        lost reply is resolved by reading the fences back. Raises FenceLost (nothing was stored),
        LedgerFull or LedgerUnavailable (given up after LIMITS; nothing is known).
        """

    async def bodies(self, partition: int, blocks: Iterable[str]) -> dict[str, bytes]:
        """Parked blocks by name; one that is gone is left out."""

    async def snapshot(
        self,
        partition: int,
        fence: int,
        at_ms: int,
        checkpoint: Mapping[str, int],
        states: Mapping[str, bytes],
        epoch: int,
    ) -> None:
        """Store a copy of a partition as of log sequence `fence`, then purge the log behind it."""

    def reader(self) -> IntakeReader: ...
