"""The fake WeCom over HTTP: /cgi-bin/… as the real one, /fake/… to make things happen.

Sources: WeCom's pages 91039, 90455 (errcodes), 90454 (rates).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from aiohttp import web

from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import FakeServer
from channels.wecom.fake.areas import Areas
from channels.wecom.fake.control import Controls
from channels.wecom.fake.limits import Gate, Window
from channels.wecom.fake.media import Media
from channels.wecom.fake.settings import Scene, Settings, Size, made_up
from channels.wecom.fake.timers import MovableClock
from channels.wecom.fake.tokens import Token, Tokens
from channels.wecom.fake.trouble import Trouble, Troubles
from channels.wecom.fake.world import HOUR_MS, MINUTE_MS, Call, Refused, World
from hub.clock import Clock

BODY_BYTES: Final = 20 * 1_024 * 1_024
"""Of one request: the largest file that may be uploaded."""
HANG_S: Final = 3_600.0
CURSOR_BACK: Final = 50
"""So many messages a cursor goes back when it is bidden to."""
GATES: Final = 100_000
"""Addresses and APIs whose rates are known; forgotten all at once."""

GETS: Final = frozenset(
    [
        "gettoken",
        "appchat/get",
        "user/get",
        "media/get",
        "externalcontact/get",
        "externalcontact/list",
        "externalcontact/get_follow_user_list",
        "externalcontact/get_moment_task_result",
        "kf/servicer/list",
    ]
)
EITHER: Final = frozenset({"kf/account/list"})
NOT_RATED: Final = frozenset({"message/send"})
"""Has limits of its own instead."""
_NEEDS: Final = {"kf": "kf", "externalcontact": "contact", "appchat": "appchat"}
UPLOAD: Final = "media/upload"


class FakeWecom(FakeServer):
    """WeCom."""

    def __init__(
        self,
        scene: Scene | None = None,
        settings: Settings | None = None,
        *,
        seed: int = 0,
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(plan or Plan(seed), recorder)
        self.scene = scene or made_up(Size())
        self.settings = settings or Settings()
        self.clock = MovableClock(clock)
        self.troubles = Troubles()
        self.world = World(self.scene, self.settings, seed, self.clock, self.recorder)
        self.counts = self.world.book.counts
        self._tokens = Tokens(self.world)
        self._media = Media(self.world)
        self._areas = Areas(self.world, self.scene, self._media)
        self.handlers = self._areas.handlers
        self.apis = frozenset({"gettoken", "media/get", UPLOAD, *self.handlers})
        """What it answers."""
        self._controls = Controls(self.world, self._areas, self._tokens, self.troubles)
        self._rates: dict[tuple[str, str], Gate] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; gives the URL. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/cgi-bin/{api:.*}", self._handle)
        app.router.add_route("*", "/fake/{name:.*}", self._controls.handle)
        await self._listen(app, host, port)
        self.world.timers.start()
        self._controls.start()
        return self.url

    async def stop(self) -> None:
        """End, with all callbacks."""
        self.world.timers.stop()
        await self._controls.stop()
        await super().stop()

    async def hear(self, line: bytes) -> None:
        """A line of standard input: `{"do": "customer-writes", …}`. Raises MsgspecError,
        FakeError."""
        body = msgspec.json.decode(line, type=dict[str, Any])
        await self.do(str(body.pop("do", "")), **body)

    async def do(self, name: str, /, **body: Any) -> dict[str, Any]:
        """What POST /fake/<name> does. Raises FakeError."""
        return await self._controls.do(name, body)

    def help(self) -> dict[str, str]:
        """What GET /fake/ says."""
        return self._controls.help()

    def record(self) -> dict[str, Any]:
        """What GET /fake/record says."""
        return self.world.book.told()

    # ---- a call ----------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        api = request.match_info["api"]
        self.world.timers.settle()
        now_ms = self.clock.now_ms()
        trouble = self.troubles.of(api, now_ms, self.world.chance)
        if (
            trouble is not None
            and not trouble.taken
            and trouble.kind not in ("slow", "cursor_back")
        ):
            self.world.book.called(api, trouble.errcode if trouble.kind == "errcode" else 0)
            return await self._troubled(request, trouble)
        raw = await request.read() if api != UPLOAD else b""
        fate = self.plan.fate(api.encode() + b"\0" + raw)
        answer = await self._fated(request, api, raw, fate)
        if trouble is not None:
            if trouble.kind == "cursor_back" and isinstance(answer, dict):
                self._turn_back(answer, raw)
            elif trouble.kind != "cursor_back":
                return await self._troubled(request, trouble, answer)
        if fate.answer in ("lose", "cut"):
            return await self._silent(request, fate.answer == "cut")
        return answer if isinstance(answer, web.StreamResponse) else _json(answer)

    async def _fated(
        self, request: web.Request, api: str, raw: bytes, fate: Fate
    ) -> dict[str, Any] | web.StreamResponse:
        if fate.latency_ms:
            await asyncio.sleep(fate.latency_ms / 1_000)
        answer: dict[str, Any] | web.StreamResponse
        try:
            if fate.answer == "throttle":
                raise Refused(45033)
            if fate.answer == "busy":
                raise Refused(-1)
            if fate.answer == "refuse":
                raise Refused(85002)
            answer = await self._answer(request, api, raw, fate)
        except Refused as refused:
            self.world.book.called(api, refused.errcode)
            return {"errcode": refused.errcode, "errmsg": _message(refused.errcode), **refused.more}
        self.world.book.called(api, 0)
        if isinstance(answer, web.StreamResponse):
            return answer
        return {"errcode": 0, "errmsg": "ok", **answer}

    async def _answer(
        self, request: web.Request, api: str, raw: bytes, fate: Fate
    ) -> dict[str, Any] | web.StreamResponse:
        """Raises Refused."""
        query = dict(request.query)
        if api not in EITHER and (api in GETS) != (request.method == "GET"):
            raise Refused(43001 if api in GETS else 43002)
        if api == "gettoken":
            return self._tokens.get(query)
        token = self._tokens.owner(query.pop("access_token", ""))
        now_ms = self.clock.now_ms()
        if api not in NOT_RATED:
            self._rated(api, token, request.remote or "", now_ms)
        needed = _NEEDS.get(api.partition("/")[0])
        if needed is not None and needed not in token.app.scene.permissions:
            raise Refused(48002)
        if api == UPLOAD:
            return await self._upload(request, token)
        if api == "media/get":
            file = self._media.get(token.corp, query.get("media_id", ""))
            headers = {"content-disposition": f'attachment; filename="{file.name}"'}
            return web.Response(body=file.content, headers=headers)
        handler = self.handlers.get(api)
        if handler is None:
            raise Refused(40066)
        body = _decoded(raw) if raw else dict[str, Any](query)
        return handler(Call(token.corp, token.app, api, now_ms, body, fate))

    def _rated(self, api: str, token: Token, remote: str, now_ms: int) -> None:
        settings = self.settings
        if len(self._rates) > GATES:
            self._rates.clear()
        for who, what, per_min, per_hour in (
            (token.corp.id, "api_corp", settings.api_per_min, settings.api_per_hour),
            (f"ip {remote}", "api_ip", settings.ip_per_min, settings.ip_per_hour),
        ):
            gate = self._rates.get((who, api))
            if gate is None:
                gate = Gate(Window(per_min, MINUTE_MS), Window(per_hour, HOUR_MS))
                self._rates[who, api] = gate
            if not gate.take(now_ms):
                self.world.book.violated(what)
                raise Refused(45009)

    async def _upload(self, request: web.Request, token: Token) -> dict[str, Any]:
        if not request.content_type.startswith("multipart/"):
            raise Refused(41005)
        fields = await request.post()
        part = next((one for one in fields.values() if isinstance(one, web.FileField)), None)
        if part is None:
            raise Refused(41005)
        kind = request.query.get("type", "")
        return self._media.upload(token.corp, kind, part.filename, part.file.read())

    # ---- trouble ---------------------------------------------------------------------------------

    async def _troubled(
        self,
        request: web.Request,
        trouble: Trouble,
        answer: dict[str, Any] | web.StreamResponse | None = None,
    ) -> web.StreamResponse:
        self.world.book.count(f"trouble_{trouble.kind}")
        match trouble.kind:
            case "html":
                page = "<html><head><title>502</title></head><body>Bad Gateway</body></html>"
                return web.Response(text=page, content_type="text/html")
            case "http500":
                return web.Response(status=500, text="Internal Server Error")
            case "hang" | "cut":
                return await self._silent(request, trouble.kind == "cut")
            case "slow":
                await asyncio.sleep(trouble.delay_s)
                return answer if isinstance(answer, web.StreamResponse) else _json(answer or {})
        return _json({"errcode": trouble.errcode, "errmsg": _message(trouble.errcode)})

    async def _silent(self, request: web.Request, cut: bool) -> web.StreamResponse:
        if not cut:
            await asyncio.sleep(HANG_S)  # until the other side gives up
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def _turn_back(self, answer: dict[str, Any], raw: bytes) -> None:
        """Give a cursor that lies before the one that was asked with."""
        if "next_cursor" in answer and "msg_list" in answer:
            body = _decoded(raw)
            for kf in self._areas.kf.corps.values():
                cursor, account = answer["next_cursor"], str(body.get("open_kfid", ""))
                if account in kf.accounts:
                    answer["next_cursor"] = kf.log.back(account, cursor, CURSOR_BACK)
                    self.world.book.count("trouble_cursor_back")
                    return


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        raise Refused(47001) from None


def _json(answer: dict[str, Any]) -> web.Response:
    body = msgspec.json.encode(answer)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _message(errcode: int) -> str:
    """Like the real one: a sentence that is not to be relied on, with a hint's number in it."""
    return f"fake says {errcode}, hint: [1795000000000000000000000], from ip: 127.0.0.1"
