"""What docs/policy.md says of talk, once more and by brute force.

`TalkRules` looks at the decisions of all conversations one after the other, as the ledger has them,
and remembers for itself what they must go by. It asks none of the code that decided. Where a policy
is replaced while a customer waits, which reminders are left is not said: of those it only looks
that none is given twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from hub.checkers.filters import bypasses, matches
from hub.contract.decode import Message
from hub.contract.subjects import REPLY_PREFIX
from hub.contract.times import parse_rfc3339, rfc3339, to_ms
from hub.contract.types import (
    AccountOrder,
    Delivery,
    Event,
    Forget,
    Inbound,
    Intent,
    LiveMessage,
    Outcome,
    Release,
)
from hub.policy import talks
from hub.policy.document import PolicyDocument, duration_ms
from hub.policy.state import ConversationState
from tests.sim.step_rules import Said, Step, StepRules

Place = tuple[str, str]
"""Channel and account."""
LATE_MS = 15 * 60_000
"""Longer than nobody can decide in any scenario."""
OPENED = ("held", "dispatched")
ANSWERED_AGAIN = ("duplicate", "rejected")
"""What a repeat of a message may lead to again."""


@dataclass
class _Wait:
    """A customer waits for an answer."""

    since: int
    began: int
    """When that was decided: her message may have come late."""
    version: str
    """The policy when she began to; "" when it was replaced since."""
    given: set[tuple[str, int]] = field(default_factory=set)
    """Rule and level."""


@dataclass
class _Customer:
    """What the rules go by."""

    windows: dict[Place, list[int]] = field(default_factory=dict)
    """When she last wrote there, and the dispatches since."""
    went: dict[Place, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When something was dispatched."""
    waits: dict[Place, _Wait] = field(default_factory=dict)
    replied: dict[str, int] = field(default_factory=dict)
    replies: set[tuple[str, str]] = field(default_factory=set)
    """App and id of the answers by rule that were decided."""


@dataclass
class _Held:
    """What there was to decide before a step."""

    waiting: set[tuple[str, str]]
    """App and intent of what was held or in flight before."""
    ways: dict[tuple[str, str], list[tuple[list[str], str | None]]]
    """Route and account of everything that may be decided now, by app and intent."""
    released: set[tuple[str, str]]
    """App and intent of what the message lets be decided again."""


