"""The ledger on a real NATS server: the parts of this package behind `hub.ledger.port.Ledger`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from hub import limits
from hub.contract.subjects import intake_subject, parked_subject
from hub.ledger.commit import BatchWriter
from hub.ledger.connection import Connection
from hub.ledger.intake import StreamReader
from hub.ledger.lanes import INTAKE_LANES, Source
from hub.ledger.port import Entry, PartitionImage
from hub.ledger.publishing import Ack, publish
from hub.ledger.reading import Stored, last_messages, read_subject
from hub.ledger.recovery import Recovery
from hub.ledger.streams import INTAKE, LEDGER

_PENDING: Final = "Nats-Num-Pending"


class JetStreamLedger:
    """One owner's view of the streams, over one connection."""

    def __init__(
        self,
        connection: Connection,
        partitions: int = limits.PARTITIONS,
        *,
        chance: random.Random | None = None,
    ) -> None:
        self.partitions = partitions
        self.connection = connection
        self._chance = chance or random.Random()
        self._writer = BatchWriter(connection, chance=self._chance)
        self._recovery = Recovery(connection, self._writer, chance=self._chance)

    @property
    def full(self) -> bool:
        """The last commit found no room in the stream or on the disk."""
        return self._writer.full

    @property
    def replies(self) -> Counter[str]:
        """Tries to commit by the name of their outcome."""
        return self._writer.replies

    async def claim(self, partition: int, owner: str, now_ms: int) -> PartitionImage:
        return await self._recovery.claim(partition, owner, now_ms)

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        return await self._writer.commit(commit_id, entries, fences)

    async def bodies(self, partition: int, blocks: Iterable[str]) -> dict[str, bytes]:
        subjects = {parked_subject(partition, block): block for block in blocks}
        found = await last_messages(self.connection, LEDGER, list(subjects))
        return {subjects[subject]: message.payload for subject, message in found.items()}

    async def snapshot(
        self,
        partition: int,
        fence: int,
        at_ms: int,
        checkpoint: Mapping[str, int],
        states: Mapping[str, bytes],
        epoch: int,
    ) -> None:
        await self._recovery.snapshot(partition, fence, at_ms, checkpoint, states, epoch)

    def reader(self, source: Source = INTAKE_LANES) -> StreamReader:
        return StreamReader(self.connection, self.partitions, source=source, chance=self._chance)

    # ---- beyond the protocol -----------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        msg_id: str | None = None,
    ) -> Ack:
        """One acknowledged publish; see `hub.ledger.publishing.publish`."""
        return await publish(self.connection, subject, payload, headers=headers, msg_id=msg_id)

    def read_subject(
        self, stream: str, subject: str, most: int, *, after: int = 0
    ) -> AsyncGenerator[Stored, None]:
        """Stored messages in order; see `hub.ledger.reading.read_subject`."""
        return read_subject(self.connection, stream, subject, most, after=after)

    async def lag(self, positions: Mapping[int, Mapping[str, int]]) -> dict[tuple[int, str], int]:
        """Messages stored after each partition's position, by (partition, lane). For metrics."""
        return {
            (partition, lane): await self._stored_after(partition, lane, sequence)
            for partition, lanes in positions.items()
            for lane, sequence in lanes.items()
        }

    async def _stored_after(self, partition: int, lane: str, sequence: int) -> int:
        """From the first such message, which says how many follow it (ADR-31)."""
        request = {
            "seq": sequence + 1,
            "next_by_subj": intake_subject(partition, lane),
            "batch": 1,
        }
        reply = await self.connection.request(
            f"$JS.API.DIRECT.GET.{INTAKE}", msgspec.json.encode(request)
        )
        headers = reply.headers or {}
        return 0 if "Status" in headers else int(headers.get(_PENDING, 0)) + 1
