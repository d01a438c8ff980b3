"""Push by a whole hub: FCM, APNs, browsers and signed webhooks, WeCom and SMS behind them. A route
that is gone down as channels fail, customers with several devices, a disabled endpoint, a killed
host; and in the end every promise checked over all that happened."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels.push.fake.fcm_trouble import Fault
from channels.push.fake.webhook import Trouble
from channels.push.webhook.signing import Signer, secret_of
from hub.checkers import History, check_all
from hub.checkers.account_records import AccountHistory, Submit
from hub.checkers.accounts import check_accounts
from hub.checkers.push import PushHistory, check_push
from hub.clock import SystemClock
from hub.contract.times import rfc3339
from hub.contract.types import Inbound, Receipt
from hub.ledger.audit import Streams
from hub.policy.document import parse_policy
from tests.support.applications import (
    Application,
    account_of,
    application,
    conversation,
    owner_of,
    read,
    until,
)
from tests.support.hub import Hub, free_port, tact, within
from tests.support.peers import missing
from tests.support.programs import SmsProgram, WecomProgram
from tests.support.push_apns import pem_key
from tests.support.push_fcm import key_file
from tests.support.push_hub import PushServices, posted
from tests.support.push_webhook import OTHER_SECRET, SECRET
from tests.support.wecom_hub import running_hub, write_policy

pytestmark = [pytest.mark.nats, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

POLICY = """
version = 1
timezone = "Asia/Shanghai"
[categories.card]
route = ["push", "wecom", "sms"]
[categories.plain]
route = ["push", "wecom", "sms"]
[categories.hurry]
route = ["push", "sms"]
fallback_after = "2s"
[categories.news]
route = ["push"]
[categories.capped]
route = ["push"]
[[caps]]
name = "once-a-day"
categories = ["capped"]
limit = 1
window = "day"
on = "drop"
[[windows]]
name = "after-her-message"
channels = ["wecom"]
categories = ["card"]
on = "next"
[push]
devices = 4
"""
DESK = """
[[accounts]]
name = "wecom"
channel = "wecom"
provider = "wecom-kf"
[accounts.wecom]
app = "office"
open_kfid = "wk000001"
"""
IPHONE = "a1" * 32


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hub")
    write_policy(directory, POLICY)
    return directory


@pytest.fixture(scope="module")
def smsc(directory: Path) -> Iterator[SmsProgram]:
    program = SmsProgram("smsc", directory, "--receipt-ms", "100")
    yield program
    program.stop()


@pytest.fixture(scope="module")
def wecom(directory: Path) -> Iterator[WecomProgram]:
    program = WecomProgram(directory)
    yield program
    program.stop()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def services(directory: Path, port: int) -> Iterator[PushServices]:
    services = PushServices(directory, port)
    services.start()
    yield services
    services.stop()


@pytest.fixture(scope="module")
def hub(
    directory: Path, port: int, services: PushServices, smsc: SmsProgram, wecom: WecomProgram
) -> Iterator[Hub]:
    with running_hub(directory, port, wecom, smsc, services.accounts() + DESK) as hub:
        yield hub


async def has(app: Application, hub: Hub, customer: str, *addresses: str) -> None:
    """She is seen with these devices, one after the other."""
    for number, address in enumerate(addresses):
        to = {"push": address}
        await app.orders(f"{customer}-{number}", customer, "profile.set", to=to)
    await until(lambda: len(conversation(hub, customer)["devices"]) == len(addresses))


async def streams_with(hub: Hub, *told: tuple[str, str]) -> Streams:
    """What the streams hold when these (status, delivery) are among the receipts."""
    async with asyncio.timeout(90):
        while True:
            streams, _ = await read(hub)
            heard = [one.message for one in streams.published if isinstance(one.message, Receipt)]
            if set(told) <= {(one.status, one.delivery) for one in heard}:
                return streams
            await asyncio.sleep(0.5)


# ---- the route -----------------------------------------------------------------------------------


async def test_an_intent_goes_down_its_route_as_channels_fail(
    hub: Hub, services: PushServices, wecom: WecomProgram, smsc: SmsProgram
) -> None:
    """The app was removed from her phone, and she has not written by WeCom: SMS."""
    services.ask(lambda: services.fcm.unregister("phone-of-ann"))
    to = {"push": "phone-of-ann", "wecom": "wm000001", "sms": "13800000001"}
    async with application(hub, "bank") as bank:
        await bank.says("r1", "ann", "card", "您的新卡", to=to)
        by_push, by_sms, *_ = await bank.until(
            "r1", "dispatched", "dispatched", "sent", "delivered"
        )
        assert (by_push.channel, by_push.reason, by_push.rules) == ("push", None, None)
        assert (by_sms.channel, by_sms.reason) == ("sms", "push failed: dead_address UNREGISTERED")
        assert [(rule.kind, rule.rule) for rule in by_sms.rules or ()] == [
            ("window", "after-her-message")
        ]
        await until(lambda: len(smsc.submitted("您的新卡")) == 1)
        assert conversation(hub, "ann")["devices"] == []

        asked = services.ask(lambda: services.fcm.counts["UNREGISTERED"])
        await bank.says("r2", "ann", "card", "您的账单", to=None)
        (first, *_) = await bank.until("r2", "dispatched", "sent", "delivered")
        assert [rule.kind for rule in first.rules or ()] == ["address", "window"]
        assert services.ask(lambda: services.fcm.counts["UNREGISTERED"]) == asked


async def test_wecom_refuses_what_no_rule_held_back(
    hub: Hub, services: PushServices, wecom: WecomProgram
) -> None:
    """Her window is open as far as the hub knows."""
    bea = "wm000002"
    services.ask(lambda: services.fcm.unregister("phone-of-bea"))
    wecom.do("customer-writes", external_userid=bea, text="Good day")
    await until(lambda: conversation(hub, bea)["windows"])
    wecom.do("fault", api="kf/send_msg", errcode=95018, times=1)
    to = {"push": "phone-of-bea", "wecom": bea, "sms": "13800000002"}
    async with application(hub, "club") as club:
        await club.says("r3", bea, "card", "您的积分", to=to)
        outcomes = await club.until("r3", *["dispatched"] * 3, "sent", "delivered")
    assert [(one.channel, one.reason) for one in outcomes[1:3]] == [
        ("wecom", "push failed: dead_address UNREGISTERED"),
        ("sms", "wecom failed: window_closed 95018"),
    ]
    traced = hub.tact("trace", "club", "r3").stdout
    assert "push failed: dead_address UNREGISTERED" in traced
    assert "wecom failed: window_closed 95018" in traced
    assert wecom.got(bea) == []


async def test_what_an_account_that_cannot_work_keeps_goes_on_by_the_clock(
    hub: Hub, services: PushServices, directory: Path
) -> None:
    """One is refused its tokens, one reaches nothing: after `fallback_after` it is SMS's turn."""
    services.spare.grants.disabled = True
    soon = rfc3339(SystemClock().now_ms() + 30_000)
    async with application(hub, "rail") as rail:
        to = {"push": "spare/phone-of-h1", "sms": "13800000003"}
        await rail.says("h1", "h1", "hurry", "Platform 1", to=to)
        to = {"push": "nowhere/phone-of-h2", "sms": "13800000004"}
        await rail.says("h2", "h2", "hurry", "Platform 2", to=to, expires_at=soon)
        for id in ("h1", "h2"):
            path = ["dispatched", "dispatched", "sent", "delivered"]
            first, second, *_ = await rail.until(id, *path)
            assert (first.channel, second.channel) == ("push", "sms")
            assert second.reason == "push: not delivered within fallback_after"
    await until(lambda: "account is disabled" in account_of(hub, "spare").get("reason", ""))
    await until(lambda: account_of(hub, "nowhere").get("reason") == "no connection: refused")
    assert account_of(hub, "spare")["window"] == account_of(hub, "nowhere")["window"] == 0
    shown = hub.tact("status").stdout
    assert "the service account is disabled" in shown and "no connection: refused" in shown
    # A new key mends it, when the accounts are read again. What has waited is still good.
    services.mend_spare()
    (directory / "accounts.toml").touch()
    await until(lambda: account_of(hub, "spare").get("window"), 60)
    await until(lambda: services.ask(lambda: services.spare.received) == {"phone-of-h1": 1})


