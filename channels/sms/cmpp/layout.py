"""How fields stand in a body: made once from rows of a table, for 2.x and for 3.0.

Texts are Latin-1 padded with NUL, numbers big-endian. Whatever the bytes are, nothing but a
CmppError is raised, and none quotes a value: fields carry numbers and contents of customers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from hub.errors import TactError

CONTENT_BYTES = 255
"""Longest Msg_Content that its length of one byte can tell; carriers take 140 (ASCII: 159)."""
DESTINATIONS = 99
"""DestUsr_tl is below 100. We send to one; the decoder takes what the specification allows."""
NUMBER_WIDTHS = (21, 32)
"""A phone number in 2.x and in 3.0."""


class CmppError(TactError):
    """Root of what can go wrong with CMPP."""

    code = "cmpp"


class MalformedError(CmppError):
    """A body that does not have the layout of its command."""

    code = "cmpp-malformed"


class UnencodableError(CmppError):
    """A value that does not fit its field. `facts["field"]` names it; the value is never shown."""

    code = "cmpp-unencodable"


U8, U32, U64 = "B", "I", "Q"
AUTHENTICATOR = "raw"
"""16 bytes as they are."""
NUMBERS = "numbers"
"""DestUsr_tl and as many texts; the width is the one of the column."""
CONTENT = "content"
"""Msg_Length and as many bytes."""
NONE = ""
Spec = str | int
"""A number's struct code, a text's width, or one of the four above."""
Row = tuple[str, Spec, Spec]
"""Field, how it is in 2.x, how it is in 3.0."""


class _Run:
    """Neighbours of fixed width, packed and unpacked by one Struct."""

    def __init__(self, rows: list[tuple[str, Spec]]) -> None:
        self.names = [name for name, _ in rows]
        self._widths = [spec if isinstance(spec, int) else 0 for _, spec in rows]
        self._texts = [place for place, width in enumerate(self._widths) if width]
        self._raws = [place for place, (_, spec) in enumerate(rows) if spec == AUTHENTICATOR]
        self._struct = struct.Struct(">" + "".join(map(_code, [spec for _, spec in rows])))
        get = attrgetter(*self.names)
        self._get: Callable[[Any], tuple[Any, ...]] = (
            get if len(rows) > 1 else lambda message: (get(message),)
        )

    def pack(self, message: Any, parts: list[bytes]) -> None:
        values = list(self._get(message))
        for place in self._texts:
            values[place] = _text(values[place], self._widths[place], self.names[place])
        for place in self._raws:
            if len(values[place]) != 16:
                raise _unencodable(self.names[place])
        try:
            parts.append(self._struct.pack(*values))
        except struct.error as error:
            raise _unencodable(" or ".join(self.names)) from error

    def unpack(self, body: bytes, at: int, found: dict[str, Any]) -> int:
        end = at + self._struct.size
        if end > len(body):
            raise MalformedError("the body ends too early")
        values: list[Any] = list(self._struct.unpack_from(body, at))
        for place in self._texts:
            values[place] = _plain(values[place])
        found.update(zip(self.names, values, strict=True))
        return end


class _Numbers:
    """A count of one byte and as many texts of one width."""

    def __init__(self, name: str, width: int) -> None:
        self._name, self._width = name, width

    def pack(self, message: Any, parts: list[bytes]) -> None:
        numbers = getattr(message, self._name)
        if not 0 < len(numbers) <= DESTINATIONS:
            raise _unencodable(self._name)
        parts.append(bytes((len(numbers),)))
        width, name = self._width, self._name
        parts.extend(_text(number, width, name).ljust(width, b"\0") for number in numbers)

    def unpack(self, body: bytes, at: int, found: dict[str, Any]) -> int:
        if at >= len(body):
            raise MalformedError("the body ends too early")
        count, at = body[at], at + 1
        end = at + count * self._width
        if not 0 < count <= DESTINATIONS or end > len(body):
            raise MalformedError("DestUsr_tl does not fit the body")
        found[self._name] = tuple(
            _plain(body[place : place + self._width]) for place in range(at, end, self._width)
        )
        return end


class _Content:
    """A length of one byte and as many bytes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def pack(self, message: Any, parts: list[bytes]) -> None:
        content = getattr(message, self._name)
        if len(content) > CONTENT_BYTES:
            raise _unencodable(self._name)
        parts += (bytes((len(content),)), content)

    def unpack(self, body: bytes, at: int, found: dict[str, Any]) -> int:
        if at >= len(body):
            raise MalformedError("the body ends too early")
        end = at + 1 + body[at]
        if end > len(body):
            raise MalformedError("Msg_Length does not fit the body")
        found[self._name] = body[at + 1 : end]
        return end


class Layout:
    """One column of the table for one kind of message."""

    def __init__(self, kind: type[Any], rows: tuple[Row, ...], column: int) -> None:
        self._kind = kind
        self._steps: list[_Run | _Numbers | _Content] = []
        run: list[tuple[str, Spec]] = []
        for row in rows:
            name, spec = row[0], row[1 + column]
            if spec in (NUMBERS, CONTENT):
                self._close(run)
                numbers = _Numbers(name, NUMBER_WIDTHS[column])
                self._steps.append(numbers if spec == NUMBERS else _Content(name))
                run = []
            elif spec != NONE:
                run.append((name, spec))
        self._close(run)

    def _close(self, run: list[tuple[str, Spec]]) -> None:
        if run:
            self._steps.append(_Run(run))

    def pack(self, message: Any) -> bytes:
        """The body. Raises UnencodableError."""
        parts: list[bytes] = []
        for step in self._steps:
            step.pack(message, parts)
        return b"".join(parts)

    def unpack(self, body: bytes) -> Any:
        """The message. Raises MalformedError unless the body has exactly this layout."""
        found: dict[str, Any] = {}
        at = 0
        for step in self._steps:
            at = step.unpack(body, at, found)
        if at != len(body):
            raise MalformedError("the body is longer than its layout")
        return self._kind(**found)


def _code(spec: Spec) -> str:
    if isinstance(spec, int):
        return f"{spec}s"
    return "16s" if spec == AUTHENTICATOR else spec


def _text(value: str, width: int, name: str) -> bytes:
    try:
        text = value.encode("latin-1")
    except UnicodeEncodeError:
        raise _unencodable(name) from None  # the cause would quote the value
    if len(text) > width or b"\0" in text:
        raise _unencodable(name)
    return text


def _plain(text: bytes) -> str:
    """Up to the first NUL; gateways that pad with spaces are understood too."""
    return text.partition(b"\0")[0].rstrip(b" ").decode("latin-1")


def _unencodable(field: str) -> UnencodableError:
    return UnencodableError(f"the value does not fit the field {field}", field=field)
