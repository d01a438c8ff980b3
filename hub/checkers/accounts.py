"""All promises of accounts at once: what a simulation or a live test runs over a history."""

from __future__ import annotations

from hub.checkers.account_limits import WithinLimits
from hub.checkers.account_records import AccountChecker, AccountHistory
from hub.checkers.account_told import EveryDeliveryEnds, ReceiptsCount, RepliesAreKept
from hub.checkers.attempts import LeavesInOrder, OneOpenAttempt, SentOnce
from hub.checkers.records import Violation


def account_checkers() -> list[AccountChecker]:
    """One checker for each promise."""
    return [
        SentOnce(),
        OneOpenAttempt(),
        WithinLimits(),
        LeavesInOrder(),
        EveryDeliveryEnds(),
        ReceiptsCount(),
        RepliesAreKept(),
    ]


def check_accounts(history: AccountHistory) -> list[Violation]:
    """Every violation of every promise."""
    return [found for checker in account_checkers() for found in checker.check(history)]
