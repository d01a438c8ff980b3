"""What the tests of APNs share: a key of Apple's sort, deliveries, an account at the fake."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from channels.provider import Submission
from channels.push.apns.provider import ApnsConfig, ApnsProvider
from channels.push.fake.apns import FakeApns
from hub.clock import Clock, SystemClock
from hub.contract.types import Delivery
from tests.support.deliveries import delivery_of
from tests.support.peers import missing
from tests.support.sms_web import Told

DEVICE = "ab" * 32
TOPIC = "com.example.app"


def pem_of(key: Any) -> str:
    """A private key as Apple gives it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@cache
def private_key() -> str:
    """A key that signs for nobody."""
    return pem_key()


def config(**change: Any) -> ApnsConfig:
    fields: dict[str, Any] = {
        "private_key": private_key(),
        "key_id": "FAKE123456",
        "team_id": "TEAM123456",
        "topic": TOPIC,
    }
    return ApnsConfig(**(fields | change))


def delivery(content: dict[str, Any] | None = None, **changes: Any) -> Delivery:
    """A delivery for a push account."""
    known = {"channel": "push", "account": "a", "to": DEVICE}
    return delivery_of(content or {"text": "hush!"}, **(known | changes))


def pem_key() -> str:
    """Another key each time."""
    return pem_of(ec.generate_private_key(ec.SECP256R1()))


class Certificate(NamedTuple):
    """PEM files of a certificate for `localhost` that vouches for itself."""

    cert: Path
    key: Path


def certificate(directory: Path) -> Certificate:
    """A new one, good for a day."""
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.fromtimestamp(SystemClock().now_ms() / 1_000, UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(directory / "cert.pem", directory / "key.pem")
    files.cert.write_bytes(made.public_bytes(Encoding.PEM))
    files.key.write_text(pem_of(key))
    return files


class Apns:
    """An account at a fake of its own."""

    def __init__(self, fake: FakeApns, key: Path) -> None:
        self.fake = fake
        self.key = key
        self.told = Told()

    def provider(self, clock: Clock | None = None, **change: Any) -> ApnsProvider:
        """A provider for the fake, not started."""
        fields = {"private_key": self.key.read_text(), "base_url": self.fake.url} | change
        return ApnsProvider(
            config(**fields), None, self.told, clock or SystemClock(), random.Random(1), "acc"
        )

    @asynccontextmanager
    async def connected(
        self, clock: Clock | None = None, **change: Any
    ) -> AsyncIterator[ApnsProvider]:
        """A provider that has all its connections, and was trusted on each."""
        provider = self.provider(clock, **change)
        provider.start({})
        try:
            count = provider._config.connections
            await self.told.until(lambda: self.window() >= count)
            yield provider
        finally:
            await provider.stop(0.05)

    def window(self) -> int:
        """What the account was last told."""
        return self.told.links[-1].window if self.told.links else 0

    async def warm(self, provider: ApnsProvider, window: int) -> None:
        """Send pushes until every connection was trusted, and takes what it will."""
        number = 0
        while self.window() < window:
            number += 1
            await self.send(provider, f"shop:warm-{number}:1")

    async def send(self, provider: ApnsProvider, id: str = "shop:order-1:1", **more: Any) -> Any:
        """Submit one, and wait for its answer."""
        put(provider, id, **more)
        return await self.told.answer(id)

    async def until(self, what: str, count: int) -> None:
        """Wait until the fake has counted so much, or holds so many pushes."""
        async with asyncio.timeout(20):
            while count > await self._count(what):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.002)

    async def _count(self, what: str) -> int:
        if what == "held":
            return int(await self.fake.order("held"))
        return (await self.fake.counts()).get(what, 0)

    async def taken(self) -> list[str]:
        """The devices of the pushes that the fake has taken."""
        return [push["device"] for push in await self.fake.order("record")]


def put(provider: ApnsProvider, id: str = "shop:order-1:1", **more: Any) -> None:
    """Submit one; it expires in an hour."""
    content = more.pop("content", None)
    prepared = provider.prepare(delivery(content, id=id, **more))
    provider.submit(Submission(id, prepared, SystemClock().now_ms() + 3_600_000))


def device(number: int) -> str:
    """The token of one of many devices."""
    return f"{number:064x}"


def devices(count: int) -> Iterator[str]:
    return (device(number) for number in range(count))


@asynccontextmanager
async def running(directory: Path, **options: Any) -> AsyncIterator[Apns]:
    """An account at a fake that runs with these options. Skips without Node."""
    if shutil.which("node") is None:
        missing("no node on this machine")
    key = directory / "AuthKey_FAKE123456.p8"
    fake = FakeApns(key_out=key, **options)
    try:
        await fake.start()
        yield Apns(fake, key)
    finally:
        await fake.stop()
