"""A hub under traffic while its parts are killed and paused; then every promise, from the streams.

Real nats-server, real Ray, two hosts. Nothing here asks how the hub works, only whether what the
streams hold keeps what was promised.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hub.checkers import History, check_all
from hub.client import HubClient
from hub.clock import SystemClock
from hub.ledger.audit import read_all, undecided
from hub.ledger.connection import Connection, connect
from hub.policy.document import parse_policy
from hub.service.datadir import DataDir
from hub.service.natsd import NatsServer
from tests.support.hub import Hub, alive, within

pytestmark = [pytest.mark.nats, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(500)]

POLICY = """
version = 1
timezone = "Asia/Shanghai"
hold_max = "24h"
[categories.marketing]
route = ["wecom", "sms"]
priority = 3
[categories.otp]
route = ["sms"]
priority = 9
bypass = ["cap", "gap"]
[[caps]]
name = "three-a-day"
categories = ["marketing"]
limit = 3
window = "24h"
on = "drop"
[[gaps]]
name = "a-moment-apart"
categories = ["marketing"]
min = "2s"
on = "hold"
"""
# The janitor leaves INTAKE whole, so that it can be read back.
CONFIG = """
policy = "policy.toml"
hosts = 2
[limits]
replay_messages = 1000000
"""
CUSTOMERS = 60
DECIDED_S = 120


class Traffic:
    """An application that publishes until told to stop; every intent is acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = asyncio.Event()
        self._chance = random.Random(7)
        self.acknowledged = 0

    async def run(self) -> None:
        async with HubClient.connect(self._url, app="shop") as hub:
            number = 0
            while not self._stop.is_set():
                lane = self._chance.choice(("urgent", "normal", "bulk"))
                some = [self._intent(number + place, lane) for place in range(8)]
                await hub.publish_many(some, lane=lane)
                number += len(some)
                self.acknowledged = number
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()

    def _intent(self, number: int, lane: str) -> dict[str, Any]:
        return {
            "id": f"i-{number}",
            "app": "shop",
            "customer": f"c-{self._chance.randrange(CUSTOMERS)}",
            "category": "otp" if lane == "urgent" else "marketing",
            "content": {"text": "hello"},
            "to": {"sms": "+8613800000000"},
        }


@pytest.fixture
def hub(tmp_path: Path):
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "tact.toml").write_text(CONFIG)
    hub = Hub(tmp_path, ["--config", "tact.toml"])
    try:
        yield hub.start()
    finally:
        hub.stop(signal.SIGKILL)


def hosts(hub: Hub) -> dict[int, list[int]]:
    """Partitions of every host that answers, by pid."""
    status, body = hub.get("/status")
    assert status == 200
    return {h["pid"]: h["partitions"] for h in json.loads(body)["hosts"] if h["alive"]}


def whole_without(hub: Hub, pid: int) -> bool:
    """Whether every partition is owned by hosts other than `pid`."""
    owned = [n for other, numbers in hosts(hub).items() if other != pid for n in numbers]
    return sorted(owned) == list(range(16))


async def log_in(hub: Hub) -> Connection:
    login = NatsServer(DataDir(hub.directory / "tact-data")).hub
    return await connect(hub.ready["nats"], name="test", user=login.user, password=login.password)


async def test_promises_hold_while_parts_are_killed_and_paused(hub: Hub):
    traffic = Traffic(hub.ready["nats"])
    publishing = asyncio.create_task(traffic.run())

    async def more(count: int = 400) -> None:
        """Wait until so many more are acknowledged: the fault before has had its traffic."""
        wanted = traffic.acknowledged + count
        async with asyncio.timeout(DECIDED_S):
            while traffic.acknowledged < wanted:
                assert not publishing.done(), publishing
                await asyncio.sleep(0.02)

    await more()
    killed = next(iter(hosts(hub)))
    os.kill(killed, signal.SIGKILL)
    await more()
    await asyncio.to_thread(within, 90, lambda: whole_without(hub, killed))

    paused = max(hosts(hub).items(), key=lambda host: len(host[1]))[0]
    os.kill(paused, signal.SIGSTOP)
    try:
        await more()
        await asyncio.to_thread(within, 90, lambda: whole_without(hub, paused))
        await more()
    finally:
        os.kill(paused, signal.SIGCONT)
    # It still believes in its partitions; it is refused, and retired.
    await asyncio.to_thread(within, 90, lambda: not alive({paused}))
    await more()

    os.kill(hub.ready["pids"]["nats"], signal.SIGKILL)
    await more()
    await asyncio.to_thread(within, 90, lambda: hub.readiness() == (200, []))
    traffic.stop()
    await publishing
    await everything_decided(hub)
    await check(hub, traffic.acknowledged)

    assert hub.stop() == 0
    hub.start()
    await check(hub, traffic.acknowledged)
    assert hub.send(customer="c-1", category="otp", id="after")["state"] == "dispatched"
    assert hub.send(customer="c-1", category="marketing", id="after-2")["state"] in (
        "held",
        "suppressed",
    )


async def everything_decided(hub: Hub) -> None:
    connection = await log_in(hub)
    async with asyncio.timeout(DECIDED_S):
        while await undecided(connection, 16):  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.1)
    await connection.close()


async def check(hub: Hub, acknowledged: int) -> None:
    """Every promise, from the streams as they are now."""
    connection = await log_in(hub)
    streams = await read_all(connection)
    await connection.close()
    clock = SystemClock()
    history = History(*streams, policies=[parse_policy(POLICY)], end_ms=clock.now_ms())
    assert len(streams.published) >= acknowledged
    assert check_all(history) == []
    states = Counter(told.outcome.state for told in streams.outcomes)
    assert states["dispatched"] and states["held"] and states["suppressed"], states
