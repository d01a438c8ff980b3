"""What the long limits of an account count: what its provider took or may have taken, once; and
that it is so for its next owner too."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import msgspec
import pytest

from actors import account_runner
from actors.account_state import unpack_peer
from channels.accounts import LimitsTable
from channels.provider import Answer, Link, Submission
from channels.registry import PROVIDERS
from hub.contract.times import rfc3339
from tests.support.account_model import ScriptedProvider, accept
from tests.unit.test_accounts import START_MS, Bench, config, scene

KIM = {"customer": "kim", "to": "+8613800000001"}
TOMORROW = rfc3339(START_MS + 40 * 3_600_000)
THROTTLED = Answer("throttled", code="slow", retry_after_ms=500)
BUSY = Answer("retry", code="busy")
NOT_LEFT = Answer("retry")
UNKNOWN = Answer("unknown", code="timeout")

pytestmark = pytest.mark.usefixtures("idle_clock")

Script = Callable[[Submission, ScriptedProvider], None]


@pytest.fixture
def idle_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of virtual time, and few looks at them."""
    monkeypatch.setattr(account_runner, "_IDLE_S", 60.0)


def first(*answers: Answer, then: Script = accept) -> Script:
    """What is answered to the first submissions."""
    left = list(answers)

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        if left:
            provider.events.answered(submission.delivery, left.pop(0))
        else:
            then(submission, provider)

    return script


async def day(bench: Bench, most: int) -> None:
    """Kim gets so many, and no more within the hour."""
    bench.deliver(*(f"n{number}" for number in range(most + 1)), **KIM, expires_at=TOMORROW)
    await bench.until(lambda: len(bench.told()) == most, within_s=600)
    await asyncio.sleep(3_600)
    assert bench.told() == [f"shop:n{number}:1 sent" for number in range(most)]


@pytest.mark.parametrize("per", ["account", "app", "recipient"])
@pytest.mark.parametrize(
    "answers",
    [(THROTTLED, THROTTLED), (BUSY, THROTTLED, BUSY), (NOT_LEFT,) * 5],
    ids=lambda answers: "-".join(each.code or "not-left" for each in answers),
)
def test_what_was_not_taken_is_not_counted(per: str, answers: tuple[Answer, ...]) -> None:
    async def play(bench: Bench) -> None:
        bench.script = first(*answers)
        await day(bench, 2)
        assert len(bench.log) == len(answers) + 2

    scene(config(limits=LimitsTable(**{per: ["2/24h"]})))(play)()


@pytest.mark.parametrize("limit", ["1/24h", "1/day"])
@pytest.mark.parametrize("per", ["account", "recipient"])
@pytest.mark.parametrize(
    "answers", [(UNKNOWN, UNKNOWN), (UNKNOWN, BUSY, THROTTLED), (UNKNOWN, NOT_LEFT, BUSY, UNKNOWN)]
)
def test_what_may_have_been_taken_is_counted_once(
    per: str, answers: tuple[Answer, ...], limit: str
) -> None:
    """A repeat that the provider removes needs no room; nor does it make any, refused or not."""

    async def play(bench: Bench) -> None:
        taken: list[str] = []

        def script(submission: Submission, provider: ScriptedProvider) -> None:
            taken.append(submission.delivery)
            answering(submission, provider)

        answering = first(*answers)
        bench.script = script
        bench.deliver("a", **KIM, expires_at=TOMORROW)
        bench.deliver("b", customer="bob", to=KIM["to"], expires_at=TOMORROW)
        await bench.until(bench.told, within_s=600)
        await asyncio.sleep(3_600)
        assert bench.told() == ["shop:a:1 sent"]
        assert taken == ["shop:a:1"] * (len(answers) + 1)

    scene(config(limits=LimitsTable(**{per: [limit]})), resend=True)(play)()


def test_a_repeat_that_does_not_leave_may_still_have_been_taken() -> None:
    async def play(bench: Bench) -> None:
        bench.script = lambda *_: None
        bench.deliver("a", **KIM, expires_at=rfc3339(START_MS + 600_000))
        await bench.until(lambda: bench.log)
        provider = bench.providers["sms"]
        provider.flushed = lambda: provider.events.link(Link(0, "gone"))
        provider.events.answered("shop:a:1", Answer("unknown"))
        provider.events.link(Link(0, "gone"))
        await asyncio.sleep(900)
        provider.events.link(Link(10))
        assert bench.told() == ["shop:a:1 unknown"]
        bench.deliver("b", **KIM, expires_at=TOMORROW)
        await asyncio.sleep(3_600)
        assert len(bench.log) == 1

    scene(config(limits=LimitsTable(recipient=["1/24h"])), resend=True)(play)()


