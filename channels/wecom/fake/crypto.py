"""How callbacks are encrypted and signed. On its own, so that it checks the hub's.

Source: WeCom's pages 90930 and 90968.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Final
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK: Final = 32
"""The padding's block, twice that of AES."""


def encrypted(key: str, receiver: str, message: bytes, salt: bytes) -> str:
    """`salt`: 16 random bytes. Raises ValueError for a key that is none."""
    secret = base64.b64decode(key + "=")
    plain = salt + struct.pack(">I", len(message)) + message + receiver.encode()
    short = BLOCK - len(plain) % BLOCK
    encryptor = Cipher(algorithms.AES(secret), modes.CBC(secret[:16])).encryptor()
    sealed = encryptor.update(plain + bytes([short]) * short) + encryptor.finalize()
    return base64.b64encode(sealed).decode()


def signed(token: str, timestamp: str, nonce: str, sealed: str) -> str:
    """The `msg_signature`."""
    together = "".join(sorted((token, timestamp, nonce, sealed)))
    return hashlib.sha1(together.encode()).hexdigest()


def xml(fields: dict[str, object]) -> str:
    """`<xml>…</xml>`: text as CDATA, numbers plainly, a dict as elements, a list as Items."""
    return f"<xml>{_elements(fields)}</xml>"


def _elements(fields: dict[str, object]) -> str:
    return "".join(f"<{name}>{_value(value)}</{name}>" for name, value in fields.items())


def _value(value: object) -> str:
    if isinstance(value, dict):
        return _elements(value)
    if isinstance(value, list):
        return "".join(f"<Item>{_value(one)}</Item>" for one in value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    return escape(text) if "]]>" in text else f"<![CDATA[{text}]]>"
