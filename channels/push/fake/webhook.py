"""A system that takes signed webhooks, to try the hub with: `python -m channels.push.fake.webhook`.

    python -m channels.push.fake.webhook --port 0 --receipt-ms 200 \\
        --callback-url http://127.0.0.1:4280/v1/callbacks/grid

prints one line of JSON with its port and URL when it is ready. It verifies what is posted to it,
remembers every `webhook-id` (the first time and its repeats), and posts receipts to the hub, signed
with the same secret, many in one request where there are many. Lines of JSON on standard input:

    {"callback_url": "http://127.0.0.1:4280/v1/callbacks/grid"}  where receipts go from now on
    {"mo": {"from": "<address>", "text": "hello"}}               a customer writes
    {"answer": {"status": 410, "times": 1}}                      the next are answered so
    {"answer": {"status": 429, "retry_after": "7", "times": 5}}
    {"answer": {"how": "slow"}}                                  none, until the sender gives up
    {"answer": {"how": "cut"}}, {"answer": {"how": "redirect"}}  without `times`: until told else
    {"answer": {"how": "normal"}}

Of the odds, `throttle` is a 429, `busy` a 500, `refuse` a 400. `--read 0.2` reports so many of
those delivered as read, too. An address that begins with `gone-` is reported as dead.

Source: Standard Webhooks 1.0.0. Nothing of the hub's own side is used here, so that both are read
from the specification, not from one another.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hmac
from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import aiohttp
import msgspec
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from channels.sms.fake import command
from channels.sms.fake.command import Said
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import FakeServer, run_server
from hub.clock import Clock, SystemClock
from hub.contract.times import rfc3339

SECRET: Final = "whsec_dGFjdC13ZWJob29rLWZha2Utc2VjcmV0"
"""Unless it is given another: known to everybody, for tries on one machine."""
SEEN: Final = 100_000
"""Ids remembered: half a minute at 3,000/s, in 30 MB. An older one that comes again is new."""
KEPT: Final = 1_000
"""Bodies kept whole for whoever asks, newest last."""
SKEW_S: Final = 300
EVENTS: Final = 200
"""Receipts in one request to the hub: what it takes at once."""
GATHER_S: Final = 0.02
"""Receipts that come due within this time share a request."""
CALLS: Final = 256
"""Requests to the hub under way; receipts wait meanwhile."""
WAITING: Final = 200_000
"""Receipts that wait; more are lost, as by a system whose queue is full."""
CALL_TRIES: Final = 5
CALL_TIMEOUT_S: Final = 10.0
MOVED: Final = "/moved"


GONE: Final = "gone-"
"""How addresses begin that nobody has any more."""


class Trouble(Struct, frozen=True, forbid_unknown_fields=True):
    """How requests are answered, instead of by the odds."""

    how: Literal["normal", "status", "slow", "cut", "redirect"] = "status"
    status: int = 200
    retry_after: str = ""
    times: int | None = None
    """How many; None: until something else is told."""


class Line(Struct, forbid_unknown_fields=True):
    """A line of standard input."""

    callback_url: str | None = None
    mo: Said | None = None
    answer: Trouble | None = None


class Seen(Struct):
    """One `webhook-id`."""

    delivery: str
    to: str
    tries: int = 0
    """How often it was posted."""
    taken: bool = False
    """It took effect once, whatever its answers were."""


class _Data(Struct):
    id: str
    to: str


class _Delivery(Struct):
    type: Literal["delivery"]
    data: _Data


_DELIVERY = msgspec.json.Decoder(_Delivery)


class FakeWebhook(FakeServer):
    """The system. Counts `requests`, `refused` (by signature), `taken`, `repeated`, `called`, …"""

    def __init__(
        self,
        *,
        secrets: Sequence[str] = (SECRET,),
        public_key: str = "",
        callback_url: str = "",
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        repeat_s: float = 1.0,
        read: float = 0.0,
    ) -> None:
        """One of `secrets` must have signed; the first signs what is posted to the hub. `read`: the
        share of deliveries that are reported as read."""
        super().__init__(plan, recorder)
        self.callback_url = callback_url
        self.seen: OrderedDict[str, Seen] = OrderedDict()
        self.kept: deque[bytes] = deque(maxlen=KEPT)
        self.trouble = Trouble("normal")
        self._secrets = [base64.b64decode(one.removeprefix("whsec_")) for one in secrets]
        self._public: Ed25519PublicKey | None = None
        if public_key:
            raw = base64.b64decode(public_key.removeprefix("whpk_"))
            self._public = Ed25519PublicKey.from_public_bytes(raw)
        self._clock = clock or SystemClock()
        self._repeat_s = repeat_s
        self.read = read
        self._born = f"evt_{self._clock.now_ms()}"
        """Before the number of an event: none of an earlier run is repeated."""
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: deque[dict[str, Any]] = deque()
        self._gathering = False

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL."""
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self.url = await self._listen(server, host, port) + "/push"
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S))
        return self.url

    async def stop(self) -> None:
        """End, with what is still to be posted."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._session is not None:
            await self._session.close()
        await super().stop()

    async def hear(self, line: bytes) -> None:
        """A line of standard input. Raises MsgspecError."""
        said = msgspec.json.decode(line, type=Line)
        if said.callback_url is not None:
            self.callback_url = said.callback_url
        if said.answer is not None:
            self.trouble = said.answer
        if said.mo is not None:
            await self.customer_writes(said.mo.sender, said.mo.text)

    # ---- being posted to -----------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.count("requests")
        if request.path == MOVED:
            self.count("followed")
        body, at_ms = await request.read(), self._clock.now_ms()
        problem = self._problem(request.headers, body)
        if problem:
            self.count("refused")
            return web.Response(status=401, text=problem)
        try:
            posted = _DELIVERY.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.count("malformed")
            return web.Response(status=400, text="not a delivery")
        id = request.headers["webhook-id"]
        seen = self._seen(id, posted.data)
        if self.trouble.how != "normal":
            return await self._troubled(request)
        fate = self.plan.fate(id.encode())
        took = fate.taken and self._take(seen, body, fate)
        line = {"kind": "posted", "at": at_ms, "id": id, "delivery": posted.data.id}
        line |= {"to": posted.data.to, "try": seen.tries, "fate": fate.answer, "took": took}
        self.recorder.write(line)
        if fate.latency_ms:
            await asyncio.sleep(fate.latency_ms / 1_000)
        if fate.answer == "lose":
            await _given_up()
        if fate.answer == "cut":
            return _cut(request)
        status = {"throttle": 429, "busy": 500, "refuse": 400}.get(fate.answer, 200)
        return web.Response(status=status, headers={"retry-after": "1"} if status == 429 else None)

    def _problem(self, headers: Mapping[str, str], body: bytes) -> str:
        """Why a request is not by the hub, "" if it is."""
        id, time = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not id or "." in id or not time.isdecimal():
            return "no webhook-id or webhook-timestamp"
        if abs(self._clock.now_ms() / 1_000 - int(time)) > SKEW_S:
            return "webhook-timestamp is too old or too new"
        content = f"{id}.{time}.".encode() + body
        for each in headers.get("webhook-signature", "").split(" "):
            version, _, text = each.partition(",")
            if version == "v1" and any(
                hmac.compare_digest(text.encode(), _v1(one, content).encode())
                for one in self._secrets
            ):
                return ""
            if version == "v1a" and self._public is not None and _v1a(self._public, text, content):
                return ""
        return "no signature is ours"

    def _seen(self, id: str, data: _Data) -> Seen:
        seen = self.seen.get(id)
        if seen is None:
            seen = self.seen[id] = Seen(data.id, data.to)
            if len(self.seen) > SEEN:
                self.seen.popitem(last=False)
        else:
            self.count("repeated")
        seen.tries += 1
        return seen

    def _take(self, seen: Seen, body: bytes, fate: Fate) -> bool:
        """Whether it takes effect now, and not before."""
        if seen.taken:
            return False
        seen.taken = True
        number = self.count("taken")
        self.kept.append(body)
        if not self.callback_url:
            return True
        for words, delay_ms in self._words(seen, fate, number):
            if delay_ms <= 0:
                self._report(seen.delivery, words)
            else:
                loop = asyncio.get_running_loop()
                loop.call_later(delay_ms / 1_000, self._report, seen.delivery, words)
        return True

    def _words(self, seen: Seen, fate: Fate, number: int) -> Iterator[tuple[dict[str, str], float]]:
        """What is reported of a delivery, and when: milliseconds from now."""
        words = {"status": "delivered" if fate.delivered else "failed"}
        if seen.to.startswith(GONE):
            words = {"status": "failed", "class": "dead_address", "code": "GONE"}
        delay_ms = 0.0 if fate.receipt_ms < 0 else fate.latency_ms + fate.receipt_ms
        for _ in range(fate.receipts):
            yield words, delay_ms
        read = int(number * self.read) > int((number - 1) * self.read)
        if read and words["status"] == "delivered":  # one that is late comes behind it
            yield {"status": "read"}, fate.latency_ms + 1.5 * self.plan.odds.receipt_ms

    async def _troubled(self, request: web.BaseRequest) -> web.StreamResponse:
        trouble = self.trouble
        if trouble.times is not None:
            left = trouble.times - 1
            self.trouble = (
                msgspec.structs.replace(trouble, times=left) if left > 0 else Trouble("normal")
            )
        self.count("troubled")
        if trouble.how == "slow":
            await _given_up()
        if trouble.how == "cut":
            return _cut(request)
        if trouble.how == "redirect":
            return web.Response(status=307, headers={"location": MOVED})
        headers = {"retry-after": trouble.retry_after} if trouble.retry_after else None
        return web.Response(status=trouble.status, headers=headers)

    # ---- posting to the hub --------------------------------------------------------------------

    def _report(self, delivery: str, words: dict[str, str]) -> None:
        data = {"delivery": delivery, **words, "at": rfc3339(self._clock.now_ms())}
        if len(self._waiting) >= WAITING:
            self.count("receipts_lost")
            return
        self._waiting.append({"type": "receipt", "data": data})
        if not self._gathering:
            self._gathering = True
            self._spawn(self._gathered())

    async def _gathered(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            while self._waiting and len(self._tasks) <= CALLS:
                many = min(len(self._waiting), EVENTS)
                events = [self._waiting.popleft() for _ in range(many)]
                self._spawn(self._post_receipts(events))
        self._gathering = False

    async def _post_receipts(self, events: list[dict[str, Any]]) -> None:
        """Until the hub has confirmed them, or is given up."""
        status = await self.post({"type": "batch", "data": events})
        if not 200 <= status <= 299:
            self.count("receipts_lost", len(events))
            return
        self.count("confirmed", len(events))
        now_ms = self._clock.now_ms()
        for event in events:
            said = event["data"]
            line = {"kind": "confirmed", "at": now_ms, "delivery": said["delivery"]}
            self.recorder.write(line | {"status": said["status"]})

    async def customer_writes(self, sender: str, text: str) -> int:
        """Bring a customer's message to the hub. Gives the last status, 0 without an answer."""
        number = self.count("mo")
        if not self.callback_url:
            return 0
        data = {"id": f"{self._born}_mo_{number}", "from": sender, "content": {"text": text}}
        data["at"] = rfc3339(self._clock.now_ms())
        return await self.post({"type": "inbound", "data": data})

    async def post(self, event: dict[str, Any]) -> int:
        """Post an event until it is answered with 2xx or CALL_TRIES are over; the last status."""
        id, status = f"{self._born}_{self.count('events')}", 0
        event = {"timestamp": rfc3339(self._clock.now_ms()), **event}
        body = msgspec.json.encode(event)
        for again in range(CALL_TRIES):
            if again:
                await asyncio.sleep(self._repeat_s)
            status = await self._call(id, body)
            if 200 <= status <= 299:
                break
        else:
            self.count("not_taken")
        return status

    async def _call(self, id: str, body: bytes) -> int:
        assert self._session is not None
        self.count("called")
        time = str(self._clock.now_ms() // 1_000)
        signature = _v1(self._secrets[0], f"{id}.{time}.".encode() + body)
        headers = {
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": time,
            "webhook-signature": f"v1,{signature}",
        }
        try:
            async with self._session.post(self.callback_url, data=body, headers=headers) as reply:
                await reply.read()
                return reply.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _v1(secret: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(secret, content, "sha256")).decode()


def _v1a(public: Ed25519PublicKey, text: str, content: bytes) -> bool:
    try:
        public.verify(base64.b64decode(text), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _cut(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _given_up() -> None:
    """Until the sender has gone: then this is cancelled."""
    await asyncio.Event().wait()


def _fake(arguments: argparse.Namespace) -> FakeWebhook:
    secrets = [one for one in (arguments.secret, arguments.old_secret) if one]
    return FakeWebhook(
        secrets=secrets,
        public_key=arguments.public_key,
        callback_url=arguments.callback_url,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
        repeat_s=arguments.repeat_s,
        read=arguments.read,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("webhook", "A system that takes signed webhooks.")
    parser.add_argument("--secret", default=SECRET, help="whsec_…; signs receipts too")
    parser.add_argument("--old-secret", default="", help="whsec_…, good as well")
    parser.add_argument("--public-key", default="", help="whpk_… of the hub's private_key")
    parser.add_argument("--callback-url", default="", help="the hub's: receipts and messages")
    parser.add_argument("--repeat-s", type=float, default=1.0, help="before it is called again")
    parser.add_argument("--read", type=float, default=0.0, help="share that is reported as read")
    run_server(_fake, parser, argv)


if __name__ == "__main__":
    main()
