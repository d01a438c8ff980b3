"""Reading stored messages: one by a leader read, many by direct get (ADR-31).

A leader read (`STREAM.MSG.GET`) sees every acknowledged write. A direct get may be answered by a
replica that lags: it is for bodies, logs and histories, never for a decision.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from hub import limits
from hub.contract.times import parse_rfc3339
from hub.ledger.connection import Connection
from hub.ledger.port import LedgerError, LedgerUnavailable, ServerRefused

NO_MESSAGE: Final = 10037
_STATUS: Final = "Status"


class Stored(Struct, frozen=True):
    """A message of a stream. `stored_ms` is the server's time of storing it."""

    sequence: int
    stored_ms: int
    subject: str
    payload: bytes


async def last_message(connection: Connection, stream: str, subject: str) -> Stored | None:
    """The last message of a subject, asked of the stream's leader; None if there is none."""
    return await _message(connection, stream, {"last_by_subj": subject})


async def next_message(
    connection: Connection, stream: str, subject: str, sequence: int
) -> Stored | None:
    """The first message of a subject (or wildcard) at or after `sequence`, from the leader."""
    return await _message(connection, stream, {"seq": sequence, "next_by_subj": subject})


async def _message(connection: Connection, stream: str, which: dict[str, Any]) -> Stored | None:
    try:
        reply = await connection.api(f"STREAM.MSG.GET.{stream}", which)
    except ServerRefused as error:
        if error.err_code == NO_MESSAGE:
            return None
        raise
    message = reply["message"]
    return Stored(
        message["seq"],
        parse_rfc3339(message["time"]),
        message["subject"],
        base64.b64decode(message.get("data", "")),
    )


async def read_subject(
    connection: Connection, stream: str, subject: str, most: int, *, after: int = 0
) -> AsyncGenerator[Stored, None]:
    """Up to `most` messages of a subject (or wildcard) in stream order, after sequence `after`.

    Reads in pages, so that any `most` takes bounded memory. Raises LedgerUnavailable.
    """
    while most > 0:
        page = {
            "seq": after + 1,
            "next_by_subj": subject,
            "batch": min(most, limits.READ_PAGE_MESSAGES),
            "max_bytes": limits.READ_PAGE_BYTES,
        }
        messages, pending = await direct_get(connection, stream, page)
        for message in messages:
            yield message
        if not messages or pending == 0:
            return
        most -= len(messages)
        after = messages[-1].sequence


async def last_messages(
    connection: Connection, stream: str, subjects: list[str]
) -> dict[str, Stored]:
    """The last message of each of many literal subjects; one without any is left out."""
    found: dict[str, Stored] = {}
    for start in range(0, len(subjects), limits.BODY_FETCH_SUBJECTS):
        some = subjects[start : start + limits.BODY_FETCH_SUBJECTS]
        after = 0
        while True:
            request = {"multi_last": some, "max_bytes": limits.READ_PAGE_BYTES}
            if after:
                request["seq"] = after + 1
            messages, pending = await direct_get(connection, stream, request)
            found.update((message.subject, message) for message in messages)
            if not messages or pending == 0:
                break
            after = messages[-1].sequence
    return found


async def direct_get(
    connection: Connection,
    stream: str,
    request: Mapping[str, Any],
    timeout_s: float = limits.COMMIT_TIMEOUT_S,
) -> tuple[list[Stored], int]:
    """One direct get: its messages, and how many more there are. Bound it by `max_bytes`.

    Raises LedgerUnavailable when it is not complete after `timeout_s` or nobody serves the stream.
    """
    page = _Page(stream)
    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, page.take)
    try:
        await connection.publish(
            f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox
        )
        async with asyncio.timeout(timeout_s):
            pending = await page.complete
    except TimeoutError as error:
        raise LedgerUnavailable(
            f"a direct get from {stream} was not answered within {timeout_s:g} s",
            retry_after_ms=limits.BACKOFF_MAX_MS,
        ) from error
    finally:
        page.complete.cancel()
        await connection.unsubscribe(subscription)
    return page.messages, pending


class _Page:
    """The replies to one direct get: messages, then a status."""

    def __init__(self, stream: str) -> None:
        self.messages: list[Stored] = []
        self.complete: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stream = stream

    async def take(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get(_STATUS)
        if status is None:
            self.messages.append(
                Stored(
                    int(headers["Nats-Sequence"]),
                    parse_rfc3339(headers["Nats-Time-Stamp"]),
                    headers["Nats-Subject"],
                    message.data,
                )
            )
        elif not self.complete.done():
            self._end(status, headers)

    def _end(self, status: str, headers: Mapping[str, str]) -> None:
        if status == "204":
            # The server counts what a page's byte limit left out, and messages stored meanwhile.
            self.complete.set_result(int(headers.get("Nats-Num-Pending", 0)))
        elif status == "404":
            self.complete.set_result(0)
        elif status == "503":
            self.complete.set_exception(
                LedgerUnavailable(
                    f"nobody serves direct gets of {self._stream}: "
                    "the stream is missing or has no leader right now",
                    retry_after_ms=limits.BACKOFF_MAX_MS,
                )
            )
        else:
            reason = headers.get("Description", "no reason given")
            self.complete.set_exception(
                LedgerError(f"direct get from {self._stream}: {status} {reason}")
            )
