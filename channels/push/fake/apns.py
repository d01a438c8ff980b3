"""Apple's push service to try the hub with: a program for Node, whose HTTP/2 is not ours.

    python -m channels.push.fake.apns --port 0 --key-out AuthKey_FAKE123456.p8

is `apns.mjs` beside this file, which says what it checks and which orders it takes. `FakeApns` runs
it for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hub.errors import ConfigError

SCRIPT: Final = Path(__file__).with_name("apns.mjs")
LINE_BYTES: Final = 64 * 1024 * 1024
"""The longest line it tells: its record of 10,000 pushes."""
START_S: Final = 30.0
STOP_S: Final = 10.0


def node() -> str:
    """Where Node is. Raises ConfigError."""
    found = shutil.which("node")
    if found is None:
        raise ConfigError("the APNs fake is a program for Node 20 or newer: install `node`")
    return found


class FakeApns:
    """The fake in a process of its own; `options` are those of the command: `streams=1`,
    `key_out=path`."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()
        self.url = ""
        self.ready: dict[str, Any] = {}
        """Its first line: `url`, `key_id`, `team_id`, `topic`."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Start it, and return its URL. Raises ConfigError."""
        command = [node(), str(SCRIPT), "--host", host, "--port", str(port)]
        for name, value in self._options.items():
            option = "--" + name.replace("_", "-")
            command += [option] if value is True else [option, str(value)]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        async with asyncio.timeout(START_S):
            self.ready = await self._line()
        self.url = self.ready["url"]
        return self.url

    async def stop(self) -> None:
        """End it, whatever it does."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def order(self, do: str, **more: Any) -> Any:
        """Give an order, and return what it says to it."""
        assert self._process is not None and self._process.stdin is not None
        async with self._asking:
            self._process.stdin.write(json.dumps({"do": do} | more).encode() + b"\n")
            said = await self._line()
        if "done" not in said:
            raise ConfigError(f"the APNs fake does not know the order {do}")
        return said["done"]

    async def counts(self) -> dict[str, int]:
        """What it has counted: `taken`, `requests`, `connections`, `200`, `410` …"""
        return dict(await self.order("counts"))

    def freeze(self) -> None:
        """Stand still: nothing is read, nothing is answered, no connection ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _line(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ConfigError("the APNs fake has ended")
        return dict(json.loads(line))


def main(argv: Sequence[str] | None = None) -> None:
    """The command: becomes Node."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        program = node()
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(2) from None
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os.execv(program, [program, str(SCRIPT), *arguments])


if __name__ == "__main__":
    main()
