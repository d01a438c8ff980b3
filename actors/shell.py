"""What hosts of both kinds are as Ray actors: one process, one connection, one loop, questions.

The supervisor's calls come through Ray; the data path never makes one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Coroutine
from typing import Any

import structlog

from actors.settings import HubSettings
from hub.clock import SystemClock
from hub.garbage import spare_what_stays
from hub.ledger.connection import Connection, connect
from hub.ledger.questions import Handler, serve
from hub.metrics import Metrics

log = structlog.get_logger("tact.host")


class HostShell:
    """Opening, answering and ending. `_opening` is held while the host is being opened."""

    answers_at_once = 1
    """Questions of one partition that are answered side by side."""

    def __init__(self, settings: HubSettings, name: str, answer: Handler) -> None:
        """`answer`: to a question about one of its partitions."""
        self.incarnation = f"{name}-{secrets.token_hex(4)}"
        self.counted = Metrics()
        self._settings = settings
        self._name = name
        self._clock = SystemClock()
        self._connection: Connection | None = None
        self._loop: asyncio.Task[None] | None = None
        self._answer_with = answer
        self._answering: dict[int, Any] = {}
        self._opening = asyncio.Lock()

    async def _connect(self) -> Connection:
        settings = self._settings
        spare_what_stays()
        self._connection = await connect(
            settings.nats_url,
            name=f"tact-{self.incarnation}",
            user=settings.user,
            password=settings.password,
        )
        return self._connection

    def _run(self, loop: Coroutine[Any, Any, None]) -> None:
        self._loop = asyncio.create_task(loop)
        self._loop.add_done_callback(_die_if_failed)

    async def _disconnect(self) -> None:
        """After the runner has been told to stop."""
        if self._loop is not None:
            await asyncio.wait([self._loop])
        if self._connection is not None:
            await self._connection.close()

    async def _answer_for(self, numbers: set[int]) -> None:
        """Answer questions about exactly these partitions, by the numbers of their logs."""
        assert self._connection is not None
        for number in [n for n in self._answering if n not in numbers]:
            await self._answering.pop(number).unsubscribe()
        for number in numbers - self._answering.keys():
            self._answering[number] = await serve(
                self._connection, number, self._answer_with, at_once=self.answers_at_once
            )


def _die_if_failed(loop: asyncio.Task[None]) -> None:
    """A runner that fails has no state worth keeping: Ray starts a new process, which recovers."""
    if not loop.cancelled() and (error := loop.exception()) is not None:
        log.error("host-failed", exc_info=error)
        os._exit(70)
