"""How much may leave in any stretch of time: limits as they are configured, and what counts them.

A limit is a number of units (segments of an SMS, else messages) in a stretch of time: rolling
("50/s": in any second, wherever it begins) or of the calendar ("10/day": on one date in the
account's zone). A unit is *open* from the turn that claims it until it has left or is known to
stay: open units count in every stretch that ends now or later, for they may leave at any moment.
So departures late by whatever cause never make a window fuller than its limit. Units that left and
were not taken can be withdrawn, while it is certain that they are still counted.

Times are Unix milliseconds and arguments; nothing here reads a clock. When a clock goes back, what
was counted stays where it was: more waits, never less.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from hub.errors import ConfigError
from hub.policy.localtime import DAY_MS, period

Per = Literal["account", "app", "recipient"]
Scope = Literal["account", "app", "recipient", ""]

PERS: tuple[Per, ...] = ("account", "app", "recipient")
COUNT_MAX = 1_000_000_000
"""The largest number of a limit: sums stay exact, and whoever means more means no limit."""
DAYS_OF_MONTH = 31
ROLLING_MAX_MS = 31 * DAY_MS
"""The longest rolling window: a month. What is counted must be remembered as long."""
SHORT_MS = 10_000
"""Rolling windows up to here are the pacer's, and not written down: after a crash an account can
wait that long instead. All others are the quota's."""
RUNS = 1_000
"""A window is counted in about so many runs at most: 16 KB of memory, and 0.1 % of its length is
what a unit may be counted for too long."""
RUNS_KEPT = 60
"""And is written down in so many at most: 120 to 300 bytes with a turn."""
COARSE_GRAINS = 18
"""Grains in one of these larger runs: 1,000 grains, the guard and a begun run are 57 of them."""
GUARD = 0.004
"""A rolling window is taken to be longer by this part (4 ms on a second): two units that leave as
far apart as allowed may arrive a little nearer to each other."""
GUARD_MAX_MS = 50.0
"""And by this at most: what a network's jitter is does not depend on how long a window is."""

_UNITS_MS = {"s": 1_000, "min": 60_000, "h": 3_600_000}
_LIMIT = re.compile(
    r"(?P<count>\d{1,10}|days)/(?P<times>\d{0,7})(?P<unit>s|min|h|day|week|month)", re.ASCII
)
_ALLOWED = (
    'a number of units in a time, such as "50/s", "3000/min", "150000/h", "5/10s", "5/24h" '
    '(rolling, up to 744h), "10/day", "7/week", "100/month" (of the calendar, in the account\'s '
    'zone), "days/month" (as many as the month has days)'
)
_CALENDAR = ("day", "month", "week")  # by their place they are named in what is written down


class Limit(Struct, frozen=True):
    """At most `count` units in a stretch of time, each counted for itself by `per`."""

    count: int
    """0: as many as the month has days."""
    window_ms: int
    """Length of a rolling window; 0 for the calendar."""
    calendar: Literal["", "day", "month", "week"]
    per: Per
    text: str
    """As it was configured: what people are told."""

    @property
    def most(self) -> int:
        """The largest number it can allow."""
        return self.count or DAYS_OF_MONTH

    @property
    def key(self) -> int:
        """What tells windows of one account apart in what is written down; counts may change."""
        return self.window_ms or -_CALENDAR.index(self.calendar) - 1


class Ready(Struct, frozen=True, gc=False):
    """The earliest moment something may leave, and what it waits for."""

    at_ms: float
    """Not before the moment asked about, which means now; inf for never."""
    scope: Scope = ""
    """Who has to wait: the account, the application, the recipient; "" when nobody does."""
    limit: str = ""
    """Text of the limit that binds, or what else does: "paused", "slowed", "restarted", "full"."""


