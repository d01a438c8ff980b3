"""getui's access tokens: one for each app and process, asked for by one of those that wait, before
the old one ends, and anew when getui does not take it any more.

Documented (RestAPI v2, page "auth"): the signature, a life of a day told as the moment of its end,
at most 100 authentications a minute, "a clock that is too far off may fail". Not documented:
whether a new token ends the one before; accounts of one app in a process share theirs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Final
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct

from channels.http import HttpClient, HttpReply, NotSent, Unanswered
from channels.provider import Answer
from channels.push.vendors.getui_codes import AUTH_RATE, MINUTE_MS
from channels.push.vendors.refused import Refused
from channels.sending import Outcome
from hub.clock import Clock

RENEW: Final = 0.9
"""The part of a token's life after which the next one is asked for, while this one still serves:
over two hours of a day in which the endpoint may fail."""
LIFE_MIN_S: Final = 60.0
LIFE_MAX_S: Final = 86_400.0
"""The end is told by getui's clock and read by ours: a life is believed within these."""
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
"""Between two tries of an endpoint that fails, each drawn from the upper half: 60 a minute at most,
of the 100 that getui allows."""
PAUSE_CONFIG_S: Final = 240.0
"""After a refusal that a person must mend: below the 300 s after which an account tries again."""
SKEW_S: Final = 60
"""A clock that is further off than this is told as the likely cause of a refusal."""

Ask = Callable[[], Awaitable[tuple[str, float]]]
"""Gives a new token and its life in seconds. Raises NotSent, Refused."""


class _Token(Struct, frozen=True):
    value: str
    renew_s: float
    ends_s: float

    def __repr__(self) -> str:
        return "_Token()"


class TokenSlot:
    """The token of one app. Times are of `Clock.steady_s`."""

    def __init__(self) -> None:
        self._token: _Token | None = None
        self._asking = asyncio.Lock()
        """Held by the one that asks: the others find what it got, or why it got none."""
        self._again_s = float("-inf")
        self._failures = 0
        self._strikes = 0
        """Tokens in a row that were not taken from the beginning."""
        self._error: NotSent | Refused | None = None

    async def get(self, ask: Ask, now: Callable[[], float], chance: random.Random) -> str:
        """A token that lives. Raises NotSent, Refused."""
        async with self._asking:
            at_s, token = now(), self._token
            if token is not None and at_s < token.renew_s:
                return token.value
            if at_s >= self._again_s:
                await self._ask(ask, now, chance)
                token = self._token
            if token is not None and now() < token.ends_s:
                return token.value
            raise self._failure()

    def worked(self, value: str) -> None:
        """getui took it."""
        if self._token is not None and self._token.value == value:
            self._strikes = self._failures = 0

    def spoil(self, value: str, at_s: float, chance: random.Random) -> None:
        """getui did not take it. New ones that are not taken either are asked for ever less."""
        if self._token is None or self._token.value != value:
            return
        self._token = None
        self._strikes += 1
        if self._strikes > 1:
            self._failed(NotSent("getui does not take its new tokens"), at_s, chance)

    async def _ask(self, ask: Ask, now: Callable[[], float], chance: random.Random) -> None:
        try:
            value, life_s = await ask()
        except (NotSent, Refused) as error:
            self._failed(error, now(), chance)
            return
        at_s, life_s = now(), min(max(life_s, LIFE_MIN_S), LIFE_MAX_S)
        self._token = _Token(value, at_s + RENEW * life_s, at_s + life_s)

    def _failed(self, error: NotSent | Refused, at_s: float, chance: random.Random) -> None:
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(self._failures, 16), PAUSE_MAX_S)
        pause_s *= 0.5 + chance.random() / 2
        if isinstance(error, Refused):
            told_ms = error.outcome.answer.retry_after_ms
            pause_s = PAUSE_CONFIG_S if error.outcome.stop else (told_ms or 0) / 1_000
        self._failures += 1
        self._again_s = at_s + pause_s
        self._error = error

    def _failure(self) -> NotSent | Refused:
        """A new one each time: a raised error collects tracebacks."""
        if isinstance(self._error, Refused):
            return Refused(self._error.message, outcome=self._error.outcome)
        return NotSent(self._error.message if self._error else "no token")


_SLOTS: Final[WeakValueDictionary[tuple[object, ...], TokenSlot]] = WeakValueDictionary()
"""Of this process; one goes with the last account of its app."""


def slot_of(url: str, app_key: str, master_secret: str) -> TokenSlot:
    """The slot that all accounts of an app share."""
    secret = sha256(master_secret.encode()).digest()
    key = (asyncio.get_running_loop(), url, app_key, secret)
    return _SLOTS.setdefault(key, TokenSlot())


# ---- asking ------------------------------------------------------------------------------------


class _Data(Struct):
    token: str = ""
    expire_time: str | int = 0


class _Said(Struct):
    code: int = -1
    msg: str = ""
    data: _Data | None = None


_DECODER: Final = msgspec.json.Decoder(_Said)


def signature(app_key: str, timestamp: str, master_secret: str) -> str:
    """Of an authentication."""
    return sha256(f"{app_key}{timestamp}{master_secret}".encode()).hexdigest()


async def ask(
    client: HttpClient, url: str, app_key: str, master_secret: str, clock: Clock
) -> tuple[str, float]:
    """Ask `url` (`…/v2/<app_id>`) for a token. Raises NotSent, Refused."""
    timestamp = str(clock.now_ms())
    body = {
        "sign": signature(app_key, timestamp, master_secret),
        "timestamp": timestamp,
        "appkey": app_key,
    }
    headers = {"content-type": "application/json;charset=utf-8"}
    try:
        reply = await client.request(
            "POST", f"{url}/auth", body=msgspec.json.encode(body), headers=headers
        )
    except Unanswered as error:  # no push was in it: it may be asked again
        raise NotSent(f"no token: {error.message}") from None
    return understood(reply, clock.now_ms())


def understood(reply: HttpReply, now_ms: int) -> tuple[str, float]:
    """The token in an answer, and its life in seconds. Raises NotSent, Refused."""
    try:
        said = _DECODER.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = _Said()
    token = said.data.token if said.data is not None else ""
    if said.code == 0 and token.isascii() and token.isprintable() and 0 < len(token) <= 1_024:
        assert said.data is not None
        try:
            ends_ms = int(said.data.expire_time)
        except ValueError:
            ends_ms = 0
        return token, (ends_ms - now_ms) / 1_000
    code = str(said.code) if said.code > 0 else f"HTTP {reply.status}"
    if said.code == AUTH_RATE or (said.code <= 0 and reply.status == 429):
        answer = Answer("throttled", code=code, retry_after_ms=MINUTE_MS)
        raise Refused("getui: too many authentications", outcome=Outcome(answer))
    if said.code in (0, 2) or (said.code < 0 and not 400 <= reply.status <= 499):
        raise NotSent(f"no token: getui answers {code}")
    stop = f"getui refuses the account with {code}: check app_id, app_key and master_secret"
    answer = Answer("failed", failure="config", code=code)
    raise Refused(stop, outcome=Outcome(answer, stop=stop + _skewed(reply, now_ms)))


def _skewed(reply: HttpReply, now_ms: int) -> str:
    """The signature is made of the time: a clock that is off makes it wrong."""
    try:
        theirs_s = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ", and this machine's clock"
    off_s = round(now_ms / 1_000 - theirs_s)
    if abs(off_s) < SKEW_S:
        return ""
    where = "ahead of" if off_s > 0 else "behind"
    return f"; or it is this machine's clock, {abs(off_s)} s {where} getui's"
