"""Reading an application's outcomes out of the ledger, for a person at a terminal.

By direct get: it needs no consumer of its own and disturbs nobody's. An application reads its
outcomes with a durable consumer instead.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from hub import limits
from hub.contract.subjects import outcome_subject
from hub.ledger.connection import Connection
from hub.ledger.reading import direct_get, read_subject
from hub.ledger.streams import LEDGER

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1
_MESSAGE = msgspec.json.Decoder(dict[str, Any] | list[dict[str, Any]])


async def last_sequence(connection: Connection) -> int:
    """The last sequence of the ledger: outcomes of what is published now come after it."""
    info = await connection.api(f"STREAM.INFO.{LEDGER}")
    return int(info["state"]["last_seq"])


async def first_outcome(
    connection: Connection, app: str, intent: str, *, after: int, wait_s: float
) -> dict[str, Any] | None:
    """The first outcome of an intent stored after sequence `after`; None if none came in time."""
    pause_s = _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(wait_s):
            while True:
                async for message in read_subject(
                    connection, LEDGER, outcome_subject(app), limits.TRACE_MESSAGES, after=after
                ):
                    after = message.sequence
                    if found := _of_intent(message.payload, intent):
                        return found[0]
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    except TimeoutError:
        return None


async def all_outcomes(
    connection: Connection, app: str, intent: str, most: int = limits.TRACE_MESSAGES
) -> tuple[list[dict[str, Any]], bool]:
    """Every outcome of an intent, oldest first, and whether all of the app's were looked through.

    Looks through the newest `most` messages of the application.
    """
    subject = outcome_subject(app)
    start = await _newest(connection, subject, most)
    found: list[dict[str, Any]] = []
    async for message in read_subject(connection, LEDGER, subject, most, after=start - 1):
        found += _of_intent(message.payload, intent)
    return found, start <= 1


async def _newest(connection: Connection, subject: str, most: int) -> int:
    """A sequence with at most `most` messages of the subject at or after it, by bisection."""
    if await _count_from(connection, subject, 1) <= most:
        return 1
    first, last = 1, await last_sequence(connection) + 1
    while first < last:
        middle = (first + last) // 2
        if await _count_from(connection, subject, middle) > most:
            first = middle + 1
        else:
            last = middle
    return first


async def _count_from(connection: Connection, subject: str, sequence: int) -> int:
    request = {"seq": sequence, "next_by_subj": subject, "batch": 1}
    messages, pending = await direct_get(connection, LEDGER, request)
    return len(messages) + pending


def _of_intent(payload: bytes, intent: str) -> list[dict[str, Any]]:
    """The outcomes of one intent in a message, which holds one object or an array."""
    if intent.encode() not in payload and b"\\" not in payload:
        return []  # most messages are somebody else's, and need no decoding
    decoded = _MESSAGE.decode(payload)
    objects = decoded if isinstance(decoded, list) else [decoded]
    return [outcome for outcome in objects if outcome.get("intent") == intent]
