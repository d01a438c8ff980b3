"""getui's access tokens: how they are asked for. When is the matter of `channels.tokens`.

Documented (RestAPI v2, page "auth"): the signature, a life of a day told as the moment of its end,
at most 100 authentications a minute, "a clock that is too far off may fail". Not documented:
whether a new token ends the one before; accounts of one app in a process share theirs.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from channels.http import HttpClient, HttpReply, NotSent, Unanswered, behind_ms
from channels.provider import Answer
from channels.push.vendors.gateway import GatewayRefused
from channels.push.vendors.getui_codes import AUTH_RATE, MINUTE_MS
from channels.sending import Outcome
from channels.tokens import PAUSE_REFUSED_S
from hub.clock import Clock
from hub.errors import TactError

LIFE_MIN_S: Final = 60.0
"""The end is told by getui's clock and read by ours: a token that has just been given lives."""
SKEW_MS: Final = 60_000
"""A clock that is further off than this is told as the likely cause of a refusal."""


def not_taken() -> NotSent:
    """Why there is no token, when a new one is not taken either."""
    return NotSent("getui does not take its new tokens")


def pause_of(error: TactError) -> float | None:
    """Seconds in which no token is asked for after this; None: longer each time."""
    if not isinstance(error, GatewayRefused):
        return None
    if error.outcome.stop:
        return PAUSE_REFUSED_S
    return (error.outcome.answer.retry_after_ms or 0) / 1_000


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
    """Ask `url` (`…/v2/<app_id>`) for a token. Raises NotSent, GatewayRefused."""
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
    """The token in an answer, and its life in seconds. Raises NotSent, GatewayRefused."""
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
        return token, max((ends_ms - now_ms) / 1_000, LIFE_MIN_S)
    code = str(said.code) if said.code > 0 else f"HTTP {reply.status}"
    if said.code == AUTH_RATE or (said.code <= 0 and reply.status == 429):
        answer = Answer("throttled", code=code, retry_after_ms=MINUTE_MS)
        raise GatewayRefused("getui: too many authentications", outcome=Outcome(answer))
    if said.code in (0, 2) or (said.code < 0 and not 400 <= reply.status <= 499):
        raise NotSent(f"no token: getui answers {code}")
    stop = f"getui refuses the account with {code}: check app_id, app_key and master_secret"
    answer = Answer("failed", failure="config", code=code)
    raise GatewayRefused(stop, outcome=Outcome(answer, stop=stop + _skewed(reply, now_ms)))


def _skewed(reply: HttpReply, now_ms: int) -> str:
    """The signature is made of the time: a clock that is off makes it wrong."""
    skew_ms = behind_ms(reply, now_ms)
    if skew_ms is None:
        return ", and this machine's clock"
    if abs(skew_ms) < SKEW_MS:
        return ""
    where = "behind" if skew_ms > 0 else "ahead of"
    return f"; or it is this machine's clock, {abs(skew_ms) // 1_000} s {where} getui's"
