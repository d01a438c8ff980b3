"""What the tests of HTTP providers share: events that remember, deliveries, a clock that stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from channels.provider import (
    Answer,
    Bundle,
    Link,
    Prepared,
    ProviderInbound,
    ProviderReceipt,
    Stored,
    Submission,
)
from hub.contract.types import Delivery
from tests.support.deliveries import delivery_of

NOW_MS = 1_795_000_000_000
TOKEN = "0123456789abcdef-token"
NUMBER = "+8613912345678"
TEXT = "您的验证码 482913, hush!"


class StillClock:
    """Always the same moment."""

    def now_ms(self) -> int:
        return NOW_MS

    def steady_s(self) -> float:
        return 0.0


class MovedClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return NOW_MS + int(self.seconds * 1_000)

    def steady_s(self) -> float:
        return 1_000.0 + self.seconds


class Told:
    """Events that remember what they were told, and store as they are bidden."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.receipts: list[ProviderReceipt] = []
        self.inbounds: list[ProviderInbound] = []
        self.bundles: list[Bundle] = []
        self.links: list[Link] = []
        self.counts: dict[str, int] = {}
        self.store: bool | None = True
        """What is said of every report; None: nothing."""
        self._news = asyncio.Event()

    def answered(self, delivery: str, answer: Answer) -> None:
        self.answers.setdefault(delivery, []).append(answer)
        self._news.set()

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        self.receipts.append(receipt)
        self._confirm(stored)

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        self.inbounds.append(inbound)
        self._confirm(stored)

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        self.bundles.append(bundle)
        self._confirm(stored)

    def _confirm(self, stored: Stored) -> None:
        if self.store is not None:
            stored(self.store)
        self._news.set()

    def link(self, link: Link) -> None:
        self.links.append(link)
        self._news.set()

    def counted(self, name: str, *labels: str) -> None:
        assert name == "tact_provider_total"
        self.counts[labels[-1]] = self.counts.get(labels[-1], 0) + 1

    async def until(self, condition: Callable[[], Any], seconds: float = 20) -> None:
        """Wait until it holds; asked again whenever something was told."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def answer(self, delivery: str) -> Answer:
        """The one answer to a submission."""
        await self.until(lambda: delivery in self.answers)
        (answer,) = self.answers[delivery]
        return answer


def delivery(content: dict[str, Any] | None = None, **changes: Any) -> Delivery:
    """A delivery for an SMS account."""
    known = {"channel": "sms", "account": "a", "to": NUMBER}
    return delivery_of(content or {"text": TEXT}, **(known | changes))


def submission(prepared: Prepared, id: str = "shop:order-1:1") -> Submission:
    """It, on its way; it expires in 90 s."""
    return Submission(delivery=id, prepared=prepared, expires_ms=NOW_MS + 90_000)