# ---- devices -------------------------------------------------------------------------------------


async def test_every_device_gets_it_once_and_what_is_dead_is_forgotten(
    hub: Hub, services: PushServices
) -> None:
    """A phone, an iPhone if there is Node, a browser, and a system of the user's own."""
    browser = services.browser()
    devices = ["phone-of-cid", f"web/{browser}", "grid/seat-of-cid"]
    devices += [f"iphone/{IPHONE}"] if services.apns else []

    def got() -> list[int]:
        found = [
            len(services.sent_to("phone-of-cid")),
            len(services.read_by(browser)),
            len(services.posted_to("seat-of-cid")),
        ]
        return found + ([len(services.pushed_to(IPHONE))] if services.apns else [])

    async with application(hub, "shop") as shop:
        await has(shop, hub, "cid", *devices)
        key = {"to": None, "collapse_key": "order 7"}
        await shop.says("n1", "cid", "capped", "On its way", **key)
        await shop.until("n1", "delivered")
        assert shop.states("n1").count("dispatched") == 1
        await until(lambda: got() == [1] * len(devices))
        await shop.says("n2", "cid", "capped", "Arrived", to=None)
        (refused,) = await shop.until("n2", "suppressed")
        assert [(rule.kind, rule.rule) for rule in refused.rules or ()] == [("cap", "once-a-day")]
        shown = conversation(hub, "cid")
        assert [(cap["count"], cap["limit"]) for cap in shown["caps"]] == [(1, 1)]
        assert [one["status"] for one in shown["dispatches"]] == ["delivered"]
        assert {one["to"] for one in shown["devices"]} == set(devices)
        # Its collapse key is a word that each service knows it by.
        (phones,), (screens,) = services.sent_to("phone-of-cid"), services.read_by(browser)
        assert len(phones.android.collapse_key) == 27
        assert screens.topic == phones.android.collapse_key

        services.is_gone(browser)
        await shop.says("n3", "cid", "news", "All about orders", to=None)
        await shop.until("n3", "delivered")
        await until(lambda: len(conversation(hub, "cid")["devices"]) == len(devices) - 1)
        assert "failed" not in shop.states("n3") and shop.states("n3").count("dispatched") == 1

        await shop.orders("f1", "cid", "device.forget", to="grid/seat-of-cid")
        await until(lambda: len(conversation(hub, "cid")["devices"]) == len(devices) - 2)
        await shop.says("n4", "cid", "news", "For phones only", to=None)
        await shop.until("n4", "dispatched", "sent")
        await until(lambda: got() == [3, 1, 2, 3][: len(devices)])


