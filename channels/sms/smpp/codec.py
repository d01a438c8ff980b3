"""SMPP 3.4 on the wire: PDUs to bytes and back, and a framer that takes any pieces. Pure.

What comes in is read leniently (a text field may be longer than the specification allows, the body
of an answer may be missing), because the other side will not be corrected by a refusal; what goes
out is strict. No bytes make a decoder raise anything but `PduError`.

Source: SMPP Protocol Specification v3.4, issue 1.2; section numbers in the text are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct as Layout
from struct import pack
from typing import Any, Final

from channels.sms.smpp.pdu import (
    HEADER_BYTES,
    PDU_BYTES_MAX,
    SHORT_MESSAGE_MAX,
    TEXT_OCTETS_MAX,
    BadBody,
    BadLength,
    Bind,
    BindResp,
    Command,
    Message,
    MessageResp,
    Pdu,
    PduError,
    Plain,
    Tlvs,
    Unencodable,
    UnknownCommand,
)
from channels.sms.smpp.status import Status

TEXT_OCTETS: Final = {
    "system_id": 15,
    "password": 8,
    "system_type": 12,
    "address_range": 40,
    "service_type": 5,
    "source": 20,
    "dest": 20,
    "schedule": 16,
    "validity": 16,
    "message_id": 64,
}
"""The most octets of each text field when writing, without the closing NUL (4.1, 4.4)."""

_HEADER: Final = Layout(">IIII")
_FOUR_BYTES: Final = Layout(">I")


# ---- reading ---------------------------------------------------------------------------------


def decode(frame: bytes) -> Pdu:
    """One whole PDU. Raises PduError and nothing else."""
    size = len(frame)
    if size < HEADER_BYTES:
        raise BadLength("PDU shorter than its header", status=Status.RINVCMDLEN, fatal=True)
    length, command, status, sequence = _HEADER.unpack_from(frame)
    if length != size:
        raise BadLength(
            "command_length is not the length of the PDU",
            status=Status.RINVCMDLEN,
            command=command,
            sequence=sequence,
            fatal=True,
        )
    reader = _READERS.get(command)
    if reader is None:
        raise UnknownCommand(
            f"command {command:#010x} is not known",
            status=Status.RINVCMDID,
            command=command,
            sequence=sequence,
        )
    try:
        return reader(frame, command, status, sequence)
    except _Fault as fault:
        raise BadBody(
            fault.message, status=fault.status, command=command, sequence=sequence
        ) from None


class _Fault(Exception):
    """What is wrong with a body, before command and sequence are added."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def _text(frame: bytes, start: int) -> tuple[str, int]:
    """The text field at `start`, and where the next field begins."""
    end = frame.find(b"\0", start, start + TEXT_OCTETS_MAX)
    if end < 0:
        raise _Fault("a text field has no end", Status.RINVCMDLEN)
    return frame[start:end].decode("latin-1"), end + 1


def _last_text(frame: bytes, start: int) -> tuple[str, int]:
    """The same in an answer, where some centres leave out the NUL, or the field."""
    end = frame.find(b"\0", start)
    if end < 0:
        end = len(frame)
    if end - start > TEXT_OCTETS_MAX:
        raise _Fault("a text field is too long", Status.RINVPARLEN)
    return frame[start:end].decode("latin-1"), end + 1


def _octets(frame: bytes, start: int, count: int) -> bytes:
    found = frame[start : start + count]
    if len(found) < count:
        raise _Fault("the PDU ends within a field", Status.RINVCMDLEN)
    return found


def _tlvs(frame: bytes, start: int) -> Tlvs:
    """Optional parameters up to the end (5.3). The last of several with one tag counts."""
    found: Tlvs = {}
    size = len(frame)
    while start < size:
        head = frame[start : start + 4]
        if len(head) < 4:
            raise _Fault("an optional parameter is cut", Status.RINVOPTPARSTREAM)
        tag, length = head[0] << 8 | head[1], head[2] << 8 | head[3]
        start += 4
        if start + length > size:
            raise _Fault("an optional parameter is cut", Status.RINVOPTPARSTREAM)
        found[tag] = frame[start : start + length]
        start += length
    return found


def _read_plain(frame: bytes, command: int, status: int, sequence: int) -> Plain:
    return Plain(command=command, status=status, sequence=sequence)


def _read_bind(frame: bytes, command: int, status: int, sequence: int) -> Bind:
    system_id, at = _text(frame, HEADER_BYTES)
    password, at = _text(frame, at)
    system_type, at = _text(frame, at)
    version, ton, npi = _octets(frame, at, 3)
    address_range, _ = _text(frame, at + 3)
    return Bind(
        command=command,
        sequence=sequence,
        system_id=system_id,
        password=password,
        system_type=system_type,
        version=version,
        addr_ton=ton,
        addr_npi=npi,
        address_range=address_range,
    )


