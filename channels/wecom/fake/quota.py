"""How many mass messages a customer, or a customer group, may get: the corp's rule.

Source: WeCom's page 92135.
"""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta, timezone
from typing import Final

_CHINA: Final = timezone(timedelta(hours=8))


class Quota:
    """Of one corp."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._got: dict[str, tuple[str, int]] = {}

    def take(self, to: str, now_ms: int) -> bool:
        """Count one more for this customer or group, if she may get it."""
        period, most = self._period(now_ms)
        was, number = self._got.get(to, ("", 0))
        number = number if was == period else 0
        if number >= most:
            return False
        self._got[to] = (period, number + 1)
        return True

    def _period(self, now_ms: int) -> tuple[str, int]:
        """The name of the period that it is in, and how many it allows."""
        day = datetime.fromtimestamp(now_ms / 1_000, _CHINA)
        if self._rule == "daily_1":
            return day.strftime("%Y-%m-%d"), 1
        if self._rule == "weekly_7":
            return day.strftime("%G-W%V"), 7
        return day.strftime("%Y-%m"), calendar.monthrange(day.year, day.month)[1]
