"""How many examples property tests try, and which.

The same ones every time, so that what `make test` says of a commit is what it said yesterday.
`TACT_EXAMPLES=20` tries 20 times as many, and others each time: to search, not to prove.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("TACT_EXAMPLES", "0"))
"""0: the same examples every time."""


def examples(count: int = 100) -> settings:
    """Settings of a test of `count` examples. None is given a time: the machine may be busy."""
    healthy = [HealthCheck.too_slow] if TIMES else []
    return settings(
        max_examples=count * (TIMES or 1),
        deadline=None,
        derandomize=not TIMES,
        suppress_health_check=healthy,
    )
