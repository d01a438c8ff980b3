"""What a system posts to the hub: receipts, and what customers wrote. Pure.

    {"type": "receipt", "data": {"delivery": "shop:order-1:1", "status": "delivered",
                                 "at": "2026-11-22T08:00:00Z"}}
    {"type": "receipt", "data": {"id": "dlv_…", "status": "failed", "class": "dead_address",
                                 "code": "NO_SUCH_USER"}}
    {"type": "inbound", "data": {"id": "m-1", "from": "<address>", "content": {"text": "…"},
                                 "at": "…"}}
    {"type": "batch", "data": [{"type": "receipt", "data": {…}}, …]}

The words are the contract's (docs/contract.md). A receipt names the delivery by its id, or by the
`webhook-id` it was posted under. `at` may be left out (now), and is never later than now. A content
may be a text. `"opt_out": true` with an inbound message: the customer asks not to be written to.
A request is stored whole or refused whole. `data` may be a list in every type.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from channels.http import CALLBACK_BYTES
from channels.provider import BUNDLE_THINGS, Bundle, ProviderInbound, ProviderReceipt
from channels.push.content import unquoted
from channels.push.webhook.signing import Refused
from hub import limits
from hub.contract.times import parse_rfc3339
from hub.contract.types import FailureClass

BODY_BYTES: Final = CALLBACK_BYTES
"""Of one request; BUNDLE_BYTES holds as much."""
CONTENT_BYTES: Final = limits.MESSAGE_OBJECT_BYTES // 2
"""Of one customer's message: with its envelope it must be one object of the contract."""

_ID = r"^[!-~]{1,128}$"


class _Receipt(Struct, forbid_unknown_fields=True):
    status: Literal["sent", "delivered", "read", "failed"]
    delivery: Annotated[str, Meta(min_length=5, max_length=110)] = ""
    id: Annotated[str, Meta(pattern=_ID)] = ""
    failure: FailureClass | None = msgspec.field(name="class", default=None)
    code: Annotated[str, Meta(max_length=64)] = ""
    at: str = ""
    last: bool = False


class _Inbound(Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(pattern=_ID)]
    sender: Annotated[str, Meta(min_length=1, max_length=limits.ADDRESS_CHARS)] = msgspec.field(
        name="from"
    )
    content: Raw
    at: str = ""
    opt_out: bool = False


class _Thing(Struct):
    """Other keys are for the system itself: the scheme allows more of them."""

    type: Literal["receipt", "inbound", "batch"]
    data: Raw


_THING = msgspec.json.Decoder(_Thing)
_THINGS = msgspec.json.Decoder(list[_Thing])
_LIST = msgspec.json.Decoder(list[Raw])
_RECEIPT = msgspec.json.Decoder(_Receipt)
_INBOUND = msgspec.json.Decoder(_Inbound)
_CONTENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(str | dict[str, Any])
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError)
_DOUBLE = int(sys.float_info.max)
_SPACE = re.compile(rb"[ \t\r\n]*")


def bundle_of(id: str, body: bytes, now_ms: int) -> Bundle:
    """What a verified request brings, in one bundle that is skipped when it comes again. Raises
    Refused: 400 with the place of what is wrong, 413."""
    if len(body) > BODY_BYTES:
        raise Refused(f"more than {BODY_BYTES} bytes", status=413)
    receipts: list[ProviderReceipt] = []
    inbound: list[ProviderInbound] = []
    for place, kind, data in _things(body):
        if len(receipts) + len(inbound) >= BUNDLE_THINGS:
            raise Refused(f"more than {BUNDLE_THINGS} receipts and messages", status=413)
        if kind == "receipt":
            receipts.append(_receipt(data, place, now_ms))
        else:
            inbound.append(_inbound(data, place, now_ms))
    # With a space in it: no id of a message has one, and both are remembered in one place.
    return Bundle(f"webhook {id}", receipts=tuple(receipts), inbound=tuple(inbound))


def _things(body: bytes) -> Iterator[tuple[str, str, Raw]]:
    """(place, type, data) of everything that a body holds."""
    try:
        whole = _THING.decode(body)
        things = _THINGS.decode(whole.data) if whole.type == "batch" else [whole]
    except _UNREADABLE as error:
        raise _malformed("the body", error) from None
    for number, thing in enumerate(things):
        place = f"data[{number}]" if whole.type == "batch" else "data"
        if thing.type == "batch":
            raise Refused(f"{place}: a batch in a batch", status=400)
        if not _is_list(thing.data):
            yield place, thing.type, thing.data
            continue
        for index, each in enumerate(_LIST.decode(thing.data)):
            yield f"{place}[{index}]", thing.type, each


def _is_list(raw: Raw) -> bool:
    view = memoryview(raw)
    start = _SPACE.match(view)
    return start is not None and bytes(view[start.end() : start.end() + 1]) == b"["


def _receipt(data: Raw, place: str, now_ms: int) -> ProviderReceipt:
    try:
        said = _RECEIPT.decode(data)
    except _UNREADABLE as error:
        raise _malformed(place, error) from None
    if not said.delivery and not said.id:
        raise Refused(f"{place}: delivery or id is needed", status=400)
    return ProviderReceipt(
        status=said.status,
        at_ms=_time(said.at, place, now_ms),
        provider_id=said.id,
        delivery=said.delivery,
        failure=(said.failure or "provider") if said.status == "failed" else None,
        code=said.code,
        last=said.last and said.status == "sent",
    )


def _inbound(data: Raw, place: str, now_ms: int) -> ProviderInbound:
    try:
        said = _INBOUND.decode(data)
        content = _CONTENT.decode(said.content)
        size = len(msgspec.json.encode(content))  # as it goes on: 1e9 is 1000000000.0 then
    except _UNREADABLE as error:
        raise _malformed(place, error) from None
    if size > CONTENT_BYTES:
        raise Refused(f"{place}.content: more than {CONTENT_BYTES} bytes", status=413)
    if not _fits(content, limits.NESTING - 2):
        raise Refused(f"{place}.content: too deep, or a number no double holds", status=400)
    return ProviderInbound(
        id=said.id,
        sender=said.sender,
        content={"text": content} if isinstance(content, str) else content,
        at_ms=_time(said.at, place, now_ms),
        opt_out=said.opt_out,
    )


def _time(text: str, place: str, now_ms: int) -> int:
    if not text:
        return now_ms
    try:
        return min(max(parse_rfc3339(text), 0), now_ms)
    except (ValueError, OverflowError):
        raise Refused(f"{place}.at: not RFC 3339 with an offset", status=400) from None


def _fits(value: Any, depth: int) -> bool:
    """Whether the contract takes it: what it refused later would be lost, and was confirmed."""
    if isinstance(value, dict):
        return depth > 0 and all(_fits(one, depth - 1) for one in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_fits(one, depth - 1) for one in value)
    return not isinstance(value, int) or abs(value) <= _DOUBLE


def _malformed(place: str, error: Exception) -> Refused:
    problem = unquoted(error) if isinstance(error, msgspec.ValidationError) else "not JSON"
    return Refused(f"{place}: {problem}"[: limits.REASON_CHARS], status=400)