def test_an_iphone_was_one_of_them(services: PushServices) -> None:
    if services.apns is None:
        missing("no node for the APNs fake")
    first, *others = services.pushed_to(IPHONE)
    (android, *_) = services.sent_to("phone-of-cid")
    assert json.loads(first["payload"])["aps"]["alert"] == {"body": "On its way"}
    assert first["collapse"] == android.android.collapse_key
    assert [one.get("collapse") for one in others] == [None, None]


# ---- a system that takes webhooks ----------------------------------------------------------------


async def test_a_system_is_posted_to_reports_and_brings_what_customers_write(
    hub: Hub, services: PushServices, port: int
) -> None:
    grid = services.grid
    url = f"http://127.0.0.1:{port}/v1/callbacks/grid"
    async with application(hub, "power") as power:
        await power.says("p1", "dan", "news", "No power at 9", to={"push": "grid/meter-7"})
        await power.until("p1", "delivered")
        (seen,) = services.posted_to("meter-7")
        assert (seen.delivery, seen.tries, seen.taken) == ("power:p1:1", 1, True)
        assert services.ask(lambda: grid.counts.get("refused", 0)) == 0
        assert services.do(grid.customer_writes("meter-7", "What about ten?")) == 200
        await until(lambda: conversation(hub, "dan")["last_inbound_at"])

        body = b'{"type":"receipt","data":{"delivery":"power:p1:1","status":"read"}}'
        now_s = SystemClock().now_ms() // 1_000
        forged = Signer([secret_of(OTHER_SECRET, "")], ()).headers("evt_1", now_s, body)
        signed = Signer([secret_of(SECRET, "")], ()).headers("evt_1", now_s, body)
        assert posted(url, body, forged) == 401
        assert posted(url, body, {}) == 401
        assert posted(url, body + b" ", signed) == 401
        assert power.states("p1")[-1] == "delivered"
        assert posted(url, body, signed) == 200
        await power.until("p1", "delivered", "read")


