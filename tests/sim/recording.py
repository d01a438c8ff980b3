"""What hosts decided, so that it can be decided again, alone and without faults, and compared.

A host's turns are recorded as they happen; which of them count, the ledger knows: those whose batch
it holds. Replayed in the order of the ledger, by one `Conversation` after the other, without
partitions, packing, parking or batches, they must lead to the same bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from actors.batch import Batch
from actors.conversation import BodyRef, Conversation
from actors.turn import Turn, Work
from hub.contract.decode import Message, Rejection, content_for, decode
from hub.contract.subjects import (
    account_partition,
    delivery_subject,
    event_subject,
    live_subject,
    outcome_subject,
    partition_of,
)
from hub.contract.times import rfc3339
from hub.contract.types import Delivery, LiveMessage, Outcome, Receipt
from hub.contract.types import Event as Happened
from hub.ledger.port import IntakeMessage
from hub.policy.policy import Policy
from hub.policy.state import ConversationState, unpack_state
from tests.sim.step_rules import Said, Step, StepRules
from tests.support.model import Streams, decode_record

_encode = msgspec.json.Encoder().encode
_objects = msgspec.json.Decoder(list[msgspec.Raw]).decode
_content = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Event(NamedTuple):
    """One decision: a message, or a conversation woken, at the partition's time."""

    at_ms: int
    policy: Policy
    message: IntakeMessage | None
    key: str = ""


