"""Storing the copy of a partition, whoever owns it: of conversations or of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog

from hub.errors import TactError
from hub.ledger.port import PartitionImage

log = structlog.get_logger("tact.host")


class SnapshotStore(Protocol):
    """The part of a ledger that keeps copies; see `hub.ledger.port.Ledger.snapshot`."""

    async def snapshot(
        self,
        partition: int,
        fence: int,
        at_ms: int,
        checkpoint: Mapping[str, int],
        states: Mapping[str, bytes],
        epoch: int,
    ) -> None: ...


async def store_snapshot(ledger: SnapshotStore, image: PartitionImage) -> None:
    """Store it. Failed, it is only logged: the log is whole, and the next recovery is longer."""
    try:
        await ledger.snapshot(
            image.partition,
            image.fence,
            image.at_ms,
            image.checkpoint,
            image.states,
            image.epoch,
        )
    except TactError as error:
        log.warning("snapshot-failed", partition=image.partition, code=error.code)