def test_what_may_be_sent_twice_is_counted_twice() -> None:
    """`duplicates = "allow"`: the provider removes nothing."""

    async def play(bench: Bench) -> None:
        bench.script = first(UNKNOWN, BUSY)
        bench.deliver("a", **KIM, expires_at=TOMORROW)
        await bench.until(bench.told)
        bench.deliver("b", "c", **KIM, expires_at=TOMORROW)
        await asyncio.sleep(3_600)
        assert bench.told() == ["shop:a:1 sent", "shop:b:1 sent"]
        assert len(bench.log) == 4

    limits = LimitsTable(recipient=["3/24h"])
    scene(config(duplicates="allow", unknown_after="5s", limits=limits))(play)()


def test_parts_that_were_taken_are_counted_once() -> None:
    async def play(bench: Bench) -> None:
        half = Answer("retry", ("id-1", "", "id-3"), code="half")
        none = Answer("throttled", ("id-1", "", "id-3"), code="half", retry_after_ms=500)
        bench.script = first(half, none)
        large = msgspec.Raw(b'{"text":"hello","units":3}')
        bench.deliver("a", **KIM, content=large, expires_at=TOMORROW)
        bench.deliver("b", **KIM, expires_at=TOMORROW)
        bench.deliver("c", **KIM, expires_at=TOMORROW)
        await bench.until(lambda: len(bench.told()) == 2)
        await asyncio.sleep(3_600)
        assert bench.told() == ["shop:a:1 sent", "shop:b:1 sent"]
        assert len(bench.log) == 4

    scene(config(limits=LimitsTable(account=["4/24h"], recipient=["4/24h"])))(play)()


def test_short_limits_count_every_try() -> None:
    async def play(bench: Bench) -> None:
        bench.script = first(*(Answer("retry", code="busy", retry_after_ms=1),) * 3)
        bench.deliver("a")
        await bench.until(bench.told)
        gaps = [later - one for one, later in zip(bench.times, bench.times[1:], strict=False)]
        assert len(gaps) == 3 and min(gaps) >= 5_000

    scene(config(limits=LimitsTable(account=["1/5s"])))(play)()


@pytest.mark.parametrize("per", ["account", "recipient"])
def test_what_was_refused_stays_so_for_the_next_owner(
    monkeypatch: pytest.MonkeyPatch, per: str
) -> None:
    """An account is put away, or its host dies: both find what was written down."""
    monkeypatch.setitem(PROVIDERS, "smpp", dataclasses.replace(PROVIDERS["smpp"], connects=False))

    async def play(bench: Bench) -> None:
        def refuse(submission: Submission, provider: ScriptedProvider) -> None:
            provider.events.answered(submission.delivery, BUSY)

        bench.script = refuse
        bench.deliver("a", **KIM, expires_at=rfc3339(START_MS + 100_000))
        await bench.until(bench.told)
        assert bench.told() == ["shop:a:1 failed provider"]
        bench.providers["sms"].spared = True
        await bench.until(lambda: bench.runner.describe() == {})
        bench.script = accept
        bench.deliver("b", **KIM)
        await bench.until(lambda: len(bench.told()) == 2, within_s=60)
        assert bench.told()[1] == "shop:b:1 sent"

        bench.script = refuse
        bench.deliver("c", **KIM | {"customer": "c"}, expires_at=rfc3339(START_MS + 900_000))
        await asyncio.sleep(60)
        assert len(bench.log) == 3

    scene(config(tries=2, limits=LimitsTable(**{per: ["1/24h"]})))(play)()


def test_what_a_host_had_counted_of_a_customer_is_with_her_when_it_dies() -> None:
    async def play(bench: Bench) -> None:
        bench.script = first(*(BUSY,) * 2, then=lambda *_: None)
        bench.deliver("a", **KIM)
        await bench.until(lambda: len(bench.log) == 3)
        counted = [
            bool(unpack_peer(value).quota)
            for record in bench.records()
            for key, value in record.items()
            if key.startswith("n:") and value is not None
        ]
        assert counted == [True, False] * 2 + [True]

    scene(config(limits=LimitsTable(recipient=["1/24h"])))(play)()


def test_limits_that_are_new_are_not_told_of_what_they_have_not_counted() -> None:
    async def play(bench: Bench) -> None:
        asked: list[Submission] = []
        bench.script = lambda submission, _: asked.append(submission)
        bench.deliver("a", **KIM)
        await bench.until(lambda: asked)
        await bench.runner.configure([config(limits=LimitsTable(account=["1/24h"]))])
        bench.script = accept
        bench.deliver("b")
        await bench.until(bench.told)
        bench.providers["sms"].events.answered("shop:a:1", BUSY)
        await asyncio.sleep(60)
        assert [id for _, id in bench.log] == ["shop:a:1", "shop:b:1"], "no room for it again"

    scene(config())(play)()
