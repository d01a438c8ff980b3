"""Applications beside a whole hub, as a test writes them; and what the hub's streams hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from hub.client import HubClient
from hub.clock import SystemClock
from hub.contract.types import Event, Outcome
from hub.ledger.audit import Streams, read_all, read_feeds, undecided
from hub.ledger.connection import connect
from hub.limits import PARTITIONS
from hub.service.datadir import DataDir
from hub.service.natsd import NatsServer
from tests.support.hub import Hub


class Application:
    """An application that is connected, and hears what becomes of what it wants."""

    def __init__(self, client: HubClient) -> None:
        self.client = client
        self.outcomes: dict[str, list[Outcome]] = {}
        self.events: list[Event] = []

    async def hear_outcomes(self) -> None:
        async for outcome in self.client.outcomes():
            self.outcomes.setdefault(outcome.intent, []).append(outcome)

    async def hear_events(self) -> None:
        async for event in self.client.events():
            self.events.append(event)

    async def says(self, id: str, customer: str, category: str, text: str, **fields: Any) -> None:
        known = {"app": self.client.app, "content": {"text": text}, "to": {"wecom": customer}}
        await self.client.publish(
            known | {"id": id, "customer": customer, "category": category} | fields
        )

    async def orders(self, id: str, customer: str, op: str, **fields: Any) -> None:
        known = {"app": self.client.app, "id": id, "customer": customer, "op": op}
        await self.client.command(known | fields)

    def states(self, id: str) -> list[str]:
        return [outcome.state for outcome in self.outcomes.get(id, ())]

    async def until(self, id: str, *states: str, seconds: float = 30.0) -> list[Outcome]:
        await until(lambda: self.states(id)[-len(states) :] == list(states), seconds)
        return self.outcomes[id]


@contextlib.asynccontextmanager
async def application(hub: Hub, name: str) -> AsyncIterator[Application]:
    async with HubClient.connect(hub.ready["nats"], app=name) as client:
        app = Application(client)
        hearing = [asyncio.create_task(one()) for one in (app.hear_outcomes, app.hear_events)]
        try:
            yield app
        finally:
            for task in hearing:
                task.cancel()
            await asyncio.wait(hearing)


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first truthy answer of a condition."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.05)
    return answer


def conversation(hub: Hub, key: str) -> dict[str, Any]:
    """What `tact customer` shows."""
    shown: dict[str, Any] = json.loads(hub.tact("customer", key, "--json").stdout)
    return shown


def account_of(hub: Hub, name: str) -> dict[str, Any]:
    """What `/status` says of an account; nothing while nobody works for it."""
    found: dict[str, Any] = json.loads(hub.get("/status")[1])["accounts"].get(name, {})
    return found


def owner_of(hub: Hub, account: str) -> int | None:
    """The process that works for an account; None while there is none."""
    found: int | None = account_of(hub, account).get("pid")
    return found


async def read(hub: Hub) -> tuple[Streams, list[Any]]:
    """All there is, when nothing is under way any more."""
    login = NatsServer(DataDir(hub.directory / "tact-data")).hub
    connection = await connect(
        hub.ready["nats"],
        name="test",
        clock=SystemClock(),
        user=login.user,
        password=login.password,
    )
    try:
        async with asyncio.timeout(60):
            while await undecided(connection, PARTITIONS):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.2)
        return await read_all(connection), await read_feeds(connection)
    finally:
        await connection.close()
