"""What happened in customer service, in order, for sync_msg: messages of customers and of members,
and events. Three days of it are kept.

Source: WeCom's page 94670.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Final

from msgspec import Struct

from channels.wecom.fake.world import Refused

ENTRIES: Final = 1_000_000
"""Kept of one corp, beside the three days; the oldest go. 500 MB."""
_FACTOR: Final = 7_919
_REST: Final = 4_242
"""A cursor is a number times _FACTOR plus _REST: nobody counts on with it, and most made-up ones
are found out."""


class Entry(Struct, frozen=True):
    """Something that happened."""

    number: int
    """From 1, of all accounts of the corp."""
    at_ms: int
    message: dict[str, Any]


class KfLog:
    """Of one corp."""

    def __init__(self, keep_ms: int) -> None:
        self._keep_ms = keep_ms
        self._number = 0
        self._of: dict[str, list[Entry]] = {"": []}
        """open_kfid → its entries; "": of all."""

    def add(self, open_kfid: str, at_ms: int, message: dict[str, Any]) -> None:
        """It has happened."""
        self._number += 1
        entry = Entry(self._number, at_ms, message)
        for place in ("", open_kfid):
            entries = self._of.setdefault(place, [])
            entries.append(entry)
            if len(entries) > ENTRIES + ENTRIES // 10:
                del entries[: len(entries) - ENTRIES]

    def after(
        self, open_kfid: str, cursor: str, limit: int, now_ms: int
    ) -> tuple[list[dict[str, Any]], str, bool]:
        """A page after the cursor: its messages, the next cursor, and whether there are more.

        Raises Refused(40058) for a cursor that was never given.
        """
        entries = self._of.get(open_kfid, [])
        old = bisect_left(entries, now_ms - self._keep_ms, key=lambda entry: entry.at_ms)
        del entries[:old]
        seen = self._seen(cursor)
        start = bisect_right(entries, seen, key=lambda entry: entry.number)
        taken = entries[start : start + limit]
        last = taken[-1].number if taken else seen
        more = start + len(taken) < len(entries)
        return [entry.message for entry in taken], _cursor(last), more

    def back(self, open_kfid: str, cursor: str, number: int) -> str:
        """A cursor that is some messages of the account before this one."""
        entries = self._of.get(open_kfid, [])
        place = bisect_right(entries, self._seen(cursor), key=lambda entry: entry.number)
        place = max(place - number, 0)
        return _cursor(entries[place - 1].number if place else 0)

    def _seen(self, cursor: str) -> int:
        if not cursor:
            return 0
        try:
            number, rest = divmod(int(cursor.removeprefix("fakekf"), 16) - _REST, _FACTOR)
        except ValueError:
            raise Refused(40058) from None
        if rest or not 0 <= number <= self._number:
            raise Refused(40058)
        return number


def _cursor(number: int) -> str:
    return f"fakekf{number * _FACTOR + _REST:012x}"
