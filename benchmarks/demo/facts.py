"""What happened, counted from the two streams: everything the demo's table says but the promises."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hub.checkers import History, Told
from hub.checkers.records import RECEIPTS, ms_of
from hub.contract.decode import Rejection
from hub.contract.subjects import INTENT_LANES, partition_of
from hub.contract.types import Inbound, Intent, Receipt


@dataclass
class Until:
    """Held intents that wait for the same rules, and from when to when they may go."""

    count: int = 0
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, eligible_ms: int | None) -> None:
        self.count += 1
        if eligible_ms is not None:
            self.first_ms = min(self.first_ms or eligible_ms, eligible_ms)
            self.last_ms = max(self.last_ms or eligible_ms, eligible_ms)


@dataclass
class Facts:
    """Counts of decisions: an intent is one, a combined send one for each of its channels."""

    intents: int = 0
    """Objects on the intent lanes, whatever they were."""
    dispatched: Counter[str] = field(default_factory=Counter)
    """By channel."""
    held_before: int = 0
    """Of those dispatched, how many had to wait first."""
    held: dict[str, Until] = field(default_factory=lambda: defaultdict(Until))
    """By the rules that hold them now."""
    suppressed: Counter[str] = field(default_factory=Counter)
    """By the rules that forbade them."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    ended: Counter[str] = field(default_factory=Counter)
    """Duplicates, and what was superseded, cancelled or expired."""
    reported: Counter[str] = field(default_factory=Counter)
    """Deliveries by the provider's last word."""
    receipts: int = 0
    waits_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Acknowledged to committed, of every intent, by lane, sorted; the server's clock for both."""
    seconds: float = 0.0
    """From the first intent stored to the last one decided for the first time."""

    @property
    def decided(self) -> int:
        return sum(map(len, self.waits_ms.values()))


def gather(history: History) -> Facts:
    facts = Facts()
    for each in history.published:
        message = each.message
        facts.intents += each.lane in INTENT_LANES
        facts.receipts += isinstance(message, Receipt)
    for told in history.outcomes:
        outcome = told.outcome
        if outcome.state == "rejected":
            facts.rejected[outcome.reason or ""] += 1
        elif outcome.state == "duplicate":
            facts.ended["duplicate"] += 1
    for decided in history.lives.values():
        for lives in decided.values():
            for life in lives:
                _count_life(facts, life)
    _measure(facts, history)
    return facts


def _count_life(facts: Facts, life: list[Told]) -> None:
    """Where one decision stands now."""
    states = [told.outcome.state for told in life]
    last = life[-1].outcome
    if "dispatched" in states:
        place = states.index("dispatched")
        facts.dispatched[life[place].outcome.channel or ""] += 1
        facts.held_before += place > 0
        word = max((state for state in states if state in RECEIPTS), key=_rank, default="")
        facts.reported[word] += 1
    elif last.state == "held":
        eligible = last.next_eligible_at
        facts.held[_rules(life[-1])].add(None if eligible is None else ms_of(eligible))
    elif last.state == "suppressed":
        facts.suppressed[_rules(life[-1])] += 1
    else:
        facts.ended[last.state] += 1


def _rank(state: str) -> int:
    return RECEIPTS[state]


def _rules(told: Told) -> str:
    return " + ".join(sorted({block.rule for block in told.outcome.rules or ()}))


def _measure(facts: Facts, history: History) -> None:
    """From INTAKE's time of an intent to LEDGER's time of the first word about it."""
    first, last = float("inf"), 0.0
    for line in history.lines.values():
        objects = [each for each in (*line.intents, *line.invalid) if each.lane in INTENT_LANES]
        if len(objects) != 1 or not line.told:  # of repeats, whose answer is whose is not known
            continue
        (published,), told = objects, line.told[0]
        facts.waits_ms[published.lane].append(told.stored_ms - published.stored_ms)
        first, last = min(first, published.stored_ms), max(last, told.stored_ms)
    for waits in facts.waits_ms.values():
        waits.sort()
    facts.seconds = max(0.0, (last - first) / 1000)


def percentile(waits: list[float], share: float) -> float:
    """The value that `share` of the sorted waits do not exceed."""
    return waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0.0


def longest_silence_ms(history: History, partitions: int, since_ms: float) -> float:
    """How long after `since_ms` the last partition got its next intent decided.

    After a host was killed: what its customers waited, from its death to the next decision.
    """
    following: dict[int, float] = {}
    for told in history.outcomes:
        if told.stored_ms > since_ms:
            number = partition_of(told.outcome.customer, partitions)
            following.setdefault(number, told.stored_ms)
    return max(following.values(), default=since_ms) - since_ms


def mistakes(history: History) -> int:
    """Objects of any lane that were not valid."""
    return sum(isinstance(each.message, Rejection) for each in history.published)


def customers(history: History) -> int:
    return len({each.message.customer for each in history.published if _personal(each.message)})


def _personal(message: object) -> bool:
    return isinstance(message, Intent | Inbound)
