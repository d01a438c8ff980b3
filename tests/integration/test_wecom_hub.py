"""WeCom by a whole hub: customers, members and groups of a fake WeCom in a process of its own, its
callbacks encrypted and over HTTP; a restart, a killed host; and in the end every promise checked
over all that happened."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.checkers import History, check_all
from hub.checkers.account_records import AccountHistory
from hub.checkers.accounts import check_accounts
from hub.checkers.wecom import check_wecom
from hub.checkers.wecom_records import WecomHistory
from hub.clock import SystemClock
from hub.ledger.audit import Streams
from hub.policy.document import parse_policy
from tests.support.applications import application, conversation, owner_of, read, until
from tests.support.hub import TACT, Hub, free_port, within
from tests.support.programs import SmsProgram, WecomProgram
from tests.support.wecom_hub import running_hub, write_policy

pytestmark = [pytest.mark.nats, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

POLICY = """
version = 1
timezone = "Asia/Shanghai"
[categories.service]
route = ["wecom", "sms"]
[categories.talk]
route = ["wecom"]
[categories.campaign]
route = ["wecom"]
[categories.answer]
route = ["wecom"]
priority = 9
[[windows]]
name = "after-her-message"
channels = ["wecom"]
categories = ["service", "talk"]
on = "next"
[[presence]]
name = "talking"
categories = ["campaign"]
within = "2s"
on = "hold"
[[words]]
name = "gambling"
words = ["casino"]
on = "drop"
alert = "quality"
[[replies]]
name = "price"
match = ["price"]
answer = { text = "From 99 yuan" }
category = "answer"
app = "bot"
[[replies]]
name = "welcome"
event = "friend_added"
accounts = ["mary"]
answer = { text = "Welcome to us" }
category = "answer"
app = "bot"
[[replies]]
name = "good-day"
event = "session_opened"
accounts = ["desk"]
answer = { text = "Good day" }
category = "answer"
app = "bot"
[[reminders]]
name = "unanswered"
after = "15s"
app = "care"
[archive]
channels = ["wecom"]
keep = "1d"
"""
ACCOUNTS = """
[[accounts]]
name = "desk"
channel = "wecom"
provider = "wecom-kf"
[accounts.wecom]
app = "office"
open_kfid = "wk000001"
[[accounts]]
name = "mary"
channel = "wecom"
provider = "wecom-member"
[accounts.wecom]
app = "office"
userid = "m1"
collect = "0s"
"""
OURS = {"1000002": "office", "wk000001": "desk", "m1": "mary"}


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
    quick = ["--confirm-s", "1", "--dispatching-s", "1", "--repeat-callbacks", "0.1"]
    program = WecomProgram(directory, *quick)
    yield program
    program.stop()


@pytest.fixture(scope="module")
def hub(directory: Path, smsc: SmsProgram, wecom: WecomProgram) -> Iterator[Hub]:
    with running_hub(directory, free_port(), wecom, smsc, ACCOUNTS) as hub:
        yield hub


async def test_a_customer_is_answered_taken_over_and_written_to_when_that_is_over(
    hub: Hub, wecom: WecomProgram
) -> None:
    """The campaign is a mass message: told as `sent` when its member has confirmed it."""
    ann = "wm000001"
    wecom.do("customer-writes", external_userid=ann, text="What is the ＰＲＩＣＥ, please?")
    await until(lambda: wecom.got(ann) == ["From 99 yuan"])
    wecom.do("agent", external_userid=ann, userid="m2", do="accept")
    wecom.do("agent-writes", external_userid=ann, userid="m2", text="I am Zoe")
    await until(lambda: (conversation(hub, ann)["takeover"] or {}).get("agent") == "m2")
    async with application(hub, "shop") as shop, application(hub, "bot") as bot:
        await shop.says("sale", ann, "campaign", "Everything must go", account="mary")
        (held,) = await shop.until("sale", "held")
        assert [rule.kind for rule in held.rules or ()] == ["presence"]
        assert wecom.told()["counts"].get("mass_tasks", 0) == 0
        wecom.do("agent", external_userid=ann, userid="m2", do="end")
        await shop.until("sale", "held", "dispatched")
        assert wecom.got(ann, "mass") == []
        await until(lambda: wecom.got(ann, "mass") == ["Everything must go"])
        await shop.until("sale", "dispatched", "sent", seconds=90)
        (answer,) = bot.outcomes
        assert bot.states(answer) == ["dispatched", "sent"]


async def test_a_closed_window_takes_the_next_channel_or_waits_for_the_customer(
    hub: Hub, wecom: WecomProgram, smsc: SmsProgram
) -> None:
    async with application(hub, "bank") as bank:
        to = {"wecom": "wm000002", "sms": "13800000002"}
        await bank.says("b1", "wm000002", "service", "您的新卡", to=to, account="desk")
        outcomes = await bank.until("b1", "dispatched", "sent", "delivered")
        assert outcomes[0].channel == "sms"
        assert [rule.kind for rule in outcomes[0].rules or ()] == ["window"]
        await until(lambda: len(smsc.submitted("您的新卡")) == 1)
        assert 'tact_handed_over_total{account="desk"} 1.0' in hub.get("/metrics")[1]

        for number in range(7):
            text = f"News {number}"
            await bank.says(f"t{number}", "wm000003", "talk", text, account="desk")
        (held,) = await bank.until("t6", "held")
        assert (held.next_eligible_at, wecom.got("wm000003")) == (None, [])
        wecom.do("customer-writes", external_userid="wm000003", text="Any news?")
        await bank.until("t4", "held", "dispatched", "sent")
        assert {*bank.states("t5"), *bank.states("t6")} == {"held"}
        # What she writes in the same second WeCom tells as written before our answers to it.
        newest_ms = max(line["at"] for line in wecom.told()["kf"])
        await until(lambda: SystemClock().now_ms() // 1_000 > newest_ms // 1_000)
        wecom.do("customer-writes", external_userid="wm000003", text="Go on")
        await bank.until("t6", "held", "dispatched", "sent")
        assert wecom.got("wm000003") == [f"News {number}" for number in range(7)]


async def test_who_comes_is_welcomed_and_who_goes_is_left_alone(
    hub: Hub, wecom: WecomProgram
) -> None:
    for number in range(5):
        wecom.do("add-contact", userid="m1", external_userid=f"new{number}", state="fair")
        wecom.do("customer-enters", external_userid=f"visitor{number}")
    for number in range(5):
        await until(lambda who=f"new{number}": wecom.got(who, "welcome") == ["Welcome to us"])
        await until(lambda who=f"visitor{number}": wecom.got(who, "kf_event") == ["Good day"])
    assert wecom.told()["times"]["welcome_ms"]["max"] < 10_000
    assert conversation(hub, "new0")["owner"] == "mary"
    wecom.do("delete-contact", userid="m1", external_userid="new0")
    await until(lambda: "channel:wecom" in conversation(hub, "new0")["dnd"])
    async with application(hub, "shop2") as shop:
        await shop.says("s1", "new0", "campaign", "Come back")
        (outcome,) = await shop.until("s1", "suppressed")
        assert [rule.kind for rule in outcome.rules or ()] == ["dnd"]


async def test_a_group_is_made_written_to_and_dissolved(hub: Hub, wecom: WecomProgram) -> None:
    async with application(hub, "erp") as erp:
        members = {"name": "Night shift", "members": ["m1", "m2", "m3"]}
        await erp.orders("g1", "~shift7", "group.create", account="office", **members)
        await erp.until("g1", "dispatched", "sent")
        await erp.says("m1", "~shift7", "campaign", "Machine 4 stands still", to=None)
        await erp.until("m1", "dispatched", "sent")
        assert wecom.got("shift7", "appchat")[-1] == "Machine 4 stands still"
        await erp.orders("g2", "~shift7", "group.dissolve")
        await erp.until("g2", "dispatched", "sent")
        await erp.says("m2", "~shift7", "campaign", "Is anybody there?", to=None)
        await erp.until("m2", "dispatched", "failed")
        assert "Is anybody there?" not in wecom.got("shift7", "appchat")


async def test_forbidden_words_do_not_leave_and_are_told(hub: Hub, wecom: WecomProgram) -> None:
    async with application(hub, "shop3") as shop, application(hub, "quality") as quality:
        await shop.says("w1", "wm000004", "talk", "Visit the CA-SI-NO", account="desk")
        (outcome,) = await shop.until("w1", "suppressed")
        assert [(rule.kind, rule.rule) for rule in outcome.rules or ()] == [("words", "gambling")]
        wecom.do("customer-writes", external_userid="wm000004", text="where is the casino")
        await until(lambda: len(quality.events) == 2)
    assert [(one.kind, one.author, one.customer) for one in quality.events] == [
        ("words", "app", "wm000004"),
        ("words", "customer", "wm000004"),
    ]


async def test_who_waits_is_told_of_after_a_restart(hub: Hub, wecom: WecomProgram) -> None:
    wecom.do("customer-writes", external_userid="patient", text="Is anybody there?")
    await until(lambda: conversation(hub, "patient")["waits_for_answer"])
    assert hub.stop(signal.SIGTERM) == 0
    wecom.do("customer-writes", external_userid="patient", text="Hello?")  # nobody hears it now
    hub.start()
    async with application(hub, "care") as care:
        await until(lambda: [one for one in care.events if one.customer == "patient"], 60)
        (event,) = [one for one in care.events if one.customer == "patient"]
        assert (event.kind, event.level, event.account) == ("waiting", 1, "desk")


def test_an_account_is_watched(hub: Hub) -> None:
    """Both directions, in their order, with a person's words among the hub's."""
    watching = subprocess.Popen(
        [TACT, "watch", "desk", "--since", "1h", "--json"],
        stdout=subprocess.PIPE,
        env=os.environ | {"TACT_NATS_URL": hub.ready["nats"]},
    )
    assert watching.stdout is not None
    lines: list[dict[str, Any]] = []
    try:
        for line in watching.stdout:
            lines.append(json.loads(line))
            if lines[-1]["content"] == {"text": "Hello?"}:
                break
    finally:
        watching.send_signal(signal.SIGINT)
        watching.wait(30)
        watching.stdout.close()
    said = [
        (one["direction"], one["author"], one["content"].get("text", one["content"].get("event")))
        for one in lines
        if one["customer"] == "wm000001"
    ]
    assert said == [
        ("in", "customer", "What is the ＰＲＩＣＥ, please?"),
        ("out", "app", "From 99 yuan"),
        ("in", "customer", "session_changed"),
        ("out", "agent", "I am Zoe"),
        ("in", "customer", "session_changed"),
    ]


async def test_a_host_is_killed_while_customers_write_and_are_written_to(
    hub: Hub, wecom: WecomProgram
) -> None:
    """And answers of WeCom are lost all the while. No customer gets more than may follow one
    message of hers: what was dispatched before a message and leaves after it counts twice."""
    customers = [f"c{number}" for number in range(1, 41)]
    before = owner_of(hub, "desk")
    assert before is not None
    wecom.do("fault", api="kf/send_msg", kind="cut", taken=True, share=0.1, seconds=8)
    wecom.do("fault", api="kf/sync_msg", kind="http500", share=0.1, seconds=8)
    body = {"text": "and now?"}
    wecom.do("repeat", do="customer-writes", rate=40, seconds=8, customers=40, body=body)
    async with application(hub, "tutor") as tutor:
        names = []
        for number in range(5):
            for customer in customers:
                names.append(f"{customer}-{number}")
                text = f"lesson {number} of {customer}"
                await tutor.says(names[-1], customer, "talk", text, account="desk")
            if number == 2:
                os.kill(before, signal.SIGKILL)
        ended = {"sent", "failed"}
        await until(lambda: all(set(tutor.states(name)) & ended for name in names), 120)
        ends = {name: tutor.outcomes[name][-1] for name in names}
        assert [one for one in ends.values() if one.state != "sent"] == []
    await until(lambda: owner_of(hub, "desk") not in (None, before))
    await until(lambda: sum(one.text == "and now?" for one in wecom.seen(OURS).wrote) == 320)


async def test_every_promise_was_kept(hub: Hub, wecom: WecomProgram) -> None:
    seen = wecom.seen(OURS)

    async def settled() -> tuple[Streams, list[Any]]:
        while True:
            streams, feeds = await read(hub)
            known = {getattr(each.message, "id", "") for each in streams.published}
            if all(one.id in known for one in seen.wrote):
                return streams, feeds
            await asyncio.sleep(0.5)

    async with asyncio.timeout(120):  # a hint may have been lost with the host: it polls
        streams, feeds = await settled()
    published, outcomes, deliveries = streams
    history = WecomHistory(
        seen=seen,
        published=published,
        handed=deliveries,
        outcomes=outcomes,
        welcoming=frozenset(("mary", "desk")),
    )
    assert len(seen.wrote) == 327 and len(seen.came) == 10 and len(seen.taken) >= 180
    assert check_wecom(history) == []
    accounts = AccountHistory(
        submits=history.submits(),
        handed=deliveries,
        published=published,
        keyed=frozenset(("desk",)),
    )
    assert len(accounts.submits) == len(seen.taken)
    assert check_accounts(accounts) == []
    policies = [parse_policy(POLICY)]
    now_ms = SystemClock().now_ms()
    assert check_all(History(published, outcomes, deliveries, policies, now_ms, feeds)) == []


def test_nothing_of_it_is_in_logs_and_metrics(hub: Hub, wecom: WecomProgram) -> None:
    _, metrics = hub.get("/metrics")
    assert 'tact_submissions_total{account="desk",answer="accepted"}' in metrics
    app = wecom.corp["apps"][0]
    for secret in (app["secret"], app["callback_key"], app["callback_token"], "wm000001", "News"):
        assert secret not in metrics + hub.log()
    within(10, lambda: hub.readiness()[0] == 200)
