"""Submissions on their way over HTTP: a bounded number at a time, and what they learn about the
connection told to the account. An account that sends nothing costs nothing.

HTTP has no connection to watch, so the link is up until a request could not leave (then a bare
connection is tried, with growing pauses) or the provider says that something must be put right by a
person (then it is tried again every CONFIG_PAUSE_S, so that putting it right is enough).
"""

from __future__ import annotations

import asyncio
import random
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from channels.http import HttpClient, NotSent, Unanswered
from channels.provider import Answer, Callback, Events, Link, Reply, Submission

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
"""Between two tries to reach a provider that is gone; each is drawn from the upper half. Half a
minute after it is back, messages leave again."""
CONFIG_PAUSE_S: Final = 300.0
"""After a wrong password (or the like) messages are tried again so often: each try may cost up to
`connections` messages that fail."""

_log = structlog.get_logger(__name__)


class HttpConfig(Protocol):
    """What the tables of all providers over HTTP have."""

    @property
    def connections(self) -> int: ...

    @property
    def connect_s(self) -> float: ...

    @property
    def answer_s(self) -> float: ...


class Reachable(Protocol):
    """What requests leave by."""

    async def reach(self, url: str) -> None:
        """Try whether requests could leave now. Raises NotSent."""

    async def close(self) -> None:
        """Close all connections. What is under way is cut."""


class Outcome(Struct, frozen=True):
    """What came of one request."""

    answer: Answer
    stop: str = ""
    """Why nothing can be sent until a person changes something, for people."""


def client_of(config: HttpConfig) -> HttpClient:
    """The connections that an account's table describes."""
    return HttpClient(
        connections=config.connections, connect_s=config.connect_s, answer_s=config.answer_s
    )


class HttpProvider(ABC):
    """What providers over HTTP share: a sender, and how they begin and end."""

    resend = False

    def __init__(
        self,
        client: Reachable,
        url: str,
        connections: int,
        events: Events,
        chance: random.Random,
        account: str,
    ) -> None:
        self._events = events
        self._account = account
        self._sender = HttpSender(
            self._send,
            client=client,
            url=url,
            connections=connections,
            account=account,
            events=events,
            chance=chance,
        )

    @property
    def idle(self) -> bool:
        """Between two requests: what customers say comes by callbacks."""
        return self._sender.idle

    @abstractmethod
    async def _send(self, submission: Submission) -> Outcome:
        """One request. Raises NotSent, Unanswered."""

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Take submissions from now on; notes are for those that make some."""
        self._sender.start()

    def submit(self, submission: Submission) -> None:
        """Make its request."""
        self._sender.submit(submission)

    def flush(self) -> None:  # noqa: B027 - nothing to do is right for all of them
        """A request is a task: it is written when the loop comes to it."""

    async def callback(self, request: Callback) -> Reply:
        """Nobody calls, unless a provider says otherwise."""
        return Reply(status=404)

    async def stop(self, drain_s: float) -> None:
        """Wait for answers, then end."""
        await self._sender.stop(drain_s)

    def _count(self, what: str) -> None:
        self._events.counted("tact_provider_total", self._account, what)


class HttpSender:
    """Puts submissions on the wire through `send`, at most `connections` at once."""

    def __init__(
        self,
        send: Callable[[Submission], Awaitable[Outcome]],
        *,
        client: Reachable,
        url: str,
        connections: int,
        account: str,
        events: Events,
        chance: random.Random,
    ) -> None:
        self._send = send
        self._client = client
        self._url = url
        self._connections = connections
        self._account = account
        self._events = events
        self._chance = chance
        self._open: set[asyncio.Task[Answer]] = set()
        """Submissions without an answer."""
        self._started = False
        self._recovery: asyncio.Task[None] | None = None
        self._backoff_s = BACKOFF_FIRST_S

    @property
    def idle(self) -> bool:
        """Nothing is under way, and the gateway can be reached."""
        return not self._open and self._recovery is None

    def start(self) -> None:
        """Take submissions from now on."""
        self._started = True
        self._events.link(Link(window=self._connections))

    def submit(self, submission: Submission) -> None:
        """Send it now. Beyond the window, and when stopped, it is handed back at once (`retry`)."""
        if not self._started or len(self._open) >= self._connections:
            self._events.answered(submission.delivery, Answer("retry", code="window"))
            return
        task = asyncio.create_task(self._sent(submission))
        self._open.add(task)
        task.add_done_callback(partial(self._answer, submission.delivery))

    async def stop(self, drain_s: float) -> None:
        """Wait for answers under way, then cut: what was on the wire is answered `unknown`."""
        self._started = False
        tasks: set[asyncio.Task[Any]] = set(self._open)
        if tasks and drain_s > 0:
            _, tasks = await asyncio.wait(tasks, timeout=drain_s)
        if tasks:
            _log.warning("http.cut", account=self._account, unanswered=len(tasks))
        if self._recovery is not None:
            tasks.add(self._recovery)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._client.close()

    def _answer(self, delivery: str, task: asyncio.Task[Answer]) -> None:
        """A task that was cut has an answer too, even if it had not begun."""
        answer = Answer("unknown", code="stopped") if task.cancelled() else task.result()
        self._open.discard(task)  # first: the answer makes room for the next
        self._events.counted("tact_provider_total", self._account, answer.kind)
        self._events.answered(delivery, answer)

    async def _sent(self, submission: Submission) -> Answer:
        try:
            outcome = await self._send(submission)
        except NotSent as error:
            self.down(error.message, config=False)
            return Answer("retry")  # without a code: it never left, and used up no try
        except Unanswered as error:
            return Answer("unknown", code=error.code)
        except Exception as error:
            # A bug in a provider is an answer too. Its text may quote the message: not told.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            _log.error("http.bug", account=self._account, error=type(error).__name__, at=place)
            return Answer("unknown", code="internal")
        self._backoff_s = BACKOFF_FIRST_S
        if outcome.stop:
            self.down(outcome.stop, config=True)
        return outcome.answer

    def down(self, reason: str, *, config: bool) -> None:
        """Requests cannot leave (or, `config`, lead nowhere), as one of them or its owner found."""
        if self._recovery is not None or not self._started:
            return
        _log.warning("http.down", account=self._account, reason=reason, config=config)
        self._events.link(Link(window=0, reason=reason, config=config))
        recovery = self._pause() if config else self._reach()
        self._recovery = asyncio.create_task(recovery, name=f"{self._account}-http-recovery")

    async def _pause(self) -> None:
        await asyncio.sleep(CONFIG_PAUSE_S)
        self._up()

    async def _reach(self) -> None:
        while True:
            await asyncio.sleep(self._backoff_s * (0.5 + self._chance.random() / 2))
            self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
            try:
                await self._client.reach(self._url)
            except NotSent:
                continue  # told when it went down; tried until it is back
            self._up()
            return

    def _up(self) -> None:
        self._recovery = None
        _log.info("http.up", account=self._account)
        self._events.link(Link(window=self._connections))
