"""Thousands of faults in virtual time: every promise holds, by seed, and planted bugs are found.

Run one seed with everything that happened: TACT_SEED=123 pytest tests/sim -k one_seed
Run more of them: TACT_SEEDS=10000 pytest tests/sim -k seeds
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import count, islice
from typing import Any

import pytest
from msgspec.structs import replace

from actors import conversation, fallback, runner, turn
from actors.conversation import BodyRef, Conversation
from actors.partition import Partition
from hub.checkers.records import FAILED, WAITED
from hub.policy import rules
from hub.policy.policy import Policy
from hub.policy.rules import Cap, Quiet
from hub.policy.state import READ, SENT, ConversationState, Held
from tests.sim.check import events_of, fingerprint, simulate, violations
from tests.sim.device_bugs import DEVICE_BUGS
from tests.sim.device_scenes import draws_devices
from tests.sim.seeds import CHUNKS, SEEDS, Seeds, silent
from tests.sim.talk_bugs import TALK_BUGS
from tests.sim.talks import draws_talks
from tests.support.model import Streams

__all__ = ["silent"]
pytestmark = pytest.mark.sim

seeds = Seeds(simulate, events_of, violations, "one_seed")


@pytest.mark.parametrize("first", CHUNKS)
def test_seeds(first: int):
    seeds.run_chunk(first)


def test_one_seed():
    seeds.run_one()


@pytest.mark.skipif(SEEDS < 300, reason="too few seeds for everything to happen")
def test_everything_happened_in_the_seeds_above():
    seeds.check_reach(EXPECTED)


EXPECTED = (
    *("held", "dispatched", "suppressed", "expired", "superseded", "cancelled", "duplicate"),
    *("rejected", "sent", "delivered", "read", "failed", "released after being held"),
    *("claim", "fence lost", "commit given up", "stored twice in INTAKE", "snapshot", "log purged"),
    *("bodies read back", "bodies given up", "gap", "batch of several partitions"),
    *(f"commit: {fault}" for fault in ("lose-request", "lose-reply", "late", "pause")),
    *("commit: crash-before", "commit: crash-after", "claim: crash-after", "claim: pause"),
    *(f"trouble: {kind}" for kind in ("kill", "stop", "pause", "down", "full", "policy", "move")),
    "trouble: two-owners",
    *(f"{state} after it {why}" for state in ("dispatched", "held") for why in (FAILED, WAITED)),
    "failed, and what is left is blocked",
    *("held by window", "dispatched by window", "suppressed by words", "operation"),
    *(f"reply {state}" for state in ("dispatched", "held", "suppressed", "expired", "duplicate")),
    *("event: waiting 1", "event: waiting 2", "shown in", "shown out"),
    *(f"event: words {author}" for author in ("customer", "agent", "app")),
    *("to several devices", "a device is forgotten", "superseded by its account"),
    *("fails on all devices", "fails on some devices", "tried elsewhere after several devices"),
)


@pytest.mark.parametrize("seed", [2, 3, 17])
def test_a_seed_gives_the_same_bytes_twice(seed: int):
    """In processes of their own: neither hashes nor addresses nor the time may matter."""
    command = (
        "import logging, structlog; "
        "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL));"
        "from tests.sim.check import fingerprint, simulate; "
        f"raise SystemExit(fingerprint(simulate({seed}).streams))"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        ).stderr.strip()
        for hash_seed in ("1", "2")
    }
    assert prints == {fingerprint(simulate(seed).streams)}


# ---- planted bugs --------------------------------------------------------------------------------


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """The server stores what a replaced owner sends."""
    store = Streams.store

    def careless(self: Streams, entries: Any) -> int:
        return store(self, [type(e)(e.subject, e.payload, e.ttl_s) for e in entries])

    patch.setattr(Streams, "store", careless)


def checkpoint_not_stored(patch: pytest.MonkeyPatch) -> None:
    close = turn.Work.close

    def forgetful(self: turn.Work) -> None:
        close(self)
        self.checkpoint = {}

    patch.setattr(turn.Work, "close", forgetful)


def cap_counts_receipts_only(patch: pytest.MonkeyPatch) -> None:
    block = Cap.block

    def late(self: Cap, question: Any, state: ConversationState, instant: int) -> Any:
        told = [send for send in state.sends if send.status >= SENT]
        return block(self, question, replace(state, sends=told), instant)

    patch.setattr(Cap, "block", late)


def body_in_a_wrong_place(patch: pytest.MonkeyPatch) -> None:
    park = turn.Work.park

    def wrong(self: turn.Work, content: bytes, expires: int) -> BodyRef:
        ref = park(self, content, expires)
        return BodyRef(ref.block, max(0, ref.index - 1))

    patch.setattr(turn.Work, "park", wrong)


def wake_lost_on_recovery(patch: pytest.MonkeyPatch) -> None:
    init = Partition.__init__

    def sleepy(self: Partition, image: Any) -> None:
        init(self, image)
        self.wakes = []

    patch.setattr(Partition, "__init__", sleepy)


def reads_on_a_message_too_far(patch: pytest.MonkeyPatch) -> None:
    async def reopen(self: runner.HostRunner) -> None:
        for lane in self._lanes.values():
            lane.clear()
        positions = {
            number: {lane: done + 1 if done else 0 for lane, done in partition.checkpoint.items()}
            for number, partition in self.partitions.items()
        }
        await self._reader.open(positions)

    patch.setattr(runner.HostRunner, "_reopen", reopen)


def body_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What a host has not parked itself it takes for lost."""

    async def get(self: runner.BodyCache, partition: int, names: Any) -> Any:
        kept = {name: self._parked.get((partition, name)) for name in names}
        return {name: bodies for name, bodies in kept.items() if bodies is not None}

    patch.setattr(runner.BodyCache, "get", get)


