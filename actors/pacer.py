"""The short limits of an account (rolling, ten seconds and less), asked as something departs.

Two things at once. The account's departures are spread evenly at its tightest limit, by the virtual
scheduling form of the generic cell rate algorithm (ITU-T I.371): the next unit is due one interval
after the last was due, not after it left, so that timers which fire late cost no rate; up to
BURST_MS of lateness are made up for. And every window, of the account, the application and the
recipient, is counted exactly, so that no making up ever overfills one.

A message with more units than a short limit allows (12 segments under 10/s) leaves alone, when the
window is empty, and fills it: its parts cannot be held back one by one, and waiting would not help
it. What follows waits until the account's rate has caught up with all of its units.

After a throttle the account goes at half its rate and gets the other half back evenly within a
minute. Further throttles halve what there is (those of one second are one), and it comes back as
slowly. An account without a short limit is halved from the rate it was last measured at, and freed
when it has that again.

Nothing is written down: after a crash nothing leaves for the longest short window. Times are Unix
milliseconds and arguments; nothing here reads a clock. Source: ADR 6.
"""

from __future__ import annotations

from typing import Literal

from actors.window import Limit, Ready, Scope, Window, guarded_ms, plan_of

__all__ = ["Pacer"]

BURST_MS = 50.0
"""Lateness that is made up for, in ms of the account's rate: at 500/s up to 25 units leave at once,
at 50/s two or three. A busy machine is late by some ten ms now and then; what is not made up for is
lost, while the exact windows hold whatever is."""
UNLIMITED = 1_000_000
"""What an account without short limits is said to allow: no other bound is as large."""
RECIPIENTS = 50_000
"""Recipients of the last ten seconds one account counts for: 5,000 a second; 500 bytes each. The
next waits until the first of them is forgotten. Only limits per recipient make it remember any."""
APPS = 1_024
"""Applications likewise."""
PAUSES = 8_192
"""Applications and recipients paused at once. Beyond, the pause that ends first is given up: the
provider will say it again."""
SLOW_LEAST = 1 / 64
"""The part of its rate an account is never throttled below."""
SLOW_RECOVERY_MS = 60_000
"""After one throttle the full rate is back after this."""
SLOW_ONCE_MS = 1_000
"""Throttles this soon after the last one are about the same burst, and halve nothing."""
MEASURED_MS = 1_000
"""The rate of an account without limits is that of the last full stretch of this, or of the one
under way if that has more."""


