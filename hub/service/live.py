"""The conversations of accounts as they are stored: read from a moment on, or followed for ever.

By direct get, as `hub.service.outcomes`: it needs no consumer, so whoever may read the ledger may
look, and nobody is disturbed. An application follows its accounts with a durable consumer instead.
Source: docs/contract.md, "Live feed".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from hub import limits
from hub.contract.subjects import live_subject
from hub.contract.times import rfc3339
from hub.ledger.connection import Connection
from hub.ledger.port import LedgerCorrupt, LedgerUnavailable
from hub.ledger.reading import Stored, direct_get
from hub.ledger.streams import LEDGER

EVERY: Final = "hub.live.*"
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.5
"""Between two looks for something new: a person does not see the difference."""

_MESSAGE: Final = msgspec.json.Decoder(dict[str, Any] | list[dict[str, Any]])
Problem = Callable[[LedgerUnavailable], None]


class Said(Struct, frozen=True):
    """One thing said in a conversation, and where it is stored. `message`: a LiveMessage of this
    version of the contract or a newer one."""

    sequence: int
    index: int
    """In its message, which may hold an array."""
    stored_ms: int
    message: dict[str, Any]

    def __repr__(self) -> str:
        return f"Said({self.sequence}, {self.index})"

    def line(self) -> bytes:
        """The message as one line of JSON, with where and when it was stored."""
        stored = {"sequence": self.sequence, "stored_at": rfc3339(self.stored_ms)}
        return msgspec.json.encode(self.message | stored)


async def read(
    connection: Connection, account: str | None, *, since_ms: int, until_ms: int
) -> AsyncGenerator[list[Said], None]:
    """What was stored from `since_ms` on and before `until_ms`, in order and in pages, of one
    account or of all (None). Ends at what is stored when it begins. Raises LedgerUnavailable,
    LedgerCorrupt."""
    last = int((await connection.api(f"STREAM.INFO.{LEDGER}"))["state"]["last_seq"])
    where: dict[str, Any] = {"start_time": rfc3339(since_ms)}
    while True:
        messages, pending = await _page(connection, account, where)
        # The clock of the server may be set back: each is asked by itself.
        chosen = [m for m in messages if m.sequence <= last and since_ms <= m.stored_ms < until_ms]
        yield [said for message in chosen for said in said_in(message)]
        if not messages or not pending or messages[-1].sequence >= last:
            return
        where = {"seq": messages[-1].sequence + 1}


async def follow(
    connection: Connection, account: str, *, since_ms: int | None, problem: Problem
) -> AsyncGenerator[list[Said], None]:
    """What is stored from now on, or from `since_ms` on, for ever. A server that is away for a
    while costs time, and is told to `problem` once. Raises LedgerUnavailable at first only, and
    LedgerCorrupt."""
    state = (await connection.api(f"STREAM.INFO.{LEDGER}"))["state"]
    where: dict[str, Any] = {"seq": int(state["last_seq"]) + 1}
    if since_ms is not None:
        where = {"start_time": rfc3339(since_ms)}
    pause_s, away = FIRST_PAUSE_S, False
    while True:
        messages: list[Stored] = []
        try:
            messages, _ = await _page(connection, account, where)
            away = False
        except LedgerUnavailable as error:
            if not away:
                problem(error)
            away = True
        if messages:
            where, pause_s = {"seq": messages[-1].sequence + 1}, FIRST_PAUSE_S
            yield [said for message in messages for said in said_in(message)]
        else:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def said_in(message: Stored) -> list[Said]:
    """What a stored message holds: one object, or an array of them. Raises LedgerCorrupt."""
    try:
        decoded = _MESSAGE.decode(message.payload)
    except msgspec.MsgspecError as error:
        raise LedgerCorrupt(
            f"message {message.sequence} of {LEDGER} is none of a conversation: only a hub may "
            "write hub.live.*"
        ) from error
    objects = decoded if isinstance(decoded, list) else [decoded]
    return [
        Said(message.sequence, index, message.stored_ms, one) for index, one in enumerate(objects)
    ]


async def _page(
    connection: Connection, account: str | None, where: dict[str, Any]
) -> tuple[list[Stored], int]:
    request = where | {
        "next_by_subj": EVERY if account is None else live_subject(account),
        "batch": limits.READ_PAGE_MESSAGES,
        "max_bytes": limits.READ_PAGE_BYTES,
    }
    return await direct_get(connection, LEDGER, request)
