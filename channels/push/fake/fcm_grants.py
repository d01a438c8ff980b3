"""The token endpoint of the fake: Google's, for one service account that it makes itself.

Sources: Google's "Using OAuth 2.0 for Server to Server Applications"; RFC 6749 (5.1, 5.2).
"""

from __future__ import annotations

import json
import secrets
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hub.clock import Clock

SCOPES: Final = frozenset(
    {
        "https://www.googleapis.com/auth/firebase.messaging",
        "https://www.googleapis.com/auth/cloud-platform",
    }
)
GOOGLE: Final = "https://oauth2.googleapis.com/token"
"""What Google's own libraries write as the audience, wherever they ask."""
SKEW_S: Final = 300
"""How far the time of an assertion may be from the endpoint's."""
ASSERTION_S: Final = 3_600
TOKENS: Final = 1_000
"""Live at once; the oldest goes."""
KEY_BITS: Final = 2_048

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TIMEFRAME: Final = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    " Check your iat and exp values in the JWT claim."
)


class Grants:
    """One service account, and the tokens it was given."""

    def __init__(self, project: str, clock: Clock, life_s: float, key: rsa.RSAPrivateKey | None):
        self.email = f"tact@{project}.iam.gserviceaccount.com"
        self.url = ""
        """Of the endpoint; what the key file says."""
        self.disabled = False
        self._project = project
        self._clock = clock
        self._life_s = life_s
        self._key = key or rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
        self._key_id = secrets.token_hex(20)
        self._ends_ms: dict[str, int] = {}
        """Of each `authorization` that is good."""

    def key_file(self) -> dict[str, Any]:
        """What the console would give."""
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {
            "type": "service_account",
            "project_id": self._project,
            "private_key_id": self._key_id,
            "private_key": pem.decode(),
            "client_email": self.email,
            "client_id": "100000000000000000000",
            "token_uri": self.url,
        }

    def is_good(self, authorization: str) -> bool:
        """Whether this header is a living token's."""
        return self._ends_ms.get(authorization, 0) > self._clock.now_ms()

    def forget(self) -> None:
        """No token is good any more, before its time."""
        self._ends_ms.clear()

    def replace_key(self) -> None:
        """The key file in use is worth nothing any more."""
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)

    def answer(self, body: bytes) -> web.Response:
        """What the endpoint says to a request."""
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=16)
        if fields.get("grant_type") != [_GRANT]:
            return self._refused("unsupported_grant_type", "Invalid grant_type")
        (signed,) = fields.get("assertion", [""])[:1]
        if problem := self._problem(signed):
            return self._refused(*problem)
        token = f"ya29.{secrets.token_urlsafe(150)}"
        if len(self._ends_ms) >= TOKENS:
            del self._ends_ms[next(iter(self._ends_ms))]
        self._ends_ms[f"Bearer {token}"] = self._clock.now_ms() + int(self._life_s * 1_000)
        life_s = int(self._life_s)
        return self._said({"access_token": token, "expires_in": life_s, "token_type": "Bearer"})

    def _problem(self, signed: str) -> tuple[str, str] | None:
        try:
            claims = jwt.decode(
                signed,
                self._key.public_key(),
                algorithms=["RS256"],
                # By our own clock, below.
                options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
            )
        except jwt.InvalidSignatureError:
            return "invalid_grant", "Invalid JWT Signature."
        except jwt.InvalidTokenError:
            return "invalid_request", "Bad Request"
        issued, ends = claims.get("iat"), claims.get("exp")
        if not (isinstance(issued, int) and isinstance(ends, int)):
            return "invalid_grant", "Invalid JWT: iat and exp are needed"
        if self.disabled or claims.get("iss") != self.email:
            return "invalid_grant", "Invalid grant: account not found"
        if claims.get("aud") not in (self.url, GOOGLE):
            return "invalid_grant", "Invalid JWT: Failed audience check."
        now_s = self._clock.now_ms() // 1_000
        if abs(issued - now_s) > SKEW_S or not now_s < ends <= issued + ASSERTION_S:
            return "invalid_grant", _TIMEFRAME
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return "invalid_scope", "Invalid OAuth scope or ID token audience provided."
        return None

    def _refused(self, error: str, words: str) -> web.Response:
        return self._said({"error": error, "error_description": words}, 400)

    def _said(self, body: dict[str, Any], status: int = 200) -> web.Response:
        date = formatdate(self._clock.now_ms() / 1_000, usegmt=True)
        return web.Response(
            body=json.dumps(body).encode(),
            status=status,
            content_type="application/json",
            headers={"date": date},
        )
