"""Takes deliveries for a member's tasks over: noted first, then answered.

Nothing is told of them yet, but their places in the account's window are free for what is urgent.
What comes together is noted together, as much as one bundle holds. See `channels.wecom.tasks`.

Memory and notes. Whoever changes a task hands its new notes over in the same step, with no `await`
between the two, so memory is what the notes say when they are stored. The account takes what is
reported in order, and stores it in that order or, from one point on, not at all: then it has
another owner, and this provider ends (`channels.provider.Stored`). Of two changes none overtakes
the other, then, and what is reported behind a note (answers, last words) holds only if the note
does. Only calls of WeCom wait until it is stored: no successor could take them back.
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

_LATE: Final = Answer("failed", failure="superseded", code=COLLAPSED)
"""To a delivery that is older than the last of its key."""
_FULL: Final = Answer("retry", retry_after_ms=FULL_MS)

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
    """All tasks of one account, and how their notes are stored."""

    def __init__(self, events: Events, account: str) -> None:
        self.tasks: dict[str, Task] = {}
        self.newest: dict[bytes, tuple[Task, int]] = {}
        """By key the delivery that a newer one would replace: its task and number. One that is
        superseded or told is not here."""
        self.events = events
        self.account = account
        self.unstored = 0
        """Bundles that are handed over and not stored yet: one of the driver's, and no more than
        one for each delivery that is unanswered."""
        self.news = asyncio.Event()
        """Something for whoever does what is due."""

    @property
    def notes(self) -> int:
        """How many notes all tasks take."""
        return sum(task.notes for task in self.tasks.values())

    def store(self, bundle: Bundle) -> asyncio.Future[None]:
        """Hand a bundle over. Done when it is stored; one that is not stored is never done, and
        whoever waits for it is ended with the provider."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def stored(well: bool) -> None:
            self.unstored -= 1
            if not well:
                self.count("not_stored")
            elif not done.done():
                done.set_result(None)

        self.unstored += 1
        self.events.bundle(bundle, stored)
        return done

    def note(self, task: Task) -> asyncio.Future[None]:
        """Hand over the head of a task as it is now."""
        return self.store(Bundle(notes=head_note(task)))

    def tell(self, task: Task, settled: Settled) -> asyncio.Future[None]:
        """Hand over what became of a part of a task, which is told from now on."""
        for index, entry in enumerate(task.parts[settled.part]):
            told = settled.left is None or settled.left[index].told
            if told and self.newest.get(entry.key) == (task, settled.part * PART + index):
                del self.newest[entry.key]
        if settled.left is None:
            del task.parts[settled.part]
        else:
            task.parts[settled.part] = settled.left
        if not task.parts:
            del self.tasks[task.head.id]
        return self.store(settled.bundle)

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
    """What one bundle stores: tasks that changed, with their changed parts; and what is answered
    behind it."""

    def __init__(self) -> None:
        self.touched: dict[str, tuple[Task, set[int]]] = {}
        self.answers: list[tuple[str, Answer]] = []
        """By delivery."""
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
        """In no task yet: those of this moment."""
        self._started = False

    @property
    def idle(self) -> bool:
        """Everything that was submitted is answered."""
        return not self._submitted

    def start(self, known: dict[bytes, str]) -> None:
        """Take submissions from now on; those in `known` were taken by an earlier owner."""
        self._known = known
        self._started = True

    def stop(self) -> None:
        """Take nothing more. What is in no task yet is handed back."""
        self._started = False
        while self._submitted:
            self._answer(self._submitted.popleft().delivery, Answer("retry"))

    def take(self, submission: Submission) -> None:
        """Take a delivery over; its answer comes behind the note that tells of it."""
        if not self._started or len(self._submitted) >= WINDOW:
            self._answer(submission.delivery, Answer("retry"))
            return
        own = self._known.pop(name_of(submission.delivery), None)
        if own is not None:
            self._answer(submission.delivery, _taken(own))
            return
        if not self._submitted:  # what comes in the same moment is noted together
            asyncio.get_running_loop().call_soon(self._take_over)
        self._submitted.append(submission)

    def _take_over(self) -> None:
        while self._submitted:
            batch = self._place()
            now = self._clock.now_ms()
            for task, _ in batch.touched.values():
                if task.is_void and task.head.state != CALLING:
                    task.look_ms = min(task.look_ms, now)
            if batch.touched:
                self._shelf.store(Bundle(notes=batch.notes))
            for delivery, answer in batch.answers:
                self._answer(delivery, answer)
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
                batch.answers.append((submission.delivery, _LATE))  # the newer one was urgent
                continue
            task, end_ms = self._task_for(job, submission.expires_ms, older)
            new = task.head.id not in self._shelf.tasks
            needs = new + (task.head.count % PART == 0)
            if needs > room:
                self._shelf.count("tasks_full")
                batch.answers.append((submission.delivery, _FULL))
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
            own = provider_id(task.head.id, number)
            batch.answers.append((submission.delivery, _taken(own)))
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

    def _answer(self, delivery: str, answer: Answer) -> None:
        self._shelf.count(answer.kind)
        self._shelf.events.answered(delivery, answer)


def _taken(own: str) -> Answer:
    """To a delivery of a task, by its id for receipts."""
    return Answer("accepted", (own,), receipts=1, status=None)
