"""SMPP with other people's software: node-smpp and smpp34 as centres, smpp34 at our centre."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import smpp34

from channels.sms.fake.faults import Odds, Plan
from channels.sms.fake.smsc import Smsc
from channels.sms.message import SmsConfig
from channels.sms.segments import Concat
from tests.support import peers
from tests.support.smpp import account_at, send, until

LONG = "你好，世界🙂" * 20
NUMBER = "+8613800138000"


def free_port() -> int:
    """For a server that cannot tell which port it got."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]  # type: ignore[no-any-return]


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[tuple[peers.Peer, int]]:
    options = {"password": "secret", "receipts": True} | getattr(request, "param", {})
    with peers.node("smsc.js", options) as (peer, first):
        yield peer, first["port"]


# ---- node-smpp -------------------------------------------------------------------------------


async def test_node_understands_texts_parts_receipts_and_customers(
    node: tuple[peers.Peer, int],
) -> None:
    peer, port = node
    async with account_at(port) as (provider, account):
        await account.up()
        send(provider, "gsm", "price: 10€ [net]")
        send(provider, "long", LONG)
        await account.until(lambda: len(account.answers) == 2)
        parts = len(account.answers["long"].provider_ids)
        assert parts == 3
        await account.until(lambda: len(account.receipts) == 1 + parts)
        assert {receipt.status for receipt in account.receipts} == {"delivered"}
        told = {name for answer in account.answers.values() for name in answer.provider_ids}
        assert {receipt.provider_id for receipt in account.receipts} == told
        await until(lambda: len(peer.all("confirmed")) == 1 + parts)
        gsm, *long = peer.all("submit")
        assert gsm["text"] == "price: 10€ [net]"  # the foreign table reads our alphabet
        assert (gsm["dest"], gsm["dest_ton"]) == (NUMBER.removeprefix("+"), 1)
        assert gsm["validity"].startswith("2096-10-02")
        assert "".join(one["text"] for one in long) == LONG
        assert [one["udh"][-4:] for one in long] == ["0301", "0302", "0303"]
        assert {(one["esm_class"], one["data_coding"]) for one in long} == {(0x40, 8)}

        peer.say({"mo": {"from": "8613800138000", "to": "10690001", "text": "退订"}})
        await account.until(lambda: account.inbound_messages)
        written = account.inbound_messages[0]
        assert (written.sender, written.content) == (NUMBER, {"text": "退订"})
        assert written.opt_out
        await until(lambda: "mo" in peer.all("confirmed"))
    await until(lambda: peer.all("unbound"))


async def test_node_reads_sar(node: tuple[peers.Peer, int]) -> None:
    peer, port = node
    async with account_at(port, SmsConfig(concat=Concat.SAR)) as (provider, account):
        await account.up()
        send(provider, text=LONG)
        await account.until(lambda: account.answers)
        submits = peer.all("submit")
        assert [one["sar"][1:] for one in submits] == [[3, 1], [3, 2], [3, 3]]
        assert len({one["sar"][0] for one in submits}) == 1
        assert "".join(one["text"] for one in submits) == LONG


@pytest.mark.parametrize("node", [{"password": "another"}], indirect=True)
async def test_node_refuses_the_bind_and_the_reason_is_told(node: tuple[peers.Peer, int]) -> None:
    _, port = node
    async with account_at(port) as (_, account):
        await account.until(lambda: account.links)
        link = account.links[-1]
        assert (link.config, link.reason) == (True, "the bind was refused: ESME_RINVPASWD")


@pytest.mark.parametrize("node", [{"throttle_every": 3, "delay_ms": 3}], indirect=True)
async def test_node_throttles(node: tuple[peers.Peer, int]) -> None:
    peer, port = node
    async with account_at(port, bind="transmitter+receiver") as (provider, account):
        await account.up()
        for number in range(9):
            send(provider, f"d-{number}", f"text {number}")
        await account.until(lambda: len(account.answers) == 9)
        kinds = Counter((answer.kind, answer.code) for answer in account.answers.values())
        assert kinds == {("accepted", ""): 6, ("throttled", "ESME_RTHROTTLED"): 3}
        await account.until(lambda: len(account.receipts) == 6)
        assert set(peer.all("bound")) == {"bind_transmitter", "bind_receiver"}


