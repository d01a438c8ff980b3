"""What happened, counted from the two streams: what the demo's tables say but the promises."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from math import ceil
from typing import NamedTuple

from hub.checkers import History, Told
from hub.checkers.records import RECEIPTS, follows, ms_of
from hub.contract.subjects import INTENT_LANES, partition_of
from hub.contract.types import Intent, Receipt

KILL_GRACE_MS = 1_000


@dataclass
class Until:
    """Held intents that wait for the same rule, and from when to when they may go."""

    count: int = 0
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, eligible_ms: int | None) -> None:
        self.count += 1
        if eligible_ms is not None:
            self.first_ms = min(self.first_ms or eligible_ms, eligible_ms)
            self.last_ms = max(self.last_ms or eligible_ms, eligible_ms)


class Step(NamedTuple):
    """From one channel of a route to the next, after the first has FAILED or WAITED."""

    before: str
    channel: str
    cause: str


@dataclass
class Facts:
    """Counts of decisions: an intent is one, a combined send one for each of its channels."""

    intents: int = 0
    """Objects on the intent lanes, whatever they were."""
    dispatched: Counter[str] = field(default_factory=Counter)
    """By channel; an intent that falls back counts for each channel it has left by."""
    held_before: int = 0
    """Of those dispatched, how many had to wait first."""
    held: dict[str, Until] = field(default_factory=lambda: defaultdict(Until))
    """By the rule that holds them longest now."""
    suppressed: Counter[str] = field(default_factory=Counter)
    """By the rule that forbade them longest."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    ended: Counter[str] = field(default_factory=Counter)
    """Duplicates, and what was superseded, cancelled or expired."""
    reported: Counter[str] = field(default_factory=Counter)
    """Dispatched ones by the last word about them."""
    fallbacks: dict[Step, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """What became of each further attempt: `held`, or the provider's last word."""
    gave_up: int = 0
    """Failed, for no channel of the route was left."""
    receipts: int = 0
    waits_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Acknowledged to committed, of every intent, by lane, sorted; the server's clock for both."""
    calm_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The same, of the intents that were decided before the host was killed."""
    seconds: float = 0.0
    """From the first intent stored to the last one decided for the first time."""

    @property
    def decided(self) -> int:
        return sum(map(len, self.waits_ms.values()))


def gather(history: History, killed_ms: float) -> Facts:
    """Everything there is to count; `killed_ms` is when a host was killed, Unix ms."""
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
    words = _last_words(history)
    for decided in history.lives.values():
        for lives in decided.values():
            for life in lives:
                _count_life(facts, life)
                _count_fallbacks(facts, life, words)
    _measure(facts, history, killed_ms)
    return facts


def _count_life(facts: Facts, life: list[Told]) -> None:
    """Where one decision stands now."""
    states = [told.outcome.state for told in life]
    last = life[-1].outcome
    if "dispatched" in states:
        for told in life:
            if told.outcome.state == "dispatched":
                facts.dispatched[told.outcome.channel or ""] += 1
        facts.held_before += states.index("dispatched") > 0
        facts.gave_up += last.state == "failed"
        word = max((state for state in states if state in RECEIPTS), key=_rank, default="")
        facts.reported[word] += 1
    elif last.state == "held":
        eligible = last.next_eligible_at
        facts.held[_rule(life[-1])].add(None if eligible is None else ms_of(eligible))
    elif last.state == "suppressed":
        facts.suppressed[_rule(life[-1])] += 1
    else:
        facts.ended[last.state] += 1


def _last_words(history: History) -> dict[str, str]:
    """Delivery id to the furthest thing a receipt has said of it; of several devices, of the first
    alone: no fallback goes to several."""
    found: dict[str, str] = {}
    for each in history.published:
        if isinstance(each.message, Receipt):
            status, before = each.message.status, found.get(each.message.delivery, "")
            if RECEIPTS.get(status, 0) >= RECEIPTS.get(before, 0):
                found[each.message.delivery] = status
    return found


def _count_fallbacks(facts: Facts, life: list[Told], words: dict[str, str]) -> None:
    """Every further attempt: by which channel, instead of which, and what became of it."""
    before = ""
    for told, after in zip_longest(life, life[1:]):
        outcome = told.outcome
        cause = follows(outcome)
        if outcome.state == "dispatched":
            if cause:
                word = words.get(outcome.delivery or "", "")
                facts.fallbacks[Step(before, outcome.channel or "", cause)][word] += 1
            before = outcome.channel or ""
        elif cause and outcome.state == "held" and after is None:
            facts.fallbacks[Step(before, outcome.channel or "", cause)]["held"] += 1


def _rank(state: str) -> int:
    return RECEIPTS[state]


def _rule(told: Told) -> str:
    """The rule that decides until when: the last to be ready, or the one that never is."""
    blocks = told.outcome.rules or ()
    for block in blocks:  # a refusal is about every channel
        if block.kind == "dnd" and block.ready_at is None:
            return block.rule
    ready = [block for block in blocks if block.ready_at is not None]
    if not ready:
        return " + ".join(sorted({block.rule for block in blocks}))
    return max(ready, key=lambda block: block.ready_at or "").rule


def _measure(facts: Facts, history: History, killed_ms: float) -> None:
    """From INTAKE's time of an intent to LEDGER's time of the first word about it."""
    first, last = float("inf"), 0.0
    for line in history.lines.values():
        objects = [each for each in (*line.intents, *line.invalid) if each.lane in INTENT_LANES]
        if len(objects) != 1 or not line.told:  # of repeats, whose answer is whose is not known
            continue
        (published,), told = objects, line.told[0]
        wait_ms = told.stored_ms - published.stored_ms
        facts.waits_ms[published.lane].append(wait_ms)
        if told.stored_ms < killed_ms:
            facts.calm_ms[published.lane].append(wait_ms)
        first, last = min(first, published.stored_ms), max(last, told.stored_ms)
    for waits in (*facts.waits_ms.values(), *facts.calm_ms.values()):
        waits.sort()
    facts.seconds = max(0.0, (last - first) / 1000)


def percentile(waits: list[float], share: float) -> float:
    """The value that `share` of the sorted waits do not exceed."""
    return waits[max(0, ceil(share * len(waits)) - 1)] if waits else 0.0


def longest_silence_ms(history: History, partitions: int, killed_ms: float) -> float:
    """The longest time without a decision that began about when a host was killed.

    That is what the last of its partitions waited for a new owner. A batch that was under way is
    still stored after the kill, hence the second of grace.
    """
    times: dict[int, list[float]] = defaultdict(list)
    for told in history.outcomes:
        times[partition_of(told.outcome.customer, partitions)].append(told.stored_ms)
    longest = 0.0
    for moments in times.values():
        for before, after in pairwise(moments):
            if before < killed_ms + KILL_GRACE_MS and after > killed_ms:
                longest = max(longest, after - max(before, killed_ms))
    return longest


def customers(history: History) -> int:
    """Who bought something."""
    return len(
        {
            each.message.customer
            for each in history.published
            if isinstance(each.message, Intent) and each.message.id.startswith("order-")
        }
    )