class Pacer:
    """When the next departure of an account may be, by its short limits. Small while idle."""

    __slots__ = (
        "_account",
        "_apps",
        "_burst_ms",
        "_due_ms",
        "_interval_ms",
        "_measured",
        "_paused_ms",
        "_pauses",
        "_plan",
        "_recipients",
        "_restarted_ms",
        "_slow",
        "_tightest",
    )

    def __init__(self, limits: tuple[Limit, ...], burst_ms: float = BURST_MS) -> None:
        self._plan = plan_of(limits, True)
        self._burst_ms = burst_ms
        self._interval_ms = 0.0
        """Between two units at the account's full rate; 0 without a limit."""
        self._tightest = ""
        for limit in self._plan.account:
            interval = guarded_ms(limit.window_ms) / limit.count
            if interval > self._interval_ms:
                self._interval_ms, self._tightest = interval, limit.text
        self._due_ms = 0.0
        """When the next unit is due at an even rate."""
        self._account: list[Window] | None = None
        self._apps: _Keyed | None = None
        self._recipients: _Keyed | None = None
        self._restarted_ms = 0.0
        """Until then nothing leaves, because of what may have left before a crash."""
        self._paused_ms = 0.0
        self._pauses: dict[tuple[str, str], float] | None = None
        self._slow: _Slow | None = None
        self._measured: _Measured | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any short limit to keep to."""
        return any(self._plan)

    # ---- asking and counting ---------------------------------------------------------------------

    def ready(self, app: str, recipient: str, units: int, now: float) -> Ready:
        """When so many units may leave together. Never inf: a large message goes alone."""
        at, scope, text = self._account_ready(units, now)
        if self._plan.app:
            earliest, limit = self._keyed("app").ready(app, units, now)
            if earliest > at:
                at, scope, text = earliest, "app", limit
        if self._plan.recipient:
            earliest, limit = self._keyed("recipient").ready(recipient, units, now)
            if earliest > at:
                at, scope, text = earliest, "recipient", limit
        if self._pauses:
            for per, key in (("app", app), ("recipient", recipient)):
                earliest = self._pauses.get((per, key), 0.0)
                if earliest > at:
                    at, scope, text = earliest, per, "paused"  # type: ignore[assignment]
        return Ready(at, scope, text)

    def take(self, app: str, recipient: str, units: int, now: float) -> None:
        """So many units leave now."""
        interval = self._interval(now)
        if interval:
            self._due_ms = max(self._due_ms, now) + units * interval
        if self._plan.account:
            if self._account is None:
                self._account = [Window(limit) for limit in self._plan.account]
            _take(self._account, units, now)
        else:
            if self._measured is None:
                self._measured = _Measured()
            self._measured.take(units, now)
        if self._plan.app:
            self._keyed("app").take(app, units, now)
        if self._plan.recipient:
            self._keyed("recipient").take(recipient, units, now)

    def allowance(self, now: float, lead_ms: float) -> int:
        """About how many units may leave the account in the next `lead_ms`: what to open ahead."""
        blocked = max(self._restarted_ms, self._paused_ms)
        if blocked > now:
            lead_ms -= blocked - now
            now = blocked
        if lead_ms < 0:
            return 0
        allowed = UNLIMITED
        interval = self._interval(now)
        if interval:
            ahead = now + lead_ms - self._due_ms + self._burst_ms
            # An idle account is due long since, but has gathered no more than the burst.
            ahead = min(ahead, lead_ms + self._burst_ms)
            allowed = int(ahead // interval) + 1 if ahead >= 0 else 0
        for window in self._account or ():
            allowed = min(allowed, window.free_within(now, lead_ms))
        return allowed

    def forget_idle(self, now: float) -> None:
        """Give the memory of what does not count any more back."""
        if self._account and all(window.empty_ms() <= now for window in self._account):
            self._account = None
        if self._apps and self._apps.empty(now):
            self._apps = None
        if self._recipients and self._recipients.empty(now):
            self._recipients = None
        if self._pauses is not None:
            self._pauses = {key: end for key, end in self._pauses.items() if end > now} or None
        if self._measured is not None and self._measured.per_ms(now) == 0:
            self._measured = None
        self._interval(now)

    def idle(self, now: float) -> bool:
        """Whether nothing counts any more and nothing is paused; after `forget_idle`."""
        if self._account or self._apps or self._recipients or self._pauses or self._slow:
            return False
        return max(self._paused_ms, self._restarted_ms) <= now

    # ---- what the provider says ------------------------------------------------------------------

    def pause(self, scope: Scope, key: str, until_ms: float) -> None:
        """The provider wants nothing until then: of the account (`key` is not looked at), one
        application or one recipient. Of two pauses the later one stands."""
        if scope not in ("app", "recipient"):
            self._paused_ms = max(self._paused_ms, until_ms)
            return
        if self._pauses is None:
            self._pauses = {}
        pauses = self._pauses
        if len(pauses) >= PAUSES and (scope, key) not in pauses:
            del pauses[min(pauses, key=pauses.__getitem__)]
        pauses[scope, key] = max(until_ms, pauses.get((scope, key), 0.0))

    def paused_until(self, now: float) -> float:
        """The end of the account's pause, or of the wait after a restart; 0 when there is none."""
        until = max(self._paused_ms, self._restarted_ms)
        return until if until > now else 0.0

    def restarted(self, now: float) -> None:
        """Nothing is known of the last seconds: wait for the longest short window."""
        longest = max((limit.window_ms for per in self._plan for limit in per), default=0)
        if longest:
            self._restarted_ms = now + guarded_ms(longest)

    def throttled(self, now: float) -> None:
        """The provider refused because it is too much: half the rate."""
        self._interval(now)  # ends what is over
        if self._slow is None:
            interval = self._interval_ms
            if not interval:
                per_ms = self._measured.per_ms(now) if self._measured else 0.0
                interval = 1 / max(per_ms, 1 / MEASURED_MS)
            self._slow = _Slow(interval, now)
        else:
            self._slow.again(now)

    # ---- inside ----------------------------------------------------------------------------------

    def _account_ready(self, units: int, now: float) -> tuple[float, Scope, str]:
        at, text = now, ""
        if self._restarted_ms > at:
            at, text = self._restarted_ms, "restarted"
        if self._paused_ms > at:
            at, text = self._paused_ms, "paused"
        interval = self._interval(now)
        if interval and self._due_ms - self._burst_ms > at:
            at = self._due_ms - self._burst_ms
            text = "slowed" if self._slow else self._tightest
        for window in self._account or ():
            earliest = window.ready_ms(min(units, window.limit.count), now)
            if earliest > at:
                at, text = earliest, window.limit.text
        return at, "account" if at > now else "", text

    def _interval(self, now: float) -> float:
        """Between two units at the rate there is now; 0 when the account has none."""
        if self._slow is not None:
            part = self._slow.part(now)
            if part < 1:
                return self._slow.interval_ms / part
            self._slow = None
        return self._interval_ms

    def _keyed(self, per: Literal["app", "recipient"]) -> _Keyed:
        if per == "app":
            if self._apps is None:
                self._apps = _Keyed(self._plan.app, APPS)
            return self._apps
        if self._recipients is None:
            self._recipients = _Keyed(self._plan.recipient, RECIPIENTS)
        return self._recipients


