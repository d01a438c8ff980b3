"""Callbacks as WeCom sends them: encrypted, signed, and again when they are not answered with 200
in time.

Source: WeCom's page 90930: 5 seconds, three times in all.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from msgspec import Struct
from yarl import URL

from channels.wecom.fake.crypto import encrypted, signed, xml
from channels.wecom.fake.world import App, Corp, World

WAITING: Final = 100_000
"""Callbacks that wait for their turn; more are lost, and counted."""
WORKERS: Final = 64
"""Sent at once: 500 a second that are answered within 100 ms."""
VERIFY_S: Final = 1.0
"""A URL must prove itself within this time."""
BODY_BYTES: Final = 64 * 1_024


class Posted(Struct, frozen=True):
    """A callback on its way."""

    corp: Corp
    app: App
    message: bytes


class Poster:
    """Sends them, each until it is answered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: asyncio.Queue[Posted] = asyncio.Queue(WAITING)
        self._workers: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        world.post = self.post

    def start(self) -> None:
        """Begin to send."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._world.settings.callback_timeout_s),
            connector=aiohttp.TCPConnector(limit=WORKERS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]

    async def stop(self) -> None:
        """End; what waits is lost."""
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)
        if self._session is not None:
            await self._session.close()

    def post(self, corp: Corp, app: App, fields: dict[str, object]) -> None:
        """Let it be sent, if the application wants callbacks."""
        if not app.scene.callback_url:
            return
        settings, book = self._world.settings, self._world.book
        if settings.drop_callbacks and self._world.chance.random() < settings.drop_callbacks:
            book.count("callbacks_dropped")
            return
        number = 1
        if settings.repeat_callbacks and self._world.chance.random() < settings.repeat_callbacks:
            number = 2
        posted = Posted(corp, app, xml({**fields, "AgentID": app.scene.agent_id}).encode())
        for _ in range(number):
            if self._waiting.full():
                book.count("callbacks_lost")
            else:
                self._waiting.put_nowait(posted)

    async def verify(self, corp: Corp, app: App) -> bool:
        """Whether the application's URL proves that it has the key, as the console asks for it."""
        assert self._session is not None
        echo = f"{self._world.chance.getrandbits(64)}"
        scene = app.scene
        sealed = encrypted(scene.callback_key, corp.id, echo.encode(), self._salt())
        query = {**self._signed(app, sealed), "echostr": sealed}
        try:
            async with asyncio.timeout(VERIFY_S):
                url = URL(scene.callback_url).update_query(query)
                async with self._session.get(url) as response:
                    return response.status == 200 and await response.text() == echo
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    async def _work(self) -> None:
        while True:
            await self._deliver(await self._waiting.get())

    async def _deliver(self, posted: Posted) -> None:
        settings, book = self._world.settings, self._world.book
        for left in range(settings.callback_tries - 1, -1, -1):
            started = self._world.clock.steady_s()
            status = await self._try(posted)
            if status == 200:
                book.count("callbacks_taken")
                book.lasted("callback_ms", (self._world.clock.steady_s() - started) * 1_000)
                return
            book.count("callbacks_unanswered" if not status else "callbacks_refused")
            if left:
                await asyncio.sleep(settings.callback_again_s)
        book.count("callbacks_given_up")

    async def _try(self, posted: Posted) -> int:
        """Gives the status, 0 without an answer in time."""
        assert self._session is not None
        self._world.book.count("callbacks_sent")
        scene = posted.app.scene
        sealed = encrypted(scene.callback_key, posted.corp.id, posted.message, self._salt())
        envelope: dict[str, object] = {
            "ToUserName": posted.corp.id,
            "AgentID": str(scene.agent_id),
            "Encrypt": sealed,
        }
        url = URL(scene.callback_url).update_query(self._signed(posted.app, sealed))
        kind = {"content-type": "text/xml"}
        try:
            async with self._session.post(
                url, data=xml(envelope).encode(), headers=kind
            ) as response:
                await response.content.read(BODY_BYTES)
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    def _signed(self, app: App, sealed: str) -> dict[str, str]:
        timestamp = str(self._world.clock.now_ms() // 1_000)
        nonce = str(self._world.chance.randrange(10**9, 10**10))
        signature = signed(app.scene.callback_token, timestamp, nonce, sealed)
        return {"msg_signature": signature, "timestamp": timestamp, "nonce": nonce}

    def _salt(self) -> bytes:
        return self._world.chance.randbytes(16)
