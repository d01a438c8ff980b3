"""No window of any limit ever holds more than its count, whatever arrives, is late or crashes; and
nothing waits longer than its limits demand.

What is checked are departures, counted by force, of an account as actors/account.py runs one:
attempts are opened when the quota allows, what the quota has to remember is written down before
anything leaves, and each leaves when the pacer allows, at a timer that is late. Some are refused
and some are not answered: both leave again. Short limits are of all departures, long ones of what
was taken or may have been, each message once.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.pacer import Pacer
from actors.quota import Limit, Quota, StateError, parse_limit
from actors.window import RUNS, SHORT_MS, guarded_ms
from hub.policy.localtime import period

NOW = 1_790_000_000_000.0
ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York")


@dataclass
class Departure:
    at: float
    app: str
    recipient: str
    units: int
    message: object = None
    """The same for all departures of a message; None: it has no other."""
    refused: bool = False


@dataclass(eq=False)
class Attempt:
    app: str
    recipient: str
    units: int
    opened: float = 0.0
    counted: float = 0.0
    unsure: bool = False

    @property
    def who(self) -> tuple[str, str, int]:
        return self.app, self.recipient, self.units


@dataclass
class Account:
    """One account, its ledger, and what really left."""

    limits: tuple[Limit, ...]
    zone: str
    chance: random.Random
    late_ms: float
    lost: float = 0.0
    """How often there is no connection: what is open leaves much later."""
    now: float = NOW
    waiting: list[Attempt] = field(default_factory=list)
    open: list[Attempt] = field(default_factory=list)
    left: list[Departure] = field(default_factory=list)
    unanswered: list[tuple[Attempt, Departure]] = field(default_factory=list)
    refusals: float = 0.0
    """How often the answer is no, or there is none."""
    written: bytes = b""
    peers: dict[str, bytes] = field(default_factory=dict)
    crashes: int = 0

    def __post_init__(self) -> None:
        self.pacer, self.quota = Pacer(self.limits), Quota(self.limits, self.zone)

    def crash(self, away_ms: float) -> None:
        """What was open may have left or not; what had not is sent by the next owner."""
        self.crashes += 1
        self.now += away_ms
        self.pacer, self.quota = Pacer(self.limits), Quota(self.limits, self.zone)
        self.pacer.restarted(self.now)
        if self.written:
            self.quota.load(self.written, self.now)
        lost = [attempt for attempt, _ in self.unanswered]
        for attempt in lost:
            attempt.unsure = True
        self.waiting = [*lost, *self.open, *self.waiting]
        for attempt in self.waiting:
            attempt.counted = 0.0
        self.open, self.unanswered = [], []

    def reconfigure(self) -> None:
        self.quota = self.quota.configured(self.limits, self.zone, self.now)

    def step(self, most_ms: float) -> None:
        """Open and let leave what may, then wait for the next moment, or up to `most_ms`."""
        self._answer()
        wake = min(self._open(), self.now + most_ms)
        if self.chance.random() >= self.lost:
            wake = min(wake, self._depart())
        self.now = max(wake, self.now) + self.chance.uniform(0, self.late_ms)
        if self.chance.random() < 0.1:
            self.quota.forget_idle(self.now)
            self.pacer.forget_idle(self.now)

    def _answer(self) -> None:
        """What came of departures. A message that may have been taken stays counted."""
        asked, self.unanswered = self.unanswered, []
        for attempt, departure in asked:
            if self.chance.random() < 0.5:
                self.unanswered.append((attempt, departure))
            elif self.chance.random() < self.refusals:
                departure.refused = self.chance.random() < 0.7
                if departure.refused and not attempt.unsure:
                    self.quota.withdraw(*attempt.who, departure.at, self.now)
                    attempt.counted = 0.0
                attempt.unsure |= not departure.refused
                self.waiting.insert(self.chance.choice((0, len(self.waiting))), attempt)

    def _open(self) -> float:
        wake = math.inf
        for attempt in list(self.waiting):
            if len(self.open) >= 20:
                break
            who = attempt.recipient
            if self.quota.recipient_dump(who) is None and who in self.peers:
                self.quota.recipient_load(who, self.peers[who], self.now)
            at = self.quota.ready(*attempt.who, self.now, attempt.counted).at_ms
            if at == math.inf:
                self.waiting.remove(attempt)
            elif at > self.now:
                wake = min(wake, at)
            else:
                self.waiting.remove(attempt)
                self.quota.take(*attempt.who, self.now, attempt.counted)
                attempt.opened = self.now
                self.open.append(attempt)
                self.written = self.quota.dump(self.now)
                if (value := self.quota.recipient_dump(who)) is not None:
                    self.peers[who] = value
        return wake

    def _depart(self) -> float:
        wake = math.inf
        for attempt in list(self.open):
            who = attempt.who
            if self.chance.random() < 0.03:
                if attempt.unsure:
                    self.quota.move(*who, attempt.opened, self.now)
                else:
                    self.quota.give_back(*who, attempt.opened)
                self.open.remove(attempt)
                continue
            ready = self.pacer.ready(*who, self.now)
            if ready.at_ms <= self.now:
                self.pacer.take(*who, self.now)
                self.quota.move(*who, attempt.opened, self.now)
                self.open.remove(attempt)
                attempt.counted = self.now
                self.left.append(Departure(self.now, *who, attempt))
                self.unanswered.append((attempt, self.left[-1]))
            else:
                wake = min(wake, ready.at_ms)
                if ready.scope == "account":
                    break
        return wake


def overfull(limits: tuple[Limit, ...], zone: str, left: list[Departure]) -> list[str]:
    """Every limit that was exceeded, by the definition: one departure larger than a limit may be
    in a window by itself."""
    found = []
    for limit in limits:
        of: dict[str, list[Departure]] = {}
        short = 0 < limit.window_ms <= SHORT_MS
        for one in left:
            if one.refused and not short:
                continue
            key = {"account": "", "app": one.app, "recipient": one.recipient}[limit.per]
            of.setdefault(key, []).append(one)
        for departures in of.values():
            for index, last in enumerate(departures):
                begin = (
                    period(zone, limit.calendar, int(last.at))[0] - 0.5
                    if limit.calendar
                    else last.at - limit.window_ms
                )
                within = [one for one in departures[: index + 1] if one.at > begin]
                counted = {id(one if short else one.message or one): one.units for one in within}
                if sum(counted.values()) > limit.count and len(counted) > 1:
                    found.append(f"{limit.text} per {limit.per}: {within}")
                    break
    return found


def texts(*units: str) -> st.SearchStrategy[str]:
    return st.builds("{}/{}".format, st.integers(1, 12), st.sampled_from(units))


def rules(*units: str) -> st.SearchStrategy[tuple[Limit, ...]]:
    per = st.sampled_from(("account", "app", "recipient"))
    one = st.builds(parse_limit, texts(*units), per, st.just("test"))
    return st.lists(one, min_size=1, max_size=4).map(tuple)


@given(
    limits=rules("s", "2s", "10s", "11s", "min", "h", "24h", "day", "month"),
    zone=st.sampled_from(ZONES),
    seed=st.integers(0, 2**32),
    late_ms=st.sampled_from((0.0, 2.0, 50.0, 3_000.0)),
    pause_ms=st.sampled_from((100.0, 5_000.0, 600_000.0, 20_000_000.0)),
    lost=st.sampled_from((0.0, 0.3, 0.9)),
    crashes=st.sampled_from((0.0, 0.02, 0.2)),
    refusals=st.sampled_from((0.0, 0.3, 0.9)),
)
def test_no_window_is_ever_exceeded(limits, zone, seed, late_ms, pause_ms, lost, crashes, refusals):
    chance = random.Random(seed)
    account = Account(limits, zone, chance, late_ms, lost, refusals=refusals)
    for _ in range(150):
        for _ in range(chance.choice((0, 0, 1, 3))):
            app, who = chance.choice("ab"), chance.choice("rstu")
            account.waiting.append(Attempt(app, who, chance.choice((1, 1, 1, 2, 5))))
        account.step(chance.choice((pause_ms, pause_ms / 50)))
        if chance.random() < crashes:
            account.crash(chance.choice((0.0, 300.0, 70_000.0)))
        elif chance.random() < 0.1:
            account.reconfigure()
    assert overfull(limits, zone, account.left) == []


def test_the_check_finds_a_window_that_is_exceeded():
    limits = (parse_limit("2/min", "app", "test"), parse_limit("3/day", "account", "test"))
    fits = [Departure(NOW + at, "a", "r", 1) for at in (0, 0, 60_000)]
    assert overfull(limits, ZONES[0], fits) == []
    assert len(overfull(limits, ZONES[0], [*fits, Departure(NOW + 60_001, "a", "r", 1)])) == 1
    early = [Departure(NOW + at, "a", "r", 1) for at in (0, 0, 59_999)]
    assert len(overfull(limits, ZONES[0], early)) == 1
    thrice = [Departure(NOW + at, "a", "r", 1, "message") for at in (0, 20_000, 40_000)]
    assert overfull(limits, ZONES[0], thrice) == []
    refused = Departure(NOW + 59_000, "a", "r", 1, refused=True)
    assert overfull(limits, ZONES[0], [*fits[:2], refused]) == []
    short = (parse_limit("2/2s", "app", "test"),)
    assert len(overfull(short, ZONES[0], [*fits[:2], replace(refused, at=NOW)])) == 1


@given(
    limits=rules("11s", "min", "h", "24h", "day"),
    seed=st.integers(0, 2**32),
)
def test_nothing_waits_longer_than_its_limits_demand(limits, seed):
    """At a granule before it is said to be ready, it would have exceeded a limit; what was refused
    makes room at once, unless its window was over already."""
    chance, zone, now = random.Random(seed), ZONES[seed % 3], NOW
    quota, left = Quota(limits, zone), []
    refused: list[tuple[Departure, float]] = []
    """And the moment of each refusal."""
    for _ in range(120):
        now += chance.choice((0.0, 40.0, 5_000.0, 500_000.0))
        one = Departure(now, chance.choice("ab"), chance.choice("rs"), chance.choice((1, 1, 2)))
        ready = quota.ready(one.app, one.recipient, one.units, now)
        if ready.at_ms == math.inf:
            assert any(limit.count < one.units for limit in limits)
            continue
        if ready.at_ms > now:
            binding = [
                rule for rule in limits if (rule.text, rule.per) == (ready.limit, ready.scope)
            ]
            window = binding[0].window_ms
            slack = guarded_ms(window) - window + 2 * max(1, window // RUNS) + 1 if window else 1
            too_early = Departure(ready.at_ms - slack, one.app, one.recipient, one.units)
            over = [each for each, at in refused if window and at >= each.at + guarded_ms(window)]
            assert overfull(tuple(binding), zone, [*over, *left, too_early])
            now = ready.at_ms
            one.at = now
            assert quota.ready(one.app, one.recipient, one.units, now).at_ms == now
        quota.take(one.app, one.recipient, one.units, now)
        quota.move(one.app, one.recipient, one.units, now, now)
        left.append(one)
        if chance.random() < 0.4:
            no = chance.choice(left[-3:])
            left.remove(no)
            refused.append((no, now))
            quota.withdraw(no.app, no.recipient, no.units, no.at, now)
    assert overfull(limits, zone, left) == []


@given(limits=rules("s", "2s", "10s"), seed=st.integers(0, 2**32))
def test_an_account_that_may_send_does(limits, seed):
    """All that waits leaves in the time its limits give it one after the other: nothing starves."""
    chance = random.Random(seed)
    account = Account(limits, ZONES[0], chance, 2.0)
    sizes = [chance.choice((1, 1, 2, 5, 15)) for _ in range(40)]
    account.waiting = [Attempt("a", chance.choice("rs"), units) for units in sizes]
    account.chance = random.Random(1)
    demanded = sum(
        sum(math.ceil(max(units, limit.count) / limit.count) + 1 for units in sizes)
        * guarded_ms(limit.window_ms)
        for limit in limits
    )
    while account.waiting or account.open:
        assert account.now <= NOW + demanded + 10_000
        account.step(60_000)
    assert overfull(limits, ZONES[0], account.left) == []


@given(data=st.binary(max_size=80))
def test_what_cannot_be_read_is_said_so_whatever_it_is(data):
    limits = tuple(
        parse_limit(text, per, "test")
        for text in ("5/min", "5/day", "5/month")
        for per in ("account", "recipient")
    )
    quota = Quota(limits, ZONES[0])
    for read in (quota.load, lambda one, now: quota.recipient_load("r", one, now)):
        try:
            read(data, NOW)
        except StateError:
            continue  # as it should be; nothing else may be raised
        assert quota.ready("a", "r", 1, NOW).at_ms >= NOW


@pytest.mark.parametrize("seed", range(4))
def test_what_was_written_is_never_freer_than_what_was_counted(seed):
    chance, now = random.Random(seed), NOW
    limits = (parse_limit("500/min", "account", "test"), parse_limit("40/h", "recipient", "test"))
    quota, written = Quota(limits, ZONES[0]), Quota(limits, ZONES[0])
    for _ in range(2_000):
        now += chance.uniform(0, 200)
        quota.take("a", "r", 1, now)
        if chance.random() < 0.9:
            quota.move("a", "r", 1, now, now)
        else:
            quota.give_back("a", "r", 1, now)
        if chance.random() < 0.1:
            quota.withdraw("a", "r", 1, now, now)
        if chance.random() < 0.05:
            written = Quota(limits, ZONES[0])
            written.load(quota.dump(now), now)
            for units in (1, 7, 39, 40):
                exact = quota.ready("a", "r", units, now).at_ms
                assert exact <= written.ready("a", "r", units, now).at_ms or exact > now
