"""A whole hub as a user starts it: `tact up` in its own process, and the commands beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TACT = str(Path(sys.executable).with_name("tact"))
START_S = 180.0
"""Two cores that also run other things may need most of it."""


def tact(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    command = [TACT, *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=START_S, **options
    )


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    """The first truthy answer of a condition; fails when there is none in time."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Hub:
    """`tact up` on a directory, with any free ports."""

    directory: Path
    options: Sequence[str] = ()
    ready: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Hub:
        """Start it and read its ready line."""
        self.spawn()
        assert self.process is not None and self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        line = within(START_S, self._line)
        self.ready = json.loads(line)
        return self

    def spawn(self) -> None:
        """Start it only."""
        with open(self.directory / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [TACT, "up", "--nats-port", "0", "--http-port", "0", *self.options],
                cwd=self.directory,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def _line(self) -> bytes | None:
        assert self.process is not None and self.process.stdout is not None
        assert self.process.poll() is None, self.log()[-2000:]
        return self.process.stdout.readline()

    def log(self) -> str:
        return (self.directory / "up.log").read_text()

    def pids(self) -> set[int]:
        """The hub's process and all that descend from it."""
        assert self.process is not None
        return descendants(self.process.pid)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(START_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def tact(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that talks to this hub."""
        return tact(*arguments, env=os.environ | {"TACT_NATS_URL": self.ready["nats"]})

    def send(self, **options: str) -> dict[str, Any]:
        """`tact send` of a message in any category; returns the first outcome."""
        given = {"app": "shop", "customer": "c-1", "text": "hello"} | options
        flat = [part for name, value in given.items() for part in (f"--{name}", value)]
        done = self.tact("send", *flat)
        assert done.stdout, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP GET."""
        try:
            with urllib.request.urlopen(self.ready["http"] + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def readiness(self) -> tuple[int, list[str]]:
        status, body = self.get("/readyz")
        return status, json.loads(body)["reasons"]


def descendants(root: int) -> set[int]:
    """A process and all below it, as /proc tells."""
    children: dict[int, list[int]] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if (parent := _stat(pid)) is not None:
            children.setdefault(parent[1], []).append(pid)
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, ())
    return found


def alive(pids: set[int]) -> dict[int, str]:
    """Those of the processes that still run, with their command lines."""
    running = {}
    for pid in pids:
        if (stat := _stat(pid)) is not None and stat[0] != "Z":
            try:
                running[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:120]
            except OSError:  # it ended just now
                continue
    return running


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])
