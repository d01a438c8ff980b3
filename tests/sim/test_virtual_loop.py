"""The ground the simulation stands on: virtual time, processes, and the model's two streams."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import pytest

from hub import limits
from hub.ledger.port import LOG_VERSION, Entry, FenceLost, LedgerFull, LedgerUnavailable, LogRecord
from tests.support.model import ModelLedger, Streams
from tests.support.network import Faults, Network
from tests.support.virtual_loop import Hang, Process, VirtualClock, VirtualLoop, run

pytestmark = pytest.mark.sim

Scene = Callable[[VirtualLoop], Awaitable[None]]


def play(scene: Scene) -> None:
    async def main(loop: VirtualLoop) -> None:
        await scene(loop)

    run(main)


# ---- time ----------------------------------------------------------------------------------------


def test_days_pass_at_once_and_to_the_millisecond():
    began = time.monotonic()

    async def scene(loop: VirtualLoop) -> None:
        clock = VirtualClock(loop, start_ms=1_000, skew_ms=5)
        for _ in range(1000):
            await asyncio.sleep(86.4001)
        assert clock.now_ms() == 1_000 + 5 + 86_400_100
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await loop.create_future()
        assert clock.now_ms() == 1_005 + 90_000_100

    play(scene)
    assert time.monotonic() - began < 10


def test_nothing_left_to_happen_is_an_error_that_names_who_waits():
    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def scene(loop: VirtualLoop) -> None:
        await asyncio.create_task(waits_for_ever(), name="the-waiting-one")

    with pytest.raises(Hang, match=r"nothing is scheduled(.|\n)*the-waiting-one(.|\n)*waits_for"):
        play(scene)


def test_time_that_stands_still_is_an_error():
    async def scene(loop: VirtualLoop) -> None:
        def again() -> None:
            loop.call_soon(again)

        again()
        await loop.create_future()

    with pytest.raises(Hang, match="time stands still"):
        play(scene)


# ---- processes -----------------------------------------------------------------------------------


async def count(seen: list[float], loop: VirtualLoop) -> None:
    async def second() -> None:
        await asyncio.sleep(1)
        seen.append(loop.time())

    while True:
        await asyncio.create_task(second())


def test_a_paused_process_makes_no_step_and_goes_on_with_what_it_had():
    async def scene(loop: VirtualLoop) -> None:
        process, seen, others = Process(loop, "host"), [], []
        process.start(count(seen, loop), "count")
        other = asyncio.create_task(count(others, loop))
        await asyncio.sleep(2.5)
        process.pause()
        await asyncio.sleep(10)
        assert seen == [1, 2]
        process.go_on()
        await asyncio.sleep(2)
        assert seen == [1, 2, 12.5, 13.5]
        assert len(others) == 14
        other.cancel()
        process.kill()

    play(scene)


def test_a_killed_process_takes_all_it_started_with_it():
    async def scene(loop: VirtualLoop) -> None:
        process, seen = Process(loop, "host"), []
        task = process.start(count(seen, loop), "count")
        await asyncio.sleep(1.5)
        process.pause()
        process.kill()
        await asyncio.sleep(5)
        assert task.cancelled()
        assert process.busy() == []
        assert seen == [1]
        late = process.start(count(seen, loop), "late")
        await asyncio.wait([late])
        assert late.cancelled(), "nothing can be started in it any more"

    play(scene)


# ---- the ledger's model --------------------------------------------------------------------------


class World:
    def __init__(self, loop: VirtualLoop, faults: Mapping[tuple[str, int], str]) -> None:
        self.streams = Streams(VirtualClock(loop, 1_793_000_000_000), partitions=2)
        self.network = Network(loop, random.Random(5), Faults(faults))

    def ledger(self) -> ModelLedger:
        return ModelLedger(self.streams, self.network, random.Random(6), tries=4)


def entries(commit_id: str, fence: int, epoch: int = 1, number: int = 0) -> list[Entry]:
    record = LogRecord(LOG_VERSION, commit_id, epoch, fence, 0, "", {}, {"c": commit_id.encode()})
    return [
        Entry("hub.outcome.shop", b"{}"),
        Entry(f"hub.log.{number}", msgspec.msgpack.encode(record), expected=fence),
    ]


@pytest.mark.parametrize("fault", ["", "lose-request", "lose-reply", "late"])
def test_a_commit_is_stored_once_whatever_becomes_of_request_and_reply(fault: str):
    async def scene(loop: VirtualLoop) -> None:
        world = World(loop, {("commit", 1): fault})
        ledger = world.ledger()
        image = await ledger.claim(0, "a", 0)
        last = await ledger.commit("c1", entries("c1", image.fence), {0: image.fence})
        await asyncio.sleep(60)
        assert len(world.streams.ledger) == 3
        assert world.streams.ledger[last - 1].subject == "hub.log.0"

    play(scene)


def test_a_replaced_owner_is_told_which_partitions_it_lost_and_nothing_is_stored():
    async def scene(loop: VirtualLoop) -> None:
        world = World(loop, {})
        old, new = world.ledger(), world.ledger()
        fences = {n: (await old.claim(n, "old", 0)).fence for n in (0, 1)}
        image = await new.claim(1, "new", 0)
        assert image.epoch == 2
        both = [*entries("c1", fences[0]), *entries("c1", fences[1], number=1)]
        stored = len(world.streams.ledger)
        with pytest.raises(FenceLost) as lost:
            await old.commit("c1", both, fences)
        assert lost.value.partitions == (1,)
        assert len(world.streams.ledger) == stored

    play(scene)


def test_a_server_that_is_away_or_full_is_told_apart_and_given_up():
    async def scene(loop: VirtualLoop) -> None:
        world = World(loop, {})
        ledger = world.ledger()
        fence = (await ledger.claim(0, "a", 0)).fence
        world.streams.full = True
        with pytest.raises(LedgerFull):
            await ledger.commit("c1", entries("c1", fence), {0: fence})
        world.streams.full, world.network.down = False, True
        with pytest.raises(LedgerUnavailable):
            await ledger.commit("c2", entries("c2", fence), {0: fence})
        world.network.down = False
        assert await ledger.commit("c3", entries("c3", fence), {0: fence}) == 3

    play(scene)


def test_a_claim_reads_snapshot_and_log_and_keeps_what_a_purge_leaves():
    async def scene(loop: VirtualLoop) -> None:
        world = World(loop, {})
        ledger = world.ledger()
        fence = (await ledger.claim(0, "a", 50)).fence
        states = {}
        for number in range(20):
            commit_id = f"c{number}"
            fence = await ledger.commit(commit_id, entries(commit_id, fence), {0: fence})
            states = {"c": commit_id.encode()}
            if number in (5, 12):
                await ledger.snapshot(0, fence, 0, {"bulk": number}, states, epoch=1)
        await ledger.snapshot(0, 1, 0, {}, {}, epoch=1)  # of an owner that slept
        assert len(world.streams.log_after(0, 0)) == 8
        image = await ledger.claim(0, "b", 10)
        assert (image.states, image.epoch, image.at_ms) == (states, 2, 10)

    play(scene)


def test_a_body_is_gone_when_its_time_is_over_or_cannot_be_counted():
    async def scene(loop: VirtualLoop) -> None:
        world = World(loop, {})
        ledger = world.ledger()
        lifetimes = {"short": 10, "long": limits.PARKED_TTL_MAX_S, "beyond": 251_607_000_000}
        world.streams.store([Entry(f"hub.parked.0.{n}", b"x", s) for n, s in lifetimes.items()])
        assert set(await ledger.bodies(0, lifetimes)) == {"short", "long"}
        await asyncio.sleep(10)
        assert set(await ledger.bodies(0, lifetimes)) == {"long"}

    play(scene)


def test_intake_knows_a_repeat_for_two_minutes():
    async def scene(loop: VirtualLoop) -> None:
        streams = World(loop, {}).streams

        def publish() -> int:
            return streams.publish("bulk", "shop", "c", b"{}", packed=False, msg_id="shop:1")

        assert (publish(), publish()) == (1, 1)
        await asyncio.sleep(limits.DUPLICATE_WINDOW_S)
        assert publish() == 2

    play(scene)


@pytest.mark.parametrize("gap", range(1, 12))
def test_a_reader_gives_every_message_in_order_across_a_gap(gap: int):
    async def scene(loop: VirtualLoop) -> None:
        world = World(loop, {("read", gap): "gap"})
        reader = world.ledger().reader()
        await reader.open({0: {"bulk": 0}, 1: {"bulk": 0}})
        for number in range(10):
            world.streams.publish("bulk", "shop", f"c{number}", b"{}", packed=False, msg_id=None)
            if number % 3 == 0:
                await asyncio.sleep(0.002)
        newest, places = 0, []
        while newest < 10 and await reader.wait(10):
            for message in reader.take("bulk", 4):
                places.append(message.sequence)
                if message.sequence > newest:  # what comes again is skipped by the checkpoint
                    assert message.sequence == newest + 1
                    newest = message.sequence
        assert newest == 10, places
        await reader.close()

    play(scene)
