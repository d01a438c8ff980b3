"""getui's RestAPI v2 to try the hub with: authentication, and pushes to one device.

    python -m channels.push.fake.getui --port 0 --app-id app --app-key key --master-secret secret

prints one line of JSON with its port when it is ready. Devices are online, offline or ignored by
the first character of their cid (0 to b, c to e, f), unless a line on standard input ended them
(`channels.push.fake.vendor`).

Documented (getui's pages "auth", "push", "return codes"): what it checks and answers. Assumed: a
timestamp may be 5 minutes off; a repeated `request_id` is answered as the first was and not pushed;
a new token does not end the one before.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict, deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from aiohttp import web

from channels.push.fake.vendor import REMEMBERED, VendorFake, said
from channels.sms.fake import command
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import run_server
from hub.clock import Clock

SKEW_MS: Final = 5 * 60_000
TOKEN_MS: Final = 86_400_000
TOKENS: Final = 1_000
"""That live at once; the oldest are forgotten."""
AUTHS_A_MINUTE: Final = 100
MINUTE_MS: Final = 60_000
TTL_MAX_MS: Final = 3 * 86_400_000


class FakeGetui(VendorFake):
    """One app at getui."""

    def __init__(
        self,
        *,
        app_id: str = "app",
        app_key: str = "key",
        master_secret: str = "secret",
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        token_ms: int = TOKEN_MS,
        a_minute: int = 0,
    ) -> None:
        super().__init__(plan, recorder, clock)
        self.a_minute = a_minute
        """Pushes that are taken within a minute; 0: any number."""
        self.token_ms = token_ms
        self._app = (app_id, app_key, master_secret)
        self._tokens: OrderedDict[str, int] = OrderedDict()
        self._auths: deque[int] = deque(maxlen=AUTHS_A_MINUTE)
        self._pushes: deque[int] = deque(maxlen=max(a_minute, 1))
        self._first: OrderedDict[str, dict[str, Any]] = OrderedDict()
        """What the first push of a `request_id` was answered with."""

    def expire(self) -> None:
        """All tokens end, earlier than they should."""
        self._tokens.clear()

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        """As restapi.getui.com does."""
        base = f"/v2/{self._app[0]}"
        if request.path not in (f"{base}/auth", f"{base}/push/single/cid"):
            return said(404, {"code": 404, "msg": "url error"})
        if request.method != "POST":
            return said(405, {"code": 405, "msg": "method not supported"})
        if request.path.endswith("/auth"):
            return self._auth(body)
        ends_ms = self._tokens.get(request.headers.get("token", ""), 0)
        if ends_ms <= self.clock.now_ms():
            return said(401, {"code": 10001, "msg": "token not exist"})
        if wrong := _wrong(body):
            return said(400, {"code": 20001, "msg": wrong})
        return await self._push(body)

    def _auth(self, body: dict[str, Any]) -> web.Response:
        self.count("auths")
        now = self.clock.now_ms()
        if _too_many(self._auths, now, AUTHS_A_MINUTE):
            return said(401, {"code": 10003, "msg": "auth frequency over limit"})
        _, app_key, secret = self._app
        timestamp = str(body.get("timestamp", ""))
        if body.get("appkey") != app_key:
            return said(400, {"code": 20001, "msg": "appkey is invalid"})
        if not timestamp.isdigit() or abs(int(timestamp[:18]) - now) > SKEW_MS:
            return said(400, {"code": 20001, "msg": "timestamp is invalid"})
        if body.get("sign") != sha256((app_key + timestamp + secret).encode()).hexdigest():
            return said(400, {"code": 20001, "msg": "sign is invalid"})
        token = sha256(f"{timestamp} {self.counts['auths']}".encode()).hexdigest()
        self._tokens[token] = now + self.token_ms
        if len(self._tokens) > TOKENS:
            self._tokens.popitem(last=False)
        data = {"expire_time": str(now + self.token_ms), "token": token}
        return said(200, {"code": 0, "msg": "success", "data": data})

    async def _push(self, body: dict[str, Any]) -> web.Response | None:
        cid, id = body["audience"]["cid"][0], body["request_id"]
        if (first := self._first.get(id)) is not None:
            self.count("repeats")
            return said(200, {"code": 0, "msg": "success", "data": first})
        now = self.clock.now_ms()
        if self.a_minute and _too_many(self._pushes, now, self.a_minute):
            return said(401, {"code": 10005, "msg": "call frequency over limit"})
        fate = self.plan.fate(f"{cid}\0{id}".encode())
        if refusal := self._refusal(fate, cid):
            return refusal
        status = _status(cid)
        task = f"RASS_{self.counts.get('taken', 0)}_{sha256(id.encode()).hexdigest()[:16]}"
        data = {task: {cid: status}}
        self._first[id] = data
        if len(self._first) > REMEMBERED:
            self._first.popitem(last=False)
        if status == "successed_ignore":
            self.count("ignored")
        else:
            self.take(cid, id, body, fate)
        return await self.fated(fate, said(200, {"code": 0, "msg": "success", "data": data}))

    def _refusal(self, fate: Fate, cid: str) -> web.Response | None:
        if fate.answer == "throttle":
            return said(401, {"code": 10005, "msg": "call frequency over limit"})
        if fate.answer == "busy":
            return said(200, {"code": 2, "msg": "service is starting"})
        if fate.answer == "refuse" or cid in self.dead:
            return said(400, {"code": 20001, "msg": "target user is invalid"})
        return None


def _wrong(body: dict[str, Any]) -> str:
    """What is wrong with a push, as 20001 says it."""
    id, message, audience = (body.get(key) for key in ("request_id", "push_message", "audience"))
    if not isinstance(id, str) or not 10 <= len(id) <= 32:
        return "request_id is invalid"
    cids = audience.get("cid") if isinstance(audience, dict) else None
    if not isinstance(cids, list) or len(cids) != 1 or not isinstance(cids[0], str):
        return "audience is invalid"
    kinds = {"notification", "transmission", "revoke"}
    if not isinstance(message, dict) or len(kinds & set(message)) != 1:
        return "please choose one of notification and transmission and revoke"
    settings = body.get("settings", {})
    ttl = settings.get("ttl", 0) if isinstance(settings, dict) else None
    if not isinstance(ttl, int) or not -1 <= ttl <= TTL_MAX_MS:
        return "ttl is invalid"
    return _wrong_notification(message["notification"]) if "notification" in message else ""


def _wrong_notification(shown: Any) -> str:
    for key, most in (("title", 50), ("body", 256)):
        text = shown.get(key) if isinstance(shown, dict) else None
        if not isinstance(text, str) or not text:
            return f"{key} can not be empty"
        if len(text) > most:
            return f"{key} size over limit"
    return ""


def _status(cid: str) -> str:
    first = cid[:1].lower()
    if first == "f":
        return "successed_ignore"
    return "successed_offline" if first in "cde" else "successed_online"


def _too_many(times: deque[int], now: int, most: int) -> bool:
    """Whether there were as many within the last minute; counts this one if not."""
    if len(times) >= most and times[0] > now - MINUTE_MS:
        return True
    times.append(now)
    return False


def _fake(arguments: argparse.Namespace) -> FakeGetui:
    return FakeGetui(
        app_id=arguments.app_id,
        app_key=arguments.app_key,
        master_secret=arguments.master_secret,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
        token_ms=int(arguments.token_s * 1_000),
        a_minute=arguments.a_minute,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("getui", "getui's RestAPI v2, for trying.")
    parser.add_argument("--app-id", default="app")
    parser.add_argument("--app-key", default="key")
    parser.add_argument("--master-secret", default="secret")
    parser.add_argument("--token-s", type=float, default=TOKEN_MS / 1_000, help="life of a token")
    parser.add_argument("--a-minute", type=int, default=0, help="pushes taken; 0: any number")
    run_server(_fake, parser, argv)


if __name__ == "__main__":
    main()
