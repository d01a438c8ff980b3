"""Promise 3: every intent that is not sent has a reason, and the next moment it could go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from hub.checkers.records import History, Told, Violation, about_outcomes
from hub.contract.types import RuleBlock, Takeover
from hub.policy.document import PolicyDocument

NEEDS_RULES = frozenset(("held", "suppressed"))
NEEDS_REASON = frozenset(("rejected", "superseded", "failed"))
"""`expired` and `cancelled` say all there is to say themselves."""
_OWN_RULES = {"not-before": "schedule", "address": "address"}
_SECTIONS = {
    "caps": "cap",
    "gaps": "gap",
    "quiet": "quiet",
    "presence": "presence",
    "windows": "window",
    "words": "words",
}


class ReasonGiven:
    """Rules or a reason where something was not sent; rules that exist; held ones have a time."""

    promise = "reason-given"

    def check(self, history: History) -> list[Violation]:
        kinds = {version: _rule_kinds(document) for version, document in history.policies.items()}
        combined = {name for name, line in history.lines.items() if line.combined}
        taken_over = {
            each.message.customer
            for each in history.published
            if isinstance(each.message, Takeover) and each.message.until is None
        }
        found = []
        for told in history.outcomes:
            outcome = told.outcome
            if (
                outcome.channel is None
                and outcome.state not in ("rejected", "duplicate")
                and (outcome.app, outcome.intent, outcome.customer) in combined
            ):
                found.append(about_outcomes(self.promise, "no-channel-of-a-combined-send", [told]))
            found.extend(self._of_outcome(told, kinds, taken_over))
        return found

    def _of_outcome(
        self,
        told: Told,
        kinds: Mapping[str, Mapping[str, str]],
        taken_over: Collection[str],
    ) -> Iterator[Violation]:
        outcome = told.outcome
        state = outcome.state
        if state in NEEDS_RULES and not outcome.rules:
            yield about_outcomes(self.promise, f"{state}-without-a-rule", [told])
        if state in NEEDS_REASON and not outcome.reason:
            yield about_outcomes(self.promise, f"{state}-without-a-reason", [told])
        if state == "held":
            rules = kinds.get(outcome.policy or "", {})
            yield from self._of_held(told, taken_over, "window" in rules.values())
        if outcome.policy is not None and outcome.policy not in kinds:
            yield about_outcomes(self.promise, "unknown-policy-version", [told])
            return
        for block in outcome.rules or ():
            if not _exists(block, kinds.get(outcome.policy or "", {})):
                yield about_outcomes(self.promise, "unknown-rule", [told], rule=block.rule)

    def _of_held(
        self, told: Told, taken_over: Collection[str], windows: bool
    ) -> Iterator[Violation]:
        """Only a takeover without `until` holds without a time: told now, or waiting behind
        `not_before`, where the rules are not asked yet; and a window, which may close only later
        (`windows`: whether the policy has any)."""
        outcome = told.outcome
        if outcome.next_eligible_at is None:
            if not windows and not any(
                block.ready_at is None
                if block.kind == "presence"
                else block.kind == "schedule" and outcome.customer in taken_over
                for block in outcome.rules or ()
            ):
                yield about_outcomes(self.promise, "held-without-a-time", [told])
        elif outcome.next_eligible_at <= outcome.at:  # both RFC 3339 in UTC, to the millisecond
            yield about_outcomes(self.promise, "held-until-the-past", [told])


def _rule_kinds(document: PolicyDocument) -> dict[str, str]:
    return {
        rule.name: kind
        for section, kind in _SECTIONS.items()
        for rule in getattr(document, section) or ()
    }


def _exists(block: RuleBlock, kinds: Mapping[str, str]) -> bool:
    if block.kind == "dnd":
        return block.rule.startswith("dnd:")
    return _OWN_RULES.get(block.rule, kinds.get(block.rule)) == block.kind
