"""What is promised of push: what services saw of it, held against both streams.

Some of it no stream shows alone: whether what was told as sent was taken, by whom and how often.
Times are Unix ms by one clock, or by clocks that are set alike.
"""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import Protocol

from msgspec import Struct

from hub.checkers.account_records import about_handed
from hub.checkers.caps import Dispatches, dispatches_of, matching, scope_of
from hub.checkers.records import (
    FAILED,
    Handed,
    History,
    Violation,
    about_outcomes,
    first_id,
    follows,
)
from hub.contract.types import Intent, ProfileSet, Receipt
from hub.policy.document import CALENDAR, Cap, PolicyDocument, duration_ms

CHANNEL = "push"
NOTICED_MS = 30_000
"""So long after it was stored the word that an address is dead is known, whichever host has died
meanwhile; where what follows from it was told, from then on."""
CALENDAR_MS = {"day": 25 * 3_600_000, "week": 169 * 3_600_000, "month": 745 * 3_600_000}
"""The longest that a local day, week or month can be."""


class Pushed(Struct, frozen=True, gc=False):
    """One request about a delivery, as it reached a push service."""

    at_ms: float
    account: str
    delivery: str
    to: str
    taken: bool
    """It took effect, whatever was answered."""
    key: str = ""
    """What the service removes repeats by, where it does (`webhook-id`)."""


class PushHistory(Struct, kw_only=True):
    """A run: what services saw, beside the streams."""

    history: History
    pushed: list[Pushed]
    handed: list[Handed]
    """Deliveries to the accounts whose records these are, that have ended."""


class PushChecker(Protocol):
    """One promise about push."""

    promise: str

    def check(self, found: PushHistory) -> list[Violation]:
        """Every violation found; none when the promise was kept."""


class DeadDevices:
    """Nothing is pushed to an address after a service has said that it is dead, unless somebody
    has told it anew.

    Counted from when what follows was decided: another channel, or the failure of all devices. For
    one of several devices nothing need follow: then from NOTICED_MS after the receipt. A dead
    address that something was delivered to all the same is none.
    """

    promise = "dead-devices"

    def check(self, found: PushHistory) -> list[Violation]:
        history = found.history
        told = _told(history)
        ends = _ends(history)
        pushes = _by_address(history)
        arrived = _told_as(history, ("delivered", "read"))
        violations = []
        for receipt in history.published:
            message = receipt.message
            if not isinstance(message, Receipt) or message.failure != "dead_address":
                continue
            handed = pushes.by_id.get((message.delivery, message.customer))
            if handed is None or message.delivery in arrived:
                continue
            address = (message.customer, handed.delivery.account, handed.delivery.to)
            if told.get(address, -inf) >= receipt.stored_ms:
                continue
            end = ends.get((first_id(handed.delivery), message.customer), inf)
            for later in pushes.by_address[address]:
                if later.at_ms > end or later.at_ms > receipt.stored_ms + NOTICED_MS:
                    kind = "pushed-to-a-dead-address"
                    violations.append(about_handed(self.promise, kind, later, later.at_ms))
        return violations


class CountedOnce:
    """A push to several devices counts once: where a cap blocks, so many dispatches were before."""

    promise = "counted-once"

    def check(self, found: PushHistory) -> list[Violation]:
        history = found.history
        dispatches = dispatches_of(history)
        counted: dict[tuple[str, str], dict[str, Dispatches]] = {}
        violations = []
        for told in history.outcomes:
            outcome = told.outcome
            policy = history.policy(outcome.policy)
            for block in outcome.rules or ():
                rule = _cap(policy, block.rule) if block.kind == "cap" else None
                if rule is None or outcome.customer not in dispatches:
                    continue
                key = (outcome.customer, rule.name)
                if key not in counted:
                    counted[key] = _scopes(rule, dispatches[outcome.customer])
                since = told.at_ms - _longest_ms(rule)
                most = max(
                    (_between(each, since, told.at_ms) for each in counted[key].values()), default=0
                )
                if most < rule.limit - (rule.reserve.slots if rule.reserve else 0):
                    kind = "blocked-by-a-cap-that-was-not-reached"
                    violations.append(about_outcomes(self.promise, kind, [told], rule=rule.name))
        return violations


class PushedAsTold:
    """What was told as sent the service has taken; what it has taken was decided, for this address;
    and where it removes no repeats it has taken it once."""

    promise = "pushed-as-told"

    def check(self, found: PushHistory) -> list[Violation]:
        known = _by_address(found.history).by_id
        by_delivery = {id: handed for (id, _), handed in known.items()}
        taken: dict[str, int] = defaultdict(int)
        violations = []
        for pushed in found.pushed:
            handed = by_delivery.get(pushed.delivery)
            if handed is None or (pushed.account, pushed.to) != (
                handed.delivery.account,
                handed.delivery.to,
            ):
                violations.append(_about(self.promise, "pushed-and-not-decided", pushed))
                continue
            taken[pushed.delivery] += pushed.taken
            if taken[pushed.delivery] > 1 and pushed.taken:
                violations.append(_about(self.promise, "taken-twice", pushed))
        sent = _told_as(found.history, ("sent", "delivered", "read"))
        violations += [
            about_handed(self.promise, "told-as-sent-and-not-taken", handed, handed.at_ms)
            for handed in found.handed
            if handed.delivery.id in sent and not taken[handed.delivery.id]
        ]
        return violations


