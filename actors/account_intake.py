"""From what is read of the channels to the turns of partitions: urgent first, the rest in order.

A mass message is tens of thousands of deliveries to be taken over, and a one-time code stored after
it must not wait for that. What is urgent comes alone in its message, so it is found among what is
buffered and taken ahead of its turn. The checkpoint stays where it is: the partition's state names
what was taken ahead of it, in the same log record, until the checkpoint passes that. So after a
crash nothing is taken twice and nothing is left out, however long the rest takes. Source: ADR 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import msgspec

from actors.account import Account
from actors.account_io import AccountLedger, decode_deliveries
from actors.account_partition import AccountPartition, attempt_of
from actors.failover import redirected
from channels.accounts import AccountConfig
from channels.registry import PROVIDERS
from hub.contract.times import parse_rfc3339
from hub.contract.types import Delivery
from hub.ledger.port import DeliveryReader, IntakeMessage

DELIVERIES_SLICE = 256
"""Taken over of each channel between two looks at what is urgent, and the rest of a message."""
URGENT_SLICE = 128
"""Taken ahead of their turn at once."""
AHEAD_MAX = 256
"""Messages of a channel that a partition has taken ahead of its checkpoint; what is urgent beyond
them waits its turn. Each is some 30 bytes of state while the backlog before it is taken over."""

BACKLOG = 8
"""Messages of a channel that are more than a turn takes, or may be."""

AccountOf = Callable[[AccountPartition, str], Account | None]
"""The account of a name, made if it is not in memory; None: it is not configured."""

_decode_one = msgspec.json.Decoder(Delivery).decode


class DeliveryIntake:
    """What a host of accounts reads. `partitions` are those it owns, as they are at any time."""

    def __init__(
        self,
        ledger: AccountLedger,
        accounts: Sequence[AccountConfig],
        partitions: Mapping[int, AccountPartition],
        account_of: AccountOf,
    ) -> None:
        self._ledger = ledger
        self._partitions = partitions
        self._account_of = account_of
        self._configs: dict[str, AccountConfig] = {}
        self._outside: Set[str] = frozenset()
        """Accounts whose deliveries are left to a gateway."""
        self.channels: tuple[str, ...] = ()
        self.reader: DeliveryReader | None = None
        self.configure(accounts)

    def configure(self, accounts: Sequence[AccountConfig]) -> bool:
        """Take over for these accounts from now on. True: other channels must be opened."""
        ours = [account for account in accounts if not PROVIDERS[account.provider].outside]
        before, self.channels = self.channels, tuple(sorted({a.channel for a in ours}))
        self._configs = {account.name: account for account in accounts}
        self._outside = self._configs.keys() - {account.name for account in ours}
        return self.channels != before

    async def open(self) -> None:
        """Read on from the checkpoints of what is owned now."""
        await self.close()
        self.reader = self._ledger.deliveries(self.channels)
        owned = {n: dict(p.checkpoint) for n, p in self._partitions.items() if not p.lost}
        await self.reader.open(owned if self.channels else {})

    async def close(self) -> None:
        if self.reader is not None:
            await self.reader.close()

    @property
    def waits(self) -> bool:
        """Whether anything is there to be taken."""
        reader = self.reader
        return reader is not None and any(map(reader.buffered, self.channels))

    @property
    def backlog(self) -> bool:
        """Whether so much is there that it takes several turns."""
        reader = self.reader
        return reader is not None and any(reader.buffered(c) > BACKLOG for c in self.channels)

    def take_urgent(self, now: int) -> dict[str, int]:
        """Take what is urgent ahead of its turn: how many for which account.

        In the order decided, without leaving one out: two for one customer leave in their order.
        """
        taken: dict[str, int] = {}
        for channel in self.channels if self.reader is not None else ():
            for _ in range(URGENT_SLICE):
                if self._full or any(len(p.ahead.get(channel, ())) >= AHEAD_MAX for p in self._all):
                    break
                found = self.reader.urgent(channel, 1)
                if not found:
                    break
                name = self._take_ahead(found[0], now)
                if name is not None:
                    taken[name] = taken.get(name, 0) + 1
        return taken

    def _take_ahead(self, message: IntakeMessage, now: int) -> str | None:
        partition = self._partitions.get(message.partition)
        if partition is None or partition.has(message.lane, message.sequence):
            return None
        delivery = _decode_one(message.payload)
        if not delivery.urgent:  # its content says so
            return None
        partition.take_ahead(message.lane, message.sequence)
        self._take(partition, delivery, message.sequence, 0, now)
        return delivery.account

    def take(self, now: int) -> None:
        """Take what comes next of each channel, in its order."""
        for channel in self.channels if self.reader is not None else ():
            taken = 0
            while taken < DELIVERIES_SLICE:
                if self._full:
                    return
                found = self.reader.take(channel, 1)
                if not found:
                    break
                taken += 1 + self._take_message(found[0], now)

    def _take_message(self, message: IntakeMessage, now: int) -> int:
        """Take one message; returns how many deliveries it had for us."""
        channel, sequence = message.lane, message.sequence
        partition = self._partitions.get(message.partition)
        if partition is None or sequence <= partition.checkpoint.get(channel, 0):
            return 0
        known = partition.has(channel, sequence)
        partition.passed(channel, sequence)
        if known:
            return 0
        deliveries = decode_deliveries(message.payload)
        some = deliveries if isinstance(deliveries, list) else [deliveries]
        for place, delivery in enumerate(some):
            self._take(partition, delivery, sequence, place, now)
        return len(some)

    def _take(
        self, partition: AccountPartition, delivery: Delivery, sequence: int, place: int, now: int
    ) -> None:
        other = redirected(delivery, self._configs)
        if other is None and delivery.account in self._outside:
            return
        attempt = attempt_of(delivery, sequence, place, parse_rfc3339(delivery.expires_at))
        if other:
            partition.pass_on(delivery, other)
            return
        account = self._account_of(partition, delivery.account) if other is None else None
        if account is None:
            partition.tell(delivery.id, attempt, "failed", now, "config", "no-such-account")
        else:
            account.take(delivery, attempt, now)

    @property
    def _all(self) -> Sequence[AccountPartition]:
        return tuple(self._partitions.values())

    @property
    def _full(self) -> bool:
        return any(partition.full for partition in self._partitions.values())
