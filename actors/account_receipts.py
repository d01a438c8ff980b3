"""Receipts and inbound messages: whose they are, and what they say, in any order.

A receipt names the provider's id, which is known only after the answer to the submission: one that
comes before is kept. One delivery may have several parts with a receipt each: it is `delivered`
when all that were expected say so, `failed` when one does. A state only moves forward; what
contradicts an end is either further on (`delivered` after `failed`) or ignored.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from actors.account import Account
from actors.account_customers import wrote
from actors.account_effects import Effects
from actors.account_queue import Entry
from actors.account_state import (
    ACCEPTED,
    DONE,
    OPEN,
    Attempt,
    EarlyReceipt,
    Part,
    Peer,
    Seen,
    attempt_key,
    early_key,
    pack,
    part_key,
    peer_key,
    seen_key,
    unpack_attempt,
    unpack_early,
    unpack_part,
    unpack_peer,
)
from channels.provider import Bundle, ProviderCommand, ProviderInbound, ProviderReceipt
from channels.registry import PROVIDERS
from hub.contract.types import FailureClass, ReceiptStatus
from hub.limits import ID_CHARS
from hub.policy.state import DELIVERED, FAILED, READ, STATUS

EARLY_RECEIPTS = 16
"""Receipts kept for one id that is not known yet: one a state, and repeats."""
EARLY_KEPT_MS = 10 * 60_000
"""How long: the answer to a submission comes within the provider's timeout, of minutes."""
SEEN_MS = 3_600_000
"""How long an inbound message's id is remembered; a provider repeats within minutes."""
REPLY_EVERY_MS = 30 * 86_400_000
"""A refusal is answered at most once in this time."""
DAY_MS = 86_400_000


class Heard(Protocol):
    """What inbound messages lead to, beside the effects of an account."""

    def inbound(self, account: Account, customer: str, inbound: ProviderInbound, id: str) -> None:
        """A message for the conversation."""

    def opt_out(self, account: Account, customer: str, id: str, at_ms: int) -> None:
        """A do not disturb for the conversation."""

    def command(self, account: Account, customer: str, command: ProviderCommand) -> None:
        """A command for the conversation."""

    def note(self, account: str, key: str, value: bytes | None) -> None:
        """Something the provider wants to find again."""

    def reply(self, account: Account, customer: str, to: str, id: str, text: str) -> None:
        """Send something on the account's own behalf."""


def learn_ids(
    effects: Effects, account: Account, delivery: str, attempt: Attempt, now: int
) -> None:
    """The provider has told its ids: from now on receipts find their way; early ones count now."""
    for part, provider_id in enumerate(attempt.ids):
        if not provider_id:
            continue
        key = part_key(account.name, provider_id)
        if effects.load(key) is not None:
            continue
        effects.store(key, pack(Part(delivery, part)))
        early = early_key(account.name, provider_id)
        packed = effects.load(early)
        if packed is not None:
            effects.store(early, None)
            for receipt in unpack_early(packed):
                _take(effects, account, delivery, attempt, part, receipt, now)
    if attempt.state == ACCEPTED and _whole(attempt) in ("failed", "delivered", "read"):
        account.finish(delivery, attempt, now)  # receipts that knew our id were faster


def forget_ids(effects: Effects, attempt: Attempt) -> None:
    """The attempt is forgotten, and with it whose its ids are."""
    for provider_id in attempt.ids:
        if provider_id:
            effects.store(part_key(attempt.account, provider_id), None)


def receive(effects: Effects, account: Account, receipt: ProviderReceipt, now: int) -> None:
    """One receipt of the provider."""
    told = EarlyReceipt(
        receipt.status, receipt.at_ms, receipt.failure, receipt.code, now, receipt.last
    )
    if receipt.delivery:
        delivery, part = receipt.delivery, 0
    else:
        packed = effects.load(part_key(account.name, receipt.provider_id))
        if packed is None:
            _keep_early(effects, account, receipt.provider_id, told, now)
            return
        known = unpack_part(packed)
        delivery, part = known.delivery, known.part
    entry = account.open.get(delivery)
    attempt = entry.attempt if entry is not None else _stored(effects, account, delivery)
    if attempt is None:
        effects.count("tact_ignored_total", "receipt-unmatched")
        return
    _take(effects, account, delivery, attempt, part, told, now)


def _stored(effects: Effects, account: Account, delivery: str) -> Attempt | None:
    waiting = account.queue.by_id.get(delivery)
    if waiting is not None:
        return waiting.attempt
    packed = effects.load(attempt_key(delivery))
    attempt = None if packed is None else unpack_attempt(packed)
    return attempt if attempt is not None and attempt.account == account.name else None


def _keep_early(
    effects: Effects, account: Account, provider_id: str, receipt: EarlyReceipt, now: int
) -> None:
    key = early_key(account.name, provider_id)
    packed = effects.load(key)
    kept = [] if packed is None else unpack_early(packed)
    if len(kept) >= EARLY_RECEIPTS:
        effects.count("tact_ignored_total", "receipt-unmatched")
        return
    effects.store(key, pack([*kept, receipt]))
    effects.wake(now + EARLY_KEPT_MS, key)
    effects.count("tact_receipts_early_total", account.name)


