"""Does what is due for a member's tasks, one thing at a time: has WeCom make them, looks for what a
call without an answer has made, asks what became of each customer, reminds the member, and ends
what is not confirmed in time.

Nothing here is in a hurry, and one at a time is a pace that no limit of WeCom's minds: a task that
waits costs one call each half hour.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import structlog

from channels.http import NotSent, Unanswered
from channels.provider import ProviderCommand, ProviderInbound
from channels.wecom.errors import WecomError, answer_of
from channels.wecom.member_intake import Shelf
from channels.wecom.member_work import Work
from channels.wecom.task_results import COLLAPSED, Result, settle
from channels.wecom.tasks import (
    CALL_WITHIN_MS,
    CALLING,
    CANCEL_FOR_MS,
    COLLECTS,
    FOUND_AFTER_MS,
    MINUTE_MS,
    OPEN,
    REMINDERS,
    SURE_AFTER_MS,
    Task,
    backoff_ms,
    look_after,
    reminds,
)
from hub.clock import Clock
from hub.errors import TactError

RECENT: Final = 64
"""Ids of what WeCom made lately that are remembered. What a lost answer has made is looked for in a
list of three minutes, and what belongs to a task that is over since is not it."""
AMBIGUOUS_MS: Final = MINUTE_MS
"""What a call has made is looked for again after this when it could be another task's."""
CONFIG_TRIES: Final = 12
"""Tries of a task that WeCom refuses for what a person must put right (a secret, the addresses it
trusts): half an hour. One mistake must not fail ten thousand deliveries at once."""
SLEEP_MAX_S: Final = 30.0
"""What is due is looked at so often at least: clocks are set."""
BUG_MS: Final = 5 * MINUTE_MS
"""A task on which we failed ourselves is left alone for so long."""

_log = structlog.get_logger(__name__)


