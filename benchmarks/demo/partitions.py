"""Which keys may share an array: those of one partition. All that a client needs to know of it."""

from __future__ import annotations

import asyncio
import json

import nats.errors
import nats.js.errors
from nats.aio.client import Client

PASSING = (TimeoutError, nats.errors.Error, nats.js.errors.Error)
"""What may be raised while the server is busy, or away for a moment."""
WAIT_S = 0.5
TIMEOUT_S = 10.0


def partition_of(key: str, partitions: int) -> int:
    """FNV-1a, 32 bits, of the key's bytes, modulo the number of partitions."""
    value = 2166136261
    for byte in key.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % partitions


async def read_partitions(client: Client) -> int:
    """How many partitions INTAKE has: the number in its subject transform."""
    while True:
        try:
            info = await client.request("$JS.API.STREAM.INFO.INTAKE", b"", timeout=TIMEOUT_S)
        except PASSING:
            await asyncio.sleep(WAIT_S)
        else:
            transform = json.loads(info.data)["config"]["subject_transform"]["dest"]
            return int(transform.split("partition(")[1].split(",")[0])
