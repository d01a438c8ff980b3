"""What the checkers of accounts read: what providers saw, beside what both streams hold.

Plain records, from whatever stands on the other side: the model of a simulation, or the record file
of a fake (`submits_of`). Times are Unix ms by one clock, or by clocks that are set alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from math import inf
from typing import Any, Literal, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from hub.checkers.records import Handed, Published, Violation, about_delivery
from hub.contract.types import Receipt


class Submit(Struct, frozen=True, gc=False):
    """One part of a delivery as it reached a provider."""

    at_ms: float
    account: str
    delivery: str
    app: str
    recipient: str
    part: int = 0
    refused: bool = False
    """The provider has answered that it was not taken, and may be sent again."""


class Opening(Struct, frozen=True, gc=False):
    """What an account log says of one attempt, in the order of the ledger."""

    sequence: int
    partition: int
    account: str
    delivery: str
    open: bool
    at_ms: float = 0.0


class LimitRule(Struct, frozen=True, gc=False):
    """A limit of an account, while it was in force."""

    account: str
    count: int
    """0: as many as the month has days."""
    window_ms: int = 0
    """Length of a rolling window; 0 for the calendar."""
    calendar: Literal["", "day", "month", "week"] = ""
    per: Literal["account", "app", "recipient"] = "account"
    zone: str = "Asia/Shanghai"
    from_ms: float = -inf
    until_ms: float = inf
    counted_ms: float = -inf
    """Since when it counts: a window that is new in the configuration begins empty."""


class Confirmed(Struct, frozen=True, gc=False):
    """A receipt of a part of a known delivery that the hub has confirmed to the provider."""

    at_ms: float
    account: str
    delivery: str
    part: int
    expected: int
    """Receipts that the provider's answer announced."""
    status: str


class Heard(Struct, frozen=True, gc=False):
    """A customer's message that the hub has confirmed to the provider."""

    at_ms: float
    account: str
    id: str
    opt_out: bool = False


class AccountHistory(Struct, kw_only=True, dict=True):
    """A run of accounts: all of it, from the first delivery to the end."""

    submits: list[Submit]
    handed: list[Handed]
    """All deliveries of LEDGER, those handed from account to account included."""
    published: list[Published] = field(default_factory=list)
    """INTAKE: what accounts told of deliveries and customers."""
    decided: list[tuple[str, str]] = field(default_factory=list)
    """(delivery, status) as the logs say they are to be told. Where nobody reads the logs what
    INTAKE has stands for it, which is in that order unless publishing has failed meanwhile."""
    openings: list[Opening] = field(default_factory=list)
    limits: list[LimitRule] = field(default_factory=list)
    keyed: frozenset[str] = frozenset()
    """Accounts whose provider removes repeats by the delivery's id."""
    repeating: frozenset[str] = frozenset()
    """Accounts that may send again what was not answered (`duplicates = "allow"`)."""
    confirmed: list[Confirmed] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)

    @cached_property
    def told(self) -> dict[str, list[Published]]:
        """Delivery to its receipts, in the order of INTAKE."""
        found: dict[str, list[Published]] = {}
        for each in self.published:
            if isinstance(each.message, Receipt):
                found.setdefault(each.message.delivery, []).append(each)
        return found

    @cached_property
    def first(self) -> dict[tuple[str, str], tuple[float, int]]:
        """(account, delivery) to when it was submitted first: time, and place in `submits`."""
        found: dict[tuple[str, str], tuple[float, int]] = {}
        for place, submit in enumerate(self.submits):
            found.setdefault((submit.account, submit.delivery), (submit.at_ms, place))
        return found


class AccountChecker(Protocol):
    """One promise about accounts."""

    promise: str

    def check(self, history: AccountHistory) -> list[Violation]:
        """Every violation found; none when the promise was kept."""


def about_handed(promise: str, kind: str, handed: Handed, at_ms: float | None = None) -> Violation:
    """A violation that one delivery shows; its `rule` is the account."""
    found = about_delivery(promise, kind, handed, handed.delivery.account)
    return replace(found, at_ms=None if at_ms is None else int(at_ms))


def about_submit(promise: str, kind: str, submit: Submit, limit: str = "") -> Violation:
    """A violation that something submitted shows; its `rule` is the account, and its limit."""
    return Violation(
        promise=promise,
        kind=kind,
        app=submit.app,
        delivery=submit.delivery,
        rule=f"{submit.account} {limit}".strip(),
        at_ms=int(submit.at_ms),
    )


def submits_of(
    lines: Iterable[Mapping[str, Any]],
    account: str,
    name: Callable[[Mapping[str, Any]], tuple[str, str] | None],
) -> list[Submit]:
    """What the record of an SMS fake says was submitted by one account.

    `name` reads (delivery id, app) off a line: tests put them into the text. None leaves it out.
    """
    found = []
    for line in lines:
        known = name(line) if line.get("kind") == "submit" else None
        if known is not None:
            again = line["answer"] in ("throttle", "busy")
            part = int(line.get("part", 1)) - 1
            found.append(Submit(line["at"], account, *known, line["to"], part, again))
    return found
