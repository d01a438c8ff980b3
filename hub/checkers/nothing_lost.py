"""Promise 1, the other half: what the hub acknowledged is never lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from hub import limits
from hub.checkers.records import (
    FAILED,
    RECEIPTS,
    WAITED,
    Handed,
    History,
    Line,
    Lives,
    Name,
    Published,
    Told,
    Violation,
    about_delivery,
    about_outcomes,
    about_published,
    channels_of,
    expiry_of,
    follows,
    is_replaced,
    ms_of,
)
from hub.contract.types import Receipt
from hub.policy.document import duration_ms

OVERDUE_MS = 10_000
"""How late a held intent may be at the end of a history before it counts as forgotten."""


class NothingLost:
    """Every object has an answer, every held intent a future, every receipt its effect.

    `acknowledged` are (app, intent id) that a publisher holds an acknowledgement for: they must be
    in INTAKE at all. Whatever is in INTAKE must have been decided when the history ends.
    """

    promise = "nothing-lost"

    def __init__(
        self,
        acknowledged: Collection[tuple[str, str]] = (),
        overdue_ms: int = OVERDUE_MS,
    ) -> None:
        self._acknowledged = acknowledged
        self._overdue_ms = overdue_ms

    def check(self, history: History) -> list[Violation]:
        found = list(self._not_stored(history))
        for name, line in history.lines.items():
            decided = history.lives.get(name, {})
            found.extend(self._unanswered(name, line, decided))
            for lives in decided.values():
                last = [told for told in lives[-1] if told.outcome.state != "sent"][-1:]
                # What is held because nothing was heard of a dispatch may end in silence.
                if last and last[0].outcome.state == "held" and follows(last[0].outcome) != WAITED:
                    found.extend(self._overdue(history, line, last[0]))
            if line.combined and decided:
                found.extend(self._channels(history, name, line, decided))
        found.extend(self._receipts(history))
        return found

    def _not_stored(self, history: History) -> Iterator[Violation]:
        if not self._acknowledged:
            return
        stored = {
            (each.source, each.message.id)
            for each in history.published
            if not isinstance(each.message, Receipt)
        }
        for app, intent in self._acknowledged:
            if (app, intent) not in stored:
                yield about_published(
                    self.promise, "acknowledged-and-not-stored", Name(app, intent, ""), ()
                )

    def _unanswered(self, name: Name, line: Line, decided: Lives) -> Iterator[Violation]:
        rejected = line.answers("rejected")
        answers = rejected + line.answers("duplicate")
        answers += max(map(len, decided.values()), default=0)
        if answers < line.objects:
            missing = line.intents[max(0, answers - len(line.invalid)) :] or line.invalid
            yield about_published(self.promise, "never-decided", name, missing)
        elif rejected < len(line.invalid):
            yield about_published(self.promise, "invalid-and-not-rejected", name, line.invalid)

    def _overdue(self, history: History, line: Line, held: Told) -> Iterator[Violation]:
        """A held intent whose moment has passed, and of which nothing was said since."""
        eligible = held.outcome.next_eligible_at
        if eligible is not None:
            due = ms_of(eligible)
        else:
            policy = history.policy(held.outcome.policy)
            hold_max_ms = duration_ms(policy.hold_max, "hold_max")
            due = max((expiry_of(each, hold_max_ms) for each in line.intents), default=0)
        if due + self._overdue_ms <= history.end_ms:
            yield about_outcomes(self.promise, "held-and-forgotten", [held])

    def _channels(
        self, history: History, name: Name, line: Line, decided: Lives
    ) -> Iterator[Violation]:
        """A combined send is decided for every channel of its route."""
        first = min((lives[0][0] for lives in decided.values()), key=lambda told: told.sequence)
        policy = history.policy(first.outcome.policy)
        routes = [channels_of(each.message, policy) for each in line.intents]  # type: ignore[arg-type]
        if any(route != routes[0] for route in routes):
            return  # which of the repeats was decided is not ours to say
        for channel in routes[0]:
            if channel not in decided:
                yield about_published(
                    self.promise, f"never-decided-for-{channel}", name, line.intents
                )

    def _receipts(self, history: History) -> Iterator[Violation]:
        """The most a gateway reported of a delivery is what the application was told last.

        Or it led to a fallback, which names it. `sent` and `failed` of an attempt that another
        came after, or beside which another was delivered, are not told.
        """
        told: dict[tuple[str, str], int] = {}
        refused: set[tuple[str, str]] = set()
        for each in history.outcomes:
            outcome = each.outcome
            if outcome.state in RECEIPTS:
                key = (outcome.delivery or "", outcome.customer)
                told[key] = max(told.get(key, 0), RECEIPTS[outcome.state])
            elif is_replaced(outcome):
                key = (outcome.delivery or "", outcome.customer)
                told[key] = max(told.get(key, 0), RECEIPTS["failed"])
            elif outcome.state == "rejected":
                refused.add((outcome.intent, outcome.customer))
        outdone: set[tuple[str, str]] = set()
        for attempts in history.attempts:
            keys = attempts.keys()
            arrived = any(told.get(key, 0) >= RECEIPTS["delivered"] for key in keys)
            outdone.update(keys if arrived else keys[:-1])
            for newest, after in attempts.after():
                if follows(after.outcome) == FAILED:
                    key = (newest.outcome.delivery or "", attempts.name.customer)
                    told[key] = max(told.get(key, 0), RECEIPTS["failed"])
        reported: dict[tuple[str, str], list[Published]] = {}
        for each in history.published:
            receipt = each.message
            if isinstance(receipt, Receipt) and receipt.status in RECEIPTS:
                reported.setdefault((receipt.delivery, receipt.customer), []).append(each)
        sends = Counter(each.delivery.customer for each in history.deliveries)
        for handed in history.deliveries:
            key = (handed.delivery.id, handed.delivery.customer)
            copies = history.copies_of.get(key, [])
            words = [_word(each, reported) for each in (handed, *copies)]
            failed = RECEIPTS["failed"]
            if any(word != failed for word in words):  # not all devices: so it has not failed
                words = [word for word in words if word != failed]
            word = max(words)
            forgotten = key in refused or sends[key[1]] > limits.SENDS
            silent = word <= RECEIPTS["failed"] and key in outdone
            if word > told.get(key, 0) and not forgotten and not silent:
                yield about_delivery(self.promise, "receipt-without-effect", handed)


def _word(handed: Handed, reported: Mapping[tuple[str, str], list[Published]]) -> int:
    """The most a gateway reported of one delivery while receipts are taken."""
    return max(
        (
            RECEIPTS[each.message.status]  # type: ignore[union-attr]
            for each in reported.get((handed.delivery.id, handed.delivery.customer), ())
            if 0 <= each.stored_ms - handed.stored_ms < limits.SEND_MEMORY_MS
        ),
        default=0,
    )
