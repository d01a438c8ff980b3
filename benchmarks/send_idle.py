"""What an idle account costs a host: growth of its resident set."""

from __future__ import annotations

import argparse
import asyncio

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.send_parts import Bench, Child, bench, deliveries, smpp_account
from channels.accounts import AccountConfig, LimitsTable
from channels.sms.web.gateway import UrlGatewayConfig
from hub.contract.types import Delivery

ACCOUNTS = 10_000
USED = 1_000
"""Accounts that are started and send: fewer, for what each costs is no question of their number."""
USED_AT_ONCE = 100
CONNECTED = 200
BINDS_EACH = 50
"""Connections at one simulator, which takes 64."""
WANTED_MB = 100
MB = 1_000_000
SETTLE_S = 6.0
"""Idle connections of the HTTP client are closed after 4 s."""


async def measure_idle_accounts(console: Console, options: argparse.Namespace) -> list[Row]:
    """Without a standing connection (provider `url`): configured; started; used once. With one."""
    console.print(f"[dim]{ACCOUNTS:,} idle accounts …[/dim]")
    async with bench() as made:
        configured, started, used, others = await without_connection(made)
        connected = await with_connection(made)
    table = Table(title="Growth of a host's resident set")
    for heading in ("accounts", "MB", "bytes each"):
        table.add_column(heading, justify="left" if heading == "accounts" else "right")
    for what, grown, count in (
        (f"{ACCOUNTS:,} url, configured", configured, ACCOUNTS),
        (f"{USED:,} of these, started", started, USED),
        (f"{USED:,} of these, after one SMS each", used, USED),
        (f"{USED:,} others after one SMS each, the first put away", others, USED),
        (f"{CONNECTED} smpp, connected", connected, CONNECTED),
    ):
        table.add_row(what, f"{grown / MB:.1f}", f"{grown / count:,.0f}")
    console.print(table)
    all_used = configured + used + others * (ACCOUNTS - USED) // USED
    return [
        (
            f"{ACCOUNTS:,} idle accounts ≤ {WANTED_MB} MB",
            f"{configured / MB:.1f} MB",
            configured <= WANTED_MB * MB,
        ),
        (
            f"the same when all have sent, {USED:,} at a time ≤ {WANTED_MB} MB",
            f"{all_used / MB:.0f} MB, reckoned from {2 * USED:,}",
            all_used <= WANTED_MB * MB,
        ),
    ]


async def without_connection(made: Bench) -> tuple[int, int, int, int]:
    """Bytes that accounts add: configured; USED of them started, as by a callback; used; and USED
    others, when these have left memory."""
    url = await made.fake_gateway()
    accounts = [url_account(f"url{number}", url) for number in range(ACCOUNTS)]
    host = await made.host(accounts[:1])
    await host.ask("assign", list(range(made.partitions)))
    await made.store([to_account(accounts[0].name)])
    await host.until(lambda status: told(status) == 1)
    before = await resident(host)
    await host.ask("load", made.pickled(accounts))
    configured = await resident(host) - before
    some = [account.name for account in accounts[1 : USED + 1]]
    await host.ask("provide", some)
    await host.until(lambda status: status["linked"] == USED + 1)
    started = await resident(host) - before - configured
    used = await use(made, host, some) - before - configured
    await host.until(lambda status: status["accounts"] == 0)
    some = [account.name for account in accounts[USED + 1 : 2 * USED + 1]]
    others = await use(made, host, some) - before - configured - used
    await host.ask("stop")
    return configured, started, used, others


async def use(made: Bench, host: Child, names: list[str]) -> int:
    """Each sends one SMS; the resident set after it."""
    sent = told(await host.ask("status"))
    for start in range(0, len(names), USED_AT_ONCE):
        some = names[start : start + USED_AT_ONCE]
        await made.store([to_account(name) for name in some])
        wanted = sent + start + len(some)
        await host.until(lambda status, wanted=wanted: told(status) == wanted)
    await asyncio.sleep(SETTLE_S)
    return await resident(host)


async def with_connection(made: Bench) -> int:
    """Bytes that accounts add which hold one bind each."""
    centres = [await made.simulator(record=False) for _ in range(CONNECTED // BINDS_EACH + 1)]
    accounts = [
        smpp_account(centres[number // BINDS_EACH].port, f"smpp{number}")
        for number in range(CONNECTED + 1)
    ]
    host = await made.host(accounts[:1], "connected")
    await host.ask("assign", list(range(made.partitions)))
    await host.until(lambda status: status["linked"] == 1)
    before = await resident(host)
    await host.ask("load", made.pickled(accounts))
    await host.until(lambda status: status["linked"] == CONNECTED + 1)
    grown = await resident(host) - before
    await host.ask("stop")
    return grown


async def resident(host: Child) -> int:
    """Resident set of a host, with its garbage collected."""
    await host.ask("collect")
    return int((await host.ask("status"))["resident"])


def told(status: dict[str, dict[str, int]]) -> int:
    return status["told"].get("sent", 0)


def to_account(name: str) -> Delivery:
    delivery = next(deliveries(1, name))
    return replace(delivery, id=f"{delivery.app}:{name}:1", intent=name, customer=f"of-{name}")


def url_account(name: str, url: str) -> AccountConfig:
    settings = UrlGatewayConfig(
        preset="kannel", url=url, user="tact", password="secret", sender="10690001"
    )
    return AccountConfig(
        name=name, channel="sms", provider="url", settings=settings, limits=LimitsTable()
    )
