"""What a gateway imports: take a channel's deliveries, and say what became of them.

    async def send(parcel: Parcel) -> None:
        answer = await carrier.submit(parcel.delivery.to, parcel.text, key=parcel.id)
        await parcel.sent(provider_id=answer.id)

    async with Gateway.connect("nats://hub:4222", name="sms-gw", channel="sms",
                               user="sms-gw", password=…) as gateway:
        await gateway.serve(send)

A delivery comes at least once, and in the hands of this process never twice after it was settled.
A report that returned is stored. docs/gateways.md has the contract and what goes wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

import msgspec
import structlog

from channels.gateway_deliveries import Deliveries
from channels.gateway_errors import (
    GatewayError,
    GatewayFull,
    GatewayRefused,
    GatewayUnavailable,
    InvalidReport,
    NotHeld,
    public,
)
from channels.gateway_parcels import Memory, Parcel, Seen
from channels.gateway_serve import Send, serve
from hub import limits
from hub.clock import Clock, SystemClock
from hub.contract.decode import Rejection, decode
from hub.contract.subjects import CHANNELS, is_source, partition_of, publish_subject
from hub.contract.times import EPOCH
from hub.contract.types import AnyCommand, FailureClass, ReceiptStatus
from hub.errors import ConfigError, TactError
from hub.ledger.connection import Connection
from hub.ledger.deliveries import DeliveryConsumer
from hub.ledger.port import LedgerError
from hub.ledger.publisher import Outgoing, Publisher, sender
from hub.ledger.streams import LEDGER
from hub.ledger.visitor import store, unsettled, visit

__all__ = [
    "Deliveries",
    "Gateway",
    "GatewayError",
    "GatewayFull",
    "GatewayRefused",
    "GatewayUnavailable",
    "InvalidReport",
    "Memory",
    "NotHeld",
    "Parcel",
    "Seen",
]

_log = structlog.get_logger(__name__)

IN_FLIGHT: Final = 256
"""Parcels that are not settled at a time, by default. Enough that a carrier who answers in 200 ms
gets a thousand a second; few enough to be sent again after a crash."""
IN_FLIGHT_MAX: Final = 16_384
"""What the messages held at a time can contain: limits.OUTCOME_PULL_MESSAGES full arrays."""
CODE_CHARS: Final = 64
"""A receipt's `code` holds this much; it is for people, so a longer one is cut."""


