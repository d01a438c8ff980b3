"""What the hub's own account did, from the centre's record and the streams: counts and promises."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from actors.account_gate import limits_of
from benchmarks.demo.cdnow import marked
from benchmarks.demo.centre import receipts, taken, text_of
from benchmarks.demo.customers import Said
from channels.accounts import AccountConfig
from hub.checkers import Handed, History, Published, Violation
from hub.checkers.account_records import (
    AccountHistory,
    Confirmed,
    Heard,
    LimitRule,
    Opening,
    submits_of,
)
from hub.checkers.accounts import check_accounts
from hub.contract.types import DndSet, Inbound, Intent, Receipt

JITTER_MS = 250
"""Windows are taken to be shorter by this: the centre notes when it has read a message, which on a
busy machine is later than when it came."""
ORDERED_MS = 2_000
"""An offer published so long after a refusal is decided after it: commands are read first."""
OBEYED_MS = 60_000
"""And whatever is decided so long after it, published before or not."""
FLIGHT_MS = 200
"""What was on the wire when the host was killed has come by then."""
MARKETING = "marketing"
OWN = "tact"
"""The `app` of what the account says for itself."""


@dataclass
class Sent:
    """Everything there is to say about one account's messages."""

    account: AccountConfig
    lines: list[dict[str, Any]]
    """The centre's record."""
    openings: list[Opening]
    decided: list[tuple[str, str]]
    """(delivery, status) as the account's log says they are to be told."""
    found_open: set[str]
    """Delivery ids whose attempt was open when the host was killed."""
    said: list[Said]
    last: int
    """Sequence in LEDGER of the last delivery that was waited for."""
    throttled_s: float
    """How long the centre had the account pause."""


@dataclass
class SentFacts:
    """Counts of deliveries by the account, and of what customers wrote."""

    submitted: int = 0
    """Submissions, those that were not taken included."""
    throttled: int = 0
    """Of them, not taken for the moment."""
    reported: Counter[str] = field(default_factory=Counter)
    """Deliveries by the last word about them."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed ones by class and code."""
    found_open: int = 0
    """Unknown ones that were open when the host was killed."""
    arrived: int = 0
    """Of those, how many the centre had taken: sent again they would have come twice."""
    unanswered: int = 0
    """Unknown ones whose answer was lost."""
    refusals: int = 0
    questions: int = 0
    withheld: int = 0
    """Offers that were not sent because of a refusal."""
    replies: int = 0
    """Answers of the account to refusals."""


def check(sent: Sent, history: History) -> list[Violation]:
    """All promises about the account, and that a refusal ends marketing."""
    found, unnamed = account_history(sent, history)
    return [*check_accounts(found), *unnamed, *after_refusals(history)]


def count(sent: Sent, history: History) -> SentFacts:
    """What the table says."""
    facts = SentFacts()
    accepted = set()
    for line in sent.lines:
        if line["kind"] == "submit":
            facts.submitted += 1
            facts.throttled += not taken(line)
            facts.replies += text_of(line) == sent.account.opt_out.reply
            if taken(line):
                accepted.add(marked(text_of(line)))
    told = _told(history.published)
    for handed in _of_account(history.deliveries, sent.account.name):
        words = told.get(handed.delivery.id, [])
        last = max(words, key=_rank, default=None)
        status = "" if last is None else last.status
        facts.reported[status] += 1
        if last is not None and status == "failed":
            facts.failures[_why(last)] += 1
        if status == "unknown":
            open_then = handed.delivery.id in sent.found_open
            facts.found_open += open_then
            facts.arrived += open_then and handed.delivery.intent in accepted
            facts.unanswered += not open_then
    facts.refusals = sum(said.refuses for said in sent.said)
    facts.questions = len(sent.said) - facts.refusals
    facts.withheld = _withheld(history)
    return facts


_ORDER = {"unknown": 1, "sent": 2, "failed": 3, "delivered": 4, "read": 5}


def _rank(receipt: Receipt) -> int:
    return _ORDER[receipt.status]


def _why(receipt: Receipt) -> str:
    return " ".join(filter(None, (receipt.failure, receipt.code)))


def _told(published: Sequence[Published]) -> Mapping[str, list[Receipt]]:
    found: dict[str, list[Receipt]] = defaultdict(list)
    for each in published:
        if isinstance(each.message, Receipt):
            found[each.message.delivery].append(each.message)
    return found


def _of_account(deliveries: Sequence[Handed], account: str) -> list[Handed]:
    return [handed for handed in deliveries if handed.delivery.account == account]


def _refused(published: Sequence[Published]) -> dict[str, float]:
    """Customer to when their refusal was acknowledged."""
    found: dict[str, float] = {}
    for each in published:
        if isinstance(each.message, DndSet):
            found.setdefault(each.message.customer, each.stored_ms)
    return found


