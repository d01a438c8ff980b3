"""The checkers of push: silent about a good day, and each finds what is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from hub.checkers import History, check_all
from hub.checkers.push import NOTICED_MS, Pushed, PushHistory, check_push, push_checkers
from hub.contract.times import rfc3339
from hub.policy.document import parse_policy
from tests.support.histories import HOUR_MS, Recorder, intent

POLICY = """
version = 1
timezone = "Asia/Shanghai"
[push]
devices = 3
[categories.offer]
route = ["push", "sms"]
[[caps]]
name = "two-a-day"
categories = ["offer"]
limit = 2
window = "24h"
on = "hold"
"""
PHONES = ("tok-1", "push/tok-2", "grid/till-3")


class Day:
    """Two customers: one has three devices, of which one is gone; the only one of the other is."""

    def __init__(self) -> None:
        self.recorder = Recorder(parse_policy(POLICY))
        self.pushed: list[Pushed] = []
        self._seen = 0
        for number, address in enumerate(PHONES):
            self.signs_in("ann", f"s{number}", address)
        self.signs_in("bob", "s", "gone-4", sms="+8613900000001")
        for number in range(3):
            self.recorder.now += 1_000
            self.recorder.publish("normal", intent(f"ann-{number}", "ann", category="offer"))
            self.answers()
        self.recorder.now += 1_000
        self.recorder.publish("normal", intent("bob-1", "bob", category="offer"))
        self.answers()
        self.recorder.now += 1_000
        self.recorder.publish("normal", intent("bob-2", "bob", category="offer"))
        self.answers()

    def signs_in(self, customer: str, name: str, address: str, **others: str) -> None:
        command = {"id": name, "app": "shop", "customer": customer, "op": "profile.set"}
        self.recorder.publish("command", command | {"to": {"push": address, **others}})

    def answers(self) -> None:
        """What services make of what was handed over since: tok-2 and gone-4 are dead."""
        new, self._seen = self.recorder.handed[self._seen :], len(self.recorder.handed)
        for handed in new:
            delivery = handed.delivery
            if delivery.channel != "push":
                continue
            dead = delivery.to in ("tok-2", "gone-4")
            key = f"dlv_{delivery.id}" if delivery.account == "grid" else ""
            self.pushed.append(
                Pushed(self.recorder.now, delivery.account, delivery.id, delivery.to, not dead, key)
            )
            self.reports(delivery.id, delivery.customer, delivery.to, dead=dead)

    def reports(self, delivery: str, customer: str, to: str, *, dead: bool) -> None:
        receipt: dict[str, Any] = {"delivery": delivery, "customer": customer}
        receipt |= {"at": rfc3339(self.recorder.now), "status": "failed" if dead else "sent"}
        if dead:
            receipt |= {"class": "dead_address", "code": "UNREGISTERED", "to": to}
        self.recorder.publish("receipt", receipt, "accounts")

    def found(self) -> PushHistory:
        history = self.recorder.history()
        handed = [
            each
            for each in (*history.deliveries, *history.copies)
            if each.delivery.channel == "push"
        ]
        return PushHistory(history=history, pushed=self.pushed, handed=handed)


def kinds(found: PushHistory) -> set[str]:
    return {each.kind for each in check_push(found)}


def test_a_good_day_is_found_good():
    found = Day().found()
    assert check_push(found) == check_all(found.history) == []
    history: History = found.history
    # Two go to her devices, the third waits; his first goes on by SMS, his second begins there.
    assert [each.delivery.channel for each in history.deliveries] == [
        *("push", "push"),
        *("push", "sms", "sms"),
    ]
    assert [each.delivery.to for each in history.copies] == ["tok-2", "tok-1", "tok-1"]
    assert {checker.promise for checker in push_checkers()} == {
        *("dead-devices", "counted-once", "pushed-as-told", "one-key")
    }


def _again_to_the_dead(day: Day, found: PushHistory) -> None:
    first = next(each for each in found.handed if each.delivery.customer == "bob")
    delivery = replace(first.delivery, id="shop:bob-2:1", at=rfc3339(day.recorder.now))
    found.history.deliveries.append(replace(first, delivery=delivery))
    del found.history.__dict__["copies_of"]


def _one_of_several_is_dead(day: Day, found: PushHistory) -> None:
    copy = next(each for each in found.history.copies if each.delivery.to == "tok-2")
    late = rfc3339(day.recorder.now + NOTICED_MS)
    delivery = replace(copy.delivery, id="shop:ann-9:101", at=late)
    found.history.copies.append(replace(copy, delivery=delivery))


def _counted_for_each_device(day: Day, found: PushHistory) -> None:
    handed = found.history.deliveries[0]
    days_before = rfc3339(day.recorder.now - 48 * HOUR_MS)
    delivery = replace(handed.delivery, at=days_before)
    found.history.deliveries[0] = replace(handed, delivery=delivery)


def _taken_again(day: Day, found: PushHistory) -> None:
    found.pushed.append(replace(found.pushed[0], at_ms=day.recorder.now))


def _never_taken(day: Day, found: PushHistory) -> None:
    del found.pushed[0]


def _of_nobody(day: Day, found: PushHistory) -> None:
    found.pushed.append(Pushed(0, "push", "shop:never:1", "tok-1", taken=True))


def _to_another(day: Day, found: PushHistory) -> None:
    found.pushed[-1] = replace(found.pushed[-1], to="tok-1")


def _another_key(day: Day, found: PushHistory) -> None:
    mine = next(each for each in found.pushed if each.key)
    found.pushed.append(replace(mine, taken=False, key="dlv_other"))


def _a_key_twice(day: Day, found: PushHistory) -> None:
    one, other = [number for number, each in enumerate(found.pushed) if each.key][:2]
    found.pushed[other] = replace(found.pushed[other], key=found.pushed[one].key)


PLANTED = {
    _again_to_the_dead: "pushed-to-a-dead-address",
    _one_of_several_is_dead: "pushed-to-a-dead-address",
    _counted_for_each_device: "blocked-by-a-cap-that-was-not-reached",
    _taken_again: "taken-twice",
    _never_taken: "told-as-sent-and-not-taken",
    _of_nobody: "pushed-and-not-decided",
    _to_another: "pushed-and-not-decided",
    _another_key: "repeated-under-another-key",
    _a_key_twice: "a-key-of-two-deliveries",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_what_is_planted_is_found(plant: Callable[[Day, PushHistory], None]):
    day = Day()
    found = day.found()
    assert found.history.copies_of  # computed before anything is planted
    plant(day, found)
    assert kinds(found) == {PLANTED[plant]}


def test_an_address_that_is_told_again_may_be_pushed_to():
    day = Day()
    day.recorder.now += 25 * HOUR_MS
    day.signs_in("bob", "s-2", "gone-4")
    day.recorder.now += 1_000
    day.recorder.publish("normal", intent("bob-3", "bob", category="offer"))
    day.answers()
    found = day.found()
    assert sum(each.delivery.to == "gone-4" for each in found.handed) == 2
    assert check_push(found) == []