@pytest.mark.parametrize("node", [{}], indirect=True)
async def test_node_answers_enquire_link(node: tuple[peers.Peer, int]) -> None:
    peer, port = node
    async with account_at(port, enquire_link_s=0.05, response_timeout_s=5) as (_, account):
        await account.up()
        await until(lambda: len(peer.all("enquired")) >= 3)
        assert len(account.links) == 1


# ---- smpp34 ----------------------------------------------------------------------------------


async def test_smpp34_as_centre_under_load_with_throttling() -> None:
    seen: list[Any] = []
    port = free_port()
    server = smpp34.Server("127.0.0.1", port)
    await server.start()

    async def serve() -> None:
        while True:
            event = await server.next()
            if isinstance(event, smpp34.SubmitSmEvent):
                seen.append(event)
                if len(seen) % 10 == 0:
                    event.reject(smpp34.ESME_RTHROTTLED)
                else:
                    event.accept(f"id{len(seen)}")

    serving = asyncio.create_task(serve())
    try:
        async with account_at(port, window=32) as (provider, account):
            await account.up()
            for number in range(1000):
                await account.until(lambda number=number: number - len(account.answers) < 32)
                send(provider, f"d-{number}", f"text {number}")
            await account.until(lambda: len(account.answers) == 1000)
            kinds = Counter(answer.kind for answer in account.answers.values())
            assert kinds == {"accepted": 900, "throttled": 100}
            assert {event.short_message for event in seen} == {
                b"text %d" % number for number in range(1000)
            }
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        await server.stop()


async def test_smpp34_as_client_at_our_centre() -> None:
    centre = Smsc(Plan(3, Odds(throttle=0.2)))
    await centre.start()
    try:
        client = smpp34.Client("127.0.0.1", centre.port, "tact", "secret", bind_type="TRX")
        session = await client.connect()
        answers = [
            await session.submit_sm(
                "8613800138000", b"text %d" % number, source_addr="1069", registered_delivery=1
            )
            for number in range(50)
        ]
        taken = {answer.message_id for answer in answers if answer.is_success}
        refused = {answer.command_status for answer in answers if not answer.is_success}
        assert taken and refused == {smpp34.ESME_RTHROTTLED}
        told = set()
        while told != taken:
            event = await asyncio.wait_for(session.next(), 20)
            assert isinstance(event, smpp34.DeliverSmEvent)
            assert event.esm_class == 4
            told |= {tlv.as_string() for tlv in event.tlvs if tlv.tag == 0x1E}
        await until(lambda: centre.counts.get("confirmed") == len(taken))
        await session.unbind()
        await client.stop()
    finally:
        await centre.stop()


# ---- our centre as a program -----------------------------------------------------------------


async def test_the_fake_as_a_program(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    command = [sys.executable, "-m", "channels.sms.fake.smsc", "--seed", "7", "--fail", "0.5"]
    with peers.running([*command, "--record", str(record)]) as (peer, first):
        async with account_at(first["port"]) as (provider, account):
            await account.up()
            for number in range(10):
                send(provider, f"d-{number}", f"text {number}")
            await account.until(lambda: len(account.receipts) == 10)
            statuses = {one.provider_id: one.status for one in account.receipts}
            plan = Plan(7, Odds(fail=0.5))
            for number in range(10):
                fate = plan.draw(b"8613800138000\0text %d" % number, 1)
                (name,) = account.answers[f"d-{number}"].provider_ids
                assert statuses[name] == ("delivered" if fate.delivered else "failed")
            assert len(set(statuses.values())) == 2
            peer.say({"mo": {"from": NUMBER, "to": "10690001", "text": "R"}})
            await account.until(lambda: account.inbound_messages)
            assert account.inbound_messages[0].opt_out
        await until(lambda: record.exists() and record.read_bytes().count(b'"submit"') == 10)
    assert [json.loads(line)["kind"] for line in record.read_bytes().splitlines()[:10]]
