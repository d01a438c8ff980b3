"""Calls of WeCom's API for one account: token, budget and meaning of the reply are seen to here.

WeCom answers with HTTP 200 and JSON that has an `errcode`; anything else comes from something in
between, and says nothing of what became of the request. The token is part of the URL, so nothing
here tells a URL to anybody.

Sources: WeCom's pages 91039 (tokens), 90313 (codes), 90454 (rates), 90253 (media).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from channels.http import HttpClient, HttpReply, NotSent, Unanswered
from channels.shared import Shared
from channels.tokens import PAUSE_REFUSED_S, Tokens, identity_of
from channels.wecom.budgets import Gate
from channels.wecom.config import WecomConfig
from channels.wecom.endpoints import ENDPOINTS, Endpoint
from channels.wecom.errors import FREQUENT, REFRESH, WecomError, refused
from hub.clock import Clock
from hub.errors import TactError

REPLY_BYTES: Final = 4 * 1024 * 1024
"""Read of one reply; a longer one is `Unanswered`. A full page of kf/sync_msg has 1,000 messages of
up to 2 KiB of text each."""
GATES_MAX: Final = 50_000
"""APIs of corps that are counted: some ten for each of thousands of corps, 1 KiB each. The one not
used longest goes, and its count with it."""
TOLD_MAX: Final = 100
"""Unknown codes that one client has told of; each is told once."""

_HINT = re.compile(r"hint: \[([0-9A-Za-z_-]{1,64})\]")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_log = structlog.get_logger(__name__)


class _Request(Struct, frozen=True):
    """One call without its token."""

    name: str
    endpoint: Endpoint
    query: dict[str, str]
    content: bytes | None = None

    def __repr__(self) -> str:
        return f"_Request({self.name!r})"


_GATES: Final[Shared[tuple[str, str, str], Gate]] = Shared(Gate, GATES_MAX)


def _uncounted(what: str) -> None:
    """Nobody counts."""


class WecomClient:
    """One account's way to WeCom. Tokens and budgets are shared by all clients of the process.

    `counted` is told `unknown_errcode`, `token_asked`, `token_failed`, `token_refused` and
    `budget_spent`.
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
        self._http = HttpClient(
            connections=config.connections,
            connect_s=config.connect_s,
            answer_s=config.answer_s,
            body_bytes=REPLY_BYTES,
        )
        self._tokens: Tokens[str] = Tokens(
            identity_of("wecom", config.base_url, config.corp_id, config.secret),
            self._ask,
            clock,
            chance,
            account=config.corp_id,
            counted=counted,
            pause_of=_pause_s,
        )
        self._told: set[int] = set()
        self._closed = False

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        """Call the endpoint of this name, and give the decoded reply when its errcode is 0 (also
        when only some recipients were valid: the reply says which).

        Raises WecomError for any other errcode (and, with a throttled verdict, before anything is
        sent when the budget of this API is spent), NotSent when nothing left, Unanswered when it
        left and nobody knows.
        """
        endpoint = ENDPOINTS[name]
        try:
            # Characters as they are, in UTF-8: some calls refuse JSON's escapes of them (40033).
            content = msgspec.json.encode(body or {}) if endpoint.method == "POST" else None
        except UnicodeEncodeError:
            raise refused(40033, api=name) from None
        return await self._call(_Request(name, endpoint, query, content))

    async def reach(self, url: str) -> None:
        """Whether calls can be made: WeCom takes connections, and there is a token or one is given
        now. Raises NotSent."""
        await self._http.reach(url)
        await self._tokens.reach()

    async def close(self) -> None:
        """Close all connections; what is under way is cut, and later calls are `NotSent`."""
        self._closed = True
        await self._tokens.close()
        await self._http.close()

    # ---- one call --------------------------------------------------------------------------------

    async def _call(self, request: _Request) -> dict[str, Any]:
        again = True
        while True:
            token = await self._token()
            try:
                reply = await self._asked(request, token)
            except WecomError as error:
                if error.errcode not in REFRESH:
                    self._tokens.worked(token)
                    raise
                self._tokens.spoil(token, _no_token(error.errcode, "the new tokens"))
                if not again:
                    raise
                again = False  # nothing was done, so it may be asked for once more
            else:
                self._tokens.worked(token)
                return reply

    async def _asked(self, request: _Request, token: str) -> dict[str, Any]:
        """One request; of those that only read another, when nobody knows what became of it."""
        if not request.endpoint.sends:
            try:
                return await self._once(request, token)
            except Unanswered:
                _log.info("wecom.again", api=request.name, corp=self._config.corp_id)
        return await self._once(request, token)

    async def _once(self, request: _Request, token: str = "") -> dict[str, Any]:
        if self._closed:
            raise NotSent("the account has stopped")
        gate = self._enter(request)
        left_s = self._clock.steady_s()
        reply = await self._http.request(
            request.endpoint.method,
            self._config.base_url.rstrip("/") + request.endpoint.path,
            query={"access_token": token, **request.query} if token else request.query,
            body=request.content,
            headers=None if request.content is None else {"content-type": "application/json"},
        )
        said = decoded(reply)
        errcode: int = said["errcode"]
        if errcode == FREQUENT:
            until_ms = gate.blocked(left_s, self._clock.steady_s(), self._clock.now_ms())
            raise self._refusal(request.name, said, until_ms)
        gate.passed(left_s)
        if errcode:
            raise self._refusal(request.name, said)
        return said

    def _enter(self, request: _Request) -> Gate:
        config, name = self._config, request.name
        gate = _GATES.of((config.base_url, config.corp_id, name))
        limits = (config.api_per_min, config.api_per_hour)
        if not request.endpoint.rated:
            limits = (sys.maxsize, sys.maxsize)
        wait_s = gate.enter(self._clock.steady_s(), *limits)
        if wait_s <= 0:
            return gate
        self._counted("budget_spent")
        wait_ms = max(int(wait_s * 1_000), 1)
        raise WecomError(
            f"the budget of {name} is spent",
            errcode=FREQUENT,
            retry_after_ms=wait_ms,
            api=name,
            until_ms=self._clock.now_ms() + wait_ms,
        )

    def _refusal(
        self, name: str, said: Mapping[str, Any], until_ms: int | None = None
    ) -> WecomError:
        """The error of a reply. Of WeCom's words only its own id of the failure is kept."""
        hint = _HINT.search(str(said.get("errmsg", ""))[:1_000])
        error = refused(said["errcode"], api=name, hint=hint[1] if hint else "", until_ms=until_ms)
        if not error.verdict.known:
            self._counted("unknown_errcode")
            if error.errcode not in self._told and len(self._told) < TOLD_MAX:
                self._told.add(error.errcode)
                _log.warning("wecom.unknown_errcode", corp=self._config.corp_id, **error.facts)
        return error

    # ---- the token -------------------------------------------------------------------------------

    async def _token(self) -> str:
        if self._closed:
            raise NotSent("the account has stopped")
        return await self._tokens.get()

    async def _ask(self) -> tuple[str, float]:
        query = {"corpid": self._config.corp_id, "corpsecret": self._config.secret}
        try:
            return token_of(await self._once(_Request("gettoken", ENDPOINTS["gettoken"], query)))
        except WecomError as error:
            raise _no_token(error.errcode, "gettoken") from None
        except TactError as error:
            raise NotSent(f"no access token: {error.message}") from None


