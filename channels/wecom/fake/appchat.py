"""Groups of members that an application makes: appchat/create, update, send, get.

Sources: WeCom's pages 90244 to 90248, 90454 (rates).
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from channels.wecom.fake.content import CHAT_TYPES, checked, shown
from channels.wecom.fake.limits import Day, Gate, Window, taken
from channels.wecom.fake.media import Media
from channels.wecom.fake.world import (
    HOUR_MS,
    MINUTE_MS,
    Call,
    Control,
    Corp,
    Handler,
    Refused,
    World,
)

LEAST: Final = 2
MOST: Final = 2_000
"""Members of a group."""
_CHATID = re.compile(r"[0-9a-zA-Z]{1,32}\Z")


class Chat(Struct):
    """A group."""

    id: str
    agent_id: int
    name: str
    owner: str
    members: list[str]
    visible: bool = False
    """Members see it from its first message on."""
    dissolved: bool = False


class Rates:
    """Of one corp."""

    def __init__(self, world: World) -> None:
        settings = world.settings
        self.created = Gate(Day(settings.chats_per_day))
        self.updated = Gate(Window(settings.chat_updates_per_hour, HOUR_MS))
        self.sent = Gate(
            Window(settings.group_per_min, MINUTE_MS), Window(settings.group_per_hour, HOUR_MS)
        )
        self.members: dict[str, tuple[Window, Day]] = {}
        self._settings = settings

    def member(self, userid: str) -> tuple[Window, Day]:
        """What a member may get."""
        windows = self.members.get(userid)
        if windows is None:
            settings = self._settings
            windows = (
                Window(settings.group_member_per_min, MINUTE_MS),
                Day(settings.group_member_per_day),
            )
            self.members[userid] = windows
        return windows


class AppChats:
    """All groups of members."""

    def __init__(self, world: World, media: Media) -> None:
        self._world = world
        self._media = media
        self._chats: dict[tuple[str, str], Chat] = {}
        self._rates: dict[str, Rates] = {}
        self.handlers: dict[str, Handler] = {
            "appchat/create": self.create,
            "appchat/update": self.update,
            "appchat/send": self.send,
            "appchat/get": self.get,
        }
        self.controls: dict[str, Control] = {"appchats": self.all}

    def create(self, call: Call) -> dict[str, Any]:
        """Raises Refused: 86004, 86006, 86007, 86207, 86215, 45009."""
        members = list(dict.fromkeys(call.texts("userlist", MOST + 1)))
        owner = call.text("owner", "") or next(iter(members), "")
        chatid = call.text("chatid", "") or self._world.new_id("fakechat")
        if not LEAST <= len(members) <= MOST:
            raise Refused(86006)
        if not all(call.corp.here(name) for name in members):
            raise Refused(86007)
        if owner not in members:
            raise Refused(86207)
        if not _CHATID.match(chatid):
            raise Refused(86001)
        if (call.corp.id, chatid) in self._chats:
            raise Refused(86215)
        if not self._of(call.corp).created.take(call.now_ms):
            self._world.book.violated("chats_per_day")
            raise Refused(45009)
        agent_id = call.app.scene.agent_id
        chat = Chat(chatid, agent_id, call.text("name", ""), owner, members)
        self._chats[call.corp.id, chatid] = chat
        self._world.book.count("chats_created")
        return {"chatid": chatid}

    def update(self, call: Call) -> dict[str, Any]:
        """Name, owner, members. Raises Refused: 86003, 86006, 86007, 86008, 86207, 45009."""
        chat = self._chat(call)
        adds, dels = call.texts("add_user_list", MOST), call.texts("del_user_list", MOST)
        members = [name for name in chat.members if name not in dels]
        members += [name for name in dict.fromkeys(adds) if name not in members]
        owner = call.text("owner", "") or chat.owner
        if not all(call.corp.here(name) for name in adds):
            raise Refused(86007)
        if not LEAST <= len(members) <= MOST:
            raise Refused(86006)
        if owner not in members:
            raise Refused(86207)
        if not self._of(call.corp).updated.take(call.now_ms):
            self._world.book.violated("chat_updates_per_hour")
            raise Refused(45009)
        chat.name = call.text("name", "") or chat.name
        chat.owner, chat.members = owner, members
        return {}

    def send(self, call: Call) -> dict[str, Any]:
        """To all members; beyond their limits it is dropped in silence."""
        chat = self._chat(call)
        kind, said = checked(call, CHAT_TYPES, self._media)
        rates = self._of(call.corp)
        here = [name for name in chat.members if call.corp.here(name)]
        if not rates.sent.take(call.now_ms, len(here)):
            self._world.book.violated("group_person_times")
            raise Refused(45009)
        chat.visible = True
        dropped = sum(not taken(rates.member(name), call.now_ms) for name in here)
        if dropped:
            self._world.book.violated("group_member", dropped)
        fact = {"agent": chat.agent_id, "members": len(here) - dropped}
        self._world.book.took("appchat", chat.id, call.corp.id, **fact, **shown(kind, said))
        return {}

    def get(self, call: Call) -> dict[str, Any]:
        """What it is."""
        chat = self._chat(call)
        return {
            "chat_info": {
                "chatid": chat.id,
                "name": chat.name,
                "owner": chat.owner,
                "userlist": chat.members,
                "chat_type": 0,
            }
        }

    def dissolve(self, corp: Corp, chatid: str) -> bool:
        """The members dissolve it in the client. Whether there was one."""
        chat = self._chats.get((corp.id, chatid))
        if chat is None:
            return False
        chat.dissolved = True
        return True

    def all(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{}: the groups as members see them: those without a message are not there."""
        return {
            chat.id: {"name": chat.name, "owner": chat.owner, "userlist": chat.members}
            for (corp_id, _), chat in self._chats.items()
            if corp_id == corp.id and chat.visible and not chat.dissolved
        }

    def _chat(self, call: Call) -> Chat:
        chat = self._chats.get((call.corp.id, call.text("chatid")))
        if chat is None or chat.dissolved:
            raise Refused(86003)
        if chat.agent_id != call.app.scene.agent_id:
            raise Refused(86008)
        return chat

    def _of(self, corp: Corp) -> Rates:
        if corp.id not in self._rates:
            self._rates[corp.id] = Rates(self._world)
        return self._rates[corp.id]
