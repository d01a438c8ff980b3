"""A durable pull consumer with explicit acknowledgement: how an application reads the ledger.

The consumer lives on the server and remembers what was acknowledged. Here is only what was given
out and is not acknowledged yet: it is kept alive while its reader works, and given back at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from hub import limits
from hub.contract.decode import MSGPACK
from hub.contract.times import rfc3339
from hub.ledger.connection import Connection, backoff_ms
from hub.ledger.intake import ack_tokens
from hub.ledger.port import LedgerError, LedgerUnavailable, ServerRefused

_log = structlog.get_logger(__name__)

_NS: Final = 1_000_000_000
_NO_CONSUMER: Final = 10014
_ALIVE: Final = b"+WPI"
_DONE: Final = b"+ACK"
_BACK: Final = b"-NAK"


class Taken(Struct):
    """A message given out: to be acknowledged with `DurableConsumer.acknowledge`."""

    sequence: int
    payload: bytes
    packed: bool
    """MessagePack instead of JSON."""
    reply: str


class DurableConsumer:
    """Reads `subject` of `stream` through the durable consumer `name`, made if it is missing.

    `open()`, then `next()` and `acknowledge()` in turn, `close()`. Heals itself: reconnects, a lost
    pull and a deleted consumer only cost time. Every message comes at least once.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        name: str,
        subject: str,
        chance: random.Random | None = None,
        start_ms: int | None = None,
    ) -> None:
        """`start_ms` (Unix): where a consumer that has to be made begins; None: with the first."""
        self._connection = connection
        self._stream = stream
        self._name = name
        self._subject = subject
        self._start_ms = start_ms
        self._chance = chance or random.Random()
        self._held: dict[int, Taken] = {}  # by sequence; given out or buffered
        self._ready: deque[int] = deque()  # of those, what is buffered
        self._arrived = asyncio.Event()
        self._look = asyncio.Event()
        self._owed = 0  # messages the open pull may still bring
        self._pull = 0  # its number
        self._inbox = ""
        self._heard = False
        self._closed = False
        self._bound = False  # the consumer is known to be there
        self._tries = 0
        self._wait_until_s = 0.0  # loop time before which nothing is asked of the server
        self._failure: LedgerError | None = None
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._forget_reconnects = connection.on_reconnect(self._pull_again)

    # ---- for the reader ----------------------------------------------------------------------

    async def open(self) -> None:
        """Find or make the consumer. Raises LedgerUnavailable, or ServerRefused with the reason."""
        await self._bind()
        self._inbox = self._connection.client.new_inbox()
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._take)
        self._look.set()
        self._task = asyncio.create_task(self._tend(), name=f"tact-consumer-{self._name}")

    async def next(self) -> Taken:
        """The next message, waiting for it as long as it takes.

        Raises ServerRefused when the server will not have this consumer any more.
        """
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        taken = self._held[self._ready.popleft()]
        if not self._ready:
            self._look.set()
        return taken

    async def acknowledge(self, taken: Taken) -> None:
        """It is done with: the consumer will not give it out again, unless this word is lost."""
        if self._held.pop(taken.sequence, None) is not None:
            with contextlib.suppress(LedgerUnavailable):  # then it comes again: at least once
                await self._connection.publish(taken.reply, _DONE)
        if self._owed <= 0:
            self._look.set()

    async def close(self) -> None:
        """Stop, and give back what is not acknowledged, for whoever reads next.

        Whoever waits in `next` gets LedgerUnavailable.
        """
        if self._closed:
            return
        self._closed = True
        self._forget_reconnects()
        self._failure = LedgerUnavailable(f"consumer {self._name} is closed")
        self._arrived.set()
        if self._task is not None:
            while not self._task.done():  # nats-py may swallow a cancellation
                self._task.cancel()
                await asyncio.wait([self._task], timeout=1)
        with contextlib.suppress(LedgerError):  # else the server gives it out after its ack wait
            if self._subscription is not None and not self._connection.closed:
                await self._subscription.unsubscribe()
            for taken in self._held.values():
                await self._connection.publish(taken.reply, _BACK)
        self._held.clear()
        self._ready.clear()

    # ---- what the server sends ---------------------------------------------------------------

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers:  # on the inbox of its pull; messages come on their own subject
            if message.subject.endswith(f".{self._pull}"):
                self._heard = True
                self._status(headers["Status"], headers.get("Description", ""))
            return
        self._heard = True
        # One too many when a given up pull still brings something: the next pull comes earlier.
        self._owed -= 1
        sequence = ack_tokens(message.reply)[0]
        if sequence in self._held:
            self._held[sequence].reply = message.reply  # given out again before our sign of life
        else:
            packed = headers.get("Content-Type") == MSGPACK
            self._held[sequence] = Taken(sequence, message.data, packed, message.reply)
            self._ready.append(sequence)
            self._arrived.set()
        if self._owed <= 0:
            self._look.set()

    def _status(self, status: str, reason: str) -> None:
        if status == "100":  # idle heartbeat
            return
        self._owed = 0
        if status in ("404", "408"):  # nothing there; the pull has run out
            self._look.set()
            return
        _log.info("consumer.again", consumer=self._name, why=f"{status} {reason}".strip())
        self._bound = False
        self._look_later()  # a deleted one is not gone at once, nor is a new leader there

    def _pull_again(self) -> None:
        # What was on its way to the old connection comes again after the ack wait.
        self._owed = 0
        self._bound = False
        self._look.set()

    # ---- tending -----------------------------------------------------------------------------

    async def _tend(self) -> None:
        loop = asyncio.get_running_loop()
        next_sign_s = loop.time() + limits.OUTCOME_ACK_WAIT_S / 3
        next_count_s = loop.time() + limits.PULL_HEARTBEAT_S * limits.PULL_SILENCE
        while self._failure is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(next_sign_s, next_count_s)):
                    await self._look.wait()
            self._look.clear()
            await asyncio.sleep(max(0.0, self._wait_until_s - loop.time()))
            if loop.time() >= next_count_s:
                next_count_s = loop.time() + limits.PULL_HEARTBEAT_S * limits.PULL_SILENCE
                if self._owed and not self._heard:
                    self._pull_again()
                self._heard = False
            try:
                if loop.time() >= next_sign_s:
                    next_sign_s = loop.time() + limits.OUTCOME_ACK_WAIT_S / 3
                    await self._sign()
                await self._ask()
                self._tries = 0
            except LedgerUnavailable:
                self._look_later()
            except LedgerError as error:
                if self._tries >= limits.OUTCOME_REFUSALS:
                    self._failure = error
                self._look_later()
        self._arrived.set()

    def _look_later(self) -> None:
        self._wait_until_s = asyncio.get_running_loop().time() + (
            backoff_ms(self._tries, self._chance) / 1000
        )
        self._tries += 1
        self._look.set()

    async def _sign(self) -> None:
        """Tell the server that what it gave out is being worked on."""
        for taken in list(self._held.values()):
            await self._connection.publish(taken.reply, _ALIVE)

    async def _ask(self) -> None:
        """Another pull, when the last has brought what it may and there is room."""
        if not self._bound:
            await self._bind()
        room = limits.OUTCOME_PULL_MESSAGES - len(self._held)
        if self._owed > 0 or room <= 0 or len(self._ready) > limits.OUTCOME_PULL_MESSAGES // 2:
            return
        self._pull += 1
        self._owed = room
        self._heard = True
        request = {
            "batch": room,
            "expires": limits.PULL_EXPIRES_S * _NS,
            "idle_heartbeat": limits.PULL_HEARTBEAT_S * _NS,
        }
        await self._connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}",
            msgspec.json.encode(request),
            f"{self._inbox}.{self._pull}",
        )

    async def _bind(self) -> None:
        where = f"{self._stream}.{self._name}"
        try:
            await self._connection.api(f"CONSUMER.INFO.{where}")
        except ServerRefused as error:
            if error.err_code != _NO_CONSUMER:
                raise
            config: dict[str, Any] = {
                "name": self._name,
                "durable_name": self._name,
                "filter_subject": self._subject,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": limits.OUTCOME_ACK_WAIT_S * _NS,
                "max_ack_pending": 2 * limits.OUTCOME_PULL_MESSAGES,
            }
            if self._start_ms is not None:
                # One that was deleted begins there again: rather twice than never.
                start = {"opt_start_time": rfc3339(self._start_ms)}
                config |= {"deliver_policy": "by_start_time"} | start
            await self._connection.api(
                f"CONSUMER.CREATE.{where}.{self._subject}",
                {"stream_name": self._stream, "action": "create", "config": config},
            )
        self._bound = True