def _no_token(errcode: int, what: str) -> WecomError:
    return WecomError(f"WeCom answers {errcode} to {what}", errcode=errcode, api="gettoken")


def _pause_s(error: TactError) -> float | None:
    """WeCom shuts an address out for an hour after several wrong secrets (45009)."""
    stop = isinstance(error, WecomError) and error.verdict.stop
    return PAUSE_REFUSED_S if stop else None


def decoded(reply: HttpReply) -> dict[str, Any]:
    """The JSON of a reply, with its `errcode`. Raises Unanswered when it is anything else."""
    if reply.status != 200:
        raise Unanswered(f"HTTP {reply.status}, which WeCom never says")
    try:
        said = msgspec.json.decode(reply.body)
    except _UNREADABLE:
        said = None
    if not isinstance(said, dict) or type(said.get("errcode")) is not int:
        raise Unanswered("the reply is not WeCom's JSON")
    return said


def token_of(said: Mapping[str, Any]) -> tuple[str, float]:
    """Token and life in seconds, of what gettoken said. Raises Unanswered without them."""
    token, life = said.get("access_token"), said.get("expires_in")
    valid = isinstance(token, str) and 0 < len(token) <= 512 and token.isascii()
    if not valid or type(life) is not int or life < 0:
        raise Unanswered("the reply to gettoken has no token")
    # What is left of an old token's life in whole seconds: 0 is most of the last one.
    return token, float(max(life, 1))
