"""`[accounts.webhook]`: where deliveries go, what they are signed with, and when they are repeated.

```toml
[accounts.webhook]
url      = "https://grid.example.com/push"
secret   = { env = "GRID_SECRET" }           # whsec_…: echo whsec_$(openssl rand -base64 32)
receipts = true                              # it reports what became of each
```
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field
from yarl import URL

from channels.http import CONNECT_S, CONNECTIONS, CONNECTIONS_MAX, NotAllowed, checked_url
from channels.push.guard import Guard
from channels.push.webhook.signing import (
    Signer,
    Verifier,
    private_key_of,
    public_key_of,
    secret_of,
)
from hub.errors import ConfigError, PolicyError
from hub.policy.document import duration_ms

ANSWER_S: Final = 15.0
"""The specification recommends 15 to 30 s; a receiver that needs longer should answer first."""
SCHEDULE: Final = ("5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h")
"""Standard Webhooks, "Deliverability and reliability": three days in all. With the account's
`tries = 10` the last of them is the last try; a delivery that expires before ends there."""
STEPS: Final = 32
HEADERS: Final = 16
"""Fixed headers of one account."""
PUBLIC_KEYS: Final = 4
"""In force at once: one, and its successor, with room."""

_NAME = re.compile(r"[a-z0-9-]{1,64}\Z")
_VALUE = re.compile(r"[!-~](?:[ -~]{0,510}[!-~])?\Z")
_TOKEN = re.compile(r"[!-~]{1,4096}\Z")
_OURS: Final = frozenset(
    ("accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding")
)
_SECRET = re.compile(r"auth|cookie|key|password|secret|token")


class WebhookConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The table, as it is written."""

    url: str
    """Where every delivery is posted; https, or http too with `private_networks`."""
    secret: str = ""
    """whsec_…: signs what is sent (HMAC-SHA256, `v1`), and verifies what is posted to the hub."""
    old_secret: str = ""
    """While the secret is replaced: both sign, and both are good."""
    private_key: str = ""
    """whsk_…: signs what is sent (ed25519, `v1a`), beside a secret or alone."""
    old_private_key: str = ""
    receive_secret: str = ""
    """whsec_…: verifies what is posted to the hub, instead of `secret` and `old_secret`."""
    receive_old_secret: str = ""
    receive_public_keys: Annotated[tuple[str, ...], Meta(max_length=PUBLIC_KEYS)] = ()
    """whpk_…: verify it too. They are no secrets, and may be written here."""
    bearer_token: str = ""
    """For systems behind a gateway that wants one: sent as `Authorization: Bearer …`."""
    token_header: str = ""
    """Where bearer_token is sent instead, as it is: `x-api-key`."""
    headers: Annotated[dict[str, str], Meta(max_length=HEADERS)] = field(default_factory=dict)
    """Sent with every request. Not for secrets."""
    private_networks: bool = False
    """The url may be, or lead, into a private network, and may be http."""
    receipts: bool = False
    """The system reports what became of each delivery: `sent` is not the last word."""
    reenabled: str = ""
    """A 410 has disabled the endpoint, and it is to be used again under the same url: write
    anything that was not here before, a date."""
    schedule: Annotated[tuple[str, ...], Meta(min_length=1, max_length=STEPS)] = SCHEDULE
    """Before the second try, the third, …; the last counts for all that follow."""
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return "WebhookConfig()"  # its url may have a key in its path

    @property
    def mark(self) -> str:
        """What a 410 is about: another url, or another `reenabled`, is another endpoint."""
        return blake2b(f"{self.url}\0{self.reenabled}".encode(), digest_size=16).hexdigest()


def check(settings: WebhookConfig, sms: Any = None) -> None:
    """What types cannot say. Raises ConfigError."""
    checked_url(settings.url, "url")
    try:
        Guard(private_networks=settings.private_networks).check(URL(settings.url, encoded=True))
    except NotAllowed as error:
        raise ConfigError(f"url: {why_not(error)}", key="url") from None
    signer_of(settings)
    verifier_of(settings)
    steps_of(settings)
    for name, value in settings.headers.items():
        _check_header(name, "headers")
        if _SECRET.search(name):
            raise ConfigError(
                f"headers.{name}: a secret is not written here; use bearer_token", key="headers"
            )
        if _VALUE.match(value) is None:
            raise ConfigError(f"headers.{name}: 1 to 512 printable characters", key="headers")
    if settings.bearer_token and _TOKEN.match(settings.bearer_token) is None:
        raise ConfigError("bearer_token: printable, without spaces", key="bearer_token")
    if settings.token_header:
        _check_header(settings.token_header, "token_header")


def _check_header(name: str, key: str) -> None:
    if _NAME.match(name) is None or name in _OURS or name.startswith("webhook-"):
        raise ConfigError(
            f"{key}: names are lower case, and none that the hub sets itself", key=key
        )


def headers_of(settings: WebhookConfig) -> dict[str, str]:
    """What every request has, beside its signature."""
    made = dict(settings.headers) | {"content-type": "application/json"}
    if settings.bearer_token and settings.token_header:
        made[settings.token_header] = settings.bearer_token
    elif settings.bearer_token:
        made["authorization"] = f"Bearer {settings.bearer_token}"
    return made


def why_not(error: NotAllowed) -> str:
    """Why no request goes to the url, with what a person can do."""
    if error.reason in ("private", "scheme", "port"):
        return f"{error.message}; if it is meant, set private_networks = true"
    return error.message


def signer_of(settings: WebhookConfig) -> Signer:
    """The keys in force for what is sent. Raises ConfigError."""
    for old, new in (("old_secret", "secret"), ("old_private_key", "private_key")):
        if getattr(settings, old) and not getattr(settings, new):
            raise ConfigError(f"{old} needs {new}, which takes its place", key=new)
    secrets = _keys(settings, secret_of, "secret", "old_secret")
    privates = _keys(settings, private_key_of, "private_key", "old_private_key")
    if not secrets and not privates:
        raise ConfigError("secret (whsec_…) or private_key (whsk_…) is needed", key="secret")
    return Signer(secrets, privates)


def verifier_of(settings: WebhookConfig) -> Verifier:
    """The keys in force for what is posted to the hub; none when only we can sign. Raises
    ConfigError."""
    if settings.receive_old_secret and not settings.receive_secret:
        raise ConfigError(
            "receive_old_secret needs receive_secret, which takes its place", key="receive_secret"
        )
    publics = [public_key_of(text, "receive_public_keys") for text in settings.receive_public_keys]
    secrets = _keys(settings, secret_of, "receive_secret", "receive_old_secret")
    if not secrets and not publics:
        secrets = _keys(settings, secret_of, "secret", "old_secret")
    return Verifier(secrets, publics)


def steps_of(settings: WebhookConfig) -> tuple[int, ...]:
    """The schedule in milliseconds. Raises ConfigError."""
    try:
        return tuple(duration_ms(text, "schedule") for text in settings.schedule)
    except PolicyError as error:
        problem = error.facts.get("problem", error.message)
        raise ConfigError(f"schedule: {problem}", key="schedule") from None


def _keys(settings: WebhookConfig, read: Any, *names: str) -> list[Any]:
    return [read(text, name) for name in names if (text := getattr(settings, name))]