class Recorder:
    """Makes the classes a host uses instead of `Turn` and `Batch`."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[int, list[Event]]] = {}
        """Commit id to what each partition decided in it; most were stored, some were not."""
        self._works: dict[int, tuple[Work, list[Event]]] = {}
        recorder = self

        class RecordedTurn(Turn):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.events: dict[int, list[Event]] = defaultdict(list)

            def receive(self, message: IntakeMessage, clock_ms: int) -> int:
                count = super().receive(message, clock_ms)
                if count:
                    at_ms = self.owned[message.partition].at_ms
                    self.events[message.partition].append(Event(at_ms, self.policy, message))
                return count

            def wake(self, partition: Any, key: str, clock_ms: int) -> None:
                super().wake(partition, key, clock_ms)
                event = Event(partition.at_ms, self.policy, None, key)
                self.events[partition.number].append(event)

            def close(self) -> list[Work]:
                works = super().close()
                for work in works:
                    recorder._works[id(work)] = (work, self.events[work.partition.number])
                return works

        class RecordedBatch(Batch):
            def __init__(self, commit_id: str, works: Any, *args: Any) -> None:
                super().__init__(commit_id, works, *args)
                recorder.commits[commit_id] = {
                    work.partition.number: recorder._works[id(work)][1] for work in works
                }

        self.turn_class = RecordedTurn
        self.batch_class = RecordedBatch


# ---- the same again, alone -----------------------------------------------------------------------


class _Effects:
    """What conversations do, kept as it comes."""

    def __init__(self, partitions: int) -> None:
        self.outcomes: dict[str, list[bytes]] = defaultdict(list)
        self.deliveries: dict[str, Counter[bytes]] = defaultdict(Counter)
        self.events: dict[str, list[bytes]] = defaultdict(list)
        self.feeds: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        """What is in each, and for how many seconds."""
        self.said: list[Said] = []
        """All of it since somebody emptied it."""
        self.urgent = False
        self._partitions = partitions
        self._bodies: list[bytes] = []

    def outcome(self, outcome: Outcome, category: str) -> None:
        self.outcomes[outcome_subject(outcome.app)].append(_encode(outcome))
        self.said.append(outcome)

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        self._fetch(delivery, parked)
        delivery.urgent = self.urgent if parked is None else parked.urgent
        number = account_partition(delivery.account, self._partitions)
        subject = delivery_subject(delivery.channel, number)
        self.deliveries[subject][_encode(delivery)] += 1
        self.said.append(delivery)

    def event(self, event: Happened) -> None:
        self.events[event_subject(event.app)].append(_encode(event))
        self.said.append(event)

    def live(self, message: LiveMessage, keep_ms: int, parked: BodyRef | None = None) -> None:
        self._fetch(message, parked)
        kept = max(1, keep_ms // 1000), _encode(message)
        self.feeds[live_subject(message.account)].append(kept)
        self.said.append(message)

    def _fetch(self, message: Delivery | LiveMessage, parked: BodyRef | None) -> None:
        if parked is not None:
            body = _content(self._bodies[parked.index])
            message.content = content_for(body, message.channel)

    def park(self, content: bytes, expires: int) -> BodyRef:
        self._bodies.append(content)
        return BodyRef("", len(self._bodies) - 1, len(content), self.urgent)

    def count(self, name: str, *labels: str) -> None:
        pass


class Alone:
    """All partitions, decided in one place in the order of the ledger.

    `rules` look at every step of it.
    """

    def __init__(self, partitions: int, rules: Sequence[StepRules] = ()) -> None:
        self.partitions = partitions
        self.rules = rules
        self.states: dict[str, ConversationState] = {}
        self.effects = _Effects(partitions)

    def decide(self, number: int, events: Iterable[Event]) -> None:
        for event in events:
            if event.message is None:
                self._step(event.key, event, None, 0)
            else:
                self._receive(number, event, event.message)

    def _receive(self, number: int, event: Event, message: IntakeMessage) -> None:
        self.effects.urgent = message.lane == "urgent"
        for item in decode(message.lane, message.source, message.payload, message.packed):
            if isinstance(item, Rejection):
                self._reject(message.source, item, event.at_ms)
            elif partition_of(item.customer, self.partitions) != number:
                name = item.delivery if isinstance(item, Receipt) else item.id
                reason = "customer does not match the subject: it belongs to another partition"
                rejection = Rejection(reason, name, item.customer)
                self._reject(message.source, rejection, event.at_ms)
            else:
                if 0 < self._state(item.customer).wake <= event.at_ms:
                    self._step(item.customer, event, None, 0)
                self._step(item.customer, event, item, message.stored_ms)
        self.effects.urgent = False

    def _step(self, key: str, event: Event, item: Message | None, accepted: int) -> None:
        """One conversation takes a message, or is woken."""
        state, effects = self._state(key), self.effects
        conversation = Conversation(key, state, event.policy, effects)
        effects.said.clear()
        document, version = event.policy.document, event.policy.version
        step = Step(key, item, accepted, event.at_ms, document, version)
        for rules in self.rules:
            rules.before(step, state)
        if item is None:
            conversation.wake(event.at_ms)
        else:
            conversation.receive(item, accepted, event.at_ms)
        for rules in self.rules:
            rules.after(step, state, effects.said)

    def _state(self, key: str) -> ConversationState:
        return self.states.setdefault(key, ConversationState())

    def _reject(self, source: str, rejection: Rejection, at_ms: int) -> None:
        self.effects.outcome(
            Outcome(
                rejection.id,
                source,
                rejection.customer,
                "rejected",
                rfc3339(at_ms),
                reason=rejection.reason,
            ),
            "",
        )


def compare(streams: Streams, recorder: Recorder, rules: Sequence[StepRules] = ()) -> list[str]:
    """Every difference between the ledger and the same decisions made alone.

    `rules` find what is wrong with those decisions themselves.
    """
    alone = Alone(streams.partitions, rules)
    outcomes: dict[str, list[bytes]] = defaultdict(list)
    deliveries: dict[str, Counter[bytes]] = defaultdict(Counter)
    events: dict[str, list[bytes]] = defaultdict(list)
    feeds: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for stored in streams.ledger:
        kind = stored.subject.split(".")[1]
        if kind == "outcome":
            outcomes[stored.subject].extend(_members(stored.payload))
        elif kind == "out":
            deliveries[stored.subject].update(_members(stored.payload))
        elif kind == "event":
            events[stored.subject].extend(_members(stored.payload))
        elif kind == "live":
            assert stored.expires_ms is not None, "a feed that is kept for ever"
            kept_s = (stored.expires_ms - stored.stored_ms) // 1000
            feeds[stored.subject].extend((kept_s, each) for each in _members(stored.payload))
        elif kind == "log":
            record = decode_record(stored.payload)
            number = int(stored.subject.split(".")[2])
            if record.commit_id.startswith("claim-"):
                continue
            alone.decide(number, recorder.commits[record.commit_id][number])
            different = [
                key for key in record.states if not _same(alone.states, key, record.states[key])
            ]
            if different:
                return [f"log record {stored.sequence}: other states of {different}"]
    expected = alone.effects
    return [
        *_differences("outcomes", expected.outcomes, outcomes),
        *_differences("deliveries", expected.deliveries, deliveries),
        *_differences("events", expected.events, events),
        *_differences("feeds", expected.feeds, feeds),
    ]


def _members(payload: bytes) -> list[bytes]:
    return [bytes(each) for each in _objects(payload)] if payload[:1] == b"[" else [payload]


def _same(states: dict[str, ConversationState], key: str, packed: bytes | None) -> bool:
    """Equal but for where and how bodies are parked."""
    mine = states.get(key, ConversationState())
    theirs = ConversationState() if packed is None else unpack_state(packed)
    return _without_places(mine) == _without_places(theirs)


def _without_places(state: ConversationState) -> bytes:
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ConversationState)
    for held in copy.held:
        held.block, held.index, held.size, held.urgent = "", 0, 0, False
    return msgspec.msgpack.encode(copy)


def _differences(what: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{what} on {subject}:\n  alone: {expected.get(subject)}\n  ledger: {found.get(subject)}"
        for subject in sorted(expected.keys() | found.keys())
        if expected.get(subject, type(found.get(subject))()) != found.get(subject)
    ]
