"""What the measurements of WeCom are made of: the fake in a process of its own, accounts at it,
and `tact up` with these accounts.

The fake keeps to WeCom's documented limits and counts whoever does not: nothing is raised here, so
`violations` is what an application would have to answer for.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.processes import cpu_s
from benchmarks.send_parts import LIFE_MS, PATIENCE_S, Bench, Child, Simulator
from channels.accounts import AccountConfig
from channels.wecom.config import AppConfig, KfConfig
from channels.wecom.fake.settings import AGENT_ID, CALLBACK_KEY, CALLBACK_TOKEN, SECRET
from hub.clock import SystemClock
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from hub.service.config import PASSWORD_VARIABLE, SYSTEM_PASSWORD_VARIABLE

APP = "shop"
LOOK_S = 0.2
SECRETS = {"BENCH_SECRET": SECRET, "BENCH_TOKEN": CALLBACK_TOKEN, "BENCH_KEY": CALLBACK_KEY}
"""Variables that accounts files name."""

_SERIES = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([0-9.e+-]+)$")
_NAMED = re.compile(r"<([^ >]+)>")


class FakeWecom:
    """The fake, over HTTP: what it is told to do, and what it has seen."""

    def __init__(self, process: Simulator, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.url: str = process.ready["url"]
        self.corps: list[str] = [corp["corp_id"] for corp in process.ready["corps"]]
        self._session = session

    async def do(self, name: str, /, **body: Any) -> dict[str, Any]:
        """Make something happen."""
        async with self._session.post(f"{self.url}/fake/{name}", json=body) as response:
            told: dict[str, Any] = await response.json()
            if response.status != 200:
                raise SystemExit(f"the fake WeCom: {told}")
            return told

    async def seen(self) -> dict[str, Any]:
        """Counts, violations and times; not the messages, which are in its record."""
        async with self._session.get(f"{self.url}/fake/record?limit=0") as response:
            return msgspec.json.decode(await response.read())  # type: ignore[no-any-return]

    async def count(self, what: str) -> int:
        """How often it has happened."""
        found: int = (await self.seen())["counts"].get(what, 0)
        return found

    async def over(self) -> int:
        """Sends and calls over any documented limit, as it counts."""
        return sum((await self.seen())["violations"].values())

    async def until(self, what: str, number: int) -> None:
        """Look until it has happened so often."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.count(what) < number:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def fake_wecom(made: Bench, *options: str, record: bool = True) -> AsyncIterator[FakeWecom]:
    """The fake, ended with `made`."""
    process = await made.simulator(*options, record=record, module="channels.wecom.fake")
    connector = aiohttp.TCPConnector(limit=256)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield FakeWecom(process, session)


# ---- accounts ------------------------------------------------------------------------------------


def app_account(fake: FakeWecom, name: str, corp: int = 0) -> AccountConfig:
    """The application of a corp, as a host is given it."""
    settings = AppConfig(**credentials(fake, corp))
    return AccountConfig(name=name, channel="wecom", provider="wecom-app", settings=settings)


def kf_account(fake: FakeWecom, name: str, corp: int = 0) -> AccountConfig:
    """The first customer service account of a corp."""
    settings = KfConfig(open_kfid=open_kfid(1), **credentials(fake, corp))
    return AccountConfig(name=name, channel="wecom", provider="wecom-kf", settings=settings)


def open_kfid(number: int) -> str:
    """What the fake calls its accounts of customer service."""
    return f"wk{number:06}"


def credentials(fake: FakeWecom, corp: int) -> dict[str, Any]:
    """What the fake believes."""
    return {
        "base_url": fake.url,
        "corp_id": fake.corps[corp],
        "agent_id": AGENT_ID,
        "secret": SECRET,
        "callback_token": CALLBACK_TOKEN,
        "callback_key": CALLBACK_KEY,
    }


def accounts_file(
    fake: FakeWecom, corps: int, kf: int, members: int, *, unknown_after: str = "10m"
) -> str:
    """An accounts.toml: in each corp an application, so many accounts of customer service and so
    many members who serve customers."""
    lines = ["version = 1"]
    for corp in range(corps):
        app = f"app{corp}"
        lines += _account(
            app,
            "wecom-app",
            base_url=f'"{fake.url}"',
            corp_id=f'"{fake.corps[corp]}"',
            agent_id=str(AGENT_ID),
            secret='{ env = "BENCH_SECRET" }',
            callback_token='{ env = "BENCH_TOKEN" }',
            callback_key='{ env = "BENCH_KEY" }',
        )
        for number in range(1, kf + 1):
            own = {"app": f'"{app}"', "open_kfid": f'"{open_kfid(number)}"'}
            lines += _account(f"{app}-k{number}", "wecom-kf", **own)
        for number in range(1, members + 1):
            own = {"app": f'"{app}"', "userid": f'"m{number}"'}
            lines += _account(f"{app}-m{number}", "wecom-member", **own)
    text = "\n".join(lines)
    return text.replace("[accounts.wecom]", f'unknown_after = "{unknown_after}"\n[accounts.wecom]')


