"""Scenes of talk: what customers and people on our side write, and the policy's tables about it.

Drawn by itself (windows, words, replies, reminders, archive), so that the scenes without any stay
as they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from hub.contract.subjects import CHANNELS, partition_of
from hub.contract.times import rfc3339
from tests.sim.drawing import (
    ADDRESSES,
    APPS,
    DAY_MS,
    GATEWAY,
    HOUR_MS,
    MINUTE_MS,
    Publication,
    some,
)

ACCOUNTS = ("ann", "bob", "wecom", "sms")
TEXTS = ("hi", "What is the PRICE?", "price", "s-t-o-p", "c a s i n o", "赌 博!", "ok", "")
EVENTS = ("friend_added", "friend_added", "session_opened", "group_changed")
OPERATIONS: tuple[dict[str, Any], ...] = (
    {"op": "group.create", "name": "n", "members": ["li", "wu"], "account": "bob"},
    {"op": "group.create", "name": "n", "members": ["li"]},
    {"op": "group.update", "add": ["zhou"]},
    {"op": "group.dissolve"},
    {"op": "group.invite", "state": "s"},
    {"op": "kf.transfer", "to": "queue"},
    {"op": "kf.transfer", "account": "ann"},
    {"op": "kf.release"},
    {"op": "customer.transfer", "to": "wu", "owner": "bob"},
    {"op": "release"},
    {"op": "takeover", "agent": "li"},
)
FAR_MS = 20 * DAY_MS
"""As far ahead as anything expires where a window may hold it until then."""


def draws_talks(seed: int) -> bool:
    """Half of all scenarios have talk."""
    return random.Random(f"{seed} talks?").random() < 0.5


class Talks:
    """The talk of one scenario."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed} talks")
        self._ids = 0

    # ---- policy ----------------------------------------------------------------------------------

    def add_tables(self, policy: dict[str, Any]) -> None:
        """Give a policy some of the tables about talk."""
        chance = self._chance
        tables = {
            "windows": (0.7, self._window, 2),
            "words": (0.6, self._words, 2),
            "replies": (0.75, self._reply, 3),
            "reminders": (0.75, self._reminder, 2),
        }
        for table, (odds, draw, most) in tables.items():
            if chance.random() < odds:
                rules = [draw() for _ in range(chance.randint(1, most))]
                for index, rule in enumerate(rules):
                    rule["name"] = f"{table}-{index}"
                policy[table] = rules
        if chance.random() < 0.8:
            keep = chance.choice(("1h", "2d", "400d"))
            policy["archive"] = {"channels": some(chance, CHANNELS), "keep": keep}
        if chance.random() < 0.4:
            policy["categories"]["otp"]["bypass"].append("window")

    def _window(self) -> dict[str, Any]:
        chance = self._chance
        return self._filtered({
            "channels": some(chance, CHANNELS),
            "limit": chance.choice((1, 1, 2, 3)),
            "within": chance.choice(("1m", "2h", "48h", "48h")),
            "on": chance.choice(("next", "hold")),
        })  # fmt: skip

    def _words(self) -> dict[str, Any]:
        chance = self._chance
        words: dict[str, Any] = {"words": some(chance, ("Casino", "赌博", "i1", "i2"))}
        kinds = chance.choice(
            ({"on": "drop"}, {"alert": "quality"}, {"on": "drop", "alert": "crm"})
        )
        return self._filtered(words | kinds, ("sms", "wecom"))

    def _filtered(
        self, rule: dict[str, Any], channels: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        chance = self._chance
        if chance.random() < 0.4:
            rule["categories"] = some(chance, ("ad", "note"))
        if chance.random() < 0.15:
            rule["apps"] = some(chance, APPS)
        if channels and chance.random() < 0.2:
            rule["channels"] = some(chance, channels)
        return rule

    def _reply(self) -> dict[str, Any]:
        chance = self._chance
        reply: dict[str, Any] = {"app": chance.choice(APPS)}
        if chance.random() < 0.7:
            reply["match"] = some(chance, ("price", "STOP", "hi", "ok"))
            reply["how"] = chance.choice(("contains", "contains", "exact"))
        else:
            reply["event"] = chance.choice(EVENTS)
        if chance.random() < 0.25:
            reply["dnd"] = chance.choice(("all", "channel:sms", "category:ad"))
        if "dnd" not in reply or chance.random() < 0.5:
            reply["answer"] = chance.choice((
                {"text": "from 99"}, {"text": "from 99"}, {"text": "no casino"},
                {"wecom": {"text": "hello"}, "*": {"title": "hello"}}, {"sms": {"text": "hello"}},
            ))  # fmt: skip
            reply["category"] = chance.choice(("note", "note", "ad", "otp"))
            reply["every"] = chance.choice(("1s", "10m", "2h", "24h"))
            reply["within"] = chance.choice(("20s", "10m", "24h"))
        return self._for_accounts(reply)

    def _reminder(self) -> dict[str, Any]:
        chance = self._chance
        after = chance.choice(("5s", "15m", "2h", "20h"))
        reminder: dict[str, Any] = {"app": chance.choice((*APPS, "desk")), "after": after}
        if chance.random() < 0.5:
            reminder["again_after"] = chance.choice(("1s", "15m", "5h"))
            reminder |= {"manager": "lin"} if chance.random() < 0.5 else {}
        return self._for_accounts(reminder)

    def _for_accounts(self, rule: dict[str, Any]) -> dict[str, Any]:
        chance = self._chance
        if chance.random() < 0.15:
            rule["channels"] = some(chance, CHANNELS)
        if chance.random() < 0.15:
            rule["accounts"] = some(chance, ACCOUNTS)
        return rule

    # ---- what is written -------------------------------------------------------------------------

    def publications(
        self, bursts: Sequence[float], start_ms: int, partitions: int, customers: Sequence[str]
    ) -> list[Publication]:
        """Messages in both directions, events at accounts and commands to them, in the bursts."""
        chance, found = self._chance, []
        for burst_s in bursts:
            spread_s = chance.choice((0.001, 0.1, 3.0, 300.0))
            for _ in range(chance.randint(0, 6)):
                at_s = round(burst_s + chance.uniform(0, spread_s), 4)
                now_ms = start_ms + int(at_s * 1000)
                if chance.random() < 0.2:
                    found.append(self._command(at_s, now_ms, customers))
                else:
                    found.append(self._written(at_s, now_ms, partitions, customers))
        return found

    def _written(
        self, at_s: float, now_ms: int, partitions: int, customers: Sequence[str]
    ) -> Publication:
        """One object of the inbound lane, or some of one partition."""
        chance = self._chance
        key = chance.choice(customers)
        objects = [self.inbound(key, now_ms)]
        if chance.random() < 0.2:
            number = partition_of(key, partitions)
            near = [each for each in customers if partition_of(each, partitions) == number]
            objects += [self.inbound(chance.choice(near), now_ms) for _ in range(3)]
        fields = objects if len(objects) > 1 else objects[0]
        encode = (
            msgspec.msgpack.encode if (packed := chance.random() < 0.2) else msgspec.json.encode
        )
        again = chance.random() < 0.12
        return Publication(at_s, "inbound", GATEWAY, key, encode(fields), packed, again=again)

    def inbound(self, customer: str, now_ms: int) -> dict[str, Any]:
        """A message of the customer; or of one of us to her, or an event."""
        chance = self._chance
        self._ids += 1
        fields: dict[str, Any] = {"id": f"m{self._ids}", "customer": customer}
        channel = chance.choice(("wecom", "wecom", "sms", "push"))
        account = chance.choice((channel, channel, channel, "ann", "bob"))
        fields |= {"channel": channel, "account": account}
        late_ms = chance.choice((0, 0, 500, 500, 500, 40 * MINUTE_MS, 3 * HOUR_MS, -2000))
        fields["at"] = rfc3339(now_ms - late_ms)
        kind = chance.random()
        if kind < 0.2:
            event: dict[str, Any] = {"event": chance.choice(EVENTS)}
            if chance.random() < 0.5:
                event["welcome_code"] = f"code-{self._ids}"
                event["welcome_until"] = rfc3339(now_ms + 20_000)
            fields["content"] = event
        else:
            fields["content"] = {"text": chance.choice(TEXTS)}
            if kind < 0.35:
                fields["agent"] = "li"
        if chance.random() < 0.4:
            fields["sender"] = ADDRESSES[channel]
        return fields

    def answer(self, event: dict[str, Any], now_ms: int) -> dict[str, Any]:
        """What one of us writes to a customer who waits."""
        self._ids += 1
        named = {name: event[name] for name in ("customer", "channel", "account")}
        written = {"id": f"m{self._ids}", "content": {"text": "here"}, "agent": "wu"}
        return {**named, **written, "at": rfc3339(now_ms)}

    def _command(self, at_s: float, now_ms: int, customers: Sequence[str]) -> Publication:
        """An operation of an account; or somebody takes a conversation over, or lets it go."""
        chance = self._chance
        app, customer = chance.choice(APPS), chance.choice(customers)
        self._ids += 1
        fields: dict[str, Any] = {"id": f"o{self._ids}", "app": app}
        if chance.random() < 0.2 and self._ids > 1:
            fields["id"] = f"o{chance.randrange(self._ids)}"
        operation = chance.choice(
            (*OPERATIONS, {"op": "release"}, {"op": "takeover", "agent": "li"})
        )
        if operation["op"] == "takeover":
            fields["until"] = rfc3339(now_ms + chance.choice((1_000, HOUR_MS)))
        if operation["op"].startswith("group.") and chance.random() < 0.9:
            customer = customers[-1]  # else it is refused
        fields |= operation | {"customer": customer}
        again = chance.random() < 0.15
        return Publication(at_s, "command", app, customer, msgspec.json.encode(fields), again=again)
