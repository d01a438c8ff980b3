"""What must hold of every log at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hub.ledger.port import LedgerCorrupt
from tests.sim.supervised import SupervisedWorld
from tests.support.model import Replayed, decode_record


def log_violations(
    world: SupervisedWorld,
    log_of: Callable[[int], int],
    held_by: Callable[[Any, Replayed], str | None] | None = None,
) -> Iterator[str]:
    """Snapshot and what is left of the log give the same as the whole log, and there is an owner.

    `log_of` gives the log of a partition; `held_by` what is wrong with what an owner holds.
    """
    for number, whole in world.replayed.items():
        log = log_of(number)
        snapshot = world.streams.snapshots.get(log)
        found = Replayed()
        if snapshot is not None:
            found = Replayed(snapshot.fence, snapshot.epoch, snapshot.at_ms,
                             dict(snapshot.checkpoint), dict(snapshot.states))  # fmt: skip
        try:
            for stored in world.streams.log_after(log, found.fence):
                found.apply(stored.sequence, decode_record(stored.payload))
        except LedgerCorrupt as error:
            yield f"partition {number} cannot be recovered: {error}"
            continue
        if found != whole:
            yield f"partition {number}: snapshot and log differ from the whole log"
        owned = world.left_with.get(number)
        if owned is None:
            yield f"partition {number} has no owner at the end"
        elif held_by is not None and (wrong := held_by(owned, whole)):
            yield f"partition {number}: {wrong}"
