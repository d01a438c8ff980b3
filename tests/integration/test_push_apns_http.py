"""Pushes to Apple, against the fake on Node's HTTP/2: what leaves, and what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels.provider import Answer
from channels.push.apns.provider import BAD_TOKENS, ApnsProvider
from hub.clock import SystemClock
from tests.support.push_apns import DEVICE, Apns, certificate, config, device, pem_key, put, running
from tests.support.sms_web import Told


class OffsetClock(SystemClock):
    """The machine's, off by so much."""

    def __init__(self, wall_ms: int = 0) -> None:
        self.wall_ms = wall_ms
        self.s = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + self.wall_ms

    def steady_s(self) -> float:
        return super().steady_s() + self.s


@pytest.fixture
async def apns(tmp_path: Path) -> AsyncIterator[Apns]:
    async with running(tmp_path) as made:
        yield made


async def put_held(apns: Apns, provider: ApnsProvider, count: int) -> list[str]:
    """Submit pushes that arrive at the fake and wait there."""
    await apns.fake.order("hold")
    ids = [f"shop:held-{number}:1" for number in range(count)]
    for id in ids:
        put(provider, id)
    await apns.until("held", count)
    return ids


# ---- many --------------------------------------------------------------------------------------


async def test_two_thousand_pushes_by_two_connections(apns: Apns) -> None:
    async with apns.connected() as provider:
        await apns.warm(provider, 1_000)
        before = len(await apns.taken())
        for number in range(2_000):
            put(provider, f"shop:many-{number}:1", to=device(number))
        await apns.told.until(lambda: len(apns.told.answers) >= before + 2_000)
        answers = [answer for (answer,) in apns.told.answers.values()]
        assert {answer.kind for answer in answers} == {"accepted"}
        assert sorted((await apns.taken())[before:]) == [device(n) for n in range(2_000)]
        assert (await apns.fake.counts())["connections"] == 2


async def test_streams_beyond_the_limit_wait(tmp_path: Path) -> None:
    async with running(tmp_path, streams=1, latency_ms=2) as apns, apns.connected() as provider:
        for number in range(40):
            put(provider, f"shop:one-{number}:1", to=device(number))
        await apns.told.until(lambda: len(apns.told.answers) == 40)
        assert {a.kind for (a,) in apns.told.answers.values()} == {"accepted"}
        assert {link.window for link in apns.told.links} == {1, 2}
        await apns.fake.order("settings", streams=7)
        await apns.told.until(lambda: apns.window() == 14)


async def test_answers_with_bodies_give_the_window_back(apns: Apns) -> None:
    """150 KB in a window of 64: a client that acknowledges nothing stands still."""
    async with apns.connected(connections=1) as provider:
        await apns.warm(provider, 500)
        await apns.fake.order("answer", times=100, status=400, reason="BadMessageId", pad=1_500)
        for number in range(100):
            put(provider, f"shop:big-{number}:1")
        answers = [await apns.told.answer(f"shop:big-{number}:1") for number in range(100)]
        assert {(a.kind, a.failure, a.code) for a in answers} == {
            ("failed", "provider", "BadMessageId")
        }


async def test_large_payloads_wait_for_the_servers_window(apns: Apns) -> None:
    async with apns.connected(connections=1) as provider:
        await apns.warm(provider, 500)
        for number in range(200):
            put(provider, f"shop:big-{number}:1", content={"text": "x" * 4_000})
        answers = [await apns.told.answer(f"shop:big-{number}:1") for number in range(200)]
        assert {answer.kind for answer in answers} == {"accepted"}


async def test_what_a_request_says(apns: Apns) -> None:
    async with apns.connected() as provider:
        answer = await apns.send(provider, collapse_key="k", priority=9)
        now = {"text": "x", "apns": {"expiration": 0}}
        await apns.send(provider, "shop:now:1", content=now)
        pushes = await apns.fake.order("record")
        assert answer == Answer("accepted", provider_ids=(pushes[0]["id"],), receipts=0)
        assert pushes[0]["device"] == DEVICE
        assert (pushes[0]["type"], pushes[0]["priority"]) == ("alert", "10")
        assert len(pushes[0]["collapse"]) == 27
        left_s = int(pushes[0]["expiration"]) - SystemClock().now_ms() / 1_000
        assert 3_000 < left_s <= 3_600
        assert pushes[1]["expiration"] == "0"
        assert "collapse" not in pushes[1]
        assert await provider.callback(None) is not None  # type: ignore[arg-type]


