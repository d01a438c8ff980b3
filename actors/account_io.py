"""What a host of accounts needs of the streams, and the slow errands of its loop.

An errand (telling INTAKE, reading a body again) is repeated until it is done or its partition is
lost, and never holds a turn up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import msgspec
import structlog

from actors.account import Account
from actors.account_partition import AccountPartition, TurnChanges, handed_subjects, own_delivery
from actors.account_queue import Entry
from actors.account_state import OWN, pack
from actors.batch import arrays
from actors.snapshots import store_snapshot
from hub import limits
from hub.clock import Clock
from hub.contract.subjects import delivery_subject, log_subject
from hub.contract.types import Delivery
from hub.errors import TactError
from hub.ledger.port import (
    LOG_VERSION,
    DeliveryReader,
    LogRecord,
    Outbound,
    PartitionImage,
)
from hub.ledger.port import Entry as BatchEntry

RETRY_S = 2.0
"""Between two tries of an errand; a try itself is repeated by the ledger for longer."""
TOLD_TURNS = 64
"""Turns whose outbox is told together: what is behind waits for what is before."""
OUTBOX_TURNS = 256
"""Turns whose receipts INTAKE has not acknowledged; then nothing more is taken or claimed."""
FETCHES = 16
"""Messages read from the ledger for their bodies at a time: 4 MiB of arrays."""

log = structlog.get_logger("tact.accounts")

decode_deliveries = msgspec.json.Decoder(list[Delivery] | Delivery).decode


class AccountLedger(Protocol):
    """What a host of accounts needs of the streams. `partition` is the number of an account log."""

    partitions: int

    async def claim(self, partition: int, owner: str, now_ms: int) -> PartitionImage: ...

    async def commit(
        self, commit_id: str, entries: Sequence[BatchEntry], fences: dict[int, int]
    ) -> int: ...

    async def snapshot(
        self,
        partition: int,
        fence: int,
        at_ms: int,
        checkpoint: dict[str, int],
        states: dict[str, bytes],
        epoch: int,
    ) -> None: ...

    def deliveries(self, channels: Iterable[str]) -> DeliveryReader:
        """A reader whose lanes are channels, and whose partitions are those of accounts."""

    async def stored(self, sequence: int) -> bytes | None:
        """The payload of one LEDGER message; None when it is gone."""

    async def tell(self, outbound: Sequence[Outbound]) -> None:
        """Store objects in INTAKE; returns when all are. Raises TactError: some may be."""


def entries_of(turn: TurnChanges, commit_id: str) -> list[BatchEntry]:
    """The batch of one turn: what is handed to other accounts, then the log record, the fence."""
    partition = turn.partition
    entries = [
        BatchEntry(delivery_subject(*to), payload, limits.DELIVERY_TTL_S)
        for to, some in handed_subjects(turn.handed, partition.partitions).items()
        for payload in _messages(some)
    ]
    record = LogRecord(
        LOG_VERSION,
        commit_id,
        partition.epoch,
        partition.fence,
        turn.at_ms,
        "",
        turn.checkpoint,
        turn.changed,
    )
    entries.append(BatchEntry(log_subject(partition.log), pack(record), expected=partition.fence))
    return entries


def _messages(deliveries: Sequence[Delivery]) -> Iterator[bytes]:
    """Urgent ones alone, for they are looked for; the others in arrays."""
    for delivery in deliveries:
        if delivery.urgent:
            yield from arrays([delivery])
    yield from arrays([delivery for delivery in deliveries if not delivery.urgent])


class _Errands:
    """Tasks that end by themselves, and the word to the loop that one has."""

    def __init__(self, ledger: AccountLedger, look: Callable[[], None]) -> None:
        self._ledger = ledger
        self._look = look
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, drain_s: float) -> None:
        """Wait a while for what is under way; the next owner does what is left."""
        if self._tasks and drain_s:
            await asyncio.wait(self._tasks, timeout=drain_s)
        for task in list(self._tasks):
            task.cancel()


class Outbox(_Errands):
    """Tells INTAKE what turns have committed that it will be told: a partition's in their order,
    for what a customer writes is read in the order of INTAKE."""

    def __init__(self, ledger: AccountLedger, look: Callable[[], None]) -> None:
        super().__init__(ledger, look)
        self._telling: set[AccountPartition] = set()

    def send(self, partition: AccountPartition) -> None:
        """Begin to tell what is unsent; `partition.settled(key)` is called for what is done."""
        if partition.unsent and partition not in self._telling:
            self._telling.add(partition)
            self._start(self._until_stored(partition))

    async def _until_stored(self, partition: AccountPartition) -> None:
        while partition.unsent and not partition.lost:
            keys = list(islice(partition.unsent, TOLD_TURNS))
            try:
                await self._ledger.tell([one for key in keys for one in partition.unsent[key]])
            except TactError as error:
                log.warning("outbox-waits", code=error.code, partition=partition.number)
                await asyncio.sleep(RETRY_S)
                continue
            for key in keys:
                partition.settled(key)
            self._look()
        self._telling.discard(partition)


class Bodies(_Errands):
    """Reads the bodies of deliveries again that an account no longer has in memory.

    Deliveries come in arrays: one read serves all that is asked of a message.
    """

    def __init__(self, ledger: AccountLedger, clock: Clock, look: Callable[[], None]) -> None:
        super().__init__(ledger, look)
        self._clock = clock
        self._asked: dict[int, list[tuple[Account, Entry]]] = {}
        """By the message that holds them, those asked for first first."""
        self._loaded: list[tuple[Account, Entry, Delivery | None]] = []
        self._under_way = 0

    def ask(self, fetches: list[tuple[Account, Entry]]) -> None:
        """Take requests over, and work on a bounded number at a time."""
        for account, entry in fetches:
            attempt = entry.attempt
            if attempt.app == OWN:
                text, now = account.config.opt_out.reply, self._clock.now_ms()
                body = None if text is None else own_delivery(entry.id, attempt, text, now)
                self._loaded.append((account, entry, body))
                self._look()
            else:
                self._asked.setdefault(attempt.sequence, []).append((account, entry))
        fetches.clear()
        self._pump()

    def take(self) -> list[tuple[Account, Entry, Delivery | None]]:
        """What was read since; None for a body that is gone."""
        loaded, self._loaded = self._loaded, []
        return loaded

    def _pump(self) -> None:
        while self._asked and self._under_way < FETCHES:
            self._under_way += 1
            sequence = next(iter(self._asked))
            self._start(self._fetch(sequence, self._asked.pop(sequence)))

    async def _fetch(self, sequence: int, asked: list[tuple[Account, Entry]]) -> None:
        try:
            bodies = await self._bodies(sequence)
        except TactError as error:
            log.warning("body-waits", code=error.code)
            await asyncio.sleep(RETRY_S)
            self._asked.setdefault(sequence, []).extend(asked)
        else:
            for account, entry in asked:
                place = entry.attempt.place
                self._loaded.append((account, entry, bodies[place] if bodies else None))
        self._under_way -= 1
        self._pump()
        self._look()

    async def _bodies(self, sequence: int) -> list[Delivery]:
        payload = await self._ledger.stored(sequence)
        if payload is None:
            return []
        found = decode_deliveries(payload)
        return found if isinstance(found, list) else [found]


class Snapshots(_Errands):
    """Stores copies of partitions whose log has grown, one at a time."""

    def start_if_due(self, partitions: Iterable[AccountPartition]) -> None:
        """Called between two turns, with everything committed."""
        if self._tasks:
            return
        for partition in partitions:
            if partition.lost or partition.touched or partition.restoring:
                continue
            if partition.log_bytes > max(limits.SNAPSHOT_LOG_BYTES, 2 * partition.snapshot_bytes):
                partition.forget_peers()
                if partition.touched:
                    continue  # what is forgotten is committed first
                image = partition.copy()
                partition.log_bytes = 0
                partition.snapshot_bytes = sum(map(len, image.states.values()))
                self._start(store_snapshot(self._ledger, image))
                return
