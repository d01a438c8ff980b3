"""Hosts of accounts in virtual time, a tiny supervisor, carriers, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from actors import account as account_module
from actors import account_io, account_runner
from actors.account_partition import AccountPartition
from actors.account_runner import AccountRunner
from actors.account_state import (
    DONE,
    OPEN,
    Part,
    unpack_attempt,
    unpack_outbound,
    unpack_part,
)
from channels.accounts import AccountConfig
from channels.provider import Events
from hub import limits
from hub.checkers.account_records import Confirmed, Heard, LimitRule, Opening
from hub.contract.subjects import account_log, account_partition, delivery_subject
from hub.errors import TactError
from hub.ledger.port import Entry, FenceLost
from hub.metrics import Metrics
from tests.sim.account_provider import Carrier, ModelProvider, Report
from tests.sim.account_rules import changed_rules, rules_of
from tests.sim.account_scenario import AccountScenario, Dispatch
from tests.sim.scenario import Trouble
from tests.support.account_model import AccountModelLedger
from tests.support.model import Replayed, Stored, Streams, decode_record
from tests.support.network import Faults, Network
from tests.support.virtual_loop import Process, VirtualClock, VirtualLoop

IDLE_S = 86_400.0
"""Hosts look at the clock this often when nothing is due: days of it must cost little."""
QUIET_DAYS = 40
"""Longer than anything waits in a scenario."""


class AccountHost:
    """One incarnation of a host: a process with a runner in it."""

    def __init__(self, world: AccountWorld, slot: int, name: str) -> None:
        self.slot = slot
        self.name = name
        self.process = Process(world.loop, name, holds_timers=True)
        self.stopping = False
        self.runner = AccountRunner(
            _TellingLedger(world), world.clock, world.accounts, name, Metrics(), world.provider
        )
        self.loop = self.process.start(self.runner.run(), "run")

    @property
    def alive(self) -> bool:
        return self.process.alive and not self.loop.done()

    def owned(self) -> set[int]:
        partitions = self.runner.partitions.values()
        return {each.number for each in partitions if not each.lost} if self.alive else set()


class _TellingLedger(AccountModelLedger):
    """Wakes the supervisor when a host loses something."""

    def __init__(self, world: AccountWorld) -> None:
        chance = random.Random(world.chance.random())
        super().__init__(world.streams, world.network, chance, world.scenario.commit_tries)
        self._world = world

    async def commit(
        self, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        try:
            return await super().commit(commit_id, entries, fences)
        except TactError as error:
            lost = isinstance(error, FenceLost)
            self._world.happened["fence lost" if lost else "commit given up"] += 1
            self._world.kicked.set()
            raise


class AccountWorld:
    """One run of a scenario. `broken` collects what must never happen."""

    def __init__(self, loop: VirtualLoop, scenario: AccountScenario) -> None:
        self.loop = loop
        self.scenario = scenario
        self.chance = random.Random(f"{scenario.seed} world")
        self.clock = VirtualClock(loop, scenario.start_ms)
        self.streams = Streams(self.clock, scenario.partitions)
        self.faults = Faults(scenario.faults)
        self.network = Network(loop, random.Random(f"{scenario.seed} network"), self.faults)
        self.network.paused = self._pause_a_while
        self.network.killed = self._kill
        self.accounts: list[AccountConfig] = scenario.accounts
        self.rules: list[LimitRule] = rules_of(self.accounts)
        self.hosts: dict[int, AccountHost] = {}
        self.broken: list[str] = []
        self.happened: Counter[str] = Counter()
        self.trace: list[str] = []
        self.kicked = asyncio.Event()
        self.carriers = {
            name: Carrier(name, manner, self.network, self.clock, self.broken, self._confirmed)
            for name, manner in scenario.manners.items()
        }
        self.replayed = {number: Replayed() for number in range(scenario.partitions)}
        """By partition of accounts."""
        self.left_with: dict[int, AccountPartition] = {}
        self.openings: list[Opening] = []
        self.confirmed: list[Confirmed] = []
        self.heard: list[Heard] = []
        self.decided: list[tuple[str, str]] = []
        self._outboxed: set[str] = set()
        """Ids of what the logs say will be told to INTAKE."""
        self._early: dict[str, list[Report]] = {}
        """Confirmed before the log knew whose they are, by the key that will say so."""
        self._accounts_of: dict[tuple[int, str], str] = {}
        self._started = 0
        self._claiming: set[int] = set()
        self._held_up = 0
        """Dispatches and letters that are still to come."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams.ledger_listeners.append(self._stored)
        loop.set_exception_handler(self._on_loop_error)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():12.4f} {text}")

    def provider(self, account: AccountConfig, events: Events) -> ModelProvider:
        """What a host connects to an account's carrier with."""
        return ModelProvider(self.carriers[account.name], events)

    def _on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.broken.append(f"loop: {context['message']}: {error!r}")

    def _start(self, coroutine: Any, name: str) -> None:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the run -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything the scenario holds; then no more faults, until nothing is left to do."""
        for slot in range(self.scenario.hosts):
            self._start_host(slot)
        supervisor = self.loop.create_task(self._supervise(), name="supervisor")
        self.kicked.set()
        for dispatch in self.scenario.dispatches:
            self._held_up += 1
            self._start(self._dispatch(dispatch), "dispatch")
        for letter in self.scenario.letters:
            carrier = self.carriers[letter.account]
            self.loop.call_later(letter.at_s, carrier.write, letter)
        for trouble in self.scenario.troubles:
            self._start(self._trouble(trouble), f"trouble {trouble.kind}")
        await asyncio.sleep(self.scenario.end_s + 120)
        self._heal()
        for day in range(QUIET_DAYS):
            if not (self._held_up or self._left_over()):
                break
            await asyncio.sleep(86_400 if day else 7_200)
        else:
            self.broken.append(f"not quiet after {QUIET_DAYS} days: {self._left_over()}")
        await asyncio.sleep(300)  # the ledger has it; let the owners hear of it
        supervisor.cancel()
        for number in self.replayed:
            if (owner := self.owner(number)) is not None:
                self.left_with[number] = owner.runner.partitions[number]
        await self._stop_all()

    def _heal(self) -> None:
        self.say("healed")
        self.faults.on = self.network.down = self.streams.full = False
        for host in self.hosts.values():
            host.process.go_on()
        for carrier in self.carriers.values():
            carrier.calm = True
            carrier.set_up(True, True)
        self.kicked.set()

    async def _stop_all(self) -> None:
        for host in self.hosts.values():
            if not host.alive:
                continue
            stopping = host.process.start(host.runner.stop(), "stop")
            _, left = await asyncio.wait([stopping, host.loop], timeout=120)
            if left or host.process.busy():
                self.broken.append(f"{host.name} does not stop: {host.process.busy()}")
                host.process.kill()

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
                elif key.startswith("a:") and unpack_attempt(packed).state != DONE:
                    left.append(f"partition {number}: {unpack_attempt(packed)}")
        known = {account.name for account in self.accounts}
        for name, carrier in self.carriers.items():
            if carrier.open_reports and name in known:
                left.append(f"{name} has {carrier.open_reports} reports")
        return left

    def owner(self, number: int) -> AccountHost | None:
        """The host with the highest epoch: others may not have noticed yet."""
        owners = [host for host in self.hosts.values() if number in host.owned()]
        return max(owners, key=lambda h: h.runner.partitions[number].epoch, default=None)

    # ---- what the ledger gets ------------------------------------------------------------------

    def _stored(self, stored: Stored) -> None:
        kind, which = stored.subject.split(".")[1:3]
        if kind != "log":
            return
        number = int(which) - self.scenario.partitions
        record = decode_record(stored.payload)
        states = {key: value and _shown(key, value) for key, value in record.states.items()}
        self.say(f"{stored.sequence} {record.commit_id} {record.epoch} {states}")
        self._check_chain(number, stored.sequence, record)
        for key, packed in record.states.items():
            if key.startswith("a:"):
                self._attempt(number, stored.sequence, key[2:], packed)
            elif key.startswith("o:") and packed is not None:
                for one in unpack_outbound(packed):
                    self._outboxed.add(one.message_id)
                    if one.lane == "receipt":
                        delivery, _, status = one.message_id.rsplit("/", 2)
                        self.decided.append((delivery, status))
            elif key.startswith("p:") and packed is not None:
                for report in self._early.pop(key, ()):
                    self._counts(key.split(":", 2)[1], report, unpack_part(packed), number)
            elif key.startswith("q:") and packed is None and f"p:{key[2:]}" not in record.states:
                self._early.pop(f"p:{key[2:]}", None)  # it came too early, and is forgotten

    def _check_chain(self, number: int, sequence: int, record: Any) -> None:
        """Each record follows the one before it, and nothing ever goes back."""
        before = self.replayed[number]
        wrong = [
            *(["previous"] if record.previous != before.fence else []),
            *(["epoch"] if record.epoch not in (before.epoch, before.epoch + 1) else []),
            *(["time"] if record.at_ms < before.at_ms else []),
            *(
                f"checkpoint of {channel}"
                for channel, done in before.checkpoint.items()
                if record.checkpoint.get(channel, 0) < done
            ),
        ]
        claim = record.commit_id.startswith("claim-")
        if claim != (record.epoch == before.epoch + 1):
            wrong.append("epoch without a claim, or a claim without an epoch")
        if wrong:
            self.broken.append(f"log of {number} at {sequence}: {', '.join(wrong)}")
        self.happened["claim"] += claim
        before.fence = record.previous  # said once: go on with the record as it is
        before.apply(sequence, record)

    def _attempt(self, number: int, sequence: int, delivery: str, packed: bytes | None) -> None:
        place = number, delivery
        if packed is None:
            account, is_open = self._accounts_of.get(place, ""), False
        else:
            attempt = unpack_attempt(packed)
            account, is_open = attempt.account, attempt.state == OPEN
        self._accounts_of[place] = account
        now = self.clock.now_ms()
        self.openings.append(Opening(sequence, number, account, delivery, is_open, now))

    # ---- what is confirmed to carriers -----------------------------------------------------------

    def _confirmed(self, account: str, report: Report) -> None:
        """The hub has said that something is stored: is it?"""
        number = account_partition(account, self.scenario.partitions)
        if report.inbound is not None:
            name = f"{account}/in/{report.inbound.id}"
            if name not in self._outboxed:
                self.broken.append(f"confirmed before it was stored: {name}")
            now = self.clock.now_ms()
            self.heard.append(Heard(now, account, report.inbound.id, report.inbound.opt_out))
            return
        assert report.receipt is not None
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

    # ---- hosts and their supervisor ------------------------------------------------------------

    def _start_host(self, slot: int) -> None:
        name = f"host-{slot}-{self._started}"
        self._started += 1
        self.hosts[slot] = AccountHost(self, slot, name)
        self.say(f"{name} starts")

    async def _supervise(self) -> None:
        """Look when something has happened, some time later, until every partition has an owner."""
        while True:
            await self.kicked.wait()
            self.kicked.clear()
            await asyncio.sleep(self.chance.choice((0.01, 0.2, 3.0)))
            self._look()

    def _look(self) -> None:
        for slot, host in list(self.hosts.items()):
            if not host.alive:
                self._mourn(host)
                self._start_host(slot)
        # A host that stands still may be thought dead: its partitions go to others.
        seen = [
            h for h in self.hosts.values() if not h.process.paused or self.chance.random() < 0.3
        ]
        owned = set().union(*(host.owned() for host in seen))
        ready = [host for host in seen if not host.stopping]
        for number in range(self.scenario.partitions):
            if number not in owned | self._claiming:
                if ready:
                    self._assign(self.chance.choice(ready), number)
                else:
                    self.loop.call_later(1.0, self.kicked.set)

    def _mourn(self, host: AccountHost) -> None:
        """A host that was not killed or stopped has failed, and may not."""
        if not host.process.alive:
            return
        error = None if host.loop.cancelled() else host.loop.exception()
        if error is not None:
            self.broken.append(f"{host.name} has failed: {error!r}")
        host.process.kill()

    def _assign(self, host: AccountHost, number: int) -> None:
        self._claiming.add(number)
        self.say(f"assign {number} to {host.name}")
        self._start(self._ask(host, number), "assign")

    async def _ask(self, host: AccountHost, number: int) -> None:
        """The call to a host; what takes too long is forgotten here, and may still come true."""
        claim = host.process.start(host.runner.assign([number]), f"assign {number}")
        await asyncio.wait([claim], timeout=self.chance.choice((1.0, 30.0)))
        if self.chance.random() < 0.3:
            claim.cancel()
        self._claiming.discard(number)
        claim.add_done_callback(self._asked)
        self.kicked.set()

    def _asked(self, claim: asyncio.Task[list[int]]) -> None:
        self.kicked.set()
        if not claim.cancelled() and (error := claim.exception()) is not None:
            self.broken.append(f"assign failed: {error!r}")

    # ---- what goes wrong -------------------------------------------------------------------------

    def _kill(self, process: Process) -> None:
        self.say(f"{process.name} is killed")
        process.kill()
        self.kicked.set()

    def _pause_a_while(self, process: Process) -> None:
        self._pause(process, self.chance.choice((0.2, 4.0, 8.0, 40.0)))

    def _pause(self, process: Process, lasts_s: float) -> None:
        self.say(f"{process.name} stands still for {lasts_s:.1f} s")
        process.pause()
        self.kicked.set()
        self.network.later(lasts_s, self._go_on, process)

    def _go_on(self, process: Process) -> None:
        self.say(f"{process.name} goes on")
        process.go_on()
        self.kicked.set()

    async def _trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at_s - self.loop.time())
        self.say(f"trouble: {trouble.kind} {trouble.which} for {trouble.lasts_s:.1f} s")
        self.happened[f"trouble: {trouble.kind}"] += 1
        host = self.hosts[trouble.which % self.scenario.hosts]
        number = trouble.which % self.scenario.partitions
        match trouble.kind:
            case "kill":
                self._kill(host.process)
            case "pause":
                self._pause(host.process, trouble.lasts_s)
            case "down":
                self.network.down = True
                await asyncio.sleep(trouble.lasts_s)
                self.network.down = False
            case "full":
                self.streams.full = True
                await asyncio.sleep(trouble.lasts_s)
                self.streams.full = False
            case "gap":
                if host.runner._reader is not None:
                    host.runner._reader.lose("sms")  # type: ignore[attr-defined]
            case "two-owners":
                if host.alive and not host.stopping and number not in self._claiming:
                    self._assign(host, number)
            case "reload":
                await self._reload()
            case "unlinked" | "refused":
                await self._disconnect(trouble)
            case "move" | "stop":
                await self._leave(host, number, whole=trouble.kind == "stop")

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

    async def _leave(self, host: AccountHost, number: int, *, whole: bool) -> None:
        """Give a partition, or all, up in order."""
        if not host.alive or host.stopping:
            return
        host.stopping = whole
        giving_up = host.runner.stop() if whole else host.runner.release([number])
        leaving = host.process.start(giving_up, "leave")
        await asyncio.wait([leaving], timeout=60)
        self.kicked.set()


def _shown(key: str, value: bytes) -> str:
    if key.startswith("a:"):
        attempt = unpack_attempt(value)
        return f"{attempt.account} state {attempt.state} told {attempt.told} ids {attempt.ids}"
    if key.startswith("o:"):
        return str([one.message_id for one in unpack_outbound(value)])
    return "…"


@contextlib.contextmanager
def tuned(scenario: AccountScenario) -> Iterator[None]:
    """Accounts with the scenario's bounds, and fewer looks at an idle clock."""
    homes = (account_module, account_runner, account_io, limits)
    changes: list[tuple[Any, str, Any]] = [(account_runner, "_IDLE_S", IDLE_S)]
    for name, value in scenario.bounds.items():
        home = next(module for module in homes if hasattr(module, name))
        changes.append((home, name, value))
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


__all__ = ["AccountWorld", "account_log", "partial", "tuned"]
