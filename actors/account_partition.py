"""A partition of accounts in the memory of its owner, and what one turn changes of it.

The same shape as a partition of conversations: packed values by key, a checkpoint, a fence and a
heap of wake-ups; memory runs ahead of the ledger by the turn in flight and is dropped whole when a
commit is refused. Source: ADR 6.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from actors.account import Account
from actors.account_queue import Entry
from actors.account_receipts import EARLY_KEPT_MS, forget_ids
from actors.account_state import (
    ACCEPTED,
    DONE,
    OWN,
    STATE_NAMES,
    UNKNOWN,
    WAITING,
    Attempt,
    ahead_key,
    attempt_key,
    delivery_id,
    note_key,
    pack,
    unpack_attempt,
    unpack_early,
    unpack_outbound,
    unpack_seen,
)
from channels.provider import NOTES_MAX, ProviderCommand, ProviderInbound, Stored
from hub.contract.subjects import account_partition
from hub.contract.times import moment_of, rfc3339
from hub.contract.types import Delivery, DndSet, FailureClass, Inbound, ReceiptStatus
from hub.ledger.port import Outbound, PartitionImage
from hub.limits import ADDRESS_CHARS, KIB
from hub.metrics import Series

SOURCE = "accounts"
"""Who publishes the receipts, inbound messages and commands of accounts; see `hub.ledger.accounts`.
"""
PEERS_MAX = 1_000_000
"""Addresses of one partition whose customer is remembered; then those longest unused are
forgotten, a tenth at a time."""

RECORD_BYTES = 512 * KIB
"""Changes of one turn: with the last thing added, and the outbox, a log record fits a message."""
HANDED_BYTES = 512
"""Of a delivery for another account beside its content, about."""
HANDED_ALONE_BYTES = 1 * KIB
"""And more of an urgent one, a message of its own: so many in a turn fit BATCH_MESSAGES."""

AccountOf = Callable[[str], Account | None]
"""The account of a name, made if it is not in memory; None: it is not configured."""

_encode = msgspec.json.encode


class AccountPartition:
    """What one owner knows of one partition of accounts. Implements `actors.account.Effects` and
    `actors.account_receipts.Heard`."""

    def __init__(self, image: PartitionImage, partitions: int, owned_ms: int) -> None:
        self.owned_ms = owned_ms
        self.log = image.partition
        """The number of its log: `hub.contract.subjects.account_log`."""
        self.number = image.partition - partitions
        self.partitions = partitions
        self.epoch = image.epoch
        self.fence = image.fence
        self.at_ms = image.at_ms
        self.checkpoint = dict(image.checkpoint)
        self.states = image.states
        self.log_bytes = image.log_bytes
        self.snapshot_bytes = 0
        self.lost = False
        self.leaving = False
        """It is being given up, in order."""
        self.accounts: dict[str, Account] = {}
        self.wakes: list[tuple[int, str]] = []
        """Heap of (time, key); an entry is stale when its value says another time."""
        self.unsent: dict[str, list[Outbound]] = {}
        """By outbox key: stored, and not yet told to INTAKE."""
        self.fetches: list[tuple[Account, Entry]] = []
        self.notes: dict[str, dict[str, bytes]] = {}
        """What the providers of accounts have noted, by account."""
        self.woken: dict[str, Account] = {}
        """Accounts that may claim again, because of something that was due."""
        self.ahead: dict[str, deque[int]] = {}
        """By channel, the messages that were taken ahead of the checkpoint, in their order."""
        self.restoring: deque[str] = deque()
        """Deliveries that an earlier owner left, in the order decided, not taken up yet."""
        self.turns = 0
        self._begin()

    def _begin(self) -> None:
        self.changed: dict[str, bytes | None] = {}
        self.changed_bytes = 0
        self.outbound: list[Outbound] = []
        self.handed: list[Delivery] = []
        self.stored: list[Stored] = []
        """To be called when the turn is committed."""
        self.counted: Counter[Series] = Counter()
        self.moved = False
        """The checkpoint has moved."""

    def in_memory(self, now: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Its accounts in memory: what waits, what is open, their connection and circuit."""
        for name, account in self.accounts.items():
            yield (
                name,
                {
                    "waiting": account.queue.size,
                    "open": len(account.open),
                    "window": account.gate.link.window,
                    "reason": account.gate.link.reason,
                    "circuit": account.gate.breaker.state(now),
                },
            )

    # ---- the turn --------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """The turn has as much as its log record may hold."""
        return self.changed_bytes >= RECORD_BYTES

    @property
    def touched(self) -> bool:
        """Whether the turn has anything to commit."""
        return bool(self.changed or self.outbound or self.stored or self.moved)

    def close(self, now: int) -> TurnChanges:
        """End the turn: what is to be committed. The next one begins."""
        self.at_ms = max(self.at_ms, now)
        self.turns += 1
        key = f"o:{self.epoch}-{self.turns}"
        if self.outbound:
            self.store(key, pack(self.outbound))
        changes = TurnChanges(self, key if self.outbound else "")
        self._begin()
        return changes

    def settled(self, key: str) -> None:
        """All of an outbox entry is stored in INTAKE: the next turn forgets it."""
        if self.unsent.pop(key, None) is not None:
            self.store(key, None)

    def has(self, channel: str, sequence: int) -> bool:
        """Whether this message was taken: in its turn, or ahead of it."""
        if sequence <= self.checkpoint.get(channel, 0):
            return True
        return sequence in self.ahead.get(channel, ())

    def passed(self, channel: str, sequence: int) -> None:
        """The messages of a channel up to this one have been taken."""
        self.checkpoint[channel] = sequence
        self.moved = True
        ahead = self.ahead.get(channel)
        while ahead and ahead[0] <= sequence:
            key = ahead_key(channel, ahead.popleft())
            if self.changed.get(key) is None:
                self.store(key, None)
            else:  # taken ahead in this very turn: nobody needs to know
                del self.changed[key], self.states[key]

    def take_ahead(self, channel: str, sequence: int) -> None:
        """This message is taken before its turn; those that were come before it."""
        self.ahead.setdefault(channel, deque()).append(sequence)
        self.store(ahead_key(channel, sequence), b"")

    # ---- effects ---------------------------------------------------------------------------------

    def load(self, key: str) -> bytes | None:
        return self.states.get(key)

    def store(self, key: str, value: bytes | None) -> None:
        before = self.changed.get(key)
        self.changed_bytes += len(key) + len(value or b"") - len(before or b"")
        self.changed[key] = value
        if value is None:
            self.states.pop(key, None)
        else:
            self.states[key] = value

    def wake(self, at_ms: int, key: str) -> None:
        heapq.heappush(self.wakes, (at_ms, key))
        if len(self.wakes) > 1_024 + 3 * len(self.states):
            self._drop_stale()

    def tell(
        self,
        delivery: str,
        attempt: Attempt,
        status: ReceiptStatus,
        at_ms: int,
        failure: FailureClass | None,
        code: str,
        last: bool = False,
    ) -> None:
        delivery = delivery_id(delivery)
        ids = [one for one in attempt.ids if one]
        receipt = _Told(
            delivery,
            attempt.customer,
            status,
            rfc3339(at_ms),
            failure,
            code[:64] or None,
            ids[0][:128] if ids else None,
            last,
            *(_dead(attempt) if failure == "dead_address" else ()),
        )
        payload = _encode(receipt)
        message_id = f"{delivery}/{attempt.customer}/{status}"
        self._send("receipt", attempt.customer, message_id, payload)
        labels = (attempt.channel, attempt.account, status)
        self.counted["tact_receipts_total", labels] += 1

    def fetch(self, account: Account, entry: Entry) -> None:
        self.fetches.append((account, entry))

    def hand_over(self, entry: Entry, account: str) -> None:
        assert entry.delivery is not None
        self.pass_on(entry.delivery, account)

    def pass_on(self, delivery: Delivery, account: str) -> None:
        """It is another account's: stored again, for that one."""
        handed = msgspec.structs.replace(delivery, account=account, via=delivery.account)
        self.handed.append(handed)
        self.changed_bytes += HANDED_BYTES + len(delivery.content)
        self.changed_bytes += HANDED_ALONE_BYTES * delivery.urgent
        self.count("tact_handed_over_total", delivery.account)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        self.counted[name, labels] += by  # type: ignore[assignment]

    # ---- what customers say --------------------------------------------------------------------

    def inbound(self, account: Account, customer: str, inbound: ProviderInbound, id: str) -> None:
        message = Inbound(
            id=id[:128],
            channel=account.config.channel,
            account=account.name,
            customer=customer,
            content={key: msgspec.Raw(_encode(value)) for key, value in inbound.content.items()},
            at=moment_of(inbound.at_ms),
            agent=inbound.agent[:64] or None,
            sender=inbound.sender[:ADDRESS_CHARS] or None,
        )
        self._send("inbound", customer, f"{account.name}/in/{id}", _encode(message))

    def command(self, account: Account, customer: str, command: ProviderCommand) -> None:
        given = {"id": command.id, "app": SOURCE, "customer": customer, "op": command.op}
        payload = _encode(given | command.fields)
        self._send("command", customer, f"{account.name}/{command.id}", payload)

    def note(self, account: str, key: str, value: bytes | None) -> None:
        notes = self.notes.setdefault(account, {})
        if value is None:
            notes.pop(key, None)
        elif key not in notes and len(notes) >= NOTES_MAX:
            self.count("tact_provider_total", account, "note-refused")
            return
        else:
            notes[key] = value
        self.store(note_key(account, key), value)

    def opt_out(self, account: Account, customer: str, id: str, at_ms: int) -> None:
        channel = account.config.channel
        scope = "all" if account.config.opt_out.scope == "all" else f"channel:{channel}"
        name = f"optout-{id}"[:64]
        command = DndSet(id=name, app=SOURCE, customer=customer, scope=scope)
        self._send("command", customer, f"{account.name}/{name}", _encode(command))
        self.count("tact_opt_outs_total", account.name)

    def reply(self, account: Account, customer: str, to: str, id: str, text: str) -> None:
        """The answer to a refusal: an attempt without an intent, claimed like any other."""
        attempt = Attempt(
            account=account.name,
            channel=account.config.channel,
            customer=customer,
            app=OWN,
            priority=9,
            sequence=0,
            place=self.turns,
            expires_ms=0,
            recipient=to,
        )
        delivery = own_delivery(f"{OWN}:reply-{id[:40]}:1", attempt, text, self.at_ms)
        account.take(delivery, attempt, self.at_ms)

    def _send(self, lane: str, customer: str, message_id: str, payload: bytes) -> None:
        self.outbound.append(Outbound(lane, customer, message_id, payload))
        self.changed_bytes += len(payload) + 64

    # ---- time ------------------------------------------------------------------------------------

    def due(self, now: int, most: int, account_of: AccountOf) -> None:
        """Carry out up to `most` wake-ups. `account_of` makes an account that was put away."""
        while self.wakes and self.wakes[0][0] <= now and most > 0 and not self.full:
            at, key = heapq.heappop(self.wakes)
            most -= 1
            packed = self.states.get(key)
            if packed is None:
                continue
            if key.startswith("a:"):
                self._attempt_due(key[2:], unpack_attempt(packed), at, now, account_of)
            elif key.startswith("q:"):
                kept = [one for one in unpack_early(packed) if one.kept_ms > now - EARLY_KEPT_MS]
                self.count("tact_ignored_total", "receipt-unmatched")
                self.store(key, pack(kept) if kept else None)
            elif key.startswith("i:") and unpack_seen(packed).until_ms <= now:
                self.store(key, None)

    def _attempt_due(
        self, delivery: str, attempt: Attempt, at: int, now: int, account_of: AccountOf
    ) -> None:
        if attempt.state == WAITING and 0 < attempt.expires_ms <= now:
            account = self.accounts.get(attempt.account)
            if account is not None:
                account.refuse(delivery, "expired", "", now)
                self.woken[account.name] = account
        elif attempt.wake_ms != at:
            return  # stale: something has happened since
        elif attempt.state == DONE:
            self.store(attempt_key(delivery), None)
            forget_ids(self, attempt)
        elif attempt.state in (UNKNOWN, ACCEPTED):
            account = account_of(attempt.account)
            if account is None:
                self._abandon(delivery, attempt, now)
            else:
                account.give_up_waiting(delivery, attempt, now)
                self.woken[account.name] = account

    def next_wake(self) -> int | None:
        """When the next may be due; None when none is."""
        return self.wakes[0][0] if self.wakes else None

    def _drop_stale(self) -> None:
        self.wakes = [(at, key) for at, key in self.wakes if key in self.states]
        heapq.heapify(self.wakes)

    # ---- recovery ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Look through what an earlier owner left."""
        attempts = []
        outboxes: list[tuple[int, int, str]] = []
        ahead: dict[str, list[int]] = {}
        for key, packed in self.states.items():
            if key.startswith("a:"):
                attempts.append((key[2:], unpack_attempt(packed)))
            elif key.startswith("o:"):
                epoch, turn = key[2:].split("-")
                outboxes.append((int(epoch), int(turn), key))
            elif key.startswith("q:"):
                self.wakes.append((unpack_early(packed)[-1].kept_ms + EARLY_KEPT_MS, key))
            elif key.startswith("m:"):
                _, account, note = key.split(":", 2)
                self.notes.setdefault(account, {})[note] = packed
            elif key.startswith("i:"):
                self.wakes.append((unpack_seen(packed).until_ms, key))
            elif key.startswith("u:"):
                channel, sequence = key[2:].split(":")
                ahead.setdefault(channel, []).append(int(sequence))
        for _, _, key in sorted(outboxes):  # in the order of their turns
            self.unsent[key] = unpack_outbound(self.states[key])
        self.ahead = {channel: deque(sorted(some)) for channel, some in ahead.items()}
        attempts.sort(key=lambda one: (one[1].sequence, one[1].place))
        self.restoring.extend(name for name, _ in attempts)
        self.wakes.extend((attempt.wake_ms, attempt_key(name)) for name, attempt in attempts)
        heapq.heapify(self.wakes)

    def restore(self, account_of: AccountOf, now: int) -> None:
        """Take it up, as much as a turn may hold. `account_of` makes the account of a name."""
        while self.restoring and not self.full:
            delivery = self.restoring.popleft()
            packed = self.states.get(attempt_key(delivery))
            if packed is None:
                continue
            attempt = unpack_attempt(packed)  # as it is now: receipts may have come before us
            account = account_of(attempt.account)
            if account is not None:
                account.restore(delivery, attempt, now)
            else:
                self._abandon(delivery, attempt, now)

    def replaced(self, before: Account, after: Account | None, now: int) -> None:
        """An account is made anew by another configuration, or is gone with it."""
        for entry in list(before.queue):
            if after is None:
                before.refuse(entry.id, "config", "no-such-account", now)
            else:
                after.restore(entry.id, entry.attempt, now)
        if after is not None:  # short limits do not know what has just left
            after.gate.pacer.restarted(now)

    def _abandon(self, delivery: str, attempt: Attempt, now: int) -> None:
        """Its account is not configured any more."""
        if not attempt.told and attempt.app != OWN:
            if attempt.state == WAITING and not attempt.unsure:
                self.tell(delivery, attempt, "failed", now, "config", "no-such-account")
            else:
                self.tell(delivery, attempt, "unknown", now, None, "no-such-account")
        self.store(attempt_key(delivery), None)
        forget_ids(self, attempt)

    def copy(self) -> PartitionImage:
        """What a snapshot stores."""
        return PartitionImage(
            self.log, self.epoch, self.fence, self.at_ms, dict(self.checkpoint), dict(self.states)
        )

    def forget_peers(self) -> None:
        """Keep the memory of addresses within PEERS_MAX."""
        peers = [key for key in self.states if key.startswith("n:")]
        if len(peers) <= PEERS_MAX:
            return
        for key in peers[: PEERS_MAX // 10]:  # a dictionary keeps the order of first use
            self.store(key, None)

    def describe(self) -> dict[str, int]:
        """How many attempts there are in each state."""
        found: Counter[str] = Counter()
        for key, packed in self.states.items():
            if key.startswith("a:"):
                found[STATE_NAMES[unpack_attempt(packed).state]] += 1
        return dict(found)


class TurnChanges:
    """What one turn changed of one partition: what its commit holds, and what follows it."""

    __slots__ = (
        "at_ms",
        "changed",
        "checkpoint",
        "counted",
        "handed",
        "outbound",
        "outbox",
        "partition",
        "stored",
    )

    def __init__(self, partition: AccountPartition, outbox: str) -> None:
        self.partition = partition
        self.changed = partition.changed
        self.handed = partition.handed
        self.stored = partition.stored
        self.counted = partition.counted
        self.checkpoint = dict(partition.checkpoint)
        self.at_ms = partition.at_ms
        self.outbound = partition.outbound
        self.outbox = outbox
        """Key of what it has for INTAKE; empty for nothing."""


class _Told(msgspec.Struct, omit_defaults=True):
    """A `hub.contract.types.Receipt` with its time written already."""

    delivery: str
    customer: str
    status: str
    at: str
    failure: str | None = msgspec.field(name="class", default=None)
    code: str | None = None
    provider_id: str | None = None
    last: bool = False
    to: str | None = None
    dead_since: str | None = None


def _dead(attempt: Attempt) -> tuple[str | None, str | None]:
    """The address of an attempt, and since when its provider knows that it is dead."""
    return attempt.recipient or None, rfc3339(attempt.dead_ms) if attempt.dead_ms else None


def own_delivery(id: str, attempt: Attempt, text: str, now: int) -> Delivery:
    """What the account says for itself, as a delivery."""
    return Delivery(
        id=id,
        intent="",
        app=OWN,
        customer=attempt.customer,
        category="reply",
        priority=attempt.priority,
        channel=attempt.channel,
        account=attempt.account,
        to=attempt.recipient,
        content=msgspec.Raw(_encode({"text": text})),
        attempt=1,
        at=rfc3339(now),
        expires_at=rfc3339(now),
    )


def attempt_of(delivery: Delivery, sequence: int, place: int, expires_ms: int) -> Attempt:
    """The attempt a delivery becomes when it is taken."""
    return Attempt(
        account=delivery.account,
        channel=delivery.channel,
        customer=delivery.customer,
        app=delivery.app,
        priority=delivery.priority,
        sequence=sequence,
        place=place,
        expires_ms=expires_ms,
        handed=delivery.via is not None,
    )


def handed_subjects(handed: list[Delivery], partitions: int) -> Mapping[tuple[str, int], list[Any]]:
    """Deliveries for other accounts, by channel and the partition of the account."""
    found: dict[tuple[str, int], list[Any]] = {}
    for delivery in handed:
        to = delivery.channel, account_partition(delivery.account, partitions)
        found.setdefault(to, []).append(delivery)
    return found
