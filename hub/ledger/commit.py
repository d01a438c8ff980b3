"""The atomic batch (ADR-50): all entries or none, and the truth about every try.

All entries but the last are sent without asking for a reply; the last commits and is the one round
trip. Whatever the server answers, or does not, has a name in `hub.ledger.server_errors`; what may
have been stored is settled by reading the fences back, never by guessing:

- the next log record of every fence is ours: everything is stored, for the last entry is a fence;
- no fence has a next record: nothing is stored, and it is sent again under a new batch id. Should
  the earlier try still arrive, one of the two is refused by the fence;
- a fence's next record is somebody else's: nothing is stored and nothing ever will be.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec
from nats.nuid import NUID

from hub import limits
from hub.contract.subjects import log_subject
from hub.ledger.connection import Connection, backoff_ms
from hub.ledger.port import (
    LOG_VERSION,
    Entry,
    FenceLost,
    LedgerCorrupt,
    LedgerFull,
    LedgerUnavailable,
    LogRecord,
)
from hub.ledger.publishing import EXPECTED, TTL
from hub.ledger.reading import Stored, next_message
from hub.ledger.server_errors import LOST_REPLY, UNKNOWN, Action, Outcome, error_of, outcome_of
from hub.ledger.streams import LEDGER

BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"

_REPLY = msgspec.json.Decoder(dict[str, Any])
_RECORD = msgspec.msgpack.Decoder(LogRecord)
_NUMBERS: Final = [str(number) for number in range(limits.BATCH_MESSAGES + 1)]


class Fence(Enum):
    """What a fence subject shows about a commit."""

    OPEN = "open"
    """Nothing was written after the expected record."""
    OURS = "ours"
    TAKEN = "taken"
    """Another writer's record follows, or so much that it cannot be known whose came first."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """All fences of one commit, read after an unclear outcome."""

    fences: Mapping[int, Fence]
    last: int = 0
    """Sequence of the last entry, when one is ours."""

    @property
    def stored(self) -> bool:
        states = self.fences.values()
        return Fence.OURS in states and Fence.OPEN not in states

    @property
    def torn(self) -> bool:
        """Part of the batch is visible: a server that failed in the middle of storing it.

        It finishes the batch when it comes back; until then nothing can be said.
        """
        states = self.fences.values()
        return Fence.OURS in states and Fence.OPEN in states

    @property
    def taken(self) -> list[int]:
        return sorted(number for number, state in self.fences.items() if state is Fence.TAKEN)


