"""The demo: a whole hub on this machine, with everyone it talks to; three hosts are killed.

Starts `tact up` as a user would, with an embedded nats-server that syncs always and a local Ray.
A shop publishes 69,659 real purchases from one process, and takes what is for its inbox with a
gateway in another; others are those whom the hub's accounts talk with: FCM, a partner's system that
is posted signed webhooks, an SMS centre, and WeCom, where people write in, take over and confirm.
Kills a host that decides, the host that sends SMS and the one that pushes; then reads both streams
and everybody's records back and has every promise checked.
Exit code 0 when none is broken, 1 when one is or something did not work.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo.attempts import AttemptLog, newest
from benchmarks.demo.cdnow import by_wechat, find_log, read_log
from benchmarks.demo.centre import Record
from benchmarks.demo.child import Child, ChildFailed
from benchmarks.demo.customers import Customers
from benchmarks.demo.ear import Ear
from benchmarks.demo.judge import Kills, Seen, judge, pushed_by, read_record, sent_by
from benchmarks.demo.people import CRM, DESK, People
from benchmarks.demo.push import ACCOUNTS as TO_PUSH
from benchmarks.demo.push import INBOX, PHONES, call_back
from benchmarks.demo.pushed import CHANNEL as PUSH
from benchmarks.demo.report import WIDTH
from benchmarks.demo.stage import HOSTS, POLICY, Stage, owners_of, throttled_seconds
from benchmarks.demo.talks import CHANNEL as WECOM
from benchmarks.demo.talks import SERVICE, Talks, longest_talk
from benchmarks.demo.wecom import ACCOUNTS as AT_WECOM
from benchmarks.demo.wecom import Wecom
from hub import limits
from hub.checkers import History
from hub.clock import SystemClock
from hub.contract.subjects import account_partition, delivery_subject
from hub.errors import TactError
from hub.ledger.audit import read_all, read_feeds, undecided
from hub.ledger.connection import Connection, connect
from hub.policy.document import load_policy
from hub.service.datadir import DataDir
from hub.service.natsd import NatsServer

ACCOUNT, CHANNEL = "sms", "sms"
ACKNOWLEDGED = "acknowledged.txt"
RATE = 2_500
"""Intents a second that the shop publishes. What the hub can do at most, `make bench` measures."""
PUBLISH_S = 75.0
"""The application takes nothing new after this: a slow disk must not make the demo long."""
START_AND_PUBLISH_S = 90.0
"""And not after this, when already starting took long."""
PUBLISH_LEAST_S = 20.0
SECOND_KILL_S = 6.0
"""From the kill of a host that decides to that of the one that sends."""
THIRD_KILL_S = 12.0
"""From that to the kill of the one that pushes: the second is back then."""
DECIDE_S = 60.0
"""After the last acknowledgement, until everything is decided."""
FALLBACK_S = 22.0
"""After it, until the last `fallback_after` of the policy is over."""
END_S = 60.0
"""Until everything that was handed to accounts has ended: unknown ones wait the longest."""
STOP_S = 20.0
TOTAL_S = 178.0
"""A machine on which it takes longer is too slow for a demo; it ends and says so."""
SILENCE_S = 30.0
"""A child that says nothing for so long has failed."""
LOOK_S = 0.5


class Demo:
    """One run, in its own directory."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory
        self._clock = SystemClock()
        self._began_s = self._clock.steady_s()
        self._stage = Stage(directory)
        self._kills = Kills()
        self._wecom: Wecom | None = None

    async def run(self) -> int:
        """All of it; returns the exit code. Raises ChildFailed, TactError, TimeoutError."""
        try:
            async with asyncio.timeout(TOTAL_S):
                hub, broken = await self._run()
            code = await hub.ended(STOP_S)
            self._say(f"the hub stopped at SIGTERM with exit code {code}")
            self._console.print(_NEXT)
            return 1 if broken or code else 0
        finally:
            if self._wecom is not None:
                await self._wecom.close()
            await self._stage.clear_away()

    async def _run(self) -> tuple[Child, int]:
        """The hub, which is ending, and how many violations there are."""
        self._say("starting: tact up, FCM, a partner's system, an SMS centre, WeCom, a shop")
        fakes = await self._stage.start_fakes()
        wecom = self._wecom = fakes.wecom
        hub, ready = await self._stage.start_hub()
        self._say(f"the hub is ready: {HOSTS} hosts, nats-server on {ready['nats']}")
        connection = await self._connect(ready)
        accounts = [(ACCOUNT, CHANNEL), *((account, PUSH) for account in TO_PUSH)]
        accounts += [(account, WECOM) for account in AT_WECOM.values()]
        logs = [AttemptLog(connection, *each, limits.PARTITIONS) for each in accounts]
        for log in logs:
            await log.start()
        options = ["--nats", ready["nats"], "--account", INBOX]
        options += ["--record", str(self._stage.inbox)]
        gateway = await self._stage.start("gateway", options)
        await fakes.grid.tell(call_back(ready["http"]))
        await wecom.call_back(ready["http"])
        record = Record(self._stage.submits)
        customers = Customers(record, fakes.centre.tell)
        people = await self._people(connection, wecom)
        async with beside(customers.run()), beside(people.run(), wait=True):
            published = await self._publish(ready)
        self._say("the people at WeCom have done their part")
        last = await self._until_all_ended(connection, logs)
        for_inbox = delivery_subject(PUSH, account_partition(INBOX, limits.PARTITIONS))
        last[INBOX] = await newest(connection, for_inbox)
        self._say(await self._stop(gateway))
        throttled_s = await throttled_seconds(ready["metrics"])
        await self._until_decided(connection)
        told = await wecom.seen()
        for fake in fakes.children:
            fake.terminate()
            await fake.ended(STOP_S)
        sms, pushing, others = logs[0], logs[1:3], logs[3:]
        stage, accounts_file = self._stage, self._directory / "accounts.toml"
        seen = Seen(
            published,
            self._acknowledged() | people.acknowledged,
            sent_by(accounts_file, record, sms, customers, last, throttled_s),
            Talks(read_record(stage.seen), told, others, last),
            pushed_by(accounts_file, (stage.pushes, stage.posts, stage.inbox), pushing, last),
            self._kills,
        )
        gc.disable()  # a million records that stay: nothing to find, and slow to look for
        streams, feeds = await read_all(connection), await read_feeds(connection)
        history = History(*streams, [load_policy(POLICY)], self._clock.now_ms(), feeds)
        talk = await self._watched(history, ready)
        await connection.close()
        hub.terminate()  # it ends while we check
        self._say(
            f"read back {len(streams.published):,} objects, {len(streams.outcomes):,} outcomes, "
            f"{len(streams.deliveries):,} deliveries, {len(feeds):,} lines of live feeds, and what "
            f"FCM ({len(seen.pushes.at_fcm):,}), the partner's system "
            f"({len(seen.pushes.at_grid):,}), the centre ({len(record.lines):,}) and WeCom "
            f"({len(seen.talks.lines):,}) wrote down; checking"
        )
        broken = judge(self._console, history, seen)
        self._console.print("\n".join(talk), markup=False, soft_wrap=True)
        return hub, len(broken)

    # ---- while it runs -------------------------------------------------------------------------

    async def _connect(self, ready: dict[str, Any]) -> Connection:
        login = NatsServer(DataDir(self._directory / "data")).hub
        return await connect(
            ready["nats"],
            name="tact-demo",
            clock=self._clock,
            user=login.user,
            password=login.password,
        )

    async def _people(self, connection: Connection, wecom: Wecom) -> People:
        ear = Ear()
        await ear.start(connection, SERVICE, CRM, DESK)
        return People(wecom, ear, connection, by_wechat(read_log(find_log())))

    async def _publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Until the application is done; three hosts are killed meanwhile, from its middle on."""
        acknowledged = self._directory / ACKNOWLEDGED
        options = ["--nats", ready["nats"], "--acknowledged", str(acknowledged)]
        left_s = START_AND_PUBLISH_S - (self._clock.steady_s() - self._began_s)
        seconds = max(PUBLISH_LEAST_S, min(PUBLISH_S, left_s))
        application = await self._stage.start(
            "application", [*options, "--seconds", str(seconds), "--rate", str(RATE)]
        )
        half = len(read_log(find_log()))  # an order notice and an offer each
        line: dict[str, Any] = {}
        async for line in application.lines(SILENCE_S):
            middle = line["intents"] >= half or line["seconds"] >= seconds / 2
            if middle or line["done"]:
                await self._kill(ready, line["intents"])
        self._say(f"{line['intents']:,} intents acknowledged")
        while not self._kills.pusher:
            await asyncio.sleep(LOOK_S)
            await self._kill(ready, line["intents"])
        return line

    async def _kill(self, ready: dict[str, Any], intents: int) -> None:
        """First a host that decides, some seconds later the one that sends, then the one that
        pushes, if that is another."""
        kills, now_ms = self._kills, self._clock.now_ms()
        if not kills.host:
            victim = ready["pids"]["hosts"][0]
            after, what = Kills(victim, now_ms), "decides"
        elif not kills.sender and now_ms > kills.host_ms + SECOND_KILL_S * 1000:
            owners = await owners_of(ready["http"])
            victim, what = owners[ACCOUNT], f"sends ({_accounts_of(owners, ACCOUNT)})"
            after = replace(kills, sender=victim, sender_ms=now_ms)
            if owners[PHONES] == victim:
                after = replace(after, pusher=victim, pusher_ms=now_ms)
        elif kills.sender and not kills.pusher and now_ms > kills.sender_ms + THIRD_KILL_S * 1000:
            owners = await owners_of(ready["http"])
            victim, what = owners[PHONES], f"pushes ({_accounts_of(owners, PHONES)})"
            after = replace(kills, pusher=victim, pusher_ms=now_ms)
        else:
            return
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # on a slow machine what is told of owners may be old
            return
        self._kills = after
        self._say(f"killed host {victim}, which {what}, with SIGKILL, {intents:,} intents in")

    async def _until_decided(self, connection: Connection) -> None:
        """Until no partition has anything before it, in any lane."""
        async with asyncio.timeout(DECIDE_S):
            while await undecided(connection, limits.PARTITIONS):  # noqa: ASYNC110 - a server's
                await asyncio.sleep(0.2)

    async def _until_all_ended(
        self, connection: Connection, logs: list[AttemptLog]
    ) -> dict[str, int]:
        """Until all that was handed to accounts by now has ended, the last fallbacks included.

        Returns for each account the sequence of the last delivery that was waited for: held offers
        that are released now and then go on being sent.
        """
        over_s = self._clock.steady_s() + FALLBACK_S
        await self._until_decided(connection)
        await asyncio.sleep(max(0.0, over_s - self._clock.steady_s()))
        last = {log.account: await log.newest() for log in logs}
        over_s = self._clock.steady_s() + END_S
        for log in logs:
            while states := log.unfinished(last[log.account]):
                if self._clock.steady_s() > over_s:
                    raise ChildFailed(f"messages of {log.account} have not ended: {dict(states)}")
                await asyncio.sleep(LOOK_S)
        await self._until_decided(connection)
        return last

    async def _stop(self, gateway: Child) -> str:
        """The gateway finishes what is there; what it has done, in words. Raises ChildFailed."""
        gateway.terminate()
        counts = await gateway.line(SILENCE_S)
        code = await gateway.ended(STOP_S)
        if code:
            raise ChildFailed(f"the gateway ended with exit code {code}")
        return (
            f"the gateway put {counts['taken']:,} messages into inboxes and reported "
            f"{sum(counts['receipts'].values()):,} receipts"
        )

    # ---- afterwards ----------------------------------------------------------------------------

    async def _watched(self, history: History, ready: dict[str, Any]) -> list[str]:
        """One conversation that a person took over, as `tact watch` shows it."""
        customer, number = longest_talk(history)
        if not number:
            return []
        watch = await self._stage.watch(SERVICE, ready["nats"])
        shown = await watch.texts(lambda text: customer in text, number, SILENCE_S)
        watch.process.send_signal(signal.SIGINT)
        await watch.ended(STOP_S)
        return [f"One conversation, as `tact watch {SERVICE}` shows it", *shown, ""]

    def _acknowledged(self) -> set[tuple[str, str]]:
        """What the application holds an acknowledgement for."""
        text = (self._directory / ACKNOWLEDGED).read_text(encoding="ascii")
        return {
            (app, name)
            for app, _, name in (line.partition("\t") for line in text.split("\n"))
            if name
        }

    def _say(self, what: str) -> None:
        self._console.print(f"[dim]{self._clock.steady_s() - self._began_s:6.1f} s[/]  {what}")


def _accounts_of(owners: dict[str, int], account: str) -> str:
    """Everything that lives in the same process as an account."""
    found = sorted(name for name, owner in owners.items() if owner == owners[account])
    return f"accounts {', '.join(found)}"


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], *, wait: bool = False) -> AsyncIterator[None]:
    """Let something run meanwhile; raises what ended it, if that was not us. `wait`: to its end."""
    task = asyncio.create_task(work)
    try:
        yield
        if wait:
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


_NEXT = """
The demo's data directory is removed. A hub of your own, to look around in (docs/contract.md; to
send by it, docs/operations.md, and for push docs/push.md):

  .venv/bin/tact up --policy benchmarks/demo/policy.toml
  .venv/bin/tact send --app shop --customer c1 --category service --to sms=+8613900000001 --text Hi
  .venv/bin/tact customer c1
"""


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave data and logs there")
    keep: Path | None = parser.parse_args().keep
    try:
        if keep is not None:
            keep.mkdir(parents=True)
            return asyncio.run(Demo(console, keep).run())
        with tempfile.TemporaryDirectory(
            prefix="tact-demo-", ignore_cleanup_errors=True
        ) as directory:
            return asyncio.run(Demo(console, Path(directory)).run())
    except (ChildFailed, TactError, FileNotFoundError, TimeoutError) as error:
        reason = str(error) or "this machine was too slow or too busy for it"
        console.print(f"the demo failed: {reason}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
