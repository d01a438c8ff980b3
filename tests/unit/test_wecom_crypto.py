"""Crypto of callbacks: what WeCom publishes, there and back, and all that is not from WeCom."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from channels.wecom.crypto import SALT, CallbackRefused, Crypto, signature
from hub.errors import ConfigError

TOKEN = "QDG6eK"
KEY = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
CORP = "wx5823bf96d3bd56c7"
ECHO = "P9nAzCzyDtyTWESHep1vC5X9xho/qYX3Zpb4yKa9SKld1DsH3Iyt3tP3zNdtp+4RPcs8TgAE7OaBO+FZXvnaqQ=="
"""Token, key and a check of a URL as WeCom's own sample code has them."""
SALT_BYTES = bytes(range(SALT))

crypto = Crypto(TOKEN, KEY, CORP)


def sealed(plain: bytes) -> str:
    """Encrypted as it is, whatever it is; a multiple of 16 bytes."""
    key = b64decode(KEY + "=")
    encryptor = Cipher(AES(key), CBC(key[:16])).encryptor()
    return b64encode(encryptor.update(plain) + encryptor.finalize()).decode()


def filled(plain: bytes) -> bytes:
    filling = 32 - len(plain) % 32
    return plain + bytes([filling]) * filling


def test_the_sample_that_wecom_publishes() -> None:
    given_signature = "5c45ff5e21c57e6ad56bac8758b79b1d9ac89fd3"
    assert signature(TOKEN, "1409659589", "263014780", ECHO) == given_signature
    crypto.check(given_signature, "1409659589", "263014780", ECHO)
    assert crypto.decrypt(ECHO) == b"1616140317555161061"


@given(st.binary(max_size=200), st.binary(min_size=SALT, max_size=SALT))
def test_there_and_back(message: bytes, salt: bytes) -> None:
    encrypted = crypto.encrypt(message, salt)
    assert len(b64decode(encrypted)) % 32 == 0
    assert crypto.decrypt(encrypted) == message


@pytest.mark.parametrize(
    ("what", "encrypted", "status"),
    [
        ("nothing", "", 400),
        ("not base64", "!!!!", 400),
        ("not ASCII", "中文", 400),
        ("base64 cut off", ECHO[:-3], 400),
        ("a block cut off", b64encode(b64decode(ECHO)[:-16]).decode(), 400),
        ("another corp", Crypto(TOKEN, KEY, "wwother").encrypt(b"hello", SALT_BYTES), 403),
        ("no corp", Crypto(TOKEN, KEY, "").encrypt(b"hello", SALT_BYTES), 403),
        ("a longer corp", Crypto(TOKEN, KEY, CORP + "x").encrypt(b"hello", SALT_BYTES), 403),
        ("another key", Crypto(TOKEN, KEY[::-1], CORP).encrypt(b"hello", SALT_BYTES), 400),
        ("padding of 0", sealed(bytes(64)), 400),
        ("padding of 33", sealed(bytes([33]) * 64), 400),
        ("padding that is uneven", sealed(bytes(62) + b"\x01\x02"), 400),
        ("only padding", sealed(bytes([32]) * 32), 400),
        ("shorter than a length", sealed(filled(bytes(17))), 400),
        ("longer than it is", sealed(filled(bytes(16) + b"\xff\xff\xff\xffhello")), 400),
    ],
)
def test_what_is_not_for_us_is_refused(what: str, encrypted: str, status: int) -> None:
    with pytest.raises(CallbackRefused) as refused:
        crypto.decrypt(encrypted)
    assert refused.value.status == status
    assert "hello" not in str(refused.value)


@given(
    st.one_of(st.text(max_size=100), st.binary(max_size=128).map(lambda b: b64encode(b).decode()))
)
def test_any_text_is_decrypted_or_refused(encrypted: str) -> None:
    with pytest.raises(CallbackRefused):
        crypto.decrypt(encrypted)


@given(st.binary(max_size=160))
def test_any_plain_text_is_read_or_refused(plain: bytes) -> None:
    try:
        crypto.decrypt(sealed(filled(plain)))
    except CallbackRefused:
        return
    assert plain.endswith(CORP.encode())


@pytest.mark.parametrize(
    "wrong", ["", "0" * 40, "5C45FF5E21C57E6AD56BAC8758B79B1D9AC89FD3", "中", "\ud800"]
)
def test_a_wrong_signature_is_refused(wrong: str) -> None:
    with pytest.raises(CallbackRefused):
        crypto.check(wrong, "1409659589", "263014780", ECHO)


def test_without_a_token_nothing_is_right() -> None:
    open_to_all = Crypto("", KEY, CORP)
    with pytest.raises(CallbackRefused):
        open_to_all.check(open_to_all.sign("1", "2", "3"), "1", "2", "3")


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "=", KEY[:-1] + "*", KEY[:-1] + "\n"])
def test_a_key_that_is_none_is_a_wrong_configuration(key: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        Crypto(TOKEN, key, CORP)
    assert not key or key not in str(wrong.value)


def test_nothing_secret_is_shown() -> None:
    assert TOKEN not in repr(crypto) and KEY not in repr(crypto)