class Gateway:
    """One gateway's connection to the hub. Use with `async with`, or `open()` and `close()`.

    `name` is the gateway's: the source of its receipts, and its durable consumer. Processes with
    the same name share the deliveries between them. `accounts`: those it serves of a channel that
    has others as well; None: all there is.
    """

    def __init__(
        self,
        url: str,
        name: str,
        channel: str,
        *,
        user: str | None = None,
        password: str | None = None,
        accounts: Collection[str] | None = None,
        in_flight: int = IN_FLIGHT,
        seen: Memory | None = None,
        wait_s: float = 10.0,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        if not is_source(name):
            raise ConfigError("name: 1 to 32 of a-z 0-9 -")
        if channel not in CHANNELS:
            raise ConfigError(f"channel: one of {', '.join(CHANNELS)}")
        if accounts is not None and (isinstance(accounts, str) or not accounts):
            raise ConfigError("accounts: a collection of names, or None for all")
        if not 1 <= in_flight <= IN_FLIGHT_MAX:
            raise ConfigError(f"in_flight: 1 to {IN_FLIGHT_MAX}")
        self.name = name
        self.channel = channel
        self.counts: Counter[str] = Counter()
        """given_out, others, repeats, retries, given_back, expired, unreadable; and receipts by
        status."""
        self._url = url
        self._login = {"user": user, "password": password}
        self._accounts = None if accounts is None else frozenset(accounts)
        self._in_flight = in_flight
        self._seen: Memory = Seen() if seen is None else seen
        self._wait_s = wait_s
        self._clock = clock or SystemClock()
        self._chance = chance or random.Random()
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._partitions = 0
        self._reader: Deliveries | None = None
        self._stopping = asyncio.Event()

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        name: str,
        channel: str,
        user: str | None = None,
        password: str | None = None,
        accounts: Collection[str] | None = None,
        in_flight: int = IN_FLIGHT,
        seen: Memory | None = None,
    ) -> Gateway:
        """A gateway for `channel`. It connects when it is entered with `async with`."""
        return cls(
            url,
            name,
            channel,
            user=user,
            password=password,
            accounts=accounts,
            in_flight=in_flight,
            seen=seen,
        )

    async def __aenter__(self) -> Gateway:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and learn the number of partitions.

        Raises GatewayUnavailable, GatewayRefused (a wrong login), ConfigError (a wrong address).
        """
        try:
            connection, partitions = await visit(
                self._url,
                name=f"tact-gateway-{self.name}",
                clock=self._clock,
                chance=self._chance,
                wait_s=self._wait_s,
                **self._login,
            )
        except LedgerError as error:
            raise public(error) from error
        self._connection, self._partitions = connection, partitions
        self._publisher = Publisher(sender(connection), clock=self._clock, chance=self._chance)

    def stop(self) -> None:
        """Take no more deliveries: `serve` and the iteration end. May be a signal's handler.

        Reports that cannot be stored are from now on given up after limits.PUBLISH_PATIENCE_S.
        """
        self._stopping.set()
        if self._reader is not None:
            self._reader.stop()

    async def close(self) -> None:
        """Stop, wait for what is being published, give back what is not settled, disconnect."""
        self.stop()
        if self._publisher is not None:
            await self._publisher.close()
        if self._reader is not None:
            await self._reader.aclose()
            self._reader = None
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.connected

    # ---- deliveries --------------------------------------------------------------------------

    def deliveries(self) -> Deliveries:
        """The parcels to send, one by one, from where this gateway left off. For one reader.

        At most `in_flight` are not settled at a time, and one of a customer. Sending them one
        after the other is slow: `serve` does it side by side.
        """
        self._ready()
        if self._reader is not None:
            raise GatewayError("the deliveries are being read already: one reader for a gateway")
        assert self._connection is not None
        consumer = DeliveryConsumer(
            self._connection,
            stream=LEDGER,
            name=self.name,
            subject=f"hub.out.{self.channel}.*",
            chance=self._chance,
        )
        self._reader = Deliveries(
            consumer,
            self._report,
            in_flight=self._in_flight,
            seen=self._seen,
            clock=self._clock,
            counts=self.counts,
            accounts=self._accounts,
        )
        if self._stopping.is_set():
            self._reader.stop()
        return self._reader

    async def serve(self, send: Send) -> None:
        """Call `send` with every parcel, up to `in_flight` side by side, until `stop()`.

        A `send` that returns without a word has taken the parcel over: its receipts come later, by
        `receipt`. One that raises may have sent it, so it is reported `unknown` with the error's
        name as code: catch what is known not to have been sent, and call `parcel.retry()`.
        Returns when all calls have ended; cancelled, it cancels them. Raises like the iteration.
        """
        await serve(self.deliveries(), send, self._in_flight)

    # ---- reports -----------------------------------------------------------------------------

    async def receipt(
        self,
        delivery: str,
        customer: str,
        status: ReceiptStatus,
        *,
        failure: FailureClass | None = None,
        code: str | None = None,
        provider_id: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """What became of a delivery, by its id and customer; returns when it is stored.

        May be repeated with the same status as often as one likes: it is stored once. Receipts for
        one customer keep the order of the calls. Raises InvalidReport, GatewayFull,
        GatewayUnavailable, GatewayRefused.
        """
        message: dict[str, Any] = {
            "delivery": delivery,
            "customer": customer,
            "status": status,
            "at": self._time(at),
        }
        if failure is not None:
            message["class"] = failure
        if code:
            message["code"] = code[:CODE_CHARS]
        if provider_id:
            message["provider_id"] = provider_id
        name = f"receipt/{self.name}/{delivery}/{customer}/{status}"
        await self._publish("receipt", customer, message, name)
        self.counts[status] += 1

    async def inbound(
        self,
        id: str,
        customer: str,
        account: str,
        content: str | Mapping[str, Any],
        *,
        at: datetime | None = None,
    ) -> None:
        """What a customer wrote. Confirm it to the provider when this has returned.

        `id` is the provider's: a repeat is stored once. Raises like `receipt`.
        """
        message = {
            "id": id,
            "channel": self.channel,
            "account": account,
            "customer": customer,
            "content": {"text": content} if isinstance(content, str) else content,
            "at": self._time(at),
        }
        key = blake2b(f"{account}\n{id}".encode(errors="surrogatepass"), digest_size=20)
        await self._publish("inbound", customer, message, f"inbound/{self.name}/{key.hexdigest()}")

    async def command(self, command: AnyCommand | Mapping[str, Any]) -> None:
        """Publish a command, as `dnd.set` when a customer answered STOP. Raises like `receipt`.

        `app` is this gateway; it need not be given.
        """
        message = msgspec.to_builtins(command)
        if isinstance(message, dict):
            message.setdefault("app", self.name)
            name = f"command/{self.name}:{message.get('id')}"
            await self._publish("command", message.get("customer"), message, name)
        else:
            raise InvalidReport("a command is an object")

    async def _report(
        self, delivery: str, customer: str, status: ReceiptStatus, **rest: Any
    ) -> None:
        """`receipt`, again and again while the gateway is open: its delivery waits for it."""
        at = self._time(rest.pop("at", None))
        while True:
            try:
                return await self.receipt(delivery, customer, status, at=at, **rest)
            except (GatewayUnavailable, GatewayFull) as error:
                if self._stopping.is_set():
                    raise
                _log.warning("gateway.report_waits", code=error.code, why=error.message)
                wait_ms = error.retry_after_ms or limits.BACKOFF_MAX_MS
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._stopping.wait()
            except TimeoutError:
                continue  # the wait is over: another try

    async def _publish(self, lane: str, key: Any, message: Mapping[str, Any], name: str) -> None:
        publisher = self._ready()
        try:
            payload = msgspec.json.encode(message)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidReport(f"cannot be written as JSON: {type(error).__name__}") from error
        (checked,) = decode(lane, self.name, payload)
        if isinstance(checked, Rejection):
            raise InvalidReport(checked.reason, id=checked.id)
        group = (lane, partition_of(key, self._partitions))
        outgoing = Outgoing(publish_subject(lane, self.name, key), payload, name, unsettled)
        result = await store(publisher, group, outgoing)
        if isinstance(result, TactError):
            raise public(result)

    def _time(self, at: datetime | None) -> datetime:
        return EPOCH + timedelta(milliseconds=self._clock.now_ms()) if at is None else at

    def _ready(self) -> Publisher:
        if self._publisher is None:
            raise GatewayUnavailable("the gateway is not open: use it within `async with`")
        return self._publisher
