"""Faults of the fake that last for a while: errors, HTML, silence, cut connections and answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal

from aiohttp import web
from msgspec import Struct

from channels.push.fake.fcm_errors import KINDS, error_of
from hub.clock import Clock

FAULTS: Final = 100
"""At once."""
HANG_S: Final = 3_600.0

_PAGE: Final = "<html><head><title>502</title></head><body>Bad Gateway</body></html>"


class Fault(Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong. It ends after `seconds`, or when it has happened `times` times."""

    at: Literal["send", "token"] = "send"
    kind: Literal["error", "html", "http", "hang", "reset", "cut"] = "error"
    """html: a page with 200. http: a bare status. cut: half an answer."""
    code: str = "UNAVAILABLE"
    """Of "error": one of `KINDS`."""
    status: int = 500
    """Of "http"."""
    retry_after_s: float | None = None
    seconds: float = 60.0
    times: int = 0
    """0: any number."""
    share: float = 1.0
    """Of the requests."""
    taken: bool = False
    """The message is taken, and only the answer is wrong."""


class Faults:
    """The faults of now. `counted` is told of each that is met."""

    def __init__(
        self, clock: Clock, chance: random.Random, counted: Callable[[str], object]
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._counted = counted
        self._now: list[tuple[int, Fault]] = []

    def __len__(self) -> int:
        return len(self._now)

    def add(self, fault: Fault) -> None:
        """It begins."""
        now_ms = self._clock.now_ms()
        self._now = [one for one in self._now if one[0] > now_ms][-FAULTS + 1 :]
        self._now.append((now_ms + int(fault.seconds * 1_000), fault))

    def clear(self) -> None:
        """All end."""
        self._now.clear()

    def of(self, at: str) -> Fault | None:
        """What a request meets."""
        if not self._now:
            return None
        now_ms = self._clock.now_ms()
        for index, (until_ms, fault) in enumerate(self._now):
            if fault.at == at and now_ms < until_ms and self._chance.random() < fault.share:
                if fault.times == 1:
                    del self._now[index]
                elif fault.times:
                    fault.times -= 1
                return fault
        return None

    async def meet(
        self, request: web.BaseRequest, fault: Fault, answer: web.Response | None = None
    ) -> web.StreamResponse:
        """What it is answered; `answer`: with what it would have been."""
        self._counted(f"fault_{fault.kind}")
        match fault.kind:
            case "error":
                return error_of(KINDS[fault.code], fault.retry_after_s)
            case "html":
                return page(200)
            case "http":
                return page(fault.status)
            case "cut":
                return await _half(request, answer or page(200))
        return await silent(request, cut=fault.kind == "reset")


def page(status: int) -> web.Response:
    """What something in between answers."""
    return web.Response(text=_PAGE, status=status, content_type="text/html")


async def silent(request: web.BaseRequest, *, cut: bool) -> web.StreamResponse:
    """No answer: the connection is reset, or stays until the other side gives up."""
    if not cut:
        await asyncio.sleep(HANG_S)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _half(request: web.BaseRequest, answer: web.Response) -> web.StreamResponse:
    """An answer whose connection ends in its middle."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    half = web.StreamResponse(status=answer.status)
    half.content_type = answer.content_type
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half
