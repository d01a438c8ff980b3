"""Accounts in virtual time, by seed: every promise holds, and planted bugs are found.

Run one seed with everything that happened: TACT_SEED=123 pytest tests/sim -k one_account_seed
Run more of them: TACT_SEEDS=10000 pytest tests/sim -k account_seeds
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import deque
from typing import Any

import pytest

from actors import account as account_module
from actors import failover, window
from actors.account import Account
from actors.account_gate import Gate
from actors.account_io import Outbox
from actors.account_partition import AccountPartition, TurnChanges
from actors.account_queue import Entry, Queue
from actors.account_runner import AccountRunner
from actors.account_state import OPEN, WAITING, Attempt, attempt_key, pack
from actors.pacer import Pacer
from actors.quota import Quota
from tests.sim.account_ahead_bugs import AHEAD_BUGS
from tests.sim.account_check import (
    account_events,
    account_fingerprint,
    account_violations,
    simulate_accounts,
)
from tests.sim.account_collapse_bugs import COLLAPSE_BUGS
from tests.sim.account_talk_bugs import TALK_BUGS
from tests.sim.seeds import CHUNKS, SEEDS, Seeds, silent

__all__ = ["silent"]
pytestmark = pytest.mark.sim

seeds = Seeds(simulate_accounts, account_events, account_violations, "one_account_seed")


@pytest.mark.parametrize("first", CHUNKS)
def test_account_seeds(first: int):
    seeds.run_chunk(first)


def test_one_account_seed():
    seeds.run_one()


@pytest.mark.skipif(SEEDS < 300, reason="too few seeds for everything to happen")
def test_everything_happened_in_the_account_seeds_above():
    seeds.check_reach(EXPECTED)


FAILURES = ("config", "dead_address", "expired", "provider", "rejected_content", "throttled")
FAILURES += ("superseded", "window_closed")
EXPECTED = (
    *(f"answer: {how}" for how in ("accepted", "broken", "busy", "half", "refuse", "silent")),
    *("answer: throttle", "repeat removed", "link lost", "not admitted", "not stored"),
    *("receipt before its answer", "receipt counted", "receipt of nobody"),
    *(f"told: failed {failure}" for failure in FAILURES),
    *(f"told: {what}" for what in ("sent", "delivered", "read", "unknown", "command", "inbound")),
    *("handed over", "submitted again", "answer to a refusal", "snapshot"),
    *("claim", "fence lost", "commit given up", "read: gap"),
    *(f"commit: {fault}" for fault in ("lose-request", "lose-reply", "late", "pause")),
    *("commit: crash-before", "commit: crash-after", "tell: crash-after", "tell: lose-reply"),
    *("submit: crash-before", "submit: crash-after", "submit: pause", "stored: lose-reply"),
    *(f"trouble: {kind}" for kind in ("kill", "stop", "pause", "down", "full", "move", "reload")),
    *("trouble: two-owners", "trouble: unlinked", "trouble: refused", "trouble: gap"),
    *(
        "taken ahead",
        "claim behind what was taken ahead",
        "page stored",
        "page not stored",
        "read on from a note",
        "confirmation lost",
        "put away",
    ),
    *("window refused by ours", "window used up by others"),
)


@pytest.mark.parametrize("seed", [2, 3])
def test_an_account_seed_gives_the_same_bytes_twice(seed: int):
    """In processes of their own: neither hashes nor addresses nor the time may matter."""
    command = (
        "import logging, structlog; "
        "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL));"
        "from tests.sim.account_check import account_fingerprint, simulate_accounts; "
        f"raise SystemExit(account_fingerprint(simulate_accounts({seed})))"
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
    assert prints == {account_fingerprint(simulate_accounts(seed))}


# ---- planted bugs --------------------------------------------------------------------------------


def submitted_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    claim = AccountRunner._claim

    def hasty(self: AccountRunner, now: int) -> None:
        claim(self, now)
        for account in self._leaving.values():
            account.committed()
        self._depart()

    patch.setattr(AccountRunner, "_claim", hasty)


def open_is_sent_again_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    restore = Account.restore

    def careless(self: Account, delivery: str, attempt: Attempt, now: int) -> None:
        attempt.state = WAITING if attempt.state == OPEN else attempt.state
        restore(self, delivery, attempt, now)

    patch.setattr(Account, "restore", careless)


def unknown_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Account, "_lost_sight", Account._repeat)


def claims_are_good_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A host that was replaced goes on with what it had claimed."""
    patch.setattr(account_module, "CLAIM_MS", math.inf)
    patch.setattr(Gate, "settle", lambda *_: None)


def quota_not_restored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quota, "load", lambda *_: None)


def quota_of_recipients_not_restored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quota, "recipient_load", lambda *_: False)


def quota_forgotten_with_a_reload(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quota, "configured", lambda _, limits, zone, now: Quota(limits, zone))


def given_back_though_it_may_be_taken(patch: pytest.MonkeyPatch) -> None:
    """A repeat was refused, and what it repeats had been taken."""
    patch.setattr(Gate, "_may_be_taken", lambda *_: False)


