"""What tests of getui and JPush share: deliveries for devices, events that store notes, a clock."""

from __future__ import annotations

import json
import random
from typing import Any

from channels.http import HttpReply
from channels.provider import Bundle, Prepared, Stored, Submission
from channels.push.vendors.getui import GetuiConfig, GetuiProvider
from channels.push.vendors.jpush import JpushConfig, JpushProvider
from hub.contract.types import Delivery
from tests.support.deliveries import delivery_of
from tests.support.sms_web import NOW_MS, Told

CID = "0123456789abcdef0123456789abcdef"
"""A device at getui that is online at the fake."""
REGISTRATION = "1104a8979278ae64e75"
"""A device at JPush."""
SECRET = "m4ster-s3cret"


class Clock:
    """Stands until it is set."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def steady_s(self) -> float:
        return self.now / 1_000


class Notes(Told):
    """Events that also keep notes, as an account does."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, bytes] = {}
        self.bundles = 0

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        self.bundles += 1
        if self.store:
            for key, value in bundle.notes.items():
                if value is None:
                    self.notes.pop(key, None)
                else:
                    self.notes[key] = value
        self._confirm(stored)


def delivery(to: str, content: dict[str, Any] | None = None, **changes: Any) -> Delivery:
    """A delivery for one device."""
    said = {"text": "Your parcel is here, hush!", "title": "Parcel"} if content is None else content
    known = {"channel": "push", "account": "a", "to": to, "category": "order"}
    return delivery_of(said, **(known | changes))


def submission(
    prepared: Prepared,
    id: str = "shop:order-1:1",
    *,
    again: bool = False,
    expires_ms: int = NOW_MS + 90_000,
) -> Submission:
    """It, on its way; it expires in 90 s."""
    return Submission(delivery=id, prepared=prepared, expires_ms=expires_ms, again=again)


def getui(**fields: Any) -> GetuiProvider:
    """An account that is not started."""
    known: dict[str, Any] = {"app_id": "app", "app_key": "key", "master_secret": SECRET}
    config = GetuiConfig(**known | fields)
    return GetuiProvider(config, None, Notes(), Clock(), random.Random(1), account="a")  # type: ignore[arg-type]


def jpush(**fields: Any) -> JpushProvider:
    """An account that is not started."""
    known: dict[str, Any] = {"app_key": "key", "master_secret": SECRET}
    config = JpushConfig(**known | fields)
    return JpushProvider(config, None, Notes(), Clock(), random.Random(1), account="a")  # type: ignore[arg-type]


def reply(status: int, body: Any, **headers: str) -> HttpReply:
    """An answer; of `headers` each _ stands for -."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status, {k.replace("_", "-"): v for k, v in headers.items()}, text)
