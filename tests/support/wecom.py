"""The fake WeCom for tests: in this process, or as a program of its own; and a bare client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct

from channels.sms.fake.faults import Plan, Recorder
from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import Scene, Settings, Size, made_up

NOW_MS = 1_795_330_800_000
"""A Sunday at 15:00 in China, in the middle of a month."""
CORP = "wwfake0000000001"


class StandingClock:
    """Moves only when it is told to, by `FakeWecom.clock.advance`."""

    def now_ms(self) -> int:
        return NOW_MS

    def steady_s(self) -> float:
        return 0.0


@asynccontextmanager
async def wecom(
    settings: Settings | None = None,
    *,
    size: Size | None = None,
    scene: Scene | None = None,
    seed: int = 0,
    plan: Plan | None = None,
    recorder: Recorder | None = None,
    still: bool = True,
) -> AsyncIterator[FakeWecom]:
    """The fake in this process. `still`: its clock stands but for `clock.advance`."""
    fake = FakeWecom(
        scene or made_up(size or Size()),
        settings or Settings(short_pages=0.0),
        seed=seed,
        plan=plan,
        recorder=recorder,
        clock=StandingClock() if still else None,
    )
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


class Api:
    """Calls the fake as plainly as can be: `await api("kf/send_msg", touser=…)`."""

    def __init__(self, url: str, corp_id: str = CORP, secret: str = "fake-secret") -> None:
        self._url = url
        self._who = {"corpid": corp_id, "corpsecret": secret}
        self._session = aiohttp.ClientSession()
        self.token = ""

    async def close(self) -> None:
        """End."""
        await self._session.close()

    async def log_in(self) -> dict[str, Any]:
        """Get a token; gives the answer."""
        answer = await self.get("gettoken", **self._who)
        self.token = answer.get("access_token", "")
        return answer

    async def get(self, api: str, **query: str) -> dict[str, Any]:
        """A GET; with the token, if there is one."""
        query = {"access_token": self.token, **query} if self.token else query
        async with self._session.get(f"{self._url}/cgi-bin/{api}", params=query) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def __call__(self, api: str, **body: Any) -> dict[str, Any]:
        query = {"access_token": self.token}
        url = f"{self._url}/cgi-bin/{api}"
        async with self._session.post(url, params=query, json=body) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def raw(self, api: str, content: bytes) -> tuple[int, str, bytes]:
        """A POST of these bytes: status, content type, body."""
        url = f"{self._url}/cgi-bin/{api}?access_token={self.token}"
        async with self._session.post(url, data=content) as response:
            return response.status, response.content_type, await response.read()


@asynccontextmanager
async def api_of(fake: FakeWecom, corp_id: str = CORP) -> AsyncIterator[Api]:
    """A client that has a token."""
    api = Api(fake.url, corp_id)
    try:
        await api.log_in()
        yield api
    finally:
        await api.close()


class Heard(Struct, frozen=True):
    """A request that came in."""

    method: str
    query: dict[str, str]
    body: bytes


class Inbox:
    """A URL for callbacks that keeps what comes, and answers with `answer`'s status and text."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.answer: Callable[[Heard], tuple[int, str]] = lambda heard: (200, "")
        self.url = ""
        self.open = asyncio.Event()
        """Cleared: nothing is answered until it is set."""
        self.open.set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Inbox:
        app = web.Application()
        app.router.add_route("*", "/callback", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/callback"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        heard = Heard(request.method, dict(request.query), await request.read())
        self.heard.append(heard)
        await self.open.wait()
        status, text = self.answer(heard)
        return web.Response(status=status, text=text)


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the fake has nobody to tell
            await asyncio.sleep(0.005)


class WecomProcess:
    """The fake as a program. `ready` is its first line."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self._process = process
        self._session = aiohttp.ClientSession()
        self.ready = ready
        self.url: str = ready["url"]

    async def do(self, name: str, /, **body: Any) -> dict[str, Any]:
        """Make something happen."""
        async with self._session.post(f"{self.url}/fake/{name}", json=body) as response:
            told: dict[str, Any] = await response.json()
            assert response.status == 200, told
            return told

    async def record(self) -> dict[str, Any]:
        """What it has seen."""
        async with self._session.get(f"{self.url}/fake/record") as response:
            told: dict[str, Any] = await response.json()
            return told

    async def stop(self) -> dict[str, Any]:
        """End it as a person does; gives its last line."""
        await self._session.close()
        if self._process.returncode is None:
            self._process.terminate()
        out, _ = await self._process.communicate()
        assert self._process.returncode == 0
        last: dict[str, Any] = json.loads(out.splitlines()[-1])
        return last


@asynccontextmanager
async def wecom_process(*options: str) -> AsyncIterator[WecomProcess]:
    """`python -m channels.wecom.fake` with these options, on any free port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "channels.wecom.fake",
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        running = WecomProcess(process, json.loads(line))
        try:
            yield running
        finally:
            if process.returncode is None:
                await running.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
