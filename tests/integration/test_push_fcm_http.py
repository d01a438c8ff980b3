"""FCM over HTTP: the provider at the fake, Google's own library at the fake, the fake's command."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.auth import exceptions as google_exceptions
from google.oauth2 import service_account
from structlog.testing import capture_logs

from channels.accounts import load_accounts
from channels.http import HttpClient
from channels.provider import Answer, Prepared, Submission
from channels.push.fake.fcm import FakeFcm
from channels.push.fake.fcm_trouble import Fault
from channels.registry import PROVIDERS
from channels.sms.fake.faults import Odds, Plan
from hub.clock import Clock, SystemClock
from tests.support.push_fcm import TEXT, TITLE, TOKEN, at_fake, delivery, key
from tests.support.sms_web import Told

TAKEN = 200
"""Messages of a test of many."""


# ---- the provider at the fake ------------------------------------------------------------------


async def test_a_message_is_taken() -> None:
    async with at_fake() as scene:
        answer = await scene.sent(title=TITLE, text=TEXT, data={"order": 7})
        (seen,) = scene.fake.seen
        assert answer == Answer("accepted", provider_ids=(seen.id,))
        assert seen.token == TOKEN
        assert seen.message.notification is not None
        assert (seen.message.notification.title, seen.message.notification.body) == (TITLE, TEXT)
        assert seen.message.data == {"order": "7"}
        assert seen.message.android is not None
        assert seen.message.android.ttl == "90s"
        assert scene.provider.idle


async def test_many_share_one_token_and_another_account_shares_it_too() -> None:
    async with at_fake() as scene:
        told = Told()
        second = scene.another(told, connections=TAKEN)
        second.start({})
        for number in range(TAKEN):
            prepared = second.prepare(delivery(id=f"shop:b{number}:1", to=f"device-{number:05d}"))
            second.submit(_submission(scene.clock, prepared, f"shop:b{number}:1"))
        assert (await scene.sent()).kind == "accepted"
        await told.until(lambda: len(told.answers) == TAKEN)
        assert {answer.kind for (answer,) in told.answers.values()} == {"accepted"}
        assert scene.fake.counts["tokens"] == 1
        assert scene.fake.received["device-00007"] == 1
        await second.stop(1)


def _submission(clock: Clock, prepared: Prepared, id: str) -> Submission:
    return Submission(id, prepared, clock.now_ms() + 90_000)


@pytest.mark.parametrize(
    ("prefix", "answer"),
    [
        ("unregistered", Answer("failed", failure="dead_address", code="UNREGISTERED")),
        ("malformed", Answer("failed", failure="dead_address", code="INVALID_ARGUMENT")),
        ("refused", Answer("failed", failure="rejected_content", code="INVALID_ARGUMENT")),
        ("foreign", Answer("failed", failure="config", code="SENDER_ID_MISMATCH")),
        ("unkeyed", Answer("failed", failure="config", code="THIRD_PARTY_AUTH_ERROR")),
        (
            "crowded",
            Answer("throttled", retry_after_ms=7_000, scope="recipient", code="QUOTA_EXCEEDED"),
        ),
        ("busy", Answer("retry", retry_after_ms=7_000, code="UNAVAILABLE")),
        ("broken", Answer("retry", code="INTERNAL")),
    ],
)
async def test_what_a_device_is_refused(prefix: str, answer: Answer) -> None:
    async with at_fake(retry_after_s=7.0) as scene:
        assert await scene.sent(to=f"{prefix}-device-1") == answer
        # The account goes on, and asked for no new token.
        assert [link.window for link in scene.told.links] == [8]
        assert (await scene.sent(id="shop:order-2:1")).kind == "accepted"
        assert scene.fake.counts["tokens"] == 1


async def test_the_quota_of_a_minute() -> None:
    async with at_fake(per_minute=2.0) as scene:
        answers = [await scene.sent(id=f"shop:o{number}:1") for number in range(3)]
        assert [answer.kind for answer in answers] == ["accepted", "accepted", "throttled"]
        assert (answers[2].retry_after_ms, answers[2].scope) == (60_000, "account")
        scene.clock.seconds += 60
        assert (await scene.sent()).kind == "accepted"


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (Fault(kind="html"), Answer("unknown", code="HTTP 200")),
        (Fault(kind="http", status=500), Answer("unknown", code="HTTP 500")),
        (Fault(kind="http", status=503), Answer("retry", code="HTTP 503")),
        (Fault(code="INTERNAL"), Answer("retry", code="INTERNAL")),
        (
            Fault(code="QUOTA_EXCEEDED"),
            Answer("throttled", code="QUOTA_EXCEEDED", retry_after_ms=60_000),
        ),
        (Fault(code="BRAND_NEW"), Answer("failed", failure="provider", code="BRAND_NEW")),
        (Fault(kind="reset"), Answer("unknown", code="http-unanswered")),
        (Fault(kind="cut", taken=True), Answer("unknown", code="http-unanswered")),
    ],
)
async def test_faults(fault: Fault, answer: Answer) -> None:
    async with at_fake() as scene:
        assert (await scene.sent(id="shop:before:1")).kind == "accepted"
        scene.fake.faults.add(fault)
        assert await scene.sent() == answer
        assert scene.fake.counts["taken"] == 1 + fault.taken
        assert scene.told.counts.get("unknown_code", 0) == (fault.code == "BRAND_NEW")
        scene.fake.faults.clear()
        assert (await scene.sent(id="shop:after:1")).kind == "accepted"


# ---- the token ---------------------------------------------------------------------------------


async def test_a_token_is_renewed_before_it_ends() -> None:
    async with at_fake() as scene:
        assert (await scene.sent(id="shop:o1:1")).kind == "accepted"
        scene.clock.seconds += 3_300
        assert (await scene.sent(id="shop:o2:1")).kind == "accepted"
        await scene.told.until(lambda: scene.told.counts.get("token_asked") == 2)
        scene.clock.seconds += 400
        assert (await scene.sent(id="shop:o3:1")).kind == "accepted"
        assert "unauthenticated" not in scene.fake.counts


async def test_a_token_that_ends_early_is_replaced_and_the_message_sent_again_once() -> None:
    async with at_fake() as scene:
        assert (await scene.sent(id="shop:o1:1")).kind == "accepted"
        scene.fake.grants.forget()
        for number in range(5):
            scene.submit(id=f"shop:many{number}:1")
        await scene.told.until(lambda: len(scene.told.answers) == 6)
        assert {answer.kind for (answer,) in scene.told.answers.values()} == {"accepted"}
        assert scene.fake.counts["tokens"] == 2
        assert scene.fake.counts["taken"] == 6


async def test_tokens_that_are_never_taken_stop_the_account() -> None:
    async with at_fake() as scene:
        scene.fake.faults.add(Fault(code="UNAUTHENTICATED"))
        assert await scene.sent() == Answer("retry")  # uses up no try
        link = scene.told.links[-1]
        assert (link.window, link.config) == (0, True)
        assert "takes no access token" in link.reason
        assert scene.fake.counts["tokens"] == 2


async def test_permission_denied_stops_the_account() -> None:
    async with at_fake() as scene:
        scene.fake.faults.add(Fault(code="PERMISSION_DENIED"))
        answer = await scene.sent()
        assert answer == Answer("failed", failure="config", code="PERMISSION_DENIED")
        assert scene.told.links[-1].config
        assert "role" in scene.told.links[-1].reason


@pytest.mark.parametrize(
    "fault",
    [
        Fault(at="token", kind="http", status=500),
        Fault(at="token", kind="html"),
        Fault(at="token", kind="reset"),
        Fault(at="token", kind="cut"),
    ],
)
async def test_a_token_endpoint_that_is_down_costs_nothing_and_comes_back(fault: Fault) -> None:
    async with at_fake() as scene:
        scene.fake.faults.add(fault)
        assert await scene.sent() == Answer("retry")  # without a code: it never left
        down = scene.told.links[-1]
        assert (down.window, down.config) == (0, False)
        assert "no access token" in down.reason
        assert "requests" not in scene.fake.counts
        scene.fake.faults.clear()
        scene.clock.seconds += 2  # the endpoint is left alone for a second
        await scene.told.until(lambda: scene.told.links[-1].window == 8)
        assert (await scene.sent(id="shop:o2:1")).kind == "accepted"


async def test_a_clock_ten_minutes_off_is_told_so() -> None:
    async with at_fake() as scene:
        scene.fake.clock.advance(600)
        assert await scene.sent() == Answer("retry")
        link = scene.told.links[-1]
        assert (link.window, link.config) == (0, True)
        assert "the clock of this machine is 10 min 0 s behind" in link.reason


async def test_a_key_that_was_replaced_is_told_so() -> None:
    async with at_fake() as scene:
        scene.fake.grants.replace_key()
        assert await scene.sent() == Answer("retry")
        assert "make a new key file" in scene.told.links[-1].reason


async def test_another_project_is_not_there() -> None:
    async with at_fake() as scene:
        told = Told()
        other = scene.another(told, project="another")
        other.start({})
        other.submit(_submission(scene.clock, other.prepare(delivery()), "shop:order-1:1"))
        answer = await told.answer("shop:order-1:1")
        assert answer == Answer("failed", failure="config", code="NOT_FOUND")
        await other.stop(1)


async def test_what_waits_for_a_token_when_the_account_stops_was_not_sent() -> None:
    async with at_fake() as scene:
        scene.fake.faults.add(Fault(at="token", kind="hang"))
        told = Told()
        second = scene.another(told)  # waits for the first one's
        second.start({})
        scene.submit()
        second.submit(_submission(scene.clock, second.prepare(delivery()), "shop:order-1:1"))
        async with asyncio.timeout(20):
            while "tokens" not in scene.fake.counts:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
        await second.stop(20)
        await scene.provider.stop(20)
        assert await told.answer("shop:order-1:1") == Answer("retry")
        assert await scene.told.answer("shop:order-1:1") == Answer("retry")


async def test_nothing_that_is_secret_or_a_customers_is_logged() -> None:
    with capture_logs() as logs:
        async with at_fake() as scene:
            for number, fault in enumerate(
                [
                    Fault(kind="reset", times=1),
                    Fault(kind="html", times=1),
                    Fault(code="BRAND_NEW", times=1),
                    Fault(code="PERMISSION_DENIED", times=1),
                ]
            ):
                scene.fake.faults.add(fault)
                await scene.sent(id=f"shop:o{number}:1")
            scene.fake.grants.disabled = True
            other = scene.another(Told(), connections=2)
            with pytest.raises(Exception, match="disabled"):
                scene.clock.seconds += 4_000
                await other._grant.token()  # a look inside: its account has stopped for a while
            await other.stop(0)
    words = json.dumps(logs)
    assert "token.none" in words
    assert "http.down" in words
    for secret in (TOKEN, TEXT, "ya29", "PRIVATE KEY", "iam.gserviceaccount", "Bearer"):
        assert secret not in words


# ---- Google's own library at the fake ----------------------------------------------------------


class _Response:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = dict(answer.getheaders())
        self.data = answer.read()


def _transport(
    url: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any
) -> Any:
    """google-auth's interface of a transport, on the standard library."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request(method, parts.path, body=body, headers=headers or {})
        return _Response(connection.getresponse())
    finally:
        connection.close()