class OneKey:
    """Requests about a delivery have one key, by which repeats are known, and no other has it."""

    promise = "one-key"

    def check(self, found: PushHistory) -> list[Violation]:
        keys: dict[str, str] = {}
        deliveries: dict[str, str] = {}
        violations = []
        for pushed in found.pushed:
            if not pushed.key:
                continue
            if keys.setdefault(pushed.delivery, pushed.key) != pushed.key:
                violations.append(_about(self.promise, "repeated-under-another-key", pushed))
            if deliveries.setdefault(pushed.key, pushed.delivery) != pushed.delivery:
                violations.append(_about(self.promise, "a-key-of-two-deliveries", pushed))
        return violations


def push_checkers() -> list[PushChecker]:
    """One checker for each promise."""
    return [DeadDevices(), CountedOnce(), PushedAsTold(), OneKey()]


def check_push(found: PushHistory) -> list[Violation]:
    """Every violation of every promise."""
    return [each for checker in push_checkers() for each in checker.check(found)]


# ---- addresses -----------------------------------------------------------------------------------

Address = tuple[str, str, str]
"""Customer, account, token."""


class _Pushes(Struct):
    by_id: dict[tuple[str, str], Handed]
    """(delivery id, customer) to the delivery, all devices included."""
    by_address: dict[Address, list[Handed]]


def _by_address(history: History) -> _Pushes:
    pushes = _Pushes({}, defaultdict(list))
    for handed in (*history.deliveries, *history.copies):
        delivery = handed.delivery
        if delivery.channel == CHANNEL:
            pushes.by_id[delivery.id, delivery.customer] = handed
            address = (delivery.customer, delivery.account, delivery.to)
            pushes.by_address[address].append(handed)
    return pushes


def _told_as(history: History, statuses: tuple[str, ...]) -> set[str]:
    """Deliveries of which one of these was told."""
    return {
        each.message.delivery
        for each in history.published
        if isinstance(each.message, Receipt) and each.message.status in statuses
    }


def _told(history: History) -> dict[Address, float]:
    """When each address was last told; of a bare token the account is the channel's own."""
    found: dict[Address, float] = {}
    for each in history.published:
        message = each.message
        if isinstance(message, Intent | ProfileSet) and message.to and CHANNEL in message.to:
            account, slash, token = message.to[CHANNEL].partition("/")
            key = (message.customer, account, token)
            if not slash:
                key = (message.customer, CHANNEL, account)
            found[key] = max(found.get(key, -inf), each.stored_ms)
    return found


def _ends(history: History) -> dict[tuple[str, str], int]:
    """(delivery id, customer) to when it was decided that it has failed, or what follows from that:
    then all that was heard of its devices is known."""
    found: dict[tuple[str, str], int] = {}
    for told in history.outcomes:
        if told.outcome.state == "failed" and told.outcome.delivery is not None:
            found.setdefault((told.outcome.delivery, told.outcome.customer), told.at_ms)
    for attempts in history.attempts:
        for newest, after in attempts.after():
            if follows(after.outcome) == FAILED:
                key = (newest.outcome.delivery or "", attempts.name.customer)
                found[key] = min(found.get(key, after.at_ms), after.at_ms)
    return found


# ---- caps ----------------------------------------------------------------------------------------


def _cap(policy: PolicyDocument, name: str) -> Cap | None:
    return next((rule for rule in policy.caps if rule.name == name), None)


def _longest_ms(rule: Cap) -> int:
    """The longest that its window can be."""
    if rule.window in CALENDAR:
        return CALENDAR_MS[rule.window]
    return duration_ms(rule.window, rule.name)


def _scopes(rule: Cap, dispatches: Dispatches) -> dict[str, Dispatches]:
    """Those that it counts, taken back or not, by what it counts together."""
    found: dict[str, Dispatches] = defaultdict(list)
    for dispatch in matching(rule, dispatches):
        found[scope_of(rule, dispatch)].append(dispatch)
    return found


def _between(dispatches: Dispatches, since_ms: float, until_ms: float) -> int:
    return sum(since_ms <= each.at <= until_ms for each in dispatches)


def _about(promise: str, kind: str, pushed: Pushed) -> Violation:
    return Violation(
        promise=promise,
        kind=kind,
        delivery=pushed.delivery,
        rule=pushed.account,
        at_ms=int(pushed.at_ms),
    )
