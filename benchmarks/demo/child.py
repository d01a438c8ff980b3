"""A child process of the demo that speaks JSON lines on standard output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any


class ChildFailed(Exception):
    """A process ended too early, badly, or not at all."""


class Child:
    """One process; what it writes to standard error goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.name = name
        self.process = process
        self._errors = errors

    @classmethod
    async def start(
        cls, name: str, command: list[str], directory: Path, *, listens: bool = False
    ) -> Child:
        """`listens`: it takes lines of JSON on standard input."""
        errors = directory / f"{name}.log"
        with open(errors, "wb") as stream:  # noqa: ASYNC230 - a local file, opened once
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE if listens else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stream,
                start_new_session=True,  # Ctrl-C comes to us, and we stop it in order
            )
        return cls(name, process, errors)

    async def line(self, timeout_s: float) -> dict[str, Any]:
        """The next line. Raises ChildFailed when the process ends, or takes too long."""
        return json.loads(await self._line(timeout_s))  # type: ignore[no-any-return]

    async def texts(self, wanted: Callable[[str], bool], count: int, timeout_s: float) -> list[str]:
        """The next lines that are wanted, of a program that does not write JSON. Raises
        ChildFailed."""
        found: list[str] = []
        while len(found) < count:
            text = (await self._line(timeout_s)).decode("utf-8", "replace").rstrip("\n")
            found += [text] if wanted(text) else []
        return found

    async def _line(self, timeout_s: float) -> bytes:
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self.process.stdout.readline()
        except TimeoutError as error:
            raise self._failed(f"said nothing for {timeout_s:.0f} s") from error
        if not line:
            raise self._failed(f"ended with exit code {await self.process.wait()}")
        return line

    async def lines(self, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        """Lines until one says that it is done. Raises ChildFailed."""
        while True:
            line = await self.line(timeout_s)
            yield line
            if line["done"]:
                return

    async def tell(self, line: dict[str, Any]) -> None:
        """Write a line to its standard input. Raises ChildFailed when it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        try:
            await self.process.stdin.drain()
        except ConnectionError as error:
            raise self._failed("takes nothing more") from error

    def terminate(self) -> None:
        """SIGTERM. Raises ChildFailed when it has ended before."""
        if self.process.returncode is not None:
            raise self._failed(f"ended with exit code {self.process.returncode}")
        with contextlib.suppress(ProcessLookupError):  # ends by itself at this moment
            self.process.send_signal(signal.SIGTERM)

    async def ended(self, timeout_s: float) -> int:
        """Its exit code. Raises ChildFailed when it does not end."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError as error:
            raise self._failed(f"did not end within {timeout_s:.0f} s") from error

    async def clear_away(self, timeout_s: float) -> None:
        """End it if it still runs, by SIGKILL in the end: for a demo that was cut short."""
        if self.process.returncode is not None:
            return
        self.terminate()
        try:
            await self.ended(timeout_s)
        except ChildFailed:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    def _failed(self, what: str) -> ChildFailed:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[-12:]) or "(it wrote no log)"
        return ChildFailed(f"{self.name} {what}; the end of its log:\n{tail}")
