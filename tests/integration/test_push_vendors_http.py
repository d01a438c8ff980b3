"""getui and JPush over real ports: the fakes, and what goes wrong between."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from channels.provider import Answer
from channels.push.fake.getui import FakeGetui
from channels.push.fake.jpush import FakeJpush
from channels.push.fake.vendor import HTML, VendorFake
from channels.push.vendors.getui import GetuiConfig, GetuiProvider
from channels.push.vendors.jpush import JpushConfig, JpushProvider
from channels.sms.fake.faults import Odds, Plan
from hub.clock import SystemClock
from tests.integration.test_sms_http import Raw
from tests.support.push_vendors import (
    CID,
    REGISTRATION,
    SECRET,
    Clock,
    Notes,
    delivery,
    submission,
)
from tests.support.sms_web import NOW_MS

FAKES: dict[str, type[Any]] = {"getui": FakeGetui, "jpush": FakeJpush}
DEVICES = {"getui": CID, "jpush": REGISTRATION}
TEN_MINUTES_MS = 600_000


class Bench:
    """A fake, and an account at it."""

    def __init__(self, name: str, url: str, fake: VendorFake | None, **fields: Any) -> None:
        self.fake = fake
        self.device = DEVICES[name]
        self.told = Notes()
        self.clock = Clock()
        known = {"master_secret": SECRET, "answer_s": 5.0} | fields
        made: Any
        if name == "getui":
            getui = GetuiConfig(base_url=f"{url}/v2", **{"app_id": "app", "app_key": "key"} | known)
            made = GetuiProvider(getui, None, self.told, self.clock, random.Random(1), "a")  # type: ignore[arg-type]
        else:
            jpush = JpushConfig(base_url=url, **{"app_key": "key"} | known)
            made = JpushProvider(jpush, None, self.told, self.clock, random.Random(1), "a")  # type: ignore[arg-type]
        self.provider: GetuiProvider | JpushProvider = made

    async def push(self, id: str = "shop:a:1", again: bool = False, to: str = "") -> Answer:
        """What is answered to one push."""
        prepared = self.provider.prepare(delivery(to or self.device, id=id))
        before = len(self.told.answers.get(id, ()))
        self.provider.submit(submission(prepared, id, again=again))
        await self.told.until(lambda: len(self.told.answers.get(id, ())) > before)
        return self.told.answers[id][-1]

    @property
    def stop(self) -> str:
        """Why it waits for a person."""
        return next((link.reason for link in self.told.links if link.config), "")


@asynccontextmanager
async def bench(name: str, odds: Odds | None = None, **fields: Any) -> AsyncIterator[Bench]:
    """Both started; the fake's clock stands, too."""
    fake = FAKES[name](master_secret=SECRET, plan=Plan(3, odds), clock=Clock())
    made = Bench(name, await fake.start(), fake, **fields)
    made.provider.start({})
    try:
        yield made
    finally:
        await made.provider.stop(0)
        await fake.stop()


