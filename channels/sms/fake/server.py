"""What the fakes with an HTTP server share: how they start, stop and count, and their command."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiohttp import web

from channels.sms.fake import command
from channels.sms.fake.faults import Plan, Recorder

CLEANUP_S: Final = 0.1
"""What is under way when a fake stops may take so long; then it is cut."""


class FakeServer(ABC):
    """A fake with an HTTP server on its own port: `await start()`, then `url`; `await stop()`."""

    def __init__(self, plan: Plan | None, recorder: Recorder | None) -> None:
        self.plan = plan or Plan()
        self.recorder = recorder or Recorder()
        self.counts: dict[str, int] = {}
        """How often each thing has happened."""
        self.url, self.port = "", 0
        self._runner: web.BaseRunner[Any] | None = None

    @abstractmethod
    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL. Raises OSError when the port is taken."""

    @abstractmethod
    async def hear(self, line: bytes) -> None:
        """Take a line of standard input. Raises MsgspecError, UnicodeError or TactError."""

    async def stop(self) -> None:
        """End, with all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
        self.recorder.close()

    def count(self, what: str, by: int = 1) -> int:
        """Add to `counts`; gives the sum."""
        self.counts[what] = self.counts.get(what, 0) + by
        return self.counts[what]

    async def _listen(self, served: web.Application | web.Server[Any], host: str, port: int) -> str:
        """Serve an application, or what is faster than one; gives the URL. An application's answer
        to a client that has gone is cancelled. Raises OSError when the port is taken."""
        if isinstance(served, web.Application):
            self._runner = web.AppRunner(
                served, access_log=None, handler_cancellation=True, shutdown_timeout=CLEANUP_S
            )
        else:
            self._runner = web.ServerRunner(served, shutdown_timeout=CLEANUP_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://{host}:{self.port}"
        self.recorder.start()
        return self.url


def run_server(
    make: Callable[[argparse.Namespace], FakeServer],
    options: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> None:
    """The command of a fake, which `make` makes as the options say."""
    command.run(_run(make, options.parse_args(argv)))


async def _run(
    make: Callable[[argparse.Namespace], FakeServer], arguments: argparse.Namespace
) -> None:
    fake = make(arguments)
    url = await fake.start(arguments.host, arguments.port)
    await command.serve(fake, {"port": fake.port, "url": url})
