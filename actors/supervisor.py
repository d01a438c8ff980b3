"""Supervisor: a Ray actor that keeps hosts running and every partition owned.

A reconcile loop for each fleet (hosts of conversations, hosts of accounts): look at the hosts,
plan, ask for the moves. It decides nothing about messages and may die at any time; being wrong
about who owns what costs a claim, never a duplicate (the fence).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import ray
import structlog
from ray.actor import ActorHandle

from actors.account_host import AccountHost
from actors.host import ConversationHost
from actors.placement import Moves, outdated, plan
from actors.settings import HubSettings
from channels.accounts import AccountConfig
from hub.clock import Clock, SystemClock
from hub.metrics import Snapshot
from hub.policy.document import parse_policy, policy_version

NAMESPACE = "tact"
LOOK_S = 0.25
"""Pause between two looks at the hosts."""
CALL_S = 2.0
"""A scrape waits this long for a host."""

log = structlog.get_logger("tact.supervisor")


class _Host:
    """One host actor as the supervisor sees it."""

    def __init__(self, name: str, handle: ActorHandle, now_s: float) -> None:
        self.name = name
        self.handle = handle
        self.seen_s = now_s
        self.status: dict[str, Any] | None = None
        """The last answer; None while it is dead, restarting or silent."""
        self.last: dict[str, Any] = {}
        self.call: asyncio.Task[None] | None = None
        self.moving: asyncio.Task[None] | None = None
        self.claiming: set[int] = set()
        self.replaced = False
        """It was silent too long and another host has its work; retired when it answers again."""

    def owned(self) -> set[int]:
        return set((self.status or {}).get("partitions", ())) | self.claiming


class Fleet:
    """Hosts of one kind, and the partitions they share."""

    def __init__(
        self,
        prefix: str,
        actor: type,
        settings: HubSettings,
        clock: Clock,
        count: int,
        greet: Callable[[ActorHandle], Awaitable[Any]],
    ) -> None:
        """`greet`: what a host that has just come up is told."""
        self.hosts: dict[str, _Host] = {}
        self._prefix = prefix
        self._actor = actor
        self._settings = settings
        self._clock = clock
        self.count = count
        """How many are to run; 0: nobody is missed."""
        self._greet = greet
        self._started = 0

    # ---- questions -----------------------------------------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """Every host that counts, as it last said."""
        return [
            {**host.last, "name": host.name, "alive": host.status is not None}
            for host in self.hosts.values()
            if not host.replaced
        ]

    def unowned(self) -> list[int]:
        """Partitions that nobody serves."""
        if not self.count:
            return []
        owned = {
            n for host in self.hosts.values() for n in (host.status or {}).get("partitions", ())
        }
        return sorted(set(range(self._settings.partitions)) - owned)

    def live(self) -> list[_Host]:
        """Hosts that answer."""
        return [host for host in self.hosts.values() if host.status is not None]

    async def metrics(self) -> dict[str, Snapshot]:
        """The counters of every host that answers, by incarnation."""

        async def ask(host: _Host) -> tuple[str, Snapshot] | None:
            try:
                async with asyncio.timeout(CALL_S):
                    told: tuple[str, Snapshot] = await host.handle.metrics.remote()
                    return told
            except (TimeoutError, ray.exceptions.RayError):
                return None  # it is dead or silent: the total keeps what it last told

        answers = await asyncio.gather(*map(ask, self.live()))
        return dict(answer for answer in answers if answer is not None)

    async def stop(self) -> None:
        """Let every host finish its turn and commit, then end them."""

        async def end(host: _Host) -> None:
            with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
                async with asyncio.timeout(self._settings.silent_s * 2):
                    await host.handle.stop.remote()
            ray.kill(host.handle, no_restart=True)

        await asyncio.gather(*map(end, self.hosts.values()))

    # ---- the loop ------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """One round. Starts what takes long and does not wait for it."""
        if not self.count:
            return
        self._keep_hosts()
        for host in self.hosts.values():
            self._look(host)
        self._place()

    def _keep_hosts(self) -> None:
        """As many hosts as configured, not counting those that were replaced."""
        serving = [host for host in self.hosts.values() if not host.replaced]
        for _ in range(self.count - len(serving)):
            name = f"{self._prefix}-{self._started}"
            self._started += 1
            handle = _host_actor(self._actor, self._settings, name)
            self.hosts[name] = _Host(name, handle, self._clock.steady_s())

    def _look(self, host: _Host) -> None:
        """Keep one status call under way, and notice when it goes unanswered."""
        if host.call is None or host.call.done():
            host.call = asyncio.create_task(self._ask(host))
        silent_s = self._clock.steady_s() - host.seen_s
        if host.status is not None and silent_s > self._settings.silent_s:
            log.warning("host-silent", host=host.name, silent_s=round(silent_s, 1))
            host.status, host.replaced = None, True
            host.claiming.clear()

    async def _ask(self, host: _Host) -> None:
        try:
            status = await host.handle.status.remote()
        except ray.exceptions.RayError as error:
            if host.status is not None:
                log.warning("host-gone", host=host.name, error=type(error).__name__)
            host.status, host.seen_s = None, self._clock.steady_s()
            host.claiming.clear()
            await asyncio.sleep(LOOK_S)
            return
        host.seen_s = self._clock.steady_s()
        if host.replaced:
            log.info("host-retired", host=host.name)
            self.hosts.pop(host.name, None)
            ray.kill(host.handle, no_restart=True)
            return
        if status["incarnation"] != host.last.get("incarnation"):
            log.info("host-up", host=host.name, pid=status["pid"])
            await self._greet(host.handle)
        host.status = host.last = status

    def _place(self) -> None:
        answering = {n: h for n, h in self.hosts.items() if h.status is not None and not h.replaced}
        if any(host.moving is not None for host in answering.values()):
            return
        stale = outdated({n: (h.status or {})["epochs"] for n, h in answering.items()})
        if stale:
            moves = Moves(release=stale)
        else:
            moves = plan(self._settings.partitions, {n: h.owned() for n, h in answering.items()})
        for name, numbers in moves.release.items():
            host = answering[name]
            host.moving = asyncio.create_task(self._move(host, "release", numbers))
        for name, numbers in moves.assign.items():
            host = answering[name]
            host.claiming = set(numbers)
            host.moving = asyncio.create_task(self._move(host, "assign", numbers))

    async def _move(self, host: _Host, verb: str, numbers: list[int]) -> None:
        """Ask for one move and take over what the host says it owns afterwards."""
        try:
            await getattr(host.handle, verb).remote(numbers)
            status = await host.handle.status.remote()
        except ray.exceptions.RayError as error:
            log.warning("move-failed", host=host.name, verb=verb, error=type(error).__name__)
        else:
            log.info(verb, host=host.name, partitions=numbers)
            if host.status is not None:
                host.status = host.last = status
        finally:
            host.claiming.clear()
            host.moving = None


class Supervisor:
    """Starts the hosts of `settings` and places `settings.partitions` on those of each kind."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._policy = settings.policy
        self._accounts: Sequence[AccountConfig] = settings.accounts
        clock = SystemClock()
        self._conversations = Fleet(
            "tact-host", ConversationHost, settings, clock, settings.hosts, self._greet
        )
        self._account_hosts = Fleet(
            "tact-accounts",
            AccountHost,
            settings,
            clock,
            settings.account_hosts if settings.accounts else 0,
            self._greet_accounts,
        )
        self._fleets = [self._conversations, self._account_hosts]
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start hosts and the loop. Returns at once; `status()` says when all is owned."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._run())

    async def status(self) -> dict[str, Any]:
        """How all hosts are, and what keeps the hub from being ready."""
        hosts, account_hosts = (fleet.describe() for fleet in self._fleets)
        unowned, unserved = (fleet.unowned() for fleet in self._fleets)
        reasons = []
        if unowned:
            reasons.append(f"{len(unowned)} partitions without an owner")
        if unserved:
            reasons.append(f"{len(unserved)} partitions of accounts without an owner")
        every = [*hosts, *account_hosts]
        reasons += [f"{h['name']} has no NATS" for h in every if not h.get("connected", True)]
        reasons += [f"{h['name']}: the ledger is full" for h in every if h.get("full")]
        return {
            "ready": not reasons,
            "reason": "; ".join(reasons),
            "hosts": hosts,
            "account_hosts": account_hosts,
            "unowned": unowned,
            "policy": policy_version(parse_policy(self._policy)),
        }

    async def metrics(self) -> dict[str, Snapshot]:
        """The counters of every host that answers, by incarnation."""
        found = await asyncio.gather(*(fleet.metrics() for fleet in self._fleets))
        return {name: snapshot for some in found for name, snapshot in some.items()}

    async def apply_policy(self, text: str) -> str:
        """Replace the policy on all hosts; returns its version. Raises PolicyError."""
        version = policy_version(parse_policy(text))
        self._policy = text
        for host in self._conversations.live():
            await host.handle.apply_policy.remote(text)
        return version

    async def apply_accounts(self, accounts: Sequence[AccountConfig]) -> None:
        """Replace the accounts on all hosts; the first ones start them."""
        self._accounts = accounts
        if accounts:
            self._account_hosts.count = self._settings.account_hosts
        for host in self._account_hosts.live():
            await host.handle.configure.remote(accounts)

    async def stop(self) -> None:
        """Let every host finish its turn and commit, then end them; accounts first, so that what
        they still tell is decided."""
        self._stopping = True
        if self._loop is not None:
            await asyncio.wait([self._loop])
        await self._account_hosts.stop()
        await self._conversations.stop()

    async def _run(self) -> None:
        while not self._stopping:
            for fleet in self._fleets:
                fleet.reconcile()
            await asyncio.sleep(LOOK_S)

    async def _greet(self, handle: ActorHandle) -> None:
        await handle.apply_policy.remote(self._policy)

    async def _greet_accounts(self, handle: ActorHandle) -> None:
        await handle.configure.remote(self._accounts)


def _host_actor(kind: type, settings: HubSettings, name: str) -> ActorHandle:
    actor = ray.remote(kind)
    return actor.options(  # type: ignore[no-any-return]
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        enable_task_events=False,
    ).remote(settings, name)


def start_supervisor(settings: HubSettings) -> ActorHandle:
    """The supervisor's handle; Ray is initialised already. Its hosts start in the background."""
    actor = ray.remote(Supervisor)
    handle = actor.options(
        name="tact-supervisor",
        namespace=NAMESPACE,
        num_cpus=0,
        max_restarts=-1,
        enable_task_events=False,
    ).remote(settings)
    ray.get(handle.start.remote())
    return handle