class Driver:
    """The tasks on a shelf, from WeCom's taking them to their last word.

    `works`: by kind of task. `remind` asks the member again for a mass message. `trouble` is told
    of calls: their error, None for one that was answered.
    """

    def __init__(
        self,
        shelf: Shelf,
        works: Mapping[str, Work],
        clock: Clock,
        *,
        remind: Callable[[Task], Awaitable[None]],
        remind_ms: int,
        trouble: Callable[[TactError | None], None],
    ) -> None:
        self._shelf = shelf
        self._works = works
        self._clock = clock
        self._ask_again = remind
        self._remind_ms = remind_ms
        self._trouble = trouble
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._orders: list[tuple[Collection[bytes], asyncio.Future[bool]]] = []
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with what is on the shelf."""
        self._loop = asyncio.create_task(self._drive(), name=f"{self._shelf.account}-tasks")

    async def stop(self) -> None:
        """End where it stands: the notes say how it goes on."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        for _, done in self._orders:
            done.cancel()

    async def cancel(self, names: Collection[bytes]) -> bool:
        """End the task that has a delivery of one of these names. Returns whether there is one."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._orders.append((names, done))
        self._shelf.news.set()
        return await done

    # ---- the loop --------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while True:
            self._shelf.news.clear()
            while self._orders:
                self._order(*self._orders.pop(0))
            now = self._clock.now_ms()
            tasks = self._shelf.tasks.values()
            task = min(tasks, key=lambda task: task.look_ms, default=None)
            if task is not None and task.look_ms <= now:
                await self._step(task)
                continue
            wait_s = SLEEP_MAX_S
            if task is not None:
                wait_s = min(wait_s, (task.look_ms - now) / 1_000)
            try:
                async with asyncio.timeout(wait_s):
                    await self._shelf.news.wait()
            except TimeoutError:
                continue  # it is time for something

    def _order(self, names: Collection[bytes], done: asyncio.Future[bool]) -> None:
        task = next((task for task in self._shelf.tasks.values() if task.waits_for(names)), None)
        if task is not None:
            head, now = task.head, self._clock.now_ms()
            task.close()
            head.end_ms, head.cancelled = min(head.end_ms, now), True
            if head.state != CALLING:
                task.look_ms = min(task.look_ms, now)
            self._shelf.note(task)
        if not done.done():
            done.set_result(task is not None)

    async def _step(self, task: Task) -> None:
        """One thing for a task, after which it has a later time, another state, or an end."""
        try:
            if task.head.state == COLLECTS:
                await self._make(task)
            elif task.head.state == CALLING:
                await self._find(task)
            else:
                await self._look(task)
        except (WecomError, NotSent, Unanswered) as error:
            self._later(task, error)
        except Exception as error:
            # A bug must not stop the other tasks. Its text may quote the content: not told.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            _log.error(
                "member.bug", account=self._shelf.account, error=type(error).__name__, at=place
            )
            self._shelf.count("internal")
            task.look_ms = self._clock.now_ms() + BUG_MS
            if self._clock.now_ms() >= task.head.end_ms + CANCEL_FOR_MS:
                await self._lost(task)  # it will not end otherwise
        else:
            task.failures = 0

    def _later(self, task: Task, error: TactError) -> None:
        self._trouble(error)
        task.failures += 1
        pause_ms = max(backoff_ms(task.failures), self._pause_ms(error))
        task.look_ms = self._clock.now_ms() + pause_ms

    def _pause_ms(self, error: TactError) -> int:
        """What WeCom's refusal says of the next try."""
        return answer_of(error, self._clock).retry_after_ms or 0

    # ---- making ----------------------------------------------------------------------------------

    async def _make(self, task: Task) -> None:
        head = task.head
        task.close()
        if task.has_superseded:
            await self._settle(task, {}, superseded_ms=self._clock.now_ms())
            return
        if head.end_ms <= self._clock.now_ms():
            await self._end(task, _end_code(task, "not-made"))
            return
        head.state, head.called_ms = CALLING, self._clock.now_ms()
        await self._shelf.note(task)
        if self._clock.now_ms() - head.called_ms > CALL_WITHIN_MS:
            head.state = COLLECTS  # it is noted again, then
            return
        try:
            made = await self._works[head.kind].make(task)
        except Unanswered as error:
            self._trouble(error)
            task.look_ms = head.called_ms + FOUND_AFTER_MS
        except NotSent:
            head.state = COLLECTS
            raise
        except WecomError as error:
            head.state = COLLECTS
            waits = error.verdict.stop and task.failures < CONFIG_TRIES
            if waits or error.verdict.kind not in ("failed", "window"):
                raise
            self._trouble(error)
            failure = error.verdict.failure or "provider"
            result = Result("failed", self._clock.now_ms(), failure, str(error.errcode))
            await self._settle(task, dict.fromkeys(task.waiting, result))
        else:
            self._trouble(None)
            await self._made(task, made.id, made.refused)

    async def _find(self, task: Task) -> None:
        """Whether a call without an answer has made something. If not it is made again."""
        head, others = task.head, [one.head for one in self._shelf.tasks.values()]
        if head.kind == "moment" and any(
            one.kind == "moment" and one.state == OPEN and not one.found for one in others
        ):
            # WeCom has a job of ours and has not told its moment: it could be taken for this one's.
            task.look_ms = self._clock.now_ms() + AMBIGUOUS_MS
            return
        known = {id for one in others for id in (one.made, one.found)} | set(self._recent)
        try:
            id = await self._works[head.kind].find(task, known)
        except (NotSent, Unanswered, WecomError):
            if self._clock.now_ms() <= head.end_ms:
                raise
            await self._lost(task)
            return
        self._trouble(None)
        if id:
            self._shelf.count("task_found")
            await self._made(task, id, {})
        elif head.kind != "transfer" and self._clock.now_ms() < head.called_ms + SURE_AFTER_MS:
            task.look_ms = head.called_ms + SURE_AFTER_MS
        else:
            head.state = COLLECTS

    async def _made(self, task: Task, id: str, refused: dict[str, Result]) -> None:
        """WeCom has it."""
        head = task.head
        if not id and not set(task.waiting) <= set(refused):
            task.look_ms = head.called_ms + FOUND_AFTER_MS  # it did not say what it has made
            return
        head.state, head.made = OPEN, id
        self._recent.append(id)
        if head.kind != "transfer":
            head.body = b""
        task.look_ms = look_after(head.called_ms, self._clock.now_ms())
        await self._shelf.note(task)
        self._shelf.count("task_made")
        await self._settle(task, refused)

    # ---- results ---------------------------------------------------------------------------------

    async def _look(self, task: Task) -> None:
        head, work = task.head, self._works[task.head.kind]
        if self._clock.now_ms() >= head.end_ms:
            await self._look_last(task)
            return
        task.look_ms = look_after(head.called_ms, self._clock.now_ms())
        try:
            look = await work.look(task, last=False)
        except WecomError as error:
            self._trouble(error)  # being handed out (41063), usually
            task.look_ms = max(task.look_ms, self._clock.now_ms() + self._pause_ms(error))
            return
        self._trouble(None)
        if look.found and look.found != head.found:
            head.found = look.found
            self._recent.append(look.found)
            await self._shelf.note(task)
        await self._settle(task, look.results, look.inbound, look.commands)
        if look.unconfirmed and task.is_void:
            await self._withdraw(task)
        elif look.unconfirmed and reminds(head, self._remind_ms, self._clock.now_ms()):
            await self._remind(task)
        task.look_ms = min(task.look_ms, head.end_ms)

    async def _withdraw(self, task: Task) -> None:
        """All that is left of it is superseded: the member is not to confirm it any more. When he
        has, what WeCom says of each customer stands."""
        await self._shelf.note(task)  # first: what is not superseded for good is not cancelled
        if not await self._cancel(task):
            return  # he has just confirmed it: the next look says more, or tries again
        look = await self._works[task.head.kind].look(task, last=False)
        await self._settle(task, look.results)
        if look.unconfirmed:
            await self._end(task, COLLAPSED)

    async def _look_last(self, task: Task) -> None:
        """Its time is over: what is not confirmed is cancelled, and what was is still told."""
        head, work = task.head, self._works[task.head.kind]
        try:
            await self._cancel(task)
            look = await work.look(task, last=True)
        except (NotSent, Unanswered, WecomError) as error:
            refused = isinstance(error, WecomError) and error.verdict.kind == "failed"
            if not refused and self._clock.now_ms() < head.end_ms + CANCEL_FOR_MS:
                raise
            self._trouble(error)
            await self._lost(task)
        else:
            self._trouble(None)
            await self._settle(task, look.results, look.inbound, look.commands)
            await self._end(task, _end_code(task, "not-confirmed"))

    async def _cancel(self, task: Task) -> bool:
        """Whether nobody can confirm it any more."""
        try:
            await self._works[task.head.kind].cancel(task)
        except WecomError as error:
            if error.verdict.kind not in ("failed", "done"):
                raise
            self._shelf.count("cancel_refused")  # it is over already, or gone
            return error.verdict.kind == "done"
        self._shelf.count("task_cancelled")
        return True

    async def _remind(self, task: Task) -> None:
        head = task.head
        head.reminded = [*head.reminded, self._clock.now_ms()][-REMINDERS:]
        await self._shelf.note(task)  # first: never once too often
        try:
            await self._ask_again(task)
        except WecomError as error:
            self._trouble(error)
            self._shelf.count("remind_refused")
        else:
            self._shelf.count("reminded")

    async def _end(self, task: Task, code: str) -> None:
        """Whoever has no last word gets this one."""
        result = Result("failed", self._clock.now_ms(), "expired", code)
        await self._settle(task, dict.fromkeys(task.waiting, result))

    async def _lost(self, task: Task) -> None:
        """WeCom may have it, and does not say what became of it: nobody knows."""
        result = Result("unknown", self._clock.now_ms(), code="unanswered")
        await self._settle(task, dict.fromkeys(task.waiting, result))

    async def _settle(
        self,
        task: Task,
        results: Mapping[str, Result],
        inbound: tuple[ProviderInbound, ...] = (),
        commands: tuple[ProviderCommand, ...] = (),
        *,
        superseded_ms: int | None = None,
    ) -> None:
        """Tell last words, a part at a time, each in one commit with the note that it is told."""
        for part in sorted(task.parts) if results or superseded_ms is not None else ():
            settled = settle(
                task,
                part,
                results,
                superseded_ms=superseded_ms,
                inbound=inbound,
                commands=commands,
            )
            if settled is None:
                continue
            await self._shelf.tell(task, settled)
            for receipt in settled.bundle.receipts:
                self._shelf.count(f"task_{receipt.status}")


def _end_code(task: Task, code: str) -> str:
    return "cancelled" if task.head.cancelled else code
