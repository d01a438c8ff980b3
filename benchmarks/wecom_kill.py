"""SIGKILL of hosts of accounts in the middle of everything: nothing lost, nothing told or sent
twice.

`tact up` with two hosts of accounts. While they answer customers of customer service and write to
members, customers write, members write, and customers add members; the host that has most open is
killed, and later the one that has most then. The callbacks come to whoever owns the account.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from benchmarks.send_parts import PATIENCE_S, Bench, bench
from benchmarks.wecom_parts import (
    APP,
    LOOK_S,
    FakeWecom,
    Hub,
    accounts_file,
    delivery,
    fake_wecom,
    named_in,
    open_kfid,
    over_row,
    tact_up,
    taken,
)
from hub.checkers.account_records import AccountHistory, Submit
from hub.checkers.accounts import check_accounts
from hub.clock import SystemClock
from hub.contract.types import Delivery, Inbound, Receipt
from hub.ledger.audit import Streams

CORPS = 2
KF = 2
MEMBERS = 2
CUSTOMERS = 400
"""Of each account of customer service, each written to as often as she may be."""
EACH = 5
TO_MEMBERS = 1_500
"""Of each corp: that many members are there, who get a message each."""
LATENCY_MS = 150
"""Mean time of an answer, so that much is open at any moment."""
HEARD_PER_S = 60
"""Messages and events of customers and members, of each kind in turn."""
KILLS_AT = (0.15, 0.5)
"""Shares of the messages to customers that are sent when a host is killed."""
UNKNOWN_AFTER = "10s"
"""A message to a member that nobody answered is not repeated, and told to be unknown then."""
LOOKED_AT_MS = 20_000.0
"""After a kill: the longest pause within."""
UNTIL_LOST_S = 30.0
"""Without anything new for so long what is missing is lost."""
POLICY = """
version = 1
timezone = "Asia/Shanghai"
[categories.campaign]
route = ["wecom"]
[archive]
channels = ["wecom"]
keep = "1d"
"""


@dataclass
class Said:
    """What was said to us, as the fake told when it was made to happen."""

    messages: set[str] = field(default_factory=set)
    """Ids."""
    came: set[str] = field(default_factory=set)
    """Customers who have added a member: the event has an id of ours."""


@dataclass
class Killed:
    """What became of it."""

    open: list[int]
    """At each kill, of that host."""
    pauses_s: list[float]
    """The longest time after each kill in which nothing came of that host's accounts."""
    ends: dict[str, Counter[str]]
    """Of messages to customers and to members: the last that was told."""
    sent: dict[str, int]
    twice: dict[str, int]
    refused_repeats: int
    """Sent again under their ids, since nobody knew, and refused by WeCom for that."""
    said: int
    lost: int
    heard: int
    """Different messages and events in INTAKE."""
    repeated: int
    """Of these, more than once there: conversations know them by their ids."""
    again: int
    """Callbacks that had to be repeated."""
    violations: int
    over: int
    shown_twice: int = 0
    """In the feeds that applications follow."""


async def measure_wecom_kill(console: Console, options: argparse.Namespace) -> list[Row]:
    """Once, with all kills."""
    console.print(f"[dim]SIGKILL of {len(KILLS_AT)} hosts of accounts, one after the other …[/dim]")
    found = await kill(options)
    for number, (open_then, silent_s) in enumerate(zip(found.open, found.pauses_s, strict=True)):
        what = f"{open_then:,} open, {silent_s:.2f} s without a message of its accounts"
        console.print(f"kill {number + 1}: {what}")
    table = Table(title="What was told of each message in the end")
    for heading in ("to", "messages", "taken by WeCom", "told"):
        table.add_column(heading, justify="right" if heading != "to" else "left")
    for to, ends in found.ends.items():
        told = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        table.add_row(to, f"{ends.total():,}", f"{found.sent[to]:,}", told)
    console.print(table)
    console.print(
        f"{found.said:,} messages and events of customers and members, {found.again} callbacks "
        f"repeated, {found.repeated} of them twice in INTAKE; {found.refused_repeats} messages "
        "sent again under their ids, and refused"
    )
    customers = found.ends["customers"]
    return [
        ("messages and events of customers lost", str(found.lost), not found.lost),
        ("published twice to applications", str(found.shown_twice), not found.shown_twice),
        (
            "messages to customers sent twice",
            str(found.twice["customers"]),
            not found.twice["customers"],
        ),
        (
            "messages to customers not sent",
            str(customers.total() - customers["sent"]),
            customers.total() == customers["sent"] == found.sent["customers"],
        ),
        ("messages to members sent twice", str(found.twice["members"]), not found.twice["members"]),
        ("other promises of accounts broken", str(found.violations), not found.violations),
        over_row([found.over]),
    ]


