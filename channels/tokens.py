"""Access tokens: one for each application at a service, shared by all of its accounts in the
process, asked for by one of them while the others wait, and before the old one ends.

An endpoint that fails is left alone for a while that doubles, and who wants a token meanwhile is
told so at once. So is one whose new tokens are not taken. What a service allows, and for how long
it is left alone after a refusal that only a person can mend, is said where it is asked.

All times are of `Clock.steady_s`: a clock that is set changes nothing.
"""

from __future__ import annotations

import asyncio
import copy
import random
import traceback
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

import structlog
from msgspec import Struct

from channels.http import HttpClient, NotSent
from channels.shared import Shared
from hub.clock import Clock
from hub.errors import TactError

RENEW: Final = 0.9
"""The part of a token's life after which the next one is asked for, while this one still serves: 6
minutes of an hour, in which the endpoint may fail without anybody noticing."""
LIFE_MIN_S: Final = 1.0
"""A shorter life is not believed: its token would be asked for without a pause."""
LIFE_MAX_S: Final = 86_400.0
"""Nor is a longer one: a secret that was taken away must stop working."""
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
"""Between two tries of an endpoint that fails; each is drawn from the upper half."""
PAUSE_REFUSED_S: Final = 240.0
"""The same after a refusal that only a person can mend: below the 300 s after which an account that
stands still for it tries again, and few enough an hour not to be shut out."""
SLOTS_MAX: Final = 20_000
"""Applications in one process: as many as a hub has accounts. The one not used longest goes."""

_log = structlog.get_logger(__name__)

V = TypeVar("V")

Ask = Callable[[], Awaitable[tuple[V, float]]]
"""Gives a new token and its life in seconds. Raises TactError: NotSent while there is none to be
had, another kind when the service refuses."""


class _Token(Struct, Generic[V], frozen=True):
    value: V
    renew_s: float
    """After which the next one is asked for."""
    ends_s: float

    def __repr__(self) -> str:
        return "_Token()"


class _Slot(Generic[V]):
    """The token of one application, and who asks for the next."""

    def __init__(self) -> None:
        self.token: _Token[V] | None = None
        self.asking: asyncio.Task[None] | None = None
        self._again_s = float("-inf")
        """Not asked for before this."""
        self._failures = 0
        """In a row."""
        self._strikes = 0
        """Tokens in a row that never worked."""
        self._error: TactError = NotSent("no access token yet")

    def ready(self, now_s: float) -> bool:
        """Whether it may be asked for now."""
        return self.asking is None and now_s >= self._again_s

    def given(self, value: V, life_s: float, now_s: float) -> None:
        """There is a new one."""
        life_s = min(max(life_s, LIFE_MIN_S), LIFE_MAX_S)
        self.token = _Token(value, now_s + RENEW * life_s, now_s + life_s)

    def worked(self, value: V) -> None:
        """The service took it."""
        if self.token is not None and self.token.value == value:
            self._strikes = self._failures = 0

    def spoiled(self, value: V) -> int:
        """The service did not take it. Gives how many it has not taken in a row; 0: there is
        another one already."""
        if self.token is None or self.token.value != value:
            return 0
        self.token = None
        self._strikes += 1
        return self._strikes

    def failed(
        self, error: TactError, pause_s: float | None, now_s: float, chance: random.Random
    ) -> None:
        """There is none, and none is asked for in `pause_s`; None: longer each time."""
        if pause_s is None:
            longest_s = min(PAUSE_FIRST_S * 2.0 ** min(self._failures, 16), PAUSE_MAX_S)
            pause_s = longest_s * (0.5 + chance.random() / 2)
        self._failures += 1
        self._again_s = now_s + pause_s
        self._error = error.with_traceback(None)

    def failure(self, now_s: float) -> TactError:
        """Why there is none. A new one each time: a raised error collects tracebacks."""
        error = copy.copy(self._error)
        error.retry_after_ms = max(int((self._again_s - now_s) * 1_000), 1)
        return error


_SLOTS: Final[Shared[bytes, _Slot[Any]]] = Shared(_Slot, SLOTS_MAX)


def identity_of(*words: str | bytes) -> bytes:
    """What accounts with the same tokens share, of what they ask with; no secret can be read in
    it."""
    parts = (word.encode() if isinstance(word, str) else word for word in words)
    digests = b"".join(blake2b(part, digest_size=32).digest() for part in parts)
    return blake2b(digests, digest_size=16).digest()


