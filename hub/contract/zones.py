"""Time zones by IANA name, loaded once."""

from __future__ import annotations

from functools import lru_cache
from zoneinfo import ZoneInfo


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """The zone, or None when there is no such zone. Never raises, whatever the name."""
    try:
        return ZoneInfo(name)
    except Exception:  # ZoneInfo raises KeyError, ValueError, OSError or IsADirectoryError by name
        return None


def zone_exists(name: str) -> bool:
    return zone(name) is not None
