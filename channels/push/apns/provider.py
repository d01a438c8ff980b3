"""An account at Apple's push service: a `channels.provider.Provider`.

Pushes leave by a few connections that stay; what these do not take yet waits here, within the
window that the account was told. A push is answered once, by Apple or by what became of its
connection: one that was not acted on (RFC 9113, 8.7) is `retry` and uses no try, one that may have
been is `unknown`. Apple removes no repeats, and tells nothing after its answer.

Source: docs/push.md; Apple, "Sending notification requests to APNs".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple

from channels.http import HttpReply
from channels.provider import (
    Answer,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
)
from channels.push.apns.config import ApnsConfig, check, signing_key, tls_of
from channels.push.apns.connection import STREAMS_MAX, Connection, Headers
from channels.push.apns.errors import (
    BAD_DEVICE_TOKEN,
    EXPIRED_PROVIDER_TOKEN,
    accepted,
    clock_advice,
    reply_of,
    understood,
)
from channels.push.apns.lines import CLOSE_S, Line
from channels.push.apns.payload import Push, push_of
from channels.push.apns.token import Tokens
from channels.push.content import ttl_s
from channels.sending import Outcome
from hub.clock import Clock
from hub.contract.types import Delivery

__all__ = ["ApnsConfig", "ApnsProvider", "check"]

QUEUE_MAX: Final = 8 * STREAMS_MAX
"""Pushes that wait for a stream. The account keeps within the window it was told, so only those
wait that were on their way when the window shrank."""
EXPIRATION_MOST_S: Final = 30 * 86_400
"""Apple keeps nothing longer."""
BAD_TOKENS: Final = 20
"""Device tokens called bad before the first good one since the start. More are not told dead: they
are those of the other environment, and all would be forgotten."""

_WRONG_ENVIRONMENT: Final = (
    "Apple calls every device token bad: is base_url that of the app's environment "
    "(production, sandbox)?"
)

_log = structlog.get_logger(__name__)


class ApnsProvider:
    """One account: its connections, its tokens, and what is under way. Raises ConfigError."""

    resend = False

    def __init__(
        self,
        config: ApnsConfig,
        _sms: object,
        events: Events,
        clock: Clock,
        chance: Random,
        account: str,
    ) -> None:
        check(config)
        self._config = config
        self._events = events
        self._clock = clock
        self._account = account
        self._tokens = Tokens(signing_key(config), config.key_id, config.team_id, clock)
        tls = tls_of(config)
        self._lines = [Line(config, tls, self, clock, chance) for _ in range(config.connections)]
        parts = urlsplit(config.base_url)
        self._head = (
            HeaderTuple(b":method", b"POST"),
            HeaderTuple(b":scheme", parts.scheme.encode()),
            HeaderTuple(b":authority", parts.netloc.encode()),
        )
        self._open: list[Connection] = []
        self._draining: set[Connection] = set()
        self._queue: deque[Submission] = deque()
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._link: Link | None = None
        self._stopping = False
        self._pumping = False
        self._bad_tokens: int | None = 0
        """Since the start; None once one was good."""

    # ---- Provider ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Never: Apple wants connections to last, and provider tokens not to be made anew."""
        return False

    def prepare(self, delivery: Delivery) -> Prepared:
        """The request as it will leave. Raises Unsendable."""
        return Prepared(delivery.to, units=1, parts=(push_of(delivery, self._config),))

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Begin to connect."""
        for line in self._lines:
            line.start()

    def submit(self, submission: Submission) -> None:
        """Send it by the connection that is least busy, or as soon as one has room."""
        self._under_way += 1
        self._quiet.clear()
        if self._stopping or not self._open or len(self._queue) >= QUEUE_MAX:
            loop = asyncio.get_running_loop()
            loop.call_soon(partial(self._answer, submission, Answer("retry")))
            return
        self._queue.append(submission)
        self._pump()

    def flush(self) -> None:
        """Write what was submitted, not at the end of the loop's pass."""
        for connection in self._open:
            connection.flush()

    async def callback(self, request: Callback) -> Reply:
        """Apple calls nobody."""
        return Reply(status=404)

    async def stop(self, drain_s: float) -> None:
        """Wait for answers under way, then close: what is still unanswered is `unknown`."""
        self._stopping = True
        self._give_back()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._quiet.wait()
        for line in self._lines:
            await line.stop()
        draining = [connection for connection in self._draining if connection.connected]
        for connection in draining:
            connection.close("stopped")
        if draining:
            await asyncio.wait([connection.ended for connection in draining], timeout=CLOSE_S)

    # ---- sending -----------------------------------------------------------------------------

    def _pump(self) -> None:
        """Give what waits to the connections that have room."""
        if self._pumping:
            return  # called from within `begin`: the loop below goes on
        self._pumping = True
        while self._queue:
            # The least busy, not the roomiest: Apple gives room to those that were used.
            free = [connection for connection in self._open if connection.room > 0]
            if not free:
                break
            connection = min(free, key=_busy)
            submission = self._queue.popleft()
            push: Push = submission.prepared.parts[0]
            token = self._tokens.header()
            headers = (
                *self._head,
                *push.headers,
                NeverIndexedHeaderTuple(b"authorization", token),
                NeverIndexedHeaderTuple(b"apns-expiration", self._expiration(submission, push)),
            )
            connection.begin((submission, token), headers, push.body)
        self._pumping = False

    def _expiration(self, submission: Submission, push: Push) -> bytes:
        """Unix seconds; 0: one try, and nothing is stored."""
        now_ms = self._clock.now_ms()
        seconds = 0 if push.once else ttl_s(submission.expires_ms, now_ms, EXPIRATION_MOST_S)
        return b"%d" % (now_ms // 1_000 + seconds if seconds else 0)

    def _answer(self, submission: Submission, answer: Answer) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._quiet.set()
        self._count(answer.kind)
        self._events.answered(submission.delivery, answer)

    def _give_back(self) -> None:
        """What waits never left."""
        queue, self._queue = self._queue, deque()
        for submission in queue:
            self._answer(submission, Answer("retry"))

    # ---- Owner of the connections ------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Requests can leave by it."""
        line = self._line_of(connection)
        if line is None:
            connection.close("not needed")
            return
        line.up()
        self._open.append(connection)
        self._tell_link()
        self._pump()

    def resized(self, connection: Connection) -> None:
        """It takes more or fewer requests at once."""
        self._tell_link()
        self._pump()

    def answered(
        self, connection: Connection, ticket: Any, status: int, headers: Headers, body: bytes
    ) -> None:
        """Apple's answer."""
        submission, token = ticket
        reply = reply_of(status, headers, body)
        if status == 200:
            self._bad_tokens = None
            self._answer(submission, accepted(reply))
        else:
            answer, stop = self._refused(submission, token, understood(reply, self._now()), reply)
            if stop:
                self._halt(stop)  # first: what the answer makes room for must not leave
            self._answer(submission, answer)
        if self._queue:
            self._pump()

    def unanswered(self, connection: Connection, ticket: Any, *, left: bool, reason: str) -> None:
        """There will be no answer. What was not acted on never left, and used up no try."""
        submission, _ = ticket
        self._answer(submission, Answer("unknown", code=reason) if left else Answer("retry"))

    def leaving(self, connection: Connection) -> None:
        """Nothing more leaves by it; another is opened."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._draining.add(connection)
        line = self._line_of(connection)
        if line is not None:
            line.down(connection.reason)
        if not self._open:
            self._give_back()
        self._tell_link()

    def closed(self, connection: Connection) -> None:
        """It has ended."""
        self._draining.discard(connection)
        self._count("connection_ended")
        _log.info("apns.ended", account=self._account, reason=connection.reason)
        line = self._line_of(connection)
        if line is not None:  # it was never open
            line.down(connection.reason)
            self._tell_link()

    def changed(self) -> None:
        """A line could not connect."""
        self._tell_link()

    # ---- what is refused ---------------------------------------------------------------------

    def _refused(
        self, submission: Submission, token: bytes, outcome: Outcome, reply: HttpReply
    ) -> tuple[Answer, str]:
        """The answer to a push that Apple has not taken, and what a person must change."""
        answer = outcome.answer
        push: Push = submission.prepared.parts[0]
        if answer.code == EXPIRED_PROVIDER_TOKEN:
            if self._tokens.expired(token):
                return Answer("retry"), ""  # the next try has a newer one
            age_s = int(self._tokens.age_s())
            advice = clock_advice(reply, self._now())
            return Answer("retry"), f"Apple calls a token of {age_s} s ago expired: {advice}"
        if answer.code == BAD_DEVICE_TOKEN and self._bad_tokens is not None:
            self._bad_tokens += 1
            if self._bad_tokens > BAD_TOKENS:
                config = Answer("failed", failure="config", code=answer.code)
                return config, _WRONG_ENVIRONMENT
        if push.own_topic:
            return answer, ""  # the content's mistake, not the account's
        return answer, outcome.stop

    def _halt(self, reason: str) -> None:
        """Nothing is sent until a person has changed something, or a while has passed: then by new
        connections, as Apple asks."""
        _log.warning("apns.halted", account=self._account, reason=reason)
        for line in self._lines:
            connection = line.connection
            if connection is not None and connection in self._open:
                line.down(reason, config_fault=True)
                connection.leave(reason)

    # ---- telling -----------------------------------------------------------------------------

    def _line_of(self, connection: Connection) -> Line | None:
        return next((line for line in self._lines if line.connection is connection), None)

    def _tell_link(self) -> None:
        """Report the connections, if that has changed."""
        down = [line for line in self._lines if line.reason]
        link = Link(
            window=0 if self._stopping else sum(one.limit for one in self._open),
            reason=down[0].reason if down else "",
            config=not self._open and any(line.config_fault for line in down),
        )
        if link != self._link:
            self._link = link
            self._events.link(link)

    def _count(self, what: str) -> None:
        self._events.counted("tact_provider_total", self._account, what)

    def _now(self) -> int:
        return self._clock.now_ms()


def _busy(connection: Connection) -> tuple[int, int]:
    return connection.unanswered, connection.begun
