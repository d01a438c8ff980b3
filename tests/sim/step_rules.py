"""What looks at every decision beside the code that made it, and what it is told of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from hub.contract.decode import Message
from hub.contract.times import rfc3339
from hub.contract.types import Delivery, Event, LiveMessage, Outcome
from hub.policy.document import PolicyDocument
from hub.policy.state import ConversationState

Said = Outcome | Delivery | Event | LiveMessage


class Step(NamedTuple):
    """A conversation takes a message, or (`item` is None) is woken."""

    key: str
    item: Message | None
    accepted: int
    """When the message was stored, in ms; 0: none was."""
    now: int
    policy: PolicyDocument
    version: str
    """Of the policy."""

    def __str__(self) -> str:
        what = "woken" if self.item is None else type(self.item).__name__
        return f"{self.key} {what} {rfc3339(self.now)}"


class StepRules(ABC):
    """`broken` has everything that was not as it must be."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    @abstractmethod
    def before(self, step: Step, state: ConversationState) -> None:
        """A step is about to happen."""

    @abstractmethod
    def after(self, step: Step, state: ConversationState, said: list[Said]) -> None:
        """What it led to."""

    def end(self) -> list[str]:
        """Everything broken, once there are no more steps."""
        return self.broken
