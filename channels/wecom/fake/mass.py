"""Mass messages to customers and customer groups: tasks that members confirm, and their results.

Sources: WeCom's pages 92135 (add_msg_template), 93338 (results), 97610 (remind), 97611 (cancel).
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, field

from channels.wecom.fake.content import checked_mass
from channels.wecom.fake.groups import Groups
from channels.wecom.fake.media import Media
from channels.wecom.fake.quota import Quota
from channels.wecom.fake.world import (
    HOUR_MS,
    Call,
    Control,
    Corp,
    Handler,
    Refused,
    World,
    page,
)

CUSTOMERS: Final = 10_000
CHATS: Final = 2_000
LISTED: Final = 100
PAGE: Final = 1_000
SPAN_S: Final = 31 * 24 * 3_600
"""The longest time that may be listed."""
UNSENT, SENT, NO_FRIEND, ENOUGH = range(4)
"""Of a customer."""
MEMBER_SENT: Final = 2
"""Of a member; 0: has not sent."""


class Part(Struct):
    """What one member is to send."""

    userid: str
    to: list[str]
    status: int = 0
    sent_ms: int = 0
    results: dict[str, int] = field(default_factory=dict)
    asked: int = 0


class Task(Struct):
    """A mass message."""

    id: str
    corp: Corp
    group: bool
    content: dict[str, Any]
    made_ms: int
    parts: dict[str, Part]
    reminded: list[int] = field(default_factory=list)
    cancelled: bool = False


class Mass:
    """All mass messages."""

    def __init__(self, world: World, media: Media, groups: Groups) -> None:
        self._world = world
        self._media = media
        self._groups = groups
        self._tasks: dict[str, Task] = {}
        self._quotas: dict[str, Quota] = {}
        self.handlers: dict[str, Handler] = {
            "externalcontact/add_msg_template": self.add,
            "externalcontact/get_groupmsg_list_v2": self.listed,
            "externalcontact/get_groupmsg_task": self.members,
            "externalcontact/get_groupmsg_send_result": self.results,
            "externalcontact/remind_groupmsg_send": self.remind,
            "externalcontact/cancel_groupmsg_send": self.cancel,
        }
        self.controls: dict[str, Control] = {"confirm-mass": self.confirm}

    # ---- the API -------------------------------------------------------------------------------

    def add(self, call: Call) -> dict[str, Any]:
        """A task for each sender. Nothing is sent yet."""
        group = call.text("chat_type", "single") == "group"
        content = checked_mass(call, self._media)
        sender = call.text("sender", "")
        if sender and not call.corp.here(sender):
            raise Refused(60111)
        if group and not sender:
            raise Refused(40058)
        if group:
            parts, failed = self._groups_of(call, sender)
        else:
            parts, failed = self._customers_of(call, sender)
        if not parts:
            raise Refused(41048, fail_list=failed)
        task = Task(
            self._world.new_id("fakemass"),
            call.corp,
            group,
            content,
            call.now_ms,
            {userid: Part(userid, to) for userid, to in parts.items()},
        )
        self._tasks[task.id] = task
        self._world.book.count("mass_tasks")
        for part in task.parts.values():
            self._ask(task, part, self._world.settings.dispatching_s)
        return {"fail_list": failed, "msgid": task.id}

    def listed(self, call: Call) -> dict[str, Any]:
        """The tasks of some time, those that are still being dispatched left out."""
        start, end = call.number("start_time"), call.number("end_time")
        if not 0 <= end - start <= SPAN_S:
            raise Refused(40058)
        group, creator = call.text("chat_type") == "group", call.text("creator", "")
        tasks = [
            task
            for task in self._tasks.values()
            if task.corp is call.corp
            and task.group == group
            and start * 1_000 <= task.made_ms < (end + 1) * 1_000
            and not self._dispatching(task)
            and not creator
        ]
        some, cursor = page(tasks, call.text("cursor", ""), call.limit(50, LISTED))
        return {
            "next_cursor": cursor,
            "group_msg_list": [
                {
                    "msgid": task.id,
                    "creator": "",
                    "create_time": str(task.made_ms // 1_000),
                    "create_type": 0,
                    **task.content,
                }
                for task in some
            ],
        }

    def members(self, call: Call) -> dict[str, Any]:
        """Who has sent."""
        task = self._dispatched(call)
        parts = list(task.parts.values())
        some, cursor = page(parts, call.text("cursor", ""), call.limit(500, PAGE))
        told = []
        for part in some:
            one: dict[str, Any] = {"userid": part.userid, "status": part.status}
            if part.sent_ms:
                one["send_time"] = part.sent_ms // 1_000
            told.append(one)
        return {"next_cursor": cursor, "task_list": told}

    def results(self, call: Call) -> dict[str, Any]:
        """What became of each customer of a member."""
        task = self._dispatched(call)
        part = task.parts.get(call.text("userid"))
        if part is None:
            raise Refused(60111)
        some, cursor = page(part.to, call.text("cursor", ""), call.limit(500, PAGE))
        told = []
        for to in some:
            status = part.results.get(to, UNSENT)
            one: dict[str, Any] = {"userid": part.userid, "status": status}
            one["chat_id" if task.group else "external_userid"] = to
            if status == SENT:
                one["send_time"] = part.sent_ms // 1_000
            told.append(one)
        return {"next_cursor": cursor, "send_list": told}

    def remind(self, call: Call) -> dict[str, Any]:
        """Ask the members again who have not sent."""
        task = self._dispatched(call)
        task.reminded = [at for at in task.reminded if call.now_ms - at < 24 * HOUR_MS]
        if len(task.reminded) >= self._world.settings.reminders:
            self._world.book.violated("mass_reminders")
            raise Refused(41094)
        task.reminded.append(call.now_ms)
        self._world.book.count("mass_reminders")
        for part in task.parts.values():
            if not part.status:
                self._ask(task, part, 0.0)
        return {}

    def cancel(self, call: Call) -> dict[str, Any]:
        """Who has not sent will not; what was sent stays so."""
        task = self._dispatched(call)
        if task.cancelled:
            raise Refused(41093)
        task.cancelled = True
        self._world.book.count("mass_cancelled")
        return {}

    # ---- what can be made to happen ------------------------------------------------------------

    def confirm(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{userid, msgid?}: the member confirms that mass message, or all that wait for him."""
        count = 0
        for task in self._tasks.values():
            part = task.parts.get(body["userid"])
            if task.corp is corp and part and body.get("msgid", task.id) == task.id:
                before = part.status
                self._confirm(task, part)
                count += part.status != before
        return {"confirmed": count}

    # ---- inside --------------------------------------------------------------------------------

    def _customers_of(self, call: Call, sender: str) -> tuple[dict[str, list[str]], list[str]]:
        """Who sends to whom, and who gets nothing. Without a sender a customer's latest member
        does."""
        asked = call.texts("external_userid", CUSTOMERS)
        if not asked and sender:
            served = call.corp.contacts.values()
            asked = [one.id for one in served if sender in one.follows]
        parts: dict[str, list[str]] = {}
        failed = []
        for name in dict.fromkeys(asked):
            contact = call.corp.contacts.get(name)
            here = (
                [] if contact is None else [who for who in contact.follows if call.corp.here(who)]
            )
            userid = sender if sender in here else "" if sender or not here else here[-1]
            if userid:
                parts.setdefault(userid, []).append(name)
            else:
                failed.append(name)
        return parts, failed

    def _groups_of(self, call: Call, sender: str) -> tuple[dict[str, list[str]], list[str]]:
        asked = call.texts("chat_id_list", CHATS)
        owned = self._groups.owned(call.corp, sender)
        to = [name for name in asked if name in owned] if asked else owned
        return ({sender: to} if to else {}), [name for name in asked if name not in owned]

    def _task(self, call: Call) -> Task:
        task = self._tasks.get(call.text("msgid"))
        if task is None or task.corp is not call.corp:
            raise Refused(40058)
        return task

    def _dispatched(self, call: Call) -> Task:
        task = self._task(call)
        if self._dispatching(task):
            raise Refused(41063)
        return task

    def _dispatching(self, task: Task) -> bool:
        age_ms = self._world.clock.now_ms() - task.made_ms
        return age_ms < self._world.settings.dispatching_s * 1_000

    def _ask(self, task: Task, part: Part, after_s: float) -> None:
        """The member may confirm, a while later."""
        part.asked += 1
        about = (task.id, part.userid, str(part.asked))
        if self._world.draw("confirms", *about) < self._world.settings.confirm:
            delay_s = self._world.settings.confirm_s * (0.5 + self._world.draw("when", *about))
            self._world.after(after_s + delay_s, lambda: self._confirm(task, part))

    def _confirm(self, task: Task, part: Part) -> None:
        if task.cancelled or part.status or not task.corp.here(part.userid):
            return
        now_ms = self._world.clock.now_ms()
        part.status, part.sent_ms = MEMBER_SENT, now_ms
        quota = self._quotas.setdefault(task.corp.id, Quota(self._world.settings.rule))
        for to in part.to:
            part.results[to] = self._send(task, part, to, quota, now_ms)

    def _send(self, task: Task, part: Part, to: str, quota: Quota, now_ms: int) -> int:
        if task.group:
            if to not in self._groups.owned(task.corp, part.userid):
                return NO_FRIEND
        else:
            follow = task.corp.contacts[to].follows.get(part.userid)
            if follow is None or follow.lost:
                return NO_FRIEND
        if not quota.take(to, now_ms):
            self._world.book.violated("mass_rule")
            return ENOUGH
        kind = "mass_group" if task.group else "mass"
        self._world.book.took(
            kind, to, task.corp.id, userid=part.userid, msgid=task.id, **task.content
        )
        return SENT
