"""What is posted for a delivery, the same bytes on every try. Pure.

    {"type": "delivery", "timestamp": "<when it was decided>", "data": {
      "id": "shop:order-1:1", "intent": "order-1", "app": "shop", "customer": "c1",
      "category": "notice", "priority": 5, "channel": "push", "account": "grid",
      "to": "<address>", "content": {…}, "attempt": 1, "at": "…", "expires_at": "…",
      "trace": "…", "collapse_key": "…"}}

`data` is the delivery as the contract has it (docs/contract.md); what is absent there is absent
here. Its content is as the application wrote it, for it may be in the system's own words, but for
the tables of other push services; a table `webhook` is laid over the rest.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from channels.provider import Prepared, Unsendable
from channels.push.content import merged
from hub.contract.types import Delivery

OTHERS: Final = ("fcm", "apns", "webpush", "getui", "jpush")
"""Tables of a content that say something to another service."""
OWN: Final = "webhook"
ID_BYTES: Final = 18
"""Of the digest in an id: 24 characters, and no two deliveries share one."""

_SHALLOW = msgspec.json.Decoder(dict[str, Raw])
_TABLES = frozenset((*OTHERS, OWN))
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError)


class Posted(Struct, frozen=True):
    """One delivery as it is posted."""

    id: str
    """`webhook-id`."""
    body: bytes

    def __repr__(self) -> str:
        return f"Posted({self.id!r}, {len(self.body)} bytes)"


class _Envelope(Struct):
    type: str
    timestamp: str
    data: Delivery


def webhook_id(delivery: str) -> str:
    """The id under which a delivery is posted and, if need be, repeated: made of its own, which
    may have dots, as a signature allows none. A delivery that was handed over keeps it."""
    digest = blake2b(delivery.encode("utf-8", "replace"), digest_size=ID_BYTES).digest()
    return "dlv_" + urlsafe_b64encode(digest).decode()


def prepared(delivery: Delivery) -> Prepared:
    """What will be posted. Raises Unsendable."""
    if not delivery.to.strip():
        raise Unsendable("the address is empty", failure="dead_address", code="address")
    content = content_of(delivery.content)
    data = delivery if content is delivery.content else _with(delivery, content)
    try:
        body = msgspec.json.encode(_Envelope("delivery", delivery.at, data))
    except UnicodeError:
        raise Unsendable(
            "half a surrogate pair", failure="rejected_content", code="not-unicode"
        ) from None
    return Prepared(delivery.to, units=1, parts=(Posted(webhook_id(delivery.id), body),))


def content_of(content: Raw) -> Raw:
    """What of a content is passed on; itself when that is all. Raises Unsendable."""
    try:
        keys = _SHALLOW.decode(content)
        kept: dict[str, Any] = {key: raw for key, raw in keys.items() if key not in _TABLES}
        if OWN not in keys:
            return content if len(kept) == len(keys) else Raw(msgspec.json.encode(kept))
        over = msgspec.json.decode(keys[OWN], type=dict[str, Any])
        # What is not laid over is passed on byte for byte: numbers may be longer than ours.
        under = {key: msgspec.json.decode(raw) for key, raw in kept.items() if key in over}
        left = {key: raw for key, raw in kept.items() if key not in over}
        return Raw(msgspec.json.encode(left | merged(under, over)))
    except _UNREADABLE:
        raise Unsendable(
            "the content must be an object, and so must its webhook",
            failure="rejected_content",
            code="webhook-table",
        ) from None


def _with(delivery: Delivery, content: Raw) -> Delivery:
    return msgspec.structs.replace(delivery, content=content)
