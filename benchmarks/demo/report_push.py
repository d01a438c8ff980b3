"""The demo's table about push, in plain words."""

from __future__ import annotations

from rich.table import Table

from benchmarks.demo.push import GRID, INBOX, PHONES
from benchmarks.demo.pushed import PushFacts


def add_pushes(table: Table, facts: PushFacts) -> None:
    """Its rows."""
    table.add_row(
        "dispatched",
        f"{facts.dispatches:,}",
        f"to {facts.customers:,} customers; {facts.several:,} to each of up to three devices: "
        f"{facts.handed:,} pushes, and each dispatch counted once against the caps",
    )
    phones, grid = facts.reported[PHONES], facts.reported[GRID]
    table.add_row(
        "to devices, by FCM",
        f"{phones.total():,}",
        f"{facts.taken:,} taken; {facts.again:,} times refused for the moment and sent again",
    )
    table.add_row(
        "  device is gone",
        f"{facts.dead[PHONES]:,}",
        "FCM said so: forgotten, the customer's other devices or the next channel are left",
    )
    table.add_row(
        "  unknown",
        f"{phones['unknown']:,}",
        f"{facts.found_open:,} were open at a kill ({facts.arrived:,} of them had arrived: none is "
        f"sent again), {facts.unanswered:,} answers were lost",
    )
    table.add_row(
        "to a partner's system",
        f"{grid.total():,}",
        f"by signed webhook: {facts.posted:,} requests; it knew {facts.repeated:,} repeats by "
        f"their webhook-id and took {facts.once:,} once each",
    )
    words = facts.receipts
    table.add_row(
        "  receipts it posted",
        f"{words.total():,}",
        f"signed: {words['delivered']:,} delivered, {words['read']:,} read, {words['failed']:,} "
        f"failed, some twice, late or in the wrong order; {facts.dead[GRID]:,} addresses are gone",
    )
    inbox = facts.reported[INBOX]
    table.add_row(
        "to the shop's own inbox",
        f"{inbox.total():,}",
        "by a gateway of the shop over plain NATS, in a process of its own: it reported "
        f"{inbox['delivered'] + inbox['read']:,} delivered, {inbox['read']:,} of them read; "
        f"{facts.dead[INBOX]:,} inboxes are gone",
    )
    if facts.replaced:
        table.add_row(
            "replaced as they waited", f"{facts.replaced:,}", "by a newer one of the collapse key"
        )
    table.add_row(
        "down their whole route",
        f"{facts.down:,}",
        "push, WeCom, SMS: the only device was gone, WeCom's window was closed, so it went by SMS; "
        f"{facts.down_delivered:,} delivered",
    )
