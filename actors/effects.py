"""What a conversation's decisions may cause: implemented by turns, simulations and tests."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from hub.contract.types import Delivery, Event, LiveMessage, Outcome


class BodyRef(NamedTuple):
    """Where the content of an intent that waits is parked."""

    block: str
    index: int
    size: int = 0
    """Its bytes: what releasing it adds to a batch."""
    urgent: bool = False
    """It came on the urgent lane, and leaves as a message of its own."""


class Effects(Protocol):
    """What a decision may cause. Nothing here happens before the turn is committed."""

    urgent: bool
    """What is decided now came on the urgent lane, or answers a customer: it leaves alone."""

    def outcome(self, outcome: Outcome, category: str) -> None:
        """Tell the application; `category` only labels metrics."""

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        """Hand a message to its channel. With `parked`, its content is still to be fetched."""

    def park(self, content: bytes, expires: int) -> BodyRef:
        """Keep the content (JSON) of an intent that waits until it is decided again."""

    def event(self, event: Event) -> None:
        """Tell an application something that is no outcome."""

    def live(self, message: LiveMessage, keep_ms: int, parked: BodyRef | None = None) -> None:
        """Show it in the account's feed, after what was shown there before."""

    def count(self, name: str, *labels: str) -> None:
        """Add one to a metric of `hub.metrics.TABLE`."""
