"""What a fake provider does to each message, drawn from a seed.

The same seed, message and try get the same fate in every run and whatever the order in which
messages arrive, so that a failure can be repeated. A message is known by a key of its bytes (its
recipient and its content); a message that comes again under the same key is the next try, and draws
again, so that what was throttled once can pass later.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

KEYS_REMEMBERED: Final = 100_000
"""Messages whose number of tries is remembered: an hour of a test's load in 10 MB. One that is
forgotten begins again with its first fate."""

RECORD_LINES: Final = 256
"""Lines a `Recorder` holds before it writes them: one write in 100 ms at 2,000 messages/s."""

FLUSH_S: Final = 0.2
"""How often what a `Recorder` holds goes to the file."""

_SPACE: Final = float(1 << 64)


class Odds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often each thing goes wrong: shares from 0 to 1, times in milliseconds."""

    latency_ms: float = 0.0
    """Mean time to an answer; each draws between half and one and a half of it."""
    throttle: float = 0.0
    """Answered "too fast"; not taken."""
    busy: float = 0.0
    """Answered with a temporary fault; not taken."""
    refuse: float = 0.0
    """Refused for good; not taken."""
    lose_answers: float = 0.0
    """Taken, and never answered."""
    repeat_answers: float = 0.0
    """Answered twice."""
    cut: float = 0.0
    """Taken, and the connection is cut instead of an answer."""
    receipt_ms: float = 0.0
    """Mean time from the answer to the receipt; each draws between half and one and a half."""
    early_receipts: float = 0.0
    """The receipt is sent before the answer."""
    late_receipts: float = 0.0
    """The receipt comes after `late_ms` more."""
    late_ms: float = 5_000.0
    duplicate_receipts: float = 0.0
    """The receipt is sent twice."""
    lose_receipts: float = 0.0
    """No receipt is ever sent."""
    fail: float = 0.0
    """The receipt says that the message was not delivered."""


class Fate(Struct, frozen=True):
    """What becomes of one try of one message."""

    answer: str
    """"accept", "throttle", "busy", "refuse", "lose" (taken, no answer), "cut" (taken, then the
    connection ends)."""
    latency_ms: float
    answers: int
    """How often it is answered: 0, 1 or 2."""
    receipts: int
    """How many receipts follow: 0, 1 or 2."""
    receipt_ms: float
    """After the answer; negative: before it."""
    delivered: bool

    @property
    def taken(self) -> bool:
        """Whether the message is accepted, told or not."""
        return self.answer in ("accept", "lose", "cut")


class Plan:
    """Draws a `Fate` for every message."""

    def __init__(self, seed: int = 0, odds: Odds | None = None) -> None:
        self.seed = seed
        self.odds = odds or Odds()
        self._tries: OrderedDict[bytes, int] = OrderedDict()
        self._calm = msgspec.structs.replace(self.odds, late_ms=0.0) == Odds(late_ms=0.0)

    def fate(self, key: bytes) -> Fate:
        """The fate of the next try of this message."""
        if self._calm:
            return _CALM
        attempt = self._tries.pop(key, 0) + 1
        self._tries[key] = attempt
        if len(self._tries) > KEYS_REMEMBERED:
            self._tries.popitem(last=False)
        return self.draw(key, attempt)

    def draw(self, key: bytes, attempt: int) -> Fate:
        """The fate of one try (from 1) of one message: a function of seed, key and try."""
        odds = self.odds

        def below(name: str, share: float) -> bool:
            return share > 0 and self._chance(key, attempt, name) < share

        def about(name: str, mean: float) -> float:
            return mean * (0.5 + self._chance(key, attempt, name)) if mean > 0 else 0.0

        answer = self._answer(self._chance(key, attempt, "answer"))
        answers = {"lose": 0, "cut": 0}.get(answer, 1)
        if answers and below("repeat", odds.repeat_answers):
            answers = 2
        receipts = 1 + below("duplicate", odds.duplicate_receipts)
        if below("lost", odds.lose_receipts):
            receipts = 0
        receipt_ms = about("receipt", odds.receipt_ms)
        if below("late", odds.late_receipts):
            receipt_ms += odds.late_ms
        elif below("early", odds.early_receipts):
            receipt_ms = -1.0
        return Fate(
            answer=answer,
            latency_ms=about("latency", odds.latency_ms),
            answers=answers,
            receipts=receipts,
            receipt_ms=receipt_ms,
            delivered=not below("fail", odds.fail),
        )

    def _answer(self, drawn: float) -> str:
        odds = self.odds
        for name, share in (
            ("throttle", odds.throttle),
            ("busy", odds.busy),
            ("refuse", odds.refuse),
            ("lose", odds.lose_answers),
            ("cut", odds.cut),
        ):
            if drawn < share:
                return name
            drawn -= share
        return "accept"

    def _chance(self, key: bytes, attempt: int, name: str) -> float:
        """A number from 0 to below 1, the same in every run."""
        drawn = xxh3_64_intdigest(b"%b\0%d\0" % (name.encode(), attempt) + key, self.seed)
        return drawn / _SPACE


_CALM: Final = Fate("accept", 0.0, 1, 1, 0.0, True)


class Recorder:
    """Writes what a fake has seen as JSON lines, for checkers. Without a path it writes nothing."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._file = open(path, "a", encoding="utf-8") if path else None  # noqa: SIM115
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Flush now and every FLUSH_S, until `close`."""
        self.flush()
        self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.start)

    def write(self, fact: dict[str, Any]) -> None:
        """One line; in the file at the latest after RECORD_LINES of them or `flush`."""
        if self._file is None:
            return
        self._lines.append(json.dumps(fact, ensure_ascii=False, separators=(",", ":")))
        if len(self._lines) >= RECORD_LINES:
            self.flush()

    def flush(self) -> None:
        """Put into the file what is held back."""
        if self._file is not None and self._lines:
            self._file.write("\n".join(self._lines) + "\n")
            self._file.flush()
            self._lines.clear()

    def close(self) -> None:
        """Flush and close."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
