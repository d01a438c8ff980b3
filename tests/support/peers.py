"""Foreign software that tests talk to: where it is, or in one line why it is missing.

A peer that is missing skips its tests; with TACT_PEERS=required in the environment it fails them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

PEERS = Path(__file__).parents[1] / "peers"
NPM_S = 300
"""The most that an installation takes."""


def missing(reason: str) -> NoReturn:
    """Skip for a peer that is not here, or fail where it must be."""
    reason = " ".join(reason.split())[:300]
    if os.environ.get("TACT_PEERS") == "required":
        pytest.fail(f"TACT_PEERS=required, but {reason}")
    pytest.skip(reason)


def npm_packages() -> Path:
    """The `node_modules` of tests/peers, installed outside the tree and once for a lock file."""
    found, reason = _installed()
    if found is None:
        missing(reason)
    return found


@cache
def _installed() -> tuple[Path | None, str]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return None, "no node and npm on this machine"
    lock = (PEERS / "package-lock.json").read_bytes()
    name = f"tact-peers-{os.getuid()}-{hashlib.sha256(lock).hexdigest()[:12]}"
    directory = Path(tempfile.gettempdir()) / name
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two runs of the suite install once
        done = directory / "done"
        if not done.exists():
            for file in ("package.json", "package-lock.json"):
                shutil.copy(PEERS / file, directory)
            try:
                ended = subprocess.run(
                    [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                    cwd=directory,
                    capture_output=True,
                    text=True,
                    timeout=NPM_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return None, f"npm ci took more than {NPM_S} s"
            if ended.returncode:
                errors = [line for line in ended.stderr.splitlines() if "error" in line]
                return None, f"npm ci of tests/peers failed: {(errors or ['no error told'])[0]}"
            done.touch()
    return directory / "node_modules", ""


class Peer:
    """A program that tells lines of JSON, and takes some."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._rest = b""
        self.told: list[dict[str, Any]] = []

    def say(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    def all(self, name: str) -> list[Any]:
        """What was told under a name so far. Does not wait."""
        assert self._process.stdout is not None
        while data := self._process.stdout.read(65_536):  # None: nothing now
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.told += [json.loads(line) for line in lines]
        return [each[name] for each in self.told if name in each]


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[tuple[Peer, dict[str, Any]]]:
    """A peer and the first line it told; ended, and waited for, at the end."""
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        first = process.stdout.readline()
        if not first:
            pytest.fail(f"{Path(command[0]).name} ended with {process.wait(timeout=30)}")
        os.set_blocking(process.stdout.fileno(), False)
        yield Peer(process), json.loads(first)
    finally:
        process.stdin.close()
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def node(script: str, options: dict[str, Any]) -> Iterator[tuple[Peer, dict[str, Any]]]:
    """A script of tests/peers that runs with its packages."""
    packages = npm_packages()
    command = ["node", str(PEERS / script), json.dumps(options)]
    with running(command, NODE_PATH=str(packages)) as peer:
        yield peer
