"""How long a new customer waits for her welcome message while a mass message to 100,000 is under
way: decided, taken over by the accounts of ten members, made into tasks, confirmed, told.

Customers add these same members all the while. Everything goes through `tact up`: the callback, the
rule that answers it, the account. The fake measures from a customer's coming to her message.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.latency import quantile
from benchmarks.load import Load
from benchmarks.send_parts import bench
from benchmarks.wecom_parts import (
    APP,
    FakeWecom,
    Hub,
    accounts_file,
    fake_wecom,
    over_row,
    tact_up,
    taken,
)
from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import partition_of, publish_subject
from hub.contract.types import Inbound
from hub.ledger.audit import Streams

MASS = 100_000
MEMBERS = 10
PER_S = 20
"""Customers who add a member: so many come when a campaign runs well."""
TOGETHER = 100
"""Intents in an array."""
WANTED_S = 1.0
LATE_S = 5.0
"""After the last customer has come: who has no message then, has none."""
SELDOM_S = 1.0
"""Looks at what takes long, and costs the fake something."""
LAST_S = 600.0
"""Until all 100,000 are told: WeCom's results are asked for after 30 s first."""
POLICY = """
version = 1
timezone = "Asia/Shanghai"
[categories.campaign]
route = ["wecom"]
priority = 3
[categories.welcome]
route = ["wecom"]
priority = 9
bypass = ["cap", "gap", "quiet", "presence", "dnd"]
[[caps]]
name = "three-a-day"
categories = ["campaign"]
limit = 3
window = "24h"
on = "hold"
[[replies]]
name = "welcome"
event = "friend_added"
answer = { text = "Welcome!" }
category = "welcome"
app = "shop"
within = "20s"
"""


@dataclass
class Wait:
    """One welcome message: Unix ms, by clocks of one machine."""

    came_ms: float
    heard_ms: float
    """Stored in INTAKE."""
    answered_ms: float
    """Her message stored in LEDGER."""
    sent_ms: float
    """Taken by WeCom."""

    @property
    def ms(self) -> float:
        return self.sent_ms - self.came_ms


LEGS: dict[str, Callable[[Wait], float]] = {
    "callback → stored": lambda wait: wait.heard_ms - wait.came_ms,
    "→ answered": lambda wait: wait.answered_ms - wait.heard_ms,
    "→ sent": lambda wait: wait.sent_ms - wait.answered_ms,
    "all": lambda wait: wait.ms,
}


@dataclass
class Welcomed:
    """What became of both."""

    marks: dict[str, float]
    """Seconds from the first intent to the end of each step of the mass message."""
    waits: list[Wait]
    came: int
    mass: int
    most: int
    """Mass messages to one customer."""
    over: int


async def measure_welcome(console: Console, options: argparse.Namespace) -> list[Row]:
    """Once."""
    console.print(f"[dim]welcome messages while {MASS:,} get a mass message …[/dim]")
    found = await welcomed(options)
    console.print(table_of(found))
    p99_s = quantile([wait.ms for wait in found.waits], 0.99) / 1000
    missing = found.came - len(found.waits)
    return [
        (
            f"welcome message ≤ {WANTED_S:g} s at p99 beside a mass message to {MASS:,}",
            f"{p99_s:.2f} s",
            p99_s <= WANTED_S,
        ),
        ("customers without a welcome message", str(missing), not missing),
        (
            "of the mass message: not sent, sent twice",
            f"{MASS - found.mass}, {found.most - 1}",
            found.mass == MASS and found.most == 1,
        ),
        over_row([found.over]),
    ]


def table_of(found: Welcomed) -> Table:
    """By what the mass message was doing when the customer came, and by leg."""
    table = Table(title=f"Customer added a member → welcome message, {PER_S}/s; p99 ms (p50)")
    table.add_column("the mass message was being")
    table.add_column("seconds", justify="right")
    table.add_column("welcome messages", justify="right")
    for leg in LEGS:
        table.add_column(leg, justify="right")
    begun_ms = from_ms = min(wait.came_ms for wait in found.waits)
    for step, seconds in (*found.marks.items(), ("all of it", inf)):
        if step == "all of it":
            from_ms = begun_ms
        some = [w for w in found.waits if from_ms <= w.came_ms < begun_ms + seconds * 1000]
        if some:
            values = [[leg(wait) for wait in some] for leg in LEGS.values()]
            told = (f"{quantile(v, 0.99):,.0f} ({quantile(v, 0.5):,.0f})" for v in values)
            table.add_row(step, f"{seconds:.0f}", f"{len(some):,}", *told)
        from_ms = begun_ms + seconds * 1000
    return table


