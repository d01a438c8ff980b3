"""Signed webhooks on real ports: against the fake, against npm's standardwebhooks, and back."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from channels.provider import Answer, Link
from channels.push.fake.webhook import FakeWebhook, Trouble
from channels.push.webhook.config import WebhookConfig
from channels.push.webhook.provider import WHY_DISABLED, WebhookProvider
from channels.push.webhook.signing import private_key_of, public_text
from channels.sms.fake.faults import Odds, Plan, Recorder
from tests.support import peers
from tests.support.callbacks import CallbackServer
from tests.support.push_webhook import (
    OLD_SECRET,
    OTHER_SECRET,
    PRIVATE_KEY,
    SECRET,
    config,
    provider,
)
from tests.support.sms_web import Told, delivery, submission

ID = "shop:order.1:1"
TO = "till-7"


@pytest.fixture
async def fake() -> AsyncIterator[FakeWebhook]:
    fake = FakeWebhook(secrets=(SECRET,), repeat_s=0.01)
    await fake.start()
    yield fake
    await fake.stop()


@asynccontextmanager
async def running(
    heard: Told, settings: WebhookConfig, notes: dict[str, bytes] | None = None
) -> AsyncIterator[WebhookProvider]:
    sender = provider(heard, settings)
    sender.start(notes or {})
    try:
        yield sender
    finally:
        await sender.stop(0.1)


async def sent(heard: Told, sender: WebhookProvider, id: str = ID, **more: Any) -> Answer:
    """The answer to one try."""
    ready = sender.prepare(delivery({"text": "hush!"}, id=id, to=TO))
    heard.answers.pop(id, None)
    sender.submit(msgspec.structs.replace(submission(ready, id), **more))
    return await heard.answer(id)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


# ---- sending -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["secret", "rotated", "ed25519"])
async def test_a_delivery_is_posted_and_verified(keys: str) -> None:
    public = public_text(private_key_of(PRIVATE_KEY, "private_key"))
    mine, theirs = {
        "secret": ({"receipts": True}, FakeWebhook(secrets=(SECRET,))),
        "rotated": (
            {"secret": OTHER_SECRET, "old_secret": SECRET},
            FakeWebhook(secrets=(SECRET,)),
        ),
        "ed25519": (
            {"secret": "", "private_key": PRIVATE_KEY, "headers": {"x-tenant": "7"}},
            FakeWebhook(secrets=(), public_key=public),
        ),
    }[keys]
    url, heard = await theirs.start(), Told()
    async with running(heard, config(url, **mine)) as sender:
        answer = await sent(heard, sender)
    ((id, seen),) = theirs.seen.items()
    receipts = keys == "secret"
    assert answer == Answer("accepted", (id,) if receipts else (), receipts=int(receipts))
    assert (seen.delivery, seen.to, seen.tries, seen.taken) == (ID, TO, 1, True)
    assert json.loads(theirs.kept[0])["data"]["content"] == {"text": "hush!"}
    assert theirs.counts == {"requests": 1, "taken": 1}
    await theirs.stop()


@pytest.mark.parametrize(
    ("trouble", "more", "expected"),
    [
        (Trouble("cut"), {}, Answer("unknown", code="http-unanswered")),
        (Trouble("slow"), {}, Answer("unknown", code="http-unanswered")),
        (Trouble("cut"), {"again": True, "tries": 1}, ("retry", "no-answer", 4_500, 5_500)),
        (Trouble("slow"), {"again": True, "tries": 2}, ("retry", "no-answer", 270_000, 330_000)),
        (Trouble(status=500), {"tries": 1}, ("retry", "HTTP 500", 270_000, 330_000)),
        (Trouble(status=429, retry_after="7"), {}, ("throttled", "HTTP 429", 7_000, 7_000)),
        (Trouble(status=429), {}, ("throttled", "HTTP 429", 4_500, 5_500)),
        (Trouble(status=503), {"tries": 40}, ("throttled", "HTTP 503", 77_760_000, 95_040_000)),
    ],
)
async def test_a_delivery_is_repeated_under_its_id_until_it_is_answered(
    fake: FakeWebhook, trouble: Trouble, more: dict[str, Any], expected: Any
) -> None:
    heard = Told()
    fake.trouble = msgspec.structs.replace(trouble, times=1)
    async with running(heard, config(fake.url, connect_s=0.2, answer_s=0.2)) as sender:
        answer = await sent(heard, sender, **more)
        if isinstance(expected, Answer):
            assert answer == expected
        else:
            kind, code, least, most = expected
            assert (answer.kind, answer.code) == (kind, code)
            assert least <= (answer.retry_after_ms or 0) <= most
        assert await sent(heard, sender, again=True) == Answer("accepted")
    ((_, seen),) = fake.seen.items()
    assert seen.tries == 2 and fake.counts["taken"] == 1 and fake.counts["repeated"] == 1
    assert heard.links[0] == heard.links[-1] == Link(window=32)


async def test_a_redirect_is_not_followed(fake: FakeWebhook) -> None:
    heard = Told()
    fake.trouble = Trouble("redirect", times=1)
    async with running(heard, config(fake.url)) as sender:
        answer = await sent(heard, sender)
        assert answer == Answer("failed", failure="config", code="HTTP 307")
        assert heard.links[-1].window == 0 and heard.links[-1].config
        assert "redirect" in heard.links[-1].reason
    assert fake.counts == {"requests": 1, "troubled": 1}


async def test_a_410_ends_it_for_whoever_owns_the_account_next(fake: FakeWebhook) -> None:
    heard, settings = Told(), config(fake.url)
    fake.trouble = Trouble(status=410, times=1)
    async with running(heard, settings) as sender:
        answer = await sent(heard, sender)
        assert answer == Answer("failed", failure="config", code="HTTP 410")
        assert heard.links[-1] == Link(window=0, reason=WHY_DISABLED, config=True)
        assert (await sent(heard, sender)).kind == "retry"  # what had been on its way to it
    ((name, note),) = heard.bundles[-1].notes.items()
    assert name == "disabled" and note is not None and b"127" not in note

    after = Told()
    async with running(after, settings, {name: note}) as sender:
        assert after.links == [Link(window=0, reason=WHY_DISABLED, config=True)]
        assert (await sent(after, sender)).kind == "retry"
    assert fake.counts["requests"] == 1

    enabled = msgspec.structs.replace(settings, reenabled="2026-11-22")
    async with running(after, enabled, {name: note}) as sender:
        assert after.bundles[-1].notes == {"disabled": None}
        assert await sent(after, sender) == Answer("accepted")


async def test_what_is_under_way_at_a_410_is_answered(fake: FakeWebhook) -> None:
    heard = Told()
    fake.plan = Plan(1, Odds(latency_ms=50))
    async with running(heard, config(fake.url)) as sender:
        ready = sender.prepare(delivery(id="shop:slow:1", to=TO))
        sender.submit(submission(ready, "shop:slow:1"))
        await until(lambda: fake.seen)
        fake.trouble = Trouble(status=410)
        assert (await sent(heard, sender)).code == "HTTP 410"
        assert await heard.answer("shop:slow:1") == Answer("accepted")


async def test_a_410_outlasts_a_pause_that_ends(
    fake: FakeWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect before it has begun a pause, whose end says that all is well."""
    monkeypatch.setattr("channels.sending.CONFIG_PAUSE_S", 0.01)
    heard = Told()
    fake.plan = Plan(1, Odds(latency_ms=200))
    async with running(heard, config(fake.url)) as sender:
        sender.submit(submission(sender.prepare(delivery(id="shop:slow:1")), "shop:slow:1"))
        await until(lambda: fake.seen)
        fake.trouble = Trouble("redirect", times=1)
        assert (await sent(heard, sender)).code == "HTTP 307"
        fake.trouble = Trouble(status=410, times=1)
        assert (await sent(heard, sender)).code == "HTTP 410"
        assert await heard.answer("shop:slow:1") == Answer("accepted")
        await until(lambda: sender.idle)
        assert heard.links[-1] == Link(window=0, reason=WHY_DISABLED, config=True)


