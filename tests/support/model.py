"""A model of the two streams behind `hub.ledger.port`: the server, and one host's ledger.

The server is exact: sequences, dedupe window, batches all or nothing, fences, TTL, purges. The
network between them is not (`tests.support.network`). A host sees the same contract as with the
real implementation (`hub.ledger.commit`): what is unclear is settled by reading the fences back.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec

from hub import limits
from hub.contract.subjects import log_subject, parked_subject, partition_of
from hub.ledger.port import (
    LOG_VERSION,
    Entry,
    FenceLost,
    IntakeMessage,
    LedgerCorrupt,
    LedgerFull,
    LedgerUnavailable,
    LogRecord,
    PartitionImage,
)
from tests.support.model_reader import ModelReader
from tests.support.network import Network, Refused
from tests.support.virtual_loop import VirtualClock

T = TypeVar("T")

decode_record = msgspec.msgpack.Decoder(LogRecord).decode
_encode = msgspec.msgpack.Encoder().encode

_BATCH_MESSAGES = limits.BATCH_MESSAGES
_BATCH_BYTES = limits.BATCH_BYTES
"""The server's own bounds, whatever a test sets the hub's to."""
_PAGE_RECORDS = 7
_TTL_OVERFLOW_NS = 1 << 63


@dataclass(slots=True)
class Stored:
    """One message of LEDGER."""

    sequence: int
    stored_ms: int
    subject: str
    payload: bytes
    expires_ms: int | None


@dataclass(slots=True)
class Snapshot:
    fence: int
    at_ms: int
    epoch: int
    checkpoint: dict[str, int]
    states: dict[str, bytes]


@dataclass(slots=True)
class Replayed:
    """What a partition's log says from its first record on, purged ones included."""

    fence: int = 0
    epoch: int = 0
    at_ms: int = 0
    checkpoint: dict[str, int] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)

    def apply(self, sequence: int, record: LogRecord) -> None:
        """Raises LedgerCorrupt where the chain is broken."""
        if record.previous != self.fence or record.version != LOG_VERSION:
            raise LedgerCorrupt(f"record {sequence} follows {record.previous}, not {self.fence}")
        self.fence, self.epoch, self.at_ms = sequence, record.epoch, record.at_ms
        self.checkpoint = dict(record.checkpoint)
        for key, packed in record.states.items():
            if packed is None:
                self.states.pop(key, None)
            else:
                self.states[key] = packed


# ---- the server ----------------------------------------------------------------------------------


class Streams:
    """INTAKE and LEDGER with snapshots, as one server holds them. Every call is one instant."""

    def __init__(self, clock: VirtualClock, partitions: int) -> None:
        self.partitions = partitions
        self.intake: list[IntakeMessage] = []
        self.keys: list[str] = []
        """The key each INTAKE message was published under (the server forgets it)."""
        self.ledger: list[Stored] = []
        self.snapshots: dict[int, Snapshot] = {}
        self.full = False
        self.intake_listeners: list[Callable[[IntakeMessage], None]] = []
        self.ledger_listeners: list[Callable[[Stored], None]] = []
        self._clock = clock
        self._ids: dict[str, tuple[int, int]] = {}
        self._last: dict[str, int] = {}
        self._log: dict[int, list[int]] = defaultdict(list)
        self._purged: dict[int, int] = defaultdict(int)
        """Log records of a partition with smaller sequences are gone."""

    # ---- INTAKE ----------------------------------------------------------------------------------

    def publish(
        self, lane: str, source: str, key: str, payload: bytes, packed: bool, msg_id: str | None
    ) -> int:
        """Store a message, or find it by its id in the dedupe window; returns its sequence."""
        now = self._clock.now_ms()
        if msg_id is not None:
            sequence, stored_ms = self._ids.get(msg_id, (0, 0))
            if sequence and now - stored_ms < limits.DUPLICATE_WINDOW_S * 1000:
                return sequence
        number = partition_of(key, self.partitions)
        sequence = len(self.intake) + 1
        message = IntakeMessage(number, lane, source, sequence, now, payload, packed)
        self.intake.append(message)
        self.keys.append(key)
        if msg_id is not None:
            self._ids[msg_id] = (sequence, now)
        for listener in self.intake_listeners:
            listener(message)
        return sequence

    # ---- LEDGER ----------------------------------------------------------------------------------

    def store(self, entries: Sequence[Entry]) -> int:
        """An atomic batch. Returns the last sequence; raises Refused, and then stores nothing."""
        if self.full:
            raise Refused("full")
        for entry in entries:
            if entry.expected is not None and entry.expected != self._last.get(entry.subject, 0):
                raise Refused("fence")
        now = self._clock.now_ms()
        first = len(self.ledger)
        for entry in entries:
            sequence = len(self.ledger) + 1
            self.ledger.append(
                Stored(sequence, now, entry.subject, entry.payload, _expiry(now, entry.ttl_s))
            )
            self._last[entry.subject] = sequence
            kind, number = entry.subject.split(".")[1:3]
            if kind == "log":
                self._log[int(number)].append(sequence)
        for listener in self.ledger_listeners:
            for stored in self.ledger[first:]:
                listener(stored)
        return len(self.ledger)

    def log_after(self, partition: int, sequence: int, most: int = 1 << 30) -> list[Stored]:
        """Log records of a partition after a sequence that are not purged."""
        first = max(sequence + 1, self._purged[partition])
        return [self.ledger[each - 1] for each in self._log[partition] if each >= first][:most]

    def whole_log(self, partition: int) -> list[Stored]:
        """Every log record that ever was, for checks."""
        return [self.ledger[each - 1] for each in self._log[partition]]

    def purge_log(self, partition: int, before: int) -> None:
        self._purged[partition] = max(self._purged[partition], before)

    def last_of(self, subject: str) -> Stored | None:
        """The last message of a subject, unless its TTL has run out."""
        sequence = self._last.get(subject)
        if sequence is None:
            return None
        stored = self.ledger[sequence - 1]
        gone = stored.expires_ms is not None and stored.expires_ms <= self._clock.now_ms()
        return None if gone else stored

    def store_snapshot(self, partition: int, snapshot: Snapshot) -> None:
        """Replace the snapshot by a newer one; an older one (of a replaced owner) is ignored."""
        if self.full:
            raise Refused("full")
        held = self.snapshots.get(partition)
        if held is None or held.fence < snapshot.fence:
            self.snapshots[partition] = snapshot


