"""What `accounts.toml` says of an account at Apple's push service: `[accounts.apns]`.

Source: Apple, "Establishing a token-based connection to APNs", "Sending notification requests to
APNs" (apns-push-type, apns-topic).
"""

from __future__ import annotations

import ssl
from typing import Annotated, Final, Literal, get_args
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Meta, Struct

from channels.http import ANSWER_S, CONNECT_S, checked_url
from hub.errors import ConfigError

BASE_URL: Final = "https://api.push.apple.com"
CONNECTIONS: Final = 2
"""One may end (GOAWAY) while the other goes on; each takes some thousand pushes a second."""
CONNECTIONS_MAX: Final = 8
"""Apple wants few that last, and takes many that come and go for an attack."""
PING_S: Final = 60.0
"""Below the five minutes after which common NATs forget a silent connection."""

PushType = Literal[
    "alert",
    "background",
    "complication",
    "controls",
    "fileprovider",
    "liveactivity",
    "location",
    "mdm",
    "pushtotalk",
    "voip",
    "widgets",
]
PUSH_TYPES: Final[tuple[str, ...]] = get_args(PushType)

Identifier = Annotated[str, Meta(pattern="^[A-Za-z0-9]{1,32}$")]
Topic = Annotated[str, Meta(pattern="^[A-Za-z0-9.-]{1,200}$")]


class ApnsConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An account at Apple: one app, one key."""

    private_key: Annotated[str, Meta(min_length=1)]
    """The .p8 file from Apple, whole: `{ file = "AuthKey_ABC123DEFG.p8" }`."""
    key_id: Identifier
    """The ten characters in that file's name."""
    team_id: Identifier
    topic: Topic
    """The app's bundle id; what a push type adds to it (`.voip` …) is added by itself."""
    push_type: PushType = "alert"
    """Of pushes that do not say theirs; a silent one of an `alert` account is `background`."""
    base_url: str = BASE_URL
    """Tokens of apps run from Xcode are of `https://api.sandbox.push.apple.com`. `http://` is
    HTTP/2 in the clear, for a server of your own."""
    ca_file: str = ""
    """A file of certificates to trust instead of the system's."""
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    """Until a connection is open, TLS and settings; also until a PING is answered."""
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S
    ping_s: Annotated[float, Meta(gt=0, le=3_600)] = PING_S
    """Silence after which a connection is asked whether it lives."""

    def __repr__(self) -> str:
        return f"ApnsConfig(topic={self.topic!r}, base_url={self.base_url!r})"


def check(config: ApnsConfig, _: object = None) -> None:
    """What the types cannot say. Raises ConfigError."""
    signing_key(config)
    checked_url(config.base_url, "base_url")
    if urlsplit(config.base_url).path.strip("/"):
        raise ConfigError("base_url: must have no path", key="base_url")
    tls_of(config)


def signing_key(config: ApnsConfig) -> EllipticCurvePrivateKey:
    """The key that signs provider tokens. Raises ConfigError, which never quotes it."""
    problem = "is no PEM file with a private key"
    try:
        key = load_pem_private_key(config.private_key.encode(), password=None)
    except TypeError:
        problem = "is protected by a password: give the file as Apple made it"
    except (ValueError, UnsupportedAlgorithm):
        key = None
    else:
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
            return key
        problem = "is not for ES256 (an elliptic curve key, P-256)"
    raise ConfigError(
        f"private_key: {problem}; give the AuthKey_….p8 that Apple lets you download once, "
        "or make a new key in the developer account",
        key="private_key",
    )


def tls_of(config: ApnsConfig) -> ssl.SSLContext | None:
    """How connections are protected; certificates are always checked. Raises ConfigError."""
    if not config.base_url.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca_file: not a file of certificates ({type(error).__name__})", key="ca_file"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
