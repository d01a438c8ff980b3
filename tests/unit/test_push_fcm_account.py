"""FCM's provider under the account actor itself, in virtual time: what minutes of trouble cost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import msgspec

from channels.accounts import AccountConfig
from channels.http import HttpReply, NotSent
from channels.push.fcm.provider import FcmConfig, FcmProvider
from channels.sms.message import SmsConfig
from hub.contract.subjects import account_partition, delivery_subject
from hub.ledger.port import Entry
from tests.support.push_fcm import TOKEN, key_file
from tests.support.virtual_loop import VirtualLoop, run
from tests.unit.test_accounts import PARTITIONS, START_MS, Bench, delivery

ACCOUNT = AccountConfig(
    name="push",
    channel="push",
    provider="fcm",
    settings=FcmConfig(credentials=key_file(), connections=4),
)


class Google:
    """FCM and its token endpoint without a network; `Reachable`."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.sent: list[tuple[float, str]] = []
        """When and to whom it was asked to send."""
        self.tokens: list[float] = []
        self.send: Callable[[], HttpReply] = lambda: _json(200, {"name": "projects/p/messages/1"})
        self.token: Callable[[], HttpReply] = lambda: _json(
            200, {"access_token": "ya29", "expires_in": 3_599}
        )
        self.skew_s = 0.0
        self._now_s = now_s

    async def request(
        self, method: str, url: str, *, body: bytes | None = None, **_: Any
    ) -> HttpReply:
        if url.endswith("/token"):
            self.tokens.append(self._now_s())
            return self.token()
        self.sent.append((self._now_s(), json.loads(body or b"")["message"]["token"]))
        return self.send()

    async def reach(self, url: str) -> None:
        """Always."""

    async def close(self) -> None:
        """Nothing to close."""

    def refuses_the_grant(self) -> HttpReply:
        """By its own clock."""
        date = formatdate(START_MS / 1_000 + self._now_s() + 600, usegmt=True)
        error = {"error": "invalid_grant", "error_description": "Invalid JWT: … timeframe."}
        return HttpReply(400, {"date": date}, json.dumps(error).encode())


def _json(status: int, body: Any, **headers: str) -> HttpReply:
    return HttpReply(status, headers, json.dumps(body).encode())


def _error(http: int, code: str) -> HttpReply:
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]
    return _json(http, {"error": {"code": http, "status": "X", "details": details}})


class FcmBench(Bench):
    """One host of accounts, with one account at FCM."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.start_s = loop.time()
        self.google = Google(lambda: loop.time() - self.start_s)
        super().__init__(loop, ACCOUNT)

    def _make(self, account: AccountConfig, events: Any) -> Any:
        chance = random.Random(5)
        made = FcmProvider(
            account.settings, SmsConfig(), events, self.clock, chance, account="push"
        )
        made._http = made._grant._http = self.google  # type: ignore[assignment]
        made._sender._client._http = self.google  # type: ignore[attr-defined]
        return made

    def push(self, *ids: str) -> None:
        """A delivery for each, to a device of its own."""
        subject = delivery_subject("push", account_partition("push", PARTITIONS))
        for id in ids:
            known = {"channel": "push", "account": "push", "to": f"{TOKEN}-{id}"}
            self.streams.store([Entry(subject, msgspec.json.encode(delivery(id, **known)))])

    @property
    def minutes(self) -> list[float]:
        """When FCM was asked to send, in minutes."""
        return [round(at_s / 60, 1) for at_s, _ in self.google.sent]


def scene(play: Any) -> Any:
    """Play it in virtual time."""

    def test() -> None:
        async def main(loop: VirtualLoop) -> None:
            bench = FcmBench(loop)
            await bench.start()
            await play(bench)
            await bench.stop()

        run(main)

    test.__name__, test.__doc__ = play.__name__, play.__doc__
    return test


@scene
async def test_a_minute_of_500_is_only_a_delay(bench: FcmBench) -> None:
    bench.google.send = lambda: _error(500, "INTERNAL")
    bench.push("a")
    await bench.until(lambda: bench.minutes and bench.minutes[-1] >= 1.0)
    taken = len(bench.google.sent)
    bench.google.send = lambda: _json(200, {"name": "projects/p/messages/1"})
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]
    assert len(bench.google.sent) == taken + 1 < 10


@scene
async def test_a_quota_without_retry_after_stills_the_whole_account_for_a_minute(
    bench: FcmBench,
) -> None:
    bench.google.send = lambda: _error(429, "QUOTA_EXCEEDED")
    bench.push("a")
    await bench.until(lambda: bench.google.sent)
    bench.google.send = lambda: _json(200, {"name": "projects/p/messages/1"})
    bench.push("b", "c")
    await bench.until(lambda: len(bench.told()) == 3)
    first, *others = (at_s for at_s, _ in bench.google.sent)
    assert min(others) >= first + 60
    assert len(others) == 3


@scene
async def test_minutes_without_tokens_cost_no_try_and_no_message(bench: FcmBench) -> None:
    def down() -> HttpReply:
        raise NotSent("no connection: refused")

    up, bench.google.token = bench.google.token, down
    bench.push("a")
    await bench.until(lambda: bench.google.tokens and bench.google.tokens[-1] > 10 * 60)
    assert bench.google.sent == []
    assert len(bench.google.tokens) < 60
    bench.google.token = up
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]
    assert len(bench.google.sent) == 1


@scene
async def test_a_clock_that_is_set_right_is_enough(bench: FcmBench) -> None:
    up, bench.google.token = bench.google.token, bench.google.refuses_the_grant
    bench.push("a")
    await bench.until(lambda: len(bench.google.tokens) == 3)
    assert bench.google.tokens[-1] <= 15 * 60  # few enough not to be shut out
    bench.google.token = up
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 sent"]
    assert bench.minutes[0] <= bench.google.tokens[2] / 60 + 5.5


@scene
async def test_a_device_that_is_gone_is_told_with_its_class(bench: FcmBench) -> None:
    bench.google.send = lambda: _error(404, "UNREGISTERED")
    bench.push("a")
    await bench.until(bench.told)
    assert bench.told() == ["shop:a:1 failed dead_address"]
