"""Tasks that WeCom gives a member to confirm: what is remembered of one, and what follows from it.

Nothing of a mass message has left when WeCom takes it: the member must confirm it, and what became
of it is asked for, customer by customer, for days. So a task is kept in the account's notes from
its first customer to its last result: a head, and its customers in parts, each small enough that a
part and all that is told of its customers are one bundle.

A delivery is in the notes before it is answered, and its name with it. So one that comes again,
since a host ended before its answer was stored, is recognised; and a call whose answer was lost is
looked for in WeCom's lists before it is made again.

A newer delivery of the same app, customer and collapse key supersedes an older one. That is noted
with the newer, in the older one's head. WeCom lets nobody take one customer out of a task: so it
has an effect before the task is made, or when all that is left in it is superseded. Pure.

Sources: WeCom's pages 92135 (tasks), 97610 (reminders).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from channels.provider import NOTES_MAX

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

TASK_CUSTOMERS: Final = 10_000
TASK_GROUPS: Final = 2_000
"""Customers, or customer groups, of one task (page 92135)."""
PART: Final = 200
"""Customers of one note: what is told of them all is one bundle, which holds so many things."""
NOTES_KEPT: Final = NOTES_MAX - 100
"""Notes that tasks may use: 170,000 customers who wait for one member, of 20,000 that a member may
have. What is more waits in the account."""
BODY_BYTES: Final = 48 * 1024
"""Of a task's content, which is in one note. The largest that WeCom takes is below 30 KiB."""
KEY: Final = "task/"

COLLECTS, CALLING, OPEN = range(3)
"""Of a task. COLLECTS: WeCom does not have it. CALLING: it may, and has not told its id. OPEN: it
has, and the member may confirm it."""

LOOKS_MS: Final = tuple(seconds * SECOND_MS for seconds in (30, 90, 210, 510, 1_110, 2_910))
"""After a task was made its results are asked for: pauses of 30 s, 1, 2, 5, 10 and 30 min. WeCom
hands a task out for some seconds first (41063)."""
LOOK_EVERY_MS: Final = 30 * MINUTE_MS
"""And so often after these."""
REMINDERS: Final = 3
"""Of one task in 24 h (page 97610)."""


class Entry(Struct, array_like=True, gc=False):
    """One delivery in a task."""

    to: str
    """External userid of the customer, or chat id of the group."""
    name: bytes
    """`name_of` the delivery."""
    told: bool = False
    """Its last word is stored."""
    key: bytes = b""
    """What a newer delivery replaces it by (`key_of`); empty for nothing."""
    at_ms: int = 0
    """When it was decided, if it has a key: what is urgent may come ahead of what is older."""


class Head(Struct, array_like=True):
    """What is remembered of a task beside its customers. New fields go to the end."""

    id: str
    kind: Literal["single", "group", "moment", "transfer"]
    state: int
    first_ms: int
    due_ms: int
    """When the call is to be made."""
    end_ms: int
    """When what is not confirmed is given up."""
    body: bytes = b""
    """JSON of the call without customers and sender; empty once WeCom has it."""
    count: int = 0
    """Deliveries it was given, from the first on."""
    called_ms: int = 0
    made: str = ""
    """WeCom's id of what the call made: msgid, jobid."""
    found: str = ""
    """Its second id: the moment that a job made."""
    reminded: list[int] = field(default_factory=list)
    cancelled: bool = False
    superseded: bytearray = field(default_factory=bytearray)
    """A bit for each delivery, from the lowest of the first byte on: a newer one has come. As long
    as is needed; here, since that is noted for many customers at once, whose parts are larger."""

    def __repr__(self) -> str:
        return f"Head({self.id!r}, {self.kind!r}, {self.count})"


