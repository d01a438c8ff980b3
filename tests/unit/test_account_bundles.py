"""What providers report together, what they note, and what may follow a customer's message."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from actors.account import IDLE_MS
from actors.account_runner import LETTERS_SLICE
from channels.accounts import LimitsTable
from channels.provider import (
    Answer,
    Bundle,
    ProviderCommand,
    ProviderInbound,
    ProviderReceipt,
    Submission,
)
from channels.registry import PROVIDERS, Window
from hub.contract.subjects import account_partition, is_key
from tests.support.account_model import ScriptedProvider, accept
from tests.unit.test_accounts import PARTITIONS, START_MS, Bench, config, scene


def page(id: str, cursor: bytes, *texts: str, at_ms: int = START_MS) -> Bundle:
    written = tuple(ProviderInbound(f"{id}-{text}", "wm1", {"text": text}, at_ms) for text in texts)
    return Bundle(id=id, inbound=written, notes={"cursor": cursor, "old": None})


@scene()
async def test_a_page_and_its_cursor_are_stored_in_one_record(bench: Bench) -> None:
    bench.deliver("a")
    await bench.until(bench.told)
    stored: list[bool] = []
    events = bench.providers["sms"].events
    events.bundle(page("p1", b"1", "one", "two"), stored.append)
    events.bundle(page("p1", b"x", "twice"), stored.append)  # a repeat: nothing of it is taken
    takeover = ProviderCommand("t1", "wm1", "takeover", {"agent": "li"})
    events.bundle(Bundle(commands=(takeover,)), stored.append)
    await bench.until(lambda: len(bench.lane("inbound")) == 2 and bench.lane("command"))
    assert stored == [True] * 3
    assert [m["customer"] for m in bench.lane("inbound")] == ["wm1"] * 2
    assert bench.lane("command")[0] == {
        "id": "t1",
        "app": "accounts",
        "customer": "wm1",
        "op": "takeover",
        "agent": "li",
    }
    records = [record for record in bench.records() if any("m:sms:" in key for key in record)]
    assert len(records) == 1
    assert {key for key in records[0] if key.startswith(("i:", "m:"))} == {
        "i:sms:p1",
        "i:sms:p1-one",
        "i:sms:p1-two",
        "m:sms:cursor",
        "m:sms:old",
    }


@scene()
async def test_a_new_owner_gets_what_was_noted(bench: Bench) -> None:
    bench.deliver("a")
    await bench.until(bench.told)
    stored: list[bool] = []
    bench.providers["sms"].events.bundle(page("p1", b"17"), stored.append)
    await bench.until(lambda: stored)
    second = bench.host("two")
    running = asyncio.create_task(second.run())
    await second.assign(range(PARTITIONS))
    await bench.until(lambda: bench.providers["sms"].notes == {"cursor": b"17"})
    await second.stop()
    await running


@scene()
async def test_a_task_that_must_be_confirmed_is_not_sent_yet(bench: Bench) -> None:
    def create(submission: Submission, provider: ScriptedProvider) -> None:
        answer = Answer("accepted", (submission.delivery,), receipts=1, status=None)
        provider.events.answered(submission.delivery, answer)

    bench.script = create
    bench.deliver("a")
    await bench.until(lambda: bench.log)
    await asyncio.sleep(60)
    assert bench.told() == []
    receipt = ProviderReceipt("sent", bench.clock.now_ms(), delivery="shop:a:1")
    bench.providers["sms"].events.receipt(receipt, lambda _: None)
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]


# ---- what may follow a customer's message --------------------------------------------------------


def with_kind(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    patch.setitem(PROVIDERS, "smpp", dataclasses.replace(PROVIDERS["smpp"], **changes))


def test_so_many_may_follow_a_customers_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kind(monkeypatch, window=Window(2, 10_000))

    async def play(bench: Bench) -> None:
        async def writes(id: str, **fields: Any) -> None:
            stored: list[bool] = []
            inbound = ProviderInbound(id, "wm1", {"text": "hi"}, bench.clock.now_ms(), **fields)
            bench.providers["sms"].events.inbound(inbound, stored.append)
            await bench.until(lambda: stored)

        async def sends(*ids: str) -> list[str]:
            before = len(bench.told())
            bench.deliver(*ids, customer="ann", to="wm1")
            await bench.until(lambda: len(bench.told()) == before + len(ids))
            return sorted(bench.told()[before:])

        closed = "failed window_closed"
        assert await sends("a") == [f"shop:a:1 {closed}"]  # she has never written
        await writes("m1")
        assert await sends("b", "c", "d") == [
            "shop:b:1 sent",
            "shop:c:1 sent",
            f"shop:d:1 {closed}",
        ]
        await writes("m2", agent="li")  # one of ours wrote
        assert await sends("e") == [f"shop:e:1 {closed}"]
        await writes("m3")
        await asyncio.sleep(7)  # it leaves within the two seconds that a claim is good for
        assert await sends("f") == ["shop:f:1 sent"]
        await asyncio.sleep(2)
        assert await sends("g") == [f"shop:g:1 {closed}"]
        assert len(bench.log) == 3  # the provider was not asked for the others

    scene(config())(play)()


def test_a_message_that_is_heard_late_is_followed_by_what_was_sent_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The provider has counted from when she wrote, not from when we heard of it."""
    with_kind(monkeypatch, window=Window(2, 60_000))

    async def play(bench: Bench) -> None:
        async def writes(id: str, at_ms: int) -> None:
            stored: list[bool] = []
            inbound = ProviderInbound(id, "wm1", {"text": "hi"}, at_ms)
            bench.providers["sms"].events.inbound(inbound, stored.append)
            await bench.until(lambda: stored)

        async def sends(*ids: str, ends: int) -> list[str]:
            before = len(bench.told())
            bench.deliver(*ids, customer="ann", to="wm1")
            await bench.until(lambda: len(bench.told()) == before + ends)
            return [one.split()[1] for one in bench.told()[before:]]

        bench.deliver("0", customer="ann", to="wm1")
        await bench.until(bench.told)
        await writes("m1", bench.clock.now_ms())
        await asyncio.sleep(2)
        unheard_ms = bench.clock.now_ms()
        await asyncio.sleep(1)
        assert await sends("a", ends=1) == ["sent"]
        await writes("m2", unheard_ms)
        assert await sends("b", "c", ends=2) == ["sent", "failed"]

        bench.script = lambda submission, provider: None  # nothing is answered
        await asyncio.sleep(1)
        await writes("m3", bench.clock.now_ms())
        await sends("d", ends=0)
        await bench.until(lambda: ("sms", "shop:d:1") in bench.log)
        await asyncio.sleep(1)
        await writes("m4", bench.clock.now_ms())  # d may be taken only now
        bench.script = accept
        answer = Answer("accepted", ("d",))
        bench.providers["sms"].events.answered("shop:d:1", answer)
        assert await sends("e", "f", ends=3) == ["sent", "sent", "failed"]

    scene(config())(play)()


