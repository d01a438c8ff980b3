"""Publishing as an application would: acknowledged, with a bounded number in flight."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import nats

from hub import limits
from hub.contract.subjects import partition_of

IN_FLIGHT = 512


class Load:
    """Publishes to INTAKE from this process; the server is what limits it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def publish(self, messages: Iterable[tuple[str, bytes]]) -> dict[int, int]:
        """Publish everything; returns the messages stored per partition, as acknowledged."""
        client = await nats.connect(self._url)
        stored: Counter[int] = Counter()
        waiting = iter(messages)

        async def worker() -> None:
            for subject, payload in waiting:
                reply = await client.request(subject, payload, timeout=30)
                if b'"seq"' not in reply.data:
                    raise SystemExit(f"refused by the stream: {reply.data.decode()}")
                stored[partition_of(subject.rsplit(".", 1)[1], limits.PARTITIONS)] += 1

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        await client.close()
        return stored
