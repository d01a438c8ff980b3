"""Promise 5: one customer's messages leave in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from hub.checkers.records import (
    Handed,
    History,
    Violation,
    about_delivery,
    about_outcomes,
)


class _Arrival(NamedTuple):
    """What was dispatched as it arrived: its place in INTAKE, then its channel's in the route."""

    sequence: int
    index: int
    attempt: int
    handed: Handed


class Order:
    """What is dispatched at arrival leaves as it came in, by customer, lane and priority.

    Held intents are exempt, and fallbacks: they go by priority when their time comes. Also, the
    time of decisions told to an application about one customer never goes back.
    """

    promise = "in-order"

    def check(self, history: History) -> list[Violation]:
        found = list(self._times(history))
        for arrivals in self._arrivals(history).values():
            if len(arrivals) > 1:
                arrivals.sort(key=lambda arrival: arrival[:3])
                found.extend(self._of_queue(arrivals))
        return found

    def _times(self, history: History) -> Iterator[Violation]:
        """One batch holds its outcomes grouped by application, so only those are in order.

        A bad object is rejected by the partition it came to, which need not be its customer's.
        """
        latest: dict[tuple[str, str], int] = {}
        for told in history.outcomes:
            if told.outcome.state == "rejected":
                continue
            key = (told.outcome.app, told.outcome.customer)
            at = told.at_ms
            if at < latest.get(key, 0):
                yield about_outcomes(self.promise, "time-goes-back", [told])
            latest[key] = at

    @staticmethod
    def _arrivals(history: History) -> dict[tuple[str, str, int], list[_Arrival]]:
        handed_of = {
            (each.delivery.id, each.delivery.customer): each for each in history.deliveries
        }
        queues: dict[tuple[str, str, int], list[_Arrival]] = defaultdict(list)
        for name, decided in history.lives.items():
            line = history.lines[name]
            if len(line.intents) != 1:  # which of the repeats was dispatched is not ours to say
                continue
            published = line.intents[0]
            for lives in decided.values():
                outcome = lives[0][0].outcome
                handed = handed_of.get((outcome.delivery or "", name.customer))
                if outcome.state != "dispatched" or handed is None:
                    continue
                queues[name.customer, published.lane, handed.delivery.priority].append(
                    _Arrival(published.sequence, published.index, handed.delivery.attempt, handed)
                )
        return queues

    def _of_queue(self, arrivals: list[_Arrival]) -> Iterator[Violation]:
        last: dict[tuple[str, str], tuple[int, int]] = {}
        latest = 0
        for arrival in arrivals:
            handed = arrival.handed
            if handed.at_ms < latest:
                yield about_delivery(self.promise, "decided-before-its-predecessor", handed)
            latest = max(latest, handed.at_ms)
            # Deliveries of one account by one channel share a subject: what consumes them in order.
            way = (handed.delivery.channel, handed.delivery.account)
            place = (handed.sequence, handed.index)
            if place < last.get(way, (0, 0)):
                yield about_delivery(self.promise, "stored-before-its-predecessor", handed)
            last[way] = max(place, last.get(way, place))
