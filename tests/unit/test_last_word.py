"""`sent` as the last word of a channel that tells no `delivered`: no fallback waits for one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.partition import Partition
from channels.provider import Answer, ProviderReceipt, Submission
from hub.contract.times import rfc3339
from hub.ledger.port import PartitionImage
from hub.policy.document import parse_policy
from hub.policy.policy import Policy
from tests.support.account_model import ScriptedProvider
from tests.unit.test_accounts import Bench, scene
from tests.unit.test_talks import KEY, MINUTE_MS, Hub, intent, told

POLICY = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["wecom", "sms"]
fallback_after = "10m"
"""


class Waiting(Hub):
    """A hub that waits ten minutes for `delivered`; one intent is on its way by wecom."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(parse_policy(POLICY))
        self.partition = Partition(PartitionImage(1, 1, 7))
        assert told(self.take("normal", intent("a", route=["wecom", "sms"]))) == [
            ("a", "dispatched")
        ]

    def hears(self, status: str, **fields: Any) -> list[tuple[str, str]]:
        receipt = {"delivery": "shop:a:1", "customer": KEY, "status": status}
        return told(self.take("receipt", receipt | {"at": rfc3339(self.now)} | fields))


def test_a_last_word_is_waited_for_no_longer() -> None:
    hub = Waiting()
    assert hub.hears("sent", last=True) == [("a", "sent")]
    assert told(hub.wait(60 * MINUTE_MS)) == []


def test_without_it_the_next_channel_is_tried() -> None:
    hub = Waiting()
    assert hub.hears("sent") == [("a", "sent")]
    assert told(hub.wait(60 * MINUTE_MS)) == [("a", "dispatched")]


def test_after_it_a_failure_still_has_the_rest_of_the_route_decided() -> None:
    hub = Waiting()
    hub.hears("sent", last=True)
    hub.wait(60 * MINUTE_MS)
    assert hub.hears("failed") == [("a", "dispatched")]


def test_it_survives_a_change_of_owner() -> None:
    hub = Waiting()
    hub.hears("sent", last=True)
    hub.restart()
    assert told(hub.wait(60 * MINUTE_MS)) == []


def test_what_was_delivered_stands_as_long_as_a_newer_attempt_may_fail() -> None:
    hub = Waiting()
    assert told(hub.wait(20 * MINUTE_MS)) == [("a", "dispatched")]  # by sms, ten minutes later
    assert hub.hears("delivered") == [("a", "delivered")]  # of the first attempt, after all
    hub.wait(7 * 24 * 60 * MINUTE_MS - 15 * MINUTE_MS)
    hub.take("normal", intent("b", route=["wecom"]))  # the first attempt is older than a week now
    assert hub.hears("failed", delivery="shop:a:2") == []


@pytest.mark.parametrize(("receipts", "last"), [(0, True), (1, False)])
def test_an_account_tells_it_when_no_receipts_follow(receipts: int, last: bool) -> None:
    async def play(bench: Bench) -> None:
        def taken(submission: Submission, provider: ScriptedProvider) -> None:
            answer = Answer("accepted", (submission.delivery,), receipts=receipts)
            provider.events.answered(submission.delivery, answer)

        bench.script = taken
        bench.deliver("a")
        await bench.until(bench.told)
        assert [told.get("last", False) for told in bench.lane("receipt")] == [last]

    scene()(play)()


@scene()
async def test_a_receipt_that_is_the_last_word_ends_the_attempt(bench: Bench) -> None:
    def created(submission: Submission, provider: ScriptedProvider) -> None:
        # the receipt is faster than the answer: it is kept as it is
        said = ProviderReceipt("sent", bench.clock.now_ms(), f"t-{submission.delivery}", last=True)
        provider.events.receipt(said, lambda _: None)
        answer = Answer("accepted", (f"t-{submission.delivery}",), receipts=1, status=None)
        provider.events.answered(submission.delivery, answer)

    bench.script = created
    bench.deliver("a")
    await bench.until(bench.told)
    await asyncio.sleep(300)
    assert [told["last"] for told in bench.lane("receipt")] == [True]
    (partition,) = (p for p in bench.runner.partitions.values() if "sms" in p.accounts)
    assert partition.describe() == {}
