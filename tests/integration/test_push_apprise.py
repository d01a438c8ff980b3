"""Apprise against a server of ours (its `json://`), where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from channels.accounts import parse_accounts
from channels.provider import Answer, Link, Unsendable
from channels.push.apprise import AppriseConfig, AppriseProvider, Threads, check
from hub.clock import SystemClock
from hub.errors import ConfigError
from tests.support.sms_web import Told, delivery, submission

installed = pytest.mark.skipif(
    importlib.util.find_spec("apprise") is None,
    reason="Apprise is not installed: pip install 'tact-hub[apprise]'",
)
# Loading its plug-ins imports what Python will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TO = "#ops/?x=1&@all"


class Service:
    """What an Apprise URL leads to: keeps what it is sent, and answers as it is bidden."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.open = asyncio.Event()
        self.open.set()
        self.address = ""
        self._runner = web.ServerRunner(web.Server(self._handle))

    async def __aenter__(self) -> Service:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self.got.append((request.raw_path, await request.json()))
        await self.open.wait()
        return web.Response(status=self.status, headers={"location": "/moved"})


@asynccontextmanager
async def running(heard: Told, url: str, **more: Any) -> AsyncIterator[AppriseProvider]:
    settings = AppriseConfig(service_token=url, **more)
    chance = random.Random(1)
    provider = AppriseProvider(settings, None, heard, SystemClock(), chance, account="team")
    provider.start({})
    try:
        yield provider
    finally:
        await provider.stop(0.1)


async def sent(
    heard: Told, provider: AppriseProvider, id: str = "shop:o:1", **content: Any
) -> Answer:
    one = delivery(content or {"text": "hush!"}, id=id, to=TO)
    provider.submit(submission(provider.prepare(one), id))
    return await heard.answer(id)


@installed
async def test_a_notification_is_sent_to_the_address() -> None:
    heard = Told()
    async with Service() as service, running(heard, f"json://{service.address}/{{to}}") as provider:
        content = {"title": "订单", "text": "on its way", "link": "https://shop.example/7"}
        assert await sent(heard, provider, **content) == Answer("accepted")
        ((path, body),) = service.got
    # The address has become one segment of the path, and nothing else of the URL.
    assert path.count("/") == 1 and "?" not in path and unquote(path[1:]) == TO
    assert (body["title"], body["message"]) == ("订单", "on its way\nhttps://shop.example/7")


@installed
@pytest.mark.parametrize("status", [500, 400, 302])
async def test_a_no_is_failed(status: int) -> None:
    heard = Told()
    async with Service() as service, running(heard, f"json://{service.address}/") as provider:
        service.status = status
        assert await sent(heard, provider) == Answer("failed", failure="provider", code="FAILURE")
        assert len(service.got) == 1


@installed
async def test_threads_that_hang_are_bounded_and_hold_nothing_up() -> None:
    """Two of two hang: what they were given is unknown, and the third never leaves."""
    heard = Told()
    async with Service() as service:
        service.open.clear()
        async with running(
            heard, f"json://{service.address}/?rto=60", connections=2, answer_s=0.1
        ) as provider:
            for id in ("shop:o:1", "shop:o:2"):
                answer = await sent(heard, provider, id)
                assert answer == Answer("unknown", code="http-unanswered")
            assert await sent(heard, provider, "shop:o:3") == Answer("retry")
            assert [one.name for one in threading.enumerate()].count("team-apprise") == 2
            assert not provider.idle
            assert heard.links[-1].window == 0 and "thread" in heard.links[-1].reason
            service.open.set()
            await heard.until(lambda: heard.links[-1] == Link(window=2))
            assert await sent(heard, provider, "shop:o:4") == Answer("accepted")


@installed
async def test_what_a_service_raises_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Told()

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("hush!")

    async with running(heard, "json://127.0.0.1:1/") as provider:
        monkeypatch.setattr("apprise.Apprise.notify", broken)
        assert await sent(heard, provider) == Answer("unknown", code="exception")
    assert heard.counts == {"unknown": 1, "apprise_ValueError": 1}


@installed
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("json://127.0.0.1/{to}", ""),
        ("tgram://123456789:abcdefghijklmnop/{to}", ""),
        ("nothing-of-this-kind", "<schema>"),
        ("json://a, json://b", "<schema>"),
        ("{to}", "<schema>"),
        ("nope://s3cret-host/{to}", "no service nope"),
        ("tgram://s3cret-host", "no service tgram"),
    ],
)
def test_the_url_is_checked_and_never_quoted(url: str, problem: str) -> None:
    settings = AppriseConfig(service_token=url)
    if not problem:
        check(settings)
        return
    with pytest.raises(ConfigError, match=problem) as raised:
        check(settings)
    assert "s3cret" not in raised.value.message + repr(settings)


def test_without_the_package_the_check_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    text = """
    version = 1
    [[accounts]]
    name = "team"
    channel = "push"
    provider = "apprise"
    [accounts.apprise]
    service_token = { env = "TEAM" }
    """
    with pytest.raises(ConfigError, match=r"account team: .*tact-hub\[apprise\]"):
        parse_accounts(text, Path(), {"TEAM": "json://127.0.0.1/"})


@installed
async def test_what_has_no_text_is_refused() -> None:
    async with running(Told(), "json://127.0.0.1:1/") as provider:
        for content in ({"silent": True}, {"text": " "}, {"nothing": 1}, {"fcm": {}}):
            with pytest.raises(Unsendable) as raised:
                provider.prepare(delivery(content))
            assert raised.value.failure == "rejected_content"
        with pytest.raises(Unsendable) as raised:
            provider.prepare(delivery({"text": "x"}, to=" "))
        assert raised.value.failure == "dead_address"


async def test_a_thread_that_ends_after_the_loop_is_heard_by_nobody() -> None:
    """Its loop is gone: that must not be an error in a thread, which nobody would see."""
    threads, gate, ended = Threads(1, "t"), threading.Event(), threading.Event()

    def work() -> Answer:
        gate.wait()
        return Answer("accepted")

    def another_loop() -> None:
        with pytest.raises(TimeoutError):
            asyncio.run(threads.call(work, 0.01))
        ended.set()

    threading.Thread(target=another_loop, daemon=True).start()
    assert await asyncio.to_thread(ended.wait, 20)
    gate.set()
    kept = [one for one in threading.enumerate() if one.name == "t"]
    for one in kept:
        await asyncio.to_thread(one.join, 20)
    assert not any(one.is_alive() for one in kept) and threads.busy == 1
