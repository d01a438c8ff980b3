"""Promise 2: nobody gets more than a cap allows, or two messages closer than a gap.

Recomputed from the deliveries and receipts alone, one customer and one rule at a time. Where the
order of decisions in one millisecond is not known, the order that breaks no rule is assumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from math import inf

from msgspec import Struct

from hub.checkers.filters import bypasses, matches
from hub.checkers.records import Handed, History, Violation, about_delivery
from hub.checkers.zones import Zones, local, zones_of
from hub.policy.document import CALENDAR, Cap, Gap, PolicyDocument, duration_ms


class _Dispatch(Struct):
    """One delivery as caps and gaps see it."""

    handed: Handed
    at: int
    failed_ms: float = inf
    """From when on it is taken back."""
    restored_ms: float = inf
    """From when on it counts again: the provider changed its mind."""

    def counts_at(self, instant: int) -> bool:
        return not self.failed_ms <= instant <= self.restored_ms


Dispatches = list[_Dispatch]
"""Of one customer, by time of decision."""


class Caps:
    """At no delivery had the customer already got as many as the cap in force allows."""

    promise = "caps"

    def check(self, history: History) -> list[Violation]:
        zones = zones_of(history)
        found = []
        for dispatches in _by_customer(history).values():
            for policy in history.policies.values():
                for rule in policy.caps:
                    for late in _over_cap(history, policy, rule, dispatches, zones):
                        found.append(about_delivery(self.promise, "over-a-cap", late, rule.name))
        return found


class Gaps:
    """No delivery followed a matching one sooner than the gap's `min`."""

    promise = "gaps"

    def check(self, history: History) -> list[Violation]:
        found = []
        for dispatches in _by_customer(history).values():
            for policy in history.policies.values():
                for rule in policy.gaps:
                    for late in _inside_gap(history, policy, rule, dispatches):
                        found.append(about_delivery(self.promise, "inside-a-gap", late, rule.name))
        return found


def _by_customer(history: History) -> dict[str, Dispatches]:
    by_id: dict[tuple[str, str], _Dispatch] = {}
    customers: dict[str, Dispatches] = defaultdict(list)
    for handed in history.deliveries:
        dispatch = _Dispatch(handed, handed.at_ms)
        by_id.setdefault((handed.delivery.id, handed.delivery.customer), dispatch)
        customers[handed.delivery.customer].append(dispatch)
    for told in history.outcomes:
        outcome = told.outcome
        if outcome.state in ("failed", "delivered", "read"):
            dispatch = by_id.get((outcome.delivery or "", outcome.customer))
            if dispatch is None:
                continue
            if outcome.state == "failed":
                dispatch.failed_ms = min(dispatch.failed_ms, told.at_ms)
            elif dispatch.failed_ms < inf:
                dispatch.restored_ms = min(dispatch.restored_ms, told.at_ms)
    for dispatches in customers.values():
        dispatches.sort(key=lambda dispatch: dispatch.at)
    return customers


def _over_cap(
    history: History, policy: PolicyDocument, rule: Cap, dispatches: Dispatches, zones: Zones
) -> Iterator[Handed]:
    slots = 0 if rule.reserve is None else rule.reserve.slots
    counted = _matching(rule, dispatches)
    if len(counted) <= rule.limit - slots:
        return
    scopes: dict[str, Dispatches] = defaultdict(list)
    for dispatch in counted:
        scopes[_scope(rule, dispatch)].append(dispatch)
    for scope in scopes.values():
        in_force = {id(each): _limit(history, policy, rule, each) for each in scope}
        ordered = sorted(scope, key=lambda each: (each.at, in_force[id(each)]))
        for place, dispatch in enumerate(ordered):
            limit = in_force[id(dispatch)]
            if limit <= place and all(
                _reached(ordered, place, limit, inside)
                for inside in _windows(rule, dispatch, zones)
            ):
                yield dispatch.handed


def _scope(rule: Cap, dispatch: _Dispatch) -> str:
    if rule.per == "customer":
        return ""
    delivery = dispatch.handed.delivery
    return delivery.channel if rule.per == "channel" else delivery.account


def _limit(history: History, policy: PolicyDocument, rule: Cap, dispatch: _Dispatch) -> float:
    """The limit in force for a delivery; infinite when the rule was not asked of it."""
    if not _asked(history, policy, dispatch, "cap"):
        return inf
    reserve = rule.reserve
    if reserve is not None and dispatch.handed.delivery.priority < reserve.priority:
        return rule.limit - reserve.slots
    return rule.limit


Inside = Callable[[int], bool]


def _windows(rule: Cap, dispatch: _Dispatch, zones: Zones) -> list[Inside]:
    """Whether an earlier instant is in the cap's window: one answer for each possible zone."""
    at = dispatch.at
    if rule.window not in CALENDAR:
        oldest = at - duration_ms(rule.window, rule.name)
        return [lambda earlier: earlier > oldest]

    def same_period(zone: str) -> Inside:
        period = _period(rule.window, zone, at)
        return lambda earlier: _period(rule.window, zone, earlier) == period

    return [same_period(zone) for zone in zones.at(dispatch.handed)]


def _period(window: str, zone: str, at: int) -> tuple[int, int]:
    """The local day, ISO week or month of an instant."""
    day: date = local(zone, at // 1000).date()
    if window == "day":
        return day.toordinal(), 0
    return day.isocalendar()[:2] if window == "week" else (day.year, day.month)


def _reached(scope: Dispatches, place: int, limit: float, inside: Inside) -> bool:
    """Whether `limit` dispatches before `scope[place]` are in the window and not taken back."""
    now = scope[place].at
    used = 0
    for index in range(place - 1, -1, -1):
        earlier = scope[index]
        if not inside(earlier.at):
            break
        used += earlier.counts_at(now)
        if used >= limit:
            return True
    return False


def _inside_gap(
    history: History, policy: PolicyDocument, rule: Gap, dispatches: Dispatches
) -> Iterator[Handed]:
    counted = _matching(rule, dispatches)
    if len(counted) < 2:
        return
    min_ms = duration_ms(rule.min, rule.name)
    asked = {id(each): _asked(history, policy, each, "gap") for each in counted}
    counted.sort(key=lambda each: (each.at, not asked[id(each)]))
    for place, dispatch in enumerate(counted):
        if not asked[id(dispatch)]:
            continue
        for index in range(place - 1, -1, -1):
            earlier = counted[index]
            if dispatch.at - earlier.at >= min_ms:
                break
            if earlier.counts_at(dispatch.at):
                yield dispatch.handed
                break


def _matching(rule: Cap | Gap, dispatches: Dispatches) -> Dispatches:
    return [
        each
        for each in dispatches
        if matches(
            rule,
            each.handed.delivery.category,
            each.handed.delivery.channel,
            each.handed.delivery.app,
        )
    ]


def _asked(history: History, policy: PolicyDocument, dispatch: _Dispatch, kind: str) -> bool:
    """Whether a delivery was decided under this policy, by a category that minds such rules."""
    delivery = dispatch.handed.delivery
    return history.policy_of(delivery) is policy and not bypasses(policy, delivery.category, kind)
