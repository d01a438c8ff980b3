"""What waits in an account is replaced by a newer delivery of the same collapse key, where the
provider's kind says so."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from actors import account_admission
from actors.account_admission import turned_away
from actors.account_partition import attempt_of
from actors.account_queue import Entry as WaitingEntry
from actors.account_queue import Queue
from channels.accounts import AccountConfig, LimitsTable
from channels.provider import Answer, Link
from channels.registry import PROVIDERS
from hub.contract.subjects import account_partition, delivery_subject
from hub.contract.times import rfc3339
from hub.ledger.port import Entry
from tests.support.account_model import accept
from tests.support.wecom_member import CONFIG
from tests.unit.test_accounts import PARTITIONS, START_MS, Bench, config, delivery, scene

HOUR_MS = 3_600_000
MEMBER = AccountConfig(
    name="li", channel="wecom", provider="wecom-member", settings=CONFIG, limits=LimitsTable()
)


def limited(per_hour: int) -> AccountConfig:
    return msgspec.structs.replace(MEMBER, limits=LimitsTable(account=(f"{per_hour}/h",)))


def keyed(bench: Bench, *ids: str, **fields: Any) -> None:
    """Deliveries for one customer with the key `k`, each read by itself."""
    known = {"customer": "ann", "to": "wm1", "collapse_key": "k", "channel": "wecom"}
    known |= {"expires_at": rfc3339(START_MS + 3 * HOUR_MS)}
    for id in ids:
        one = delivery(id, account="li", **known | fields)
        subject = delivery_subject("wecom", account_partition("li", PARTITIONS))
        bench.streams.store([Entry(subject, msgspec.json.encode(one))])


def gone(*ids: str) -> list[str]:
    return [f"shop:{id}:1 failed superseded" for id in ids]


async def waiting(bench: Bench, count: int) -> None:
    """So many wait in the account."""
    await bench.until(lambda: bench.runner.describe()["li"]["waiting"] == count)


async def used_up(bench: Bench) -> None:
    """The hour's only message has left."""
    keyed(bench, "first", customer="bob", to="wm2")
    await bench.until(lambda: bench.log)


@scene(limited(1))
async def test_what_waits_for_another_hour_is_replaced(bench: Bench) -> None:
    await used_up(bench)
    keyed(bench, "a", "b", "c")
    await bench.until(lambda: bench.told()[1:] == gone("a", "b"))
    receipts = [one for one in bench.lane("receipt") if one["status"] == "failed"]
    assert [one["code"] for one in receipts] == ["collapse-key"] * 2
    await asyncio.sleep(HOUR_MS / 1_000)
    assert [id for _, id in bench.log] == ["shop:first:1", "shop:c:1"]


@scene(limited(1))
async def test_another_application_address_or_word_replaces_nothing(bench: Bench) -> None:
    await used_up(bench)
    keyed(bench, "a")
    keyed(bench, "b", to="wm9")
    keyed(bench, "c", collapse_key="other")
    keyed(bench, "d", "e", collapse_key=None)
    keyed(bench, "f", app="bot")
    keyed(bench, "g", customer="eve")
    await waiting(bench, 7)
    assert len(bench.told()) == 1


@scene(limited(1))
async def test_one_that_must_not_wait_replaces_all_the_same(bench: Bench) -> None:
    await used_up(bench)
    keyed(bench, "a")
    keyed(bench, "b", expires_at=rfc3339(START_MS + 60_000))  # before the hour ends
    await bench.until(lambda: len(bench.told()) == 3)
    assert bench.told()[1:] == [*gone("a"), "shop:b:1 failed throttled"]


@scene(limited(1))
async def test_one_finds_the_room_of_the_one_it_replaces(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account_admission, "WAITING_MAX", 1)
        await used_up(bench)
        keyed(bench, "a")
        await waiting(bench, 1)
        keyed(bench, "b")
        await bench.until(lambda: bench.told()[1:] == gone("a"))
        keyed(bench, "c", collapse_key="other")
        await bench.until(lambda: bench.told()[2:] == ["shop:c:1 failed throttled"])
    assert bench.runner.describe()["li"]["waiting"] == 1


@scene(limited(1))
async def test_a_new_owner_knows_the_keys_of_what_waits(bench: Bench) -> None:
    await used_up(bench)
    keyed(bench, "a")
    await waiting(bench, 1)
    await bench.stop()
    bench.runner = bench.host("two")
    await bench.start()
    keyed(bench, "b")
    await bench.until(lambda: bench.told()[1:] == gone("a"))


def test_an_older_one_that_comes_late_does_not_wait() -> None:
    queue, refused = Queue(), []

    def refuse(id: str, *why: Any) -> None:
        refused.append(id)
        queue.drop(queue.by_id[id])

    account: Any = SimpleNamespace(config=MEMBER, queue=queue, refuse=refuse)
    account.gate = SimpleNamespace(blocked_ms=0, blocked_by="")

    def comes(sequence: int, **fields: Any) -> Any:
        known = {"customer": "ann", "to": "wm1", "collapse_key": "k"}
        one = delivery(f"n{sequence}", account="li", **known)
        attempt = attempt_of(one, sequence, 0, 0)
        for name, value in fields.items():
            setattr(attempt, name, value)
        away = turned_away(account, one, attempt, 0, replaces=True)
        if away is None:
            queue.add(WaitingEntry(one.id, attempt, one))
        return away

    assert [comes(5), comes(3), comes(6)] == [None, ("superseded", "collapse-key"), None]
    assert refused == ["shop:n5:1"]
    assert comes(7, handed=True) is None and refused == ["shop:n5:1"]
    assert comes(4, unsure=True) == ("superseded", "collapse-key")
    queue.drop(queue.by_id["shop:n6:1"])  # what was handed over is older than its place says
    assert comes(2) is None and refused == ["shop:n5:1"]


@scene(MEMBER, resend=True)
async def test_what_may_have_left_is_left_to_the_provider(bench: Bench) -> None:
    bench.script = lambda submission, provider: None
    keyed(bench, "a")
    await bench.until(lambda: bench.log)
    await bench.stop()
    bench.runner = bench.host("two")
    await bench.start()
    bench.providers["li"].events.link(Link(0, "down"))
    keyed(bench, "b", "c")
    await bench.until(lambda: bench.told() == gone("b"))


@scene(config(limits=LimitsTable(account=("1/h",))))
async def test_an_sms_replaces_none(bench: Bench) -> None:
    bench.deliver("a", "b", "c", customer="ann", collapse_key="k", to="+8613800000000")
    await bench.until(lambda: bench.log)
    assert not PROVIDERS["smpp"].supersedes and not [one for one in bench.told() if "super" in one]


@scene(MEMBER)
async def test_what_comes_back_untaken_after_a_newer_one_came_does_not_leave_again(
    bench: Bench,
) -> None:
    bench.script = lambda submission, provider: None
    keyed(bench, "a")
    await bench.until(lambda: bench.log)
    keyed(bench, "b")
    await waiting(bench, 1)
    bench.script = accept
    bench.providers["li"].events.answered("shop:a:1", Answer("retry", code="busy"))
    await bench.until(lambda: len(bench.told()) == 2)
    assert sorted(bench.told()) == [*gone("a"), "shop:b:1 sent"]
    assert [id for _, id in bench.log] == ["shop:a:1", "shop:b:1"]
