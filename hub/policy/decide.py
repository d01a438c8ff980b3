"""Whether, when and by which channel: steps 2 to 6 of docs/policy.md, "Deciding an intent".

`decide()` is a pure function of the question (one intent), the conversation's state and the time.
It never changes the state; what it learns about spread rules it leaves on the question.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from hub import limits
from hub.policy.policy import Policy
from hub.policy.rules import NEVER, Block, Question, dnd_blocks
from hub.policy.state import ConversationState

NO_ADDRESS = Block("address", "address", "next", NEVER)


class Verdict(NamedTuple):
    """What is to become of an intent now.

    `channel` is where a dispatch goes or for which channel a held intent waits ("" for none).
    `blocks` are all rules that stood in the way at the time of the decision.
    `eligible` is next_eligible_at of a held intent; NEVER when only a command can release it.
    """

    state: Literal["dispatched", "held", "suppressed", "expired"]
    channel: str = ""
    blocks: tuple[Block, ...] = ()
    eligible: int = NEVER


class _Answer(NamedTuple):
    """The route's answer at one moment."""

    state: Literal["dispatched", "held", "suppressed"]
    channel: str
    blocks: tuple[Block, ...]
    ready: int


def decide(policy: Policy, question: Question, state: ConversationState, now: int) -> Verdict:
    """Steps 2 to 6 for one intent at `now` (Unix ms)."""
    if question.expires <= now:
        return Verdict("expired")
    if question.not_before > now:
        wait = Block("not-before", "schedule", "hold", question.not_before)
        answer = _Answer("held", "", (wait,), question.not_before)
    else:
        answer = _walk_route(policy, question, state, now)
        if answer.state == "dispatched":
            return Verdict("dispatched", answer.channel, answer.blocks)
        if answer.state == "suppressed":
            return Verdict("suppressed", "", answer.blocks)
    eligible = _look_ahead(policy, question, state, now, answer.ready)
    if eligible is None:
        return Verdict("suppressed", "", answer.blocks)
    return Verdict("held", answer.channel, answer.blocks, eligible)


def _look_ahead(
    policy: Policy, question: Question, state: ConversationState, now: int, ready: int
) -> int | None:
    """Step 6: the first moment at which nothing blocks, if nothing else is sent in between.

    None when there is none before the expiry; NEVER when a hold waits for a command.
    """
    last = min(question.expires - 1, now + limits.LOOK_AHEAD_MS)
    for _ in range(limits.LOOK_AHEAD_STEPS):
        if ready == NEVER:
            return NEVER
        if ready > last:
            return None
        answer = _walk_route(policy, question, state, ready)
        if answer.state == "dispatched":
            return ready
        if answer.state == "suppressed":
            return None
        ready = answer.ready
    return None


def _walk_route(
    policy: Policy, question: Question, state: ConversationState, instant: int
) -> _Answer:
    """Steps 4 and 5: the route's channels in order, until one is free or one must be waited for."""
    blocks: list[Block] = []
    best_channel, best_ready = "", NEVER
    for channel in question.route:
        found = _blocks_of(policy, question, state, channel, instant)
        if not found:
            return _Answer("dispatched", channel, tuple(blocks), instant)
        ready, skip = 0, False
        for block in found:
            if block.action == "drop":
                return _Answer("suppressed", "", _join(blocks, found), NEVER)
            skip = skip or block.action == "next"
            ready = max(ready, block.ready)
        if not skip:
            return _Answer("held", channel, _join(blocks, found), ready)
        blocks.extend(block for block in found if block not in blocks)
        if ready < best_ready:
            best_channel, best_ready = channel, ready
    if best_ready == NEVER:
        return _Answer("suppressed", "", tuple(blocks), NEVER)
    return _Answer("held", best_channel, tuple(blocks), best_ready)


def _join(blocks: list[Block], found: list[Block]) -> tuple[Block, ...]:
    """All blocks met so far, each once: a rule that stands on two channels alike is one reason."""
    if not blocks:
        return tuple(found)
    return (*blocks, *(block for block in found if block not in blocks))


def _blocks_of(
    policy: Policy, question: Question, state: ConversationState, channel: str, instant: int
) -> list[Block]:
    """Every rule that forbids this channel at this moment."""
    question.channel = channel
    question.account = account_for(question, state, channel)
    blocks = [] if channel in state.to else [NO_ADDRESS]
    if state.dnd and not policy.bypasses(question.category, "dnd"):
        blocks.extend(dnd_blocks(question, state, instant))
    for rule in policy.rules_for(question.category, channel, question.app):
        block = rule.block(question, state, instant)
        if block is not None:
            blocks.append(block)
    return blocks


def account_for(question: Question, state: ConversationState, channel: str) -> str:
    """The managed account to send from: the intent's, the customer's owner, the channel's own."""
    return question.stated_account or state.owner or channel
