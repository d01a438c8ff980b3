"""getui and JPush under the account actor itself, on the model of the streams: a device's marketing
of the day, and that a host that dies in the middle of pushes costs nothing and repeats nothing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from multidict import CIMultiDict

from channels.accounts import AccountConfig
from channels.http import HttpReply, NotSent, Unanswered
from channels.push.fake.getui import FakeGetui
from channels.push.fake.jpush import FakeJpush
from channels.push.fake.vendor import VendorFake
from channels.push.vendors.getui import GetuiConfig, GetuiProvider
from channels.push.vendors.jpush import JpushConfig, JpushProvider
from hub.contract.subjects import account_partition, delivery_subject
from hub.contract.times import rfc3339
from hub.ledger.port import Entry
from tests.support.virtual_loop import VirtualLoop, run
from tests.unit.test_accounts import PARTITIONS, Bench, delivery

HOUR_MS = 3_600_000
GATEWAYS = ("getui", "jpush")
CONTENT = msgspec.Raw(b'{"title":"t","text":"x"}')
LATENCY_S = 0.05
ZONE = "Pacific/Kiritimati"
"""Where it is 22:00 when a bench starts: two hours of virtual time are left of the day."""


class Wire:
    """A fake without a network, in virtual time: in place of a provider's `HttpClient`."""

    def __init__(self, fake: VendorFake) -> None:
        self.fake = fake
        self.lost = 0
        """Of the next pushes so many are taken, and their answers are lost."""
        self.down = False
        self.refused = 0
        """So many of the next pushes are not taken: the gateway has had too many."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str],
    ) -> HttpReply:
        await asyncio.sleep(LATENCY_S / 2)
        if self.down:
            raise NotSent("no connection")
        path = url.partition("//")[2].partition("/")[2]
        asked: Any = SimpleNamespace(
            method=method, path=f"/{path}", headers=CIMultiDict(headers), query=query or {}
        )
        taken = self.fake.counts.get("taken", 0)
        if self.refused and method == "POST" and "push" in path:
            self.refused -= 1
            return HttpReply(429, {"retry-after": "1"}, b"")
        response = await self.fake.answer(asked, msgspec.json.decode(body) if body else {})
        assert response is not None and isinstance(response.body, bytes)
        await asyncio.sleep(LATENCY_S / 2)
        if self.lost and self.fake.counts.get("taken", 0) > taken:
            self.lost -= 1
            raise Unanswered("no whole answer")
        return HttpReply(response.status, {}, response.body)

    async def reach(self, url: str) -> None:
        if self.down:
            raise NotSent("no connection")

    async def close(self) -> None:
        pass


class VendorBench(Bench):
    """One host of accounts, with one account at a gateway."""

    def __init__(self, loop: VirtualLoop, gateway: str, **fields: Any) -> None:
        self.gateway = gateway
        settings: GetuiConfig | JpushConfig
        if gateway == "getui":
            settings = GetuiConfig(app_id="app", app_key="key", master_secret="secret", **fields)
        else:
            settings = JpushConfig(app_key="key", master_secret="secret", **fields)
        account = AccountConfig(
            name="p", channel="push", provider=gateway, settings=settings, timezone=ZONE
        )
        super().__init__(loop, account)
        self.wire = Wire({"getui": FakeGetui, "jpush": FakeJpush}[gateway](clock=self.clock))  # type: ignore[abstract]

    def _make(self, account: AccountConfig, events: Any) -> Any:
        made = {"getui": GetuiProvider, "jpush": JpushProvider}[self.gateway](
            account.settings, None, events, self.clock, random.Random(5), account=account.name
        )
        made._client = made._sender._client = made._asking = self.wire  # type: ignore[assignment]
        self.providers[account.name] = made  # type: ignore[assignment]
        return made

    def push(self, id: str, device: int = 0, category: str = "marketing", **fields: Any) -> None:
        """A push to a device."""
        fields.setdefault("expires_at", rfc3339(self.clock.now_ms() + HOUR_MS))
        known = {"channel": "push", "content": CONTENT, "to": f"{device:032d}"}
        one = delivery(id, account="p", category=category, **known | fields)
        subject = delivery_subject("push", account_partition("p", PARTITIONS))
        self.streams.store([Entry(subject, msgspec.json.encode(one))])

    async def says(self, id: str) -> str:
        """What is told of a push in the end."""
        await self.until(lambda: any(one.startswith(f"shop:{id}:1 ") for one in self.told()))
        (said,) = [one for one in self.told() if one.startswith(f"shop:{id}:1 ")]
        return said.partition(" ")[2]


Play = Callable[[VendorBench], Coroutine[Any, Any, None]]


def scene(gateway: str, play: Play, **fields: Any) -> None:
    """Play it in virtual time."""

    async def main(loop: VirtualLoop) -> None:
        bench = VendorBench(loop, gateway, **fields)
        await bench.start()
        await play(bench)
        await bench.stop()

    run(main)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_device_gets_two_marketing_messages_on_a_day_of_the_account(gateway: str) -> None:
    async def play(bench: VendorBench) -> None:
        for id in ("a", "b"):
            bench.push(id)
            assert await bench.says(id) == "sent"
        bench.push("c")
        assert await bench.says("c") == "failed window_closed"
        for id in ("d", "e", "f"):
            bench.push(id, category="order")
            assert await bench.says(id) == "sent"
        bench.push("g", device=1)
        assert await bench.says("g") == "sent"
        await asyncio.sleep(1.9 * 3_600)  # not yet midnight
        bench.push("h")
        assert await bench.says("h") == "failed window_closed"
        await asyncio.sleep(0.1 * 3_600)
        bench.push("i")
        assert await bench.says("i") == "sent"
        assert bench.wire.fake.counts["taken"] == 7

    scene(gateway, play)


@pytest.mark.parametrize(
    ("fields", "most"),
    [({"vendor": "xiaomi"}, 5), ({"vendor": "xiaomi", "news": True}, 8), ({"vendor": "meizu"}, 3)],
)
def test_other_vendors_allow_more(fields: dict[str, Any], most: int) -> None:
    async def play(bench: VendorBench) -> None:
        for number in range(most + 2):
            bench.push(f"i{number}")
            said = await bench.says(f"i{number}")
            assert said == ("sent" if number < most else "failed window_closed")

    scene("getui", play, **fields)


def test_what_a_device_got_is_not_forgotten_with_the_host() -> None:
    async def play(bench: VendorBench) -> None:
        for id in ("a", "b"):
            bench.push(id)
            assert await bench.says(id) == "sent"
        await bench.die()
        bench.push("c")
        assert await bench.says("c") == "failed window_closed"

    scene("getui", play)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_dead_device_is_told(gateway: str) -> None:
    async def play(bench: VendorBench) -> None:
        bench.wire.fake.dead.add(f"{7:032d}")
        bench.push("a", device=7)
        assert await bench.says("a") == "failed dead_address"
        (receipt,) = bench.lane("receipt")
        assert receipt["to"] == f"{7:032d}"

    scene(gateway, play)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_lost_answer_is_asked_for_again_under_the_same_id(gateway: str) -> None:
    async def play(bench: VendorBench) -> None:
        bench.wire.lost = 3
        for number in range(5):
            bench.push(f"i{number}", device=number, category="order")
        for number in range(5):
            assert await bench.says(f"i{number}") == "sent"
        assert bench.wire.fake.counts["taken"] == 5
        assert bench.wire.fake.counts["repeats"] == 3

    scene(gateway, play)


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("after_ms", [*range(1, 400, 29), 5_000])
def test_a_host_that_dies_costs_nothing_and_repeats_nothing(gateway: str, after_ms: int) -> None:
    async def play(bench: VendorBench) -> None:
        bench.wire.lost = 2
        for number in range(6):
            bench.push(f"i{number}", device=number, category="order")
        await asyncio.sleep(after_ms / 1_000)
        await bench.die()
        await bench.until(lambda: len(bench.told()) >= 6)
        await asyncio.sleep(600)  # whatever would be told twice
        assert Counter(bench.told()) == {f"shop:i{number}:1 sent": 1 for number in range(6)}
        devices = Counter(push.to for push in bench.wire.fake.seen)
        assert devices == {f"{number:032d}": 1 for number in range(6)}

    scene(gateway, play)


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("trouble", ["refused", "lost"])
def test_a_push_is_counted_once_however_often_it_is_tried(gateway: str, trouble: str) -> None:
    async def play(bench: VendorBench) -> None:
        setattr(bench.wire, trouble, 3)
        for id in ("a", "b"):
            bench.push(id)
            assert await bench.says(id) == "sent"
        bench.push("c")
        assert await bench.says("c") == "failed window_closed"

    scene(gateway, play)


def test_notes_of_ids_go_with_their_pushes() -> None:
    async def play(bench: VendorBench) -> None:
        for number in range(40):
            bench.push(f"i{number}", device=number)
        for number in range(40):
            assert await bench.says(f"i{number}") == "sent"
        await asyncio.sleep(10)
        await bench.die()
        bench.push("last", device=99)
        assert await bench.says("last") == "sent"
        notes = {key for record in bench.records() for key in record if key.startswith("m:p:")}
        state: dict[str, bytes | None] = {}
        for record in bench.records():
            state |= record
        left = [key for key in notes if state[key] is not None]
        assert len(notes) == 41 and len(left) <= 33  # those that were under way at once

    scene("jpush", play)
