"""Access tokens of Google's service accounts: how they are asked for, and the headers that carry
them. When is the matter of `channels.tokens`.

Source: RFC 7523 (2.1); Google's tokens live an hour.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from channels.http import HttpClient, NotSent
from channels.push.service_account import (
    GRANT_TYPE,
    GrantRefused,
    ServiceAccount,
    assertion,
    granted,
)
from channels.tokens import Tokens, identity_of
from hub.clock import Clock
from hub.errors import TactError

LIFE_MAX_S: Final = 3_600.0
"""A longer life is not believed: a key that was taken away must stop working."""


class Token(Struct, frozen=True):
    """A token, as the headers of all requests that carry it."""

    headers: dict[str, str]

    def __repr__(self) -> str:
        return "Token()"


class Grant:
    """One account's way to the token of its service account.

    `counted` is told `token_asked`, `token_failed` and `token_refused`.
    """

    def __init__(
        self,
        service: ServiceAccount,
        scope: str,
        http: HttpClient,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
        counted: Callable[[str], None],
    ) -> None:
        self._service = service
        self._scope = scope
        self._http = http
        self._clock = clock
        self.tokens: Tokens[Token] = Tokens(
            _identity(service, scope), self._ask, clock, chance, account=account, counted=counted
        )

    async def token(self) -> Token:
        """One that lives. Raises NotSent while there is none to be had, and GrantRefused when a
        person must change something."""
        return await self.tokens.get()

    def worked(self, token: Token) -> None:
        """The service took this token."""
        self.tokens.worked(token)

    def spoil(self, token: Token) -> None:
        """The service did not take this token."""
        words = "no access token of this service account is taken, not even a new one: "
        self.tokens.spoil(token, GrantRefused(words + "see whether it belongs to the project"))

    async def close(self) -> None:
        """Ask no more; who waits for a token is told that nothing left."""
        await self.tokens.close()

    async def _ask(self) -> tuple[Token, float]:
        signed = assertion(self._service, self._scope, self._clock.now_ms())
        form = {"grant_type": GRANT_TYPE, "assertion": signed}
        try:
            reply = await self._http.request("POST", self._service.token_uri, form=form)
        except TactError as error:
            # What is `Unanswered` gave no token either: asking again does no harm.
            raise NotSent(f"no access token: {error.message}") from None
        value, life_s = granted(reply, self._clock.now_ms())
        headers = {"authorization": f"Bearer {value}", "content-type": "application/json"}
        return Token(headers), min(life_s, LIFE_MAX_S)


def _identity(service: ServiceAccount, scope: str) -> bytes:
    """A new key of an account asks for tokens of its own."""
    key = service.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return identity_of("google", service.token_uri, service.email, scope, key)
