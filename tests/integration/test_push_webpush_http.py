"""Web Push over real sockets: our fake and its faults, and web-push-testing and web-push, which
share no code with us."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from channels.push.content import collapse_id
from channels.push.fake.webpush import Browser, FakeWebPush
from channels.push.guard import Guard
from channels.push.webpush.origins import ANSWERED_S
from channels.push.webpush.provider import PROVEN_S, REFUSALS, TTL_MAX_S
from channels.push.webpush.vapid import application_server_key, load_key
from channels.sms.fake.faults import Odds, Plan
from hub.clock import SystemClock
from tests.support import peers
from tests.support.push_webpush import (
    PUBLIC,
    SUBJECT,
    Names,
    config,
    delivery,
    elsewhere,
    sent,
    started,
)
from tests.support.sms_web import NOW_MS, MovedClock, Told

LATER_MS = NOW_MS + 90_000


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def fake(clock: MovedClock) -> AsyncIterator[FakeWebPush]:
    fake = FakeWebPush(clock=clock)
    await fake.start()
    yield fake
    await fake.stop()


def subscribed(fake: FakeWebPush, key: str = PUBLIC) -> tuple[str, Browser]:
    """A new browser's address, and the browser."""
    subscription = fake.subscribe(key)
    return json.dumps(subscription), fake.browser(subscription["endpoint"])


# ---- our fake ----------------------------------------------------------------------------------


async def test_a_browser_reads_what_was_sent(fake, told, clock):
    address, browser = subscribed(fake)
    content = {"title": "Bestellung", "text": "为您送达 ✓", "data": {"order": 7}}
    one = delivery(content, to=address, priority=9, collapse_key="order-7")
    async with started(told, clock) as provider:
        answer = await sent(provider, told, one, LATER_MS)
    assert (answer.kind, answer.provider_ids, answer.receipts) == ("accepted", ("1",), 0)
    (message,) = browser.read
    assert message.text is not None
    tag = collapse_id(one)
    expected = {"title": "Bestellung", "body": "为您送达 ✓", "data": {"order": "7"}, "tag": tag}
    assert json.loads(message.text) == expected
    assert (message.ttl, message.urgency, message.topic) == (90, "high", tag)


@pytest.mark.parametrize(
    ("expires_ms", "ttl"), [(NOW_MS - 1, 0), (NOW_MS + 999, 0), (NOW_MS * 2, TTL_MAX_S)]
)
async def test_a_ttl_is_never_negative_and_never_too_long(fake, told, clock, expires_ms, ttl):
    address, browser = subscribed(fake)
    async with started(told, clock) as provider:
        await sent(provider, told, delivery(to=address), expires_ms)
    assert browser.read[0].ttl == ttl


async def test_a_newer_message_takes_the_place_of_one_that_waits(fake, told, clock):
    address, browser = subscribed(fake)
    fake.change(browser.id, "away")
    async with started(told, clock) as provider:
        for number, key in enumerate(("a", "a", "b", None, None)):
            one = delivery({"text": str(number)}, id=f"d{number}", to=address, collapse_key=key)
            await sent(provider, told, one, LATER_MS if number != 4 else NOW_MS)
    fake.change(browser.id, "back")
    assert [json.loads(message.text or "")["body"] for message in browser.read] == ["1", "2", "3"]


async def test_a_browser_that_is_gone(fake, told, clock):
    address, browser = subscribed(fake)
    fake.change(browser.id, "gone")
    unknown = address.replace(browser.id, "0" * 32)
    async with started(told, clock) as provider:
        gone = await sent(provider, told, delivery(to=address), LATER_MS)
        never = await sent(provider, told, delivery(to=unknown, id="other"), LATER_MS)
    assert (gone.failure, gone.code) == ("dead_address", "HTTP 410")
    assert (never.failure, never.code) == ("dead_address", "HTTP 404")


async def test_another_key_is_a_fault_of_the_account_once_it_is_certain(fake, told, clock):
    others = [subscribed(fake, "B" + "A" * 86)[0] for _ in range(REFUSALS)]
    right, _ = subscribed(fake)

    async def refused(*addresses):
        for address in addresses:
            told_of = delivery(to=address, id=f"x{len(told.answers)}")
            answer = await sent(provider, told, told_of, LATER_MS)
            assert (answer.failure, answer.code) == ("config", "HTTP 403")

    async with started(told, clock) as provider:
        await refused(*others[:1] * REFUSALS)  # one browser alone, however often
        await refused(*others[1:-1])
        await sent(provider, told, delivery(to=right, id="right"), LATER_MS)
        await refused(*others)  # those of an older key
        assert [link.window > 0 for link in told.links] == [True]
        clock.seconds += PROVEN_S
        await refused(others[0])
        link = told.links[-1]
        assert (link.window, link.config) == (0, True) and "private_key" in link.reason


