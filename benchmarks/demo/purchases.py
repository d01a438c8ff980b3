"""What a shop has to say about its purchases: intents built from the CDNOW log, and some mistakes.

Pure, and the same messages for the same log: whatever is chosen is chosen by a hash of an id.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.demo import push
from benchmarks.demo.cdnow import WECHAT, Purchase, addresses, chosen, in_club, mark, number_of
from benchmarks.demo.partitions import partition_of

APP = "shop"
ZONES = (
    "Pacific/Honolulu",
    "America/Los_Angeles",
    "America/New_York",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Africa/Nairobi",
    "Asia/Karachi",
    "Asia/Kolkata",
    "Asia/Shanghai",
    "Asia/Tokyo",
    "Pacific/Auckland",
)
"""Two hours apart, more or less: at any moment somebody's night has just begun."""

CODE_EVERY = 70
REPEAT_EVERY = 250
MISTAKE_EVERY = 200
"""Purchases between two one-time codes, two repeats and two mistakes."""
BATCH = 100
"""Purchases in one array at most: two intents each, of the 256 objects that are allowed."""
SIGN_INS = 200
"""In one array."""
DOWN = ["push", "wecom", "sms"]
"""The route of order notices to those who came by WeChat and had the app: all there is."""


@dataclass
class Outgoing:
    """One message to publish. `ids` are the good intents in it; `kind` is for the count."""

    kind: str
    subject: str
    payload: bytes
    message_id: str | None = None
    ids: list[str] = field(default_factory=list)
    purchases: int = 0
    headers: dict[str, str] = field(default_factory=dict)


def messages(purchases: list[Purchase], now: datetime, partitions: int) -> Iterator[Outgoing]:
    """Everything the shop publishes, in order. `now` dates the offers that end soon.

    First the devices on which its customers have its app, and their inboxes, as it tells of them at
    a sign-in. Two of three customers are members of the club: they hear of their purchases once a
    week, in arrays on the bulk lane, and get offers in the app alone, or in their inbox. The others
    hear of each at once.
    """
    yield from sign_ins(purchases, partitions)
    mistakes = _mistakes()
    week: dict[int, list[Purchase]] = defaultdict(list)
    number_of_week = 0
    for purchase in purchases:
        if purchase.week != number_of_week:
            yield from _batches(week, number_of_week, now)
            week.clear()
            number_of_week = purchase.week
        if in_club(purchase.customer):
            week[partition_of(purchase.customer, partitions)].append(purchase)
        else:
            one = _purchase_message(purchase, now)
            yield one
            if purchase.number % REPEAT_EVERY < 3:
                yield _again(one, purchase)
        if purchase.number % CODE_EVERY == 0:
            yield _code_message(purchase)
        if purchase.number % MISTAKE_EVERY == 0:
            yield next(mistakes)(purchase)
    yield from _batches(week, number_of_week, now)


def sign_ins(purchases: list[Purchase], partitions: int) -> Iterator[Outgoing]:
    """A command for every push address of every customer, in arrays by partition."""
    waiting: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for customer in dict.fromkeys(purchase.customer for purchase in purchases):
        for number, address in enumerate(push.addresses(customer)):
            command = {"id": f"sign-in-{customer}-{number}", "app": APP, "customer": customer}
            command |= {"op": "profile.set", "to": {"push": address}}  # type: ignore[dict-item]
            waiting[partition_of(customer, partitions)].append(command)
    for partition, several in waiting.items():
        for start in range(0, len(several), SIGN_INS):
            some = several[start : start + SIGN_INS]
            name = f"sign-ins-{partition}-{start}"
            one = _outgoing("sign-in", "command", some[0]["customer"], some, name)
            one.ids.clear()  # no intents
            yield one


def _batches(week: dict[int, list[Purchase]], number: int, now: datetime) -> Iterator[Outgoing]:
    """One array for each partition, or more; any of its customers is its key."""
    for partition, several in week.items():
        for start in range(0, len(several), BATCH):
            some = several[start : start + BATCH]
            intents = [intent for purchase in some for intent in _intents(purchase, now)]
            name = f"week-{number}-{partition}-{start}"
            one = _outgoing("batch", "bulk", some[0].customer, intents, name)
            one.purchases = len(some)
            yield one


def _purchase_message(purchase: Purchase, now: datetime) -> Outgoing:
    """The two intents of a purchase are for one customer, so they may share an array."""
    name = f"purchase-{purchase.number}"
    one = _outgoing("purchase", "normal", purchase.customer, _intents(purchase, now), name)
    one.purchases = 1
    return one


def _intents(purchase: Purchase, now: datetime) -> list[dict[str, Any]]:
    """The order notice, and the offer that follows it."""
    number, customer = purchase.number, purchase.customer
    notice: dict[str, Any] = {
        "id": f"order-{number}",
        "app": APP,
        "customer": customer,
        "category": "notice" if customer.startswith(WECHAT) else "service",
        "content": {
            "text": f"Your order of {purchase.cds} CDs for ${purchase.dollars} is on its way. "
            + mark(f"order-{number}")
        },
        "timezone": ZONES[chosen(customer, len(ZONES))],
    }
    if to := addresses(customer):
        notice["to"] = to
    if customer.startswith(WECHAT) and push.devices(customer):
        notice["route"] = DOWN
    offer: dict[str, Any] = {
        "id": f"offer-{number}",
        "app": APP,
        "customer": customer,
        "category": "marketing",
        "content": {
            "sms": {"text": f"10% off your next order. {mark(f'offer-{number}')} "},
            "push": {"title": "For you", "text": "10% off your next order", "link": "shop://next"},
        },
    }
    if in_club(customer):
        offer["route"] = ["push"]
    kind = chosen(f"offer {number}", 10)
    if kind < 2:  # a flash sale: better never than late
        offer["expires_at"] = (now + timedelta(minutes=10)).isoformat()
    elif kind < 5:  # only the newest of these is worth reading
        offer["collapse_key"] = "next-order"
    elif kind == 5:  # to every screen the customer has
        offer["reach"] = "all"
    return [notice, offer]


