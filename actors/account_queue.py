"""What waits to leave through one account: urgent first, one conversation's in the order decided.

A conversation has at most one delivery on its way: the next follows when the provider has answered
the one before. A later, more urgent delivery lifts those of its conversation that wait before it
(they must leave first), so that it never waits behind another customer's campaign.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from actors.account_state import Attempt
from channels.provider import Prepared
from hub.contract.types import Delivery

Ready = tuple[int, int, int, int, str]
"""(-priority, LEDGER sequence, place in the message, stamp, conversation): what leaves first is the
least. Flat, for a heap compares its entries often."""


class Entry:
    """One attempt that waits or is on its way, with what is known of its body."""

    __slots__ = ("attempt", "delivery", "fetching", "id", "left_ms", "prepared", "quota_ms")

    def __init__(self, delivery_id: str, attempt: Attempt, delivery: Delivery | None) -> None:
        self.id = delivery_id
        self.attempt = attempt
        self.delivery = delivery
        """None when it must be read from the ledger again."""
        self.prepared: Prepared | None = None
        self.fetching = False
        self.quota_ms = 0.0
        """At which moment the durable limits have counted it."""
        self.left_ms = 0.0
        """When it was put on the wire; 0 before."""

    @property
    def order(self) -> tuple[int, int]:
        return self.attempt.sequence, self.attempt.place


class _Line:
    """One conversation's deliveries, in the order decided."""

    __slots__ = ("busy", "entries", "priority", "ready_ms", "stamp")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.busy = False
        """The first is on its way, or its body is being fetched."""
        self.ready_ms = 0.0
        self.stamp = 0
        """The heap's entry that counts (0: none); all others of this conversation are stale."""
        self.priority = 0
        """Of the most urgent, when it was placed: those before it leave first."""

    def most_urgent(self) -> int:
        entries = self.entries
        if len(entries) == 1:
            return entries[0].attempt.priority
        return max(entry.attempt.priority for entry in entries)


class Queue:
    """All lines of one account."""

    __slots__ = ("_later", "_lines", "_ready", "_stamps", "by_id")

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._ready: list[Ready] = []
        self._later: list[tuple[float, str, int]] = []
        """(not before, conversation, stamp)."""
        self._stamps = 0
        self.by_id: dict[str, Entry] = {}

    @property
    def size(self) -> int:
        """How many wait."""
        return len(self.by_id)

    def add(self, entry: Entry) -> None:
        """Behind what its conversation has waiting; entries that come back keep their place."""
        line = self._lines.get(entry.attempt.customer)
        if line is None:
            line = self._lines[entry.attempt.customer] = _Line()
        self.by_id[entry.id] = entry
        entries = line.entries
        if entries and entry.order < entries[-1].order:
            later = [one for one in entries if one.order > entry.order]
            entries.insert(len(entries) - len(later), entry)
        else:
            entries.append(entry)
            if line.stamp and entry.attempt.priority <= line.priority:
                return  # its conversation's turn stays where it is
        self._place(entry.attempt.customer, line)

    def next(self, now: float) -> Entry | None:
        """The first of the conversation whose turn it is; it is not taken off. None: none may."""
        while self._later and self._later[0][0] <= now:
            _, customer, stamp = heapq.heappop(self._later)
            line = self._lines.get(customer)
            if line is not None and line.stamp == stamp:
                line.ready_ms = 0.0
                self._place(customer, line)
        ready, lines = self._ready, self._lines
        while ready:
            _, _, _, stamp, customer = ready[0]
            line = lines.get(customer)
            if line is not None and line.stamp == stamp:
                return line.entries[0]
            heapq.heappop(ready)
        return None

    def next_ms(self) -> float:
        """When a conversation that waits for a moment may go; infinite when none does."""
        while self._later:
            at, customer, stamp = self._later[0]
            line = self._lines.get(customer)
            if line is not None and line.stamp == stamp:
                return at
            heapq.heappop(self._later)
        return float("inf")

    def take(self, entry: Entry) -> None:
        """It is on its way now: its conversation's others wait for its end."""
        line = self._lines[entry.attempt.customer]
        line.entries.remove(entry)
        line.busy = True
        line.stamp = 0
        del self.by_id[entry.id]

    def hold(self, entry: Entry) -> None:
        """Its body is being fetched: its conversation is left alone meanwhile."""
        line = self._lines[entry.attempt.customer]
        line.busy = True
        line.stamp = 0

    def postpone(self, entry: Entry, until_ms: float) -> None:
        """Its conversation is not asked again before."""
        line = self._lines[entry.attempt.customer]
        line.ready_ms = until_ms
        self._place(entry.attempt.customer, line)

    def free(self, customer: str, ready_ms: float = 0.0) -> None:
        """What was on its way, or fetched, has come to an end, or back into its line."""
        line = self._lines.get(customer)
        if line is None:
            return
        line.busy = False
        line.ready_ms = max(line.ready_ms, ready_ms)
        self._place(customer, line)

    def drop(self, entry: Entry) -> None:
        """It will not leave."""
        line = self._lines[entry.attempt.customer]
        line.entries.remove(entry)
        del self.by_id[entry.id]
        self._place(entry.attempt.customer, line)

    def of(self, customer: str) -> list[Entry]:
        """What waits of one conversation, in the order decided."""
        line = self._lines.get(customer)
        return [] if line is None else list(line.entries)

    def idle(self) -> list[Entry]:
        """What waits in conversations that have nothing on its way, in the order decided."""
        idle = (line for line in self._lines.values() if not line.busy)
        return sorted((e for line in idle for e in line.entries), key=lambda entry: entry.order)

    def __iter__(self) -> Iterator[Entry]:
        """Everything that waits, in no order."""
        yield from self.by_id.values()

    def _place(self, customer: str, line: _Line) -> None:
        line.stamp = 0
        if line.busy:
            return
        if not line.entries:
            del self._lines[customer]
            return
        self._stamps += 1
        line.stamp = stamp = self._stamps
        line.priority = line.most_urgent()
        if line.ready_ms:
            heapq.heappush(self._later, (line.ready_ms, customer, stamp))
        else:
            first = line.entries[0].attempt
            place = (-line.priority, first.sequence, first.place)
            heapq.heappush(self._ready, (*place, stamp, customer))
        if len(self._ready) + len(self._later) > 64 + 4 * len(self._lines):
            self._compact()

    def _compact(self) -> None:
        """Drop stale entries of the heaps."""
        fresh = self._fresh
        self._ready = [entry for entry in self._ready if fresh(entry[4], entry[3])]
        self._later = [entry for entry in self._later if fresh(entry[1], entry[2])]
        heapq.heapify(self._ready)
        heapq.heapify(self._later)

    def _fresh(self, customer: str, stamp: int) -> bool:
        line = self._lines.get(customer)
        return line is not None and line.stamp == stamp
