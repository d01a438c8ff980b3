"""What the fakes of getui and JPush share: a server that takes JSON, devices that are gone, faults.

A line of JSON on standard input changes how it behaves: `{"dead": "<address>"}` ends a device,
`{"broken": 20}` answers the next 20 requests with HTTP 500, `{"expire": true}` ends what was given
out (tokens, ids).
"""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections import deque
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import FakeServer
from hub.clock import Clock, SystemClock

BODY_BYTES: Final = 64 * 1024
"""Of one request."""
SEEN: Final = 10_000
"""Pushes kept for whoever asks, newest last."""
REMEMBERED: Final = 100_000
"""Requests remembered by their id; the oldest are forgotten."""
LOST_S: Final = 3_600.0
"""A request that is never answered is held so long, or until the other side gives up."""

HTML: Final = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


class Seen(Struct, frozen=True):
    """A push that was taken."""

    to: str
    id: str
    body: dict[str, Any]


class Line(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A line of standard input."""

    dead: str = ""
    broken: int = 0
    expire: bool = False


class VendorFake(FakeServer):
    """A gateway: counts `requests`, `taken`, `repeats`, …"""

    def __init__(self, plan: Plan | None, recorder: Recorder | None, clock: Clock | None) -> None:
        super().__init__(plan, recorder)
        self.clock = clock or SystemClock()
        self.seen: deque[Seen] = deque(maxlen=SEEN)
        self.dead: set[str] = set()
        """Devices that are no more."""
        self.next: deque[tuple[int, bytes, dict[str, str]]] = deque()
        """Status, body and headers that the next requests are answered with, whatever they are."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return await self._listen(app, host, port)

    async def hear(self, line: bytes) -> None:
        """A line of standard input. Raises MsgspecError."""
        said = msgspec.json.decode(line, type=Line)
        if said.dead:
            self.dead.add(said.dead)
        self.next.extend([(500, HTML, {})] * min(said.broken, SEEN))
        if said.expire:
            self.expire()

    @abstractmethod
    def expire(self) -> None:
        """What was given out ends now."""

    @abstractmethod
    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        """What a request is answered with; None: nothing, and the connection is cut."""

    def take(self, to: str, id: str, body: dict[str, Any], fate: Fate) -> None:
        """Remember a push."""
        self.count("taken")
        self.seen.append(Seen(to, id, body))
        self.recorder.write({"to": to, "id": id, "fate": fate.answer})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.count("requests")
        if self.next:
            status, text, headers = self.next.popleft()
            return web.Response(status=status, body=text, headers=headers)
        body = _object(await request.read())
        response = await self.answer(request, body)
        if response is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return response

    async def fated(self, fate: Fate, response: web.Response) -> web.Response | None:
        """The answer to a push, late, lost or cut as its fate has it."""
        await asyncio.sleep(fate.latency_ms / 1_000)
        if fate.answer == "lose":
            await asyncio.sleep(LOST_S)
        return None if fate.answer == "cut" else response


def said(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    text = json.dumps(body, ensure_ascii=False)
    return web.Response(status=status, text=text, headers=headers, content_type="application/json")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = {}
    return found if isinstance(found, dict) else {}
