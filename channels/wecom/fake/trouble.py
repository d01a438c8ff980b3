"""Faults of the API that last for a while: an errcode, HTML, a 5xx, silence, a cut connection."""

from __future__ import annotations

import random
from typing import Final, Literal

from msgspec import Struct

Kind = Literal["errcode", "html", "http500", "hang", "cut", "slow", "cursor_back"]

FAULTS: Final = 100
"""At once."""


class Trouble(Struct, kw_only=True, forbid_unknown_fields=True):
    """A fault. It ends after `seconds`, or when it has happened `times` times."""

    api: str = "*"
    """A name as below /cgi-bin/, or "*": every one but gettoken."""
    kind: Kind = "errcode"
    errcode: int = -1
    seconds: float = 60.0
    times: int = 0
    """0: any number."""
    share: float = 1.0
    """Of the calls."""
    taken: bool = False
    """The call does what it should, and only its answer is wrong."""
    delay_s: float = 1.0
    """Of "slow"."""


class Troubles:
    """The faults of now."""

    def __init__(self) -> None:
        self._now: list[tuple[int, Trouble]] = []

    def add(self, trouble: Trouble, now_ms: int) -> None:
        """It begins."""
        self._now = [one for one in self._now if one[0] > now_ms][-FAULTS + 1 :]
        self._now.append((now_ms + int(trouble.seconds * 1_000), trouble))

    def clear(self) -> None:
        """All end."""
        self._now.clear()

    def of(self, api: str, now_ms: int, chance: random.Random) -> Trouble | None:
        """What a call meets."""
        for index, (until_ms, trouble) in enumerate(self._now):
            named = trouble.api == api or (trouble.api == "*" and api != "gettoken")
            if named and now_ms < until_ms and chance.random() < trouble.share:
                if trouble.times == 1:
                    del self._now[index]
                elif trouble.times:
                    trouble.times -= 1
                return trouble
        return None
