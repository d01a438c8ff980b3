"""What is urgent is taken ahead of its turn: found, once, in its order, and remembered."""

from __future__ import annotations

import msgspec
import pytest

from actors import account_intake, account_runner
from channels.accounts import AccountConfig, BreakerTable
from channels.provider import Link
from hub.checkers.account_records import AccountHistory
from hub.checkers.attempts import LeavesInOrder
from hub.contract.types import Delivery
from hub.ledger.lanes import Lane, deliveries
from tests.unit.test_account_checkers import handed, submit
from tests.unit.test_accounts import Bench, config, delivery, scene

BACKLOG = [[f"{array}-{number}" for number in range(5)] for array in range(12)]


@pytest.fixture(autouse=True)
def small_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_intake, "DELIVERIES_SLICE", 1)
    monkeypatch.setattr(account_runner, "TURN_SLICES", 1)


def place(bench: Bench, name: str) -> int:
    return bench.log.index(("sms", f"shop:{name}:1"))


def remembered(bench: Bench) -> list[bytes | None]:
    """What the log was told of what was taken ahead: that it was, and that this is past."""
    records = bench.records()
    return [value for each in records for key, value in each.items() if key.startswith("u:")]


async def after_a_backlog(bench: Bench, *names: str) -> None:
    """Urgent deliveries for one customer whose campaign is in the backlog too."""
    for some in BACKLOG:
        bench.deliver(*some)
    bench.deliver("ad", customer="ann")
    for name in names:
        bench.deliver(name, customer="ann", urgent=True, priority=9)
    await bench.until(lambda: len(bench.log) == 5 * len(BACKLOG) + 1 + len(names))


@scene()
async def test_it_leaves_before_what_was_stored_before(bench: Bench) -> None:
    await after_a_backlog(bench, "one", "two")
    assert place(bench, "one") < place(bench, "two") < 20
    assert place(bench, "two") < place(bench, "ad")
    await bench.until(lambda: len(remembered(bench)) == 4)
    assert remembered(bench) == [b"", b"", None, None]


def test_beyond_the_bound_it_waits_its_turn_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_intake, "AHEAD_MAX", 1)

    async def play(bench: Bench) -> None:
        await after_a_backlog(bench, "one", "two", "three")
        assert place(bench, "one") < 20
        assert place(bench, "ad") < place(bench, "two") < place(bench, "three")

    scene()(play)()


@scene(config(), AccountConfig(name="inbox", channel="sms", provider="gateway"))
async def test_what_a_gateway_sends_is_read_past(bench: Bench) -> None:
    bench.deliver("one", "two", account="inbox")
    bench.deliver("code", account="inbox", urgent=True)
    bench.deliver("nobody", account="unknown")
    bench.deliver("ours")
    await bench.until(lambda: len(bench.told()) == 2)
    assert bench.log == [("sms", "shop:ours:1")]
    assert "shop:nobody:1 failed config" in bench.told()


@scene()
async def test_without_a_backlog_nothing_is_written_of_it(bench: Bench) -> None:
    bench.deliver("one", urgent=True)
    await bench.until(bench.told)
    assert not remembered(bench)


@scene()
async def test_an_application_cannot_call_its_content_urgent(bench: Bench) -> None:
    for some in BACKLOG:
        bench.deliver(*some)
    bench.deliver("ad", content=msgspec.Raw(b'{"text":"x","urgent":true}'))
    await bench.until(lambda: len(bench.log) == 5 * len(BACKLOG) + 1)
    assert place(bench, "ad") > 50


@scene(config(failover="spare", breaker=BreakerTable(link="1s")), config("spare"))
async def test_handed_over_it_comes_alone_again(bench: Bench) -> None:
    bench.providers["sms"].events.link(Link(0))
    bench.deliver("a", "b", customer="ann")
    bench.deliver("code", customer="bob", urgent=True)
    bench.deliver("c", "d", customer="cid")
    await bench.until(lambda: ("spare", "shop:code:1") in bench.log)
    stored = [m.payload for m in bench.streams.ledger if m.subject.startswith("hub.out.")]
    found = [each for each in stored if b'"via":"sms"' in each and b'"urgent":true' in each]
    assert [msgspec.json.decode(each, type=Delivery).id for each in found] == ["shop:code:1"]


def test_the_reader_gives_each_once_ahead_and_all_in_their_turn() -> None:
    lane = Lane(deliveries(["sms"]), "sms", {0: 0}, lambda: None, lambda: None)
    urgent = msgspec.json.encode(delivery("x", urgent=True))
    other = msgspec.json.encode(delivery("x"))
    array = msgspec.json.encode([delivery("x", urgent=True)])  # nobody writes that
    for sequence, payload in enumerate((other, urgent, array, urgent, other, urgent), 1):
        lane.add(b"hub.out.sms.0", b"", payload, sequence, 0, 0)
    assert [each.sequence for each in lane.urgent(1)] == [2]
    assert [each.sequence for each in lane.take(4)] == [1, 2, 3, 4]  # 4 is not urgent any more
    assert [each.sequence for each in lane.urgent(9)] == [6]
    assert not lane.urgent(9)
    assert [each.sequence for each in lane.take(9)] == [5, 6]


def test_the_order_that_is_promised() -> None:
    line = [
        handed(1, "a"),
        handed(2, "b", urgent=True),
        handed(3, "c", urgent=True),
        handed(4, "d"),
    ]

    def broken(*names: str) -> list[str]:
        submits = [submit(at, name) for at, name in enumerate(names)]
        found = LeavesInOrder().check(AccountHistory(submits=submits, handed=line))
        return [each.delivery for each in found if each.delivery]

    assert not broken("a", "b", "c", "d")
    assert not broken("b", "c", "a", "d")
    assert broken("c", "b", "a", "d")
    assert broken("d", "a", "b", "c")
    assert broken("a", "b", "d", "c")
