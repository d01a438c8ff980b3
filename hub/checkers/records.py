"""What the checkers read: every object of INTAKE and every line of LEDGER, as plain records.

All lists are in stream order. `index` is an object's place in the array that carried it, so that
(sequence, index) orders objects as the stream does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct

from hub import limits
from hub.contract.decode import DEVICE_STEP, Message, Rejection, content_channels
from hub.contract.times import parse_rfc3339, rfc3339, to_ms
from hub.contract.types import AccountOrder, Delivery, Intent, LiveMessage, Outcome, Receipt
from hub.policy.document import PolicyDocument, policy_version

if TYPE_CHECKING:
    from hub.checkers.zones import Zones

OPENING = frozenset(("held", "dispatched", "suppressed", "expired"))
"""States that may be the first thing said of an intent that is decided."""
FINAL = frozenset(("suppressed", "expired", "superseded", "cancelled", "failed"))
"""States that end a life. `rejected` and `duplicate` answer an object that never began one."""
RECEIPTS = {"sent": 1, "failed": 2, "delivered": 3, "read": 4}
"""What a provider's word can be; only ever moves to a larger number."""


class Published(Struct, frozen=True, gc=False):
    """One object of INTAKE as `hub.contract.decode` reads it."""

    lane: str
    source: str
    sequence: int
    stored_ms: float
    """When the stream acknowledged it, by the server's clock; Unix ms."""
    message: Message | Rejection
    index: int = 0


class Told(Struct, frozen=True, gc=False):
    """One outcome of LEDGER."""

    sequence: int
    stored_ms: float
    outcome: Outcome
    index: int = 0

    @property
    def at_ms(self) -> int:
        return ms_of(self.outcome.at)


class Handed(Struct, frozen=True, gc=False):
    """One delivery of LEDGER: what was handed to a channel."""

    sequence: int
    stored_ms: float
    delivery: Delivery
    index: int = 0

    @property
    def at_ms(self) -> int:
        return ms_of(self.delivery.at)


class Shown(Struct, frozen=True, gc=False):
    """One message of a live feed."""

    sequence: int
    message: LiveMessage
    index: int = 0


class Violation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One broken promise, with what is needed to find it and nothing of what was written."""

    promise: str
    kind: str
    app: str = ""
    intent: str = ""
    customer: str = ""
    delivery: str = ""
    channel: str = ""
    rule: str = ""
    at_ms: int | None = None
    sequences: tuple[int, ...] = ()
    """Where to look: in INTAKE for what was never decided, else in LEDGER."""

    def __str__(self) -> str:
        named = [
            f"{name}={value}"
            for name in ("app", "intent", "customer", "delivery", "channel", "rule")
            if (value := getattr(self, name))
        ]
        when = [] if self.at_ms is None else [f"at {rfc3339(self.at_ms)}"]
        where = [f"sequence {', '.join(map(str, self.sequences))}"] if self.sequences else []
        return " ".join([f"{self.promise}: {self.kind}:", *named, *when, *where])


class Checker(Protocol):
    """One promise."""

    promise: str

    def check(self, history: History) -> list[Violation]:
        """Every violation found; none when the promise was kept."""


class Name(NamedTuple):
    """What tells one intent from all others: an id is the app's, and remembered by customer."""

    app: str
    intent: str
    customer: str


class Line(Struct):
    """Everything published and said under one name."""

    intents: list[Published]
    """Valid ones; more than one are repeats."""
    invalid: list[Published]
    told: list[Told]

    @property
    def objects(self) -> int:
        return len(self.intents) + len(self.invalid)

    @property
    def combined(self) -> bool:
        """Whether it is decided channel by channel (`reach: all`)."""
        return bool(self.intents) and self.intents[0].message.reach == "all"  # type: ignore[union-attr]

    @property
    def ambiguous(self) -> bool:
        return len(self.intents) > 1 and len({each.message.reach for each in self.intents}) > 1  # type: ignore[union-attr]

    def answers(self, state: str) -> int:
        return sum(each.outcome.state == state for each in self.told)


FAILED, WAITED = "failed", "waited"


def follows(outcome: Outcome) -> str:
    """What a fallback comes after: its dispatch FAILED, or WAITED too long; "" if it is none."""
    if outcome.state not in ("held", "dispatched") or not outcome.reason:
        return ""
    return FAILED if " failed: " in outcome.reason else WAITED


def is_replaced(outcome: Outcome) -> bool:
    """Whether an account has taken a dispatch back for a newer message: one that had not left."""
    return outcome.state == "superseded" and outcome.delivery is not None


Lives = dict[str, list[list[Told]]]
"""By channel for a combined send, else by "": what was said from a first decision on."""


