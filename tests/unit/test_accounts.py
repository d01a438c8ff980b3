"""The account actor on the model of the streams: what leaves, in which order, and what is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from actors.account import BODIES_KEPT
from actors.account_runner import AccountRunner
from channels.accounts import AccountConfig, BreakerTable, LimitsTable, OptOutTable
from channels.provider import (
    Answer,
    Link,
    ProviderInbound,
    ProviderReceipt,
    Submission,
)
from hub.contract.subjects import (
    account_log,
    account_partition,
    delivery_subject,
    log_subject,
)
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from hub.ledger.port import Entry, LogRecord
from hub.metrics import Metrics
from tests.support.account_model import AccountModelLedger, ScriptedProvider, accept
from tests.support.model import Streams
from tests.support.network import Faults, Network
from tests.support.virtual_loop import VirtualClock, VirtualLoop, run

START_MS = 1_800_000_000_000
PARTITIONS = 2


def config(name: str = "sms", **fields: Any) -> AccountConfig:
    fields.setdefault("limits", LimitsTable())
    return AccountConfig(name=name, channel="sms", provider="smpp", **fields)


class Bench:
    """One host of accounts in virtual time, with scripted providers."""

    def __init__(self, loop: VirtualLoop, *accounts: AccountConfig, **provider: Any) -> None:
        self.loop = loop
        self.clock = VirtualClock(loop, START_MS)
        self.streams = Streams(self.clock, PARTITIONS)
        self.network = Network(loop, random.Random(1), Faults({}))
        self.log: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.providers: dict[str, ScriptedProvider] = {}
        self.script: Callable[[Submission, ScriptedProvider], None] = accept
        self.metrics = Metrics()
        self._provider = provider
        self._accounts = accounts
        self.runner = self.host("one")

    def host(self, name: str) -> AccountRunner:
        ledger = AccountModelLedger(self.streams, self.network, random.Random(2), 4)
        self.ledger = ledger
        return AccountRunner(ledger, self.clock, self._accounts, name, self.metrics, self._make)

    def _make(self, account: AccountConfig, events: Any) -> ScriptedProvider:
        def script(submission: Submission, provider: ScriptedProvider) -> None:
            self.times.append(self.clock.now_ms())
            self.script(submission, provider)

        made = ScriptedProvider(account.name, events, script, log=self.log, **self._provider)
        self.providers[account.name] = made
        return made

    async def start(self) -> None:
        self.loop_task = asyncio.create_task(self.runner.run())
        await self.runner.assign(range(PARTITIONS))

    async def until(self, condition: Callable[[], Any], within_s: float = 3_600.0) -> None:
        end_s = self.loop.time() + within_s
        while not condition():
            assert self.loop.time() < end_s, f"never came: {self.told()} {self.log}"
            await asyncio.sleep(0.01)

    def deliver(self, *ids: str, account: str = "sms", **fields: Any) -> None:
        some = [delivery(each, account=account, **fields) for each in ids]
        payload = msgspec.json.encode(some if len(some) > 1 else some[0])
        subject = delivery_subject("sms", account_partition(account, PARTITIONS))
        self.streams.store([Entry(subject, payload)])

    def told(self) -> list[str]:
        """Receipts in INTAKE: `<delivery> <status> <class>`."""
        found = []
        for message in self.streams.intake:
            if message.lane == "receipt":
                receipt = msgspec.json.decode(message.payload)
                found.append(
                    " ".join(
                        filter(None, [receipt["delivery"], receipt["status"], receipt.get("class")])
                    )
                )
        return found

    def lane(self, lane: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(m.payload) for m in self.streams.intake if m.lane == lane]

    def records(self) -> list[dict[str, bytes | None]]:
        """What each log record of accounts changed."""
        subjects = {log_subject(account_log(n, PARTITIONS)) for n in range(PARTITIONS)}
        return [
            msgspec.msgpack.decode(m.payload, type=LogRecord).states
            for m in self.streams.ledger
            if m.subject in subjects
        ]

    async def die(self) -> None:
        """The host ends without a word; another one owns everything."""
        self.loop_task.cancel()
        for task in asyncio.all_tasks(self.loop):
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(5)
        self.runner = self.host("two")
        await self.start()

    async def stop(self) -> None:
        await self.runner.stop()
        await self.loop_task


def delivery(id: str, *, account: str = "sms", **fields: Any) -> Delivery:
    values: dict[str, Any] = {
        "id": f"shop:{id}:1",
        "intent": id,
        "app": "shop",
        "customer": f"c-{id}",
        "category": "ad",
        "priority": 3,
        "channel": "sms",
        "account": account,
        "to": f"+86138{id.encode().hex()[:8]:0>8}",
        "content": msgspec.Raw(b'{"text":"hello"}'),
        "attempt": 1,
        "at": rfc3339(START_MS),
        "expires_at": rfc3339(START_MS + 3_600_000),
    }
    return Delivery(**values | fields)


def scene(*accounts: AccountConfig, **provider: Any) -> Callable[[Any], Any]:
    """Run a coroutine function of a started `Bench`."""

    def decorate(play: Callable[[Bench], Any]) -> Callable[[], None]:
        def test() -> None:
            async def main(loop: VirtualLoop) -> None:
                bench = Bench(loop, *(accounts or (config(),)), **provider)
                await bench.start()
                await play(bench)
                await bench.stop()

            run(main)

        test.__name__ = play.__name__
        test.__doc__ = play.__doc__
        return test

    return decorate


@scene()
async def test_a_delivery_leaves_and_is_told(bench: Bench) -> None:
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.log == [("sms", "shop:a:1")]
    assert bench.told() == ["shop:a:1 sent"]


@scene()
async def test_a_delivery_for_no_account_is_given_back(bench: Bench) -> None:
    bench.deliver("a", account="nobody")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 failed config"]


@scene()
async def test_what_cannot_be_sent_is_given_back_without_an_attempt(bench: Bench) -> None:
    bench.deliver("a", content=msgspec.Raw(b"{}"))
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 failed rejected_content"]
    assert bench.log == []


@scene(window=1)
async def test_urgent_first_and_one_conversation_in_order(bench: Bench) -> None:
    waiting: list[Submission] = []
    bench.script = lambda submission, _: waiting.append(submission)
    bench.deliver("first")
    await bench.until(lambda: waiting)
    bench.deliver("bulk1")
    bench.deliver("bulk2", customer="kim")
    bench.deliver("code", customer="kim", priority=9)
    await bench.until(lambda: bench.runner.partitions)
    await asyncio.sleep(1)
    bench.script = accept
    accept(waiting[0], bench.providers["sms"])
    await bench.until(lambda: len(bench.told()) == 4)
    order = [id.split(":")[1] for _, id in bench.log]
    assert order == ["first", "bulk2", "code", "bulk1"]


@scene()
async def test_several_for_one_customer_at_once(bench: Bench) -> None:
    await bench.until(lambda: "sms" in bench.providers)
    bench.providers["sms"].events.link(Link(0, "gone"))
    for id in "abc":
        bench.deliver(id, customer="kim")
    await asyncio.sleep(1)
    bench.providers["sms"].events.link(Link(10))
    await bench.until(lambda: len(bench.told()) == 3)
    assert [id for _, id in bench.log] == ["shop:a:1", "shop:b:1", "shop:c:1"]


@scene(window=64)
async def test_more_than_is_kept_in_memory_waits_and_leaves(bench: Bench) -> None:
    ids = [f"n{i:04}" for i in range(BODIES_KEPT + 300)]
    for start in range(0, len(ids), 100):
        bench.deliver(*ids[start : start + 100])
    await bench.until(lambda: len(bench.told()) == len(ids))
    assert sorted(id for _, id in bench.log) == [f"shop:{id}:1" for id in ids]


@scene()
async def test_two_customers_may_have_the_same_intent_id(bench: Bench) -> None:
    bench.deliver("a", customer="ann", to="+8613800000001")
    bench.deliver("a", customer="bob", to="+8613800000002")
    bench.deliver("a", customer="bob", to="+8613800000002")  # the same again is a repeat
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.told() == ["shop:a:1 sent", "shop:a:1 sent"]
    assert {receipt["customer"] for receipt in bench.lane("receipt")} == {"ann", "bob"}
    assert len(bench.log) == 2


@scene(config(limits=LimitsTable(account=["5/s"])))
async def test_never_over_a_limit(bench: Bench) -> None:
    bench.deliver(*(f"n{i}" for i in range(40)))
    await bench.until(lambda: len(bench.told()) == 40)
    times = bench.times
    assert all(later - first >= 1_000 for first, later in zip(times, times[5:], strict=False))
    assert times[-1] - times[0] < 8_000 + 500


@scene(config(limits=LimitsTable(account=["5/s"])))
async def test_never_over_a_limit_on_the_wire_when_writing_is_held_up(bench: Bench) -> None:
    written: list[float] = []

    def flushed() -> None:
        if len(written) % 6 == 0:  # between deciding that it leaves and its being on the wire
            bench.loop.hold_up(0.09)
        written.append(bench.clock.now_ms())

    bench.providers["sms"].flushed = flushed
    bench.deliver(*(f"n{i}" for i in range(40)))
    await bench.until(lambda: len(bench.told()) == 40)
    assert len(written) == 40
    assert all(b - a >= 1_000 for a, b in zip(written, written[5:], strict=False))


@scene(config(limits=LimitsTable(recipient=["1/s"])), window=10)
async def test_what_waits_for_its_number_holds_no_place_of_others(bench: Bench) -> None:
    for n in range(20):
        ids = [f"busy{n}-{i}" for i in range(3)]
        bench.deliver(*ids, customer=f"busy{n}", to=f"+86139000000{n:02d}")
    bench.deliver(*(f"n{i}" for i in range(40)))
    await bench.until(lambda: len(bench.told()) == 100)
    others = [t for t, (_, id) in zip(bench.times, bench.log, strict=True) if ":n" in id]
    assert len(others) == 40 and others[-1] - bench.times[0] < 1_000


@scene()
async def test_a_slow_down_pauses_once_and_nothing_is_lost(bench: Bench) -> None:
    refused = []

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        if len(refused) < 3:
            refused.append(bench.clock.now_ms())
            answer = Answer("throttled", code="busy", retry_after_ms=2_000)
            provider.events.answered(submission.delivery, answer)
        else:
            accept(submission, provider)

    bench.script = script
    bench.deliver("a", "b", "c", "d")
    await bench.until(lambda: len(bench.told()) == 4)
    assert [told.split()[1] for told in bench.told()] == ["sent"] * 4
    after = [t for t in bench.times if t > refused[-1]]
    assert min(after) - refused[0] >= 1_900


@scene(config(unknown_after="30s"))
async def test_an_unanswered_one_is_unknown_and_never_sent_again(bench: Bench) -> None:
    def script(submission: Submission, provider: ScriptedProvider) -> None:
        provider.events.answered(submission.delivery, Answer("unknown", code="timeout"))

    bench.script = script
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 unknown"]
    assert len(bench.log) == 1
    assert bench.clock.now_ms() - START_MS >= 30_000


@scene(config(unknown_after="30s", duplicates="allow"))
async def test_an_unanswered_one_is_sent_again_where_that_is_wanted(bench: Bench) -> None:
    def script(submission: Submission, provider: ScriptedProvider) -> None:
        if len(bench.log) == 1:
            provider.events.answered(submission.delivery, Answer("unknown", code="timeout"))
        else:
            accept(submission, provider)

    bench.script = script
    bench.deliver("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]
    assert len(bench.log) == 2


@scene()
async def test_receipts_in_any_order(bench: Bench) -> None:
    stored: list[bool] = []

    def script(submission: Submission, provider: ScriptedProvider) -> None:
        id = submission.delivery
        now = bench.clock.now_ms()
        # Delivered, before anybody has told what its id is; twice; and then a contradiction.
        for status in ("delivered", "delivered", "failed"):
            provider.events.receipt(
                ProviderReceipt(status, now, provider_id=f"p-{id}"), stored.append
            )
        provider.events.answered(id, Answer("accepted", (f"p-{id}",), receipts=1))

    bench.script = script
    bench.deliver("a")
    await bench.until(lambda: len(bench.told()) >= 2)
    assert bench.told() == ["shop:a:1 sent", "shop:a:1 delivered"]
    assert stored == [True, True, True]


@scene()
async def test_parts_are_delivered_when_all_are(bench: Bench) -> None:
    def script(submission: Submission, provider: ScriptedProvider) -> None:
        provider.events.answered(
            submission.delivery, Answer("accepted", ("x1", "x2", "x3"), receipts=3)
        )

    bench.script = script
    bench.deliver("a", content=msgspec.Raw(b'{"text":"long","units":3}'))
    await bench.until(bench.told)
    events = bench.providers["sms"].events
    for id in ("x2", "x1"):
        events.receipt(ProviderReceipt("delivered", START_MS, provider_id=id), lambda _: None)
    await asyncio.sleep(5)
    assert bench.told() == ["shop:a:1 sent"]
    events.receipt(ProviderReceipt("delivered", START_MS, provider_id="x3"), lambda _: None)
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.told()[1] == "shop:a:1 delivered"


@scene(config(opt_out=OptOutTable(reply="done")))
async def test_a_refusal_is_a_do_not_disturb_and_answered_once(bench: Bench) -> None:
    bench.deliver("a", to="+8613800000001", customer="ann")
    await bench.until(bench.told)
    stored: list[bool] = []
    for n in range(3):
        inbound = ProviderInbound(
            f"mo{n}", "+8613800000001", {"text": "TD"}, bench.clock.now_ms(), opt_out=True
        )
        bench.providers["sms"].events.inbound(inbound, stored.append)
    await bench.until(lambda: len(bench.lane("inbound")) == 3)
    await asyncio.sleep(5)
    assert {(c["op"], c["customer"], c["scope"]) for c in bench.lane("command")} == {
        ("dnd.set", "ann", "channel:sms")
    }
    assert {m["customer"] for m in bench.lane("inbound")} == {"ann"}
    assert stored == [True] * 3
    assert [id for _, id in bench.log][1:] == ["tact:reply-mo0:1"]
    assert bench.told() == ["shop:a:1 sent"]


@scene()
async def test_a_new_owner_finds_what_was_open_unknown(bench: Bench) -> None:
    bench.script = lambda submission, provider: None  # never answers
    bench.deliver("a", "b")
    await bench.until(lambda: len(bench.log) == 2)
    second = bench.host("two")
    bench.script = accept
    bench.deliver("c")
    task = asyncio.create_task(second.run())
    await second.assign(range(PARTITIONS))
    await bench.until(lambda: "shop:c:1 sent" in bench.told())
    await bench.until(lambda: len(bench.told()) == 3)
    assert sorted(bench.told()) == ["shop:a:1 unknown", "shop:b:1 unknown", "shop:c:1 sent"]
    assert sorted(id for _, id in bench.log) == ["shop:a:1", "shop:b:1", "shop:c:1"]
    await second.stop()
    await task


def test_a_turn_that_breaks_off_is_not_committed() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, config())
        await bench.start()
        await bench.until(lambda: "sms" in bench.providers)
        account = next(p.accounts["sms"] for p in bench.runner.partitions.values() if p.accounts)
        account.queue = None  # a bug, met by what is read next
        bench.deliver("a")
        with pytest.raises(AttributeError):
            await bench.loop_task
        second = bench.host("two")
        task = asyncio.create_task(second.run())
        await second.assign(range(PARTITIONS))
        await bench.until(bench.told)
        assert bench.told() == ["shop:a:1 sent"]
        await second.stop()
        await task

    run(main)


def of_wecom(name: str) -> AccountConfig:
    return AccountConfig(name=name, channel="wecom", provider="wecom-kf", limits=LimitsTable())


@scene(config("sms"), of_wecom("desk"))
async def test_what_is_for_another_channel_goes_to_that_channels_own_account(bench: Bench) -> None:
    """A customer who belongs to an account of WeCom is written to by SMS."""
    bench.deliver("a", "b", account="desk")
    bench.deliver("c", account="desk", customer="c-a")
    await bench.until(lambda: len(bench.told()) == 3)
    assert sorted(bench.log) == [("sms", "shop:a:1"), ("sms", "shop:b:1"), ("sms", "shop:c:1")]
    assert sorted(bench.told()) == ["shop:a:1 sent", "shop:b:1 sent", "shop:c:1 sent"]


@scene(config("other"), of_wecom("desk"), of_wecom("sms"))
async def test_what_is_for_a_channel_without_an_own_account_is_given_back(bench: Bench) -> None:
    bench.deliver("a", account="desk")
    bench.deliver("b", account="desk", via="other")
    await bench.until(lambda: len(bench.told()) == 2)
    assert sorted(bench.told()) == ["shop:a:1 failed config", "shop:b:1 failed config"]


@scene(
    config("main", failover="spare", breaker=BreakerTable(failures=2)), config("spare"), window=4
)
async def test_a_failed_accounts_backlog_goes_to_the_other_in_order(bench: Bench) -> None:
    def script(submission: Submission, provider: ScriptedProvider) -> None:
        if provider.name == "main":
            provider.events.answered(
                submission.delivery, Answer("failed", failure="provider", code="down")
            )
        else:
            accept(submission, provider)

    bench.script = script
    bench.deliver(*(f"n{i:02}" for i in range(20)), account="main")
    await bench.until(lambda: len(bench.told()) == 20)
    by_main = [id for name, id in bench.log if name == "main"]
    by_spare = [id for name, id in bench.log if name == "spare"]
    assert 2 <= len(by_main) <= 4
    assert by_spare == sorted(by_spare)
    assert sorted(by_main + by_spare) == [f"shop:n{i:02}:1" for i in range(20)]


@scene()
async def test_a_lost_connection_takes_back_what_has_not_left(bench: Bench) -> None:
    provider_of = bench.providers
    await bench.until(lambda: "sms" in provider_of)
    events = provider_of["sms"].events
    events.link(Link(0, "gone"))
    bench.deliver("a")
    await asyncio.sleep(20)
    assert bench.log == []
    events.link(Link(10))
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]


@scene()
async def test_what_expires_while_it_waits_is_given_back(bench: Bench) -> None:
    await bench.until(lambda: "sms" in bench.providers)
    bench.providers["sms"].events.link(Link(0, "gone"))
    bench.deliver("a", expires_at=rfc3339(START_MS + 5_000))
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 failed expired"]
    assert 5_000 <= bench.clock.now_ms() - START_MS < 6_000


@scene(config(limits=LimitsTable(account=["3/day"])))
async def test_a_used_up_day_gives_back_what_would_expire(bench: Bench) -> None:
    bench.deliver(*(f"n{i}" for i in range(5)))
    await bench.until(lambda: len(bench.told()) == 5)
    states = sorted(told.split(" ", 1)[1] for told in bench.told())
    assert states == ["failed throttled"] * 2 + ["sent"] * 3


@pytest.mark.parametrize("seconds", [1, 59])
def test_times_are_written_as_the_contract_says(seconds: int) -> None:
    assert rfc3339(seconds * 1_000).endswith(f":{seconds:02}.000Z")
