"""Access tokens of service accounts: one for each, shared by all accounts of the process, asked for
by one of them while the others wait, and before the old one ends.

An endpoint that fails is left alone for a while that doubles, and who wants a token meanwhile is
told so at once. Source: RFC 6749 (5.1); Google's tokens live an hour.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from hashlib import blake2b
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from channels.http import HttpClient, NotSent
from channels.push.service_account import (
    GRANT_TYPE,
    GrantRefused,
    ServiceAccount,
    assertion,
    granted,
)
from hub.clock import Clock
from hub.errors import TactError

RENEW: Final = 0.9
"""The part of a token's life after which the next one is asked for, while this one still serves:
6 minutes of an hour, in which the endpoint may fail without anybody noticing."""
LIFE_MAX_S: Final = 3_600.0
"""A longer life is not believed: a key that was taken away must stop working."""
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
"""Between two tries of an endpoint that fails; each is drawn from the upper half."""
PAUSE_REFUSED_S: Final = 240.0
"""The same after a refusal that only a person can mend: below the 300 s after which an account that
stands still for it tries again."""
SLOTS_MAX: Final = 20_000
"""Service accounts in one process: as many as a hub has accounts. The one that came first goes."""

_log = structlog.get_logger(__name__)


class Token(Struct, frozen=True):
    """A token, and the headers of all requests that carry it. Times are of `Clock.steady_s`."""

    headers: dict[str, str]
    renew_s: float
    ends_s: float

    def __repr__(self) -> str:
        return "Token()"


class _Slot:
    """The token of one service account."""

    def __init__(self) -> None:
        self.token: Token | None = None
        self.asking: asyncio.Task[None] | None = None
        self._again_s = float("-inf")
        """Not asked for before this."""
        self._failures = 0
        """In a row."""
        self._error: TactError = NotSent("no access token yet")

    def ready(self, now_s: float) -> bool:
        """Whether it may be asked for now."""
        return self.asking is None and now_s >= self._again_s

    def given(self, token: Token) -> None:
        """There is a new one."""
        self.token = token
        self._failures = 0

    def failed(self, error: TactError, now_s: float, chance: random.Random) -> None:
        """There is none; when to ask again."""
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(self._failures, 16), PAUSE_MAX_S)
        pause_s *= 0.5 + chance.random() / 2
        if isinstance(error, GrantRefused):
            pause_s = PAUSE_REFUSED_S
        self._failures += 1
        self._again_s = now_s + pause_s
        self._error = error

    def failure(self, now_s: float) -> TactError:
        """Why there is none. A new one each time: a raised error collects tracebacks."""
        wait_ms = max(int((self._again_s - now_s) * 1_000), 1)
        return type(self._error)(self._error.message, retry_after_ms=wait_ms)


_SLOTS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bytes, _Slot]]] = (
    WeakKeyDictionary()
)
"""By loop: a token that is being asked for belongs to the loop that waits for it."""


class Grant:
    """One account's way to the token of its service account.

    `counted` is told `token_asked`, `token_failed` and `token_refused`.
    """

    def __init__(
        self,
        service: ServiceAccount,
        scope: str,
        http: HttpClient,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
        counted: Callable[[str], None],
    ) -> None:
        self._service = service
        self._scope = scope
        self._http = http
        self._clock = clock
        self._chance = chance
        self._account = account
        self._counted = counted
        self._identity = _identity(service, scope)
        self._asking: set[asyncio.Task[None]] = set()
        self._closed = False
        self._end: asyncio.Future[None] | None = None
        """Done when it is closed; none while nobody waits."""

    async def token(self) -> Token:
        """One that lives. Raises NotSent while there is none to be had, and GrantRefused when a
        person must change something."""
        slot = self._slot()
        while True:
            now_s, token = self._clock.steady_s(), slot.token
            if token is not None and now_s < token.renew_s:
                return token
            if slot.ready(now_s) and not self._closed:
                self._start(slot)
            if token is not None and now_s < token.ends_s:
                return token
            if self._closed:
                raise NotSent("the account has stopped")
            if slot.asking is None:
                raise slot.failure(now_s)
            # Whoever waits may give up, or the account that asks may end: the others go on.
            self._end = self._end or asyncio.get_running_loop().create_future()
            await asyncio.wait({slot.asking, self._end}, return_when=asyncio.FIRST_COMPLETED)

    def spoil(self, token: Token) -> None:
        """The service did not take this token."""
        slot = self._slot()
        if slot.token is token:
            slot.token = None
            self._counted("token_refused")

    async def close(self) -> None:
        """Ask no more; who waits for a token is told that nothing left."""
        self._closed = True
        if self._end is not None and not self._end.done():
            self._end.set_result(None)
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)

    def _slot(self) -> _Slot:
        slots = _SLOTS.setdefault(asyncio.get_running_loop(), {})
        found = slots.get(self._identity)
        if found is None:
            if len(slots) >= SLOTS_MAX:
                del slots[next(iter(slots))]
            found = slots[self._identity] = _Slot()
        return found

    def _start(self, slot: _Slot) -> None:
        slot.asking = task = asyncio.create_task(self._ask(slot), name="google-token")
        self._asking.add(task)

        def asked(ended: asyncio.Task[None]) -> None:
            slot.asking = None
            self._asking.discard(ended)

        task.add_done_callback(asked)

    async def _ask(self, slot: _Slot) -> None:
        self._counted("token_asked")
        failure: TactError
        try:
            slot.given(await self._asked())
            return
        except (GrantRefused, NotSent) as error:
            failure = error
        except Exception as error:
            # A bug: whoever waits must not ask again without end. Its text may hold the key.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            _log.error("grant.bug", account=self._account, error=type(error).__name__, at=place)
            failure = NotSent("no access token: internal")
        self._counted("token_failed")
        _log.warning("grant.none", account=self._account, reason=failure.message)
        slot.failed(failure, self._clock.steady_s(), self._chance)

    async def _asked(self) -> Token:
        signed = assertion(self._service, self._scope, self._clock.now_ms())
        form = {"grant_type": GRANT_TYPE, "assertion": signed}
        try:
            reply = await self._http.request("POST", self._service.token_uri, form=form)
        except TactError as error:
            # What is `Unanswered` gave no token either: asking again does no harm.
            raise NotSent(f"no access token: {error.message}") from None
        value, life_s = granted(reply, self._clock.now_ms())
        now_s, life_s = self._clock.steady_s(), min(life_s, LIFE_MAX_S)
        headers = {"authorization": f"Bearer {value}", "content-type": "application/json"}
        return Token(headers, now_s + RENEW * life_s, now_s + life_s)


def _identity(service: ServiceAccount, scope: str) -> bytes:
    """What accounts with the same tokens share: a new key of an account asks for its own."""
    key = service.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    words = "\0".join((service.token_uri, service.email, scope)).encode()
    return blake2b(key + words, digest_size=16).digest()
