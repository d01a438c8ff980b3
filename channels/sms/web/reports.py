"""What callbacks of SMS gateways may bring: their token, and how long each thing may be."""

from __future__ import annotations

import re
from typing import Final

from hub import limits
from hub.errors import ConfigError

DELIVERY_CHARS: Final = (5, 110)
"""Shortest and longest delivery id, by the contract."""
ID_CHARS: Final = 128
"""Longest id of a provider, by the contract."""
INBOUND_CHARS: Final = 255 * 160
"""The longest text that SMS can carry: 255 parts."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}\Z")


def is_delivery(text: str) -> bool:
    """Whether it has the length of a delivery id."""
    return DELIVERY_CHARS[0] <= len(text) <= DELIVERY_CHARS[1]


def is_provider_id(text: str) -> bool:
    """Whether it is an id, and short enough for the contract."""
    return 0 < len(text) <= ID_CHARS


def is_inbound(sender: str, text: str, own_id: str) -> bool:
    """Whether a customer's message has the sizes of one."""
    known = 0 < len(sender) <= limits.ADDRESS_CHARS and len(own_id) <= ID_CHARS
    return known and len(text) <= INBOUND_CHARS


def check_token(token: str) -> None:
    """A callback's secret must survive URLs and be hard to guess. Raises ConfigError."""
    if token and not _TOKEN.match(token):
        raise ConfigError(
            "callback_token: 16 to 128 letters, digits, - and _", key="callback_token"
        )
