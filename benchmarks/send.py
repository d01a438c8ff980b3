"""Part of `make bench`: deliveries stored in LEDGER to SMS submitted, on one machine, in one run.

    python -m benchmarks.send [--only rate pacing idle kill] [--rounds 3] [--sms 20000]

Every measurement starts a real nats-server with `sync_interval: always` on a new directory, our
SMSC in a process of its own, and the class that Ray runs in another. Method and the last results:
benchmarks/README.md. Nothing is printed that was not measured in this run.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

import uvloop
from rich.console import Console

from benchmarks.figures import figures
from benchmarks.send_idle import measure_idle_accounts
from benchmarks.send_kill import measure_send_kill
from benchmarks.send_pacing import measure_pacing
from benchmarks.send_rate import Row, measure_rate

PARTS: dict[str, Callable[[Console, argparse.Namespace], Awaitable[list[Row]]]] = {
    "rate": measure_rate,
    "pacing": measure_pacing,
    "idle": measure_idle_accounts,
    "kill": measure_send_kill,
}


async def run(options: argparse.Namespace) -> None:
    """The parts that were asked for, then all figures."""
    console = Console(width=120)
    rows: list[Row] = []
    for name in options.only or PARTS:
        rows += await PARTS[name](console, options)
    console.print(figures("Figures of sending", rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="of the rate")
    parser.add_argument("--sms", type=int, default=20_000, help="of the rate, in one run")
    parser.add_argument("--profile", default="", help="a file for the host's cProfile: slower")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
