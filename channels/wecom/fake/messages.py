"""Messages of an application to members: message/send, message/recall.

Sources: WeCom's pages 90236, 94867, 90454.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import msgspec
from xxhash import xxh3_64_intdigest

from channels.wecom.fake.content import APP_TYPES, checked, shown
from channels.wecom.fake.limits import Window, taken
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

TO_USERS: Final = 1_000
TO_PARTIES: Final = 100
RECALL_MS: Final = 24 * HOUR_MS
SAME_S: Final = 1_800
SAME_MOST_S: Final = 4 * 3_600
REMEMBERED: Final = 1_000_000
"""Requests remembered to find one that comes twice, and messages that may be recalled."""


class Messages:
    """What applications write to members, and members to applications."""

    def __init__(self, world: World, media: Media) -> None:
        self._world = world
        self._media = media
        self._seen: OrderedDict[int, tuple[int, dict[str, Any]]] = OrderedDict()
        self._sent: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self.handlers: dict[str, Handler] = {
            "message/send": self.send,
            "message/recall": self.recall,
            "user/get": self.user,
        }
        self.controls: dict[str, Control] = {
            "member-writes": self.member_writes,
            "member-leaves": self.member_leaves,
            "unlicense": self.unlicense,
        }

    # ---- the API -------------------------------------------------------------------------------

    def send(self, call: Call) -> dict[str, Any]:
        """To members, some of whom may not be there: partial success."""
        if call.number("agentid", 0) != call.app.scene.agent_id:
            raise Refused(40056 if call.body.get("agentid") not in call.corp.apps else 301002)
        kind, said = checked(call, APP_TYPES, self._media)
        wanted, parties, tags = self._recipients(call)
        here = [name for name in wanted if call.corp.here(name)]
        invalid = [name for name in wanted if not call.corp.here(name)]
        unlicensed = [name for name in here if not call.corp.members[name].licensed]
        here = [name for name in here if call.corp.members[name].licensed]
        told = {
            "invaliduser": "|".join(invalid),
            "invalidparty": "|".join(parties),
            "invalidtag": "|".join(tags),
            "unlicenseduser": "|".join(unlicensed),
        }
        if not here and not unlicensed:
            raise Refused(81013, **told)
        if (repeated := self._repeated(call)) is not None:
            return repeated
        if not call.app.day.take(call.now_ms, len(here)):
            self._world.book.violated("app_person_times_day")
            raise Refused(45009)
        msgid = self._world.new_id("fakemsg")
        for name in here:
            self._deliver(call, name, msgid, shown(kind, said))
        self._sent[msgid] = (call.corp.id, call.now_ms)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        answer: dict[str, Any] = told | {"msgid": msgid}
        if kind == "template_card" and said["card_type"] in (
            "button_interaction",
            "vote_interaction",
        ):
            answer["response_code"] = self._world.new_id("fakeresponse")
        self._remember(call, answer)
        return answer

    def recall(self, call: Call) -> dict[str, Any]:
        """Within a day."""
        corp, at_ms = self._sent.pop(call.text("msgid"), ("", 0))
        if corp != call.corp.id or call.now_ms - at_ms > RECALL_MS:
            raise Refused(40058)
        self._world.book.count("recalled")
        return {}

    def user(self, call: Call) -> dict[str, Any]:
        """A member."""
        member = call.corp.members.get(call.text("userid"))
        if member is None or member.left_ms:
            raise Refused(60111)
        return {"userid": member.id, "name": member.id, "department": [1], "status": 1}

    # ---- inside --------------------------------------------------------------------------------

    def _recipients(self, call: Call) -> tuple[list[str], list[str], list[str]]:
        users = call.text("touser", "")
        if users == "@all":
            return [name for name in call.corp.members if call.corp.here(name)], [], []
        wanted = list(dict.fromkeys(filter(None, users.split("|"))))
        # There are no departments and no tags here: all that are named are invalid.
        parties = list(filter(None, call.text("toparty", "").split("|")))
        tags = list(filter(None, call.text("totag", "").split("|")))
        if not wanted and not parties and not tags:
            raise Refused(40035)
        if len(wanted) > TO_USERS:
            raise Refused(40032)
        if len(parties) > TO_PARTIES or len(tags) > TO_PARTIES:
            raise Refused(40058)
        return wanted, parties, tags

    def _deliver(self, call: Call, to: str, msgid: str, content: dict[str, Any]) -> None:
        settings = self._world.settings
        windows = call.app.members.get(to)
        if windows is None:
            windows = (
                Window(settings.member_per_min, MINUTE_MS),
                Window(settings.member_per_hour, HOUR_MS),
            )
            call.app.members[to] = windows
        if taken(windows, call.now_ms):
            agent_id = call.app.scene.agent_id
            self._world.book.took("app", to, call.corp.id, msgid=msgid, agent=agent_id, **content)
        else:
            self._world.book.violated("app_member")

    def _repeated(self, call: Call) -> dict[str, Any] | None:
        """What the same request was answered with lately, if it asks not to be sent twice."""
        if not call.number("enable_duplicate_check", 0):
            return None
        period_s = min(call.number("duplicate_check_interval", SAME_S), SAME_MOST_S)
        found = self._seen.get(_key(call))
        if found is None or call.now_ms - found[0] >= period_s * 1_000:
            return None
        self._world.book.count("app_duplicates_dropped")
        return found[1]

    def _remember(self, call: Call, answer: dict[str, Any]) -> None:
        if call.number("enable_duplicate_check", 0):
            self._seen[_key(call)] = (call.now_ms, answer)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)

    # ---- what happens --------------------------------------------------------------------------

    def member_writes(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{userid, text, agent_id?}: a member writes to an application."""
        app = corp.app(body)
        msgid = self._world.new_id("")
        fields: dict[str, object] = {
            "ToUserName": corp.id,
            "FromUserName": body["userid"],
            "CreateTime": self._world.clock.now_ms() // 1_000,
            "MsgType": "text",
            "Content": body["text"],
            "MsgId": msgid,
        }
        self._world.book.hears(
            "wrote",
            body["userid"],
            corp.id,
            agent=app.scene.agent_id,
            msgid=msgid,
            type="text",
            content=body["text"],
        )
        self._world.post(corp, app, fields)
        return {"msgid": msgid}

    def member_leaves(self, corp: Corp, body: dict[str, Any]) -> None:
        """{userid}: her customers and groups wait for somebody else."""
        corp.members[body["userid"]].left_ms = self._world.clock.now_ms()
        self._world.tell(
            corp, "message", "change_contact", ChangeType="delete_user", UserID=body["userid"]
        )

    def unlicense(self, corp: Corp, body: dict[str, Any]) -> None:
        """{userid}: the member has no licence."""
        corp.members[body["userid"]].licensed = False


def _key(call: Call) -> int:
    sorted_body = msgspec.json.encode(call.body, order="deterministic")
    return xxh3_64_intdigest(f"{call.corp.id} {call.app.scene.agent_id} ".encode() + sorted_body)
