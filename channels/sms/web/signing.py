"""Aliyun's signature of RPC-style requests, version 1.0: HMAC-SHA1 over all fields. Pure.

Source: Aliyun, "Request signature (RPC)"; its two published examples are the tests' golden values.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote


def percent(text: str) -> str:
    """Percent-encoding of RFC 3986 over UTF-8: only letters, digits and - _ . ~ stay."""
    return quote(text, safe="-_.~")


def string_to_sign(method: str, fields: Mapping[str, str]) -> str:
    """What is signed: the fields but `Signature`, by name, encoded; and all of that again."""
    canonical = "&".join(
        f"{percent(name)}={percent(value)}"
        for name, value in sorted(fields.items())
        if name != "Signature"
    )
    return f"{method}&%2F&{percent(canonical)}"


def signature(method: str, fields: Mapping[str, str], secret: str) -> str:
    """The value of `Signature`, base64."""
    signed = string_to_sign(method, fields).encode()
    digest = hmac.new(f"{secret}&".encode(), signed, hashlib.sha1).digest()
    return base64.b64encode(digest).decode("ascii")
