"""How the hub is: asked of the supervisor and the connection, told to `/readyz` and `tact status`.

Also mends what the supervisor cannot mend itself: one that Ray restarted has to be started again,
and told the policy that is in force.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import structlog

from hub import limits
from hub.clock import Clock
from hub.contract.subjects import CHANNELS
from hub.contract.times import rfc3339
from hub.errors import TactError
from hub.ledger.connection import Connection
from hub.metrics import Snapshot, Totals, render
from hub.policy.document import parse_policy, policy_version
from hub.policy.policy import Policy

_log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""Pause between two looks at the supervisor."""
FRESH_S: Final = 0.1
"""A look this young answers for the next question too: probes may come in herds."""
ANSWER_S: Final = 3.0
"""How long the supervisor may take to answer."""
SAMPLE_LOOKS: Final = 5
"""Looks between two samples of the counters."""
SAMPLES: Final = 7
"""Samples kept: rates are over the last half minute."""


class HubLost(TactError):
    """Ray is gone, and with it the hosts. Whoever keeps the hub alive must start it again."""

    code = "ray-lost"
    retryable = True


class Watch:
    """`supervisor` and `connection` are set when there are any; `phase` says what is going on."""

    def __init__(self, clock: Clock) -> None:
        self.phase = "starting"
        """`serving` when started; anything else is a reason not to be ready."""
        self.supervisor: Any = None
        self.connection: Connection | None = None
        self.policy = ""
        """The policy in force, TOML text."""
        self.accounts: tuple[Any, ...] = ()
        """Those in force, with their secrets."""
        self._clock = clock
        self._status: dict[str, Any] | None = None
        self._looked_s = float("-inf")
        self._looking = asyncio.Lock()
        self._totals = Totals()
        self._known: dict[str, Snapshot] = {}
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES)

    # ---- questions -----------------------------------------------------------------------------

    async def reasons(self) -> list[str]:
        """Why the hub is not ready; empty when it is."""
        await self.look()
        found = [] if self.phase == "serving" else [self.phase]
        connection = self.connection
        if connection is not None and not connection.connected:
            since = rfc3339(self._clock.now_ms() - round(connection.down_s * 1000))
            found.append(f"NATS at {connection.where} is down since {since}")
        if self.supervisor is not None:
            if self._status is None:
                found.append("the supervisor does not answer")
            elif self._status["reason"]:
                found.append(self._status["reason"])
        return found

    async def status(self) -> dict[str, Any]:
        """What `tact status` shows."""
        reasons = await self.reasons()
        known = self._status or {"hosts": [], "unowned": [], "policy": None}
        hosts = [{k: v for k, v in host.items() if k != "incarnation"} for host in known["hosts"]]
        lag: dict[str, int] = {}
        for host in hosts:
            for lane, count in host.get("pending", {}).items():
                lag[lane] = lag.get(lane, 0) + count
        connection = self.connection
        owned = {number for host in hosts for number in host.get("partitions", ())}
        return {
            "ready": not reasons,
            "reasons": reasons,
            "policy": known["policy"],
            "nats": {
                "url": connection.where if connection else None,
                "connected": connection is not None and connection.connected,
            },
            "partitions": len(owned | set(known["unowned"])),
            "unowned": known["unowned"],
            "hosts": hosts,
            "accounts": _accounts(known),
            "lag": lag,
            "rates": self._rates(),
        }

    def archive(self, account: str) -> dict[str, Any]:
        """The channel of an account (None: not one of this hub) and, of every channel whose
        conversations are stored, for how many ms. For `tact watch`."""
        policy = Policy(parse_policy(self.policy))
        kept = {channel: policy.archived(channel) for channel in CHANNELS}
        found = next((known.channel for known in self.accounts if known.name == account), None)
        return {
            "channel": found,
            "archived": {channel: ms for channel, ms in kept.items() if ms is not None},
        }

    async def metrics(self) -> bytes:
        """The Prometheus text of every process of the hub, those that died included."""
        await self.look()
        await self._collect()
        return render(self._totals.total())

    def pids(self) -> list[int]:
        """Process ids of the hosts that answer."""
        hosts = (self._status or {}).get("hosts", ())
        return [host["pid"] for host in hosts if host["alive"]]

    def account_pids(self) -> list[int]:
        """Process ids of the hosts of accounts that answer."""
        hosts = (self._status or {}).get("account_hosts", ())
        return [host["pid"] for host in hosts if host["alive"]]

    def settled(self, hosts: int, account_hosts: int) -> bool:
        """Whether so many hosts share all partitions evenly: none will be moved without a cause."""
        for fleet, count in (("hosts", hosts), ("account_hosts", account_hosts)):
            known = (self._status or {}).get(fleet, ())
            shares = [len(host["partitions"]) for host in known if host["alive"]]
            if len(shares) != count or (count and max(shares) - min(shares) > 1):
                return False
        return True

    async def apply_policy(self, text: str) -> str:
        """Put a policy into force on all hosts; returns its version. Raises PolicyError."""
        version = policy_version(parse_policy(text))
        self.policy = text  # first: should the supervisor die now, it is told at the next look
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.supervisor.apply_policy.remote(text)
        except (TimeoutError, _ray_error()) as error:
            _log.warning("policy.pending", error=type(error).__name__)
        return version

    async def apply_accounts(self, accounts: Sequence[Any]) -> None:
        """Put accounts into force on all hosts of accounts. Raises HubLost."""
        self.accounts = tuple(accounts)
        try:
            async with asyncio.timeout(ANSWER_S + limits.COMMIT_TIMEOUT_S):
                await self.supervisor.apply_accounts.remote(self.accounts)
        except (TimeoutError, _ray_error()) as error:
            _log.warning("accounts.pending", error=type(error).__name__)

    # ---- looking -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look for ever. Raises HubLost when the supervisor will never answer again."""
        looks = 0
        while True:
            await self.look()
            if looks % SAMPLE_LOOKS == 0 and await self._collect():
                self._sample()
            looks += 1
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask the supervisor how it is, unless that was just done."""
        async with self._looking:
            if self.supervisor is None or self._clock.steady_s() - self._looked_s < FRESH_S:
                return
            try:
                async with asyncio.timeout(ANSWER_S):
                    status = await self.supervisor.status.remote()
                    await self._mend(status)
            except (TimeoutError, _ray_error()) as error:
                if type(error).__name__ == "ActorDiedError":  # for ever: not one that is restarting
                    raise HubLost(
                        "Ray or its supervisor is gone; start the hub again, it goes on from there"
                    ) from error
                if self._status is not None:
                    _log.warning("supervisor.silent", error=type(error).__name__)
                self._status = None
            else:
                self._status = status
            self._looked_s = self._clock.steady_s()

    async def _mend(self, status: dict[str, Any]) -> None:
        """A supervisor that Ray has restarted does nothing yet, and knows the first policy only."""
        if not status["hosts"]:
            await self.supervisor.start.remote()
            if self.accounts:
                await self.supervisor.apply_accounts.remote(self.accounts)
        if self.policy and status["policy"] != policy_version(parse_policy(self.policy)):
            await self.supervisor.apply_policy.remote(self.policy)

    async def _collect(self) -> bool:
        """Take the counters of all hosts in; False when the supervisor did not tell them."""
        if self.supervisor is None:
            return False
        try:
            async with asyncio.timeout(ANSWER_S + limits.COMMIT_TIMEOUT_S):
                live: dict[str, Snapshot] = await self.supervisor.metrics.remote()
        except (TimeoutError, _ray_error()):
            return False
        # A host that is only slow is not gone: counted as gone, it would count twice afterwards.
        known = self._status or {}
        every = [*known.get("hosts", ()), *known.get("account_hosts", ())]
        listed = {host.get("incarnation") for host in every}
        slow = {name: old for name, old in self._known.items() if name in listed}
        self._known = slow | live
        self._totals.update(self._known)
        return True

    # ---- rates ---------------------------------------------------------------------------------

    def _sample(self) -> None:
        counters = self._totals.total().counters
        intents = sum(n for (name, _), n in counters.items() if name == "tact_intents_total")
        outcomes = sum(n for (name, _), n in counters.items() if name == "tact_outcomes_total")
        self._samples.append((self._clock.steady_s(), intents, outcomes))

    def _rates(self) -> dict[str, float] | None:
        """Intents decided and outcomes told a second; None before there are two samples."""
        if len(self._samples) < 2:
            return None
        (start_s, *first), (end_s, *last) = self._samples[0], self._samples[-1]
        rates = [round((b - a) / (end_s - start_s), 1) for a, b in zip(first, last, strict=True)]
        return {"intents": rates[0], "outcomes": rates[1], "over_s": round(end_s - start_s, 1)}


def _accounts(known: dict[str, Any]) -> dict[str, Any]:
    """Every account in memory of a host: what waits, and whether it can work."""
    return {
        name: how | {"host": host["name"], "pid": host["pid"]}
        for host in known.get("account_hosts", ())
        for name, how in host.get("accounts", {}).items()
    }


def _ray_error() -> type[Exception]:
    """Not imported above: Ray reads its settings when it is imported, and they are not set yet."""
    from ray.exceptions import RayError

    return RayError
