"""A single acknowledged publish: what applications and gateways do, and snapshots are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from hub.ledger.connection import Connection, about_subject
from hub.ledger.port import LedgerUnavailable
from hub.ledger.server_errors import Action, error_of, outcome_of

MSG_ID: Final = "Nats-Msg-Id"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"
_REPLY = msgspec.json.Decoder(dict[str, Any])


class Ack(Struct, frozen=True):
    """The stream has the message, fsynced, at `sequence`; `duplicate` says that it already had."""

    sequence: int
    duplicate: bool = False


async def publish(
    connection: Connection,
    subject: str,
    payload: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    msg_id: str | None = None,
    timeout_s: float | None = None,
) -> Ack:
    """Publish once and wait for the stream's acknowledgement. Tries once only.

    Give `msg_id` so that a repeat after a lost reply is found by the server. Raises
    LedgerUnavailable (nothing is known: try again with the same id), LedgerFull (not stored: try
    again later), ServerRefused (not stored, `err_code` says why).
    """
    all_headers = dict(headers or {})
    if msg_id is not None:
        all_headers[MSG_ID] = msg_id
    message = await connection.request(
        subject, payload, headers=all_headers or None, timeout_s=timeout_s
    )
    return ack_of(message.data, about_subject(subject))


def ack_of(data: bytes, about: str) -> Ack:
    """The acknowledgement in a publish reply. Raises like `publish`."""
    try:
        reply = _REPLY.decode(data)
    except msgspec.DecodeError as error:
        raise LedgerUnavailable(
            f"{about}: an answer that is no stream's acknowledgement"
        ) from error
    if outcome_of(reply).action is not Action.DONE:
        raise error_of(reply, about)
    return Ack(reply["seq"], reply.get("duplicate", False))
