"""What a person asks of the whole hub: its status, and another policy. Requests over NATS.

The status may be read by whoever may ask questions. The policy may be replaced by the hub's own
account only: no application imports `hub.admin.>`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from hub import limits
from hub.errors import TactError
from hub.ledger.connection import Connection
from hub.ledger.port import LedgerError, LedgerUnavailable

STATUS: Final = "hub.ask.status"
POLICY: Final = "hub.admin.policy"
ARCHIVE: Final = "hub.ask.archive"
"""Whether the conversations of an account are stored: its name is the question."""
_ERROR: Final = "error"
_REPLY: Final = msgspec.json.Decoder(dict[str, Any])

Answer = Callable[[bytes], Awaitable[dict[str, Any]]]


class HubAway(LedgerError):
    """NATS answers, and no hub does."""

    code = "hub-away"
    retryable = True


class HubRefused(TactError):
    """The hub's own error to what was asked, in its words."""

    code = "request-refused"


async def serve(connection: Connection, subject: str, answer: Answer) -> None:
    """Answer requests on a subject for as long as the connection lives."""

    async def reply(message: Any) -> None:
        try:
            result = await answer(message.data)
        except TactError as error:
            result = {_ERROR: error.message}
        try:
            await connection.publish(message.reply, msgspec.json.encode(result))
        except LedgerUnavailable:
            return  # whoever asked is told by a timeout, and asks again

    await connection.subscribe(subject, reply)


async def request(
    connection: Connection, subject: str, payload: bytes, timeout_s: float = limits.ASK_TIMEOUT_S
) -> dict[str, Any]:
    """The hub's answer. Raises HubAway, HubRefused with the hub's reason, or LedgerUnavailable."""
    try:
        message = await connection.request(subject, payload, timeout_s=timeout_s)
    except LedgerUnavailable as error:
        if error.facts.get("no_responders"):
            raise HubAway(
                f"NATS at {connection.where} answers, but no hub does (or this login may not ask "
                "it); start one with `tact up`",
                retry_after_ms=limits.BACKOFF_MAX_MS,
            ) from error
        raise
    reply = _REPLY.decode(message.data)
    if _ERROR in reply:
        raise HubRefused(reply[_ERROR])
    return reply
