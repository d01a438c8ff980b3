"""What the tests of FCM share: a clock that is moved, one key, deliveries, a provider at a fake."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from channels.provider import Answer, Submission
from channels.push.fake.fcm import FakeFcm, Settings
from channels.push.fcm.provider import FcmConfig, FcmProvider
from channels.sms.message import SmsConfig
from hub.contract.types import Delivery
from tests.support.deliveries import delivery_of
from tests.support.sms_web import MovedClock, Told

TOKEN = "dXk3abcQR0q:APA91b" + "Fz-_9" * 26
TITLE, TEXT = "Your parcel", "包裹 is at the door"
PROJECT = "tact-fake"


@cache
def key() -> rsa.RSAPrivateKey:
    """One for all tests: to make one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def key_file(**changes: Any) -> str:
    """A key file as the console gives it."""
    pem = key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    fields = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "0123abc",
        "private_key": pem,
        "client_email": f"tact@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return json.dumps(fields | changes)


def delivery(content: dict[str, Any] | None = None, **changes: Any) -> Delivery:
    """A delivery for a push account."""
    said = {"title": TITLE, "text": TEXT} if content is None else content
    known = {"channel": "push", "account": "acc", "to": TOKEN}
    return delivery_of(said, **(known | changes))


class Scene:
    """A provider at a fake, both by one clock."""

    def __init__(self, fake: FakeFcm, clock: MovedClock) -> None:
        self.fake = fake
        self.clock = clock
        self.told = Told()
        self.provider = self.another(self.told)

    def another(self, told: Told, **changes: Any) -> FcmProvider:
        """One more provider, not started."""
        fields = {
            "credentials": self.fake.key_file(),
            "base_url": self.fake.url,
            "connections": 8,
            "connect_s": 2.0,
        }
        config = FcmConfig(**(fields | changes))
        chance = random.Random(1)
        return FcmProvider(config, SmsConfig(), told, self.clock, chance, account="acc")

    def submit(
        self, id: str = "shop:order-1:1", to: str = TOKEN, content: dict[str, Any] | None = None
    ) -> None:
        """Put one on its way; it expires in 90 s."""
        prepared = self.provider.prepare(delivery(content, id=id, to=to))
        self.provider.submit(Submission(id, prepared, self.clock.now_ms() + 90_000))

    async def sent(self, id: str = "shop:order-1:1", to: str = TOKEN, **content: Any) -> Answer:
        """Its answer."""
        self.submit(id, to, content or None)
        return await self.told.answer(id)


@asynccontextmanager
async def at_fake(**settings: Any) -> AsyncIterator[Scene]:
    """A provider that is started, at a fake on a port of its own."""
    clock = MovedClock()
    fake = FakeFcm(Settings(project=PROJECT, **settings), clock=clock, key=key())
    await fake.start()
    scene = Scene(fake, clock)
    scene.provider.start({})
    try:
        yield scene
    finally:
        await scene.provider.stop(0.1)
        await fake.stop()
