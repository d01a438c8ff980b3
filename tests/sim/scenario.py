"""One seed, one scenario: a policy, what the world publishes over some days, and what goes wrong.

The strategies of the property tests are Hypothesis's to draw from; a simulation must be run again
by its seed alone, so these draw from `random.Random`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from hub import limits
from hub.contract.subjects import CHANNELS, partition_of
from hub.contract.times import EPOCH, parse_rfc3339, rfc3339
from tests.sim.device_scenes import DeviceScenes, draws_devices
from tests.sim.drawing import ADDRESSES, APPS, GATEWAY, HOUR_MS, MINUTE_MS, Publication, some
from tests.sim.talks import FAR_MS, Talks, draws_talks

ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")
CATEGORIES = ("ad", "note", "otp")
STARTS = ("2026-10-24T10:00Z", "2026-03-28T18:00Z", "2026-12-31T05:00Z", "2027-02-27T12:00Z")
"""Around clock changes and the ends of weeks, months and a year."""
NEVER = "9999-12-31T23:59:59Z"

REQUEST_FAULTS = {
    "commit": ("lose-request", "lose-reply", "late", "crash-before", "crash-after", "pause"),
    "claim": ("lose-request", "lose-reply", "late", "crash-before", "crash-after", "pause"),
    "read-back": ("lose-reply", "crash-after", "pause"),
    "snapshot": ("lose-request", "lose-reply", "crash-before", "crash-after", "late", "pause"),
    "bodies": ("lose-reply", "crash-after", "pause"),
    "open": ("lose-reply", "crash-before", "pause"),
    "read": ("gap",),
    "publish": ("lose-request", "lose-reply", "late"),
}
COUNTS = {"commit": 60, "claim": 60, "read": 150, "publish": 60, "snapshot": 30, "bodies": 8}
"""About how often a place is passed in a scenario: its faults are drawn from the first so many."""


class Trouble(NamedTuple):
    """Something that happens at a time: `kind` to host, lane or partition `which`."""

    at_s: float
    kind: str
    which: int = 0
    lasts_s: float = 0.0


@dataclass
class Scenario:
    seed: int
    start_ms: int
    partitions: int
    hosts: int
    policies: list[dict[str, Any]]
    """The first from the start; the next when a `policy` trouble comes."""
    publications: list[Publication]
    talks: Talks | None
    """Who goes on talking when something happens; None: nobody does."""
    devices: DeviceScenes | None
    """What push services say; None: nobody has several devices."""
    releases: list[Publication]
    """At the end: nobody may be left whom only a command could release."""
    troubles: list[Trouble]
    faults: dict[tuple[str, int], str]
    skews_ms: list[int]
    """By host started. Never behind the server: the checkers take a decision to be later than what
    it decides."""
    commit_tries: int
    bounds: dict[str, int] = field(default_factory=dict)
    """Values for names of `hub.limits`: small ones are met often."""

    @property
    def end_s(self) -> float:
        return max([p.at_s for p in self.publications] + [t.at_s + 1 for t in self.troubles])


def scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(seed)
    start_ms = parse_rfc3339(chance.choice(STARTS)) + chance.randrange(24) * HOUR_MS
    partitions = chance.choice((1, 2, 3, 4))
    bursts = sorted(chance.uniform(0, chance.choice((3, 20, 60)) * 3600) for _ in range(6))
    policies = [_policy(chance, start_ms) for _ in range(2)]
    # The number of a combined send's delivery is its channel's place in the route at arrival.
    for name, category in policies[1]["categories"].items():
        category["route"] = policies[0]["categories"][name]["route"]
    talks = Talks(seed) if draws_talks(seed) else None
    if talks is not None:
        for policy in policies:
            talks.add_tables(policy)
    devices = DeviceScenes(seed) if draws_devices(seed) else None
    if devices is not None:
        routes = devices.routes()
        for policy in policies:
            devices.add_table(policy, routes)
    windows = any("windows" in policy for policy in policies)
    world = _World(chance, start_ms, partitions, rfc3339(start_ms + FAR_MS) if windows else NEVER)
    publications = world.publications(bursts)
    if talks is not None:
        publications += talks.publications(bursts, start_ms, partitions, world.customers)
    if devices is not None:
        publications += devices.publications(bursts, start_ms, world.customers)
    return Scenario(
        seed=seed,
        start_ms=start_ms,
        partitions=partitions,
        hosts=2,
        policies=policies,
        publications=publications,
        talks=talks,
        devices=devices,
        releases=world.releases(),
        troubles=draw_troubles(chance, bursts, "policy"),
        faults=_faults(chance),
        skews_ms=[chance.choice((0, 0, 0, 7, 300, 1500)) for _ in range(8)],
        commit_tries=chance.choice((2, 4, 12)),
        bounds=_bounds(chance),
    )


# ---- policy --------------------------------------------------------------------------------------


def _policy(chance: random.Random, start_ms: int) -> dict[str, Any]:
    categories: dict[str, dict[str, Any]] = {
        "ad": {"route": some(chance, CHANNELS), "priority": 3},
        "note": {"route": some(chance, CHANNELS), "priority": 6},
        "otp": {"route": ["sms"], "priority": 9, "bypass": ["cap", "gap", "quiet", "presence"]},
    }
    for name in ("ad", "note"):
        if chance.random() < 0.6:
            categories[name]["fallback_after"] = chance.choice(("5s", "10m", "2h"))
    rules: dict[str, list[dict[str, Any]]] = {
        "caps": [_cap(chance) for _ in range(chance.randint(0, 2))],
        "gaps": [
            {"min": chance.choice(("1s", "10m", "2h"))} for _ in range(chance.choice((0, 0, 1)))
        ],
        "quiet": [_quiet(chance, start_ms) for _ in range(chance.randint(0, 2))],
        "presence": [
            {"within": chance.choice(("1s", "30m", "2h"))} for _ in range(chance.choice((0, 0, 1)))
        ],
    }
    for section, several in rules.items():
        for index, rule in enumerate(several):
            rule["name"] = f"{section}-{index}"
            rule["on"] = chance.choice(("hold", "hold", "hold", "next", "drop"))
            if rule["on"] == "drop":
                rule.pop("spread", None)
            if chance.random() < 0.6:
                rule["categories"] = some(chance, ("ad", "note"))
            if chance.random() < 0.2:
                rule["channels"] = some(chance, CHANNELS)
            if chance.random() < 0.2:
                rule["apps"] = some(chance, APPS)
    return {
        "version": 1,
        "timezone": chance.choice(ZONES),
        "hold_max": chance.choice(("90m", "10h", "72h", "72h")),
        "categories": categories,
        **rules,
    }


def _cap(chance: random.Random) -> dict[str, Any]:
    cap: dict[str, Any] = {
        "limit": chance.randint(1, 4),
        "window": chance.choice(("10m", "2h", "24h", "day", "week", "month")),
        "per": chance.choice(("customer", "customer", "channel", "account")),
    }
    if cap["limit"] > 1 and chance.random() < 0.4:
        cap["reserve"] = {"slots": 1, "priority": chance.choice((4, 8))}
    return cap


def _quiet(chance: random.Random, start_ms: int) -> dict[str, Any]:
    if chance.random() < 0.2:
        day = (EPOCH + timedelta(milliseconds=start_ms)).date()
        first = day + timedelta(days=chance.randint(-1, 2))
        return {"dates": [f"{first}/{first + timedelta(days=chance.randint(0, 1))}"]}
    start, end = chance.choice(
        (("21:00", "08:00"), ("12:00", "14:00"), ("02:00", "03:00"), ("00:30", "23:30"))
    )
    quiet: dict[str, Any] = {"from": start, "to": end}
    if chance.random() < 0.4:
        quiet["spread"] = chance.choice(("30m", "5s"))
    return quiet


# ---- what the world publishes --------------------------------------------------------------------


class _World:
    """Draws messages of every lane for a handful of customers."""

    def __init__(
        self,
        chance: random.Random,
        start_ms: int,
        partitions: int,
        never: str = NEVER,
    ) -> None:
        self._never = never
        self._taken_over: set[str] = set()
        self._chance = chance
        self._start_ms = start_ms
        self._partitions = partitions
        self.customers = [f"c{chance.randrange(1000)}" for _ in range(chance.randint(2, 6))]
        self.customers.append("~group")
        self._ids = self._messages = 0
        self._used: dict[tuple[str, str], dict[str, Any]] = {}
        """The first intent under each (app, id)."""
        self._filler = "x" * chance.choice((0, 0, 40, 900))
        self._now_ms = start_ms

    def publications(self, bursts: list[float]) -> list[Publication]:
        """Messages in bursts: some within a millisecond, some over seconds."""
        found = []
        for burst_s in bursts:
            spread_s = self._chance.choice((0.001, 0.1, 3.0))
            for _ in range(self._chance.randint(2, 14)):
                at_s = round(burst_s + self._chance.uniform(0, spread_s), 4)
                self._now_ms = self._start_ms + int(at_s * 1000)
                found.append(self._one(at_s))
        return found

    def releases(self) -> list[Publication]:
        """The end of every takeover, to be published at once."""
        fields = [
            {"id": "k", "app": "crm", "customer": c, "op": "release"}
            for c in self.customers
            if c in self._taken_over
        ]
        return [
            Publication(0, "command", "crm", each["customer"], msgspec.json.encode(each))
            for each in fields
        ]

    def _one(self, at_s: float) -> Publication:
        kind = self._chance.choices(
            ("intent", "array", "command", "inbound", "receipt", "bad"), (60, 12, 14, 6, 2, 6)
        )[0]
        made = getattr(self, f"_{kind}")(at_s)
        return made._replace(again=self._chance.random() < 0.05)

    def _intent(self, at_s: float) -> Publication:
        app, customer = self._chance.choice(APPS), self._chance.choice(self.customers)
        fields = self._intent_fields(app, customer)
        return self._send(at_s, self._lane(fields), app, customer, fields, fields["id"])

    def _array(self, at_s: float) -> Publication:
        """Several intents of one application, all of one partition; now and then one that isn't."""
        chance = self._chance
        app, first = chance.choice(APPS), chance.choice(self.customers)
        number = partition_of(first, self._partitions)
        near = [c for c in self.customers if partition_of(c, self._partitions) == number]
        if chance.random() < 0.2:
            near += self.customers
        objects: list[Any] = [
            self._intent_fields(app, chance.choice(near)) for _ in range(chance.randint(1, 6))
        ]
        if chance.random() < 0.2:
            objects[0]["surprise"] = True
        return self._send(at_s, self._lane(objects[-1]), app, first, objects, None)

    def _lane(self, fields: dict[str, Any]) -> str:
        lane = "urgent" if fields["category"] == "otp" else "normal"
        return self._chance.choice((lane, lane, "bulk", "urgent"))

    def _intent_fields(self, app: str, customer: str) -> dict[str, Any]:
        chance = self._chance
        self._ids += 1
        name = f"i{self._ids}"
        if self._used and chance.random() < 0.08:
            app_used, name = chance.choice(list(self._used))
            name = name if app_used == app else f"i{self._ids}"
        text = {"text": f"{name} for {customer} {self._filler}"}
        content = text if chance.random() < 0.85 else {"sms": text, "*": {"title": name}}
        fields: dict[str, Any] = {"id": name, "app": app, "customer": customer, "content": content}
        fields["category"] = chance.choices((*CATEGORIES, "nothing"), (60, 25, 14, 1))[0]
        optional = {
            "to": (0.85, lambda: {c: ADDRESSES[c] for c in some(chance, CHANNELS)}),
            "priority": (0.2, lambda: chance.randint(0, 9)),
            "route": (0.2, lambda: some(chance, CHANNELS)),
            "reach": (0.12, lambda: "all"),
            "account": (0.1, lambda: chance.choice(("ann", "bob"))),
            "not_before": (0.1, self._ahead),
            "expires_at": (0.2, lambda: chance.choice((self._ahead(), self._ahead(), self._never))),
            "collapse_key": (0.15, lambda: chance.choice("kl")),
            "timezone": (0.1, lambda: chance.choice(ZONES)),
        }
        for key, (odds, value) in optional.items():
            if chance.random() < odds:
                fields[key] = value()
        first = self._used.setdefault((app, name), fields)
        if first is not fields:  # of repeats the checkers cannot tell which one counted
            for key in ("reach", "timezone"):
                fields.pop(key, None)
                fields |= {key: first[key]} if key in first else {}
        return fields

    def _ahead(self) -> str:
        """A time soon, in some hours, or in some days; sometimes just gone."""
        chance = self._chance
        ahead_ms = chance.choice((-1000, 0, 50, 2000, 10 * MINUTE_MS, 5 * HOUR_MS, 30 * HOUR_MS))
        return rfc3339(self._now_ms + ahead_ms + chance.randrange(3))

    def _command(self, at_s: float) -> Publication:
        chance = self._chance
        app, customer = chance.choice(APPS), chance.choice(self.customers)
        op = chance.choices(
            ("dnd.set", "dnd.clear", "profile.set", "cancel", "takeover", "release", "forget"),
            (4, 4, 3, 4, 2, 3, 1),
        )[0]
        fields: dict[str, Any] = {"id": "k", "app": app, "customer": customer, "op": op}
        if op.startswith("dnd"):
            fields["scope"] = chance.choice(("all", "category:ad", "channel:sms"))
        if op == "takeover":
            fields["agent"] = "li"
            self._taken_over.add(customer)
        if op in ("dnd.set", "takeover") and chance.random() < 0.7:
            fields["until"] = self._ahead()
        if op == "cancel":
            mine = [name for used, name in self._used if used == app]
            fields["intent"] = chance.choice(mine or ["i0"])
        if op == "profile.set":
            fields["timezone"] = chance.choice(ZONES)
            fields["to"] = {c: ADDRESSES[c] for c in some(chance, CHANNELS)}
            fields["owner"] = chance.choice(("ann", "bob"))
        return self._send(at_s, "command", app, customer, fields, None)

    def _inbound(self, at_s: float) -> Publication:
        customer = self._chance.choice(self.customers)
        self._messages += 1
        fields = {
            "id": f"in{self._messages}",
            "channel": "sms",
            "account": "ann",
            "customer": customer,
        }
        fields |= {"content": {"text": "hi"}, "at": rfc3339(self._now_ms - 500)}
        return self._send(at_s, "inbound", GATEWAY, customer, fields, None)

    def _receipt(self, at_s: float) -> Publication:
        """Of a delivery that there may never have been. The gateway sends the others."""
        customer = self._chance.choice(self.customers)
        fields = {"delivery": f"shop:i{self._chance.randint(1, 40)}:1", "customer": customer}
        fields |= {"status": "delivered", "at": rfc3339(self._now_ms)}
        return self._send(at_s, "receipt", GATEWAY, customer, fields, None)

    def _bad(self, at_s: float) -> Publication:
        chance = self._chance
        app, customer = chance.choice(APPS), chance.choice(self.customers)
        fields = self._intent_fields(app, customer)
        how = chance.randrange(5)
        if how == 0:
            return Publication(at_s, "normal", app, customer, b'{"id": "broken')
        if how == 1:
            return self._send(at_s, "normal", "other", customer, fields, None)
        if how == 2:
            return self._send(at_s, "bulk", app, "someone-else", fields, None)
        if how == 3:
            return self._send(at_s, "command", app, customer, fields, None)
        return self._send(at_s, "normal", app, customer, [fields, 7, {"id": 5}], None)

    def _send(
        self, at_s: float, lane: str, source: str, key: str, fields: Any, name: str | None
    ) -> Publication:
        packed = self._chance.random() < 0.15
        encode = msgspec.msgpack.encode if packed else msgspec.json.encode
        msg_id = f"{source}:{name}" if name and self._chance.random() < 0.6 else None
        return Publication(at_s, lane, source, key, encode(fields), packed, msg_id)


