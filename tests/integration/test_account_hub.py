"""Accounts of a whole hub: SMS through a centre and a gateway in processes of their own, receipts,
refusals, fallback, a killed host, another configuration."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.support.hub import Hub, free_port, tact, within
from tests.support.programs import SmsProgram

pytestmark = [pytest.mark.nats, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

POLICY = """
version = 1
timezone = "Asia/Shanghai"
[categories.otp]
route = ["sms"]
bypass = ["cap", "gap", "quiet", "presence", "dnd"]
[categories.note]
route = ["push", "sms"]
[categories.marketing]
route = ["sms"]
"""
ACCOUNTS = """
version = 1
[[accounts]]
name = "sms"
channel = "sms"
provider = "smpp"
unknown_after = "2s"
[accounts.limits]
account = ["200/s", "100000/day"]
[accounts.opt_out]
reply = "已退订"
[accounts.sms]
signature = "塔克特"
[accounts.smpp]
host = "127.0.0.1"
port = {smsc}
system_id = "tact"
password = {{ env = "SMSC_PASSWORD" }}
reconnect_min_s = 0.1
reconnect_max_s = 0.5

[[accounts]]
name = "web"
channel = "sms"
provider = "url"
[accounts.limits]
[accounts.url]
preset = "kannel"
url = "http://127.0.0.1:{web}"
user = "tact"
sender = "10690001"
password = {{ file = "gateway.secret" }}
callback_url = "http://127.0.0.1:{http}/v1/callbacks/web"
callback_token = {{ file = "callback.secret" }}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hub")
    (directory / "policy.toml").write_text(POLICY)
    (directory / "gateway.secret").write_text("webpass\n")
    (directory / "callback.secret").write_text("0123456789abcdef0123\n")
    return directory


@pytest.fixture(scope="module")
def smsc(directory: Path) -> Iterator[SmsProgram]:
    fake = SmsProgram("smsc", directory, "--receipt-ms", "100", "--seed", "7")
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def web(directory: Path) -> Iterator[SmsProgram]:
    options = "--user", "tact", "--password", "webpass", "--receipt-ms", "100"
    fake = SmsProgram("urlgateway", directory, *options)
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def hub(directory: Path, smsc: SmsProgram, web: SmsProgram) -> Iterator[Hub]:
    port = free_port()
    text = ACCOUNTS.format(smsc=smsc.port, web=web.port, http=port)
    (directory / "accounts.toml").write_text(text)
    os.environ["SMSC_PASSWORD"] = "secret"
    options = ["--policy", "policy.toml", "--accounts", "accounts.toml", "--http-port", str(port)]
    hub = Hub(directory, options)
    try:
        yield hub.start()
    finally:
        hub.stop(signal.SIGKILL)


