"""Orders about groups of members, checked: what `appchat/create` and `appchat/update` are given.

An internal group is made, and may be changed, by one application only, which must be visible to the
whole corp. WeCom has no call that dissolves one: its members are removed, and it is closed here.

Sources: WeCom's pages 90245 (create), 98913 (update), 90247 (get).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Struct

from channels.provider import NOTE_BYTES, Unsendable

MEMBERS_MIN: Final = 2
MEMBERS_MAX: Final = 2_000
NAME_CHARS: Final = 50
CHANGED_MAX: Final = 2_000
"""Members added or removed by one update: as many as a group has."""
CLOSED_NOTES: Final = 64
"""Notes that keep which groups are closed. Each holds at least 900 of them."""

USERID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@.-]{0,63}\Z")
"""A member. Never `@all` nor several with `|` between: those would reach others."""
CHAT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_OWN_CHAT_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
"""What WeCom takes for a group that we make."""


class ForGroup(Struct, frozen=True):
    """What one group is given. It goes by itself, whatever its content."""

    chat: str
    body: dict[str, Any]

    @property
    def recipient(self) -> str:
        return f"~{self.chat}"

    @property
    def key(self) -> bytes:
        return b""


class GroupMessage(ForGroup, frozen=True):
    """One message."""

    def __repr__(self) -> str:
        return f"GroupMessage({self.body.get('msgtype')!r})"


class GroupOrder(ForGroup, frozen=True):
    """What is to be done to it: the call beside what it is given."""

    api: str
    """appchat/create, appchat/update; "" to dissolve it."""

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice is doing it once. Removing somebody who is gone is refused."""
        return "del_user_list" not in self.body

    def __repr__(self) -> str:
        return f"GroupOrder({self.api or 'dissolve'!r})"


class _Create(Struct, kw_only=True):
    members: list[str]
    name: str | None = None
    owner: str | None = None


class _Update(Struct, kw_only=True):
    name: str | None = None
    owner: str | None = None
    add: list[str] | None = None
    remove: list[str] | None = None


def group_order(content: Mapping[str, Any], chat: str) -> GroupOrder:
    """The order that a delivery's content is, for the group of this id. Raises Unsendable."""
    op = content.get("op")
    if op == "group.create":
        return GroupOrder(chat, _created(_read(content, _Create), chat), "appchat/create")
    if op == "group.update":
        return GroupOrder(chat, _updated(_read(content, _Update), chat), "appchat/update")
    if op == "group.invite" and "members" in content:
        add = _Update(add=_read(content, _Create).members)
        return GroupOrder(chat, _updated(add, chat), "appchat/update")
    if op == "group.invite":
        _refuse("an internal group has no way to join: add members by group.update")
    if op != "group.dissolve":
        _refuse("a wecom-app account knows group.create, .update, .dissolve and .invite")
    return GroupOrder(chat, {}, "")


def closing(chat: str, members: Mapping[str, Any], keep: int) -> dict[str, Any] | None:
    """The update that empties a group: all are removed but `keep`, of whom the owner is one, who
    cannot be removed without another in his place. `members` is what appchat/get says; None: there
    is nobody to remove."""
    info = members.get("chat_info")
    if not isinstance(info, Mapping):
        return None
    listed = info.get("userlist")
    users = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    owner = info.get("owner")
    users.sort(key=lambda one: one != owner)  # the others keep their order
    removed = users[keep:]
    return {"chatid": chat, "del_user_list": removed} if removed else None


def _refuse(problem: str) -> NoReturn:
    raise Unsendable(problem, failure="rejected_content", code="group-order")


def _read(content: Mapping[str, Any], kind: type[Any]) -> Any:
    # What else the command has (its account, …) is not for WeCom.
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise Unsendable(
            f"the order must have, of the right type: {fields}",
            failure="rejected_content",
            code="group-order",
        ) from None


def _created(order: _Create, chat: str) -> dict[str, Any]:
    if _OWN_CHAT_ID.match(chat) is None:
        _refuse("the key of a group to be made: ~ and 1 to 32 of 0-9 A-Z a-z")
    owner = [] if order.owner is None else [order.owner]
    users = _members([*owner, *order.members], "members")
    if not MEMBERS_MIN <= len(users) <= MEMBERS_MAX:
        _refuse(f"a group has {MEMBERS_MIN} to {MEMBERS_MAX} members, its owner among them")
    body: dict[str, Any] = {"chatid": chat, "userlist": users}
    if order.name is not None:
        body["name"] = _name(order.name)
    if owner:
        body["owner"] = users[0]
    return body


def _updated(order: _Update, chat: str) -> dict[str, Any]:
    body: dict[str, Any] = {"chatid": chat}
    if order.name is not None:
        body["name"] = _name(order.name)
    if order.owner is not None:
        body["owner"] = _members([order.owner], "owner")[0]
    for field, users in (("add_user_list", order.add), ("del_user_list", order.remove)):
        if users:
            body[field] = _members(users, "add and remove")
            if len(body[field]) > CHANGED_MAX:
                _refuse(f"at most {CHANGED_MAX} members are added or removed at once")
    if len(body) == 1:
        _refuse("the update changes nothing: give name, owner, add or remove")
    return body


def _members(users: Iterable[str], what: str) -> list[str]:
    """Each once, whatever its case: WeCom knows a userid in any."""
    once: dict[str, str] = {}
    for one in users:
        if USERID.match(one) is None:
            _refuse(f"{what}: a userid is 1 to 64 of A-Z a-z 0-9 _ - @ . and begins with the first")
        once.setdefault(one.lower(), one)
    return list(once.values())


def _name(name: str) -> str:
    if not name.strip() or len(name) > NAME_CHARS:
        _refuse(f"name: 1 to {NAME_CHARS} characters")
    return name


class ClosedGroups:
    """The groups that were dissolved, as the account's notes keep them; the oldest of one note are
    forgotten when it is full."""

    def __init__(self, notes: Mapping[str, bytes]) -> None:
        self._notes: dict[str, dict[str, None]] = {}
        for key, value in notes.items():
            if key.startswith("closed/"):
                names = value.decode("ascii", "ignore").split()
                self._notes[key] = dict.fromkeys(names)

    def __contains__(self, chat: str) -> bool:
        return chat in self._notes.get(_note_of(chat), ())

    def add(self, chat: str) -> dict[str, bytes]:
        """It is closed; returns the note that says so."""
        key = _note_of(chat)
        names = self._notes.setdefault(key, {})
        names[chat] = None
        while sum(len(name) + 1 for name in names) > NOTE_BYTES:
            del names[next(iter(names))]
        return {key: " ".join(names).encode()}

    def discard(self, chat: str) -> None:
        """It could not be noted."""
        self._notes.get(_note_of(chat), {}).pop(chat, None)


def _note_of(chat: str) -> str:
    return f"closed/{zlib.crc32(chat.encode()) % CLOSED_NOTES:02}"
