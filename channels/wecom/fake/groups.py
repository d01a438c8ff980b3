"""Groups of customers, which only people make: lists, join ways, transfers; and what happens.

Sources: WeCom's pages 92120, 92122 (list, get), 92229 (join ways), 92127, 95703 (transfers), 92130
(events).
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, field

from channels.wecom.fake.appchat import AppChats
from channels.wecom.fake.limits import Day, Window
from channels.wecom.fake.world import Call, Control, Corp, Handler, Refused, World, page, texts

LISTED: Final = 1_000
OWNERS: Final = 100
WAY_CHATS: Final = 5
TRANSFERRED: Final = 100
TWICE_MS: Final = 90 * 24 * 3_600_000
"""A group goes over to another owner who is here at most twice in this time."""


class Group(Struct):
    """A group."""

    id: str
    corp: str
    owner: str
    name: str
    made_ms: int
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    notice: str = ""
    dismissed: bool = False
    version: int = 0
    transfers: Window = field(default_factory=lambda: Window(2, TWICE_MS))


class Groups:
    """All groups of customers."""

    def __init__(self, world: World, chats: AppChats) -> None:
        self._world = world
        self._chats = chats
        self._groups: dict[str, Group] = {}
        self._ways: dict[str, dict[str, Any]] = {}
        self._onjob: dict[tuple[str, str], Day] = {}
        prefix = "externalcontact/groupchat"
        self.handlers: dict[str, Handler] = {
            f"{prefix}/list": self.listed,
            f"{prefix}/get": self.get,
            f"{prefix}/add_join_way": self.add_way,
            f"{prefix}/get_join_way": self.get_way,
            f"{prefix}/transfer": self.transfer,
            f"{prefix}/onjob_transfer": self.transfer_onjob,
        }
        self.controls: dict[str, Control] = {
            "create-group": self.create,
            "join-group": self.join,
            "leave-group": self.leave,
            "change-group": self.change,
            "dismiss-group": self.dismiss,
        }

    def owned(self, corp: Corp, owner: str) -> list[str]:
        """The groups of a member."""
        return [one.id for one in self._of(corp) if one.owner == owner]

    # ---- the API -------------------------------------------------------------------------------

    def listed(self, call: Call) -> dict[str, Any]:
        """All groups, or those of some owners."""
        wanted = texts(call.fields("owner_filter"), "userid_list", OWNERS)
        groups = [one for one in self._of(call.corp) if not wanted or one.owner in wanted]
        if left := call.number("status_filter", 0):
            groups = [one for one in groups if (not call.corp.here(one.owner)) == (left == 1)]
        some, cursor = page(groups, call.text("cursor", ""), call.limit(LISTED, LISTED))
        chats = [
            {"chat_id": one.id, "status": 0 if call.corp.here(one.owner) else 1} for one in some
        ]
        return {"group_chat_list": chats, "next_cursor": cursor}

    def get(self, call: Call) -> dict[str, Any]:
        """One group."""
        group = self._group(call.corp, call.text("chat_id"))
        return {
            "group_chat": {
                "chat_id": group.id,
                "name": group.name,
                "owner": group.owner,
                "create_time": group.made_ms // 1_000,
                "notice": group.notice,
                "member_list": list(group.members.values()),
                "admin_list": [],
                "member_version": f"v{group.version}",
            }
        }

    def add_way(self, call: Call) -> dict[str, Any]:
        """A code to join by; with auto_create_room a new group is made when those are full."""
        if call.number("scene") not in (1, 2):
            raise Refused(40058)
        chats = call.texts("chat_id_list", WAY_CHATS, 1)
        for chat_id in chats:
            self._group(call.corp, chat_id)
        config_id = self._world.new_id("fakeway")
        self._ways[config_id] = {
            "config_id": config_id,
            "scene": call.number("scene"),
            "remark": call.text("remark", ""),
            "auto_create_room": call.number("auto_create_room", 1),
            "room_base_name": call.text("room_base_name", ""),
            "room_base_id": call.number("room_base_id", 1),
            "chat_id_list": list(chats),
            "qr_code": f"https://work.weixin.qq.com/gm/{config_id}",
            "state": call.text("state", ""),
        }
        return {"config_id": config_id}

    def get_way(self, call: Call) -> dict[str, Any]:
        """One of them."""
        return {"join_way": self._way(call)}

    def transfer(self, call: Call) -> dict[str, Any]:
        """Groups whose owners left."""
        return self._transfer(call, onjob=False)

    def transfer_onjob(self, call: Call) -> dict[str, Any]:
        """Groups whose owners are here: not often."""
        return self._transfer(call, onjob=True)

    def _transfer(self, call: Call, *, onjob: bool) -> dict[str, Any]:
        new_owner = call.text("new_owner")
        if not call.corp.here(new_owner):
            raise Refused(60111)
        failed = []
        for chat_id in call.texts("chat_id_list", TRANSFERRED, 1):
            errcode = self._refusal(call, chat_id, new_owner, onjob=onjob)
            if errcode:
                failed.append({"chat_id": chat_id, "errcode": errcode, "errmsg": ""})
            else:
                self._change(call.corp, self._groups[chat_id], "change_owner", owner=new_owner)
        return {"failed_chat_list": failed}

    def _refusal(self, call: Call, chat_id: str, new_owner: str, *, onjob: bool) -> int:
        group = self._groups.get(chat_id)
        if group is None or group.corp != call.corp.id or group.dismissed:
            return 86003
        if group.owner == new_owner:
            return 90501
        if onjob != call.corp.here(group.owner):
            return 90500
        if not onjob:
            return 0
        settings = self._world.settings
        day = self._onjob.setdefault(
            (call.corp.id, group.owner), Day(settings.onjob_transfers_per_day)
        )
        room, of_group = day.room(call.now_ms), group.transfers.room(call.now_ms)
        if room == 0 or of_group == 0:
            self._world.book.violated("group_transfers")
            return 90507
        day.add(call.now_ms)
        group.transfers.add(call.now_ms)
        return 0

    def _group(self, corp: Corp, chat_id: str) -> Group:
        group = self._groups.get(chat_id)
        if group is None or group.corp != corp.id or group.dismissed:
            raise Refused(86003)
        return group

    def _way(self, call: Call) -> dict[str, Any]:
        way = self._ways.get(call.text("config_id"))
        if way is None:
            raise Refused(40058)
        return way

    def _of(self, corp: Corp) -> list[Group]:
        return [one for one in self._groups.values() if one.corp == corp.id and not one.dismissed]

    # ---- what happens --------------------------------------------------------------------------

    def create(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{owner, name?, members?}: a member makes a group in the client."""
        group = self._made(corp, corp.members[body["owner"]].id, body.get("name", ""))
        for name in body.get("members", []):
            self._enter(corp, group, name, scene=0)
        return {"chat_id": group.id}

    def join(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{external_userid, config_id | chat_id}: a customer comes in."""
        if "config_id" in body:
            group = self._roomy(corp, self._ways[body["config_id"]])
        else:
            group = self._groups[body["chat_id"]]
        self._enter(corp, group, body["external_userid"], scene=3)
        return {"chat_id": group.id}

    def leave(self, corp: Corp, body: dict[str, Any]) -> None:
        """{external_userid, chat_id}: a customer goes."""
        group = self._groups[body["chat_id"]]
        del group.members[body["external_userid"]]
        self._changed(corp, group, "del_member", [body["external_userid"]], QuitScene=0)

    def change(self, corp: Corp, body: dict[str, Any]) -> None:
        """{chat_id, name | owner | notice}: in the client."""
        group = self._groups[body["chat_id"]]
        for what in ("name", "owner", "notice"):
            if what in body:
                self._change(corp, group, f"change_{what}", **{what: body[what]})

    def dismiss(self, corp: Corp, body: dict[str, Any]) -> None:
        """{chat_id}: a group of customers, or of members, is dissolved in the client."""
        if self._chats.dissolve(corp, body["chat_id"]):
            return
        group = self._groups[body["chat_id"]]
        group.dismissed = True
        self._told(corp, group, "dismiss")

    def _made(self, corp: Corp, owner: str, name: str) -> Group:
        now_ms = self._world.clock.now_ms()
        group = Group(self._world.new_id("wrfake"), corp.id, owner, name, now_ms)
        group.members[owner] = {"userid": owner, "type": 1, "join_time": now_ms // 1_000}
        self._groups[group.id] = group
        self._told(corp, group, "create")
        return group

    def _roomy(self, corp: Corp, way: dict[str, Any]) -> Group:
        """The first group of a join way that has room; a new one if it may be made."""
        groups = [self._groups[name] for name in way["chat_id_list"]]
        for group in groups:
            if not group.dismissed and len(group.members) < self._world.settings.group_size:
                return group
        if not way["auto_create_room"]:
            raise KeyError("all groups are full")
        name = f"{way['room_base_name']}{way['room_base_id']}"
        group = self._made(corp, groups[-1].owner, name)
        way["room_base_id"] += 1
        way["chat_id_list"] = [*way["chat_id_list"], group.id][-WAY_CHATS:]
        return group

    def _enter(self, corp: Corp, group: Group, name: str, scene: int) -> None:
        joined = self._world.clock.now_ms() // 1_000
        kind = 1 if name in corp.members else 2
        group.members[name] = {"userid": name, "type": kind, "join_time": joined}
        self._changed(corp, group, "add_member", [name], JoinScene=scene)

    def _change(self, corp: Corp, group: Group, what: str, **values: str) -> None:
        for name, value in values.items():
            setattr(group, name, value)
        self._changed(corp, group, what, [])

    def _changed(
        self, corp: Corp, group: Group, what: str, members: list[str], **fields: object
    ) -> None:
        before = group.version
        group.version += 1
        if members:
            fields |= {
                "MemChangeCnt": len(members),
                "MemChangeList": list(members),
                "LastMemVer": f"v{before}",
                "CurMemVer": f"v{group.version}",
            }
        self._told(corp, group, "update", UpdateDetail=what, **fields)

    def _told(self, corp: Corp, group: Group, change: str, **fields: object) -> None:
        self._world.tell(
            corp,
            "contact",
            "change_external_chat",
            ChatId=group.id,
            ChangeType=change,
            **fields,
        )
