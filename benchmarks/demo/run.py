"""The demo: a whole hub on this machine, with everyone it talks to, and two hosts that are killed.

Starts `tact up` as a user would, with an embedded nats-server that syncs always and a local Ray;
publishes 69,659 real purchases from one process, serves WeCom and push in another, and has a third
be the SMS centre that the hub's own account sends by; kills a host that decides and the host that
sends in the middle; then reads both streams and the centre's record back and has every promise
checked. Exit code 0 when none is broken, 1 when one is or something did not work.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from rich.console import Console

from benchmarks.demo.attempts import AttemptLog
from benchmarks.demo.centre import Record
from benchmarks.demo.centre import command as centre_command
from benchmarks.demo.child import Child, ChildFailed
from benchmarks.demo.customers import Customers
from benchmarks.demo.facts import customers as customers_of
from benchmarks.demo.facts import gather, longest_silence_ms
from benchmarks.demo.purchases import find_log, read_log
from benchmarks.demo.report import WIDTH, Run, show
from benchmarks.demo.sent import Sent, silence_ms
from benchmarks.demo.sent import check as check_sent
from benchmarks.demo.sent import count as count_sent
from channels.accounts import load_accounts
from hub import limits
from hub.checkers import History, Violation, check_all
from hub.clock import SystemClock
from hub.errors import TactError
from hub.ledger.audit import Streams, read_all, undecided
from hub.ledger.connection import Connection, connect
from hub.policy.document import load_policy
from hub.service.datadir import DataDir
from hub.service.natsd import NatsServer

POLICY = Path(__file__).with_name("policy.toml")
ACCOUNTS = Path(__file__).with_name("accounts.toml")
CENTRE_PORT = "port               = 2775"
"""In ACCOUNTS: replaced by the port that the centre has found."""
ACCOUNT, CHANNEL = "sms", "sms"
THROTTLED = "tact_account_throttled_seconds_total{"
HOSTS = 2
RATE = 3_000
"""Intents a second that the shop publishes. What the hub can do at most, `make bench` measures."""
PUBLISH_S = 75.0
"""The application takes nothing new after this: a slow disk must not make the demo long."""
START_AND_PUBLISH_S = 90.0
"""And not after this, when already starting took long."""
PUBLISH_LEAST_S = 20.0
START_S = 90.0
SECOND_KILL_S = 6.0
"""From the kill of a host that decides to that of the one that sends."""
DECIDE_S = 40.0
"""After the last acknowledgement, until everything is decided."""
FALLBACK_S = 17.0
"""After it, until the last `fallback_after` of the policy is over."""
END_S = 60.0
"""Until everything that was handed to the account has ended: unknown ones wait the longest."""
STOP_S = 20.0
CLEAR_S = 5.0
TOTAL_S = 178.0
"""A machine on which it takes longer is too slow for a demo; it ends and says so."""
SILENCE_S = 30.0
"""A child that says nothing for so long has failed."""

CONFIG = """
# What `tact up` was started with. The janitor leaves INTAKE alone: it is read back whole.
data_dir = "data"
policy = "policy.toml"
accounts = "accounts.toml"
hosts = {hosts}
log_level = "warning"
[nats]
port = 0
[http]
port = 0
[limits]
intake_bytes = 1073741824
ledger_bytes = 4294967296
replay_messages = {replay}
"""


@dataclass(frozen=True)
class Kills:
    """Which hosts were killed, and when (Unix ms)."""

    host: int = 0
    host_ms: int = 0
    sender: int = 0
    sender_ms: int = 0


class Demo:
    """One run, in its own directory."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory
        self._clock = SystemClock()
        self._began_s = self._clock.steady_s()
        self._children: list[Child] = []
        self._kills = Kills()
        self._record = Record(directory / "submits.jsonl")

    async def run(self) -> int:
        """All of it; returns the exit code. Raises ChildFailed, TactError, TimeoutError."""
        try:
            async with asyncio.timeout(TOTAL_S):
                return await self._run()
        finally:
            for child in reversed(self._children):
                await child.clear_away(CLEAR_S)

    async def _run(self) -> int:
        centre = await self._start_centre()
        hub, ready = await self._start_hub()
        self._say(f"the hub is ready: {HOSTS} hosts, nats-server on {ready['nats']}")
        gateway = await self._start("gateway", ["--nats", ready["nats"]])
        connection = await self._connect(ready)
        log = AttemptLog(connection, ACCOUNT, CHANNEL, limits.PARTITIONS)
        customers = Customers(self._record, centre.tell)
        await log.start()
        async with beside(customers.run()):
            published = await self._publish(ready)
        last = await self._until_all_ended(connection, log)
        throttled_s = await throttled_seconds(ready["metrics"])
        self._say(await self._stop(gateway))
        await self._until_decided(connection)
        centre.terminate()
        await centre.ended(STOP_S)
        self._record.read()
        (account,) = load_accounts(self._directory / ACCOUNTS.name)
        sent = Sent(
            account,
            self._record.lines,
            log.openings,
            log.decided,
            log.found_open,
            customers.said,
            last,
            throttled_s,
        )
        gc.disable()  # a million records that stay: nothing to find, and slow to look for
        streams = await read_all(connection)
        await connection.close()
        hub.terminate()  # it ends while we check
        broken = self._check(streams, published, sent)
        code = await hub.ended(STOP_S)
        self._say(f"the hub stopped at SIGTERM with exit code {code}")
        self._console.print(_NEXT)
        return 1 if broken or code else 0

    # ---- processes -----------------------------------------------------------------------------

    async def _start_centre(self) -> Child:
        """The SMS centre; writes the accounts file, for which its port must be known."""
        command = centre_command(self._directory / "submits.jsonl")
        centre = await Child.start("centre", command, self._directory, listens=True)
        self._children.append(centre)
        port = (await centre.line(START_S))["port"]
        accounts = ACCOUNTS.read_text(encoding="utf-8")
        assert CENTRE_PORT in accounts
        accounts = accounts.replace(CENTRE_PORT, f"port = {port}")
        (self._directory / ACCOUNTS.name).write_text(accounts, encoding="utf-8")
        (self._directory / "smsc-password").write_text("secret\n", encoding="ascii")
        return centre

    async def _start_hub(self) -> tuple[Child, dict[str, Any]]:
        config = self._directory / "tact.toml"
        config.write_text(CONFIG.format(hosts=HOSTS, replay=limits.AUDIT_MESSAGES))
        (self._directory / "policy.toml").write_bytes(POLICY.read_bytes())
        tact = str(Path(sysconfig.get_path("scripts"), "tact"))
        self._say(f"starting: tact up --config {config.name}, an SMS centre, a gateway, a shop")
        hub = await Child.start("tact-up", [tact, "up", "--config", str(config)], self._directory)
        self._children.append(hub)
        return hub, await hub.line(START_S)

    async def _start(self, name: str, options: list[str]) -> Child:
        command = [sys.executable, "-m", f"benchmarks.demo.{name}", *options]
        child = await Child.start(name, command, self._directory)
        self._children.append(child)
        return child

    async def _connect(self, ready: dict[str, Any]) -> Connection:
        login = NatsServer(DataDir(self._directory / "data")).hub
        return await connect(
            ready["nats"],
            name="tact-demo",
            clock=self._clock,
            user=login.user,
            password=login.password,
        )

    async def _publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Until the application is done; two hosts are killed in the middle."""
        acknowledged = self._directory / "acknowledged.txt"
        options = ["--nats", ready["nats"], "--acknowledged", str(acknowledged)]
        left_s = START_AND_PUBLISH_S - (self._clock.steady_s() - self._began_s)
        seconds = max(PUBLISH_LEAST_S, min(PUBLISH_S, left_s))
        application = await self._start(
            "application", [*options, "--seconds", str(seconds), "--rate", str(RATE)]
        )
        half = len(read_log(find_log()))  # of two intents each
        line: dict[str, Any] = {}
        async for line in application.lines(SILENCE_S):
            middle = line["intents"] >= half or line["seconds"] >= seconds / 2
            if middle or line["done"]:
                await self._kill(ready, line["intents"])
        self._say(f"{line['intents']:,} intents acknowledged")
        return line

    async def _kill(self, ready: dict[str, Any], intents: int) -> None:
        """First a host that decides, some seconds later the one that sends."""
        kills, now_ms = self._kills, self._clock.now_ms()
        if not kills.host:
            victim = ready["pids"]["hosts"][0]
            self._kills = Kills(victim, now_ms)
            os.kill(victim, signal.SIGKILL)
            what = f"host {victim}, which decides"
        elif not kills.sender and now_ms > kills.host_ms + SECOND_KILL_S * 1000:
            victim = await owner_of(ACCOUNT, ready["http"])
            self._kills = replace(kills, sender=victim, sender_ms=self._clock.now_ms())
            os.kill(victim, signal.SIGKILL)
            what = f"host {victim}, which sends"
        else:
            return
        self._say(f"killed {what}, with SIGKILL, {intents:,} intents in")

    async def _stop(self, gateway: Child) -> str:
        """It takes what is there, reports it, and says how much that was."""
        gateway.terminate()
        counts = await gateway.line(SILENCE_S)
        code = await gateway.ended(STOP_S)
        if code:
            raise ChildFailed(f"the gateway ended with exit code {code}")
        return (
            f"the gateway took {sum(counts['deliveries'].values()):,} deliveries and "
            f"reported {sum(counts['receipts'].values()):,} receipts"
        )

    async def _until_decided(self, connection: Connection) -> None:
        """Until no partition has anything before it, in any lane."""
        async with asyncio.timeout(DECIDE_S):
            while await undecided(connection, limits.PARTITIONS):  # noqa: ASYNC110 - a server's
                await asyncio.sleep(0.2)

    async def _until_all_ended(self, connection: Connection, log: AttemptLog) -> int:
        """Until all that was handed to the account by now has ended, the last fallbacks included.

        Returns the sequence of the last delivery that was waited for: held offers that are
        released now and then go on being sent.
        """
        over_s = self._clock.steady_s() + FALLBACK_S
        await self._until_decided(connection)
        await asyncio.sleep(max(0.0, over_s - self._clock.steady_s()))
        last = await log.newest()
        over_s = self._clock.steady_s() + END_S
        while states := log.unfinished(last):
            if self._clock.steady_s() > over_s:
                raise ChildFailed(f"SMS have not ended: {dict(states)}")
            await asyncio.sleep(0.5)
        await self._until_decided(connection)
        return last

    # ---- judging -------------------------------------------------------------------------------

    def _check(self, streams: Streams, published: dict[str, Any], sent: Sent) -> list[Violation]:
        self._say(
            f"read back {len(streams.published):,} objects, {len(streams.outcomes):,} outcomes, "
            f"{len(streams.deliveries):,} deliveries and {len(sent.lines):,} lines of the centre; "
            "checking"
        )
        history = History(*streams, [load_policy(POLICY)], self._clock.now_ms())
        violations = check_all(history, self._acknowledged()) + check_sent(sent, history)
        kills = self._kills
        facts = gather(history, kills.host_ms)
        run = Run(
            published=published,
            complete=published["purchases"] == len(read_log(find_log())),
            customers=customers_of(history),
            deliveries=len(streams.deliveries),
            outcomes=len(streams.outcomes),
            killed=(kills.host, kills.sender),
            silence_s=longest_silence_ms(history, limits.PARTITIONS, kills.host_ms) / 1000,
            sms_silence_s=silence_ms(sent.lines, kills.sender_ms) / 1000,
            end_ms=history.end_ms,
        )
        show(self._console, run, facts, sent, count_sent(sent, history), violations)
        self._console.print()
        return violations

    def _acknowledged(self) -> set[tuple[str, str]]:
        """What the application holds an acknowledgement for."""
        text = (self._directory / "acknowledged.txt").read_text(encoding="ascii")
        return {
            (app, name)
            for app, _, name in (line.partition("\t") for line in text.split("\n"))
            if name
        }

    def _say(self, what: str) -> None:
        self._console.print(f"[dim]{self._clock.steady_s() - self._began_s:6.1f} s[/]  {what}")


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let something run meanwhile; raises what ended it, if that was not us."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def owner_of(account: str, url: str) -> int:
    """The process in which an account lives."""
    async with ClientSession() as session, session.get(f"{url}/status") as response:
        status = await response.json()
    return int(status["accounts"][account]["pid"])


async def throttled_seconds(url: str) -> float:
    """How long the provider has had the account pause, by the hub's metrics."""
    async with ClientSession() as session, session.get(url) as response:
        text = await response.text()
    lines = (line for line in text.splitlines() if line.startswith(THROTTLED))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


_NEXT = """
The demo's data directory is removed. A hub of your own, to look around in (docs/contract.md):

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