def _read_bind_resp(frame: bytes, command: int, status: int, sequence: int) -> BindResp:
    system_id, at = _last_text(frame, HEADER_BYTES)
    return BindResp(
        command=command,
        status=status,
        sequence=sequence,
        system_id=system_id,
        tlvs=_tlvs(frame, at),
    )


def _read_message_resp(frame: bytes, command: int, status: int, sequence: int) -> MessageResp:
    message_id, at = _last_text(frame, HEADER_BYTES)
    return MessageResp(
        command=command,
        status=status,
        sequence=sequence,
        message_id=message_id,
        tlvs=_tlvs(frame, at) if at < len(frame) else {},
    )


def _addressed(frame: bytes) -> tuple[dict[str, Any], int]:
    """What all messages begin with, and where it ends."""
    service_type, at = _text(frame, HEADER_BYTES)
    source_ton, source_npi = _octets(frame, at, 2)
    source, at = _text(frame, at + 2)
    dest_ton, dest_npi = _octets(frame, at, 2)
    dest, at = _text(frame, at + 2)
    return {
        "service_type": service_type,
        "source_ton": source_ton,
        "source_npi": source_npi,
        "source": source,
        "dest_ton": dest_ton,
        "dest_npi": dest_npi,
        "dest": dest,
    }, at


def _read_message(frame: bytes, command: int, status: int, sequence: int) -> Message:
    addressed, at = _addressed(frame)
    esm_class, protocol_id, priority = _octets(frame, at, 3)
    schedule, at = _text(frame, at + 3)
    validity, at = _text(frame, at)
    registered, replace, data_coding, default_message, length = _octets(frame, at, 5)
    at += 5
    if at + length > len(frame):
        raise _Fault("sm_length is beyond the end", Status.RINVMSGLEN)
    end = at + length
    return Message(
        command=command,
        sequence=sequence,
        **addressed,
        esm_class=esm_class,
        protocol_id=protocol_id,
        priority=priority,
        schedule=schedule,
        validity=validity,
        registered=registered,
        replace=replace,
        data_coding=data_coding,
        default_message=default_message,
        short_message=frame[at:end],
        tlvs=_tlvs(frame, end) if end < len(frame) else {},
    )


def _read_data(frame: bytes, command: int, status: int, sequence: int) -> Message:
    addressed, at = _addressed(frame)
    esm_class, registered, data_coding = _octets(frame, at, 3)
    return Message(
        command=command,
        sequence=sequence,
        **addressed,
        esm_class=esm_class,
        registered=registered,
        data_coding=data_coding,
        tlvs=_tlvs(frame, at + 3),
    )


_READERS: Final[Mapping[int, Callable[[bytes, int, int, int], Pdu]]] = {
    **dict.fromkeys(
        (Command.BIND_RECEIVER, Command.BIND_TRANSMITTER, Command.BIND_TRANSCEIVER), _read_bind
    ),
    **dict.fromkeys(
        (
            Command.BIND_RECEIVER_RESP,
            Command.BIND_TRANSMITTER_RESP,
            Command.BIND_TRANSCEIVER_RESP,
        ),
        _read_bind_resp,
    ),
    **dict.fromkeys((Command.SUBMIT_SM, Command.DELIVER_SM), _read_message),
    Command.DATA_SM: _read_data,
    **dict.fromkeys(
        (Command.SUBMIT_SM_RESP, Command.DELIVER_SM_RESP, Command.DATA_SM_RESP),
        _read_message_resp,
    ),
    **dict.fromkeys(
        (
            Command.UNBIND,
            Command.UNBIND_RESP,
            Command.ENQUIRE_LINK,
            Command.ENQUIRE_LINK_RESP,
            Command.GENERIC_NACK,
            Command.ALERT_NOTIFICATION,
        ),
        _read_plain,
    ),
}


