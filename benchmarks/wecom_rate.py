"""How fast one host of accounts writes to members and to customers of customer service.

Nothing is raised above WeCom's documented limits, and the accounts keep their default budgets
(5,000 calls of one API in a minute for one corp): so the customer service arm is spread over
several corps, and as many messages as one address may send in a minute.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.processes import cpu_s
from benchmarks.send_parts import Bench, Child, bench
from benchmarks.wecom_parts import (
    APP,
    FakeWecom,
    app_account,
    copy_of,
    delivery,
    fake_wecom,
    kf_account,
    named_in,
    over_row,
    taken,
)
from channels.accounts import AccountConfig
from hub.checkers.account_records import AccountHistory, Submit
from hub.checkers.accounts import check_accounts
from hub.contract.types import Delivery, Receipt
from hub.ledger.audit import Streams

WANTED_PER_S = 1_000
MEMBERS = 20_000
"""Each is written to once: a member may get 30 messages a minute of one application."""
KF_CORPS = 4
KF_CUSTOMERS = 950
"""Of each corp, written to as often as WeCom lets us after a message of theirs: 4,750 calls of one
API for each corp, 19,000 from one address, which may make 20,000 in a minute."""
KF_EACH = 5
SAME = "The shop is closed on Monday."


@dataclass
class Run:
    """One backlog sent."""

    count: int
    seconds: float
    """First message that WeCom took to the last, by the fake's clock."""
    told_seconds: float
    """The same to the last receipt stored in INTAKE."""
    requests: int
    cpu_us: dict[str, float] = field(default_factory=dict)
    """Of each process, for one message."""
    violations: int = 0
    over: int = 0

    @property
    def per_s(self) -> float:
        return self.count / self.seconds


async def measure_rate(console: Console, options: argparse.Namespace) -> list[Row]:
    """All arms in rounds."""
    runs: dict[str, list[Run]] = {}
    arms: dict[str, Callable[[argparse.Namespace], Awaitable[Run]]] = {
        "members, each its own text": lambda o: to_members(o, same=False),
        "members, the same text": lambda o: to_members(o, same=True),
        "customer service, each its own text": to_customers,
    }
    for number in range(options.rounds):
        for name, arm in arms.items():
            console.print(f"[dim]round {number + 1}: {name} …[/dim]")
            runs.setdefault(name, []).append(await arm(options))
    console.print(table(runs))
    rows = []
    for name, several in runs.items():
        per_s = median(several).per_s
        figure = f"{name} ≥ {WANTED_PER_S:,}/s"
        rows.append((figure, f"{per_s:,.0f}/s", per_s >= WANTED_PER_S))
    every = [run for several in runs.values() for run in several]
    broken = sum(run.violations for run in every)
    return [
        *rows,
        ("repeats, losses, out of order at that rate", str(broken), not broken),
        over_row([run.over for run in every]),
    ]


# ---- the arms ------------------------------------------------------------------------------------


async def to_members(options: argparse.Namespace, *, same: bool) -> Run:
    """Everything is stored before the host starts."""
    async with bench() as made, fake_wecom(made, "--members", str(MEMBERS)) as fake:
        account = app_account(fake, "app")
        text = SAME if same else None
        messages = [delivery(n, "app", f"m{n + 1}", text) for n in range(MEMBERS)]
        if options.messages:
            del messages[options.messages :]
        await made.store(messages)
        return await send(made, fake, [account], messages, "app", options)


