"""The accounts file of a running hub: checked whole before it counts, read again when it changes.

A file that is not valid changes nothing: what was in force stays in force, and the log says why.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from actors.account_gate import limits_of
from actors.account_host import Asked
from channels.accounts import AccountConfig, load_accounts
from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Link,
    ProviderInbound,
    ProviderReceipt,
    Reply,
    Stored,
)
from channels.registry import PROVIDERS, found
from hub import limits
from hub.clock import Clock, SystemClock
from hub.contract.subjects import account_log, account_partition
from hub.errors import ConfigError, TactError
from hub.ledger.port import LedgerUnavailable
from hub.ledger.questions import ask
from hub.service.watch import Watch

_log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
"""Between two looks at the file."""
CALLBACK_S: Final = 10.0
"""How long a provider's request may take to be stored; providers wait about as long."""
EVENT_S: Final = 4.5
"""The same where the hub finds out whom a request concerns: just below the 5 s that WeCom waits."""
EVENT_PAUSE_S: Final = 0.1
"""Before an account without an owner is asked again."""
EVENT_BYTES: Final = 64 * limits.KIB
"""Body of such a request: an encrypted event, of some hundred bytes, with room for long texts."""
EVENTS_WAITING: Final = 4_096
"""Such requests that wait to be stored: 800/s while there is no owner for EVENT_S. The next are
answered 503 at once."""

Apply = Callable[[Sequence[AccountConfig]], Awaitable[None]]


class _Nobody:
    """Takes what a provider reports that is only made to see whether it can be."""

    def answered(self, delivery: str, answer: Answer) -> None: ...

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None: ...

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None: ...

    def bundle(self, bundle: Bundle, stored: Stored) -> None: ...

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
            kind = PROVIDERS[account.provider]
            if not kind.outside:
                kind.make(account, _Nobody(), SystemClock(), random.Random())
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


class Directory(Protocol):
    """The accounts by what a provider's requests name: `Kind.directory`, made once for each
    configuration."""

    def targets(
        self, account: AccountConfig, callback: Callback, now_ms: int
    ) -> Reply | Sequence[tuple[str, Callback]]:
        """Whom a request to an account's address concerns, or the answer to it."""


class Callbacks:
    """Passes requests of providers on to the owners of their accounts.

    Where the address alone does not say whom a request concerns (it is signed, and encrypted), that
    is found out here by the configuration in force (`Kind.directory`), and its sender is answered
    when everyone concerned has stored it.
    """

    def __init__(self, watch: Watch, clock: Clock | None = None) -> None:
        self.partitions = limits.PARTITIONS
        self._watch = watch
        self._clock = clock or SystemClock()
        self._resolving = 0
        self._listed: Sequence[AccountConfig] | None = None
        self._accounts: dict[str, AccountConfig] = {}
        self._directories: dict[str, Directory] = {}

    async def take(self, account: str, callback: Callback) -> Reply:
        """The owner's answer; 503 when there is none now, and the provider is to repeat it."""
        config = self._in_force().get(account)
        kind = None if config is None else PROVIDERS[config.provider]
        if config is None or kind is None or not kind.directory:
            return await self._pass_on(account, callback)
        if len(callback.body) > EVENT_BYTES:
            return Reply(413)
        resolved = self._directory(kind.directory).targets(config, callback, self._clock.now_ms())
        if isinstance(resolved, Reply):
            if resolved.status >= 400:
                _log.warning("callback.refused", account=account, status=resolved.status)
            return resolved
        return await self._resolved(account, resolved)

    def _in_force(self) -> dict[str, AccountConfig]:
        """The accounts by name; `Watch.accounts` is another tuple when they have changed."""
        if self._watch.accounts is not self._listed:
            self._listed = self._watch.accounts
            self._accounts = {account.name: account for account in self._listed}
            self._directories.clear()
        return self._accounts

    def _directory(self, place: str) -> Directory:
        if place not in self._directories:
            self._directories[place] = found(place)(self._accounts)
        return self._directories[place]

    async def _pass_on(self, account: str, callback: Callback) -> Reply:
        try:
            return await self._ask(account, callback, CALLBACK_S)
        except TactError as error:
            _log.warning("callback.not_stored", account=account, code=error.code)
            return Reply(503)

    async def _resolved(self, account: str, found: Sequence[tuple[str, Callback]]) -> Reply:
        """What every account concerned says together: success, or the first refusal."""
        if self._resolving >= EVENTS_WAITING:
            _log.warning("callback.not_stored", account=account, code="crowded")
            return Reply(503)
        self._resolving += 1
        try:
            replies = await asyncio.gather(*(self._store(name, event) for name, event in found))
        finally:
            self._resolving -= 1
        refused = [reply for reply in replies if not 200 <= reply.status < 300]
        return max(refused, key=lambda reply: reply.status) if refused else Reply(200, b"success")

    async def _store(self, account: str, event: Callback) -> Reply:
        """Ask until the owner has stored it or the time is up: it may be on its way to a new one,
        and a provider gives up after few repeats."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + EVENT_S
        while True:
            again, why = True, "not-stored"
            try:
                reply = await self._ask(account, event, end_s - loop.time())
                if reply.status != 503:
                    return reply
            except TactError as error:
                again, why = error.retryable, error.code
            if not again or loop.time() + EVENT_PAUSE_S >= end_s:
                _log.warning("callback.not_stored", account=account, code=why)
                return Reply(503)
            await asyncio.sleep(EVENT_PAUSE_S)

    async def _ask(self, account: str, callback: Callback, seconds: float) -> Reply:
        """The owner's answer. Raises LedgerUnavailable, NoOwner, AskFailed."""
        connection = self._watch.connection
        if connection is None:
            raise LedgerUnavailable("not connected to NATS yet")
        partition = account_partition(account, self.partitions)
        asked = msgspec.msgpack.encode(Asked(account, callback))
        number = account_log(partition, self.partitions)
        answer = await ask(connection, number, asked, timeout_s=seconds)
        return msgspec.msgpack.decode(answer, type=Reply)
