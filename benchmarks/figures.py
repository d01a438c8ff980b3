"""The parts of a benchmark, and its last table: every figure, as measured, and whether it was
reached."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Iterable, Mapping

from rich.console import Console
from rich.table import Table

Row = tuple[str, str, bool]
"""A figure's name, what was measured, whether that is what was wanted."""
Parts = Mapping[str, Callable[[Console, argparse.Namespace], Awaitable[list[Row]]]]


def options_of(about: str | None, parts: Parts) -> argparse.ArgumentParser:
    """The options that benchmarks of several parts share."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--only", nargs="*", choices=list(parts))
    parser.add_argument("--rounds", type=int, default=3, help="of the rate")
    parser.add_argument("--profile", default="", help="a file for the host's cProfile: slower")
    return parser


async def run_parts(title: str, parts: Parts, options: argparse.Namespace) -> None:
    """The parts that were asked for, then all figures."""
    console = Console(width=120)
    rows: list[Row] = []
    for name in options.only or parts:
        rows += await parts[name](console, options)
    console.print(figures(title, rows))


def figures(title: str, rows: Iterable[Row]) -> Table:
    """A row for each figure: its name, what was measured, whether that is what was wanted."""
    table = Table(title=title)
    for heading in ("figure", "measured", "reached"):
        table.add_column(heading)
    for figure, measured, reached in rows:
        table.add_row(figure, measured, "yes" if reached else "[bold red]no[/bold red]")
    return table
