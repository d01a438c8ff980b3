"""Part of `make bench`: WeCom, at our fake of it in a process of its own, in one run.

    python -m benchmarks.wecom [--only rate callbacks welcome kill endpoint] [--rounds 3]

Every measurement starts a real nats-server with `sync_interval: always` on a new directory. The
rate is of the class that Ray runs; callbacks, welcome messages and the kill go through `tact up` as
a user starts it. Method and the last results: benchmarks/README.md. Nothing is printed that was not
measured in this run.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

import uvloop
from rich.console import Console

from benchmarks.figures import figures
from benchmarks.send_rate import Row
from benchmarks.wecom_callbacks import measure_callbacks
from benchmarks.wecom_endpoint import measure_endpoint
from benchmarks.wecom_kill import measure_wecom_kill
from benchmarks.wecom_rate import measure_rate
from benchmarks.wecom_welcome import measure_welcome

PARTS: dict[str, Callable[[Console, argparse.Namespace], Awaitable[list[Row]]]] = {
    "rate": measure_rate,
    "callbacks": measure_callbacks,
    "welcome": measure_welcome,
    "kill": measure_wecom_kill,
    "endpoint": measure_endpoint,
}


async def run(options: argparse.Namespace) -> None:
    """The parts that were asked for, then all figures."""
    console = Console(width=120)
    rows: list[Row] = []
    for name in options.only or PARTS:
        rows += await PARTS[name](console, options)
    console.print(figures("Figures of WeCom", rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="of the rate")
    parser.add_argument("--messages", type=int, default=0, help="at most so many of the rate")
    parser.add_argument("--seconds", type=int, default=30, help="of callbacks")
    parser.add_argument("--profile", default="", help="a file for the host's cProfile: slower")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
