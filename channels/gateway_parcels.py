"""A delivery in the hands of a gateway, and what is remembered of those that it has settled."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from channels.gateway_errors import NotHeld
from hub.contract.times import parse_rfc3339
from hub.contract.types import Delivery, FailureClass, ReceiptStatus
from hub.ledger.consumer import Taken
from hub.ledger.deliveries import times_given

if TYPE_CHECKING:
    from channels.gateway_deliveries import Deliveries

SEEN_DELIVERIES: Final = 65_536
"""Delivery ids a gateway remembers as settled, some 10 MB. A message comes again within seconds;
at 500 a second this is two minutes."""
RETRY_MAX_S: Final = 300.0
"""The longest wait before a parcel is tried again here: it occupies one of the few messages that
are held at a time. Who must wait longer gives it back."""
GIVE_BACK_MAX_S: Final = 3_600.0
"""A longer wait would outlast the patience of whoever watches the consumer's backlog."""


class Memory(Protocol):
    """Which deliveries are settled. Give a `Gateway` one that survives a restart if repeats after
    a crash must be found too; the calls are made from the event loop and must be quick."""

    def add(self, delivery: str) -> None: ...

    def __contains__(self, delivery: object) -> bool: ...


class Seen:
    """The last `most` ids, in memory: finds what comes again while this process runs."""

    def __init__(self, most: int = SEEN_DELIVERIES) -> None:
        self._most = most
        self._ids: dict[str, None] = {}  # in the order of adding

    def __contains__(self, delivery: object) -> bool:
        return delivery in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, delivery: str) -> None:
        """Remember it, and forget the oldest when there are too many."""
        self._ids.pop(delivery, None)
        self._ids[delivery] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]


class Held:
    """A message of the stream, and how many of its deliveries are not settled."""

    __slots__ = ("again_s", "left", "taken")

    def __init__(self, taken: Taken, left: int) -> None:
        self.taken = taken
        self.left = left
        self.again_s: float | None = None
        """Some of it was given back: the whole comes again, after so long."""


class Parcel:
    """One delivery to be sent. Settled by the first report, `done`, `retry` or `give_back`.

    Reports wait until the stream has stored them, however long NATS is away, while the gateway is
    open; then they raise GatewayUnavailable and the delivery comes again. They raise InvalidReport
    for what the hub would reject, GatewayRefused, and NotHeld after `retry` or `give_back`.
    After a report more may follow: `sent`, later `delivered`.
    """

    __slots__ = ("_reader", "again", "delivery", "expires_ms", "held", "state", "tries")

    def __init__(
        self, delivery: Delivery, reader: Deliveries, message: Held, tries: int = 0
    ) -> None:
        self.delivery = delivery
        self.again = times_given(message.taken) > 1
        """It may have been in somebody's hands before, and perhaps was sent: they did not say."""
        self.tries = tries
        """How often `retry` was called for it here."""
        self.expires_ms = parse_rfc3339(delivery.expires_at)
        """Unix ms after which it must not leave. Parcels already expired are not given out."""
        self._reader = reader
        self.held = message
        self.state = "open"

    def __repr__(self) -> str:
        return f"Parcel({self.delivery.id!r}, {self.state})"  # never address or content

    @property
    def id(self) -> str:
        """The key to remove repeats by: what a provider should get as its idempotency key."""
        return self.delivery.id

    @property
    def content(self) -> dict[str, Any]:
        """The channel's own content, decoded."""
        return msgspec.json.decode(self.delivery.content, type=dict[str, Any])

    @property
    def text(self) -> str | None:
        """The content's `text`, if it has one."""
        text = self.content.get("text")
        return text if isinstance(text, str) else None

    @property
    def settled(self) -> bool:
        return self.state != "open"

    async def sent(self, *, provider_id: str | None = None, at: datetime | None = None) -> None:
        """The provider took it; `provider_id` is its name there."""
        await self._report("sent", provider_id=provider_id, at=at)

    async def delivered(
        self, *, provider_id: str | None = None, at: datetime | None = None
    ) -> None:
        """It reached the customer."""
        await self._report("delivered", provider_id=provider_id, at=at)

    async def failed(
        self, failure: FailureClass, *, code: str | None = None, at: datetime | None = None
    ) -> None:
        """It will never arrive; `code` is the provider's own, cut to what a receipt holds."""
        await self._report("failed", failure=failure, code=code, at=at)

    async def unknown(self, *, code: str | None = None, at: datetime | None = None) -> None:
        """It may have been sent, and nobody knows. It is not sent again."""
        await self._report("unknown", code=code, at=at)

    async def done(self) -> None:
        """Settled without a receipt: what became of it is told later, by `Gateway.receipt`."""
        self._check_held()
        await self._reader.settle(self, "settled")

    async def retry(self, after_s: float = 1.0) -> None:
        """Not sent, and it can be: comes again here as a new parcel, after `after_s` seconds, at
        most RETRY_MAX_S. Later ones for this customer wait behind it."""
        self._check_open()
        self.state = "retried"
        again = Parcel(self.delivery, self._reader, self.held, self.tries + 1)
        self._reader.retry(again, after_s)

    async def give_back(self, after_s: float = 0.0) -> None:
        """Not sent: comes again after `after_s` seconds (GIVE_BACK_MAX_S at most) to whichever
        process of this gateway asks, perhaps behind later ones for this customer."""
        self._check_open()
        before = self.held.again_s or 0.0
        self.held.again_s = max(before, min(after_s, GIVE_BACK_MAX_S))
        await self._reader.settle(self, "given back")

    async def _report(self, status: ReceiptStatus, **rest: Any) -> None:
        self._check_held()
        await self._reader.report(self.id, self.delivery.customer, status, **rest)
        await self._reader.settle(self, "settled")

    def _check_open(self) -> None:
        if self.settled:
            raise NotHeld(f"delivery {self.id} was {self.state}: it cannot be sent again")

    def _check_held(self) -> None:
        if self.state in ("retried", "given back"):
            raise NotHeld(f"delivery {self.id} was {self.state}: say nothing more of this parcel")