class Task:
    """A task in memory."""

    __slots__ = ("collecting", "failures", "head", "keys", "look_ms", "parts")

    def __init__(self, head: Head, *, collecting: bool = False) -> None:
        self.head = head
        self.collecting = collecting
        """More may be added to it."""
        self.parts: dict[int, list[Entry]] = {}
        """By number; those of which everything is told are gone."""
        self.keys: set[str] = set()
        """Whom it has, while it collects: nobody twice, or their results would be mixed up."""
        self.look_ms = head.due_ms
        """When there is something to do."""
        self.failures = 0
        """Tries in a row that ended without an answer, or with "later"."""

    def __repr__(self) -> str:
        return f"Task({self.head!r})"

    @property
    def notes(self) -> int:
        """How many notes it takes."""
        return 1 + len(self.parts)

    @property
    def waiting(self) -> list[str]:
        """Whom nothing was told about."""
        return [entry.to for _, entry in self.untold()]

    @property
    def everyone(self) -> list[str]:
        """All whom it was made for; complete until something is told."""
        return [entry.to for part in self.parts.values() for entry in part]

    def waits_for(self, names: Collection[bytes]) -> bool:
        """Whether it has a delivery of one of these names that nothing was told about."""
        return any(entry.name in names for _, entry in self.untold())

    def untold(self) -> Iterator[tuple[int, Entry]]:
        """The deliveries that nothing was told about, with their numbers."""
        for part, entries in self.parts.items():
            for index, entry in enumerate(entries):
                if not entry.told:
                    yield part * PART + index, entry

    def entry(self, number: int) -> Entry:
        """A delivery by its number; its part is not gone."""
        return self.parts[number // PART][number % PART]

    def room(self, to: str, *, instead: bool = False) -> bool:
        """Whether it takes another delivery, for this customer; `instead` of the one it has."""
        most = {"single": TASK_CUSTOMERS, "group": TASK_GROUPS}.get(self.head.kind, 1)
        return self.collecting and self.head.count < most and (instead or to not in self.keys)

    def supersede(self, number: int) -> None:
        """A newer delivery has come."""
        marks = self.head.superseded
        marks.extend(bytes(max(0, number // 8 + 1 - len(marks))))
        marks[number // 8] |= 1 << number % 8

    def is_superseded(self, number: int) -> bool:
        """Whether a newer one has come."""
        marks = self.head.superseded
        return number // 8 < len(marks) and bool(marks[number // 8] >> number % 8 & 1)

    @property
    def has_superseded(self) -> bool:
        """Whether any that nothing was told about is superseded."""
        marked = bool(self.head.superseded)
        return marked and any(self.is_superseded(number) for number, _ in self.untold())

    @property
    def is_void(self) -> bool:
        """Whether all that nothing was told about are superseded."""
        marked = bool(self.head.superseded)
        return marked and all(self.is_superseded(number) for number, _ in self.untold())

    def close(self) -> None:
        """It takes no more."""
        self.collecting = False
        self.keys.clear()

    def add(self, entry: Entry) -> int:
        """Take one more; returns its number."""
        number = self.head.count
        self.head.count += 1
        self.parts.setdefault(number // PART, []).append(entry)
        self.keys.add(entry.to)
        return number


# ---- names -----------------------------------------------------------------------------------


def name_of(delivery: str) -> bytes:
    """A short name of a delivery: 64 bits, so that of a million two are alike once in 36 million
    accounts."""
    return hashlib.blake2b(delivery.encode(), digest_size=8).digest()


def names_of(app: str, intent: str, customer: str, attempts: int) -> set[bytes]:
    """What the deliveries of an intent can be called, by the rules of the account."""
    names = [f"{app}:{intent}:{attempt}" for attempt in range(1, attempts + 1)]
    return {name_of(name) for name in names} | {name_of(f"{name} {customer}") for name in names}


def key_of(app: str, customer: str, collapse_key: str | None) -> bytes:
    """By what a delivery replaces older ones, as short as a name; empty: it replaces none."""
    if collapse_key is None:
        return b""
    whole = msgspec.json.encode((app, customer, collapse_key))
    return hashlib.blake2b(whole, digest_size=8).digest()


def provider_id(task: str, number: int) -> str:
    """What receipts call a delivery of a task."""
    return f"{task}/{number}"


def group_of(kind: str, body: bytes, end_ms: int) -> tuple[str, bytes, int]:
    """Deliveries of the same are collected into one task: content, and the hour they expire in. The
    task ends when the first of them does: none reaches a customer after its time."""
    return kind, hashlib.blake2b(body, digest_size=16).digest(), end_ms // HOUR_MS


# ---- notes -----------------------------------------------------------------------------------

_pack = msgspec.msgpack.Encoder().encode
_unpack_head = msgspec.msgpack.Decoder(Head).decode
_unpack_part = msgspec.msgpack.Decoder(list[Entry]).decode


def head_key(task: Task) -> str:
    """Where its head is noted."""
    return f"{KEY}{task.head.id}"


def part_key(task: Task, part: int) -> str:
    """Where one of its parts is noted."""
    return f"{KEY}{task.head.id}/{part}"


def pack_part(entries: list[Entry]) -> bytes:
    """The note of a part."""
    return _pack(entries)


def head_note(task: Task) -> dict[str, bytes | None]:
    """The note of its head."""
    return {head_key(task): _pack(task.head)}


def part_note(task: Task, part: int) -> dict[str, bytes | None]:
    """The note of one of its parts."""
    return {part_key(task, part): _pack(task.parts[part])}


def load(notes: Mapping[str, bytes]) -> tuple[list[Task], list[str]]:
    """The tasks in an account's notes, and the keys of notes that cannot be read as one."""
    tasks: dict[str, Task] = {}
    broken: list[str] = []
    for key in sorted(key for key in notes if key.startswith(KEY)):  # heads before their parts
        id, _, part = key.removeprefix(KEY).partition("/")
        try:
            if not part:
                tasks[id] = Task(_unpack_head(notes[key]))
            elif id not in tasks or not part.isdecimal():
                broken.append(key)
            else:
                tasks[id].parts[int(part)] = _unpack_part(notes[key])
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            broken.append(key)
    for id in [id for id, task in tasks.items() if not task.parts]:
        broken.append(f"{KEY}{id}")
        del tasks[id]
    for task in tasks.values():
        task.parts = dict(sorted(task.parts.items()))
        head = task.head
        if head.state == OPEN:
            task.look_ms = head.called_ms
        elif head.state == CALLING:
            task.look_ms = head.called_ms + FOUND_AFTER_MS
    return list(tasks.values()), broken


# ---- what happens when -------------------------------------------------------------------------

FOUND_AFTER_MS: Final = 90 * SECOND_MS
"""A call without an answer is looked for in WeCom's lists no sooner: a former owner's may have been
under way for as long as a call takes, and a new task is handed out first."""
SURE_AFTER_MS: Final = 5 * MINUTE_MS
"""And what was not found then is looked for once more: a task that is still handed out may not be
listed yet."""
CALL_WITHIN_MS: Final = 10 * SECOND_MS
"""A call is made within this time of the note that tells of it, or noted anew: so a host that stood
still calls nothing after another has looked for it."""
BACKOFF_FIRST_MS: Final = 5 * SECOND_MS
BACKOFF_MAX_MS: Final = 5 * MINUTE_MS
"""Between tries of what WeCom could not do, or did not answer."""
CANCEL_FOR_MS: Final = 10 * MINUTE_MS
"""A task is tried to be cancelled for so long after its end; then it is given up all the same."""


def look_after(called_ms: int, now: int) -> int:
    """When the results of a task are asked for next."""
    for offset in LOOKS_MS:
        if called_ms + offset > now:
            return called_ms + offset
    beyond = now - called_ms - LOOKS_MS[-1]
    return called_ms + LOOKS_MS[-1] + (beyond // LOOK_EVERY_MS + 1) * LOOK_EVERY_MS


def backoff_ms(failures: int) -> int:
    """Before another try, after so many failed ones."""
    return min(BACKOFF_FIRST_MS << min(max(failures - 1, 0), 10), BACKOFF_MAX_MS)


def reminds(head: Head, remind_ms: int, now: int) -> bool:
    """Whether the member is reminded now; 0: never."""
    recent = [at for at in head.reminded if at > now - DAY_MS]
    last = head.reminded[-1] if head.reminded else head.called_ms
    return 0 < remind_ms <= now - last and len(recent) < REMINDERS
