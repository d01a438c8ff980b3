"""The PDUs of SMPP 3.4 as values, and what can be wrong with them. `codec` makes bytes of them.

Source: SMPP Protocol Specification v3.4, issue 1.2; section numbers in the text are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from msgspec import Struct, field

from hub.errors import TactError

HEADER_BYTES: Final = 16
PDU_BYTES_MAX: Final = 70 * 1024
"""The longest PDU read: a message_payload of 65,535 octets (4.8.4.36) and all its other fields.
A length beyond it means that the framing is lost, and would let the other side fill memory."""
TEXT_OCTETS_MAX: Final = 256
"""A text field longer than this is an error also when reading; the longest of the specification
has 65 octets, and real centres send up to twice as much."""
SHORT_MESSAGE_MAX: Final = 254
"""Octets of short_message (5.2.22); longer content goes into message_payload."""
SEQUENCE_MAX: Final = 0x7FFFFFFF
"""Sequence numbers go from 1 to this and begin again (3.2)."""
VERSION: Final = 0x34
METRIC: Final = "tact_provider_total"
"""What goes wrong on the wire is counted here, by its kind."""

RESPONSE: Final = 0x80000000
"""This bit of command_id makes a response of a request (5.1.2.1)."""


class Command(IntEnum):
    """command_id (5.1.2.1), those that are read or written here."""

    BIND_RECEIVER = 0x01
    BIND_TRANSMITTER = 0x02
    SUBMIT_SM = 0x04
    DELIVER_SM = 0x05
    UNBIND = 0x06
    BIND_TRANSCEIVER = 0x09
    ENQUIRE_LINK = 0x15
    ALERT_NOTIFICATION = 0x102
    DATA_SM = 0x103
    GENERIC_NACK = 0x80000000
    BIND_RECEIVER_RESP = 0x80000001
    BIND_TRANSMITTER_RESP = 0x80000002
    SUBMIT_SM_RESP = 0x80000004
    DELIVER_SM_RESP = 0x80000005
    UNBIND_RESP = 0x80000006
    BIND_TRANSCEIVER_RESP = 0x80000009
    ENQUIRE_LINK_RESP = 0x80000015
    DATA_SM_RESP = 0x80000103


class Tag(IntEnum):
    """Tags of optional parameters (5.3.2), those that are used here."""

    RECEIPTED_MESSAGE_ID = 0x001E
    SAR_MSG_REF_NUM = 0x020C
    SAR_TOTAL_SEGMENTS = 0x020E
    SAR_SEGMENT_SEQNUM = 0x020F
    SC_INTERFACE_VERSION = 0x0210
    NETWORK_ERROR_CODE = 0x0423
    MESSAGE_PAYLOAD = 0x0424
    MESSAGE_STATE = 0x0427


class EsmClass(IntEnum):
    """Bits of esm_class (5.2.12)."""

    STORE_AND_FORWARD = 0x03
    TYPE_MASK = 0x3C
    RECEIPT = 0x04
    DELIVERY_ACK = 0x08
    USER_ACK = 0x10
    INTERMEDIATE = 0x20
    UDHI = 0x40


Tlvs = dict[int, bytes]


class PduError(TactError):
    """Bytes that are no PDU. `status` is what to answer with, under `sequence`.

    `command` is 0 when it is not known; `fatal` means that the place of the next PDU is not known
    either: answer generic_nack and close.
    """

    code = "smpp-pdu"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        command: int = 0,
        sequence: int = 0,
        fatal: bool = False,
        **facts: Any,
    ) -> None:
        facts |= {"status": status, "command": command, "sequence": sequence, "fatal": fatal}
        super().__init__(message, **facts)
        self.status = int(status)
        self.command = command
        self.sequence = sequence
        self.fatal = fatal


class BadLength(PduError):
    """command_length is below 16 or above PDU_BYTES_MAX: the framing is lost."""

    code = "smpp-length"


class UnknownCommand(PduError):
    """A command_id that this side does not know; the answer is generic_nack."""

    code = "smpp-command"


class BadBody(PduError):
    """The body does not hold what its command says."""

    code = "smpp-body"


class Unencodable(TactError):
    """A value that does not fit its field. Names the field, never quotes the value."""

    code = "smpp-unencodable"


class Bind(Struct, frozen=True, kw_only=True):
    """bind_receiver, bind_transmitter, bind_transceiver (4.1)."""

    command: int
    sequence: int
    system_id: str
    password: str
    system_type: str = ""
    version: int = VERSION
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""

    def __repr__(self) -> str:
        return f"Bind(command={self.command:#x}, sequence={self.sequence})"


class BindResp(Struct, frozen=True, kw_only=True):
    """The answer to a bind (4.1); system_id is the centre's name."""

    command: int
    status: int
    sequence: int
    system_id: str = ""
    tlvs: Tlvs = field(default_factory=dict)


class Message(Struct, frozen=True, kw_only=True):
    """submit_sm (4.4.1) and deliver_sm (4.6.1), which have the same fields, and data_sm (4.7.1),
    which has fewer and its content in message_payload."""

    command: int
    sequence: int
    service_type: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""
    dest_ton: int = 0
    dest_npi: int = 0
    dest: str = ""
    esm_class: int = 0
    protocol_id: int = 0
    priority: int = 0
    schedule: str = ""
    validity: str = ""
    registered: int = 0
    replace: int = 0
    data_coding: int = 0
    default_message: int = 0
    short_message: bytes = b""
    tlvs: Tlvs = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The octets of the message, wherever they stand."""
        return self.short_message or self.tlvs.get(Tag.MESSAGE_PAYLOAD, b"")

    def __repr__(self) -> str:
        return f"Message(command={self.command:#x}, sequence={self.sequence})"


class MessageResp(Struct, frozen=True, kw_only=True):
    """submit_sm_resp, deliver_sm_resp, data_sm_resp (4.4.2, 4.6.2, 4.7.2)."""

    command: int
    status: int
    sequence: int
    message_id: str = ""
    tlvs: Tlvs = field(default_factory=dict)


class Plain(Struct, frozen=True, kw_only=True):
    """A PDU without a body that is looked at: enquire_link, unbind, their answers, generic_nack
    (4.2, 4.3, 4.11) and alert_notification (4.12)."""

    command: int
    status: int
    sequence: int


Pdu = Bind | BindResp | Message | MessageResp | Plain


def number(tlvs: Mapping[int, bytes], tag: int) -> int | None:
    """An optional parameter as a number; None when it is missing or has no width of one."""
    value = tlvs.get(tag)
    if value is None or not 1 <= len(value) <= 4:
        return None
    return int.from_bytes(value, "big")
