"""A hub in virtual time: hosts, a tiny supervisor, applications, a gateway, and what goes wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import msgspec

from actors import runner as runner_module
from actors.runner import HostRunner
from hub import limits
from hub.contract.subjects import LANES
from hub.contract.times import rfc3339
from hub.contract.types import Delivery, Event
from hub.errors import TactError
from hub.ledger.port import LedgerUnavailable
from hub.metrics import Metrics
from hub.policy.document import PolicyDocument, convert_policy
from hub.policy.policy import Policy
from hub.policy.state import unpack_wake
from tests.sim.device_rules import DeviceRules
from tests.sim.drawing import GATEWAY, Publication
from tests.sim.recording import Recorder
from tests.sim.scenario import Scenario, Trouble
from tests.sim.step_rules import StepRules
from tests.sim.supervised import (
    IDLE_S,
    SupervisedHost,
    SupervisedWorld,
    TellingLedger,
    changed,
)
from tests.sim.talk_rules import TalkRules
from tests.support.model import Stored, decode_record
from tests.support.virtual_loop import Hang, Process, VirtualClock, VirtualLoop

_deliveries = msgspec.json.Decoder(list[Delivery] | Delivery).decode
_events = msgspec.json.Decoder(list[Event] | Event).decode

REFUSALS = 1_000
"""Commits refused in a run, of which tens are usual: a host that learns nothing from it."""


class Host(SupervisedHost):
    """A host of partitions of customers, whose clock is wrong by some milliseconds."""

    def __init__(self, world: World, slot: int, name: str, skew_ms: int) -> None:
        process = Process(world.loop, name)
        clock = VirtualClock(world.loop, world.scenario.start_ms, skew_ms)
        ledger = _TellingLedger(world)
        super().__init__(process, slot, HostRunner(ledger, clock, world.policy, name, Metrics()))


class _TellingLedger(TellingLedger):
    async def bodies(self, partition: int, blocks: Iterable[str]) -> dict[str, bytes]:
        try:
            found = await super().bodies(partition, blocks)
        except TactError:
            self._world.happened["bodies given up"] += 1
            self._world.kicked.set()
            raise
        self._world.happened["bodies read back"] += len(found)
        return found


class World(SupervisedWorld):
    """Applications, a gateway and a policy, and hosts of customers between them."""

    quiet_days = 400
    hear_s = 30

    def __init__(self, loop: VirtualLoop, scenario: Scenario, recorder: Recorder) -> None:
        super().__init__(loop, scenario)
        self.documents: list[PolicyDocument] = [convert_policy(p) for p in scenario.policies]
        self.policies_used = 1
        self.policy = Policy(self.documents[0])
        self.recorder = recorder
        self.rules: list[StepRules] = []
        """What looks at every decision, once the run is over."""
        if scenario.talks is not None:
            self.rules.append(TalkRules())
        if scenario.devices is not None:
            self.rules.append(DeviceRules())
        self.acknowledged: set[int] = set()
        """INTAKE sequences whose publisher has an acknowledgement."""
        self._gateway = random.Random(f"{scenario.seed} gateway")
        self._talkers = random.Random(f"{scenario.seed} talkers")

    def _begin(self) -> None:
        for publication in self.scenario.publications:
            self._held_up += 1
            self._start(self._publish(publication), "publisher")

    async def _until_quiet(self) -> None:
        for release in self.scenario.releases:
            self._held_up += 1
            self._start(self._publish(release), "release")
        await super()._until_quiet()

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

    # ---- what the ledger gets ------------------------------------------------------------------

    def not_committed(self, error: TactError) -> None:
        super().not_committed(error)
        if self.happened["fence lost"] > REFUSALS:
            raise Hang("commits are refused, and tried again for ever") from error

    def _stored(self, stored: Stored) -> None:
        kind, which = stored.subject.split(".")[1:3]
        if kind == "log":
            record = decode_record(stored.payload)
            self.say(f"{stored.sequence} {record.commit_id} {record.epoch} {record.checkpoint}")
            self._follow(int(which), stored)
        elif kind == "out":
            found = _deliveries(stored.payload)
            for delivery in found if isinstance(found, list) else [found]:
                self._plan_receipts(delivery)
                if delivery.category:
                    self._plan_answer(delivery)
        elif kind == "event":
            happened = _events(stored.payload)
            for event in happened if isinstance(happened, list) else [happened]:
                self._plan_help(event)

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
                if self.scenario.devices is not None:
                    fields |= self.scenario.devices.failure(delivery, self.clock.now_ms())
            receipt = Publication(
                at_s, "receipt", GATEWAY, delivery.customer, msgspec.json.encode(fields)
            )
            self._held_up += 1
            self._start(self._publish(receipt), "gateway")

    def _plan_answer(self, delivery: Delivery) -> None:
        """A customer may write back, until the scenario's end."""
        talks, chance = self.scenario.talks, self._talkers
        if talks is None or self.loop.time() > self.scenario.end_s or chance.random() > 0.2:
            return
        written = talks.inbound(delivery.customer, self.clock.now_ms())
        if chance.random() < 0.8:
            written |= {"channel": delivery.channel, "account": delivery.account}
        self._say_later(written, "customer")

    def _plan_help(self, event: Event) -> None:
        """One of us may answer a customer who waits."""
        talks = self.scenario.talks
        if talks is not None and event.kind == "waiting" and self._talkers.random() < 0.3:
            fields = talks.answer(msgspec.structs.asdict(event), self.clock.now_ms())
            self._say_later(fields, "agent")

    def _say_later(self, written: dict[str, Any], who: str) -> None:
        at_s = self.loop.time() + self._talkers.choice((0.0, 0.05, 2.0, 900.0))
        payload = msgspec.json.encode(written)
        said = Publication(at_s, "inbound", GATEWAY, written["customer"], payload)
        self._held_up += 1
        self._start(self._publish(said), who)

    # ---- hosts, and what goes wrong ------------------------------------------------------------

    def _start_host(self, slot: int) -> None:
        skews = self.scenario.skews_ms
        name = f"host-{slot}-{self._started}"
        self.hosts[slot] = Host(self, slot, name, skews[self._started % len(skews)])
        self._started += 1
        self.say(f"{name} starts")

    async def _own_trouble(self, trouble: Trouble, host: SupervisedHost) -> None:
        match trouble.kind:
            case "gap":
                self.happened["gap"] += 1
                host.runner._reader.lose(LANES[trouble.which % len(LANES)])
            case "policy":
                await self._replace_policy()

    async def _replace_policy(self) -> None:
        """Another policy, told to one host after the other."""
        self.policies_used = 2
        self.policy = Policy(self.documents[1])
        for host in list(self.hosts.values()):
            if host.alive:
                applying = host.process.start(host.runner.apply_policy(self.policy), "policy")
                await asyncio.wait([applying], timeout=10)
                await asyncio.sleep(self.chance.choice((0.0, 0.3)))


def tuned(scenario: Scenario, recorder: Recorder) -> AbstractContextManager[None]:
    """The hub with the scenario's bounds, recorded turns, and fewer looks at an idle clock."""
    return changed(
        [
            *((limits, name, value) for name, value in scenario.bounds.items()),
            (runner_module, "_IDLE_S", IDLE_S),
            (runner_module, "Turn", recorder.turn_class),
            (runner_module, "Batch", recorder.batch_class),
        ]
    )
