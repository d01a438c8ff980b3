"""What the numbers of CMPP mean: results of a SUBMIT, status of a CONNECT, Stat of a report.

A result other than 0 says that the message was not taken. Gateways number their own reasons from
100 (blocked words, no credit, a number on a blacklist) or put them elsewhere. A result in no table
fails with class `provider`: most such reasons hold for one message for good, a failure lets the hub
go to the next channel, and it cannot make a duplicate. An account can name the class of its
gateway's own results and report codes (`CmppConfig.results`, `CmppConfig.stats`).

Source: QB-GF-028-2003, sections 8.4.1.2 (Status), 8.4.3.2 (Result), 8.4.5.1 (Stat) and the table of
gateway error codes that Stat may carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from hub.contract.types import FailureClass, ReceiptStatus

ResultClass = Literal["retry", "throttled"] | FailureClass
"""`retry` and `throttled` as in `Answer.kind`; the rest is the failure of a kind `failed`."""

SUBMIT: Final[Mapping[int, tuple[str, ResultClass]]] = {
    1: ("structure", "rejected_content"),
    2: ("command", "rejected_content"),
    3: ("sequence", "rejected_content"),
    4: ("length", "rejected_content"),
    5: ("fee-code", "config"),
    6: ("too-long", "rejected_content"),
    7: ("service", "config"),
    8: ("flow-control", "throttled"),
    9: ("not-served", "config"),
    10: ("src-id", "config"),
    11: ("msg-src", "config"),
    12: ("fee-terminal", "config"),
    13: ("dest-terminal", "dead_address"),
}
"""Result of a SUBMIT_RESP: a name of it, and what it means. 9 is "other" in 2.0, and a phone that
this gateway does not serve in 3.0; either is settled with the carrier."""
UNKNOWN_RESULT: Final[ResultClass] = "provider"
"""For a result in no table; see the module's text."""

OK, STRUCTURE, FLOW_CONTROL = 0, 1, 8
"""Results that a DELIVER is answered with: ours now; not understood; keep it and repeat it."""

VERSION_TOO_HIGH: Final = 4
CONNECT: Final[Mapping[int, tuple[str, bool]]] = {
    1: ("the ISMG does not understand the CONNECT", False),
    2: ("the ISMG refuses this source address: check sp_id, and which addresses it lets in", True),
    3: ("the ISMG refuses the login: check sp_id and secret, and the machine's clock", True),
    VERSION_TOO_HIGH: ("the ISMG does not speak this version: set version", True),
    5: ("the ISMG refuses the login without a reason (often: too many connections)", False),
}
"""Status of a CONNECT_RESP: what to tell a person, and whether one must change something first."""


class Verdict(Struct, frozen=True):
    """What a result means for the message it answers."""

    kind: Literal["accepted", "retry", "throttled", "failed"]
    code: str
    failure: FailureClass | None = None
    known: bool = True


def verdict_of(result: int, own: Mapping[str, ResultClass] | None = None) -> Verdict:
    """What the result of a SUBMIT_RESP means. Total. `own`: the gateway's, by decimal number."""
    if result == OK:
        return _ACCEPTED
    name, meaning = SUBMIT.get(result, ("", UNKNOWN_RESULT))
    code = f"CMPP_{result}" + (f" {name}" if name else "")
    given = (own or {}).get(str(result))
    known = bool(name or given)
    meaning = given or meaning
    if meaning == "retry" or meaning == "throttled":
        return Verdict(meaning, code, known=known)
    return Verdict("failed", code, failure=meaning, known=known)


_ACCEPTED: Final = Verdict("accepted", "CMPP_0")


def refusal_of(status: int) -> tuple[str, bool]:
    """Of a CONNECT that was refused: what to tell a person, and whether it is the configuration."""
    return CONNECT.get(status, (f"the ISMG refuses the login with status {status}", False))


# ---- status reports ------------------------------------------------------------------------------


class Fate(Struct, frozen=True):
    """What a Stat says became of a message."""

    status: ReceiptStatus
    failure: FailureClass | None = None
    known: bool = True


STAT_CHARS: Final = 7
"""Its field's width."""
_DELIVERED: Final = Fate("delivered")
_UNKNOWN: Final = Fate("unknown")
_FAILED: Final = Fate("failed", "provider")

STATES: Final[Mapping[str, Fate]] = {
    "DELIVRD": _DELIVERED,
    "ACCEPTD": Fate("sent"),  # taken for the customer by somebody else: nobody saw it delivered
    "EXPIRED": Fate("failed", "expired"),
    "DELETED": _FAILED,
    "UNDELIV": _FAILED,
    "REJECTD": _FAILED,
    "UNKNOWN": _UNKNOWN,
}
GATEWAY: Final[Mapping[str, Fate]] = {
    # An SMSC (M) or the next gateway (I) did not answer (A), answered with an error (B), or told
    # no result in time (C): it may have passed the message on.
    **dict.fromkeys(("MA", "MB", "MC", "IA", "IB", "IC"), _UNKNOWN),
    # The account of the customer (C) or the service platform (D) did not answer or refused: it
    # was never passed on.
    **dict.fromkeys(("CA", "CB", "DA", "DB"), _FAILED),
}
"""By the first two letters of a Stat like `MB:0012`."""

StatMeaning = Literal["delivered", "sent", "unknown"] | FailureClass
"""What a configuration may say of a Stat: a failure class means failed with it."""


def fate_of(stat: str, own: Mapping[str, StatMeaning] | None = None) -> Fate:
    """What a Stat means. Total. `own`: by the whole Stat, or by what stands before its colon.

    One that nobody knows is `unknown`: neither delivered nor failed may be guessed.
    """
    stat = stat.upper()
    family = stat.partition(":")[0]
    if own and (given := own.get(stat) or own.get(family)):
        if given == "delivered" or given == "sent" or given == "unknown":
            return Fate(given)
        return Fate("failed", given)
    found = STATES.get(stat)
    if found is None and ":" in stat:
        found = GATEWAY.get(family)
    return found or Fate("unknown", known=False)