async def kill(options: argparse.Namespace) -> Killed:
    """Kill in mid-flight, and let the others finish."""
    size = ["--corps", str(CORPS), "--kf-accounts", str(KF), "--members", str(TO_MEMBERS)]
    size += ["--latency-ms", str(LATENCY_MS)]
    async with bench() as made, fake_wecom(made, *size) as fake:
        accounts = accounts_file(fake, CORPS, KF, MEMBERS, unknown_after=UNKNOWN_AFTER)
        async with tact_up(made, fake, accounts, POLICY, profile=options.profile) as hub:
            await let_write(fake, hub)
            to_customers, to_members = answers(), campaign()
            said = Said()
            talking = asyncio.create_task(talk(fake, said))
            await made.store(to_members)
            await made.store(to_customers)
            kills = [await kill_busiest(fake, hub, share * len(to_customers)) for share in KILLS_AT]
            await fake_sent(fake, "kf", len(to_customers))
            talking.cancel()
            await asyncio.wait([talking])
            streams = await settled(made, said, len(to_customers) + len(to_members))
            feeds = await made.feeds()
        seen = await fake.seen()
        record = await fake.process.finished()
    wanted = {"customers": to_customers, "members": to_members}
    found = judge(record, seen, streams, said, kills, wanted)
    shown = Counter((each.message.account, each.message.id) for each in feeds)
    found.lost = max(found.lost, found.heard - len(shown))
    found.shown_twice = sum(count > 1 for count in shown.values())
    return found


# ---- what happens --------------------------------------------------------------------------------


async def let_write(fake: FakeWecom, hub: Hub) -> None:
    """Every customer writes once, so that she may be answered."""
    for corp, kf in itertools.product(fake.corps, range(1, KF + 1)):
        body = {"open_kfid": open_kfid(kf), "text": "hello"}
        many = {"rate": 2_000, "seconds": CUSTOMERS / 2_000, "customers": CUSTOMERS}
        await fake.do("repeat", corp_id=corp, do="customer-writes", body=body, **many)
    await hub.until("tact_inbound_total", CORPS * KF * CUSTOMERS)


def answers() -> list[Delivery]:
    """To every customer as many as she may get, the accounts in turn."""
    places = itertools.product(range(EACH), range(CUSTOMERS), range(CORPS), range(1, KF + 1))
    return [
        _to(number, f"app{corp}-k{kf}", f"c{customer + 1}")
        for number, (_, customer, corp, kf) in enumerate(places)
    ]


def campaign() -> list[Delivery]:
    """To every member one."""
    places = itertools.product(range(TO_MEMBERS), range(CORPS))
    return [
        _to(1_000_000 + number, f"app{corp}", f"m{member + 1}")
        for number, (member, corp) in enumerate(places)
    ]


def _to(number: int, account: str, to: str) -> Delivery:
    return replace(delivery(number, account, to), customer=f"{account}-{to}")


