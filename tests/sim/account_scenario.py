"""One seed, one scenario of accounts: what they send for whom, and what goes wrong."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from channels.accounts import AccountConfig, BreakerTable, LimitsTable, OptOutTable
from channels.provider import ProviderInbound
from channels.registry import Kind
from hub import limits
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery
from tests.sim.account_talks import Letter, Manner, kind_of, letters_to, provider_name, talking
from tests.sim.scenario import HOUR_MS, STARTS, Trouble, draw_troubles

NAMES = ("main", "spare", "ads", "codes", "bot", "app-push")
APPS = ("shop", "bank")
KEYS = ("price", "price", "news", None)
"""Collapse keys of deliveries."""
ZONES = ("Asia/Shanghai", "Europe/Berlin", "UTC")

REQUEST_FAULTS = {
    "commit": ("lose-request", "lose-reply", "late", "crash-before", "crash-after", "pause"),
    "claim": ("lose-request", "lose-reply", "late", "crash-before", "crash-after", "pause"),
    "read-back": ("lose-reply", "crash-after", "pause"),
    "snapshot": ("lose-request", "lose-reply", "crash-before", "crash-after", "late", "pause"),
    "stored": ("lose-reply", "crash-after", "pause"),
    "open": ("lose-reply", "crash-before", "pause"),
    "read": ("gap",),
    "tell": ("lose-request", "lose-reply", "late", "crash-before", "crash-after", "pause"),
    "submit": ("crash-before", "crash-after", "pause"),
}
COUNTS = {"commit": 120, "claim": 10, "read": 40, "tell": 60, "snapshot": 20, "submit": 50}
"""About how often a place is passed in a scenario: its faults are drawn from the first so many."""
LASTING = {"refused": (5.0, 600.0), "unlinked": (0.5, 600.0)}
"""What goes wrong with carriers, and for how many seconds: shortest and longest."""


class Dispatch(NamedTuple):
    """Deliveries that are decided together, for one channel and partition of accounts."""

    at_s: float
    deliveries: list[Delivery]


@dataclass
class AccountScenario:
    seed: int
    start_ms: int
    partitions: int
    hosts: int
    accounts: list[AccountConfig]
    later: list[AccountConfig]
    """After a `reload`."""
    manners: dict[str, Manner]
    kinds: dict[str, Kind]
    """By what accounts call their provider: each has its own."""
    dispatches: list[Dispatch]
    letters: list[Letter]
    troubles: list[Trouble]
    faults: dict[tuple[str, int], str]
    commit_tries: int
    dies_ahead: bool = False
    """The host that takes something ahead of its turn first dies of it."""
    bounds: dict[str, int] = field(default_factory=dict)
    """Values for bounds of `hub.limits` and of accounts: small ones are met often."""

    @property
    def end_s(self) -> float:
        times = [d.at_s for d in self.dispatches] + [t.at_s + 1 for t in self.troubles]
        return max(times + [letter.at_s for letter in self.letters])


def account_scenario(seed: int) -> AccountScenario:
    """The scenario of a seed."""
    chance = random.Random(f"{seed} accounts")
    start_ms = parse_rfc3339(chance.choice(STARTS)) + chance.randrange(24) * HOUR_MS
    bursts = sorted(chance.uniform(0, chance.choice((0.1, 3, 30)) * 3600) for _ in range(5))
    names = chance.sample(NAMES, chance.randint(2, 4))
    zone = chance.choice(ZONES)
    accounts = [_account(chance, name, names, zone) for name in names]
    more = random.Random(f"{seed} talks")
    world = _World(chance, start_ms, names, more)
    kinds = {name: kind_of(more) for name in names}
    drawn = AccountScenario(
        seed=seed,
        start_ms=start_ms,
        partitions=chance.choice((1, 1, 2, 3, 4)),
        hosts=2,
        accounts=accounts,
        later=_reloaded(chance, accounts),
        manners={name: talking(_manner(chance, seed, name), more, kinds[name]) for name in names},
        kinds={provider_name(name): kind for name, kind in kinds.items()},
        dispatches=[world.dispatch(at) for at in bursts for _ in range(chance.randint(1, 5))],
        letters=world.letters(bursts),
        troubles=draw_troubles(chance, bursts, "reload", LASTING),
        faults=_faults(chance),
        commit_tries=chance.choice((2, 4, 12)),
        bounds=_bounds(chance),
    )
    drawn.letters += letters_to(more, names, bursts, kinds, drawn.manners, world.addresses)
    if more.random() < 0.6:
        drawn.bounds["IDLE_MS"] = more.choice((1_000, 5_000))
    _hurry(random.Random(f"{seed} urgent"), drawn, world, bursts)
    drawn.dies_ahead = random.Random(f"{seed} dies").random() < 0.25
    _doubt(random.Random(f"{seed} doubt"), drawn)
    _collapse(random.Random(f"{seed} collapse"), drawn)
    return drawn


# ---- accounts ------------------------------------------------------------------------------------


def _account(chance: random.Random, name: str, names: list[str], zone: str) -> AccountConfig:
    others = [other for other in names if other != name]
    return AccountConfig(
        name=name,
        channel="sms",
        provider=provider_name(name),
        failover=chance.choice(others) if chance.random() < 0.5 else None,
        duplicates="allow" if chance.random() < 0.2 else "never",
        unknown_after=chance.choice(("20s", "10m", "2h")),
        receipts_for=chance.choice(("5m", "48h")),
        tries=chance.choice((2, 4, 10)),
        timezone=zone,
        limits=_limits(chance),
        breaker=BreakerTable(
            failures=chance.choice((1, 2, 5)),
            open=chance.choice(("1s", "10s")),
            open_max=chance.choice(("30s", "5m")),
            link=chance.choice(("1s", "5s")),
        ),
        opt_out=OptOutTable(
            scope=chance.choice(("channel", "all")), reply=chance.choice((None, "You are out."))
        ),
        settings={"version": 1},
    )


def _limits(chance: random.Random) -> LimitsTable:
    def some(*texts: str) -> list[str]:
        return [text for text in texts if chance.random() < 0.25]

    return LimitsTable(
        account=some("2/s", "5/10s", "20/min", "30/h", "25/day", "40/month"),
        app=some("1/s", "4/10s", "15/h", "12/day"),
        recipient=some("1/s", "2/min", "5/h", "8/day"),
    )


def _reloaded(chance: random.Random, accounts: list[AccountConfig]) -> list[AccountConfig]:
    """Other limits, another connection, or gone. One stays: a channel without any is not ours."""
    later: list[AccountConfig] = []
    for account in accounts:
        how = chance.choice(("limits", "limits", "settings", "same", "gone"))
        if how == "limits":
            account = replace(account, limits=_limits(chance))
        elif how == "settings":
            account = replace(account, settings={"version": 2})
        if how != "gone" or not (later or account is not accounts[-1]):
            later.append(account)
    names = {account.name for account in later}
    return [
        account if account.failover in names else replace(account, failover=None)
        for account in later
    ]


def _manner(chance: random.Random, seed: int, name: str) -> Manner:
    def sometimes(share: float) -> float:
        return share if chance.random() < 0.4 else 0.0

    return Manner(
        seed=f"{seed} {name}",
        window=chance.choice((1, 3, 10, 50)),
        resend=chance.random() < 0.25,
        echoes=chance.random() < 0.2,
        latency_s=chance.choice(((0.01, 0.05, 0.2), (0.001,), (0.1, 3.0))),
        silent=sometimes(0.15),
        busy=sometimes(0.3),
        throttle=sometimes(0.2),
        refuse=sometimes(0.1),
        broken=sometimes(0.3),
        half=sometimes(0.5),
        receipts=chance.random() < 0.85,
    )


# ---- what is decided and said --------------------------------------------------------------------


class _World:
    """Draws deliveries and messages of a handful of customers."""

    def __init__(
        self, chance: random.Random, start_ms: int, names: list[str], more: random.Random
    ) -> None:
        self._more = more
        self._chance = chance
        self._start_ms = start_ms
        self._names = names
        self._customers = [f"c{number}" for number in range(chance.randint(2, 6))]
        self.addresses = [address(number) for number in range(len(self._customers) + 1)]
        self._ids = 0
        self._letters = 0

    def dispatch(self, burst_s: float) -> Dispatch:
        chance = self._chance
        at_s = round(burst_s + chance.choice((0.0, 0.01, 0.5, 20.0)), 3)
        account = chance.choice(self._names) if chance.random() < 0.98 else "nobody"
        count = chance.choice((1, 1, 2, 6))
        return Dispatch(at_s, [self._delivery(at_s, account) for _ in range(count)])

    def backlog(self, chance: random.Random, at_s: float) -> list[Dispatch]:
        """So much at once that it is taken over in several turns."""
        self._chance = self._more = chance
        return [self.dispatch(at_s) for _ in range(chance.choice((5, 12)))]

    def _delivery(self, at_s: float, account: str) -> Delivery:
        chance = self._chance
        self._ids += 1
        now = self._start_ms + int(at_s * 1000)
        number = chance.randrange(len(self._customers))
        app, name = chance.choice(APPS), f"i{self._ids}"
        content: dict[str, Any] = {"text": name, "units": chance.choice((1, 1, 1, 2, 3))}
        if chance.random() < 0.03:
            content = {"title": "cannot be sent as a text"}
        if self._more.random() < 0.08:
            content["free"] = True
        if name[-1] in "357":
            content["urgent"] = True  # says only the content
        ahead_ms = chance.choice((500, 20_000, 600_000, 5 * HOUR_MS, 30 * HOUR_MS, 30 * HOUR_MS))
        return Delivery(
            id=f"{app}:{name}:1",
            intent=name,
            app=app,
            customer=self._customers[number],
            category="ad",
            priority=chance.choice((3, 3, 6, 9)),
            channel="sms",
            account=account,
            to=address(number),
            content=msgspec.Raw(msgspec.json.encode(content)),
            attempt=1,
            at=rfc3339(now),
            expires_at=rfc3339(now + ahead_ms),
        )

    def letters(self, bursts: list[float]) -> list[Letter]:
        return [
            self._letter(self._chance.choice(bursts) + self._chance.choice((0.3, 10.0, 900.0)))
            for _ in range(self._chance.randint(0, 5))
        ]

    def _letter(self, at_s: float) -> Letter:
        chance = self._chance
        self._letters += 1
        out = chance.random() < 0.5
        inbound = ProviderInbound(
            id=f"mo{self._letters}",
            sender=address(chance.randrange(len(self._customers) + 1)),
            content={"text": "TD" if out else "hello"},
            at_ms=self._start_ms + int(at_s * 1000),
            opt_out=out,
        )
        return Letter(at_s, chance.choice(self._names), inbound)


def address(number: int) -> str:
    """Of a customer."""
    return f"+86138{number:08}"


# ---- what goes wrong -----------------------------------------------------------------------------


def _faults(chance: random.Random) -> dict[tuple[str, int], str]:
    plan = {}
    for _ in range(chance.choice((0, 3, 6, 10))):
        kind = chance.choice(("commit", "commit", "submit", *REQUEST_FAULTS))
        place = chance.randint(1, COUNTS.get(kind, 10))
        plan[kind, place] = chance.choice(REQUEST_FAULTS[kind])
    return plan


def _hurry(
    chance: random.Random, drawn: AccountScenario, world: _World, bursts: list[float]
) -> None:
    """Backlogs, and what is urgent among and behind them: always alone."""
    for at_s in bursts:
        if chance.random() < 0.3:
            drawn.dispatches += world.backlog(chance, at_s)
            if chance.random() < 0.6:  # to who has taken some of it ahead, or claimed some of it
                soon_s = at_s + chance.choice((0.05, 0.2, 0.7))
                kind, lasts_s = chance.choice((("kill", 0.0), ("pause", 12.0)))
                drawn.troubles.append(Trouble(soon_s, kind, chance.randrange(24), lasts_s))
    drawn.dispatches.sort(key=lambda dispatch: dispatch.at_s)
    for dispatch in drawn.dispatches:
        if len(dispatch.deliveries) == 1:
            dispatch.deliveries[0].urgent = chance.random() < 0.6
    small = {
        "TURN_SLICES": (1, 2),
        "DELIVERIES_SLICE": (1,),
        "CLAIMS_SLICE": (1, 3),
        "URGENT_CLAIMS": (0,),
        "URGENT_SLICE": (1,),
        "AHEAD_MAX": (1, 2),
        "BACKLOG": (0, 2),
    }
    drawn.bounds |= {n: chance.choice(v) for n, v in small.items() if chance.random() < 0.4}


def _collapse(chance: random.Random, drawn: AccountScenario) -> None:
    """At one account newer deliveries may replace what waits; everywhere they have the keys."""
    if chance.random() < 0.5:
        return
    name = chance.choice(list(drawn.kinds))
    drawn.kinds[name] = dataclasses.replace(drawn.kinds[name], supersedes=True)
    for dispatch in drawn.dispatches:
        for delivery in dispatch.deliveries:
            delivery.collapse_key = chance.choice(KEYS)


def _doubt(chance: random.Random, drawn: AccountScenario) -> None:
    """One account may have a provider that often does not answer, and then refuses the repeat of
    what it has taken, at the border of a long limit."""
    if chance.random() < 0.8:
        return
    name = chance.choice(list(drawn.manners))
    manner = drawn.manners[name]
    drawn.manners[name] = dataclasses.replace(
        manner, resend=True, silent=0.4, busy=0.3, throttle=0.2
    )
    tight = LimitsTable(account=[chance.choice(("4/h", "8/day"))])
    for accounts in (drawn.accounts, drawn.later):
        for place, account in enumerate(accounts):
            if account.name == name:
                accounts[place] = replace(account, limits=tight, tries=10)


def _bounds(chance: random.Random) -> dict[str, int]:
    """Some bounds made so small that a scenario meets them."""
    small = {
        "BODIES_KEPT": (1, 3),
        "WAITING_MAX": (4,),
        "HAND_OVER_TURN": (1, 3),
        "ENDED_TURN": (1,),
        "LETTERS_SLICE": (1, 3),
        "DELIVERIES_SLICE": (1,),
        "OUTBOX_TURNS": (1, 4),
        "FETCHES": (1,),
        "TURN_STATE_BYTES": (1, 1_000),
        "WAKES_PER_TURN": (1, 2),
    }
    bounds = {name: chance.choice(v) for name, v in small.items() if chance.random() < 0.25}
    bounds["SNAPSHOT_LOG_BYTES"] = chance.choice((1, 2_000, 9_000, limits.SNAPSHOT_LOG_BYTES))
    return bounds