async def test_clocks_may_be_wrong_by_hours_but_not_by_days(fake, told):
    address, _ = subscribed(fake)
    for hours, kind in ((-11, "accepted"), (11, "accepted"), (-13, "failed"), (13, "failed")):
        wrong = MovedClock()
        wrong.seconds = hours * 3_600
        async with started(told, wrong) as provider:
            answer = await sent(provider, told, delivery(to=address, id=str(hours)), LATER_MS)
        assert answer.kind == kind


@pytest.mark.parametrize(("status", "retry_after"), [(429, ""), (429, "7"), (503, ""), (503, "7")])
async def test_too_many_requests(fake, told, clock, status, retry_after):
    address, _ = subscribed(fake)
    fake.status, fake.retry_after = status, retry_after
    async with started(told, clock) as provider:
        answer = await sent(provider, told, delivery(to=address), LATER_MS)
        told_of = (answer.kind, answer.scope, answer.code)
        assert told_of == ("throttled", "recipient", f"HTTP {status}")
        assert answer.retry_after_ms == (7_000 if retry_after else None)
        fake.status = 0
        other = delivery(to=subscribed(fake)[0], id="other")
        answer = await sent(provider, told, other, LATER_MS)
        # 429 is about one browser, 503 about the push service.
        rests = (status, retry_after) == (503, "7")
        assert (answer.kind, answer.retry_after_ms) == (
            ("retry", 7_001) if rests else ("accepted", None)
        )
    assert [link.window > 0 for link in told.links] == [True]


async def test_a_push_service_that_fails_for_a_minute(fake, told, clock):
    address, browser = subscribed(fake)
    fake.status = 500
    async with started(told, clock) as provider:
        for number in range(8):
            answer = await sent(provider, told, delivery(to=address, id=f"x{number}"), LATER_MS)
            assert (answer.kind, answer.code) == ("retry", "HTTP 500")
        fake.status = 0
        answer = await sent(provider, told, delivery(to=address, id="again"), LATER_MS)
    assert answer.kind == "accepted" and len(browser.read) == 1


async def test_a_connection_that_is_cut_is_not_sent_again(fake, told, clock):
    address, browser = subscribed(fake)
    fake.plan = Plan(0, Odds(cut=1.0))
    async with started(told, clock) as provider:
        first = await sent(provider, told, delivery(to=address), LATER_MS)
        second = await sent(provider, told, delivery(to=address, id="second"), LATER_MS)
        third = await sent(provider, told, delivery(to=address, id="third"), LATER_MS)
    assert (first.kind, second.kind) == ("unknown", "unknown")
    # Two in a row: it rests. What never left used up no try.
    assert (third.kind, third.code) == ("retry", "") and third.retry_after_ms
    assert len(browser.read) == fake.counts["taken"] == 2


async def test_an_answer_that_is_cut_off_or_is_no_http(told, clock):
    for number, said in enumerate((b"HTTP/1.1 201 Cre", b"SSH-2.0-OpenSSH_9\r\n", b"")):

        async def answer(reader: Any, writer: Any, said: bytes = said) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address = elsewhere(port)
        async with started(told, clock) as provider:
            one = delivery(to=address, id=f"cut-{number}")
            assert (await sent(provider, told, one, LATER_MS)).kind == "unknown"
        server.close()
        await server.wait_closed()


