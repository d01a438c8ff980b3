"""What accounts promise of attempts: one at a time, none repeated blindly, in the order decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import inf

from hub.checkers.account_records import (
    AccountHistory,
    Opening,
    Submit,
    about_handed,
    about_submit,
)
from hub.checkers.records import Handed, Violation
from hub.contract.types import Receipt


class SentOnce:
    """Nothing is submitted again unless the provider said that it had not taken it.

    But where the account allows duplicates, or to the same provider if that removes repeats by
    the delivery's id. Nothing is submitted once its end was told: `failed`, `unknown`.
    """

    promise = "sent-once"

    def check(self, history: AccountHistory) -> list[Violation]:
        by_part: dict[tuple[str, int], list[Submit]] = defaultdict(list)
        for submit in history.submits:
            by_part[submit.delivery, submit.part].append(submit)
        found = []
        for several in by_part.values():
            for earlier, later in pairwise(sorted(several, key=lambda each: each.at_ms)):
                if not self._may_repeat(history, earlier, later):
                    found.append(about_submit(self.promise, "submitted-twice", later))
        found.extend(self._after_the_end(history))
        return found

    @staticmethod
    def _may_repeat(history: AccountHistory, earlier: Submit, later: Submit) -> bool:
        if earlier.refused or earlier.account in history.repeating:
            return True
        return earlier.account in history.keyed and later.account == earlier.account

    def _after_the_end(self, history: AccountHistory) -> Iterator[Violation]:
        for submit in history.submits:
            for each in history.told.get(submit.delivery, ()):
                assert isinstance(each.message, Receipt)
                if each.message.status in ("failed", "unknown") and each.stored_ms < submit.at_ms:
                    yield about_submit(self.promise, "submitted-after-its-end-was-told", submit)
                    break


class OneOpenAttempt:
    """A delivery has at most one open attempt, in one partition and account.

    Once it is handed over the account it came from never opens it again.
    """

    promise = "one-open-attempt"

    def check(self, history: AccountHistory) -> list[Violation]:
        left: dict[tuple[str, str], int] = {}
        for handed in history.handed:
            if handed.delivery.via is not None:
                left[handed.delivery.via, handed.delivery.id] = handed.sequence
        now_open: dict[str, Opening] = {}
        found = []
        for opening in history.openings:
            known = now_open.get(opening.delivery)
            if not opening.open:
                if known is not None and _place(known) == _place(opening):
                    del now_open[opening.delivery]
                continue
            if known is not None and _place(known) != _place(opening):
                found.append(self._about("open-in-two-places", opening))
            if left.get((opening.account, opening.delivery), inf) < opening.sequence:
                found.append(self._about("opened-after-it-was-handed-over", opening))
            now_open[opening.delivery] = opening
        return found

    def _about(self, kind: str, opening: Opening) -> Violation:
        return Violation(
            promise=self.promise,
            kind=kind,
            delivery=opening.delivery,
            rule=opening.account,
            sequences=(opening.sequence,),
        )


class LeavesInOrder:
    """What one account has of one conversation is first submitted in the order of LEDGER. But what
    is urgent may pass what is not.

    What is handed over counts where it comes to, and is handed over in its order too. What a crash
    has left open loses its place: if it may be sent again, that is after a while.
    """

    promise = "leaves-in-order"

    def check(self, history: AccountHistory) -> list[Violation]:
        lines: dict[tuple[str, str], list[Handed]] = defaultdict(list)
        for handed in history.handed:
            lines[handed.delivery.account, handed.delivery.customer].append(handed)
        found = []
        closed = self._closed(history)
        for (account, _), line in lines.items():
            latest = urgent = (-inf, -1)
            for handed in sorted(line, key=_decided):
                first = history.first.get((account, handed.delivery.id))
                if first is None or closed.get((account, handed.delivery.id), inf) < first[0]:
                    continue
                if first < (urgent if handed.delivery.urgent else latest):
                    kind = "left-before-its-predecessor"
                    found.append(about_handed(self.promise, kind, handed, first[0]))
                latest = max(latest, first)
                if handed.delivery.urgent:
                    urgent = max(urgent, first)
        found.extend(self._handed_over(history, lines, closed))
        return found

    @staticmethod
    def _closed(history: AccountHistory) -> dict[tuple[str, str], float]:
        """When an attempt ended first, where one that may have left is tried again."""
        found: dict[tuple[str, str], float] = {}
        opened = set()
        for opening in history.openings:
            name = opening.account, opening.delivery
            if opening.open:
                opened.add(name)
            elif name in opened and opening.account in history.repeating | history.keyed:
                found.setdefault(name, opening.at_ms)
        return found

    def _handed_over(
        self,
        history: AccountHistory,
        lines: dict[tuple[str, str], list[Handed]],
        closed: dict[tuple[str, str], float],
    ) -> Iterator[Violation]:
        """But what the first account had submitted already, or may have, comes when it is known not
        to have arrived."""
        placed = {
            (each.delivery.account, each.delivery.id): _decided(each) for each in history.handed
        }
        for line in lines.values():
            latest: dict[tuple[str, bool], tuple[int, int]] = {}
            for handed in sorted(line, key=_decided):
                via, urgent = handed.delivery.via, handed.delivery.urgent
                name = via or "", handed.delivery.id
                if via is None or name in history.first or name in closed:
                    continue
                before = placed.get((via, handed.delivery.id), (0, 0))
                passed = [latest.get((via, False), before)]
                if urgent:  # nothing passes it, and it may pass what is not
                    passed.append(latest.get((via, True), before))
                if before < max(passed):
                    yield about_handed(self.promise, "handed-over-before-its-predecessor", handed)
                latest[via, urgent] = max(before, latest.get((via, urgent), before))


def _place(opening: Opening) -> tuple[int, str]:
    return opening.partition, opening.account


def _decided(handed: Handed) -> tuple[int, int]:
    return handed.sequence, handed.index
