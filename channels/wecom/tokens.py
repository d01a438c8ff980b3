"""Access tokens: one for each application, shared by all of its accounts in the process, asked for
by one of them while the others wait, and before the old one ends.

A token endpoint that fails is left alone for a while that doubles, and what wants a token meanwhile
is told so at once. WeCom shuts an IP address out for an hour after several wrong secrets, so a
refusal that only a person can mend rests longer. Source: WeCom's pages 91039 and 90313 (45009).
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog
from msgspec import Struct

from channels.http import NotSent
from channels.wecom.errors import REFRESH, WecomError, verdict_of
from hub.errors import TactError

RENEW: Final = 0.9
"""The part of a token's life after which the next one is asked for, while this one still serves:
12 minutes of 2 hours, in which the endpoint may fail without anybody noticing."""
LIFE_MAX_S: Final = 86_400.0
"""A longer life is not believed; WeCom's tokens live 2 hours."""
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
"""Between two tries of a token endpoint that fails; each is drawn from the upper half."""
PAUSE_CONFIG_S: Final = 240.0
"""The same after a wrong secret, and the like: below the 300 s after which an account that stands
still for it tries again, and few enough an hour not to be shut out."""

Ask = Callable[[], Awaitable[tuple[str, float]]]
"""Gives a new token and its life in seconds. Raises TactError."""
Start = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Runs a coroutine as a task of whoever may cancel it. Raises NotSent once that one has ended."""

_log = structlog.get_logger(__name__)


class _Token(Struct, frozen=True):
    value: str
    renew_s: float
    """Steady time after which the next one is asked for."""
    ends_s: float

    def __repr__(self) -> str:
        return "_Token()"


class TokenSlot:
    """The token of one application. All times are of `Clock.steady_s`."""

    def __init__(self) -> None:
        self._token: _Token | None = None
        self._asking: asyncio.Task[None] | None = None
        self._again_s = float("-inf")
        """Not asked for before this."""
        self._failures = 0
        """In a row."""
        self._errcode: int | None = None
        self._reason = ""
        """Why there is none: WeCom's code, or words."""
        self._strikes = 0
        """Tokens in a row that never worked."""

    async def get(
        self, ask: Ask, start: Start, now: Callable[[], float], chance: random.Random
    ) -> str:
        """A token that lives. Raises NotSent or WecomError when there is none to be had."""
        while True:
            at_s, token = now(), self._token
            if token is not None and at_s < token.renew_s:
                return token.value
            if self._asking is None and at_s >= self._again_s:
                self._asking = start(self._ask(ask, now, chance))
                self._asking.add_done_callback(self._asked)
            if token is not None and at_s < token.ends_s:
                return token.value
            if self._asking is None:
                raise self._failure(at_s)
            # Whoever waits may give up, or the account that asks may end: the others go on.
            await asyncio.wait({self._asking})

    def worked(self, value: str) -> None:
        """WeCom took this token."""
        if self._token is not None and self._token.value == value:
            self._strikes = self._failures = 0

    def spoil(self, value: str, at_s: float, chance: random.Random, errcode: int) -> None:
        """WeCom did not take this token. When new ones are not taken either they are asked for
        less and less often."""
        if self._token is None or self._token.value != value:
            return
        self._token = None
        self._strikes += 1
        if self._strikes > 1:
            self._failed(at_s, chance, errcode, "")

    async def _ask(self, ask: Ask, now: Callable[[], float], chance: random.Random) -> None:
        try:
            value, life_s = await ask()
        except WecomError as error:
            self._failed(now(), chance, error.errcode, "")
        except TactError as error:
            self._failed(now(), chance, None, error.message)
        except Exception as error:
            # A bug: whoever waits must not ask again without end. Its text may hold the secret.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            _log.error(
                "wecom.bug", error=type(error).__name__, at=f"{frame.filename}:{frame.lineno}"
            )
            self._failed(now(), chance, None, "internal")
        else:
            at_s, life_s = now(), min(life_s, LIFE_MAX_S)
            self._token = _Token(value, at_s + RENEW * life_s, at_s + life_s)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None

    def _failed(self, at_s: float, chance: random.Random, errcode: int | None, reason: str) -> None:
        self._errcode, self._reason = errcode, reason
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(self._failures, 16), PAUSE_MAX_S)
        pause_s *= 0.5 + chance.random() / 2
        if errcode is not None and verdict_of(errcode).stop:
            pause_s = PAUSE_CONFIG_S
        self._failures += 1
        self._again_s = at_s + pause_s

    def _failure(self, at_s: float) -> TactError:
        """A new one each time: a raised error collects tracebacks."""
        pause_ms = max(int((self._again_s - at_s) * 1_000), 1)
        if self._errcode is None:
            return NotSent(f"no access token: {self._reason}", retry_after_ms=pause_ms)
        which = "the new tokens" if self._errcode in REFRESH else "gettoken"
        return WecomError(
            f"WeCom answers {self._errcode} to {which}",
            errcode=self._errcode,
            retry_after_ms=pause_ms,
            api="gettoken",
        )
