"""The turn: read, decide, one commit. This is the deciding part: pure, in memory, no I/O.

A turn takes messages and due wake-ups, lets each conversation decide, and ends as one `Work` per
partition touched: deliveries, outcomes, parked bodies, changed states and the checkpoint.
`actors.batch` makes one atomic batch of it. Source: docs/architecture.md, "The turn".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Raw

from actors.conversation import BodyRef, Conversation
from actors.partition import Partition
from hub import limits
from hub.contract.decode import DEVICE_STEP, Message, Rejection, content_for, decode
from hub.contract.subjects import account_partition, partition_of
from hub.contract.times import rfc3339
from hub.contract.types import Delivery, Event, LiveMessage, Outcome, Receipt
from hub.ledger.port import IntakeMessage
from hub.metrics import Series
from hub.policy.policy import Policy
from hub.policy.state import ConversationState, pack_state, unpack_state

_decode_content = msgspec.json.Decoder(dict[str, Raw]).decode

_EMPTY_STATE = pack_state(ConversationState())
_OBJECTS_A_MESSAGE = limits.ARRAY_OBJECTS // 6
"""An object may lead to three deliveries and three outcomes (a combined send), in full arrays."""


class Released(NamedTuple):
    """A delivery of a held intent: its content is still to be fetched from where it is parked."""

    delivery: Delivery
    parked: BodyRef


class Shown(NamedTuple):
    """What is shown of such a delivery in an account's feed."""

    message: LiveMessage
    keep_s: int
    parked: BodyRef


class Load:
    """What a turn has taken on so far, over all partitions: counted while it is decided."""

    __slots__ = ("bulk_objects", "objects", "payload_bytes", "urgent_deliveries", "wakes")

    def __init__(self) -> None:
        self.objects = 0
        self.bulk_objects = 0
        """Of the normal and bulk lanes, and woken; kept by the runner."""
        self.wakes = 0
        """Conversations woken because their time had come."""
        self.payload_bytes = 0
        """Taken in, and released from where it was parked."""
        self.urgent_deliveries = 0


