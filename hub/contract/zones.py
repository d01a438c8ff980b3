"""Time zones by IANA name, from the pinned `tzdata` package and never from the machine.

Hosts of one hub, and a simulation beside it, must read the same clock: the zone files of two
machines differ by years of clock-change laws, and some hold names that are not IANA's (`localtime`,
`right/…`).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Every IANA name, aliases included; about 600."""
    return frozenset((files("tzdata") / "zones").read_text(encoding="ascii").split())


def zone_exists(name: str) -> bool:
    """Whether `name` is an IANA name, in its exact spelling. Opens no file named by the caller."""
    return name in zone_names()


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """The zone, or None when there is no such zone. Never raises, whatever the name."""
    if not zone_exists(name):
        return None
    with (files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
