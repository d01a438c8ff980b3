"""What a member's account is asked to do at once, without the member's confirming it: a welcome
message, a code by which customers join a group, another owner of a group, the end of a task.

Sources: WeCom's pages 92137 (welcome messages), 92229 (join ways), 95703 and 92127 (groups).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from msgspec import Struct

from channels.http import NotSent, Unanswered
from channels.provider import Answer, Bundle, ProviderInbound, Submission
from channels.wecom.contacts import Order, group_address, refusal_in
from channels.wecom.errors import WecomError, answer_of
from channels.wecom.member_work import Api
from hub.clock import Clock

WELCOME_MARGIN_MS: Final = 200
"""A welcome message that has less time left is not tried: the call takes as long."""
WELCOME_TRIES: Final = 4
WELCOME_PAUSE_S: Final = 0.5
"""Between two tries within the 20 s of a code: WeCom was busy, or did not answer."""
SENT_ALREADY: Final = 41051
"""Of a welcome code: the customer was welcomed, or wrote, before. After a try of ours that was not
answered it is that one."""
SENDING: Final = 41096
"""Another application is about to use the code; page 92137 allows another try."""


class Welcome(Struct, frozen=True):
    """A message for a customer who has just been added."""

    code: str
    until_ms: int
    """0: not told; the delivery's own end counts."""
    body: dict[str, Any]

    def __repr__(self) -> str:
        return "Welcome()"


class JoinWay(Struct, frozen=True):
    """A code by which customers join a group."""

    chat: str
    body: dict[str, Any]

    def __repr__(self) -> str:
        return "JoinWay()"


class GroupTransfer(Struct, frozen=True):
    """Another owner for a customer group."""

    chat: str
    order: Order

    def __repr__(self) -> str:
        return "GroupTransfer()"


class Cancel(Struct, frozen=True):
    """The end of the task that has one of these deliveries."""

    names: frozenset[bytes]


AnyOrder = Welcome | JoinWay | GroupTransfer | Cancel


class Orders:
    """Carries orders out. `store` hands a bundle over, before the answer; `cancel` ends a task."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        *,
        store: Callable[[Bundle], object],
        cancel: Callable[[Collection[bytes]], Awaitable[bool]],
    ) -> None:
        self._api = api
        self._clock = clock
        self._store = store
        self._cancel = cancel

    async def carry_out(self, submission: Submission) -> Answer:
        """The answer to a submission. Raises WecomError, NotSent, Unanswered."""
        order: AnyOrder = submission.prepared.parts[0]
        match order:
            case Welcome():
                return await self._welcome(order, submission)
            case JoinWay():
                return await self._join_way(order)
            case GroupTransfer():
                return await self._transfer(order)
            case Cancel():
                found = await self._cancel(order.names)
                return _DONE if found else Answer("failed", failure="provider", code="no-task")

    async def _welcome(self, welcome: Welcome, submission: Submission) -> Answer:
        """Once, as early as can be, and not at all when it is late."""
        ends = [ms for ms in (welcome.until_ms, submission.expires_ms) if ms]
        until_ms = min(ends, default=self._clock.now_ms() + WELCOME_MARGIN_MS + 1)
        body = {"welcome_code": welcome.code} | welcome.body
        unanswered = submission.again
        error: NotSent | Unanswered | WecomError | None = None
        for attempt in range(WELCOME_TRIES):
            if attempt:
                await asyncio.sleep(WELCOME_PAUSE_S)
            if self._clock.now_ms() + WELCOME_MARGIN_MS > until_ms:
                break
            try:
                await self._api.call("externalcontact/send_welcome_msg", body)
                return _DONE
            except (NotSent, Unanswered) as failure:
                unanswered = unanswered or isinstance(failure, Unanswered)
                error = failure
            except WecomError as failure:
                error = failure
                if failure.errcode == SENT_ALREADY and unanswered:
                    return Answer("accepted", code=str(SENT_ALREADY))
                if failure.errcode != SENDING and failure.verdict.kind != "retry":
                    break
        else:
            if isinstance(error, NotSent):
                raise error  # there is time left: again when there is a connection
        late = self._clock.now_ms() + WELCOME_MARGIN_MS > until_ms
        if isinstance(error, WecomError):
            answer = answer_of(error, self._clock)
            if answer.kind == "failed" or not late:
                return answer
        if unanswered:
            # Late, another try would say nothing: what became of it is not told any more.
            return _NOBODY_KNOWS if late else Answer("unknown", code="http-unanswered")
        return Answer("failed", failure="expired", code="welcome-late")

    async def _join_way(self, way: JoinWay) -> Answer:
        """A second one, made after a lost answer, does no harm: both lead to the group."""
        made = await self._api.call("externalcontact/groupchat/add_join_way", way.body)
        config = str(made.get("config_id", ""))
        content: dict[str, Any] = {"event": "group_join_way", "config": config}
        if state := way.body.get("state"):
            content["state"] = state
        try:
            body = {"config_id": config}
            reply = await self._api.call("externalcontact/groupchat/get_join_way", body)
        except (NotSent, Unanswered, WecomError):
            reply = {}  # it is made: the code can be had by its id
        shown = reply.get("join_way")
        code = shown.get("qr_code") if isinstance(shown, dict) else None
        if isinstance(code, str) and code:
            content["qr_code"] = code[:2_048]
        sender, now = group_address(way.chat), self._clock.now_ms()
        inbound = ProviderInbound(f"join-{config}"[:128], sender, content, now)
        self._store(Bundle(inbound=(inbound,)))
        return _DONE

    async def _transfer(self, transfer: GroupTransfer) -> Answer:
        order = transfer.order
        name = "transfer" if order.left else "onjob_transfer"
        reply = await self._api.call(f"externalcontact/groupchat/{name}", order.body)
        now = self._clock.now_ms()
        refused = refusal_in(reply.get("failed_chat_list"), "chat_id", transfer.chat, now)
        if refused is None or await self._owner(transfer.chat) == order.body["new_owner"]:
            return _DONE  # or it was done by an earlier call, whose answer was lost
        return Answer("failed", failure=refused.failure, code=refused.code)

    async def _owner(self, chat: str) -> str:
        reply = await self._api.call("externalcontact/groupchat/get", {"chat_id": chat})
        group = reply.get("group_chat")
        return str(group.get("owner", "")) if isinstance(group, dict) else ""


_DONE: Final = Answer("accepted")
_NOBODY_KNOWS: Final = Answer("accepted", receipts=1, status=None)
"""It may have been done, and no call can tell: neither `sent` nor `failed` is told of it."""
