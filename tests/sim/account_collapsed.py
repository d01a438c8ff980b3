"""What must hold where the newer of two deliveries replaces the older one that waits.

Of two of one application, address and collapse key: the older does not leave once both wait, and is
told `superseded` only for a newer one. That it is told so once, and never leaves
afterwards, `hub.checkers` say of every end that is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING

from actors.account_state import DONE, WAITING, Attempt, unpack_attempt
from hub.checkers import Handed
from hub.checkers.account_records import AccountHistory
from hub.contract.types import Delivery, Receipt
from tests.sim.account_talks import provider_name

if TYPE_CHECKING:
    from tests.sim.account_world import AccountWorld

Group = tuple[str, str, str, str]
"""Account, application, address and collapse key."""


@dataclass
class _Known:
    """One delivery at one account, as the log says."""

    delivery: str
    order: tuple[int, int]
    handed: bool
    """It came from another account: it replaces nothing."""
    looks: list[tuple[int, int, Attempt]] = field(default_factory=list)
    """(LEDGER sequence, time, what the record says), rising."""
    ended: int = 0
    """LEDGER sequence of its end; 0: none yet."""

    def waits(self, sequence: int) -> bool:
        """At that record of the log, and has surely not left."""
        waits = False
        for at, _, said in self.looks:
            if at <= sequence:
                waits = said.state == WAITING and not said.unsure
        return waits

    @property
    def may_have_left(self) -> bool:
        """It waited to be sent again, when it ended."""
        before = [said for at, _, said in self.looks if at < self.ended]
        return bool(before) and before[-1].state == WAITING and before[-1].unsure

    @property
    def came(self) -> int:
        return self.looks[0][0]


class Collapsed:
    """Looks at each attempt as it is stored."""

    def __init__(self, world: AccountWorld) -> None:
        self._world = world
        self._known: dict[Group, dict[str, _Known]] = defaultdict(dict)

    def attempt(self, sequence: int, name: str, packed: bytes | None) -> None:
        """What record `sequence` says of a delivery."""
        decided = self._world.deliveries.get(name)
        if packed is None or decided is None or decided.collapse_key is None:
            return
        attempt = unpack_attempt(packed)
        kind = self._world.scenario.kinds.get(provider_name(attempt.account))
        if kind is None or not kind.supersedes:
            return
        group = attempt.account, *_group(decided)[1:]
        order = attempt.sequence, attempt.place
        known = self._known[group].setdefault(name, _Known(name, order, attempt.handed))
        known.looks.append((sequence, self._world.clock.now_ms(), attempt))
        if attempt.state == DONE and not known.ended:
            known.ended = sequence

    def violations(self, history: AccountHistory) -> Iterator[str]:
        """At the end."""
        for (account, *_), some in self._known.items():
            for older, newer in permutations(some.values(), 2):
                if older.order < newer.order and not newer.handed:
                    yield from self._left_all_the_same(account, older, newer)
        for each in history.published:
            if isinstance(each.message, Receipt) and each.message.failure == "superseded":
                yield from self._superseded(each.message.delivery, history.handed)

    def _left_all_the_same(self, account: str, older: _Known, newer: _Known) -> Iterator[str]:
        """But what was on its way when the other came, and had to come back, may."""
        both = max(older.came, newer.came)
        if not (older.waits(both) and newer.waits(both)):
            return
        if older.came < both and not older.waits(both - 1):
            return
        at_ms = next(at for sequence, at, _ in older.looks + newer.looks if sequence == both)
        for seen in self._world.carriers[account].seen:
            if seen.delivery == older.delivery and seen.at_ms > at_ms:
                yield f"newest-only: {older.delivery} left, and {newer.delivery} had replaced it"
                return

    def _superseded(self, delivery: str, handed: list[Handed]) -> Iterator[str]:
        ends = ((group, some[delivery]) for group, some in self._known.items() if delivery in some)
        for group, known in ends:
            if known.may_have_left:
                yield f"newest-only: superseded, and it may have left: {delivery}"
            newer = (
                known.order < (each.sequence, each.index) < (known.ended, 0)
                and each.delivery.via is None
                and group == _group(each.delivery)
                for each in handed
            )
            if known.ended and any(newer):
                return
        yield f"newest-only: superseded by nothing: {delivery}"


def _group(delivery: Delivery) -> Group:
    return delivery.account, delivery.app, delivery.to, delivery.collapse_key or ""
