"""Provider `wecom-archive`: what members and customers said to each other, both directions, read
from a session archive and told as it is read. It sends nothing.

The place in the archive is noted in the same commit as the messages before it, so that a restart,
wherever it comes, neither misses nor repeats one.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from channels.http import Confirmation
from channels.provider import (
    BUNDLE_BYTES,
    BUNDLE_THINGS,
    Answer,
    Bundle,
    Callback,
    Events,
    Link,
    Prepared,
    ProviderInbound,
    Reply,
    Submission,
    Unsendable,
)
from channels.wecom import config
from channels.wecom.archive_messages import read_item
from channels.wecom.archive_source import (
    Archived,
    ArchiveSource,
    ArchiveUnreadable,
    JsonLinesArchive,
)
from channels.wecom.config import ArchiveConfig
from hub.clock import Clock
from hub.contract.types import Delivery
from hub.errors import ConfigError

SEQ_NOTE: Final = "seq"
"""The note with the sequence of the last item told, as decimal digits."""
PAGE_ITEMS: Final = BUNDLE_THINGS
"""Items read at once: a bundle's worth if each is one message."""
MESSAGE_BYTES: Final = 512
"""What a message takes in a bundle beside its content."""
BUNDLE_ROOM: Final = BUNDLE_BYTES // 2
"""Bytes of a bundle before it takes no more; one item alone is never above BUNDLE_BYTES."""
STORED_S: Final = 30.0
"""A bundle that is not stored in this time is told again: the account knows it by its id."""
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
"""Between two tries to read or to store; each is drawn from the upper half."""

_log = structlog.get_logger(__name__)


def check(settings: ArchiveConfig, sms: Any = None) -> None:
    """What types cannot say of the table. Raises ConfigError naming the key."""
    config.check(settings)
    if not Path(settings.path).is_absolute():
        raise ConfigError("path: must be absolute: hosts of accounts have folders of their own")


class WecomArchiveProvider:
    """Reads one archive for one account. Raises ConfigError when the table is not valid."""

    resend = False
    idle = False
    """Nobody tells it that there is something to read."""

    def __init__(
        self,
        settings: ArchiveConfig,
        sms: Any,
        events: Events,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
        source: ArchiveSource | None = None,
    ) -> None:
        check(settings)
        self._source = source or JsonLinesArchive(Path(settings.path))
        self._poll_s = config.ms(settings, "poll") / 1_000
        self._events = events
        self._clock = clock
        self._chance = chance
        self._account = account
        self._seq = 0
        self._problem: str | None = None
        """Why it cannot be read; "" while it can, None before that is known."""
        self._task: asyncio.Task[None] | None = None

    def prepare(self, delivery: Delivery) -> Prepared:
        """Nothing leaves by an archive."""
        raise Unsendable("this account reads an archive, it sends nothing", failure="config")

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Read on behind what was told before."""
        self._seq = int(notes.get(SEQ_NOTE, b"0"))
        self._task = asyncio.create_task(self._run(), name=f"{self._account}-archive")

    def submit(self, submission: Submission) -> None:
        """Never reached: `prepare` refuses all."""
        self._events.answered(submission.delivery, Answer("failed", failure="config"))

    def flush(self) -> None:
        """Nothing is written."""

    async def callback(self, request: Callback) -> Reply:
        """Nobody calls: that there is something new is seen."""
        return Reply(404)

    async def stop(self, drain_s: float) -> None:
        """End. What was told and not stored is told again by whoever reads next."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # ---- reading -------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._read_on()
        except Exception as error:
            # A bug must be seen, and its text may quote what was said: not told.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            _log.error("archive.bug", account=self._account, error=type(error).__name__, at=place)
            self._link(f"stopped by an error of its own behind {self._seq}, see the log")

    async def _read_on(self) -> None:
        tries = 0
        while True:
            try:
                page = await self._source.read(self._seq, PAGE_ITEMS)
            except ArchiveUnreadable as error:
                self._link(error.message)
                await self._pause(tries)
                tries += 1
                continue
            tries = 0
            self._link("")
            self._count("archive_unreadable", page.unreadable)
            self._count("archive_behind", page.behind)
            for seq, inbound in self._bundles(page.items):
                await self._store(seq, inbound)
            if not page.items:
                await asyncio.sleep(self._poll_s)

    def _bundles(self, items: Sequence[Archived]) -> Iterator[tuple[int, list[ProviderInbound]]]:
        """Messages that fit one bundle, and the sequence of the last item among them."""
        waiting: list[ProviderInbound] = []
        size = last = 0
        for item in items:
            read = read_item(item, self._clock.now_ms())
            self._count(read.counted)
            more = sum(map(_size, read.inbound))
            full = len(waiting) + len(read.inbound) > BUNDLE_THINGS or size + more > BUNDLE_ROOM
            if waiting and full:
                yield last, waiting
                waiting, size = [], 0
            waiting += read.inbound
            size += more
            last = item.seq
        if last:
            yield last, waiting

    async def _store(self, seq: int, inbound: Sequence[ProviderInbound]) -> None:
        """Tell them with the place behind them, until they are stored."""
        bundle = Bundle(
            id=f"archive:{self._seq}-{seq}",
            inbound=tuple(inbound),
            notes={SEQ_NOTE: str(seq).encode()},
        )
        tries = 0
        while True:
            confirmation = Confirmation()
            self._events.bundle(bundle, confirmation.expect())
            if await confirmation.all_stored(STORED_S):
                self._seq = seq
                return
            self._count("not_stored")
            await self._pause(tries)
            tries += 1

    async def _pause(self, tries: int) -> None:
        whole = min(BACKOFF_FIRST_S * 2 ** min(tries, 16), BACKOFF_MAX_S)
        await asyncio.sleep(whole * (0.5 + self._chance.random() / 2))

    def _link(self, problem: str) -> None:
        """Tell how it is, if that has changed."""
        if problem == self._problem:
            return
        self._problem = problem
        _log.info("archive.link", account=self._account, problem=problem)
        self._events.link(Link(window=0 if problem else 1, reason=problem, config=bool(problem)))

    def _count(self, what: str, times: int = 1) -> None:
        for _ in range(times):
            self._events.counted("tact_provider_total", self._account, what)


def _size(inbound: ProviderInbound) -> int:
    """What a message takes in a bundle, about."""
    return MESSAGE_BYTES + len(msgspec.json.encode(inbound.content))
