"""What was pushed, from the records of FCM, the grid and the inbox and from the streams: counts,
promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmarks.demo.attempts import AttemptLog
from benchmarks.demo.push import ACCOUNTS, GRID, INBOX, PHONES
from benchmarks.demo.sent import FLIGHT_MS, rules_of
from channels.accounts import AccountConfig
from hub.checkers import Handed, History, Told, Violation
from hub.checkers.account_records import AccountHistory, Confirmed, Submit
from hub.checkers.accounts import check_accounts
from hub.checkers.push import CHANNEL, Pushed, PushHistory, check_push
from hub.checkers.records import FAILED, follows, is_replaced
from hub.contract.types import Receipt

AGAIN = ("QUOTA_EXCEEDED", "DEVICE_QUOTA_EXCEEDED", "UNAVAILABLE", "INTERNAL")
"""Errors of FCM after which a message may be sent again."""
ID_KEY = "delivery"
"""What the app is given the delivery's id by, in accounts.toml."""
_ORDER = {"unknown": 1, "sent": 2, "failed": 3, "delivered": 4, "read": 5}


@dataclass
class Pushes:
    """Everything there is to say about push."""

    accounts: list[AccountConfig]
    at_fcm: list[dict[str, Any]]
    """The record of the fake FCM."""
    at_grid: list[dict[str, Any]]
    """The record of the grid."""
    in_inbox: list[dict[str, Any]]
    """The record of the shop's gateway."""
    logs: list[AttemptLog]
    last: Mapping[str, int]
    """Account to the sequence in LEDGER of its last delivery that was waited for."""

    @cached_property
    def posts(self) -> list[dict[str, Any]]:
        """What was posted to the grid."""
        return [line for line in self.at_grid if line["kind"] == "posted"]

    @cached_property
    def confirmed(self) -> list[dict[str, Any]]:
        """Receipts of the grid that the hub has confirmed."""
        return [line for line in self.at_grid if line["kind"] == "confirmed"]

    @cached_property
    def found_open(self) -> set[str]:
        """Delivery ids whose attempt was open when a host was killed."""
        return {delivery for log in self.logs for delivery in log.found_open}


@dataclass
class PushFacts:
    """Counts of pushes: one to each device."""

    dispatches: int = 0
    several: int = 0
    """Of them, those that went to several devices."""
    handed: int = 0
    """Pushes: what these dispatches came to."""
    customers: int = 0
    """That something was pushed to."""
    with_several: int = 0
    """Of them, those with several devices."""
    taken: int = 0
    """By FCM."""
    again: int = 0
    """Requests that FCM refused for the moment."""
    reported: dict[str, Counter[str]] = field(default_factory=dict)
    """By account, pushes by the last word about them."""
    found_open: int = 0
    """At FCM, unknown ones that were open when a host was killed."""
    arrived: int = 0
    """Of those, how many FCM had taken: sent again they would have been shown twice."""
    unanswered: int = 0
    """At FCM, unknown ones whose answer was lost."""
    dead: Counter[str] = field(default_factory=Counter)
    """By account, addresses that were reported dead."""
    posted: int = 0
    """Requests to the grid."""
    repeated: int = 0
    """Of them, those under an id that it knew."""
    once: int = 0
    """Pushes that the grid has taken, each once."""
    receipts: Counter[str] = field(default_factory=Counter)
    """Of the grid, that the hub has confirmed."""
    replaced: int = 0
    """Taken back by their account: a newer one of the collapse key came before they left."""
    down: int = 0
    """Intents that went down their whole route: push, WeCom, SMS."""
    down_delivered: int = 0


def handed_of(history: History) -> Iterator[Handed]:
    """All pushes, one for each device."""
    for handed in (*history.deliveries, *history.copies):
        if handed.delivery.channel == CHANNEL:
            yield handed


# ---- promises ------------------------------------------------------------------------------------


def check(pushes: Pushes, history: History) -> list[Violation]:
    """All promises about push and its accounts."""
    awaited = [
        each
        for each in sorted(handed_of(history), key=lambda each: (each.sequence, each.index))
        if each.sequence <= pushes.last.get(each.delivery.account, 0)
    ]
    app_of = {each.delivery.id: each.delivery.app for each in awaited}
    accounts = AccountHistory(
        submits=list(_submits(pushes, app_of)),
        handed=awaited,
        published=list(history.published),
        decided=[each for log in pushes.logs for each in log.decided],
        openings=[each for log in pushes.logs for each in log.openings],
        limits=[rule for account in pushes.accounts for rule in rules_of(account)],
        keyed=frozenset([GRID, INBOX]),
        confirmed=[
            Confirmed(line["at"], GRID, line["delivery"], 0, 1, line["status"])
            for line in pushes.confirmed
        ],
    )
    found = PushHistory(history=history, pushed=list(_pushed(pushes)), handed=awaited)
    return [*check_accounts(accounts), *check_push(found)]


