"""What accounts promise of what they are told: every delivery ends, no receipt or reply is lost."""

from __future__ import annotations

from itertools import pairwise

from hub.checkers.account_records import AccountHistory, Heard, about_handed
from hub.checkers.records import Published, Violation
from hub.contract.types import DndSet, Inbound, Receipt

RANKS = {"unknown": 1, "sent": 2, "failed": 3, "delivered": 4, "read": 5}
"""What is told of a delivery only moves to a larger one."""


class EveryDeliveryEnds:
    """Of every delivery its conversation is told something, and what is told only moves forward.

    Nothing is decided to be told twice; INTAKE may hold a repeat of the same words.
    """

    promise = "every-delivery-ends"

    def check(self, history: AccountHistory) -> list[Violation]:
        found = []
        decided: dict[str, list[int]] = {}
        for delivery, status in history.decided:
            decided.setdefault(delivery, []).append(RANKS[status])
        newest = {handed.delivery.id: handed for handed in history.handed}
        for id, handed in newest.items():
            told = [RANKS[_status(each)] for each in history.told.get(id, ())]
            ranks = decided.get(id, list(dict.fromkeys(told)))
            if not told:
                found.append(about_handed(self.promise, "never-told", handed))
            elif set(told) != set(ranks):
                found.append(about_handed(self.promise, "decided-and-not-told", handed))
            if any(later <= earlier for earlier, later in pairwise(ranks)):
                found.append(about_handed(self.promise, "told-backwards", handed))
        return found


class ReceiptsCount:
    """A receipt that was confirmed to the provider has its effect on what is told."""

    promise = "receipts-count"

    def check(self, history: AccountHistory) -> list[Violation]:
        parts: dict[str, dict[int, str]] = {}
        expected: dict[str, int] = {}
        for receipt in history.confirmed:
            marks = parts.setdefault(receipt.delivery, {})
            if RANKS[receipt.status] > RANKS.get(marks.get(receipt.part, ""), 0):
                marks[receipt.part] = receipt.status
            expected[receipt.delivery] = receipt.expected
        newest = {handed.delivery.id: handed for handed in history.handed}
        found = []
        for delivery, marks in parts.items():
            told = max((RANKS[_status(each)] for each in history.told.get(delivery, ())), default=0)
            if delivery in newest and told < _whole(list(marks.values()), expected[delivery]):
                kind = "receipt-without-effect"
                found.append(about_handed(self.promise, kind, newest[delivery]))
        return found


class RepliesAreKept:
    """A confirmed message of a customer is in INTAKE, and with a refusal a do not disturb."""

    promise = "replies-are-kept"

    def check(self, history: AccountHistory) -> list[Violation]:
        inbound: dict[tuple[str, str], str] = {}
        refused: set[str] = set()
        for each in history.published:
            message = each.message
            if isinstance(message, Inbound):
                inbound.setdefault((message.account, message.id), message.customer)
            elif isinstance(message, DndSet):
                refused.add(message.customer)
        found = []
        for heard in history.heard:
            customer = inbound.get((heard.account, heard.id))
            if customer is None:
                found.append(self._about("confirmed-and-not-stored", heard, ""))
            elif heard.opt_out and customer not in refused:
                found.append(self._about("refusal-without-do-not-disturb", heard, customer))
        return found

    def _about(self, kind: str, heard: Heard, customer: str) -> Violation:
        return Violation(
            promise=self.promise,
            kind=kind,
            intent=heard.id,
            customer=customer,
            rule=heard.account,
            at_ms=int(heard.at_ms),
        )


def _status(each: Published) -> str:
    assert isinstance(each.message, Receipt)
    return each.message.status


def _whole(marks: list[str], expected: int) -> int:
    """The rank that receipts of the parts make together: at least this must have been told."""
    if "failed" in marks:
        return RANKS["failed"]
    if sum(RANKS[mark] >= RANKS["delivered"] for mark in marks) >= max(1, expected):
        return RANKS["delivered"]
    return RANKS["sent"] if any(RANKS[mark] >= RANKS["sent"] for mark in marks) else 0