class TalkRules(StepRules):
    """Windows, reminders, replies, forbidden words and feeds."""

    def __init__(self) -> None:
        super().__init__()
        self._customers: dict[str, _Customer] = defaultdict(_Customer)
        self._reminded: Counter[str] = Counter()
        self._written: Counter[tuple[str, str, str, int]] = Counter()

    def before(self, step: Step, state: ConversationState) -> None:
        """Note what may be decided now, and what a customer's message lets be decided again."""
        item, policy = step.item, step.policy
        ways: dict[tuple[str, str], list[tuple[list[str], str | None]]] = defaultdict(list)
        for held in state.held:
            ways[held.app, held.id].append((list(held.route), held.account))
        if isinstance(item, Intent) and item.category in policy.categories:
            route = item.route or policy.categories[item.category].route
            ways[item.app, item.id].append((list(route), item.account))
        self._step = step
        self._held = _Held({(held.app, held.id) for held in state.held}, ways, set())
        customer = self._customers[step.key]
        for wait in customer.waits.values():
            wait.version = wait.version if wait.version == step.version else ""
        if item is None:
            return
        for place, wait in customer.waits.items():
            if wait.version and any(_due(policy, place, wait, step.now)):
                self._complain("reminders", "overdue when a message came", place)
        if _by_customer(item):
            self._released(customer, state, item)

    def after(self, step: Step, state: ConversationState, said: list[Said]) -> None:
        """Complain of what it should not have led to."""
        customer, item = self._customers[step.key], step.item
        events = [each for each in said if isinstance(each, Event)]
        self._reminders(customer, [each for each in events if each.kind == "waiting"])
        if isinstance(item, Inbound):
            self._note(customer, item)
        if isinstance(item, Forget | Release):
            customer.waits.clear()
        if isinstance(item, Forget):
            customer.windows.clear()
        for each in said:
            if isinstance(each, Delivery):
                self._delivery(customer, each)
            elif isinstance(each, Outcome):
                self._outcome(customer, each, state)
        self._replies(customer, state, said)
        self._words(said, [each for each in events if each.kind == "words"])
        self._feeds(said)
        again = {(each.app, each.intent) for each in said if isinstance(each, Outcome)}
        # Else it has ended in silence, or enough was sent at once and it is decided right after.
        left = {(held.app, held.id) for held in state.held}
        soon = {(held.app, held.id) for held in state.held if held.wake == step.now + 1}
        for name in (self._held.released - again) & (left - soon):
            self._complain("windows", "not decided again when she wrote", name)

    def end(self) -> list[str]:
        """Everything broken. Nobody may be left waiting without the reminders that were to come."""
        for key, customer in self._customers.items():
            for place, wait in customer.waits.items():
                left = list(_steps(self._step.policy, place))
                if wait.version == self._step.version and len(wait.given) < len(left):
                    self.broken.append(f"reminders: forgotten: {key} at {place}: {wait}")
        return self.broken

    def _complain(self, promise: str, kind: str, about: object) -> None:
        self.broken.append(f"{promise}: {kind}: {self._step}: {about}")

    # ---- windows -------------------------------------------------------------------------------

    def _note(self, customer: _Customer, message: Inbound) -> None:
        """A message opens its window, and she waits; one of us ends the waiting."""
        step, place = self._step, (message.channel, message.account)
        if message.agent is not None:
            _answered(customer, message.channel)
        if not _by_customer(message):
            return
        at = min(to_ms(message.at), step.now)
        if any(message.channel in rule.channels for rule in step.policy.windows or ()):
            before = customer.windows.get(place)
            if before is None or at >= before[0]:
                later = sum(went > at for went in customer.went[place])
                customer.windows[place] = [at, later]
        self._written[(step.key, *place, at)] += 1
        if place not in customer.waits and any(_steps(step.policy, place)):
            customer.waits[place] = _Wait(at, step.now, step.version)

    def _delivery(self, customer: _Customer, delivery: Delivery) -> None:
        """It went against no window, counts in them, and answers her."""
        step, place = self._step, (delivery.channel, delivery.account)
        if not delivery.category or delivery.attempt > 100:
            return  # no message, or the same to a further device
        for rule in step.policy.windows or ():
            asked = _asked(step.policy, rule, delivery.category, delivery.channel, delivery.app)
            if asked and _closed(customer, rule, place, step.now):
                self._complain("windows", f"{rule.name} is closed", delivery.id)
        if place in customer.windows:
            customer.windows[place][1] += 1
        customer.went[place].append(step.now)
        _answered(customer, delivery.channel)

    def _outcome(self, customer: _Customer, outcome: Outcome, state: ConversationState) -> None:
        """A window that is named does stand in the way, on some channel of the route. `state`: as
        it is now, after a command that may have set owner or address."""
        step = self._step
        rules = {rule.name: rule for rule in step.policy.windows or ()}
        ways = self._held.ways.get((outcome.app, outcome.intent), ())
        for block in outcome.rules or ():
            rule = rules.get(block.rule)
            if rule is None or block.kind != "window":
                continue
            if ways and not any(
                _closed(customer, rule, (channel, _account(state, account, channel)), step.now)
                for route, account in ways
                for channel in route
                if channel in rule.channels
            ):
                self._complain("windows", f"{rule.name} is open and named", outcome.intent)

    def _released(self, customer: _Customer, state: ConversationState, message: Inbound) -> None:
        """What a message must let be decided again: step 9."""
        step, place = self._step, (message.channel, message.account)
        last = customer.windows.get(place)
        if last is not None and min(to_ms(message.at), step.now) < last[0]:
            return
        for held in state.held:
            account = _account(state, held.account, message.channel)
            if held.in_flight or message.channel not in held.route or account != message.account:
                continue
            timeless = held.wake >= held.expires
            for rule in step.policy.windows or ():
                if not _asked(step.policy, rule, held.category, message.channel, held.app):
                    continue
                if timeless or _closed(customer, rule, place, held.wake):
                    self._held.released.add((held.app, held.id))

    # ---- reminders -------------------------------------------------------------------------------

    def _reminders(self, customer: _Customer, told: list[Event]) -> None:
        """Those that are due, when she is looked after; no others, and none twice."""
        step, expected = self._step, []
        for place, wait in customer.waits.items():
            for rule, level, after in _due(step.policy, place, wait, step.now):
                if wait.version and step.item is None:
                    if step.now > max(wait.since + after, wait.began) + LATE_MS:
                        self._complain("reminders", "given late", f"{rule.name} at {place}")
                    to = rule.manager if level == 2 else None
                    expected.append((rule.app, *place, rule.name, level, to, rfc3339(wait.since)))
                wait.given.add((rule.name, level))
        found = []
        for event in told:
            place = (event.channel or "", event.account or "")
            since = parse_rfc3339(event.since or "")
            after = {  # a rule that waits longer since the policy was replaced may tell again
                after
                for rule, level, after in _steps(step.policy, place)
                if (rule.name, level) == (event.rule, event.level)
            }
            reminder = f"{event.id} {after}"
            self._reminded[reminder] += 1
            if self._reminded[reminder] > self._written[(step.key, *place, since)]:
                self._complain("reminders", "given twice", event.id)
            if place not in customer.waits:
                self._complain("reminders", "nobody waits", event.id)
            elif customer.waits[place].version:
                named = (event.app, *place, event.rule, event.level, event.to, event.since)
                found.append(named)
        if sorted(map(str, found)) != sorted(map(str, expected)):
            self._complain("reminders", "not those that are due", f"{found}, not {expected}")

    # ---- replies ---------------------------------------------------------------------------------

    def _replies(self, customer: _Customer, state: ConversationState, said: list[Said]) -> None:
        """The first rule that matches answers, if it has not for `every`; dnd is set each time."""
        step, expected = self._step, None
        rules = list(_answering(step.policy, step.item))
        for rule in [each for each in rules if each.answer is not None][:1]:
            last = customer.replied.get(rule.name)
            if last is None or step.now - last >= duration_ms(rule.every, rule.name):
                expected = rule
        new: dict[tuple[str, str], Outcome] = {}
        for each in said:
            if isinstance(each, Outcome) and each.intent.startswith(REPLY_PREFIX):
                name = each.app, each.intent
                if name not in customer.replies or each.state in ANSWERED_AGAIN:
                    new.setdefault(name, each)  # what it led to may be decided again
        customer.replies.update(new)
        if len(new) != (expected is not None):
            self._complain("replies", "not what the rules say", f"{new}, not {expected}")
        for outcome in new.values() if expected else ():
            if outcome.app != expected.app:
                self._complain("replies", "told to another app", outcome.intent)
            if outcome.state in OPENED:
                customer.replied[expected.name] = step.now
            self._reply(expected, outcome, said, state)
        for rule in rules:
            if rule.dnd is not None and state.dnd.get(rule.dnd) != 0:
                self._complain("replies", "dnd not set", rule.name)

    def _reply(
        self, rule: talks.Reply, outcome: Outcome, said: list[Said], state: ConversationState
    ) -> None:
        """It goes to where she wrote, and expires in time."""
        item = self._step.item
        assert isinstance(item, Inbound)
        latest = to_ms(item.at) + duration_ms(rule.within, rule.name)
        for delivery in said:
            if isinstance(delivery, Delivery) and delivery.id == outcome.delivery:
                place = item.channel, _account(state, item.account, item.channel)
                if (delivery.channel, delivery.account) != place:
                    self._complain("replies", "sent elsewhere", delivery.id)
                if parse_rfc3339(delivery.expires_at) > latest:
                    self._complain("replies", "expires too late", delivery.id)
                if "welcome_code" in item.content and b"welcome_code" not in bytes(
                    delivery.content
                ):
                    self._complain("replies", "without its welcome code", delivery.id)

    # ---- words and feeds -------------------------------------------------------------------------

    def _words(self, said: list[Said], alerts: list[Event]) -> None:
        """Alerts of what was written and of what is not sent for it; nothing forbidden is sent."""
        step, expected = self._step, Counter[tuple[str, str, str]]()
        rules = {rule.name: rule for rule in step.policy.words or ()}
        if isinstance(step.item, Inbound):
            for rule in rules.values():
                everything = not (rule.categories or rule.apps)
                here = rule.channels is None or step.item.channel in rule.channels
                if rule.alert and everything and here and _says(rule, step.item.content.values()):
                    expected[rule.alert, rule.name, step.item.id] += 1
        stopped = set()
        for each in said:
            if isinstance(each, Outcome) and each.state == "suppressed":
                for block in each.rules or ():
                    if block.kind == "words":
                        stopped.add((each.app, each.intent, block.rule))
        for app, intent, name in stopped:
            alert = rules[name].alert
            if alert:
                expected[alert, name, f"{app}:{intent}"] += 1
        found = Counter((event.app, event.rule, event.about or "") for event in alerts)
        if found != expected:
            self._complain("words", "other alerts", f"{found}, not {expected}")
        for each in said:
            if isinstance(each, Delivery) and (each.app, each.intent) not in self._held.waiting:
                for name in _forbidden(rules.values(), each):
                    self._complain("words", f"{name} sent", each.id)

    def _feeds(self, said: list[Said]) -> None:
        """What is said on archived channels is shown at once, in its order."""
        item, archive = self._step.item, self._step.policy.archive
        channels = archive.channels if archive else ()
        expected = [item.id] if isinstance(item, Inbound) and item.channel in channels else []
        expected += [
            each.id for each in said if isinstance(each, Delivery) and each.channel in channels
        ]
        found = [each.id for each in said if isinstance(each, LiveMessage)]
        if found != expected:
            self._complain("feeds", "not what was said", f"{found}, not {expected}")