# ---- connections that end ----------------------------------------------------------------------


@pytest.mark.parametrize("then", ["release", "cut"])
async def test_a_goaway_with_pushes_under_way(apns: Apns, then: str) -> None:
    """Those above the last stream leave again; the others are answered, or nobody knows."""
    async with apns.connected(connections=1) as provider:
        await apns.warm(provider, 500)
        connection = provider._lines[0].connection
        assert connection is not None
        last = 2 * (connection.begun + 3) - 1
        ids = await put_held(apns, provider, 6)
        await apns.fake.order("goaway", last=last, reason="Shutdown")
        for id in ids[3:]:
            assert await apns.told.answer(id) == Answer("retry")
        assert not set(ids[:3]) & set(apns.told.answers)
        await apns.told.until(lambda: apns.window() > 0)  # another connection is there
        await apns.fake.order(then)
        for id in ids[:3]:
            answer = await apns.told.answer(id)
            if then == "release":
                assert answer.kind == "accepted"
            else:
                assert answer == Answer("unknown", code="connection-lost")
        assert any("GOAWAY Shutdown" in link.reason for link in apns.told.links)
        await apns.told.until(lambda: apns.window() > 0)
        await apns.fake.order("release")
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"


async def test_a_goaway_of_an_idle_connection(apns: Apns) -> None:
    async with apns.connected(connections=2) as provider:
        await apns.warm(provider, 1_000)
        await apns.fake.order("goaway")
        await apns.told.until(lambda: apns.window() == 0)
        await apns.told.until(lambda: apns.window() >= 2)
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"
        assert (await apns.fake.counts())["connections"] == 4


async def test_a_connection_that_is_cut(apns: Apns) -> None:
    async with apns.connected() as provider:
        await apns.warm(provider, 1_000)
        ids = await put_held(apns, provider, 8)
        await apns.fake.order("cut")
        for id in ids:
            assert await apns.told.answer(id) == Answer("unknown", code="connection-lost")
        assert not apns.told.links[-1].config
        await apns.told.until(lambda: apns.window() >= 2)
        await apns.fake.order("release")
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (7, Answer("retry")),
        (2, Answer("unknown", code="stream-reset INTERNAL_ERROR")),
        (8, Answer("unknown", code="stream-reset CANCEL")),
    ],
)
async def test_a_stream_that_is_reset(apns: Apns, code: int, answer: Answer) -> None:
    async with apns.connected(connections=1) as provider:
        await apns.warm(provider, 500)
        await apns.fake.order("reset", code=code)
        assert await apns.send(provider, "shop:reset:1") == answer
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"
        assert (await apns.fake.counts())["connections"] == 1


async def test_an_answer_that_does_not_come(apns: Apns) -> None:
    async with apns.connected(connections=1, answer_s=0.2) as provider:
        await apns.fake.order("drop", times=2)
        first = await apns.send(provider, "shop:lost-1:1")
        assert first == Answer("unknown", code="no-answer")
        assert (await apns.send(provider, "shop:lost-2:1")).code == "no-answer"
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"
        counts = await apns.fake.counts()
        assert counts["connections"] == 1
        assert counts["taken"] == 3


async def test_a_server_that_stands_still(apns: Apns) -> None:
    async with apns.connected(connections=1, ping_s=0.1, connect_s=0.3) as provider:
        await apns.until("pings", 2)
        assert apns.window() > 0  # they were answered
        apns.fake.freeze()
        put(provider, "shop:lost:1")
        assert await apns.told.answer("shop:lost:1") == Answer("unknown", code="connection-lost")
        assert apns.told.links[-1].reason == "the other side is silent"
        apns.fake.thaw()
        await apns.told.until(lambda: apns.window() > 0)
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"


async def test_what_cannot_leave_is_handed_back(apns: Apns) -> None:
    async with apns.connected() as provider:
        assert (await apns.send(provider)).kind == "accepted"
        await apns.fake.stop()
        await apns.told.until(lambda: apns.window() == 0)
        assert await apns.send(provider, "shop:never:1") == Answer("retry")
        await apns.told.until(lambda: "no connection" in apns.told.links[-1].reason)


