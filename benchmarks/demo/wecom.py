"""WeCom in the demo: the fake as a process of its own, with one corp whose people have names.

It keeps to every limit that WeCom documents, and counts whoever does not. Its callbacks go to the
hub's endpoint, signed and encrypted. Some of them are sent twice, and some answers to customer
service messages are lost after it has taken them, as it happens on a network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.demo.child import ChildFailed
from channels.wecom.fake.settings import (
    CALLBACK_KEY,
    CALLBACK_TOKEN,
    SECRET,
    AppScene,
    CorpScene,
    Scene,
    Settings,
)
from hub.checkers.wecom_records import Accounts

CORP = "wwdemo0000000001"
AGENT = 1_000_002
SERVICE = "wk000001"
"""The corp's account of customer service (open_kfid)."""
SELLERS = ("anna", "ben")
"""Members who serve customers: each is an account of the hub, named like the member."""
CLERKS = ("chen", "dora")
"""Members who take conversations over from the program."""
MEMBERS = (*SELLERS, *CLERKS, "emil")
ACCOUNTS: Accounts = {
    (CORP, SERVICE): "wecom",
    (CORP, str(AGENT)): "office",
    **{(CORP, name): name for name in SELLERS},
}
"""What the record names, and which account of the hub that is."""
SECRETS = {"wecom-secret": SECRET, "wecom-token": CALLBACK_TOKEN, "wecom-key": CALLBACK_KEY}
"""Files that the accounts file names."""
LATENCY_MS = 30.0
LOST_ANSWERS = 0.02
"""Of the messages of customer service that were taken."""
SETTINGS = Settings(
    dispatching_s=1.0,
    confirm_s=4.0,
    repeat_callbacks=0.05,
)
"""`confirm_s`: members are quick, so that the demo shows how mass messages end."""
TIMEOUT_S = 20.0


def scene() -> Scene:
    """The corp."""
    app = AppScene(agent_id=AGENT)
    corp = CorpScene(corp_id=CORP, apps=(app,), members=MEMBERS, kf_accounts=(SERVICE,))
    return Scene(corps=(corp,))


def command(directory: Path, record: Path) -> list[str]:
    """What starts the fake; writes the file that describes the corp."""
    file = directory / "wecom-scene.json"
    file.write_bytes(msgspec.json.encode(scene()))
    options = ["--scene", str(file), "--record", str(record), "--latency-ms", str(LATENCY_MS)]
    for field in msgspec.structs.fields(Settings):
        value = getattr(SETTINGS, field.name)
        if value != field.default:
            options += [f"--{field.name.replace('_', '-')}", str(value)]
    return [sys.executable, "-m", "channels.wecom.fake", *options]


class Wecom:
    """What happens there is made to happen over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session: aiohttp.ClientSession | None = None

    async def do(self, name: str, **body: Any) -> dict[str, Any]:
        """Make something happen. Raises ChildFailed."""
        try:
            async with self._used().post(f"{self.url}/fake/{name}", json=body) as response:
                told: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ChildFailed(f"WeCom did not answer to {name}") from error
        if response.status != 200:
            raise ChildFailed(f"WeCom: {told}")
        return told

    async def call_back(self, hub: str) -> None:
        """Send callbacks to the hub from now on: it must prove first that it has the key. Answers
        to customer service are lost now and then from now on too. Raises ChildFailed."""
        url = f"{hub}/v1/callbacks/{ACCOUNTS[CORP, str(AGENT)]}"
        if not (await self.do("callback-url", url=url, verify=True))["verified"]:
            raise ChildFailed("the hub's callback URL did not prove itself to WeCom")
        await self.do(
            "fault", api="kf/send_msg", kind="cut", share=LOST_ANSWERS, taken=True, seconds=600
        )

    async def seen(self) -> dict[str, Any]:
        """Counts, violations and times. Raises ChildFailed."""
        try:
            async with self._used().get(f"{self.url}/fake/record?limit=0") as response:
                return msgspec.json.decode(await response.read())  # type: ignore[no-any-return]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ChildFailed("WeCom does not tell what it has seen") from error

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()

    def _used(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session