async def welcomed(options: argparse.Namespace) -> Welcomed:
    """Both at the same time."""
    size = ["--members", str(MEMBERS), "--customers", str(MASS)]
    came: dict[str, float] = {}
    async with bench() as made, fake_wecom(made, *size) as fake:
        accounts = accounts_file(fake, 1, 0, MEMBERS)
        async with tact_up(made, fake, accounts, POLICY, profile=options.profile) as hub:
            coming = asyncio.create_task(come(fake, came))
            marks = await send_mass(made.natsd.url, fake, hub)
            coming.cancel()
            await asyncio.wait([coming])
            await asyncio.sleep(LATE_S)
        seen = await fake.seen()
        streams = await made.streams()
        record = await fake.process.finished()
    mass = Counter(line["to"] for line in taken(record, "mass"))
    return Welcomed(
        marks,
        waits_of(came, streams, taken(record, "welcome")),
        len(came),
        len(mass),
        max(mass.values()),
        sum(seen["violations"].values()),
    )


def waits_of(
    came: dict[str, float], streams: Streams, sent: Iterable[Mapping[str, Any]]
) -> list[Wait]:
    """Of every customer who got her message."""
    heard = {
        each.message.sender: each.stored_ms
        for each in streams.published
        if isinstance(each.message, Inbound)
    }
    answered = {handed.delivery.to: handed.stored_ms for handed in streams.deliveries}
    return [
        Wait(came[to], heard[to], answered[to], line["at"])
        for line in sent
        if (to := line["to"]) in came
    ]


async def come(fake: FakeWecom, came: dict[str, float]) -> None:
    """A customer after the other adds a member, at a steady pace; notes when."""
    clock = SystemClock()
    begun_s = clock.steady_s()
    for number in itertools.count():
        await asyncio.sleep(max(begun_s + number / PER_S - clock.steady_s(), 0))
        # Told by us: what the fake is busy with is part of the wait.
        name = f"wmnew{number:07d}"
        came[name] = clock.now_ms()
        body = {"userid": f"m{number % MEMBERS + 1}", "external_userid": name}
        await fake.do("add-contact", **body)


async def send_mass(url: str, fake: FakeWecom, hub: Hub) -> dict[str, float]:
    """The whole of it; returns how long each step took."""
    clock = SystemClock()
    begun_s = clock.steady_s()
    marks: dict[str, float] = {}
    await Load(url).publish(intents())
    marks["stored"] = clock.steady_s() - begun_s
    await hub.until("tact_outcomes_total", MASS, state="dispatched", category="campaign")
    marks["decided"] = clock.steady_s() - begun_s
    async with asyncio.timeout(LAST_S):
        while sum((await fake.seen())["sends"].get("mass", {}).values()) < MASS:  # noqa: ASYNC110
            await asyncio.sleep(SELDOM_S)
        marks["sent by the members"] = clock.steady_s() - begun_s
        while await hub.total("tact_receipts_total", status="sent") < MASS:  # noqa: ASYNC110
            await asyncio.sleep(SELDOM_S)
        marks["told"] = clock.steady_s() - begun_s
    return marks


def intents() -> Iterator[tuple[str, bytes]]:
    """(subject, payload) of one for each customer; the keys of an array fall in one partition."""
    keys: list[list[int]] = [[] for _ in range(limits.PARTITIONS)]
    for number in range(MASS):
        keys[partition_of(_key(number), limits.PARTITIONS)].append(number)
    for among in keys:
        for start in range(0, len(among), TOGETHER):
            some = among[start : start + TOGETHER]
            payload = b"[" + b",".join(_intent(number) for number in some) + b"]"
            yield publish_subject("bulk", APP, _key(some[0])), payload


def _key(number: int) -> str:
    return f"c{number:07d}"


def _intent(number: int) -> bytes:
    # The fake's members serve its customers in turn.
    return (
        f'{{"id":"o{number:07d}","app":"{APP}","customer":"{_key(number)}",'
        f'"category":"campaign","account":"app0-m{number % MEMBERS + 1}",'
        f'"to":{{"wecom":"wm{number + 1:06d}"}},"content":{{"text":"Ten percent off."}}}}'
    ).encode()
