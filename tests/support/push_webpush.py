"""What the tests of Web Push share: a clock that is moved, keys, deliveries, a provider."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from channels.provider import Answer, Submission
from channels.push.webpush.provider import WebPushConfig, WebPushProvider
from channels.push.webpush.vapid import application_server_key
from hub.contract.types import Delivery
from tests.support.deliveries import delivery_of
from tests.support.sms_web import Told

SENDER = derive_private_key(20261122, SECP256R1())
PEM = SENDER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = application_server_key(SENDER)
SUBJECT = "mailto:ops@example.com"

# RFC 8291, appendix A.
UA_PUBLIC = (
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
)
UA_PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
ADDRESS = json.dumps(
    {
        "endpoint": "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
        "expirationTime": None,
        "keys": {"p256dh": UA_PUBLIC, "auth": AUTH},
    }
)


class Names(AbstractResolver):
    """Names of a test, each with what it stands for now, then next, …; the last one stays."""

    def __init__(self, **answers: list[tuple[str, ...]]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        found = self.answers.get(host.rstrip("."))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        addresses = found.pop(0) if len(found) > 1 else found[0]
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self) -> None: ...


def elsewhere(port: int, host: str = "127.0.0.1", scheme: str = "http") -> str:
    """The address of a browser whose push service is there."""
    subscription = json.loads(ADDRESS) | {"endpoint": f"{scheme}://{host}:{port}/push/x"}
    return json.dumps(subscription)


def delivery(content: dict[str, Any] | None = None, **changes: Any) -> Delivery:
    """A delivery for a push account."""
    known = {"channel": "push", "account": "web", "to": ADDRESS}
    return delivery_of(content or {"text": "Your parcel is here"}, **(known | changes))


def config(**changes: Any) -> WebPushConfig:
    """An account whose push services are on this machine."""
    fields = {"private_key": PEM, "subject": SUBJECT, "private_networks": True, "connect_s": 2.0}
    return WebPushConfig(**(fields | changes))


@asynccontextmanager
async def started(
    told: Told, clock: Any, settings: WebPushConfig | None = None
) -> AsyncIterator[WebPushProvider]:
    """A provider that works."""
    provider = WebPushProvider(
        settings or config(), None, told, clock, random.Random(1), account="web"
    )
    provider.start({})
    try:
        yield provider
    finally:
        await provider.stop(0)


async def sent(provider: WebPushProvider, told: Told, one: Delivery, expires_ms: int) -> Answer:
    """Send it, and wait for the answer."""
    provider.submit(Submission(one.id, provider.prepare(one), expires_ms))
    return await told.answer(one.id)
