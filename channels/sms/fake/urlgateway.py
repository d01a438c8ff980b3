"""A URL gateway to try the hub with: Kannel's `sendsms` and its receipts, and faults on demand.

    python -m channels.sms.fake.urlgateway --port 0 --user tact --password secret --fail 0.1

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "+8613800138000", "text": "R"}}` is a customer's message, for which `--inbound-url`
is called with %p, %a and %I filled in. Answers as Kannel 1.4.5 does. Receipts are GETs of the
message's `dlr-url` with %d and %A filled in, repeated until they are answered with 2xx.
"""

from __future__ import annotations

import argparse
import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Struct
from yarl import URL

from channels.sms.fake import command
from channels.sms.fake.command import Line, Said
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import FakeServer, run_server

SEEN: Final = 10_000
"""Messages kept for whoever asks, newest last."""
CALLS: Final = 4_096
"""Receipts under way or waiting; more are lost, as by a gateway whose queue is full."""
CALL_TRIES: Final = 5
CALL_TIMEOUT_S: Final = 10.0
BODY_BYTES: Final = 64 * 1024
"""Of one request."""

_LATER: Final = "Temporal failure, try again later."


class Seen(Struct, frozen=True):
    """A message that was taken."""

    number: int
    """From 1."""
    to: str
    fields: dict[str, str]


