"""The shop's gateway: puts deliveries into inboxes and reports receipts, over plain nats-py.

It does as docs/contract.md and docs/gateways.md say, for one account of a channel of which the hub
serves others. A process of its own that shares no code with the hub. An inbox is a table by the
delivery's id, here a file of JSON lines; what has become of it is chosen by a hash of that id.
Receipts are published before the delivery's message is acknowledged. SIGTERM: finish what is there,
and print one line of JSON with the counts.

    python -m benchmarks.demo.gateway --nats URL --account NAME --record FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from benchmarks.demo.cdnow import chosen
from benchmarks.demo.partitions import (
    PASSING,
    TIMEOUT_S,
    WAIT_S,
    partition_of,
    read_partitions,
)

SOURCE = "inbox-gateway"
FETCH = 64
"""Messages taken at once, each with up to 256 deliveries; so many are unacknowledged at most."""
ARRAY = 256
"""Receipts in one message at most, as the contract allows."""
GONE = 2
READ = 30
"""Of a hundred inboxes so many are closed, and of a hundred messages so many are read at once."""

Receipt = dict[str, Any]
T = TypeVar("T")


def answers(delivery: str, to: str) -> list[tuple[str, str | None]]:
    """What becomes of a delivery: (status, failure class), in the order it is reported."""
    if chosen(f"{to} closed", 100) < GONE:
        return [("failed", "dead_address")]
    if chosen(f"{delivery} read", 100) < READ:
        return [("delivered", None), ("read", None)]
    return [("delivered", None)]


class Gateway:
    """Takes deliveries, reports receipts, in rounds."""

    def __init__(self, client: Client, partitions: int, account: str, record: Path) -> None:
        self._account = account
        self._stream: JetStreamContext = client.jetstream()
        self._partitions = partitions
        self._inbox = record.open("w", encoding="utf-8")
        self._known: set[str] = set()
        self.stopping = False
        self.receipts: Counter[str] = Counter()
        """Receipts published, by status."""

    @property
    def taken(self) -> int:
        """Deliveries for the inbox, each counted once."""
        return len(self._known)

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
            await self._take(messages)
            for message in messages:
                await message.ack()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        config = ConsumerConfig(
            durable_name=SOURCE,
            ack_policy=AckPolicy.EXPLICIT,
            filter_subject="hub.out.push.*",
            max_ack_pending=4 * FETCH,
        )
        await self._stream.add_consumer("LEDGER", config)
        return await self._stream.pull_subscribe_bind(SOURCE, "LEDGER")

    async def _take(self, messages: list[Msg]) -> None:
        """What is for the inbox, of some messages; returns when its receipts are acknowledged."""
        waiting: dict[int, list[Receipt]] = defaultdict(list)
        for message in messages:
            found = json.loads(message.data)
            for delivery in found if isinstance(found, list) else [found]:
                if delivery["account"] == self._account:
                    queue = waiting[partition_of(delivery["customer"], self._partitions)]
                    queue.extend(self._put(delivery))
        self._inbox.flush()
        arrays = [
            queue[start : start + ARRAY]
            for queue in waiting.values()
            for start in range(0, len(queue), ARRAY)
        ]
        await asyncio.gather(*map(self._publish, arrays))

    def _put(self, delivery: dict[str, Any]) -> list[Receipt]:
        """Into its inbox, where a repeat changes nothing; what there is to report."""
        now, receipts = time.time(), []
        answered = answers(delivery["id"], delivery["to"])
        if delivery["id"] not in self._known:
            self._known.add(delivery["id"])
            line = {"at": now * 1000, "delivery": delivery["id"], "to": delivery["to"]}
            line["took"] = answered[0][0] == "delivered"
            self._inbox.write(json.dumps(line) + "\n")
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        common = {"delivery": delivery["id"], "customer": delivery["customer"], "at": at}
        for status, failure in answered:
            self.receipts[status] += 1
            more = {} if failure is None else {"class": failure, "to": delivery["to"]}
            receipts.append({**common, "status": status, **more})
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


async def serve(url: str, account: str, record: Path) -> None:
    client = await nats.connect(url, name=SOURCE, max_reconnect_attempts=-1)
    gateway = Gateway(client, await read_partitions(client), account, record)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, gateway, "stopping", True)
    await gateway.run()
    line = {"taken": gateway.taken, "receipts": gateway.receipts}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--account", required=True)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    uvloop.run(serve(options.nats, options.account, options.record))


if __name__ == "__main__":
    main()
