"""A partition in the memory of its owner: packed conversations, checkpoint, fence and wake-ups."""

from __future__ import annotations

import heapq

from hub.contract.subjects import LANES
from hub.ledger.port import PartitionImage
from hub.policy.state import unpack_wake


class Partition:
    """What one owner knows of one partition.

    `states`, `checkpoint` and `at_ms` run ahead of the ledger by the turns that are not committed
    yet. That is safe: when a commit is refused the whole partition is dropped, never repaired.
    """

    __slots__ = (
        "at_ms",
        "checkpoint",
        "epoch",
        "fence",
        "held",
        "log_bytes",
        "lost",
        "number",
        "snapshot_bytes",
        "states",
        "turns",
        "wakes",
    )

    def __init__(self, image: PartitionImage) -> None:
        self.number = image.partition
        self.epoch = image.epoch
        self.fence = image.fence
        self.at_ms = image.at_ms
        self.checkpoint = {lane: image.checkpoint.get(lane, 0) for lane in LANES}
        self.states = image.states
        self.lost = False
        """Set when another owner has claimed it; nothing decided for it may be committed."""
        self.turns = 0
        """Turns decided in this epoch: names parked blocks uniquely."""
        self.log_bytes = image.log_bytes
        """Log written since the last snapshot."""
        self.snapshot_bytes = 0
        self.wakes = [
            (wake, key) for key, packed in self.states.items() if (wake := unpack_wake(packed).wake)
        ]
        """Heap of (wake, key). An entry is stale when the state's own wake differs."""
        self.held = len(self.wakes)
        """Conversations with held intents."""
        heapq.heapify(self.wakes)

    def copy(self) -> PartitionImage:
        """What a snapshot stores. Packed states are shared: they are never changed in place."""
        return PartitionImage(
            self.number,
            self.epoch,
            self.fence,
            self.at_ms,
            dict(self.checkpoint),
            dict(self.states),
        )

    def schedule(self, key: str, before: int, after: int) -> None:
        """A conversation's wake has changed from `before` to `after` (0: nothing held)."""
        self.held += (after != 0) - (before != 0)
        if after and after != before:
            heapq.heappush(self.wakes, (after, key))
            if len(self.wakes) > 64 + 4 * self.held:
                self._drop_stale()

    def due(self, now: int, most: int) -> list[str]:
        """Conversations to wake, earliest first; they are taken off the heap."""
        keys: dict[str, None] = {}
        while self.wakes and self.wakes[0][0] <= now and len(keys) < most:
            wake, key = heapq.heappop(self.wakes)
            if self._wake_of(key) == wake:
                keys[key] = None
        return list(keys)

    def next_wake(self) -> int | None:
        """When the next conversation may be due (stale entries included); None when none is."""
        return self.wakes[0][0] if self.wakes else None

    def _wake_of(self, key: str) -> int:
        packed = self.states.get(key)
        return 0 if packed is None else unpack_wake(packed).wake

    def _drop_stale(self) -> None:
        self.wakes = [(wake, key) for wake, key in self.wakes if self._wake_of(key) == wake]
        heapq.heapify(self.wakes)
