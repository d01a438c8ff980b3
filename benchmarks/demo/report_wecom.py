"""The demo's table about WeCom, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from benchmarks.demo.facts import percentile
from benchmarks.demo.talks import TalkFacts


def add_talks(table: Table, facts: TalkFacts, told: Mapping[str, Any]) -> None:
    """Its rows. `told`: what the fake counted."""
    counts, times = told["counts"], told["times"]
    callback = times.get("callback_ms", {"p50": 0.0, "p99": 0.0})
    table.add_row(
        "customers who wrote in",
        f"{facts.customers:,}",
        f"{counts.get('callbacks_taken', 0):,} encrypted callbacks in all, answered in "
        f"{callback['p50']:,.0f} ms (p50), {callback['p99']:,.0f} ms (p99, over the kills)",
    )
    table.add_row(
        "  answered by a rule",
        f"{len(facts.waits_ms):,}",
        f"within {_spread(facts.calm_ms)} ms (p50, p99) before the first kill; whole run "
        f"{_spread(facts.waits_ms)} ms; the others asked for something else",
    )
    went = " and ".join(f"{count:,} went by {channel}" for channel, count in facts.released.items())
    table.add_row(
        "  a person took over",
        f"{facts.taken_over:,}",
        f"{facts.held:,} campaign messages were held until the person was done; then "
        f"{went or 'none went'}",
    )
    table.add_row(
        "order notices by WeCom",
        f"{facts.in_window:,}",
        "WeCom allows 5 within 48 h of a customer's own message",
    )
    refused = "".join(f"; {count:,} refused: {why}" for why, count in facts.refused.most_common(3))
    table.add_row(
        "  window closed: by SMS",
        f"{facts.closed + facts.refused.total():,}",
        f"{facts.closed:,} by our policy, before WeCom was asked{refused}",
    )
    table.add_row(
        "answers lost by WeCom",
        f"{counts.get('trouble_cut', 0):,}",
        "such a message is sent again under its id, as are those open at the kill: WeCom knew "
        f"{counts.get('kf_repeated_msgid', 0):,}",
    )
    table.add_row(
        "welcome messages",
        f"{len(facts.welcomes_ms):,}",
        f"to {facts.came:,} who added a member, within "
        f"{percentile(facts.welcomes_ms, 0.5) / 1000:.1f} s (p50), "
        f"{percentile(facts.welcomes_ms, 0.99) / 1000:.1f} s (p99); WeCom allows 20 s",
    )
    table.add_row(
        "mass messages confirmed",
        f"{facts.confirmed.total():,}",
        f"of {facts.mass:,}, by {len(facts.confirmed)} members in {facts.tasks:,} tasks",
    )
    table.add_row("groups made by command", f"{facts.groups:,}", f"and {facts.reports:,} messages")
    table.add_row("lines of the live feed", f"{facts.shown:,}", "as `tact watch` shows it")


def _spread(waits_ms: list[float]) -> str:
    return f"{percentile(waits_ms, 0.5):,.0f} and {percentile(waits_ms, 0.99):,.0f}"
