"""What an account remembers of the customers behind addresses: who they are, and what may follow a
message of theirs.

Some providers let an account write only so many messages within a time of the customer's last one
(WeCom customer service: 5 in 48 h). The conversation's policy can keep to that (`[[windows]]`); the
account does in any case, before the provider is called.
"""

from __future__ import annotations

from actors.account_effects import Effects
from actors.account_state import Attempt, Peer, pack, peer_key, unpack_peer
from channels.registry import Window


def peer_of(effects: Effects, account: str, address: str) -> Peer | None:
    """What is remembered of the customer behind an address; None: nothing."""
    packed = effects.load(peer_key(account, address))
    return None if packed is None else unpack_peer(packed)


def follows(effects: Effects, window: Window, attempt: Attempt, now: int) -> bool:
    """Count an attempt among what follows the customer's last message. False: none may now."""
    if attempt.windowed:
        return True  # it was counted when it was claimed before
    peer = peer_of(effects, attempt.account, attempt.recipient)
    if peer is None or not peer.wrote_ms or now - peer.wrote_ms >= window.within_ms:
        return False
    if peer.followed >= window.messages:
        return False
    peer.followed += 1
    attempt.windowed = True
    effects.store(peer_key(attempt.account, attempt.recipient), pack(peer))
    return True


def closed(effects: Effects, window: Window, attempt: Attempt) -> None:
    """The provider says that no more may follow: it has counted what we have not."""
    peer = peer_of(effects, attempt.account, attempt.recipient)
    if peer is not None and peer.followed < window.messages:
        peer.followed = window.messages
        effects.store(peer_key(attempt.account, attempt.recipient), pack(peer))
