"""The zone a customer was in at a moment, read off what was published; and local time in it.

Intents say their zone when they are decided, which the ledger dates exactly. Commands have no
outcome: one is taken to act somewhere between being stored and `SETTLED_MS` later.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from hub.checkers.records import Handed, History, Name
from hub.contract.types import Forget, ProfileSet
from hub.contract.zones import zone

SETTLED_MS = 600_000
"""By then a stored command has surely been decided; longer outages are not audited."""


class _Statement(NamedTuple):
    """The customer is in `zone` (None: where the policy says) from somewhere in [first, last]."""

    first: float
    last: float
    zone: str | None


class Zones:
    """Which zones may have been in force when a delivery was decided: nearly always one."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._said: dict[str, list[_Statement]] = defaultdict(list)
        for each in history.published:
            command = each.message
            if isinstance(command, Forget):
                said = None
            elif isinstance(command, ProfileSet) and command.timezone is not None:
                said = command.timezone
            else:
                continue
            statement = _Statement(each.stored_ms, each.stored_ms + SETTLED_MS, said)
            self._said[command.customer].append(statement)
        for name, decided in history.lives.items():
            if not decided:  # rejected or repeated: nothing was taken from it
                continue
            at = min(lives[0][0].at_ms for lives in decided.values())
            for each in history.lines[name].intents:
                if each.message.timezone is not None:  # type: ignore[union-attr]
                    self._said[name.customer].append(_Statement(at, at, each.message.timezone))  # type: ignore[union-attr]
        for customer, statements in self._said.items():
            statements.sort(key=lambda statement: statement.first)
            if len({s.zone for s in statements}) == 1 and all(
                s.first == s.last for s in statements
            ):
                self._said[customer] = statements[:1]  # repeats of one zone say it once

    def at(self, handed: Handed) -> list[str]:
        """The zones, one of which was in force when this was decided."""
        customer, at = handed.delivery.customer, handed.at_ms
        default = self._history.policy_of(handed.delivery).timezone
        statements = self._said.get(customer)
        if statements is None:
            return [default]
        own = self._own(handed)
        if own is not None:
            return [own]
        made = [statement for statement in statements if statement.first <= at]
        # What was said in the same millisecond may be later in the turn; what was said before is
        # surely replaced by what came after it and was done before now.
        done = [statement.first for statement in made if statement.last < at]
        newest = max(done, default=None)
        zones = {
            statement.zone or default
            for statement in made
            if newest is None or statement.last >= newest
        }
        if newest is None:
            zones.add(default)
        return sorted(zones)

    def _own(self, handed: Handed) -> str | None:
        """What the intent itself said, if it was dispatched as it arrived: certainly in force."""
        delivery = handed.delivery
        name = Name(delivery.app, delivery.intent, delivery.customer)
        line = self._history.lines.get(name)
        if line is None or len(line.intents) != 1:
            return None
        if delivery.attempt > 1 and not line.combined:  # a fallback: long after it arrived
            return None
        if any(told.outcome.state == "held" for told in line.told):
            return None
        return line.intents[0].message.timezone  # type: ignore[union-attr]


def zones_of(history: History) -> Zones:
    """The zones of a history: worked out once, for all checkers that ask."""
    if history.zones is None:
        history.zones = Zones(history)
    return history.zones


@lru_cache(maxsize=1 << 16)
def local(zone_name: str, second: int) -> datetime:
    """What a wall clock in a zone reads, to the second: finer than any window or clock change."""
    return datetime.fromtimestamp(second, zone(zone_name)).replace(tzinfo=None)
