"""The table of an account at FCM: `[accounts.fcm]`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from channels.http import ANSWER_S, CONNECT_S, CONNECTIONS_MAX, checked_url
from channels.push.service_account import PROJECT, parse_service_account
from channels.sms.message import SmsConfig
from hub.errors import ConfigError

CONNECTIONS: Final = 128
"""Requests under way at once: 1,280/s at 100 ms each."""


class FcmConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A project at Firebase."""

    credentials: Annotated[str, Meta(min_length=1)]
    """The key file of a service account that may send (role Firebase Cloud Messaging API Admin)."""
    project: str = ""
    """Whose devices these are; the key file's own without it."""
    base_url: str = "https://fcm.googleapis.com"
    android_channel: Annotated[str, Meta(max_length=128)] = ""
    """The notification channel of the Android app; one that the app has not made shows nothing."""
    id_key: Annotated[str, Meta(max_length=64)] = ""
    """The name in `data` under which the app is given the delivery's id; not given without it."""
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return f"FcmConfig(project={self.project!r}, base_url={self.base_url!r})"


def check(settings: FcmConfig, sms: SmsConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    checked_url(settings.base_url, "base_url")
    if settings.project and PROJECT.match(settings.project) is None:
        raise ConfigError("project is the id of the project (my-app-1a2b3), not its name")
    parse_service_account(settings.credentials)