def _take(
    effects: Effects,
    account: Account,
    delivery: str,
    attempt: Attempt,
    part: int,
    receipt: EarlyReceipt,
    now: int,
) -> None:
    """What one receipt says of one part, and so of the whole."""
    marks = attempt.marks
    if len(marks) <= part:
        marks.extend([0] * (part + 1 - len(marks)))
    status = STATUS[receipt.status]
    if status <= marks[part]:
        effects.count("tact_ignored_total", "receipt-behind")
        return
    marks[part] = status
    whole = _whole(attempt)
    if whole:
        failure: FailureClass | None = receipt.failure if whole == "failed" else None  # type: ignore[assignment]
        last = whole == "sent" and receipt.last
        account.tell(delivery, attempt, whole, receipt.at_ms, failure, receipt.code, last=last)
        if (last or whole != "sent") and attempt.state not in (OPEN, DONE):
            account.finish(delivery, attempt, now)
            return
    effects.store(attempt_key(delivery), pack(attempt))


def _whole(attempt: Attempt) -> ReceiptStatus | None:
    """What the marks of the parts say together; None for nothing new to tell."""
    marks = attempt.marks
    if FAILED in marks:
        return "failed"
    expected = max(1, attempt.receipts)
    if sum(mark >= DELIVERED for mark in marks) >= expected:
        return "read" if min(mark for mark in marks if mark) == READ else "delivered"
    return "sent" if any(mark >= STATUS["sent"] for mark in marks) else None


# ---- inbound -------------------------------------------------------------------------------------


def know_peers(effects: Effects, account: Account, now: int) -> None:
    """Remember whom the addresses belong to that something is about to leave for."""
    if PROVIDERS[account.config.provider].peers or account.gate.counts_recipients:
        for entry in account.claimed:
            _know_peer(effects, account, entry, now)


def _know_peer(effects: Effects, account: Account, entry: Entry, now: int) -> None:
    """Remember whom an address belongs to, before something leaves for it."""
    attempt = entry.attempt
    key = peer_key(account.name, attempt.recipient)
    packed = effects.load(key)
    peer = Peer("", 0) if packed is None else unpack_peer(packed)
    quota = account.gate.quota.recipient_dump(attempt.recipient) or b""
    day = now // DAY_MS
    if (peer.customer, peer.day, peer.quota) != (attempt.customer, day, quota):
        peer.customer, peer.day, peer.quota = attempt.customer, day, quota
        effects.store(key, pack(peer))


def hear(
    effects: Effects, heard: Heard, account: Account, inbound: ProviderInbound, now: int
) -> None:
    """One message of a customer, stored before it is confirmed to the provider."""
    name = inbound.id or _name_of(account, inbound)
    if inbound.id and _taken(effects, account, inbound.id, now):
        return
    key = peer_key(account.name, inbound.sender)
    packed = effects.load(key)
    peer = _peer(packed, inbound.sender, now)
    if not inbound.agent and "event" not in inbound.content:
        wrote(peer, inbound.at_ms)
    if inbound.opt_out:  # first: what is decided from now on knows of it
        heard.opt_out(account, peer.customer, name, inbound.at_ms)
        reply = account.config.opt_out.reply
        if reply and now - peer.replied_ms >= REPLY_EVERY_MS:
            peer.replied_ms = now
            heard.reply(account, peer.customer, inbound.sender, name, reply)
    heard.inbound(account, peer.customer, inbound, name)
    if packed != (again := pack(peer)):
        effects.store(key, again)
    effects.count("tact_inbound_total", account.name)


def take_bundle(effects: Effects, heard: Heard, account: Account, bundle: Bundle, now: int) -> None:
    """What a provider reports together: all of it is in this turn's commit, or none."""
    if bundle.id and _taken(effects, account, bundle.id, now):
        return
    for command in bundle.commands:  # first: what is decided from now on knows of it
        packed = effects.load(peer_key(account.name, command.sender))
        heard.command(account, _peer(packed, command.sender, now).customer, command)
    for inbound in bundle.inbound:
        hear(effects, heard, account, inbound, now)
    for receipt in bundle.receipts:
        receive(effects, account, receipt, now)
    for key, value in bundle.notes.items():
        heard.note(account.name, key, value)


def _taken(effects: Effects, account: Account, id: str, now: int) -> bool:
    """Whether this was taken before; from now on it was."""
    key = seen_key(account.name, id)
    if effects.load(key) is not None:
        effects.count("tact_ignored_total", "inbound-repeated")
        return True
    effects.store(key, pack(Seen(now + SEEN_MS)))
    effects.wake(now + SEEN_MS, key)
    return False


def _peer(packed: bytes | None, address: str, now: int) -> Peer:
    if packed is not None:
        return unpack_peer(packed)
    # Nobody we have written to: the address is the customer, until an application knows more.
    return Peer(_customer_of(address), now // DAY_MS)


def _name_of(account: Account, inbound: ProviderInbound) -> str:
    """An id for a message that came without: the same for a repeat of the same moment."""
    text = f"{account.name} {inbound.sender} {inbound.at_ms} {inbound.content!r}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _customer_of(address: str) -> str:
    """A conversation key for an address: itself where that is one, or a number without its `+`;
    else with a mark of the whole address, so that two addresses are never one customer."""
    group = "~" if address.startswith("~") else ""
    rest = address[1:] if group or (address[:1] == "+" and address[1:].isdigit()) else address
    kept = "".join(c for c in rest if c.isascii() and (c.isalnum() or c in "_-"))
    if kept != rest or not 0 < len(kept) <= ID_CHARS:
        mark = hashlib.blake2b(address.encode(), digest_size=8).hexdigest()
        kept = f"{kept[: ID_CHARS - len(mark) - 1]}-{mark}"
    return group + kept