@pytest.fixture(params=FAKES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- pushes ------------------------------------------------------------------------------------


async def test_a_push_is_taken_once_and_its_answer_is_the_last_word(name: str) -> None:
    async with bench(name) as made:
        answer = await made.push()
        assert (answer.kind, answer.receipts, len(answer.provider_ids)) == ("accepted", 0, 1)
        assert made.provider.idle
        (seen,) = made.fake.seen
        assert seen.to == made.device
        assert (await made.push("shop:b:1")).kind == "accepted"
        assert made.fake.counts["taken"] == 2


async def test_an_unanswered_push_is_taken_once(name: str) -> None:
    async with bench(name, Odds(cut=1.0)) as made:
        assert (await made.push()).kind == "unknown"
        answer = await made.push(again=True)
        assert (answer.kind, len(answer.provider_ids)) == ("accepted", 1)
        assert made.fake.counts["taken"] == made.fake.counts["repeats"] == 1


async def test_an_answer_that_never_comes_is_given_up(name: str) -> None:
    async with bench(name, Odds(lose_answers=1.0), answer_s=0.3, connect_s=0.3) as made:
        answer = await made.push()
        assert (answer.kind, answer.code) == ("unknown", "http-unanswered")


async def test_devices_have_states_of_their_own() -> None:
    async with bench("getui") as made:
        expected = {
            "0" + CID[1:]: ("accepted", None, "successed_online"),
            "c" + CID[1:]: ("accepted", None, "successed_offline"),
            "f" + CID[1:]: ("failed", "dead_address", "successed_ignore"),
            "1" + CID[1:]: ("failed", "dead_address", "20001"),
        }
        made.fake.dead.add("1" + CID[1:])
        for number, (cid, said) in enumerate(expected.items()):
            answer = await made.push(f"shop:{number}:1", to=cid)
            assert (answer.kind, answer.failure, answer.code) == said
    async with bench("jpush") as made:
        made.fake.dead.add(REGISTRATION)
        answer = await made.push()
        assert (answer.kind, answer.failure, answer.code) == ("failed", "dead_address", "1011")


_ODD: list[Any] = [None, 7, "x", [], [[]], {}, {"cid": [CID]}, {"registration_id": [{}]}]


async def test_a_fake_answers_whatever_it_is_asked(name: str) -> None:
    """With a refusal that the provider understands, and never with its own bug."""
    async with bench(name) as made:
        await made.push()
        prepared = made.provider.prepare(delivery(made.device))
        body = prepared.parts[0].body
        for key, value in itertools.product(list(body), _ODD):
            before, body[key] = body[key], value
            made.provider.submit(submission(prepared, f"shop:{key}:1"))
            answer = await made.told.answer(f"shop:{key}:1")
            made.told.answers.clear()
            assert answer.kind in ("accepted", "failed"), (key, value, answer)
            body[key] = before


# ---- getui's tokens ----------------------------------------------------------------------------


async def test_one_token_serves_all_that_leave_at_once() -> None:
    async with bench("getui") as made:
        answers = await asyncio.gather(*(made.push(f"shop:{n}:1") for n in range(30)))
        assert {answer.kind for answer in answers} == {"accepted"}
        assert made.fake.counts["auths"] == 1


async def test_a_token_that_dies_early_is_replaced_once() -> None:
    async with bench("getui") as made:
        await made.push()
        made.fake.expire()
        answers = await asyncio.gather(*(made.push(f"shop:{n}:1") for n in range(30)))
        assert {answer.kind for answer in answers} == {"accepted"}
        assert made.fake.counts["auths"] == 2


async def test_two_accounts_of_an_app_share_a_token() -> None:
    async with bench("getui") as made:
        other = Bench("getui", made.fake.url, made.fake)
        other.provider.start({})
        await made.push()
        assert (await other.push("shop:b:1")).kind == "accepted"
        assert made.fake.counts["auths"] == 1
        await other.provider.stop(0)


async def test_tokens_that_never_work_are_not_asked_for_without_end() -> None:
    async with bench("getui") as made:
        made.fake.token_ms = -1
        answers = [await made.push(f"shop:{n}:1") for n in range(10)]
        assert {answer.kind for answer in answers} == {"retry"}
        assert made.fake.counts["auths"] <= 4
        assert made.told.links[-1].window == 0 and not made.stop


@pytest.mark.parametrize("off_ms", [TEN_MINUTES_MS, -TEN_MINUTES_MS])
async def test_a_clock_that_is_off_is_told_with_the_refusal(off_ms: int) -> None:
    async with bench("getui") as made:
        made.clock.now += off_ms
        answer = await made.push()
        assert (answer.kind, answer.failure, answer.code) == ("failed", "config", "20001")
        assert "check app_id, app_key and master_secret" in made.stop
        assert "clock" in made.stop  # by how much is told against the machine's own, not the fake's


async def test_wrong_credentials_stop_the_account(name: str) -> None:
    async with bench(name, master_secret="wrong") as made:
        with capture_logs() as logs:
            answer = await made.push()
        assert (answer.kind, answer.failure) == ("failed", "config")
        assert "check" in made.stop and "wrong" not in made.stop
        assert "wrong" not in str(logs)
        assert "taken" not in made.fake.counts


async def test_a_token_endpoint_that_is_down_costs_nothing() -> None:
    async with bench("getui") as made:
        made.fake.next.append((502, HTML, {}))
        assert await made.push() == Answer("retry")  # it never left, and used up no try
        assert made.told.links[-1].window == 0
        made.clock.now += 2_000  # it is left alone for a second
        await made.told.until(lambda: made.told.links[-1].window > 0)
        assert (await made.push()).kind == "accepted"


# ---- JPush's ids -------------------------------------------------------------------------------


async def test_ids_are_fetched_ten_at_a_time() -> None:
    async with bench("jpush") as made:
        await asyncio.gather(*(made.push(f"shop:{n}:1") for n in range(25)))
        assert made.fake.counts == {"requests": 28, "cids": 3, "cid": 30, "taken": 25}
        assert len({seen.id for seen in made.fake.seen}) == 25


async def test_nothing_is_pushed_under_an_id_that_is_not_stored() -> None:
    async with bench("jpush") as made:
        made.told.store = False
        assert await made.push() == Answer("retry", code="not-stored")
        assert "taken" not in made.fake.counts


async def test_the_next_owner_pushes_under_the_same_id() -> None:
    async with bench("jpush", Odds(cut=1.0)) as made:
        assert (await made.push()).kind == "unknown"
        other = Bench("jpush", made.fake.url, made.fake)
        other.provider.start(made.told.notes)
        assert (await other.push(again=True)).kind == "accepted"
        assert (made.fake.counts["taken"], made.fake.counts["repeats"]) == (1, 1)
        await other.provider.stop(0)
        assert other.told.bundles == 1  # it took the note away


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((429, b"", {"x-rate-limit-reset": "9"}), ("throttled", None, 9_000)),
        ((401, b'{"error":{"code":1004,"message":""}}', {}), ("failed", "config", None)),
        ((400, b'{"error":{"code":1003,"message":""}}', {}), ("retry", None, None)),
        ((200, HTML, {}), ("retry", None, None)),
        ((200, b'{"cidlist":[7]}', {}), ("retry", None, None)),
        ((500, HTML, {}), ("retry", None, None)),
    ],
)
async def test_a_pool_that_gives_nothing(
    answer: tuple[int, bytes, dict[str, str]], expected: tuple[str, Any, Any]
) -> None:
    async with bench("jpush") as made:
        made.fake.next.append(answer)
        said = await made.push()
        assert (said.kind, said.failure, said.retry_after_ms) == expected