def _submits(pushes: Pushes, app_of: Mapping[str, str]) -> Iterator[Submit]:
    for line in pushes.at_fcm:
        delivery, refused = line["data"].get(ID_KEY, ""), line["fate"] in AGAIN
        app = app_of.get(delivery, "")
        yield Submit(line["at"], PHONES, delivery, app, line["to"], 0, refused)
    for line in pushes.posts:
        delivery = line["delivery"]
        yield Submit(line["at"], GRID, delivery, app_of.get(delivery, ""), line["to"])
    for line in pushes.in_inbox:
        delivery = line["delivery"]
        yield Submit(line["at"], INBOX, delivery, app_of.get(delivery, ""), line["to"])


def _pushed(pushes: Pushes) -> Iterator[Pushed]:
    for line in pushes.at_fcm:
        delivery = line["data"].get(ID_KEY, "")
        yield Pushed(line["at"], PHONES, delivery, line["to"], bool(line["id"]))
    for line in pushes.posts:
        yield Pushed(line["at"], GRID, line["delivery"], line["to"], line["took"], line["id"])
    for line in pushes.in_inbox:
        yield Pushed(line["at"], INBOX, line["delivery"], line["to"], line["took"])


# ---- counts --------------------------------------------------------------------------------------


def count(pushes: Pushes, history: History) -> PushFacts:
    """What the table says."""
    facts = PushFacts(
        dispatches=sum(each.delivery.channel == CHANNEL for each in history.deliveries),
        several=len(history.copies_of),
        taken=sum(bool(line["id"]) for line in pushes.at_fcm),
        again=sum(line["fate"] in AGAIN for line in pushes.at_fcm),
        posted=len(pushes.posts),
        repeated=sum(line["try"] > 1 for line in pushes.posts),
        once=sum(line["took"] for line in pushes.posts),
        receipts=Counter(line["status"] for line in pushes.confirmed),
    )
    customers: set[str] = set()
    for handed in handed_of(history):
        facts.handed += 1
        customers.add(handed.delivery.customer)
    facts.customers = len(customers)
    facts.with_several = len({customer for _, customer in history.copies_of})
    _count_words(facts, pushes, history)
    _count_ways(facts, history)
    return facts


def _count_words(facts: PushFacts, pushes: Pushes, history: History) -> None:
    """What was told of each push, and of whom it was told that an address is dead."""
    words: dict[str, Receipt] = {}
    for each in history.published:
        message = each.message
        if isinstance(message, Receipt):
            known = words.get(message.delivery)
            if known is None or _ORDER[message.status] > _ORDER[known.status]:
                words[message.delivery] = message
    facts.reported = {account: Counter() for account in (*ACCOUNTS, INBOX)}
    at_fcm = {line["data"].get(ID_KEY, "") for line in pushes.at_fcm if line["id"]}
    dead: set[tuple[str, str]] = set()
    for handed in handed_of(history):
        delivery = handed.delivery
        word = words.get(delivery.id)
        facts.reported[delivery.account][word.status if word else ""] += 1
        if word is None:
            continue
        if word.failure == "dead_address":
            dead.add((delivery.account, delivery.to))
        if word.status == "unknown" and delivery.account == PHONES:
            open_then = delivery.id in pushes.found_open
            facts.found_open += open_then
            facts.arrived += open_then and delivery.id in at_fcm
            facts.unanswered += not open_then
    facts.dead = Counter(account for account, _ in dead)


def _count_ways(facts: PushFacts, history: History) -> None:
    facts.replaced = sum(
        is_replaced(told.outcome) and told.outcome.channel == CHANNEL for told in history.outcomes
    )
    for attempts in history.attempts:
        if any(_is_down(before, after) for before, after in attempts.after()):
            facts.down += 1
            states = {told.outcome.state for told in attempts.life}
            facts.down_delivered += not states.isdisjoint(("delivered", "read"))


def _is_down(before: Told, after: Told) -> bool:
    """Whether SMS was what was left: push had failed, and WeCom's window was closed."""
    outcome = after.outcome
    return (
        before.outcome.channel == CHANNEL
        and outcome.channel == "sms"
        and follows(outcome) == FAILED
        and outcome.state == "dispatched"
        and any(block.kind == "window" for block in outcome.rules or ())
    )


def silence_ms(pushes: Pushes, killed_ms: float) -> float:
    """From the kill of the host that pushes to the next push by FCM."""
    after = (line["at"] for line in pushes.at_fcm if line["at"] > killed_ms + FLIGHT_MS)
    return min(after, default=killed_ms) - killed_ms
