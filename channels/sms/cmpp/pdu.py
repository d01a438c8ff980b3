"""The PDUs of CMPP 2.0 and 3.0: bytes in any pieces to messages, and back.

Pure. Whatever the bytes are, nothing but a CmppError is raised.
Source: QB-GF-028-2003 (CMPP 3.0.0), section 8.1.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from channels.sms.cmpp.layout import CmppError, Layout, MalformedError
from channels.sms.cmpp.messages import COMMAND_OF, TABLE, V20, V30, ActiveTestResp, Command, Message

HEADER = struct.Struct(">III")
"""Total_Length, Command_Id, Sequence_Id."""
PDU_BYTES = 4_096
"""Longest PDU taken: a SUBMIT of 3.0 to 99 numbers with 255 bytes of content has 3,586. A length
above it means that the other side does not speak CMPP, or that the stream is out of step."""
SEQUENCE_MAX = 0xFFFF_FFFF


class FramingError(CmppError):
    """A length that no PDU has: the stream cannot be followed any further."""

    code = "cmpp-framing"


class UnknownCommandError(CmppError):
    """A Command_Id that is not in the table."""

    code = "cmpp-unknown-command"


_LAYOUTS = tuple(
    {command: Layout(kind, rows, column) for command, (kind, rows) in TABLE.items()}
    for column in (0, 1)
)
_CONNECT_RESP_BYTES = {18: 0, 21: 1}
"""Which layout a CONNECT_RESP has, by the length of its body."""


class Frame(NamedTuple):
    """One PDU cut out of the stream, not decoded yet."""

    command: int
    sequence: int
    body: bytes

    def __repr__(self) -> str:
        return f"<CMPP frame {self.command:#x} of {len(self.body)} bytes>"


def encode(message: Message, sequence: int, version: int) -> bytes:
    """The whole PDU. Raises UnencodableError."""
    command = COMMAND_OF[type(message)]
    body = _LAYOUTS[version >= V30][command].pack(message)
    return HEADER.pack(HEADER.size + len(body), command, sequence) + body


def decode(frame: Frame, version: int) -> Message:
    """The message in a frame. Raises UnknownCommandError or MalformedError.

    A CONNECT_RESP is read by its length: an ISMG that does not know 3.0 refuses it in 2.0.
    """
    try:
        command = Command(frame.command)
    except ValueError:
        raise UnknownCommandError(f"command {frame.command:#010x} is unknown") from None
    column = int(version >= V30)
    if command == Command.CONNECT_RESP:
        column = _CONNECT_RESP_BYTES.get(len(frame.body), column)
    elif command == Command.ACTIVE_TEST_RESP and not frame.body:
        return ActiveTestResp()
    try:
        return _LAYOUTS[column][command].unpack(frame.body)  # type: ignore[no-any-return]
    except MalformedError as error:
        raise MalformedError(f"{command.name}: {error.message}") from None


def connect_resp_version(frame: Frame) -> int:
    """V20 or V30: which one this CONNECT_RESP is written in. Raises MalformedError."""
    column = _CONNECT_RESP_BYTES.get(len(frame.body))
    if column is None:
        raise MalformedError(f"CONNECT_RESP: a body of {len(frame.body)} bytes")
    return (V20, V30)[column]


class Framer:
    """Cuts a stream that comes in any pieces into frames. Holds one PDU and one read at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def take(self) -> Frame | None:
        """The next whole frame, None until there is one. Raises FramingError, then for ever."""
        rest = len(self._buffer) - self._at
        if rest < HEADER.size:
            return None
        length, command, sequence = HEADER.unpack_from(self._buffer, self._at)
        if not HEADER.size <= length <= PDU_BYTES:
            raise FramingError(
                f"a PDU of {length} bytes; {HEADER.size} to {PDU_BYTES} are possible"
            )
        if rest < length:
            return None
        start, self._at = self._at + HEADER.size, self._at + length
        return Frame(command, sequence, bytes(self._buffer[start : self._at]))