def parse_limit(text: str, per: str, place: str) -> Limit:
    """Read one limit of the configuration. Raises ConfigError naming `place`."""
    if per not in PERS:
        raise ConfigError(f'{place}: limits are per {", ".join(PERS)}, not "{per}"', place=place)
    match = _LIMIT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f'{place}: "{text}" is not a limit: write {_ALLOWED}', place=place)
    unit = match["unit"]
    if match["count"] == "days":
        if unit != "month" or match["times"]:
            raise ConfigError(f'{place}: "{text}": days are counted of a month', place=place)
        return Limit(0, 0, "month", per, text.strip())  # type: ignore[arg-type]
    count = int(match["count"])
    if not 1 <= count <= COUNT_MAX:
        raise ConfigError(
            f'{place}: "{text}": the number must be 1 to {COUNT_MAX}; '
            "leave the limit out for none, switch the account off for nothing",
            place=place,
        )
    if unit in _CALENDAR:
        if match["times"]:
            raise ConfigError(
                f'{place}: "{text}": days, weeks and months are of the calendar, one at a time; '
                'a rolling day is "/24h"',
                place=place,
            )
        return Limit(count, 0, unit, per, text.strip())  # type: ignore[arg-type]
    window = int(match["times"] or 1) * _UNITS_MS[unit]
    if not 1 <= window <= ROLLING_MAX_MS:
        raise ConfigError(f'{place}: "{text}": a window is 1 s to 744 h long', place=place)
    return Limit(count, window, "", per, text.strip())  # type: ignore[arg-type]


class Plan(NamedTuple):
    """The limits of an account, of one application of it, of one recipient."""

    account: tuple[Limit, ...]
    app: tuple[Limit, ...]
    recipient: tuple[Limit, ...]


@lru_cache(maxsize=1_024)
def plan_of(limits: tuple[Limit, ...], short: bool) -> Plan:
    """The rolling limits up to SHORT_MS, or all others; of the same windows the smallest.

    Accounts with the same limits share the answer.
    """
    plan: dict[Per, dict[int, Limit]] = {per: {} for per in PERS}
    for limit in limits:
        if (0 < limit.window_ms <= SHORT_MS) == short:
            known = plan[limit.per].get(limit.key)
            if known is None or limit.most < known.most:
                plan[limit.per][limit.key] = limit
    return Plan(*(tuple(plan[per].values()) for per in PERS))


def guarded_ms(window_ms: int) -> float:
    """The length at which a rolling window is counted."""
    return window_ms + min(window_ms * GUARD, GUARD_MAX_MS)


Number = Annotated[int, Meta(ge=0, le=2**47)]
"""Moments to beyond the year 6000, and sums that fit 64 bits, whatever bytes are read."""


class Kept(Struct, array_like=True, gc=False):
    """One window as it is written down."""

    key: int
    open: Number
    base: Number
    """Rolling: when the first run left, in grains; calendar: when the last unit did, in ms."""
    runs: Annotated[list[Number], Meta(max_length=4 * RUNS_KEPT)]
    """Rolling: units of the first run, then grains since the one before and units of each other;
    calendar: units."""


