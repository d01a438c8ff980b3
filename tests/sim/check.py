"""One seed from beginning to end, and everything that must hold afterwards."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec

from actors.partition import Partition
from hub.checkers import Handed, History, Published, Shown, Told, check_all
from hub.checkers.records import follows, is_replaced
from hub.contract.decode import Rejection, decode
from hub.contract.subjects import REPLY_PREFIX
from hub.contract.types import (
    AccountOrder,
    Delivery,
    DeviceForget,
    Event,
    Intent,
    LiveMessage,
    Outcome,
    Receipt,
)
from tests.sim.logs import log_violations
from tests.sim.recording import Recorder, compare
from tests.sim.scenario import scenario
from tests.sim.talk_rules import order_violations
from tests.sim.world import World, tuned
from tests.support.model import Replayed, Streams, decode_record
from tests.support.virtual_loop import Hang, VirtualLoop, run

_outcomes = msgspec.json.Decoder(list[Outcome] | Outcome).decode
_deliveries = msgspec.json.Decoder(list[Delivery] | Delivery).decode
_events = msgspec.json.Decoder(list[Event] | Event).decode
_shown = msgspec.json.Decoder(list[LiveMessage] | LiveMessage).decode


def simulate(seed: int) -> World:
    """Run a seed in virtual time. `world.broken` holds what went wrong while it ran."""
    drawn, recorder, worlds = scenario(seed), Recorder(), []

    async def main(loop: VirtualLoop) -> None:
        worlds.append(World(loop, drawn, recorder))
        await worlds[0].run()

    with tuned(drawn, recorder):
        try:
            run(main)
        except Hang as error:
            worlds[0].broken.append(str(error))
    return worlds[0]


def violations(world: World) -> list[str]:
    """Every promise the run has broken; none for a good run."""
    history = history_of(world)
    acknowledged = {
        (each.message.app, each.message.id)
        for each in history.published
        if isinstance(each.message, Intent) and each.sequence in world.acknowledged
    }
    return [
        *world.broken,
        *map(str, check_all(history, acknowledged)),
        *log_violations(world, int, _held_by),
        *compare(world.streams, world.recorder, world.rules),
        *(broken for rules in world.rules for broken in rules.end()),
        *_orders(history),
    ]


def _orders(history: History) -> list[str]:
    published = [each.message for each in history.published]
    orders = [message for message in published if isinstance(message, AccountOrder)]
    invalid = [
        (each.source, each.message.id, each.message.customer)
        for each in history.published
        if isinstance(each.message, Rejection)
    ]
    return order_violations(orders, invalid, (told.outcome for told in history.outcomes))


def history_of(world: World) -> History:
    """The two streams as the checkers read them."""
    published = [
        Published(m.lane, m.source, m.sequence, m.stored_ms, message, index)
        for m in world.streams.intake
        for index, message in enumerate(decode(m.lane, m.source, m.payload, m.packed))
    ]
    told, handed, feeds = [], [], []
    for stored in world.streams.ledger:
        kind = stored.subject.split(".")[1]
        if kind == "outcome":
            for index, outcome in enumerate(_several(_outcomes(stored.payload))):
                told.append(Told(stored.sequence, stored.stored_ms, outcome, index))
        elif kind == "out":
            for index, delivery in enumerate(_several(_deliveries(stored.payload))):
                handed.append(Handed(stored.sequence, stored.stored_ms, delivery, index))
        elif kind == "live":
            for index, shown in enumerate(_several(_shown(stored.payload))):
                feeds.append(Shown(stored.sequence, shown, index))
    documents = world.documents[: world.policies_used]
    return History(published, told, handed, documents, world.clock.now_ms(), feeds)


def _several(found: list | object) -> list:
    return found if isinstance(found, list) else [found]


def _held_by(owned: Partition, whole: Replayed) -> str | None:
    """An owner holds what its log says."""
    if owned.epoch < whole.epoch:
        return None  # it was replaced, by one that died, and had nothing to commit since
    if (owned.states, owned.fence) != (whole.states, whole.fence):
        return "its owner holds something else than its log"
    return None


def fingerprint(streams: Streams) -> str:
    """Of every byte of the ledger, and when it was stored."""
    digest = hashlib.sha256()
    for stored in streams.ledger:
        digest.update(f"{stored.subject} {stored.stored_ms} {stored.expires_ms} ".encode())
        digest.update(stored.payload)
    return digest.hexdigest()


def events_of(world: World) -> Counter[str]:
    """What happened in a run, by name: to see that the scenarios reach everything."""
    history = history_of(world)
    told = [each.outcome for each in history.outcomes]
    held = {(o.app, o.intent, o.customer) for o in told if o.state == "held"}
    went = {(o.app, o.intent, o.customer) for o in told if o.state == "dispatched"}
    found: Counter[str] = Counter(outcome.state for outcome in told)
    found.update(world.faults.happened)
    found.update(world.happened)
    found.update(f"{o.state} after it {why}" for o in told if (why := follows(o)))
    _count_talk(history, world.streams, found)
    _count_devices(history, found)
    found["failed, and what is left is blocked"] = sum(
        outcome.state == "failed" and bool(outcome.rules) for outcome in told
    )
    found["released after being held"] = len(held & went)
    found["stored twice in INTAKE"] = len(world.streams.intake) - len(
        {message.payload for message in world.streams.intake}
    )
    for number in world.replayed:
        log = [decode_record(stored.payload) for stored in world.streams.whole_log(number)]
        found["claim"] += sum(record.commit_id.startswith("claim-") for record in log)
        found["log purged"] += len(log) - len(world.streams.log_after(number, 0))
    found["snapshot"] = len(world.streams.snapshots)
    found["batch of several partitions"] = sum(
        len(works) > 1 for works in world.recorder.commits.values()
    )
    return found


def _count_devices(history: History, found: Counter[str]) -> None:
    """What becomes of dispatches to several devices."""
    failed = {key for each in history.published if (key := _failed(each))}
    firsts = {(each.delivery.id, each.delivery.customer) for each in history.deliveries}
    for key, copies in history.copies_of.items():
        found["to several devices"] += key in firsts
        each = {key, *((copy.delivery.id, key[1]) for copy in copies)}
        found["fails on all devices"] += each <= failed
        found["fails on some devices"] += 0 < len(each & failed) < len(each)
    for attempts in history.attempts:
        for newest, told in attempts.after():
            if follows(told.outcome):
                key = newest.outcome.delivery or "", newest.outcome.customer
                found["tried elsewhere after several devices"] += key in history.copies_of
    found["superseded by its account"] = sum(is_replaced(told.outcome) for told in history.outcomes)
    found["a device is forgotten"] = sum(
        isinstance(each.message, DeviceForget) for each in history.published
    )


def _failed(each: Published) -> tuple[str, str] | None:
    receipt = each.message
    if isinstance(receipt, Receipt) and receipt.status == "failed":
        return receipt.delivery, receipt.customer
    return None


def _count_talk(history: History, streams: Streams, found: Counter[str]) -> None:
    """What is said, and what follows from it."""
    for told in history.outcomes:
        outcome = told.outcome
        kinds = {block.kind for block in outcome.rules or ()}
        found.update(f"{outcome.state} by {kind}" for kind in kinds & {"window", "words"})
        if outcome.intent.startswith(REPLY_PREFIX):
            found[f"reply {outcome.state}"] += 1
    for stored in streams.ledger:
        if stored.subject.startswith("hub.event."):
            for event in _several(_events(stored.payload)):
                found[f"event: {event.kind} {event.level or event.author}"] += 1
    found["operation"] += sum(not each.delivery.category for each in history.deliveries)
    found.update(f"shown {each.message.direction}" for each in history.feeds or ())
