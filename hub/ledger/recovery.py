"""A partition from the ledger into memory and, as a snapshot, back.

Claim: the newest snapshot, the log after it, then a claim record under the fence. The log is a
chain (every record names the one before it), so that a hole is seen and never skipped. Snapshot:
chunks, then a head that names them, written only over the head that was read before; what the head
makes superfluous is purged afterwards. A crash between any two steps leaves a partition that can be
claimed: chunks without a head are waste, removed by the next snapshot.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from nats.nuid import NUID

from hub import limits
from hub.contract.subjects import log_subject, snapshot_subject
from hub.ledger.commit import BatchWriter, decode_record
from hub.ledger.connection import Connection, backoff_ms
from hub.ledger.port import (
    KNOCK,
    LOG_VERSION,
    Entry,
    FenceLost,
    LedgerCorrupt,
    LedgerUnavailable,
    LogRecord,
    PartitionImage,
    ServerRefused,
)
from hub.ledger.publishing import EXPECTED, publish
from hub.ledger.reading import Stored, last_message, last_messages, read_subject
from hub.ledger.server_errors import WRONG_LAST_SEQUENCE
from hub.ledger.streams import LEDGER, SNAPSHOTS

SNAPSHOT_VERSION: Final = 1
_HEAD: Final = "head"


class SnapshotHead(Struct, array_like=True, frozen=True):
    """What a snapshot is. MessagePack, subject `hub.snap.<partition>.head`."""

    version: int
    fence: int
    """Sequence of the log record the copy is taken after."""
    epoch: int
    at_ms: int
    checkpoint: dict[str, int]
    chunks: list[str]
    """Last subject token of each chunk, in order; a chunk is MessagePack of key to packed state."""
    states: int
    crc: int
    """CRC-32 of all chunks one after the other."""


class _Moved(Exception):
    """What was being read was replaced by a newer snapshot meanwhile: read again from the start."""


class Recovery:
    """Claims and snapshots for one connection."""

    def __init__(
        self,
        connection: Connection,
        writer: BatchWriter,
        *,
        chance: random.Random | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connection = connection
        self._writer = writer
        self._chance = chance or random.Random()
        self._pause = pause
        self._ids = NUID()

    # ---- claim -------------------------------------------------------------------------------

    async def claim(self, partition: int, owner: str, now_ms: int) -> PartitionImage:
        """Take a partition over; see `hub.ledger.port.Ledger.claim`."""
        for tries in range(limits.COMMIT_RETRIES):
            if tries:
                await self._pause(backoff_ms(tries - 1, self._chance) / 1000)
            try:
                image, end = await self._load(partition)
                return await self._claim_loaded(image, end, owner, now_ms)
            except LedgerUnavailable as error:
                last: Exception = error
            except _Moved:
                last = LedgerUnavailable(f"partition {partition}: snapshots keep replacing its log")
        raise last

    async def _claim_loaded(
        self, image: PartitionImage, end: int, owner: str, now_ms: int
    ) -> PartitionImage:
        """Write the claim after the log's end; catch up with a former owner that still commits.

        An owner under load has its next batch at the server before we can know of the last: it
        would win every time. So after CLAIM_TRIES a knock is stored under no fence. It refuses the
        owner's next commit, and then only other claims can come between.
        """
        epoch = image.epoch + 1
        for tries in range(limits.COMMIT_RETRIES):
            commit_id = f"{owner}/{self._ids.next().decode()}"
            at_ms = max(now_ms, image.at_ms)
            try:
                image.fence = await self._append(
                    image, commit_id, epoch=epoch, previous=image.fence, at_ms=at_ms, expected=end
                )
            except FenceLost:
                if tries % limits.CLAIM_TRIES == limits.CLAIM_TRIES - 1:
                    await self._knock(image, commit_id)
                end = await self._replay(image)
                if image.epoch >= epoch:
                    raise
                continue
            image.epoch, image.at_ms = epoch, at_ms
            return image
        raise LedgerUnavailable(
            f"partition {image.partition}: others write its log faster than it can be claimed"
        )

    async def _append(
        self,
        image: PartitionImage,
        commit_id: str,
        *,
        epoch: int,
        previous: int,
        at_ms: int,
        expected: int,
    ) -> int:
        """Commit a log record that changes nothing; returns its sequence."""
        record = LogRecord(LOG_VERSION, commit_id, epoch, previous, at_ms, "", image.checkpoint, {})
        subject = log_subject(image.partition)
        entry = Entry(subject, msgspec.msgpack.encode(record), expected=expected)
        return await self._writer.commit(commit_id, [entry], {image.partition: expected})

    async def _knock(self, image: PartitionImage, commit_id: str) -> None:
        record = LogRecord(
            LOG_VERSION, commit_id, image.epoch, KNOCK, image.at_ms, "", image.checkpoint, {}
        )
        subject = log_subject(image.partition)
        await publish(self._connection, subject, msgspec.msgpack.encode(record))

    async def _load(self, partition: int) -> tuple[PartitionImage, int]:
        """The partition as of now, and the sequence its log ends at."""
        found = await self._head(partition)
        image = PartitionImage(partition, epoch=0, fence=0)
        if found is not None:
            head = found[0]
            image.epoch, image.fence, image.at_ms = head.epoch, head.fence, head.at_ms
            image.checkpoint = dict(head.checkpoint)
            await self._load_chunks(image, head)
        try:
            return image, await self._replay(image)
        except LedgerCorrupt:
            if await self._newer(partition, found):
                raise _Moved from None  # the hole is what a newer snapshot purged
            raise

    async def _newer(self, partition: int, than: tuple[SnapshotHead, int] | None) -> bool:
        now = await self._head(partition)
        return now is not None and (than is None or now[1] > than[1])

    async def _head(self, partition: int) -> tuple[SnapshotHead, int] | None:
        """The newest snapshot's head and its sequence in SNAPSHOTS."""
        subject = snapshot_subject(partition, _HEAD)
        message = await last_message(self._connection, SNAPSHOTS, subject)
        if message is None:
            return None
        try:
            head = _decode_head(message.payload)
        except msgspec.DecodeError as error:
            raise LedgerCorrupt(f"{subject} is not the head of a snapshot") from error
        if head.version != SNAPSHOT_VERSION:
            raise LedgerCorrupt(
                f"{subject} has version {head.version}, this program knows {SNAPSHOT_VERSION}; "
                "run the version of Tact that wrote it"
            )
        return head, message.sequence

    async def _load_chunks(self, image: PartitionImage, head: SnapshotHead) -> None:
        """Chunk by chunk, so that nothing is in memory twice."""
        crc = 0
        for name in head.chunks:
            subject = snapshot_subject(image.partition, name)
            chunk = await self._chunk(image.partition, subject, head)
            crc = zlib.crc32(chunk.payload, crc)
            image.states.update(_decode_chunk(chunk.payload))
        if crc != head.crc or len(image.states) != head.states:
            raise LedgerCorrupt(
                f"the snapshot of partition {image.partition} is damaged: checksum or count differ",
                partition=image.partition,
            )

    async def _chunk(self, partition: int, subject: str, head: SnapshotHead) -> Stored:
        found = await last_messages(self._connection, SNAPSHOTS, [subject])
        # A replica that lags may not have it yet: then the leader is asked, which is slower.
        chunk = found.get(subject) or await last_message(self._connection, SNAPSHOTS, subject)
        if chunk is None:
            now = await self._head(partition)
            if now is None or now[0] != head:
                raise _Moved
            raise LedgerCorrupt(
                f"{subject} is missing from the snapshot of partition {partition}",
                partition=partition,
            )
        return chunk

    async def _replay(self, image: PartitionImage) -> int:
        """Apply the log after `image.fence`, up to the last record the leader knows: its sequence.

        That is `image.fence` unless the log ends in a knock.
        """
        subject = log_subject(image.partition)
        last = await last_message(self._connection, LEDGER, subject)
        end = 0 if last is None else last.sequence
        if end < image.fence:
            raise LedgerCorrupt(
                f"the log of partition {image.partition} ends at {end}, its snapshot was taken at "
                f"{image.fence}: LEDGER is older than SNAPSHOTS; restore both from one copy",
                partition=image.partition,
            )
        records = read_subject(
            self._connection, LEDGER, subject, limits.LOG_RECORDS, after=image.fence
        )
        seen = image.fence
        async for message in records:
            _apply(image, message)
            seen = message.sequence
            if seen >= end:
                break
        await records.aclose()
        if seen < end:
            raise LedgerUnavailable(f"a replica that lags answered for partition {image.partition}")
        return seen

    # ---- snapshot ----------------------------------------------------------------------------

    async def snapshot(
        self,
        partition: int,
        fence: int,
        at_ms: int,
        checkpoint: Mapping[str, int],
        states: Mapping[str, bytes],
        epoch: int,
    ) -> None:
        """Store a copy; see `hub.ledger.port.Ledger.snapshot`. `states` must not change meanwhile.

        Raises FenceLost when a newer owner has stored one, LedgerUnavailable or LedgerFull when it
        is not stored: then the older snapshot and the log still hold everything.
        """
        old = await self._head(partition)
        if old is not None and old[0].epoch > epoch:
            raise _outlived(partition)
        if old is not None and old[0].fence >= fence:
            return  # ours, and newer
        names, crc, first = [], 0, 0
        for number, chunk in enumerate(_chunks(states)):
            name = f"{epoch}-{fence}-{number}"
            ack = await publish(self._connection, snapshot_subject(partition, name), chunk)
            first = first or ack.sequence
            crc = zlib.crc32(chunk, crc)
            names.append(name)
            await asyncio.sleep(0)
        head = SnapshotHead(
            SNAPSHOT_VERSION, fence, epoch, at_ms, dict(checkpoint), names, len(states), crc
        )
        sequence = await self._write_head(partition, head, 0 if old is None else old[1])
        await self._purge(LEDGER, log_subject(partition), fence)
        await self._purge(SNAPSHOTS, snapshot_subject(partition, "*"), first or sequence)

    async def _write_head(self, partition: int, head: SnapshotHead, expected: int) -> int:
        subject = snapshot_subject(partition, _HEAD)
        headers = {EXPECTED: str(expected)}
        payload = msgspec.msgpack.encode(head)
        try:
            return (await publish(self._connection, subject, payload, headers=headers)).sequence
        except ServerRefused as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            now = await self._head(partition)
            if now is not None and now[0].epoch > head.epoch:
                raise _outlived(partition) from error
            raise LedgerUnavailable(
                f"another snapshot of partition {partition} came between; this one is dropped"
            ) from error

    async def _purge(self, stream: str, subject: str, before: int) -> None:
        await self._connection.api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": before})


