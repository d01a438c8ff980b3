"""The demo: a whole hub on this machine, an application, a gateway, and a host that is killed.

Starts `tact up` as a user would, with an embedded nats-server that syncs always and a local Ray;
publishes 69,659 real purchases from one process and consumes the deliveries in another; kills a
host in the middle; then reads both streams back and has every promise checked. Exit code 0 when
none is broken, 1 when one is or something did not work.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo.child import Child, ChildFailed
from benchmarks.demo.facts import customers, gather, longest_silence_ms
from benchmarks.demo.purchases import find_log, read_log
from benchmarks.demo.report import WIDTH, Run, show
from hub import limits
from hub.checkers import History, Violation, check_all
from hub.clock import SystemClock
from hub.errors import TactError
from hub.ledger.audit import read_all, undecided
from hub.ledger.connection import Connection, connect
from hub.policy.document import load_policy
from hub.service.datadir import DataDir
from hub.service.natsd import NatsServer

POLICY = Path(__file__).with_name("policy.toml")
HOSTS = 2
RATE = 3_000
"""Intents a second that the shop publishes. What the hub can do at most, `make bench` measures."""
PUBLISH_S = 75.0
"""The application takes nothing new after this: a slow disk must not make the demo long."""
START_AND_PUBLISH_S = 105.0
"""And not after this, when already starting took long."""
PUBLISH_LEAST_S = 20.0
START_S = 90.0
DECIDE_S = 40.0
"""After the last acknowledgement, until everything is decided."""
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


class Demo:
    """One run, in its own directory."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory
        self._clock = SystemClock()
        self._began_s = self._clock.steady_s()
        self._children: list[Child] = []
        self._killed: tuple[int, int] = (0, 0)
        """The pid, and when."""

    async def run(self) -> int:
        """All of it; returns the exit code. Raises ChildFailed, TactError, TimeoutError."""
        try:
            async with asyncio.timeout(TOTAL_S):
                return await self._run()
        finally:
            for child in reversed(self._children):
                await child.clear_away(CLEAR_S)

    async def _run(self) -> int:
        hub, ready = await self._start_hub()
        self._say(f"the hub is ready: {HOSTS} hosts, nats-server on {ready['nats']}")
        gateway = await self._start("gateway", ["--nats", ready["nats"]])
        published = await self._publish(ready)
        login = NatsServer(DataDir(self._directory / "data")).hub
        connection = await connect(
            ready["nats"],
            name="tact-demo",
            clock=self._clock,
            user=login.user,
            password=login.password,
        )
        await self._until_decided(connection)
        reported = await self._stop_gateway(gateway)
        await self._until_decided(connection)
        self._say(
            f"the gateway took {sum(reported['deliveries'].values()):,} deliveries and "
            f"reported {sum(reported['receipts'].values()):,} receipts"
        )
        broken = await self._check(connection, published)
        await connection.close()
        hub.terminate()
        code = await hub.ended(STOP_S)
        self._say(f"the hub stopped at SIGTERM with exit code {code}")
        self._console.print(_NEXT)
        return 1 if broken or code else 0

    # ---- processes -----------------------------------------------------------------------------

    async def _start_hub(self) -> tuple[Child, dict[str, Any]]:
        config = self._directory / "tact.toml"
        config.write_text(CONFIG.format(hosts=HOSTS, replay=limits.AUDIT_MESSAGES))
        (self._directory / "policy.toml").write_bytes(POLICY.read_bytes())
        tact = str(Path(sysconfig.get_path("scripts"), "tact"))
        self._say(f"starting: tact up --config {config.name}")
        hub = await Child.start("tact-up", [tact, "up", "--config", str(config)], self._directory)
        self._children.append(hub)
        return hub, await hub.line(START_S)

    async def _start(self, name: str, options: list[str]) -> Child:
        command = [sys.executable, "-m", f"benchmarks.demo.{name}", *options]
        child = await Child.start(name, command, self._directory)
        self._children.append(child)
        return child

    async def _publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Until the application is done; a host is killed in the middle."""
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
            if middle and not self._killed[0]:
                pid = ready["pids"]["hosts"][0]
                self._killed = (pid, self._clock.now_ms())
                os.kill(pid, signal.SIGKILL)
                self._say(f"killed host {pid} with SIGKILL, {line['intents']:,} intents in")
        self._say(f"{line['intents']:,} intents acknowledged")
        return line

    async def _stop_gateway(self, gateway: Child) -> dict[str, Any]:
        """It takes what is there, reports it, and says how much that was."""
        gateway.terminate()
        counts = await gateway.line(SILENCE_S)
        code = await gateway.ended(STOP_S)
        if code:
            raise ChildFailed(f"the gateway ended with exit code {code}")
        return counts

    async def _until_decided(self, connection: Connection) -> None:
        """Until no partition has anything before it, in any lane."""
        async with asyncio.timeout(DECIDE_S):
            while await undecided(connection, limits.PARTITIONS):  # noqa: ASYNC110 - a server's
                await asyncio.sleep(0.2)

    # ---- judging -------------------------------------------------------------------------------

    async def _check(self, connection: Connection, published: dict[str, Any]) -> list[Violation]:
        gc.disable()  # a million records that stay: nothing to find, and slow to look for
        streams = await read_all(connection)
        self._say(
            f"read back {len(streams.published):,} objects, {len(streams.outcomes):,} outcomes "
            f"and {len(streams.deliveries):,} deliveries; checking"
        )
        history = History(*streams, [load_policy(POLICY)], self._clock.now_ms())
        violations = check_all(history, self._acknowledged())
        pid, killed_ms = self._killed
        facts = gather(history, killed_ms)
        run = Run(
            published=published,
            complete=published["purchases"] == len(read_log(find_log())),
            customers=customers(history),
            deliveries=len(streams.deliveries),
            outcomes=len(streams.outcomes),
            killed_pid=pid,
            silence_s=longest_silence_ms(history, limits.PARTITIONS, killed_ms) / 1000,
            end_ms=history.end_ms,
        )
        show(self._console, run, facts, violations)
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


_NEXT = """
The demo's data directory is removed. To look around in a hub of your own:

  .venv/bin/tact up --policy benchmarks/demo/policy.toml          the hub, in the foreground
  .venv/bin/tact send --app shop --customer 00001 --category service \\
      --to sms=+8613900000001 --text "Your order is on its way."   one intent, and its first outcome
  .venv/bin/tact customer 00001                                   what the hub knows of a customer
  .venv/bin/tact trace shop ID                                    the life of one intent
  .venv/bin/tact policy check benchmarks/demo/policy.toml         change the policy, check it

What it was: docs/architecture.md. How it is measured: benchmarks/README.md.
"""


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
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
