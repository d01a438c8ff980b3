"""What a member's tasks ask of WeCom, one class for each kind: mass messages, moments, transfers of
customers. Each call is made when `member_tasks` says so, and what it brings is remembered there.

Sources: WeCom's pages 92135, 93338, 97610, 97611 (mass messages), 95094, 93333 (moments), 92125,
94081, 94088, 94082 (transfers).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct, field

from channels.http import Unanswered
from channels.provider import ProviderCommand, ProviderInbound
from channels.wecom.contacts import Order, is_under_way, refusal_in, transfer_result
from channels.wecom.errors import WecomError
from channels.wecom.moments import is_moment, job_of, published
from channels.wecom.task_results import Result, is_it, refused_list, send_results
from channels.wecom.tasks import FOUND_AFTER_MS, SECOND_MS, Head, Task
from hub.clock import Clock

PAGE: Final = 1_000
"""Results asked for at once: as many as WeCom gives."""
PAGES: Final = 50
"""Of one answer: five times the largest task. A cursor that never ends is not followed further."""
LIST_PAGE: Final = 100
LIST_PAGES: Final = 100
"""Of a corp's tasks of three minutes, when one of them is looked for: 10,000 of them."""
MOMENT_PAGE: Final = 20
"""Moments listed at once: as many as WeCom gives."""
CANDIDATES: Final = 1_000
"""Tasks that look like the one that is looked for: one of each member who sends the same."""
CUSTOMER_PAGES: Final = 20
"""Pages of those who see a moment: the count is for people."""


class Api(Protocol):
    """The part of `WecomClient` that is needed."""

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]: ...


class Made(Struct, frozen=True):
    """What a call has made, and whom WeCom would not have in it."""

    id: str
    refused: dict[str, Result] = field(default_factory=dict)


class Look(Struct, frozen=True):
    """What a task has come to."""

    results: dict[str, Result] = field(default_factory=dict)
    unconfirmed: bool = False
    """The member has not confirmed a mass message, and may be reminded of it."""
    found: str = ""
    """A second id that was learned, to be noted."""
    inbound: tuple[ProviderInbound, ...] = ()
    commands: tuple[ProviderCommand, ...] = ()
    """Told with the results."""


class Work(Protocol):
    """One kind of task. All calls raise WecomError, NotSent and Unanswered."""

    async def make(self, task: Task) -> Made:
        """Have WeCom take it."""

    async def find(self, task: Task, known: Collection[str]) -> str:
        """The id of what an earlier call without an answer has made; "" when it made nothing.
        `known`: ids of other tasks."""

    async def look(self, task: Task, *, last: bool) -> Look:
        """Ask for results; `last`: it will not be asked again."""

    async def cancel(self, task: Task) -> None:
        """Stop what is not confirmed."""


async def pages(
    api: Api, name: str, body: dict[str, Any], key: str, most: int, *, whole: bool = False
) -> list[Any]:
    """The lists of all pages, up to `most` pages; `whole`: it is Unanswered when there are more."""
    found: list[Any] = []
    cursor = ""
    for _ in range(most):
        reply = await api.call(name, body | ({"cursor": cursor} if cursor else {}))
        listed = reply.get(key)
        found += listed if isinstance(listed, list) else []
        cursor = reply.get("next_cursor") or ""
        if not isinstance(cursor, str) or not cursor:
            return found
    if whole:
        raise Unanswered("the list does not end")
    return found


def _made_with(head: Head, limit: int) -> dict[str, Any]:
    """Asks for a list of what was made around the time of a call."""
    return {
        "start_time": (head.called_ms - FOUND_AFTER_MS) // SECOND_MS,
        "end_time": (head.called_ms + FOUND_AFTER_MS) // SECOND_MS,
        "filter_type": 0,  # of the enterprise
        "limit": limit,
    }


class MassWork:
    """Mass messages to customers, or to customer groups."""

    def __init__(self, api: Api, clock: Clock, userid: str) -> None:
        self._api = api
        self._clock = clock
        self._userid = userid

    async def make(self, task: Task) -> Made:
        body = msgspec.json.decode(task.head.body)
        to = "chat_id_list" if task.head.kind == "group" else "external_userid"
        waiting = task.waiting
        if not waiting:
            raise ValueError("nobody: WeCom would take it for everybody")
        body |= {"chat_type": task.head.kind, to: waiting, "sender": self._userid}
        reply = await self._api.call("externalcontact/add_msg_template", body)
        refused = refused_list(reply.get("fail_list"), self._clock.now_ms())
        return Made(str(reply.get("msgid", "")), refused)

    async def find(self, task: Task, known: Collection[str]) -> str:
        head = task.head
        body = {"chat_type": head.kind} | _made_with(head, LIST_PAGE)
        name = "externalcontact/get_groupmsg_list_v2"
        listed = await pages(self._api, name, body, "group_msg_list", LIST_PAGES, whole=True)
        alike = [item["msgid"] for item in listed if is_it(item, head, known)]
        if len(alike) > CANDIDATES:
            raise Unanswered("too many tasks are alike")
        ours = set(task.everyone)
        for msgid in alike:
            try:
                sent = await self._sends(msgid, 1)
            except WecomError as error:
                if error.verdict.kind != "failed":
                    raise
                continue  # another member's
            to = [str(item.get("external_userid") or item.get("chat_id")) for item in sent]
            if to and ours.issuperset(to):
                return msgid
        return ""

    async def look(self, task: Task, *, last: bool) -> Look:
        msgid = task.head.made
        body = {"msgid": msgid, "limit": PAGE}
        name = "externalcontact/get_groupmsg_task"
        members = await pages(self._api, name, body, "task_list", 1)
        confirmed = any(
            isinstance(one, Mapping)
            and one.get("userid") == self._userid
            and one.get("status") not in (0, None)
            for one in members
        )
        if not confirmed and not last:
            return Look(unconfirmed=True)
        return Look(send_results(await self._sends(msgid, PAGES), self._clock.now_ms()))

    async def _sends(self, msgid: str, most: int) -> list[Mapping[str, Any]]:
        body = {"msgid": msgid, "userid": self._userid, "limit": PAGE}
        name = "externalcontact/get_groupmsg_send_result"
        listed = await pages(self._api, name, body, "send_list", most)
        return [item for item in listed if isinstance(item, Mapping)]

    async def remind(self, task: Task) -> None:
        """Remind the member of it."""
        await self._api.call("externalcontact/remind_groupmsg_send", {"msgid": task.head.made})

    async def cancel(self, task: Task) -> None:
        await self._api.call("externalcontact/cancel_groupmsg_send", {"msgid": task.head.made})