def _withheld(history: History) -> int:
    """Intents of whom a refusal is a reason that they were not sent."""
    refused = _refused(history.published)
    return len(
        {
            (told.outcome.app, told.outcome.intent)
            for told in history.outcomes
            if told.outcome.customer in refused
            and told.outcome.state in ("held", "suppressed")
            and any(block.kind == "dnd" for block in told.outcome.rules or ())
        }
    )


def silence_ms(lines: Sequence[Mapping[str, Any]], killed_ms: float) -> float:
    """From the kill of the host that sends to the next submission, when there was one before."""
    times = [line["at"] for line in lines if line["kind"] == "submit"]
    after = [at for at in times if at > killed_ms + FLIGHT_MS]
    return min(after) - killed_ms if after and times else 0.0


# ---- promises ------------------------------------------------------------------------------------


def after_refusals(history: History) -> list[Violation]:
    """Marketing that was decided for a customer who had refused it."""
    refused = _refused(history.published)
    stored = {
        each.message.id: each.stored_ms
        for each in history.published
        if isinstance(each.message, Intent) and each.message.customer in refused
    }

    def late(handed: Handed) -> bool:
        delivery = handed.delivery
        since_ms = refused.get(delivery.customer)
        return since_ms is not None and (
            stored[delivery.intent] > since_ms + ORDERED_MS or handed.at_ms > since_ms + OBEYED_MS
        )

    return [
        Violation(
            promise="refusals-obeyed",
            kind="marketing-after-a-refusal",
            app=handed.delivery.app,
            intent=handed.delivery.intent,
            customer=handed.delivery.customer,
            delivery=handed.delivery.id,
            channel=handed.delivery.channel,
            at_ms=handed.at_ms,
            sequences=(handed.sequence,),
        )
        for handed in history.deliveries
        if handed.delivery.category == MARKETING and late(handed)
    ]


def account_history(sent: Sent, history: History) -> tuple[AccountHistory, list[Violation]]:
    """What the checkers of accounts read, and what was submitted without a delivery."""
    name = sent.account.name
    mine = _of_account(history.deliveries, name)
    by_intent = {handed.delivery.intent: handed.delivery for handed in mine}
    unnamed: list[Violation] = []
    whose: dict[str, str] = {}

    def named(line: Mapping[str, Any]) -> tuple[str, str] | None:
        text = text_of(dict(line))
        if text == sent.account.opt_out.reply:  # once to a number, whatever it refuses
            return f"{OWN}:reply-{line['to']}", OWN
        delivery = by_intent.get(marked(text) or "")
        if delivery is None or delivery.to != "+" + line["to"]:
            unnamed.append(
                Violation(promise="sent-once", kind="submitted-and-not-decided", at_ms=line["at"])
            )
            return None
        whose[line["id"]] = delivery.id
        return delivery.id, delivery.app

    found = AccountHistory(
        submits=submits_of(sent.lines, name, named),
        handed=[handed for handed in mine if handed.sequence <= sent.last],
        published=list(history.published),
        decided=sent.decided,
        openings=sent.openings,
        limits=rules_of(sent.account),
        confirmed=_confirmed(sent, whose, history),
        heard=_heard(sent, by_intent.values(), history),
    )
    return found, unnamed


def rules_of(account: AccountConfig) -> list[LimitRule]:
    """The limits in force, as the checkers count them."""
    return [
        LimitRule(
            account.name,
            limit.count,
            max(0, limit.window_ms - JITTER_MS),
            limit.calendar,
            limit.per,
            account.timezone,
        )
        for limit in limits_of(account)
    ]


def _confirmed(sent: Sent, whose: Mapping[str, str], history: History) -> list[Confirmed]:
    """Receipts that the hub has confirmed, of submissions whose id it has been told."""
    known = {
        each.message.provider_id
        for each in history.published
        if isinstance(each.message, Receipt) and each.message.provider_id
    }
    status = receipts(sent.lines)
    return [
        Confirmed(line["at"], sent.account.name, whose[line["id"]], 0, 1, status[line["id"]])
        for line in sent.lines
        if line["kind"] == "confirmed" and line["id"] in known and line["id"] in whose
    ]


def _heard(sent: Sent, deliveries: Collection[Any], history: History) -> list[Heard]:
    """What customers wrote, each under the id that INTAKE knows it by, if it does."""
    customers = {delivery.to: delivery.customer for delivery in deliveries}
    ids = {
        (each.message.customer, bytes(each.message.content.get("text", b'""'))): each.message.id
        for each in history.published
        if isinstance(each.message, Inbound) and each.message.account == sent.account.name
    }
    found = []
    for said in sent.said:
        customer = customers.get(said.number, "")
        id = ids.get((customer, msgspec.json.encode(said.text)), f"unheard {said.number}")
        found.append(Heard(said.at_ms, sent.account.name, id, said.refuses))
    return found
