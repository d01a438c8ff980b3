"""Requests and their replies on one inbox.

nats-py's own `request` lets a caller wait out its timeout when the connection is lost, although the
reply can no longer come, and costs twice as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg


class Replies:
    """Futures by reply subject. Bounded by the requests in flight: each has a time limit."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = ""
        self._count = 0
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    async def listen(self) -> None:
        """Subscribe, once; the client renews it on every reconnect."""
        self._prefix = self._client.new_inbox() + "."
        await self._client.subscribe(self._prefix + "*", cb=self._take)

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> Msg:
        """Publish and wait. Raises TimeoutError, what `fail_all` was given, or nats-py's errors."""
        loop = asyncio.get_running_loop()
        self._count += 1
        inbox = f"{self._prefix}{self._count}"
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[inbox] = future
        limit = loop.call_later(timeout_s, _expire, future)
        try:
            await self._client.publish(subject, payload, inbox, headers)
            return await future
        finally:
            limit.cancel()
            self._waiting.pop(inbox, None)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """The connection is lost, and every reply with it."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error())

    async def _take(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)


def _expire(future: asyncio.Future[Msg]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
