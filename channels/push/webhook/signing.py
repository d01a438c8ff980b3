"""Signatures of Standard Webhooks: made for what we send, verified for what is sent to us.

Signed is `id.timestamp.body`; the header `webhook-signature` is a list with one signature for each
key in force, so that a key can be replaced without a gap. Pure: the time is an argument.

Source: Standard Webhooks 1.0.0, "Signature scheme", "Webhook headers", "Verifying signatures".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hub.errors import ConfigError, TactError

SECRET_PREFIX: Final = "whsec_"
PRIVATE_PREFIX: Final = "whsk_"
PUBLIC_PREFIX: Final = "whpk_"
SECRET_BYTES: Final = (24, 64)
"""Shortest and longest shared secret, by the specification."""
TOLERANCE_S: Final = 300
"""How far a timestamp may be from our clock: what the specification's own libraries allow."""
SIGNATURES: Final = 8
"""Of one request that are looked at: two keys of each kind, twice. More is no rotation, and each
costs a computation that anybody could ask for."""
SIGNATURE_CHARS: Final = 2_048
"""The longest list: eight of the longest kind have 760."""

_ID = re.compile(r"[!#-+/-~\-]{1,128}\Z")
"""Printable, without space, `"`, `,` and above all `.`: with a dot in it the border between id and
timestamp could be moved, and a signature be used for another message."""
_TIMESTAMP = re.compile(r"[0-9]{1,11}\Z")


class Refused(TactError):
    """A request whose signature does not hold, or that is not what it must be. The message is
    fit for the answer: it quotes nothing of the request."""

    code = "webhook-refused"

    def __init__(self, message: str, *, status: int, **facts: Any) -> None:
        super().__init__(message, status=status, **facts)

    @property
    def status(self) -> int:
        """What it is answered with."""
        return int(self.facts["status"])


# ---- keys --------------------------------------------------------------------------------------


def secret_of(text: str, key: str) -> bytes:
    """A shared secret, `whsec_` and base64. Raises ConfigError naming the key of the table."""
    secret = _decoded(text, SECRET_PREFIX)
    if secret is None or not SECRET_BYTES[0] <= len(secret) <= SECRET_BYTES[1]:
        raise ConfigError(
            f"{key} must be whsec_ and the base64 of 24 to 64 random bytes; "
            "make one with: echo whsec_$(openssl rand -base64 32)",
            key=key,
        )
    return secret


def private_key_of(text: str, key: str) -> Ed25519PrivateKey:
    """An ed25519 key, `whsk_` and base64 of its seed, or of seed and public key as some libraries
    write it. Raises ConfigError."""
    raw = _decoded(text.strip(), PRIVATE_PREFIX)
    made = Ed25519PrivateKey.from_private_bytes(raw[:32]) if raw and len(raw) in (32, 64) else None
    if made is None or raw is None or raw[32:] not in (b"", made.public_key().public_bytes_raw()):
        raise ConfigError(
            f"{key} must be whsk_ and the base64 of an ed25519 seed (32 bytes); "
            "make one with: echo whsk_$(openssl rand -base64 32)",
            key=key,
        )
    return made


def public_key_of(text: str, key: str) -> Ed25519PublicKey:
    """An ed25519 public key, `whpk_` and base64. Raises ConfigError."""
    raw = _decoded(text, PUBLIC_PREFIX)
    if raw is None or len(raw) != 32:
        raise ConfigError(
            f"{key} must be whpk_ and the base64 of an ed25519 public key (32 bytes)", key=key
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def public_text(private: Ed25519PrivateKey) -> str:
    """`whpk_…` of a private key: what the other side is given."""
    raw = private.public_key().public_bytes_raw()
    return PUBLIC_PREFIX + base64.b64encode(raw).decode()


def _decoded(text: str, prefix: str) -> bytes | None:
    if not text.startswith(prefix):
        return None
    return _unbase64(text.removeprefix(prefix))


def _unbase64(text: str) -> bytes | None:
    """Standard base64; its padding may be left out."""
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


# ---- both directions ---------------------------------------------------------------------------


class Signer:
    """The keys that everything we send is signed with."""

    def __init__(self, secrets: Iterable[bytes], privates: Iterable[Ed25519PrivateKey]) -> None:
        self._secrets = tuple(secrets)
        self._privates = tuple(privates)

    def headers(self, id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """The three headers of one try. `id` has no dots."""
        content = b"%b.%d.%b" % (id.encode(), timestamp_s, body)
        listed = [f"v1,{_text(_hmac(secret, content))}" for secret in self._secrets]
        listed += [f"v1a,{_text(private.sign(content))}" for private in self._privates]
        return {
            "webhook-id": id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(listed),
        }


class Verifier:
    """The keys of which one must have signed what is sent to us."""

    def __init__(self, secrets: Iterable[bytes], publics: Iterable[Ed25519PublicKey]) -> None:
        self._secrets = tuple(secrets)
        self._publics = tuple(publics)

    @property
    def any(self) -> bool:
        """Whether there is a key at all."""
        return bool(self._secrets or self._publics)

    def verified(self, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
        """The id of a request that holds; names of headers are in lower case. Raises Refused."""
        id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        listed = headers.get("webhook-signature", "")
        if not (id and timestamp and listed):
            raise Refused("webhook-id, -timestamp and -signature are needed", status=401)
        if _ID.match(id) is None:
            raise Refused("webhook-id: at most 128 characters, no dots or spaces", status=400)
        if _TIMESTAMP.match(timestamp) is None or len(listed) > SIGNATURE_CHARS:
            raise Refused("webhook-timestamp or webhook-signature is none", status=400)
        # As it was sent: what was signed may have leading zeros.
        content = b"%b.%b.%b" % (id.encode(), timestamp.encode(), body)
        expected = [_hmac(secret, content) for secret in self._secrets]
        if not any(self._holds(one, content, expected) for one in listed.split(" ")[:SIGNATURES]):
            raise Refused("no signature is by a key of this account", status=401)
        if abs(now_s - int(timestamp)) > TOLERANCE_S:  # after the signature: only a friend is told
            raise Refused("webhook-timestamp is more than 5 minutes off our clock", status=401)
        return id

    def _holds(self, signature: str, content: bytes, expected: list[bytes]) -> bool:
        version, _, text = signature.partition(",")
        if version not in ("v1", "v1a") or (given := _unbase64(text)) is None:
            return False
        if version == "v1":
            return any(hmac.compare_digest(given, one) for one in expected)
        return any(_verifies(public, given, content) for public in self._publics)


def _hmac(secret: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, content, hashlib.sha256)


def _verifies(public: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        public.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
