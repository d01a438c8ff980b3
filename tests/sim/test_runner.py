"""A host's loop in virtual time, one situation at a time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
import structlog

from actors import runner as runner_module
from actors.runner import HostRunner
from hub import limits
from hub.contract.times import parse_rfc3339
from hub.ledger.port import Entry, LedgerUnavailable
from hub.metrics import Metrics
from hub.policy.document import parse_policy
from hub.policy.policy import Policy
from tests.support.model import ModelLedger, Streams, decode_record
from tests.support.network import Faults, Network
from tests.support.virtual_loop import Process, VirtualClock, VirtualLoop, run

pytestmark = pytest.mark.sim

START = parse_rfc3339("2026-10-26T00:00:00Z")
EIGHT_S = 8 * 3600.0
POLICY = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["sms"]
[categories.otp]
route = ["sms"]
bypass = ["quiet"]
[[quiet]]
name = "night"
from = "21:00"
to = "08:00"
on = "hold"
"""


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setattr(runner_module, "_IDLE_S", 3600.0)
    yield
    structlog.reset_defaults()


class Hub:
    """A server, and hosts that own what they are given."""

    def __init__(self, loop: VirtualLoop, partitions: int = 1) -> None:
        self.loop = loop
        self.clock = VirtualClock(loop, START)
        self.streams = Streams(self.clock, partitions)
        self.network = Network(loop, random.Random(1), Faults({}))
        self.policy = Policy(parse_policy(POLICY))
        self._sequence = 0

    def host(self, name: str, ledger: ModelLedger | None = None) -> tuple[HostRunner, Process]:
        ledger = ledger or self.ledger()
        host = HostRunner(ledger, self.clock, self.policy, name, Metrics())
        process = Process(self.loop, name)
        self.running = process.start(host.run(), "run")
        return host, process

    def ledger(self) -> ModelLedger:
        return ModelLedger(self.streams, self.network, random.Random(2), tries=3)

    def publish(self, lane: str, category: str, key: str = "c", **fields: Any) -> str:
        self._sequence += 1
        name = f"i{self._sequence}"
        given = {"id": name, "app": "shop", "customer": key, "category": category}
        given |= {"content": {"text": name}, "to": {"sms": "+1"}} | fields
        payload = msgspec.json.encode(given)
        self.streams.publish(lane, "shop", key, payload, packed=False, msg_id=None)
        return name

    def deliveries(self) -> list[tuple[str, int]]:
        """Intents handed out in the order of the ledger, and when they were stored."""
        found = []
        for stored in self.streams.ledger:
            if stored.subject.startswith("hub.out."):
                objects = msgspec.json.decode(stored.payload)
                several = objects if isinstance(objects, list) else [objects]
                found += [(each["intent"], stored.stored_ms) for each in several]
        return found