class _Keyed:
    """The windows of each application or recipient, in the order of their last departure.

    All have the same limits, so the first is also the first that does not count any more.
    """

    __slots__ = ("_known", "_limits", "_most")

    def __init__(self, limits: tuple[Limit, ...], most: int) -> None:
        self._limits = limits
        self._most = most
        self._known: dict[str, list[Window]] = {}

    def ready(self, key: str, units: int, now: float) -> tuple[float, str]:
        """The earliest moment, and the limit that binds."""
        windows = self._known.get(key)
        if windows is None:
            if len(self._known) >= self._most:
                self._forget(now)
            if len(self._known) < self._most:
                return now, ""
            return self._first_empty_ms(), "full"
        at, text = now, ""
        for window in windows:
            earliest = window.ready_ms(min(units, window.limit.count), now)
            if earliest > at:
                at, text = earliest, window.limit.text
        return at, text

    def take(self, key: str, units: int, now: float) -> None:
        self._forget(now)
        windows = self._known.pop(key, None) or [Window(limit) for limit in self._limits]
        _take(windows, units, now)
        self._known[key] = windows

    def empty(self, now: float) -> bool:
        """Whether nothing counts any more."""
        return all(_empty_ms(windows) <= now for windows in self._known.values())

    def _forget(self, now: float) -> None:
        """Drop two that do not count any more: more than one departure adds."""
        for _ in range(2):
            if self._known and self._first_empty_ms() <= now:
                del self._known[next(iter(self._known))]

    def _first_empty_ms(self) -> float:
        return _empty_ms(next(iter(self._known.values())))


class _Slow:
    """The part of its rate an account goes at after throttles: halved, and growing evenly."""

    __slots__ = ("_from", "_since_ms", "interval_ms")

    def __init__(self, interval_ms: float, now: float) -> None:
        self.interval_ms = interval_ms
        """Between two units at the full rate."""
        self._from = 0.5
        self._since_ms = now

    def part(self, now: float) -> float:
        """1 and more when it is over."""
        return self._from + 0.5 * max(0.0, now - self._since_ms) / SLOW_RECOVERY_MS

    def again(self, now: float) -> None:
        if now - self._since_ms >= SLOW_ONCE_MS:
            self._from = max(SLOW_LEAST, min(1.0, self.part(now)) / 2)
            self._since_ms = now


class _Measured:
    """Units a millisecond that left lately."""

    __slots__ = ("_before", "_begun_ms", "_units")

    def __init__(self) -> None:
        self._begun_ms = 0.0
        self._units = 0
        self._before = 0

    def take(self, units: int, now: float) -> None:
        self._turn(now)
        self._units += units

    def per_ms(self, now: float) -> float:
        self._turn(now)
        return max(self._units, self._before) / MEASURED_MS

    def _turn(self, now: float) -> None:
        gone = now - self._begun_ms
        if gone >= MEASURED_MS:
            self._before = self._units if gone < 2 * MEASURED_MS else 0
            self._units, self._begun_ms = 0, now


def _take(windows: list[Window], units: int, now: float) -> None:
    """A message larger than a window fills it."""
    for window in windows:
        window.take(min(units, window.limit.count), now)


def _empty_ms(windows: list[Window]) -> float:
    return max((window.empty_ms() for window in windows), default=0.0)
