"""What happened at WeCom, from the fake's record and the streams: counts and promises."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmarks.demo.attempts import AttemptLog
from benchmarks.demo.wecom import ACCOUNTS, SELLERS
from hub.checkers import Handed, History, Told, Violation
from hub.checkers.account_records import AccountHistory
from hub.checkers.accounts import check_accounts
from hub.checkers.records import FAILED, follows
from hub.checkers.wecom import check_wecom
from hub.checkers.wecom_records import Seen, WecomHistory, Wrote, seen_of
from hub.contract.types import Receipt, Release, Takeover

BOT = "bot"
"""Whose the answers by rule are, by policy.toml."""
CHANNEL = "wecom"
SERVICE = "wecom"
"""The account of customer service."""
GRACE_MS = 2_000
"""A takeover is decided so long after it was stored at the latest: commands are read first. What
is decided in this time is not held against it."""


@dataclass
class Talks:
    """Everything there is to say about WeCom."""

    lines: list[dict[str, Any]]
    """The fake's record."""
    told: Mapping[str, Any]
    """What it counted: `counts`, `violations`, `times`."""
    logs: list[AttemptLog]
    """Of the accounts at WeCom."""
    last: Mapping[str, int]
    """Account to the sequence in LEDGER of its last delivery that was waited for."""

    @cached_property
    def seen(self) -> Seen:
        return seen_of(self.lines, ACCOUNTS, self.told["violations"])


@dataclass
class TalkFacts:
    """Counts of what was said, both ways."""

    messages: int = 0
    """That customers wrote to customer service."""
    customers: int = 0
    waits_ms: list[float] = field(default_factory=list)
    """From a customer's message to the answer by rule, as WeCom saw both, sorted."""
    calm_ms: list[float] = field(default_factory=list)
    """The same, of what was answered before a host was killed."""
    taken_over: int = 0
    """Customers whom a person talked with."""
    held: int = 0
    """Campaign messages that waited for the end of that."""
    released: Counter[str] = field(default_factory=Counter)
    """By what channel they went then: the last one, if several were tried."""
    in_window: int = 0
    """Order notices that WeCom has taken."""
    closed: int = 0
    """That went by SMS because the window was closed."""
    refused: Counter[str] = field(default_factory=Counter)
    """And because WeCom refused them, by the reason it gave."""
    groups: int = 0
    reports: int = 0
    """Messages to groups."""
    came: int = 0
    """Customers who added a member."""
    welcomes_ms: list[float] = field(default_factory=list)
    """From that to the welcome message, sorted."""
    mass: int = 0
    """Messages that a member was to confirm."""
    confirmed: Counter[str] = field(default_factory=Counter)
    """Of them, by the member who did."""
    tasks: int = 0
    shown: int = 0
    """Lines of the live feeds."""
    handed: int = 0
    """Deliveries for accounts at WeCom."""
    campaigns: int = 0
    """Deliveries of campaigns."""


def wecom_history(talks: Talks, history: History) -> WecomHistory:
    """What the checkers of WeCom read."""
    return WecomHistory(
        seen=talks.seen,
        published=history.published,  # type: ignore[arg-type]
        handed=at_wecom(history),
        outcomes=history.outcomes,  # type: ignore[arg-type]
        welcoming=frozenset(SELLERS),
    )


def at_wecom(history: History) -> list[Handed]:
    """Deliveries for accounts at WeCom."""
    return [handed for handed in history.deliveries if handed.delivery.channel == CHANNEL]


# ---- promises ------------------------------------------------------------------------------------


def check(talks: Talks, history: History) -> list[Violation]:
    """All promises about WeCom and its accounts, and that a takeover holds campaigns."""
    found = wecom_history(talks, history)
    accounts = AccountHistory(
        submits=found.submits(),
        handed=[
            each for each in found.handed if each.sequence <= talks.last[each.delivery.account]
        ],
        published=found.published,
        decided=[each for log in talks.logs for each in log.decided],
        openings=[each for log in talks.logs for each in log.openings],
        keyed=frozenset([SERVICE]),
    )
    return [*check_wecom(found), *check_accounts(accounts), *during_takeovers(history)]


def during_takeovers(history: History) -> list[Violation]:
    """Campaigns that were decided to go while a person talked with the customer."""
    times: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for each in history.published:
        if isinstance(each.message, Takeover | Release):
            taken = isinstance(each.message, Takeover)
            times[each.message.customer].append((each.stored_ms, taken))

    def forbidden(handed: Handed) -> bool:
        before = [told for told in times[handed.delivery.customer] if told[0] <= handed.at_ms]
        at_ms, taken = max(before, default=(0.0, False))
        return taken and handed.at_ms > at_ms + GRACE_MS

    return [
        Violation(
            promise="takeover-holds",
            kind="campaign-while-a-person-talks",
            app=handed.delivery.app,
            intent=handed.delivery.intent,
            customer=handed.delivery.customer,
            delivery=handed.delivery.id,
            at_ms=handed.at_ms,
            sequences=(handed.sequence,),
        )
        for handed in history.deliveries
        if handed.delivery.category == "campaign" and forbidden(handed)
    ]