class Attempts(NamedTuple):
    """One life of an intent that goes by one channel after the other."""

    name: Name
    line: Line
    life: list[Told]

    def after(self) -> Iterator[tuple[Told, Told]]:
        """Everything said after a first dispatch, each with the newest dispatch before it."""
        newest = None
        for told in self.life:
            if newest is not None:
                yield newest, told
            if told.outcome.state == "dispatched":
                newest = told

    def keys(self) -> list[tuple[str, str]]:
        """(delivery id, customer) of its dispatches, in order."""
        return [
            (told.outcome.delivery or "", self.name.customer)
            for told in self.life
            if told.outcome.state == "dispatched"
        ]


class History:
    """One run of a hub: what went in, what came out, under which policies, seen at `end_ms`.

    `policies` are all documents that were in force, in any order; at least one.
    """

    def __init__(
        self,
        published: Sequence[Published],
        outcomes: Sequence[Told],
        deliveries: Sequence[Handed],
        policies: Sequence[PolicyDocument],
        end_ms: float,
        feeds: Sequence[Shown] | None = None,
    ) -> None:
        self.published = published
        self.outcomes = outcomes
        decided = [each for each in deliveries if each.delivery.via is None]
        self.deliveries = [each for each in decided if not is_copy(each.delivery)]
        """Those decided by conversations: not what one account has handed over to another. Of a
        dispatch to several devices the first, which counts for all."""
        self.copies = [each for each in decided if is_copy(each.delivery)]
        """The others."""
        self.policies: Mapping[str, PolicyDocument] = {
            policy_version(document): document for document in policies
        }
        self.end_ms = end_ms
        self.feeds = feeds
        """All live feeds, in stream order; None when they were not read."""
        self.zones: Zones | None = None
        """Kept here by `hub.checkers.zones`."""

    @cached_property
    def lines(self) -> dict[Name, Line]:
        """All intents, and all objects of any lane that are not valid, by name.

        Without those whose repeats differ in `reach`: which one was decided is not known, and
        what may be said of them differs. Their deliveries are checked like all others.
        """
        return {name: line for name, line in self._all_lines.items() if not line.ambiguous}

    def knows(self, name: Name) -> bool:
        """Whether anything was published under this name for which there must be an answer."""
        return name in self._all_lines

    @cached_property
    def _all_lines(self) -> dict[Name, Line]:
        lines: dict[Name, Line] = {}
        for each in self.published:
            message = each.message
            if isinstance(message, Intent):
                name = Name(message.app, message.id, message.customer)
            elif isinstance(message, Rejection):
                name = Name(each.source, message.id, message.customer)
            else:
                continue
            line = lines.get(name)
            if line is None:
                line = lines[name] = Line([], [], [])
            (line.intents if isinstance(message, Intent) else line.invalid).append(each)
        for told in self.outcomes:
            line = lines.get(name_of(told.outcome))
            if line is not None:
                line.told.append(told)
        return lines

    @cached_property
    def lives(self) -> dict[Name, Lives]:
        """By name, what was said of each intent; see `split_lives`."""
        return {name: split_lives(line) for name, line in self.lines.items() if line.told}

    @cached_property
    def attempts(self) -> list[Attempts]:
        """Of every intent that may fall back, the dispatches of each life, in order."""
        found = []
        for name, decided in self.lives.items():
            line = self.lines[name]
            if not line.combined:
                found += [Attempts(name, line, life) for life in decided.get("", ())]
        return found

    @cached_property
    def copies_of(self) -> dict[tuple[str, str], list[Handed]]:
        """(delivery id, customer) of a dispatch to the deliveries of its further devices."""
        found: dict[tuple[str, str], list[Handed]] = {}
        for each in self.copies:
            found.setdefault((first_id(each.delivery), each.delivery.customer), []).append(each)
        return found

    @cached_property
    def failures(self) -> dict[tuple[str, str], list[float]]:
        """(delivery id, customer) to when its gateway said `failed`, by the stream's clock; of
        several devices, when it had said so of all."""
        found: dict[tuple[str, str], list[float]] = {}
        for each in self.published:
            receipt = each.message
            if isinstance(receipt, Receipt) and receipt.status == "failed":
                found.setdefault((receipt.delivery, receipt.customer), []).append(each.stored_ms)
        for key, copies in self.copies_of.items():
            keys = [key, *((each.delivery.id, key[1]) for each in copies)]
            times = [min(found.get(each, [inf])) for each in keys]
            found.pop(key, None)
            if max(times) < inf:
                found[key] = [max(times)]
        return found

    @cached_property
    def others(self) -> frozenset[Name]:
        """Names of valid receipts, inbound messages and commands: they too may be rejected."""
        return frozenset(
            Name(
                each.source,
                message.delivery if isinstance(message, Receipt) else message.id,
                message.customer,
            )
            for each in self.published
            if not isinstance(message := each.message, Intent | Rejection)
        )

    @cached_property
    def orders(self) -> frozenset[Name]:
        """Names of valid commands that an account carries out: they have outcomes of their own."""
        return frozenset(
            Name(message.app, message.id, message.customer)
            for each in self.published
            if isinstance(message := each.message, AccountOrder)
        )

    @cached_property
    def decided_under(self) -> dict[tuple[str, str], str]:
        """(delivery id, customer) to the policy version its dispatch was decided under."""
        return {
            (told.outcome.delivery or "", told.outcome.customer): told.outcome.policy or ""
            for told in self.outcomes
            if told.outcome.state == "dispatched"
        }

    def policy(self, version: str | None) -> PolicyDocument:
        """The document of a version; of an unknown one (ReasonGiven reports it) the last given."""
        found = self.policies.get(version or "")
        return next(reversed(self.policies.values())) if found is None else found

    def policy_of(self, delivery: Delivery) -> PolicyDocument:
        """The document under which a delivery was decided."""
        if len(self.policies) == 1:
            return self.policy(None)
        return self.policy(self.decided_under.get((first_id(delivery), delivery.customer)))


