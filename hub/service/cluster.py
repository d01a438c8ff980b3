"""Ray for one hub: a local one that lives and dies with it, or one that runs already.

Everything of Ray that blocks happens in one thread, which lives until the end: the kernel ends the
processes of a local Ray when the thread that started them ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from actors.settings import HubSettings
from hub.errors import TactError
from hub.service import logs

_log = structlog.get_logger(__name__)

NAMESPACE: Final = "tact"
INIT_TRIES: Final = 3
"""Ray waits 30 s for its own processes, then gives up."""
STOP_S: Final = 30.0
"""How long the hosts may take to finish their turns."""
OBJECT_STORE_BYTES: Final = 78 * 1024 * 1024
"""The least Ray takes. No message ever goes through it."""
_PREFIX: Final = "tact-ray-"
_LEFT_OVER: Final = "ray.dir"

_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would catch SIGTERM before us and end the process in the middle of a turn.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # What our processes log is JSON, and passed on line by line as it is.
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
}
_LOCAL: Final = {
    # The hosts are the hub: they yield to nobody. Ray would make them nice.
    "RAY_worker_niceness": "0",
    # No idle workers: every process we want is an actor.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    # Nobody looks at them: there is no dashboard.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_log_reporter_enabled": "0",
    # Ray starts its dashboard's server even without a dashboard; this much it waits for it.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "0",
}
_DASHBOARD: Final = "ray/dashboard/dashboard.py"
Result = TypeVar("Result")


class RayFailed(TactError):
    """Ray does not start, or the cluster named does not answer."""

    code = "ray-failed"
    retryable = True


class Cluster:
    """`prepare()`, `start()`, `stop()`."""

    def __init__(
        self,
        address: str | None,
        log_level: str,
        directory: Path | None,
        spared: Callable[[], int | None],
    ) -> None:
        """`spared`: the process id of the child that is not Ray's."""
        self._spared = spared
        self._address = address
        self._log_level = log_level
        self._directory = directory
        """The data directory, which remembers what a killed hub left in the temporary one."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tact-ray")
        self._temporary: Path | None = None
        self._supervisor: Any = None

    def prepare(self) -> None:
        """Begin to import Ray, which takes a second or two, while other things are started."""
        environment = _ENVIRONMENT | ({} if self._address else _LOCAL)
        for name, value in (environment | {logs.LEVEL_VARIABLE: self._log_level}).items():
            os.environ.setdefault(name, value)  # before the import: Ray reads them once
        if self._address is None:
            # Whoever may connect to a Ray may run code in it: a secret that only this one knows.
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        self._thread.submit(_import)

    async def start(self, settings: HubSettings) -> Any:
        """Start or join Ray, and start the supervisor; returns its handle. Raises RayFailed."""
        await self._in_thread(self._init)
        self._supervisor = await self._in_thread(lambda: _supervise(settings))
        return self._supervisor

    async def stop(self) -> None:
        """Let the hosts finish their turns and commit, then end Ray. Never raises."""
        if self._supervisor is not None:
            from ray.exceptions import RayError

            try:
                async with asyncio.timeout(STOP_S):
                    await self._supervisor.stop.remote()
            except (TimeoutError, RayError) as error:
                # What was not committed is decided again by the next hub: nothing is lost.
                _log.warning("supervisor.stop_failed", error=type(error).__name__)
        await self._in_thread(self._shutdown)
        self._thread.shutdown()

    def kill(self) -> None:
        """End all processes of a local Ray at once. Its agents would stay for another minute."""
        if self._address is None:
            _kill(_descendants(os.getpid()) - {self._spared()})
        self._forget()

    def _init(self) -> None:
        """Start or join Ray. A local one gets INIT_TRIES: it gives up on a machine that is busy."""
        for attempt in range(1, INIT_TRIES + 1):
            try:
                self._init_once()
                return
            except RayFailed as error:
                self.kill()
                if self._address is not None or attempt == INIT_TRIES:
                    raise
                _log.warning("ray.start_failed", attempt=attempt, reason=error.message)

    def _shutdown(self) -> None:
        import ray

        ray.shutdown()
        self.kill()

    def _init_once(self) -> None:
        import ray

        options: dict[str, Any] = {
            "namespace": NAMESPACE,
            "configure_logging": False,
            "log_to_driver": True,
            "runtime_env": {
                "worker_process_setup_hook": logs.configure_worker,
                "env_vars": {logs.LEVEL_VARIABLE: self._log_level, "PYTHONFAULTHANDLER": "1"},
            },
        }
        if self._address is None:
            # Short, because the paths of sockets may have 107 characters.
            self._temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
            self._remember(self._temporary)
            options |= {
                "address": "local",
                # Actors ask for none; this many processes may start at a time.
                "num_cpus": max(2, os.cpu_count() or 1),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(self._temporary),
                "_node_ip_address": "127.0.0.1",
            }
        else:
            options["address"] = self._address
        # It tells at length that it did not wait for the dashboard.
        quiet = logging.getLogger("ray._private.services")
        quiet.setLevel(logging.CRITICAL)
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises that very class, and many others
            what, advice = "a local Ray", ""
            if self._address is not None:
                what = f"the Ray cluster at {self._address}"
                advice = ". If it wants a token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            reason = str(error).strip().splitlines()
            raise RayFailed(
                f"{what} cannot be used: {reason[0] if reason else type(error).__name__}{advice}"
            ) from error
        finally:
            quiet.setLevel(logging.NOTSET)
        if self._address is None:
            _kill(pid for pid in _descendants(os.getpid()) if _DASHBOARD in _command(pid))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ---- the temporary directory ---------------------------------------------------------------

    def _remember(self, temporary: Path) -> None:
        """Remove what a hub on this data directory left when it was killed, and note the new."""
        if self._directory is None:
            return
        note = self._directory / _LEFT_OVER
        with contextlib.suppress(OSError, UnicodeDecodeError):
            old = Path(note.read_text(encoding="utf-8"))
            if old.parent == temporary.parent and old.name.startswith(_PREFIX):
                shutil.rmtree(old, ignore_errors=True)
        note.write_text(str(temporary), encoding="utf-8")

    def _forget(self) -> None:
        if self._temporary is None:
            return  # the note may tell of another's, which the next hub removes
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = None
        if self._directory is not None:
            (self._directory / _LEFT_OVER).unlink(missing_ok=True)


def _import() -> None:
    import actors.supervisor  # noqa: F401 - imports Ray and all that the hosts are made of

    logs.quieten()  # the import has set Ray's own loggers up


def _supervise(settings: HubSettings) -> Any:
    from actors.supervisor import start_supervisor

    return start_supervisor(settings)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
    except OSError:
        return ""


def _descendants(root: int) -> set[int]:
    """All processes below one; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found
