"""Moments: a task that members confirm, seen by their customers.

Sources: WeCom's pages 95095 (add, result, cancel), 93333 (reading).
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from channels.wecom.fake.content import parts
from channels.wecom.fake.media import Media
from channels.wecom.fake.world import Call, Control, Corp, Handler, Refused, World, page, texts

TEXT_CHARS: Final = 2_000
IMAGES: Final = 9
MEMBERS: Final = 100_000
LISTED: Final = 20
PAGE: Final = 1_000
SPAN_S: Final = 31 * 24 * 3_600


class Moment(Struct):
    """A moment."""

    id: str
    job: str
    corp: Corp
    said: dict[str, Any]
    made_ms: int
    members: dict[str, int]
    """userid → when it was published; 0: not yet."""
    invalid: list[str]
    comments: dict[str, list[dict[str, Any]]]
    cancelled: bool = False


class Moments:
    """All moments."""

    def __init__(self, world: World, media: Media) -> None:
        self._world = world
        self._media = media
        self._moments: dict[str, Moment] = {}
        self._jobs: dict[str, Moment] = {}
        self.handlers: dict[str, Handler] = {
            "externalcontact/add_moment_task": self.add,
            "externalcontact/get_moment_task_result": self.result,
            "externalcontact/cancel_moment_task": self.cancel,
            "externalcontact/get_moment_list": self.listed,
            "externalcontact/get_moment_task": self.members,
            "externalcontact/get_moment_send_result": self.customers,
            "externalcontact/get_moment_comments": self.comments,
        }
        self.controls: dict[str, Control] = {"comment-moment": self.comment}

    def add(self, call: Call) -> dict[str, Any]:
        """A job; what became of it is told by get_moment_task_result."""
        said = self._said(call)
        wanted = texts(call.fields("visible_range", "sender_list"), "user_list", MEMBERS)
        valid = [name for name in wanted or call.corp.members if call.corp.here(name)]
        if not valid:
            raise Refused(41048)
        moment = Moment(
            self._world.new_id("fakemoment"),
            self._world.new_id("fakejob"),
            call.corp,
            said,
            call.now_ms,
            dict.fromkeys(valid, 0),
            [name for name in wanted if name not in valid],
            {},
        )
        self._moments[moment.id] = self._jobs[moment.job] = moment
        for userid in valid:
            self._ask(moment, userid)
        return {"jobid": moment.job}

    def _said(self, call: Call) -> dict[str, Any]:
        text = call.body.get("text") or {}
        attachments = call.body.get("attachments") or []
        if not isinstance(text, dict) or not isinstance(attachments, list):
            raise Refused(40058)
        if not text.get("content") and not attachments:
            raise Refused(40063)
        if len(str(text.get("content", ""))) > TEXT_CHARS:
            raise Refused(45002)
        found = parts(attachments)
        kinds = {kind for kind, _ in found}
        if not kinds <= {"image", "video", "link"} or len(kinds) > 1:
            raise Refused(41065)
        if len(found) > (IMAGES if kinds == {"image"} else 1):
            raise Refused(41064)
        for kind, said in found:
            if kind != "link":
                self._media.checked(call.corp, said.get("media_id"), call.now_ms)
        return {"text": text, "attachments": attachments}

    def _ask(self, moment: Moment, userid: str) -> None:
        settings = self._world.settings
        about = (moment.id, userid)
        if self._world.draw("confirms", *about) < settings.confirm:
            delay_s = settings.confirm_s * (0.5 + self._world.draw("when", *about))
            self._world.after(
                settings.dispatching_s + delay_s, lambda: self._publish(moment, userid)
            )

    def _publish(self, moment: Moment, userid: str) -> None:
        if moment.cancelled or not moment.corp.here(userid):
            return
        moment.members[userid] = self._world.clock.now_ms()
        self._world.book.took("moment", userid, moment.corp.id, moment=moment.id, **moment.said)

    def result(self, call: Call) -> dict[str, Any]:
        """1 begun, 2 being made, 3 done."""
        moment = self._jobs.get(call.text("jobid"))
        if moment is None or moment.corp is not call.corp:
            raise Refused(40058)
        if self._dispatching(moment):
            return {"status": 2, "type": "add_moment_task", "result": {}}
        result = {
            "errcode": 0,
            "errmsg": "ok",
            "moment_id": moment.id,
            "invalid_sender_list": {"user_list": moment.invalid, "department_list": []},
            "invalid_external_contact_list": {"tag_list": []},
        }
        return {"status": 3, "type": "add_moment_task", "result": result}

    def cancel(self, call: Call) -> dict[str, Any]:
        """Who has not published will not."""
        self._moment(call).cancelled = True
        return {}

    def listed(self, call: Call) -> dict[str, Any]:
        """The moments of some time."""
        start, end = call.number("start_time"), call.number("end_time")
        if not 0 <= end - start <= SPAN_S:
            raise Refused(40058)
        moments = [
            one
            for one in self._moments.values()
            if one.corp is call.corp
            and start * 1_000 <= one.made_ms < (end + 1) * 1_000
            and not self._dispatching(one)
        ]
        some, cursor = page(moments, call.text("cursor", ""), call.limit(LISTED, LISTED))
        return {
            "next_cursor": cursor,
            "moment_list": [
                {
                    "moment_id": one.id,
                    "creator": "",
                    "create_time": one.made_ms // 1_000,
                    "create_type": 0,
                    "visible_type": 1,
                    "text": one.said["text"],
                }
                for one in some
            ],
        }

    def members(self, call: Call) -> dict[str, Any]:
        """Who has published."""
        members = list(self._moment(call).members.items())
        some, cursor = page(members, call.text("cursor", ""), call.limit(500, PAGE))
        told = [{"userid": userid, "publish_status": int(bool(at))} for userid, at in some]
        return {"next_cursor": cursor, "task_list": told}

    def customers(self, call: Call) -> dict[str, Any]:
        """Who can see that of a member."""
        userid = call.text("userid")
        published = self._moment(call).members.get(userid)
        seen = [
            {"external_userid": one.id}
            for one in call.corp.contacts.values()
            if published and userid in one.follows and not one.follows[userid].lost
        ]
        some, cursor = page(seen, call.text("cursor", ""), call.limit(3_000, 5_000))
        return {"next_cursor": cursor, "customer_list": some}

    def comments(self, call: Call) -> dict[str, Any]:
        """What customers said of that of a member."""
        said = self._moment(call).comments.get(call.text("userid"), [])
        return {"comment_list": said, "like_list": []}

    def comment(self, corp: Corp, body: dict[str, Any]) -> None:
        """{moment_id, userid, external_userid}: a customer comments."""
        at = self._world.clock.now_ms() // 1_000
        said = {"external_userid": body["external_userid"], "create_time": at}
        self._moments[body["moment_id"]].comments.setdefault(body["userid"], []).append(said)

    def _moment(self, call: Call) -> Moment:
        moment = self._moments.get(call.text("moment_id"))
        if moment is None or moment.corp is not call.corp:
            raise Refused(40058)
        return moment

    def _dispatching(self, moment: Moment) -> bool:
        age_ms = self._world.clock.now_ms() - moment.made_ms
        return age_ms < self._world.settings.dispatching_s * 1_000
