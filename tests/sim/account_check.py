"""One seed of accounts from beginning to end, and everything that must hold afterwards."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec

from hub.checkers import Handed, Published
from hub.checkers.account_records import AccountHistory, Submit
from hub.checkers.accounts import check_accounts
from hub.contract.decode import decode
from hub.contract.subjects import account_log
from hub.contract.types import Delivery, Receipt
from tests.sim.account_heard import talk_violations
from tests.sim.account_scenario import account_scenario
from tests.sim.account_world import AccountWorld, tuned
from tests.sim.logs import log_violations
from tests.support.virtual_loop import Hang, VirtualLoop, run

_deliveries = msgspec.json.Decoder(list[Delivery] | Delivery).decode


def simulate_accounts(seed: int) -> AccountWorld:
    """Run a seed in virtual time. `world.broken` holds what went wrong while it ran."""
    drawn, worlds = account_scenario(seed), []

    async def main(loop: VirtualLoop) -> None:
        worlds.append(AccountWorld(loop, drawn))
        await worlds[0].run()

    with tuned(drawn):
        try:
            run(main)
        except Hang as error:
            worlds[0].broken.append(str(error))
    return worlds[0]


def account_violations(world: AccountWorld) -> list[str]:
    """Every promise the run has broken; none for a good run."""
    partitions = world.scenario.partitions
    logs = log_violations(world, lambda number: account_log(number, partitions))
    history = history_of(world)
    talks = talk_violations(world, history.published)
    collapsed = world.collapsed.violations(history)
    return [*world.broken, *map(str, check_accounts(history)), *talks, *collapsed, *logs]


def history_of(world: AccountWorld) -> AccountHistory:
    """Both streams, and what the carriers saw, as the checkers read them."""
    handed = []
    for stored in world.streams.ledger:
        if stored.subject.split(".")[1] == "out":
            found = _deliveries(stored.payload)
            for index, delivery in enumerate(found if isinstance(found, list) else [found]):
                handed.append(Handed(stored.sequence, stored.stored_ms, delivery, index))
    apps = {each.delivery.id: each.delivery.app for each in handed}
    seen = [each for carrier in world.carriers.values() for each in carrier.seen]
    seen.sort(key=lambda each: each.at_ms)  # stable: of one account in the order they came
    return AccountHistory(
        submits=[
            Submit(each.at_ms, each.account, each.delivery, apps.get(each.delivery, "tact"),
                   each.recipient, each.part, each.refused)
            for each in seen
        ],
        handed=handed,
        published=[
            Published(m.lane, m.source, m.sequence, m.stored_ms, message, index)
            for m in world.streams.intake
            for index, message in enumerate(decode(m.lane, m.source, m.payload, m.packed))
        ],
        decided=world.decided,
        openings=world.openings,
        limits=world.rules,
        keyed=frozenset(n for n, manner in world.scenario.manners.items() if manner.resend),
        repeating=frozenset(a.name for a in world.scenario.accounts if a.duplicates == "allow"),
        confirmed=world.confirmed,
        heard=world.heard,
    )  # fmt: skip


def account_fingerprint(world: AccountWorld) -> str:
    """Of every byte of the ledger and everything submitted, and when."""
    digest = hashlib.sha256()
    for stored in world.streams.ledger:
        digest.update(f"{stored.subject} {stored.stored_ms} {stored.expires_ms} ".encode())
        digest.update(stored.payload)
    for carrier in world.carriers.values():
        digest.update(repr(carrier.seen).encode())
    return digest.hexdigest()


def account_events(world: AccountWorld) -> Counter[str]:
    """What happened in a run, by name: to see that the scenarios reach everything."""
    history = history_of(world)
    found: Counter[str] = Counter(world.faults.happened)
    found.update(world.happened)
    for carrier in world.carriers.values():
        found.update(carrier.happened)
    for each in history.published:
        message = each.message
        if isinstance(message, Receipt):
            found[f"told: {message.status} {message.failure or ''}".strip()] += 1
        else:
            found[f"told: {each.lane}"] += 1
    found["submitted"] = len(history.submits)
    found["deliveries"] = len(history.handed)
    found["handed over"] = sum(each.delivery.via is not None for each in history.handed)
    found["submitted again"] = len(history.submits) - len(
        {(each.delivery, each.part) for each in history.submits}
    )
    found["answer to a refusal"] = sum(each.app == "tact" for each in history.submits)
    found["snapshot"] = len(world.streams.snapshots)
    return found
