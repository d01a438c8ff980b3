"""Reminders: a customer has written and nobody has answered.

`ConversationState.waiting` has, by "<channel> <account>", since when she waits, how many reminders
were given, and how long after that the last of them was due: those behind it are left, whatever
policy is in force by then. The conversation's wake-up covers the next. Pure words and times; the
conversation tells the events. Source: docs/policy.md, "Reminders".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from hub import limits
from hub.contract.times import rfc3339
from hub.contract.types import Event
from hub.policy.policy import Policy
from hub.policy.rules import NEVER
from hub.policy.state import ConversationState, window_key


class _Step(NamedTuple):
    """One reminder that a waiting customer leads to."""

    after_ms: int
    """Since the customer wrote."""
    level: int
    rule: str
    app: str
    manager: str | None


def written(state: ConversationState, policy: Policy, place: str, at: int) -> None:
    """The customer wrote; she waits since the first message that nobody has answered."""
    if place in state.waiting or not _steps(policy, place):
        return
    waiting = state.talking().waiting
    if len(waiting) >= limits.CONVERSATION_ACCOUNTS:
        del waiting[min(waiting, key=lambda each: waiting[each][0])]
    waiting[place] = [at, 0]


def answered(state: ConversationState, channel: str) -> None:
    """She was answered on a channel, from whichever account."""
    prefix = window_key(channel, "")
    for place in [place for place in state.waiting if place.startswith(prefix)]:
        del state.waiting[place]
    state.talked()


def next_due(state: ConversationState, policy: Policy) -> int:
    """When the next reminder is due; NEVER when none is left."""
    due = NEVER
    for place, waits in state.waiting.items():
        left = _left(policy, place, waits)
        if left:
            due = min(due, waits[0] + left[0].after_ms)
    return due


def due_events(key: str, state: ConversationState, policy: Policy, now: int) -> Iterator[Event]:
    """The reminders that are due, counted as given."""
    for place, waits in state.waiting.items():
        channel, _, account = place.partition(" ")
        since = waits[0]
        for step in _left(policy, place, waits):
            if since + step.after_ms > now:
                break
            waits[1:] = [waits[1] + 1, step.after_ms]
            yield Event(
                event_id("waiting", key, place, step.rule, str(since), str(step.level)),
                "waiting",
                step.app,
                key,
                step.rule,
                rfc3339(now),
                channel,
                account,
                since=rfc3339(since),
                level=step.level,
                to=step.manager,
                policy=policy.version,
            )


def event_id(kind: str, *about: str) -> str:
    """The same for the same occasion: `waiting-` and 32 hexadecimal digits."""
    return f"{kind}-{hashlib.blake2b(chr(10).join(about).encode(), digest_size=16).hexdigest()}"


def _left(policy: Policy, place: str, waits: list[int]) -> list[_Step]:
    """The reminders that are still to be given there. Those of one moment are given together."""
    last = waits[2] if len(waits) > 2 else 0
    return [step for step in _steps(policy, place) if step.after_ms > last]


def _steps(policy: Policy, place: str) -> list[_Step]:
    """All reminders there in the order of time."""
    steps = []
    channel, _, account = place.partition(" ")
    for rule in policy.reminders:
        if not rule.applies(channel, account):
            continue
        steps.append(_Step(rule.after_ms, 1, rule.name, rule.app, None))
        if rule.again_ms is not None:
            again = rule.after_ms + rule.again_ms
            steps.append(_Step(again, 2, rule.name, rule.app, rule.manager))
    return sorted(steps, key=lambda step: step.after_ms)
