"""What may be said of an intent, and after what: the state table of the contract."""

from __future__ import annotations

from collections.abc import Iterator

from hub.checkers.records import (
    FINAL,
    OPENING,
    RECEIPTS,
    History,
    Told,
    Violation,
    about_outcomes,
)

_AFTER_HELD = frozenset(("held", "dispatched", "suppressed", "expired", "superseded", "cancelled"))


class NoDecisionAfterFinal:
    """Nothing is decided after a dispatch or an end, and no receipt moves a delivery backwards.

    A provider may take `failed` back with `delivered` or `read`: its last word stands.
    """

    promise = "final-is-final"

    def check(self, history: History) -> list[Violation]:
        return [
            violation
            for decided in history.lives.values()
            for lives in decided.values()
            for life in lives
            for violation in self._of_life(life)
        ]

    def _of_life(self, life: list[Told]) -> Iterator[Violation]:
        state = life[0].outcome.state
        if state not in OPENING:
            yield about_outcomes(self.promise, "said-before-a-decision", life[:1])
        dispatched = state == "dispatched"
        for told in life[1:]:
            following = told.outcome.state
            wrong = _wrong(state, following, dispatched)
            if wrong:
                yield about_outcomes(self.promise, wrong, [told])
            dispatched = dispatched or following == "dispatched"
            state = following


def _wrong(state: str, following: str, dispatched: bool) -> str:
    """What is wrong with saying `following` after `state`; "" for nothing."""
    if state == "held":
        return "" if following in _AFTER_HELD else "receipt-before-a-dispatch"
    if following in RECEIPTS and dispatched:
        forwards = RECEIPTS[following] > RECEIPTS.get(state, 0)
        return "" if forwards else "receipt-moves-backwards"
    return "said-after-the-end" if state in FINAL else "decided-after-a-dispatch"