def _unlike(error: TactError) -> float | None:
    """A refusal that only a person can mend is anything but NotSent."""
    return None if isinstance(error, NotSent) else PAUSE_REFUSED_S


class Tokens(Generic[V]):
    """One account's way to the token that it shares.

    `counted` is told `token_asked`, `token_failed` and `token_refused`. `pause_of` says for how
    many seconds nothing is asked after an error; None: longer each time.
    """

    def __init__(
        self,
        identity: bytes,
        ask: Ask[V],
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
        counted: Callable[[str], None],
        pause_of: Callable[[TactError], float | None] = _unlike,
    ) -> None:
        self._identity = identity
        self._ask = ask
        self._clock = clock
        self._chance = chance
        self._account = account
        self._counted = counted
        self._pause_of = pause_of
        self._asking: set[asyncio.Task[None]] = set()
        self._closed = False
        self._end: asyncio.Future[None] | None = None
        """Done when it is closed; none while nobody waits."""

    async def get(self) -> V:
        """One that lives. Raises NotSent while there is none to be had, and what `ask` raises when
        the service refuses; `retry_after_ms` says until when nobody asks."""
        slot: _Slot[V] = _SLOTS.of(self._identity)
        while True:
            now_s, token = self._clock.steady_s(), slot.token
            if token is not None and now_s < token.renew_s:
                return token.value
            if slot.ready(now_s) and not self._closed:
                self._start(slot)
            if token is not None and now_s < token.ends_s:
                return token.value
            if self._closed:
                raise NotSent("the account has stopped")
            if slot.asking is None:
                raise slot.failure(now_s)
            # Whoever waits may give up, or the account that asks may end: the others go on.
            self._end = self._end or asyncio.get_running_loop().create_future()
            await asyncio.wait({slot.asking, self._end}, return_when=asyncio.FIRST_COMPLETED)

    async def reach(self) -> None:
        """Whether there is one, or one is given now. Raises NotSent."""
        try:
            await self.get()
        except NotSent:
            raise
        except TactError as error:
            raise NotSent(error.message, retry_after_ms=error.retry_after_ms) from None

    def worked(self, value: V) -> None:
        """The service took this token."""
        _SLOTS.of(self._identity).worked(value)

    def spoil(self, value: V, error: TactError) -> None:
        """The service did not take this token. When a new one is not taken either, `error` is why
        there is none, and they are asked for less and less often."""
        slot = _SLOTS.of(self._identity)
        strikes = slot.spoiled(value)
        if strikes:
            self._counted("token_refused")
        if strikes > 1:
            self._failed(slot, error)

    async def close(self) -> None:
        """Ask no more; who waits for a token is told that nothing left."""
        self._closed = True
        if self._end is not None and not self._end.done():
            self._end.set_result(None)
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)

    def _start(self, slot: _Slot[V]) -> None:
        slot.asking = task = asyncio.create_task(self._asked(slot), name=f"{self._account}-token")
        self._asking.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            slot.asking = None
            self._asking.discard(task)

        task.add_done_callback(ended)

    async def _asked(self, slot: _Slot[V]) -> None:
        self._counted("token_asked")
        try:
            value, life_s = await self._ask()
        except TactError as error:
            failure = error
        except Exception as error:
            # A bug: whoever waits must not ask again without end. Its text may hold the secret.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            _log.error("token.bug", account=self._account, error=type(error).__name__, at=place)
            failure = NotSent("no access token: internal")
        else:
            slot.given(value, life_s, self._clock.steady_s())
            return
        self._counted("token_failed")
        _log.warning("token.none", account=self._account, reason=failure.message)
        self._failed(slot, failure)

    def _failed(self, slot: _Slot[V], error: TactError) -> None:
        slot.failed(error, self._pause_of(error), self._clock.steady_s(), self._chance)


class Line:
    """What requests leave by that carry a token: the service takes connections, and there is a
    token for them. `asking` are the connections by which it is asked for."""

    def __init__(self, http: HttpClient, asking: HttpClient, tokens: Tokens[Any]) -> None:
        self._http = http
        self._asking = asking
        self._tokens = tokens

    async def reach(self, url: str) -> None:
        """Whether requests could leave now. Raises NotSent."""
        await self._http.reach(url)
        await self._tokens.reach()

    async def close(self) -> None:
        """Close all connections. What is under way is cut."""
        await self._asking.close()
        await self._http.close()
