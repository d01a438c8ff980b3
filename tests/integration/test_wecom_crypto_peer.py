"""Callbacks with @wecom/crypto, which we did not write: it posts to us, and reads what we make."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from channels.provider import Callback, Reply
from channels.wecom.callbacks import Event, answer
from channels.wecom.config import AppConfig
from channels.wecom.crypto import SALT, Crypto
from hub.clock import SystemClock
from tests.support import peers
from tests.support.callbacks import CallbackServer

CONFIG = AppConfig(
    corp_id="ww0123456789abcdef",
    agent_id=1_000_002,
    secret="s",
    callback_token="QDG6eK",
    callback_key="jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C",
)
EVENT = (
    "<xml><ToUserName><![CDATA[ww0123456789abcdef]]></ToUserName><CreateTime>1348831860</CreateTime>"
    "<MsgType><![CDATA[event]]></MsgType><Event><![CDATA[change_external_contact]]></Event>"
    "<ChangeType><![CDATA[add_external_contact]]></ChangeType><UserID><![CDATA[li]]></UserID>"
    "<State><![CDATA[{}]]></State></xml>"
)


class Heard:
    """Understands callbacks as the hub's endpoint does."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def callback(self, request: Callback) -> Reply:
        said = answer(CONFIG, request, SystemClock().now_ms())
        if isinstance(said, Reply):
            return said
        self.events.append(said)
        return Reply()


@pytest.fixture
def peer() -> Iterator[peers.Peer]:
    options = {
        "token": CONFIG.callback_token,
        "key": CONFIG.callback_key,
        "corp": CONFIG.corp_id,
    }
    with peers.node("wecom_crypto.js", options) as (peer, _):
        yield peer


@pytest.fixture
async def server() -> AsyncIterator[CallbackServer]:
    server = CallbackServer()
    await server.start()
    yield server
    await server.stop()


async def answers(peer: peers.Peer, name: str, count: int) -> list[Any]:
    async with asyncio.timeout(20):
        while len(peer.all(name)) < count:
            assert not peer.all("failed")
            await asyncio.sleep(0.01)
    return peer.all(name)


async def test_it_checks_our_url_and_posts_events(peer: peers.Peer, server: CallbackServer) -> None:
    heard = server.provider = Heard()
    texts = ["", "a", "中文🙂 & <b>", "x" * 31, "x" * 32, "x" * 33, "长" * 5_000]
    for length, text in enumerate(texts):
        peer.say({"post": server.url, "message": EVENT.format(text)})
        assert (await answers(peer, "posted", length + 1))[-1] == {"status": 200, "body": ""}
        peer.say({"check": server.url, "echo": f"echo {text[:99]}"})
        checked = {"status": 200, "body": f"echo {text[:99]}"}
        assert (await answers(peer, "checked", length + 1))[-1] == checked
    assert [event.fields["State"] for event in heard.events] == texts
    assert {event.change for event in heard.events} == {"add_external_contact"}


async def test_it_reads_what_we_encrypt_and_signs_the_same(peer: peers.Peer) -> None:
    crypto = Crypto(CONFIG.callback_token, CONFIG.callback_key, CONFIG.corp_id)
    chance = random.Random(7)
    for count, length in enumerate([0, 1, *range(8, 45), 4_000], start=1):
        text = "中" * (length // 3) + "x" * (length % 3)
        encrypted = crypto.encrypt(text.encode(), chance.randbytes(SALT))
        peer.say({"open": encrypted, "timestamp": "1348831860", "nonce": "n"})
        opened = (await answers(peer, "opened", count))[-1]
        assert opened == {
            "message": text,
            "id": CONFIG.corp_id,
            "signature": crypto.sign("1348831860", "n", encrypted),
        }
