"""JPush's REST API v3 to try the hub with: push ids, and pushes to one device.

    python -m channels.push.fake.jpush --port 0 --app-key key --master-secret secret

prints one line of JSON with its port when it is ready; lines on standard input end devices and ids
(`channels.push.fake.vendor`).

Documented (Jiguang's pages "REST API overview", "Push API v3", "advanced features"): what it checks
and answers, 600 calls a minute and the headers that tell of them. Assumed: a push under an id that
was never given out is refused with 1003.
"""

from __future__ import annotations

import argparse
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from aiohttp import web

from channels.push.fake.vendor import REMEMBERED, VendorFake, said
from channels.sms.fake import command
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import run_server
from hub.clock import Clock

A_MINUTE: Final = 600
MINUTE_MS: Final = 60_000
CID_MS: Final = 86_400_000
ORDINARY_CIDS, VIP_CIDS = 10, 1_000
ANDROID_BYTES: Final = 4_000
IOS_BYTES: Final = 2_000


class FakeJpush(VendorFake):
    """One app at JPush."""

    def __init__(
        self,
        *,
        app_key: str = "key",
        master_secret: str = "secret",
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        a_minute: int = A_MINUTE,
        vip: bool = False,
    ) -> None:
        super().__init__(plan, recorder, clock)
        self.a_minute = a_minute
        self._app_key = app_key
        pair = f"{app_key}:{master_secret}".encode()
        self._authorization = f"Basic {b64encode(pair).decode()}"
        self._most_cids = VIP_CIDS if vip else ORDINARY_CIDS
        self._minute = 0
        self._calls = 0
        """In that minute."""
        self._cids: OrderedDict[str, int] = OrderedDict()
        """Until when each is valid."""
        self._first: dict[str, dict[str, Any]] = {}
        """What the push that succeeded under an id was answered with."""

    def expire(self) -> None:
        """All ids end, earlier than they should."""
        self._cids.clear()
        self._first.clear()

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        """As api.jpush.cn does."""
        response = await self._answer(request, body)
        if response is not None:
            left_s = (MINUTE_MS - self.clock.now_ms() % MINUTE_MS) // 1_000
            response.headers["X-Rate-Limit-Quota"] = str(self.a_minute)
            response.headers["X-Rate-Limit-Remaining"] = str(max(self.a_minute - self._calls, 0))
            response.headers["X-Rate-Limit-Reset"] = str(left_s)
        return response

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if request.headers.get("authorization") != self._authorization:
            return _error(401, 1004, "Authen failed")
        minute = self.clock.now_ms() // MINUTE_MS
        if minute != self._minute:
            self._minute, self._calls = minute, 0
        self._calls += 1
        if self._calls > self.a_minute:
            return _error(429, 2002, "Rate limit exceeded")
        if request.path == "/v3/push/cid":
            return self._give(request)
        if request.path not in ("/v3/push", "/v3/push/validate"):
            return _error(404, 1003, "no such API")
        if request.method != "POST":
            return _error(405, 1001, "Only POST is supported")
        if wrong := self._wrong(body):
            return _error(400, *wrong)
        if request.path.endswith("validate"):
            return said(200, {"sendno": "0", "msg_id": "0"})
        return await self._push(body)

    def _give(self, request: web.Request) -> web.Response:
        """Ids of the pool."""
        self.count("cids")
        text = request.query.get("count", "1")
        if not text.isdigit() or int(text) < 1:
            return _error(400, 1003, "count is invalid")
        given = []
        for _ in range(min(int(text), self._most_cids)):
            word = sha256(f"{self.count('cid')}".encode()).hexdigest()
            uuid = "-".join((word[:8], word[8:12], word[12:16], word[16:20], word[20:32]))
            given.append(f"{self._app_key}-{uuid}")
            self._cids[given[-1]] = self.clock.now_ms() + CID_MS
        while len(self._cids) > REMEMBERED:
            self._first.pop(self._cids.popitem(last=False)[0], None)
        return said(200, {"cidlist": given})

    def _wrong(self, body: dict[str, Any]) -> tuple[int, str] | None:
        """Code and text of what is wrong with a push."""
        missing = next((key for key in ("platform", "audience") if not body.get(key)), "")
        if missing or not (body.get("notification") or body.get("message")):
            return 1002, f"missing parameter: {missing or 'notification'}"
        cid = body.get("cid")
        if cid is not None and self._cids.get(str(cid), 0) <= self.clock.now_ms():
            return 1003, "cid is invalid"
        audience, notification = body["audience"], body.get("notification") or {}
        devices = audience.get("registration_id") if isinstance(audience, dict) else ["all"]
        if not isinstance(notification, dict):
            return 1003, "notification is invalid"
        words = isinstance(devices, list) and all(isinstance(one, str) and one for one in devices)
        if not words or not devices:
            return 1003, "registration_id is invalid"
        parts = [notification.get("android"), body.get("message")]
        android = sum(len(msgspec.json.encode(part)) for part in parts if part)
        if android > ANDROID_BYTES or len(msgspec.json.encode(notification.get("ios"))) > IOS_BYTES:
            return 1005, "message is too large"
        if self.dead.issuperset(devices):
            return 1011, "cannot find user by this audience"
        return None

    async def _push(self, body: dict[str, Any]) -> web.Response | None:
        cid = str(body.get("cid", ""))
        if (first := self._first.get(cid)) is not None:
            self.count("repeats")
            return said(200, first)
        audience = body["audience"]
        to = audience["registration_id"][0] if isinstance(audience, dict) else "all"
        fate = self.plan.fate(f"{to}\0{cid}".encode())
        if refusal := _refusal(fate):
            return refusal
        options = body.get("options")
        sendno = options.get("sendno", 0) if isinstance(options, dict) else 0
        id = 18_100_000_000_000 + self.counts.get("taken", 0)
        answer = {"sendno": str(sendno), "msg_id": str(id)}
        if cid:
            self._first[cid] = answer
        self.take(to, cid, body, fate)
        return await self.fated(fate, said(200, answer))


def _refusal(fate: Fate) -> web.Response | None:
    if fate.answer == "throttle":
        return _error(429, 2002, "Rate limit exceeded")
    if fate.answer == "busy":
        return _error(503, 1030, "Internal timeout")
    if fate.answer == "refuse":
        return _error(400, 1011, "cannot find user by this audience")
    return None


def _error(status: int, code: int, message: str) -> web.Response:
    return said(status, {"error": {"code": code, "message": message}})


def _fake(arguments: argparse.Namespace) -> FakeJpush:
    return FakeJpush(
        app_key=arguments.app_key,
        master_secret=arguments.master_secret,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
        a_minute=arguments.a_minute,
        vip=arguments.vip,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("jpush", "JPush's REST API v3, for trying.")
    parser.add_argument("--app-key", default="key")
    parser.add_argument("--master-secret", default="secret")
    parser.add_argument("--a-minute", type=int, default=A_MINUTE, help="calls that are taken")
    parser.add_argument("--vip", action="store_true", help="1,000 ids at once instead of 10")
    run_server(_fake, parser, argv)


if __name__ == "__main__":
    main()