async def talk(fake: FakeWecom, said: Said) -> None:
    """Others write and come, at a steady pace, until cancelled."""
    clock = SystemClock()
    begun_s = clock.steady_s()
    for number in itertools.count():
        await asyncio.sleep(max(begun_s + number / HEARD_PER_S - clock.steady_s(), 0))
        where = {"corp_id": fake.corps[number // 3 % CORPS]}
        who = f"wmnew{number:07d}"
        # What it has made happen is noted even when this is cancelled meanwhile.
        await asyncio.shield(_say(fake, said, number, where, who))


async def _say(
    fake: FakeWecom, said: Said, number: int, where: Mapping[str, str], who: str
) -> None:
    if number % 3 == 0:
        kf = open_kfid(number // 6 % KF + 1)
        body = {"external_userid": who, "open_kfid": kf, "text": f"number {number}"}
        said.messages |= set((await fake.do("customer-writes", **where, **body))["msgids"])
    elif number % 3 == 1:
        body = {"userid": f"m{number % TO_MEMBERS + 1}", "text": f"number {number}"}
        said.messages.add((await fake.do("member-writes", **where, **body))["msgid"])
    else:
        body = {"userid": f"m{number // 6 % MEMBERS + 1}", "external_userid": who}
        await fake.do("add-contact", **where, **body)
        said.came.add(who)


async def kill_busiest(fake: FakeWecom, hub: Hub, share: float) -> tuple[float, int, set[str]]:
    """When so many answers are sent; returns when (Unix ms), what was open, and its accounts."""
    await fake_sent(fake, "kf", share)
    accounts = (await hub.status())["accounts"]
    open_at: Counter[int] = Counter()
    for account in accounts.values():
        open_at[account["pid"]] += account["open"]
    (pid, open_then) = open_at.most_common(1)[0]
    os.kill(pid, signal.SIGKILL)
    killed_ms = SystemClock().now_ms()
    own = {name for name, account in accounts.items() if account["pid"] == pid}
    return killed_ms, open_then, own


async def fake_sent(fake: FakeWecom, kind: str, number: float) -> None:
    """Look until the fake has taken so many."""
    async with asyncio.timeout(PATIENCE_S):
        while sum((await fake.seen())["sends"].get(kind, {}).values()) < number:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


async def settled(made: Bench, said: Said, count: int) -> Streams:
    """Both streams, once every delivery has an end and everything said is published; or when
    nothing has come for a while."""
    clock = SystemClock()
    before, since_s = -1, clock.steady_s()
    while True:
        streams = await made.streams()
        if len(told_of(streams)) >= count and not missing_of(streams, said):
            return streams
        if len(streams.published) != before:
            before, since_s = len(streams.published), clock.steady_s()
        elif clock.steady_s() - since_s > UNTIL_LOST_S:
            return streams
        await asyncio.sleep(1)


# ---- judging -------------------------------------------------------------------------------------


def told_of(streams: Streams) -> dict[str, str]:
    """Delivery to the last that was told of it."""
    return {
        each.message.delivery: each.message.status
        for each in streams.published
        if isinstance(each.message, Receipt)
    }


def inbounds(streams: Streams) -> list[Inbound]:
    """All, in the order of INTAKE."""
    return [each.message for each in streams.published if isinstance(each.message, Inbound)]


def missing_of(streams: Streams, said: Said) -> int:
    """What was said and is not published."""
    heard = inbounds(streams)
    # What members write has the id of WeCom's message behind `message-`.
    ids = {one.id.removeprefix("message-") for one in heard}
    senders = {one.sender for one in heard}
    return len(said.messages - ids) + len(said.came - senders)


def judge(
    record: list[dict[str, Any]],
    seen: Mapping[str, Any],
    streams: Streams,
    said: Said,
    kills: Sequence[tuple[float, int, set[str]]],
    wanted: Mapping[str, Sequence[Delivery]],
) -> Killed:
    """By the fake's record, its counts, and what is in INTAKE."""
    of = {each.id: each for several in wanted.values() for each in several}
    lines = [(line, of[named_in(line)]) for line in taken(record, "kf", "app")]
    submits = [Submit(line["at"], one.account, one.id, APP, line["to"]) for line, one in lines]
    told = told_of(streams)
    times = Counter(submit.delivery for submit in submits)
    heard = Counter((one.account, one.id) for one in inbounds(streams))
    history = AccountHistory(
        submits=submits, handed=streams.deliveries, published=streams.published
    )
    return Killed(
        open=[open_then for _, open_then, _ in kills],
        pauses_s=[
            pause_s(submits, at, min(at + LOOKED_AT_MS, then), own)
            for (at, _, own), then in zip(kills, ends_of(kills), strict=True)
        ],
        ends={
            to: Counter(told.get(one.id, "nothing") for one in several)
            for to, several in wanted.items()
        },
        sent={to: sum(one.id in times for one in several) for to, several in wanted.items()},
        twice={to: sum(times[one.id] > 1 for one in several) for to, several in wanted.items()},
        refused_repeats=seen["counts"].get("kf_repeated_msgid", 0),
        said=len(said.messages) + len(said.came),
        lost=missing_of(streams, said),
        heard=len(heard),
        repeated=sum(count > 1 for count in heard.values()),
        again=seen["counts"]["callbacks_sent"] - seen["counts"]["callbacks_taken"],
        violations=len(check_accounts(history)),
        over=sum(seen["violations"].values()),
    )


def ends_of(kills: Sequence[tuple[float, int, set[str]]]) -> list[float]:
    """When the next kill came, for each."""
    return [*(at for at, _, _ in kills[1:]), inf]


def pause_s(submits: Sequence[Submit], killed_ms: float, until_ms: float, own: set[str]) -> float:
    """How long after a kill nothing came of its host's accounts: what was on the wire still did."""
    times = sorted(s.at_ms for s in submits if s.account in own and s.at_ms >= killed_ms)
    times = [killed_ms, *(at for at in times if at <= until_ms)]
    return max((later - earlier for earlier, later in pairwise(times)), default=inf) / 1000
