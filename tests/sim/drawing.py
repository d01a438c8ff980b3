"""What all scenes of the conversation side are drawn with: who is who, and messages to INTAKE."""

from __future__ import annotations

import random
from typing import NamedTuple

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
APPS = ("shop", "bot", "crm")
GATEWAY = "gateway"
ADDRESSES = {"wecom": "w-1", "sms": "+8613800000000", "push": "token"}


class Publication(NamedTuple):
    """One message to INTAKE; it is published until it is acknowledged."""

    at_s: float
    lane: str
    source: str
    key: str
    payload: bytes
    packed: bool = False
    msg_id: str | None = None
    again: bool = False
    """Published a second time by an application that has forgotten."""


def some(chance: random.Random, values: tuple[str, ...]) -> list[str]:
    """One or more of them, in any order."""
    return chance.sample(values, chance.randint(1, len(values)))
