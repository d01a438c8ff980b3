"""Promise 2: where only a customer's message lets us write, no more goes out than it lets.

Recomputed from messages and deliveries alone. When a message was decided is not known, only when
it was stored: each is taken to open its window as late as helps most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from hub.checkers.filters import bypasses, matches
from hub.checkers.records import Handed, History, Violation, about_delivery
from hub.contract.times import to_ms
from hub.contract.types import Inbound
from hub.policy.document import duration_ms

CLOCKS_MS = 1_000
"""How far the clocks of the stream's server and of a host may be apart."""

Place = tuple[str, str, str]
"""Customer, channel and account."""
Written = tuple[float, int]
"""When a message was stored, and its own `at`."""


class Windows:
    """No delivery without a message of late, and never more than `limit` for each message."""

    promise = "windows"

    def check(self, history: History) -> list[Violation]:
        if not any(document.windows for document in history.policies.values()):
            return []
        written = _written(history)
        places: dict[Place, list[Handed]] = defaultdict(list)
        for handed in history.deliveries:
            delivery = handed.delivery
            if delivery.category:  # else it is an operation, and no message
                place = (delivery.customer, delivery.channel, delivery.account)
                places[place].append(handed)
        return [
            violation
            for place, deliveries in places.items()
            for violation in self._of_place(history, deliveries, written.get(place, []))
        ]

    def _of_place(
        self, history: History, deliveries: list[Handed], written: list[Written]
    ) -> Iterator[Violation]:
        """`written`: in the order of storing."""
        since: dict[str, int] = {}
        used: dict[str, int] = {}
        for handed in sorted(deliveries, key=lambda each: each.at_ms):
            known = [w for w in written if w[0] <= handed.at_ms + CLOCKS_MS]
            policy, delivery = history.policy_of(handed.delivery), handed.delivery
            exempt = bypasses(policy, delivery.category, "window")
            for rule in policy.windows or ():
                if delivery.channel not in rule.channels:
                    continue
                count = since.get(rule.name, rule.limit)
                if not exempt and matches(rule, delivery.category, delivery.channel, delivery.app):
                    oldest = handed.at_ms - duration_ms(rule.within, rule.name)
                    if not any(at > oldest for _, at in known):
                        yield about_delivery(self.promise, "no-message-of-late", handed, rule.name)
                    if count >= rule.limit:
                        used[rule.name] = used.get(rule.name, 0) + 1
                        count = 0
                        if used[rule.name] > len(known):
                            yield about_delivery(self.promise, "over-a-window", handed, rule.name)
                since[rule.name] = count + 1


def _written(history: History) -> dict[Place, list[Written]]:
    """By place, the customer's messages; events and what one of us wrote are none."""
    found: dict[Place, list[Written]] = defaultdict(list)
    for each in history.published:
        message = each.message
        if (
            isinstance(message, Inbound)
            and message.agent is None
            and "event" not in message.content
        ):
            place = (message.customer, message.channel, message.account)
            found[place].append((each.stored_ms, to_ms(message.at)))
    for messages in found.values():
        messages.sort()
    return found
