"""A member's provider under the account actor itself, on the model of the streams: what is told of
a mass message, and that a host that dies in the middle of it costs nothing and repeats nothing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from channels.accounts import AccountConfig
from channels.provider import Callback
from channels.wecom.callbacks import Event
from channels.wecom.member import MemberProvider
from hub.contract.subjects import account_partition, delivery_subject
from hub.contract.times import rfc3339
from hub.ledger.port import Entry
from tests.support.virtual_loop import VirtualLoop, run
from tests.support.wecom_member import CONFIG, WeCom, rewire
from tests.unit.test_accounts import PARTITIONS, START_MS, Bench, delivery

ACCOUNT = AccountConfig(
    name="m1", channel="wecom", provider="wecom-member", settings=CONFIG, receipts_for="72h"
)
DAY_MS = 24 * 3_600_000


class MemberBench(Bench):
    """One host of accounts, with one member's account."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.wecom = WeCom(loop, START_MS)
        super().__init__(loop, ACCOUNT)

    def _make(self, account: AccountConfig, events: Any) -> Any:
        chance = random.Random(5)
        made = MemberProvider(CONFIG, None, events, self.clock, chance, account=account.name)
        rewire(made, self.wecom)
        self.providers[account.name] = made  # type: ignore[assignment]
        return made

    async def until(self, condition: Any, within_s: float = 3_600.0) -> None:
        """Wait for minutes, in steps of a second."""
        end_s = self.loop.time() + within_s
        while not condition():
            assert self.loop.time() < end_s, f"never came: {self.told()}"
            await asyncio.sleep(1)

    def deliver_to(self, number: int, **fields: Any) -> None:
        """A mass message for a customer."""
        known = {"channel": "wecom", "to": f"wm{number}", "expires_at": rfc3339(START_MS + DAY_MS)}
        one = delivery(f"i{number}", account="m1", **known | fields)
        subject = delivery_subject("wecom", account_partition("m1", PARTITIONS))
        self.streams.store([Entry(subject, msgspec.json.encode(one))])


def scene(play: Any) -> None:
    """Play it in virtual time."""

    async def main(loop: VirtualLoop) -> None:
        bench = MemberBench(loop)
        await bench.start()
        await play(bench)
        await bench.stop()

    run(main)


def test_nothing_is_told_until_the_member_confirmed() -> None:
    async def play(bench: MemberBench) -> None:
        for number in range(3):
            bench.deliver_to(number)
        await asyncio.sleep(240)
        assert len(bench.wecom.tasks) == 1 and bench.told() == []
        await bench.until(lambda: len(bench.told()) == 3)
        assert set(bench.told()) == {f"shop:i{number}:1 sent" for number in range(3)}

    scene(play)


def test_the_corps_rule_closes_a_customer_before_wecom_is_asked() -> None:
    async def play(bench: MemberBench) -> None:
        for _ in range(40):  # no month has as many days
            bench.deliver_to(len(bench.streams.ledger), to="wm1")
        await bench.until(lambda: len(bench.told()) == 40, 7_200)
        said = Counter(one.split(" ", 1)[1] for one in bench.told())
        assert (
            said["sent"] in (28, 29, 30, 31) and said["failed window_closed"] == 40 - said["sent"]
        )

    scene(play)


@pytest.mark.parametrize(
    "after_ms", [*range(1, 400, 37), *range(9_900, 10_500, 53), 45_000, 310_000]
)
def test_a_host_that_dies_costs_nothing_and_repeats_nothing(after_ms: int) -> None:
    async def play(bench: MemberBench) -> None:
        for number in range(5):
            bench.deliver_to(number)
        await asyncio.sleep(after_ms / 1_000)
        await bench.die()
        await bench.until(lambda: len(bench.told()) >= 5, 7_200)
        await asyncio.sleep(600)  # whatever would be told twice
        assert Counter(bench.told()) == {f"shop:i{number}:1 sent": 1 for number in range(5)}
        sent = Counter(to for task in bench.wecom.tasks.values() for to in task["to"])
        assert sent == {f"wm{number}": 1 for number in range(5)}

    scene(play)


def live(bench: MemberBench) -> list[dict[str, Any]]:
    """The tasks that were not cancelled."""
    return [task for task in bench.wecom.tasks.values() if not task["cancelled"]]


@pytest.mark.parametrize("between_s", [0.005, 5, 60])
@pytest.mark.parametrize("dies_s", [None, 0.01, 0.05, 0.1, 1])
def test_a_newer_one_of_the_same_key_replaces_an_older_one_once(
    between_s: float, dies_s: float | None
) -> None:
    async def play(bench: MemberBench) -> None:
        same = {"customer": "kim", "to": "wm1", "collapse_key": "price"}
        bench.deliver_to(1, **same)
        await asyncio.sleep(between_s)
        newer = {"content": msgspec.Raw(b'{"text":"newer"}'), "at": rfc3339(START_MS + 60_000)}
        bench.deliver_to(2, **same | newer)
        if dies_s is not None:
            await asyncio.sleep(dies_s)
            await bench.die()
        await bench.until(lambda: len(bench.told()) >= 2, 7_200)
        await asyncio.sleep(600)  # whatever would be told twice
        assert Counter(bench.told()) == {"shop:i1:1 failed superseded": 1, "shop:i2:1 sent": 1}
        assert [task["text"]["content"] for task in live(bench)] == ["newer"]
        assert dies_s or len(bench.wecom.tasks) == 1 + (between_s == 60)

    scene(play)


def test_a_customer_who_leaves_and_a_group_that_changes_are_told() -> None:
    async def play(bench: MemberBench) -> None:
        bench.deliver_to(1, customer="kim")
        await bench.until(lambda: "m1" in bench.providers)
        provider: Any = bench.providers["m1"]
        await asyncio.sleep(1)
        for told in (
            Event("change_external_contact", "del_follow_user", {"ExternalUserID": "wm1"}, 7, "e1"),
            Event("change_external_chat", "dismiss", {"ChatId": "wr1"}, 7, "e2"),
        ):
            request = Callback("EVENT", {}, {}, told.encode())
            assert (await provider.callback(request)).status == 200
        await bench.until(lambda: len(bench.lane("inbound")) == 2 and bench.lane("command"))
        assert [one["customer"] for one in bench.lane("inbound")] == ["kim", "~wr1"]
        assert bench.lane("command")[0]["scope"] == "channel:wecom"

    scene(play)
