"""While an account cannot work, what waits for it goes to the account named in its configuration.
What is for another channel than the account's goes to that channel's own account.

Source: docs/operations.md, "Failover".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from actors.account_effects import Effects
from actors.account_state import OWN, Attempt, attempt_key
from channels.accounts import AccountConfig
from hub.contract.types import Delivery

if TYPE_CHECKING:
    from actors.account import Account

HAND_OVER_TURN = 1_024
"""Deliveries handed to another account in one turn: a few messages of a batch."""


def redirected(delivery: Delivery, accounts: Mapping[str, AccountConfig]) -> str | None:
    """Whose a delivery is, that names an account of another channel: a customer belongs to one
    account, whatever the channel. "": nobody's; None: it names none of another channel."""
    named, own = accounts.get(delivery.account), accounts.get(delivery.channel)
    if named is None or named.channel == delivery.channel:
        return None
    found = own is not None and own.channel == delivery.channel and delivery.via is None
    return delivery.channel if found else ""


def hand_over(account: Account, effects: Effects, target: str, now: int) -> None:
    """What waits goes to the other account, in its order.

    Not what a provider may have, or has parts of, nor what was handed over before: that waits
    here. A conversation with something unanswered, or a body to be read, goes after that.
    """
    account.take_back(now)
    handed = 0
    reading: set[str] = set()
    for entry in account.queue.idle():
        customer = entry.attempt.customer
        if customer in reading or _stays(account, entry.attempt):
            continue
        if handed >= HAND_OVER_TURN or effects.full:
            account.next_ms = now
            return
        handed += 1
        if entry.delivery is None:
            reading.add(customer)
            account.fetch(entry)
        else:
            account.forget(entry)
            effects.store(attempt_key(entry.id), None)
            effects.hand_over(entry, target)


def _stays(account: Account, attempt: Attempt) -> bool:
    """Another account may not have it."""
    if attempt.handed or attempt.app == OWN or attempt.told or any(attempt.ids):
        return True
    return attempt.unsure and account.config.duplicates != "allow"
