"""A CMPP account at the ISMG simulator: the good ways, and what faults from a seed do to them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
import uvloop

from channels.provider import Answer
from channels.sms.alphabet import Coding
from channels.sms.cmpp.session import UNSTORED
from channels.sms.fake.faults import Odds, Plan, Recorder
from channels.sms.fake.ismg import Ismg, Settings
from channels.sms.message import SmsConfig
from tests.support.cmpp import Told, account, delivery, submission, until

LONG = "尊敬的客户，您的订单已经发货。" * 10


@pytest.fixture
async def ismg():
    server = Ismg()
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("highest", ["2.0", "3.0"])
@pytest.mark.parametrize("asked", ["auto", "2.0"])
async def test_a_message_and_its_receipt(highest: str, asked: str) -> None:
    server, told = Ismg(settings=Settings(version=highest)), Told()
    await server.start()
    async with account(server.port, told, version=asked, service_id="svc") as provider:
        await until(lambda: told.up)
        assert told.links[-1].window == 16
        provider.submit(submission(provider, "hello"))
        await until(lambda: told.receipts and server.counts.get("confirmed"))
        (name,) = told.answer.provider_ids
        assert told.answer == Answer("accepted", (name,), receipts=1, code="")
        (receipt,) = told.receipts
        assert (receipt.provider_id, receipt.status) == (name, "delivered")
        (submit,) = server.submits
        assert submit.dest_terminal_ids == ("13800138000",)
        assert (submit.src_id, submit.msg_src, submit.service_id) == ("10690001", "900001", "svc")
        assert (submit.msg_fmt, submit.content, submit.tp_udhi) == (0, b"hello", 0)
        assert submit.valid_time.endswith("32+")
    assert server.counts["terminated"] == 1
    await server.stop()


async def test_a_long_message_has_a_header_and_counted_parts(ismg: Ismg) -> None:
    told = Told()
    async with account(ismg.port, told) as provider:
        await until(lambda: told.up)
        sent = submission(provider, LONG)
        assert sent.prepared.units == 3
        provider.submit(sent)
        await until(lambda: len(told.receipts) == 3)
        assert told.answer.receipts == 3
        assert {receipt.provider_id for receipt in told.receipts} == set(told.answer.provider_ids)
    parts = list(ismg.submits)
    assert [(p.pk_total, p.pk_number, p.tp_udhi, p.msg_fmt) for p in parts] == [
        (3, number, 1, 8) for number in (1, 2, 3)
    ]
    assert {part.content[:3] + part.content[4:5] for part in parts} == {b"\5\0\3\3"}
    assert b"".join(part.content[6:] for part in parts).decode("utf-16-be") == LONG
    assert all(len(part.content) <= 140 for part in parts)


async def test_gbk_when_the_account_names_it(ismg: Ismg) -> None:
    told = Told()
    async with account(ismg.port, told, SmsConfig(codings=[Coding.GBK])) as provider:
        await until(lambda: told.up)
        provider.submit(submission(provider, "你好"))
        await until(lambda: told.answers)
    assert (ismg.submits[0].msg_fmt, ismg.submits[0].content) == (15, "你好".encode("gbk"))


@pytest.mark.parametrize("confirm_parts", ["whole", "each"])
async def test_customers_write(ismg: Ismg, confirm_parts: str) -> None:
    told = Told()
    async with account(ismg.port, told, confirm_parts=confirm_parts):
        await until(lambda: told.up)
        ismg.say("8613800138001", "10690001", "退订！")
        ismg.say("13800138001", "10690001", LONG)
        await until(lambda: ismg.counts.get("confirmed") == 4)
    short, long = told.inbounds
    assert (short.sender, short.content, short.opt_out) == (
        "+8613800138001",
        {"text": "退订！"},
        True,
    )
    assert (long.sender, long.content, long.parts) == ("+8613800138001", {"text": LONG}, 3)
    assert not long.opt_out
    assert short.id.isdecimal()
    assert int(short.id) < int(long.id)


async def test_nothing_is_confirmed_before_it_is_stored(ismg: Ismg) -> None:
    told = Told(stores=False)
    async with account(ismg.port, told) as provider:
        await until(lambda: told.up)
        ismg.say("13800138001", "10690001", "hello")
        provider.submit(submission(provider))
        await until(lambda: len(told.stored) == 2)
        assert not ismg.counts.get("confirmed")
        told.stored.pop()(False)
        await until(lambda: len(told.stored) == 2)  # refused, and sent again
        assert ismg.counts["refused"] == 1
        for stored in told.stored:
            stored(True)
        await until(lambda: ismg.counts.get("confirmed") == 2)


async def test_what_was_not_confirmed_comes_again_on_the_next_connection(ismg: Ismg) -> None:
    told = Told(stores=False)
    async with account(ismg.port, told):
        await until(lambda: told.up)
        ismg.say("13800138001", "10690001", "hello")
        await until(lambda: told.inbounds)
        ismg.links[0].cut()
        await until(lambda: len(told.inbounds) == 2)
        first, again = told.inbounds
        assert first.id == again.id
        told.stored[0](True)  # of a connection that is gone: nobody hears it
        told.stored[1](True)
        await until(lambda: ismg.counts.get("confirmed") == 1)


async def test_wrong_secret_is_told_as_configuration() -> None:
    server, told = Ismg(settings=Settings(secret="other")), Told()
    await server.start()
    async with account(server.port, told) as provider:
        await until(lambda: told.links)
        (link,) = told.links
        assert (link.window, link.config) == (0, True)
        assert "888888" not in link.reason
        provider.submit(submission(provider))
        await until(lambda: told.answers)
        assert told.answer.kind == "retry"
        server.settings = Settings()  # somebody puts it right
        await until(lambda: told.up)
    await server.stop()


async def test_a_version_that_is_too_high_and_fixed() -> None:
    server, told = Ismg(settings=Settings(version="2.0")), Told()
    await server.start()
    async with account(server.port, told, version="3.0"):
        await until(lambda: server.counts.get("refused_login", 0) >= 2)
    assert told.links[0].config
    assert "version" in told.links[0].reason
    assert not any(link.window for link in told.links)
    await server.stop()


async def test_several_connections_share_the_load(ismg: Ismg) -> None:
    told = Told()
    async with account(ismg.port, told, connections=3, window=2) as provider:
        await until(lambda: told.up and told.links[-1].window == 6)
        for number in range(6):
            provider.submit(submission(provider, name=f"d{number}", to=f"+861380013800{number}"))
        await until(lambda: len(told.answers) == 6)
        ismg.links[0].cut()
        await until(lambda: [link.window for link in told.links][-2:] == [4, 6])


async def test_flow_control_is_a_throttle() -> None:
    server, told = Ismg(Plan(1, Odds(throttle=1.0))), Told()
    await server.start()
    async with account(server.port, told) as provider:
        await until(lambda: told.up)
        provider.submit(submission(provider))
        await until(lambda: told.answers)
    assert told.answer.kind == "throttled"
    assert told.answer.scope == "account"
    assert told.answer.retry_after_ms == 1000
    assert told.answer.code == "CMPP_8 flow-control"
    await server.stop()


ODDS = Odds(
    latency_ms=2,
    throttle=0.1,
    refuse=0.1,
    lose_answers=0.05,
    repeat_answers=0.1,
    cut=0.03,
    receipt_ms=3,
    early_receipts=0.2,
    duplicate_receipts=0.1,
    lose_receipts=0.1,
    fail=0.2,
)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_submission_is_answered_once_and_truly(seed: int, tmp_path: Path) -> None:
    """Faults from a seed: what the account believes is what the ISMG has written down."""
    record = tmp_path / "record.jsonl"
    server = Ismg(Plan(seed, ODDS), recorder=Recorder(record))
    told = Told()
    await server.start()
    names = [f"d{number}" for number in range(200)]
    numbers = {name: f"+861380013{place:04d}" for place, name in enumerate(names)}
    async with account(server.port, told, response_timeout_s=0.3, tries=10) as provider:
        for place, name in enumerate(names):
            await until(lambda place=place: told.up and place - len(told.answers) < 16)
            provider.submit(submission(provider, "hello", name, to=numbers[name]))
        await until(lambda: len(told.answers) == len(names))
    await server.stop()
    taken = {
        "+86" + line["to"]: line["id"]
        for line in map(json.loads, record.read_text().splitlines())
        if line["kind"] == "submit" and line["id"]
    }
    assert Counter(name for name, _ in told.answers) == Counter(names)
    for name, answer in told.answers:
        number = numbers[name]
        if answer.kind == "accepted":
            assert answer.provider_ids == (taken[number],)
        else:
            assert answer.provider_ids == ("",)
            assert answer.kind == "unknown" or number not in taken
    assert {receipt.provider_id for receipt in told.receipts} <= set(taken.values())
    kinds = Counter(answer.kind for _, answer in told.answers)
    assert kinds["unknown"] and kinds["throttled"] and kinds["failed"]


async def test_an_account_that_stores_slowly_is_not_flooded(ismg: Ismg) -> None:
    told = Told(stores=False)
    async with account(ismg.port, told, connections=8):
        await until(lambda: told.up and told.links[-1].window == 8 * 16)
        for number in range(500):
            ismg.say("13800138001", "10690001", f"hello {number}")
        await until(lambda: len(told.stored) == 8 * 16)  # the ISMG's own windows
        assert len(told.stored) <= 8 * UNSTORED
        stored = 0
        while stored < 500:
            await until(lambda: told.stored)
            told.stored.pop()(True)
            stored += 1
        await until(lambda: ismg.counts.get("confirmed") == 500)
    assert len({inbound.id for inbound in told.inbounds}) == 500


def test_under_uvloop() -> None:
    """The loop of the product, whose transports are another implementation."""

    async def main() -> None:
        server, told = Ismg(), Told()
        await server.start()
        async with account(server.port, told) as provider:
            await until(lambda: told.up)
            provider.submit(submission(provider, LONG))
            await until(lambda: len(told.receipts) == 3)
            server.links[0].cut()
            await until(lambda: len(told.links) == 3)
            assert [link.window for link in told.links] == [16, 0, 16]
        await server.stop()

    uvloop.run(main())


async def test_preparing_is_pure(ismg: Ismg) -> None:
    async with account(ismg.port, Told()) as provider:
        assert provider.prepare(delivery(LONG)) == provider.prepare(delivery(LONG))
        assert provider.prepare(delivery("x", "138 0013 8000")).recipient == "+8613800138000"


async def test_the_command(tmp_path: Path) -> None:
    """As a user runs it: a line with the port, customers' messages from standard input."""
    import sys

    record = tmp_path / "record.jsonl"
    command = [sys.executable, "-m", "channels.sms.fake.ismg", "--port", "0", "--seed", "7"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--record",
        str(record),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = json.loads(await process.stdout.readline())["port"]
        told = Told()
        async with account(port, told) as provider:
            await until(lambda: told.up)
            said = {"mo": {"from": "+8613800138001", "to": "10690001", "text": "T"}}
            process.stdin.write(json.dumps(said).encode() + b"\n")
            provider.submit(submission(provider))
            await until(lambda: told.inbounds and told.receipts)
            assert told.inbounds[0].opt_out
    finally:
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["counts"]["confirmed"] == 2
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["kind"] for line in lines].count("submit") == 1