# ---- counts --------------------------------------------------------------------------------------


def count(talks: Talks, history: History, killed_ms: float) -> TalkFacts:
    """What the table says; `killed_ms` is when the first host was killed, Unix ms."""
    facts = TalkFacts(
        tasks=talks.told["counts"].get("mass_tasks", 0),
        groups=talks.told["counts"].get("chats_created", 0),
        reports=sum(taken.kind == "appchat" for taken in talks.seen.taken),
        shown=len(history.feeds or ()),
        handed=len(at_wecom(history)),
        campaigns=sum(each.delivery.category == "campaign" for each in history.deliveries),
    )
    found = wecom_history(talks, history)
    _count_answers(facts, found, killed_ms)
    _count_welcomes(facts, talks.seen)
    _count_takeovers(facts, history)
    _count_notices(facts, history)
    _count_mass(facts, history)
    return facts


def _count_answers(facts: TalkFacts, found: WecomHistory, killed_ms: float) -> None:
    wrote: dict[str, list[Wrote]] = defaultdict(list)
    for each in found.seen.wrote:
        if not each.agent:
            wrote[each.sender].append(each)
    facts.messages = sum(map(len, wrote.values()))
    facts.customers = len(wrote)
    for taken, delivery in found.delivery_of.items():
        asked = [each.at_ms for each in wrote[taken.to] if each.at_ms <= taken.at_ms]
        if taken.kind == "kf" and delivery.app == BOT and asked:
            wait_ms = taken.at_ms - max(asked)
            facts.waits_ms.append(wait_ms)
            if taken.at_ms < killed_ms:
                facts.calm_ms.append(wait_ms)
    facts.waits_ms.sort()
    facts.calm_ms.sort()


def _count_welcomes(facts: TalkFacts, seen: Seen) -> None:
    came = {each.code: each.at_ms for each in seen.came if each.account in SELLERS}
    facts.came = len(came)
    facts.welcomes_ms = sorted(
        each.at_ms - came[each.code] for each in seen.taken if each.code in came
    )


def _count_takeovers(facts: TalkFacts, history: History) -> None:
    facts.taken_over = len(
        {each.message.customer for each in history.published if isinstance(each.message, Takeover)}
    )
    for life in _lives(history, "campaign"):
        states = [told.outcome.state for told in life]
        if "held" in states and any(
            block.kind == "presence" for told in life for block in told.outcome.rules or ()
        ):
            facts.held += 1
            facts.released[_way(life)] += 1


def _way(life: list[Told]) -> str:
    """The channel that something went by in the end."""
    if life[-1].outcome.state == "failed":
        return "none"
    last = [told.outcome.channel for told in life if told.outcome.state == "dispatched"]
    return last[-1] or "" if last else "none yet"


def _count_notices(facts: TalkFacts, history: History) -> None:
    for life in _lives(history, "notice"):
        for told in life:
            outcome = told.outcome
            if outcome.state != "dispatched":
                continue
            if outcome.channel == CHANNEL:
                facts.in_window += 1
            elif follows(outcome) == FAILED and (outcome.reason or "").startswith(CHANNEL):
                reason = (outcome.reason or "").partition(" failed: ")[2]
                facts.refused[reason] += 1
                facts.in_window -= 1
            elif any(block.kind == "window" for block in outcome.rules or ()):
                facts.closed += 1


def _count_mass(facts: TalkFacts, history: History) -> None:
    asked = {
        handed.delivery.id: handed.delivery.account
        for handed in history.deliveries
        if handed.delivery.category == "mass"
    }
    facts.mass = len(asked)
    sent = {
        each.message.delivery
        for each in history.published
        if isinstance(each.message, Receipt) and each.message.status == "sent"
    }
    facts.confirmed.update(asked[delivery] for delivery in sent & asked.keys())


def _lives(history: History, category: str) -> Iterable[list[Told]]:
    """What was said of each intent of a category."""
    for name, decided in history.lives.items():
        intents = history.lines[name].intents
        if intents and intents[0].message.category == category:  # type: ignore[union-attr]
            for lives in decided.values():
                yield from lives


def longest_talk(history: History) -> tuple[str, int]:
    """The customer with the most lines in the feed of customer service among those whom a person
    took over, and how many lines that is; ("", 0) for none."""
    talked = {
        each.message.customer for each in history.published if isinstance(each.message, Takeover)
    }
    lines = Counter(
        each.message.customer
        for each in history.feeds or ()
        if each.message.account == SERVICE and each.message.customer in talked
    )
    return next(iter(lines.most_common(1)), ("", 0))
