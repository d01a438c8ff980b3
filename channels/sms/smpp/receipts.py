"""Delivery receipts: what a deliver_sm says of a message sent earlier. Pure and total.

The specification leaves the text of a receipt to the vendor (SMPP 3.4, appendix B), so it is read
in any order and spelling; the optional parameters receipted_message_id and message_state, where a
centre sends them, count before the text. A message is only a receipt when its esm_class says so, or
when it has receipted_message_id: a customer could write the text of a receipt, but not these.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct

from channels.sms.smpp.pdu import EsmClass, Message, Tag, number
from hub.contract.types import FailureClass, ReceiptStatus

IdForm = Literal["none", "hex2dec", "dec2hex", "strip_zeros"]
"""How a receipt's id differs from the id in the answer: not at all; it is hexadecimal and the
answer's decimal; the other way round; it has zeros before it that the other has not."""

TEXT_BYTES_MAX: Final = 1_024
"""Of a receipt's text only this much is looked at; the form of appendix B has about 130."""
ID_CHARS_MAX: Final = 128
"""A longer id is cut; the contract of a receipt allows no more."""

_FIELD: Final = re.compile(
    r"(?<![a-z])(id|submit[ _]?date|done[ _]?date|sub|dlvrd|stat(?:us|e)?|err(?:or)?)"
    r"[ \t]{0,4}:[ \t]{0,4}([^\s:]{1,128})",
    re.IGNORECASE,
)
_TEXT: Final = re.compile(r"(?<![a-z])te?xt[ \t]{0,4}:", re.IGNORECASE)
_DECIMAL: Final = re.compile(r"[0-9]{1,64}")
_HEXADECIMAL: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,64})")

_STATS: Final[tuple[tuple[str, ReceiptStatus, FailureClass | None], ...]] = (
    ("DELIV", "delivered", None),
    ("UNDELIV", "failed", "provider"),
    ("EXPIR", "failed", "expired"),
    ("DELET", "failed", "provider"),
    ("REJECT", "failed", "provider"),
    ("FAIL", "failed", "provider"),
    ("SKIP", "failed", "provider"),
    ("UNKNOW", "unknown", None),
    ("ACCEP", "sent", None),
    ("ENROUT", "sent", None),
    ("BUFF", "sent", None),
    ("SENT", "sent", None),
    ("SCHED", "sent", None),
)
"""How `stat` begins, whatever the vendor's spelling of it. ACCEPTD is no last word: centres send it
when a network has taken the message over."""

_STATES: Final = (
    "SCHEDULED",
    "ENROUTE",
    "DELIVRD",
    "EXPIRED",
    "DELETED",
    "UNDELIV",
    "ACCEPTD",
    "UNKNOWN",
    "REJECTD",
    "SKIPPED",
)
"""message_state by its number (5.2.28; 0 and 9 are of version 5.0)."""
_DELIVERED: Final = "DELIVRD"


class ReceiptText(Struct, frozen=True):
    """A receipt as it was sent; "" for what is missing."""

    id: str = ""
    stat: str = ""
    err: str = ""


class Receipt(Struct, frozen=True):
    """What became of the message that the centre calls `id`."""

    id: str
    status: ReceiptStatus
    failure: FailureClass | None
    code: str
    """`UNDELIV`, or with the network's error: `UNDELIV:011`."""


_NOTHING_TOLD: Final = ReceiptText()


def is_receipt(message: Message) -> bool:
    """Whether a deliver_sm (or data_sm) reports on a message and is none itself (5.2.12)."""
    kind = message.esm_class & EsmClass.TYPE_MASK
    return kind in (EsmClass.RECEIPT, EsmClass.INTERMEDIATE) or (
        kind == 0 and Tag.RECEIPTED_MESSAGE_ID in message.tlvs
    )


def receipt_of(message: Message, form: IdForm = "none") -> Receipt | None:
    """What a receipt says; None when it does not say of which message. Total."""
    name = message.tlvs.get(Tag.RECEIPTED_MESSAGE_ID, b"").partition(b"\0")[0].decode("latin-1")
    name = name.strip()
    state = number(message.tlvs, Tag.MESSAGE_STATE)
    stat = _STATES[state] if state is not None and state < len(_STATES) else ""
    told = _NOTHING_TOLD
    if not name or stat != _DELIVERED:  # else the text, which costs most, has nothing to add
        told = parse_text(_text_of(message))
        name, stat = name or told.id, stat or told.stat
    if not name:
        return None
    status, failure = status_of(stat)
    code = stat or "no stat"
    err = told.err or _network_error(message)
    if err.strip("0"):
        code = f"{code}:{err}"
    return Receipt(receipt_id(name, form), status, failure, code[:64])


def status_of(stat: str) -> tuple[ReceiptStatus, FailureClass | None]:
    """The meaning of `stat`; one that is not known says `unknown`."""
    spelled = stat.upper()
    for begin, status, failure in _STATS:
        if spelled.startswith(begin):
            return status, failure
    return "unknown", None


def parse_text(text: str) -> ReceiptText:
    """The fields of a receipt's text, in any order and case.

    `text:` begins what the customer was sent: fields are looked for after it only when they are
    not found before it.
    """
    text = text[:TEXT_BYTES_MAX]
    quoted = _TEXT.search(text)
    parts = (text[: quoted.start()], text[quoted.end() :]) if quoted else (text,)
    found: dict[str, str] = {}
    for part in parts:
        for match in _FIELD.finditer(part):
            found.setdefault(match[1].lower()[:3], match[2])
    return ReceiptText(
        id=found.get("id", "")[:ID_CHARS_MAX],
        stat=found.get("sta", "")[:32],
        err=found.get("err", "")[:16],
    )


def receipt_id(name: str, form: IdForm) -> str:
    """A receipt's id in the one spelling that `answer_id` gives to the answer's."""
    if form == "hex2dec" and (match := _HEXADECIMAL.fullmatch(name)):
        return str(int(match[1], 16))[:ID_CHARS_MAX]
    if form == "dec2hex" and _DECIMAL.fullmatch(name):
        return f"{int(name):x}"
    return _plain(name, form)


def answer_id(name: str, form: IdForm) -> str:
    """The id in the answer to a submission, in the spelling that `receipt_id` gives."""
    if form == "dec2hex" and (match := _HEXADECIMAL.fullmatch(name)):
        return match[1].lower().lstrip("0") or "0"
    return _plain(name, form)


def _plain(name: str, form: IdForm) -> str:
    if form != "none" and name:
        name = name.lstrip("0") or "0"
    return name[:ID_CHARS_MAX]


def _text_of(message: Message) -> str:
    content = message.content[:TEXT_BYTES_MAX]
    if message.data_coding == 8:
        return content.decode("utf-16-be", "replace")
    return content.decode("latin-1")


def _network_error(message: Message) -> str:
    """network_error_code: the type of network and its error, two octets (5.3.2.31)."""
    value = message.tlvs.get(Tag.NETWORK_ERROR_CODE, b"")
    return f"{int.from_bytes(value[1:], 'big'):03d}" if len(value) == 3 else ""
