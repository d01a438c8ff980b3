"""Histories for the checkers: invented traffic, decided by the product's own conversations."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.conversation import BodyRef
from hub.checkers import Checker, Handed, History, Published, Shown, Told, check_all
from hub.contract.decode import Rejection, decode
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery, LiveMessage, Outcome
from hub.policy.document import PolicyDocument, parse_policy
from hub.service.simulate import _Simulation

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = parse_rfc3339("2026-03-27T05:00:00Z")  # two days before clocks change in Europe

POLICY = """
version = 1
timezone = "Asia/Shanghai"
hold_max = "48h"

[categories.marketing]
route = ["wecom", "push", "sms"]
priority = 3
fallback_after = "40m"
[categories.service]
route = ["wecom", "sms"]
priority = 6
[categories.otp]
route = ["sms"]
priority = 9
bypass = ["cap", "gap", "quiet", "presence", "dnd"]

[[caps]]
name = "four-a-day"
categories = ["marketing"]
limit = 4
window = "24h"
on = "hold"
reserve = { slots = 1, priority = 5 }
[[caps]]
name = "six-a-calendar-day"
limit = 6
window = "day"
per = "channel"
on = "next"
[[caps]]
name = "wecom-account"
channels = ["wecom"]
limit = 5
window = "12h"
per = "account"
on = "next"
[[gaps]]
name = "half-an-hour"
categories = ["marketing"]
min = "30m"
on = "hold"
[[quiet]]
name = "night"
categories = ["marketing"]
from = "21:00"
to = "08:00"
on = "hold"
spread = "30m"
[[quiet]]
name = "sunday-noon"
categories = ["marketing", "service"]
from = "12:00"
to = "14:00"
days = ["sun"]
on = "hold"
[[quiet]]
name = "closed"
categories = ["service"]
dates = ["2026-03-28"]
on = "drop"
[[presence]]
name = "talking"
categories = ["marketing"]
within = "20m"
on = "hold"
"""

PLAIN = """
version = 1
timezone = "Asia/Shanghai"
[categories.service]
route = ["wecom", "sms"]
priority = 6
[categories.otp]
route = ["sms"]
bypass = ["cap", "gap", "quiet", "presence", "dnd"]
"""
"""Nothing in the way of anything."""

ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York", "Pacific/Auckland")
TO = {"wecom": "w", "sms": "s", "push": "p"}


class Recorder(_Simulation):
    """The simulation with everything written down as the streams would hold it."""

    def __init__(self, document: PolicyDocument) -> None:
        super().__init__(document)
        self.published: list[Published] = []
        self.told: list[Told] = []
        self.handed: list[Handed] = []
        self.shown: list[Shown] = []
        self.now = START_MS
        self._ledger = 0

    def outcome(self, outcome: Outcome, category: str) -> None:
        self._ledger += 1
        self.told.append(Told(self._ledger, self.now, outcome))

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        self._ledger += 1
        self.handed.append(Handed(self._ledger, self.now, delivery))

    def live(self, message: LiveMessage, keep_ms: int, parked: BodyRef | None = None) -> None:
        self._ledger += 1
        self.shown.append(Shown(self._ledger, message))

    def publish(self, lane: str, fields: Any, source: str = "shop") -> None:
        """Store an object, or an array of them, and decide it at once."""
        self.take(lane, source, msgspec.json.encode(fields))

    def take(self, lane: str, source: str, payload: bytes, packed: bool = False) -> None:
        """Store a message and decide it at once."""
        self.run_wakes(self.now)
        sequence = self.published[-1].sequence + 1 if self.published else 1
        objects = decode(lane, source, payload, packed)
        for index, message in enumerate(objects):
            self.published.append(Published(lane, source, sequence, self.now, message, index))
            if isinstance(message, Rejection):
                refused = Outcome(
                    message.id, source, message.customer, "rejected", rfc3339(self.now)
                )
                self.outcome(replace(refused, reason=message.reason), "")
                continue
            conversation = self._conversation(message.customer)
            before = conversation.state.wake
            conversation.receive(message, self.now, self.now)
            if conversation.state.wake != before:
                self._schedule(message.customer, self.now)

    def run_wakes(self, until: int | None) -> None:
        """Like the simulation's, with the time of each wake-up as the time of its lines."""
        arrival = self.now
        while self.wakes and (until is None or self.wakes[0][0] <= until):
            self.now = max(self.now if until is None else START_MS, self.wakes[0][0])
            super().run_wakes(self.wakes[0][0])
        if until is not None:
            self.now = arrival

    def history(self, document: PolicyDocument | None = None) -> History:
        return History(
            self.published,
            self.told,
            self.handed,
            [document or self.policy.document],
            self.now,
            self.shown,
        )


def intent(name: str, customer: str = "c1", category: str = "marketing", **more: Any) -> Any:
    fields = {"id": name, "app": "shop", "customer": customer, "category": category}
    return {**fields, "content": {"text": "hello"}, **more}