# ---- what goes wrong -----------------------------------------------------------------------------


def _faults(chance: random.Random) -> dict[tuple[str, int], str]:
    plan = {}
    for _ in range(chance.choice((0, 3, 6, 10))):
        kind = chance.choice(("commit", "commit", "commit", *REQUEST_FAULTS))
        place = chance.randint(1, COUNTS.get(kind, 20))
        plan[kind, place] = chance.choice(REQUEST_FAULTS[kind])
    return plan


def draw_troubles(
    chance: random.Random,
    bursts: list[float],
    own: str,
    own_lasting: Mapping[str, tuple[float, float]] | None = None,
) -> list[Trouble]:
    """Mostly while much is going on. `own` is what only this kind of scenario has, and
    `own_lasting` what lasts in it (shortest and longest, in seconds) beside what lasts in all.
    """
    lasting = {"down": (0.5, 60), "full": (0.5, 60), "pause": (0.3, 30), **(own_lasting or {})}
    kinds = ("kill", "stop", "two-owners", "two-owners", "move", "gap", own, *lasting)
    troubles = []
    for _ in range(chance.choice((0, 2, 4, 7))):
        kind = chance.choice(kinds)
        at_s = chance.choice(bursts) + chance.choice((0.0, 0.003, 0.02, 0.5, 5.0, 2000.0))
        shortest, longest = lasting.get(kind, (0, 0))
        lasts_s = chance.uniform(shortest, chance.choice((2 * shortest, longest)))
        troubles.append(Trouble(at_s, kind, chance.randrange(24), lasts_s))
    return sorted(troubles)


def _bounds(chance: random.Random) -> dict[str, int]:
    """Some bounds of the hub made so small that a scenario meets them."""
    small = {
        "TURN_INTENTS": (1, 3, 20),
        "TURN_SLICE": (1, 2, 8),
        "TURN_BULK_BESIDE_URGENT": (1, 3),
        "TURN_STATE_BYTES": (1, 1_000),
        "TURN_PAYLOAD_BYTES": (1, 2_000),
        "TURN_URGENT": (1, 3),
        "BATCH_MESSAGES": (3, 10),
        "ARRAY_BYTES": (1, 600),
        "ARRAY_OBJECTS": (7,),
        "PARKED_BLOCK_BYTES": (1, 200),
        "BODY_FETCH_SUBJECTS": (1, 2),
        "WAKES_PER_TURN": (1, 2),
    }
    bounds = {name: chance.choice(v) for name, v in small.items() if chance.random() < 0.25}
    bounds["SNAPSHOT_LOG_BYTES"] = chance.choice((1, 600, 5_000, limits.SNAPSHOT_LOG_BYTES))
    return bounds
