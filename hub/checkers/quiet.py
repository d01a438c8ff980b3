"""Promise 2: nothing goes out inside a customer's quiet hours."""

from __future__ import annotations

from datetime import datetime

from hub.checkers.filters import bypasses, matches
from hub.checkers.records import History, Violation, about_delivery
from hub.checkers.zones import local, zones_of
from hub.policy.document import DAYS, PolicyDocument, Quiet, date_ordinals, time_of_day_ms


class QuietHours:
    """No delivery that a quiet rule is for was decided while its window was open."""

    promise = "quiet-hours"

    def check(self, history: History) -> list[Violation]:
        zones = zones_of(history)
        rules = {id(document): _rules(document) for document in history.policies.values()}
        found = []
        for handed in history.deliveries:
            delivery = handed.delivery
            policy = history.policy_of(delivery)
            for window in rules[id(policy)]:
                if not window.asked_of(policy, delivery.category, delivery.channel, delivery.app):
                    continue
                second = handed.at_ms // 1000
                if all(window.covers(local(name, second)) for name in zones.at(handed)):
                    found.append(
                        about_delivery(self.promise, "inside-quiet-hours", handed, window.rule.name)
                    )
        return found


class Window:
    """One quiet rule, in local wall-clock time."""

    def __init__(self, rule: Quiet) -> None:
        self.rule = rule
        self.dates = frozenset(
            day for text in rule.dates or () for day in date_ordinals(text, rule.name)
        )
        self.days = frozenset(map(DAYS.index, rule.days or DAYS))
        if not self.dates:
            self.start_s = time_of_day_ms(rule.from_ or "", rule.name) // 1000
            self.end_s = time_of_day_ms(rule.to or "", rule.name) // 1000

    def asked_of(self, policy: PolicyDocument, category: str, channel: str, app: str) -> bool:
        """Whether this rule is asked of such an intent at all."""
        return matches(self.rule, category, channel, app) and not bypasses(
            policy, category, "quiet"
        )

    def covers(self, reading: datetime) -> bool:
        """Whether the window is open at a local reading."""
        if self.dates:
            return reading.toordinal() in self.dates
        second = reading.hour * 3600 + reading.minute * 60 + reading.second
        today, yesterday = reading.weekday(), (reading.weekday() - 1) % 7
        if self.start_s < self.end_s:
            return today in self.days and self.start_s <= second < self.end_s
        return (today in self.days and second >= self.start_s) or (
            yesterday in self.days and second < self.end_s
        )


def _rules(document: PolicyDocument) -> list[Window]:
    return [Window(rule) for rule in document.quiet]