async def to_customers(options: argparse.Namespace) -> Run:
    """Each customer has written, and a host that ended before the measured one starts has read it:
    else nothing may be sent to her."""
    corps = ["--corps", str(KF_CORPS)]
    async with bench() as made, fake_wecom(made, *corps) as fake:
        accounts = [kf_account(fake, f"kf{corp}", corp) for corp in range(KF_CORPS)]
        customers = min(KF_CUSTOMERS, (options.messages or MEMBERS) // (KF_CORPS * KF_EACH))
        for corp in fake.corps:
            repeat = {"rate": 5_000, "seconds": customers / 5_000, "customers": customers}
            said = {"text": "hello"}
            await fake.do("repeat", corp_id=corp, do="customer-writes", body=said, **repeat)
        await fake.until("kf_happened", KF_CORPS * customers)
        async with host(made, accounts, "reader") as reader:
            await reader.until(lambda status: status["heard"] == KF_CORPS * customers)
        places = itertools.product(range(KF_EACH), range(customers), accounts)
        messages = [
            to_customer(number, account.name, f"c{customer + 1}")
            for number, (_, customer, account) in enumerate(places)
        ]
        await made.store(messages)
        return await send(made, fake, accounts, messages, "kf", options)


def to_customer(number: int, account: str, to: str) -> Delivery:
    """One for a customer: her name at one corp is another customer's at the next."""
    return replace(delivery(number, account, to), customer=f"{account}-{to}")


@asynccontextmanager
async def host(
    made: Bench, accounts: Sequence[AccountConfig], name: str, *, profile: str = ""
) -> AsyncIterator[Child]:
    """A host that owns everything, stopped in order."""
    started = await made.host(accounts, name, profile=profile)
    await started.ask("assign", list(range(made.partitions)))
    yield started
    await started.ask("stop")


async def send(
    made: Bench,
    fake: FakeWecom,
    accounts: Sequence[AccountConfig],
    messages: Sequence[Delivery],
    kind: str,
    options: argparse.Namespace,
) -> Run:
    """Start the host, and let it send everything."""
    asked_before = await requests(fake)
    child = await made.host(accounts, profile=copy_of(options.profile, kind))
    processes: dict[str, Callable[[], float]] = {
        "host": lambda: cpu_s(child.pid),
        "fake": lambda: cpu_s(fake.process.pid),
        "server": made.cpu_s,
    }
    before = {who: used() for who, used in processes.items()}
    await child.ask("assign", list(range(made.partitions)))
    await child.until(lambda s: ended(s) == len(messages) and not s["unsent"])
    cpu_us = {who: (used() - before[who]) / len(messages) * 1e6 for who, used in processes.items()}
    await child.ask("stop")
    asked, over = await requests(fake) - asked_before, await fake.over()
    sent = submits(await fake.process.finished(), kind, messages)
    streams = await made.streams()
    first_ms = min(submit.at_ms for submit in sent)
    last_ms = max(submit.at_ms for submit in sent)
    told_ms = max(p.stored_ms for p in streams.published if isinstance(p.message, Receipt))
    return Run(
        len(sent),
        (last_ms - first_ms) / 1000,
        (told_ms - first_ms) / 1000,
        asked,
        cpu_us,
        violations(streams, sent, len(messages)),
        over,
    )


def ended(status: dict[str, dict[str, int]]) -> int:
    """How many have been told of."""
    return status["told"].get("sent", 0) + status["told"].get("failed", 0)


async def requests(fake: FakeWecom) -> int:
    """Calls so far."""
    return sum((await fake.seen())["apis"].values())


def submits(
    record: list[dict[str, object]], kind: str, messages: Sequence[Delivery]
) -> list[Submit]:
    """What was taken: known by the text, or where all have the same by the member."""
    of = {each.id: each for each in messages}
    to = {each.to: each for each in messages}
    found = []
    for line in taken(record, kind):
        name = named_in(line)
        known = of[name] if name else to[line["to"]]
        found.append(Submit(line["at"], known.account, known.id, APP, line["to"]))
    return found


def violations(streams: Streams, sent: list[Submit], count: int) -> int:
    """Of the promises of accounts, and what was not sent."""
    history = AccountHistory(submits=sent, handed=streams.deliveries, published=streams.published)
    return len(check_accounts(history)) + count - len({submit.delivery for submit in sent})


# ---- the report ------------------------------------------------------------------------------


def median(runs: list[Run]) -> Run:
    """The run in the middle."""
    return sorted(runs, key=lambda run: run.per_s)[(len(runs) - 1) // 2]


def table(runs: dict[str, list[Run]]) -> Table:
    made = Table(title="Stored in LEDGER → taken by WeCom, through one host; medians")
    headings = (
        "to",
        "messages/s",
        "range",
        "told/s",
        "a request",
        "host µs",
        "fake µs",
        "server µs",
    )
    for heading in headings:
        made.add_column(heading, justify="left" if heading == headings[0] else "right")
    for name, several in runs.items():
        run = median(several)
        speeds = sorted(each.per_s for each in several)
        made.add_row(
            name,
            f"{run.per_s:,.0f}",
            f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}",
            f"{run.count / run.told_seconds:,.0f}",
            f"{run.count / run.requests:,.1f}",
            *(f"{used:.0f}" for used in run.cpu_us.values()),
        )
    return made
