"""The hub's callback endpoint, as far as a provider sees it: one URL on a port of its own."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from channels.provider import Callback, Reply


class Called(Protocol):
    """The part of a provider that is called."""

    async def callback(self, request: Callback) -> Reply: ...


class CallbackServer:
    """Hands every request to `provider`."""

    def __init__(self) -> None:
        self.provider: Called | None = None
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on any free port."""
        app = web.Application()
        app.router.add_route("*", "/v1/callbacks/a", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1/callbacks/a"

    async def stop(self) -> None:
        """End."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        if self.provider is None:
            return web.Response(status=503)
        callback = Callback(
            method=request.method,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
        )
        reply = await self.provider.callback(callback)
        headers = {"content-type": reply.content_type}
        return web.Response(status=reply.status, body=reply.body, headers=headers)