def is_copy(delivery: Delivery) -> bool:
    """Whether it is for a further device of a dispatch."""
    return delivery.attempt > DEVICE_STEP


def first_id(delivery: Delivery) -> str:
    """The id of the dispatch that a delivery for a device belongs to."""
    return f"{delivery.app}:{delivery.intent}:{delivery.attempt % DEVICE_STEP}"


def split_lives(line: Line) -> Lives:
    """What was said of an intent, split where a repeat was rightly decided as new.

    That may only be later than REMEMBER_MS after the first decision, once for each repeat.
    """
    found: Lives = {}
    combined = line.combined
    for told in line.told:
        state = told.outcome.state
        if state in ("rejected", "duplicate"):
            continue
        mine = found.setdefault((told.outcome.channel or "") if combined else "", [])
        if not mine or (state in OPENING and _begins_anew(line, mine, told)):
            mine.append([told])
        else:
            mine[-1].append(told)
    return found


def _begins_anew(line: Line, mine: list[list[Told]], told: Told) -> bool:
    last = mine[-1][-1].outcome
    return (
        len(line.intents) > len(mine)
        and not follows(told.outcome)
        and (last.state != "held" or follows(last) == WAITED)
        and told.at_ms >= mine[-1][0].at_ms + limits.REMEMBER_MS
    )


def expiry_of(published: Published, hold_max_ms: int) -> float:
    """When an intent expires, by the policy's `hold_max` when it does not say it itself."""
    intent = published.message
    assert isinstance(intent, Intent)
    if intent.expires_at is not None:
        return to_ms(intent.expires_at)
    return published.stored_ms + hold_max_ms


def channels_of(intent: Intent, policy: PolicyDocument) -> list[str]:
    """The channels an intent may go to, in order; none when the policy knows no such category."""
    category = policy.categories.get(intent.category)
    route = intent.route or (category.route if category is not None else [])
    return content_channels(intent.content, list(route))


def name_of(outcome: Outcome) -> Name:
    """Which intent an outcome is about."""
    return Name(outcome.app, outcome.intent, outcome.customer)


@lru_cache(maxsize=1 << 16)
def ms_of(text: str) -> int:
    """Unix milliseconds of what the hub wrote; many lines share a moment."""
    return parse_rfc3339(text)


def about_outcomes(promise: str, kind: str, told: Iterable[Told], **more: str) -> Violation:
    """A violation that some outcomes of one intent show; the last gives the time."""
    shown = list(told)
    last = shown[-1].outcome
    return Violation(
        promise=promise,
        kind=kind,
        app=last.app,
        intent=last.intent,
        customer=last.customer,
        delivery=more.pop("delivery", last.delivery or ""),
        channel=more.pop("channel", last.channel or ""),
        at_ms=shown[-1].at_ms,
        sequences=tuple(each.sequence for each in shown),
        **more,  # type: ignore[arg-type]
    )


def about_delivery(promise: str, kind: str, handed: Handed, rule: str = "") -> Violation:
    """A violation that one delivery shows."""
    delivery = handed.delivery
    return Violation(
        promise=promise,
        kind=kind,
        app=delivery.app,
        intent=delivery.intent,
        customer=delivery.customer,
        delivery=delivery.id,
        channel=delivery.channel,
        rule=rule,
        at_ms=handed.at_ms,
        sequences=(handed.sequence,),
    )


def about_published(
    promise: str, kind: str, name: Name, published: Iterable[Published]
) -> Violation:
    """A violation that objects of INTAKE show."""
    return Violation(
        promise=promise,
        kind=kind,
        app=name.app,
        intent=name.intent,
        customer=name.customer,
        sequences=tuple(each.sequence for each in published),
    )
