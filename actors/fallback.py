"""Fallback: what is left of a route after a dispatch waits for what becomes of that dispatch.

Pure words and times about one waiting intent (`hub.policy.state.Held`); the conversation decides.
Source: docs/policy.md, "Fallback".
"""

from __future__ import annotations

from actors.effects import BodyRef
from hub import limits
from hub.contract.times import to_ms
from hub.contract.types import Intent, Receipt
from hub.policy.policy import Policy
from hub.policy.rules import NEVER, Question
from hub.policy.state import DELIVERED, SENT, ConversationState, Held, Send


def held_of(intent: Intent, question: Question, accepted: int, parked: BodyRef) -> Held:
    """What waits of an intent, as it is remembered."""
    return Held(  # by position: 24 names cost six times as much
        question.intent,
        question.app,
        question.category,
        question.priority,
        question.route,
        question.attempt,
        question.combined,
        accepted,
        question.expires,
        intent.expires_at is not None,
        question.not_before,
        intent.collapse_key,
        intent.account,
        question.trace,
        parked.block,
        parked.index,
        0,
        None,
        parked.size,
        parked.urgent,
    )


def take_off(held: Held, question: Question, channel: str, now: int, fallback_ms: int) -> bool:
    """It leaves on `channel` now: what is left of its route is in flight. False: nothing is left.

    `fallback_ms`: how long to wait for `delivered`; 0 to wait for `failed` only. The flight ends
    with the intent, or when no receipt is taken for the dispatch any more.
    """
    held.route = question.route[question.route.index(channel) + 1 :]
    if not held.route:
        return False
    held.attempt = question.attempt + 1
    held.spread = question.spread
    held.before, held.failure = channel, None
    timer = now + fallback_ms
    held.in_flight, held.timed = True, now < timer < held.expires
    held.wake = timer if held.timed else min(held.expires, now + limits.SEND_MEMORY_MS)
    return True


def only_failure_counts(held: Held, now: int, status: int) -> bool:
    """Its channel tells no `delivered`: that there is none is no reason to try another. Whether
    that changes when it is woken. `status`: what its receipt says, which must be `sent`."""
    if not (held.in_flight and held.timed and status == SENT):
        return False
    held.timed = False
    held.wake = min(held.expires, now + limits.SEND_MEMORY_MS)
    return True


def reason_of(held: Held) -> str | None:
    """Why another channel is tried; None for an intent that was never dispatched."""
    if held.before is None:
        return None
    if held.failure is None:
        return f"{held.before}: not delivered within fallback_after"
    return f"{held.before} failed: {held.failure}"


def ends_in_silence(held: Held) -> bool:
    """Whether the word of its dispatch still stands when nothing more comes of this."""
    return held.before is not None and held.failure is None


def failure_of(receipt: Receipt) -> str:
    """What a `failed` receipt says went wrong."""
    return " ".join(part for part in (receipt.failure, receipt.code) if part) or "provider"


def waiting(state: ConversationState, app: str, intent: str) -> Held | None:
    """What waits behind the dispatches of an intent, held or in flight."""
    for held in state.held:
        if held.id == intent and held.app == app and held.before is not None:
            return held
    return None


def outdone(send: Send, sends: list[Send]) -> bool:
    """Whether `sent` and `failed` of a dispatch are no news, given all dispatches of its intent.

    They are not once a newer one has gone out after it, or any of them was delivered. The channels
    of a combined send stand for themselves.
    """
    if len(sends) == 1 or not any(each.fallback for each in sends):
        return False
    return send is not sends[0] or any(each.status >= DELIVERED for each in sends)


def trim_sends(sends: list[Send], oldest: int) -> None:
    """Drop, from the end, what no rule and no receipt can ask for any more: not an attempt of an
    intent that has a newer one, whose receipts mean less if this one was delivered."""
    if len(sends) >= limits.SENDS:
        del sends[limits.SENDS - 1 :]
    while sends and sends[-1].at < oldest:
        last = sends[-1].intent
        if any(send.at >= oldest and send.intent == last for send in sends):
            return
        sends.pop()


def question_of_intent(
    key: str,
    intent: Intent,
    route: list[str],
    accepted: int,
    state: ConversationState,
    policy: Policy,
) -> Question:
    """An intent as it is asked when it arrives."""
    stated, category = intent.expires_at, policy.categories[intent.category]
    return Question(
        key,
        intent.app,
        intent.category,
        policy.asked(intent.app, intent.category),
        category.priority if intent.priority is None else intent.priority,
        route,
        accepted + policy.hold_max_ms if stated is None else to_ms(stated),
        0 if intent.not_before is None else to_ms(intent.not_before),
        state.zone or policy.timezone,
        intent.account or state.owner,
        None,
        intent.id,
        1,
        False,
        intent.trace,
        intent.collapse_key,
    )


def question_of_held(key: str, held: Held, state: ConversationState, policy: Policy) -> Question:
    """What waits, as it is asked again."""
    return Question(
        key,
        held.app,
        held.category,
        policy.asked(held.app, held.category),
        held.priority,
        held.route,
        held.expires,
        held.not_before,
        policy.zone_of(state),
        held.account or state.owner,
        held.spread,
        held.id,
        held.attempt,
        held.combined,
        held.trace,
        held.collapse_key,
    )


def release_order(held: Held) -> tuple[int, int, int]:
    """Step 7: priority high to low, expiry soonest first (none last), acceptance."""
    return -held.priority, held.expires if held.expires_stated else NEVER, held.accepted


class Released:
    """How much of what waited has left at once. More than a commit holds waits a moment longer."""

    __slots__ = ("_bytes", "_deliveries", "_now", "_urgent")

    def __init__(self, now: int) -> None:
        self._now = now
        self._bytes = self._deliveries = self._urgent = 0

    def add(self, held: Held, deliveries: int) -> None:
        """It leaves, as so many deliveries."""
        self._deliveries += deliveries
        self._bytes += deliveries * held.size
        if held.urgent:
            self._urgent += deliveries

    def puts_off(self, held: Held) -> bool:
        """Whether it must wait for the next turn: enough has left."""
        if (
            self._deliveries < limits.RELEASED_DELIVERIES
            and self._urgent < limits.RELEASED_URGENT
            and self._bytes < limits.HELD_BYTES
        ):
            return False
        held.wake = self._now + 1  # later than what it was woken for: else nobody wakes it
        return True