class HttpFake(FakeServer):
    """A provider's server, and the callbacks that it makes. Counts `requests`, `taken`, `called`,
    `mo`."""

    def __init__(self, plan: Plan | None, recorder: Recorder | None, repeat_s: float) -> None:
        super().__init__(plan, recorder)
        self.repeat_s = repeat_s
        """Between two tries of a callback."""
        self.seen: deque[Seen] = deque(maxlen=SEEN)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        url = await self._listen(app, host, port)
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S))
        return url

    async def stop(self) -> None:
        """End, with all callbacks."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._session is not None:
            await self._session.close()
        await super().stop()

    @abstractmethod
    async def answer(self, path: str, fields: dict[str, str], method: str) -> web.Response | None:
        """What a request is answered with; None: nothing, and the connection is cut."""

    @abstractmethod
    async def customer_writes(self, sender: str, text: str) -> int:
        """Bring a customer's message to the hub, once. Gives the status, 0 without an answer."""

    async def hear(self, line: bytes) -> None:
        """A line of standard input. Raises MsgspecError."""
        said = msgspec.json.decode(line, type=Line[Said]).mo
        await self.customer_writes(said.sender, said.text)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.count("requests")
        fields = dict(request.query)
        if request.content_type == "application/x-www-form-urlencoded":
            fields |= {name: str(value) for name, value in (await request.post()).items()}
        response = await self.answer(request.path, fields, request.method)
        if response is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return response

    def took(self, to: str, fields: dict[str, str]) -> None:
        """Remember a message that is taken."""
        self.seen.append(Seen(self.count("taken"), to, fields))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a callback run beside the answer."""
        if len(self._tasks) >= CALLS:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def call(self, url: str, body: bytes | None = None) -> int:
        """Call back once; gives the status, 0 when there was no answer."""
        assert self._session is not None
        self.count("called")
        kind = {"content-type": "application/json"} if body is not None else {}
        method = "GET" if body is None else "POST"
        target = URL(url, encoded=True)
        try:
            async with self._session.request(method, target, data=body, headers=kind) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def call_until_taken(self, url: str, body: bytes | None = None) -> bool:
        """Call back, and again until it is answered with 2xx or CALL_TRIES are over."""
        for _ in range(CALL_TRIES):
            if 200 <= await self.call(url, body) <= 299:
                return True
            await asyncio.sleep(self.repeat_s)
        return False

    async def acted(self, fate: Fate, took: Callable[[], None]) -> bool:
        """The part of a fate that is the same everywhere. False: cut the connection."""
        if fate.taken:
            took()
        if fate.receipt_ms >= 0:
            await asyncio.sleep(fate.latency_ms / 1_000)
        if fate.answer == "lose":
            await asyncio.sleep(3_600)  # until the other side gives up
        return fate.answer != "cut"


class FakeUrlGateway(HttpFake):
    """Kannel's smsbox, as far as it can be seen over HTTP."""

    def __init__(
        self,
        *,
        user: str = "tact",
        password: str = "secret",
        inbound_url: str = "",
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        repeat_s: float = 1.0,
    ) -> None:
        super().__init__(plan, recorder, repeat_s)
        self._user = user
        self.inbound_url = inbound_url
        """Called with a customer's message: %p its sender, %a its text, %I its id."""
        self._password = password

    async def answer(self, path: str, fields: dict[str, str], method: str) -> web.Response | None:
        """As smsbox does."""
        if path not in ("/cgi-bin/sendsms", "/sendsms"):
            return web.Response(status=404, text="Unknown request.\n")
        if (fields.get("username"), fields.get("password")) != (self._user, self._password):
            return web.Response(status=403, text="Authorization failed for sendsms")
        if "to" not in fields:
            return web.Response(status=400, text="Missing receiver number, rejected")
        if not fields.get("from"):
            return web.Response(status=400, text="Sender missing and no global set, rejected")
        fate = self.plan.fate(f"{fields['to']}\0{fields.get('text', '')}".encode())
        if not await self.acted(fate, lambda: self._take(fields, fate)):
            return None
        if fate.answer == "throttle":
            headers = {"retry-after": "1"}
            return web.Response(
                status=503, text="Temporal failure, try again later.", headers=headers
            )
        if fate.answer == "busy":
            return web.Response(status=503, text="Temporal failure, try again later.")
        if fate.answer == "refuse":
            return web.Response(status=403, text="Not routable. Do not try again.")
        return web.Response(status=202, text="0: Accepted for delivery")

    def _take(self, fields: dict[str, str], fate: Fate) -> None:
        self.took(fields["to"], fields)
        self.recorder.write(
            {"to": fields["to"], "text": fields.get("text", ""), "fate": fate.answer}
        )
        mask, url = int(fields.get("dlr-mask") or 0), fields.get("dlr-url", "")
        if url:
            for _ in range(fate.receipts):
                self.spawn(self._receipts(url, mask, fate))

    async def _receipts(self, url: str, mask: int, fate: Fate) -> None:
        await asyncio.sleep(max(fate.latency_ms + fate.receipt_ms, 0) / 1_000)
        word, final = ("DELIVRD", 1) if fate.delivered else ("UNDELIV", 2)
        text = f"id:1 sub:001 dlvrd:001 done date:2611211201 stat:{word} err:000 text:"
        # The SMSC's "taken" comes last, as it often does.
        for kind, reply in ((final, text), (8, "ACK/")):
            if mask & kind:
                filled = url.replace("%d", str(kind)).replace("%A", quote(reply, safe=""))
                await self.call_until_taken(filled)

    async def customer_writes(self, sender: str, text: str) -> int:
        """As an `sms-service` with the `get-url` `inbound_url` does."""
        values = {"%p": sender, "%a": text, "%I": f"mo-{self.count('mo')}"}
        url = self.inbound_url
        for code, value in values.items():
            url = url.replace(code, quote(value, safe=""))
        return await self.call(url) if url else 0


def _fake(arguments: argparse.Namespace) -> FakeUrlGateway:
    return FakeUrlGateway(
        user=arguments.user,
        password=arguments.password,
        inbound_url=arguments.inbound_url,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("urlgateway", "A URL gateway like Kannel's.")
    parser.add_argument("--user", default="tact")
    parser.add_argument("--password", default="secret")
    parser.add_argument("--inbound-url", default="", help="called with a customer's message")
    run_server(_fake, parser, argv)


if __name__ == "__main__":
    main()
