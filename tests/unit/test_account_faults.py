"""What the simulation of accounts has found, each as the shortest scene that shows it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actors import account as account_module
from actors import failover
from channels.accounts import BreakerTable, LimitsTable
from channels.provider import Answer, Link, ProviderReceipt, Submission
from tests.support.account_model import ScriptedProvider, accept
from tests.unit.test_accounts import START_MS, Bench, config, scene


def waiting(bench: Bench) -> int:
    """Deliveries that wait, of all accounts."""
    return sum(each["waiting"] for each in bench.runner.describe().values())


def opened(bench: Bench) -> int:
    """Deliveries that are claimed, of all accounts."""
    return sum(each["open"] for each in bench.runner.describe().values())


@scene(config(limits=LimitsTable(account=["1/s"])))
async def test_a_message_whose_part_has_failed_does_not_leave_again(bench: Bench) -> None:
    """Seed 399: the receipt comes when the rest of the message is claimed, and has not left."""

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        answer = Answer("retry", ("p1", ""), code="half", retry_after_ms=500)
        provider.events.answered(submission.delivery, answer)

    bench.script = script
    bench.deliver("a", content=msgspec.Raw(b'{"text":"long","units":2}'))
    await bench.until(lambda: bench.log and not opened(bench))
    await bench.until(lambda: opened(bench))
    failed = ProviderReceipt("failed", START_MS, provider_id="p1", failure="dead_address")
    bench.providers["sms"].events.receipt(failed, lambda _: None)
    await bench.until(bench.told)
    await asyncio.sleep(60)
    assert bench.told() == ["shop:a:1 failed dead_address"]
    assert len(bench.log) == 1


@scene(config(duplicates="allow", unknown_after="30s"))
async def test_what_has_arrived_is_not_sent_again_for_want_of_an_answer(bench: Bench) -> None:
    """Seed 95: the receipt names our id, and so needs no answer."""

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        receipt = ProviderReceipt("delivered", START_MS, delivery=submission.delivery)
        provider.events.receipt(receipt, lambda _: None)
        provider.events.answered(submission.delivery, Answer("unknown", code="timeout"))

    bench.script = script
    bench.deliver("a")
    await bench.until(bench.told)
    await asyncio.sleep(600)
    assert bench.told() == ["shop:a:1 delivered"]
    assert len(bench.log) == 1


@scene(
    config("main", failover="spare", breaker=BreakerTable(failures=1)),
    config("spare"),
    resend=True,
)
async def test_a_key_of_one_provider_is_none_of_the_other(bench: Bench) -> None:
    """Seeds 7 and 31: it may be there already, so it waits for the provider that knows its id."""

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        unknown = provider.name == "main" and len(bench.log) == 1
        if unknown:
            provider.events.answered(submission.delivery, Answer("unknown", code="timeout"))
        else:
            accept(submission, provider)

    bench.script = script
    bench.deliver("a", account="main")
    await bench.until(bench.told)
    assert bench.log == [("main", "shop:a:1")] * 2


@scene(config("main", failover="spare"), config("spare"))
async def test_a_conversation_is_handed_over_in_order_whatever_is_in_memory(bench: Bench) -> None:
    """Seeds 189 and 218: the first one's body is read again, the others wait for it."""
    await bench.until(lambda: "main" in bench.providers)
    events = bench.providers["main"].events
    events.link(Link(0, "gone"))
    await asyncio.sleep(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account_module, "BODIES_KEPT", 0)
        bench.deliver("a", account="main", customer="ann")
        await bench.until(lambda: waiting(bench) == 1)
    bench.deliver("b", "c", account="main", customer="ann")
    await bench.until(lambda: waiting(bench) == 3)
    events.link(Link(0, "wrong password", config=True))
    await bench.until(lambda: len(bench.told()) == 3)
    assert bench.log == [("spare", f"shop:{name}:1") for name in "abc"]


@scene(config("main", failover="spare"), config("spare"))
async def test_what_stays_at_a_broken_account_costs_no_turn_after_turn(bench: Bench) -> None:
    """Seeds 178 and 183: it was handed over before, and one turn's worth of it waits."""
    await bench.until(lambda: "main" in bench.providers)
    events = bench.providers["main"].events
    events.link(Link(0, "wrong password", config=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failover, "HAND_OVER_TURN", 1)
        bench.deliver("a", "b", account="main", via="spare")
        await bench.until(lambda: waiting(bench) == 2)
        await asyncio.sleep(600)  # the loop says when time stands still
    events.link(Link(10))
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.log == [("main", "shop:a:1"), ("main", "shop:b:1")]


@scene()
async def test_nobody_is_asked_of_an_account_that_is_being_given_up(bench: Bench) -> None:
    """A demo: callbacks that came while a partition was released found no provider, and failed."""
    await bench.until(lambda: "sms" in bench.providers)
    provider, gate = bench.providers["sms"], asyncio.Event()
    assert bench.runner.provider_of("sms") is provider

    async def stop(drain_s: float) -> None:
        await gate.wait()

    provider.stop = stop  # type: ignore[method-assign]
    (number,) = (n for n, p in bench.runner.partitions.items() if "sms" in p.accounts)
    released = asyncio.create_task(bench.runner.release([number]))
    await asyncio.sleep(1)
    assert not released.done()
    assert bench.runner.provider_of("sms") is None
    gate.set()
    await released
    assert bench.runner.provider_of("sms") is None
    assert bench.providers["sms"] is provider  # no other was made meanwhile


@pytest.mark.parametrize(("fields", "times_s"), [({}, [0, 0, 2, 6]), ({"tries": 1}, [0])])
def test_what_is_never_answered_comes_to_an_end(fields: Any, times_s: list[int]) -> None:
    """A provider that removes repeats and answers none was asked without pause until the expiry."""

    async def play(bench: Bench) -> None:
        def script(submission: Submission, provider: ScriptedProvider) -> None:
            answer = Answer("unknown", code="http-unanswered")
            provider.events.answered(submission.delivery, answer)

        bench.script = script
        bench.deliver("a")
        await bench.until(bench.told)
        await asyncio.sleep(600)
        assert bench.told() == ["shop:a:1 unknown"]
        assert [one["code"] for one in bench.lane("receipt")] == ["no-answer"]
        assert [round((at - bench.times[0]) / 1_000) for at in bench.times] == times_s

    scene(config(**{"tries": 4} | fields), resend=True)(play)()