@pytest.fixture
def gone() -> Iterator[str]:
    """The address of a browser whose push service refuses connections."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield elsewhere(nobody.getsockname()[1])


async def test_one_push_service_that_is_gone_stops_no_other(fake, told, clock, gone):
    address, browser = subscribed(fake)
    async with started(told, clock) as provider:
        for number in range(3):
            lost = await sent(provider, told, delivery(to=gone, id=f"gone-{number}"), LATER_MS)
            # Tried each time, by one; without a code: it never left, and used up no try.
            assert (lost.kind, lost.code) == ("retry", "")
            assert 250 < (lost.retry_after_ms or 0) / 2**number <= 501
            one = delivery(to=address, id=f"well-{number}")
            assert (await sent(provider, told, one, LATER_MS)).kind == "accepted"
            clock.seconds += 10
    assert len(browser.read) == 3
    assert [link.window > 0 for link in told.links] == [True]


async def test_when_nothing_answers_the_link_is_down_until_something_does(fake, told, clock, gone):
    address, _ = subscribed(fake)
    async with started(told, clock) as provider:
        await sent(provider, told, delivery(to=address), LATER_MS)
        clock.seconds += ANSWERED_S + 1
        lost = await sent(provider, told, delivery(to=gone, id="x"), LATER_MS)
        assert (lost.kind, lost.code) == ("retry", "")
        assert told.links[-1].window == 0 and not told.links[-1].config
        await told.until(lambda: told.links[-1].window > 0)  # the fake can be reached
        assert (await sent(provider, told, delivery(to=address, id="y"), LATER_MS)).kind == (
            "accepted"
        )


async def test_a_name_that_leads_into_a_private_network(fake, told, clock, monkeypatch):
    """The account allows none; the name is public when the address is read."""
    names = Names(push_example=[("127.0.0.1",)])
    monkeypatch.setattr(Guard, "resolve", _resolve_by(names, Guard.resolve))
    address = elsewhere(fake.port, "push.example", "https")
    settings = config(private_networks=False)
    async with started(told, clock, settings) as provider:
        answer = await sent(provider, told, delivery(to=address), LATER_MS)
    assert (answer.kind, answer.code) == ("retry", "endpoint-private")
    assert names.asked and not fake.counts


def _resolve_by(names: Any, resolve: Any) -> Any:
    async def resolved(self: Guard, *arguments: Any, **more: Any) -> Any:
        self._names = names
        return await resolve(self, *arguments, **more)

    return resolved


async def test_no_address_and_no_text_is_told(fake, told, clock, capsys):
    address, browser = subscribed(fake)
    fake.status = 500
    async with started(told, clock) as provider:
        one = delivery({"text": "hush"}, to=address)
        answer = await sent(provider, told, one, LATER_MS)
        told_of = repr((answer, provider.prepare(one), provider._vapid, told.links))
    output = capsys.readouterr()
    for secret in ("hush", browser.id, "BEGIN", fake.url):
        assert secret not in told_of + output.out + output.err


# ---- other people's ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with peers.node("webpush.js", {}) as (_, first):
        yield f"http://127.0.0.1:{first['port']}"


async def asked(url: str, body: Any) -> Any:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        text = await response.text()
        assert response.status == 200, text
        return json.loads(text) if text.startswith("{") else text


async def test_web_push_testing_reads_what_we_send(peer, told):
    clock = SystemClock()  # it looks at the time in our signature
    options = {"userVisibleOnly": "true", "applicationServerKey": PUBLIC}
    subscription = (await asked(f"{peer}/subscribe", options))["data"]
    address, name = json.dumps(subscription), subscription["clientHash"]
    async with started(told, clock) as provider:
        later_ms = clock.now_ms() + 60_000
        for number, text in enumerate(("first", "🎈 second", "x" * 3_000)):
            one = delivery({"text": text}, to=address, id=f"d{number}", collapse_key="k")
            assert (await sent(provider, told, one, later_ms)).kind == "accepted"
        await asked(f"{peer}/expire-subscription/{name}", {})
        dead = await sent(provider, told, delivery(to=address, id="gone"), later_ms)
    got = await asked(f"{peer}/get-notifications", {"clientHash": name})
    texts = [json.loads(message)["body"] for message in got["data"]["messages"]]
    assert texts == ["first", "🎈 second", "x" * 3_000]
    assert (dead.failure, dead.code) == ("dead_address", "HTTP 410")


async def test_web_push_testing_refuses_another_key(peer, told):
    pair = await asked(f"{peer}/vapid-keys", {})
    options = {"userVisibleOnly": "true", "applicationServerKey": pair["publicKey"]}
    subscription = (await asked(f"{peer}/subscribe", options))["data"]
    clock = SystemClock()
    async with started(told, clock) as provider:  # with our key
        one = delivery(to=json.dumps(subscription))
        refused = await sent(provider, told, one, clock.now_ms() + 60_000)
    assert (refused.kind, refused.failure, refused.code) == ("failed", "config", "HTTP 400")
    async with started(told, clock, config(private_key=pair["privateKey"])) as provider:
        one = delivery(to=json.dumps(subscription), id="right")
        assert (await sent(provider, told, one, clock.now_ms() + 60_000)).kind == "accepted"


async def test_keys_of_web_push_are_ours(peer):
    pair = await asked(f"{peer}/vapid-keys", {})
    assert application_server_key(load_key(pair["privateKey"])) == pair["publicKey"]


async def test_our_fake_takes_what_web_push_sends(peer, told):
    pair = await asked(f"{peer}/vapid-keys", {})
    fake = FakeWebPush()
    await fake.start()
    try:
        subscription = fake.subscribe(pair["publicKey"])
        vapid = {"subject": SUBJECT} | pair
        options = {"TTL": 30, "urgency": "low", "topic": "news", "vapidDetails": vapid}
        message = {"subscription": subscription, "payload": "héllo", "options": options}
        assert await asked(f"{peer}/send", message) == {"status": 201}
        (read,) = fake.browser(subscription["endpoint"]).read
        assert (read.text, read.ttl, read.urgency, read.topic) == ("héllo", 30, "low", "news")
        other = {"subject": SUBJECT} | await asked(f"{peer}/vapid-keys", {})
        message["options"] = options | {"vapidDetails": other}
        assert await asked(f"{peer}/send", message) == {"status": 403}
        fake.change(subscription["endpoint"], "gone")
        assert await asked(f"{peer}/send", message) == {"status": 410}
    finally:
        await fake.stop()


# ---- the fake by itself ------------------------------------------------------------------------


async def test_the_fake_checks_what_the_rfcs_ask_for(fake):
    address, browser = subscribed(fake, "")
    endpoint = json.loads(address)["endpoint"]
    good = {
        "ttl": "5",
        "content-encoding": "aes128gcm",
        "content-type": "application/octet-stream",
    }
    cases: list[tuple[dict[str, str], bytes, int]] = [
        (good, b"", 201),
        (good | {"ttl": "-1"}, b"", 400),
        (good | {"ttl": "x"}, b"", 400),
        (good | {"content-encoding": "aesgcm"}, b"", 400),
        (good | {"urgency": "now"}, b"", 400),
        (good | {"topic": "x" * 33}, b"", 400),
        (good | {"topic": "a b"}, b"", 400),
        (good, b"x" * 4_097, 413),
        (good | {"authorization": "vapid t=a.b.c, k=BAAA"}, b"", 403),
    ]
    async with aiohttp.ClientSession() as session:
        for headers, body, status in cases:
            async with session.post(endpoint, data=body, headers=headers) as response:
                assert response.status == status, headers
        # What no browser could read is counted; a push service cannot know.
        assert fake.counts["undecipherable"] >= 1 and browser.read[0].text is None
        async with session.get(f"{fake.url}/browser/{browser.id}") as response:
            assert (await response.json())[0]["text"] is None
        async with session.post(f"{fake.url}/browser/nobody/gone") as response:
            assert response.status == 404


async def test_the_fake_as_a_program(tmp_path):
    record = tmp_path / "pushes.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "channels.push.fake.webpush", "--record", str(record)),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    told, clock = Told(), SystemClock()
    try:
        url = json.loads(await process.stdout.readline())["url"]
        subscription = await asked(f"{url}/subscribe", {"applicationServerKey": PUBLIC})
        one = delivery({"text": "hello"}, to=json.dumps(subscription))
        async with started(told, clock) as provider:
            answer = await sent(provider, told, one, clock.now_ms() + 60_000)
            assert answer.kind == "accepted"
            name = subscription["endpoint"].rpartition("/")[2]
            process.stdin.write(f'{{"gone": "{name}"}}\n{{"gone": "nobody"}}\n'.encode())
            error = json.loads(await process.stdout.readline())["error"]
            assert error == "line not understood: InputError"
            dead = await sent(provider, told, delivery(to=one.to, id="d2"), clock.now_ms())
            assert dead.code == "HTTP 410"
    finally:
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    counts = {"requests": 2, "taken": 1, "201": 1, "410": 1}
    assert json.loads(out) == {"counts": counts}
    (line,) = record.read_text().splitlines()
    assert json.loads(json.loads(line)["text"]) == {"body": "hello"}
