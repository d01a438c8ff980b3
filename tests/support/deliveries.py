"""Deliveries, as a provider is given them."""

from __future__ import annotations

from typing import Any

import msgspec

from hub.contract.types import Delivery


def delivery_of(content: dict[str, Any], *, id: str = "shop:order-1:1", **fields: Any) -> Delivery:
    """One of `shop`, for a day; `fields` say at least `channel`, `account` and `to`."""
    known = {
        "intent": id.removeprefix("shop:").partition(":")[0],
        "app": "shop",
        "customer": "c1",
        "category": "notice",
        "priority": 5,
        "attempt": 1,
        "at": "2026-11-22T00:00:00Z",
        "expires_at": "2026-11-23T00:00:00Z",
    }
    raw = msgspec.Raw(msgspec.json.encode(content))
    return Delivery(id=id, content=raw, **(known | fields))