# ---- faults ------------------------------------------------------------------------------------


async def test_a_broken_gateway_is_tried_until_it_works(name: str) -> None:
    async with bench(name) as made:
        await made.push("shop:first:1")
        made.fake.next.extend([(500, HTML, {})] * 5)
        for tried in range(5):
            answer = await made.push(again=tried > 0)
            assert (answer.kind, answer.code) == ("unknown", "HTTP 500")
        assert (await made.push(again=True)).kind == "accepted"
        assert made.fake.counts["taken"] == 2


async def test_rates_pause_the_account(name: str) -> None:
    async with bench(name, Odds(throttle=1.0)) as made:
        answer = await made.push()
        assert (answer.kind, answer.scope) == ("throttled", "account")
        assert answer.retry_after_ms == {"getui": 60_000, "jpush": 20_000}[name]


async def test_an_answer_that_is_cut_off(name: str) -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    token = {"code": 0, "data": {"token": "t", "expire_time": str(NOW_MS + 9_000_000)}}
    first = json.dumps(token if name == "getui" else {"cidlist": ["key-00000000"]}).encode()
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(first), first)
    async with Raw(whole, cut) as raw:
        made = Bench(name, raw.url, None)
        made.provider.start({})
        answer = await made.push()
        assert (answer.kind, answer.code) == ("unknown", "http-unanswered")
        await made.provider.stop(0)


async def test_a_gateway_that_is_not_there(name: str) -> None:
    made = Bench(name, "http://127.0.0.1:9", None)
    made.provider.start({})
    assert await made.push() == Answer("retry")
    assert made.told.links[-1].window == 0 and not made.provider.idle
    await made.provider.stop(0)


# ---- the fakes as programs -----------------------------------------------------------------------


async def test_the_fakes_are_programs(name: str) -> None:
    command = (sys.executable, "-m", f"channels.push.fake.{name}")
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        url = json.loads(await process.stdout.readline())["url"]
        process.stdin.write(b'{"dead": "%b", "expire": true}\n{"deed": 1}\n' % CID.encode())
        assert "error" in json.loads(await process.stdout.readline())
        made = Bench(name, url, None, master_secret="secret")
        made.clock.now = SystemClock().now_ms()
        made.provider.start({})
        prepared = made.provider.prepare(delivery(CID))
        made.provider.submit(submission(prepared, expires_ms=made.clock.now + 60_000))
        answer = await made.told.answer("shop:order-1:1")
        assert answer.failure == "dead_address"
        await made.provider.stop(0)
    finally:
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out)["counts"]["requests"] == 2
