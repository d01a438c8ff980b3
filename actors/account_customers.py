"""What an account remembers of the customers behind addresses: who they are, and what may follow a
message of theirs.

Some providers let an account write only so many messages within a time of the customer's last one
(WeCom customer service: 5 in 48 h). The conversation's policy can keep to that (`[[windows]]`); the
account does in any case, before the provider is called.
"""

from __future__ import annotations

from actors.account_effects import Effects
from actors.account_gate import CLAIM_MS, Gate
from actors.account_queue import Entry
from actors.account_state import Attempt, Peer, pack, peer_key, unpack_peer
from actors.quota import Quota
from channels.registry import Window


def peer_of(effects: Effects, account: str, address: str) -> Peer | None:
    """What is remembered of the customer behind an address; None: nothing."""
    packed = effects.load(peer_key(account, address))
    return None if packed is None else unpack_peer(packed)


def follows(effects: Effects, window: Window, attempt: Attempt, now: int) -> bool:
    """Count an attempt among what follows the customer's last message. False: none may now."""
    peer = peer_of(effects, attempt.account, attempt.recipient)
    leaves_ms = now + CLAIM_MS  # at the latest
    late = peer is None or not peer.wrote_ms or leaves_ms >= peer.wrote_ms + window.within_ms
    if attempt.windowed and attempt.unsure:
        return True  # it may have arrived
    if attempt.windowed and peer is not None and 0 in peer.followed:
        return not late  # it was counted when it was claimed before
    if peer is None or late or len(peer.followed) >= window.messages:
        return False
    peer.followed.append(0)
    attempt.windowed = True
    effects.store(peer_key(attempt.account, attempt.recipient), pack(peer))
    return True


def ended(effects: Effects, attempt: Attempt, now: int) -> None:
    """An attempt that was counted is under way no more."""
    attempt.windowed = False
    peer = peer_of(effects, attempt.account, attempt.recipient)
    if peer is not None and 0 in peer.followed:
        peer.followed.remove(0)
        peer.followed.append(now)
        effects.store(peer_key(attempt.account, attempt.recipient), pack(peer))


def wrote(peer: Peer, at_ms: int) -> None:
    """The customer has written: what was sent before that does not follow it."""
    if at_ms > peer.wrote_ms:
        peer.wrote_ms = at_ms
        peer.followed = [sent for sent in peer.followed if not sent or sent >= at_ms]


def closed(effects: Effects, window: Window, attempt: Attempt, now: int) -> None:
    """The provider says that no more may follow: it has counted what we have not."""
    peer = peer_of(effects, attempt.account, attempt.recipient)
    if peer is not None:
        peer.followed = [now] * window.messages  # nothing that was counted may leave either
        effects.store(peer_key(attempt.account, attempt.recipient), pack(peer))


def uncount(effects: Effects, gate: Gate, entry: Entry, now: int) -> None:
    """What was claimed has not left, or was not taken. So it is written down, beside its customer
    too: the next for her may be claimed by another owner, days later."""
    account, recipient = entry.attempt.account, entry.attempt.recipient
    if gate.counts_recipients:
        recall(effects, gate.quota, account, recipient, now)
    gate.returned(entry, now)
    if gate.counts_recipients:
        quota = gate.quota.recipient_dump(recipient) or b""
        peer = peer_of(effects, account, recipient)
        if peer is not None and peer.quota != quota:
            peer.quota = quota
            effects.store(peer_key(account, recipient), pack(peer))


def recall(effects: Effects, quota: Quota, account: str, recipient: str, now: int) -> None:
    """What the limits per recipient have counted, if a former owner did."""
    if quota.recipient_dump(recipient) is None:
        peer = peer_of(effects, account, recipient)
        if peer is not None and peer.quota:
            quota.recipient_load(recipient, peer.quota, now)
