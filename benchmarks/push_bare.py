"""The least that pushing costs: requests that are ready, in a bare loop, by the client that the hub
uses. A process of its own, for what it costs is compared with a host's.

Run by `benchmarks.push`. Says one line of JSON when it is connected and has its token; begins at a
line of standard input, and says what it was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import uvloop
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple

from benchmarks.push_parts import SERVICES, pushes
from benchmarks.send_host import accounts_in, answer
from channels.push.apns.config import ApnsConfig, signing_key
from channels.push.apns.connection import Connection, Headers, Timing
from channels.push.apns.payload import push_of
from channels.push.apns.token import Tokens
from channels.push.content import read
from channels.push.fcm.config import FcmConfig
from channels.push.fcm.message import body_of, template_of
from channels.push.fcm.provider import SCOPE
from channels.push.grant import Grant
from channels.push.service_account import parse_service_account
from channels.sending import client_of
from hub.clock import SystemClock
from hub.contract.types import Delivery


class FcmLoop:
    """As many requests at once as the account has connections, by `channels.http.HttpClient`."""

    def __init__(self, config: FcmConfig, several: Sequence[Delivery]) -> None:
        now_ms = SystemClock().now_ms()
        templates = (template_of(each, read(each.content, "fcm")) for each in several)
        self._bodies = iter([body_of(template, 0, now_ms) for template in templates])
        self._config = config
        self._http = client_of(config)
        self.statuses: Counter[int] = Counter()

    async def open(self) -> None:
        """Have a token."""
        service = parse_service_account(self._config.credentials)
        self._url = f"{self._config.base_url}/v1/projects/{service.project}/messages:send"
        clock, chance = SystemClock(), random.Random(1)
        grant = Grant(
            service, SCOPE, self._http, clock, chance, account="bare", counted=lambda _: None
        )
        self._headers = (await grant.token()).headers

    async def run(self) -> None:
        """Send everything."""
        await asyncio.gather(*(self._work() for _ in range(self._config.connections)))
        await self._http.close()

    async def _work(self) -> None:
        for body in self._bodies:
            reply = await self._http.request("POST", self._url, body=body, headers=self._headers)
            self.statuses[reply.status] += 1


class ApnsLoop:
    """As many requests at once as the fake lets two connections have, by our connection class; only
    the headers that are needed. Owner of the connections."""

    def __init__(self, config: ApnsConfig, several: Sequence[Delivery]) -> None:
        self._config = config
        parts = urlsplit(config.base_url)
        self._address = str(parts.hostname), int(parts.port or 80)
        tokens = Tokens(signing_key(config), config.key_id, config.team_id, SystemClock())
        same = (
            HeaderTuple(b":method", b"POST"),
            HeaderTuple(b":scheme", parts.scheme.encode()),
            HeaderTuple(b":authority", parts.netloc.encode()),
            HeaderTuple(b"apns-topic", config.topic.encode()),
            NeverIndexedHeaderTuple(b"authorization", tokens.header()),
        )
        pushes_made = (push_of(each, config) for each in several)
        self._requests: Iterator[tuple[Headers, bytes]] = iter(
            [((*same[:3], made.headers[0], *same[3:]), made.body) for made in pushes_made]
        )
        self._count = len(several)
        self._connections: list[Connection] = []
        self._begun = False
        self._opened = asyncio.Semaphore(0)
        self._ended = asyncio.Event()
        self.statuses: Counter[int] = Counter()

    async def open(self) -> None:
        """Connect."""
        timing, loop = Timing(5.0, 30.0, 60.0), asyncio.get_running_loop()
        for _ in range(self._config.connections):
            _, connection = await loop.create_connection(
                lambda: Connection(timing, self), *self._address
            )
            self._connections.append(connection)
            await self._opened.acquire()

    async def run(self) -> None:
        """Send everything."""
        self._begun = True
        for connection in self._connections:
            self._fill(connection)
        await self._ended.wait()

    def _fill(self, connection: Connection) -> None:
        while self._begun and connection.room > 0:
            request = next(self._requests, None)
            if request is None:
                return
            connection.begin(None, *request)

    # ---- Owner -----------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """It has told its settings."""
        self._opened.release()

    def resized(self, connection: Connection) -> None:
        """There is more room, since the token was good."""
        self._fill(connection)

    def answered(
        self, connection: Connection, ticket: Any, status: int, headers: Headers, body: bytes
    ) -> None:
        """The answer to one; another takes its place."""
        self.statuses[status] += 1
        self._fill(connection)
        if self.statuses.total() == self._count:
            self._ended.set()

    def unanswered(self, connection: Connection, ticket: Any, *, left: bool, reason: str) -> None:
        """Never, in a loop that anything can be learnt from."""
        self.statuses[0] += 1
        self._ended.set()

    def leaving(self, connection: Connection) -> None:
        """Its process ends before that, unless something is wrong: see `unanswered`."""

    def closed(self, connection: Connection) -> None:
        """The same."""


LOOPS = {"fcm": FcmLoop, "apns": ApnsLoop}


async def serve(options: argparse.Namespace) -> None:
    """Get ready, wait for the word, send."""
    (account,) = accounts_in(options.accounts)
    service = SERVICES[account.provider]
    bare = LOOPS[account.provider](account.settings, list(pushes(service, options.count)))
    await bare.open()
    answer(None)
    await asyncio.to_thread(sys.stdin.readline)
    await bare.run()
    answer({str(status): count for status, count in bare.statuses.items()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", required=True, help="pickled, one")
    parser.add_argument("--count", type=int, required=True)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
