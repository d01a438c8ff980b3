"""What one callback costs the process of the HTTP endpoint before an account is asked: signature,
decryption, XML, and finding whom it concerns, with few accounts and with ten thousand.

In this process, without HTTP and without NATS: the owner of every account answers at once.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Row
from channels.accounts import AccountConfig
from channels.provider import Callback, Reply
from channels.wecom.config import AppConfig, KfConfig, MemberConfig
from channels.wecom.fake.crypto import encrypted, signed, xml
from channels.wecom.fake.settings import CALLBACK_KEY, CALLBACK_TOKEN
from hub.clock import SystemClock
from hub.service import logs
from hub.service.accounts import Callbacks
from hub.service.watch import Watch

ACCOUNTS = (10, 10_000)
CORPS = 50
"""At most; an application each, and the other accounts in turn."""
CALLBACKS = 2_000
WANTED_US = 1_000.0
"""Half of one processor at 500 a second."""


async def measure_endpoint(console: Console, options: argparse.Namespace) -> list[Row]:
    """Few accounts, then many."""
    logs.configure("error")  # a forged request is told of with a line each
    table = Table(title="One callback in the endpoint, HTTP and the account's owner left out")
    for heading in ("accounts", "µs", "first of a configuration, ms", "unknown sender, µs"):
        table.add_column(heading, justify="right")
    costs = {}
    for number in ACCOUNTS:
        accounts = accounts_of(number)
        watch = Watch(SystemClock())
        watch.accounts = tuple(accounts)
        watch.connection = _Answering()  # type: ignore[assignment]
        endpoint = Callbacks(watch)
        first_s = await cost_s(endpoint, callbacks_for(accounts, 1))
        cost_us = await cost_s(endpoint, callbacks_for(accounts, CALLBACKS)) / CALLBACKS * 1e6
        forged = [
            (name, msgspec.structs.replace(asked, query=asked.query | {"nonce": "other"}))
            for name, asked in callbacks_for(accounts, CALLBACKS)
        ]
        forged_us = await cost_s(endpoint, forged, 403) / CALLBACKS * 1e6
        table.add_row(
            f"{number:,}", f"{cost_us:,.0f}", f"{first_s * 1e3:,.1f}", f"{forged_us:,.0f}"
        )
        costs[number] = cost_us
    console.print(table)
    most = costs[max(ACCOUNTS)]
    figure = f"a callback with {max(ACCOUNTS):,} accounts ≤ {WANTED_US:,.0f} µs in the endpoint"
    return [(figure, f"{most:,.0f} µs", most <= WANTED_US)]


async def cost_s(
    endpoint: Callbacks, asked: Sequence[tuple[str, Callback]], status: int = 200
) -> float:
    """CPU seconds of taking them, one after the other."""
    before_s = time.process_time()
    replies = [await endpoint.take(name, callback) for name, callback in asked]
    used_s = time.process_time() - before_s
    if any(reply.status != status for reply in replies):
        raise SystemExit(f"callbacks were answered {sorted({reply.status for reply in replies})}")
    return used_s


def accounts_of(number: int) -> list[AccountConfig]:
    """Applications, and their accounts of customer service and members."""
    corps = min(CORPS, number // 5)
    found = [_account(f"app{corp}", "wecom-app", AppConfig(**_of(corp))) for corp in range(corps)]
    for place in range(number - corps):
        corp, own = place % corps, place // corps
        if own % 2:
            settings: Any = KfConfig(open_kfid=f"wk{own:06}", **_of(corp))
            found.append(_account(f"app{corp}-k{own}", "wecom-kf", settings))
        else:
            settings = MemberConfig(userid=f"m{own}", **_of(corp))
            found.append(_account(f"app{corp}-m{own}", "wecom-member", settings))
    return found


def _account(name: str, provider: str, settings: Any) -> AccountConfig:
    return AccountConfig(name=name, channel="wecom", provider=provider, settings=settings)


def _of(corp: int) -> dict[str, Any]:
    return {
        "corp_id": f"wwfake{corp:010}",
        "agent_id": 1_000_002,
        "secret": "secret",
        "callback_token": CALLBACK_TOKEN,
        "callback_key": CALLBACK_KEY,
    }


def callbacks_for(accounts: Sequence[AccountConfig], count: int) -> list[tuple[str, Callback]]:
    """Requests as WeCom makes them, to accounts at random that are no application."""
    chance, clock = random.Random(1), SystemClock()
    others = [account for account in accounts if account.provider != "wecom-app"]
    found = []
    for number in range(count):
        account = chance.choice(others)
        corp = account.settings.corp_id
        timestamp, nonce = str(clock.now_ms() // 1_000), str(chance.randrange(10**9, 10**10))
        event = _event(account, number, int(timestamp))
        sealed = encrypted(CALLBACK_KEY, corp, xml(event).encode(), chance.randbytes(16))
        query = {
            "msg_signature": signed(CALLBACK_TOKEN, timestamp, nonce, sealed),
            "timestamp": timestamp,
            "nonce": nonce,
        }
        body = xml({"ToUserName": corp, "AgentID": "1000002", "Encrypt": sealed})
        headers = {"content-type": "text/xml"}
        found.append((f"app{int(corp[6:])}", Callback("POST", query, headers, body.encode())))
    return found


def _event(account: AccountConfig, number: int, at_s: int) -> dict[str, object]:
    settings = account.settings
    head: dict[str, object] = {
        "ToUserName": settings.corp_id,
        "FromUserName": "sys",
        "CreateTime": at_s,
        "MsgType": "event",
    }
    if isinstance(settings, KfConfig):
        own = {"Event": "kf_msg_or_event", "Token": f"t{number}", "OpenKfId": settings.open_kfid}
        return head | own
    return head | {
        "Event": "change_external_contact",
        "ChangeType": "add_external_contact",
        "UserID": settings.userid,
        "ExternalUserID": f"wm{number:06}",
        "WelcomeCode": f"code{number}",
    }


class _Answering:
    """A connection behind which every owner has stored everything already."""

    _reply = SimpleNamespace(data=msgspec.msgpack.encode(Reply()), headers=None)

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> Any:
        return self._reply
