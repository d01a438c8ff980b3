"""The promises of the hub as programs: fed with what the streams hold, each returns violations.

Pure, and the same for unit tests, the simulation, live tests, the demo and the benchmarks. Every
checker does its own arithmetic: none asks the code that decided.
"""

from hub.checkers.caps import Caps, Gaps
from hub.checkers.fallback import Fallback
from hub.checkers.feeds import LiveFeeds
from hub.checkers.finality import NoDecisionAfterFinal
from hub.checkers.nothing_lost import NothingLost
from hub.checkers.once import ExactlyOnce
from hub.checkers.order import Order
from hub.checkers.promises import all_checkers, check_all
from hub.checkers.quiet import QuietHours
from hub.checkers.reasons import ReasonGiven
from hub.checkers.records import Checker, Handed, History, Published, Shown, Told, Violation
from hub.checkers.taken_back import TakenBack
from hub.checkers.windows import Windows

__all__ = [
    "Caps",
    "Checker",
    "ExactlyOnce",
    "Fallback",
    "Gaps",
    "Handed",
    "History",
    "LiveFeeds",
    "NoDecisionAfterFinal",
    "NothingLost",
    "Order",
    "Published",
    "QuietHours",
    "ReasonGiven",
    "Shown",
    "TakenBack",
    "Told",
    "Violation",
    "Windows",
    "all_checkers",
    "check_all",
]