class BatchWriter:
    """Commits batches to LEDGER. One commit in flight for any one fence."""

    def __init__(
        self,
        connection: Connection,
        *,
        chance: random.Random | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.replies: Counter[str] = Counter()
        """Tries by the name of their outcome, for metrics."""
        self.full = False
        """The last try found no room in the stream or on the disk."""
        self._connection = connection
        self._chance = chance or random.Random()
        self._pause = pause
        self._ids = NUID()

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        """Store all entries or none; see `hub.ledger.port.Ledger.commit`."""
        _check(entries, fences)
        unclear = False
        for tries in range(limits.COMMIT_RETRIES):
            if tries:
                await self._pause(backoff_ms(tries - 1, self._chance) / 1000)
            if not unclear:
                outcome, reply = await self._send(entries)
                self.replies[outcome.name] += 1
                self.full = outcome.action is Action.FULL
                if outcome.action is Action.DONE:
                    return int(reply["seq"])
                if outcome.action is Action.BUG:
                    raise error_of(reply, "a commit")
                unclear = outcome.action is Action.READ_BACK
            if unclear:
                found = await self._read_back(commit_id, entries, fences)
                if found is None or found.torn:
                    continue
                if found.stored:
                    self.replies["found-stored"] += 1
                    return found.last
                if found.taken:
                    raise _fence_lost(found.taken)
                unclear = False
        raise self._given_up()

    async def _send(self, entries: Sequence[Entry]) -> tuple[Outcome, dict[str, Any]]:
        """One try: the outcome and the server's reply, empty when there was none."""
        last = entries[-1]
        try:
            if len(entries) == 1:
                headers = _headers(last)
            else:
                headers = await self._send_all_but_last(entries)
                headers[BATCH_COMMIT] = "1"
            message = await self._connection.request(last.subject, last.payload, headers=headers)
            reply = _REPLY.decode(message.data)
        except LedgerUnavailable:
            return LOST_REPLY, {}
        except msgspec.DecodeError:
            return UNKNOWN, {}
        return outcome_of(reply), reply

    async def _send_all_but_last(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Publish all entries but the last; returns the headers of the last."""
        publish, batch_id = self._connection.publish, self._ids.next().decode()
        for index, entry in enumerate(entries, 1):
            headers = _headers(entry)
            headers[BATCH_ID] = batch_id
            headers[BATCH_SEQUENCE] = _NUMBERS[index]
            if index == len(entries):
                break
            await publish(entry.subject, entry.payload, "", headers)
            if index % limits.COMMIT_SLICE == 0:
                await asyncio.sleep(0)  # let the first ones leave, and others have a turn
        return headers

    async def _read_back(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> ReadBack | None:
        """What the fences show; None when the server cannot be asked."""
        states: dict[int, Fence] = {}
        last = 0
        position = {entry.subject: index for index, entry in enumerate(entries)}
        try:
            for number, expected in fences.items():
                subject = log_subject(number)
                message = await next_message(self._connection, LEDGER, subject, expected + 1)
                states[number] = _whose(message, commit_id)
                if message is not None and states[number] is Fence.OURS:
                    last = message.sequence + len(entries) - 1 - position[subject]
        except LedgerUnavailable:
            self.replies["read-back-failed"] += 1
            return None
        return ReadBack(states, last)

    def _given_up(self) -> LedgerFull | LedgerUnavailable:
        if self.full:
            return LedgerFull(
                "the ledger has had no room for a commit; enlarge the stream LEDGER or the disk",
                retry_after_ms=limits.BACKOFF_MAX_MS,
            )
        return LedgerUnavailable(
            f"a commit was not settled in {limits.COMMIT_RETRIES} tries; "
            "what it decided is read back from the ledger by the partitions' next owner",
            retry_after_ms=limits.BACKOFF_MAX_MS,
        )


def decode_record(message: Stored) -> LogRecord:
    """The log record in a message. Raises LedgerCorrupt for what we cannot have written."""
    try:
        record = _RECORD.decode(message.payload)
    except msgspec.DecodeError as error:
        raise LedgerCorrupt(
            f"message {message.sequence} on {message.subject} is not a log record",
            subject=message.subject,
            sequence=message.sequence,
        ) from error
    if record.version != LOG_VERSION:
        raise LedgerCorrupt(
            f"message {message.sequence} on {message.subject} has version {record.version}, "
            f"this program knows {LOG_VERSION}; run the version of Tact that wrote it",
            subject=message.subject,
            sequence=message.sequence,
        )
    return record


def _whose(successor: Stored | None, commit_id: str) -> Fence:
    if successor is None:
        return Fence.OPEN
    # When the direct successor is purged already, it may have been ours: that cannot be told apart
    # here, but a partition that has come so far is somebody else's in any case.
    return Fence.OURS if decode_record(successor).commit_id == commit_id else Fence.TAKEN


def _headers(entry: Entry) -> dict[str, str]:
    headers = {}
    if entry.ttl_s is not None:
        headers[TTL] = str(entry.ttl_s)
    if entry.expected is not None:
        headers[EXPECTED] = str(entry.expected)
    return headers


def _fence_lost(numbers: Sequence[int]) -> FenceLost:
    return FenceLost(
        f"another owner has claimed partitions {', '.join(map(str, numbers))}", partitions=numbers
    )


def _check(entries: Sequence[Entry], fences: Mapping[int, int]) -> None:
    """What only a programming error can break."""
    assert 1 <= len(entries) <= limits.BATCH_MESSAGES, f"{len(entries)} entries in a batch"
    size = sum(len(entry.payload) for entry in entries)
    assert size <= limits.BATCH_BYTES, f"{size} bytes in a batch"
    assert entries[-1].expected is not None, "the last entry must be a fence"
    expected = {entry.subject: entry.expected for entry in entries if entry.expected is not None}
    named = {log_subject(number): sequence for number, sequence in fences.items()}
    assert expected == named, "the fences are not those of the entries"
