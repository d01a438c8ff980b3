"""What is remembered of one conversation, and how it is packed.

A conversation at rest is one `bytes`: MessagePack of `ConversationState`.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct, field
from xxhash import xxh3_64_digest

# Status of a dispatch, as told by receipts. Only ever moves to a larger number.
DISPATCHED, UNKNOWN, SENT, FAILED, DELIVERED, READ = range(6)
STATUS = {"unknown": UNKNOWN, "sent": SENT, "failed": FAILED, "delivered": DELIVERED, "read": READ}

FOREVER = 0
"""A DND or takeover without `until`."""


class Send(Struct, array_like=True, gc=False):
    """One dispatch: what caps and gaps count, and what receipts are matched with."""

    at: int
    label: str
    """What was sent, of the kind rules tell apart; see `label_of`."""
    account: str
    intent: bytes
    """`intent_hash` of (app, id)."""
    attempt: int = 1
    status: int = DISPATCHED
    fallback: bool = False
    """It went out because of an earlier attempt: the sends of this intent are one after another."""

    @property
    def channel(self) -> str:
        return label_parts(self.label)[0]

    @property
    def app(self) -> str:
        return label_parts(self.label)[1]

    @property
    def category(self) -> str:
        return label_parts(self.label)[2]


def label_of(channel: str, app: str, category: str) -> str:
    """One word for what filters look at: a rule then asks one dictionary about a dispatch."""
    return f"{channel} {app} {category}"


def label_parts(label: str) -> list[str]:
    """Channel, app and category. Only a category may have spaces, and it is the last."""
    return label.split(" ", 2)


class Held(Struct, array_like=True, gc=False):
    """One intent that waits (of a combined send: one channel of it). Its body is parked.

    Either it is held until it may go; or it is in flight: it has left on the channel `before`, and
    what is left of its route waits for what becomes of that dispatch.
    """

    id: str
    app: str
    category: str
    priority: int
    route: list[str]
    """Where it may still go."""
    attempt: int
    """The number of its next dispatch."""
    combined: bool
    accepted: int
    expires: int
    expires_stated: bool
    """False when `expires` comes from `hold_max`: such intents go last among equals."""
    not_before: int
    collapse_key: str | None
    account: str | None
    trace: str | None
    block: str
    """Name of the parked block that holds the body."""
    index: int
    """Place of the body in the block."""
    wake: int = 0
    """When it is decided again: next_eligible_at, or its expiry when there is none. In flight:
    when `fallback_after` has passed, or when it ends."""
    spread: dict[str, int] | None = None
    """Quiet rule to the moment until which it goes on blocking this intent."""
    size: int = 0
    """Bytes of the body."""
    urgent: bool = False
    """It came on the urgent lane."""
    in_flight: bool = False
    timed: bool = False
    """In flight, and decided again at `wake`; else that is the end of the flight."""
    before: str | None = None
    """The channel of its newest dispatch; None when there was none."""
    failure: str | None = None
    """Why that dispatch failed; None when there was none or it has not failed."""


class Talks(Struct, array_like=True, gc=False):
    """What is remembered of what is said in both directions."""

    windows: dict[str, list[int]] = field(default_factory=dict)
    """By `window_key`: when the customer last wrote there (Unix ms), and the dispatches since."""
    replied: dict[str, int] = field(default_factory=dict)
    """Reply rule to when it last answered, for its `every`."""
    waiting: dict[str, list[int]] = field(default_factory=dict)
    """By `window_key`: since when a message of the customer is unanswered, the reminders given
    and, if any was, how many ms after that the last of them was due."""


class Device(Struct, array_like=True, gc=False):
    """A push address of the customer."""

    address: str
    """As it was told, with the account that reaches it in front if one was named."""
    seen: int
    """When it was told last (Unix ms); 0: before that was remembered."""


class Copies(Struct, array_like=True, gc=False):
    """What became of the deliveries of one dispatch to several devices, by device.

    Its `Send` has what became of the whole.
    """

    at: int
    intent: bytes
    attempt: int
    accounts: list[str]
    status: list[int]
    superseded: bool = False
    """One of them was taken back because a newer message replaces it."""


class Devices(Struct, array_like=True, gc=False):
    """The customer's devices, and what is not yet known of dispatches to several of them."""

    known: list[Device] = field(default_factory=list)
    """Seen last first. The first is `to["push"]`, and its address is kept only there."""
    copies: list[Copies] = field(default_factory=list)
    """Newest first."""


class ConversationState(Struct, array_like=True, gc=False):
    """Everything `decide()` may look at. Packed by position: new fields go to the end."""

    wake: int = 0
    """Earliest `wake` of what is held or in flight; 0 when nothing is."""
    zone: str | None = None
    to: dict[str, str] = field(default_factory=dict)
    owner: str | None = None
    dnd: dict[str, int] = field(default_factory=dict)
    """Scope to `until` in Unix ms, or FOREVER."""
    inbound: int = 0
    """Time of the customer's last message; 0 for none."""
    agent: str | None = None
    """Who has taken the conversation over; None when nobody has."""
    takeover: int = FOREVER
    """Until when, if `agent` is set."""
    sends: list[Send] = field(default_factory=list)
    """Newest first: the order in which rules ask about them."""
    seen: bytes = b""
    """Remembered (app, id) that are neither in `sends` nor in `held`; see `hub.policy.seen`."""
    held: list[Held] = field(default_factory=list)
    """Held and in flight, in the order of acceptance."""
    talks: Talks | None = None
    """None while nothing of it is remembered: most of a hub is idle conversations."""
    devices: Devices | None = None
    """None while no push address is known."""

    @property
    def windows(self) -> dict[str, list[int]]:
        """See `Talks`; to be read."""
        return {} if self.talks is None else self.talks.windows

    @property
    def replied(self) -> dict[str, int]:
        """See `Talks`; to be read."""
        return {} if self.talks is None else self.talks.replied

    @property
    def waiting(self) -> dict[str, list[int]]:
        """See `Talks`; to be read."""
        return {} if self.talks is None else self.talks.waiting

    def talking(self) -> Talks:
        """The same to be written."""
        if self.talks is None:
            self.talks = Talks()
        return self.talks

    def talked(self) -> None:
        """Something of it was forgotten: nothing at all is None again."""
        talks = self.talks
        if talks is not None and not (talks.windows or talks.replied or talks.waiting):
            self.talks = None


class WakeOnly(Struct, array_like=True):
    """Reads only `wake` of a packed state: recovery rebuilds its heap with it."""

    wake: int = 0


pack_state = msgspec.msgpack.Encoder().encode


def window_key(channel: str, account: str) -> str:
    """The key of `windows` and `waiting`. No channel has a space."""
    return f"{channel} {account}"


unpack_state = msgspec.msgpack.Decoder(ConversationState).decode
unpack_wake = msgspec.msgpack.Decoder(WakeOnly).decode


def intent_hash(app: str, intent: str) -> bytes:
    """8 bytes (XXH3) that stand for (app, id) in the memory of one conversation.

    A conversation remembers some thousands at most: a false `duplicate` has odds below 1e-15. An
    application that makes ids collide on purpose only finds its own.
    """
    return xxh3_64_digest(f"{app}:{intent}".encode())
