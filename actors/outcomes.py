"""Outcomes of what the policy was asked, in the words of the contract."""

from __future__ import annotations

from functools import lru_cache

from hub.contract.times import rfc3339
from hub.contract.types import Outcome, RuleBlock
from hub.policy.rules import NEVER, Block, Question


def outcome_of(
    question: Question,
    version: str,
    state: str,
    now: int,
    blocks: tuple[Block, ...],
    channel: str | None,
    delivery: str | None,
    ready: int,
    reason: str | None,
) -> Outcome:
    """The outcome of asking the policy: with the rules that blocked, and its version."""
    return Outcome(  # by position: it is made often
        question.intent,
        question.app,
        question.key,
        state,  # type: ignore[arg-type]
        rfc3339(now),
        question.route[0] if question.combined else channel,
        delivery,
        _told_rules(blocks) if blocks else None,
        None if ready == NEVER else rfc3339(ready),
        reason,
        version,
    )


@lru_cache(maxsize=4_096)
def _told_rules(blocks: tuple[Block, ...]) -> list[RuleBlock]:
    """Many customers are blocked by the same rules until the same moment; the result is shared."""
    return [
        RuleBlock(
            block.rule,
            block.kind,  # type: ignore[arg-type]
            block.action,  # type: ignore[arg-type]
            None if block.ready == NEVER else rfc3339(block.ready),
        )
        for block in blocks
    ]