async def test_what_waits_for_a_stream_is_handed_back(tmp_path: Path) -> None:
    async with running(tmp_path, streams=1) as apns, apns.connected(connections=1) as provider:
        await put_held(apns, provider, 1)
        put(provider, "shop:waits:1")
        await apns.fake.order("cut")
        assert (await apns.told.answer("shop:held-0:1")).kind == "unknown"
        assert await apns.told.answer("shop:waits:1") == Answer("retry")


async def test_stopping_ends_connections_that_only_answer(apns: Apns) -> None:
    async with apns.connected(connections=1) as provider:
        (id,) = await put_held(apns, provider, 1)
        await apns.fake.order("goaway")
        await apns.told.until(lambda: apns.window() == 0)
        await provider.stop(0)
        assert (await apns.told.answer(id)).kind == "unknown"


async def test_stopping_waits_and_then_cuts(apns: Apns) -> None:
    async with apns.connected() as provider:
        await apns.warm(provider, 1_000)
        (id,) = await put_held(apns, provider, 1)
        stopping = asyncio.create_task(provider.stop(20))
        await asyncio.sleep(0)
        await apns.fake.order("release")
        await stopping
        assert (await apns.told.answer(id)).kind == "accepted"
        assert await apns.send(provider, "shop:late:1") == Answer("retry")
    apns.told = Told()
    async with apns.connected() as provider:
        (id,) = await put_held(apns, provider, 1)
        await provider.stop(0)
        assert (await apns.told.answer(id)).kind == "unknown"


# ---- what Apple refuses ------------------------------------------------------------------------


async def test_refusals(apns: Apns) -> None:
    since = SystemClock().now_ms() - 60_000
    async with apns.connected() as provider:
        await apns.fake.order(
            "device", token=device(1), status=410, reason="Unregistered", timestamp=since
        )
        await apns.fake.order("device", token=device(2), status=400, reason="BadDeviceToken")
        await apns.fake.order("device", token=device(3), status=429, reason="TooManyRequests")
        gone = await apns.send(provider, "shop:gone:1", to=device(1))
        assert gone == Answer(
            "failed", failure="dead_address", code="Unregistered", dead_since_ms=since
        )
        bad = await apns.send(provider, "shop:bad:1", to=device(2))
        assert (bad.failure, bad.dead_since_ms) == ("dead_address", 0)
        slow = await apns.send(provider, "shop:slow:1", to=device(3))
        assert (slow.kind, slow.scope, slow.retry_after_ms) == ("throttled", "recipient", 60_000)
        await apns.fake.order(
            "answer", status=503, reason="ServiceUnavailable", retry_after=3, times=1
        )
        busy = await apns.send(provider, "shop:busy:1")
        assert (busy.kind, busy.scope, busy.retry_after_ms) == ("throttled", "account", 3_000)
        await apns.fake.order("answer", status=500, reason="InternalServerError", times=3)
        for number in range(3):
            answer = await apns.send(provider, f"shop:broken-{number}:1")
            assert answer == Answer("retry", code="InternalServerError")
        await apns.fake.order("answer", status=502, body="<html>Bad gateway</html>")
        assert await apns.send(provider, "shop:html:1") == Answer("retry", code="HTTP 502")
        assert (await apns.send(provider, "shop:after:1")).kind == "accepted"


async def test_another_key_stops_the_account(apns: Apns) -> None:
    async with apns.connected(private_key=pem_key()) as provider:
        answer = await apns.send(provider)
        assert (answer.kind, answer.failure) == ("failed", "config")
        link = apns.told.links[-1]
        assert (link.window, link.config) == (0, True)
        assert "key_id" in link.reason
        assert await apns.send(provider, "shop:next:1") == Answer("retry")


@pytest.mark.parametrize("date", [True, False])
async def test_a_clock_ten_minutes_ahead(tmp_path: Path, date: bool) -> None:
    options = {"send_date": True} if date else {}
    ahead = OffsetClock(600_000)
    async with running(tmp_path, **options) as apns, apns.connected(ahead) as provider:
        answer = await apns.send(provider)
        assert (answer.failure, answer.code) == ("config", "InvalidProviderToken")
        reason = apns.told.links[-1].reason
        assert ("s ahead" if date else "or it is this machine's clock") in reason


