"""Seeds, run in chunks or one by one, for whatever can be simulated."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

SEEDS = int(os.environ.get("TACT_SEEDS", "300"))
CHUNK = 20
CHUNKS = range(0, SEEDS, CHUNK)
"""The first seeds of the chunks."""


@pytest.fixture(autouse=True, scope="module")
def silent() -> Iterator[None]:
    """Hosts say much about what goes wrong, and here much does."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@dataclass
class Seeds:
    """A simulation by seed; `one` is the test that runs a single seed of it."""

    simulate: Callable[[int], Any]
    events: Callable[[Any], Counter[str]]
    violations: Callable[[Any], list[str]]
    one: str
    seen: Counter[str] = field(default_factory=Counter)
    """What happened in the seeds that were run."""

    def run_chunk(self, first: int) -> None:
        """Fails with the first violation of each seed that has any."""
        failed = []
        for seed in range(first, min(first + CHUNK, SEEDS)):
            world = self.simulate(seed)
            self.seen.update(self.events(world))
            if found := self.violations(world):
                failed.append(
                    f"seed {seed}: {len(found)} violations, the first: {found[0][:500]}\n"
                    f"    TACT_SEED={seed} pytest tests/sim -k {self.one}"
                )
        if failed:
            pytest.fail("\n".join(failed), pytrace=False)

    def run_one(self) -> None:
        """The seed TACT_SEED; fails with everything that happened."""
        seed = int(os.environ.get("TACT_SEED", "0"))
        world = self.simulate(seed)
        if found := self.violations(world):
            pytest.fail("\n".join([f"seed {seed}", *world.trace, *found]), pytrace=False)

    def check_reach(self, expected: tuple[str, ...]) -> None:
        """Everything expected has happened in the seeds run before, or in a few run now."""
        if not self.seen:
            for seed in range(60):
                self.seen.update(self.events(self.simulate(seed)))
        missing = [name for name in expected if not self.seen[name]]
        assert not missing, f"never happened: {missing}; {dict(sorted(self.seen.items()))}"
