"""One dispatch to several devices of a customer: who gets it, and what their receipts come to.

Each device has a delivery of its own; the caps, the application and the fallback know the dispatch
only. Pure words about one conversation's state. Source: docs/policy.md, "Devices".
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from hub import limits
from hub.contract.decode import DEVICE_STEP
from hub.contract.times import to_ms
from hub.contract.types import Delivery, Inbound, Receipt
from hub.policy.devices import CHANNEL, died, further, hear, split_address
from hub.policy.policy import Policy
from hub.policy.rules import Question
from hub.policy.state import (
    DELIVERED,
    DISPATCHED,
    FAILED,
    READ,
    SENT,
    UNKNOWN,
    ConversationState,
    Copies,
    Send,
)

SUPERSEDED = "replaced by a newer message of its collapse key"
"""What is told of an intent that its account has taken back."""


def targets(
    question: Question, state: ConversationState, policy: Policy, now: int
) -> list[tuple[str, str]]:
    """(account, token) of the devices that get a push, the one seen last first."""
    since = now - policy.push_within_ms if policy.push_within_ms else 0
    addresses = [state.to[CHANNEL], *further(state, policy.push_devices - 1, since)]
    found = [split_address(address) for address in addresses]
    stated = question.sender or CHANNEL
    # One token may have been told with and without its account.
    return list(dict.fromkeys((account or stated, token) for account, token in found))


def note(
    state: ConversationState,
    now: int,
    name: bytes,
    first: Delivery,
    others: list[tuple[str, str]],
) -> None:
    """Remember a dispatch to several devices, for their receipts."""
    assert state.devices is not None
    copies = state.devices.copies
    while copies and copies[-1].at < now - limits.SEND_MEMORY_MS:
        copies.pop()
    del copies[limits.COPIES - 1 :]
    accounts = [first.account, *(account for account, _ in others)]
    copies.insert(0, Copies(now, name, first.attempt, accounts, [DISPATCHED] * len(accounts)))


def copies_of(state: ConversationState, send: Send) -> Copies | None:
    """What is known of the devices of a dispatch; None when it went to one."""
    if state.devices is not None:
        for copies in state.devices.copies:
            if (copies.intent, copies.attempt, copies.at) == (send.intent, send.attempt, send.at):
                return copies
    return None


def copies_to(first: Delivery, others: list[tuple[str, str]]) -> Iterator[Delivery]:
    """The delivery of a dispatch once more for every further device."""
    for device, (account, to) in enumerate(others, start=1):
        number = first.attempt + device * DEVICE_STEP
        name = f"{first.app}:{first.intent}:{number}"
        yield replace(first, id=name, account=account, to=to, attempt=number)


def heard(copies: Copies, device: int, status: int, receipt: Receipt) -> int:
    """One device's word, and what that makes the status of the dispatch."""
    copies.status[device] = status
    copies.superseded |= receipt.failure == "superseded"
    return whole(copies)


def superseded(copies: Copies | None, receipt: Receipt) -> bool:
    """Whether a dispatch that has failed was taken back, on any device, for a newer message."""
    return receipt.failure == "superseded" if copies is None else copies.superseded


def whole(copies: Copies) -> int:
    """The status of a dispatch, by those of its devices: it has failed when all have."""
    for status in (READ, DELIVERED):
        if status in copies.status:
            return status
    if all(status == FAILED for status in copies.status):
        return FAILED
    return next((status for status in (SENT, UNKNOWN) if status in copies.status), DISPATCHED)


def bury(state: ConversationState, send: Send, account: str, receipt: Receipt) -> bool:
    """Forget a device if its receipt says that the address is dead. Whether another is now the one
    seen last, or none is: what is held is then to be decided again."""
    if receipt.failure != "dead_address" or receipt.to is None or send.channel != CHANNEL:
        return False
    before = state.to.get(CHANNEL)
    died(state, account, receipt.to, to_ms(receipt.dead_since or receipt.at))
    return state.to.get(CHANNEL) != before


def heard_from(
    state: ConversationState, inbound: Inbound, address: str, policy: Policy, now: int
) -> None:
    """Her address is remembered if none is known; which device she uses, where that matters."""
    channel = inbound.channel
    if channel == CHANNEL and (policy.hears_devices or channel not in state.to):
        hear(state, address, min(to_ms(inbound.at), now))
    else:
        state.to.setdefault(channel, address)
