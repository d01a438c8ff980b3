"""All promises at once: what a demo, a benchmark or a live test runs over a whole history."""

from __future__ import annotations

from collections.abc import Collection

from hub.checkers.caps import Caps, Gaps
from hub.checkers.fallback import Fallback
from hub.checkers.feeds import LiveFeeds
from hub.checkers.finality import NoDecisionAfterFinal
from hub.checkers.nothing_lost import NothingLost
from hub.checkers.once import ExactlyOnce
from hub.checkers.order import Order
from hub.checkers.quiet import QuietHours
from hub.checkers.reasons import ReasonGiven
from hub.checkers.records import Checker, History, Violation
from hub.checkers.taken_back import TakenBack
from hub.checkers.windows import Windows


def all_checkers(acknowledged: Collection[tuple[str, str]] = ()) -> list[Checker]:
    """One checker for each promise. `acknowledged`: see NothingLost."""
    return [
        ExactlyOnce(),
        NothingLost(acknowledged),
        NoDecisionAfterFinal(),
        Caps(),
        Gaps(),
        Windows(),
        TakenBack(),
        Fallback(),
        QuietHours(),
        Order(),
        ReasonGiven(),
        LiveFeeds(),
    ]


def check_all(history: History, acknowledged: Collection[tuple[str, str]] = ()) -> list[Violation]:
    """Every violation of every promise."""
    return [
        violation for checker in all_checkers(acknowledged) for violation in checker.check(history)
    ]