def life(hub: Hub, intent: str) -> list[dict[str, Any]]:
    done = hub.tact("trace", "shop", intent, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def states(hub: Hub, intent: str) -> list[str]:
    return [outcome["state"] for outcome in life(hub, intent)]


def test_an_sms_leaves_and_its_receipt_comes_back(hub: Hub, smsc: SmsProgram) -> None:
    hub.send(id="a1", customer="ann", category="otp", text="code 1", to="sms=13800000001")
    within(30, lambda: states(hub, "a1") == ["dispatched", "sent", "delivered"])
    (submit,) = smsc.submitted("【塔克特】code 1")
    assert submit["to"] in ("8613800000001", "+8613800000001")


def test_a_gateway_over_http_reports_to_the_hubs_own_address(hub: Hub, web: SmsProgram) -> None:
    hub.send(
        id="w1", customer="bob", category="otp", text="code 2", to="sms=13800000002", account="web"
    )
    within(30, lambda: states(hub, "w1") == ["dispatched", "sent", "delivered"])
    status, _ = hub.get("/v1/callbacks/web?token=wrong&delivery=shop:w1:1&status=2")
    assert status in (401, 403, 404)
    status, _ = hub.get("/v1/callbacks/nobody")
    assert status == 404


def test_what_no_channel_before_it_could_do_goes_by_sms(hub: Hub) -> None:
    """The push gateway is foreign: it says that the address is dead."""
    hub.send(
        id="f1",
        customer="cid",
        category="note",
        text="note 1",
        to="push=token",
    )
    dispatched = within(10, lambda: life(hub, "f1"))[0]
    assert dispatched["channel"] == "push"

    async def report() -> None:
        client = await nats.connect(hub.ready["nats"])
        await client.jetstream().publish(
            "hub.to.command.crm.cid",
            json.dumps(
                {
                    "id": "p1",
                    "app": "crm",
                    "customer": "cid",
                    "op": "profile.set",
                    "to": {"sms": "13800000003"},
                }
            ).encode(),
        )
        await client.jetstream().publish(
            "hub.to.receipt.pusher.cid",
            json.dumps(
                {
                    "delivery": dispatched["delivery"],
                    "customer": "cid",
                    "status": "failed",
                    "class": "dead_address",
                    "at": "2026-11-22T00:00:00Z",
                }
            ).encode(),
        )
        await client.close()

    asyncio.run(report())
    within(30, lambda: states(hub, "f1") == ["dispatched", "dispatched", "sent", "delivered"])
    second = life(hub, "f1")[1]
    assert second["channel"] == "sms"
    assert "dead_address" in second["reason"]


def test_a_refusal_by_sms_ends_marketing_and_is_answered_once(hub: Hub, smsc: SmsProgram) -> None:
    for _ in range(2):
        smsc.says(**{"from": "+8613800000001", "to": "10690001", "text": "ｔｄ"})
    within(30, lambda: smsc.submitted("【塔克特】已退订"))
    within(
        30,
        lambda: "channel:sms" in json.loads(hub.tact("customer", "ann", "--json").stdout)["dnd"],
    )
    outcome = hub.send(id="m1", customer="ann", category="marketing", text="buy")
    assert outcome["state"] == "suppressed"
    assert outcome["rules"][0]["kind"] == "dnd"
    hub.send(id="a2", customer="ann", category="otp", text="code 3")  # bypasses it
    within(30, lambda: states(hub, "a2")[-1] == "delivered")
    assert len(smsc.submitted("【塔克特】已退订")) == 1


def test_a_killed_host_of_accounts_is_replaced_and_nothing_is_sent_twice(
    hub: Hub, smsc: SmsProgram
) -> None:
    before = json.loads(hub.get("/status")[1])["accounts"]["sms"]["pid"]
    assert before in hub.ready["pids"]["accounts"]
    for number in range(10):
        if number == 5:
            os.kill(before, signal.SIGKILL)
        hub.send(
            id=f"k{number}",
            customer=f"k-{number}",
            category="otp",
            text=f"kill {number}.",
            to=f"sms=138000001{number:02}",
        )
    ends = {"delivered", "sent", "dispatched"}  # the last: what was open is unknown
    within(60, lambda: states(hub, "k9")[-1] == "delivered")
    for number in range(10):
        assert states(hub, f"k{number}")[-1] in ends
        assert len(smsc.submitted(f"kill {number}.")) == 1


def test_another_configuration_is_taken_over_and_a_wrong_one_is_not(
    hub: Hub, directory: Path
) -> None:
    path = directory / "accounts.toml"
    good = path.read_text()
    path.write_text(good.replace("unknown_after", "unknown_afer"))
    within(30, lambda: "unknown_afer: unknown key; did you mean unknown_after?" in hub.log())
    path.write_text(good.replace('name = "web"', 'name = "web2"'))
    within(30, lambda: '"event":"accounts.applied"' in hub.log())
    outcome = hub.send(
        id="g1", customer="dan", category="otp", text="x", to="sms=13800000004", account="web"
    )
    assert outcome["state"] == "dispatched"
    within(30, lambda: states(hub, "g1")[-1] == "failed")
    assert "no-such-account" in life(hub, "g1")[-1]["reason"]


def test_metrics_and_status_show_accounts_without_addresses(hub: Hub) -> None:
    _, text = hub.get("/metrics")
    assert 'tact_submissions_total{account="sms",answer="accepted"}' in text
    assert 'tact_account_window{account="sms"}' in text
    assert "13800000001" not in text + hub.log()
    assert "code 1" not in text + hub.log()
    assert "sms" in hub.tact("status").stdout


def test_a_wrong_accounts_file_does_not_start_a_hub(directory: Path) -> None:
    path = directory / "wrong.toml"
    path.write_text('version = 1\n[[accounts]]\nname = "a"\nchannel = "sms"\nprovider = "smp"\n')
    done = tact("accounts", "check", path)
    assert done.returncode == 2
    assert "provider: known are" in done.stderr
    done = tact("up", "--accounts", path, "--data-dir", directory / "other", "--nats-port", "0")
    assert done.returncode == 2
    assert "account a: provider: known are" in done.stderr
