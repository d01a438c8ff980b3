"""The provider against our own centre: texts, receipts, customers' messages, faults of a plan."""

from __future__ import annotations

import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from channels.provider import Stored
from channels.sms.fake.faults import Odds, Plan, Recorder
from channels.sms.fake.smsc import Settings, Smsc
from channels.sms.message import SmsConfig
from channels.sms.segments import Concat
from tests.support.smpp import Account, account_at, delivery, send, submission, until

LONG = "汉" * 150  # three parts of 67


@asynccontextmanager
async def smsc(
    odds: Odds | None = None, settings: Settings | None = None, **more: Any
) -> AsyncIterator[Smsc]:
    centre = Smsc(Plan(7, odds), settings, **more)
    await centre.start()
    try:
        yield centre
    finally:
        await centre.stop()


async def test_messages_receipts_and_customers_of_one_account(tmp_path: Path) -> None:
    record = tmp_path / "submits.jsonl"
    async with (
        smsc(recorder=Recorder(record)) as centre,
        account_at(centre.port) as (
            provider,
            account,
        ),
    ):
        await account.up()
        assert account.links[-1].window == 10
        send(provider, "short", "hello")
        send(provider, "long", LONG)
        await account.until(lambda: len(account.answers) == 2 and len(account.receipts) == 4)
        short, long = account.answers["short"], account.answers["long"]
        assert (short.kind, short.receipts) == ("accepted", 1)
        assert (long.kind, long.receipts, len(set(long.provider_ids))) == ("accepted", 3, 3)
        ids = {*short.provider_ids, *long.provider_ids}
        assert {receipt.provider_id for receipt in account.receipts} == ids
        assert {receipt.status for receipt in account.receipts} == {"delivered"}

        centre.say("+8613800138000", "10690001", "拒收")
        centre.say("+8613800138000", "10690001", "x" * 400)
        await account.until(lambda: len(account.inbound_messages) == 2)
        refusal, essay = account.inbound_messages
        assert (refusal.sender, refusal.opt_out) == ("+8613800138000", True)
        assert (essay.content, essay.parts, essay.opt_out) == ({"text": "x" * 400}, 3, False)
        await until(lambda: centre.counts.get("confirmed") == 4 + 1 + 3)
        await provider.stop(1.0)
    lines = [msgspec.json.decode(line) for line in record.read_bytes().splitlines()]
    submits = [line for line in lines if line["kind"] == "submit"]
    assert [(one["part"], one["parts"]) for one in submits] == [(1, 1), (1, 3), (2, 3), (3, 3)]
    assert {one["to"] for one in submits} == {"8613800138000"}
    assert len({one["reference"] for one in submits[1:]}) == 1
    text = b"".join(bytes.fromhex(one["content"]) for one in submits[1:]).decode("utf-16-be")
    assert text == LONG


async def test_what_is_not_stored_is_repeated() -> None:
    settings = Settings(again_s=0.01)
    async with smsc(settings=settings) as centre, account_at(centre.port) as (provider, account):
        refusals = iter([False, False])
        account.storing = lambda stored: stored(next(refusals, True))
        await account.up()
        send(provider)
        await until(lambda: centre.counts.get("confirmed") == 1)
        assert centre.counts["refused"] == 2
        assert len(account.receipts) == 3


async def test_what_waits_for_its_storing_is_confirmed_by_nobody_and_comes_again() -> None:
    async with (
        smsc(settings=Settings(repeat_s=0.02)) as centre,
        account_at(centre.port) as (
            provider,
            account,
        ),
    ):
        waiting: list[Stored] = []
        account.storing = waiting.append
        await account.up()
        send(provider)
        await account.until(lambda: len(account.receipts) >= 3)
        assert "confirmed" not in centre.counts
        account.storing = lambda stored: stored(True)
        await until(lambda: centre.counts.get("confirmed", 0) >= 1)


