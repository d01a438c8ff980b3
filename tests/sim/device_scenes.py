"""Scenes of several devices: who has which, who signs out, and what their push services say.

Drawn by itself (the policy's `[push]`, addresses, receipts), so that the scenes without any stay as
they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from tests.sim.drawing import APPS, GATEWAY, HOUR_MS, Publication, some

TOKENS = ("token", "fcm/t1", "fcm/t2", "apns/t1", "https://push.example/s", "t1")
"""Of every customer: with their account and without, and one that two accounts reach."""


def draws_devices(seed: int) -> bool:
    """Half of all scenarios have several devices."""
    return random.Random(f"{seed} devices?").random() < 0.5


class DeviceScenes:
    """The devices of one scenario."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed} devices")
        self._ids = 0

    def add_table(self, policy: dict[str, Any], routes: dict[str, list[str]]) -> None:
        """How many devices get a push, by a policy; `routes` are those of all its policies."""
        chance = self._chance
        for name, route in routes.items():
            policy["categories"][name]["route"] = route
        if chance.random() < 0.85:
            policy["push"] = {"devices": chance.choice((1, 2, 3, 3, 10))}
            if chance.random() < 0.3:
                policy["push"]["seen_within"] = chance.choice(("1s", "2h", "3d"))

    def routes(self) -> dict[str, list[str]]:
        """Of categories that go by push first, mostly with something to fall back on."""
        chance = self._chance
        ways = (["push"], ["push", "sms"], ["push", "sms"], ["wecom", "push"], ["push", "wecom"])
        return {name: list(chance.choice(ways)) for name in some(chance, ("ad", "note"))}

    def publications(
        self, bursts: Sequence[float], start_ms: int, customers: Sequence[str]
    ) -> list[Publication]:
        """Addresses that are told, and devices that sign out, in the bursts."""
        chance, found = self._chance, []
        for burst_s in bursts:
            spread_s = chance.choice((0.001, 0.1, 3.0, 300.0))
            for _ in range(chance.randint(1, 8)):
                at_s = round(burst_s + chance.uniform(0, spread_s), 4)
                now_ms = start_ms + int(at_s * 1000)
                make = chance.choice((self._intent, self._intent, self._profile, self._sign_out))
                if chance.random() < 0.15:
                    make = self._inbound
                customer = chance.choice(customers)
                found.append(make(at_s, now_ms, customer))
                if chance.random() < 0.2:
                    found += self._one_after_another(at_s, customer)
        return found

    def _one_after_another(self, at_s: float, customer: str) -> list[Publication]:
        """Two messages, the second of which replaces the first."""
        first, second = (self._message(customer) for _ in range(2))
        same = {"app": first["app"], "category": first["category"], "collapse_key": "m"}
        later_s = at_s + self._chance.choice((0.001, 0.5, 20.0))
        return [
            self._published(at_s, "normal", first | same),
            self._published(later_s, "normal", second | same),
        ]

    def _named(self, customer: str, **fields: Any) -> dict[str, Any]:
        self._ids += 1
        app = self._chance.choice(APPS)
        return {"id": f"d{self._ids}", "app": app, "customer": customer, **fields}

    def _intent(self, at_s: float, now_ms: int, customer: str) -> Publication:
        lane = self._chance.choice(("urgent", "normal", "bulk"))
        return self._published(at_s, lane, self._message(customer))

    def _message(self, customer: str) -> dict[str, Any]:
        chance = self._chance
        fields = self._named(customer, content={"text": "to every device"})
        fields["category"] = chance.choice(("ad", "note"))
        fields["to"] = {"push": chance.choice(TOKENS), "sms": "+8613800000000", "wecom": "w-1"}
        if chance.random() < 0.4:
            fields["collapse_key"] = chance.choice("kl")
        if chance.random() < 0.1:
            fields["account"] = "ann"
        return fields

    def _profile(self, at_s: float, now_ms: int, customer: str) -> Publication:
        to = {"push": self._chance.choice(TOKENS)}
        return self._published(at_s, "command", self._named(customer, op="profile.set", to=to))

    def _sign_out(self, at_s: float, now_ms: int, customer: str) -> Publication:
        to = self._chance.choice(TOKENS)
        return self._published(at_s, "command", self._named(customer, op="device.forget", to=to))

    def _inbound(self, at_s: float, now_ms: int, customer: str) -> Publication:
        chance = self._chance
        fields = self._named(customer, channel="push", account="push", content={"text": "hi"})
        del fields["app"]
        fields["sender"] = chance.choice(TOKENS)
        fields["at"] = rfc3339(now_ms - chance.choice((0, 500, HOUR_MS)))
        payload = msgspec.json.encode(fields)
        return Publication(at_s, "inbound", GATEWAY, customer, payload)

    def _published(self, at_s: float, lane: str, fields: dict[str, Any]) -> Publication:
        payload = msgspec.json.encode(fields)
        again = self._chance.random() < 0.1
        return Publication(at_s, lane, fields["app"], fields["customer"], payload, again=again)

    def failure(self, delivery: Delivery, now_ms: int) -> dict[str, Any]:
        """Why a push has failed: what is to be set in its receipt."""
        chance = self._chance
        if delivery.collapse_key is not None and chance.random() < 0.3:
            return {"class": "superseded"}
        if delivery.channel != "push" or chance.random() < 0.3:
            return {"class": "provider"}
        dead: dict[str, Any] = {"class": "dead_address", "to": delivery.to}
        if chance.random() < 0.4:
            dead["dead_since"] = rfc3339(now_ms - chance.choice((0, 5_000, HOUR_MS)))
        return dead
