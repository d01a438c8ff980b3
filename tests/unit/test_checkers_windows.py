"""The checker of windows, on invented traffic and on histories it must not accept."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hub.checkers import History, Windows, check_all
from hub.contract.times import rfc3339
from hub.contract.types import Inbound
from hub.policy.document import parse_policy
from tests.support.histories import HOUR_MS, MINUTE_MS, PLAIN, TO, Recorder, altered, intent

RULE = """
[[windows]]
name = "win"
channels = ["wecom"]
limit = 2
within = "5h"
on = "{on}"
"""


def wrote(recorder: Recorder, name: str, customer: str = "c1", **more: Any) -> None:
    said = {"id": name, "channel": "wecom", "account": "ann", "customer": customer}
    said |= {"content": {"text": "hi"}, "at": rfc3339(recorder.now)}
    recorder.publish("inbound", said | more, "gateway")


def send(recorder: Recorder, name: str, customer: str = "c1", **more: Any) -> None:
    fields = {"category": "service", "to": TO, "account": "ann"} | more
    recorder.publish("normal", intent(name, customer, **fields))


def test_a_hub_that_minds_windows_breaks_no_promise() -> None:
    for seed, on in ((1, "hold"), (2, "next"), (3, "hold")):
        chance = random.Random(seed)
        recorder = Recorder(parse_policy(PLAIN + RULE.format(on=on)))
        for number in range(300):
            recorder.now += int(chance.expovariate(1 / (20 * MINUTE_MS)))
            customer = chance.choice("abc")
            if chance.random() < 0.3:
                wrote(recorder, f"m{number}", customer, account=chance.choice(("ann", "bob")))
            else:
                category = chance.choice(("service", "service", "otp"))
                send(recorder, f"i{number}", customer, category=category)
        recorder.run_wakes(recorder.now)
        assert check_all(recorder.history()) == []
        deliveries = [each.delivery for each in recorder.handed]
        assert sum(each.channel == "wecom" for each in deliveries) > 30
        by_sms = [
            each for each in deliveries if (each.channel, each.category) == ("sms", "service")
        ]
        assert bool(by_sms) is (on == "next")


def opened() -> Recorder:
    """A message, and two deliveries after it."""
    recorder = Recorder(parse_policy(PLAIN + RULE.format(on="hold")))
    wrote(recorder, "m")
    for name in ("a", "b"):
        recorder.now += HOUR_MS
        send(recorder, name)
    assert len(recorder.handed) == 2
    return recorder


def kinds(history: History) -> list[tuple[str, str]]:
    return [(violation.kind, violation.intent) for violation in Windows().check(history)]


def test_the_history_is_good_as_it_is() -> None:
    assert kinds(opened().history()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"account": "bob"},
        {"channel": "sms"},
        {"customer": "c2"},
        {"agent": "lin"},
        {"content": {"event": b'"friend_added"'}},
    ],
)
def test_a_message_that_opens_nothing(change: dict[str, Any]) -> None:
    recorder = opened()
    first = recorder.published[0]
    fields = {name: getattr(first.message, name) for name in Inbound.__struct_fields__}
    message = Inbound(**(fields | change))  # type: ignore[arg-type]
    recorder.published[0] = type(first)("inbound", "gateway", 1, first.stored_ms, message)
    assert ("no-message-of-late", "a") in kinds(recorder.history())


def test_the_message_before_last_is_too_old() -> None:
    recorder = opened()
    late = recorder.handed[0]
    fields = {name: getattr(late.delivery, name) for name in late.delivery.__struct_fields__}
    moved = type(late.delivery)(**(fields | {"at": rfc3339(late.at_ms + 5 * HOUR_MS)}))
    handed = [type(late)(late.sequence, late.stored_ms, moved), recorder.handed[1]]
    assert kinds(altered(recorder, handed=handed)) == [("no-message-of-late", "a")]


def test_one_more_than_the_messages_let_out() -> None:
    recorder = opened()
    assert kinds(altered(recorder, handed=[*recorder.handed, recorder.handed[1]])) == [
        ("over-a-window", "b")
    ]
    wrote(recorder, "m2")
    assert kinds(altered(recorder, handed=[*recorder.handed, recorder.handed[1]])) == []
