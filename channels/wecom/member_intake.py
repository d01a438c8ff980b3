"""Takes deliveries for a member's tasks over: noted first, then answered.

Nothing is told of them yet, but their places in the account's window are free for what is urgent.
What comes together is stored together, as much as one bundle holds. See `channels.wecom.tasks`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from msgspec import Struct

from channels.provider import Answer, Bundle, Events, Submission
from channels.wecom.task_results import COLLAPSED, Settled
from channels.wecom.tasks import (
    CALLING,
    COLLECTS,
    NOTES_KEPT,
    PART,
    TASK_CUSTOMERS,
    Entry,
    Head,
    Task,
    group_of,
    head_note,
    load,
    name_of,
    part_note,
    provider_id,
)
from hub.clock import Clock

WINDOW: Final = 400
"""Deliveries that may be unanswered: two parts, so that a mass message of 100,000 is taken over in
seconds, and of ten members who are given one at a time none holds up the turn of the others' host
for long (with 2,000 each a turn took up to a second, and welcome messages waited for it)."""
KEEP_BYTES: Final = 128 * 1024
"""Of the notes of one bundle: with one more delivery, its task's content and that of the task of
the delivery it replaces, it stays below a bundle's bound."""
KEEP_TASKS: Final = 64
"""Tasks that one bundle touches, each with two notes or more."""
ENTRY_BYTES: Final = 104
"""One customer in a note, at most: userid, name, key, time, and what is around them."""
HEAD_BYTES: Final = 256 + TASK_CUSTOMERS // 8
"""A head without content, at most."""
FULL_MS: Final = 60_000
"""A delivery that finds no room among the notes comes again after this."""
LAST_STORE_S: Final = 1.0
"""An account that stops waits for so long until what was submitted is stored; often it waits for
nothing, since the host makes no turn meanwhile. The next owner knows what was stored."""
STORE_AGAIN_S: Final = 1.0
"""Between two tries to have something stored."""

_LATE: Final = Answer("failed", failure="superseded", code=COLLAPSED)
"""To a delivery that is older than the last of its key."""

_log = structlog.get_logger(__name__)


class Job(Struct, frozen=True):
    """A delivery for a task, ready to be taken over."""

    kind: str
    body: bytes
    """JSON of the call; those of the same share one object."""
    to: str
    collects: bool = False
    """Whether others of the same content are waited for."""
    key: bytes = b""
    """`key_of` the delivery."""
    at_ms: int = 0
    """When it was decided, if it has a key."""

    def __repr__(self) -> str:
        return f"Job({self.kind!r})"


class Shelf:
    """All tasks of one account, and how something about them is stored."""

    def __init__(self, events: Events, account: str) -> None:
        self.tasks: dict[str, Task] = {}
        self.newest: dict[bytes, tuple[Task, int]] = {}
        """By key the delivery that a newer one would replace: its task and number. One that is
        superseded or told is not here."""
        self.changing = asyncio.Lock()
        """Held while something about tasks is stored and until memory says the same: what is stored
        first is then older, and nobody changes what is just being told."""
        self.events = events
        self.account = account
        self.news = asyncio.Event()
        """Something for whoever does what is due."""

    @property
    def notes(self) -> int:
        """How many notes all tasks take."""
        return sum(task.notes for task in self.tasks.values())

    async def store(self, bundle: Bundle) -> None:
        """Returns when it is stored."""
        while True:
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

            def stored(well: bool, answer: asyncio.Future[bool] = answer) -> None:
                if not answer.done():
                    answer.set_result(well)

            self.events.bundle(bundle, stored)
            if await answer:
                return
            self.count("not_stored")
            await asyncio.sleep(STORE_AGAIN_S)

    async def note(self, task: Task) -> None:
        """Store the head of a task as it is now."""
        async with self.changing:
            await self.store(Bundle(notes=head_note(task)))

    def take_off(self, task: Task, settled: Settled) -> None:
        """What was told is stored."""
        for index, entry in enumerate(task.parts[settled.part]):
            told = settled.left is None or settled.left[index].told
            if told and self.newest.get(entry.key) == (task, settled.part * PART + index):
                del self.newest[entry.key]
        if settled.left is None:
            del task.parts[settled.part]
        else:
            task.parts[settled.part] = settled.left

    def count(self, what: str) -> None:
        """Add one to what is counted of the account."""
        self.events.counted("tact_provider_total", self.account, what)

    def load(self, notes: Mapping[str, bytes]) -> dict[bytes, str]:
        """Take the tasks of an earlier owner. Returns their deliveries by name, with their ids for
        receipts: it may not have answered them."""
        tasks, broken = load(notes)
        for key in broken:
            _log.error("member.note-broken", account=self.account, key=key)
            self.count("note_broken")
        known: dict[bytes, str] = {}
        for task in tasks:
            self.tasks[task.head.id] = task
            for part, entries in task.parts.items():
                for index, entry in enumerate(entries):
                    known[entry.name] = provider_id(task.head.id, part * PART + index)
            for number, entry in task.untold():
                if entry.key and not task.is_superseded(number):
                    self.newest[entry.key] = task, number
        return known


