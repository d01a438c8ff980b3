"""A host of accounts in a process of its own, as Ray would run it, asked and ordered line by line.

Run by `benchmarks.send`. Takes lines of JSON on standard input and answers each with one:
`["load", "FILE"]` (accounts, pickled as Ray would pass them), `["assign", [0, …]]`, `["status"]`,
`["provide", ["NAME", …]]`, `["collect"]`, `["departures", "FILE"]` and `["stop"]`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pickle
import sys
from array import array
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from actors.account_host import AccountHost
from actors.settings import HubSettings
from benchmarks.idle import resident_bytes
from channels.accounts import AccountConfig
from channels.provider import Events, Provider, Submission
from hub.clock import SystemClock
from hub.service import logs


class WatchedHost(AccountHost):
    """Notes when each submission was given to its provider, if it is asked to."""

    def __init__(self, settings: HubSettings, name: str, *, watch: bool) -> None:
        super().__init__(settings, name)
        self.departures = array("q")
        """Unix ms, by the account's own clock."""
        self._watch = watch

    def _make(self, account: AccountConfig, events: Events) -> Provider:
        provider = super()._make(account, events)
        if self._watch:
            submit, clock, departures = provider.submit, SystemClock(), self.departures

            def noted(submission: Submission) -> None:
                departures.append(clock.now_ms())
                submit(submission)

            provider.submit = noted  # type: ignore[method-assign]
        return provider

    async def carry_out(self, order: list[Any]) -> Any:
        """One line of standard input."""
        match order:
            case ["load", path]:
                await self.configure(accounts_in(path))
            case ["assign", numbers]:
                return await self.assign(numbers)
            case ["provide", names]:
                assert self.runner is not None
                for name in names:
                    self.runner.provider_of(name)
            case ["departures", path]:
                write(path, self.departures)
            case ["status"]:
                return self.look()
            case ["collect"]:
                gc.collect()
            case ["stop"]:
                await self.stop()
        return None

    def look(self) -> dict[str, Any]:
        """Where it stands, and what it costs."""
        assert self.runner is not None
        known = self.runner.describe().values()
        return {
            "resident": resident_bytes(),
            "accounts": len(known),
            "waiting": sum(each["waiting"] for each in known),
            "open": sum(each["open"] for each in known),
            "linked": sum(each["window"] > 0 for each in known),
            "unsent": sum(len(p.unsent) for p in self.runner.partitions.values()),
            "told": self._told(),
            "heard": self._heard(),
            "commit_ms": self._commit_ms(),
        }

    def _commit_ms(self) -> float:
        """Mean time of a commit so far."""
        series = self.counted.snapshot().histograms.get(("tact_account_commit_seconds", ()))
        return series[-1] / sum(series[:-1]) * 1000 if series else 0.0

    def _heard(self) -> float:
        """Messages of customers committed."""
        counted = self.counted.snapshot().counters
        return sum(count for (name, _), count in counted.items() if name == "tact_inbound_total")

    def _told(self) -> dict[str, float]:
        """Receipts committed, by status."""
        told: dict[str, float] = {}
        for (name, labels), count in self.counted.snapshot().counters.items():
            if name == "tact_receipts_total":
                told[labels[2]] = told.get(labels[2], 0) + count
        return told


def accounts_in(path: str) -> tuple[AccountConfig, ...]:
    """The accounts in a file."""
    return pickle.loads(Path(path).read_bytes())  # type: ignore[no-any-return]


def write(path: str, times: array[int]) -> None:
    """Times into a file."""
    Path(path).write_bytes(times.tobytes())


async def serve(options: argparse.Namespace) -> None:
    """Carry out what is asked until `stop`, or until nobody is there to ask."""
    accounts = accounts_in(options.accounts)
    settings = HubSettings(
        options.nats_url,
        "",
        os.environ["TACT_USER"],
        os.environ["TACT_PASSWORD"],
        options.partitions,
        accounts=accounts,
    )
    host = WatchedHost(settings, options.name, watch=options.watch)
    await host.status()
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    answer(None)
    while line := await orders.readline():
        order = msgspec.json.decode(line)
        answer(await host.carry_out(order))
        if order == ["stop"]:
            return


def answer(said: Any) -> None:
    """One line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nats-url", required=True)
    parser.add_argument("--accounts", required=True, help="pickled accounts")
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--name", default="bench")
    parser.add_argument("--watch", action="store_true", help="note when submissions depart")
    parser.add_argument("--profile", default="", help="write a profile of it there")
    options = parser.parse_args()
    logs.configure("warning")
    if not options.profile:
        uvloop.run(serve(options))
        return
    profile = cProfile.Profile()
    profile.runcall(uvloop.run, serve(options))
    profile.dump_stats(options.profile)


if __name__ == "__main__":
    main()