# ---- the rules by themselves ---------------------------------------------------------------------


Name = tuple[str | None, str | None, str | None]
"""Application, id, customer."""


def order_violations(
    orders: Iterable[AccountOrder], invalid: Iterable[Name], told: Iterable[Outcome]
) -> list[str]:
    """Every command to an account is answered as often as it was published, and carried out once.

    Their ids are those of no intents. `invalid`: what was published under a name and is rejected.
    """
    asked: Counter[Name] = Counter((each.app, each.id, each.customer) for each in orders)
    asked += Counter(name for name in invalid if name in asked)
    answers: dict[Name, Counter[str]] = defaultdict(Counter)
    for outcome in told:
        answers[outcome.app, outcome.intent, outcome.customer][outcome.state] += 1
    found = []
    for name, times in asked.items():
        states = answers[name]
        answered = states["dispatched"] + states["duplicate"] + states["rejected"]
        if answered != times or states["dispatched"] > 1:
            found.append(f"orders: {times} times {name}, answered {dict(states)}")
    return found


def _account(state: ConversationState, stated: str | None, channel: str) -> str:
    """Who sends: the only account that reaches a device, the one that is stated, the owner, …"""
    account, slash, _ = state.to.get("push", "").partition("/") if channel == "push" else ("",) * 3
    named = account if slash and ":" not in account else ""
    return named or stated or state.owner or channel


