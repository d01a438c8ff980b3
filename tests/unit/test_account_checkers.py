"""The checkers of accounts: silent about good histories, and each finds what is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from hub.checkers import Handed, Published
from hub.checkers.account_records import (
    AccountHistory,
    Confirmed,
    Heard,
    LimitRule,
    Opening,
    Submit,
    submits_of,
)
from hub.checkers.accounts import check_accounts
from hub.contract.decode import decode
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery

START_MS = parse_rfc3339("2026-03-27T05:00:00Z")
SECOND, HOUR = 1_000, 3_600_000


def handed(sequence: int, name: str, customer: str = "ann", **fields: Any) -> Handed:
    values: dict[str, Any] = {
        "id": f"shop:{name}:1",
        "intent": name,
        "app": "shop",
        "customer": customer,
        "category": "ad",
        "priority": 3,
        "channel": "sms",
        "account": "main",
        "to": "+8613800000001",
        "content": msgspec.Raw(b"{}"),
        "attempt": 1,
        "at": rfc3339(START_MS),
        "expires_at": rfc3339(START_MS + HOUR),
    }
    return Handed(sequence, START_MS, Delivery(**values | fields))


def submit(at_ms: int, name: str, **fields: Any) -> Submit:
    known = {"account": "main", "app": "shop", "recipient": "+8613800000001"}
    return Submit(START_MS + at_ms, delivery=f"shop:{name}:1", **known | fields)


def published(sequence: int, lane: str, at_ms: int = 0, **fields: Any) -> Published:
    (message,) = decode(lane, "accounts", msgspec.json.encode(fields), False)
    return Published(lane, "accounts", sequence, START_MS + at_ms, message)


def receipt(sequence: int, name: str, status: str, at_ms: int = 10 * SECOND) -> Published:
    more = {"class": "provider"} if status == "failed" else {}
    fields = {"delivery": f"shop:{name}:1", "customer": "ann", "status": status}
    return published(sequence, "receipt", at_ms, at=rfc3339(START_MS), **fields, **more)


def opening(sequence: int, name: str, *, open: bool = True, **fields: Any) -> Opening:
    known = {"partition": 0, "account": "main"}
    return Opening(sequence, delivery=f"shop:{name}:1", open=open, **known | fields)


def good() -> AccountHistory:
    """Two deliveries of one conversation: the first refused once, the second handed over."""
    return AccountHistory(
        handed=[
            handed(1, "a"),
            handed(2, "b"),
            handed(5, "b", account="spare", via="main"),
        ],
        submits=[
            submit(0, "a", refused=True),
            submit(2_000, "a"),
            submit(4_000, "b", account="spare"),
        ],
        published=[
            receipt(1, "a", "sent"),
            receipt(2, "b", "sent"),
            receipt(3, "a", "sent"),
            receipt(4, "a", "delivered"),
            published(
                5, "command", id="optout-m1", op="dnd.set", app="accounts", customer="ann",
                scope="channel:sms",
            ),
            published(
                6, "inbound", id="m1", channel="sms", account="main", customer="ann",
                content={"text": "TD"}, at=rfc3339(START_MS),
            ),
        ],
        openings=[
            opening(3, "a"),
            opening(4, "a", open=False),
            opening(6, "a"),
            opening(7, "a"),
            opening(8, "a", open=False),
            opening(9, "b", account="spare", partition=1),
            opening(10, "b", account="spare", partition=1, open=False),
        ],
        limits=[LimitRule("main", 1, 2 * SECOND), LimitRule("spare", 1, calendar="day")],
        confirmed=[Confirmed(START_MS, "main", "shop:a:1", 0, 1, "delivered")],
        heard=[Heard(START_MS, "main", "m1", opt_out=True)],
    )  # fmt: skip


def kinds(history: AccountHistory) -> list[str]:
    return sorted({f"{each.promise}: {each.kind}" for each in check_accounts(history)})


def test_a_good_history_has_no_violation() -> None:
    assert kinds(good()) == []


def again(history: AccountHistory) -> None:
    history.submits[0] = replace(history.submits[0], refused=False)


def by_both(history: AccountHistory) -> None:
    """A key of one provider says nothing to the other."""
    history.keyed = frozenset(("main", "spare"))
    history.submits.insert(1, submit(1, "b"))


def after_the_end(history: AccountHistory) -> None:
    history.published.insert(0, receipt(0, "a", "unknown", 1_000))


def after_the_failure(history: AccountHistory) -> None:
    history.published.insert(0, receipt(0, "a", "failed", 1_000))


def in_two_places(history: AccountHistory) -> None:
    history.openings.insert(4, opening(8, "a", account="spare", partition=1))


def by_the_old_account(history: AccountHistory) -> None:
    history.openings[5:] = [opening(9, "b")]


def too_soon(history: AccountHistory) -> None:
    history.submits[1] = submit(1_999, "a")


def out_of_order(history: AccountHistory) -> None:
    history.handed.append(handed(6, "c", account="spare"))
    history.handed.append(handed(4, "d", account="spare"))
    history.published += [receipt(7, "c", "sent"), receipt(8, "d", "sent")]
    history.submits += [
        submit(4_500 + 24 * HOUR, "c", account="spare"),
        submit(4_500 + 72 * HOUR, "d", account="spare"),
    ]


def handed_over_out_of_order(history: AccountHistory) -> None:
    history.handed.append(handed(3, "c"))
    history.handed.insert(2, handed(4, "c", account="spare", via="main"))
    history.published.append(receipt(7, "c", "sent"))


def never_told(history: AccountHistory) -> None:
    history.handed.append(handed(6, "c"))


def told_backwards(history: AccountHistory) -> None:
    history.published.insert(0, receipt(0, "a", "delivered"))


def decided_backwards(history: AccountHistory) -> None:
    history.decided = [("shop:a:1", "sent"), ("shop:a:1", "delivered"), ("shop:a:1", "sent")]


def not_told(history: AccountHistory) -> None:
    history.decided = [("shop:a:1", status) for status in ("sent", "delivered", "read")]


def receipt_lost(history: AccountHistory) -> None:
    history.confirmed.append(Confirmed(START_MS, "main", "shop:b:1", 0, 1, "failed"))


def message_lost(history: AccountHistory) -> None:
    del history.published[5]


def refusal_lost(history: AccountHistory) -> None:
    del history.published[4]


PLANTED: dict[Callable[[AccountHistory], None], str] = {
    again: "sent-once: submitted-twice",
    by_both: "sent-once: submitted-twice",
    after_the_end: "sent-once: submitted-after-its-end-was-told",
    after_the_failure: "sent-once: submitted-after-its-end-was-told",
    in_two_places: "one-open-attempt: open-in-two-places",
    by_the_old_account: "one-open-attempt: opened-after-it-was-handed-over",
    too_soon: "account-limits: over-a-limit",
    out_of_order: "leaves-in-order: left-before-its-predecessor",
    handed_over_out_of_order: "leaves-in-order: handed-over-before-its-predecessor",
    never_told: "every-delivery-ends: never-told",
    told_backwards: "every-delivery-ends: told-backwards",
    decided_backwards: "every-delivery-ends: told-backwards",
    not_told: "every-delivery-ends: decided-and-not-told",
    receipt_lost: "receipts-count: receipt-without-effect",
    message_lost: "replies-are-kept: confirmed-and-not-stored",
    refusal_lost: "replies-are-kept: refusal-without-do-not-disturb",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_planted_is_found(plant: Callable[[AccountHistory], None]) -> None:
    history = good()
    plant(history)
    assert PLANTED[plant] in kinds(history)


@pytest.mark.parametrize("kind", ["keyed", "repeating"])
def test_repeats_where_they_are_allowed(kind: str) -> None:
    history = good()
    again(history)
    setattr(history, kind, frozenset(("main",)))
    assert kinds(history) == []


DAY_END = parse_rfc3339("2026-03-28T23:00:00Z")  # midnight in Berlin, whose clocks change then
THURSDAY = 0  # 1 January 1970
MONTH_END = parse_rfc3339("2026-03-31T22:00:00Z")


@pytest.mark.parametrize(
    ("rule", "times", "over"),
    [
        (LimitRule("main", 2, SECOND), [0, 0, 1_000], 0),
        (LimitRule("main", 2, SECOND), [0, 1, 1_000, 1_000], 1),
        (LimitRule("main", 2, SECOND, from_ms=2_000.0), [0, 1, 999, 1_500], 0),
        (LimitRule("main", 2, SECOND, until_ms=999.0), [0, 1, 999], 0),
        (LimitRule("main", 2, SECOND, counted_ms=1.0), [0, 1, 999], 0),
        (LimitRule("other", 1, SECOND), [0, 0], 0),
        (LimitRule("main", 2, calendar="day", zone="Europe/Berlin"),
         [DAY_END - 2, DAY_END - 1, DAY_END, DAY_END + 22 * HOUR], 0),
        (LimitRule("main", 2, calendar="day", zone="Europe/Berlin"),
         [DAY_END, DAY_END + 1, DAY_END + 23 * HOUR - 1, DAY_END + 23 * HOUR], 1),
        (LimitRule("main", 2, calendar="month", zone="Europe/Berlin"),
         [MONTH_END - 48 * HOUR, MONTH_END - 1, MONTH_END, MONTH_END + 1, MONTH_END + 2], 1),
        (LimitRule("main", 1, calendar="week", zone="UTC"),
         [THURSDAY, THURSDAY + 72 * HOUR, THURSDAY + 96 * HOUR], 1),  # with Sunday, then Monday
        (LimitRule("main", 0, calendar="month", zone="UTC"), [THURSDAY] * 31, 0),
        (LimitRule("main", 0, calendar="month", zone="UTC"), [THURSDAY] * 32, 1),
    ],
)  # fmt: skip
def test_limits(rule: LimitRule, times: list[int], over: int) -> None:
    submits = [
        Submit(at, "main", f"shop:n{index}:1", "shop", "x") for index, at in enumerate(times)
    ]
    history = AccountHistory(submits=submits, handed=[], limits=[rule])
    assert len(check_accounts(history)) == over


@pytest.mark.parametrize(("per", "over"), [("account", 2), ("app", 1), ("recipient", 0)])
def test_limits_for_each(per: Any, over: int) -> None:
    submits = [Submit(0, "main", "a:1:1", "a", "x"), Submit(1, "main", "a:2:1", "a", "y")]
    submits.append(Submit(2, "main", "b:1:1", "b", "z"))
    rule = LimitRule("main", 1, HOUR, per=per)
    history = AccountHistory(submits=submits, handed=[], limits=[rule])
    assert len(check_accounts(history)) == over


def test_a_large_message_leaves_a_short_window_alone() -> None:
    parts = [Submit(0, "main", "a:1:1", "a", "x", part) for part in range(3)]
    short = [LimitRule("main", 2, SECOND)]
    assert check_accounts(AccountHistory(submits=parts, handed=[], limits=short)) == []
    long = [LimitRule("main", 2, HOUR)]
    assert len(check_accounts(AccountHistory(submits=parts, handed=[], limits=long))) == 1
    other = [*parts, Submit(999, "main", "a:2:1", "a", "x")]
    assert len(check_accounts(AccountHistory(submits=other, handed=[], limits=short))) == 1


LONG = (LimitRule("main", 1, HOUR), LimitRule("main", 1, calendar="day"))
SHORT = LimitRule("main", 1, SECOND)


@pytest.mark.parametrize(("rule", "over"), [*((rule, 0) for rule in LONG), (SHORT, 1)])
def test_what_was_refused_counts_for_short_limits_only(rule: LimitRule, over: int) -> None:
    submits = [submit(0, "a", refused=True), submit(9, "a")]
    history = AccountHistory(submits=submits, handed=[], limits=[rule])
    assert len(check_accounts(history)) == over


@pytest.mark.parametrize(("rule", "over"), [*((rule, 0) for rule in LONG), (SHORT, 1)])
def test_a_repeat_that_is_removed_counts_once_in_a_long_limit(rule: LimitRule, over: int) -> None:
    submits = [submit(0, "a"), submit(9, "a")]
    keyed = AccountHistory(submits=submits, handed=[], limits=[rule], keyed=frozenset({"main"}))
    assert len(check_accounts(keyed)) == over
    another = [*submits, submit(900, "b")]
    keyed = AccountHistory(submits=another, handed=[], limits=[rule], keyed=frozenset({"main"}))
    assert len(check_accounts(keyed)) == over + 1
    sent_twice = AccountHistory(
        submits=submits, handed=[], limits=[rule], repeating=frozenset({"main"})
    )
    assert len(check_accounts(sent_twice)) == 1


def test_the_record_of_a_fake_is_read() -> None:
    line = {"kind": "submit", "at": 5, "id": "1", "answer": "throttle", "to": "86138", "part": 2}
    lines = [line, {"kind": "confirmed", "at": 6, "id": "1"}, line | {"answer": "lose"}]
    submits = submits_of(lines, "main", lambda _: ("shop:a:1", "shop"))
    assert submits == [
        Submit(5, "main", "shop:a:1", "shop", "86138", 1, True),
        Submit(5, "main", "shop:a:1", "shop", "86138", 1, False),
    ]
    assert submits_of(lines, "main", lambda _: None) == []
