"""Policies and histories for property tests: small alphabets, and times where decisions turn.

A history is drawn event by event beside a running reference, so that the next event can fall a
millisecond before, on or after a moment that matters: a ready time it gave, an expiry, a wall-clock
boundary, a clock change, a duration of the policy after an earlier event. Two things are avoided,
because docs/policy.md leaves them open: an id is not repeated 24 h or more after its first use, and
a receipt does not come 7 days or more after its dispatch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.reference import Reference, duration_ms
from tests.support.reference_parts import Dispatch
from tests.support.wallclock import (
    DAY_MS,
    WEEKDAYS,
    clock_changes,
    local,
    readings,
    say_time,
    to_ms,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]

ZONES = (
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kolkata",
)
CHANNELS = ("wecom", "sms", "push")
CATEGORIES = ("ad", "note", "otp")
APPS = ("shop", "bot")
KINDS = ("cap", "gap", "quiet", "presence", "dnd", "window")
SPELLINGS = ("赌", "赌 博", "Casino", "casi-no", "straße", "ＦＲＥＥ", "é", "e\u0301t", "①", "🎰")
"""Words of rules. What is said are pieces of them, so that many are found and many nearly are."""
PIECES = (
    "赌",
    "博",
    "\u200b",
    " ",
    "CA",
    "ｃａ",
    "si",
    "no",
    "STRASSE",
    "free",
    "É",
    "1",
    "🎰",
    "t",
)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MEMORY_MS = 7 * DAY_MS
TURNS_OF_PERIODS = ("2026-11-01T00:00Z", "2027-01-01T00:00Z", "2027-01-04T00:00Z")


class Focus(NamedTuple):
    """What a history is mostly about; weights of events, and rules to draw at most."""

    events: dict[str, int]
    caps: int = 0
    gaps: int = 0
    quiet: int = 0
    presence: int = 0
    windows: int = 0
    words: int = 0
    devices: bool = False
    length: int = 16


FOCUSES = {
    "anything": Focus(
        {"intent": 6, "receipt": 1, "inbound": 1, "command": 3}, 2, 1, 2, 1, length=24
    ),
    "counts": Focus({"intent": 8, "receipt": 3, "owner": 1}, caps=3, gaps=2, quiet=1, length=24),
    "clocks": Focus({"intent": 6, "zone": 2}, caps=1, quiet=3),
    "people": Focus({"intent": 5, "inbound": 2, "command": 5}, gaps=1, quiet=1, presence=2),
    "fallback": Focus(
        {"intent": 6, "receipt": 5, "fail": 3, "command": 2, "inbound": 2, "cancel": 1},
        *(1, 1, 1, 2),
        length=30,
    ),
    "windows": Focus(
        {"intent": 8, "inbound": 5, "command": 2, "receipt": 1, "fail": 1, "owner": 1},
        *(1, 0, 1, 1),
        windows=3,
        length=30,
    ),
    "devices": Focus(
        {"intent": 8, "receipt": 6, "fail": 4, "command": 2, "inbound": 1, "sign_out": 2},
        *(2, 1, 1, 1),
        devices=True,
        length=30,
    ),
    "words": Focus({"intent": 6, "inbound": 1, "fail": 2}, quiet=1, windows=1, words=4),
}


class Scenario(NamedTuple):
    policy: dict[str, Any]
    events: list[dict[str, Any]]


@cache
def weighted(*weights: tuple[str, int]) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, weight in weights for _ in range(weight)])


def pool(make: Callable[[Random], dict[str, Any]], size: int = 400) -> st.SearchStrategy[Any]:
    """One of many made things, the same ones in every run, for a single draw each.

    A draw costs hypothesis more than both simulations of an event: a rule or an intent drawn field
    by field would take most of the time of a test. Sorted so that examples shrink to the plainest.
    """
    rng = Random(0)
    made = [json.dumps(make(rng)) for _ in range(size)]
    return st.sampled_from(sorted(made, key=lambda text: (len(text), text))).map(json.loads)


def some(rng: Random, values: tuple[str, ...]) -> list[str]:
    return rng.sample(values, rng.randint(1, len(values)))


# ---- turns -------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """A moment at which local time does something: the clock is changed, or a period ends."""

    at: int
    zone: str


@cache
def turns() -> list[Turn]:
    """All of 2026 and 2027 in the zones that change their clocks, and some in those that do not."""
    start, end = to_ms("2026-01-02T00:00Z"), to_ms("2027-12-01T00:00Z")
    found = [Turn(at, z) for z in ZONES for at in clock_changes(z) if start < at < end]
    still = [zone for zone in ZONES if not clock_changes(zone)]
    return found + [Turn(to_ms(at), zone) for zone in still for at in TURNS_OF_PERIODS]


@cache
def clock_times(turn: Turn) -> list[str]:
    """Times of day for quiet windows: usual ones, and around what clocks read at the turn."""
    readings = [local(turn.at - HOUR_MS, turn.zone) + timedelta(hours=1), local(turn.at, turn.zone)]
    near = [r + timedelta(minutes=m) for r in readings for m in (0, 15, 30, -15, -30, 60, -60)]
    usual = ["21:00", "08:00", "00:00", "12:00", "23:30"]
    return usual + sorted({f"{reading:%H:%M}" for reading in near} - set(usual))


# ---- policies ----------------------------------------------------------------------------------


@st.composite
def policies(draw: Draw, focus: Focus, turn: Turn) -> dict[str, Any]:
    """A valid document as parsed TOML, with clock times and dates around the turn."""
    policy: dict[str, Any] = {
        "version": 1,
        "timezone": draw(st.sampled_from((turn.zone, turn.zone, "UTC"))),
        "hold_max": draw(st.sampled_from(["72h", "72h", "1h", "10h", "36h", "30d", "366d"])),
        "categories": draw(_CATEGORY_POOL),
    }
    rules = {"caps": _CAPS, "gaps": _GAPS, "quiet": quiets(turn), "presence": _PRESENCES}
    rules |= {"windows": _WINDOWS, "words": _WORD_LISTS}
    for section, rule in rules.items():
        most = getattr(focus, section)
        drawn = [draw(rule) for _ in range(draw(st.integers(min(most, 1), most)))]
        policy[section] = [
            made | {"name": f"{section}-{index}"} for index, made in enumerate(drawn)
        ]
    if focus.devices:
        policy |= {"push": draw(_PUSHES)} if draw(st.integers(0, 5)) else {}
        for category in policy["categories"].values():
            if "push" not in category["route"]:
                category["route"].insert(draw(st.integers(0, 1)), "push")
    return policy


def _categories(rng: Random) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in CATEGORIES:
        made[name] = {"route": some(rng, CHANNELS)}
        if rng.random() < 0.7:
            made[name]["priority"] = rng.randint(2, 8)
        if rng.random() < 0.5:
            made[name]["fallback_after"] = rng.choice(["10m", "1ms", "2h", "30h", "7d"])
        if rng.random() < (0.8 if name == "otp" else 0.1):
            made[name]["bypass"] = some(rng, KINDS)
    return made


def _filter(rng: Random) -> dict[str, Any]:
    made: dict[str, Any] = {"on": rng.choice(["hold", "hold", "hold", "next", "next", "drop"])}
    for key, values in (("categories", CATEGORIES), ("channels", CHANNELS), ("apps", APPS)):
        if rng.random() < (0.4 if key == "channels" else 0.2):
            made[key] = some(rng, values)
    return made


def _cap(rng: Random) -> dict[str, Any]:
    made = _filter(rng) | {"limit": rng.randint(1, 3)}
    windows = ["24h", "30m", "2h", "3d", "10d", "day", "day", "week", "month"]
    made["window"] = rng.choice(windows)
    if rng.random() < 0.4:
        made["per"] = rng.choice(["customer", "channel", "account"])
    if made["limit"] > 1 and rng.random() < 0.5:
        slots = rng.randint(1, made["limit"] - 1)
        made["reserve"] = {"slots": slots, "priority": rng.randint(3, 8)}
    return made


def _gap(rng: Random) -> dict[str, Any]:
    return _filter(rng) | {"min": rng.choice(["2h", "1ms", "10m", "30h", "8d"])}


def _presence(rng: Random) -> dict[str, Any]:
    made = _filter(rng) if rng.random() < 0.5 else {"on": "hold"}
    return made | {"within": rng.choice(["30m", "1s", "2h", "24h"])}


def _window(rng: Random) -> dict[str, Any]:
    made = _filter(rng) | {"channels": some(rng, CHANNELS)}
    made["on"] = rng.choice(["hold", "next"])
    if rng.random() < 0.8:
        made["limit"] = rng.randint(1, 3)
    if rng.random() < 0.8:
        made["within"] = rng.choice(["2h", "1ms", "10h", "48h", "8d"])
    return made


def _word_list(rng: Random) -> dict[str, Any]:
    made = _filter(rng) | {"words": rng.sample(SPELLINGS, rng.randint(1, 3)), "on": "drop"}
    return made if rng.random() < 0.9 else made | {"alert": "shop"}


@cache
def quiets(turn: Turn) -> st.SearchStrategy[dict[str, Any]]:
    today, times = local(turn.at, turn.zone).date(), clock_times(turn)

    def quiet(rng: Random) -> dict[str, Any]:
        made = _filter(rng)
        if rng.random() < 0.25:
            made["dates"] = []
            for _ in range(rng.randint(1, 2)):
                first = today + timedelta(days=rng.randint(-1, 4))
                last = first + timedelta(days=rng.randint(0, 3))
                made["dates"].append(str(first) if first == last else f"{first}/{last}")
        else:
            made["from"], made["to"] = rng.sample(times, 2)
            if rng.random() < 0.4:
                made["days"] = some(rng, WEEKDAYS)
        if made["on"] != "drop" and rng.random() < 0.4:
            made["spread"] = rng.choice(["30m", "7h", "1ms", "40h"])
        return made

    return pool(quiet)


_CATEGORY_POOL = pool(_categories)


def _push(rng: Random) -> dict[str, Any]:
    made = {"devices": rng.choice([1, 2, 3, 3, 10])}
    return made | {"seen_within": rng.choice(["1ms", "2h", "3d"])} if rng.random() < 0.3 else made


_PUSHES = pool(_push, 40)
_CAPS, _GAPS, _PRESENCES = pool(_cap), pool(_gap), pool(_presence)
_WINDOWS, _WORD_LISTS = pool(_window), pool(_word_list)

# ---- words of events ---------------------------------------------------------------------------


def _intent(rng: Random) -> dict[str, Any]:
    """An intent without id, customer and times; what it shall have a time in is None."""
    made: dict[str, Any] = {"type": "intent", "app": rng.choice(("shop", *APPS))}
    made["category"] = rng.choice(CATEGORIES) if rng.random() < 0.97 else "nothing"
    card = {"card": {"title": _prose(rng), "rows": [{"name": _prose(rng)}], "media_id": "free"}}
    parts: list[dict[str, Any]] = [
        {"sms": {"text": _prose(rng)}},
        {"wecom": card, "push": {}},
        {"sms": {}, "*": {"text": _prose(rng), "n": 1}},
    ]
    made["content"] = {"text": _prose(rng)} if rng.random() < 0.8 else rng.choice(parts)
    optional: dict[str, tuple[float, Callable[[], Any]]] = {
        "priority": (0.3, lambda: rng.randint(0, 9)),
        "route": (0.3, lambda: some(rng, CHANNELS)),
        "reach": (0.2, lambda: rng.choice(["all", "all", "first"])),
        "account": (0.1, lambda: rng.choice(["ann", "sms"])),
        "not_before": (0.2, lambda: None),
        "expires_at": (0.4, lambda: None),
        "collapse_key": (0.4, lambda: rng.choice(["k", "k", "l"])),
        "timezone": (0.2, lambda: None),
    }
    made |= {key: value() for key, (odds, value) in optional.items() if rng.random() < odds}
    if rng.random() < 0.8:
        made["to"] = dict.fromkeys(CHANNELS, "x")
    elif rng.random() < 0.7:
        made["to"] = dict.fromkeys(some(rng, CHANNELS), "y")
    return made


def _prose(rng: Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randint(1, 4)))


def _command(rng: Random) -> dict[str, Any]:
    """A command without customer and times; what it shall have a time in is None."""
    ops = {"dnd.set": 4, "dnd.clear": 2, "profile.set": 3, "takeover": 4, "release": 2}
    ops |= {"cancel": 2, "forget": 1}
    op = rng.choices(list(ops), list(ops.values()))[0]
    made: dict[str, Any] = {
        "type": "command",
        "id": "k",
        "app": rng.choice(("shop", *APPS)),
        "op": op,
    }
    if op.startswith("dnd"):
        scopes = [f"category:{c}" for c in CATEGORIES] + [f"channel:{c}" for c in CHANNELS]
        made["scope"] = rng.choice(["all", "all", *scopes])
    if op == "takeover":
        made["agent"] = rng.choice(["ann", "bob"])
    if op in ("dnd.set", "takeover") and rng.random() < 0.6:
        made["until"] = None
    if op == "profile.set":
        if rng.random() < 0.5:
            made["timezone"] = None
        if rng.random() < 0.5:
            made["to"] = {channel: rng.choice("xy") for channel in some(rng, CHANNELS)}
        if rng.random() < 0.3:
            made["owner"] = rng.choice(["ann", "bob"])
    return made


_INTENTS, _COMMANDS = pool(_intent, 2_000), pool(_command, 600)
_CANCEL = {"type": "command", "id": "k", "op": "cancel"}
_OWNERS = st.sampled_from(["ann", "bob"])
_PLACES = st.sampled_from([(c, account) for c in CHANNELS for account in (c, c, "ann", "bob")])
_WORDS = st.sampled_from([{}, {"class": "dead_address", "code": "81013"}, {"class": "expired"}])
_WORDS_OF_DEVICES = st.sampled_from(
    [{"class": "dead_address"}, {"class": "dead_address"}, {"class": "superseded"}, {}]
)
_ADDRESSES = st.sampled_from(
    ["x", "y", "dev-1/x", "dev-1/z", "dev_2/x", "https://push.example/x", "/x", "ann/"]
)
_STATUSES = ["failed"] * 4 + ["delivered", "delivered", "sent", "read", "unknown"]

# ---- histories ---------------------------------------------------------------------------------


@st.composite
def scenarios(draw: Draw, focus: Focus) -> Scenario:
    """A policy and events in time order for it, beginning some hours before a turn."""
    turn = draw(st.sampled_from(turns()))
    policy = draw(policies(focus, turn))
    history = History(draw, focus, policy, turn)
    history.now -= draw(st.integers(0, 30)) * HOUR_MS
    lengths = st.integers(1, focus.length)
    for _ in range(max(draw(lengths), draw(lengths))):
        history.step()
    return Scenario(policy, history.events)


class History:
    """Events drawn one after another, and the reference that has seen them."""

    def __init__(self, draw: Draw, focus: Focus, policy: dict[str, Any], turn: Turn) -> None:
        self.draw = draw
        self.focus = focus
        self.policy = policy
        self.now = turn.at
        self.home = turn.zone
        self.hub = Reference(policy)
        self.events: list[dict[str, Any]] = []
        self.ids: dict[tuple[str, str, str], int] = {}
        """(customer, app, id) to the time of its first use."""
        self.moments: set[int] = set()
        """Moments at which a decision may turn."""
        self.zones = {policy["timezone"]}
        self.customers = draw(st.sampled_from([["c"], ["u-1024"], ["c", "~g"]]))
        tables = ("caps", "gaps", "quiet", "presence", "windows")
        rules = [rule for table in tables for rule in policy[table]]
        texts = [rule.get(key, "day") for rule in rules for key in ("window", "min", "within")]
        texts += [policy.get("hold_max", "72h"), "24h", "7d"]
        texts += [c.get("fallback_after", "day") for c in policy["categories"].values()]
        self.durations = sorted({duration_ms(text) for text in texts if text[0].isdigit()})
        clocks = {rule.get(key, "00:00") for rule in rules for key in ("from", "to")}
        self.clocks = sorted(clocks | {"00:00"})

    def step(self) -> None:
        """One more event."""
        self.now = self.later()
        kind = self.draw(weighted(*self.focus.events.items()))
        make = {
            "intent": self.intent,
            "receipt": self.receipt,
            "inbound": self.inbound,
            "fail": self.fail,
            "sign_out": self.sign_out,
            "command": self.command,
            "cancel": lambda key: self.command(key, st.just(_CANCEL)),
            "zone": lambda key: self.profile(key, "timezone", self.zone()),
            "owner": lambda key: self.profile(key, "owner", self.draw(_OWNERS)),
        }
        said = len(self.hub.outcomes)
        event = make[kind](self.draw(st.sampled_from(self.customers)))
        event["at"] = self.say(self.now)
        self.hub.arrive(event)
        self.events.append(event)
        self.moments |= {self.now + duration for duration in self.durations}
        for outcome in self.hub.outcomes[said:]:
            times = [outcome.get("next_eligible_at")]
            times += [block.get("ready_at") for block in outcome.get("rules", [])]
            self.moments |= {to_ms(time) for time in times if time}

    # ---- times ---------------------------------------------------------------------------------

    def later(self) -> int:
        """The time of the next event."""
        how = self.draw(st.integers(0, 9))
        if how <= 4:
            steps = [0, 1, MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS]
            return self.now + self.draw(st.sampled_from(steps))
        if how <= 8:
            return max(self.now, self.moment())
        return self.now + self.draw(st.integers(1, 40 * 24)) * HOUR_MS

    def moment(self) -> int:
        """Beside a moment at which a decision may turn, mostly a near one."""
        near = {at for at in self.moments if at >= self.now}
        for zone in sorted(self.zones):
            today = local(self.now, zone).date()
            for day in (today, today + timedelta(days=1)):
                for clock in self.clocks:
                    time = timedelta(hours=int(clock[:2]), minutes=int(clock[3:]))
                    near |= {at for at in readings(zone, day, time) if at >= self.now}
            near |= {at for at in clock_changes(zone) if 0 <= at - self.now < 3 * DAY_MS}
        chosen = self.draw(st.sampled_from(sorted(near)[:24] or [self.now]))
        return chosen + self.draw(st.sampled_from([0, 1, -1]))

    def say(self, ms: int) -> str:
        """The same instant in UTC or with another offset."""
        if ms % 7 == 3:
            shifted = say_time(ms + 5 * HOUR_MS + 30 * MINUTE_MS)
            return shifted.removesuffix("Z") + "+05:30"
        return say_time(ms)

    def time_ahead(self) -> str:
        """A time for not_before, expires_at and until: near, far, or just gone."""
        how = self.draw(st.integers(0, 9))
        if how <= 5:
            at = self.moment()
        elif how <= 7:
            at = self.now + self.draw(st.integers(0, 200)) * HOUR_MS
        elif how == 8:
            at = self.now - self.draw(st.integers(0, 1))
        else:
            at = self.now + self.draw(st.sampled_from([365, 366, 367, 400])) * DAY_MS
        self.moments.add(at)
        return self.say(at)

    # ---- events --------------------------------------------------------------------------------

    def intent(self, customer: str) -> dict[str, Any]:
        event = self.draw(_INTENTS) | {"customer": customer}
        known = self.hub.customers.get(customer)
        fallbacks = [p for p in known.held if p.went and p.collapse_key] if known else []
        if fallbacks and self.draw(st.integers(0, 2)) == 0:
            event |= {"app": fallbacks[0].app, "collapse_key": fallbacks[0].collapse_key}
        app = event["app"]
        how = self.draw(st.integers(0, 9))  # 8: an id with a colon in it, 9: one used before
        name = f"i{len(self.ids)}" + (":1" if how == 8 else "")
        fresh = [
            id_
            for (c, a, id_), first in self.ids.items()
            if (c, a) == (customer, app) and self.now - first < DAY_MS
        ]
        if fresh and how == 9:
            name = self.draw(st.sampled_from(fresh))
        self.ids.setdefault((customer, app, name), self.now)
        event["id"] = name
        self.fill(event)
        if self.focus.devices:
            event["to"] = event.get("to", {"sms": "x"}) | {"push": self.draw(_ADDRESSES)}
        return event

    def fill(self, event: dict[str, Any]) -> None:
        """Draw the times and the zone that are wanted."""
        for key in ("not_before", "expires_at", "until"):
            if key in event:
                event[key] = self.time_ahead()
        if "timezone" in event:
            event["timezone"] = self.zone()

    def receipt(self, customer: str) -> dict[str, Any]:
        self.hub.run_wakes(self.now)  # what is held may have gone out long before
        known = self.hub.customers.get(customer)
        sent = [d for d in known.dispatches if self.now - d.at < MEMORY_MS] if known else []
        if sent and self.draw(st.integers(0, 9)):
            several = [d for d in sent if d.piece.phase != "done" or len(d.piece.went) > 1]
            sent = several if several and self.draw(st.integers(0, 3)) else sent
            return self.word_of(customer, self.draw(st.sampled_from(sent)))
        delivery = self.draw(st.sampled_from(["shop:i0:1", "shop:i0:2", "bot:i1:1"]))
        known_ids = {d.delivery for d in known.dispatches} if known else set()
        delivery = "shop:nothing:1" if delivery in known_ids else delivery
        status = self.draw(st.sampled_from(_STATUSES))
        event = {"type": "receipt", "customer": customer, "delivery": delivery, "status": status}
        return event | self.draw(_WORDS) if status == "failed" else event

    def word_of(
        self, customer: str, sent: Dispatch, statuses: Sequence[str] = tuple(_STATUSES)
    ) -> dict[str, Any]:
        """What is said of one device of a dispatch; now and then of one that did not get it."""
        copy = self.draw(st.sampled_from(sent.copies))
        status = self.draw(st.sampled_from(statuses))
        event = {"type": "receipt", "customer": customer, "delivery": copy.delivery}
        event["status"] = status
        if not self.focus.devices:
            return event | self.draw(_WORDS) if status == "failed" else event
        if not self.draw(st.integers(0, 15)):
            event["delivery"] = f"{sent.app}:{sent.intent}:{self.draw(st.sampled_from([101, 301]))}"
        if status == "failed":
            event |= self.draw(_WORDS_OF_DEVICES)
        if event.get("class") == "dead_address":
            event["to"] = copy.token
            if self.draw(st.integers(0, 2)) == 0:
                event["dead_since"] = self.say(self.draw(st.sampled_from([sent.at, self.now - 1])))
        return event

    def fail(self, customer: str) -> dict[str, Any]:
        """The newest dispatch of what is in flight fails, or of what waits after one."""
        self.hub.run_wakes(self.now)
        known = self.hub.customers.get(customer)
        went = [p.went[-1] for p in known.waiting if p.went] if known else []
        recent = [sent for sent in went if self.now - sent.at < MEMORY_MS]
        if not recent:
            return self.receipt(customer)
        return self.word_of(customer, self.draw(st.sampled_from(recent)), ["failed"])

    def inbound(self, customer: str) -> dict[str, Any]:
        channel, account = self.draw(_PLACES)
        event = {"type": "inbound", "id": "m", "channel": channel, "account": account}
        if self.focus.devices and channel == "push":
            event["sender"] = self.draw(_ADDRESSES)
        return event | {"customer": customer, "content": {"text": "hi"}}

    def command(
        self, customer: str, commands: st.SearchStrategy[Any] | None = None
    ) -> dict[str, Any]:
        event = self.draw(_COMMANDS if commands is None else commands) | {"customer": customer}
        if event["op"] == "cancel":
            known = self.hub.customers.get(customer)
            waiting = known.waiting if known else []
            failed = [piece for piece in waiting if piece.failure is not None]
            held = [(piece.app, piece.id) for piece in failed or waiting]
            used = [(app, name) for _, app, name in self.ids] or [("shop", "i0")]
            event["app"], event["intent"] = self.draw(st.sampled_from(held * 5 + used))
        self.fill(event)
        return event

    def sign_out(self, customer: str) -> dict[str, Any]:
        """She signs out on a device."""
        known = self.hub.customers.get(customer)
        mine = [address for address, _ in known.devices] if known else []
        to = self.draw(st.sampled_from(mine)) if mine else self.draw(_ADDRESSES)
        event = {"type": "command", "customer": customer, "id": "k", "op": "device.forget"}
        return event | {"app": "shop", "to": to}

    def profile(self, customer: str, field: str, value: str) -> dict[str, Any]:
        event = {"type": "command", "customer": customer, "id": "k", "op": "profile.set"}
        return event | {"app": "shop", field: value}

    def zone(self) -> str:
        zone = self.draw(st.sampled_from((self.home, self.home, *ZONES)))
        self.zones.add(zone)
        return zone