async def test_googles_own_library_gets_a_token_that_the_fake_takes() -> None:
    fake = FakeFcm(key=key())
    await fake.start()
    client = HttpClient()
    try:
        credentials = service_account.Credentials.from_service_account_info(
            fake.grants.key_file(),
            scopes=["https://www.googleapis.com/auth/firebase.messaging"],
        )
        await asyncio.to_thread(credentials.refresh, _transport)
        headers: dict[str, str] = {"content-type": "application/json"}
        credentials.apply(headers)
        body = json.dumps({"message": {"token": TOKEN, "notification": {"body": TEXT}}}).encode()
        url = f"{fake.url}/v1/projects/tact-fake/messages:send"
        reply = await client.request("POST", url, body=body, headers=headers)
        assert reply.status == 200
        assert (await client.request("POST", url, body=body)).status == 401
        fake.grants.disabled = True
        with pytest.raises(google_exceptions.RefreshError, match="account not found"):
            await asyncio.to_thread(credentials.refresh, _transport)
    finally:
        await client.close()
        await fake.stop()


# ---- the fake's command ------------------------------------------------------------------------


async def test_the_command_writes_a_key_file_that_an_account_can_use(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "channels.push.fake.fcm", "--credentials-out"),
        *(str(tmp_path / "sa.json"), "--record", str(tmp_path / "record")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
        assert oct(os.stat(ready["credentials"]).st_mode)[-3:] == "600"
        toml = f"""
            version = 1
            [[accounts]]
            name = "push"
            channel = "push"
            provider = "fcm"
            [accounts.fcm]
            credentials = {{ file = "sa.json" }}
            base_url = "{ready["url"]}"
            id_key = "delivery"
        """
        (tmp_path / "accounts.toml").write_text(toml)
        (account,) = load_accounts(tmp_path / "accounts.toml")
        told, clock = Told(), SystemClock()
        provider = PROVIDERS["fcm"].make(account, told, clock, random.Random(1))
        provider.start({})
        prepared = provider.prepare(delivery())
        provider.submit(_submission(clock, prepared, "shop:order-1:1"))
        assert (await told.answer("shop:order-1:1")).kind == "accepted"
        client = HttpClient()
        for name, fields in (("fault", {"code": "INTERNAL"}), ("unregister", {"token": TOKEN})):
            url = f"{ready['url']}/fake/{name}"
            reply = await client.request("POST", url, body=json.dumps(fields).encode())
            assert reply.status == 200
        told_by = json.loads((await client.request("GET", f"{ready['url']}/fake/record")).body)
        assert told_by["received"] == {TOKEN: 1}
        assert told_by["faults"] == 1
        await client.close()
        process.stdin.write(b'{"do": "fault", "code": "NONSENSE"}\n{"do": "clear-faults"}\n')
        async with asyncio.timeout(30):
            assert b"not understood" in await process.stdout.readline()
        await provider.stop(1)
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert json.loads(out.splitlines()[-1])["counts"]["taken"] == 1
    (line,) = (tmp_path / "record").read_text().splitlines()
    assert json.loads(line)["data"] == {"delivery": "shop:order-1:1"}


async def test_fates_are_drawn_for_each_message() -> None:
    """Everything that can go wrong by a plan goes wrong, and nothing is taken twice."""
    odds = Odds(throttle=0.2, busy=0.2, refuse=0.2, cut=0.2)
    async with at_fake() as scene:
        scene.fake.plan = Plan(5, odds)
        kinds = {
            (await scene.sent(id=f"shop:o{number}:1", to=f"device-{number:05d}")).kind
            for number in range(60)
        }
        assert kinds == {"accepted", "throttled", "retry", "failed", "unknown"}
        assert set(scene.fake.received.values()) == {1}
