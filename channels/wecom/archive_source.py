"""Where the session archive comes from. WeCom gives it out through a native library only, so that
another program fetches and decrypts it; the hub reads what that program writes, item by item.

The one implementation here reads JSON lines: one decrypted item a line, as WeCom's page 91774 has
it, with its `seq`. A library or a database becomes another by having `read`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from hub.errors import TactError

LINE_BYTES: Final = 256 * 1024
"""One line; a longer one is skipped. A text has some KiB, a forwarded chat some dozen."""
CHUNK_BYTES: Final = 4 * LINE_BYTES
"""Read at once, between two looks at the event loop."""
PAGE_BYTES: Final = 1024 * 1024
"""Lines of one page, before it takes no more."""
FILES: Final = 100_000
"""Files in one folder: of one an hour, eleven years."""
SUFFIX: Final = ".jsonl"

_SEQ_MAX: Final = 2**63 - 1


class ArchiveUnreadable(TactError):
    """The source cannot be read now; the message says why, without contents."""

    code = "archive-unreadable"
    retryable = True


class Archived(Struct, frozen=True):
    """One item of the archive, decrypted."""

    seq: int
    message: dict[str, Any]

    def __repr__(self) -> str:
        return f"Archived({self.seq})"


class ArchivePage(Struct, frozen=True):
    """What was read at once."""

    items: tuple[Archived, ...] = ()
    unreadable: int = 0
    """Lines that are none of the archive's, or too long: skipped."""
    behind: int = 0
    """Items whose `seq` went backwards: skipped."""

    def __repr__(self) -> str:
        return f"ArchivePage({len(self.items)} items)"


class ArchiveSource(Protocol):
    """A session archive that can be read on from anywhere."""

    async def read(self, after: int, most: int) -> ArchivePage:
        """At most `most` items behind sequence `after`, ascending; none when there are none now.

        Raises ArchiveUnreadable.
        """


class JsonLinesArchive:
    """A file that grows at its end, or a folder of `*.jsonl` of which the last in the order of
    their names grows.

    Sequences ascend. A line without its end is not read yet. A file that was cut or replaced is
    read again from its beginning: what was read before is known by its sequence.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._after = -1
        """The last sequence given out, or begun behind; -1: not begun."""
        self._caught_up = False
        """Something was given out since the file was begun: a lower sequence went backwards."""
        self._file = Path()
        self._inode = 0
        self._offset = 0
        self._in_long_line = False

    async def read(self, after: int, most: int) -> ArchivePage:
        """See `ArchiveSource.read`."""
        try:
            # The list first: what the last file but one got before there was another is read.
            files = self._files()
            if after != self._after:
                self._begin(after, files)
            return await self._page(files, most)
        except OSError as error:
            raise ArchiveUnreadable(
                f"the archive cannot be read: {error.strerror or type(error).__name__}"
            ) from error

    def _files(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path]
        found = sorted(file for file in self._path.iterdir() if file.suffix == SUFFIX)
        if len(found) > FILES:
            raise ArchiveUnreadable(f"the archive has {len(found)} files, at most {FILES}")
        return found

    def _begin(self, after: int, files: list[Path]) -> None:
        """At the first file that may hold something behind `after`: of the others only the ends
        are read."""
        whole = files[:-1]
        passed = next((n for n, file in enumerate(whole) if _last_seq(file) > after), len(whole))
        self._file = files[passed] if files else Path()
        self._after, self._inode, self._caught_up = after, 0, False

    async def _page(self, files: list[Path], most: int) -> ArchivePage:
        page = _Page(most)
        for file in files:
            if file < self._file:
                continue
            self._stand_in(file)
            ended = False
            while not ended:
                chunk = self._chunk()
                ended = len(chunk) < CHUNK_BYTES
                for line, end in self._lines(chunk, whole=ended and file is not files[-1]):
                    self._offset = end
                    self._take(line, page)
                    if page.full:
                        return page.made()
                await asyncio.sleep(0)  # others have work too
        return page.made()

    def _stand_in(self, file: Path) -> None:
        """Where reading goes on in a file: at the beginning if it is another than before."""
        stat = file.stat()
        replaced = stat.st_ino != self._inode or stat.st_size < self._offset
        if file != self._file or replaced:
            self._caught_up = self._caught_up and file != self._file
            self._file, self._inode = file, stat.st_ino
            self._offset, self._in_long_line = 0, False

    def _chunk(self) -> bytes:
        with self._file.open("rb") as opened:
            opened.seek(self._offset)
            return opened.read(CHUNK_BYTES)

    def _lines(self, chunk: bytes, *, whole: bool) -> Iterator[tuple[bytes, int]]:
        """Each line, and the offset behind it. `whole`: the last line may lack its end."""
        at = 0
        if self._in_long_line:
            at = chunk.find(b"\n") + 1
            self._in_long_line = at == 0
            yield b"", self._offset + (at or len(chunk))
            if at == 0:
                return
        start = self._offset - at
        while end := chunk.find(b"\n", at) + 1:
            yield chunk[at:end], start + end
            at = end
        if whole and chunk[at:]:
            yield chunk[at:], start + len(chunk)
        elif len(chunk) - at >= CHUNK_BYTES:
            self._in_long_line = True
            yield chunk, start + len(chunk)

    def _take(self, line: bytes, page: _Page) -> None:
        item = _item(line)
        if item is None:
            page.unreadable += bool(line.strip())
        elif item.seq > self._after:
            self._after, self._caught_up = item.seq, True
            page.add(item, len(line))
        else:
            page.behind += self._caught_up


class _Page:
    """A page while it fills."""

    def __init__(self, most: int) -> None:
        self.unreadable = 0
        self.behind = 0
        self._items: list[Archived] = []
        self._most = most
        self._bytes = 0

    def add(self, item: Archived, size: int) -> None:
        self._items.append(item)
        self._bytes += size

    @property
    def full(self) -> bool:
        return len(self._items) >= self._most or self._bytes >= PAGE_BYTES

    def made(self) -> ArchivePage:
        return ArchivePage(tuple(self._items), self.unreadable, self.behind)


def _item(line: bytes) -> Archived | None:
    """The item on a line; None for anything else."""
    if len(line) > LINE_BYTES:
        return None
    try:
        message = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    seq = message.get("seq")
    if type(seq) is not int or not 0 < seq <= _SEQ_MAX:
        return None
    return Archived(seq, message)


def _last_seq(file: Path) -> int:
    """Of the last item of a file; beyond all when there is none to be read."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 2 * LINE_BYTES))
        lines = opened.read(2 * LINE_BYTES).splitlines()
    found = (item.seq for line in reversed(lines) if (item := _item(line)) is not None)
    return next(found, _SEQ_MAX)
