"""Firebase Cloud Messaging to try the hub with: tokens, messages:send, errors, quotas, faults.

    python -m channels.push.fake.fcm --port 0 --credentials-out service-account.json

writes the key file of a service account that it has made, and prints one line of JSON with its URL
when it is ready. A registration token that begins with `unregistered-`, `malformed-`, `refused-`,
`foreign-`, `unkeyed-`, `crowded-`, `busy-` or `broken-` always gets that error. Things are made to
happen by POST /fake/<name> with a JSON object (`fault`, `clear-faults`, `unregister`, `advance`,
`forget-tokens`, `replace-key`, `disable-account`), or by lines `{"do": "<name>", …}` on standard
input. GET /fake/record tells what the devices got. SIGTERM ends it.

Sources: FCM's reference of projects.messages:send; "Throttling and quotas".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from msgspec import UNSET, Struct

from channels.push.fake.fcm_errors import KINDS, PREFIXES, error_of, wrong
from channels.push.fake.fcm_grants import Grants
from channels.push.fake.fcm_shape import Message, Wrong, request_of
from channels.push.fake.fcm_trouble import Fault, Faults, page, silent
from channels.sms.fake import command
from channels.sms.fake.faults import Plan, Recorder
from channels.sms.fake.server import FakeServer
from channels.wecom.fake.timers import MovableClock
from hub.clock import Clock

SEEN: Final = 10_000
"""Messages kept for whoever asks, newest last."""
DEVICES: Final = 1_000_000
"""Devices whose messages are counted; the messages of further ones are counted together."""
IDS: Final = 20
"""Ids kept of each device, newest last."""
BODY_BYTES: Final = 256 * 1024
"""Of one request."""
MINUTE_MS: Final = 60_000
TOKEN_CHARS: Final = 8
"""A registration token has more."""


class Settings(Struct, frozen=True, kw_only=True):
    """What the fake is like."""

    project: str = "tact-fake"
    per_minute: float = 600_000.0
    """Messages of the project; what is beyond is answered with 429."""
    device_per_minute: float = 240.0
    """Messages of one device."""
    token_life_s: float = 3_599.0
    retry_after_s: float = 0.0
    """Said with 429 and 503; 0: not said."""


class _Do(Struct):
    do: str = ""
    token: str = ""
    seconds: float = 0.0
    disabled: bool = True


class Seen(Struct, frozen=True):
    """A message that was taken."""

    id: str
    token: str
    message: Message
    at_ms: int

    def __repr__(self) -> str:
        return f"Seen({self.id!r})"


class FakeFcm(FakeServer):
    """FCM. Once it has started, `key_file()` gives access. Counts `requests`, `taken`, `tokens`,
    `unauthenticated`, and each error by its name."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        seed: int = 0,
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        key: RSAPrivateKey | None = None,
    ) -> None:
        super().__init__(plan or Plan(seed), recorder)
        self.settings = settings or Settings()
        self.clock = MovableClock(clock)
        self.grants = Grants(self.settings.project, self.clock, self.settings.token_life_s, key)
        self.seen: deque[Seen] = deque(maxlen=SEEN)
        self.devices: dict[str, deque[str]] = {}
        """The ids that each device was given last."""
        self.received: dict[str, int] = {}
        """How many messages each device was given."""
        self._gone: set[str] = set()
        self.faults = Faults(self.clock, random.Random(seed), self.count)
        self._minute = 0
        self._this_minute: dict[str, int] = {}
        self._send_path = f"/v1/projects/{self.settings.project}/messages:send"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL. Raises OSError when the port is taken."""
        server = web.Server(self._handle, access_log=None)  # no router: it has to be fast
        url = await self._listen(server, host, port)
        self.grants.url = f"{url}/token"
        return url

    def key_file(self) -> str:
        """The JSON of the service account's key file; its `token_uri` is known once it listens."""
        return json.dumps(self.grants.key_file(), indent=2)

    # ---- requests --------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == self._send_path and request.method == "POST":
            return await self._send(request)
        body = await request.read()
        if request.path == "/token":
            return await self._token(request, body)
        if request.path.startswith("/fake/"):
            return self._control(request, body)
        # Another project, or no address of FCM's.
        return error_of(KINDS["NOT_FOUND"]) if "/messages:send" in request.path else page(404)

    async def _token(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        self.count("tokens")
        if (fault := self.faults.of("token")) is not None:
            return await self.faults.meet(request, fault)
        return self.grants.answer(body)

    async def _send(self, request: web.BaseRequest) -> web.StreamResponse:
        self.count("requests")
        body = await request.read()
        fault = self.faults.of("send")
        if fault is not None and not fault.taken:
            return await self.faults.meet(request, fault)
        if not self.grants.is_good(request.headers.get("authorization", "")):
            self.count("unauthenticated")
            return error_of(KINDS["UNAUTHENTICATED"])
        if len(body) > BODY_BYTES:
            return wrong("", "Request payload size exceeds the limit")
        try:
            asked = request_of(body)
        except Wrong as error:
            self.count("INVALID_ARGUMENT")
            return wrong(error.facts["field"], error.message)
        message, at_ms = asked.message, self.clock.now_ms()
        token = message.token if message.token is not UNSET else ""
        if (code := self._refusal(token)) is not None:
            return self._refuse(message, token, at_ms, code)
        fate = self.plan.fate(token.encode() + b"\0" + body)
        if fate.latency_ms:
            await asyncio.sleep(fate.latency_ms / 1_000)
        if not fate.taken:
            names = {"throttle": "QUOTA_EXCEEDED", "busy": "UNAVAILABLE", "refuse": "UNREGISTERED"}
            return self._refuse(message, token, at_ms, names[fate.answer])
        answer = self._take(token, message, at_ms, asked.validate_only, fate.answer)
        if fault is not None:
            return await self.faults.meet(request, fault, answer)
        if fate.answer != "accept":
            return await silent(request, cut=fate.answer == "cut")
        return answer

    def _refusal(self, token: str) -> str | None:
        """Why a device is given nothing: a name of `KINDS`."""
        if (code := PREFIXES.get(token.partition("-")[0])) is not None:
            return code
        if len(token) < TOKEN_CHARS or not token.isascii() or not token.isprintable():
            return "INVALID_TOKEN"
        if token in self._gone:
            return "UNREGISTERED"
        minute = self.clock.now_ms() // MINUTE_MS
        if minute != self._minute:
            self._minute = minute
            self._this_minute.clear()
        counts = self._this_minute
        if counts.get("", 0) >= self.settings.per_minute:
            return "QUOTA_EXCEEDED"
        if counts.get(token, 0) >= self.settings.device_per_minute:
            return "DEVICE_QUOTA_EXCEEDED"
        counts[""] = counts.get("", 0) + 1
        counts[token] = counts.get(token, 0) + 1
        return None

    def _take(
        self, token: str, message: Message, at_ms: int, only: bool, fate: str
    ) -> web.Response:
        number = self.count("validated" if only else "taken")
        id = f"0:{at_ms}{number:06d}%{number:016x}" if not only else "fake_message_id"
        if not only:
            self._remember(token, id)
            self.seen.append(Seen(id, token, message, at_ms))
            known = {"at": at_ms, "to": token, "id": id, "data": message.data, "fate": fate}
            self.recorder.write(known)
        name = f"projects/{self.settings.project}/messages/{id}"
        return web.Response(
            body=b'{\n  "name": "%b"\n}\n' % name.encode(), content_type="application/json"
        )

    def _remember(self, token: str, id: str) -> None:
        ids = self.devices.get(token)
        if ids is None:
            token = token if len(self.devices) < DEVICES else ""
            ids = self.devices.setdefault(token, deque(maxlen=IDS))
        ids.append(id)
        self.received[token] = self.received.get(token, 0) + 1

    def _refuse(self, message: Message, token: str, at_ms: int, code: str) -> web.Response:
        """Nothing was taken: `id` is empty, and `fate` the error."""
        data = message.data
        self.recorder.write({"at": at_ms, "to": token, "id": "", "data": data, "fate": code})
        return self._error(code)

    def _error(self, code: str) -> web.Response:
        self.count(code)
        kind = KINDS[code]
        after_s = self.settings.retry_after_s or None
        return error_of(kind, after_s if kind.http in (429, 503) else None)

    def unregister(self, token: str) -> None:
        """The app was removed from this device."""
        self._gone.add(token)

    # ---- control ---------------------------------------------------------------------------------

    async def hear(self, line: bytes) -> None:
        """A line of standard input. Raises MsgspecError."""
        self._do(msgspec.json.decode(line, type=_Do).do, line)

    def _control(self, request: web.BaseRequest, body: bytes) -> web.Response:
        name = request.path.removeprefix("/fake/")
        if request.method == "GET":
            return _json(self.told() if name == "record" else {"names": sorted(_CONTROLS)})
        try:
            self._do(name, body or b"{}")
        except msgspec.MsgspecError as error:
            return _json({"error": f"not understood: {error}"}, 400)
        return _json({})

    def _do(self, name: str, body: bytes) -> None:
        """Raises MsgspecError."""
        control = _CONTROLS.get(name)
        if control is None:
            raise msgspec.ValidationError(f"do: one of {', '.join(sorted(_CONTROLS))}")
        control(self, body)

    def told(self) -> dict[str, Any]:
        """What it has seen."""
        return {"counts": self.counts, "received": self.received, "faults": len(self.faults)}


def _begin_fault(fake: FakeFcm, body: bytes) -> None:
    fields = msgspec.json.decode(body, type=dict[str, Any])
    fields.pop("do", None)
    fault = msgspec.convert(fields, Fault)
    if fault.code not in KINDS:
        raise msgspec.ValidationError(f"code: one of {', '.join(KINDS)}")
    fake.faults.add(fault)


def _asked(act: Callable[[FakeFcm, _Do], object]) -> Callable[[FakeFcm, bytes], object]:
    return lambda fake, body: act(fake, msgspec.json.decode(body, type=_Do))


def _disable(fake: FakeFcm, asked: _Do) -> None:
    fake.grants.disabled = asked.disabled


_CONTROLS: Final[dict[str, Callable[[FakeFcm, bytes], object]]] = {
    "fault": _begin_fault,
    "clear-faults": _asked(lambda fake, _: fake.faults.clear()),
    "unregister": _asked(lambda fake, asked: fake.unregister(asked.token)),
    "forget-tokens": _asked(lambda fake, _: fake.grants.forget()),
    "replace-key": _asked(lambda fake, _: fake.grants.replace_key()),
    "disable-account": _asked(_disable),
    "advance": _asked(lambda fake, asked: fake.clock.advance(asked.seconds)),
}


def _json(answer: dict[str, Any], status: int = 200) -> web.Response:
    body = msgspec.json.encode(answer)
    return web.Response(body=body, status=status, content_type="application/json")


async def _serve(arguments: argparse.Namespace) -> None:
    fake = FakeFcm(
        command.options_of(arguments, Settings),
        seed=arguments.seed,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
    )
    url = await fake.start(arguments.host, arguments.port)
    ready = {"port": fake.port, "url": url, "project": fake.settings.project}
    if arguments.credentials_out:
        _write(Path(arguments.credentials_out), fake.key_file())
        ready["credentials"] = arguments.credentials_out
    await command.serve(fake, ready)


def _write(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("fcm", "Firebase Cloud Messaging, for trying.")
    parser.add_argument("--credentials-out", default="", metavar="FILE", help="write the key file")
    command.add_options(parser, Settings)
    command.run(_serve(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
