"""Promise 2, the other half: what has failed stands in nobody's way."""

from __future__ import annotations

from collections import Counter
from math import inf

from hub import limits
from hub.checkers.caps import Dispatches, dispatches_of, matching, scope_of
from hub.checkers.records import (
    FAILED,
    History,
    Told,
    Violation,
    about_outcomes,
    follows,
    is_replaced,
)
from hub.policy.document import CALENDAR, Cap, Gap, PolicyDocument, duration_ms


class TakenBack:
    """No cap and no gap is named as a reason that only counts dispatches which have failed.

    Looked at are rolling windows no longer than deliveries are kept, for of longer ones a stream
    may no longer hold all there was.
    """

    promise = "taken-back"

    def check(self, history: History) -> list[Violation]:
        rules = {version: _rules(document) for version, document in history.policies.items()}
        dispatches = dispatches_of(history)
        found = []
        for told in history.outcomes:
            mine = dispatches.get(told.outcome.customer)
            if mine is None or told.outcome.rules is None:
                continue
            known = rules.get(told.outcome.policy or "", {})
            for block in told.outcome.rules:
                rule = known.get(block.rule)
                if rule is not None and _only_failed(rule, mine, told):
                    kind = "failed-and-still-counted"
                    found.append(about_outcomes(self.promise, kind, [told], rule=rule.name))
        return found


def _rules(document: PolicyDocument) -> dict[str, Cap | Gap]:
    """By name, the rules whose counts can be looked at."""
    found: dict[str, Cap | Gap] = {gap.name: gap for gap in document.gaps}
    found |= {cap.name: cap for cap in document.caps if cap.window not in CALENDAR}
    return {name: rule for name, rule in found.items() if _width(rule) <= limits.SEND_MEMORY_MS}


def _width(rule: Cap | Gap) -> int:
    return duration_ms(rule.window if isinstance(rule, Cap) else rule.min, rule.name)


def _only_failed(rule: Cap | Gap, dispatches: Dispatches, told: Told) -> bool:
    """Whether the rule blocks with the failed dispatches, and would not without them."""
    now, outcome, limit = told.at_ms, told.outcome, 1
    if isinstance(rule, Cap):
        limit = rule.limit - (0 if rule.reserve is None else rule.reserve.slots)
    oldest = now - _width(rule)
    everything: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for each in matching(rule, dispatches):
        if not oldest < each.at <= now:
            continue
        scope = scope_of(rule, each) if isinstance(rule, Cap) else ""
        everything[scope] += 1
        delivery = each.handed.delivery
        # Of two decisions in one millisecond the order is known when one leads to the other.
        failed_now = outcome.state == "failed" or follows(outcome) == FAILED
        cause = (failed_now or is_replaced(outcome)) and (
            (delivery.app, delivery.intent) == (outcome.app, outcome.intent)
        )
        before = each.failed_ms < now or (each.failed_ms == now and cause)
        failed[scope] += each.certain and before and each.restored_ms == inf
    left = everything - failed
    return max(everything.values(), default=0) >= limit > max(left.values(), default=0)
