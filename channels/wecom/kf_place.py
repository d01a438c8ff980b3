"""How far an account has read, and what it has read last: pure, and kept as the account's notes.

The cursor says where to go on. It alone would publish old messages again when it goes backwards:
WeCom may refuse it (then reading begins three days back), or answer it with an older page. So the
last ids are kept beside it, and the time up to which ids were forgotten:

- an id that is kept was published;
- after a fresh start at the beginning, whatever is no newer than a forgotten id was, too;
- and what is older than that by LATE_S is not new, whatever cursor brought it.

All of it is stored in the commit of the messages it speaks of. Ids are in segments, so that a page
rewrites only the last one. Source: WeCom's page 94670.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final

import msgspec
from msgspec import Struct

from channels.wecom.kf_messages import Understood

SEGMENT: Final = 256
"""Ids of a segment: a note of 4 KiB, written again with each page."""
SEGMENTS: Final = 8
"""Full ones kept besides the last: 2,048 ids are at least ten pages, 32 KiB an account."""
LATE_S: Final = 6 * 3_600
"""A message older than every forgotten one by so much was read before. WeCom delivers within
seconds; one that it held up for hours, while thousands of others passed, would be lost by this."""

CURSOR_NOTE: Final = "kf/cursor"
SEEN_NOTE: Final = "kf/seen/"


class Known(Struct, frozen=True, array_like=True):
    """A message that was published."""

    digest: bytes
    at_s: int


class Place(Struct, frozen=True):
    """How far one account has read."""

    cursor: str = ""
    floor_s: int = 0
    """The newest of the messages whose ids were forgotten, Unix s."""
    again: bool = False
    """Reading began anew without a cursor, and has not come to the end since."""
    number: int = 0
    """Of the last segment."""
    segments: tuple[tuple[Known, ...], ...] = ((),)
    """The oldest first; the last is being filled."""

    def fresh(self, messages: Iterable[Understood]) -> list[Understood]:
        """Those that were not published before, each once."""
        known = {one.digest for one in chain(*self.segments)}
        found = []
        for message in messages:
            digest = digest_of(message.id)
            if digest in known or self._is_behind(message.at_s):
                continue
            known.add(digest)
            found.append(message)
        return found

    def _is_behind(self, at_s: int) -> bool:
        return at_s <= self.floor_s - (0 if self.again else LATE_S)

    def after(self, messages: Iterable[Understood]) -> Place:
        """With these published."""
        floor_s, number, segments = self.floor_s, self.number, list(self.segments)
        for message in messages:
            if len(segments[-1]) >= SEGMENT:
                segments.append(())
                number += 1
            segments[-1] = (*segments[-1], Known(digest_of(message.id), message.at_s))
        while len(segments) > SEGMENTS + 1:
            floor_s = max(floor_s, *(one.at_s for one in segments.pop(0)))
        return Place(self.cursor, floor_s, self.again, number, tuple(segments))

    def at(self, cursor: str, *, more: bool) -> Place:
        """With the page behind it read; `more` is to come."""
        again = self.again and more
        return Place(cursor, self.floor_s, again, self.number, self.segments)

    def from_the_beginning(self) -> Place:
        """The cursor is no good: read what WeCom still has, and publish what is new of it."""
        return Place("", self.floor_s, True, self.number, self.segments)

    def notes(self, before: Place) -> dict[str, bytes]:
        """What must be written for it, when `before` is."""
        head = _Head(self.cursor, self.floor_s, self.again, self.number, len(self.segments))
        written = {CURSOR_NOTE: _encode(head)}
        first = self.number - len(self.segments) + 1
        for offset, segment in enumerate(self.segments):
            number = first + offset
            if number >= before.number:
                written[_seen_note(number)] = _encode(segment)
        return written


class _Head(Struct, frozen=True, array_like=True):
    """What stands in the note of the cursor. New fields go to the end."""

    cursor: str
    floor_s: int
    again: bool
    number: int
    segments: int


_encode = msgspec.msgpack.Encoder().encode
_head = msgspec.msgpack.Decoder(_Head)
_segment = msgspec.msgpack.Decoder(tuple[Known, ...])


def place_of(notes: Mapping[str, bytes]) -> Place:
    """Where the account stands by its notes; the beginning without any that can be read."""
    packed = notes.get(CURSOR_NOTE)
    if packed is None:
        return Place()
    try:
        head = _head.decode(packed)
        numbers = range(head.number - head.segments + 1, head.number + 1)
        segments = tuple(_segment.decode(notes[_seen_note(number)]) for number in numbers)
    except (msgspec.DecodeError, KeyError):
        # Written by nobody but us: a later version, perhaps. The account removes repeated ids too.
        return Place()
    return Place(head.cursor, head.floor_s, head.again, head.number, segments or ((),))


def digest_of(id: str) -> bytes:
    """An id as it is kept. Of 2,048 kept ones none is met by chance in 10^15 messages."""
    return hashlib.blake2b(id.encode(), digest_size=8).digest()


def _seen_note(number: int) -> str:
    # One more place than is used: a segment that is dropped is overwritten a segment later.
    return f"{SEEN_NOTE}{number % (SEGMENTS + 2)}"
