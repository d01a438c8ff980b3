"""`tact up`: everything the hub needs, started in order, kept alive, and stopped in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import structlog
import uvloop

from actors.settings import HubSettings
from hub import limits
from hub.clock import Clock, SystemClock
from hub.garbage import spare_what_stays
from hub.ledger.connection import Connection, connect
from hub.ledger.janitor import Janitor
from hub.ledger.port import LedgerError
from hub.ledger.streams import StreamSizes, check_server, provision, stored_partitions
from hub.policy.document import load_policy, parse_policy, policy_version
from hub.policy.files import policy_text
from hub.service import logs, operator
from hub.service.accounts import AccountsFile, Callbacks, read_accounts
from hub.service.cluster import Cluster
from hub.service.config import (
    PASSWORD_VARIABLE,
    SYSTEM_PASSWORD_VARIABLE,
    HubConfig,
    default_policy,
    read_password,
)
from hub.service.datadir import DataDir, write_private
from hub.service.http import HttpServer, make_app
from hub.service.natsd import Login, NatsServer
from hub.service.watch import Watch

_log = structlog.get_logger(__name__)

APPLIED_POLICY: Final = "policy.toml"
"""In the data directory: the policy applied last, in force again after a restart."""
_READY_POLL_S: Final = 0.05
_REMIND_S: Final = 10.0
_SETTLE_S: Final = 10.0
"""The hub is ready without a host that takes longer than this beside the first."""
_STORE_RESERVE: Final = limits.NATS_STORE_BYTES - limits.INTAKE_BYTES - limits.LEDGER_BYTES


def run(config: HubConfig) -> int:
    """The hub in the foreground until a signal; returns the exit code. Raises TactError."""
    output = _take_stdout()
    logs.configure(config.log_level)
    with logs.capture_prints(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config, output))


def _take_stdout() -> BinaryIO:
    """Standard output for the ready line alone; whatever else is printed is a log."""
    sys.stdout.flush()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


async def _main(config: HubConfig, output: BinaryIO) -> int:
    hub = Hub(config, SystemClock())
    stop = _stop_on_signals(hub)
    stopping = asyncio.create_task(stop.wait())
    try:
        starting = asyncio.create_task(hub.start())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            starting.cancel()
            await asyncio.wait([starting])
            return 0
        ready = await starting
        spare_what_stays()
        output.write(msgspec.json.encode(ready) + b"\n")
        output.flush()
        await asyncio.wait([stopping, *hub.parts], return_when=asyncio.FIRST_COMPLETED)
        for part in hub.parts:
            if part.done():
                part.result()  # raises what ended it
        return 0
    finally:
        await hub.stop()
        stopping.cancel()


def _stop_on_signals(hub: Hub) -> asyncio.Event:
    """The event of the first SIGTERM or SIGINT. The second ends the process at once.

    Nothing is lost then either: what was not committed is decided by the next hub.
    """
    stop = asyncio.Event()

    def heard(number: signal.Signals) -> None:
        if stop.is_set():
            hub.kill()
            os._exit(128 + number)
        _log.info("hub.stopping", signal=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard, number)
    return stop


class Hub:
    """All parts of one hub. `parts` are the tasks that must not end before `stop()`."""

    def __init__(self, config: HubConfig, clock: Clock) -> None:
        self.parts: list[asyncio.Task[Any]] = []
        self._config = config
        self._clock = clock
        self._watch = Watch(clock)
        self._callbacks = Callbacks(self._watch, clock)
        self._ends = AsyncExitStack()
        self._directory: Path | None = None
        self._server: NatsServer | None = None
        self._cluster: Cluster | None = None

    async def start(self) -> dict[str, Any]:
        """Start everything and wait until all is owned; returns the ready line. Raises TactError.

        What can be wrong with the call is found before anything that takes long is started.
        """
        config, begun_s = self._config, self._clock.steady_s()
        if config.nats.url is None:
            data_dir = DataDir(config.data_dir).open()
            self._ends.callback(data_dir.close)
            self._directory = data_dir.path
            self._server = NatsServer(
                data_dir, port=config.nats.port, store_bytes=self._store_bytes()
            )
        self._watch.policy = self._choose_policy()
        if config.accounts is not None:
            self._watch.accounts = tuple(read_accounts(Path(config.accounts)))
        http = HttpServer(config.http.host, config.http.port)
        self._ends.push_async_callback(http.stop)
        self.parts.append(http.start(make_app(self._watch, self._callbacks.take)))
        url, login, system = await self._start_nats()
        cluster = self._cluster = Cluster(
            config.ray_address, config.log_level, self._directory, self._nats_pid
        )
        cluster.prepare()
        connection = await self._open_ledger(url, login, system)
        partitions = await stored_partitions(connection) or limits.PARTITIONS
        self._ends.push_async_callback(cluster.stop)
        settings = HubSettings(
            nats_url=url,
            policy=self._watch.policy,
            user=login.user if login else None,
            password=login.password if login else None,
            partitions=partitions,
            hosts=config.hosts,
            accounts=self._watch.accounts,
            account_hosts=config.account_hosts,
        )
        self._callbacks.partitions = partitions
        nats_s = self._clock.steady_s() - begun_s
        self._watch.supervisor = await cluster.start(settings)
        ray_s = self._clock.steady_s() - begun_s - nats_s
        self._keep("watch", self._watch.run())
        self._keep("janitor", self._sweep(Janitor(connection, partitions, horizon=self._horizon)))
        await operator.serve(connection, operator.STATUS, self._answer_status)
        await operator.serve(connection, operator.POLICY, self._answer_policy)
        await operator.serve(connection, operator.ARCHIVE, self._answer_archive)
        if config.accounts is not None:
            file = AccountsFile(Path(config.accounts), self._watch.apply_accounts)
            self._keep("accounts", file.run())
        self._watch.phase = "serving"
        await self._until_ready()
        _log.info(
            "hub.ready",
            seconds=round(self._clock.steady_s() - begun_s, 2),
            nats_s=round(nats_s, 2),
            ray_s=round(ray_s, 2),
            policy=policy_version(parse_policy(self._watch.policy)),
        )
        return {
            "ready": True,
            "nats": connection.where,
            "http": http.url,
            "metrics": f"{http.url}/metrics",
            "pids": {
                "nats": self._nats_pid(),
                "hosts": self._watch.pids(),
            }
            | ({"accounts": self._watch.account_pids()} if config.accounts else {}),
        }

    async def stop(self) -> None:
        """Finish the turn, commit, end every process, in the reverse order of their start."""
        self._watch.phase = "stopping"
        await self._ends.aclose()
        _log.info("hub.stopped")

    def kill(self) -> None:
        """End every process at once, this one excepted. The kernel tells the nats-server to end."""
        if self._cluster is not None:
            self._cluster.kill()

    # ---- parts -----------------------------------------------------------------------------------

    def _keep(self, name: str, work: Any) -> asyncio.Task[Any]:
        """Run a part beside the others until the hub stops."""
        task = asyncio.create_task(work, name=f"tact-{name}")
        self.parts.append(task)

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])

        self._ends.push_async_callback(end)
        return task

    async def _start_nats(self) -> tuple[str, Login | None, Login | None]:
        """The server's address, the hub's login and the system account's."""
        nats, server = self._config.nats, self._server
        if server is None:
            assert nats.url is not None
            return (
                nats.url,
                _login(nats.user, read_password(PASSWORD_VARIABLE, nats.password_file)),
                _login(
                    nats.system_user,
                    read_password(SYSTEM_PASSWORD_VARIABLE, nats.system_password_file),
                ),
            )
        self._ends.push_async_callback(server.stop)
        await server.start()
        self.parts.append(asyncio.create_task(server.keep_alive(), name="tact-nats"))
        return server.url, server.hub, server.system

    async def _open_ledger(self, url: str, login: Login | None, system: Login | None) -> Connection:
        """A connection for as long as the hub lives, to a fit server with the streams."""
        config = self._config
        connection = await self._connect(url, "tact-up", login)
        self._ends.push_async_callback(connection.close)
        self._watch.connection = connection
        looking = await self._connect(url, "tact-up-check", system) if system else None
        try:
            await check_server(
                connection, system=looking, allow_lazy_sync=config.nats.allow_lazy_sync
            )
        finally:
            if looking is not None:
                await looking.close()
        await provision(
            connection,
            partitions=config.partitions
            or await stored_partitions(connection)
            or limits.PARTITIONS,
            replicas=config.nats.replicas,
            sizes=StreamSizes(config.limits.intake_bytes, config.limits.ledger_bytes),
        )
        return connection

    async def _connect(self, url: str, name: str, login: Login | None) -> Connection:
        if login is None:
            return await connect(url, name=name, clock=self._clock)
        return await connect(
            url, name=name, clock=self._clock, user=login.user, password=login.password
        )

    async def _sweep(self, janitor: Janitor) -> None:
        """Free INTAKE of what is decided, for ever; a failed round is tried again."""
        while True:
            await asyncio.sleep(limits.JANITOR_INTERVAL_S)
            try:
                swept = await janitor.sweep()
            except LedgerError as error:
                _log.warning("janitor.failed", code=error.code, advice=error.message)
            else:
                if swept.purged:
                    _log.debug("janitor.swept", purged=swept.purged, low=swept.low)

    async def _until_ready(self) -> None:
        """Until every partition is owned, and by all hosts alike if they all come up soon.

        Says now and then what it waits for.
        """
        loop = asyncio.get_running_loop()
        remind_s, settle_s = loop.time() + _REMIND_S, float("inf")
        while True:
            reasons = await self._watch.reasons()
            if not reasons:
                settle_s = min(settle_s, loop.time() + _SETTLE_S)
                senders = self._config.account_hosts if self._config.accounts else 0
                if self._watch.settled(self._config.hosts, senders) or loop.time() > settle_s:
                    return
            for part in self.parts:
                if part.done():
                    part.result()
            if loop.time() > remind_s:
                _log.warning("hub.not_ready", reasons=reasons or ["hosts are still starting"])
                remind_s = loop.time() + _REMIND_S
            await asyncio.sleep(_READY_POLL_S)

    # ---- policy and questions --------------------------------------------------------------------

    def _choose_policy(self) -> str:
        """The policy named, else the one applied last, else the built-in one."""
        applied = None
        if self._directory is not None and (self._directory / APPLIED_POLICY).is_file():
            applied = _read_policy(self._directory / APPLIED_POLICY)
        if self._config.policy is None:
            return applied or default_policy()
        named = _read_policy(Path(self._config.policy))
        if applied is not None and applied != named:
            _log.warning(
                "policy.applied_one_replaced",
                applied=policy_version(parse_policy(applied)),
                named=policy_version(parse_policy(named)),
            )
        return named

    async def _answer_status(self, _: bytes) -> dict[str, Any]:
        return await self._watch.status()

    async def _answer_archive(self, payload: bytes) -> dict[str, Any]:
        return self._watch.archive(payload.decode("utf-8", "replace"))

    async def _answer_policy(self, payload: bytes) -> dict[str, Any]:
        """Put a policy into force and keep it for the next start. Raises PolicyError."""
        text = payload.decode("utf-8", "replace")
        version = await self._watch.apply_policy(text)
        kept = self._directory is not None
        if self._directory is not None:
            try:
                write_private(self._directory / APPLIED_POLICY, text.encode())
            except OSError as error:
                kept = False
                _log.error("policy.not_kept", reason=error.strerror)
        _log.info("policy.applied", policy=version, kept=kept)
        return {"version": version, "kept": kept}

    # ---- small things ----------------------------------------------------------------------------

    def _nats_pid(self) -> int | None:
        return self._server.pid if self._server else None

    def _store_bytes(self) -> int:
        sizes = self._config.limits
        return sizes.intake_bytes + sizes.ledger_bytes + _STORE_RESERVE

    @property
    def _horizon(self) -> int:
        return self._config.limits.replay_messages


def _login(user: str | None, password: str | None) -> Login | None:
    return None if user is None else Login(user, password or "")


def _read_policy(path: Path) -> str:
    """The text of a policy file. Raises PolicyError naming file, key and what is allowed."""
    load_policy(path)
    return policy_text(path)
