"""Every command_status of SMPP 3.4: its name, and what it means for the message.

A status other than 0 says that the message was not taken. What can pass later is tried again, what
is about the whole bind pauses it, and the rest fails with the class that an application can act on.
A status that is not in the table (vendors use 0x400 to 0x4FF) fails with class `provider`: most of
them refuse one message for good (no credit, blocked number), and a failure lets the hub go to the
next channel, while trying again would repeat what the vendor has just refused. An account can name
the class of its vendor's own codes (`SmppConfig.statuses`).

Source: SMPP 3.4 section 5.1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Literal

from msgspec import Struct

from hub.contract.types import FailureClass

StatusClass = Literal["retry", "throttled"] | FailureClass
"""`retry` and `throttled` as in `Answer.kind`; the rest is the failure of a kind `failed`."""


class Status(IntEnum):
    """command_status, with the names of the specification without `ESME_`."""

    ROK = 0x00
    RINVMSGLEN = 0x01
    RINVCMDLEN = 0x02
    RINVCMDID = 0x03
    RINVBNDSTS = 0x04
    RALYBND = 0x05
    RINVPRTFLG = 0x06
    RINVREGDLVFLG = 0x07
    RSYSERR = 0x08
    RINVSRCADR = 0x0A
    RINVDSTADR = 0x0B
    RINVMSGID = 0x0C
    RBINDFAIL = 0x0D
    RINVPASWD = 0x0E
    RINVSYSID = 0x0F
    RCANCELFAIL = 0x11
    RREPLACEFAIL = 0x13
    RMSGQFUL = 0x14
    RINVSERTYP = 0x15
    RINVNUMDESTS = 0x33
    RINVDLNAME = 0x34
    RINVDESTFLAG = 0x40
    RINVSUBREP = 0x42
    RINVESMCLASS = 0x43
    RCNTSUBDL = 0x44
    RSUBMITFAIL = 0x45
    RINVSRCTON = 0x48
    RINVSRCNPI = 0x49
    RINVDSTTON = 0x50
    RINVDSTNPI = 0x51
    RINVSYSTYP = 0x53
    RINVREPFLAG = 0x54
    RINVNUMMSGS = 0x55
    RTHROTTLED = 0x58
    RINVSCHED = 0x61
    RINVEXPIRY = 0x62
    RINVDFTMSGID = 0x63
    RX_T_APPN = 0x64
    RX_P_APPN = 0x65
    RX_R_APPN = 0x66
    RQUERYFAIL = 0x67
    RINVOPTPARSTREAM = 0xC0
    ROPTPARNOTALLWD = 0xC1
    RINVPARLEN = 0xC2
    RMISSINGOPTPARAM = 0xC3
    RINVOPTPARAMVAL = 0xC4
    RDELIVERYFAILURE = 0xFE
    RUNKNOWNERR = 0xFF


CLASSES: Final[Mapping[int, StatusClass]] = {
    **dict.fromkeys((Status.RTHROTTLED, Status.RMSGQFUL), "throttled"),
    # temporary at the centre, and statuses about the bind: nothing is wrong with the message
    **dict.fromkeys(
        (
            Status.RSYSERR,
            Status.RSUBMITFAIL,
            Status.RX_T_APPN,
            Status.RINVBNDSTS,
            Status.RALYBND,
            Status.RBINDFAIL,
            Status.RINVPASWD,
            Status.RINVSYSID,
        ),
        "retry",
    ),
    **dict.fromkeys((Status.RINVDSTADR,), "dead_address"),
    # what the configuration of the account has put into every message
    **dict.fromkeys(
        (
            Status.RINVSRCADR,
            Status.RINVSRCTON,
            Status.RINVSRCNPI,
            Status.RINVDSTTON,
            Status.RINVDSTNPI,
            Status.RINVSYSTYP,
            Status.RINVSERTYP,
            Status.RINVPRTFLG,
            Status.RINVREGDLVFLG,
            Status.RINVREPFLAG,
        ),
        "config",
    ),
    # what was said cannot be said in this way
    **dict.fromkeys(
        (
            Status.RINVMSGLEN,
            Status.RINVCMDLEN,
            Status.RINVCMDID,
            Status.RINVESMCLASS,
            Status.RINVSCHED,
            Status.RINVEXPIRY,
            Status.RINVDFTMSGID,
            Status.RINVOPTPARSTREAM,
            Status.ROPTPARNOTALLWD,
            Status.RINVPARLEN,
            Status.RMISSINGOPTPARAM,
            Status.RINVOPTPARAMVAL,
        ),
        "rejected_content",
    ),
    # refused for good without a reason, or statuses of commands that are never sent
    **dict.fromkeys(
        (
            Status.RX_P_APPN,
            Status.RX_R_APPN,
            Status.RDELIVERYFAILURE,
            Status.RUNKNOWNERR,
            Status.RINVMSGID,
            Status.RCANCELFAIL,
            Status.RREPLACEFAIL,
            Status.RINVNUMDESTS,
            Status.RINVDLNAME,
            Status.RINVDESTFLAG,
            Status.RINVSUBREP,
            Status.RCNTSUBDL,
            Status.RINVNUMMSGS,
            Status.RQUERYFAIL,
        ),
        "provider",
    ),
}

UNKNOWN_CLASS: Final[StatusClass] = "provider"
"""For a status in no table; see the module's text."""

BIND_CONFIG: Final = frozenset(
    {
        Status.RALYBND,
        Status.RBINDFAIL,
        Status.RINVPASWD,
        Status.RINVSYSID,
        Status.RINVSYSTYP,
        Status.RINVCMDID,
        Status.RINVCMDLEN,
    }
)
"""A bind refused with one of these will be refused until a person changes something; RALYBND and
RBINDFAIL can pass by themselves, and the slow rebind will find that out."""

_NAMES: Final = {int(status): f"ESME_{status.name}" for status in Status}


class Verdict(Struct, frozen=True):
    """What a status means for the message it answers."""

    kind: Literal["accepted", "retry", "throttled", "failed"]
    code: str
    failure: FailureClass | None = None
    known: bool = True


def name_of(status: int) -> str:
    """`ESME_RTHROTTLED`, or `0x00000400` for a status without a name."""
    return _NAMES.get(status) or f"{status:#010x}"


def verdict_of(status: int, own: Mapping[int, StatusClass] | None = None) -> Verdict:
    """What a status in an answer to a submission means. Total. `own`: the vendor's own codes."""
    if status == Status.ROK:
        return _OK
    meaning = (own or {}).get(status) or CLASSES.get(status)
    known = meaning is not None
    if meaning is None:
        meaning = UNKNOWN_CLASS
    if meaning == "retry" or (meaning == "throttled"):
        return Verdict(meaning, name_of(status), known=known)
    return Verdict("failed", name_of(status), failure=meaning, known=known)  # type: ignore[arg-type]


_OK: Final = Verdict("accepted", "ESME_ROK")
