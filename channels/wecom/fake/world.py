"""The state of the fake: corps, their applications, members and customers; and a call of an API.

Everything that happens is synchronous: a call is answered, or an event takes place, in one piece.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from xxhash import xxh3_64_intdigest

from channels.sms.fake.faults import Fate, Recorder
from channels.wecom.fake.book import Book
from channels.wecom.fake.limits import Day, Gate, Window
from channels.wecom.fake.settings import AppScene, Scene, Settings
from channels.wecom.fake.timers import MovableClock, Timers

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000


class Refused(Exception):
    """A call is answered with an errcode. `more` goes into the answer beside it."""

    def __init__(self, errcode: int, **more: Any) -> None:
        super().__init__(f"errcode {errcode}")
        self.errcode = errcode
        self.more = more


class Follow(Struct):
    """A member serves a customer."""

    at_ms: int
    state: str = ""
    add_way: int = 1
    lost: bool = False
    """She has deleted the member, who still sees her in the list."""


class Contact(Struct):
    """A customer."""

    id: str
    follows: dict[str, Follow] = field(default_factory=dict)


class Member(Struct):
    """A member of a corp."""

    id: str
    left_ms: int = 0
    """0: still here."""
    licensed: bool = True


class App:
    """An application, and what of its limits is used up."""

    def __init__(self, scene: AppScene, settings: Settings) -> None:
        self.scene = scene
        self.day = Gate(Day(200 * settings.account_cap))
        self.members: dict[str, tuple[Window, Window]] = {}
        """What each member has got of it lately."""


class Corp:
    """A corp."""

    def __init__(self, id: str, apps: list[App], members: tuple[str, ...]) -> None:
        self.id = id
        self.apps = {app.scene.agent_id: app for app in apps}
        self.members = {name: Member(name) for name in members}
        self.contacts: dict[str, Contact] = {}

    def app(self, body: dict[str, Any]) -> App:
        """The application that a control names by its agent_id, else the first. Raises KeyError."""
        return self.apps[body["agent_id"]] if "agent_id" in body else next(iter(self.apps.values()))

    def here(self, userid: str) -> bool:
        """Whether there is such a member, who has not left."""
        member = self.members.get(userid)
        return member is not None and not member.left_ms


Post = Callable[[Corp, App, dict[str, object]], None]


class World:
    """All corps, and what they share."""

    def __init__(
        self, scene: Scene, settings: Settings, seed: int, clock: MovableClock, recorder: Recorder
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.seed = seed
        self.chance = random.Random(seed)
        self.timers = Timers(clock)
        self.book = Book(clock, recorder)
        self.corps: dict[str, Corp] = {}
        self.post: Post = lambda corp, app, fields: None
        """Sends a callback."""
        self._numbers = 0
        for one in scene.corps:
            corp = Corp(one.corp_id, [App(app, settings) for app in one.apps], one.members)
            self.corps[corp.id] = corp
            for customer, members in one.customers.items():
                follows = {name: Follow(0) for name in members}
                corp.contacts[customer] = Contact(customer, follows)

    def new_id(self, prefix: str) -> str:
        """An id that is new, and the same in every run."""
        self._numbers += 1
        return f"{prefix}{self._numbers:010}"

    def draw(self, *about: str) -> float:
        """A number from 0 to below 1 for these words, the same in every run."""
        return xxh3_64_intdigest("\0".join(about).encode(), self.seed) / float(1 << 64)

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Let it happen."""
        self.timers.at(self.clock.now_ms() + int(seconds * 1_000), act)

    def tell(self, corp: Corp, permission: str, event: str, **fields: object) -> None:
        """An event for every application of the corp that may know of it."""
        for app in corp.apps.values():
            if permission in app.scene.permissions:
                self.tell_app(corp, app, event, **fields)

    def tell_app(self, corp: Corp, app: App, event: str, **fields: object) -> None:
        """An event for one application."""
        head: dict[str, object] = {
            "ToUserName": corp.id,
            "FromUserName": "sys",
            "CreateTime": self.clock.now_ms() // 1_000,
            "MsgType": "event",
            "Event": event,
        }
        self.post(corp, app, head | fields)


class Call(Struct):
    """A call of an API by an application."""

    corp: Corp
    app: App
    api: str
    now_ms: int
    body: dict[str, Any]
    """Of a POST; of a GET its query."""
    fate: Fate

    def text(self, name: str, default: str | None = None) -> str:
        """A field that is text. Raises Refused(40058) when it is none, or is missing without a
        default."""
        value = self.body.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or (default is None and not value):
            raise Refused(40058)
        return value

    def texts(self, name: str, most: int, least: int = 0) -> list[str]:
        """A field that is a list of texts. Raises Refused(40058)."""
        return texts(self.body, name, most, least)

    def fields(self, *names: str) -> dict[str, Any]:
        """An object in objects; {} when it is missing. Raises Refused(40058)."""
        fields = self.body
        for name in names:
            value = fields.get(name)
            if value is not None and not isinstance(value, dict):
                raise Refused(40058)
            fields = value or {}
        return fields

    def number(self, name: str, default: int | None = None) -> int:
        """A field that is a whole number, also as text. Raises Refused(40058)."""
        value = self.body.get(name)
        value = default if value is None else value
        try:
            return msgspec.convert(value, int, strict=False)
        except msgspec.ValidationError:
            raise Refused(40058) from None

    def limit(self, default: int, most: int) -> int:
        """The size of a page; what is larger than `most` becomes it."""
        limit = self.number("limit", default) or default
        if limit < 0:
            raise Refused(40058)
        return min(limit, most)


def texts(fields: dict[str, Any], name: str, most: int, least: int = 0) -> list[str]:
    """One of the fields, a list of texts; [] when it is missing. Raises Refused(40058)."""
    value = fields.get(name) or []
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise Refused(40058)
    if not all(isinstance(one, str) for one in value):
        raise Refused(40058)
    return value


Handler = Callable[[Call], dict[str, Any]]
Control = Callable[[Corp, dict[str, Any]], dict[str, Any] | None]


def page(items: list[Any], cursor: str, limit: int) -> tuple[list[Any], str]:
    """A page of a list, and the cursor of the next one, "" when it was the last."""
    try:
        start = int(cursor.removeprefix("p") or 0)
    except ValueError:
        raise Refused(40058) from None
    if start < 0:
        raise Refused(40058)
    end = start + limit
    return items[start:end], f"p{end}" if end < len(items) else ""
