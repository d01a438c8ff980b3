"""What every simulated world has: hosts, a tiny supervisor that replaces them, and what goes wrong.

A world says what a host is, what comes from outside and what else can happen to it. Everything
is drawn from `chance` in the order of what happens, so that a seed always gives the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hub.errors import TactError
from hub.ledger.port import Entry, FenceLost
from tests.sim.scenario import Trouble
from tests.support.model import ModelLedger, Replayed, Stored, Streams, decode_record
from tests.support.network import Faults, Network
from tests.support.virtual_loop import Process, VirtualClock, VirtualLoop

IDLE_S = 86_400.0
"""Hosts look at the clock this often when nothing is due: days of it must cost little."""


class SupervisedHost:
    """One incarnation of a host: a process with a runner in it."""

    def __init__(self, process: Process, slot: int, runner: Any) -> None:
        self.slot = slot
        self.name = process.name
        self.process = process
        self.stopping = False
        self.runner = runner
        self.loop = process.start(runner.run(), "run")

    @property
    def alive(self) -> bool:
        return self.process.alive and not self.loop.done()

    def owned(self) -> set[int]:
        partitions = self.runner.partitions.values()
        return {each.number for each in partitions if not each.lost} if self.alive else set()


class TellingLedger(ModelLedger):
    """Wakes the supervisor when a host loses something."""

    def __init__(self, world: SupervisedWorld) -> None:
        chance = random.Random(world.chance.random())
        super().__init__(world.streams, world.network, chance, world.scenario.commit_tries)
        self._world = world

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        try:
            return await super().commit(commit_id, entries, fences)
        except TactError as error:
            self._world.not_committed(error)
            raise


class SupervisedWorld(ABC):
    """One run of a scenario. `broken` collects what must never happen."""

    quiet_days: int
    """Longer than anything waits in a scenario."""
    hear_s: float
    """When the ledger has everything, the owners hear of it within this."""

    def __init__(self, loop: VirtualLoop, scenario: Any) -> None:
        self.loop = loop
        self.scenario = scenario
        self.chance = random.Random(f"{scenario.seed} world")
        self.clock = VirtualClock(loop, scenario.start_ms)
        self.streams = Streams(self.clock, scenario.partitions)
        self.faults = Faults(scenario.faults)
        self.network = Network(loop, random.Random(f"{scenario.seed} network"), self.faults)
        self.network.paused = self._pause_a_while
        self.network.killed = self._kill
        self.hosts: dict[int, SupervisedHost] = {}
        """By slot: the living, and of the dead those not yet replaced."""
        self.broken: list[str] = []
        self.happened: Counter[str] = Counter()
        self.trace: list[str] = []
        self.kicked = asyncio.Event()
        self.replayed = {number: Replayed() for number in range(scenario.partitions)}
        """By partition."""
        self.left_with: dict[int, Any] = {}
        """What the owners hold at the end, by partition."""
        self._started = 0
        self._claiming: set[int] = set()
        self._held_up = 0
        """What is still to come from outside."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams.ledger_listeners.append(self._stored)
        loop.set_exception_handler(self._on_loop_error)

    # ---- what a world says of itself -----------------------------------------------------------

    @abstractmethod
    def _start_host(self, slot: int) -> None:
        """A new incarnation of the host in `slot`."""

    @abstractmethod
    def _begin(self) -> None:
        """Start everything that comes from outside."""

    @abstractmethod
    def _left_over(self) -> list[str]:
        """What is not done yet, by the logs."""

    @abstractmethod
    def _stored(self, stored: Stored) -> None:
        """The ledger has something new."""

    @abstractmethod
    async def _own_trouble(self, trouble: Trouble, host: SupervisedHost) -> None:
        """What goes wrong in this world only."""

    # ---- the run -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything the scenario holds; then no more faults, until nothing is left to do."""
        for slot in range(self.scenario.hosts):
            self._start_host(slot)
        supervisor = self.loop.create_task(self._supervise(), name="supervisor")
        self.kicked.set()
        self._begin()
        for trouble in self.scenario.troubles:
            self._start(self._trouble(trouble), f"trouble {trouble.kind}")
        await asyncio.sleep(self.scenario.end_s + 120)
        self._heal()
        self.kicked.set()
        await self._until_quiet()
        await asyncio.sleep(self.hear_s)
        supervisor.cancel()
        for number in self.replayed:
            if (owner := self.owner(number)) is not None:
                self.left_with[number] = owner.runner.partitions[number]
        await self._stop_all()

    def _heal(self) -> None:
        """No more faults."""
        self.say("healed")
        self.faults.on = self.network.down = self.streams.full = False
        for host in self.hosts.values():
            host.process.go_on()

    async def _until_quiet(self) -> None:
        for day in range(self.quiet_days):
            if not (self._held_up or self._left_over()):
                return
            await asyncio.sleep(86_400 if day else 7_200)
        self.broken.append(f"not quiet after {self.quiet_days} days: {self._left_over()}")

    async def _stop_all(self) -> None:
        for host in self.hosts.values():
            if not host.alive:
                continue
            stopping = host.process.start(host.runner.stop(), "stop")
            _, left = await asyncio.wait([stopping, host.loop], timeout=120)
            if left or host.process.busy():
                self.broken.append(f"{host.name} does not stop: {host.process.busy()}")
                host.process.kill()

    def owner(self, number: int) -> SupervisedHost | None:
        """The host with the highest epoch: others may not have noticed yet."""
        owners = [host for host in self.hosts.values() if number in host.owned()]
        return max(owners, key=lambda h: h.runner.partitions[number].epoch, default=None)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():12.4f} {text}")

    def _on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.broken.append(f"loop: {context['message']}: {error!r}")

    def _start(self, coroutine: Any, name: str) -> None:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- what the ledger gets ------------------------------------------------------------------

    def not_committed(self, error: TactError) -> None:
        """A host has lost a partition, or does not know what became of a commit."""
        lost = isinstance(error, FenceLost)
        self.happened["fence lost" if lost else "commit given up"] += 1
        self.kicked.set()

    def _follow(self, number: int, stored: Stored) -> None:
        """Each record follows the one before it, and nothing ever goes back."""
        before, record = self.replayed[number], decode_record(stored.payload)
        wrong = [
            *(["previous"] if record.previous != before.fence else []),
            *(["epoch"] if record.epoch not in (before.epoch, before.epoch + 1) else []),
            *(["time"] if record.at_ms < before.at_ms else []),
            *(
                f"checkpoint of {source}"
                for source in sorted({*before.checkpoint, *record.checkpoint})
                if record.checkpoint.get(source, 0) < before.checkpoint.get(source, 0)
            ),
        ]
        claim = record.commit_id.startswith("claim-")
        if claim != (record.epoch == before.epoch + 1):
            wrong.append("epoch without a claim, or a claim without an epoch")
        if wrong:
            where = f"log of {number} at {stored.sequence}"
            self.broken.append(f"{where}: {', '.join(wrong)} after {before}")
        before.fence = record.previous  # said once: go on with the record as it is
        before.apply(stored.sequence, record)

    # ---- the supervisor ------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Look when something has happened, some time later, until every partition has an owner."""
        while True:
            await self.kicked.wait()
            self.kicked.clear()
            await asyncio.sleep(self.chance.choice((0.01, 0.2, 3.0)))
            if self.broken:  # a log that is wrong could be claimed in vain for days
                return
            self._look()

    def _look(self) -> None:
        for slot, host in list(self.hosts.items()):
            if not host.alive:
                self._mourn(host)
                self._start_host(slot)
        # A host that stands still may be thought dead: its partitions go to others.
        seen = [
            h for h in self.hosts.values() if not h.process.paused or self.chance.random() < 0.3
        ]
        owned = set().union(*(host.owned() for host in seen))
        ready = [host for host in seen if not host.stopping]
        for number in range(self.scenario.partitions):
            if number not in owned | self._claiming:
                if ready:
                    self._assign(self.chance.choice(ready), number)
                else:
                    self.loop.call_later(1.0, self.kicked.set)

    def _mourn(self, host: SupervisedHost) -> None:
        """A host that was not killed or stopped has failed, and may not."""
        if not host.process.alive:
            return
        error = None if host.loop.cancelled() else host.loop.exception()
        if error is not None:
            self.broken.append(f"{host.name} has failed: {error!r}")
        host.process.kill()

    def _assign(self, host: SupervisedHost, number: int) -> None:
        self._claiming.add(number)
        self.say(f"assign {number} to {host.name}")
        self._start(self._ask(host, number), "assign")

    async def _ask(self, host: SupervisedHost, number: int) -> None:
        """The call to a host; what takes too long is forgotten here, and may still come true."""
        claim = host.process.start(host.runner.assign([number]), f"assign {number}")
        await asyncio.wait([claim], timeout=self.chance.choice((1.0, 30.0)))
        if self.chance.random() < 0.3:
            claim.cancel()
        self._claiming.discard(number)
        claim.add_done_callback(self._asked)
        self.kicked.set()

    def _asked(self, claim: asyncio.Task[list[int]]) -> None:
        self.kicked.set()
        if not claim.cancelled() and (error := claim.exception()) is not None:
            self.broken.append(f"assign failed: {error!r}")

    # ---- what goes wrong -------------------------------------------------------------------------

    def _kill(self, process: Process) -> None:
        self.say(f"{process.name} is killed")
        process.kill()
        self.kicked.set()

    def _pause_a_while(self, process: Process) -> None:
        self._pause(process, self.chance.choice((0.2, 4.0, 8.0, 40.0)))

    def _pause(self, process: Process, lasts_s: float) -> None:
        self.say(f"{process.name} stands still for {lasts_s:.1f} s")
        process.pause()
        self.kicked.set()
        self.network.later(lasts_s, self._go_on, process)

    def _go_on(self, process: Process) -> None:
        self.say(f"{process.name} goes on")
        process.go_on()
        self.kicked.set()

    async def _trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at_s - self.loop.time())
        self.say(f"trouble: {trouble.kind} {trouble.which} for {trouble.lasts_s:.1f} s")
        self.happened[f"trouble: {trouble.kind}"] += 1
        host = self.hosts[trouble.which % self.scenario.hosts]
        number = trouble.which % self.scenario.partitions
        match trouble.kind:
            case "kill":
                self._kill(host.process)
            case "pause":
                self._pause(host.process, trouble.lasts_s)
            case "down":
                self.network.down = True
                await asyncio.sleep(trouble.lasts_s)
                self.network.down = False
            case "full":
                self.streams.full = True
                await asyncio.sleep(trouble.lasts_s)
                self.streams.full = False
            case "two-owners":
                if host.alive and not host.stopping and number not in self._claiming:
                    self._assign(host, number)
            case "move" | "stop":
                await self._leave(host, number, whole=trouble.kind == "stop")
            case _:
                await self._own_trouble(trouble, host)

    async def _leave(self, host: SupervisedHost, number: int, *, whole: bool) -> None:
        """Give a partition, or all, up in order."""
        if not host.alive or host.stopping:
            return
        host.stopping = whole
        giving_up = host.runner.stop() if whole else host.runner.release([number])
        leaving = host.process.start(giving_up, "leave")
        await asyncio.wait([leaving], timeout=60)
        self.kicked.set()


@contextlib.contextmanager
def changed(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Modules with other values for some names, and afterwards as they were."""
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