def repeats_are_new(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Conversation, "_remembers", lambda *_: False)


def nights_are_loud(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quiet, "block", lambda *_: None)


def given_up_and_kept(patch: pytest.MonkeyPatch) -> None:
    """A commit that is given up is taken for not stored, and its partitions are served on."""
    patch.setattr(runner.HostRunner, "_lose", lambda *_: None)


def failures_count(patch: pytest.MonkeyPatch) -> None:
    """A failed dispatch keeps its slot."""
    patch.setattr(rules, "FAILED", -1)


def falls_back_twice(patch: pytest.MonkeyPatch) -> None:
    """What is in flight is forgotten nowhere and remembered twice."""
    take_off = Conversation._take_off

    def twofold(self: Conversation, held: Held, *rest: Any) -> None:
        take_off(self, held, *rest)
        if held.in_flight:
            self.state.held.append(replace(held))

    patch.setattr(Conversation, "_take_off", twofold)


def falls_back_after_delivery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conversation, "DELIVERED", READ + 1)


def falls_back_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Policy, "fallback_ms", lambda *_: 1_000)


def never_falls_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fallback, "waiting", lambda *_: None)


def same_channel_again(patch: pytest.MonkeyPatch) -> None:
    """What is left of a route begins with the channel that has failed."""
    take_off = fallback.take_off

    def circling(held: Held, question: Any, channel: str, *rest: Any) -> bool:
        flies = take_off(held, question, channel, *rest)
        held.route = [channel, *held.route] if flies else held.route
        return flies

    patch.setattr(fallback, "take_off", circling)


def fails_and_goes_on(patch: pytest.MonkeyPatch) -> None:
    """`failed` is told though a channel is left, and that is tried all the same."""
    decide_again = Conversation._decide_again

    def told_first(self: Conversation, due: list[Held], now: int) -> None:
        for held in due:
            if held.in_flight and held.failure is not None:
                delivery = f"{held.app}:{held.id}:{held.attempt - 1}"
                self._tell(
                    held.app, held.id, held.category, "failed", now, held.before, delivery, "x"
                )
        decide_again(self, due, now)

    patch.setattr(Conversation, "_decide_again", told_first)


BUGS = {
    no_fence: (10, "log of "),
    checkpoint_not_stored: (5, "decided up to 0 of"),
    cap_counts_receipts_only: (20, "caps: over-a-cap"),
    body_in_a_wrong_place: (10, "deliveries on hub.out."),
    wake_lost_on_recovery: (30, "nothing-lost: held-and-forgotten"),
    reads_on_a_message_too_far: (30, "nothing-lost: never-decided"),
    body_forgotten: (10, "its parked body is no longer in the ledger"),
    repeats_are_new: (10, "exactly-once: "),
    nights_are_loud: (10, "quiet-hours: inside-quiet-hours"),
    given_up_and_kept: (10, "nothing-lost: never-decided"),
    failures_count: (30, "taken-back: failed-and-still-counted"),
    falls_back_twice: (10, "exactly-once: dispatched-twice"),
    falls_back_after_delivery: (10, "final-is-final: decided-after-a-delivery"),
    falls_back_too_early: (10, "fallback: next-channel-without-a-cause"),
    never_falls_back: (10, "fallback: failed-with-a-channel-left"),
    same_channel_again: (10, "fallback: not-a-channel-that-is-left"),
    fails_and_goes_on: (10, "final-is-final: said-after-the-end"),
}
"""A planted bug, the number of seeds within which it must be found, and as what."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Any, monkeypatch: pytest.MonkeyPatch):
    bug(monkeypatch)
    within, broken = BUGS[bug]
    _check_it_is_found(broken, range(within))


@pytest.mark.parametrize("bug", TALK_BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_of_talk_is_found(bug: Any, monkeypatch: pytest.MonkeyPatch):
    bug(monkeypatch)
    within, broken = TALK_BUGS[bug]
    _check_it_is_found(broken, islice(filter(draws_talks, count()), within))


@pytest.mark.parametrize("bug", DEVICE_BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_of_devices_is_found(bug: Any, monkeypatch: pytest.MonkeyPatch):
    bug(monkeypatch)
    within, broken = DEVICE_BUGS[bug]
    _check_it_is_found(broken, islice(filter(draws_devices, count()), within))


def _check_it_is_found(broken: str, among: Iterable[int]) -> None:
    tried = []
    for seed in among:
        tried.append(seed)
        if any(broken in violation for violation in violations(simulate(seed))):
            return
    pytest.fail(f"not in the seeds {tried}", pytrace=False)
