"""Push in the demo: FCM, a partner's own system, called the grid, and the shop's inbox.

The first two are fakes, as two processes, and the hub sends to them by accounts of its own. What is
for the inbox a gateway of the shop's takes: benchmarks/demo/gateway.py.

FCM tells nothing of what it took; the grid is posted signed webhooks, and posts signed receipts
back: some twice, some late and so in the wrong order, some never.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.demo.cdnow import WECHAT, chosen, in_club
from channels.push.fake.webhook import SECRET
from channels.sms.fake.faults import Odds

PHONES, GRID = "push", "grid"
"""The accounts: devices at FCM, which need not name their account, and the grid."""
INBOX: Final = "inbox"
"""The account that the shop's gateway serves."""
ACCOUNTS = (PHONES, GRID)
CREDENTIALS = "fcm-credentials.json"
"""The key file that the fake FCM writes."""
SECRETS = {"grid-secret": SECRET}
"""A file that the accounts file names."""
SEED = 11
AT_FCM = Odds(latency_ms=15.0, busy=0.0005, lose_answers=0.0005, cut=0.0002)
AT_GRID = Odds(
    latency_ms=10.0,
    busy=0.002,
    lose_answers=0.002,
    receipt_ms=300.0,
    early_receipts=0.01,
    late_receipts=0.02,
    late_ms=5_000.0,
    duplicate_receipts=0.02,
    lose_receipts=0.02,
    fail=0.02,
)
READ = 0.2
REPEAT_S = 3.0
"""Before the grid posts again what the hub has not confirmed: five times, over a kill."""

WITH_APP: Final = 40
"""Of a hundred customers so many have a push address."""
ON_GRID: Final = 10
"""And of a hundred of them so many one at the grid."""
DEVICES: Final = (85, 96)
"""Of a hundred of the others, how many have one device, and one or two; the rest have three."""
GONE: Final = 3
"""Of a hundred devices so many have lost the app."""
STRANDED_EVERY: Final = 20
"""Of so many who came by WeChat one had the app once: her only device is gone."""


def devices(customer: str) -> list[str]:
    """The push addresses of a customer, the one used last at the end."""
    if customer.startswith(WECHAT):
        return [] if chosen(f"{customer} app", STRANDED_EVERY) else [phone(customer, 0, gone=True)]
    if chosen(f"{customer} push", 100) >= WITH_APP:
        return []
    found = []
    at_grid = chosen(f"{customer} grid", 100) < ON_GRID
    if at_grid:
        gone = "gone-" if chosen(f"{customer} grid gone", 100) < GONE else ""
        found.append(f"{GRID}/{gone}{customer}")
    lot = chosen(f"{customer} devices", 100)
    several = sum(lot >= most for most in DEVICES)
    for number in range(several if at_grid else several + 1):
        gone_too = chosen(f"{customer} phone {number} gone", 100) < GONE
        found.append(phone(customer, number, gone=gone_too))
    return found


def addresses(customer: str) -> list[str]:
    """What the shop tells the hub of a customer: devices, or for a member of the club who has none
    of them the inbox that everybody has who signs in to the shop."""
    found = devices(customer)
    return found or ([f"{INBOX}/{customer}"] if in_club(customer) else [])


def phone(customer: str, number: int, *, gone: bool) -> str:
    """A registration token; the fake FCM knows those that are gone by how they begin."""
    token = f"{'unregistered' if gone else 'phone'}-{customer}-{number}:APA91b"
    return f"{PHONES}/{token}" if number else token


def fcm_command(directory: Path, record: Path) -> list[str]:
    """What starts the fake FCM."""
    more = ["--credentials-out", str(directory / CREDENTIALS), "--retry-after-s", "1"]
    return _command("fcm", record, AT_FCM) + more


def grid_command(record: Path) -> list[str]:
    """What starts the grid; where the hub is it is told later."""
    more = ["--secret", SECRET, "--read", str(READ), "--repeat-s", str(REPEAT_S)]
    return _command("webhook", record, AT_GRID) + more


def _command(name: str, record: Path, odds: Odds) -> list[str]:
    module = f"channels.push.fake.{name}"
    made = [sys.executable, "-m", module, "--seed", str(SEED), "--record", str(record)]
    for field, value in msgspec.structs.asdict(odds).items():
        made += [f"--{field.replace('_', '-')}", str(value)]
    return made


def call_back(hub: str) -> dict[str, Any]:
    """What the grid is told when the hub is there."""
    return {"callback_url": f"{hub}/v1/callbacks/{GRID}"}
