"""Customers who answer an SMS: some refuse further ones, some ask something.

They have what the centre has delivered, and answer once, through the simulator's standard input.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.demo.cdnow import chosen, marked
from benchmarks.demo.centre import Record, taken, text_of

EVERY = 12
"""Of so many who get an offer one refuses, and one asks."""
REFUSALS = ("R", "r", "退订", "T.")
QUESTIONS = ("Where is my order?", "I refuse to pay twice", "R you open on Sundays?")
MOST = 400
"""Answers of one run."""
LOOK_S = 0.5

Tell = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Said:
    """One answer. `number` is E.164."""

    at_ms: int
    number: str
    text: str

    @property
    def refuses(self) -> bool:
        return self.text in REFUSALS


class Customers:
    """Reads what the centre is given and answers; `run()` until it is cancelled."""

    def __init__(self, record: Record, tell: Tell) -> None:
        self.said: list[Said] = []
        self._record = record
        self._tell = tell
        self._answered: set[str] = set()

    async def run(self) -> None:
        while True:
            for line in self._record.read():
                if line["kind"] == "submit":
                    await self.get(line)
            await asyncio.sleep(LOOK_S)

    async def get(self, line: dict[str, Any]) -> None:
        """Something the centre was given: if it is an offer, perhaps answer."""
        number = "+" + line["to"]
        intent = marked(text_of(line))
        if not taken(line) or intent is None or not intent.startswith("offer-"):
            return
        if number in self._answered or len(self.said) >= MOST:
            return
        self._answered.add(number)
        lot = chosen(f"{number} answers", EVERY)
        if lot < 2:
            texts = (REFUSALS, QUESTIONS)[lot]
            said = Said(time.time_ns() // 1_000_000, number, texts[chosen(number, len(texts))])
            self.said.append(said)
            await self._tell({"mo": {"from": number, "to": line["from"], "text": said.text}})
