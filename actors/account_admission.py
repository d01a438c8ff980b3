"""What an account turns away instead of queueing it, and what a newer delivery replaces.

Where the provider's kind says so, a delivery with a collapse key replaces what waits for the same
address by that key of the same application. It replaces only what has not left: what became of an
earlier try that was not answered only the provider can tell.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from actors.account_queue import Entry
from actors.account_state import Attempt
from hub.contract.types import Delivery, FailureClass

if TYPE_CHECKING:
    from actors.account import Account

WAITING_MAX = 200_000
"""Deliveries that may wait for one account. More are given back as `failed`, class `throttled`, so
that their conversations go on without it."""
SUPERSEDED: Final[tuple[FailureClass, str]] = ("superseded", "collapse-key")


def turned_away(
    account: Account, delivery: Delivery, attempt: Attempt, now: int, *, replaces: bool
) -> tuple[FailureClass, str] | None:
    """Why a delivery that has just been read must not wait here: failure and code. What it replaces
    is given back first, and makes room for it. `replaces`: the account's kind says so."""
    if replaces and delivery.collapse_key is not None:
        attempt.collapse = _key(delivery)
        if not attempt.handed and _replaced(account, attempt, now):
            return SUPERSEDED
    if account.queue.size >= WAITING_MAX:
        return "throttled", "backlog-full"
    if account.gate.blocked_ms > now and 0 < attempt.expires_ms <= account.gate.blocked_ms:
        return "throttled", account.gate.blocked_by
    return None


def _replaced(account: Account, attempt: Attempt, now: int) -> bool:
    """Give back what it replaces. Returns whether a newer one waits: what is urgent comes ahead.

    What another account handed over replaces nothing: its place says when it was handed over.
    """
    for entry in account.queue.of(attempt.customer):
        if entry.attempt.collapse != attempt.collapse:
            continue
        if entry.order > (attempt.sequence, attempt.place):
            if not entry.attempt.handed:
                return True
        elif not entry.attempt.unsure:
            account.refuse(entry.id, *SUPERSEDED, now)
    return False


def outdated(account: Account, entry: Entry) -> bool:
    """Whether a newer one came by its key while it was claimed, and it has surely not left."""
    attempt = entry.attempt
    if not attempt.collapse or attempt.unsure:
        return False
    waiting = account.queue.of(attempt.customer)
    newer = (each.attempt for each in waiting if each.order > entry.order)
    return any(each.collapse == attempt.collapse and not each.handed for each in newer)


def _key(delivery: Delivery) -> bytes:
    """64 bits: compared only among what waits for one customer."""
    whole = msgspec.json.encode((delivery.app, delivery.to, delivery.collapse_key))
    return hashlib.blake2b(whole, digest_size=8).digest()
