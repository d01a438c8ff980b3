"""A browser's `PushSubscription` as the address of a customer's device. Pure.

    {"endpoint": "https://…", "expirationTime": null, "keys": {"p256dh": "…", "auth": "…"}}

is what `JSON.stringify(subscription)` gives in the browser. Anybody can register one, so all of it
is checked. Sources: W3C Push API (8, PushSubscriptionJSON), RFC 8291 (2, the two secrets).
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final, NoReturn

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from msgspec import Struct
from yarl import URL

from channels.http import NotAllowed
from channels.provider import Unsendable
from channels.push.guard import Guard
from hub.contract.types import FailureClass

ADDRESS_CHARS: Final = 1_024
"""Of the whole JSON: real ones have 300 to 600."""
POINT_BYTES: Final = 65
"""An uncompressed point of P-256 (RFC 8291, 3.1)."""
AUTH_BYTES: Final = 16
"""RFC 8291, 3.2."""

_BASE64: Final = re.compile(r"[A-Za-z0-9_+/-]{1,128}={0,2}\Z")


class Subscription(Struct, frozen=True):
    """Where one browser takes messages, and what they are encrypted with."""

    endpoint: str
    origin: str
    """Scheme, host and port of the endpoint: which push service it is."""
    point: bytes
    """The browser's public key."""
    auth: bytes

    def __repr__(self) -> str:
        return "Subscription()"


class _Keys(Struct):
    p256dh: str
    auth: str


class _Json(Struct):
    endpoint: str
    keys: _Keys


_DECODER: Final = msgspec.json.Decoder(_Json)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


def read_subscription(address: str, guard: Guard) -> Subscription:
    """The subscription in an address. Raises Unsendable: dead_address, or config for a host that
    the account does not allow (it may do so tomorrow)."""
    try:
        json = _DECODER.decode(address) if len(address) <= ADDRESS_CHARS else None
    except _UNREADABLE:
        json = None
    if json is None:
        _refuse(
            f"the address must be a PushSubscription as JSON, at most {ADDRESS_CHARS} characters",
            "subscription-malformed",
        )
    try:
        url = guard.parsed(json.endpoint)
    except NotAllowed as error:
        failure: FailureClass = "config" if error.reason == "host" else "dead_address"
        _refuse(f"the endpoint: {error.message}", f"endpoint-{error.reason}", failure)
    point, auth = _bytes(json.keys.p256dh), _bytes(json.keys.auth)
    if not _is_point(point):
        _refuse("keys.p256dh must be a point of P-256", "p256dh-malformed")
    if len(auth) != AUTH_BYTES:
        _refuse(f"keys.auth must have {AUTH_BYTES} bytes", "auth-malformed")
    return Subscription(json.endpoint, _origin(url), point, auth)


def _bytes(text: str) -> bytes:
    """Base64, of either alphabet, padded or not; b"" for anything else."""
    if _BASE64.match(text) is None:
        return b""
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def _is_point(data: bytes) -> bool:
    if len(data) != POINT_BYTES:
        return False
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), data)
    except ValueError:  # not on the curve
        return False
    return True


def _origin(url: URL) -> str:
    """In the one spelling that signatures are held against (RFC 8292, 2; RFC 6454, 6.2)."""
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{url.scheme}://{(url.host_subcomponent or '').lower()}{port}"


def _refuse(message: str, code: str, failure: FailureClass = "dead_address") -> NoReturn:
    raise Unsendable(message, failure=failure, code=code)
