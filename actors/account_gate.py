"""Whether and when an account may send: its connection, its limits, its circuit, in one place.

The long limits count what the provider takes: what it has refused for the moment is given back, but
not what it may have taken at an earlier try. The short ones count every try.
"""

from __future__ import annotations

import math
from functools import lru_cache

from actors.account_queue import Entry
from actors.account_state import Attempt
from actors.breaker import Breaker, BreakerSettings
from actors.pacer import Pacer
from actors.quota import Quota
from actors.window import SHORT_MS, Limit, Ready, Scope, parse_limit
from channels.accounts import AccountConfig
from channels.provider import Answer, Link

OPEN_AHEAD_MS = 50.0
"""Attempts are claimed this long before their departure: a commit takes less, so that departures
are on time although each is durable first."""
CLAIM_MS = 2_000.0
"""A claim is good for this long: what has not left by then is claimed anew. So a host that stood
still, and was replaced in the meantime, puts nothing on the wire afterwards; and an owner that
finds claims of another waits as long before it sends, and counts them as having left then."""
BLOCKED_LOOK_MS = 60_000.0
"""A limit that is used up is asked again at least this often: clocks are set."""

RETRY_FIRST_MS = 1_000
"""Before another try of what was not taken; twice as long each time, up to RETRY_MAX_MS."""
RETRY_MAX_MS = 60_000
THROTTLE_MS = 1_000
"""Pause after a slow-down that names no time."""
NOT_LEFT_MS = 200
"""Before another try of what never left: the connection was lost under it."""


class Gate:
    """Pacer (short limits, asked at departure), quota (long ones, counted at the claim), breaker
    and link of one account."""

    __slots__ = (
        "_resend",
        "_settled_ms",
        "blocked_by",
        "blocked_ms",
        "breaker",
        "config",
        "counts",
        "counts_recipients",
        "link",
        "pacer",
        "quota",
        "unsaved",
    )

    def __init__(
        self, config: AccountConfig, used: bytes, now: int, owned_ms: int, *, resend: bool
    ) -> None:
        """`used`: what `dump` of an earlier owner said, who may have sent until `owned_ms`;
        `resend`: the provider's."""
        self._resend = resend
        self.link = Link(0, "not connected yet")
        self.blocked_by = ""
        """Which limit of the whole account lets nothing leave, until `blocked_ms`."""
        self.blocked_ms = 0.0
        self.config = config
        limits = limits_of(config)
        self.pacer = Pacer(limits)
        self.pacer.restarted(owned_ms)
        self.quota = Quota(limits, config.timezone)
        if used:
            self.quota.load(used, now)
        self.breaker = Breaker(_breaker_settings(config))
        self.breaker.link(False, now)
        self._settled_ms = 0.0
        self.unsaved = False
        """The long limits have counted something that is not written down."""
        self._look_at(limits)

    def configure(self, config: AccountConfig, now: int) -> None:
        """Take a reloaded configuration. What was used up of the limits stays so."""
        before, self.config = self.config, config
        limits = limits_of(config)
        self.blocked_ms = 0.0
        if limits != limits_of(before) or config.timezone != before.timezone:
            self.quota = self.quota.configured(limits, config.timezone, now)
            self.pacer = Pacer(limits)
            self.pacer.restarted(now)
            self._look_at(limits)
        if _breaker_settings(config) != _breaker_settings(before):
            self.breaker = Breaker(_breaker_settings(config))
            self.breaker.link(self.link.window > 0, now)

    def _look_at(self, limits: tuple[Limit, ...]) -> None:
        self.counts = any(limit.window_ms > SHORT_MS or limit.calendar for limit in limits)
        """Whether there is anything to remember."""
        self.counts_recipients = any(limit.per == "recipient" for limit in limits)

    def settle(self, used: bytes, now: int) -> None:
        """A former owner has left claims, and may still be there."""
        until = now + CLAIM_MS
        if self._settled_ms >= until:
            return
        self._settled_ms = until
        self.pacer.pause("account", "", until)
        self.pacer.restarted(until)
        if used:
            self.quota = Quota(limits_of(self.config), self.config.timezone)
            self.quota.load(used, until)

    # ---- asking ----------------------------------------------------------------------------------

    def ready_ms(self, entry: Entry, open_units: int, soon_units: int, now: int) -> float:
        """When the account may claim another attempt: `now` for at once, infinite until it is told
        something.

        `open_units`: claimed and unanswered; `soon_units`: of these, not on the wire yet.
        """
        units, window = entry.attempt.units, self.link.window
        if window <= 0 or (open_units and open_units + units > window):
            return math.inf
        if self.blocked_ms > now and not entry.quota_ms:
            return min(self.blocked_ms, now + BLOCKED_LOOK_MS)
        allowed = self.breaker.ready_ms(now)
        if allowed > now:
            return allowed
        paused = self.pacer.paused_until(now)
        if paused > now + OPEN_AHEAD_MS:
            return paused - OPEN_AHEAD_MS
        if soon_units and self.pacer.allowance(now, OPEN_AHEAD_MS) <= soon_units:
            return now + OPEN_AHEAD_MS / 2
        return now

    def quota_ready(self, entry: Entry, now: int) -> Ready:
        """When the long limits let it be claimed."""
        return self.quota.ready(*_counted(entry.attempt), now, entry.quota_ms)

    def departure(self, attempt: Attempt, now: float) -> Ready:
        """When the short limits let it leave."""
        return self.pacer.ready(attempt.app, attempt.recipient, attempt.units, now)

    def broken(self, now: int) -> bool:
        """It cannot send, and not only for a moment."""
        return self.link.config or self.breaker.state(now) == "open"

    # ---- counting --------------------------------------------------------------------------------

    def claimed(self, entry: Entry, now: int) -> None:
        """An attempt is claimed."""
        self.quota.take(*_counted(entry.attempt), now, entry.quota_ms)
        entry.quota_ms = now
        self.unsaved = self.counts
        self.breaker.sent(now)

    def departed(self, entry: Entry, now: float) -> None:
        """It leaves now."""
        attempt = entry.attempt
        self.pacer.take(attempt.app, attempt.recipient, attempt.units, now)
        self.quota.move(*_counted(attempt), entry.quota_ms, now)
        entry.quota_ms = entry.left_ms = now

    def returned(self, entry: Entry, now: int) -> None:
        """What was claimed will not leave, or it has left and was not taken: the long limits do not
        count it. The short ones do: a provider counts requests."""
        counted, at = _counted(entry.attempt), entry.quota_ms
        self.unsaved = self.counts
        if not entry.left_ms:
            self.breaker.unsent()
        if self._may_be_taken(entry.attempt):
            if not entry.left_ms:
                self.quota.move(*counted, at, now)
                entry.quota_ms = now
            return
        if entry.left_ms:
            self.quota.withdraw(*counted, at, now)
        else:
            self.quota.give_back(*counted, at)
        entry.quota_ms = 0.0
        self.blocked_ms = 0.0  # by what is given back, maybe: it is asked again

    def _may_be_taken(self, attempt: Attempt) -> bool:
        """By an earlier try, or nobody can tell which of its units."""
        ids = attempt.ids
        return (self._resend and attempt.unsure) or (any(ids) and len(ids) != attempt.units)

    # ---- what the provider says ------------------------------------------------------------------

    def heard(self, answer: Answer, now: int) -> None:
        """How the provider does. That it refuses a message, or a pace, says that it works."""
        if answer.kind == "unknown" or answer.failure in ("provider", "config"):
            self.breaker.failed(now)
        elif answer.kind in ("accepted", "failed"):
            self.breaker.succeeded(now)
        else:
            self.breaker.unsent()

    def pause(self, scope: Scope, key: str, wait_ms: int, now: int) -> float:
        """A slow-down, learned once for the whole scope; returns the ms by which the account's
        pause has grown: those that were in flight beside the first add nothing."""
        before = max(float(now), self.pacer.paused_until(now))
        self.pacer.pause(scope, key, now + wait_ms)
        if scope in ("app", "recipient"):
            return 0.0
        if before <= now:
            self.pacer.throttled(now)
        return max(0.0, now + wait_ms - before)

    def forget_idle(self, now: int) -> None:
        """Give the memory of what does not count any more back."""
        self.pacer.forget_idle(now)
        self.quota.forget_idle(now)

    def idle(self, now: int) -> bool:
        """Whether nothing is remembered that is not written down, or counts no more."""
        if self.unsaved or self.blocked_ms > now or self.breaker.state(now) != "closed":
            return False
        return self.pacer.idle(now)

    def rest(self, now: int) -> None:
        """It leaves memory: what has left is written down as that, not as open."""
        self.quota.rest(now)
        self.unsaved = self.counts

    def changed(self, link: Link, now: int) -> bool:
        """The connection; returns whether it has just been lost."""
        was_up, self.link = self.link.window > 0, link
        self.breaker.link(link.window > 0, now)
        return was_up and link.window <= 0


