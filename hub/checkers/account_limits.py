"""Never over an account's limits: counted anew over everything that reached its provider.

Short limits are of tries. Longer ones are of what the provider has taken, or may have: not of what
it has refused, and of a repeat that it removes only once.
"""

from __future__ import annotations

from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from hub.checkers.account_records import AccountHistory, LimitRule, Submit, about_submit
from hub.checkers.records import Violation
from hub.contract.zones import zone

SHORT_MS = 10_000
"""In windows up to this long every try counts, and a message larger than the limit may leave, if it
leaves alone: its parts cannot be held back one by one."""


class WithinLimits:
    """No rolling window, natural day or month holds more units than a limit in force allows."""

    promise = "account-limits"

    def check(self, history: AccountHistory) -> list[Violation]:
        by_account: dict[str, list[Submit]] = defaultdict(list)
        for submit in sorted(history.submits, key=lambda each: each.at_ms):
            by_account[submit.account].append(submit)
        found = []
        for rule in history.limits:
            counted: dict[str, list[Submit]] = defaultdict(list)
            short = 0 < rule.window_ms <= SHORT_MS
            for submit in by_account[rule.account]:
                if submit.at_ms >= rule.counted_ms and (short or not submit.refused):
                    counted[_key(rule, submit)].append(submit)
            over = _over_rolling if rule.window_ms else _over_calendar
            once = rule.account in history.keyed and not short
            for several in counted.values():
                for submit in over(rule, several, once):
                    text = f"{rule.count}/{rule.calendar or f'{rule.window_ms} ms'} per {rule.per}"
                    found.append(about_submit(self.promise, "over-a-limit", submit, text))
        return found


def _key(rule: LimitRule, submit: Submit) -> str:
    if rule.per == "account":
        return ""
    return submit.app if rule.per == "app" else submit.recipient


def _in_force(rule: LimitRule, submit: Submit) -> bool:
    return rule.from_ms <= submit.at_ms < rule.until_ms


def _over_rolling(rule: LimitRule, submits: list[Submit], once: bool) -> Iterator[Submit]:
    """Those with which (t - window, t] holds too many."""
    first = 0
    for place, submit in enumerate(submits):
        while submits[first].at_ms <= submit.at_ms - rule.window_ms:
            first += 1
        inside = submits[first : place + 1]
        over = len(inside) > rule.count
        if over and once:
            over = len({(each.delivery, each.part) for each in inside}) > rule.count
        if over and _in_force(rule, submit):
            alone = len({(each.delivery, each.at_ms) for each in inside}) == 1
            if not (alone and rule.window_ms <= SHORT_MS):
                yield submit


def _over_calendar(rule: LimitRule, submits: list[Submit], once: bool) -> Iterator[Submit]:
    """Those that are too many for their date, ISO week or month."""
    used: dict[tuple[int, ...], set[tuple[str, int] | int]] = defaultdict(set)
    for place, submit in enumerate(submits):
        day = datetime.fromtimestamp(submit.at_ms / 1000, zone(rule.zone))
        period = (day.year, day.month, day.day)[: 3 if rule.calendar == "day" else 2]
        if rule.calendar == "week":
            period = day.isocalendar()[:2]
        used[period].add((submit.delivery, submit.part) if once else place)
        most = rule.count or monthrange(day.year, day.month)[1]
        if len(used[period]) > most and _in_force(rule, submit):
            yield submit
