"""Who sends: the key that browsers subscribed with, and what it signs for each push service.

Sources: RFC 8292 (2 claims, 3.1 the header, 4.2 a subscription takes messages of one key only),
RFC 7518 (3.4, ES256).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from typing import Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from hub.errors import ConfigError

VALID_S: Final = 12 * 3_600
"""Of a signature; 24 h are allowed. Half of it: a clock may be wrong by hours in either
direction."""
RENEW_S: Final = 6 * 3_600
"""After so long it is signed anew, long before it ends."""
ORIGINS: Final = 256
"""Push services whose signatures are kept; there are about five. Endpoints come from browsers, so
that anybody can invent more: the one used longest ago is forgotten."""

_RAW: Final = re.compile(r"[A-Za-z0-9_-]{43}=?\Z")
_SUBJECT: Final = re.compile(r"(mailto:[^@\s<>]+@[^@\s<>]+|https://[^\s/<>]+[^\s<>]*)\Z")


class Vapid:
    """Signs for one account. Raises ConfigError when its key or subject is not valid."""

    def __init__(self, private_key: str, subject: str) -> None:
        if _SUBJECT.match(subject) is None:
            raise ConfigError(
                "subject must be mailto:<address> or https://<page>: where push services "
                "find you when something is wrong",
                key="subject",
            )
        self._key = load_key(private_key)
        self._subject = subject
        self.public_key = application_server_key(self._key)
        """What browsers subscribe with."""
        self._signed: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """By origin, the one used last at the end: the header, and when it was signed."""

    def __repr__(self) -> str:
        return "Vapid()"

    def header(self, origin: str, now_ms: int) -> str:
        """The `Authorization` of a request to this push service."""
        kept = self._signed.pop(origin, None)
        # A clock that was put back makes a signature that would be valid for too long.
        if kept is None or not 0 <= now_ms - kept[1] < RENEW_S * 1_000:
            kept = (self._sign(origin, now_ms), now_ms)
        self._signed[origin] = kept
        if len(self._signed) > ORIGINS:
            self._signed.popitem(last=False)
        return kept[0]

    def _sign(self, origin: str, now_ms: int) -> str:
        claims = {"aud": origin, "exp": now_ms // 1_000 + VALID_S, "sub": self._subject}
        return f"vapid t={jwt.encode(claims, self._key, algorithm='ES256')}, k={self.public_key}"


def load_key(text: str) -> EllipticCurvePrivateKey:
    """A private key as PEM, or as the 43 characters that `web-push generate-vapid-keys` prints.
    Raises ConfigError, which tells nothing of the key."""
    text = text.strip()
    try:
        if _RAW.match(text):
            number = int.from_bytes(urlsafe_b64decode(text.rstrip("=") + "="))
            return derive_private_key(number, SECP256R1())
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        problem = "is encrypted: store it without a password"
    except (ValueError, UnsupportedAlgorithm):
        problem = "cannot be read: it must be a PEM file, or what `web-push generate-vapid-keys`"
        problem += " prints as the private key"
    else:
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
            return key
        problem = "must be an EC key of P-256 (prime256v1)"
    raise ConfigError(f"private_key {problem}", key="private_key")


def application_server_key(key: EllipticCurvePrivateKey) -> str:
    """The public key as `pushManager.subscribe` and the header want it: base64url, no padding."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return urlsafe_b64encode(point).rstrip(b"=").decode()
