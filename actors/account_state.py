"""What is remembered of accounts, and how it is packed: MessagePack by position, by key.

A partition of accounts keeps one dictionary of small packed values, so that a turn rewrites only
what it touched. Keys:

- `a:<delivery id>`: an `Attempt`;
- `p:<account>:<provider id>`: a `Part`, where receipts that name the provider's id belong;
- `q:<account>:<provider id>`: `EarlyReceipt`s, come before the answer that tells whose the id is;
- `n:<account>:<recipient>`: a `Peer`, whom an inbound message is from;
- `i:<account>:<inbound id>`: an inbound message, or a bundle, taken already (`Seen`);
- `m:<account>:<key>`: a note of the provider, as it gave it;
- `c:<account>`: an `AccountState`;
- `o:<number>`: a list of `Outbound`, stored and not yet published;
- `u:<channel>:<sequence>`: nothing; this message was urgent, and taken ahead of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct, field

from hub.contract.types import Delivery
from hub.ledger.port import Outbound

OWN = "tact"
"""The `app` of what the account itself sends (answers to refusals); nobody is told of it."""

WAITING, OPEN, UNKNOWN, ACCEPTED, DONE = range(5)
"""Of an attempt. OPEN from before the provider is called until it has answered: one that is found
OPEN after a crash may have been sent. UNKNOWN: it left and no answer came. ACCEPTED: receipts may
follow. DONE: kept for a while, for receipts that come twice or contradict each other."""
STATE_NAMES = ("waiting", "open", "unknown", "accepted", "done")


class Attempt(Struct, array_like=True):
    """One delivery on its way through one account. New fields go to the end."""

    account: str
    channel: str
    customer: str
    app: str
    priority: int
    sequence: int
    """Of the LEDGER message that holds the delivery; 0 for the account's own reply."""
    place: int
    """Among the deliveries of that message: with `sequence` the order in which it was decided."""
    expires_ms: int
    state: int = WAITING
    opened_ms: int = 0
    wake_ms: int = 0
    """WAITING: not before; UNKNOWN, ACCEPTED: not longer than; DONE: forgotten."""
    tries: int = 0
    """Submissions that were refused for the moment, or not answered and repeated."""
    recipient: str = ""
    units: int = 1
    ids: list[str] = field(default_factory=list)
    """The provider's id of each part, "" for one it has not taken."""
    marks: list[int] = field(default_factory=list)
    """The status (`hub.policy.state.STATUS`) that receipts gave each part."""
    receipts: int = 0
    """How many are expected."""
    told: int = 0
    """The furthest status told to the conversation."""
    unsure: bool = False
    """It left before and nobody knows what became of that: again only to the same provider, or
    where duplicates are allowed."""
    handed: bool = False
    """It was handed over to this account, and is not handed on."""
    windowed: bool = False
    """It is counted, as under way, among what follows the customer's last message."""
    uncounted: bool = False
    """Long limits per recipient do not count it."""
    dead_ms: int = 0
    """Since when its address is dead, if the provider has said so."""
    collapse: bytes = b""
    """What a newer one for this customer replaces it by; empty: nothing does."""

    @property
    def counted_for(self) -> str:
        """The recipient whose limits count it; "" for nobody's."""
        return "" if self.uncounted else self.recipient


class Part(Struct, array_like=True, frozen=True):
    """Whose a provider's id is."""

    delivery: str
    part: int


class EarlyReceipt(Struct, array_like=True, frozen=True):
    """A receipt whose id nobody has been told yet."""

    status: str
    at_ms: int
    failure: str | None
    code: str
    kept_ms: int
    last: bool = False


class Peer(Struct, array_like=True):
    """The customer behind an address."""

    customer: str
    day: int
    """Of the last message to it, in days since 1970: what is forgotten first."""
    replied_ms: int = 0
    """When its refusal was answered."""
    quota: bytes = b""
    """Used up of the limits per recipient."""
    wrote_ms: int = 0
    """When the customer last wrote to this account; 0: never."""
    followed: list[int] = []
    """When each message that follows that was sent, at the latest; 0: it is under way. She may have
    written before we sent them and be heard after it."""


class Seen(Struct, array_like=True, frozen=True):
    """An inbound message that was taken."""

    until_ms: int


class AccountState(Struct, array_like=True):
    """What must survive of the account itself."""

    quota: bytes = b""


pack = msgspec.msgpack.Encoder().encode
unpack_attempt = msgspec.msgpack.Decoder(Attempt).decode
unpack_part = msgspec.msgpack.Decoder(Part).decode
unpack_early = msgspec.msgpack.Decoder(list[EarlyReceipt]).decode
unpack_peer = msgspec.msgpack.Decoder(Peer).decode
unpack_seen = msgspec.msgpack.Decoder(Seen).decode
unpack_account = msgspec.msgpack.Decoder(AccountState).decode
unpack_outbound = msgspec.msgpack.Decoder(list[Outbound]).decode


def attempt_key(delivery: str) -> str:
    """Where the attempt of a delivery is kept."""
    return f"a:{delivery}"


def name_for(load: Callable[[str], bytes | None], delivery: Delivery) -> str | None:
    """What the attempt of a delivery is called: its id, with the customer behind it where an
    application has given one intent id to two of them. None: this attempt is known already."""
    for name in (delivery.id, f"{delivery.id} {delivery.customer}"):
        packed = load(attempt_key(name))
        if packed is None:
            return name
        if unpack_attempt(packed).customer == delivery.customer:
            break
    return None


def delivery_id(name: str) -> str:
    """The delivery's id in the name of an attempt."""
    return name.partition(" ")[0]


def part_key(account: str, provider_id: str) -> str:
    """Where it is kept whose a provider's id is."""
    return f"p:{account}:{provider_id}"


def early_key(account: str, provider_id: str) -> str:
    """Where receipts wait whose id is not known yet."""
    return f"q:{account}:{provider_id}"


def peer_key(account: str, recipient: str) -> str:
    """Where the customer behind an address is kept."""
    return f"n:{account}:{recipient}"


def seen_key(account: str, inbound: str) -> str:
    """Where a taken inbound message is remembered."""
    return f"i:{account}:{inbound}"


def note_key(account: str, key: str) -> str:
    """Where a note of the account's provider is kept."""
    return f"m:{account}:{key}"


def ahead_key(channel: str, sequence: int) -> str:
    """Where it is kept that a message was taken ahead of the checkpoint."""
    return f"u:{channel}:{sequence}"


def account_key(account: str) -> str:
    """Where the account's own state is kept."""
    return f"c:{account}"