def _by_customer(item: Message | None) -> bool:
    return isinstance(item, Inbound) and item.agent is None and "event" not in item.content


def _answered(customer: _Customer, channel: str) -> None:
    customer.waits = {place: wait for place, wait in customer.waits.items() if place[0] != channel}


def _asked(
    policy: PolicyDocument, rule: talks.Window, category: str, channel: str, app: str
) -> bool:
    return matches(rule, category, channel, app) and not bypasses(policy, category, "window")


def _closed(customer: _Customer, rule: talks.Window, place: Place, instant: int) -> bool:
    at, count = customer.windows.get(place, (None, 0))
    return at is None or count >= rule.limit or instant - at >= duration_ms(rule.within, "")


def _steps(policy: PolicyDocument, place: Place) -> Iterator[tuple[talks.Reminder, int, int]]:
    """All reminders of a wait there: rule, level, and how long after its beginning (ms)."""
    for rule in policy.reminders or ():
        if rule.channels is not None and place[0] not in rule.channels:
            continue
        if rule.accounts is not None and place[1] not in rule.accounts:
            continue
        after = duration_ms(rule.after, rule.name)
        yield rule, 1, after
        if rule.again_after is not None:
            yield rule, 2, after + duration_ms(rule.again_after, rule.name)


def _due(
    policy: PolicyDocument, place: Place, wait: _Wait, now: int
) -> Iterator[tuple[talks.Reminder, int, int]]:
    for rule, level, after in _steps(policy, place):
        if (rule.name, level) not in wait.given and wait.since + after <= now:
            yield rule, level, after


def _answering(policy: PolicyDocument, item: Message | None) -> Iterator[talks.Reply]:
    """The rules that match what was written, or what happened."""
    if not isinstance(item, Inbound) or item.agent is not None:
        return
    said = {name: msgspec.json.decode(raw) for name, raw in item.content.items()}
    for rule in policy.replies or ():
        if rule.channels is not None and item.channel not in rule.channels:
            continue
        if rule.accounts is not None and item.account not in rule.accounts:
            continue
        text = _letters(str(said.get("text", "")))
        words = [_letters(word) for word in rule.match or ()]
        hit = text in words if rule.how == "exact" else any(word in text for word in words)
        if said.get("event") == rule.event if "event" in said or rule.event else hit:
            yield rule


def _says(rule: talks.Words, content: Iterable[msgspec.Raw]) -> bool:
    """Whether one of its words is in the text; here what is written has nothing else to read."""
    text = _letters(" ".join(bytes(raw).decode() for raw in content))
    return any(_letters(word) in text for word in rule.words or ())


def _forbidden(rules: Iterable[talks.Words], delivery: Delivery) -> Iterator[str]:
    """The rules that this must not go out by."""
    for rule in rules:
        asked = matches(rule, delivery.category, delivery.channel, delivery.app)
        if rule.on == "drop" and asked and _says(rule, [delivery.content]):
            yield rule.name


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
