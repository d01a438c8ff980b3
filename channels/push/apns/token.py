"""Provider tokens: what tells Apple who we are, in every request.

A token is signed anew when it is REFRESH_S old. Apple refuses one older than an hour
(ExpiredProviderToken), and a change within 20 minutes of the last (TooManyProviderTokenUpdates):
so a refused one is replaced at once, but not before that.

Ages are measured by the steady clock. What Apple compares is the wall clock's time within the
token; when that has been set since, the token says a wrong time and is replaced too.

Source: Apple, "Establishing a token-based connection to APNs"; RFC 7519, RFC 7518 (3.4 ES256).
"""

from __future__ import annotations

from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from hub.clock import Clock

REFRESH_S: Final = 40 * 60.0
"""Between the 20 minutes that a token must and the 60 that it may be used."""
UPDATE_S: Final = 20 * 60.0
"""Not sooner after the last."""
STEP_MS: Final = 60_000
"""A wall clock that has moved so far against the steady one has been set."""


class Tokens:
    """The provider tokens of one account."""

    def __init__(
        self, key: EllipticCurvePrivateKey, key_id: str, team_id: str, clock: Clock
    ) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._signed_s = 0.0
        self._signed_ms = 0
        self._header = b""

    def __repr__(self) -> str:
        return f"Tokens({self._key_id!r})"

    def header(self) -> bytes:
        """The value of `authorization` now."""
        if not self._header:
            self._sign()
        else:
            age_s = self.age_s()
            stepped_ms = abs(self._clock.now_ms() - self._signed_ms - age_s * 1_000)
            if age_s > REFRESH_S or stepped_ms > STEP_MS:
                self._sign()
        return self._header

    def age_s(self) -> float:
        """Seconds since the last was signed."""
        return self._clock.steady_s() - self._signed_s

    def expired(self, used: bytes) -> bool:
        """Apple calls the token in this header too old. Returns whether there is a newer one now;
        False: it is too new to be replaced."""
        if used == self._header:
            if self.age_s() < UPDATE_S:
                return False
            self._sign()
        return True

    def _sign(self) -> None:
        self._signed_s, self._signed_ms = self._clock.steady_s(), self._clock.now_ms()
        token = jwt.encode(
            {"iss": self._team_id, "iat": self._signed_ms // 1_000},
            self._key,
            "ES256",
            headers={"kid": self._key_id},
        )
        self._header = b"bearer " + token.encode()
