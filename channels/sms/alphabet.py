"""The alphabets of SMS: text to octets and back.

Encoding is strict (Unwritable), decoding is total (U+FFFD where there is no character).

Sources: 3GPP TS 23.038 (6.2.1 the default alphabet, 6.2.1.1 its extension table, 6.2.3 UCS2) and
23.040 (9.2.3.24.1 room beside the header of a part); CMPP 2.0/3.0, SUBMIT: Msg_Fmt, Msg_Length.
"""

from __future__ import annotations

import codecs
from enum import Enum

from msgspec import Struct

from hub.errors import TactError

_DEFAULT = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
"""The default alphabet, by septet. 0x1B is the escape to the extension table."""
_EXTENSION = {
    0x0A: "\f",
    0x14: "^",
    0x28: "{",
    0x29: "}",
    0x2F: "\\",
    0x3C: "[",
    0x3D: "~",
    0x3E: "]",
    0x40: "|",
    0x65: "€",
}
"""What follows an escape. Each costs two septets."""

ESCAPE = 0x1B
REPLACEMENT = "\ufffd"

_TO_GSM7: dict[int, int | bytes] = {
    ord(character): septet for septet, character in enumerate(_DEFAULT) if septet != ESCAPE
} | {ord(character): bytes((ESCAPE, septet)) for septet, character in _EXTENSION.items()}


class Unwritable(TactError):
    """A text that an alphabet has no letters for; `facts["position"]` is the first such character.

    Says where, and never what: contents do not get into errors.
    """

    code = "sms-unwritable"


class Sizes(Struct, frozen=True):
    """Room of a message, in units: what an alphabet's cheapest character costs."""

    unit: int
    """Octets of a unit as written by `encode`."""
    single: int
    """Units of a message that is sent whole."""
    part8: int
    """Units of one part, beside a header with an 8-bit reference (6 octets)."""
    part16: int
    """Units of one part, beside a header with a 16-bit reference (7 octets)."""


class Coding(Enum):
    """How a text is written. The values are those of the configuration."""

    GSM7 = "gsm7"
    """The default alphabet of GSM 03.38, unpacked: one septet an octet, as SMPP's data_coding 0
    usually wants it. A character of the extension table costs two."""
    ASCII = "ascii"
    """CMPP's Msg_Fmt 0. Its Msg_Length must be *below* 160: 159 alone, or 153 and a header."""
    LATIN1 = "latin1"
    """ISO 8859-1, an octet a character (SMPP's data_coding 3)."""
    UCS2 = "ucs2"
    """UTF-16BE. A character beyond U+FFFF, as most emoji are, costs two."""
    GBK = "gbk"
    """CMPP's Msg_Fmt 15: one octet for ASCII, two for all others."""

    @property
    def sizes(self) -> Sizes:
        return _SIZES[self]

    def cost(self, text: str) -> int:
        """Units of a text. Raises Unwritable."""
        return len(encode(text, self)) // self.sizes.unit


_SIZES = {
    Coding.GSM7: Sizes(unit=1, single=160, part8=153, part16=152),
    Coding.ASCII: Sizes(unit=1, single=159, part8=153, part16=152),
    Coding.LATIN1: Sizes(unit=1, single=140, part8=134, part16=133),
    Coding.UCS2: Sizes(unit=2, single=70, part8=67, part16=66),
    Coding.GBK: Sizes(unit=1, single=140, part8=134, part16=133),
}
UNITS_MOST = max(sizes.single for sizes in _SIZES.values())
"""No alphabet has room for more characters in one segment."""

_CODECS = {
    Coding.ASCII: "ascii",
    Coding.LATIN1: "latin-1",
    Coding.UCS2: "utf-16-be",
    Coding.GBK: "gbk",
}


def encode(text: str, coding: Coding) -> bytes:
    """The text in an alphabet. Raises Unwritable for the first character that it does not have."""
    try:
        if coding is Coding.GSM7:
            return codecs.charmap_encode(text, "strict", _TO_GSM7)[0]  # type: ignore[arg-type]
        return text.encode(_CODECS[coding])
    except UnicodeEncodeError as error:
        position = error.start
    # Outside of the except clause, because that error holds the text.
    raise Unwritable(
        f"character {position + 1} of the text is not in the alphabet {coding.value}",
        position=position,
    )


def decode(octets: bytes, coding: Coding) -> str:
    """The text that octets stand for. Never fails: U+FFFD stands for what is no character."""
    if coding is Coding.GSM7:
        return _decode_gsm7(octets)
    return octets.decode(_CODECS[coding], "replace")


def _decode_gsm7(octets: bytes) -> str:
    """Unpacked septets. After an escape, a code that the extension table does not have is shown as
    in the default alphabet, and a second escape as a space (TS 23.038, 6.2.1.1)."""
    characters = []
    escaped = False
    for octet in octets:
        if escaped:
            escaped = False
            if octet == ESCAPE:
                characters.append(" ")
                continue
            if octet in _EXTENSION:
                characters.append(_EXTENSION[octet])
                continue
        elif octet == ESCAPE:
            escaped = True
            continue
        characters.append(_DEFAULT[octet] if octet < len(_DEFAULT) else REPLACEMENT)
    if escaped:
        characters.append(REPLACEMENT)
    return "".join(characters)
