"""An application: publishes the shop's intents over plain nats-py, as docs/contract.md tells it to.

A process of its own that shares no code with the hub. Every message is acknowledged by the stream
before it counts; what is not is sent again with the same Nats-Msg-Id. Prints one line of JSON now
and then, and writes the id of every acknowledged intent to a file.

    python -m benchmarks.demo.application --nats URL --acknowledged FILE --seconds S --rate R
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import nats
import uvloop
from nats.js import JetStreamContext

from benchmarks.demo.cdnow import find_log, read_log
from benchmarks.demo.partitions import PASSING, WAIT_S, read_partitions
from benchmarks.demo.purchases import APP, Outgoing, messages, utc_now

IN_FLIGHT = 512
"""Messages without an acknowledgement. A flood is dropped by the server."""
PATIENCE_S = 10.0
"""How long an acknowledgement may take before the message is sent again."""
TRIES = 8
REPORT_S = 0.5
"""Between two lines of progress."""
PACE_S = 0.01
"""How far ahead of its pace it may run before it pauses."""


class Publisher:
    """Publishes with a bounded number in flight, and remembers what was acknowledged."""

    def __init__(self, stream: JetStreamContext, acknowledged: TextIO) -> None:
        self._stream = stream
        self._acknowledged = acknowledged
        self._open: dict[asyncio.Future[Any], Outgoing] = {}
        self._again: list[Outgoing] = []
        self.messages: Counter[str] = Counter()
        """Acknowledged messages, by kind."""
        self.purchases = 0
        self.intents = 0
        """Acknowledged good intents, each once."""
        self.refused_repeats = 0
        """Messages the server knew by their Nats-Msg-Id."""

    @property
    def count(self) -> int:
        return sum(self.messages.values())

    async def publish(self, one: Outgoing) -> None:
        """Returns when there is room for the next; the acknowledgement comes later."""
        headers = dict(one.headers)
        if one.message_id is not None:
            headers["Nats-Msg-Id"] = one.message_id
        future = await self._stream.publish_async(
            one.subject, one.payload, wait_stall=PATIENCE_S, headers=headers or None
        )
        self._open[future] = one
        future.add_done_callback(self._done)

    async def finish(self) -> None:
        """Wait for every acknowledgement; send again what got none."""
        for _ in range(TRIES):
            if self._open:
                await asyncio.wait(self._open, timeout=PATIENCE_S)
            again = [*self._again, *self._open.values()]
            self._open.clear()
            self._again.clear()
            if not again:
                return
            for one in again:
                await self.publish(one)
        raise TimeoutError(f"{len(self._open) + len(self._again)} messages not acknowledged")

    def _done(self, future: asyncio.Future[Any]) -> None:
        one = self._open.pop(future, None)
        if one is None or future.cancelled():
            return
        if future.exception() is not None:  # the stream was away, or full: later
            self._again.append(one)
            return
        self.messages[one.kind] += 1
        self.purchases += one.purchases
        self.intents += len(one.ids)
        self.refused_repeats += bool(future.result().duplicate) and one.kind == "repeat"
        self._acknowledged.writelines(f"{APP}\t{name}\n" for name in one.ids)


async def publish_all(
    url: str, log: Path, seconds: float, rate: float, acknowledged: TextIO
) -> None:
    """Everything there is, `rate` intents a second, but nothing new after `seconds`."""
    purchases = read_log(log)
    client = await nats.connect(url, name="demo-shop", max_reconnect_attempts=-1)
    publisher = Publisher(client.jetstream(publish_async_max_pending=IN_FLIGHT), acknowledged)
    partitions = await read_partitions(client)
    started_s = reported_s = time.monotonic()
    sent = 0
    for one in messages(purchases, utc_now(), partitions):
        ahead_s = started_s + sent / rate - time.monotonic()
        if ahead_s > PACE_S:
            await asyncio.sleep(ahead_s)
        now_s = time.monotonic()
        if now_s - started_s > seconds:
            break
        await publish(publisher, one)
        sent += len(one.ids)
        if now_s - reported_s > REPORT_S:
            reported_s = now_s
            report(publisher, started_s, done=False)
    await publisher.finish()
    report(publisher, started_s, done=True)
    await client.close()


async def publish(publisher: Publisher, one: Outgoing) -> None:
    """Until it is on its way: the connection may be away, or too much wait for an answer."""
    while True:
        try:
            await publisher.publish(one)
        except PASSING:
            await asyncio.sleep(WAIT_S)
        else:
            return


def report(publisher: Publisher, started_s: float, *, done: bool) -> None:
    """One line of JSON on standard output."""
    line = {
        "done": done,
        "messages": publisher.messages,
        "purchases": publisher.purchases,
        "intents": publisher.intents,
        "refused_repeats": publisher.refused_repeats,
        "seconds": round(time.monotonic() - started_s, 3),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--acknowledged", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    options = parser.parse_args()
    with open(options.acknowledged, "w", encoding="ascii") as acknowledged:
        log = options.log or find_log()
        uvloop.run(publish_all(options.nats, log, options.seconds, options.rate, acknowledged))


if __name__ == "__main__":
    main()