async def until(condition: Callable[[], object]) -> None:
    """Look every tenth of a virtual millisecond, for a second."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.0001)
    raise AssertionError("it never came true")


Play = Callable[[Hub], Awaitable[None]]


def play(scene: Play, partitions: int = 1) -> None:
    async def main(loop: VirtualLoop) -> None:
        await scene(Hub(loop, partitions))

    run(main)


def test_a_lost_partition_is_let_go_of_though_nothing_else_happens():
    """With a wake-up due in it and nothing to decide, the loop once spun and never dropped it."""

    async def scene(hub: Hub) -> None:
        first, _ = hub.host("first")
        second, _ = hub.host("second")
        hub.publish("normal", "ad")
        await first.assign([0])
        await asyncio.sleep(1)
        await second.assign([0])
        await asyncio.sleep(EIGHT_S + 1)
        assert first.partitions == {}
        assert [name for name, _ in hub.deliveries()] == ["i1"]

    play(scene)


def test_a_code_does_not_wait_behind_a_night_s_campaign(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "WAKES_PER_TURN", 10)
    monkeypatch.setattr(limits, "TURN_SLICE", 4)

    async def scene(hub: Hub) -> None:
        host, _ = hub.host("host")
        await host.assign([0])
        for number in range(300):
            hub.publish("bulk", "ad", key=f"c{number}")
        await asyncio.sleep(EIGHT_S - hub.loop.time() - 0.001)
        assert hub.deliveries() == []
        await asyncio.sleep(0.005)  # the first of them are under way
        code = hub.publish("urgent", "otp", key="c7")
        await asyncio.sleep(10)
        order = [name for name, _ in hub.deliveries()]
        assert len(order) == 301
        assert order.index(code) < 100, "at most the turns that were under way go first"

    play(scene)


def test_a_turn_wakes_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "WAKES_PER_TURN", 10)

    async def scene(hub: Hub) -> None:
        host, _ = hub.host("host")
        await host.assign([0, 1])
        for number in range(60):
            hub.publish("bulk", "ad", key=f"c{number}")
        await asyncio.sleep(EIGHT_S + 10)
        assert len(hub.deliveries()) == 60
        logs = [s for s in hub.streams.ledger if s.subject.startswith("hub.log.")]
        at_eight = [decode_record(s.payload) for s in logs if s.stored_ms >= START + 8 * 3_600_000]
        woken: dict[str, int] = {}
        for record in at_eight:
            woken[record.commit_id] = woken.get(record.commit_id, 0) + len(record.states)
        assert max(woken.values()) <= 10
        assert sum(woken.values()) == 60

    play(scene, partitions=2)


class _NoBodies(ModelLedger):
    """Cannot be read for a while."""

    away = True

    async def bodies(self, partition: int, blocks: Iterable[str]) -> dict[str, bytes]:
        if self.away:
            raise LedgerUnavailable("not now")
        return await super().bodies(partition, blocks)


def test_bodies_that_cannot_be_read_cost_the_partition_and_not_the_host():
    async def scene(hub: Hub) -> None:
        first, process = hub.host("first")
        await first.assign([0])
        hub.publish("normal", "ad")
        await asyncio.sleep(1)
        process.kill()
        ledger = _NoBodies(hub.streams, hub.network, random.Random(3), tries=3)
        second, _ = hub.host("second", ledger)
        await second.assign([0])
        await asyncio.sleep(EIGHT_S)
        assert second.partitions == {}
        assert hub.deliveries() == []
        assert not hub.running.done()
        ledger.away = False
        assert await second.assign([0]) == [0]
        await asyncio.sleep(1)
        assert [name for name, _ in hub.deliveries()] == ["i1"]

    play(scene)


def test_a_caller_that_gives_up_does_not_end_the_host():
    async def scene(hub: Hub) -> None:
        host, process = hub.host("host")
        call = process.start(host.assign([0]), "assign")
        await until(lambda: host._orders)
        call.cancel()
        await asyncio.sleep(1)
        assert set(host.partitions) == {0}, "what it asked for is done nevertheless"
        hub.publish("urgent", "otp")
        await asyncio.sleep(1)
        assert [name for name, _ in hub.deliveries()] == ["i1"]

    play(scene)


def test_an_order_after_the_end_is_refused():
    async def scene(hub: Hub) -> None:
        host, process = hub.host("host")
        await host.stop()
        late = process.start(host.assign([0]), "assign")
        await asyncio.wait([late], timeout=60)
        assert late.cancelled()

    play(scene)


def test_stop_commits_what_is_decided():
    async def scene(hub: Hub) -> None:
        host, _ = hub.host("host")
        await host.assign([0])
        hub.publish("urgent", "otp")
        await until(lambda: host._reader.buffered("urgent"))
        await asyncio.sleep(0.0001)  # it is being decided; nothing can be stored yet
        assert hub.deliveries() == []
        await host.stop()
        assert [name for name, _ in hub.deliveries()] == ["i1"]
        assert hub.running.done()

    play(scene)


def test_a_batch_with_a_lost_partition_is_committed_without_it():
    """Two partitions in one turn; one was claimed by another host meanwhile."""

    async def scene(hub: Hub) -> None:
        first, process = hub.host("first")
        await first.assign([0, 1])
        process.pause()
        second, _ = hub.host("second")
        await second.assign([0])
        keys = ["c0", "c1", "c2", "c3", "c4", "c5"]
        for key in keys:
            hub.publish("urgent", "otp", key=key)
        await asyncio.sleep(2)
        process.go_on()
        await asyncio.sleep(2)
        assert (set(first.partitions), set(second.partitions)) == ({1}, {0})
        assert sorted(name for name, _ in hub.deliveries()) == [f"i{n}" for n in range(1, 7)]

    play(scene, partitions=2)


def test_a_batch_too_large_is_committed_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "BATCH_MESSAGES", 3)
    sizes: list[int] = []
    store = Streams.store

    def sized(self: Streams, entries: list[Entry]) -> int:
        sizes.append(len(entries))
        return store(self, entries)

    monkeypatch.setattr(Streams, "store", sized)

    async def scene(hub: Hub) -> None:
        host, process = hub.host("host")
        await host.assign([0, 1, 2, 3])
        process.pause()
        for number in range(12):
            hub.publish("normal", "otp", key=f"c{number}")
        await asyncio.sleep(1)
        sizes.clear()
        process.go_on()
        await asyncio.sleep(1)
        assert len(hub.deliveries()) == 12
        assert sizes == [3, 3, 3, 3], "a delivery array, an outcome array and a log record each"

    play(scene, partitions=4)