async def test_every_submission_has_one_answer_and_it_is_true(tmp_path: Path) -> None:
    odds = Odds(
        latency_ms=2,
        throttle=0.05,
        busy=0.05,
        refuse=0.05,
        repeat_answers=0.1,
        lose_answers=0.03,
        cut=0.02,
        receipt_ms=2,
        early_receipts=0.1,
        duplicate_receipts=0.1,
        fail=0.1,
    )
    record = tmp_path / "record.jsonl"
    async with (
        smsc(odds, recorder=Recorder(record)) as centre,
        account_at(centre.port, response_timeout_s=0.3, binds=2, reconnect_max_s=0.02) as (
            provider,
            account,
        ),
    ):
        numbers = {}
        for number in range(400):
            await account.until(
                lambda: (
                    account.links and len(numbers) - len(account.answers) < account.links[-1].window
                )
            )
            name = f"d-{number}"
            numbers[name] = f"86138{number:08d}"
            text = f"text {number}" if number % 5 else LONG
            send(provider, name, text, "+" + numbers[name])
        await account.until(lambda: len(account.answers) == len(numbers))
        kinds = Counter(answer.kind for answer in account.answers.values())
        assert set(kinds) == {"accepted", "retry", "throttled", "failed", "unknown"}
        accepted = {
            name
            for answer in account.answers.values()
            if answer.kind == "accepted"
            for name in answer.provider_ids
        }
        await account.until(lambda: accepted <= {one.provider_id for one in account.receipts})
        assert account.counts["unexpected_answer"]
    taken: dict[str, set[str]] = {}
    for line in map(msgspec.json.decode, record.read_bytes().splitlines()):
        if line["kind"] == "submit" and line["id"]:
            taken.setdefault(line["to"], set()).add(line["id"])
    for name, answer in account.answers.items():
        told, there = set(filter(None, answer.provider_ids)), taken.get(numbers[name], set())
        # what is sent again, because it was not taken, was not taken
        assert told == there or (answer.kind == "unknown" and told < there), (name, answer)


async def test_of_a_message_refused_half_way_only_the_rest_is_sent_again() -> None:
    odds = Odds(throttle=0.4)
    async with smsc(odds) as centre, account_at(centre.port, window=2) as (provider, account):
        await account.up()
        prepared = provider.prepare(delivery(text="y" * 1400))  # ten parts, five windows
        accepted: tuple[str, ...] = ()
        kinds = Counter()
        for turn in range(60):
            name = f"d-{turn}"
            provider.submit(submission(prepared, name, accepted))
            await account.until(lambda name=name: name in account.answers)
            answer = account.answers[name]
            kinds[answer.kind] += 1
            taken = [one for one in answer.provider_ids if one]
            assert set(filter(None, accepted)) <= set(taken)
            accepted = answer.provider_ids
            if answer.kind == "accepted":
                break
            assert (answer.kind, answer.code) == ("throttled", "ESME_RTHROTTLED")
            assert answer.retry_after_ms == 1000
        assert kinds["accepted"] == 1 and kinds["throttled"] > 1
        assert centre.counts["accept"] == len(prepared.parts) == 10
        assert len(account.receipts) <= 10


@pytest.mark.parametrize("concat", [Concat.UDH8, Concat.UDH16, Concat.SAR])
async def test_long_messages_in_each_way_to_join_them(concat: Concat) -> None:
    async with (
        smsc() as centre,
        account_at(centre.port, SmsConfig(concat=concat), receipts="message") as (
            provider,
            account,
        ),
    ):
        await account.up()
        send(provider, text=LONG)
        await account.until(lambda: account.answers and account.receipts)
        assert account.answers["d-1"].receipts == 1
        assert account.receipts[0].provider_id == account.answers["d-1"].provider_ids[-1]


async def test_ids_in_two_spellings_are_one() -> None:
    async with (
        smsc(settings=Settings(hex_receipts=True)) as centre,
        account_at(centre.port, id_form="hex2dec") as (provider, account),
    ):
        await account.up()
        for number in range(20):
            send(provider, f"d-{number}")
            await account.until(lambda name=f"d-{number}": name in account.answers)
        await account.until(lambda: len(account.receipts) == 20)
        told = {name for answer in account.answers.values() for name in answer.provider_ids}
        assert {receipt.provider_id for receipt in account.receipts} == told