def pacer_not_restarted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pacer, "restarted", lambda *_: None)


def days_end_at_midnight_of_utc(patch: pytest.MonkeyPatch) -> None:
    period = window.period
    patch.setattr(window, "period", lambda zone, unit, at: period("UTC", unit, at))


def priority_breaks_the_order(patch: pytest.MonkeyPatch) -> None:
    add = Queue.add

    def pushy(self: Queue, entry: Entry) -> None:
        add(self, entry)
        line = self._lines[entry.attempt.customer]
        line.entries = deque(sorted(line.entries, key=lambda one: -one.attempt.priority))

    patch.setattr(Queue, "add", pushy)


def confirmed_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    gather = AccountRunner._gather

    async def hasty(self: AccountRunner) -> None:
        await gather(self)
        for partition in self.partitions.values():
            for stored in partition.stored:
                stored(True)
            partition.stored.clear()

    patch.setattr(AccountRunner, "_gather", hasty)


def outbox_forgotten_too_early(patch: pytest.MonkeyPatch) -> None:
    until_stored = Outbox._until_stored

    async def hasty(self: Outbox, partition: AccountPartition) -> None:
        unsent = dict(partition.unsent)
        for key in unsent:
            partition.settled(key)
        partition.unsent.update(unsent)
        await until_stored(self, partition)

    patch.setattr(Outbox, "_until_stored", hasty)


def handed_over_and_kept(patch: pytest.MonkeyPatch) -> None:
    hand_over = AccountPartition.hand_over

    def twofold(self: AccountPartition, entry: Entry, account: str) -> None:
        self.store(attempt_key(entry.id), pack(entry.attempt))
        hand_over(self, entry, account)

    patch.setattr(AccountPartition, "hand_over", twofold)


def handed_over_though_it_may_be_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(failover, "_stays", lambda _, attempt: attempt.handed)


def checkpoint_not_stored(patch: pytest.MonkeyPatch) -> None:
    init = TurnChanges.__init__

    def forgetful(self: TurnChanges, partition: AccountPartition, outbox: str) -> None:
        init(self, partition, outbox)
        self.checkpoint = {}

    patch.setattr(TurnChanges, "__init__", forgetful)


def told_again_and_backwards(patch: pytest.MonkeyPatch) -> None:
    tell = Account.tell

    def talkative(self: Account, delivery: str, attempt: Attempt, *rest: Any, **more: Any) -> bool:
        attempt.told = 0
        return tell(self, delivery, attempt, *rest, **more)

    patch.setattr(Account, "tell", talkative)


def refusals_are_not_heard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AccountPartition, "opt_out", lambda *_: None)


def wakes_lost_on_recovery(patch: pytest.MonkeyPatch) -> None:
    begin = AccountPartition.begin

    def sleepy(self: AccountPartition) -> None:
        begin(self)
        self.wakes.clear()

    patch.setattr(AccountPartition, "begin", sleepy)


BUGS: dict[Any, tuple[int | range, str]] = {
    submitted_before_it_is_stored: (60, "sent-once: "),
    open_is_sent_again_after_a_crash: (30, "sent-once: submitted-twice"),
    unknown_is_sent_again: (10, "sent-once: submitted-twice"),
    claims_are_good_for_ever: (30, "account-limits: over-a-limit"),
    quota_not_restored: (60, "account-limits: over-a-limit"),
    quota_of_recipients_not_restored: (60, "account-limits: over-a-limit"),
    quota_forgotten_with_a_reload: (range(367, 371), "account-limits: over-a-limit"),
    given_back_though_it_may_be_taken: (30, "account-limits: over-a-limit"),
    pacer_not_restarted: (100, "account-limits: over-a-limit"),
    days_end_at_midnight_of_utc: (60, "account-limits: over-a-limit"),
    priority_breaks_the_order: (10, "leaves-in-order: left-before-its-predecessor"),
    confirmed_before_the_commit: (10, "confirmed before it was stored"),
    outbox_forgotten_too_early: (60, "every-delivery-ends: "),
    handed_over_and_kept: (30, "one-open-attempt: opened-after-it-was-handed-over"),
    handed_over_though_it_may_be_sent: (30, "sent-once: submitted-twice"),
    checkpoint_not_stored: (10, "taken, and would be again after a crash"),
    told_again_and_backwards: (10, "every-delivery-ends: told-backwards"),
    refusals_are_not_heard: (10, "replies-are-kept: refusal-without-do-not-disturb"),
    wakes_lost_on_recovery: (20, "not quiet after"),
    **TALK_BUGS,
    **AHEAD_BUGS,
    **COLLAPSE_BUGS,
}
"""A planted bug, the seeds (or how many) within which it must be found, and as what."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_of_accounts_is_found(bug: Any, monkeypatch: pytest.MonkeyPatch):
    bug(monkeypatch)
    within, broken = BUGS[bug]
    tried = range(within) if isinstance(within, int) else within
    assert any(
        broken in violation
        for seed in tried
        for violation in account_violations(simulate_accounts(seed))
    ), f"not in {tried}"
