"""How WeCom's callbacks are signed and encrypted. Pure.

A message travels as base64 of AES-256-CBC of: 16 random bytes, the length of the message (4 bytes,
big-endian), the message, and the receiver's id, filled up to a multiple of 32 bytes (PKCS #7). The
first 16 bytes of the key are the initialisation vector too: WeCom's choice, and why the 16 random
bytes are there.

Sources: WeCom's pages 91144 and 90968 (encryption); RFC 5652, 6.3 (PKCS #7).
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from hashlib import sha1
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from hub.errors import ConfigError, TactError

BLOCK: Final = 32
"""What is filled up to: twice the block of AES."""
SALT: Final = 16
"""Random bytes before the message."""

_AES_BLOCK: Final = 16
_KEY = re.compile(r"[A-Za-z0-9+/]{43}\Z")


class CallbackRefused(TactError):
    """A callback that WeCom did not send, or not to us, or that was damaged. `status`: the HTTP
    status of the answer. What it held is not told."""

    code = "wecom-callback-refused"

    @property
    def status(self) -> int:
        return int(self.facts.get("status", 403))


def signature(token: str, timestamp: str, nonce: str, encrypted: str) -> str:
    """What `msg_signature` must be: SHA-1 of the four in the order of their bytes, as hex."""
    parts = sorted(part.encode("utf-8", "replace") for part in (token, timestamp, nonce, encrypted))
    return sha1(b"".join(parts), usedforsecurity=False).hexdigest()


class Crypto:
    """Token, key and receiver of one application's callbacks. Raises ConfigError on a bad key."""

    def __init__(self, token: str, key: str, receiver: str) -> None:
        """`key`: the EncodingAESKey, 43 characters; `receiver`: the corp's id (a suite's for third
        parties, "" for a robot)."""
        if _KEY.match(key) is None:
            raise ConfigError("callback_key: the EncodingAESKey, 43 characters", key="callback_key")
        # Its last character holds 4 bits and 2 that are not used, and may be anything.
        secret = b64decode(key + "=")
        self._token = token
        self._receiver = receiver.encode()
        self._cipher = Cipher(AES(secret), CBC(secret[:_AES_BLOCK]))

    def __repr__(self) -> str:
        return f"Crypto({self._receiver.decode()!r})"

    def sign(self, timestamp: str, nonce: str, encrypted: str) -> str:
        """The signature of something encrypted."""
        return signature(self._token, timestamp, nonce, encrypted)

    def check(self, given: str, timestamp: str, nonce: str, encrypted: str) -> None:
        """In constant time. Raises CallbackRefused when it is not the signature."""
        right = self.sign(timestamp, nonce, encrypted)
        if not self._token or not hmac.compare_digest(
            given.encode("utf-8", "replace"), right.encode()
        ):
            raise CallbackRefused("the signature is not ours")

    def encrypt(self, message: bytes, salt: bytes) -> str:
        """`salt`: 16 random bytes."""
        if len(salt) != SALT:
            raise ValueError(f"salt must have {SALT} bytes")
        plain = salt + len(message).to_bytes(4, "big") + message + self._receiver
        filling = BLOCK - len(plain) % BLOCK
        plain += bytes([filling]) * filling
        encryptor = self._cipher.encryptor()
        return b64encode(encryptor.update(plain) + encryptor.finalize()).decode()

    def decrypt(self, encrypted: str) -> bytes:
        """The message. Raises CallbackRefused for anything that is none, or not for us.

        Check the signature first: without it, how this fails would tell about the key.
        """
        try:
            sealed = b64decode(encrypted, validate=True)
        except (binascii.Error, ValueError):
            raise CallbackRefused("not base64", status=400) from None
        if not sealed or len(sealed) % _AES_BLOCK:
            raise CallbackRefused("not whole blocks", status=400)
        decryptor = self._cipher.decryptor()
        plain = decryptor.update(sealed) + decryptor.finalize()
        filling = plain[-1]
        if not 1 <= filling <= BLOCK or plain[-filling:] != bytes([filling]) * filling:
            raise CallbackRefused("wrong padding: another key?", status=400)
        plain = plain[:-filling]
        start = SALT + 4
        end = start + int.from_bytes(plain[SALT:start], "big")
        if len(plain) < start or end > len(plain):
            raise CallbackRefused("shorter than it says", status=400)
        if not hmac.compare_digest(plain[end:], self._receiver):
            raise CallbackRefused("for another receiver")
        return plain[start:end]
