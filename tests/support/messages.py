"""Valid messages of every lane, to send, to break and to compare."""

from __future__ import annotations

from typing import Any

import orjson

Fields = dict[str, Any]

INTENT: Fields = {
    "id": "order-1",
    "app": "shop",
    "customer": "c-1",
    "category": "marketing",
    "content": {"text": "hello"},
}
FULL_INTENT: Fields = {
    **INTENT,
    "content": {"sms": {"text": "hello"}, "*": {"title": "x", "parts": [1, 2.5, None, True]}},
    "priority": 9,
    "route": ["sms", "wecom", "push"],
    "reach": "all",
    "to": {"sms": "+8613800000000", "push": "token"},
    "account": "shop-sms",
    "not_before": "2026-11-21T08:00:00+08:00",
    "expires_at": "2026-11-22T00:00:00.5Z",
    "collapse_key": "cart",
    "timezone": "Asia/Shanghai",
    "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
RECEIPT: Fields = {
    "delivery": "shop:order-1:1",
    "customer": "c-1",
    "status": "delivered",
    "at": "2026-11-21T08:00:00Z",
}
FAILED_RECEIPT: Fields = {
    **RECEIPT,
    "status": "failed",
    "class": "dead_address",
    "code": "EC:4444",
    "provider_id": "p-77",
}
DEAD_RECEIPT: Fields = {
    **FAILED_RECEIPT,
    "delivery": "shop:order-1:101",
    "to": "token",
    "dead_since": "2026-11-20T08:00:00Z",
}
INBOUND: Fields = {
    "id": "m-1",
    "channel": "wecom",
    "account": "sales-1",
    "customer": "~group-9",
    "content": {"text": "hi", "reply_to": {"id": "x"}},
    "at": "2026-11-21T08:00:00Z",
}
AGENT_WROTE: Fields = {**INBOUND, "agent": "li", "sender": "wm-7"}
_ORDER: Fields = {"id": "k-1", "app": "shop", "customer": "c-1"}
_GROUP: Fields = {"id": "k-1", "app": "shop", "customer": "~group-9"}
COMMANDS: tuple[Fields, ...] = (
    {**_ORDER, "op": "dnd.set", "scope": "all"},
    {**_ORDER, "op": "dnd.set", "scope": "category:marketing", "until": "2026-12-01T00:00:00Z"},
    {**_ORDER, "op": "dnd.clear", "scope": "channel:sms"},
    {**_ORDER, "op": "profile.set", "timezone": "Europe/Berlin", "to": {"sms": "+49"}},
    {**_ORDER, "op": "profile.set", "owner": "sales-1"},
    {**_ORDER, "op": "cancel", "intent": "order-1"},
    {**_ORDER, "op": "takeover", "agent": "li", "until": "2026-12-01T00:00:00Z"},
    {**_ORDER, "op": "release"},
    {**_ORDER, "op": "forget"},
    {**_GROUP, "op": "group.create", "name": "Tea", "members": ["li", "wu"], "owner": "li"},
    {**_GROUP, "op": "group.update", "account": "app-1", "add": ["an"], "remove": ["wu"]},
    {**_GROUP, "op": "group.update", "name": "Coffee", "owner": "wu", "left": True},
    {**_GROUP, "op": "group.dissolve"},
    {**_GROUP, "op": "group.invite", "state": "fair", "auto_create": True, "remark": "stand 4"},
    {**_ORDER, "op": "kf.transfer", "to": "li"},
    {**_ORDER, "op": "kf.release", "account": "kf-1"},
    {**_ORDER, "op": "customer.transfer", "to": "wu", "message": "Wu is here for you now"},
    {**_ORDER, "op": "device.forget", "to": "apns-1/token"},
)
BY_KIND: dict[str, tuple[Fields, ...]] = {
    "intent": (INTENT, FULL_INTENT),
    "receipt": (RECEIPT, FAILED_RECEIPT, DEAD_RECEIPT),
    "inbound": (INBOUND, AGENT_WROTE),
    "command": COMMANDS,
}
LANE_OF = {"intent": "normal", "receipt": "receipt", "inbound": "inbound", "command": "command"}
VALID = [(LANE_OF[kind], fields) for kind, several in BY_KIND.items() for fields in several]
"""(lane, message) of everything above."""


def intent(**changes: Any) -> Fields:
    """A valid intent with some fields set; `...` takes a field away."""
    return changed(INTENT, changes)


def changed(fields: Fields, changes: Fields) -> Fields:
    """A copy with some fields set; `...` takes a field away."""
    return {name: value for name, value in {**fields, **changes}.items() if value is not ...}


def encode(value: Any) -> bytes:
    """JSON as most clients write it."""
    return orjson.dumps(value)