async def test_a_name_that_leads_inside_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a public name when the file is checked may be 127.0.0.1 when it is looked up."""

    async def resolve(self: Any, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    heard = Told()
    with capture_logs() as logs:
        async with running(heard, config("https://grid.example.com/x-k3y", connect_s=1)) as sender:
            assert await sent(heard, sender) == Answer("retry")
    reason = heard.links[-1].reason
    assert heard.links[-1].config and "private_networks = true" in reason
    assert "example" not in reason + str(logs) and "k3y" not in reason + str(logs)


# ---- being called ------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[CallbackServer]:
    server = CallbackServer()
    await server.start()
    yield server
    await server.stop()


async def test_receipts_and_messages_come_back_signed(
    fake: FakeWebhook, server: CallbackServer
) -> None:
    heard = Told()
    fake.callback_url = server.url
    fake.plan = Plan(3, Odds(receipt_ms=10, duplicate_receipts=0.5, fail=0.5, early_receipts=0.3))
    ids = [f"shop:order-{n}:1" for n in range(20)]
    async with running(heard, config(fake.url, receipts=True)) as sender:
        server.provider = sender
        for id in ids:
            assert (await sent(heard, sender, id)).kind == "accepted"
        await heard.until(
            lambda: set(ids) == {r.delivery for b in heard.bundles for r in b.receipts}
        )
        assert await fake.customer_writes(TO, "拒收") == 200
        heard.store = False  # it is posted again, under the same id
        heard.bundles.clear()
        posting = asyncio.create_task(fake.customer_writes(TO, "again"))
        await heard.until(lambda: heard.bundles)
        heard.store = True
        assert await posting == 200
    assert {bundle.id for bundle in heard.bundles} == {heard.bundles[0].id}
    assert [b.inbound[0].content for b in heard.bundles] == [{"text": "again"}] * 2
    assert heard.bundles[0].inbound[0].sender == TO


async def test_what_the_fake_is_told_reports_and_writes_down(
    fake: FakeWebhook, server: CallbackServer, tmp_path: Path
) -> None:
    """Where the hub is, told by a line; dead addresses and readers; a record for checkers."""
    heard = Told()
    await fake.hear(json.dumps({"callback_url": server.url}).encode())
    fake.recorder = Recorder(tmp_path / "record")
    reader, gone = "shop:order-1:1", "shop:order-2:1"
    fake.read = 1.0
    async with running(heard, config(fake.url, receipts=True)) as sender:
        server.provider = sender
        await sent(heard, sender, reader)
        ready = sender.prepare(delivery({"text": "hush!"}, id=gone, to="gone-7"))
        sender.submit(submission(ready, gone))
        assert (await heard.answer(gone)).kind == "accepted"

        def words() -> set[tuple[str, str, str | None]]:
            receipts = (receipt for bundle in heard.bundles for receipt in bundle.receipts)
            return {(each.delivery, each.status, each.failure) for each in receipts}

        dead = (gone, "failed", "dead_address")
        await heard.until(
            lambda: words() == {(reader, "delivered", None), (reader, "read", None), dead}
        )
        await until(lambda: fake.counts.get("confirmed") == 3)
    fake.recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()]
    posted = [line for line in lines if line["kind"] == "posted"]
    assert [(line["delivery"], line["took"], line["try"]) for line in posted] == [
        *((reader, True, 1), (gone, True, 1)),
    ]
    confirmed = {(line["delivery"], line["status"]) for line in lines if "status" in line}
    assert confirmed == {(reader, "delivered"), (reader, "read"), (gone, "failed")}


async def test_who_has_not_the_key_is_refused(fake: FakeWebhook, server: CallbackServer) -> None:
    heard = Told()
    fake.callback_url = server.url
    async with running(heard, config(fake.url, receive_secret=OTHER_SECRET)) as sender:
        server.provider = sender
        assert await fake.customer_writes(TO, "R") == 401
    assert not heard.bundles and heard.counts["callback_refused"] == 5


# ---- a foreign peer ----------------------------------------------------------------------------


@pytest.fixture
def peer() -> Iterator[tuple[peers.Peer, dict[str, Any]]]:
    with peers.node("standardwebhooks.js", {"secret": SECRET}) as running:
        yield running


async def told(peer: peers.Peer, name: str) -> Any:
    await until(lambda: peer.all(name) or peer.all("failed"))
    return peer.all(name)[-1]


async def test_npm_verifies_what_we_post(peer: tuple[peers.Peer, dict[str, Any]]) -> None:
    heard, (theirs, ready) = Told(), peer
    keys = {"secret": OTHER_SECRET, "old_secret": SECRET, "private_key": PRIVATE_KEY}
    async with running(heard, config(ready["url"], **keys)) as sender:
        prepared = sender.prepare(delivery({"text": "验证码 🔑"}, id=ID, to=TO))
        sender.submit(submission(prepared, ID))
        assert await heard.answer(ID) == Answer("accepted")
    assert (await told(theirs, "verified"))["data"]["content"] == {"text": "验证码 🔑"}
    async with running(Told(), config(ready["url"], secret=OLD_SECRET)) as sender:
        assert (await sent(sender._events, sender)).code == "HTTP 401"  # type: ignore[arg-type]
    assert await told(theirs, "refused") == "No matching signature found"


async def test_we_verify_what_npm_posts(
    peer: tuple[peers.Peer, dict[str, Any]], server: CallbackServer
) -> None:
    heard, (theirs, ready) = Told(), peer
    server.provider = provider(heard, config(ready["url"]))
    body = '{"type": "receipt", "data": {"delivery": "shop:o:1", "status": "read", "code": "已读"}}'
    theirs.say({"post": server.url, "id": "msg_1", "body": body})
    assert await told(theirs, "posted") == {"status": 200, "body": '{"stored":1}'}
    assert heard.bundles[0].receipts[0].code == "已读"


# ---- the command -------------------------------------------------------------------------------


async def test_the_fake_is_a_command() -> None:
    command = (sys.executable, "-m", "channels.push.fake.webhook", "--secret", SECRET)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None and process.stdout is not None
    heard = Told()
    try:
        ready = json.loads(await process.stdout.readline())
        process.stdin.write(b'{"answer": {"status": 500, "times": 1}}\n{"mo": 7}\n')
        wrong = json.loads(await process.stdout.readline())
        assert wrong == {"error": "line not understood: ValidationError"}
        async with running(heard, config(ready["url"])) as sender:
            assert (await sent(heard, sender)).code == "HTTP 500"
            assert await sent(heard, sender) == Answer("accepted")
    finally:
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    counts = {"requests": 2, "repeated": 1, "troubled": 1, "taken": 1}
    assert json.loads(out) == {"counts": counts}
