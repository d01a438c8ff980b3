"""A gateway for push: takes deliveries and reports receipts over plain nats-py.

It does as docs/contract.md says. A process of its own that shares no code with the hub. It sends
nothing anywhere: what a provider would say is chosen by a hash of the delivery's id. A delivery
message is acknowledged after its receipts are. SIGTERM: finish what is there, and print one line of
JSON with the counts.

    python -m benchmarks.demo.gateway --nats URL
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeVar

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from benchmarks.demo.partitions import (
    PASSING,
    TIMEOUT_S,
    WAIT_S,
    partition_of,
    read_partitions,
)

SOURCE = "demo-gateway"
CHANNELS = ("push",)
"""What it serves. SMS and WeCom are sent by the hub's own accounts."""
FETCH = 64
"""Messages taken at once, each with up to 256 deliveries; so many are unacknowledged at most."""
ARRAY = 256
"""Receipts in one message at most, as the contract allows."""

Receipt = dict[str, Any]
T = TypeVar("T")


def answers(delivery: str) -> list[tuple[str, str | None]]:
    """What becomes of a delivery: (status, failure class), in the order it is reported."""
    lot = int.from_bytes(blake2b(delivery.encode(), digest_size=4).digest()) % 100
    if lot < 3:
        return [("failed", "dead_address")]
    if lot < 4:
        return [("sent", None), ("failed", "provider")]
    if lot < 5:  # and nothing more
        return [("sent", None)]
    if lot < 6:
        return [("unknown", None)]
    if lot < 7:  # some gateways report twice
        return [("delivered", None), ("delivered", None)]
    if lot < 8:  # and some in the wrong order
        return [("read", None), ("delivered", None)]
    if lot < 30:
        return [("delivered", None), ("read", None)]
    return [("delivered", None)]


class Gateway:
    """Takes deliveries, reports receipts, in rounds."""

    def __init__(self, client: Client, partitions: int) -> None:
        self._stream: JetStreamContext = client.jetstream()
        self._partitions = partitions
        self.stopping = False
        self.deliveries: Counter[str] = Counter()
        """Deliveries taken, by channel."""
        self.receipts: Counter[str] = Counter()
        """Receipts published, by status."""

    async def run(self) -> None:
        """Until `stopping` is set and nothing is left."""
        consumer = await patiently(self._subscribe)
        while True:
            try:
                messages = await consumer.fetch(FETCH, timeout=WAIT_S)
            except TimeoutError:  # nothing there
                if self.stopping:
                    return
                continue
            except PASSING:  # reconnecting: try again
                await asyncio.sleep(WAIT_S)
                continue
            await self._report(messages)
            for message in messages:
                await message.ack()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        subjects = [f"hub.out.{channel}.*" for channel in CHANNELS]
        config = ConsumerConfig(
            durable_name=SOURCE,
            ack_policy=AckPolicy.EXPLICIT,
            filter_subjects=subjects,
            max_ack_pending=4 * FETCH,
        )
        await self._stream.add_consumer("LEDGER", config)
        return await self._stream.pull_subscribe_bind(SOURCE, "LEDGER")

    async def _report(self, messages: list[Msg]) -> None:
        """Publish the receipts of some delivery messages; returns when they are acknowledged."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        waiting: dict[int, list[Receipt]] = defaultdict(list)
        for message in messages:
            found = json.loads(message.data)
            for delivery in found if isinstance(found, list) else [found]:
                self.deliveries[delivery["channel"]] += 1
                queue = waiting[partition_of(delivery["customer"], self._partitions)]
                queue.extend(self._receipts(delivery, now))
        arrays = [
            queue[start : start + ARRAY]
            for queue in waiting.values()
            for start in range(0, len(queue), ARRAY)
        ]
        await asyncio.gather(*map(self._publish, arrays))

    def _receipts(self, delivery: dict[str, Any], now: str) -> list[Receipt]:
        receipts = []
        for status, failure in answers(delivery["id"]):
            self.receipts[status] += 1
            receipt = {
                "delivery": delivery["id"],
                "customer": delivery["customer"],
                "status": status,
                "at": now,
            }
            receipts.append(receipt if failure is None else {**receipt, "class": failure})
        return receipts

    async def _publish(self, receipts: list[Receipt]) -> None:
        subject = f"hub.to.receipt.{SOURCE}.{receipts[0]['customer']}"
        payload = json.dumps(receipts, separators=(",", ":")).encode()

        async def publish() -> None:  # more than once is harmless
            await self._stream.publish(subject, payload, timeout=TIMEOUT_S)

        await patiently(publish)


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Until it works: the server may be busy, or away for a moment."""
    while True:
        try:
            return await work()
        except PASSING:
            await asyncio.sleep(WAIT_S)


async def serve(url: str) -> None:
    client = await nats.connect(url, name=SOURCE, max_reconnect_attempts=-1)
    gateway = Gateway(client, await read_partitions(client))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, gateway, "stopping", True)
    await gateway.run()
    line = {"deliveries": gateway.deliveries, "receipts": gateway.receipts}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nats", required=True)
    uvloop.run(serve(parser.parse_args().nats))


if __name__ == "__main__":
    main()
