"""Questions to the owner of a partition: a NATS request on `hub.ask.<partition>`, JSON bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from hub import limits
from hub.contract.subjects import ask_subject
from hub.errors import TactError
from hub.ledger.connection import Connection
from hub.ledger.port import LedgerError, LedgerUnavailable

_log = structlog.get_logger(__name__)

_FAILED: Final = "Tact-Error"
Handler = Callable[[bytes], Awaitable[bytes]]


class NoOwner(LedgerError):
    """Nobody owns the partition right now: it is being taken over, or the hub is not running."""

    code = "no-owner"
    retryable = True


class AskFailed(LedgerError):
    """The owner could not answer; `facts["reason"]` is the code of its error."""

    code = "ask-failed"


async def serve(
    connection: Connection, partition: int, handler: Handler, *, at_once: int = 1
) -> Subscription:
    """Answer questions to a partition, so many at a time, until the result's `unsubscribe()`."""
    room = asyncio.Semaphore(at_once)
    under_way: set[asyncio.Task[None]] = set()

    async def answer(message: Msg) -> None:
        try:
            reply, headers = await handler(message.data), None
        except TactError as error:
            reply, headers = error.message.encode(), {_FAILED: error.code}
        except (ValueError, msgspec.MsgspecError) as error:
            _log.warning("ask.bad_question", partition=partition, error=type(error).__name__)
            reply, headers = b"not a question this owner understands", {_FAILED: "bad-question"}
        try:
            await connection.publish(message.reply, reply, "", headers)
        except LedgerUnavailable:
            _log.info("ask.answer_lost", partition=partition)  # whoever asked asks again

    async def beside_others(message: Msg) -> None:
        await room.acquire()
        task = asyncio.create_task(answer(message))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        task.add_done_callback(lambda _: room.release())

    take = answer if at_once == 1 else beside_others
    return await connection.subscribe(ask_subject(partition), take)


async def ask(
    connection: Connection,
    partition: int,
    question: bytes,
    *,
    timeout_s: float = limits.ASK_TIMEOUT_S,
) -> bytes:
    """The owner's answer. Raises NoOwner, AskFailed, or LedgerUnavailable without an answer."""
    try:
        message = await connection.request(ask_subject(partition), question, timeout_s=timeout_s)
    except LedgerUnavailable as error:
        if error.facts.get("no_responders"):
            raise NoOwner(
                f"nobody answers for partition {partition}: it is being taken over, or the hub "
                "is not running; see `tact status`",
                retry_after_ms=limits.BACKOFF_MAX_MS,
                partition=partition,
            ) from error
        raise
    reason = (message.headers or {}).get(_FAILED)
    if reason is not None:
        raise AskFailed(message.data.decode(errors="replace"), reason=reason, partition=partition)
    return message.data
