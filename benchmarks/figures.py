"""The last table of a benchmark: every figure, as measured, and whether it was reached."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table


def figures(title: str, rows: Iterable[tuple[str, str, bool]]) -> Table:
    """A row for each figure: its name, what was measured, whether that is what was wanted."""
    table = Table(title=title)
    for heading in ("figure", "measured", "reached"):
        table.add_column(heading)
    for figure, measured, reached in rows:
        table.add_row(figure, measured, "yes" if reached else "[bold red]no[/bold red]")
    return table