class Framer:
    """Turns a stream of bytes into PDUs, whatever the pieces it comes in."""

    def __init__(self, limit: int = PDU_BYTES_MAX) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._needed = HEADER_BYTES
        self.broken = False
        """After a fatal error nothing more is read."""

    @property
    def held(self) -> int:
        """Bytes of a PDU that has begun and not ended; at most the limit and one piece."""
        return len(self._rest)

    def feed(self, piece: bytes) -> list[Pdu | PduError]:
        """All PDUs that are whole now, in order, an error in the place of each that is none.
        Never raises. An error that is `fatal` is the last that is ever told."""
        if self.broken:
            return []
        if self._rest:
            self._rest += piece
            if len(self._rest) < self._needed:
                return []
            piece = bytes(self._rest)
            self._rest.clear()
        return self._split(piece)

    def _split(self, data: bytes) -> list[Pdu | PduError]:
        found: list[Pdu | PduError] = []
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES:
            (length,) = _FOUR_BYTES.unpack_from(data, start)
            if not HEADER_BYTES <= length <= self._limit:
                found.append(self._lost(data, start))
                return found
            if length > size - start:
                break
            try:
                found.append(decode(data[start : start + length]))
            except PduError as error:
                found.append(error)
            start += length
        self._needed = HEADER_BYTES
        if size - start >= HEADER_BYTES:
            (self._needed,) = _FOUR_BYTES.unpack_from(data, start)
        self._rest += data[start:]
        return found

    def _lost(self, data: bytes, start: int) -> PduError:
        self.broken = True
        length, command, _, sequence = _HEADER.unpack_from(data, start)
        what = "shorter than a header" if length < HEADER_BYTES else f"over {self._limit} bytes"
        return BadLength(
            f"command_length {what}",
            status=Status.RINVCMDLEN,
            command=command,
            sequence=sequence,
            fatal=True,
        )


# ---- writing ---------------------------------------------------------------------------------


def encode(pdu: Pdu) -> bytes:
    """The bytes of a PDU. Raises Unencodable."""
    match pdu:
        case Bind():
            body, status = _bind_body(pdu), 0
        case Message():
            head, tail = message_body(pdu)
            body, status = head + _c_octets("validity", pdu.validity) + tail, 0
            if pdu.command == Command.DATA_SM:
                body = _data_body(pdu)
        case BindResp():
            body = _c_octets("system_id", pdu.system_id) + _tlv_bytes(pdu.tlvs)
            status = pdu.status
        case MessageResp():
            # 4.4.2: an answer that refuses has no body
            named = pdu.message_id or not pdu.status or pdu.tlvs
            body = _c_octets("message_id", pdu.message_id) if named else b""
            body += _tlv_bytes(pdu.tlvs)
            status = pdu.status
        case _:
            body, status = b"", pdu.status
    return header(pdu.command, status, pdu.sequence, len(body)) + body


def header(command: int, status: int, sequence: int, body_bytes: int) -> bytes:
    """The first 16 bytes of a PDU."""
    return _HEADER.pack(HEADER_BYTES + body_bytes, command, status, sequence)


def message_body(message: Message) -> tuple[bytes, bytes]:
    """The body of submit_sm or deliver_sm before and after validity_period, which is known only
    when it leaves. Raises Unencodable."""
    content = message.short_message
    if len(content) > SHORT_MESSAGE_MAX:
        raise Unencodable(f"short_message is over {SHORT_MESSAGE_MAX} octets")
    head = b"".join(
        (
            *_addresses(message),
            bytes((message.esm_class, message.protocol_id, message.priority)),
            _c_octets("schedule", message.schedule),
        )
    )
    fields = (
        message.registered,
        message.replace,
        message.data_coding,
        message.default_message,
        len(content),
    )
    return head, bytes(fields) + content + _tlv_bytes(message.tlvs)


def validity_octets(validity: str) -> bytes:
    """validity_period as it stands between the two halves of `message_body`."""
    return _c_octets("validity", validity)


def _data_body(message: Message) -> bytes:
    return b"".join(
        (
            *_addresses(message),
            bytes((message.esm_class, message.registered, message.data_coding)),
            _tlv_bytes(message.tlvs),
        )
    )


def _addresses(message: Message) -> tuple[bytes, ...]:
    return (
        _c_octets("service_type", message.service_type),
        bytes((message.source_ton, message.source_npi)),
        _c_octets("source", message.source),
        bytes((message.dest_ton, message.dest_npi)),
        _c_octets("dest", message.dest),
    )


def _bind_body(bind: Bind) -> bytes:
    return b"".join(
        (
            _c_octets("system_id", bind.system_id),
            _c_octets("password", bind.password),
            _c_octets("system_type", bind.system_type),
            bytes((bind.version, bind.addr_ton, bind.addr_npi)),
            _c_octets("address_range", bind.address_range),
        )
    )


def _c_octets(name: str, text: str) -> bytes:
    if not text:
        return b"\0"
    try:
        octets = text.encode("latin-1")
    except UnicodeEncodeError:
        raise Unencodable(f"{name} has characters beyond Latin-1") from None
    if len(octets) > TEXT_OCTETS[name]:
        raise Unencodable(f"{name} is over {TEXT_OCTETS[name]} octets")
    if 0 in octets:
        raise Unencodable(f"{name} has a NUL inside")
    return octets + b"\0"


def _tlv_bytes(tlvs: Tlvs) -> bytes:
    if not tlvs:
        return b""
    if any(len(value) > 0xFFFF for value in tlvs.values()):
        raise Unencodable("an optional parameter is over 65535 octets")
    return b"".join(pack(">HH", tag, len(value)) + value for tag, value in tlvs.items())
