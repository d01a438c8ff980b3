"""Grouping, bounds and retries of the client's publisher, against a server made of futures."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from itertools import chain

import pytest

from hub import limits
from hub.errors import TactError
from hub.ledger.port import LedgerFull, LedgerUnavailable, ServerRefused
from hub.ledger.publisher import Outgoing, Publisher
from hub.ledger.publishing import Ack


class Clock:
    """Stands still until told."""

    now_s = 0.0

    def steady_s(self) -> float:
        return self.now_s

    def now_ms(self) -> int:
        return int(self.now_s * 1000)


class Server:
    """Keeps what was sent; every try is answered by the test."""

    def __init__(self) -> None:
        self.tries: list[tuple[str, bytes, str]] = []
        self.open: list[asyncio.Future[Ack]] = []
        self.sequence = 0

    async def send(self, subject: str, payload: bytes, message_id: str) -> Ack:
        self.tries.append((subject, payload, message_id))
        answer = asyncio.get_running_loop().create_future()
        self.open.append(answer)
        return await answer

    async def answer(self, with_: Ack | TactError | None = None) -> None:
        """Answer the oldest open try, and let everything that follows happen."""
        await settled()
        answer = self.open.pop(0)
        if isinstance(with_, TactError):
            answer.set_exception(with_)
        else:
            self.sequence += 1
            answer.set_result(with_ or Ack(self.sequence))
        await settled()

    @property
    def objects(self) -> list[list[int]]:
        """The numbers in each message sent."""
        decoded = [json.loads(payload) for _, payload, _ in self.tries]
        return [each if isinstance(each, list) else [each] for each in decoded]


async def settled() -> None:
    """Until all tasks wait for something outside."""
    for _ in range(10):
        await asyncio.sleep(0)


class Bench:
    def __init__(self) -> None:
        self.server = Server()
        self.clock = Clock()
        self.publisher = Publisher(self.server.send, clock=self.clock, chance=random.Random(1))
        self.results: dict[int, int | TactError] = {}

    async def put(
        self,
        number: int,
        group: str = "a",
        size: int = 0,
        then: Callable[[], object] | None = None,
        alone: bool = False,
    ) -> None:
        """Put an object; `then` is called when it is settled."""

        def settle(result: int | TactError) -> None:
            self.results[number] = result
            if then is not None:
                then()

        await self.publisher.room()
        payload = str(number).encode() + b" " * size
        self.publisher.put(group, Outgoing(f"s.{group}", payload, f"id-{number}", settle, alone))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(limits, "BACKOFF_FIRST_MS", 0)  # tries follow at once
    return Bench()


async def test_one_object_goes_at_once_and_as_itself(bench: Bench) -> None:
    await bench.put(7)
    await bench.server.answer(Ack(42))
    assert bench.server.tries == [("s.a", b"7", "id-7")]
    assert bench.results == {7: 42}
    assert bench.publisher.unsettled == 0


async def test_what_comes_during_a_flight_travels_together(bench: Bench) -> None:
    await bench.put(1)
    await settled()
    for number in (2, 3, 4):
        await bench.put(number)
    await settled()
    assert bench.server.objects == [[1]]
    await bench.server.answer()
    await bench.server.answer()
    assert bench.server.objects == [[1], [2, 3, 4]]
    assert bench.results == {1: 1, 2: 2, 3: 2, 4: 2}


async def test_what_is_put_in_one_turn_of_the_loop_travels_together(bench: Bench) -> None:
    for number in range(limits.ARRAY_OBJECTS + 1):
        await bench.put(number)
    await bench.server.answer()
    await bench.server.answer()
    assert bench.server.objects == [list(range(limits.ARRAY_OBJECTS)), [limits.ARRAY_OBJECTS]]


async def test_one_that_is_to_be_alone_keeps_its_place(bench: Bench) -> None:
    for number in range(5):
        await bench.put(number, alone=number == 2)
    for _ in range(3):
        await bench.server.answer()
    assert bench.server.objects == [[0, 1], [2], [3, 4]]


async def test_groups_do_not_wait_for_each_other(bench: Bench) -> None:
    await bench.put(1, "a")
    await bench.put(2, "b")
    await bench.put(3, "a")
    await settled()
    assert bench.server.objects == [[1, 3], [2]]


async def test_a_message_stays_within_the_server_s_size(bench: Bench) -> None:
    for number in range(40):
        await bench.put(number, size=limits.MESSAGE_OBJECT_BYTES - 2)
    while bench.publisher.unsettled:
        await bench.server.answer()
    sizes = [len(payload) for _, payload, _ in bench.server.tries]
    assert max(sizes) <= limits.MESSAGE_BYTES < max(sizes) + limits.MESSAGE_OBJECT_BYTES
    assert [*chain(*bench.server.objects)] == list(range(40))


async def test_a_retry_is_the_same_message_under_the_same_id(bench: Bench) -> None:
    await bench.put(1)
    await bench.put(2)
    await bench.server.answer(LedgerUnavailable("away"))
    await bench.put(3)  # must not join what may already be stored
    await bench.server.answer(ServerRefused("in flight", outcome="duplicate-in-flight"))
    await bench.server.answer(Ack(5, duplicate=True))
    await bench.server.answer(Ack(6))
    first, second, third, last = bench.server.tries
    assert first == second == third
    assert first[2].startswith("array/")
    assert last == ("s.a", b"3", "id-3")
    assert bench.results == {1: 5, 2: 5, 3: 6}


async def test_ids_of_arrays_differ_by_their_objects(bench: Bench) -> None:
    for numbers in ((1, 2), (2, 1), (1, 2, 3)):
        for number in numbers:
            await bench.put(number)
        await bench.server.answer()
    assert len({message_id for _, _, message_id in bench.server.tries}) == 3


async def test_tries_end_with_the_patience(bench: Bench) -> None:
    await bench.put(1)
    bench.clock.now_s = 1.0
    await bench.server.answer(LedgerUnavailable("away"))
    bench.clock.now_s = limits.PUBLISH_PATIENCE_S + 2.0
    await bench.server.answer(LedgerUnavailable("still away"))
    assert str(bench.results[1]) == "still away"
    assert len(bench.server.tries) == 2


@pytest.mark.parametrize("error", [LedgerFull("full"), ServerRefused("no", outcome="ttl-off")])
async def test_a_refusal_is_told_at_once_and_the_next_goes_on(
    bench: Bench, error: TactError
) -> None:
    await bench.put(1)
    await settled()
    await bench.put(2)
    await bench.server.answer(error)
    await bench.server.answer()
    assert bench.results == {1: error, 2: 1}


async def test_flight_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUBLISH_IN_FLIGHT", 2)
    for number in range(4):
        await bench.put(number, group=str(number))
    await settled()
    assert len(bench.server.open) == 2
    await bench.server.answer()
    assert bench.server.objects == [[0], [1], [2]]


async def test_room_waits_while_too_much_is_on_its_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISH_WAITING_OBJECTS", 2)
    order: list[int] = []

    async def publish(number: int) -> None:
        await bench.put(number, group=str(number))
        order.append(number)

    tasks = [asyncio.create_task(publish(number)) for number in range(5)]
    await settled()
    assert order == [0, 1]
    tasks[2].cancel()
    await settled()
    await bench.server.answer()
    assert order == [0, 1, 3]  # first come, first served; who gave up holds nobody up
    await bench.server.answer()
    await bench.server.answer()
    assert order == [0, 1, 3, 4]


async def test_a_turn_given_to_a_cancelled_caller_is_passed_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISH_WAITING_OBJECTS", 1)
    loop = asyncio.get_running_loop()
    # Its turn comes in the same step of the loop, and then it is cancelled before it runs.
    await bench.put(0, then=lambda: loop.call_soon(first.cancel))
    first, second = (asyncio.create_task(bench.publisher.room()) for _ in range(2))
    await bench.server.answer()
    assert first.cancelled()
    assert second.done()


async def test_waiting_bytes_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUBLISH_WAITING_BYTES", 1_000)
    await bench.put(0, size=2_000)
    waiting = asyncio.create_task(bench.publisher.room())
    await settled()
    assert not waiting.done()
    await bench.server.answer()
    assert waiting.done()


async def test_close_waits_for_the_last_answer(bench: Bench) -> None:
    await bench.put(1)
    closing = asyncio.create_task(bench.publisher.close())
    await settled()
    await bench.put(2)
    await bench.server.answer()
    assert not closing.done()
    await bench.server.answer()
    await closing
    assert bench.results == {1: 1, 2: 2}
