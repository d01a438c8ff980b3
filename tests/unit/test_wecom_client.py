"""Calls of WeCom over real HTTP to a server that says what it is told to: tokens, codes, budgets,
and every way in which no answer comes."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from channels.http import NotSent, Unanswered
from channels.provider import Answer, Prepared, Submission
from channels.sending import HttpSender, Outcome
from channels.tokens import PAUSE_MAX_S, PAUSE_REFUSED_S
from channels.wecom.budgets import DAY_MS
from channels.wecom.client import WecomClient
from channels.wecom.config import AppConfig
from channels.wecom.endpoints import ENDPOINTS
from channels.wecom.errors import WecomError, answer_of, stop_of
from tests.support.sms_web import Told, submission

NOW_MS = 1_795_000_000_000
SECRET = "s3cr3t-of-the-app"


class HandClock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.at_s = 5_000.0

    def now_ms(self) -> int:
        return NOW_MS + int((self.at_s - 5_000) * 1_000)

    def steady_s(self) -> float:
        return self.at_s


class Server:
    """Says `ok` to everything, unless something else is to be said."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.says: dict[str, deque[Any]] = {}
        """By name, one after another: JSON, a web.Response, or something that gives one."""
        self.always: dict[str, Any] = {}
        self.life_s = 7_200
        self.tokens = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/cgi-bin/{name:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def count(self, name: str) -> int:
        return sum(1 for asked, _, _ in self.asked if asked == name)

    def tokens_used(self, name: str) -> list[str]:
        return [query["access_token"] for asked, query, _ in self.asked if asked == name]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append((name, dict(request.query), await request.read()))
        said = self.says.get(name)
        reply = said.popleft() if said else self.always.get(name, {"errcode": 0, "errmsg": "ok"})
        if callable(reply):
            reply = await reply(request)
        if isinstance(reply, web.StreamResponse):
            return reply
        if name == "gettoken" and reply["errcode"] == 0:
            self.tokens += 1
            reply = {"access_token": f"token-{self.tokens}", "expires_in": self.life_s, **reply}
        return web.json_response(reply)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


class World:
    """Clients of one server that share a clock, and what they counted."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.clock = HandClock()
        self.counts: list[str] = []
        self._clients: list[WecomClient] = []

    def client(self, **config: Any) -> WecomClient:
        settings = {
            "base_url": self.server.url,
            "corp_id": "wwcorp",
            "agent_id": 1,
            "secret": SECRET,
        }
        made = WecomClient(
            AppConfig(**(settings | config)),
            self.clock,
            random.Random(1),
            counted=self.counts.append,
        )
        self._clients.append(made)
        return made

    async def end(self) -> None:
        for client in self._clients:
            await client.close()


@pytest.fixture
async def world(server: Server) -> AsyncIterator[World]:
    world = World(server)
    yield world
    await world.end()


async def refusal(client: WecomClient, name: str = "message/send") -> WecomError:
    with pytest.raises(WecomError) as error:
        await client.call(name, {})
    return error.value


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it looks at what a server has heard
            await asyncio.sleep(0)


# ---- tokens ------------------------------------------------------------------------------------


async def test_one_token_is_asked_for_whoever_needs_it(world: World, server: Server) -> None:
    first, second, stranger = world.client(), world.client(), world.client(secret="another")
    await asyncio.gather(*(each.call("message/send", {}) for each in [first, second] * 20))
    assert server.count("gettoken") == 1
    assert server.asked[0][1] == {"corpid": "wwcorp", "corpsecret": SECRET}
    await stranger.call("message/send", {})
    assert server.count("gettoken") == 2


async def test_whoever_gives_up_leaves_the_token_to_the_others(
    world: World, server: Server
) -> None:
    gate = asyncio.Event()

    async def slow(request: web.Request) -> dict[str, Any]:
        await gate.wait()
        return {"errcode": 0}

    server.says["gettoken"] = deque([slow])
    first, second = world.client(), world.client()
    impatient = asyncio.create_task(first.call("message/send", {}))
    await until(lambda: server.count("gettoken"))
    patient = asyncio.create_task(second.call("message/send", {}))
    impatient.cancel()
    await asyncio.wait([impatient])
    await first.close()  # and takes with it the request for the token, which was its own
    assert (await patient)["errcode"] == 0
    gate.set()
    assert server.count("gettoken") == 2


async def test_a_token_is_renewed_while_the_old_one_still_serves(
    world: World, server: Server
) -> None:
    client = world.client()
    await client.call("message/send", {})
    world.clock.at_s += 0.89 * 7_200
    await client.call("message/send", {})
    assert server.count("gettoken") == 1
    world.clock.at_s += 0.02 * 7_200
    await client.call("message/send", {})
    await until(lambda: server.tokens == 2)
    await until(lambda: not client._tokens._asking)
    await client.call("message/send", {})
    assert server.tokens_used("message/send") == ["token-1", "token-1", "token-1", "token-2"]


@pytest.mark.parametrize("errcode", [40014, 42001, 41001])
async def test_a_token_that_died_early_is_replaced_once(
    world: World, server: Server, errcode: int
) -> None:
    client = world.client()
    await client.call("message/send", {})
    server.says["message/send"] = deque([{"errcode": errcode}])
    assert (await client.call("message/send", {"a": 1}))["errcode"] == 0
    assert server.tokens_used("message/send") == ["token-1", "token-1", "token-2"]
    assert [json.loads(body) for name, _, body in server.asked[-1:]] == [{"a": 1}]


async def test_many_calls_with_one_dead_token_ask_for_one_new(world: World, server: Server) -> None:
    client = world.client()
    await client.call("message/send", {})
    server.says["message/send"] = deque([{"errcode": 42001}] * 10)
    await asyncio.gather(*(client.call("message/send", {}) for _ in range(10)))
    assert server.count("gettoken") == 2


async def test_tokens_that_never_work_are_not_asked_for_without_end(
    world: World, server: Server
) -> None:
    client = world.client()
    server.always["message/send"] = {"errcode": 40014}
    error = await refusal(client)
    assert error.verdict.kind == "refresh" and answer_of(error, world.clock).kind == "retry"
    for _ in range(20):
        assert (await refusal(client)).verdict.kind == "refresh"
    assert server.count("gettoken") == server.count("message/send") == 2
    assert world.counts.count("token_refused") == 2
    world.clock.at_s += PAUSE_MAX_S
    server.always.clear()
    await client.call("message/send", {})


async def test_tokens_that_never_work_are_asked_for_less_and_less_often(
    world: World, server: Server
) -> None:
    client = world.client()
    server.always["message/send"] = {"errcode": 40014}
    for _ in range(600):
        await refusal(client)
        world.clock.at_s += 1
    assert 10 <= server.count("gettoken") <= 30


async def test_whoever_ends_says_nothing_about_the_token_to_the_others(
    world: World, server: Server
) -> None:
    gate = asyncio.Event()

    async def slow(request: web.Request) -> dict[str, Any]:
        await gate.wait()
        return {"errcode": 0}

    server.says["gettoken"] = deque([slow])
    first, second = world.client(), world.client()
    ended = asyncio.create_task(first.call("message/send", {}))
    await until(lambda: server.count("gettoken"))
    others = asyncio.create_task(second.call("message/send", {}))
    await first.close()
    with pytest.raises(NotSent):
        await ended
    assert (await others)["errcode"] == 0
    gate.set()


async def test_an_hour_without_tokens_is_waited_out(world: World, server: Server) -> None:
    client = world.client()
    server.always["gettoken"] = lambda request: _html()
    for _ in range(3_600):
        with pytest.raises(NotSent) as error:
            await client.call("message/send", {})
        assert answer_of(error.value, world.clock).kind == "retry"
        assert error.value.retry_after_ms is not None
        world.clock.at_s += 1
    assert server.count("message/send") == 0
    assert 60 <= server.count("gettoken") <= 140
    server.always.clear()
    world.clock.at_s += PAUSE_MAX_S
    await client.call("message/send", {})
    assert server.count("message/send") == 1


async def _html() -> web.Response:
    return web.Response(status=200, text="<html>maintenance</html>", content_type="text/html")


async def test_while_the_old_token_lives_nobody_notices_that_there_is_no_new_one(
    world: World, server: Server
) -> None:
    client = world.client()
    await client.call("message/send", {})
    server.always["gettoken"] = {"errcode": -1}
    world.clock.at_s += 0.95 * 7_200
    for _ in range(5):
        await client.call("message/send", {})
    await until(lambda: not client._tokens._asking)
    world.clock.at_s += 0.06 * 7_200
    assert (await refusal(client)).verdict.kind == "retry"


async def test_a_wrong_secret_stops_the_account_and_is_hardly_tried_again(
    world: World, server: Server
) -> None:
    client = world.client()
    server.always["gettoken"] = {"errcode": 40001, "errmsg": "invalid credential"}
    error = await refusal(client)
    assert answer_of(error, world.clock).failure == "config"
    assert "40001" in stop_of(error)
    for _ in range(10):
        world.clock.at_s += PAUSE_REFUSED_S / 20
        await refusal(client)
    assert server.count("gettoken") == 1
    with pytest.raises(NotSent):
        await client.reach(server.url)
    server.always.clear()
    world.clock.at_s += PAUSE_REFUSED_S
    await client.reach(server.url)


@pytest.mark.parametrize(
    "said",
    [
        {"errcode": 0, "access_token": None},
        {"errcode": 0, "access_token": ""},
        {"errcode": 0, "access_token": "x" * 513},
        {"errcode": 0, "access_token": "令牌"},
        {"errcode": 0, "expires_in": -1},
        {"errcode": 0, "expires_in": "7200"},
        {"errcode": 0, "expires_in": True},
    ],
)
async def test_a_token_that_is_none_is_not_used(
    world: World, server: Server, said: dict[str, Any]
) -> None:
    server.says["gettoken"] = deque([said])
    with pytest.raises(NotSent):
        await world.client().call("message/send", {})
    assert server.count("message/send") == 0


async def test_a_token_alone_reaches_nobody(world: World, server: Server) -> None:
    client = world.client()
    await client.reach(server.url)
    await server.stop()
    with pytest.raises(NotSent):
        await client.reach(server.url)
    assert server.tokens == 1


async def test_a_sender_is_up_again_when_there_are_tokens_again(
    world: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channels.sending.BACKOFF_FIRST_S", 0.01)
    client, told = world.client(), Told()

    async def send(submission: Submission) -> Outcome:
        await client.call("message/send", {})
        return Outcome(Answer("accepted"))

    sender = HttpSender(
        send,
        client=client,
        url=server.url,
        connections=2,
        account="a",
        events=told,
        chance=random.Random(1),
    )
    server.always["gettoken"] = _bad_gateway
    sender.start()
    sender.submit(submission(Prepared("m1", 1, ()), "d1"))
    await told.until(lambda: told.links[-1].window == 0)
    assert (await told.answer("d1")).kind == "retry"
    # It listens, but gives no tokens: that is not up.
    asked = server.count("gettoken")
    world.clock.at_s += PAUSE_MAX_S
    await until(lambda: server.count("gettoken") > asked and not client._tokens._asking)
    assert told.links[-1].window == 0
    server.always.clear()
    world.clock.at_s += PAUSE_MAX_S
    await told.until(lambda: told.links[-1].window == 2)
    sender.submit(submission(Prepared("m1", 1, ()), "d2"))
    await told.until(lambda: "d2" in told.answers)
    assert told.answers["d2"][0].kind == "accepted"
    await sender.stop(1)


async def test_what_was_cut_before_it_began_has_its_answer(world: World) -> None:
    client, told = world.client(), Told()
    sender = HttpSender(
        lambda submission: pytest.fail("it was cut before"),
        client=client,
        url="",
        connections=2,
        account="a",
        events=told,
        chance=random.Random(1),
    )
    sender.start()
    sender.submit(submission(Prepared("m1", 1, ()), "d1"))
    await sender.stop(0)
    assert [answer.kind for answer in told.answers["d1"]] == ["unknown"]
    assert sender.idle


# ---- calls -------------------------------------------------------------------------------------


async def test_get_and_post_as_the_table_says(world: World, server: Server) -> None:
    client = world.client()
    await client.call("externalcontact/get", external_userid="wm1")
    await client.call("kf/sync_msg", {"cursor": "中文"})
    (_, query, nothing), (_, _, body) = server.asked[1:]
    assert (query, nothing) == ({"access_token": "token-1", "external_userid": "wm1"}, b"")
    assert body == '{"cursor":"中文"}'.encode()
    assert all(name == each.path.removeprefix("/cgi-bin/") for name, each in ENDPOINTS.items())


async def test_partial_success_is_success(world: World, server: Server) -> None:
    said = {"errcode": 0, "invaliduser": "a|b", "msgid": "m1"}
    server.says["message/send"] = deque([said])
    assert await world.client().call("message/send", {}) == said


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "100"})
    await response.prepare(request)
    await response.write(b'{"errcode":0')
    assert request.transport is not None
    request.transport.close()
    return response


async def _bad_gateway(request: web.Request) -> web.Response:
    return web.Response(status=502, text="bad gateway")


async def _says(text: str) -> web.Response:
    return web.Response(text=text)


@pytest.mark.parametrize(
    "reply",
    [
        _cut,
        _bad_gateway,
        lambda request: _html(),
        lambda request: _says(""),
        lambda request: _says("[]"),
        lambda request: _says('{"errmsg":"ok"}'),
        lambda request: _says('{"errcode":"0"}'),
        lambda request: _says('{"errcode":false}'),
        lambda request: _says('{"errcode":0'),
        lambda request: _says("[" * 100_000),
    ],
)
async def test_without_an_answer_of_wecom_only_what_reads_is_asked_again(
    world: World, server: Server, reply: Any
) -> None:
    client = world.client()
    server.always["message/send"] = reply
    with pytest.raises(Unanswered) as error:
        await client.call("message/send", {})
    assert answer_of(error.value, world.clock).kind == "unknown"
    assert server.count("message/send") == 1
    server.says["kf/sync_msg"] = deque([reply])
    assert (await client.call("kf/sync_msg", {}))["errcode"] == 0
    assert server.count("kf/sync_msg") == 2


async def test_nothing_leaves_where_nobody_listens(world: World) -> None:
    client = world.client(base_url="http://127.0.0.1:9")
    with pytest.raises(NotSent):
        await client.call("message/send", {})


async def test_busy_is_a_retry_and_an_unknown_code_is_not(world: World, server: Server) -> None:
    client = world.client()
    server.says["message/send"] = deque(
        [{"errcode": -1}]
        + [{"errcode": 990_099, "errmsg": "to 13912345678, hint: [1637_2-a], x"}] * 3
    )
    assert answer_of(await refusal(client), world.clock).kind == "retry"
    with capture_logs() as logs:
        errors = [await refusal(client) for _ in range(3)]
    answer = answer_of(errors[0], world.clock)
    assert (answer.kind, answer.failure, answer.code) == ("failed", "provider", "990099")
    assert errors[0].facts["hint"] == "1637_2-a"
    assert world.counts.count("unknown_errcode") == 3
    assert [each["event"] for each in logs] == ["wecom.unknown_errcode"]
    assert "13912345678" not in f"{errors} {logs} {errors[0].facts}"


async def test_a_text_that_cannot_be_sent_is_not_sent(world: World, server: Server) -> None:
    with pytest.raises(WecomError) as error:
        await world.client().call("message/send", {"text": "\ud800"})
    assert answer_of(error.value, world.clock).failure == "rejected_content"
    assert server.asked == []


async def test_after_the_end_nothing_leaves(world: World, server: Server) -> None:
    client = world.client()
    await client.call("message/send", {})
    await client.close()
    with pytest.raises(NotSent):
        await client.call("message/send", {})
    assert server.count("message/send") == 1


async def test_secrets_are_nowhere(world: World, server: Server) -> None:
    client = world.client(callback_token="CallT0ken", callback_key="k" * 43)
    server.says["gettoken"] = deque([{"errcode": 40001, "errmsg": SECRET}])
    seen = []
    with capture_logs() as logs:
        seen.append(await refusal(client))
        world.clock.at_s += PAUSE_REFUSED_S
        server.says["message/send"] = deque([{"errcode": 40013}, _bad_gateway])
        seen.append(await refusal(client))
        with pytest.raises(Unanswered) as error:
            await client.call("message/send", {})
    told = f"{logs} {seen!r} {[vars(each) for each in seen]} {error.value!r} {client._config!r}"
    for secret in (SECRET, "token-1", "CallT0ken", "kkkk"):
        assert secret not in told


# ---- budgets -----------------------------------------------------------------------------------


async def test_over_the_budget_nothing_is_sent(world: World, server: Server) -> None:
    first, second = world.client(api_per_min=5), world.client(api_per_min=5)
    await asyncio.gather(*(each.call("kf/send_msg", {}) for each in (first, second, first, second)))
    await first.call("kf/send_msg", {})
    error = await refusal(second, "kf/send_msg")
    answer = answer_of(error, world.clock)
    assert answer.kind == "throttled" and 0 < (answer.retry_after_ms or 0) <= 61_000
    assert server.count("kf/send_msg") == 5
    await second.call("kf/sync_msg", {})  # another API has its own
    for _ in range(7):
        await second.call("message/send", {})  # not counted by WeCom
    world.clock.at_s += (answer.retry_after_ms or 0) / 1_000 + 0.001
    await second.call("kf/send_msg", {})


async def test_a_block_is_taken_for_longer_when_the_first_call_after_it_is_refused_too(
    world: World, server: Server
) -> None:
    client = world.client()
    server.always["message/send"] = {"errcode": 45009, "errmsg": "api freq out of limit"}
    day_ms = DAY_MS - (world.clock.now_ms() + 8 * 3_600_000) % DAY_MS
    for expected in (60_000, 3_600_000, day_ms - 3_660_000, DAY_MS):
        # Those under way together are one refusal, and while it lasts nothing leaves.
        errors = await asyncio.gather(*(refusal(client) for _ in range(4)))
        before = server.count("message/send")
        errors.append(await refusal(client))
        assert server.count("message/send") == before
        for error in errors:
            answer = answer_of(error, world.clock)
            assert (answer.kind, answer.retry_after_ms) == ("throttled", expected)
        world.clock.at_s += expected / 1_000
    server.always.clear()
    await client.call("message/send", {})
    server.always["message/send"] = {"errcode": 45009}
    assert answer_of(await refusal(client), world.clock).retry_after_ms == 60_000
