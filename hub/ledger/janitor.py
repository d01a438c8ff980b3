"""Frees INTAKE of what every partition has decided. One process sweeps, now and then."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hub.contract.subjects import LANES, intake_subject, log_subject
from hub.ledger.commit import decode_record
from hub.ledger.connection import Connection
from hub.ledger.reading import last_message, next_message
from hub.ledger.streams import INTAKE, LEDGER


class Sweep(Struct, frozen=True):
    """What one sweep did: everything below sequence `low` was decided; `purged` messages went."""

    low: int
    purged: int


class Janitor:
    """Purges decided messages, and never another.

    `low`, the first message that is not decided, is the least of what each partition and lane has
    after its checkpoint. Where nothing is after it, the end of the stream counts, as it was read
    *before* anything else was: what is published meanwhile lies behind that end.
    """

    def __init__(self, connection: Connection, partitions: int, *, horizon: int = 0) -> None:
        """`horizon`: how many decided sequences stay behind `low`, for replays."""
        self._connection = connection
        self._partitions = partitions
        self._horizon = horizon
        self._end = 0
        """The stream's last sequence at the sweep before.

        A deposed leader of a replicated stream may for some seconds answer that nothing is after a
        checkpoint, from a state older than the end another leader told. Taking the end of the sweep
        before, it would have to stay unnoticed for a whole interval.
        """

    async def sweep(self) -> Sweep:
        """One round. Raises LedgerUnavailable, or LedgerCorrupt for an unreadable checkpoint.

        The first sweep of a process only looks, for the reason told at `_end`.
        """
        state = await self._intake_state()
        end, self._end = self._end, state["last_seq"]
        low = end + 1
        for partition in range(self._partitions):
            checkpoint = await self._checkpoint(partition)
            for lane in LANES:
                following = await next_message(
                    self._connection,
                    INTAKE,
                    intake_subject(partition, lane),
                    checkpoint.get(lane, 0) + 1,
                )
                if following is not None:
                    low = min(low, following.sequence)
        before = low - self._horizon
        if before <= state["first_seq"]:
            return Sweep(low, 0)
        reply = await self._connection.api(f"STREAM.PURGE.{INTAKE}", {"seq": before})
        return Sweep(low, reply["purged"])

    async def _intake_state(self) -> dict[str, Any]:
        return (await self._connection.api(f"STREAM.INFO.{INTAKE}"))["state"]

    async def _checkpoint(self, partition: int) -> dict[str, int]:
        """The partition's checkpoint; nothing is decided of a partition that was never claimed."""
        message = await last_message(self._connection, LEDGER, log_subject(partition))
        return {} if message is None else decode_record(message).checkpoint
