"""The loop of a host: turn after turn over the partitions it owns, one commit in flight.

While a commit is under way the next turn is read and decided; when it is done the next is closed
and committed. So turns grow by themselves to what one commit's fixed cost is worth, and at low load
a turn is one intent. Clock, ledger and metrics come in as arguments: the same class runs in a Ray
actor and, in virtual time, in the simulation. Source: docs/architecture.md, "The turn".
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence

import structlog

from actors.batch import Batch, halves
from actors.bodies import BodyCache
from actors.orders import Orders
from actors.partition import Partition
from actors.snapshots import store_snapshot
from actors.turn import Turn, Work
from hub import limits
from hub.clock import Clock
from hub.contract.subjects import INTENT_LANES, LANES
from hub.errors import TactError
from hub.ledger.port import FenceLost, IntakeMessage, Ledger
from hub.metrics import Metrics
from hub.policy.policy import Policy

_FIRST_LANES = ("urgent", "command", "receipt", "inbound")
_BULK_LANES = ("normal", "bulk")
_COUNTED_BY_RULE = {
    "held": "tact_held_by_rule_total",
    "suppressed": "tact_suppressed_by_rule_total",
}
_IDLE_S = 1.0
"""Longest wait without a look at the clock."""


log = structlog.get_logger("tact.host")


class HostRunner:
    """Owns partitions and runs their turns until `stop()`.

    `name` makes commit ids unique among all hosts that ever were: host, incarnation.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, policy: Policy, name: str, metrics: Metrics
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self.policy = policy
        self._ledger = ledger
        self._reader = ledger.reader()
        self._clock = clock
        self._name = name
        self._metrics = metrics
        self._bodies = BodyCache(ledger)
        self._lanes: dict[str, deque[IntakeMessage]] = {lane: deque() for lane in LANES}
        self._commit: asyncio.Task[None] | None = None
        self._snapshot: asyncio.Task[None] | None = None
        self._look_up = asyncio.Event()
        """Set when the loop should look up from waiting: an order, a lost fence, or the end."""
        self._orders = Orders(self._look_up.set)
        """What is to be done between two turns, with nothing in flight."""
        self._lost = False
        """Whether a partition was lost that is not dropped yet."""
        self._stopping = False
        self._stopped = asyncio.Event()
        self._commits = 0
        self._urgent_seen_s = float("-inf")

    # ---- ownership ---------------------------------------------------------------------------

    async def assign(self, numbers: Iterable[int]) -> list[int]:
        """Claim partitions and serve them; returns those that were won.

        A partition that somebody else claims at the same moment is left to them.
        """
        claimed = []
        for number in numbers:
            owned = self.partitions.get(number)
            if owned is not None and not owned.lost:
                continue
            try:
                image = await self._ledger.claim(number, self._name, self._clock.now_ms())
            except FenceLost:
                log.info("claim-lost", partition=number)
                continue
            claimed.append(Partition(image))

        async def take() -> None:
            self.partitions.update((partition.number, partition) for partition in claimed)
            await self._reopen()

        await self._orders.give(take)
        return [partition.number for partition in claimed]

    async def release(self, numbers: Iterable[int]) -> None:
        """Stop serving partitions, after what is decided for them is committed."""

        async def drop() -> None:
            for number in numbers:
                self.partitions.pop(number, None)
            await self._reopen()

        await self._orders.give(drop)

    async def apply_policy(self, policy: Policy) -> None:
        """Decide by another policy from the next turn on."""

        async def replace() -> None:
            self.policy = policy

        await self._orders.give(replace)

    async def stop(self) -> None:
        """Finish the turn, commit it, and leave the loop."""
        self._stopping = True
        self._look_up.set()
        await self._stopped.wait()

    async def _reopen(self) -> None:
        """Read on from the checkpoints of what we own now."""
        for lane in self._lanes.values():
            lane.clear()
        await self._reader.open({n: p.checkpoint for n, p in self.partitions.items()})

    # ---- the loop ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn. Returns after `stop()`."""
        try:
            while not self._stopping:
                if self._orders:
                    await self._finish_commit()
                    await self._orders.carry_out()
                if self._drop_lost():
                    await self._finish_commit()
                    await self._reopen()
                await self._start_snapshot_if_due()
                turn = await self._gather()
                works = turn.close()
                self._remember_bodies(works)
                await self._finish_commit()
                if works:
                    version = turn.policy.version
                    self._commit = asyncio.create_task(self._commit_works(works, version))
            await self._finish_commit()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self.partitions.clear()
        self._orders.end()
        if self._snapshot is not None:
            await asyncio.wait([self._snapshot])
        await self._reader.close()
        self._stopped.set()

    async def _gather(self) -> Turn:
        """Decide what is there until the commit in flight is done, or the turn is full."""
        turn = Turn(self.partitions, self._ledger.partitions, self.policy)
        while not (turn.full or self._orders or self._lost or self._stopping):
            served = self._serve_slice(turn)
            if self._commit is None or self._commit.done():
                if not turn.empty and not served:
                    break
                if not turn.empty and self._commit is not None:
                    self._serve_lanes(turn, _FIRST_LANES, limits.TURN_URGENT)
                    break
            if served:
                await asyncio.sleep(0)  # let the network in, then look at the urgent lane again
                continue
            await self._wait_for_input(turn)
        return turn

    def _serve_slice(self, turn: Turn) -> int:
        """Decide a little: all urgent and other small lanes first, then what is due and the rest.

        Wake-ups come behind the urgent lane: a night's held campaign must not delay a code.
        """
        served = self._serve_lanes(turn, ("urgent",), limits.TURN_SLICE)
        if served:
            self._urgent_seen_s = self._clock.steady_s()
        served += self._serve_lanes(turn, _FIRST_LANES, limits.TURN_SLICE)
        bulk = min(limits.TURN_SLICE - served, self._bulk_room(turn))
        if bulk > 0:
            before = turn.load.objects
            woken = self._serve_wakes(turn, bulk)
            served += woken + self._serve_lanes(turn, _BULK_LANES, bulk - woken)
            turn.load.bulk_objects += turn.load.objects - before
        return served

    def _bulk_room(self, turn: Turn) -> int:
        """How many wake-ups, normal and bulk inputs this turn may still take."""
        if self._clock.steady_s() - self._urgent_seen_s < limits.URGENT_RECENT_S:
            return limits.TURN_BULK_BESIDE_URGENT - turn.load.bulk_objects
        return limits.TURN_INTENTS

    def _serve_lanes(self, turn: Turn, lanes: Sequence[str], most: int) -> int:
        """Decide up to about `most` objects of some lanes, in their order; returns how many."""
        served = 0
        now = self._clock.now_ms()
        for lane in lanes:
            buffered = self._lanes[lane]
            while served < most and not turn.full:
                if not buffered:
                    buffered.extend(self._reader.take(lane, limits.TURN_SLICE))
                    if not buffered:
                        break
                served += turn.receive(buffered.popleft(), now) or 1
        return served

    def _serve_wakes(self, turn: Turn, most: int) -> int:
        """Decide up to `most` conversations that are due; returns how many."""
        now = self._clock.now_ms()
        most = min(most, limits.WAKES_PER_TURN - turn.load.wakes)
        woken = 0
        partitions = list(self.partitions.values())
        first = self._commits % max(1, len(partitions))  # each is the first to be asked in its turn
        for partition in partitions[first:] + partitions[:first]:
            while woken < most and not turn.full and not partition.lost:
                due = partition.due(now, 1)
                if not due:
                    break
                turn.wake(partition, due[0], now)
                woken += 1
        return woken

    async def _wait_for_input(self, turn: Turn) -> None:
        """Until there is something to decide, a wake-up is due, or the commit is done."""
        timeout_s = _IDLE_S
        bulk_may_come = self._bulk_room(turn) > 0  # else what is buffered would wake us at once
        if bulk_may_come and turn.load.wakes < limits.WAKES_PER_TURN:
            now = self._clock.now_ms()
            for partition in self.partitions.values():
                wake = partition.next_wake()
                if wake is not None:
                    timeout_s = min(timeout_s, max(0.0, (wake - now) / 1000))
        lanes = LANES if bulk_may_come else _FIRST_LANES
        waits: list[asyncio.Future[object]] = [
            asyncio.ensure_future(self._look_up.wait()),
            asyncio.ensure_future(self._reader.wait(timeout_s, lanes)),
        ]
        if self._commit is not None and not self._commit.done():
            waits.append(self._commit)
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        self._look_up.clear()
        for wait in waits:
            if wait is not self._commit:
                wait.cancel()

    # ---- committing --------------------------------------------------------------------------

    async def _finish_commit(self) -> None:
        if self._commit is not None:
            commit, self._commit = self._commit, None
            await commit

    async def _commit_works(self, works: Sequence[Work], policy_version: str) -> None:
        """Commit what one turn decided; drop what is no longer ours and commit the rest."""
        for work in works:
            await self._fill_bodies(work)
        started_s = self._clock.steady_s()
        pending = [list(works)]
        while pending:
            some = [work for work in pending.pop() if not work.partition.lost]
            if not some:
                continue
            batch = self._batch(some, policy_version)
            if batch.too_large:
                pending.extend(map(list, reversed(halves(some))))
            elif 1 < len(some) <= limits.RECORDS_ALONE and batch.only_records:
                # Each by itself is whole for its partition, and need not be staged by the server.
                each = (self._batch([work], policy_version) for work in some)
                await asyncio.gather(*(self._commit_batch(one, started_s) for one in each))
            elif not await self._commit_batch(batch, started_s):
                pending.append(some)

    def _batch(self, works: Sequence[Work], policy_version: str) -> Batch:
        self._commits += 1
        return Batch(f"{self._name}-{self._commits}", works, policy_version)

    async def _commit_batch(self, batch: Batch, started_s: float) -> bool:
        """False: partitions of it are another's by now, and the others are to be committed."""
        try:
            last = await self._ledger.commit(batch.commit_id, batch.entries, batch.fences)
        except FenceLost as error:
            self._lose(w for w in batch.works if w.partition.number in error.partitions)
            return False
        except TactError as error:
            log.error("commit-given-up", code=error.code, advice=error.message)
            self._lose(batch.works)
        else:
            batch.committed(last)
            self._count(batch.works, started_s)
        return True

    async def _fill_bodies(self, work: Work) -> None:
        """Fetch what was parked; a partition whose bodies cannot be read is given up for now."""
        names = work.missing_blocks()
        if not names or work.partition.lost:
            return
        number = work.partition.number
        try:
            work.fill_bodies(await self._bodies.get(number, names))
        except TactError as error:
            log.error("bodies-given-up", code=error.code, advice=error.message)
            self._lose([work])

    def _lose(self, works: Iterable[Work]) -> None:
        """Their partitions are to be dropped: these objects, not what was claimed anew since."""
        for work in works:
            work.partition.lost = True
            self._metrics.add("tact_fence_lost_total")
            log.warning("fence-lost", partition=work.partition.number)
        self._lost = True
        self._look_up.set()

    def _drop_lost(self) -> bool:
        lost = [number for number, partition in self.partitions.items() if partition.lost]
        for number in lost:
            del self.partitions[number]
        self._lost = False
        return bool(lost)

    def _count(self, works: Sequence[Work], started_s: float) -> None:
        metrics, now = self._metrics, self._clock.now_ms()
        metrics.observe("tact_commit_seconds", self._clock.steady_s() - started_s)
        objects = 0
        for work in works:
            metrics.add_all(work.counted)
            for labels, count in Counter(work.told).items():
                metrics.add("tact_outcomes_total", labels, count)
            for (state, rule), count in Counter(work.blocked).items():
                if state in _COUNTED_BY_RULE:
                    metrics.add(_COUNTED_BY_RULE[state], (rule,), count)
            for (lane, source), stored in work.inputs.items():
                if lane in INTENT_LANES:
                    metrics.add("tact_intents_total", (source, lane), len(stored))
                waits = [(now - stored_ms) / 1000 for stored_ms in stored]
                metrics.observe_all("tact_decision_seconds", waits, (lane,))
                objects += len(stored)
        metrics.observe("tact_commit_intents", objects)

    def _remember_bodies(self, works: Iterable[Work]) -> None:
        for work in works:
            for index, bodies in enumerate(work.parked):
                self._bodies.add(work.partition.number, f"{work.block}-{index}", bodies)

    # ---- snapshots ---------------------------------------------------------------------------

    async def _start_snapshot_if_due(self) -> None:
        """Copy one partition whose log has grown, between two turns, and store it meanwhile."""
        if self._snapshot is not None and not self._snapshot.done():
            return
        for partition in self.partitions.values():
            if partition.log_bytes > max(limits.SNAPSHOT_LOG_BYTES, 2 * partition.snapshot_bytes):
                await self._finish_commit()  # the copy must hold nothing that is not committed
                if not partition.lost:
                    image = partition.copy()
                    partition.log_bytes = 0
                    partition.snapshot_bytes = sum(map(len, image.states.values()))
                    self._snapshot = asyncio.create_task(store_snapshot(self._ledger, image))
                return

    # ---- what others ask ---------------------------------------------------------------------

    def pending(self) -> dict[str, int]:
        """Messages not yet decided, by lane, as far as the server has told."""
        return {lane: self._reader.pending(lane) + len(self._lanes[lane]) for lane in LANES}
