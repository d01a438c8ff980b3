"""The data directory of one hub: its lock, its layout version, the passwords of its servers."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from hub.errors import TactError

LAYOUT = 1
"""Version of what is stored where. Raised when an older hub could misread a directory."""

VERSION_FILE = "tact.json"
LOCK_FILE = "lock"


class DataDirError(TactError):
    """Root of what can be wrong with a data directory."""

    code = "data-dir"


class DataDirInUse(DataDirError):
    """Another hub has this directory open."""

    code = "data-dir-in-use"


class DataDirUnknown(DataDirError):
    """Written by another version, or not ours, or not readable."""

    code = "data-dir-unknown"


class _Version(msgspec.Struct, forbid_unknown_fields=False):
    layout: int


class DataDir:
    """A directory that at most one hub uses at a time. `open()` before use, `close()` after.

    The lock is an flock: the kernel drops it when the process dies, however it dies.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None

    @property
    def is_open(self) -> bool:
        return self._lock is not None

    def open(self) -> DataDir:
        """Create what is missing, lock, check the version. Raises DataDirInUse, DataDirUnknown."""
        if self._lock is not None:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirUnknown(
                f"{self.path} cannot be used as data directory: {error.strerror}. "
                "Name a directory this user may write with --data-dir.",
            ) from error
        try:
            take_lock(lock, self.path)
            self._check_version()
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return self

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> DataDir:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_version(self) -> None:
        file = self.path / VERSION_FILE
        try:
            version = msgspec.json.decode(file.read_bytes(), type=_Version)
        except FileNotFoundError:
            write_private(file, msgspec.json.encode(_Version(LAYOUT)) + b"\n", mode=0o644)
            return
        except (OSError, msgspec.MsgspecError) as error:
            raise DataDirUnknown(
                f"{file} is not readable as a version file ({error}). Restore the directory from a "
                "backup, or start with an empty one."
            ) from error
        if version.layout != LAYOUT:
            raise DataDirUnknown(
                f"{self.path} has layout {version.layout}, this Tact knows {LAYOUT}. Use the Tact "
                "that wrote it, or another --data-dir; CHANGELOG.md says how to move the data.",
                layout=version.layout,
            )


def take_lock(descriptor: int, path: Path) -> None:
    """flock without waiting; the holder's pid is kept in the file for the message."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise DataDirInUse(
            f"{path} is used by another hub (process {holder}). Stop it first, or start this one "
            "with another --data-dir.",
            pid=holder,
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def write_private(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old or the whole new one, never with looser rights."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
