"""What the measurements of push are made of: deliveries to devices, our fakes of FCM and APNs, an
account at each, and what their records say."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from benchmarks.send_parts import APP, LIFE_MS, Bench, Simulator
from channels.accounts import AccountConfig
from channels.push.apns.config import ApnsConfig
from channels.push.fcm.config import FcmConfig
from hub.checkers.account_records import Submit
from hub.clock import SystemClock
from hub.contract.times import rfc3339
from hub.contract.types import Delivery

ACCOUNT = "bench"
DEVICES = 10_000
"""Drawn from for each delivery: customers get several, so that there is an order to keep."""
NAME_KEY = "delivery"
"""Of the delivery's id in what the app is given: the fake's record then says which it was."""


@dataclass(frozen=True)
class Service:
    """A push service, as our fake of it is started and spoken to."""

    name: str
    provider: str
    module: str
    key_option: str
    """With which the fake writes down what an account signs with."""
    settings: Callable[[Mapping[str, Any], str], Any]
    """An account's table, of the fake's first line and that key."""
    device: Callable[[int], str]
    """A token as the service hands them out."""
    named: Callable[[Mapping[str, Any]], tuple[str, str]]
    """The delivery and the device of a line of the record."""
    wanted_per_s: int


def _fcm_settings(ready: Mapping[str, Any], key: str) -> FcmConfig:
    return FcmConfig(credentials=key, base_url=ready["url"])


def _fcm_named(line: Mapping[str, Any]) -> tuple[str, str]:
    return line["data"][NAME_KEY], line["to"]


def _apns_settings(ready: Mapping[str, Any], key: str) -> ApnsConfig:
    return ApnsConfig(
        private_key=key,
        key_id=ready["key_id"],
        team_id=ready["team_id"],
        topic=ready["topic"],
        base_url=ready["url"],
        connections=2,
    )


def _apns_named(line: Mapping[str, Any]) -> tuple[str, str]:
    return msgspec.json.decode(line["payload"])[NAME_KEY], line["device"]


FCM = Service(
    "FCM",
    "fcm",
    "channels.push.fake.fcm",
    "--credentials-out",
    _fcm_settings,
    lambda number: f"device{number:06d}:APA91b{'x' * 140}",
    _fcm_named,
    3_000,
)
APNS = Service(
    "APNs, two connections",
    "apns",
    "channels.push.fake.apns",
    "--key-out",
    _apns_settings,
    lambda number: blake2b(b"%d" % number, digest_size=32).hexdigest(),
    _apns_named,
    2_000,
)
SERVICES = {service.provider: service for service in (FCM, APNS)}


async def fake_of(made: Bench, service: Service) -> tuple[Simulator, AccountConfig]:
    """The fake in a process of its own, with the limits that are documented, and an account."""
    key = made.directory / "key"
    fake = await made.simulator(service.key_option, str(key), module=service.module)
    settings = service.settings(fake.ready, key.read_text())
    return fake, AccountConfig(
        name=ACCOUNT, channel="push", provider=service.provider, settings=settings
    )


def pushes(service: Service, count: int) -> Iterator[Delivery]:
    """To devices at random, each customer's own; the same in every process."""
    chance, now_ms = random.Random(1), SystemClock().now_ms()
    at, expires_at = rfc3339(now_ms), rfc3339(now_ms + LIFE_MS)
    for number in range(count):
        intent, device = f"d{number:07d}", chance.randrange(DEVICES)
        id = f"{APP}:{intent}:1"
        said = {"title": "Your order", "text": "x" * 100, "data": {NAME_KEY: id}}
        yield Delivery(
            id=id,
            intent=intent,
            app=APP,
            customer=f"c{device:07d}",
            category="marketing",
            priority=3,
            channel="push",
            account=ACCOUNT,
            to=service.device(device),
            content=msgspec.Raw(msgspec.json.encode(said)),
            attempt=1,
            at=at,
            expires_at=expires_at,
        )


def taken(service: Service, record: Sequence[Mapping[str, Any]]) -> list[Submit]:
    """What the fake has taken, in its order. What it refused has no id there."""
    found = []
    for line in record:
        if line["id"]:
            delivery, device = service.named(line)
            found.append(Submit(line["at"], ACCOUNT, delivery, APP, device))
    return found
