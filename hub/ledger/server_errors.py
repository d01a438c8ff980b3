"""Every reply the server can give to a write, by name, and what the writer then does.

The one table of outcomes: numbers are JetStream's `err_code` (server/errors.json, 2.15). A code
that is not in it is `unknown` and read back like a lost reply: nothing is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from hub import limits
from hub.ledger.port import LedgerFull, LedgerUnavailable, ServerRefused


class Action(Enum):
    """What the batch writer does with a reply."""

    DONE = "done"
    READ_BACK = "read-back"
    """It may be stored: read the fences, and believe only them."""
    RESEND = "resend"
    """It is not stored: send it again under a new batch id, after a wait."""
    FULL = "full"
    """It is not stored for lack of room: wait, say so, send it again."""
    BUG = "bug"
    """We sent what no server takes: raise, never try again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A server reply: a stable name for metrics, and what follows from it."""

    name: str
    action: Action


ACK: Final = Outcome("ack", Action.DONE)
LOST_REPLY: Final = Outcome("lost-reply", Action.READ_BACK)
UNKNOWN: Final = Outcome("unknown", Action.READ_BACK)

WRONG_LAST_SEQUENCE: Final = 10071

OUTCOMES: Final[dict[int, Outcome]] = {
    # Another writer was there first, or an earlier try of ours whose reply was lost.
    10071: Outcome("fence-moved", Action.READ_BACK),
    10158: Outcome("duplicate-in-flight", Action.READ_BACK),
    10201: Outcome("duplicate-in-batch", Action.READ_BACK),
    # A write to the checked subject is not applied yet (R3), or the subject is not ready.
    10163: Outcome("fence-not-ready", Action.RESEND),
    10164: Outcome("fence-in-flight", Action.RESEND),
    # The leader changed or restarted, the batch timed out, or a middle message was dropped.
    10176: Outcome("batch-incomplete", Action.RESEND),
    10008: Outcome("cluster-unavailable", Action.RESEND),
    10009: Outcome("not-leader", Action.RESEND),
    10118: Outcome("stream-offline", Action.RESEND),
    10194: Outcome("stream-offline", Action.RESEND),
    10167: Outcome("too-many-requests", Action.RESEND),
    10210: Outcome("too-many-batches", Action.RESEND),
    # No room: only a person, a purge or a TTL makes any.
    10002: Outcome("account-limit", Action.FULL),
    10023: Outcome("insufficient-resources", Action.FULL),
    10028: Outcome("insufficient-memory", Action.FULL),
    10047: Outcome("insufficient-storage", Action.FULL),
    10077: Outcome("store-failed", Action.FULL),
    10109: Outcome("stream-sealed", Action.FULL),
    # Ours to mend: the stream lacks a setting, or the batch breaks a rule of ADR-50.
    10039: Outcome("jetstream-off-for-account", Action.BUG),
    10054: Outcome("message-too-large", Action.BUG),
    10060: Outcome("wrong-stream", Action.BUG),
    10076: Outcome("jetstream-off", Action.BUG),
    10097: Outcome("headers-too-large", Action.BUG),
    10165: Outcome("ttl-invalid", Action.BUG),
    10166: Outcome("ttl-off", Action.BUG),
    10174: Outcome("atomic-off", Action.BUG),
    10175: Outcome("batch-sequence-missing", Action.BUG),
    10177: Outcome("header-not-for-batches", Action.BUG),
    10179: Outcome("batch-id-invalid", Action.BUG),
    10193: Outcome("expected-sequence-invalid", Action.BUG),
    10199: Outcome("batch-too-large", Action.BUG),
    10200: Outcome("batch-commit-invalid", Action.BUG),
}


def outcome_of(reply: dict[str, Any]) -> Outcome:
    """The outcome a decoded publish reply stands for."""
    error = reply.get("error")
    if error is None:
        return ACK if reply.get("seq") else UNKNOWN
    return OUTCOMES.get(error.get("err_code", 0), UNKNOWN)


def error_of(reply: dict[str, Any], about: str) -> LedgerFull | LedgerUnavailable | ServerRefused:
    """The error to raise for a refused single write; `about` names it without content."""
    outcome = outcome_of(reply)
    error = reply.get("error") or {}
    facts = {"outcome": outcome.name, "err_code": error.get("err_code", 0)}
    why = error.get("description", "an answer we do not know")
    if outcome.action is Action.FULL:
        return LedgerFull(
            f"{about}: the server has no room ({why}); enlarge the stream or the disk, "
            "or wait until what is decided has been purged",
            retry_after_ms=limits.BACKOFF_MAX_MS,
            **facts,
        )
    if outcome.action is Action.RESEND:
        return LedgerUnavailable(
            f"{about}: the server cannot store it right now ({why})",
            retry_after_ms=limits.BACKOFF_MAX_MS,
            **facts,
        )
    return ServerRefused(f"{about}: the server refused it ({why})", **facts)