def recorded(seed: int, events: int = 400, decided_by: str = POLICY) -> Recorder:
    """Some days of everything that may happen to eight customers."""
    chance = random.Random(seed)
    recorder = Recorder(parse_policy(decided_by))
    for number in range(events):
        recorder.now += int(chance.expovariate(1 / (12 * MINUTE_MS)))
        customer = f"c{chance.randrange(8)}"
        what = chance.random()
        if what < 0.55:
            _publish_intents(recorder, chance, f"i{number}", customer)
        elif what < 0.8 and recorder.handed:
            _publish_receipts(recorder, chance)
        elif what < 0.87:
            said = {"id": f"m{number}", "channel": "wecom", "account": "a1", "customer": customer}
            said |= {"content": {"text": "hi"}, "at": rfc3339(recorder.now)}
            recorder.publish("inbound", said, "wecom-gateway")
        elif what < 0.95:
            _publish_command(recorder, chance, f"x{number}", customer)
        else:
            recorder.publish("normal", {"id": f"bad{number}", "app": "shop", "customer": customer})
    recorder.run_wakes(recorder.now)
    return recorder


def _publish_intents(recorder: Recorder, chance: random.Random, name: str, customer: str) -> None:
    category = chance.choice(("marketing", "marketing", "service", "otp"))
    more: dict[str, Any] = {"to": TO}
    if chance.random() < 0.7:
        more["timezone"] = chance.choice(ZONES)
    if chance.random() < 0.2:
        more["reach"] = "all"
    if chance.random() < 0.2:
        more["collapse_key"] = "k"
    if chance.random() < 0.3:
        more["priority"] = chance.randrange(10)
    if chance.random() < 0.2:
        more["account"] = "a2"
    if chance.random() < 0.2:
        more["expires_at"] = rfc3339(recorder.now + chance.randrange(-1, 10) * HOUR_MS)
    if chance.random() < 0.1:
        more["not_before"] = rfc3339(recorder.now + chance.randrange(5) * HOUR_MS)
    one = intent(name, customer, category, **more)
    lane = "urgent" if category == "otp" else chance.choice(("normal", "bulk"))
    if chance.random() < 0.3:
        recorder.publish(lane, [one, intent(f"{name}b", customer, category), one])
    else:
        recorder.publish(lane, one)


def _publish_receipts(recorder: Recorder, chance: random.Random) -> None:
    delivery = chance.choice(recorder.handed[-20:]).delivery
    for status in chance.sample(("sent", "delivered", "read", "failed", "unknown"), 2):
        receipt = {"delivery": delivery.id, "customer": delivery.customer, "status": status}
        receipt["at"] = rfc3339(recorder.now)
        recorder.publish("receipt", receipt, "wecom-gateway")


def _publish_command(recorder: Recorder, chance: random.Random, name: str, customer: str) -> None:
    later = rfc3339(recorder.now + 2 * HOUR_MS)
    fields = chance.choice(
        (
            {"op": "dnd.set", "scope": "category:marketing", "until": later},
            {"op": "dnd.clear", "scope": "category:marketing"},
            {"op": "profile.set", "timezone": chance.choice(ZONES)},
            {"op": "profile.set", "to": TO, "owner": "a3"},
            {"op": "takeover", "agent": "someone"},
            {"op": "release"},
            {"op": "release"},
            {"op": "cancel", "intent": f"i{chance.randrange(400)}"},
            {"op": "forget"},
        )
    )
    recorder.publish("command", {"id": name, "app": "shop", "customer": customer, **fields})


# ---- small histories, and what a test does to them ---------------------------------------------


def plain(policy: str = PLAIN) -> Recorder:
    """Two order notices and a failed one, all to one customer, minutes apart."""
    recorder = Recorder(parse_policy(policy))
    for name in ("a", "b", "c"):
        one = intent(name, category="service", to=TO, route=["wecom"])
        recorder.publish("normal", one)
        recorder.now += MINUTE_MS
    receipt = {"delivery": "shop:c:1", "customer": "c1", "status": "failed", "class": "provider"}
    recorder.publish("receipt", {**receipt, "at": rfc3339(recorder.now)}, "gateway")
    assert [told.outcome.state for told in recorder.told] == ["dispatched"] * 3 + ["failed"]
    assert check_all(recorder.history()) == []
    return recorder


def edited(told: Told, **fields: Any) -> Told:
    return replace(told, outcome=replace(told.outcome, **fields))


def also(recorder: Recorder, *more: Told) -> History:
    return altered(recorder, told=[*recorder.told, *more])


def altered(
    recorder: Recorder, told: list[Told] | None = None, handed: list[Handed] | None = None
) -> History:
    return History(
        recorder.published,
        recorder.told if told is None else told,
        recorder.handed if handed is None else handed,
        [recorder.policy.document],
        recorder.now,
    )


def altered_end(recorder: Recorder, end_ms: int) -> History:
    policies = [recorder.policy.document]
    return History(recorder.published, recorder.told, recorder.handed, policies, end_ms)


def kinds(checker: Checker, history: History) -> set[str]:
    found = checker.check(history)
    assert all(violation.promise == checker.promise for violation in found)
    return {violation.kind for violation in found}