def _account(name: str, provider: str, **settings: str) -> list[str]:
    head = ["[[accounts]]", f'name = "{name}"', 'channel = "wecom"', f'provider = "{provider}"']
    return [*head, "[accounts.wecom]", *(f"{key} = {value}" for key, value in settings.items())]


# ---- the hub -------------------------------------------------------------------------------------


class Hub:
    """`tact up` beside the bench's server: the endpoint, conversations and accounts."""

    def __init__(self, process: Child, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.url: str = process.ready["http"]
        self._session = session

    async def status(self) -> dict[str, Any]:
        """What `tact status` shows."""
        async with self._session.get(f"{self.url}/status") as response:
            return msgspec.json.decode(await response.read())  # type: ignore[no-any-return]

    async def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's series with these labels."""
        async with self._session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = (_SERIES.match(line) for line in text.splitlines())
        return sum(
            float(series[3])
            for series in found
            if series is not None
            and series[1] == name
            and all(label in (series[2] or "") for label in wanted)
        )

    async def until(self, name: str, number: float, **labels: str) -> None:
        """Look until a metric has come so far."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.total(name, **labels) < number:  # noqa: ASYNC110 - as above
                await asyncio.sleep(LOOK_S)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far: of the endpoint's process, of those that decide, that send."""
        pids = self.process.ready["pids"]
        return {
            "endpoint": cpu_s(self.process.pid),
            "deciding": sum(map(cpu_s, pids["hosts"])),
            "accounts": sum(map(cpu_s, pids["accounts"])),
        }


@asynccontextmanager
async def tact_up(
    made: Bench, fake: FakeWecom, accounts: str, policy: str, *, profile: str = ""
) -> AsyncIterator[Hub]:
    """The hub as a user starts it, with the bench's server; the fake's callbacks come to it, after
    it has proved its URLs. The janitor keeps off INTAKE, so that all of it can be read."""
    config = made.directory / "tact.toml"
    files = {"accounts.toml": accounts, "policy.toml": policy, "tact.toml": _CONFIG}
    for name, text in files.items():
        await asyncio.to_thread((made.directory / name).write_text, text)
    tact = str(Path(sys.executable).with_name("tact"))
    command = [sys.executable, "-m", "cProfile", "-o", profile, tact] if profile else [tact]
    command += ["up", "--config", str(config), "--nats-url", made.natsd.url]
    hub, system = made.natsd.hub, made.natsd.system
    environment = {PASSWORD_VARIABLE: hub.password, SYSTEM_PASSWORD_VARIABLE: system.password}
    process = await made.beside(command, **SECRETS, **environment)
    async with aiohttp.ClientSession() as session:
        started = Hub(process, session)
        for number, corp in enumerate(fake.corps):
            url = f"{started.url}/v1/callbacks/app{number}"
            told = await fake.do("callback-url", corp_id=corp, url=url, verify=True)
            if not told["verified"]:
                raise SystemExit(f"{url} could not prove itself")
        yield started
        await process.end()


_CONFIG = """
policy = "policy.toml"
accounts = "accounts.toml"
data_dir = "hub"
log_level = "error"
[nats]
user = "hub"
system_user = "sys"
[http]
port = 0
[limits]
replay_messages = 10000000
"""


# ---- deliveries ----------------------------------------------------------------------------------


def delivery(
    number: int, account: str, to: str, text: str | None = None, *, now_ms: int | None = None
) -> Delivery:
    """One for a member or a customer; without a text it says its own name."""
    intent, at_ms = f"d{number:07d}", SystemClock().now_ms() if now_ms is None else now_ms
    id = f"{APP}:{intent}:1"
    said = f"<{id}> {'x' * 100}" if text is None else text
    return Delivery(
        id=id,
        intent=intent,
        app=APP,
        customer=to,
        category="campaign",
        priority=3,
        channel="wecom",
        account=account,
        to=to,
        content=msgspec.Raw(msgspec.json.encode({"text": said})),
        attempt=1,
        at=rfc3339(at_ms),
        expires_at=rfc3339(at_ms + LIFE_MS),
    )


def named_in(line: Mapping[str, Any]) -> str:
    """The delivery that a recorded message names, or ""."""
    found = _NAMED.search(str(line.get("content", "")))
    return "" if found is None else found[1]


def taken(record: Iterable[Mapping[str, Any]], *kinds: str) -> list[Mapping[str, Any]]:
    """What the fake has taken of these kinds: app, kf, mass, welcome, …"""
    return [line for line in record if line.get("kind") in kinds]


def over_row(over: Sequence[int]) -> tuple[str, str, bool]:
    """The figure of the limits, over several runs."""
    return ("sends over a documented limit, by the fake's count", str(sum(over)), not sum(over))


def copy_of(path: str, name: str) -> str:
    """Where a profile of one run goes, when there are several."""
    return f"{path}.{name}" if path else ""
