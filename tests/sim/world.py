"""A hub in virtual time: hosts, a tiny supervisor, applications, a gateway, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from actors import runner as runner_module
from actors.partition import Partition
from actors.runner import HostRunner
from hub import limits
from hub.contract.subjects import LANES
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from hub.errors import TactError
from hub.ledger.port import Entry, FenceLost, LedgerUnavailable
from hub.metrics import Metrics
from hub.policy.document import PolicyDocument, convert_policy
from hub.policy.policy import Policy
from hub.policy.state import unpack_wake
from tests.sim.recording import Recorder
from tests.sim.scenario import GATEWAY, Publication, Scenario, Trouble
from tests.support.model import ModelLedger, Replayed, Stored, Streams, decode_record
from tests.support.network import Faults, Network
from tests.support.virtual_loop import Hang, Process, VirtualClock, VirtualLoop

_deliveries = msgspec.json.Decoder(list[Delivery] | Delivery).decode

REFUSALS = 1_000
"""Commits refused in a run, of which tens are usual: a host that learns nothing from it."""
IDLE_S = 86_400.0
"""Hosts look at the clock this often when nothing is due: days of it must cost little."""
QUIET_DAYS = 400
"""Longer than anything may be held in a scenario."""


class Host:
    """One incarnation of a host: a process with a runner in it."""

    def __init__(self, world: World, slot: int, name: str, skew_ms: int) -> None:
        self.slot = slot
        self.name = name
        self.process = Process(world.loop, name)
        self.stopping = False
        ledger = _TellingLedger(world)
        self.runner = HostRunner(
            ledger,
            VirtualClock(world.loop, world.scenario.start_ms, skew_ms),
            world.policy,
            name,
            Metrics(),
        )
        self.loop = self.process.start(self.runner.run(), "run")

    @property
    def alive(self) -> bool:
        return self.process.alive and not self.loop.done()

    def owned(self) -> set[int]:
        partitions = self.runner.partitions.values()
        return {each.number for each in partitions if not each.lost} if self.alive else set()


class _TellingLedger(ModelLedger):
    """Wakes the supervisor when a host loses something."""

    def __init__(self, world: World) -> None:
        chance = random.Random(world.chance.random())
        super().__init__(world.streams, world.network, chance, world.scenario.commit_tries)
        self._world = world

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        try:
            return await super().commit(commit_id, entries, fences)
        except TactError as error:
            lost = isinstance(error, FenceLost)
            self._world.happened["fence lost" if lost else "commit given up"] += 1
            if self._world.happened["fence lost"] > REFUSALS:
                raise Hang("commits are refused, and tried again for ever") from error
            self._world.kicked.set()
            raise

    async def bodies(self, partition: int, blocks: Iterable[str]) -> dict[str, bytes]:
        try:
            found = await super().bodies(partition, blocks)
        except TactError:
            self._world.happened["bodies given up"] += 1
            self._world.kicked.set()
            raise
        self._world.happened["bodies read back"] += len(found)
        return found


class World:
    """One run of a scenario. `broken` collects what must never happen."""

    def __init__(self, loop: VirtualLoop, scenario: Scenario, recorder: Recorder) -> None:
        self.loop = loop
        self.scenario = scenario
        self.chance = random.Random(f"{scenario.seed} world")
        self.clock = VirtualClock(loop, scenario.start_ms)
        self.streams = Streams(self.clock, scenario.partitions)
        self.faults = Faults(scenario.faults)
        self.network = Network(loop, random.Random(f"{scenario.seed} network"), self.faults)
        self.network.paused = self._pause_a_while
        self.network.killed = self._kill
        self.documents: list[PolicyDocument] = [convert_policy(p) for p in scenario.policies]
        self.policies_used = 1
        self.policy = Policy(self.documents[0])
        self.recorder = recorder
        self.hosts: dict[int, Host] = {}
        """By slot: the living, and of the dead those not yet replaced."""
        self.broken: list[str] = []
        self.happened: Counter[str] = Counter()
        self.trace: list[str] = []
        self.kicked = asyncio.Event()
        self.replayed = {number: Replayed() for number in range(scenario.partitions)}
        self.left_with: dict[int, Partition] = {}
        """What the owners hold at the end."""
        self.acknowledged: set[int] = set()
        """INTAKE sequences whose publisher has an acknowledgement."""
        self._started = 0
        self._claiming: set[int] = set()
        self._held_up = 0
        """Publications and receipts that are still to come."""
        self._gateway = random.Random(f"{scenario.seed} gateway")
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams.ledger_listeners.append(self._stored)
        loop.set_exception_handler(self._on_loop_error)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():12.4f} {text}")

    def _on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.broken.append(f"loop: {context['message']}: {error!r}")

    def _start(self, coroutine: Any, name: str) -> None:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the run -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything the scenario holds; then no more faults, until nothing is left to decide."""
        for slot in range(self.scenario.hosts):
            self._start_host(slot)
        supervisor = self.loop.create_task(self._supervise(), name="supervisor")
        self.kicked.set()
        for publication in self.scenario.publications:
            self._held_up += 1
            self._start(self._publish(publication), "publisher")
        for trouble in self.scenario.troubles:
            self._start(self._trouble(trouble), f"trouble {trouble.kind}")
        await asyncio.sleep(self.scenario.end_s + 120)
        self._heal()
        for release in self.scenario.releases:
            self._held_up += 1
            self._start(self._publish(release), "release")
        for day in range(QUIET_DAYS):
            if self.quiet():
                break
            await asyncio.sleep(86_400 if day else 7_200)
        else:
            self.broken.append(f"not decided after {QUIET_DAYS} days: {self._left_over()}")
        await asyncio.sleep(30)  # the ledger has it; let the owners hear of it
        supervisor.cancel()
        for number in self.replayed:
            if (owner := self.owner(number)) is not None:
                self.left_with[number] = owner.runner.partitions[number]
        await self._stop_all()

    def _heal(self) -> None:
        self.say("healed")
        self.faults.on = self.network.down = self.streams.full = False
        for host in self.hosts.values():
            host.process.go_on()
        self.kicked.set()

    async def _stop_all(self) -> None:
        for host in self.hosts.values():
            if not host.alive:
                continue
            stopping = host.process.start(host.runner.stop(), "stop")
            _, left = await asyncio.wait([stopping, host.loop], timeout=120)
            if left or host.process.busy():
                self.broken.append(f"{host.name} does not stop: {host.process.busy()}")
                host.process.kill()

    def quiet(self) -> bool:
        return not self._held_up and not self._left_over()

    def _left_over(self) -> list[str]:
        """What is published and not decided, and what is still held, by the log."""
        left = []
        ends: dict[tuple[int, str], int] = {}
        for message in self.streams.intake:
            ends[message.partition, message.lane] = message.sequence
        for (number, lane), last in ends.items():
            done = self.replayed[number].checkpoint.get(lane, 0)
            if done < last:
                left.append(f"partition {number} {lane}: decided up to {done} of {last}")
        for number, replayed in self.replayed.items():
            for key, packed in replayed.states.items():
                wake = unpack_wake(packed).wake
                if wake:
                    left.append(f"partition {number}: {key} held until {rfc3339(wake)}")
        return left

    def owner(self, number: int) -> Host | None:
        """The host with the highest epoch: others may not have noticed yet."""
        owners = [host for host in self.hosts.values() if number in host.owned()]
        return max(owners, key=lambda h: h.runner.partitions[number].epoch, default=None)

    # ---- what the ledger gets ------------------------------------------------------------------

    def _stored(self, stored: Stored) -> None:
        kind, which = stored.subject.split(".")[1:3]
        if kind == "log":
            record = decode_record(stored.payload)
            self.say(f"{stored.sequence} {record.commit_id} {record.epoch} {record.checkpoint}")
            self._check_chain(int(which), stored.sequence, record)
        elif kind == "out":
            found = _deliveries(stored.payload)
            for delivery in found if isinstance(found, list) else [found]:
                self._plan_receipts(delivery)

    def _check_chain(self, number: int, sequence: int, record: Any) -> None:
        """Each record follows the one before it, and nothing ever goes back."""
        before = self.replayed[number]
        wrong = [
            *(["previous"] if record.previous != before.fence else []),
            *(["epoch"] if record.epoch not in (before.epoch, before.epoch + 1) else []),
            *(["time"] if record.at_ms < before.at_ms else []),
            *(
                f"checkpoint of {lane}"
                for lane in LANES
                if record.checkpoint.get(lane, 0) < before.checkpoint.get(lane, 0)
            ),
        ]
        claim = record.commit_id.startswith("claim-")
        if claim != (record.epoch == before.epoch + 1):
            wrong.append("epoch without a claim, or a claim without an epoch")
        if wrong:
            self.broken.append(f"log of {number} at {sequence}: {', '.join(wrong)} after {before}")
        before.fence = record.previous  # said once: go on with the record as it is
        before.apply(sequence, record)

    # ---- the world outside -----------------------------------------------------------------------

    async def _publish(self, publication: Publication) -> None:
        await asyncio.sleep(publication.at_s - self.loop.time())
        for _ in range(2 if publication.again else 1):
            await self._publish_once(publication)
            if publication.again:
                await asyncio.sleep(self.chance.choice((0.01, 1.0, 500.0)))
        self._held_up -= 1

    async def _publish_once(self, publication: Publication) -> None:
        """Until it is acknowledged; the reply may be lost, and then it comes twice."""
        send = partial(self.streams.publish, *publication[1:7])
        while True:
            try:
                sequence = await self.network.request("publish", send, timeout_s=2.0)
            except LedgerUnavailable:
                await asyncio.sleep(self.chance.choice((0.01, 0.5, 3.0)))
                continue
            self.acknowledged.add(sequence)
            return

    def _plan_receipts(self, delivery: Delivery) -> None:
        """What the provider says of a delivery: nothing, or words in any order, some twice."""
        chance = self._gateway
        words = chance.choice(((), (), ("sent", "delivered"), ("delivered", "sent"), ("failed",),
                               ("unknown", "delivered", "read"), ("failed", "failed"), ("unknown",),
                               ("sent", "failed"), ("failed", "delivered")))  # fmt: skip
        at_s = self.loop.time()
        for word in words:
            at_s += chance.choice((0.0, 0.05, 1.0, 40.0, 4000.0))
            fields = {"delivery": delivery.id, "customer": delivery.customer, "status": word}
            fields["at"] = rfc3339(self.clock.now_ms())
            if word == "failed":
                fields |= {"class": "dead_address", "code": "81013"}
            receipt = Publication(
                at_s, "receipt", GATEWAY, delivery.customer, msgspec.json.encode(fields)
            )
            self._held_up += 1
            self._start(self._publish(receipt), "gateway")

    # ---- hosts and their supervisor ------------------------------------------------------------

    def _start_host(self, slot: int) -> None:
        skews = self.scenario.skews_ms
        name = f"host-{slot}-{self._started}"
        self.hosts[slot] = Host(self, slot, name, skews[self._started % len(skews)])
        self._started += 1
        self.say(f"{name} starts")

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

    def _mourn(self, host: Host) -> None:
        """A host that was not killed or stopped has failed, and may not."""
        if not host.process.alive:
            return
        error = None if host.loop.cancelled() else host.loop.exception()
        if error is not None:
            self.broken.append(f"{host.name} has failed: {error!r}")
        host.process.kill()

    def _assign(self, host: Host, number: int) -> None:
        self._claiming.add(number)
        self.say(f"assign {number} to {host.name}")
        self._start(self._ask(host, number), "assign")

    async def _ask(self, host: Host, number: int) -> None:
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
            case "gap":
                self.happened["gap"] += 1
                host.runner._reader.lose(LANES[trouble.which % len(LANES)])
            case "two-owners":
                if host.alive and not host.stopping and number not in self._claiming:
                    self._assign(host, number)
            case "policy":
                await self._replace_policy()
            case "move" | "stop":
                await self._leave(host, number, whole=trouble.kind == "stop")

    async def _replace_policy(self) -> None:
        """Another policy, told to one host after the other."""
        self.policies_used = 2
        self.policy = Policy(self.documents[1])
        for host in list(self.hosts.values()):
            if host.alive:
                applying = host.process.start(host.runner.apply_policy(self.policy), "policy")
                await asyncio.wait([applying], timeout=10)
                await asyncio.sleep(self.chance.choice((0.0, 0.3)))

    async def _leave(self, host: Host, number: int, *, whole: bool) -> None:
        """Give a partition, or all, up in order."""
        if not host.alive or host.stopping:
            return
        host.stopping = whole
        giving_up = host.runner.stop() if whole else host.runner.release([number])
        leaving = host.process.start(giving_up, "leave")
        await asyncio.wait([leaving], timeout=60)
        self.kicked.set()


@contextlib.contextmanager
def tuned(scenario: Scenario, recorder: Recorder) -> Iterator[None]:
    """The hub with the scenario's bounds, recorded turns, and fewer looks at an idle clock."""
    changes: list[tuple[Any, str, Any]] = [
        *((limits, name, value) for name, value in scenario.bounds.items()),
        (runner_module, "_IDLE_S", IDLE_S),
        (runner_module, "Turn", recorder.turn_class),
        (runner_module, "Batch", recorder.batch_class),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