class Work:
    """What one turn does to one partition. Collects the effects of its conversations."""

    __slots__ = (
        "at_ms",
        "block",
        "blocked",
        "checkpoint",
        "counted",
        "deliveries",
        "entries",
        "events",
        "feeds",
        "inputs",
        "load",
        "outcomes",
        "parked",
        "parked_bytes",
        "parked_name",
        "parked_until",
        "partition",
        "partitions",
        "released",
        "released_bytes",
        "released_live",
        "state_bytes",
        "states",
        "told",
        "urgent",
        "urgent_deliveries",
    )

    def __init__(self, partition: Partition, partitions: int, load: Load) -> None:
        self.partition = partition
        self.partitions = partitions
        self.load = load
        self.at_ms = 0
        self.checkpoint: dict[str, int] = {}
        partition.turns += 1
        self.block = f"{partition.epoch}-{partition.turns}"
        self.outcomes: dict[str, list[Outcome]] = {}
        """By application, in the order decided."""
        self.deliveries: dict[tuple[str, int], list[Delivery]] = {}
        """By channel and partition of the account, in the order decided."""
        self.urgent_deliveries: list[tuple[tuple[str, int], Delivery]] = []
        """Each is to be a message of its own."""
        self.events: dict[str, list[Event]] = {}
        """By application, in the order told."""
        self.feeds: dict[tuple[str, int], list[LiveMessage]] = {}
        """By account and how many seconds it is kept, in the order said."""
        self.released: list[Released] = []
        self.released_live: list[Shown] = []
        self.released_bytes = 0
        self.parked: list[list[bytes]] = []
        """Bodies by block; block i is named `<block>.<i>`."""
        self.parked_until: list[int] = []
        self.parked_bytes = 0
        self.parked_name = ""
        """Of the last block, and the bytes in it."""
        self.states: dict[str, bytes | None] = {}
        self.state_bytes = 0
        self.counted: list[Series] = []
        """One entry for each time a metric goes up by one."""
        self.blocked: list[tuple[str, str]] = []
        """(state, rule) of every rule that an outcome names."""
        self.told: list[tuple[str, str, str]] = []
        """(state, category, channel) of every outcome."""
        self.inputs: dict[tuple[str, str], list[int]] = {}
        """Lane and source to the `stored_ms` of every object decided."""
        self.entries = 0
        """Messages this will be in a batch, as long as no array is full."""
        self.urgent = False
        """Whether what is being decided came on the urgent lane."""

    # ---- Effects ---------------------------------------------------------------------------

    def outcome(self, outcome: Outcome, category: str) -> None:
        try:
            self.outcomes[outcome.app].append(outcome)
        except KeyError:
            self.outcomes[outcome.app] = [outcome]
            self.entries += 1
        state = outcome.state
        self.told.append((state, category, outcome.channel or ""))
        if outcome.rules is not None:
            for block in outcome.rules:
                self.blocked.append((state, block.rule))

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        channel, account = delivery.channel, delivery.account
        self.counted.append(("tact_deliveries_total", (channel, account, "dispatched")))
        to = channel, account_partition(account, self.partitions)
        if parked is not None:
            self.released.append(Released(delivery, parked))
            self.released_bytes += parked.size
            self.load.payload_bytes += parked.size
        elif delivery.attempt > DEVICE_STEP:
            self._add_copy(delivery)
        if self.urgent if parked is None else parked.urgent:
            delivery.urgent = True
            self.urgent_deliveries.append((to, delivery))
            self.load.urgent_deliveries += 1
            self.entries += 1
        elif to in self.deliveries:
            self.deliveries[to].append(delivery)
        else:
            self.deliveries[to] = [delivery]
            self.entries += 1

    def _add_copy(self, delivery: Delivery) -> None:
        """A further device's is more than an object is reckoned with, and repeats its content."""
        size = len(bytes(delivery.content))
        self.load.objects += 1
        self.load.payload_bytes += size
        self.released_bytes += size

    def park(self, content: bytes, expires: int) -> BodyRef:
        size = len(content)
        if not self.parked or self.parked_bytes + size > limits.PARKED_BLOCK_BYTES:
            self.parked.append([])
            self.parked_until.append(0)
            self.parked_bytes = 0
            self.parked_name = f"{self.block}-{len(self.parked) - 1}"
            self.entries += 1
        bodies = self.parked[-1]
        bodies.append(content)
        self.parked_bytes += size
        if expires > self.parked_until[-1]:
            self.parked_until[-1] = expires
        return BodyRef(self.parked_name, len(bodies) - 1, size, self.urgent)

    def event(self, event: Event) -> None:
        self.counted.append(("tact_events_total", (event.kind, event.rule)))
        if event.app in self.events:
            self.events[event.app].append(event)
        else:
            self.events[event.app] = [event]
            self.entries += 1

    def live(self, message: LiveMessage, keep_ms: int, parked: BodyRef | None = None) -> None:
        keep_s = max(1, keep_ms // 1000)
        shown = self.feeds.setdefault((message.account, keep_s), [])
        if len(shown) % limits.ARRAY_OBJECTS == 0:
            self.entries += 1
        shown.append(message)
        if parked is None:
            self.load.payload_bytes += len(bytes(message.content))
        else:
            self.load.payload_bytes += parked.size
            self.released_live.append(Shown(message, keep_s, parked))

    def count(self, name: str, *labels: str) -> None:
        self.counted.append((name, labels))

    # ---- conversations ----------------------------------------------------------------------

    def open(self, key: str, policy: Policy) -> Conversation | None:
        """The conversation, unpacked; None when it belongs to another partition."""
        packed = self.partition.states.get(key)
        if packed is not None:
            state = unpack_state(packed)
            return Conversation(key, state, policy, self, state.wake, packed)
        if partition_of(key, self.partitions) == self.partition.number:
            return Conversation(key, ConversationState(), policy, self)
        return None

    def keep(self, conversation: Conversation) -> None:
        """Pack it again, into the partition's memory and for its log record.

        At once, not at the end of the turn: what one intent needs stays in the processor's cache.
        """
        partition, key, state = self.partition, conversation.key, conversation.state
        packed = pack_state(state)
        if packed == conversation.packed:
            return
        if packed == _EMPTY_STATE:
            if partition.states.pop(key, None) is not None:
                self.states[key] = None
        else:
            earlier = self.states.get(key)
            self.state_bytes += len(packed) - (0 if earlier is None else len(earlier))
            partition.states[key] = self.states[key] = packed
        if state.wake != conversation.wake_before:
            partition.schedule(key, conversation.wake_before, state.wake)

    def note_input(self, message: IntakeMessage, objects: int) -> None:
        """Note a message that has been decided."""
        waits = self.inputs.setdefault((message.lane, message.source), [])
        if objects == 1:
            waits.append(message.stored_ms)
        else:
            waits.extend([message.stored_ms] * objects)

    def close(self) -> None:
        """The end of the turn: what the log record will say of time and checkpoint."""
        self.at_ms, self.checkpoint = self.partition.at_ms, dict(self.partition.checkpoint)

    def missing_blocks(self) -> set[str]:
        """Names of the parked blocks that released deliveries still need."""
        return {released.parked.block for released in self.released}

    def fill_bodies(self, blocks: Mapping[str, list[bytes]]) -> None:
        """Put the parked contents into the deliveries that were released."""
        for delivery, parked in self.released:
            bodies = blocks.get(parked.block)
            if bodies is None:
                self._body_lost(delivery)
            else:
                content = _decode_content(bodies[parked.index])
                delivery.content = content_for(content, delivery.channel)
        for message, keep_s, parked in self.released_live:
            bodies = blocks.get(parked.block)
            if bodies is None:  # what was not sent was not said
                self.feeds[message.account, keep_s].remove(message)
            else:
                content = _decode_content(bodies[parked.index])
                message.content = content_for(content, message.channel)
        self.released.clear()
        self.released_live.clear()

    def _body_lost(self, delivery: Delivery) -> None:
        """The ledger no longer has the body: say so instead of sending something else."""
        to = delivery.channel, account_partition(delivery.account, self.partitions)
        if (to, delivery) in self.urgent_deliveries:
            self.urgent_deliveries.remove((to, delivery))
        else:
            self.deliveries[to].remove(delivery)
        self.count("tact_bodies_lost_total")
        if delivery.attempt > DEVICE_STEP:
            return  # of a further device: the first one's says it
        lost = Outcome(
            delivery.intent,
            delivery.app,
            delivery.customer,
            "failed",
            delivery.at,
            channel=delivery.channel,
            delivery=delivery.id,
            reason="its parked body is no longer in the ledger",
        )
        self.outcome(lost, delivery.category)


class Turn:
    """One turn of a host over the partitions it owns."""

    def __init__(
        self, partitions: Mapping[int, Partition], partition_count: int, policy: Policy
    ) -> None:
        self.owned = partitions
        self.partition_count = partition_count
        self.policy = policy
        self.works: dict[int, Work] = {}
        self.load = Load()
        self.full = False
        """It must be committed before it takes more."""

    @property
    def empty(self) -> bool:
        return not self.works

    def receive(self, message: IntakeMessage, clock_ms: int) -> int:
        """Decide one message; returns how many objects it held (0: not ours, or decided before)."""
        partition = self.owned.get(message.partition)
        if partition is None or partition.lost:
            return 0
        lane = message.lane
        if message.sequence <= partition.checkpoint[lane]:
            return 0
        partition.checkpoint[lane] = message.sequence
        work = self._work(partition, clock_ms)
        now = partition.at_ms
        work.urgent = lane == "urgent"
        items = decode(lane, message.source, message.payload, message.packed)
        policy, accepted = self.policy, message.stored_ms
        most_entries = limits.ARRAY_ENTRIES - self.load.objects // _OBJECTS_A_MESSAGE
        most_state, most_released = limits.RECORD_STATE_BYTES, limits.RELEASED_BYTES
        for item in items:
            if type(item) is Rejection:
                self._reject(work, message, item, now)
                continue
            if (
                work.state_bytes > most_state
                or work.released_bytes > most_released
                or work.entries > most_entries
            ):
                self._reject(work, message, _refused(item, _TOO_MUCH), now)
                continue
            conversation = work.open(item.customer, policy)
            if conversation is None:
                self._reject(work, message, _refused(item, _FOREIGN), now)
                continue
            if 0 < conversation.state.wake <= now:
                conversation.wake(now)  # wake-ups due go before an arrival
            conversation.receive(item, accepted, now)
            work.keep(conversation)
        work.urgent = False
        count = len(items)
        work.note_input(message, count)
        self._add_load(work, count, len(message.payload))
        return count

    def wake(self, partition: Partition, key: str, clock_ms: int) -> None:
        """Decide again what is due for one conversation."""
        work = self._work(partition, clock_ms)
        conversation = work.open(key, self.policy)
        told = len(work.told)
        if conversation is not None:
            conversation.wake(partition.at_ms)
            work.keep(conversation)
        self.load.wakes += 1
        # One may release many held intents; each is told of.
        self._add_load(work, max(1, len(work.told) - told), 0)

    def close(self) -> list[Work]:
        """The turn's work; the partitions' memories have moved on to it."""
        for work in self.works.values():
            work.close()
        return list(self.works.values())

    def _work(self, partition: Partition, clock_ms: int) -> Work:
        """What this turn does to a partition. Its time never goes back."""
        if clock_ms > partition.at_ms:
            partition.at_ms = clock_ms
        work = self.works.get(partition.number)
        if work is None:
            work = Work(partition, self.partition_count, self.load)
            self.works[partition.number] = work
        return work

    def _add_load(self, work: Work, objects: int, payload_bytes: int) -> None:
        """Add to the load, and see whether that is enough for one turn."""
        load = self.load
        load.objects += objects
        load.payload_bytes += payload_bytes
        if (
            load.objects >= limits.TURN_INTENTS
            or load.payload_bytes >= limits.TURN_PAYLOAD_BYTES
            or load.urgent_deliveries >= limits.TURN_URGENT
            or work.state_bytes >= limits.TURN_STATE_BYTES
            or work.entries + load.objects // _OBJECTS_A_MESSAGE >= limits.TURN_MESSAGES
        ):
            self.full = True

    def _reject(self, work: Work, message: IntakeMessage, rejection: Rejection, now: int) -> None:
        work.count("tact_rejected_total", message.lane)
        work.outcome(
            Outcome(
                rejection.id,
                message.source,
                rejection.customer,
                "rejected",
                rfc3339(now),
                reason=rejection.reason,
            ),
            "",
        )


_FOREIGN = "customer does not match the subject: it belongs to another partition"
_TOO_MUCH = "this array leads to more than one commit holds; use smaller arrays"


def _refused(message: Message, reason: str) -> Rejection:
    name = message.delivery if isinstance(message, Receipt) else message.id
    return Rejection(reason, name, message.customer)