async def test_an_endpoint_that_is_gone_is_left_alone_until_a_person_says_otherwise(
    hub: Hub, services: PushServices, directory: Path
) -> None:
    """Also by the next host."""
    till = services.till
    services.ask(lambda: setattr(till, "trouble", Trouble(status=410)))
    async with application(hub, "cash") as cash:
        await cash.says("t1", "eve", "news", "Closed", to={"push": "till/1"})
        (_, failed) = await cash.until("t1", "dispatched", "failed")
        assert failed.reason == "config HTTP 410"
        await until(lambda: "410 Gone" in account_of(hub, "till").get("reason", ""))
        before = owner_of(hub, "till")
        assert before is not None
        os.kill(before, signal.SIGKILL)
        services.ask(lambda: setattr(till, "trouble", Trouble("normal")))
        await cash.says("t2", "eve", "news", "Open again", to=None)
        await until(lambda: owner_of(hub, "till") not in (None, before), 60)
        await until(lambda: account_of(hub, "till").get("waiting") == 1)
        await until(lambda: "410 Gone" in account_of(hub, "till").get("reason", ""))
        assert services.ask(lambda: till.counts["requests"]) == 1

        path = directory / "accounts.toml"
        table = f'url = "{till.url}"\n'
        path.write_text(path.read_text().replace(table, table + 'reenabled = "2026-11-22"\n'))
        await cash.until("t2", "delivered", seconds=60)


# ---- a killed host, and everything ---------------------------------------------------------------


async def test_a_host_is_killed_with_pushes_in_flight(hub: Hub, services: PushServices) -> None:
    """FCM has taken eight and not answered: they are unknown, and never sent again. The others
    wait, and go."""
    fcm = services.fcm
    tokens = [f"phone-number-{number:02}" for number in range(40)]
    hanging = Fault(kind="hang", taken=True)
    services.ask(lambda: fcm.faults.add(hanging))
    async with application(hub, "fair") as fair:
        for number, token in enumerate(tokens):
            await fair.says(f"k{number}", f"k{number}", "news", "It opens", to={"push": token})
        await until(lambda: services.ask(lambda: fcm.counts.get("fault_hang")) == 8)
        hung = {one.token for one in services.ask(lambda: list(fcm.seen))} & set(tokens)
        os.kill(await until(lambda: owner_of(hub, "push")), signal.SIGKILL)
        services.ask(fcm.faults.clear)
        for number, token in enumerate(tokens):
            if token not in hung:
                await fair.until(f"k{number}", "dispatched", "sent", seconds=60)
    assert len(hung) == 8
    received = services.ask(lambda: dict(fcm.received))
    assert [token for token in tokens if received.get(token) != 1] == []
    unknown = {f"fair:k{tokens.index(token)}:1" for token in hung}

    streams = await streams_with(hub, *(("unknown", name) for name in unknown))
    receipts = [one.message for one in streams.published if isinstance(one.message, Receipt)]
    assert {one.delivery for one in receipts if one.status == "unknown"} == unknown


