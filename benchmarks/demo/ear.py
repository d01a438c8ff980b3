"""What the shop's desk hears of the hub while it runs: outcomes, and the live feed of an account.

As any application would, by consumers of its own; nothing of it is counted, since the streams are
read back whole at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from nats.aio.msg import Msg

from hub.contract.subjects import live_subject, outcome_subject
from hub.ledger.connection import Connection
from hub.ledger.streams import LEDGER

_objects = msgspec.json.Decoder(list[dict[str, Any]] | dict[str, Any]).decode


class Ear:
    """Hears the outcomes of some applications, and one account's conversations."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], set[str]] = {}
        """(application, intent) to the states it has been in."""
        self.sessions: dict[str, str] = {}
        """Customer to the state of the session in customer service, as last told."""
        self._moved = asyncio.Condition()

    async def start(self, connection: Connection, account: str, *apps: str) -> None:
        """Follow from the beginning, as long as the connection lives."""
        stream = connection.client.jetstream()
        takes = {live_subject(account): self.take_said}
        takes |= {outcome_subject(app): partial(self.take_told, app) for app in apps}
        for subject, take in takes.items():

            async def read(message: Msg, take: Callable[[dict[str, Any]], None] = take) -> None:
                found = _objects(message.data)
                for one in found if isinstance(found, list) else [found]:
                    take(one)
                async with self._moved:
                    self._moved.notify_all()

            await stream.subscribe(subject, stream=LEDGER, ordered_consumer=True, cb=read)

    def take_told(self, app: str, told: dict[str, Any]) -> None:
        """An outcome."""
        self.states.setdefault((app, told["intent"]), set()).add(told["state"])

    def take_said(self, said: dict[str, Any]) -> None:
        """A line of the live feed."""
        content = said["content"]
        if content.get("event") == "session_changed":
            self.sessions[said["customer"]] = content.get("state", "")

    async def until(self, heard: Callable[[], bool], timeout_s: float) -> None:
        """Wait until it is so. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._moved:
            await self._moved.wait_for(heard)
