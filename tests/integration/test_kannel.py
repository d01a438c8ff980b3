"""A whole foreign gateway: our provider, Kannel's smsbox and bearerbox, our SMSC, and back.

It holds two of ours to what others think: the URL provider to a real sendsms and its receipts, and
the SMSC to a real ESME.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from channels.sms.fake.faults import Odds, Plan
from channels.sms.fake.smsc import Smsc
from channels.sms.message import SmsConfig
from channels.sms.web.gateway import UrlGatewayConfig
from channels.sms.web.urls import UrlGatewayProvider
from tests.support.callbacks import CallbackServer
from tests.support.kannel import MISSING, boxes, kannel
from tests.support.sms_web import NUMBER, TOKEN, StillClock, Told, delivery, submission


@pytest.fixture(autouse=True, scope="module")
def _needs_kannel() -> None:
    if boxes() is None:
        pytest.skip(MISSING)


class _Bench:
    """The chain, standing."""

    def __init__(self, smsc: Smsc, url: str, server: CallbackServer, told: Told) -> None:
        self.smsc = smsc
        self.url = url
        self.server = server
        self.told = told

    @asynccontextmanager
    async def provider(self, **change: Any) -> AsyncIterator[UrlGatewayProvider]:
        fields: dict[str, Any] = {
            "preset": "kannel",
            "url": self.url,
            "user": "tact",
            "password": "s3cret-password",
            "sender": "10690001",
            "callback_url": self.server.url,
            "callback_token": TOKEN,
        }
        config = UrlGatewayConfig(**(fields | change))
        provider = UrlGatewayProvider(
            config, SmsConfig(), self.told, StillClock(), random.Random(1), "a"
        )
        self.server.provider = provider
        provider.start({})
        try:
            yield provider
        finally:
            await provider.stop(5)


async def _bound(smsc: Smsc) -> None:
    while True:
        if smsc.counts.get("bound"):
            return
        await asyncio.sleep(0.05)  # asked again until Kannel has bound


@asynccontextmanager
async def _bench(folder: Path, odds: Odds | None = None) -> AsyncIterator[_Bench]:
    smsc, told = Smsc(Plan(7, odds)), Told()
    await smsc.start()
    server = CallbackServer()
    await server.start()
    inbound = f"{server.url}?token={TOKEN}&from=%p&text=%a&id=%I"
    try:
        async with kannel(folder, smsc.port, inbound) as gateway:
            async with asyncio.timeout(20):
                await _bound(smsc)
            yield _Bench(smsc, gateway.url, server, told)
    finally:
        await server.stop()
        await smsc.stop()


async def test_messages_and_receipts_through_kannel(tmp_path: Path) -> None:
    """Short, long and odd ones; receipts are repeated by Kannel until we have stored them."""
    texts = {
        "shop:short:1": "hello {to} %d %A & 100% +",
        "shop:long:1": "您的订单已发货，请注意查收。" * 10 + "😀",
        "shop:!%A1%41~&=#?+/:1": "ключ",
    }
    async with _bench(tmp_path) as bench, bench.provider() as provider:
        told = bench.told
        told.store = False
        for id, text in texts.items():
            prepared = provider.prepare(delivery({"text": text}, id=id))
            provider.submit(submission(prepared, id))
        for id in texts:
            answer = await told.answer(id)
            assert (answer.kind, answer.provider_ids, answer.receipts) == ("accepted", (), 1)
        await told.until(lambda: told.counts.get("not_stored", 0) >= 3)
        told.store = True
        told.receipts.clear()

        def arrived() -> bool:
            kinds = {(each.delivery, each.status) for each in told.receipts}
            return kinds >= {(id, status) for id in texts for status in ("sent", "delivered")}

        await told.until(arrived, 40)
        delivered = [each for each in told.receipts if each.status == "delivered"]
        assert {each.code for each in delivered} == {"DELIVRD 000"}
        units = sum(provider.prepare(delivery({"text": text})).units for text in texts.values())
        assert bench.smsc.counts["accept"] == units == 5


async def test_what_the_smsc_refuses_and_what_a_customer_writes(tmp_path: Path) -> None:
    async with _bench(tmp_path, Odds(refuse=1.0)) as bench, bench.provider() as provider:
        told = bench.told
        provider.submit(submission(provider.prepare(delivery({"text": "hello"}))))
        assert (await told.answer("shop:order-1:1")).kind == "accepted"
        await told.until(lambda: told.receipts)
        (receipt,) = told.receipts
        assert (receipt.status, receipt.failure) == ("failed", "dead_address")
        assert receipt.code == "NACK/0x0000000b"
        written = ["退订", "Grüße & 100%", "ça va? œuf", "二" * 80 + "😀"]
        for text in written:
            bench.smsc.say(NUMBER, "10690001", text)
        await told.until(lambda: len(told.inbounds) == len(written))
        assert {each.sender for each in told.inbounds} == {NUMBER}
        assert {each.content["text"] for each in told.inbounds} == set(written)
        assert [each.opt_out for each in told.inbounds].count(True) == 1
        assert len({each.id for each in told.inbounds}) == len(written)


async def test_a_wrong_password_and_a_gateway_that_is_gone(tmp_path: Path) -> None:
    async with _bench(tmp_path) as bench, bench.provider(password="wrong-password") as provider:
        provider.submit(submission(provider.prepare(delivery())))
        answer = await bench.told.answer("shop:order-1:1")
        assert (answer.kind, answer.failure) == ("failed", "config")
        last = bench.told.links[-1]
        assert (last.window, last.config) == (0, True)
        assert "wrong-password" not in last.reason
