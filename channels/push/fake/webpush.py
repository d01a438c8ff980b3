"""A push service and its browsers to try the hub with: checks what RFC 8030, 8188, 8291 and 8292
ask for, and reads the messages.

    python -m channels.push.fake.webpush --port 0 --throttle 0.1 --retry-after 2

prints one line of JSON with its URL when it is ready. Over HTTP:

- `POST /subscribe` with `{"applicationServerKey": "…"}` gives a `PushSubscription`, the address of
  a new browser; without a key any sender is taken;
- `POST /push/<id>` is its endpoint;
- `POST /browser/<id>/away`, `…/back`, `…/gone`: messages wait for it by their TTL, newer ones
  taking the place of those with the same topic; are delivered; are answered 410;
- `GET /browser/<id>` gives the messages it has read.

On standard input `{"gone": "<id>"}` does the same. The account needs `private_networks = true`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import http_ece  # type: ignore[import-untyped]
import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct, field

from channels.sms.fake import command
from channels.sms.fake.faults import Plan, Recorder
from channels.sms.fake.server import FakeServer, run_server
from hub.clock import Clock, SystemClock
from hub.errors import InputError

BROWSERS: Final = 10_000
"""Subscriptions kept; the oldest is forgotten, and answered 404 from then on."""
MESSAGES: Final = 1_000
"""Kept of one browser, read or waiting."""
BODY_BYTES: Final = 4_096
"""RFC 8030, 7.2."""
CLAIM_S: Final = 24 * 3_600
"""RFC 8292, 2: `exp` is at most so far ahead."""

_VAPID = re.compile(r"vapid +t=([A-Za-z0-9_.-]+), *k=([A-Za-z0-9_-]+)\Z")
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_URGENCIES = ("very-low", "low", "normal", "high")


class Message(Struct, frozen=True):
    """What a browser was sent."""

    number: int
    """From 1."""
    text: str | None
    """None: it cannot be decrypted."""
    ttl: int
    urgency: str
    topic: str
    until_ms: int


class Browser(Struct):
    """One subscription: its keys, and its messages."""

    id: str
    key: EllipticCurvePrivateKey
    auth: bytes
    sender: str
    """The only key that may send, base64url; "" for any."""
    away: bool = False
    gone: bool = False
    waiting: deque[Message] = field(default_factory=lambda: deque(maxlen=MESSAGES))
    read: deque[Message] = field(default_factory=lambda: deque(maxlen=MESSAGES))


class _Subscribe(Struct):
    applicationServerKey: str = ""


class _Gone(Struct, forbid_unknown_fields=True):
    gone: str


class Refusal(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class FakeWebPush(FakeServer):
    """A push service. Counts `requests`, `taken`, `replaced`, `expired`, `undecipherable`, and
    answers by status."""

    def __init__(
        self,
        *,
        retry_after: str = "",
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(plan, recorder)
        self.retry_after = retry_after
        """`Retry-After` of what is throttled or busy; "" for none."""
        self.status = 0
        """If set, all pushes are answered with it."""
        self._clock = clock or SystemClock()
        self._browsers: OrderedDict[str, Browser] = OrderedDict()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL."""
        app = web.Application(client_max_size=4 * BODY_BYTES)
        app.router.add_post("/subscribe", self._subscribe)
        app.router.add_post("/push/{id}", self._push)
        app.router.add_post("/browser/{id}/{what:away|back|gone}", self._change)
        app.router.add_get("/browser/{id}", self._read)
        return await self._listen(app, host, port)

    async def hear(self, line: bytes) -> None:
        """A line of standard input. Raises MsgspecError, InputError."""
        self.change(msgspec.json.decode(line, type=_Gone).gone, "gone")

    # ---- browsers ----------------------------------------------------------------------------

    def subscribe(self, application_server_key: str = "") -> dict[str, Any]:
        """A new browser's subscription, as it would be given to the site."""
        key, auth, name = generate_private_key(SECP256R1()), os.urandom(16), os.urandom(16).hex()
        self._browsers[name] = Browser(name, key, auth, application_server_key.rstrip("="))
        if len(self._browsers) > BROWSERS:
            self._browsers.popitem(last=False)
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {
            "endpoint": f"{self.url}/push/{name}",
            "expirationTime": None,
            "keys": {"p256dh": _text(point), "auth": _text(auth)},
        }

    def change(self, name: str, what: str) -> None:
        """A browser is `away`, `back` or `gone`. Raises InputError."""
        browser = self.browser(name)
        browser.away, browser.gone = what == "away", browser.gone or what == "gone"
        now_ms = self._clock.now_ms()
        while browser.waiting and not browser.away:
            message = browser.waiting.popleft()
            if message.until_ms > now_ms:
                browser.read.append(message)
            else:
                self.count("expired")

    def browser(self, name: str) -> Browser:
        """By its id, or its endpoint. Raises InputError."""
        found = self._browsers.get(name.rpartition("/")[2])
        if found is None:
            raise InputError("no such browser")
        return found

    # ---- requests ----------------------------------------------------------------------------

    async def _subscribe(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read() or b"{}", type=_Subscribe)
        except msgspec.DecodeError:
            return web.Response(status=400)
        return web.json_response(self.subscribe(asked.applicationServerKey))

    async def _change(self, request: web.Request) -> web.Response:
        try:
            self.change(request.match_info["id"], request.match_info["what"])
        except InputError:
            return web.Response(status=404)
        return web.Response(status=204)

    async def _read(self, request: web.Request) -> web.Response:
        try:
            browser = self.browser(request.match_info["id"])
        except InputError:
            return web.Response(status=404)
        body = msgspec.json.encode(list(browser.read))
        return web.Response(body=body, content_type="application/json")

    async def _push(self, request: web.Request) -> web.Response:
        self.count("requests")
        body = await request.read()
        try:
            browser, message = self._accepted(request.match_info["id"], request.headers, body)
        except Refusal as refusal:
            return self._answer(refusal.status, refusal.reason)
        fate = self.plan.fate(browser.id.encode() + body)
        if fate.taken and not self.status:
            self._take(browser, message)
            self.recorder.write(
                {"to": browser.id, "text": message.text, "topic": message.topic}
                | {"ttl": message.ttl, "urgency": message.urgency, "fate": fate.answer}
            )
        await asyncio.sleep(fate.latency_ms / 1_000)
        if fate.answer == "cut" and request.transport is not None:
            request.transport.abort()
        if fate.answer == "lose":
            await asyncio.sleep(3_600)  # until the other side gives up
        wrong = {"throttle": 429, "busy": 503, "refuse": 400}.get(fate.answer, 0)
        if status := self.status or wrong:
            return self._answer(status, fate.answer)
        location = {"location": f"{self.url}/message/{message.number}"}
        self.count("201")
        return web.Response(status=201, headers=location)

    def _answer(self, status: int, reason: str) -> web.Response:
        self.count(str(status))
        later = status in (429, 503) and self.retry_after
        return web.json_response(
            {"code": status, "message": reason},
            status=status,
            headers={"retry-after": self.retry_after} if later else {},
        )

    def _take(self, browser: Browser, message: Message) -> None:
        self.count("taken")
        if not browser.away:
            browser.read.append(message)
            return
        for old in [one for one in browser.waiting if message.topic and one.topic == message.topic]:
            browser.waiting.remove(old)
            self.count("replaced")
        if message.ttl:
            browser.waiting.append(message)

    # ---- what is checked ---------------------------------------------------------------------

    def _accepted(
        self, name: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[Browser, Message]:
        """The browser, and its message. Raises Refusal."""
        browser = self._browsers.get(name)
        if browser is None:
            raise Refusal(404, "no such subscription")
        if browser.gone:
            raise Refusal(410, "the subscription has expired")
        if len(body) > BODY_BYTES:
            raise Refusal(413, "too large")
        self._check_sender(browser, headers.get("authorization", ""))
        if headers.get("content-encoding") != "aes128gcm" or not headers.get("content-type"):
            raise Refusal(400, "content-encoding must be aes128gcm, with a content-type")
        ttl = headers.get("ttl", "")
        if not (ttl.isascii() and ttl.isdigit()):
            raise Refusal(400, "TTL is missing")
        urgency, topic = headers.get("urgency", "normal"), headers.get("topic", "")
        if urgency not in _URGENCIES:
            raise Refusal(400, "no such urgency")
        if topic and not _TOPIC.match(topic):
            raise Refusal(400, "the topic is malformed")
        until_ms = self._clock.now_ms() + int(ttl) * 1_000
        number = self.counts.get("taken", 0) + 1
        text = self._decrypted(browser, body)
        return browser, Message(number, text, int(ttl), urgency, topic, until_ms)

    def _check_sender(self, browser: Browser, authorization: str) -> None:
        found = _VAPID.match(authorization)
        if found is None:
            if browser.sender:
                raise Refusal(401, "VAPID is missing")
            return
        token, public = found.groups()
        if browser.sender and public != browser.sender:
            raise Refusal(403, "the credentials do not correspond to those of the subscription")
        try:
            key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), _bytes(public))
            # Its clock is ours, so that a test may turn it.
            options: Any = {"require": ["aud", "exp"], "verify_exp": False}
            claims = jwt.decode(token, key, ["ES256"], audience=self.url, options=options)
            left_s = float(claims["exp"]) - self._clock.now_ms() / 1_000
        except (ValueError, TypeError, jwt.PyJWTError):
            raise Refusal(403, "VAPID is not valid") from None
        if not 0 < left_s <= CLAIM_S:
            raise Refusal(403, "VAPID has expired, or is valid for too long")
        if not str(claims.get("sub", "")).startswith(("mailto:", "https:")):
            raise Refusal(403, "VAPID has no subject")

    def _decrypted(self, browser: Browser, body: bytes) -> str | None:
        """As the browser reads it; a push service cannot."""
        try:
            plain: bytes = http_ece.decrypt(
                body, private_key=browser.key, auth_secret=browser.auth, version="aes128gcm"
            )
            return plain.decode()
        except (http_ece.ECEException, ValueError):
            self.count("undecipherable")
            return None


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _fake(arguments: argparse.Namespace) -> FakeWebPush:
    return FakeWebPush(
        retry_after=arguments.retry_after,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("webpush", "A push service and its browsers.")
    parser.add_argument("--retry-after", default="", help="seconds, of 429 and 503; none without")
    run_server(_fake, parser, argv)


if __name__ == "__main__":
    main()