class _Batch:
    """What one bundle stores: tasks that changed, with their changed parts."""

    def __init__(self) -> None:
        self.touched: dict[str, tuple[Task, set[int]]] = {}
        self.used = 0
        """Bytes, at most."""

    @property
    def full(self) -> bool:
        """Whether it takes no more."""
        return self.used >= KEEP_BYTES or len(self.touched) >= KEEP_TASKS

    def touch(self, task: Task) -> set[int]:
        """The head of a task has changed. Returns which of its parts have."""
        if task.head.id not in self.touched:
            self.touched[task.head.id] = (task, set())
            self.used += HEAD_BYTES + len(task.head.body)
        return self.touched[task.head.id][1]

    def add(self, task: Task, number: int) -> None:
        """A task has one more."""
        parts = self.touch(task)
        if number // PART not in parts:
            parts.add(number // PART)
            self.used += ENTRY_BYTES * (number % PART)
        self.used += ENTRY_BYTES

    @property
    def notes(self) -> dict[str, bytes | None]:
        """All of it."""
        notes: dict[str, bytes | None] = {}
        for task, parts in self.touched.values():
            notes |= head_note(task)
            for part in sorted(parts):
                notes |= part_note(task, part)
        return notes


class Intake:
    """Submissions on their way into tasks.

    `token`: random hex that makes the ids of tasks unique.
    """

    def __init__(
        self,
        shelf: Shelf,
        clock: Clock,
        *,
        collect_ms: int,
        give_up_ms: int,
        token: Callable[[], str],
    ) -> None:
        self._shelf = shelf
        self._clock = clock
        self._collect_ms = collect_ms
        self._give_up_ms = give_up_ms
        self._token = token
        self._known: dict[bytes, str] = {}
        self._groups: dict[tuple[str, bytes, int], Task] = {}
        """Tasks that collect."""
        self._submitted: deque[Submission] = deque()
        """In no task yet."""
        self._placed: list[tuple[str, str]] = []
        """Being stored: deliveries, and their ids for receipts."""
        self._news = asyncio.Event()
        self._kept = asyncio.Event()
        self._kept.set()
        self._loop: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Everything that was submitted is stored."""
        return self._kept.is_set()

    def start(self, known: dict[bytes, str]) -> None:
        """Take submissions from now on; those in `known` were taken by an earlier owner."""
        self._known = known
        self._loop = asyncio.create_task(self._keep(), name=f"{self._shelf.account}-keep")

    async def stop(self, drain_s: float) -> None:
        """Wait until what was submitted is stored, then end. What is not is handed back."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            async with asyncio.timeout(min(drain_s, LAST_STORE_S)):
                await self._kept.wait()
        except TimeoutError:
            _log.warning("member.cut", account=self._shelf.account, unanswered=len(self._placed))
        loop.cancel()
        await asyncio.wait([loop])
        for delivery, _ in self._placed:  # stored or not: the next owner knows
            self._answer(delivery, Answer("unknown", code="stopped"))
        for submission in self._submitted:
            self._answer(submission.delivery, Answer("retry"))
        self._placed.clear()
        self._submitted.clear()

    def take(self, submission: Submission) -> None:
        """Take a delivery over; its answer says that it is stored."""
        if self._loop is None or len(self._submitted) + len(self._placed) >= WINDOW:
            self._answer(submission.delivery, Answer("retry", code="window"))
            return
        own = self._known.pop(name_of(submission.delivery), None)
        if own is not None:
            self._taken(submission.delivery, own)
            return
        self._submitted.append(submission)
        self._kept.clear()
        self._news.set()

    async def _keep(self) -> None:
        while True:
            while not self._submitted:
                self._kept.set()
                self._news.clear()
                await self._news.wait()
            await asyncio.sleep(0)  # what comes in the same moment is kept together
            async with self._shelf.changing:
                batch = self._place()
                if batch.touched:
                    await self._shelf.store(Bundle(notes=batch.notes))
            now = self._clock.now_ms()
            for task, _ in batch.touched.values():
                task.unstored = False
                if task.is_void and task.head.state != CALLING:
                    task.look_ms = min(task.look_ms, now)
            placed, self._placed = self._placed, []
            for delivery, own in placed:
                self._taken(delivery, own)
            self._shelf.news.set()

    def _place(self) -> _Batch:
        """Put what was submitted into tasks, as much as one bundle holds."""
        batch = _Batch()
        room = NOTES_KEPT - self._shelf.notes
        self._groups = {key: task for key, task in self._groups.items() if task.collecting}
        while self._submitted and not batch.full:
            submission = self._submitted.popleft()
            job: Job = submission.prepared.parts[0]
            entry = Entry(job.to, name_of(submission.delivery), key=job.key, at_ms=job.at_ms)
            older = self._before(entry)
            if older is not None and older[0].entry(older[1]).at_ms > entry.at_ms:
                self._answer(submission.delivery, _LATE)  # the newer one was urgent
                continue
            task, end_ms = self._task_for(job, submission.expires_ms, older)
            new = task.head.id not in self._shelf.tasks
            needs = new + (task.head.count % PART == 0)
            if needs > room:
                self._shelf.count("tasks_full")
                self._answer(submission.delivery, Answer("retry", retry_after_ms=FULL_MS))
                continue
            room -= needs
            if new:
                self._shelf.tasks[task.head.id] = task
            if new and job.collects:
                self._groups[group_of(job.kind, job.body, end_ms)] = task
            number = task.add(entry)
            task.head.end_ms = min(task.head.end_ms, end_ms)
            batch.add(task, number)
            if older is not None:
                older[0].supersede(older[1])
                batch.touch(older[0])
                self._shelf.count("superseded")
            if entry.key:
                self._shelf.newest[entry.key] = task, number
            self._placed.append((submission.delivery, provider_id(task.head.id, number)))
            if not task.room(""):
                task.head.due_ms = task.look_ms = self._clock.now_ms()  # full: nothing to wait for
                task.close()
        return batch

    def _before(self, entry: Entry) -> tuple[Task, int] | None:
        """The task and number of the last delivery of its key, if that is not itself."""
        last = self._shelf.newest.get(entry.key)
        return last if last and last[0].entry(last[1]).name != entry.name else None

    def _task_for(
        self, job: Job, expires_ms: int, older: tuple[Task, int] | None
    ) -> tuple[Task, int]:
        """The task that takes it, maybe a new one, and when it is given up."""
        now = self._clock.now_ms()
        end_ms = now + self._give_up_ms
        if expires_ms:
            end_ms = min(end_ms, expires_ms)
        task = self._groups.get(group_of(job.kind, job.body, end_ms)) if job.collects else None
        if task is not None:
            instead = older is not None and older[0] is task and task.entry(older[1]).to == job.to
            if task.room(job.to, instead=instead):
                return task, end_ms
        due_ms = now + (self._collect_ms if job.collects else 0)
        id = f"{now:x}{self._token()}"
        head = Head(id, job.kind, COLLECTS, now, due_ms, end_ms, job.body)  # type: ignore[arg-type]
        return Task(head, collecting=job.collects), end_ms

    def _taken(self, delivery: str, own: str) -> None:
        self._answer(delivery, Answer("accepted", (own,), receipts=1, status=None))

    def _answer(self, delivery: str, answer: Answer) -> None:
        self._shelf.count(answer.kind)
        self._shelf.events.answered(delivery, answer)