def test_a_used_up_limit_of_a_recipient_closes_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kind(monkeypatch, closes=True)

    async def play(bench: Bench) -> None:
        bench.deliver("a", "b", customer="ann", to="wm1")
        await bench.until(lambda: len(bench.told()) == 2)
        assert sorted(bench.told()) == ["shop:a:1 sent", "shop:b:1 failed window_closed"]

    scene(config(limits=LimitsTable(recipient=["1/day"])))(play)()


# ---- memory ------------------------------------------------------------------------------------


def test_an_account_with_nothing_to_do_leaves_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kind(monkeypatch, connects=False)

    async def play(bench: Bench) -> None:
        bench.deliver("a", customer="ann", to="wm1")
        await bench.until(bench.told)
        first = bench.providers["sms"]
        await asyncio.sleep(IDLE_MS / 1000 + 10)
        assert bench.runner.describe().keys() == {"sms"}  # its provider could not be spared
        first.spared = True
        await bench.until(lambda: first.stopped)
        assert bench.runner.describe() == {}
        begun = bench.clock.now_ms()
        bench.deliver("b", "c", customer="ann", to="wm1")
        await bench.until(lambda: len(bench.told()) == 3)
        assert bench.providers["sms"] is not first
        assert bench.times[1] - begun < 1_000  # a short limit is not waited for again
        assert bench.told()[1:] == [
            "shop:b:1 sent",
            "shop:c:1 failed throttled",
        ]  # a long one counts

    limits = LimitsTable(account=["5/s"], recipient=["2/24h"])
    scene(config(limits=limits))(play)()


@scene()
async def test_two_addresses_are_never_one_customer(bench: Bench) -> None:
    addresses = ["+8613800000001", "wm_1-A", "li.lei", "lilei", "li@lei", "~room", "room", "客户"]
    addresses += ["x" * 64, "x" * 65, "x" * 66, "-"]
    bench.deliver("a")
    await bench.until(bench.told)
    stored: list[bool] = []
    for n, address in enumerate(addresses):
        inbound = ProviderInbound(f"m{n}", address, {"text": "hi"}, START_MS)
        bench.providers["sms"].events.inbound(inbound, stored.append)
    await bench.until(lambda: len(bench.lane("inbound")) == len(addresses))
    customers = [m["customer"] for m in bench.lane("inbound")]
    assert len(set(customers)) == len(addresses)
    assert all(is_key(customer) for customer in customers)
    assert customers[:2] == ["8613800000001", "wm_1-A"] and customers[5] == "~room"


@scene(config("sms"), config("other"))
async def test_what_was_heard_before_an_account_is_given_up_is_stored(bench: Bench) -> None:
    places = {name: account_partition(name, PARTITIONS) for name in ("sms", "other")}
    assert len(set(places.values())) == 2
    bench.deliver("a", account="sms")
    bench.deliver("b", account="other")
    await bench.until(lambda: len(bench.told()) == 2)
    others: list[bool] = []
    stored: list[bool] = []
    for n in range(2 * LETTERS_SLICE):
        inbound = ProviderInbound(f"o{n}", "wm2", {"text": "hi"}, START_MS)
        bench.providers["other"].events.inbound(inbound, others.append)
    bench.providers["sms"].events.bundle(page("p1", b"1", "one"), stored.append)
    await bench.runner.release([places["sms"]])
    assert stored == [True]
    await bench.until(lambda: len(others) == 2 * LETTERS_SLICE)
    assert all(others)
