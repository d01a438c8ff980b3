"""What waits for one account, beside the plainest queue that could be: a look at everything."""

from __future__ import annotations

import random

import pytest

from actors.account_queue import Entry, Queue
from actors.account_state import Attempt


def attempt(number: int, customer: str, priority: int) -> Attempt:
    return Attempt("one", "push", customer, "shop", priority, number, 0, 0)


class Plain:
    """Every line as a list; who is next is looked for among all of them."""

    def __init__(self) -> None:
        self.lines: dict[str, list[Entry]] = {}
        self.busy: set[str] = set()
        self.ready_ms: dict[str, float] = {}

    def next(self, now: float) -> Entry | None:
        best = None
        for customer, line in self.lines.items():
            if not line or customer in self.busy or self.ready_ms.get(customer, 0.0) > now:
                continue
            place = (-max(entry.attempt.priority for entry in line), *line[0].order)
            if best is None or place < best[0]:
                best = place, line[0]
        return None if best is None else best[1]

    def add(self, entry: Entry) -> None:
        line = self.lines.setdefault(entry.attempt.customer, [])
        line.append(entry)
        line.sort(key=lambda one: one.order)

    def leave(self, entry: Entry) -> None:
        customer = entry.attempt.customer
        self.lines[customer].remove(entry)
        if not self.lines[customer]:
            self.ready_ms.pop(customer, None)


@pytest.mark.parametrize("seed", range(40))
def test_the_next_to_leave_is_the_one_that_a_look_at_everything_finds(seed: int):
    chance = random.Random(seed)
    customers = [f"c{number}" for number in range(chance.choice((1, 3, 20)))]
    queue, plain, flying, now = Queue(), Plain(), [], 0.0
    for number in range(300):
        step = chance.randrange(8)
        if step < 3:
            made = attempt(number, chance.choice(customers), chance.choice((0, 3, 3, 9)))
            entry = Entry(f"d{number}", made, None)
            queue.add(entry)
            plain.add(entry)
        elif step == 3 and flying:  # answered; now and then it must wait and leave again
            entry = flying.pop(chance.randrange(len(flying)))
            customer, ready_ms = entry.attempt.customer, chance.choice((0.0, now + 2))
            if chance.random() < 0.3:
                queue.add(entry)
                plain.add(entry)
            queue.free(customer, ready_ms)
            plain.busy.discard(customer)
            if plain.lines[customer]:
                plain.ready_ms[customer] = ready_ms
        elif step == 4 and queue.by_id:
            entry = queue.by_id[chance.choice(sorted(queue.by_id))]
            queue.drop(entry)
            plain.leave(entry)
        else:
            now += chance.randrange(2)
            entry = queue.next(now)
            assert entry is plain.next(now)
            if entry is not None:
                queue.take(entry)
                plain.leave(entry)
                plain.busy.add(entry.attempt.customer)
                flying.append(entry)
