"""From the work of a turn to the entries of one atomic batch, and back to the fences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from actors.turn import Work
from hub import limits
from hub.contract.subjects import (
    delivery_subject,
    log_subject,
    outcome_subject,
    parked_subject,
)
from hub.ledger.port import LOG_VERSION, Entry, LogRecord

_pack = msgspec.msgpack.Encoder().encode


class Batch:
    """Entries in the order they are stored: what others consume first, the log records last."""

    def __init__(self, commit_id: str, works: Sequence[Work], policy_version: str) -> None:
        self.commit_id = commit_id
        self.works = works
        self.entries: list[Entry] = []
        self._add_arrays(works)
        for work in works:
            self._add_parked(work)
        for work in works:
            self._add_log(work, policy_version)

    @property
    def fences(self) -> dict[int, int]:
        return {work.partition.number: work.partition.fence for work in self.works}

    @property
    def too_large(self) -> bool:
        """Whether it must be split by partition."""
        return len(self.works) > 1 and (
            len(self.entries) > limits.BATCH_MESSAGES
            or sum(len(entry.payload) for entry in self.entries) > limits.BATCH_BYTES
        )

    def committed(self, last_sequence: int) -> None:
        """Move the partitions' fences to the log records just stored."""
        first_log = last_sequence - len(self.works) + 1
        log_entries = self.entries[-len(self.works) :]
        for offset, (work, entry) in enumerate(zip(self.works, log_entries, strict=True)):
            work.partition.fence = first_log + offset
            work.partition.log_bytes += len(entry.payload)

    def _add_arrays(self, works: Iterable[Work]) -> None:
        deliveries: dict[str, list[bytes]] = {}
        outcomes: dict[str, list[bytes]] = {}
        for work in works:
            for out in work.deliveries:
                subject = delivery_subject(out.channel, out.account_partition)
                encoded = out.encoded or b""
                if out.alone:  # urgent deliveries always come alone
                    self._add(subject, encoded, limits.DELIVERY_TTL_S)
                else:
                    deliveries.setdefault(subject, []).append(encoded)
            for app, objects in work.outcomes.items():
                outcomes.setdefault(app, []).extend(objects)
        for subject, objects in deliveries.items():
            for payload in arrays(objects):
                self._add(subject, payload, limits.DELIVERY_TTL_S)
        for app, objects in outcomes.items():
            for payload in arrays(objects):
                self._add(outcome_subject(app), payload, limits.OUTCOME_TTL_S)

    def _add_parked(self, work: Work) -> None:
        number, at_ms = work.partition.number, work.at_ms
        for index, bodies in enumerate(work.parked):
            lifetime_ms = max(0, work.parked_until[index] - at_ms)
            self._add(
                parked_subject(number, f"{work.block}-{index}"),
                _pack(bodies),
                lifetime_ms // 1000 + limits.PARKED_GRACE_S,
            )

    def _add_log(self, work: Work, policy_version: str) -> None:
        partition = work.partition
        record = LogRecord(
            LOG_VERSION,
            self.commit_id,
            partition.epoch,
            partition.fence,
            work.at_ms,
            policy_version,
            work.checkpoint,
            work.states,
        )
        self.entries.append(
            Entry(log_subject(partition.number), _pack(record), expected=partition.fence)
        )

    def _add(self, subject: str, payload: bytes, ttl_s: int) -> None:
        self.entries.append(Entry(subject, payload, ttl_s))


def arrays(objects: list[bytes]) -> Iterator[bytes]:
    """Objects as messages: one alone, more as arrays within the contract's and our own bounds."""
    start = 0
    while start < len(objects):
        end, size = start, 0
        while end < len(objects) and end - start < limits.ARRAY_OBJECTS:
            size += len(objects[end]) + 1
            if size > limits.ARRAY_BYTES and end > start:
                break
            end += 1
        yield objects[start] if end - start == 1 else b"[" + b",".join(objects[start:end]) + b"]"
        start = end


def halves(works: Sequence[Work]) -> tuple[Sequence[Work], Sequence[Work]]:
    """A turn too large for one batch is committed as two: each is whole for its partitions."""
    middle = len(works) // 2
    return works[:middle], works[middle:]
