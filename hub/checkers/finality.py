"""What may be said of an intent, and after what: the state table of the contract."""

from __future__ import annotations

from hub.checkers.records import (
    FAILED,
    FINAL,
    OPENING,
    RECEIPTS,
    History,
    Told,
    Violation,
    about_outcomes,
    follows,
    is_replaced,
)

_ARRIVED = ("delivered", "read")


class NoDecisionAfterFinal:
    """Nothing is decided after an end, or after a dispatch but a fallback; no receipt goes back.

    A provider may take `failed` back with `delivered` or `read`: its last word stands. Once either
    was said of one attempt, no other fails or is tried.
    """

    promise = "final-is-final"

    def check(self, history: History) -> list[Violation]:
        found = []
        for name, decided in history.lives.items():
            combined = history.lines[name].combined
            for lives in decided.values():
                for life in lives:
                    if life[0].outcome.state not in OPENING:
                        kind = "said-before-a-decision"
                        found.append(about_outcomes(self.promise, kind, life[:1]))
                    said = _Said(life[0], combined)
                    for told in life[1:]:
                        if kind := said.wrong(told):
                            found.append(about_outcomes(self.promise, kind, [told]))
                        said.add(told)
        return found


class _Said:
    """What has been said so far in one life."""

    def __init__(self, first: Told, combined: bool) -> None:
        self.combined = combined
        self.dispatched = self.ended = self.arrived = False
        self.held: str | None = None
        """What the intent is held after, if it is held; "" before any dispatch."""
        self.ranks: dict[str | None, int] = {}
        """Delivery to the most that was said of it."""
        self.add(first)

    def add(self, told: Told) -> None:
        outcome = told.outcome
        state = outcome.state
        if state in RECEIPTS:
            rank = max(self.ranks.get(outcome.delivery, 0), RECEIPTS[state])
            self.ranks[outcome.delivery] = rank
        self.dispatched |= state == "dispatched"
        self.arrived |= state in _ARRIVED
        self.ended |= state in FINAL
        if state != "sent":
            self.held = follows(outcome) if state == "held" else None

    def wrong(self, told: Told) -> str:
        """What is wrong with saying this now; "" for nothing."""
        state = told.outcome.state
        if state in RECEIPTS and self.dispatched:
            return self._wrong_word(told)
        if state in RECEIPTS and self.held is not None:
            return "receipt-before-a-dispatch"
        if self.ended:
            return "said-after-the-end"
        if not self.dispatched:
            return ""
        if state in ("held", "dispatched") and follows(told.outcome) and not self.combined:
            return "decided-after-a-delivery" if self.arrived else ""
        if state in ("superseded", "cancelled") and self.held == FAILED:
            return ""
        if is_replaced(told.outcome):  # a provider's word, like `failed`
            return "receipt-moves-backwards" if self.arrived else ""
        return "decided-after-a-dispatch"

    def _wrong_word(self, told: Told) -> str:
        state = told.outcome.state
        if RECEIPTS[state] <= self.ranks.get(told.outcome.delivery, 0):
            return "receipt-moves-backwards"
        if state in _ARRIVED:
            return ""
        if self.arrived:
            return "receipt-moves-backwards"
        return "said-after-the-end" if self.ended else ""