def _code_message(purchase: Purchase) -> Outgoing:
    customer = purchase.customer
    code: dict[str, Any] = {
        "id": f"code-{purchase.number}",
        "app": APP,
        "customer": customer,
        "category": "otp",
        "content": {
            "text": f"Your code is {chosen(f'code {purchase.number}', 10**6):06d}. "
            + mark(f"code-{purchase.number}")
        },
        "to": {"sms": number_of(customer)},
    }
    return _outgoing("code", "urgent", customer, code, code["id"])


def _outgoing(kind: str, lane: str, key: str, content: Any, name: str) -> Outgoing:
    several = content if isinstance(content, list) else [content]
    return Outgoing(
        kind,
        f"hub.to.{lane}.{APP}.{key}",
        json.dumps(content, separators=(",", ":")).encode(),
        f"{APP}:{name}",
        [each["id"] for each in several],
    )


def _again(one: Outgoing, purchase: Purchase) -> Outgoing:
    """The same message once more: with its Nats-Msg-Id the server refuses it, else the hub does."""
    named = chosen(f"repeat {purchase.number}", 2) == 0
    return Outgoing("repeat", one.subject, one.payload, one.message_id if named else None)


# ---- what goes wrong in the best of shops --------------------------------------------------------

Mistake = Callable[[Purchase], Outgoing]


def _mistakes() -> Iterator[Mistake]:
    while True:
        yield from _MISTAKES


def _good(purchase: Purchase, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"bad-{purchase.number}",
        "app": APP,
        "customer": purchase.customer,
        "category": "service",
        "content": {"text": "never to be sent"},
        **changes,
    }


def _bad(
    purchase: Purchase, content: Any, *, lane: str = "normal", headers: dict[str, str] | None = None
) -> Outgoing:
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    subject = f"hub.to.{lane}.{APP}.{purchase.customer}"
    return Outgoing("mistake", subject, payload, headers=headers or {})


def _without(purchase: Purchase, name: str) -> dict[str, Any]:
    return {key: value for key, value in _good(purchase).items() if key != name}


def _one_bad_of_three(purchase: Purchase) -> Outgoing:
    names = [f"note-{purchase.number}-{n}" for n in range(3)]
    several = [
        _good(purchase, id=name, content={"text": f"Thank you. {mark(name)}"}) for name in names
    ]
    several[1]["category"] = 7
    found = _bad(purchase, several)
    found.ids = [names[0], names[2]]
    return found


_RECEIPT = {"delivery": "shop:order-1:1", "status": "read", "at": "2026-01-01T00:00:00Z"}
_PACKED = {"Content-Type": "application/msgpack"}

_MISTAKES: tuple[Mistake, ...] = (
    # cannot be decoded
    lambda p: _bad(p, b""),
    lambda p: _bad(p, b"Dear customer,"),
    lambda p: _bad(p, json.dumps(_good(p)).encode()[:-20]),
    lambda p: _bad(p, json.dumps(_good(p)).encode().replace(b"never", b"n\xffver")),
    lambda p: _bad(p, b"\xc1\xff\x00", headers=_PACKED),
    lambda p: _bad(p, b"[" * 5_000),
    # is not an intent
    lambda p: _bad(p, 42),
    lambda p: _bad(p, []),
    lambda p: _bad(p, _without(p, "customer")),
    lambda p: _bad(p, _without(p, "content")),
    lambda p: _bad(p, _good(p, urgent=True)),
    lambda p: _bad(p, _good(p, id=p.number)),
    lambda p: _bad(p, _good(p, id=f"bad {p.number}")),
    lambda p: _bad(p, _good(p, priority=11)),
    lambda p: _bad(p, _good(p, route=["fax"])),
    lambda p: _bad(p, _good(p, route=["sms", "sms"])),
    lambda p: _bad(p, _good(p, content={})),
    lambda p: _bad(p, _good(p, content={"sms": "not an object"})),
    lambda p: _bad(p, _good(p, timezone="Mars/Olympus")),
    lambda p: _bad(p, _good(p, expires_at="tomorrow")),
    lambda p: _bad(p, _good(p, not_before="2030-01-01T00:00:00")),
    lambda p: _bad(p, _good(p, app="another")),
    # names an unknown category
    lambda p: _bad(p, _good(p, category="astrology")),
    # has a key that does not match
    lambda p: _bad(p, _good(p, customer=f"not-{p.customer}")),
    lambda p: _bad(p, _good(p, customer="no key")),
    # is too large
    lambda p: _bad(p, _good(p, content={"text": "x" * 70_000})),
    lambda p: _bad(p, [_good(p, id=f"bad-{p.number}-{n}") for n in range(300)]),
    # is in the wrong lane
    lambda p: _bad(p, {**_RECEIPT, "customer": p.customer}),
    lambda p: _bad(p, _good(p), lane="receipt"),
    lambda p: _bad(p, _good(p), lane="command"),
    lambda p: _bad(p, _good(p), lane="inbound"),
    # one bad object among good ones: the others are decided
    _one_bad_of_three,
)


def utc_now() -> datetime:
    return datetime.now(UTC)