async def test_a_transmitter_and_a_receiver() -> None:
    async with (
        smsc() as centre,
        account_at(centre.port, bind="transmitter+receiver") as (
            provider,
            account,
        ),
    ):
        await account.up()
        send(provider)
        await account.until(lambda: account.receipts)
        assert len(centre.links) == 2


async def test_parts_confirmed_at_once_for_a_centre_that_waits_for_it() -> None:
    async with smsc() as centre, account_at(centre.port, confirm_parts="each") as (_, account):
        waiting: list[Stored] = []
        account.storing = waiting.append
        await account.up()
        centre.say("+8613800138000", "10690001", "x" * 400)
        await account.until(lambda: account.inbound_messages)
        await until(lambda: centre.counts.get("confirmed") == 3)


async def test_wrong_password_is_a_fault_of_the_configuration_and_tried_slowly() -> None:
    async with (
        smsc() as centre,
        account_at(centre.port, password="wrong", reconnect_min_s=0.0001, reconnect_max_s=3600) as (
            provider,
            account,
        ),
    ):
        await account.until(lambda: account.links)
        link = account.links[-1]
        assert (link.window, link.config) == (0, True)
        assert link.reason == "the bind was refused: ESME_RINVPASWD"
        send(provider)
        await account.until(lambda: account.answers)
        assert account.answers["d-1"].kind == "retry"
        async with account_at(centre.port) as (_, other):
            await other.up()
        assert centre.counts["bind_refused"] == 1


async def test_it_comes_back_when_the_centre_does() -> None:
    async with smsc() as centre:
        port = centre.port
        async with account_at(port) as (provider, account):
            await account.up()
            await centre.stop()
            await account.until(lambda: account.links[-1].window == 0)
            send(provider, "while-down")
            await account.until(lambda: account.answers)
            assert account.answers["while-down"].kind == "retry"
            async with smsc(port=port):
                await account.up()
                send(provider, "after")
                await account.until(lambda: "after" in account.answers)
                assert account.answers["after"].kind == "accepted"


def self_signed(directory: Path) -> tuple[Path, Path]:
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=smsc.test", "-addext",
         "subjectAltName=DNS:smsc.test", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


async def test_tls_and_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    key, certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = {"tls": True, "tls_ca": str(certificate), "tls_name": "smsc.test"}
    async with smsc(tls=context) as centre:
        async with account_at(centre.port, **trusting) as (provider, account):
            await account.up()
            send(provider, text=LONG)
            await account.until(lambda: len(account.receipts) == 3)
        async with account_at(centre.port, tls=True) as (_, distrusting):
            await distrusting.until(lambda: distrusting.links)
            assert distrusting.links[-1].config
            assert distrusting.links[-1].reason.startswith("TLS: ")


async def test_stop_waits_for_answers_and_calls_the_rest_unknown() -> None:
    async with (
        smsc(Odds(latency_ms=30, lose_answers=0.5)) as centre,
        account_at(centre.port) as (provider, account),
    ):
        await account.up()
        for number in range(10):
            send(provider, f"d-{number}", f"text {number}")
        await provider.stop(0.3)
        kinds = Counter(answer.kind for answer in account.answers.values())
        assert set(kinds) == {"accepted", "unknown"} and kinds.total() == 10
        send(provider, "too-late")
        await account.until(lambda: "too-late" in account.answers)
        assert account.answers["too-late"].kind == "retry"


def test_on_the_event_loop_of_production() -> None:
    """uvloop's transports are of other classes than asyncio's."""
    uvloop.run(_one_message())


async def _one_message() -> None:
    async with smsc() as centre, account_at(centre.port) as (provider, account):
        await account.up()
        send(provider, text=LONG)
        await account.until(lambda: len(account.receipts) == 3)


def test_the_account_s_helper_is_complete() -> None:
    """`Account` has all of Events; a provider would otherwise fail in the field only."""
    from channels.provider import Events

    assert {name for name in vars(Events) if not name.startswith("_")} <= set(dir(Account))