class MomentWork:
    """Moments: `made` is the job, `found` the moment."""

    def __init__(self, api: Api, clock: Clock, userid: str) -> None:
        self._api = api
        self._clock = clock
        self._userid = userid

    async def make(self, task: Task) -> Made:
        body = msgspec.json.decode(task.head.body)
        reply = await self._api.call("externalcontact/add_moment_task", body)
        return Made(str(reply.get("jobid", "")))

    async def find(self, task: Task, known: Collection[str]) -> str:
        """The moment itself: what job made it is not told. It is noted as both."""
        head = task.head
        body = _made_with(head, MOMENT_PAGE)
        said = msgspec.json.decode(head.body).get("text", {}).get("content", "")
        name = "externalcontact/get_moment_list"
        listed = await pages(self._api, name, body, "moment_list", LIST_PAGES, whole=True)
        for item in listed:
            if is_moment(item, head, said) and item["moment_id"] not in known:
                head.found = item["moment_id"]
                return head.found
        return ""

    async def look(self, task: Task, *, last: bool) -> Look:
        head, now = task.head, self._clock.now_ms()
        (to,) = task.everyone
        if not head.found:
            name = "externalcontact/get_moment_task_result"
            job = job_of(await self._api.call(name, jobid=head.made), now)
            return Look({to: job}) if isinstance(job, Result) else Look(found=job)
        body = {"moment_id": head.found, "limit": PAGE}
        name = "externalcontact/get_moment_task"
        done, members = published(await pages(self._api, name, body, "task_list", PAGES))
        if not done or (done < members and not last):
            return Look()  # nobody can be reminded of a moment: WeCom has no call for it
        content = {
            "event": "moment_published",
            "moment": head.found,
            "members": done,
            "customers": await self._seen_by(head),
        }
        inbound = ProviderInbound(f"moment-{head.id}", to, content, now)
        return Look({to: Result("sent", now)}, found=head.found, inbound=(inbound,))

    async def _seen_by(self, head: Head) -> int:
        """Customers who see what the account's member has published."""
        body = {"moment_id": head.found, "userid": self._userid, "limit": PAGE}
        name = "externalcontact/get_moment_send_result"
        return len(await pages(self._api, name, body, "customer_list", CUSTOMER_PAGES))

    async def cancel(self, task: Task) -> None:
        if task.head.found:
            body = {"moment_id": task.head.found}
            await self._api.call("externalcontact/cancel_moment_task", body)


class TransferWork:
    """Transfers of one customer each. WeCom decides within 24 h, or the customer does."""

    def __init__(self, api: Api, clock: Clock, decoded: Callable[[bytes], Order]) -> None:
        self._api = api
        self._clock = clock
        self._decoded = decoded

    async def make(self, task: Task) -> Made:
        order = self._decoded(task.head.body)
        reply = await self._api.call(_of(order, "transfer_customer"), order.body)
        (to,) = task.everyone
        now, taker = self._clock.now_ms(), order.body["takeover_userid"]
        refused = refusal_in(reply.get("customer"), "external_userid", to, now)
        if refused is not None and not is_under_way(await self._results(order), to):
            return Made(taker, {to: refused})
        return Made(taker)  # or by an earlier call of ours, whose answer was lost

    async def find(self, task: Task, known: Collection[str]) -> str:
        """Asked for again it changes nothing: so it is."""
        return ""

    async def look(self, task: Task, *, last: bool) -> Look:
        order, now = self._decoded(task.head.body), self._clock.now_ms()
        (to,) = task.everyone
        result = transfer_result(await self._results(order), to, now)
        if result is None:
            return Look()
        commands: tuple[ProviderCommand, ...] = ()
        if result.status == "delivered" and order.owner:
            owner = {"owner": order.owner}
            commands = (ProviderCommand(f"{task.head.id}-owner", to, "profile.set", owner),)
        return Look({to: result}, commands=commands)

    async def _results(self, order: Order) -> list[Any]:
        body = {name: order.body[name] for name in ("handover_userid", "takeover_userid")}
        return await pages(self._api, _of(order, "transfer_result"), body, "customer", PAGES)

    async def cancel(self, task: Task) -> None:
        """There is no call for it."""


def _of(order: Order, name: str) -> str:
    return f"externalcontact/{'resigned/' if order.left else ''}{name}"
