"""What must hold of what customers say to accounts, and of what is told of the answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from hub import limits
from hub.checkers import Published
from hub.checkers.wecom import EverybodyIsHeard
from hub.checkers.wecom_records import Seen, WecomHistory, Wrote
from hub.contract.subjects import account_partition
from hub.contract.types import Receipt
from tests.sim.account_carrier import Carrier, Report
from tests.sim.account_reader import CURSOR

if TYPE_CHECKING:
    from tests.sim.account_world import AccountWorld

_receipt = msgspec.json.Decoder(Receipt).decode


def names_of(account: str, report: Report) -> list[str]:
    """The ids under which INTAKE is told of a report."""
    inbound = [] if report.inbound is None else [f"{account}/in/{report.inbound.id}"]
    return inbound + ([] if report.command is None else [f"{account}/{report.command.id}"])


class Talks:
    """Looks at each record of the logs as it is stored."""

    def __init__(self, world: AccountWorld) -> None:
        self._world = world

    def recorded(self, number: int, states: Mapping[str, bytes | None]) -> None:
        """The cursor is noted with what it covers: nothing more, nothing less was decided."""
        world = self._world
        for account, carrier in world.carriers.items():
            home = account_partition(account, world.scenario.partitions)
            if not carrier.manner.reads or home != number:
                continue
            if not any(_of(account, key) for key in states):
                continue
            packed = world.replayed[number].states.get(f"m:{account}:{CURSOR}", b"0")
            covered = int(packed)
            for place, report in enumerate(carrier.kept):
                for name in names_of(account, report):
                    if bool(world.outboxed[name]) != (place < covered):
                        world.broken.append(f"cursor {covered}, and {name} is number {place}")

    def decided(self, account: str, delivery: str, status: str, payload: bytes) -> None:
        """What is told of a delivery fits what its carrier has said."""
        world = self._world
        carrier = world.carriers.get(account)
        if carrier is None:
            return
        receipt = _receipt(payload)
        decided = world.deliveries.get(delivery)
        who = "" if decided is None else decided.to
        if receipt.code == "no-such-account" and all(
            any(account == each.name for each in configured)
            for configured in (world.scenario.accounts, world.scenario.later)
        ):
            world.broken.append(f"{account} is known: {delivery}")
        if carrier.manner.confirms and status == "sent" and (delivery, status) not in carrier.told:
            world.broken.append(f"told as sent before it was: {delivery}")
        if status != "failed":
            return
        if carrier.counted.refused.get(who) == delivery:
            if receipt.failure == "window_closed":
                carrier.counted.shut.add(who)
                carrier.happened["window used up by others"] += 1
        elif receipt.failure == "window_closed":
            carrier.happened["window refused by ours"] += 1
        if self._arrived_whole(carrier, delivery) and (delivery, "failed") not in carrier.told:
            world.broken.append(f"told as failed, and it was taken: {delivery}")

    def _arrived_whole(self, carrier: Carrier, delivery: str) -> bool:
        config = next(a for a in self._world.scenario.accounts if a.name == carrier.name)
        decided = self._world.deliveries.get(delivery)
        if decided is None or config.duplicates != "never":
            return False
        return carrier.has_all(delivery, msgspec.json.decode(decided.content).get("units", 1))


def _of(account: str, key: str) -> bool:
    return key.startswith(("o:", f"m:{account}:"))


def talk_violations(world: AccountWorld, published: list[Published]) -> Iterator[str]:
    """At the end: everything that was said is in INTAKE, once, and in its order."""
    for name, count in world.outboxed.items():
        if count > 1 and "optout" not in name and name.count("/") < 3:
            yield f"decided {count} times: {name}"
    known = {account.name for account in world.accounts}
    carriers = [carrier for name, carrier in world.carriers.items() if name in known]
    wrote = [
        Wrote(
            at_ms=report.inbound.at_ms,
            account=carrier.name,
            sender=report.inbound.sender,
            id=report.inbound.id,
            text=report.inbound.content.get("text"),
            agent=report.inbound.agent,
            ordered=carrier.manner.reads,
        )
        for carrier in carriers
        for report in carrier.said
        if report.inbound is not None
    ]
    published = _in_time(published)
    history = WecomHistory(seen=Seen(wrote=wrote), published=published, handed=[])
    yield from map(str, EverybodyIsHeard().check(history))
    yield from _commands(carriers, published)


def _in_time(published: list[Published]) -> list[Published]:
    """Without what INTAKE cannot know for a repeat any more: a partition had no owner so long."""
    first: dict[tuple[str, str], float] = {}
    found = []
    for each in published:
        name = each.lane, str(getattr(each.message, "id", each.sequence))
        began_ms = first.setdefault(name, each.stored_ms)
        if each.stored_ms - began_ms < limits.DUPLICATE_WINDOW_S * 1_000 or each.lane == "receipt":
            found.append(each)
    return found


def _commands(carriers: list[Carrier], published: list[Published]) -> Iterator[str]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(published):
        if each.lane == "command":
            places[each.message.id].append(place)  # type: ignore[union-attr]
    for carrier in carriers:
        newest: Counter[str] = Counter()
        for report in carrier.said:
            if (command := report.command) is None:
                continue
            found = places[command.id]
            if len(found) != 1:
                yield f"commands-are-carried-out: {command.id} is {len(found)} times in INTAKE"
            elif carrier.manner.reads:
                if found[0] < newest[command.sender]:
                    yield f"commands-are-carried-out: {command.id} is out of order"
                newest[command.sender] = found[0]
