"""What the tests of webhooks share: keys, a configuration, and events that keep bundles too."""

from __future__ import annotations

import base64
import random
from typing import Any

from channels.push.webhook.config import WebhookConfig
from channels.push.webhook.provider import WebhookProvider
from hub.clock import Clock, SystemClock
from tests.support.sms_web import Told

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_" + base64.b64encode(b"o" * 24).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"x" * 64).decode()
PRIVATE_KEY = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk="
URL = "https://grid.example.com/push"


def config(url: str = URL, **more: Any) -> WebhookConfig:
    """A table with a secret, for a system on this machine unless it says otherwise."""
    fields = {"url": url, "secret": SECRET, "private_networks": url.startswith("http://127.")}
    return WebhookConfig(**(fields | more))


def provider(
    heard: Told, settings: WebhookConfig | None = None, clock: Clock | None = None
) -> WebhookProvider:
    """One that is not started."""
    clock = clock or SystemClock()
    chance = random.Random(1)
    return WebhookProvider(settings or config(), None, heard, clock, chance, account="grid")