def _expiry(now_ms: int, ttl_s: int | None) -> int | None:
    """As the server counts: nanoseconds in 64 bits. What overflows is gone at once."""
    if ttl_s is None:
        return None
    assert ttl_s >= 1, "the server takes no TTL below a second"
    if now_ms * 1_000_000 + ttl_s * 1_000_000_000 >= _TTL_OVERFLOW_NS:
        return now_ms
    return now_ms + ttl_s * 1000


# ---- one host's ledger ---------------------------------------------------------------------------


class ModelLedger:
    """`hub.ledger.port.Ledger` for one host. `tries` bounds a commit, as COMMIT_RETRIES does."""

    def __init__(
        self, streams: Streams, network: Network, chance: random.Random, tries: int
    ) -> None:
        self.partitions = streams.partitions
        self.streams = streams
        self.network = network
        self._chance = chance
        self._tries = tries
        self._claims = 0

    def reader(self) -> ModelReader:
        return ModelReader(self.streams, self.network, self._chance)

    # ---- commit ----------------------------------------------------------------------------------

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        """See the port. A lost or refused reply is settled by reading the fences back."""
        check_batch(entries, fences)
        unclear = full = False
        for tries in range(self._tries):
            if tries:
                await asyncio.sleep(self._chance.uniform(0.01, 2.0))
            try:
                if not unclear:
                    return await self.network.request("commit", partial(self._store, entries))
            except Refused as error:
                full = error.args[0] == "full"
                if full:
                    continue
            except LedgerUnavailable:
                full = False
            unclear = True
            found = await self._read_back(commit_id, entries, fences)
            if found is None:
                continue
            last, taken = found
            if last:
                return last
            if taken:
                raise FenceLost("claimed by another owner", partitions=taken)
            unclear = False
        if full:
            raise LedgerFull("no room for a commit")
        raise LedgerUnavailable("a commit was not settled")

    def _store(self, entries: Sequence[Entry]) -> int:
        return self.streams.store(entries)

    async def _read_back(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> tuple[int, list[int]] | None:
        """(last sequence if it is ours, partitions taken by others); None without an answer."""
        last, taken, in_part = 0, [], False
        for number, expected in fences.items():
            try:
                after = await self.network.request(
                    "read-back", partial(self.streams.log_after, number, expected, 1)
                )
            except LedgerUnavailable:
                return None
            if not after:
                continue
            record = decode_record(after[0].payload)
            if record.commit_id == commit_id and record.previous == expected:
                place = [entry.subject for entry in entries].index(log_subject(number))
                last = after[0].sequence + len(entries) - 1 - place
            else:
                taken.append(number)
                # Ours may have been, and be purged, when the next is not its direct successor.
                in_part |= record.previous == expected
        assert not (last and in_part), "a batch was stored in part"
        return last, sorted(taken)

    # ---- claim -----------------------------------------------------------------------------------

    async def claim(self, partition: int, owner: str, now_ms: int) -> PartitionImage:
        """See the port. Every step is a request, so that anything may happen in between."""
        while True:
            found = await self._recover(partition)
            if found is None:
                continue  # a snapshot was taken and the log behind it purged while we read
            self._claims += 1
            record = LogRecord(
                LOG_VERSION,
                f"claim-{owner}-{self._claims}",
                found.epoch + 1,
                found.fence,
                max(now_ms, found.at_ms),
                "",
                found.checkpoint,
                {},
            )
            fence = await self._write_claim(partition, record)
            if fence:
                return PartitionImage(
                    partition,
                    record.epoch,
                    fence,
                    record.at_ms,
                    dict(found.checkpoint),
                    dict(found.states),
                )

    async def _recover(self, partition: int) -> Replayed | None:
        """Snapshot and the log after it; None when the two no longer meet."""
        snapshot = await self._patiently("claim", partial(self.streams.snapshots.get, partition))
        found = Replayed()
        if snapshot is not None:
            found = Replayed(
                snapshot.fence,
                snapshot.epoch,
                snapshot.at_ms,
                dict(snapshot.checkpoint),
                dict(snapshot.states),
            )
        while True:
            read = partial(self.streams.log_after, partition, found.fence, _PAGE_RECORDS)
            page = await self._patiently("claim", read)
            for stored in page:
                try:
                    found.apply(stored.sequence, decode_record(stored.payload))
                except LedgerCorrupt:
                    again = await self._patiently(
                        "claim", partial(self.streams.snapshots.get, partition)
                    )
                    if again is None or again.fence <= found.fence:
                        raise
                    return None
            if len(page) < _PAGE_RECORDS:
                return found

    async def _write_claim(self, partition: int, record: LogRecord) -> int:
        """The claim's sequence; 0 when the previous owner has committed meanwhile."""
        entry = Entry(log_subject(partition), _encode(record), expected=record.previous)
        while True:
            try:
                return await self.network.request("claim", partial(self._store, [entry]))
            except (Refused, LedgerUnavailable):
                read = partial(self.streams.log_after, partition, record.previous, 1)
                after = await self._patiently("claim", read)
            if not after:
                await asyncio.sleep(self._chance.uniform(0.01, 0.5))
                continue
            found = decode_record(after[0].payload)
            if found.commit_id == record.commit_id:
                return after[0].sequence
            if found.epoch >= record.epoch:
                raise FenceLost("claimed by another owner", partitions=[partition])
            return 0

    async def _patiently(self, kind: str, operation: Callable[[], T]) -> T:
        """A read that is tried until the server answers."""
        while True:
            try:
                return await self.network.request(kind, operation)
            except LedgerUnavailable:
                await asyncio.sleep(self._chance.uniform(0.01, 0.5))

    # ---- bodies and snapshots --------------------------------------------------------------------

    async def bodies(self, partition: int, blocks: Iterable[str]) -> dict[str, bytes]:
        names = list(blocks)

        def read() -> dict[str, bytes]:
            found = {name: self.streams.last_of(parked_subject(partition, name)) for name in names}
            return {name: stored.payload for name, stored in found.items() if stored is not None}

        return await self.network.request("bodies", read)

    async def snapshot(
        self,
        partition: int,
        fence: int,
        at_ms: int,
        checkpoint: Mapping[str, int],
        states: Mapping[str, bytes],
        epoch: int,
    ) -> None:
        taken = Snapshot(fence, at_ms, epoch, dict(checkpoint), dict(states))
        try:
            await self.network.request("snapshot", lambda: None)  # its parts
            await self.network.request(
                "snapshot", partial(self.streams.store_snapshot, partition, taken)
            )
            await self.network.request(
                "snapshot", partial(self.streams.purge_log, partition, fence)
            )
        except Refused as error:
            raise LedgerFull("no room for a snapshot") from error


def check_batch(entries: Sequence[Entry], fences: Mapping[int, int]) -> None:
    """What the real writer and server take, and what only a programming error can break."""
    assert 1 <= len(entries) <= _BATCH_MESSAGES, f"{len(entries)} entries in a batch"
    size = sum(len(entry.payload) for entry in entries)
    assert size <= _BATCH_BYTES, f"{size} bytes in a batch"
    largest = max(len(entry.payload) for entry in entries)
    assert largest <= limits.MESSAGE_BYTES, f"{largest} bytes in a message"
    expected = {entry.subject: entry.expected for entry in entries if entry.expected is not None}
    named = {log_subject(number): sequence for number, sequence in fences.items()}
    assert expected == named, "the fences are not those of the entries"
    logs = [entry.subject for entry in entries if entry.subject.startswith("hub.log.")]
    assert len(logs) == len(set(logs)), "two log records of one partition in a batch"
