"""What the reference keeps, and what it reads off a policy and a message without any history.

Like `tests/support/reference.py` it shares no code with the product.
"""

from __future__ import annotations

import string
import unicodedata
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.wallclock import DAY_MS

RANKS = ("dispatched", "unknown", "sent", "failed", "delivered", "read")
DEVICES = 10
"""Remembered of one customer."""
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


class Block(NamedTuple):
    """One rule that forbids a channel; `ready` is None when it never stops doing so."""

    rule: str
    kind: str
    action: str
    ready: int | None


class Answer(NamedTuple):
    """What the route says at one moment: dispatch, hold (until `ready`) or suppressed."""

    verdict: str
    channel: str | None
    blocks: list[Block]
    ready: int | None = None


@dataclass
class Copy:
    """What one device gets of a dispatch; on other channels there is one copy."""

    delivery: str
    account: str
    token: str
    status: str = "dispatched"


@dataclass
class Dispatch:
    delivery: str
    at: int
    app: str
    intent: str
    category: str
    channel: str
    account: str
    piece: Piece
    status: str = "dispatched"
    """What is known of it as a whole."""
    copies: list[Copy] = field(default_factory=list)
    superseded: bool = False
    """Its account has taken a copy back for a newer message."""

    @property
    def arrived(self) -> bool:
        return self.status in ("delivered", "read")


@dataclass
class Piece:
    """One intent to decide, or one channel of a combined send."""

    id: str
    app: str
    category: str
    priority: int
    route: list[str]
    combined: bool
    attempt: int
    accepted: int
    stated: int | None
    expires: int
    not_before: int | None
    collapse_key: str | None
    account: str | None
    content: dict[str, Any]
    released: dict[str, int] = field(default_factory=dict)
    """Quiet rule with `spread` to the moment until which it goes on blocking this piece."""
    wake: int = 0
    eligible: int | None = None
    """The next_eligible_at it was told last."""
    phase: str = "new"
    """held: waits to be sent; flying: sent, and may still go by another channel; done."""
    went: list[Dispatch] = field(default_factory=list)
    """Its dispatches, one for each channel it left on."""
    failure: str | None = None
    """What the provider says of the last of them, if that has failed."""

    @property
    def left(self) -> list[str]:
        """The channels behind the one it last left on."""
        if not self.went:
            return self.route
        return self.route[self.route.index(self.went[-1].channel) + 1 :]


@dataclass
class Customer:
    key: str
    zone: str | None = None
    owner: str | None = None
    to: dict[str, str] = field(default_factory=dict)
    devices: list[tuple[str, int]] = field(default_factory=list)
    """Push addresses and when they were seen, the last one first: that is the one in `to`."""
    dnd: dict[str, int | None] = field(default_factory=dict)
    takeover: tuple[str, int | None] | None = None
    inbound: int | None = None
    opened: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Channel and account to when she last wrote there, and the dispatches there were by then."""
    dispatches: list[Dispatch] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    """All there ever were, in the order of acceptance."""
    seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def held(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.phase == "held"]

    def tell(self, to: dict[str, str], at: int) -> None:
        """Somebody says how she is reached."""
        self.to.update(to)
        if "push" in to:
            others = [each for each in self.devices if each[0] != to["push"]]
            self.keep([(to["push"], at), *others])

    def keep(self, devices: list[tuple[str, int]]) -> None:
        self.devices = devices[:DEVICES]
        self.to.pop("push", None)
        if devices:
            self.to["push"] = devices[0][0]

    def bury(self, copy: Copy, token: str, since: int) -> None:
        """A device's address is dead: it is forgotten, if it was not seen after that."""
        left = []
        for address, seen in self.devices:
            same = token_of(address) == token and account_of(address) in ("", copy.account)
            if not same or seen > since:
                left.append((address, seen))
        self.keep(left)

    @property
    def waiting(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.phase in ("held", "flying")]


def matches(rule: dict[str, Any], category: str, channel: str, app: str) -> bool:
    return (
        category in rule.get("categories", [category])
        and channel in rule.get("channels", [channel])
        and app in rule.get("apps", [app])
    )


def account_of(address: str) -> str:
    """The account a push address begins with, or ""."""
    account, slash, token = address.partition("/")
    letters = string.ascii_letters + string.digits + "_-"
    good = slash and token and 1 <= len(account) <= 64 and all(each in letters for each in account)
    return account if good else ""


def token_of(address: str) -> str:
    account = account_of(address)
    return address[len(account) + 1 :] if account else address


def duration_ms(text: str) -> int:
    number = text.rstrip("mshd")
    return int(number) * UNITS_MS[text[len(number) :]]


def fnv1a_32(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value


def forbidden_by(
    rules: list[dict[str, Any]],
    content: dict[str, Any],
    route: list[str],
    category: str,
    app: str,
) -> list[Block]:
    """Rules of words that have one in what is said on some channel of a route."""
    found = []
    for rule in rules:
        words = [bare(word) for word in rule["words"]]
        for channel in route:
            said = [bare(text) for text in strings(said_on(content, channel))]
            hit = any(word in text for word in words for text in said)
            if hit and matches(rule, category, channel, app) and "on" in rule:
                found.append(Block(rule["name"], "words", rule["on"], None))
                break
    return found


def bare(text: str) -> str:
    """NFKC and casefolded, without what is not seen and what stands between words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = [
        each
        for each in folded
        if unicodedata.category(each)[0] in "LMN" or unicodedata.category(each) == "So"
    ]
    unseen = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
    seen = [
        each
        for each in kept
        if each not in unseen
        and not "\ufe00" <= each <= "\ufe0f"
        and not "\U000e0100" <= each <= "\U000e01ef"
    ]
    return unicodedata.normalize("NFKC", "".join(seen))


def said_on(content: dict[str, Any], channel: str) -> Any:
    """What a content says on a channel."""
    if "text" in content:
        return content["text"]
    return content[channel] if channel in content else content["*"]


def strings(value: Any) -> list[str]:
    """All strings somewhere in JSON but names, ids and addresses."""
    if isinstance(value, str):
        return [value]
    found = []
    if isinstance(value, list):
        for each in value:
            found += strings(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            bookkeeping = name.lower().endswith(("id", "url", "path", "key"))
            if not (bookkeeping and isinstance(each, str)):
                found += strings(each)
    return found


def latest(blocks: list[Block]) -> int | None:
    """The latest ready time, or None when one of them is never ready."""
    ready = [block.ready for block in blocks]
    return None if None in ready else max(ready)


def counts(rule: dict[str, Any], sent: Dispatch) -> bool:
    """Whether a dispatch counts for a cap or gap: it matches, and was not taken back."""
    return matches(rule, sent.category, sent.channel, sent.app) and sent.status != "failed"


def rank(status: str) -> int:
    return RANKS.index(status)


def together(words: list[str]) -> str:
    """What the words of all its copies say of a dispatch: the best, and that it has failed only if
    all have."""
    if set(words) == {"failed"}:
        return "failed"
    return max((word for word in words if word != "failed"), key=rank)
