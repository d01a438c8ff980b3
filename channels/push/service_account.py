"""A Google service account: its key file, the signed assertion, and what the token endpoint says.
Pure.

Sources: Google's "Using OAuth 2.0 for Server to Server Applications"; RFC 7523 (2.1, JWT grants),
RFC 6749 (5.2, errors).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from channels.http import HttpReply, NotSent, behind_ms, checked_url
from hub.errors import ConfigError, TactError

ASSERTION_S: Final = 3_600
"""How long an assertion is good for; Google takes no longer one."""
GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SKEW_TOLD_MS: Final = 60_000
"""A clock that is off by less than this is not what the endpoint complains of."""
TOKEN_CHARS: Final = 4_096
"""Of an access token. Google's have about 1,000, and 2,048 is what it promises."""
KEY_BITS: Final = 2_048
KEYS_PARSED: Final = 256
"""Key files kept parsed: to check one takes longer than all else of making a provider."""

_ERROR: Final = re.compile(r"[a-z_]{1,64}\Z")
PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9.:-]{0,127}\Z")
"""The id of a project."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class GrantRefused(TactError):
    """The token endpoint gives no token, until a person changes something; the message says what
    may be wrong."""

    code = "grant-refused"


class ServiceAccount(NamedTuple):
    """What a key file says."""

    project: str
    email: str
    token_uri: str
    key_id: str
    key: RSAPrivateKey

    def __repr__(self) -> str:
        return "ServiceAccount()"


class _KeyFile(Struct):
    type: str = ""
    project_id: str = ""
    private_key_id: str = ""
    private_key: str = ""
    client_email: str = ""
    token_uri: str = ""


class _Granted(Struct):
    access_token: str
    expires_in: int | float | str = 0


class _Refused(Struct):
    error: str
    error_description: str = ""


@lru_cache(maxsize=KEYS_PARSED)
def parse_service_account(text: str) -> ServiceAccount:
    """The account of a key file's JSON. Raises ConfigError that says what is wrong with it, and
    quotes nothing of it."""
    try:
        file = msgspec.json.decode(text.encode(), type=_KeyFile)
    except _UNREADABLE:
        raise ConfigError(
            "credentials: not the JSON of a service account's key file; download it again from the"
            " console (Project settings, Service accounts)"
        ) from None
    if file.type != "service_account":
        raise ConfigError(
            'credentials: type must be "service_account": this is the file of something else'
            " (google-services.json and OAuth clients are not it)"
        )
    for name in ("project_id", "client_email", "private_key", "token_uri"):
        if not getattr(file, name):
            raise ConfigError(f"credentials: {name} is missing; the key file is not whole")
    if PROJECT.match(file.project_id) is None:
        raise ConfigError("credentials: project_id is not the id of a project")
    checked_url(file.token_uri, "credentials: token_uri")
    return ServiceAccount(
        file.project_id, file.client_email, file.token_uri, file.private_key_id, _key(file)
    )


def _key(file: _KeyFile) -> RSAPrivateKey:
    problem = ""
    try:
        # To prove its primes takes 40 ms; that it signs what its public half takes, one.
        key = load_pem_private_key(
            file.private_key.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
        if not isinstance(key, RSAPrivateKey):
            problem = "is not an RSA key"
        elif key.key_size < KEY_BITS:
            problem = f"has fewer than {KEY_BITS} bits"
        else:
            signature = key.sign(b"tact", PKCS1v15(), SHA256())
            key.public_key().verify(signature, b"tact", PKCS1v15(), SHA256())
            return key
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        problem = "is broken or cut off: it must be the whole PEM, with its line ends as \\n"
    # Raised here, so that no traceback shows the parser's own words.
    raise ConfigError(f"credentials: private_key {problem}")


def assertion(account: ServiceAccount, scope: str, now_ms: int) -> str:
    """The signed JWT that asks for a token."""
    now_s = now_ms // 1_000
    claims = {
        "iss": account.email,
        "scope": scope,
        "aud": account.token_uri,
        "iat": now_s,
        "exp": now_s + ASSERTION_S,
    }
    headers = {"kid": account.key_id} if account.key_id else None
    return jwt.encode(claims, account.key, algorithm="RS256", headers=headers)


def granted(reply: HttpReply, now_ms: int) -> tuple[str, float]:
    """Token and life in seconds. Raises NotSent when the endpoint has none for the moment, and
    GrantRefused when it will not have one."""
    if 200 <= reply.status <= 299:
        return _token(reply)
    if reply.status in (408, 429) or not 400 <= reply.status <= 499:
        raise NotSent(f"no access token: the token endpoint answers HTTP {reply.status}")
    try:
        said = msgspec.json.decode(reply.body, type=_Refused)
    except _UNREADABLE:
        said = _Refused("")
    if _ERROR.match(said.error) is None:
        raise GrantRefused(
            f"token_uri answers HTTP {reply.status} and no OAuth error: is it the right one?"
        )
    raise GrantRefused(f"the token endpoint says {said.error}: {_advice(said, reply, now_ms)}")


def _token(reply: HttpReply) -> tuple[str, float]:
    try:
        said = msgspec.json.decode(reply.body, type=_Granted)
        life_s = float(said.expires_in)
    except (*_UNREADABLE, ValueError, OverflowError):
        raise NotSent("no access token: the token endpoint's answer is not OAuth's") from None
    token = said.access_token
    good = 0 < len(token) <= TOKEN_CHARS and token.isascii() and token.isprintable()
    if not good or " " in token or not life_s > 0:  # NaN is not
        raise NotSent("no access token: the token endpoint's answer has none")
    return token, life_s


def _advice(said: _Refused, reply: HttpReply, now_ms: int) -> str:
    """What to do. The endpoint's own words may name the account; only what they are about is told.

    Its `Date` shows whose clock is wrong: ours, as all its other clients would tell it its own.
    """
    skew_ms = behind_ms(reply, now_ms) or 0
    words = said.error_description.lower()
    if said.error == "invalid_grant" and abs(skew_ms) >= SKEW_TOLD_MS:
        where = "behind" if skew_ms > 0 else "ahead of"
        return (
            f"the clock of this machine is {_spoken(abs(skew_ms))} {where} the endpoint's;"
            " set it right (NTP)"
        )
    if "timeframe" in words:
        return "it does not like our time; is the clock of this machine right?"
    if "signature" in words:
        return "the key is not (any more) one of this service account; make a new key file"
    if "account" in words or said.error in ("invalid_client", "unauthorized_client"):
        return "the service account is disabled, deleted, or may not ask; see the console"
    return "see the service account in the console, and the clock of this machine"


def _spoken(ms: int) -> str:
    """`9 min 58 s`, `3 h 0 min`."""
    minutes, seconds = divmod(ms // 1_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
