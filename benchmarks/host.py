"""One host in a process of its own, as Ray would run it, until a number of inputs is committed.

Run by `benchmarks.decide`. Prints `claimed`, and at the end one line of JSON: seconds from the last
claim, after which reading begins, to the last commit, its CPU seconds, and counts. `--relay`
replaces deciding by passing on: same reading, same commits, no decoding and no decision.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

import actors.runner
from actors.host import ConversationHost
from actors.settings import HubSettings
from actors.turn import Turn, Work
from hub import limits
from hub.clock import SystemClock
from hub.ledger.port import IntakeMessage, PartitionImage


class RelayTurn(Turn):
    """Passes every message on as it came to `hub.out.sms.<partition>`, under the same fences."""

    MOST = limits.BATCH_MESSAGES - limits.PARTITIONS
    """A batch of messages, and a log record for each partition."""

    def receive(self, message: IntakeMessage, clock_ms: int) -> int:
        partition = self.owned[message.partition]
        if message.sequence <= partition.checkpoint[message.lane]:
            return 0
        partition.checkpoint[message.lane] = message.sequence
        work = self._work(partition, clock_ms)
        self.pass_on(work, ("sms", partition.number), msgspec.Raw(message.payload))
        work.note_input(message, 1)
        self.load.objects += 1
        self.full = self.load.objects >= self.MOST
        return 1

    def pass_on(self, work: Work, to: tuple[str, int], payload: Any) -> None:
        work.urgent_deliveries.append((to, payload))


class GroupingRelayTurn(RelayTurn):
    """Passes on what came as arrays, as many in one message as the hub would put there."""

    MOST = limits.TURN_INTENTS

    def pass_on(self, work: Work, to: tuple[str, int], payload: Any) -> None:
        work.deliveries.setdefault(to, []).append(payload)


RELAYS = {"as-it-came": RelayTurn, "in-arrays": GroupingRelayTurn}


class _Claimed:
    """Notes when the last partition was claimed: reading begins after that."""

    def __init__(self, host: ConversationHost) -> None:
        self.clock = SystemClock()
        self.at_s = self.cpu_s = 0.0
        assert host.ledger is not None
        self._claim = host.ledger.claim
        host.ledger.claim = self.claim  # type: ignore[method-assign]

    async def claim(self, partition: int, owner: str, now_ms: int) -> PartitionImage:
        image = await self._claim(partition, owner, now_ms)
        self.at_s, self.cpu_s = self.clock.steady_s(), _cpu_s()
        return image


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Own all partitions until `options.inputs` inputs are committed."""
    if options.relay:
        actors.runner.Turn = RELAYS[options.relay]  # type: ignore[misc]
    settings = HubSettings(
        options.nats_url,
        options.policy,
        os.environ["TACT_USER"],
        os.environ["TACT_PASSWORD"],
        options.partitions,
    )
    host = ConversationHost(settings, options.name)
    await host.status()
    claimed = _Claimed(host)
    gc.collect()
    await host.assign([int(number) for number in options.own.split(",")])
    sys.stdout.buffer.write(b"claimed\n")
    sys.stdout.buffer.flush()
    while (done := _inputs(host)) < options.inputs:  # noqa: ASYNC110 - looks at counters
        await asyncio.sleep(0.005)
    result = {
        "seconds": claimed.clock.steady_s() - claimed.at_s,
        "cpu_s": _cpu_s() - claimed.cpu_s,
        "inputs": done,
        "commits": sum(host.counted.snapshot().histograms["tact_commit_seconds", ()][:-1]),
        "outcomes": _outcomes(host),
    }
    await host.stop()
    return result


def _inputs(host: ConversationHost) -> int:
    series = host.counted.snapshot().histograms.get(("tact_commit_intents", ()))
    return int(series[-1]) if series else 0


def _outcomes(host: ConversationHost) -> dict[str, float]:
    counted = host.counted.snapshot().counters
    told: dict[str, float] = {}
    for (name, labels), count in counted.items():
        if name == "tact_outcomes_total":
            told[labels[0]] = told.get(labels[0], 0) + count
    return told


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nats-url", required=True)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--own", required=True, help="partitions, comma separated")
    parser.add_argument("--name", default="bench")
    parser.add_argument("--relay", choices=RELAYS)
    options = parser.parse_args()
    options.policy = Path(options.policy).read_text()
    result = uvloop.run(measure(options))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
