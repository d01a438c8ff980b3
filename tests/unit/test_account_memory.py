"""An account that was put away or replaced, and what is told of what may have arrived: found by the
simulation, each as the shortest scene that shows it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from actors import account_runner
from actors.account import IDLE_MS
from channels.accounts import LimitsTable
from channels.provider import Answer, ProviderInbound, Submission
from channels.registry import PROVIDERS
from hub.contract.times import rfc3339
from hub.ledger.port import LedgerUnavailable, Outbound
from tests.support.account_model import ScriptedProvider, accept
from tests.unit.test_accounts import START_MS, Bench, config, scene


def unanswered(submission: Submission, provider: ScriptedProvider) -> None:
    provider.events.answered(submission.delivery, Answer("unknown", code="timeout"))


def test_what_is_put_away_is_made_anew_for_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "smpp", dataclasses.replace(PROVIDERS["smpp"], connects=False))

    async def play(bench: Bench) -> None:
        bench.script = unanswered
        bench.deliver("a")
        await bench.until(lambda: bench.log)
        bench.providers["sms"].spared = True
        await bench.until(lambda: bench.providers["sms"].stopped)
        bench.script = accept
        await bench.until(bench.told)
        assert bench.told() == ["shop:a:1 sent"]  # duplicates are allowed: it was sent again

    scene(config(duplicates="allow", unknown_after=f"{IDLE_MS // 100}s"))(play)()


@pytest.mark.parametrize("per", ["account", "recipient"])
def test_what_was_put_away_counts_for_the_day_it_left(
    monkeypatch: pytest.MonkeyPatch, per: str
) -> None:
    monkeypatch.setitem(PROVIDERS, "smpp", dataclasses.replace(PROVIDERS["smpp"], connects=False))
    monkeypatch.setattr(account_runner, "_IDLE_S", 60.0)

    async def play(bench: Bench) -> None:
        ahead = {"expires_at": rfc3339(START_MS + 200_000_000), "customer": "ann", "to": "wm1"}
        bench.deliver("a", **ahead)
        await bench.until(bench.told)
        bench.providers["sms"].spared = True
        await asyncio.sleep(86_500)
        assert bench.runner.describe() == {}
        bench.deliver("b", **ahead)
        await bench.until(lambda: len(bench.told()) == 2, within_s=60.0)
        assert bench.told()[1] == "shop:b:1 sent"

    scene(config(limits=LimitsTable(**{per: ["1/24h"]})))(play)()


@scene(config(receipts_for="5m"))
async def test_what_nobody_confirms_ends_as_unknown(bench: Bench) -> None:
    def create(submission: Submission, provider: ScriptedProvider) -> None:
        answer = Answer("accepted", receipts=1, status=None)
        provider.events.answered(submission.delivery, answer)

    bench.script = create
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 unknown"]


@scene(config(limits=LimitsTable(account=["1/11s"])), resend=True)
async def test_what_may_have_arrived_is_not_called_failed_for_want_of_time(bench: Bench) -> None:
    bench.script = lambda *_: None
    bench.deliver("a", expires_at=rfc3339(START_MS + 20_000))
    await bench.until(lambda: bench.log)
    bench.script = accept
    bench.deliver("b")  # has taken the place when the answer is given up
    await bench.until(bench.told)
    bench.providers["sms"].events.answered("shop:a:1", Answer("unknown", code="timeout"))
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.told() == ["shop:b:1 sent", "shop:a:1 unknown"]
    assert len(bench.log) == 2


@scene(config(limits=LimitsTable(account=["1/10s"]), settings={"version": 1}))
async def test_short_limits_outlive_a_new_connection(bench: Bench) -> None:
    bench.deliver("a")
    await bench.until(bench.told)
    changed = config(limits=LimitsTable(account=["1/10s"]), settings={"version": 2})
    await bench.runner.configure([changed])
    bench.deliver("b")
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.times[1] - bench.times[0] >= 10_000


@scene()
async def test_customers_are_told_to_intake_in_their_order(bench: Bench) -> None:
    bench.deliver("a")
    await bench.until(bench.told)
    tell, tries = bench.ledger.tell, 0

    async def once_in_vain(outbound: list[Outbound]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise LedgerUnavailable("no reply")
        await tell(outbound)

    bench.ledger.tell = once_in_vain  # type: ignore[method-assign, assignment]
    for name in ("m1", "m2"):
        inbound = ProviderInbound(name, "wm1", {"text": name}, START_MS)
        bench.providers["sms"].events.inbound(inbound, lambda _: None)
        await asyncio.sleep(0.5)
    await bench.until(lambda: len(bench.lane("inbound")) == 2)
    assert [each["id"] for each in bench.lane("inbound")] == ["m1", "m2"]