async def test_an_expired_token_is_replaced_when_it_may_be(apns: Apns) -> None:
    clock = OffsetClock(-21 * 60_000)
    async with apns.connected(clock=clock) as provider:
        assert (await apns.send(provider)).kind == "accepted"
        clock.s, clock.wall_ms = 21 * 60, 0
        await apns.fake.order("expire")
        assert await apns.send(provider, "shop:try:1") == Answer("retry")
        assert apns.window() > 0
        assert (await apns.send(provider, "shop:again:1")).kind == "accepted"
        assert (await apns.fake.counts())["provider_tokens"] == 2


async def test_a_new_token_that_is_expired_is_the_clock(apns: Apns) -> None:
    async with apns.connected() as provider:
        assert (await apns.send(provider)).kind == "accepted"
        await apns.fake.order("expire")
        assert await apns.send(provider, "shop:try:1") == Answer("retry")
        assert apns.told.links[-1].config
        assert "clock" in apns.told.links[-1].reason


async def test_tokens_that_change_too_often(tmp_path: Path) -> None:
    async with running(tmp_path, updates=0) as apns, apns.connected() as provider:
        answer = await apns.send(provider)
        assert (answer.kind, answer.scope) == ("throttled", "account")
        assert (answer.code, answer.retry_after_ms) == ("TooManyProviderTokenUpdates", 60_000)


async def test_the_wrong_environment_does_not_forget_all_devices(apns: Apns) -> None:
    async with apns.connected() as provider:
        await apns.warm(provider, 1_000)
        provider._bad_tokens = 0  # as if nothing had been good so far
        await apns.fake.order("answer", times=1_000, status=400, reason="BadDeviceToken")
        for number in range(100):
            put(provider, f"shop:bad-{number}:1", to=device(number))
        answers = [await apns.told.answer(f"shop:bad-{number}:1") for number in range(100)]
        assert [a.failure for a in answers].count("dead_address") == BAD_TOKENS
        assert [a.failure for a in answers].count("config") == 100 - BAD_TOKENS
        assert apns.told.links[-1].config
        assert "environment" in apns.told.links[-1].reason
        assert await apns.send(provider, "shop:next:1") == Answer("retry")


async def test_a_topic_of_the_content_does_not_stop_the_account(apns: Apns) -> None:
    async with apns.connected() as provider:
        content = {"text": "x", "apns": {"topic": "com.elsewhere"}}
        answer = await apns.send(provider, content=content)
        assert (answer.failure, answer.code) == ("config", "TopicDisallowed")
        assert apns.window() > 0
    async with apns.connected(topic="com.elsewhere") as provider:
        answer = await apns.send(provider, "shop:next:1")
        assert answer.failure == "config"
        assert "topic" in apns.told.links[-1].reason


# ---- TLS, and what is no HTTP/2 ----------------------------------------------------------------


async def test_tls(tmp_path: Path) -> None:
    ours, others = certificate(tmp_path / "ours"), certificate(tmp_path / "others")
    async with running(tmp_path, tls_cert=ours.cert, tls_key=ours.key) as apns:
        async with apns.connected(ca_file=str(ours.cert)) as provider:
            await apns.warm(provider, 1_000)
            for number in range(300):
                put(provider, f"shop:tls-{number}:1", content={"text": "x" * 3_000})
            answers = [await apns.told.answer(f"shop:tls-{number}:1") for number in range(300)]
            assert {answer.kind for answer in answers} == {"accepted"}
        apns.told = Told()
        provider = apns.provider(ca_file=str(others.cert))
        provider.start({})
        await apns.told.until(lambda: apns.told.links)
        assert apns.told.links[-1].config
        assert "TLS" in apns.told.links[-1].reason
        await provider.stop(0)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
async def test_a_server_that_speaks_something_else(said: bytes | None) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if said is None:
            await ended.wait()
        else:
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    told = Told()
    settings = config(base_url=url, connections=1, connect_s=0.3)
    provider = ApnsProvider(settings, None, told, SystemClock(), random.Random(1), "acc")
    provider.start({})
    await told.until(lambda: told.links)
    assert told.links[-1].window == 0
    assert told.links[-1].reason
    ended.set()
    await provider.stop(0)
    server.close()
