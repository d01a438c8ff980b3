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
from hub.checkers.records import (
    FAILED,
    Handed,
    History,
    Violation,
    about_delivery,
    follows,
    is_replaced,
)
from hub.checkers.zones import Zones, local, zones_of
from hub.policy.document import CALENDAR, Cap, Gap, PolicyDocument, duration_ms


class Dispatch(Struct):
    """One delivery as caps and gaps see it."""

    handed: Handed
    at: int
    failed_ms: float = inf
    """From when on it is taken back."""
    restored_ms: float = inf
    """From when on it counts again: the provider changed its mind."""
    certain: bool = True
    """Whether `failed_ms` is when that was decided, not only when it was reported."""

    def counts_at(self, instant: int) -> bool:
        return not self.failed_ms <= instant <= self.restored_ms


Dispatches = list[Dispatch]
"""Of one customer, by time of decision."""


class Caps:
    """At no delivery had the customer already got as many as the cap in force allows."""

    promise = "caps"

    def check(self, history: History) -> list[Violation]:
        zones = zones_of(history)
        found = []
        for dispatches in dispatches_of(history).values():
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
        for dispatches in dispatches_of(history).values():
            for policy in history.policies.values():
                for rule in policy.gaps:
                    for late in _inside_gap(history, policy, rule, dispatches):
                        found.append(about_delivery(self.promise, "inside-a-gap", late, rule.name))
        return found


def dispatches_of(history: History) -> dict[str, Dispatches]:
    """By customer, every delivery, and from when on it was taken back."""
    by_id: dict[tuple[str, str], Dispatch] = {}
    customers: dict[str, Dispatches] = defaultdict(list)
    for handed in history.deliveries:
        dispatch = Dispatch(handed, handed.at_ms)
        by_id.setdefault((handed.delivery.id, handed.delivery.customer), dispatch)
        customers[handed.delivery.customer].append(dispatch)
    _note_failures(history, by_id)
    for told in history.outcomes:
        outcome = told.outcome
        if outcome.state in ("delivered", "read"):
            dispatch = by_id.get((outcome.delivery or "", outcome.customer))
            if dispatch is not None and dispatch.failed_ms < inf:
                dispatch.restored_ms = min(dispatch.restored_ms, told.at_ms)
    for dispatches in customers.values():
        dispatches.sort(key=lambda dispatch: dispatch.at)
    return customers


def _note_failures(history: History, by_id: dict[tuple[str, str], Dispatch]) -> None:
    """From when on each failed dispatch is taken back.

    That is told: as `failed`, or by the fallback that follows. Of an attempt that another has come
    after only the receipt is known, which may have been decided some time after it was stored.
    """
    taken_back: dict[tuple[str, str], int] = {}
    for told in history.outcomes:
        if told.outcome.state == "failed" or is_replaced(told.outcome):
            taken_back.setdefault((told.outcome.delivery or "", told.outcome.customer), told.at_ms)
    outdone: set[tuple[str, str]] = set()
    for attempts in history.attempts:
        outdone.update(attempts.keys())
        for newest, after in attempts.after():
            if follows(after.outcome) == FAILED:
                key = (newest.outcome.delivery or "", attempts.name.customer)
                taken_back[key] = min(taken_back.get(key, after.at_ms), after.at_ms)
    for key, at in taken_back.items():
        if key in by_id:
            by_id[key].failed_ms = at
    for key in outdone - taken_back.keys():
        reported = [at for at in history.failures.get(key, ()) if key in by_id]
        if reported:
            by_id[key].failed_ms, by_id[key].certain = min(reported), False


def _over_cap(
    history: History, policy: PolicyDocument, rule: Cap, dispatches: Dispatches, zones: Zones
) -> Iterator[Handed]:
    slots = 0 if rule.reserve is None else rule.reserve.slots
    counted = matching(rule, dispatches)
    if len(counted) <= rule.limit - slots:
        return
    scopes: dict[str, Dispatches] = defaultdict(list)
    for dispatch in counted:
        scopes[scope_of(rule, dispatch)].append(dispatch)
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


def scope_of(rule: Cap, dispatch: Dispatch) -> str:
    """What a cap counts it together with."""
    if rule.per == "customer":
        return ""
    delivery = dispatch.handed.delivery
    return delivery.channel if rule.per == "channel" else delivery.account


def _limit(history: History, policy: PolicyDocument, rule: Cap, dispatch: Dispatch) -> float:
    """The limit in force for a delivery; infinite when the rule was not asked of it."""
    if not _asked(history, policy, dispatch, "cap"):
        return inf
    reserve = rule.reserve
    if reserve is not None and dispatch.handed.delivery.priority < reserve.priority:
        return rule.limit - reserve.slots
    return rule.limit


Inside = Callable[[int], bool]


def _windows(rule: Cap, dispatch: Dispatch, zones: Zones) -> list[Inside]:
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
    counted = matching(rule, dispatches)
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


def matching(rule: Cap | Gap, dispatches: Dispatches) -> Dispatches:
    """Those that a rule counts, taken back or not."""
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


def _asked(history: History, policy: PolicyDocument, dispatch: Dispatch, kind: str) -> bool:
    """Whether a delivery was decided under this policy, by a category that minds such rules."""
    delivery = dispatch.handed.delivery
    return history.policy_of(delivery) is policy and not bypasses(policy, delivery.category, kind)
