"""Hosts of accounts in virtual time, a tiny supervisor, carriers, and what goes wrong."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import msgspec

from actors import account as account_module
from actors import account_admission, account_intake, account_io, account_runner, failover
from actors.account_runner import AccountRunner
from actors.account_state import (
    DONE,
    OPEN,
    Part,
    unpack_attempt,
    unpack_outbound,
    unpack_part,
)
from channels import accounts as config
from channels.accounts import AccountConfig
from channels.provider import Events
from channels.registry import PROVIDERS
from hub import limits
from hub.checkers.account_records import Confirmed, Heard, LimitRule, Opening
from hub.contract.subjects import account_partition, delivery_subject
from hub.ledger.port import Entry
from hub.metrics import Metrics
from tests.sim.account_carrier import Carrier, Report
from tests.sim.account_collapsed import Collapsed
from tests.sim.account_heard import Talks, names_of
from tests.sim.account_provider import ModelProvider
from tests.sim.account_rules import changed_rules, rules_of
from tests.sim.account_scenario import AccountScenario, Dispatch
from tests.sim.account_talks import provider_name
from tests.sim.scenario import Trouble
from tests.sim.supervised import (
    IDLE_S,
    SupervisedHost,
    SupervisedWorld,
    TellingLedger,
    changed,
)
from tests.support.account_model import AccountModelLedger
from tests.support.model import Stored, decode_record
from tests.support.virtual_loop import Process, VirtualLoop


class AccountHost(SupervisedHost):
    """A host of accounts, which connects them to their carriers."""

    def __init__(self, world: AccountWorld, slot: int, name: str) -> None:
        process = Process(world.loop, name, holds_timers=True)
        ledger = _TellingLedger(world)
        runner = AccountRunner(ledger, world.clock, world.accounts, name, Metrics(), world.provider)
        super().__init__(process, slot, runner)


class _TellingLedger(TellingLedger, AccountModelLedger):
    """Of accounts."""


class AccountWorld(SupervisedWorld):
    """Carriers, the accounts with them, and hosts of accounts."""

    quiet_days = 40
    hear_s = 300

    def __init__(self, loop: VirtualLoop, scenario: AccountScenario) -> None:
        super().__init__(loop, scenario)
        self.accounts: list[AccountConfig] = scenario.accounts
        self.rules: list[LimitRule] = rules_of(self.accounts)
        self.carriers = {
            name: Carrier(
                name,
                manner,
                scenario.kinds[provider_name(name)],
                self.network,
                self.clock,
                self.broken,
                self._confirmed,
                self._call,
            )
            for name, manner in scenario.manners.items()
        }
        self.talks = Talks(self)
        self.collapsed = Collapsed(self)
        self.openings: list[Opening] = []
        self.confirmed: list[Confirmed] = []
        self.heard: list[Heard] = []
        self.decided: list[tuple[str, str]] = []
        self.outboxed: Counter[str] = Counter()
        """Ids of what the logs say will be told to INTAKE, and how often they say so."""
        self._early: dict[str, list[Report]] = {}
        """Confirmed before the log knew whose they are, by the key that will say so."""
        self._accounts_of: dict[tuple[int, str], str] = {}
        everything = [each for dispatch in scenario.dispatches for each in dispatch.deliveries]
        self.deliveries = {each.id: each for each in everything}

    def provider(self, account: AccountConfig, events: Events) -> ModelProvider:
        """What a host connects to an account's carrier with."""
        return ModelProvider(self.carriers[account.name], events)

    def _begin(self) -> None:
        for dispatch in self.scenario.dispatches:
            self._held_up += 1
            self._start(self._dispatch(dispatch), "dispatch")
        for letter in self.scenario.letters:
            carrier = self.carriers[letter.account]
            self.loop.call_later(letter.at_s, carrier.write, letter)

    def _heal(self) -> None:
        super()._heal()
        for carrier in self.carriers.values():
            carrier.calm = True
            carrier.set_up(True, True)

    def _left_over(self) -> list[str]:
        """What is not read, has not ended, or is not told, by the logs."""
        left = []
        for stored in self.streams.ledger:
            kind, *rest = stored.subject.split(".")[1:]
            if kind == "out":
                done = self.replayed[int(rest[1])].checkpoint.get(rest[0], 0)
                if done < stored.sequence:
                    left.append(f"partition {rest[1]} has read to {done} of {stored.sequence}")
        for number, replayed in self.replayed.items():
            for key, packed in replayed.states.items():
                if key.startswith("o:"):
                    left.append(f"partition {number}: {key} is not told")
                elif key.startswith("u:"):
                    left.append(f"partition {number}: {key} was taken ahead")
                elif key.startswith("a:") and unpack_attempt(packed).state != DONE:
                    left.append(f"partition {number}: {unpack_attempt(packed)}")
        known = {account.name for account in self.accounts}
        for name, carrier in self.carriers.items():
            if carrier.open_reports and name in known:
                left.append(f"{name} has {carrier.open_reports} reports")
        return left

    # ---- what the ledger gets ------------------------------------------------------------------

    def _stored(self, stored: Stored) -> None:
        kind, which = stored.subject.split(".")[1:3]
        if kind != "log":
            return
        number = int(which) - self.scenario.partitions
        record = decode_record(stored.payload)
        states = {key: value and _shown(key, value) for key, value in record.states.items()}
        self.say(f"{stored.sequence} {record.commit_id} {record.epoch} {states}")
        if record.commit_id.startswith("claim-"):
            self.happened["claim"] += 1
            behind = any(key.startswith("u:") for key in self.replayed[number].states)
            self.happened["claim behind what was taken ahead"] += behind
        self._follow(number, stored)
        for key, packed in record.states.items():
            if key.startswith("a:"):
                self._attempt(number, stored.sequence, key[2:], packed)
            elif key.startswith("u:"):
                self.happened["taken ahead"] += packed is not None
                if packed is not None and self.scenario.dies_ahead:
                    self.loop.call_soon(self._die_ahead, number)
            elif key.startswith("o:") and packed is not None:
                for one in unpack_outbound(packed):
                    self.outboxed[one.message_id] += 1
                    if one.lane == "receipt":
                        delivery, _, status = one.message_id.rsplit("/", 2)
                        self.decided.append((delivery, status))
                        account = self._accounts_of.get((number, delivery), "")
                        self.talks.decided(account, delivery, status, one.payload)
            elif key.startswith("p:") and packed is not None:
                for report in self._early.pop(key, ()):
                    self._counts(key.split(":", 2)[1], report, unpack_part(packed), number)
            elif key.startswith("q:") and packed is None and f"p:{key[2:]}" not in record.states:
                self._early.pop(f"p:{key[2:]}", None)  # it came too early, and is forgotten
        self.talks.recorded(number, record.states)

    def _attempt(self, number: int, sequence: int, delivery: str, packed: bytes | None) -> None:
        self.collapsed.attempt(sequence, delivery, packed)
        place = number, delivery
        if packed is None:
            account, is_open = self._accounts_of.get(place, ""), False
        else:
            attempt = unpack_attempt(packed)
            account, is_open = attempt.account, attempt.state == OPEN
            if not self._taken(number, attempt.sequence):
                self.broken.append(f"taken, and would be again after a crash: {delivery}")
        self._accounts_of[place] = account
        now = self.clock.now_ms()
        self.openings.append(Opening(sequence, number, account, delivery, is_open, now))

    def _taken(self, number: int, sequence: int) -> bool:
        """Whether the log says of a message that it was taken: in its turn, or ahead of it."""
        known = self.replayed[number]
        return sequence <= known.checkpoint.get("sms", 0) or f"u:sms:{sequence}" in known.states

    def _die_ahead(self, number: int) -> None:
        """Who has taken something ahead of its turn is gone before that has come, once."""
        owner = self.owner(number)
        if owner is not None and not self.happened["died ahead"]:
            self.happened["died ahead"] += 1
            self._kill(owner.process)

    # ---- what is confirmed to carriers -----------------------------------------------------------

    def _confirmed(self, account: str, report: Report) -> None:
        """The hub has said that something is stored: is it?"""
        number = account_partition(account, self.scenario.partitions)
        for name in names_of(account, report):
            if not self.outboxed[name]:
                self.broken.append(f"confirmed before it was stored: {name}")
        if report.inbound is not None:
            now = self.clock.now_ms()
            self.heard.append(Heard(now, account, report.inbound.id, report.inbound.opt_out))
        if report.receipt is None:
            return
        if report.receipt.delivery:
            self._counts(account, report, Part(report.delivery, 0), number)
            return
        key = f"p:{account}:{report.receipt.provider_id}"
        packed = self.replayed[number].states.get(key)
        if packed is not None:
            self._counts(account, report, unpack_part(packed), number)
        elif f"q:{key[2:]}" in self.replayed[number].states:
            self.happened["receipt before its answer"] += 1
            self._early.setdefault(key, []).append(report)
        else:
            self.happened["receipt of nobody"] += 1

    def _counts(self, account: str, report: Report, part: Part, number: int) -> None:
        packed = self.replayed[number].states.get(f"a:{part.delivery}")
        if packed is None or (attempt := unpack_attempt(packed)).account != account:
            self.happened["receipt of nobody"] += 1
            return
        assert report.receipt is not None
        self.happened["receipt counted"] += 1
        expected = max(1, attempt.receipts)
        status, now = report.receipt.status, self.clock.now_ms()
        self.confirmed.append(Confirmed(now, account, part.delivery, part.part, expected, status))

    def _call(self, account: str, report: Report) -> None:
        """A carrier's request: to a host that takes itself for the owner."""
        number = account_partition(account, self.scenario.partitions)
        for host in self.hosts.values():
            if number in host.owned():
                host.process.start(self._callback(host, account, report), "callback")
                return

    async def _callback(self, host: SupervisedHost, account: str, report: Report) -> None:
        try:
            provider = host.runner.provider_of(account)
        except Exception as error:
            self.broken.append(f"a callback failed: {error!r}")
            return
        if provider is not None:
            provider.hear(report)

    # ---- the world outside -----------------------------------------------------------------------

    async def _dispatch(self, dispatch: Dispatch) -> None:
        await asyncio.sleep(dispatch.at_s - self.loop.time())
        for _ in range(1_000):
            if not self.streams.full and not self.network.down:
                break
            await asyncio.sleep(0.5)
        some = dispatch.deliveries
        payload = msgspec.json.encode(some if len(some) > 1 else some[0])
        number = account_partition(some[0].account, self.scenario.partitions)
        self.say(f"dispatch {[one.id for one in some]} by {some[0].account}")
        self.streams.store([Entry(delivery_subject("sms", number), payload)])
        self._held_up -= 1

    # ---- hosts, and what goes wrong ------------------------------------------------------------

    def _start_host(self, slot: int) -> None:
        name = f"host-{slot}-{self._started}"
        self._started += 1
        self.hosts[slot] = AccountHost(self, slot, name)
        self.say(f"{name} starts")

    async def _own_trouble(self, trouble: Trouble, host: SupervisedHost) -> None:
        match trouble.kind:
            case "gap":
                if host.runner._intake.reader is not None:
                    host.runner._intake.reader.lose("sms")
            case "reload":
                await self._reload()
            case "unlinked" | "refused":
                await self._disconnect(trouble)

    async def _disconnect(self, trouble: Trouble) -> None:
        name = self.scenario.accounts[trouble.which % len(self.scenario.accounts)].name
        carrier = self.carriers[name]
        carrier.set_up(trouble.kind != "unlinked", trouble.kind != "refused")
        await asyncio.sleep(trouble.lasts_s)
        carrier.set_up(True, True)

    async def _reload(self) -> None:
        """Another configuration, told to one host after the other; who does not answer is ended."""
        if self.accounts is self.scenario.later:
            return
        before, self.accounts = self.accounts, self.scenario.later
        kept = {account.name for account in self.accounts}
        for name, carrier in self.carriers.items():
            carrier.gone = name not in kept
        began_ms = self.clock.now_ms()
        for host in list(self.hosts.values()):
            if host.alive and not host.stopping:
                applying = host.process.start(host.runner.configure(self.accounts), "configure")
                done, _ = await asyncio.wait([applying], timeout=20)
                if not done:
                    self._kill(host.process)
                await asyncio.sleep(self.chance.choice((0.0, 0.3)))
        now = self.clock.now_ms()
        self.rules = changed_rules(self.rules, before, self.accounts, began_ms, now)


def _shown(key: str, value: bytes) -> str:
    if key.startswith("a:"):
        attempt = unpack_attempt(value)
        return f"{attempt.account} state {attempt.state} told {attempt.told} ids {attempt.ids}"
    if key.startswith("o:"):
        return str([one.message_id for one in unpack_outbound(value)])
    return "…"


def _users(name: str) -> list[ModuleType]:
    """Modules of accounts that have imported it."""
    modules = [config, *(m for key, m in sorted(sys.modules.items()) if key.startswith("actors."))]
    return [module for module in modules if hasattr(module, name)]


def tuned(scenario: AccountScenario) -> AbstractContextManager[None]:
    """Accounts with the scenario's bounds, and fewer looks at an idle clock."""
    homes = (account_module, account_admission, account_runner, account_intake, account_io)
    homes += (failover, limits)
    kinds = PROVIDERS | scenario.kinds
    changes: list[tuple[Any, str, Any]] = [
        (account_runner, "_IDLE_S", IDLE_S),
        *((module, "PROVIDERS", kinds) for module in _users("PROVIDERS")),
    ]
    for name, value in scenario.bounds.items():
        home = next(module for module in homes if hasattr(module, name))
        changes.append((home, name, value))
    return changed(changes)
