"""The circuit of one account: while its provider fails, or cannot be reached, nothing is tried.

closed: everything goes. After `failures` failures in a row, or a link down for `down_ms`, it is
open: nothing goes for `open_ms`. Then it is half open: one delivery goes, a probe; its success
closes, its failure opens for twice as long as before, up to `open_max_ms`. A link that comes back
makes it half open at once.

What is a failure is the caller's business: no answer, an error of the provider's own. A provider
that refuses a message for what it says, or asks for a slower pace, works. Times are Unix
milliseconds and arguments; nothing is written down: after a restart the circuit is closed.
Source: ADR 6.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

State = Literal["closed", "open", "half_open"]


class BreakerSettings(Struct, frozen=True):
    """When a circuit opens, and for how long. One for all accounts that are configured alike."""

    failures: int = 10
    """In a row, in the order of the answers."""
    down_ms: int = 30_000
    """A link down for less is taken for a reconnection."""
    open_ms: int = 5_000
    """Until the first probe."""
    open_max_ms: int = 300_000
    """And between two probes at most."""


DEFAULTS = BreakerSettings()


class Breaker:
    """Whether deliveries may be tried with an account."""

    __slots__ = ("_down_ms", "_failed", "_open_ms", "_probing", "_settings", "_until_ms")

    def __init__(self, settings: BreakerSettings = DEFAULTS) -> None:
        self._settings = settings
        self._failed = 0
        """Failures since the last success."""
        self._open_ms = 0.0
        """How long it was opened for last; 0 while it is closed."""
        self._until_ms = 0.0
        """When it is half open, if it is not closed."""
        self._probing = False
        """A probe is on its way."""
        self._down_ms: float | None = None
        """Since when the link is down."""

    def state(self, now: float) -> State:
        """What the circuit is now."""
        if self._link_open(now):
            return "open"
        if not self._open_ms:
            return "closed"
        return "open" if now < self._until_ms else "half_open"

    def allowed(self, now: float) -> bool:
        """Whether one more delivery may leave now."""
        return self.ready_ms(now) <= now

    def ready_ms(self, now: float) -> float:
        """When the next delivery may leave, as far as known; inf while only an answer or the link
        can tell."""
        if self._link_open(now):
            return math.inf
        if not self._open_ms:
            return now
        return math.inf if self._probing else max(now, self._until_ms)

    def sent(self, now: float) -> None:
        """A delivery leaves. If the circuit is half open it is the probe."""
        if self.state(now) == "half_open":
            self._probing = True

    def unsent(self) -> None:
        """A delivery did not leave after all, or its answer says nothing about the provider: if it
        was the probe, another may go."""
        self._probing = False

    def succeeded(self, now: float) -> None:
        """The provider answered as one that works."""
        if self.state(now) == "open":
            # An answer to what left before: worth a probe now, not yet everything.
            self._until_ms = min(self._until_ms, now)
        else:
            self._open_ms = 0.0
        self._failed = 0
        self._probing = False

    def failed(self, now: float) -> None:
        """The provider did not answer, or with an error of its own."""
        state = self.state(now)
        if state == "closed":
            self._failed += 1
            if self._failed >= self._settings.failures:
                self._open(now)
        elif state == "half_open" and self._probing:
            self._open(now)
        else:
            # It left before the circuit opened, or the link was lost under it: nothing new.
            self._probing = False

    def link(self, up: bool, now: float) -> None:
        """The connection is there, or is not; also to be told at the start."""
        if not up:
            if self._down_ms is None:
                self._down_ms = now
            return
        if self._link_open(now):
            # Half of the first wait, so that a probe that fails now is followed by a whole one.
            self._open_ms = self._open_ms or self._settings.open_ms / 2
            self._until_ms = now
        self._down_ms = None

    def _link_open(self, now: float) -> bool:
        return self._down_ms is not None and now - self._down_ms >= self._settings.down_ms

    def _open(self, now: float) -> None:
        settings = self._settings
        self._open_ms = min(max(2 * self._open_ms, settings.open_ms), settings.open_max_ms)
        self._until_ms = now + self._open_ms
        self._failed = 0
        self._probing = False
