"""Accounts in virtual time, by seed: every promise holds, and planted bugs are found.

Run one seed with everything that happened: TACT_SEED=123 pytest tests/sim -k one_account_seed
Run more of them: TACT_SEEDS=10000 pytest tests/sim -k account_seeds
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

from tests.sim.account_check import (
    account_events,
    account_fingerprint,
    account_violations,
    simulate_accounts,
)

pytestmark = pytest.mark.sim

SEEDS = int(os.environ.get("TACT_SEEDS", "300"))
CHUNK = 20
seen: Counter[str] = Counter()
"""What happened in the seeds that were run."""


@pytest.fixture(autouse=True, scope="module")
def silent() -> Iterator[None]:
    """Hosts say much about what goes wrong, and here much does."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_account_seeds(first: int):
    failed = []
    for seed in range(first, min(first + CHUNK, SEEDS)):
        world = simulate_accounts(seed)
        seen.update(account_events(world))
        if found := account_violations(world):
            failed.append(
                f"seed {seed}: {len(found)} violations, the first: {found[0][:500]}\n"
                f"    TACT_SEED={seed} pytest tests/sim -k one_account_seed"
            )
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)


def test_one_account_seed():
    seed = int(os.environ.get("TACT_SEED", "0"))
    world = simulate_accounts(seed)
    if found := account_violations(world):
        pytest.fail("\n".join([f"seed {seed}", *world.trace, *found]), pytrace=False)


@pytest.mark.skipif(SEEDS < 300, reason="too few seeds for everything to happen")
def test_everything_happened_in_the_account_seeds_above():
    if not seen:
        for seed in range(60):
            seen.update(account_events(simulate_accounts(seed)))
    missing = [name for name in EXPECTED if not seen[name]]
    assert not missing, f"never happened: {missing}; {dict(sorted(seen.items()))}"


FAILURES = ("config", "dead_address", "expired", "provider", "rejected_content", "throttled")
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
