"""What an account makes of a webhook's answers: the schedule, the tries, the circuit, failover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from channels.accounts import BreakerTable
from channels.http import HttpReply
from channels.provider import Answer, Submission
from channels.push.webhook.answers import outcome_of, step_ms, unanswered
from channels.push.webhook.config import steps_of
from tests.support.account_model import ScriptedProvider, accept
from tests.support.push_webhook import config as webhook
from tests.unit.test_accounts import Bench, config, scene

STEPS = steps_of(webhook(schedule=("5s", "1m", "5m")))
SILENT = 0
"""Instead of a status: no answer."""


def answering(*statuses: int) -> Callable[[Submission, ScriptedProvider], None]:
    """As the provider does, without a network: each status once, the last for ever."""
    left = list(statuses)

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        status = left.pop(0) if len(left) > 1 else left[0]
        wait_ms = step_ms(STEPS, submission, 0.5)
        if status:
            reply = HttpReply(status, {}, b"")
            answer = outcome_of(reply, Answer("accepted"), wait_ms, 0).answer
        elif submission.again:
            answer = unanswered(wait_ms).answer
        else:
            answer = Answer("unknown", code="http-unanswered")
        provider.events.answered(submission.delivery, answer)

    return script


def seconds(bench: Bench) -> list[int]:
    """When each try was made, from the first."""
    return [round((at - bench.times[0]) / 1_000) for at in bench.times]


@scene(config(tries=4), resend=True)
async def test_the_schedule_is_kept_until_the_tries_are_over(bench: Bench) -> None:
    bench.script = answering(500)
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 failed provider"]
    assert seconds(bench) == [0, 5, 65, 365]


@scene(config(tries=4), resend=True)
async def test_without_an_answer_it_is_repeated_at_once_and_then_by_the_schedule(
    bench: Bench,
) -> None:
    """At the end it is `unknown`: it may have arrived, so the rest of the route is not tried."""
    bench.script = answering(SILENT)
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 unknown"]
    assert seconds(bench) == [0, 0, 5, 65]


@scene(config(tries=4, unknown_after="20s"), resend=True)
async def test_what_its_owner_repeats_is_told_as_unknown_after_a_last_wait(bench: Bench) -> None:
    """Until then a claim of an owner that was replaced may leave, and a receipt may come."""

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        provider.events.answered(submission.delivery, Answer("unknown", code="timeout"))

    bench.script = script
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 unknown"] and len(bench.log) == 4
    assert bench.clock.now_ms() - bench.times[-1] >= 20_000


@scene(config(tries=4), resend=True)
async def test_a_slow_down_uses_up_no_try(bench: Bench) -> None:
    bench.script = answering(*[503] * 6, SILENT, 200)
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]
    assert len(bench.log) == 8
    assert seconds(bench)[:4] == [0, 5, 10, 15]  # later the account is slower by itself


@scene(
    config("main", failover="spare", breaker=BreakerTable(failures=3)), config("spare"), resend=True
)
async def test_a_system_that_is_down_opens_the_circuit(bench: Bench) -> None:
    """What was refused goes to the other account, what may have arrived stays."""
    broken = answering(SILENT, 502, 500)

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        (broken if provider.name == "main" else accept)(submission, provider)

    bench.script = script
    bench.deliver("a", "b", "c", account="main")
    await bench.until(lambda: len(bench.told()) == 2)
    await asyncio.sleep(1)
    assert sorted(bench.told()) == ["shop:b:1 sent", "shop:c:1 sent"]
    assert [name for account, name in bench.log if account == "spare"] == ["shop:b:1", "shop:c:1"]
