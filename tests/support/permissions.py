"""A server with the configuration of deploy/nats.conf, and connections to it by user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from hub import limits
from hub.ledger.streams import StreamSizes, stream_configs
from hub.service.natsd import find_binary
from tests.support.ledger import eventually

CONFIG = Path(__file__).parents[2] / "deploy" / "nats.conf"
USERS = ("hub", "sys", "shop", "crm", "desk", "sms-gw", "ops")
SIZES = StreamSizes(8 * limits.MIB, 8 * limits.MIB, 8 * limits.MIB)
FORBIDDEN_WRITES = (
    "hub.out.sms.0",
    "hub.outcome.shop",
    "hub.outcome.crm",
    "hub.event.shop",
    "hub.live.sales",
    "hub.parked.0.b",
    "hub.log.0",
    "hub.in.0.normal.shop",
    "hub.snap.0.a",
)


def password(user: str) -> str:
    return f"p{user.replace('-', '')}secret"


def with_crm(text: str) -> str:
    """The file with a second application, made as its comment says: the block copied."""
    start = text.index("  SHOP: {")
    block = text[start : text.index("\n  }\n", start) + 5]
    return text.replace(block, block + block.replace("SHOP", "CRM").replace("shop", "crm"))


class World:
    """A server with the documented configuration, and connections to it by user."""

    def __init__(self, url: str, stack: contextlib.AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    async def connect(self, user: str, **options: Any) -> Client:
        client = await nats.connect(self.url, user=user, password=password(user), **options)
        self._stack.push_async_callback(client.close)
        return client

    async def hub(self) -> JetStreamContext:
        return (await self.connect("hub")).jetstream()


async def stored(js: JetStreamContext) -> dict[str, int]:
    """Messages by subject in all streams."""
    counts: dict[str, int] = {}
    for stream in ("INTAKE", "LEDGER", "SNAPSHOTS"):
        counts |= (await js.stream_info(stream, subjects_filter=">")).state.subjects or {}
    return counts


async def provision(js: JetStreamContext) -> None:
    """The hub's streams, new and empty."""
    for config in stream_configs(partitions=4, replicas=1, sizes=SIZES):
        with contextlib.suppress(NotFoundError):
            await js.delete_stream(config["name"])
        await js._api_request(
            f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(config).encode()
        )


async def refused(client: Client, subject: str, body: object = None) -> None:
    """A request that reaches nobody."""
    payload = b"" if body is None else json.dumps(body).encode()
    with pytest.raises(NoRespondersError):
        await client.request(subject, payload, timeout=2)


@contextlib.contextmanager
def documented_server(directory: Path) -> Iterator[str]:
    """The address of a server with deploy/nats.conf, and a second application beside `shop`."""
    text = CONFIG.read_text().replace('"/data"', f'"{directory / "store"}"')
    config = directory / "nats.conf"
    config.write_text(with_crm(text))
    variable = {f"TACT_{user.upper().replace('-', '_')}_PASSWORD": password(user) for user in USERS}
    command = [str(find_binary()), "--config", str(config), "-a", "127.0.0.1", "-p", "-1"]
    command += ["-l", str(directory / "log"), "-m", "-1", "--ports_file_dir", str(directory)]

    def address() -> str:
        for file in directory.glob("*.ports"):
            with contextlib.suppress(json.JSONDecodeError):  # being written
                return str(json.loads(file.read_text())["nats"][0])
        return ""

    with subprocess.Popen(command, env={**os.environ, **variable}) as process:
        try:
            asyncio.run(eventually(address))
            yield address()
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def world_of(server_url: str) -> AsyncIterator[World]:
    """New and empty streams, and connections that are closed afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        world = World(server_url, stack)
        await provision(await world.hub())
        yield world
