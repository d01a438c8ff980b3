"""SMS over HTTP against servers on real ports: the fakes, and one that answers with raw bytes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from channels.http import HttpClient, NotSent, Unanswered
from channels.provider import Answer, Callback, Provider
from channels.sms.fake.aliyun import FakeAliyun
from channels.sms.fake.faults import Odds, Plan
from channels.sms.fake.urlgateway import FakeUrlGateway
from channels.sms.message import SmsConfig
from channels.sms.web.aliyun import AliyunConfig, AliyunProvider
from channels.sms.web.gateway import Accepted, UrlGatewayConfig
from channels.sms.web.urls import UrlGatewayProvider
from tests.support.callbacks import CallbackServer
from tests.support.sms_web import (
    NUMBER,
    TEXT,
    TOKEN,
    StillClock,
    Told,
    delivery,
    submission,
)

PASSWORD = "s3cret-password"
SECRET = "k3y-secret"


class Raw:
    """A server that reads one request at a time, answers with the bytes it is told, and closes
    after the last of them; with `keep`, after one request more."""

    def __init__(self, *answers: bytes, silent: bool = False, keep: bool = False) -> None:
        self.requests: list[bytes] = []
        self.url = ""
        self._answers = list(answers)
        self._silent = silent
        self._keep = keep
        self._server: asyncio.Server | None = None
        self._ended = asyncio.Event()
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Raw:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._ended.set()
        self._server.close()

    async def until(self, count: int) -> None:
        """Wait for so many requests."""
        async with asyncio.timeout(20):
            async with self._came:
                await self._came.wait_for(lambda: len(self.requests) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                async with self._came:
                    self._came.notify_all()
                if self._silent:
                    await self._ended.wait()
                if not self._answers:
                    return
                writer.write(self._answers.pop(0))
                await writer.drain()
                if not self._answers and not self._keep:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the other side has ended
        finally:
            writer.close()


def _reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _kannel(url: str, **change: Any) -> UrlGatewayConfig:
    fields: dict[str, Any] = {
        "preset": "kannel",
        "url": url,
        "user": "tact",
        "password": PASSWORD,
        "sender": "10690001",
        "connections": 4,
    }
    return UrlGatewayConfig(**(fields | change))


@asynccontextmanager
async def _urls(told: Told, config: UrlGatewayConfig) -> AsyncIterator[UrlGatewayProvider]:
    provider = UrlGatewayProvider(config, SmsConfig(), told, StillClock(), random.Random(1), "acc")
    provider.start({})
    try:
        yield provider
    finally:
        await provider.stop(0.1)


def _send(provider: Provider, id: str = "shop:order-1:1", **content: Any) -> None:
    prepared = provider.prepare(delivery(content or None, id=id))
    provider.submit(submission(prepared, id))


# ---- the client --------------------------------------------------------------------------------


async def test_a_get_is_never_sent_twice() -> None:
    """aiohttp repeats it on a reused connection that ends; a gateway would send the SMS twice."""
    async with Raw(_reply("200 OK"), keep=True) as server:
        client = HttpClient()
        assert (await client.request("GET", server.url)).status == 200
        with pytest.raises(Unanswered):
            await client.request("GET", server.url)
        assert len(server.requests) == 2
        await client.close()


async def test_what_never_left_is_told_apart() -> None:
    client = HttpClient(connect_s=0.2)
    async with Raw(silent=True) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(NotSent, match="timed out"):
            await client.request("GET", f"https://127.0.0.1:{port}/")
        await client.reach(server.url)
    for url in (server.url, "http://nobody.invalid/"):
        with pytest.raises(NotSent) as raised:
            await client.request("GET", url, query={"text": TEXT})
        assert raised.value.__context__ is None
        with pytest.raises(NotSent):
            await client.reach(url)
    await client.close()


async def test_a_long_answer_is_cut_off() -> None:
    async with Raw(_reply("200 OK", b"x" * 5_000)) as server:
        client = HttpClient(body_bytes=1_000)
        assert len((await client.request("GET", server.url)).body) == 1_000
        await client.close()


# ---- a URL gateway -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (_reply("202 Accepted", b"0: Accepted for delivery"), Answer("accepted")),
        (_reply("202 Accepted", b"3: Queued for later delivery"), Answer("accepted")),
        (_reply("202 Accepted", b"?"), Answer("unknown", code="HTTP 202")),
        (_reply("200 OK", b"0: Accepted"), Answer("unknown", code="HTTP 200")),
        (_reply("500 Oops", b""), Answer("unknown", code="HTTP 500")),
        (_reply("429 Slow"), Answer("throttled", code="HTTP 429")),
        (
            _reply("503 Later", b"Temporal failure", "retry-after: 7"),
            Answer("throttled", code="HTTP 503", retry_after_ms=7_000),
        ),
        (
            _reply("403 No", b"Not routable. Do not try again."),
            Answer("failed", failure="provider", code="HTTP 403"),
        ),
        (
            _reply("400 No", b"Charset or body misformed, rejected"),
            Answer("failed", failure="rejected_content", code="HTTP 400"),
        ),
        (b"", Answer("unknown", code="http-unanswered")),
        (_reply("202 Accepted", b"0: Acc")[:-4], Answer("unknown", code="http-unanswered")),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Answer("unknown", code="http-unanswered")),
        (b"HTTP/1.1 202 \xff\r\n\xff: \xff\r\n\r\n", Answer("unknown", code="http-unanswered")),
        (b"HTTP/1.1 999999999 x\r\n\r\n", Answer("unknown", code="http-unanswered")),
    ],
)
async def test_answers_of_a_gateway(answer: bytes, expected: Answer) -> None:
    told = Told()
    async with Raw(*([answer] if answer else [])) as server:
        async with _urls(told, _kannel(server.url)) as provider:
            _send(provider)
            assert await told.answer("shop:order-1:1") == expected
        assert len(server.requests) == 1
    assert told.counts == {expected.kind: 1}
    assert [each.window for each in told.links] == [4]


@pytest.mark.parametrize(
    "answer",
    [
        _reply("403 Forbidden", b"Authorization failed for sendsms"),
        _reply("400 Bad Request", b"Sender missing and no global set, rejected"),
        _reply("401 Unauthorized"),
        _reply("404 Not Found"),
        _reply("302 Found", b"", "location: http://elsewhere.invalid/"),
    ],
)
async def test_what_a_person_must_put_right_stops_the_account(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channels.sending.CONFIG_PAUSE_S", 0.01)
    told = Told()
    async with Raw(answer) as server, _urls(told, _kannel(server.url)) as provider:
        _send(provider)
        answered = await told.answer("shop:order-1:1")
        assert (answered.kind, answered.failure) == ("failed", "config")
        await told.until(lambda: len(told.links) == 3)
        assert [(each.window, each.config) for each in told.links] == [
            (4, False),
            (0, True),
            (4, False),  # tried again later: putting it right is enough
        ]


async def test_a_silent_gateway_may_have_taken_it() -> None:
    told = Told()
    async with (
        Raw(silent=True) as server,
        _urls(told, _kannel(server.url, connect_s=0.1, answer_s=0.1)) as provider,
    ):
        _send(provider)
        assert (await told.answer("shop:order-1:1")).kind == "unknown"


async def test_a_gateway_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels.sending.BACKOFF_FIRST_S", 0.01)
    told, fake = Told(), FakeUrlGateway(password=PASSWORD)
    url = await fake.start()
    await fake.stop()
    async with _urls(told, _kannel(url)) as provider:
        _send(provider)
        assert (await told.answer("shop:order-1:1")).kind == "retry"
        assert told.links[-1].window == 0 and "refused" in told.links[-1].reason
        again = FakeUrlGateway(password=PASSWORD)
        await again.start(port=fake.port)
        await told.until(lambda: told.links[-1].window == 4)
        _send(provider, "shop:order-2:1")
        assert (await told.answer("shop:order-2:1")).kind == "accepted"
        await again.stop()


async def test_a_gateway_of_another_kind() -> None:
    told = Told()
    async with Raw(_reply("200 OK", b'{"id": "m77x"}')) as server:
        config = UrlGatewayConfig(
            url=server.url + "/send",
            method="POST",
            params={"phone": "{digits}", "msg": "{text}", "n": "{units}", "ttl": "{validity_min}"},
            accepted=Accepted(statuses=[200], body=r'"id": ?"(?P<id>\w+)"'),
        )
        async with _urls(told, config) as provider:
            _send(provider)
            answer = await told.answer("shop:order-1:1")
    assert answer == Answer("accepted", provider_ids=("m77x",))
    (head,) = server.requests
    assert head.startswith(b"POST /send HTTP/1.1\r\n")
    assert TEXT.encode() not in head


async def test_stopping_answers_everything_once() -> None:
    told = Told()
    async with Raw(silent=True) as server:
        async with _urls(told, _kannel(server.url)) as provider:
            for number in range(6):
                _send(provider, f"shop:order-{number}:1")
            await server.until(4)
        _send(provider, "shop:late:1")
    kinds = [answers[0].kind for answers in told.answers.values()]
    assert sorted(kinds) == ["retry"] * 3 + ["unknown"] * 4
    assert all(len(answers) == 1 for answers in told.answers.values())


async def test_messages_faults_and_receipts_of_a_gateway() -> None:
    """Two hundred on a bad day: each answered once and sent once, each that was taken reported."""
    odds = Odds(
        latency_ms=2, throttle=0.1, busy=0.1, refuse=0.1, cut=0.1, fail=0.2, duplicate_receipts=0.3
    )
    told, fake, server = (
        Told(),
        FakeUrlGateway(password=PASSWORD, plan=Plan(3, odds)),
        CallbackServer(),
    )
    await server.start()
    config = _kannel(await fake.start(), callback_url=server.url, callback_token=TOKEN)
    async with _urls(told, config) as provider:
        server.provider = provider
        for number in range(200):
            await told.until(lambda sent=number: sent - len(told.answers) < 4)
            _send(provider, f"shop:order-{number}:1", text=f"message {number}")
        await told.until(lambda: len(told.answers) == 200)
        kinds: dict[str, set[str]] = {}
        for id, answers in told.answers.items():
            assert len(answers) == 1
            kinds.setdefault(answers[0].kind, set()).add(id)
        assert set(kinds) == {"accepted", "throttled", "failed", "unknown"}
        taken = kinds["accepted"] | kinds["unknown"]
        assert len(fake.seen) == fake.counts["taken"] == len(taken)

        def final() -> dict[str, str]:
            ends = ("delivered", "failed")
            return {each.delivery: each.status for each in told.receipts if each.status in ends}

        await told.until(lambda: final().keys() == taken)
        assert set(final().values()) == {"delivered", "failed"}
    await fake.stop()
    await server.stop()


async def test_a_gateway_repeats_what_is_not_stored_and_brings_customers_words() -> None:
    told, server = Told(), CallbackServer()
    await server.start()
    inbound_url = f"{server.url}?token={TOKEN}&from=%p&text=%a&id=%I"
    fake = FakeUrlGateway(password=PASSWORD, repeat_s=0.01, inbound_url=inbound_url)
    config = _kannel(await fake.start(), callback_url=server.url, callback_token=TOKEN)
    async with _urls(told, config) as provider:
        server.provider = provider
        told.store = False
        _send(provider)
        await told.until(lambda: told.counts.get("not_stored", 0) >= 2)
        assert await fake.customer_writes(NUMBER, "退订") == 503
        told.store = True
        assert await fake.customer_writes(NUMBER, "退订 %a") == 200
        assert told.inbounds[-1].content == {"text": "退订 %a"}
        fake.inbound_url = inbound_url.replace(TOKEN, "guessed-token-1234")
        assert await fake.customer_writes(NUMBER, "R") == 403
    await fake.stop()
    await server.stop()


# ---- Aliyun ------------------------------------------------------------------------------------


@asynccontextmanager
async def _aliyun(
    told: Told, plan: Plan | None = None, **change: Any
) -> AsyncIterator[tuple[AliyunProvider, FakeAliyun]]:
    server = CallbackServer()
    await server.start()
    fake = FakeAliyun(
        secret=SECRET,
        plan=plan,
        clock=StillClock(),
        report_url=f"{server.url}?token={TOKEN}",
        repeat_s=0.01,
    )
    fields: dict[str, Any] = {
        "endpoint": await fake.start(),
        "access_key_id": "testId",
        "access_key_secret": SECRET,
        "sign_name": "阿里云短信测试专用",
        "templates": {"notice": "SMS_1"},
        "callback_token": TOKEN,
        "connections": 4,
    }
    config = AliyunConfig(**(fields | change))
    provider = AliyunProvider(config, SmsConfig(), told, StillClock(), random.Random(1), "acc")
    server.provider = provider
    provider.start({})
    try:
        yield provider, fake
    finally:
        await provider.stop(0.1)
        await fake.stop()
        await server.stop()


async def test_a_message_and_its_receipt_at_aliyun() -> None:
    told = Told()
    async with _aliyun(told) as (provider, fake):
        told.store = False
        _send(provider, params={"code": "482 913*+~"})
        answer = await told.answer("shop:order-1:1")
        assert (answer.kind, answer.receipts) == ("accepted", 1)
        await told.until(lambda: told.counts.get("not_stored", 0) >= 2)
        told.store = True
        calls = fake.counts["called"]
        await told.until(lambda: fake.counts["called"] > calls or told.receipts)
        (receipt, *_) = told.receipts
        assert (receipt.status, receipt.delivery) == ("delivered", "shop:order-1:1")
        assert (receipt.provider_id,) == answer.provider_ids
        fields = fake.seen[0].fields
        assert fields["TemplateParam"] == '{"code":"482 913*+~"}'
        assert (fields["PhoneNumbers"], fields["OutId"]) == ("13912345678", "shop:order-1:1")
        assert await fake.customer_writes("13912345678", "TD") == 200
        assert told.inbounds[0].opt_out


@pytest.mark.parametrize(
    ("odds", "kind", "code"),
    [
        (Odds(throttle=1), "throttled", "isv.BUSINESS_LIMIT_CONTROL"),
        (Odds(busy=1), "throttled", "ServiceUnavailable"),
        (Odds(refuse=1), "failed", "isv.MOBILE_NUMBER_ILLEGAL"),
        (Odds(cut=1), "unknown", "http-unanswered"),
        (Odds(lose_answers=1), "unknown", "http-unanswered"),
    ],
)
async def test_faults_at_aliyun(odds: Odds, kind: str, code: str) -> None:
    told = Told()
    patience = {"connect_s": 0.5, "answer_s": 0.1} if odds.lose_answers else {}
    async with _aliyun(told, Plan(1, odds), **patience) as (provider, _):
        _send(provider)
        answer = await told.answer("shop:order-1:1")
        assert (answer.kind, answer.code) == (kind, code)
        if kind == "unknown":
            # Taken all the same: the receipt comes, and is known by our own id.
            await told.until(lambda: told.receipts)
            assert told.receipts[0].delivery == "shop:order-1:1"


async def test_what_stops_an_account_at_aliyun() -> None:
    for change, code in [
        ({"access_key_secret": "wrong"}, "SignatureDoesNotMatch"),
        ({"access_key_id": "other"}, "InvalidAccessKeyId.NotFound"),
        ({}, "isv.AMOUNT_NOT_ENOUGH"),
    ]:
        told = Told()
        async with _aliyun(told, **change) as (provider, fake):
            fake.balance = 0
            _send(provider)
            answer = await told.answer("shop:order-1:1")
            assert (answer.kind, answer.failure, answer.code) == ("failed", "config", code)
            assert (told.links[-1].window, told.links[-1].config) == (0, True)


# ---- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["202 OK", "400 No", "403 No", "500 No", "503 No"])
async def test_nothing_of_a_message_is_told_or_logged(status: str) -> None:
    """A gateway that quotes everything back, in every kind of answer and receipt."""
    secrets = [NUMBER.removeprefix("+"), "13912345678", TEXT, "482913", PASSWORD, TOKEN, SECRET]
    quoted = " ".join(secrets)
    told = Told()
    hub = {"callback_url": "http://hub/v1/callbacks/a", "callback_token": TOKEN}
    codes = json.dumps({"Code": quoted, "Message": quoted}).encode()
    with capture_logs() as logs:
        async with (
            Raw(_reply(status, quoted.encode())) as server,
            _urls(told, _kannel(server.url, **hub)) as provider,
        ):
            _send(provider)
            await told.answer("shop:order-1:1")
            for said in (quoted, "13912345678", f"stat:UNDELIV err:001 text:{TEXT}"):
                query = {"token": TOKEN, "delivery": "shop:o:1", "status": "2", "code": said}
                await provider.callback(Callback("GET", query, {}, b""))
        async with (
            Raw(_reply(status, codes)) as server,
            _aliyun(told, endpoint=server.url) as (aliyun, _),
        ):
            _send(aliyun, "shop:order-2:1", params={"code": TEXT})
            await told.answer("shop:order-2:1")
        async with _urls(told, _kannel(server.url)) as provider:
            _send(provider, "shop:order-3:1")
            await told.answer("shop:order-3:1")
    everything = repr((told.answers, told.receipts, told.links, told.counts, logs))
    assert [secret for secret in secrets if secret in everything] == []
    assert len(told.answers) == 3 and len(told.receipts) == 3


async def test_a_bug_in_a_provider_is_answered_and_logged_without_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(f"cannot handle {TEXT}")

    monkeypatch.setattr(UrlGatewayProvider, "understood", broken)
    told = Told()
    with capture_logs() as logs:
        async with Raw(_reply("202 OK")) as server, _urls(told, _kannel(server.url)) as provider:
            _send(provider)
            assert await told.answer("shop:order-1:1") == Answer("unknown", code="internal")
    assert "ValueError" in repr(logs) and TEXT not in repr(logs)


# ---- the fakes as commands ---------------------------------------------------------------------


@pytest.mark.parametrize("module", ["urlgateway", "aliyun"])
async def test_a_fake_runs_as_a_command(module: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"channels.sms.fake.{module}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
            process.stdin.write(b'nonsense\n{"mo": {"from": "13912345678", "text": "R"}}\n')
            client = HttpClient()
            reply = await client.request("GET", f"http://127.0.0.1:{ready['port']}/")
            assert reply.status in (400, 404)
            await client.close()
            process.send_signal(signal.SIGTERM)
            counts = json.loads((await process.stdout.read()).splitlines()[-1])["counts"]
            assert counts["requests"] == 1
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
