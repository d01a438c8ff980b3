"""What an application imports: publish intents and commands, and hear what became of them.

    async with HubClient.connect("nats://hub:4222", app="shop", user="shop", password=…) as hub:
        await hub.publish({"id": "order-7", "app": "shop", "customer": "c-1", …})
        async for outcome in hub.outcomes():
            ...

and, for whom the policy archives: `async for message in hub.live("sales"): …`.

A publish that returned is stored and will be decided exactly once. One that raised may be published
again with the same id, as often as one likes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog

from hub.clock import Clock, SystemClock
from hub.contract.decode import Rejection, decode
from hub.contract.subjects import (
    INTENT_LANES,
    event_subject,
    is_source,
    live_subject,
    outcome_subject,
    partition_of,
    publish_subject,
)
from hub.contract.times import to_ms
from hub.contract.types import AnyCommand, Event, Intent, LiveMessage, Outcome
from hub.errors import ConfigError, TactError
from hub.ledger.connection import Connection
from hub.ledger.consumer import DurableConsumer, Taken
from hub.ledger.port import LedgerError, LedgerFull, LedgerUnavailable
from hub.ledger.publisher import Outgoing, Publisher, sender
from hub.ledger.streams import LEDGER
from hub.ledger.visitor import store, unsettled, visit

__all__ = [
    "Events",
    "HubClient",
    "HubError",
    "HubFull",
    "HubRefused",
    "HubUnavailable",
    "InvalidIntent",
    "Live",
    "Outcomes",
    "PublishFailed",
]

_log = structlog.get_logger(__name__)

_COMMAND: Final = "command"
_YIELD_OBJECTS: Final = 128
"""Objects `publish_many` prepares between two looks at the event loop."""
Told = TypeVar("Told", Outcome, Event, LiveMessage)


class HubError(TactError):
    """Root of what the client raises."""

    code = "hub"


class HubFull(HubError):
    """The hub has no room: nothing was stored. Publish again after `retry_after_ms`."""

    code = "hub-full"
    retryable = True


class HubUnavailable(HubError):
    """No answer for limits.PUBLISH_PATIENCE_S. It may be stored: publish again with the same id."""

    code = "hub-unavailable"
    retryable = True


class HubRefused(HubError):
    """The server refuses it, and would again; the message says why."""

    code = "hub-refused"


class InvalidIntent(HubError):
    """Not a valid intent or command: the hub would reject it for the same reason. Nothing was sent.

    `facts["id"]` and `facts["customer"]` are what could be read of them.
    """

    code = "invalid"


class PublishFailed(HubError):
    """Some objects of `publish_many` were not stored.

    `results` has one entry for each object taken from the iterable, in order: the sequence of the
    message that holds it, or the error. Objects behind the last entry were not taken.
    """

    code = "publish-failed"

    def __init__(self, message: str, *, results: list[int | TactError], **rest: Any) -> None:
        super().__init__(message, **rest)
        self.results = results

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_failed, (self.message, self.results, self.retry_after_ms, self.facts)


def _rebuild_failed(
    message: str, results: list[int | TactError], retry_after_ms: int | None, facts: dict[str, Any]
) -> PublishFailed:
    return PublishFailed(message, results=results, retry_after_ms=retry_after_ms, **facts)


class HubClient:
    """One application's connection to the hub. Use with `async with`, or `open()` and `close()`."""

    def __init__(
        self,
        url: str,
        app: str,
        *,
        user: str | None = None,
        password: str | None = None,
        wait_s: float = 10.0,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        if not is_source(app):
            raise ConfigError("app: 1 to 32 of a-z 0-9 -")
        self.app = app
        self._url = url
        self._login = {"user": user, "password": password}
        self._wait_s = wait_s
        self._clock = clock or SystemClock()
        self._chance = chance or random.Random()
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._partitions = 0
        self._readers: set[_Reader[Any]] = set()

    @classmethod
    def connect(
        cls, url: str, *, app: str, user: str | None = None, password: str | None = None
    ) -> HubClient:
        """A client for `app`. It connects when it is entered with `async with`."""
        return cls(url, app, user=user, password=password)

    async def __aenter__(self) -> HubClient:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and learn the number of partitions.

        Raises HubUnavailable, HubRefused (a wrong login), ConfigError (a wrong address).
        """
        try:
            connection, partitions = await visit(
                self._url,
                name=f"tact-client-{self.app}",
                clock=self._clock,
                chance=self._chance,
                wait_s=self._wait_s,
                **self._login,
            )
        except LedgerError as error:
            raise _public(error) from error
        self._connection, self._partitions = connection, partitions
        self._publisher = Publisher(sender(connection), clock=self._clock, chance=self._chance)

    async def close(self) -> None:
        """Wait for what is in flight, give back outcomes not acknowledged, disconnect."""
        for reader in tuple(self._readers):
            await reader.aclose()
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.connected

    # ---- publishing --------------------------------------------------------------------------

    async def publish(self, intent: Intent | Mapping[str, Any], *, lane: str = "normal") -> int:
        """Publish one intent; returns the sequence of the message it is stored in.

        `lane` is `urgent`, `normal` or `bulk`. Waits while too many are on their way. Intents for
        one customer are stored in the order of the calls. Raises InvalidIntent, HubFull,
        HubUnavailable, HubRefused.
        """
        if lane not in INTENT_LANES:
            raise InvalidIntent(f"lane: one of {', '.join(INTENT_LANES)}")
        return await self._publish(lane, intent)

    async def command(self, command: AnyCommand | Mapping[str, Any]) -> int:
        """Publish one command, such as `dnd.set` or `cancel`. Returns and raises like `publish`."""
        return await self._publish(_COMMAND, command)

    async def publish_many(
        self, intents: Iterable[Intent | Mapping[str, Any]], *, lane: str = "normal"
    ) -> list[int]:
        """Publish many intents in few messages; returns their sequences in order.

        Takes from `intents` only as fast as the hub stores. An invalid one does not stop the
        others; a full or absent hub stops the taking. Raises PublishFailed with all results.
        """
        if lane not in INTENT_LANES:
            raise InvalidIntent(f"lane: one of {', '.join(INTENT_LANES)}")
        publisher = self._ready()
        run = _Run()
        for index, intent in enumerate(intents):
            run.results.append(0)
            try:
                group, outgoing = self._prepare(lane, intent)
            except InvalidIntent as error:
                run.results[index] = error
                run.failed += 1
                continue
            await publisher.room()
            outgoing.settle = run.settler(index)
            publisher.put(group, outgoing)
            if index % _YIELD_OBJECTS == _YIELD_OBJECTS - 1:
                await asyncio.sleep(0)
            if run.stopped:
                break
        await run.finished()
        return run.outcome()

    async def _publish(self, lane: str, message: Any) -> int:
        publisher = self._ready()
        group, outgoing = self._prepare(lane, message)
        result = await store(publisher, group, outgoing)
        if isinstance(result, TactError):
            raise _public(result)
        return result

    def _prepare(self, lane: str, message: Any) -> tuple[tuple[str, int], Outgoing]:
        """Encoded and checked exactly as the hub will. Raises InvalidIntent."""
        try:
            payload = msgspec.json.encode(message)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidIntent(f"cannot be written as JSON: {type(error).__name__}") from error
        if payload[:1] != b"{":
            raise InvalidIntent("one object at a time; for many there is publish_many")
        (checked,) = decode(lane, self.app, payload)
        if isinstance(checked, Rejection):
            raise InvalidIntent(checked.reason, id=checked.id, customer=checked.customer)
        key = checked.customer
        name = f"{self.app}:{checked.id}"
        outgoing = Outgoing(
            publish_subject(lane, self.app, key),
            payload,
            # A command may have the id of an intent, and must not be taken for its repeat.
            f"command/{name}" if lane == _COMMAND else name,
            unsettled,
        )
        return (lane, partition_of(key, self._partitions)), outgoing

    def _ready(self) -> Publisher:
        if self._publisher is None:
            raise HubUnavailable("the client is not open: use it within `async with`")
        return self._publisher

    # ---- what the hub tells ------------------------------------------------------------------

    def outcomes(self, durable: str | None = None) -> Outcomes:
        """What became of this application's intents, from where `durable` left off.

        `durable` names the place remembered on the server; by default the application's name.
        """
        consumer = self._consumer(durable or self.app, outcome_subject(self.app))
        return self._reading(Outcomes(Outcome, consumer, self._readers))

    def events(self, durable: str | None = None) -> Events:
        """What this application should know beside outcomes (customers who wait, forbidden words),
        from where `durable` left off; by default its place is `<app>-events`."""
        consumer = self._consumer(durable or f"{self.app}-events", event_subject(self.app))
        return self._reading(Events(Event, consumer, self._readers))

    def live(
        self, account: str, durable: str | None = None, *, since: datetime | None = None
    ) -> Live:
        """The conversations of an account, both directions, from where `durable` left off; by
        default its place is `<app>-live-<account>`. The first time from `since` on, or from now.

        There is something only if the policy archives the account's channel.
        """
        subject = live_subject(account)
        name = durable or f"{self.app}-live-{subject.rpartition('.')[2]}"
        start_ms = self._clock.now_ms() if since is None else to_ms(since)
        consumer = self._consumer(name, subject, start_ms)
        return self._reading(Live(LiveMessage, consumer, self._readers))

    def _consumer(self, name: str, subject: str, start_ms: int | None = None) -> DurableConsumer:
        self._ready()
        assert self._connection is not None
        return DurableConsumer(
            self._connection,
            stream=LEDGER,
            name=name,
            subject=subject,
            chance=self._chance,
            start_ms=start_ms,
        )

    def _reading(self, reader: Reading) -> Reading:
        self._readers.add(reader)
        return reader


class _Reader(Generic[Told]):
    """An endless asynchronous iterator over what the hub tells; arrays come one by one.

    Asking for the next one says that the last is done with, and the message is acknowledged when
    its last one is: one may come again after a crash, never be missed. `aclose()` gives back the
    rest.
    """

    def __init__(
        self, kind: type[Told], consumer: DurableConsumer, readers: set[_Reader[Any]]
    ) -> None:
        self._decoder = {
            False: msgspec.json.Decoder(list[kind] | kind),  # type: ignore[valid-type]
            True: msgspec.msgpack.Decoder(list[kind] | kind),  # type: ignore[valid-type]
        }
        self._consumer = consumer
        self._readers = readers
        self._opened = False
        self._closed = False
        self._message: Taken | None = None
        self._rest: list[Told] = []  # last first

    def __aiter__(self: Reading) -> Reading:
        return self

    async def __anext__(self) -> Told:
        """The next one. Raises HubUnavailable at first, HubRefused when it cannot be read."""
        if self._closed:
            raise StopAsyncIteration
        try:
            if not self._opened:
                await self._consumer.open()
                self._opened = True
            while not self._rest:
                if self._message is not None:
                    await self._consumer.acknowledge(self._message)
                    self._message = None
                self._message = await self._consumer.next()
                self._rest = self._told_in(self._message)
        except TactError as error:
            if self._closed:
                raise StopAsyncIteration from None
            raise _public(error) from error
        return self._rest.pop()

    async def aclose(self) -> None:
        """Stop reading. What was given out last and is not done with comes again."""
        self._closed = True
        self._readers.discard(self)
        await self._consumer.close()

    def _told_in(self, message: Taken) -> list[Told]:
        try:
            found = self._decoder[message.packed].decode(message.payload)
        except msgspec.MsgspecError as error:
            # Only the hub writes here, perhaps a newer one: what we do not know is skipped.
            _log.error("outcome_unreadable", sequence=message.sequence, error=str(error))
            return []
        return found[::-1] if isinstance(found, list) else [found]


Reading = TypeVar("Reading", bound=_Reader[Any])


class Outcomes(_Reader[Outcome]):
    """What became of intents; see `HubClient.outcomes`."""


class Events(_Reader[Event]):
    """What an application should know beside outcomes; see `HubClient.events`."""


class Live(_Reader[LiveMessage]):
    """The conversations of an account; see `HubClient.live`."""


class _Run:
    """One `publish_many`: what became of each object."""

    def __init__(self) -> None:
        self.results: list[int | TactError] = []
        self.failed = 0
        self.stopped = False
        """The hub is full or away: nothing more is taken."""
        self._open = 0
        self._all_settled = asyncio.Event()
        self._all_settled.set()

    def settler(self, index: int) -> Any:
        self._open += 1
        self._all_settled.clear()

        def settle(result: int | TactError) -> None:
            self._open -= 1
            if isinstance(result, TactError):
                result = _public(result)
                self.failed += 1
                self.stopped = True
            self.results[index] = result
            if not self._open:
                self._all_settled.set()

        return settle

    async def finished(self) -> None:
        await self._all_settled.wait()

    def outcome(self) -> list[int]:
        if not self.failed:
            return [result for result in self.results if isinstance(result, int)]
        errors = [result for result in self.results if isinstance(result, TactError)]
        raise PublishFailed(
            f"{self.failed} of {len(self.results)} were not published; the first: "
            f"{errors[0].message}",
            results=self.results,
            retry_after_ms=max((error.retry_after_ms or 0 for error in errors), default=0) or None,
            failed=self.failed,
        )


def _public(error: TactError) -> HubError:
    """The client's own error for one of the ledger's."""
    if isinstance(error, HubError):
        return error
    kind: type[HubError] = HubRefused
    if isinstance(error, LedgerFull):
        kind = HubFull
    elif isinstance(error, LedgerUnavailable):
        kind = HubUnavailable
    made = kind(error.message, retry_after_ms=error.retry_after_ms, **error.facts)
    made.__cause__ = error
    return made
