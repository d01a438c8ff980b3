"""Accounts that are talked to, for a scenario: what kind they are, and what customers say to them.

Drawn apart from the rest of the scenario: about half of its accounts are plain connections.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from channels.provider import ProviderCommand, ProviderInbound
from channels.registry import PROVIDERS, Kind, Window

WINDOWS = (Window(1, 60_000), Window(2, 60_000), Window(2, 3_600_000), Window(3, 48 * 3_600_000))
AFTER_S = (0.0, 0.01, 0.3, 3.0, 19.0, 21.0, 70.0, 900.0)
"""After a burst: before, among and after its deliveries."""
OPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dnd.set", {"scope": "channel:sms"}),
    ("dnd.clear", {"scope": "channel:sms"}),
    ("takeover", {"agent": "li"}),
    ("release", {}),
)


@dataclass(frozen=True)
class Manner:
    """How the other side of one account behaves. Odds are shares of submissions."""

    seed: str
    window: int = 10
    resend: bool = False
    """It removes repeats by the delivery's id."""
    echoes: bool = False
    """Its receipts name the delivery's id instead of its own."""
    latency_s: tuple[float, ...] = (0.01, 0.05, 0.2)
    silent: float = 0.0
    """Taken or not, and no answer."""
    busy: float = 0.0
    throttle: float = 0.0
    refuse: float = 0.0
    broken: float = 0.0
    """Refused for a fault of its own."""
    half: float = 0.0
    """Of several parts some are taken."""
    receipts: bool = True
    closed: float = 0.0
    """Refused because somebody else has used up what may follow the customer's message."""
    confirms: bool = False
    """It accepts without saying that it is sent: receipts that name the delivery do."""
    reads: bool = False
    """What it reports is read with a cursor."""
    page: int = 10
    """Reports read at once."""
    names: bool = False
    """Pages are bundles with an id."""
    loses: float = 0.0
    """Confirmations of reports."""


class Letter(NamedTuple):
    """What a customer says to an account, or does there."""

    at_s: float
    account: str
    inbound: ProviderInbound | None
    command: ProviderCommand | None = None
    bundle: str = ""
    """The id of the bundle it is reported in, if it is pushed."""


def provider_name(account: str) -> str:
    """What the configuration calls the kind of an account."""
    return f"sim-{account}"


def kind_of(chance: random.Random) -> Kind:
    """The kind of one account."""
    return dataclasses.replace(
        PROVIDERS["smpp"],
        connects=chance.random() < 0.5,
        closes=chance.random() < 0.2,
        window=chance.choice(WINDOWS) if chance.random() < 0.25 else None,
    )


def talking(manner: Manner, chance: random.Random, kind: Kind) -> Manner:
    """The manner of an account, with how it reports and what it says of what it accepts."""
    return dataclasses.replace(
        manner,
        closed=chance.choice((0.0, 0.15)) if kind.window is not None else 0.0,
        confirms=chance.random() < 0.2,
        reads=chance.random() < 0.3,
        page=chance.choice((1, 2, 5, 50)),
        names=chance.random() < 0.5,
        loses=chance.choice((0.0, 0.0, 0.2)),
    )


def letters_to(
    chance: random.Random,
    accounts: Iterable[str],
    bursts: list[float],
    kinds: Mapping[str, Kind],
    manners: Mapping[str, Manner],
    addresses: list[str],
) -> list[Letter]:
    """What customers say to accounts that read, or may only answer; and some to any."""
    letters: list[Letter] = []
    for name in accounts:
        most = 4 if kinds[name].window is not None or manners[name].reads else 1
        for burst_s in bursts:
            for _ in range(chance.randint(0, most)):
                at_s = burst_s + chance.choice(AFTER_S)
                letters.append(_letter(chance, at_s, name, addresses, len(letters)))
    return letters


def _letter(
    chance: random.Random, at_s: float, account: str, addresses: list[str], number: int
) -> Letter:
    who, how = chance.choice(addresses), chance.random()
    content: dict[str, Any] = {"text": f"hello {number}"}
    if how < 0.1:
        content = {"event": "friend_added"}
    inbound = ProviderInbound(
        id=f"talk{number}",
        sender=who,
        content=content,
        at_ms=0,
        opt_out=0.1 < how < 0.2,
        agent="li" if 0.2 < how < 0.3 else "",
    )
    command = None
    if chance.random() < 0.25:
        op, fields = chance.choice(OPS)
        command = ProviderCommand(f"do{number}", who, op, fields)  # type: ignore[arg-type]
    told = inbound if command is None or chance.random() < 0.5 else None
    bundle = f"both{number}" if command is not None or chance.random() < 0.2 else ""
    return Letter(at_s, account, told, command, bundle)
