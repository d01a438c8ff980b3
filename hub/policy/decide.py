"""Whether, when and by which channel: steps 2 to 6 of docs/policy.md, "Deciding an intent".

`decide()` is a pure function of the question (one intent), the conversation's state and the time.
It never changes the state; what it learns about spread rules it leaves on the question.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from hub import limits
from hub.policy.rules import NEVER, Block, Question, dnd_blocks
from hub.policy.state import ConversationState

NO_ADDRESS = Block("address", "address", "next", NEVER)


class Verdict(Struct, frozen=True, gc=False):
    """What is to become of an intent, at the moment it was asked for.

    `channel` is where a dispatch goes or for which channel a held intent waits ("" for none).
    `blocks` are all rules that stood in the way. `ready` is, for a held intent, next_eligible_at
    (of one walk along the route: when its blocks end); NEVER when only a command can release it.
    """

    state: Literal["dispatched", "held", "suppressed", "expired"]
    channel: str
    blocks: tuple[Block, ...]
    ready: int


_EXPIRED = Verdict("expired", "", (), NEVER)


def decide(question: Question, state: ConversationState, now: int) -> Verdict:
    """Steps 2 to 6 for one intent at `now` (Unix ms)."""
    if question.expires <= now:
        return _EXPIRED
    if question.words:  # never bypassed: what must not be said is no matter of how often or when
        return Verdict("suppressed", "", question.words, NEVER)
    if question.not_before <= now:
        verdict = _walk_route(question, state, now)
        if verdict.state != "held":
            return verdict
    else:
        ready = question.not_before
        verdict = Verdict("held", "", (Block("not-before", "schedule", "hold", ready),), ready)
    eligible = _look_ahead(question, state, now, verdict.ready)
    if eligible is None:
        return Verdict("suppressed", "", verdict.blocks, NEVER)
    return Verdict("held", verdict.channel, verdict.blocks, eligible)


def _look_ahead(question: Question, state: ConversationState, now: int, ready: int) -> int | None:
    """Step 6: the first moment at which nothing blocks, if nothing else is sent in between.

    None when there is none before the expiry; NEVER when a hold waits for a command.
    """
    last = min(question.expires - 1, now + limits.LOOK_AHEAD_MS)
    for _ in range(limits.LOOK_AHEAD_STEPS):
        if ready == NEVER:
            return NEVER
        if ready > last:
            return None
        verdict = _walk_route(question, state, ready)
        if verdict.state == "dispatched":
            return ready
        if verdict.state == "suppressed":
            return None
        ready = verdict.ready
    return None


def _walk_route(question: Question, state: ConversationState, instant: int) -> Verdict:
    """Steps 4 and 5: the route's channels in order, until one is free or one must be waited for."""
    blocks: tuple[Block, ...] = ()
    best_channel, best_ready = "", NEVER
    for channel in question.route:
        found = _blocks_of(question, state, channel, instant)
        if found is None:
            return Verdict("dispatched", channel, blocks, instant)
        # A rule that stands in the way of two channels alike is one reason.
        blocks = (*blocks, *(b for b in found if b not in blocks)) if blocks else tuple(found)
        ready, skip = 0, False
        for block in found:
            if block.action == "drop":
                return Verdict("suppressed", "", blocks, NEVER)
            if block.action == "next":
                skip = True
            if block.ready > ready:
                ready = block.ready
        if not skip:
            return Verdict("held", channel, blocks, ready)
        if ready < best_ready:
            best_channel, best_ready = channel, ready
    if best_ready == NEVER:
        if question.asked[channel].may_wait:
            best_channel = _waits_for_customer(question, state, instant)
        if not best_channel:
            return Verdict("suppressed", "", blocks, NEVER)
    return Verdict("held", best_channel, blocks, best_ready)


def _waits_for_customer(question: Question, state: ConversationState, instant: int) -> str:
    """Step 5: the first channel that would be ready some time if she wrote there, or ""."""
    for channel in question.route:
        if not question.asked[channel].windows:
            continue
        found = _blocks_of(question, state, channel, instant) or ()
        if all(block.kind == "window" for block in found if block.ready == NEVER):
            return channel
    return ""


def _blocks_of(
    question: Question, state: ConversationState, channel: str, instant: int
) -> list[Block] | None:
    """Every rule that forbids this channel at this moment; None when it is free."""
    question.channel = channel
    blocks = None if channel in state.to else [NO_ADDRESS]
    asked = question.asked[channel]
    if state.dnd and asked.dnd and (refused := dnd_blocks(question, state, instant)):
        blocks = [*(blocks or ()), *refused]
    sends = state.sends
    if not sends:
        rules = asked.never_sent
    elif len(sends) < asked.fewest:
        rules = asked.rarely_sent
    else:
        rules = asked.all
    for rule in rules:
        block = rule.block(question, state, instant)
        if block is None:
            continue
        if blocks is None:
            blocks = [block]
        else:
            blocks.append(block)
    return blocks
