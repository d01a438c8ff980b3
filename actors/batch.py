"""From the work of a turn to the entries of one atomic batch, and back to the fences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

from actors.turn import Work
from hub import limits
from hub.contract.subjects import (
    delivery_subject,
    event_subject,
    live_subject,
    log_subject,
    outcome_subject,
    parked_subject,
)
from hub.contract.types import Delivery, Event, LiveMessage, Outcome
from hub.ledger.port import LOG_VERSION, Entry, LogRecord

_encode = msgspec.json.Encoder().encode
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

    @property
    def only_records(self) -> bool:
        """Whether nothing leaves: states have changed, and that is all."""
        return len(self.entries) == len(self.works)

    def committed(self, last_sequence: int) -> None:
        """Move the partitions' fences to the log records just stored."""
        first_log = last_sequence - len(self.works) + 1
        log_entries = self.entries[-len(self.works) :]
        for offset, (work, entry) in enumerate(zip(self.works, log_entries, strict=True)):
            work.partition.fence = first_log + offset
            work.partition.log_bytes += len(entry.payload)

    def _add_arrays(self, works: Iterable[Work]) -> None:
        deliveries: dict[tuple[str, int], list[Delivery]] = {}
        outcomes: dict[str, list[Outcome]] = {}
        events: dict[str, list[Event]] = {}
        feeds: dict[tuple[str, int], list[LiveMessage]] = {}
        for work in works:
            for to, delivery in work.urgent_deliveries:  # urgent deliveries always come alone
                self._add(delivery_subject(*to), _encode(delivery), limits.DELIVERY_TTL_S)
            for to, objects in work.deliveries.items():
                deliveries.setdefault(to, []).extend(objects)
            for app, told in work.outcomes.items():
                outcomes.setdefault(app, []).extend(told)
            for app, happened in work.events.items():
                events.setdefault(app, []).extend(happened)
            for feed, said in work.feeds.items():
                feeds.setdefault(feed, []).extend(said)
        for to, objects in deliveries.items():
            for payload in arrays(objects):
                self._add(delivery_subject(*to), payload, limits.DELIVERY_TTL_S)
        for app, told in outcomes.items():
            for payload in arrays(told):
                self._add(outcome_subject(app), payload, limits.OUTCOME_TTL_S)
        for app, happened in events.items():
            for payload in arrays(happened):
                self._add(event_subject(app), payload, limits.EVENT_TTL_S)
        for (account, keep_s), said in feeds.items():
            for payload in arrays(said):
                self._add(live_subject(account), payload, keep_s)

    def _add_parked(self, work: Work) -> None:
        number, at_ms = work.partition.number, work.at_ms
        for index, bodies in enumerate(work.parked):
            lifetime_ms = max(0, work.parked_until[index] - at_ms)
            self._add(
                parked_subject(number, f"{work.block}-{index}"),
                _pack(bodies),
                min(lifetime_ms // 1000 + limits.PARKED_GRACE_S, limits.PARKED_TTL_MAX_S),
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


def arrays(objects: Sequence[Struct]) -> Iterator[bytes]:
    """Objects as messages: one alone, more as arrays within the contract's and our own bounds."""
    for start in range(0, len(objects), limits.ARRAY_OBJECTS):
        yield from _within_bytes(objects[start : start + limits.ARRAY_OBJECTS])


def _within_bytes(objects: Sequence[Struct]) -> Iterator[bytes]:
    if len(objects) == 1:
        yield _encode(objects[0])
        return
    payload = _encode(objects)
    if len(payload) <= limits.ARRAY_BYTES:
        yield payload
        return
    middle = len(objects) // 2
    yield from _within_bytes(objects[:middle])
    yield from _within_bytes(objects[middle:])


def halves(works: Sequence[Work]) -> tuple[Sequence[Work], Sequence[Work]]:
    """A turn too large for one batch is committed as two: each is whole for its partitions."""
    middle = len(works) // 2
    return works[:middle], works[middle:]
