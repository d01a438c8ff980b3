"""Calls of WeCom's API for one account: token, budget and meaning of the reply are seen to here.

Source: WeCom's pages 91039 (tokens), 90313 (codes), 90454 (rates).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from channels.wecom.config import WecomConfig
from hub.clock import Clock


def _uncounted(what: str) -> None:
    """Nobody counts."""


class WecomClient:
    """One account's way to WeCom. Tokens and budgets are shared by all clients of the process.

    `counted` is told `unknown_errcode`, `token_refreshed`, `token_failed`, `budget_spent`.
    """

    def __init__(
        self,
        config: WecomConfig,
        clock: Clock,
        chance: random.Random,
        *,
        counted: Callable[[str], None] = _uncounted,
    ) -> None:
        self._config = config
        self._clock = clock
        self._chance = chance
        self._counted = counted

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        """Call the endpoint of this name, and give the decoded reply when its errcode is 0 (also
        when only some recipients were valid: the reply says which).

        Raises WecomError for any other errcode (and, with a throttled verdict, before anything is
        sent when the budget of this API is spent), NotSent when nothing left, Unanswered when it
        left and nobody knows.
        """
        raise NotImplementedError

    async def upload(
        self, name: str, filename: str, content: bytes, **query: str
    ) -> dict[str, Any]:
        """Upload a file (`media/upload` with type="image", …). Raises as `call` does."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections; what is under way is cut."""
