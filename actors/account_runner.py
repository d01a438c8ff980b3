"""The loop of a host of accounts: read, decide, commit, put on the wire, tell.

The same class runs in a Ray actor and, with a model of the streams and of the providers, in the
simulation. A turn takes what is waiting (deliveries, answers, receipts, inbound messages, wake-ups,
claims that are due), and each partition it touched is committed by one log record under its fence:
almost always a single message, which the server need not stage. Only after it

- claimed deliveries depart, each at the moment its account's limits give it;
- receipts and inbound messages are confirmed to the provider;
- receipts, inbound messages and commands go to INTAKE, from an outbox that a successor finds.

Source: ADR 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import structlog

from actors.account import Account
from actors.account_intake import DeliveryIntake
from actors.account_io import (
    OUTBOX_TURNS,
    AccountLedger,
    Bodies,
    Outbox,
    Snapshots,
    entries_of,
)
from actors.account_mail import (
    Answered,
    Bundled,
    Letter,
    Linked,
    Mailbox,
    Reported,
    Written,
    taken_out,
)
from actors.account_partition import AccountPartition, TurnChanges
from actors.account_receipts import hear, know_peers, learn_ids, receive, take_bundle
from actors.account_state import ACCEPTED, attempt_key
from actors.orders import Orders
from channels.accounts import AccountConfig
from channels.provider import Events, Provider
from channels.registry import PROVIDERS
from hub import limits
from hub.clock import Clock
from hub.contract.subjects import account_log, account_partition
from hub.errors import TactError
from hub.ledger.port import FenceLost
from hub.metrics import Metrics

log = structlog.get_logger("tact.accounts")

Make = Callable[[AccountConfig, Events], Provider]

_IDLE_S = 0.5
TURN_SLICES = 4
"""Of a turn that nothing urgent cuts short: 100 ms of work, and a log record of some 200 KiB."""
CLAIMS_SLICE = 256
"""Deliveries that are looked at in one slice, whether they may leave: 10 ms."""
URGENT_CLAIMS = 16
"""The same of an account that has taken something urgent, which is among its first."""
LETTERS_SLICE = 256
"""Provider events heard in one slice: 10 ms."""
DRAIN_S = 5.0
"""How long answers under way are waited for when a partition is given up in order."""
TIDY_S = 5.0
"""Between two looks for what the limits do not count any more."""


class AccountRunner:
    """Serves the partitions it has claimed. `run()` until `stop()`."""

    def __init__(
        self,
        ledger: AccountLedger,
        clock: Clock,
        accounts: Sequence[AccountConfig],
        name: str,
        metrics: Metrics,
        make: Make,
    ) -> None:
        self.partitions: dict[int, AccountPartition] = {}
        """By the partition of accounts, 0 to N-1."""
        self.configs = {account.name: account for account in accounts}
        self._ledger = ledger
        self._clock = clock
        self._name = name
        self._metrics = metrics
        self._make = make
        self._intake = DeliveryIntake(ledger, accounts, self.partitions, self._account)
        self._providers: dict[str, tuple[Provider, Mailbox]] = {}
        """By the account's name."""
        self._inbox: deque[Letter] = deque()
        self._dirty: dict[str, Account] = {}
        """Accounts to ask in this turn what they may claim."""
        self._asks: list[tuple[float, str]] = []
        """Heap: when an account wants to be asked again."""
        self._asked: dict[str, float] = {}
        """The earliest entry of each account in it."""
        self._carries_more = True
        """The last slice had something that nobody waits for."""
        self._tidy_s = 0.0
        self._idle: list[Account] = []
        """To be put away before the next turn."""
        self._look = asyncio.Event()
        self._orders = Orders(self._look.set)
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: dict[str, Account] = {}
        """Accounts with claimed deliveries that have not departed."""
        self._outbox = Outbox(ledger, self._look.set)
        self._bodies = Bodies(ledger, clock, self._look.set)
        self._snapshots = Snapshots(ledger, self._look.set)
        self._commits = 0
        self._stopping = False
        self._stopped = asyncio.Event()

    # ---- ownership -------------------------------------------------------------------------------

    async def assign(self, numbers: Iterable[int]) -> list[int]:
        """Claim partitions of accounts and serve them; returns those that were won."""
        claimed = []
        for number in numbers:
            owned = self.partitions.get(number)
            if owned is not None and not owned.lost:
                continue
            log_number = account_log(number, self._ledger.partitions)
            try:
                image = await self._ledger.claim(log_number, self._name, self._clock.now_ms())
            except FenceLost:
                log.info("claim-lost", partition=number)
                continue
            claimed.append(AccountPartition(image, self._ledger.partitions, self._clock.now_ms()))

        async def take() -> None:
            for partition in claimed:
                await self._drop(partition.number, 0.0)
                self.partitions[partition.number] = partition
                self._begin_serving(partition)
            await self._intake.open()

        await self._orders.give(take)
        return [partition.number for partition in claimed]

    async def release(self, numbers: Iterable[int]) -> None:
        """Stop serving partitions: what has not left waits for the next owner."""
        numbers = list(numbers)

        async def drop() -> None:
            await asyncio.gather(*(self._drop(number, DRAIN_S) for number in numbers))
            await self._intake.open()

        await self._orders.give(drop)

    async def configure(self, accounts: Sequence[AccountConfig]) -> None:
        """Serve by another configuration from the next turn on."""

        async def replace() -> None:
            before, self.configs = self.configs, {account.name: account for account in accounts}
            await self._replace(before)
            reopen = self._intake.configure(accounts)
            for partition in self.partitions.values():
                self._connect_all(partition)
            if reopen:
                await self._intake.open()

        await self._orders.give(replace)

    async def stop(self) -> None:
        """Let what is under way be answered, commit, and leave the loop."""
        self._stopping = True
        self._look.set()
        await self._stopped.wait()

    def provider_of(self, account: str) -> Provider | None:
        """Of an account that is served here, for a request of the other side; None: not now."""
        home = self._home(account)
        if home is None or home.lost or home.leaving:
            return None
        served = self._account(home, account) is not None and account in self._providers
        return self._providers[account][0] if served else None

    def describe(self) -> dict[str, dict[str, Any]]:
        """The accounts in memory: what waits, what is open, their connection and circuit."""
        now = self._clock.now_ms()
        return dict(one for p in self.partitions.values() for one in p.in_memory(now))

    # ---- accounts and their providers ------------------------------------------------------------

    def _begin_serving(self, partition: AccountPartition) -> None:
        partition.begin()
        self._outbox.send(partition)
        self._connect_all(partition)

    def _connect_all(self, partition: AccountPartition) -> None:
        """Accounts whose provider must be there to hear customers and receipts, or has noted what
        it goes on with."""
        for name, config in self.configs.items():
            wanted = PROVIDERS[config.provider].connects or partition.notes.get(name)
            if wanted and self._home(name) is partition:
                self._account(partition, name)

    def _account(self, partition: AccountPartition, name: str) -> Account | None:
        """The account in memory, with its provider started; None when the hub has none."""
        account, config = partition.accounts.get(name), self.configs.get(name)
        if account is None and config is not None and not PROVIDERS[config.provider].outside:
            mailbox = Mailbox(
                partition.number, name, self._inbox, self._look.set, self._metrics.add
            )
            provider = self._make(config, mailbox)
            self._providers[name] = provider, mailbox
            account = Account(
                config, partition, provider.prepare, self._clock.now_ms(), resend=provider.resend
            )
            partition.accounts[name] = account
            provider.start(dict(partition.notes.get(name, {})))
        if account is not None:
            account.touched_ms = self._clock.now_ms()
            self._dirty[name] = account
        return account

    async def _replace(self, before: dict[str, AccountConfig]) -> None:
        """Accounts that were changed or removed in the configuration: all are disconnected, then
        what they heard is committed, then they are made anew."""
        anew: list[tuple[AccountPartition, Account]] = []
        for name, was in before.items():
            config, home = self.configs.get(name), self._home(name)
            account = None if home is None else home.accounts.get(name)
            if home is None or account is None or config == was:
                continue
            if config is not None and (config.settings, config.sms) == (was.settings, was.sms):
                account.configure(config, self._clock.now_ms())
                self._dirty[name] = account
            else:
                anew.append((home, account))
        accounts = (account for _, account in anew)
        mailboxes = await asyncio.gather(*(self._disconnect(each, DRAIN_S) for each in accounts))
        for home in {home.number: home for home, _ in anew}.values():
            await self._settle(home)
        for (home, account), mailbox in zip(anew, mailboxes, strict=True):
            mailbox.closed = True
            del home.accounts[account.name]
            home.replaced(account, self._account(home, account.name), self._clock.now_ms())

    async def _disconnect(self, account: Account, drain_s: float) -> Mailbox:
        """Take back what has not left, wait for answers, end the connection."""
        account.take_back(self._clock.now_ms())
        self._leaving.pop(account.name, None)
        provider, mailbox = self._providers.pop(account.name)
        await provider.stop(drain_s)
        return mailbox

    async def _put_away(self) -> None:
        """Accounts that nothing was asked of for long: virtual actors leave memory."""
        idle, self._idle = self._idle, []
        for account in idle:
            home, now = self._served(account), self._clock.now_ms()
            if home and account.idle(now) and self._providers[account.name][0].idle:
                account.gate.rest(now)
                mailbox = await self._disconnect(account, 0.0)
                mailbox.closed = True
                del home.accounts[account.name]
                self._dirty.pop(account.name, None)

    async def _settle(self, partition: AccountPartition) -> None:
        """Commit what was heard, in as many turns as it takes, outside of the loop."""
        letters = taken_out(self._inbox, partition.number)
        while letters or (partition.touched and not partition.lost):
            self._hear(letters)
            if partition.touched and not partition.lost:
                await self._commit(partition.close(self._clock.now_ms()))
            letters += taken_out(self._inbox, partition.number)

    async def _drop(self, number: int, drain_s: float) -> None:
        """Give a partition up; in order when `drain_s` is given and it is still ours."""
        partition = self.partitions.get(number)
        if partition is None:
            return
        if partition.lost:
            drain_s = 0.0
            for account in partition.accounts.values():
                self._providers[account.name][1].closed = True
        partition.leaving = True
        accounts = list(partition.accounts.values())
        mailboxes = await asyncio.gather(*(self._disconnect(a, drain_s) for a in accounts))
        await self._settle(partition)
        for mailbox in mailboxes:
            mailbox.closed = True
        for name in partition.accounts:
            self._dirty.pop(name, None)
            self._leaving.pop(name, None)
        self.partitions.pop(number, None)

    # ---- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn. Returns after `stop()`."""
        try:
            while not self._stopping:
                await self._orders.carry_out()
                await self._drop_lost()
                await self._put_away()
                self._snapshots.start_if_due(self.partitions.values())
                await self._gather()
                now = self._clock.now_ms()
                turns = [p.close(now) for p in self.partitions.values() if p.touched]
                if turns:
                    await asyncio.gather(*map(self._commit, turns))
                    await asyncio.sleep(0)
                else:
                    await self._wait()
        except BaseException:
            # A turn that broke off must not be committed half: a successor decides it anew.
            for partition in self.partitions.values():
                partition.lost = True
            raise
        finally:
            await self._leave()

    async def _leave(self) -> None:
        await asyncio.gather(*(self._drop(number, DRAIN_S) for number in list(self.partitions)))
        self._orders.end()
        if self._timer is not None:
            self._timer.cancel()
        await self._outbox.close(DRAIN_S)
        await self._bodies.close(0.0)
        await self._snapshots.close(DRAIN_S)
        await self._intake.close()
        self._stopped.set()

    async def _drop_lost(self) -> None:
        lost = [number for number, partition in self.partitions.items() if partition.lost]
        for number in lost:
            await self._drop(number, 0.0)
        if lost:
            await self._intake.open()

    @property
    def _backed_up(self) -> bool:
        """INTAKE does not take our receipts: nothing more is begun."""
        return sum(len(p.unsent) for p in self.partitions.values()) >= OUTBOX_TURNS

    @property
    def _held_up(self) -> bool:
        """Nothing is begun before INTAKE has taken our receipts, and what we found is taken up."""
        return self._backed_up or any(p.restoring for p in self.partitions.values())

    async def _gather(self) -> None:
        """What is there, into the partitions' turns. The network is let in between two slices, and
        what somebody waits for cuts the turn short."""
        now = self._clock.now_ms()
        for account, entry, delivery in self._bodies.take():
            if self._served(account) is not None:  # else it was replaced meanwhile
                account.loaded(entry, delivery, now)
                self._dirty[account.name] = account
        for partition in self.partitions.values():
            account_of = partial(self._account, partition)
            if partition.restoring:
                partition.restore(account_of, now)
            partition.due(now, limits.WAKES_PER_TURN, account_of)
            self._dirty.update(partition.woken)
            partition.woken.clear()
        self._tidy(now)
        for _ in range(TURN_SLICES - 1):
            if self._slice(now) or not self._more:
                break
            await asyncio.sleep(0)
            now = self._clock.now_ms()
        else:
            self._slice(now)
        if self._more:
            self._look.set()
        for partition in self.partitions.values():
            self._bodies.ask(partition.fetches)

    def _slice(self, now: int) -> bool:
        """A little of what is there; whether somebody waits for what was among it. Beside a
        backlog every other turn of that carries nothing else: it is short, and soon committed."""
        waited_for = self._hear(self._inbox)
        if self._held_up:
            return waited_for
        urgent = self._intake.take_urgent(now)
        for name, count in urgent.items():
            account = self._dirty.pop(name, None)
            if account is not None:
                self._ask(account, now, URGENT_CLAIMS + count)
        waited_for = waited_for or bool(urgent)
        hurries = waited_for and self._intake.backlog
        self._carries_more = not hurries or not self._carries_more
        if self._carries_more:
            self._intake.take(now)
            self._claim(now)
        return waited_for

    @property
    def _more(self) -> bool:
        """Whether another slice of the turn has anything to do."""
        if any(partition.full for partition in self.partitions.values()):
            return False
        return bool(self._inbox) or (not self._held_up and bool(self._dirty or self._intake.waits))

    def _claim(self, now: int) -> None:
        while self._asks and self._asks[0][0] <= now:
            _, name = heapq.heappop(self._asks)
            self._asked.pop(name, None)
            home = self._home(name)
            if home is not None and name in home.accounts:
                self._dirty[name] = home.accounts[name]
        dirty, self._dirty = self._dirty, {}
        left = CLAIMS_SLICE
        for name, account in dirty.items():
            if left > 0:
                left -= self._ask(account, now, left)
            else:
                self._dirty[name] = account

    def _ask(self, account: Account, now: int, most: int) -> int:
        """Have an account claim what it may, of `most` that wait; returns how many it looked at."""
        looked = account.claim_due(now, most)
        name = account.name
        if account.next_ms < self._asked.get(name, math.inf):
            self._asked[name] = account.next_ms
            heapq.heappush(self._asks, (account.next_ms, name))
        home = self._home(name)
        if account.claimed and home is not None:
            self._leaving[name] = account
            know_peers(home, account, now)
        return looked

    def _tidy(self, now: int) -> None:
        """Now and then: forget what the limits do not count any more."""
        if self._clock.steady_s() - self._tidy_s >= TIDY_S:
            self._tidy_s = self._clock.steady_s()
            for partition in self.partitions.values():
                for account in partition.accounts.values():
                    account.gate.forget_idle(now)
                    if account.idle(now) and self._providers[account.name][0].idle:
                        self._idle.append(account)

    def _home(self, name: str) -> AccountPartition | None:
        """The partition of an account, if it is served here."""
        return self.partitions.get(account_partition(name, self._ledger.partitions))

    def _served(self, account: Account) -> AccountPartition | None:
        """The same, unless this account was replaced meanwhile."""
        home = self._home(account.name)
        return home if home is not None and home.accounts.get(account.name) is account else None

    # ---- what providers say --------------------------------------------------------------------

    def _hear(self, letters: deque[Letter]) -> bool:
        """What providers say; whether customers do, who wait for an answer."""
        now, called = self._clock.now_ms(), False
        for _ in range(min(len(letters), LETTERS_SLICE)):
            mailbox = letters[0].mailbox
            partition = self.partitions.get(mailbox.number)
            if partition is not None and partition.full:
                break  # the rest is heard in the next turn
            letter = letters.popleft()
            account = None if partition is None else partition.accounts.get(mailbox.account)
            if partition is None or account is None or partition.lost or mailbox.closed:
                if isinstance(letter, Reported | Written | Bundled):
                    letter.stored(False)
                continue
            self._dirty[account.name] = account
            match letter:
                case Answered(delivery=delivery):
                    self._answered(partition, account, delivery, letter)
                case Reported(receipt=receipt, stored=stored):
                    receive(partition, account, receipt, now)
                    partition.stored.append(stored)
                case Written(inbound=inbound, stored=stored):
                    hear(partition, partition, account, inbound, now)
                    partition.stored.append(stored)
                    called = True
                case Bundled(bundle=bundle, stored=stored):
                    take_bundle(partition, partition, account, bundle, now)
                    partition.stored.append(stored)
                case Linked(link=link):
                    account.changed(link, now)
                    if link.window > 0 and account.departing:
                        self._leaving[account.name] = account
        return called

    def _answered(
        self, partition: AccountPartition, account: Account, delivery: str, letter: Answered
    ) -> None:
        now = self._clock.now_ms()
        entry = account.answered(delivery, letter.answer, now)
        if entry is not None:
            learn_ids(partition, account, delivery, entry.attempt, now)
            if entry.attempt.state == ACCEPTED:
                partition.wake(entry.attempt.wake_ms, attempt_key(delivery))

    # ---- leaving -------------------------------------------------------------------------------

    def _depart(self) -> None:
        """Put on the wire what is due, and be called again when more is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        clock, next_ms = self._clock.now_ms, math.inf
        for name, account in list(self._leaving.items()):
            at = account.depart(clock, self._providers[name][0])
            if account.overdue:
                self._dirty[name] = account
                self._look.set()
            if not account.departing and not account.claimed:
                del self._leaving[name]
            next_ms = min(next_ms, at)
        if next_ms < math.inf:
            wait_s = max(1, math.ceil(next_ms - clock())) / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._depart)

    # ---- committing ----------------------------------------------------------------------------

    async def _commit(self, turn: TurnChanges) -> None:
        """One partition's turn, under its fence; then what waits for it."""
        partition = turn.partition
        self._commits += 1
        commit_id = f"{self._name}-{self._commits}"
        entries = entries_of(turn, commit_id)
        started_s = self._clock.steady_s()
        try:
            last = await self._ledger.commit(commit_id, entries, {partition.log: partition.fence})
        except TactError as error:
            self._lost(turn, error)
            return
        self._metrics.observe("tact_account_commit_seconds", self._clock.steady_s() - started_s)
        partition.fence = last
        partition.log_bytes += len(entries[-1].payload)
        for (name, labels), count in turn.counted.items():
            self._metrics.add(name, labels, count)
        self._committed(turn)

    def _committed(self, turn: TurnChanges) -> None:
        partition = turn.partition
        for stored in turn.stored:
            stored(True)
        for account in self._leaving.values():
            if account.claimed and self._served(account) is partition:
                account.committed()
        if turn.outbox:  # not before it is committed
            partition.unsent[turn.outbox] = turn.outbound
            self._outbox.send(partition)
        self._depart()

    def _lost(self, turn: TurnChanges, error: TactError) -> None:
        partition = turn.partition
        if isinstance(error, FenceLost):
            log.warning("fence-lost", partition=partition.number, kind="accounts")
        else:
            log.error("commit-given-up", code=error.code, advice=error.message)
        self._metrics.add("tact_fence_lost_total")
        partition.lost = True
        for account in partition.accounts.values():
            account.departing.clear()
        for stored in turn.stored:
            stored(False)
        self._look.set()

    # ---- waiting -------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until something is reported or read, or a wake-up or claim is due."""
        now = self._clock.now_ms()
        timeout_s = _IDLE_S
        if self._asks and not self._backed_up:
            timeout_s = min(timeout_s, (self._asks[0][0] - now) / 1000)
        for partition in self.partitions.values():
            wake = partition.next_wake()
            if wake is not None:
                timeout_s = min(timeout_s, (wake - now) / 1000)
        timeout_s = max(0.0, timeout_s)
        reader = self._intake.reader
        if self._look.is_set() or reader is None or self._backed_up:
            if not self._look.is_set():
                with contextlib.suppress(TimeoutError):  # then something is due
                    await asyncio.wait_for(self._look.wait(), timeout_s)
            self._look.clear()
            return
        waits = [
            asyncio.ensure_future(self._look.wait()),
            asyncio.ensure_future(reader.wait(timeout_s, self._intake.channels)),
        ]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        self._look.clear()
        for wait in waits:
            wait.cancel()