def _apply(image: PartitionImage, message: Stored) -> None:
    record = decode_record(message)
    image.log_bytes += len(message.payload)
    if record.previous == KNOCK:
        return
    if record.previous != image.fence:
        raise LedgerCorrupt(
            f"a hole in the log of partition {image.partition}: record {message.sequence} follows "
            f"{record.previous}, but the last one found is {image.fence}",
            partition=image.partition,
            sequence=message.sequence,
        )
    states = image.states
    for key, packed in record.states.items():
        if packed is None:
            states.pop(key, None)
        else:
            states[key] = packed
    image.fence = message.sequence
    image.epoch = record.epoch
    image.at_ms = record.at_ms
    image.checkpoint = record.checkpoint


def _chunks(states: Mapping[str, bytes]) -> Iterator[bytes]:
    """The states as MessagePack maps of about SNAPSHOT_CHUNK_BYTES each."""
    chunk: dict[str, bytes] = {}
    size = 0
    for key, packed in states.items():
        chunk[key] = packed
        size += len(key) + len(packed) + 8
        if size >= limits.SNAPSHOT_CHUNK_BYTES:
            yield msgspec.msgpack.encode(chunk)
            chunk, size = {}, 0
    if chunk:
        yield msgspec.msgpack.encode(chunk)


_decode_head: Final = msgspec.msgpack.Decoder(SnapshotHead).decode
_decode_chunk: Final = msgspec.msgpack.Decoder(dict[str, bytes]).decode


def _outlived(partition: int) -> FenceLost:
    return FenceLost(
        f"a newer owner has stored a snapshot of partition {partition}", partitions=[partition]
    )
