"""RFC 3339 outside, Unix milliseconds inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(moment: datetime) -> int:
    """Unix milliseconds of an aware datetime, floored."""
    return (moment - EPOCH) // _MS


@lru_cache(maxsize=4096)
def rfc3339(ms: int) -> str:
    """`2026-11-21T08:00:00.000Z`: UTC, always milliseconds. Cached: a turn has one time."""
    return (EPOCH + ms * _MS).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def parse_rfc3339(text: str) -> int:
    """Unix milliseconds of a time with an offset. Raises ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time needs an offset: {text!r}")
    return to_ms(moment)
