"""What only one browser can read: `aes128gcm` in one record. Pure, but for `Keys.fresh`.

http-ece does the work. It could draw salt and key by itself; both are given here, so that the
vectors of the RFC can be checked. In use each message has its own, from the system's generator
(`Keys.fresh`): a pair of key and salt that comes twice gives its two plaintexts away.

Sources: RFC 8188 (2), RFC 8291 (3 and 4, appendix A).
"""

from __future__ import annotations

import os
from typing import Final

import http_ece  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from msgspec import Struct

from channels.push.webpush.subscription import Subscription

RECORD_BYTES: Final = 4_096
"""All that a push service must take (RFC 8030, 7.2); RFC 8291, 4, wants one record."""
PLAIN_BYTES: Final = RECORD_BYTES - 86 - 17
"""3,993: without the header (salt 16, size 4, key 1 + 65), the delimiter and the tag of 16."""
SALT_BYTES: Final = 16


class Keys(Struct, frozen=True):
    """What one message is encrypted with."""

    private: EllipticCurvePrivateKey
    salt: bytes

    def __repr__(self) -> str:
        return "Keys()"

    @staticmethod
    def fresh() -> Keys:
        """New ones. From the system, never from a seed."""
        return Keys(generate_private_key(SECP256R1()), os.urandom(SALT_BYTES))


def encrypt(plain: bytes, subscription: Subscription, keys: Keys) -> bytes:
    """The body of a push message, of at most RECORD_BYTES for at most PLAIN_BYTES."""
    body: bytes = http_ece.encrypt(
        plain,
        salt=keys.salt,
        private_key=keys.private,
        dh=subscription.point,
        auth_secret=subscription.auth,
        rs=RECORD_BYTES,
        version="aes128gcm",
    )
    return body
