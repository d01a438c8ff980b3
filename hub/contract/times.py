"""RFC 3339 outside, Unix milliseconds inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(moment: datetime) -> int:
    """Unix milliseconds of an aware datetime, floored."""
    return (moment - EPOCH) // _MS


def moment_of(ms: int) -> datetime:
    """The aware datetime (UTC) of Unix milliseconds."""
    return EPOCH + timedelta(milliseconds=ms)


@lru_cache(maxsize=8_192)
def rfc3339(ms: int) -> str:
    """`2026-11-21T08:00:00.000Z`: UTC, always milliseconds. A turn says the same times often."""
    return f"{_minute(ms // 60_000)}{ms // 1000 % 60:02d}.{ms % 1000:03d}Z"


@lru_cache(maxsize=65_536)
def _minute(minute: int) -> str:
    """Formatting a date is the slow part, and many times share a minute."""
    return (EPOCH + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:")


def parse_rfc3339(text: str) -> int:
    """Unix milliseconds of a time with an offset. Raises ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time needs an offset: {text!r}")
    return to_ms(moment)