def _counted(attempt: Attempt) -> tuple[str, str, int]:
    """What the long limits count it for, and how many units: without parts that were taken by an
    earlier try, which count since then."""
    units, ids = attempt.units, attempt.ids
    if len(ids) == units:
        units = ids.count("")
    return attempt.app, attempt.counted_for, units


def wait_of(answer: Answer, tries: int) -> int:
    """How long, in ms, what was not taken waits before the next of its `tries`."""
    if answer.retry_after_ms:
        return answer.retry_after_ms
    if answer.kind == "throttled":
        return THROTTLE_MS
    if not answer.code:
        return NOT_LEFT_MS
    return min(RETRY_FIRST_MS << min(tries - 1, 16), RETRY_MAX_MS)


def limits_of(config: AccountConfig) -> tuple[Limit, ...]:
    """The limits in force for an account. Raises ConfigError."""
    return tuple(
        parse_limit(text, per, f"account {config.name}: limits.{per}")
        for per in ("account", "app", "recipient")
        for text in config.limits_of(per)
    )


@lru_cache(maxsize=256)
def _settings_of(failures: int, down_ms: int, open_ms: int, open_max_ms: int) -> BreakerSettings:
    """One object for all accounts that are configured alike."""
    return BreakerSettings(failures, down_ms, open_ms, open_max_ms)


def _breaker_settings(config: AccountConfig) -> BreakerSettings:
    return _settings_of(
        config.breaker.failures,
        config.ms("breaker.link"),
        config.ms("breaker.open"),
        config.ms("breaker.open_max"),
    )