async def test_every_promise_was_kept(hub: Hub, services: PushServices) -> None:
    """Nobody got anything twice, everything has an end, and what customers wrote has arrived."""
    published, outcomes, deliveries = await streams_with(hub, ("failed", "rail:h2:1"))
    written = [one.message for one in published if isinstance(one.message, Inbound)]
    assert [(one.account, one.customer) for one in written if one.channel == "push"] == [
        ("grid", "dan")
    ]
    pushed = services.pushed()
    assert len(pushed) >= 44
    submits = [
        Submit(one.at_ms, one.account, one.delivery, one.delivery.partition(":")[0], one.to)
        for one in pushed
    ]
    accounts = AccountHistory(submits=submits, handed=deliveries, published=published)
    assert check_accounts(accounts) == []
    now_ms = SystemClock().now_ms()
    history = History(published, outcomes, deliveries, [parse_policy(POLICY)], now_ms)
    assert check_all(history) == []
    handed = [one for one in deliveries if one.delivery.account in ("push", "spare")]
    assert check_push(PushHistory(history=history, pushed=pushed, handed=handed)) == []


def test_nothing_of_it_is_in_logs_and_metrics(hub: Hub, services: PushServices) -> None:
    told = hub.get("/metrics")[1] + hub.get("/status")[1] + hub.tact("status").stdout + hub.log()
    assert 'tact_submissions_total{account="push",answer="accepted"}' in told
    key = services.fcm.key_file()
    texts = ["您的新卡", "On its way", "It opens", "No power", "What about ten"]
    addresses = ["phone-", "meter-7", "seat-of", IPHONE, "/push/", "p256dh", "13800000001"]
    secrets = [SECRET, OTHER_SECRET, "BEGIN", "ya29.", json.loads(key)["client_email"]]
    assert [one for one in texts + addresses + secrets if one in told] == []
    within(10, lambda: hub.readiness()[0] == 200)


# ---- what a wrong file is told -------------------------------------------------------------------


def written(provider: str, table: str) -> str:
    return (
        f'version = 1\n[[accounts]]\nname = "a"\nchannel = "push"\nprovider = "{provider}"\n'
        f"[accounts.{provider}]\n{table}\n"
    )


@pytest.mark.parametrize(
    ("provider", "table", "told"),
    [
        (
            "fcm",
            'credentials = { file = "cut.json" }',
            "credentials: private_key is broken or cut off: it must be the whole PEM",
        ),
        (
            "fcm",
            'credentials = { file = "key.p8" }',
            "credentials: not the JSON of a service account's key file; download it again",
        ),
        (
            "apns",
            'private_key = { file = "cut.json" }\nkey_id = "K"\nteam_id = "T"\ntopic = "com.a"',
            "private_key: is no PEM file with a private key; give the AuthKey_….p8",
        ),
        (
            "webpush",
            'private_key = { file = "key.p8" }\nsubject = "ops@example.com"',
            "subject must be mailto:<address> or https://<page>",
        ),
        (
            "webhook",
            'url = "https://10.0.0.5/push"\nsecret = { file = "whsec" }',
            "url: no request goes there: it is in a private network; if it is meant, set "
            "private_networks = true",
        ),
        (
            "webhook",
            'url = "https://example.com/push"\nsecret = "whsec_c2VjcmV0"',
            'webhook.secret: a secret is not written here; give { env = "NAME" }',
        ),
        (
            "getiu",
            'app_id = "a"',
            "provider: known are aliyun, apns, apprise, cmpp, fcm, gateway, getui",
        ),
    ],
)
def test_a_wrong_file_is_told_by_name_and_place(
    tmp_path: Path, provider: str, table: str, told: str
) -> None:
    """And what to do; nothing of a key or a secret."""
    key, pem = json.loads(key_file()), pem_key()
    (tmp_path / "cut.json").write_text(key_file(private_key=key["private_key"][:600]))
    (tmp_path / "key.p8").write_text(pem)
    (tmp_path / "whsec").write_text(SECRET)
    path = tmp_path / "accounts.toml"
    path.write_text(written(provider, table))
    done = tact("accounts", "check", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}: account a: {told}" in done.stderr
    lines = [line for text in (key["private_key"], pem) for line in text.splitlines()]
    secrets = [*filter(None, lines), SECRET, "c2VjcmV0", key["client_email"]]
    assert [one for one in secrets if one in done.stderr] == []
