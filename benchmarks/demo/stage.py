"""Everybody who takes part in the demo, started as processes of their own in its directory."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from benchmarks.demo import push
from benchmarks.demo import wecom as corp
from benchmarks.demo.centre import command as centre_command
from benchmarks.demo.child import Child
from hub import limits

POLICY = Path(__file__).with_name("policy.toml")
ACCOUNTS = Path(__file__).with_name("accounts.toml")
CENTRE_PORT = "port               = 2775"
WECOM_URL = '"http://127.0.0.1:2776"'
FCM_URL = '"http://127.0.0.1:2777"'
GRID_URL = '"http://127.0.0.1:2778/push"'
"""In ACCOUNTS: replaced by where the fakes are."""
SECRETS = {"smsc-password": "secret", **corp.SECRETS, **push.SECRETS}
"""Files that ACCOUNTS names; another, push.CREDENTIALS, is written by the fake."""
HOSTS = 2
THROTTLED = 'tact_account_throttled_seconds_total{account="sms"'
START_S = 90.0
CLEAR_S = 5.0

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
class Fakes:
    """Those whom the hub's accounts talk with."""

    centre: Child
    office: Child
    fcm: Child
    grid: Child
    wecom: corp.Wecom
    """What happens at `office`."""

    @property
    def children(self) -> tuple[Child, ...]:
        return self.centre, self.office, self.fcm, self.grid


class Stage:
    """Starts processes, and ends them when the demo was cut short."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.submits = directory / "submits.jsonl"
        """The record of the SMS centre."""
        self.seen = directory / "wecom.jsonl"
        """The record of WeCom."""
        self.pushes = directory / "fcm.jsonl"
        """The record of FCM."""
        self.posts = directory / "grid.jsonl"
        """The record of the grid."""
        self.inbox = directory / "inbox.jsonl"
        """The record of the shop's gateway."""
        self._children: list[Child] = []

    async def start_fakes(self) -> Fakes:
        """The SMS centre, WeCom, FCM and the grid; writes the accounts file, for which it must be
        known where they are. Raises ChildFailed."""
        commands = {
            "centre": centre_command(self.submits),
            "wecom": corp.command(self.directory, self.seen),
            "fcm": push.fcm_command(self.directory, self.pushes),
            "grid": push.grid_command(self.posts),
        }
        children = [
            await self._started(name, command, listens=name in ("centre", "grid"))
            for name, command in commands.items()
        ]
        port, *urls = [
            line["port"] if child.name == "centre" else line["url"]
            for child in children
            for line in [await child.line(START_S)]
        ]
        self._write("accounts.toml", accounts_at(port, *urls))
        for name, secret in SECRETS.items():
            self._write(name, f"{secret}\n")
        centre, office, fcm, grid = children
        return Fakes(centre, office, fcm, grid, corp.Wecom(urls[0]))

    async def start_hub(self) -> tuple[Child, dict[str, Any]]:
        """`tact up`, and its line when it is ready. Raises ChildFailed."""
        self._write("tact.toml", CONFIG.format(hosts=HOSTS, replay=limits.AUDIT_MESSAGES))
        self._write("policy.toml", POLICY.read_text(encoding="utf-8"))
        command = [tact(), "up", "--config", str(self.directory / "tact.toml")]
        hub = await self._started("tact-up", command)
        return hub, await hub.line(START_S)

    async def start(self, name: str, options: list[str]) -> Child:
        """A program of this package."""
        return await self._started(
            name, [sys.executable, "-m", f"benchmarks.demo.{name}", *options]
        )

    async def watch(self, account: str, nats: str) -> Child:
        """`tact watch`, from the beginning."""
        options = ["--since", "1h", "--nats-url", nats]
        return await self._started("tact-watch", [tact(), "watch", account, *options])

    async def clear_away(self) -> None:
        """End whatever still runs."""
        for child in reversed(self._children):
            await child.clear_away(CLEAR_S)

    async def _started(self, name: str, command: list[str], *, listens: bool = False) -> Child:
        child = await Child.start(name, command, self.directory, listens=listens)
        self._children.append(child)
        return child

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")


def accounts_at(centre_port: int, wecom_url: str, fcm_url: str, grid_url: str) -> str:
    """The accounts file for fakes that are there."""
    accounts = ACCOUNTS.read_text(encoding="utf-8")
    found = {
        CENTRE_PORT: f"port = {centre_port}",
        WECOM_URL: f'"{wecom_url}"',
        FCM_URL: f'"{fcm_url}"',
        GRID_URL: f'"{grid_url}"',
    }
    for before, after in found.items():
        assert before in accounts
        accounts = accounts.replace(before, after)
    return accounts


async def owners_of(url: str) -> dict[str, int]:
    """The process in which each account lives."""
    async with ClientSession() as session, session.get(f"{url}/status") as response:
        status = await response.json()
    return {name: int(account["pid"]) for name, account in status["accounts"].items()}


async def throttled_seconds(url: str) -> float:
    """How long the SMS provider has had the account pause, by the hub's metrics."""
    async with ClientSession() as session, session.get(url) as response:
        text = await response.text()
    lines = (line for line in text.splitlines() if line.startswith(THROTTLED))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def tact() -> str:
    """The installed command."""
    return str(Path(sysconfig.get_path("scripts"), "tact"))
