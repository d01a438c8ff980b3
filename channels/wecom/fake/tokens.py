"""Access tokens: one for each corp and secret, which expire and can be made to die early.

Source: WeCom's page 91039.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from channels.wecom.fake.limits import Gate, Window
from channels.wecom.fake.world import MINUTE_MS, App, Corp, Refused, World

KNOWN_MS: Final = 24 * 3_600_000
"""An expired token is known for so long."""


class Token(Struct):
    """A token that was given out."""

    corp: Corp
    app: App
    until_ms: int


class Tokens:
    """All tokens."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tokens: dict[str, Token] = {}
        self._current: dict[tuple[str, int], str] = {}
        self._gates: dict[tuple[str, str], Gate] = {}

    def get(self, query: dict[str, str]) -> dict[str, Any]:
        """`gettoken`. Raises Refused."""
        corp_id, secret = query.get("corpid", ""), query.get("corpsecret", "")
        if not corp_id or not secret:
            raise Refused(41002 if not corp_id else 41004)
        corp = self._world.corps.get(corp_id)
        if corp is None:
            raise Refused(40013)
        app = next((app for app in corp.apps.values() if app.scene.secret == secret), None)
        if app is None:
            raise Refused(40001)
        now_ms = self._world.clock.now_ms()
        gate = self._gates.setdefault(
            (corp_id, secret), Gate(Window(self._world.settings.gettoken_per_min, MINUTE_MS))
        )
        if not gate.take(now_ms):
            self._world.book.violated("gettoken")
            raise Refused(45009)
        return self._given(corp, app, now_ms)

    def _given(self, corp: Corp, app: App, now_ms: int) -> dict[str, Any]:
        """The same token while it lives."""
        place = (corp.id, app.scene.agent_id)
        name = self._current.get(place, "")
        token = self._tokens.get(name)
        if token is None or token.until_ms <= now_ms:
            self._forget(now_ms)
            name = self._world.new_id("faketoken") + f"{self._world.chance.getrandbits(256):064x}"
            token = Token(corp, app, now_ms + int(self._world.settings.token_s * 1_000))
            self._tokens[name] = token
            self._current[place] = name
        # Like the real one: the rest of its life in whole seconds.
        return {"access_token": name, "expires_in": (token.until_ms - now_ms) // 1_000}

    def _forget(self, now_ms: int) -> None:
        """Tokens that expired long ago are unknown (40014), no more expired (42001)."""
        old = [name for name, one in self._tokens.items() if one.until_ms < now_ms - KNOWN_MS]
        for name in old:
            del self._tokens[name]

    def owner(self, name: str) -> Token:
        """Whose token it is. Raises Refused."""
        if not name:
            raise Refused(41001)
        token = self._tokens.get(name)
        if token is None:
            raise Refused(40014)
        if token.until_ms <= self._world.clock.now_ms():
            raise Refused(42001)
        return token

    def kill(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{agent_id?}: the tokens of a corp, or of one of its applications, die early."""
        agent_id = body.get("agent_id")
        dead = [
            name
            for name, token in self._tokens.items()
            if token.corp is corp and agent_id in (None, token.app.scene.agent_id)
        ]
        for name in dead:
            del self._tokens[name]
        return {"killed": len(dead)}
