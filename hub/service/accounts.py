"""The accounts file of a running hub: checked whole before it counts, read again when it changes.

A file that is not valid changes nothing: what was in force stays in force, and the log says why.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from actors.account_gate import limits_of
from actors.account_host import Asked
from channels.accounts import AccountConfig, load_accounts
from channels.provider import (
    Answer,
    Callback,
    Link,
    ProviderInbound,
    ProviderReceipt,
    Reply,
    Stored,
)
from channels.registry import PROVIDERS
from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import account_log, account_partition
from hub.errors import ConfigError, TactError
from hub.ledger.questions import ask
from hub.service.watch import Watch

_log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
"""Between two looks at the file."""
CALLBACK_S: Final = 10.0
"""How long a provider's request may take to be stored; providers wait about as long."""

Apply = Callable[[Sequence[AccountConfig]], Awaitable[None]]


class _Nobody:
    """Takes what a provider reports that is only made to see whether it can be."""

    def answered(self, delivery: str, answer: Answer) -> None: ...

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None: ...

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None: ...

    def link(self, link: Link) -> None: ...

    def counted(self, name: str, *labels: str) -> None: ...


def read_accounts(path: Path) -> list[AccountConfig]:
    """The accounts of a file, with limits and provider settings checked as well.

    Raises ConfigError naming file, account, key and what is allowed.
    """
    accounts = load_accounts(path)
    for account in accounts:
        try:
            limits_of(account)
            PROVIDERS[account.provider].make(account, _Nobody(), SystemClock(), random.Random())
        except ConfigError as error:
            message = error.message
            if account.name not in message:
                message = f"account {account.name}: {message}"
            raise ConfigError(f"{path}: {message}") from error
    return accounts


class AccountsFile:
    """Reads the file when it has changed and hands it on. `run()` for ever."""

    def __init__(self, path: Path, apply: Apply) -> None:
        self._path = path
        self._apply = apply
        self._seen = self._mark()

    async def run(self) -> None:
        """Look, and apply what is new and valid."""
        while True:
            await asyncio.sleep(LOOK_S)
            mark = self._mark()
            if mark == self._seen:
                continue
            self._seen = mark
            try:
                accounts = read_accounts(self._path)
                await self._apply(accounts)
            except TactError as error:
                _log.error("accounts.not_applied", code=error.code, reason=error.message)
            else:
                _log.info("accounts.applied", accounts=len(accounts))

    def _mark(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size


class Callbacks:
    """Passes requests of providers on to the owners of their accounts."""

    def __init__(self, watch: Watch) -> None:
        self.partitions = limits.PARTITIONS
        self._watch = watch

    async def take(self, account: str, callback: Callback) -> Reply:
        """The owner's answer; 503 when there is none now, and the provider is to repeat it."""
        connection = self._watch.connection
        if connection is None:
            return Reply(503)
        partition = account_partition(account, self.partitions)
        asked = msgspec.msgpack.encode(Asked(account, callback))
        number = account_log(partition, self.partitions)
        try:
            answer = await ask(connection, number, asked, timeout_s=CALLBACK_S)
        except TactError as error:
            _log.warning("callback.not_stored", account=account, code=error.code)
            return Reply(503)
        return msgspec.msgpack.decode(answer, type=Reply)