class Window:
    """At most `count` units in any (t - window, t], counted exactly but for the grain.

    What leaves within one grain (a thousandth of the window, at least 1 ms) is one run, and counts
    as though all of it had left with its last: for a little too long, never too short. Written down
    it stands at the end of its grain. Grains lie on one grid, and larger runs are whole grains, so
    that being written down and read again many times moves nothing further than once.
    """

    __slots__ = ("_at", "_gone", "_grain_ms", "_sum", "_window_ms", "limit", "open")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.open = 0
        """Units that may leave at any moment."""
        self._window_ms = guarded_ms(limit.window_ms)
        self._grain_ms = max(1, limit.window_ms // RUNS)
        self._at = array("d")
        """When the last unit of each run left; rising."""
        self._sum = array("q")
        """Units that had left by then, with that run."""
        self._gone = 0
        """Of these, units of runs that are out of the window."""

    def used(self, now: float) -> int:
        """Units that count now."""
        self._drop(now)
        return (self._sum[-1] - self._gone if self._sum else 0) + self.open

    def ready_ms(self, units: int, now: float) -> float:
        """The first moment at which `units` more may leave; inf when they are more than a window.

        As though all that is open left now: ask again when some of it was given back.
        """
        count = self.limit.count
        excess = self.used(now) + units - count
        if excess <= 0:
            return now
        if units > count:
            return math.inf
        index = bisect_left(self._sum, self._gone + excess)
        return (self._at[index] if index < len(self._at) else now) + self._window_ms

    def free_within(self, now: float, lead_ms: float) -> int:
        """About how many units may leave until `lead_ms` from now."""
        self._drop(now)
        index = bisect_right(self._at, now + lead_ms - self._window_ms)
        expiring = self._sum[index - 1] - self._gone if index else 0
        more = int(lead_ms // self._window_ms) * self.limit.count
        return max(0, self.limit.count - self.used(now) + expiring + more)

    def take(self, units: int, at: float) -> None:
        """Units left at `at` without having been open."""
        times, sums = self._at, self._sum
        if times:
            last, grain = times[-1], self._grain_ms
            total = sums[-1] + units
            if at < last:
                at = last
            if -at // grain == -last // grain:  # both are in (k, k + 1] grains
                times[-1], sums[-1] = at, total
                return
        else:
            total = self._gone + units
        self._drop(at)
        times.append(at)
        sums.append(total)

    def claim(self, units: int) -> None:
        """Units may leave from now on."""
        self.open += units

    def move(self, units: int, to_at: float) -> None:
        """Open units left at `to_at`."""
        self.give_back(units)
        self.take(units, to_at)

    def give_back(self, units: int) -> None:
        """Open units will not leave."""
        self.open = max(0, self.open - units)

    def holds(self, units: int, at: float, now: float) -> bool:
        """Whether units that this window has seen leave at `at` are certain to count still."""
        return self._run_of(at, now)[1] >= units

    def withdraw(self, units: int, at: float, now: float) -> None:
        """Units that this window has seen leave at `at` do not count. Nothing happens when they may
        have left the window already."""
        index, within = self._run_of(at, now)
        gone = min(units, within)
        if not gone:
            return
        for later in range(index, len(self._sum)):
            self._sum[later] -= gone
        if gone == within:
            del self._at[index], self._sum[index]

    def _run_of(self, at: float, now: float) -> tuple[int, int]:
        """The run that counts what left at `at`, and its units; 0 units when it may be gone.

        It is the first that ends then or later. Whatever was merged meanwhile, of all moments since
        which at least so many units count as have left, none is wronged when one departure is taken
        out of that run: those up to `at` lose what has left, those behind its end lose nothing, and
        between them no other run ends.
        """
        index = bisect_left(self._at, at)
        if at + self._window_ms <= now or index == len(self._at):
            return 0, 0
        return index, self._sum[index] - (self._sum[index - 1] if index else self._gone)

    def empty_ms(self) -> float:
        """When nothing counts any more; inf while something is open."""
        if self.open:
            return math.inf
        return self._at[-1] + self._window_ms if self._at else 0.0

    def dump(self, now: float) -> Kept | None:
        """To be written down: at most RUNS_KEPT runs; None when there is nothing to remember."""
        self._drop(now)
        grain, ends = self._grain_ms, range(len(self._at))
        if len(ends) > RUNS_KEPT:
            ends = self._coarse_ends()  # type: ignore[assignment]
        base = before = 0
        summed = self._gone
        runs: list[int] = []
        for end in ends:
            at = math.ceil(self._at[end] / grain)
            if runs:
                runs.append(at - before)
            else:
                base = at
            runs.append(self._sum[end] - summed)
            before, summed = at, self._sum[end]
        return Kept(self.limit.key, self.open, base, runs) if runs or self.open else None

    def _coarse_ends(self) -> list[int]:
        """The last run of each of the larger ones."""
        coarse_ms = self._grain_ms * COARSE_GRAINS
        ends = []
        index = 0
        while index < len(self._at):
            index = bisect_right(self._at, -(-self._at[index] // coarse_ms) * coarse_ms)
            ends.append(index - 1)
        return ends

    def load(self, kept: Kept, latest: float = math.inf) -> None:
        """What was written down. Nothing of it left after `latest`."""
        grain, at = self._grain_ms, kept.base
        for index, number in enumerate(kept.runs):
            if index % 2:
                at += number
            else:
                self.take(number, min(float(at * grain), latest))
        self.open = kept.open

    def _drop(self, now: float) -> None:
        times, window = self._at, self._window_ms
        if not times or times[0] + window > now:
            return
        index = 1
        while index < len(times) and times[index] + window <= now:
            index += 1
        self._gone = self._sum[index - 1]
        del times[:index], self._sum[:index]


class CalendarWindow:
    """At most so many units on one date, in one ISO week or in one month, of a zone."""

    __slots__ = ("_end_ms", "_last_ms", "_left", "_zone", "limit", "open")

    def __init__(self, limit: Limit, zone: str) -> None:
        self.limit = limit
        self.open = 0
        self._zone = zone
        self._end_ms = 0.0
        """Of the date or month that `_left` was counted in."""
        self._left = 0
        self._last_ms = 0.0

    def used(self, now: float) -> int:
        """Units that count now."""
        return (self._left if now < self._end_ms else 0) + self.open

    def ready_ms(self, units: int, now: float) -> float:
        """Now, or the beginning of the next date, week or month; inf when units are more than fit
        one."""
        if self.used(now) + units <= self._count(now):
            return now
        if units > self.limit.most:
            return math.inf
        return float(max(self._end_ms, self._end_of(now)))

    def _count(self, now: float) -> int:
        if self.limit.count:
            return self.limit.count
        first, following = period(self._zone, "month", int(now))
        return round((following - first) / DAY_MS)

    def take(self, units: int, at: float) -> None:
        """Units left at `at` without having been open."""
        if at >= self._end_ms:
            self._end_ms, self._left = self._end_of(at), 0
        self._left += units
        self._last_ms = max(at, self._last_ms)

    def claim(self, units: int) -> None:
        """Units may leave from now on."""
        self.open += units

    def move(self, units: int, to_at: float) -> None:
        """Open units left at `to_at`."""
        self.give_back(units)
        self.take(units, to_at)

    def give_back(self, units: int) -> None:
        """Open units will not leave."""
        self.open = max(0, self.open - units)

    def holds(self, units: int, at: float, now: float) -> bool:
        """Whether units that this window has seen leave at `at` count still."""
        return self._left >= units and now < self._end_ms == self._end_of(at)

    def withdraw(self, units: int, at: float, now: float) -> None:
        """Units that this window has seen leave at `at` do not count, if they still do."""
        if self.holds(units, at, now):
            self._left -= units

    def empty_ms(self) -> float:
        """When nothing counts any more; inf while something is open."""
        return math.inf if self.open else self._end_ms

    def dump(self, now: float) -> Kept | None:
        """To be written down; None when there is nothing to remember."""
        left = self._left if now < self._end_ms else 0
        if not left and not self.open:
            return None
        return Kept(self.limit.key, self.open, math.ceil(self._last_ms), [left])

    def load(self, kept: Kept, latest: float = math.inf) -> None:
        """What was written down. Nothing of it left after `latest`."""
        if kept.runs and kept.runs[0]:
            self.take(kept.runs[0], min(float(kept.base), latest))
        self.open = kept.open

    def _end_of(self, at: float) -> float:
        return float(period(self._zone, self.limit.calendar, int(at))[1])


def window_of(limit: Limit, zone: str) -> Window | CalendarWindow:
    """What counts for a limit."""
    return CalendarWindow(limit, zone) if limit.calendar else Window(limit)
