"""Make things happen in the fake, and ask what it has seen: POST /fake/<name>, GET /fake/record;
GET /fake/ tells all names.

A body is a JSON object. `corp_id` may be left out: then it is the first corp.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from channels.wecom.fake.areas import Areas
from channels.wecom.fake.callbacks import Poster
from channels.wecom.fake.tokens import Tokens
from channels.wecom.fake.trouble import Trouble, Troubles
from channels.wecom.fake.world import Control, Corp, Refused, World
from hub.errors import TactError


class FakeError(TactError):
    """What the fake was asked to do cannot be done."""

    code = "wecom-fake"


class Controls:
    """The control interface."""

    def __init__(self, world: World, areas: Areas, tokens: Tokens, troubles: Troubles) -> None:
        self._world = world
        self._troubles = troubles
        self._poster = Poster(world)
        self._controls: dict[str, Control] = {
            "kill-token": tokens.kill,
            "fault": self._fault,
            "clear-faults": self._clear_faults,
            "event": self._event,
            "repeat": self._repeat,
            "advance": self._advance,
            **areas.controls,
        }
        self._slow: dict[str, Callable[[Corp, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "callback-url": self._callback_url,
        }

    def start(self) -> None:
        """Callbacks are sent from now on."""
        self._poster.start()

    async def stop(self) -> None:
        """No more callbacks."""
        await self._poster.stop()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A request."""
        name = request.match_info["name"]
        if name == "record":
            since, limit = request.query.get("since", "0"), request.query.get("limit", "10000")
            if not (since.isdecimal() and limit.isdecimal()):
                return _json({"error": "since and limit must be numbers"}, 400)
            return _json(self._world.book.told(int(since), int(limit)))
        if not name:
            return _json(self.help())
        if request.method != "POST":
            return _json({"error": "use POST"}, 405)
        try:
            raw = await request.read() or b"{}"
            return _json(await self.do(name, msgspec.json.decode(raw, type=dict[str, Any])))
        except msgspec.MsgspecError as error:
            return _json({"error": f"not understood: {error}"}, 400)
        except FakeError as error:
            return _json({"error": error.message}, 400)

    def help(self) -> dict[str, str]:
        """What can be made to happen, and the fields of each."""
        known = {**self._controls, **self._slow}
        return {name: " ".join((known[name].__doc__ or "").split()) for name in sorted(known)}

    async def do(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make something happen. Raises FakeError."""
        self._world.timers.settle()
        corps = self._world.corps
        corp = corps.get(body["corp_id"]) if "corp_id" in body else next(iter(corps.values()), None)
        if corp is None:
            raise FakeError("there is no such corp")
        try:
            if name in self._slow:
                return await self._slow[name](corp, body)
            if name not in self._controls:
                known = ", ".join(sorted([*self._controls, *self._slow]))
                raise FakeError(f"nothing is named {name!r}; there are {known}")
            told = self._controls[name](corp, body)
        except (KeyError, StopIteration, TypeError, ValueError) as error:
            raise FakeError(f"{name}: missing or unknown: {error}") from error
        except Refused as refused:
            raise FakeError(f"{name}: errcode {refused.errcode}") from refused
        self._world.timers.moved()
        return told or {}

    # ---- what belongs to no area -----------------------------------------------------------------

    def _fault(self, corp: Corp, body: dict[str, Any]) -> None:
        """{api?, kind?: errcode | html | http500 | hang | cut | slow | cursor_back, errcode?,
        seconds?, times?, share?, taken?, delay_s?}: calls of an API (all but gettoken if none is
        named) go wrong for a while."""
        trouble = msgspec.convert({k: v for k, v in body.items() if k != "corp_id"}, Trouble)
        self._troubles.add(trouble, self._world.clock.now_ms())

    def _clear_faults(self, corp: Corp, body: dict[str, Any]) -> None:
        """{}: all faults end."""
        self._troubles.clear()

    def _advance(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{seconds}: put the clock forward; what was due meanwhile happens."""
        self._world.clock.advance(float(body["seconds"]))
        return {"now_ms": self._world.clock.now_ms()}

    def _event(self, corp: Corp, body: dict[str, Any]) -> None:
        """{event, fields?, agent_id?}: any event, also of a type that nobody knows."""
        app = corp.app(body)
        self._world.tell_app(corp, app, body["event"], **body.get("fields", {}))

    def _repeat(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{do, rate, seconds, customers?, body?}: something happens `rate` times a second, to
        c1, c2, … up to `customers` (100) of them in turn."""
        act, rate = self._controls[body["do"]], float(body["rate"])
        number, customers = int(rate * float(body["seconds"])), int(body.get("customers", 100))
        begun_ms = self._world.clock.now_ms()

        def next_one(done: int) -> None:
            act(corp, {"external_userid": f"c{done % customers + 1}", **body.get("body", {})})
            if done + 1 < number:
                at_ms = begun_ms + int((done + 1) * 1_000 / rate)
                self._world.timers.at(at_ms, partial(next_one, done + 1))

        if number > 0:
            next_one(0)
        return {"number": number}

    async def _callback_url(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{url, token?, key?, agent_id?, verify?}: where callbacks go from now on. With `verify`
        the URL must prove itself first, as in the console, and is else left as it was."""
        app = corp.app(body)
        scene = app.scene
        before = (scene.callback_url, scene.callback_token, scene.callback_key)
        scene.callback_url = body["url"]
        scene.callback_token = body.get("token", scene.callback_token)
        scene.callback_key = body.get("key", scene.callback_key)
        verified = await self._poster.verify(corp, app) if body.get("verify") else None
        if verified is False:
            scene.callback_url, scene.callback_token, scene.callback_key = before
        return {"verified": verified}


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )
