"""What stands inside the fields of CMPP: authenticators, Msg_Ids, status reports and times.

Pure. Times of CMPP are Chinese local time (UTC+8 without daylight saving) and have no year or no
seconds in places. Source: QB-GF-028-2003, sections 8.4.1, 8.4.3 and 8.4.5; SMPP 3.3 for Valid_Time.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from channels.sms.cmpp.layout import U32, U64, CmppError, Layout, MalformedError, Row
from channels.sms.cmpp.messages import V30

CHINA = timezone(timedelta(hours=8))
_GATEWAY_MAX = (1 << 22) - 1
_SEQUENCE_MAX = (1 << 16) - 1


def timestamp(now_ms: int) -> int:
    """MMDDHHMMSS of a moment (Unix ms) in China, read as a number."""
    return int(_local(now_ms).strftime("%m%d%H%M%S"))


def authenticator_source(source_addr: str, secret: str, timestamp: int) -> bytes:
    """What proves to the ISMG that we know the secret: MD5, because the protocol says so."""
    text = source_addr.encode() + bytes(9) + secret.encode() + b"%010d" % timestamp
    return hashlib.md5(text, usedforsecurity=False).digest()


def authenticator_ismg(status: int, source: bytes, secret: str, version: int) -> bytes:
    """What proves to us that the ISMG knows it too; `source` is the authenticator we sent.

    The status has one byte in 2.x and four in 3.0.
    """
    text = status.to_bytes(4 if version >= V30 else 1, "big") + source + secret.encode()
    return hashlib.md5(text, usedforsecurity=False).digest()


def same(one: bytes, other: bytes) -> bool:
    """Whether two authenticators are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


# ---- Msg_Id --------------------------------------------------------------------------------------


class MsgId(NamedTuple):
    """The parts of a Msg_Id, from the highest bit down."""

    month: int
    day: int
    hour: int
    minute: int
    second: int
    gateway: int
    serial: int


_WIDTHS = (4, 5, 5, 6, 6, 22, 16)


def pack_msg_id(parts: MsgId) -> int:
    """The 64-bit number. Raises CmppError when a part has more bits than its place."""
    number = 0
    for name, value, width in zip(MsgId._fields, parts, _WIDTHS, strict=True):
        if not 0 <= value < 1 << width:
            raise CmppError(f"the {name} of a Msg_Id has {width} bits", field=name)
        number = number << width | value
    return number


def unpack_msg_id(number: int) -> MsgId:
    """The parts of a 64-bit number; any number has them, sensible or not."""
    parts = []
    for width in reversed(_WIDTHS):
        parts.append(number & (1 << width) - 1)
        number >>= width
    return MsgId(*reversed(parts))


def new_msg_id(now_ms: int, gateway: int, serial: int) -> int:
    """The Msg_Id that a gateway gives at a moment (Unix ms)."""
    at = _local(now_ms)
    clock = (at.month, at.day, at.hour, at.minute, at.second)
    return pack_msg_id(MsgId(*clock, gateway & _GATEWAY_MAX, serial & _SEQUENCE_MAX))


# ---- status reports ------------------------------------------------------------------------------


class Report(Struct, frozen=True, gc=False):
    """The Msg_Content of a DELIVER that is a status report. Times are YYMMDDHHMM."""

    msg_id: int
    stat: str
    submit_time: str
    done_time: str
    dest_terminal_id: str
    smsc_sequence: int = 0

    def __repr__(self) -> str:
        return "<CMPP Report>"


REPORT: tuple[Row, ...] = (
    ("msg_id", U64, U64),
    ("stat", 7, 7),
    ("submit_time", 10, 10),
    ("done_time", 10, 10),
    ("dest_terminal_id", 21, 32),
    ("smsc_sequence", U32, U32),
)
_REPORTS = (Layout(Report, REPORT, 0), Layout(Report, REPORT, 1))
_REPORT_BYTES = {60: 0, 71: 1}


def encode_report(report: Report, version: int) -> bytes:
    """60 bytes in 2.x, 71 in 3.0. Raises UnencodableError."""
    return _REPORTS[version >= V30].pack(report)


def decode_report(content: bytes) -> Report:
    """The report in a Msg_Content. Raises MalformedError.

    Read by its length and not by the connection's version: gateways that translate between the
    two leave the body as it came.
    """
    column = _REPORT_BYTES.get(len(content))
    if column is None:
        raise MalformedError(f"a status report of {len(content)} bytes; 60 or 71 are possible")
    return _REPORTS[column].unpack(content)  # type: ignore[no-any-return]


# ---- times ---------------------------------------------------------------------------------------


def minute_text(now_ms: int) -> str:
    """YYMMDDHHMM, as in a status report."""
    return _local(now_ms).strftime("%y%m%d%H%M")


@lru_cache(maxsize=1_024)  # reports of one minute say the same
def minute_ms(text: str) -> int | None:
    """The Unix ms at which a minute YYMMDDHHMM begins; None for what is no such time."""
    if len(text) != 10 or not (text.isascii() and text.isdigit()):
        return None
    try:
        return _unix_ms(datetime.strptime(text, "%y%m%d%H%M").replace(tzinfo=CHINA))
    except ValueError:
        return None


def valid_time(expires_ms: int) -> str:
    """Valid_Time: YYMMDDhhmmss, tenths, and 32 quarters of an hour before UTC."""
    return _local(expires_ms).strftime("%y%m%d%H%M%S") + f"{expires_ms // 100 % 10}32+"


def _local(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(CHINA)


def _unix_ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000
