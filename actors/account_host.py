"""AccountHost: a Ray actor around an `AccountRunner`, and nothing more.

One process with many accounts; it talks to NATS and to providers itself, the data path never makes
a Ray call. The calls here are the supervisor's: place, release, look. Source: ADR 6.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from actors.account_runner import AccountRunner
from actors.settings import HubSettings
from actors.shell import HostShell
from channels.accounts import AccountConfig
from channels.provider import Callback, Events, Provider, Reply
from channels.registry import PROVIDERS
from hub.contract.subjects import account_log
from hub.ledger.accounts import AccountStreams
from hub.metrics import Series, Snapshot

CALLBACKS_AT_ONCE = 256
"""Requests of providers that wait to be stored, a partition; NATS keeps the next."""
GAUGED_ACCOUNTS = 1_000
"""Accounts of one host with gauges of their own; of more, those that have something waiting."""
_CIRCUIT = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class Asked(msgspec.Struct):
    """A provider's HTTP request, passed on by the hub's HTTP server. MessagePack."""

    account: str
    callback: Callback


_decode_asked = msgspec.msgpack.Decoder(Asked).decode


class AccountHost(HostShell):
    """Methods are called by the supervisor through Ray. `status()` comes first."""

    answers_at_once = CALLBACKS_AT_ONCE

    def __init__(self, settings: HubSettings, name: str) -> None:
        super().__init__(settings, name, self._answer)
        self._accounts: Sequence[AccountConfig] = settings.accounts
        self._chance = random.Random()
        self.ledger: AccountStreams | None = None
        self.runner: AccountRunner | None = None

    async def status(self) -> dict[str, Any]:
        """What the supervisor and `tact status` see. Opens the host when called first."""
        runner = await self.open()
        partitions = [p for p in runner.partitions.values() if not p.lost]
        await self._answer_for(self._logs(p.number for p in partitions))
        assert self._connection is not None and self.ledger is not None
        return {
            "name": self._name,
            "incarnation": self.incarnation,
            "pid": os.getpid(),
            "partitions": sorted(p.number for p in partitions),
            "epochs": {p.number: p.epoch for p in partitions},
            "accounts": runner.describe(),
            "connected": self._connection.connected,
            "full": self.ledger.full,
        }

    async def assign(self, numbers: list[int]) -> list[int]:
        """Claim partitions; returns those won."""
        runner = await self.open()
        won = await runner.assign(numbers)
        await self._answer_for(self._logs(runner.partitions))
        return won

    async def release(self, numbers: list[int]) -> None:
        """Give partitions up, in order."""
        runner = await self.open()
        await runner.release(numbers)
        await self._answer_for(self._logs(runner.partitions))

    async def configure(self, accounts: Sequence[AccountConfig]) -> None:
        """Serve by another configuration from the next turn on."""
        self._accounts = accounts
        if self.runner is not None:
            await self.runner.configure(accounts)

    async def metrics(self) -> tuple[str, Snapshot]:
        """Whose counters, and which; see `ConversationHost.metrics`."""
        if self.runner is None or self.ledger is None:
            return self.incarnation, Snapshot()
        gauges: dict[Series, float] = {}
        for name, known in list(self.runner.describe().items())[:GAUGED_ACCOUNTS]:
            for what in ("waiting", "open", "window"):
                gauges[f"tact_account_{what}", (name,)] = known[what]
            gauges["tact_account_circuit", (name,)] = _CIRCUIT[known["circuit"]]
        snapshot = self.counted.snapshot(gauges)
        for reply, count in self.ledger.replies.items():
            snapshot.counters["tact_commit_replies_total", (reply,)] = count
        return self.incarnation, snapshot

    async def stop(self) -> None:
        """Let what is under way be answered, commit, disconnect."""
        if self.runner is not None and self.ledger is not None:
            await self._answer_for(set())
            await self.runner.stop()
            await self.ledger.close()
        await self._disconnect()

    async def open(self) -> AccountRunner:
        """The runner; connects and starts it when called first."""
        async with self._opening:
            if self.runner is None:
                self.ledger = AccountStreams(
                    await self._connect(),
                    self._settings.partitions,
                    clock=self._clock,
                    chance=self._chance,
                )
                self.runner = AccountRunner(
                    self.ledger,
                    self._clock,
                    self._accounts,
                    self.incarnation,
                    self.counted,
                    self._make,
                )
                self._run(self.runner.run())
            return self.runner

    def _make(self, account: AccountConfig, events: Events) -> Provider:
        return PROVIDERS[account.provider].make(account, events, self._clock, self._chance)

    # ---- requests of providers -------------------------------------------------------------------

    def _logs(self, numbers: Iterable[int]) -> set[int]:
        partitions = self._settings.partitions
        return {account_log(number, partitions) for number in numbers}

    async def _answer(self, payload: bytes) -> bytes:
        asked = _decode_asked(payload)
        assert self.runner is not None
        provider = self.runner.provider_of(asked.account)
        if provider is not None:
            reply = await provider.callback(asked.callback)
        else:  # ours to answer for, but not now: whoever asks is to ask again
            reply = Reply(503 if asked.account in self.runner.configs else 404)
        return msgspec.msgpack.encode(reply)
