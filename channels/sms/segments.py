"""Long texts: cut into parts for the wire, and what customers wrote put together again.

A cut never goes through a character: not through an escape pair, nor a surrogate pair, nor the two
octets of a GBK character. It may go through a *grapheme* (a letter and its accent, an emoji and its
skin colour): handsets join the parts before they show them, and keeping graphemes whole would need
Unicode's tables for no visible gain.

Sources: 3GPP TS 23.040 (9.2.3.24 the user data header, 9.2.3.24.1 and .8 concatenation); SMPP 3.4,
5.3.2.22 to 5.3.2.24 (sar_*).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from msgspec import Struct

from channels.provider import Unsendable
from channels.sms import limits
from channels.sms.alphabet import ESCAPE, UNITS_MOST, Coding, Unwritable, decode, encode
from hub.contract.subjects import fnv1a_32

IEI_CONCAT8 = 0x00
IEI_CONCAT16 = 0x08


class Concat(Enum):
    """How the parts of a long message say that they belong together."""

    UDH8 = "udh8"
    """A header in the payload, reference of 8 bits. Every handset and carrier understands it."""
    UDH16 = "udh16"
    """The same with 16 bits: fewer chances that two messages to one handset share a reference."""
    SAR = "sar"
    """SMPP's sar_* TLVs and no header in the payload: the SMSC writes it. SMPP states no sizes for
    this, and nearly all SMSCs write the 8-bit header: the parts have the sizes of UDH8. (An SMSC
    that writes 16-bit headers refuses them: choose udh16 there.) The reference has 16 bits."""

    @property
    def reference_bits(self) -> int:
        return 8 if self is Concat.UDH8 else 16


class Segment(Struct, frozen=True):
    """One message on the wire: a text, or one part of it."""

    payload: bytes
    """Without header."""
    udh: bytes
    """The header that goes before the payload; b"" for a single one, and with SAR."""
    number: int
    """From 1 to `total`."""
    total: int
    reference: int
    """The same in all parts of a text."""

    def __repr__(self) -> str:
        return f"Segment({self.number}/{self.total}, {len(self.payload)} octets)"


class Segmented(Struct, frozen=True):
    """A text as it goes on the wire."""

    coding: Coding
    segments: tuple[Segment, ...]


def reference_of(delivery_id: str, bits: int) -> int:
    """The reference of a delivery's parts: the same again when it is prepared again."""
    value = fnv1a_32(delivery_id)
    return (value ^ (value >> bits)) & ((1 << bits) - 1)


def segment(
    text: str,
    codings: Sequence[Coding],
    *,
    reference: int,
    concat: Concat = Concat.UDH8,
    most: int,
) -> Segmented:
    """The text in the first of `codings` that can write all of it, in at most `most` segments.

    Of `reference`, the bits that `concat` has room for are used. Raises Unsendable
    (rejected_content) for an empty text, one that none of them can write, and one that is too long;
    the work for the latter does not grow with it.
    """
    if not text:
        raise Unsendable("the text is empty", failure="rejected_content")
    most = min(most, limits.PARTS)
    # Every character costs a unit at least: what is refused here need not be encoded.
    if len(text) > most * UNITS_MOST:
        raise _too_long(most)
    coding, octets = _written(text, codings)
    if len(octets) <= coding.sizes.single * coding.sizes.unit:
        payloads = [octets]
    else:
        payloads = _cut(octets, coding, concat, most)
    reference &= (1 << concat.reference_bits) - 1
    total = len(payloads)
    segments = tuple(
        Segment(payload, _udh(concat, reference, total, number), number, total, reference)
        for number, payload in enumerate(payloads, 1)
    )
    return Segmented(coding, segments)


def _written(text: str, codings: Sequence[Coding]) -> tuple[Coding, bytes]:
    """The first coding that can write the text, and the text in it."""
    position = 0
    for coding in codings:
        try:
            return coding, encode(text, coding)
        except Unwritable as error:
            position = max(position, error.facts["position"])
    names = ", ".join(coding.value for coding in codings)
    raise Unsendable(
        f"none of the account's alphabets ({names}) can write the text: "
        f"see its character {position + 1}",
        failure="rejected_content",
    )


def _too_long(most: int) -> Unsendable:
    return Unsendable(
        f"the text needs more than {most} segments (max_segments of the account)",
        failure="rejected_content",
    )


def _cut(octets: bytes, coding: Coding, concat: Concat, most: int) -> list[bytes]:
    """Payloads of parts, as full as they can be without cutting a character."""
    sizes = coding.sizes
    room = (sizes.part16 if concat is Concat.UDH16 else sizes.part8) * sizes.unit
    if len(octets) > most * room:
        raise _too_long(most)
    payloads: list[bytes] = []
    start = 0
    while start < len(octets):
        if len(payloads) == most:
            raise _too_long(most)
        end = start + room
        if end < len(octets):
            end -= _overhang(octets[start:end], coding)
        payloads.append(octets[start:end])
        start = end
    return payloads


def _overhang(part: bytes, coding: Coding) -> int:
    """Octets at the end of a part that are the first half of a character. A part begins with a
    whole one."""
    if coding is Coding.GSM7:
        return 1 if part[-1] == ESCAPE else 0
    if coding is Coding.UCS2:
        return 2 if part[-2] & 0xFC == 0xD8 else 0
    if coding is Coding.GBK:
        # Second octets have the values of first ones too: only counting from the start tells.
        at = 0
        while at < len(part):
            at += 2 if part[at] > 0x80 else 1
        return 1 if at > len(part) else 0
    return 0


def _udh(concat: Concat, reference: int, total: int, number: int) -> bytes:
    """The header of a part."""
    if total == 1 or concat is Concat.SAR:
        return b""
    if concat is Concat.UDH8:
        return bytes((5, IEI_CONCAT8, 3, reference, total, number))
    return bytes((6, IEI_CONCAT16, 4, reference >> 8, reference & 0xFF, total, number))


# ---- what comes in ---------------------------------------------------------------------------


class Header(Struct, frozen=True):
    """One element of a user data header."""

    identifier: int
    data: bytes


class Place(Struct, frozen=True):
    """Where a part belongs."""

    reference: int
    total: int
    number: int
    """From 1 to `total`."""


def parse_udh(octets: bytes) -> tuple[tuple[Header, ...], bytes]:
    """(headers, payload) of user data that begins with a header.

    Total: of a header that contradicts itself nothing is believed but its length; when that goes
    beyond the end, all of it is payload.
    """
    if not octets or octets[0] >= len(octets):
        return (), octets
    end = 1 + octets[0]
    headers = []
    at = 1
    while at + 2 <= end and at + 2 + octets[at + 1] <= end:
        after = at + 2 + octets[at + 1]
        headers.append(Header(octets[at], octets[at + 2 : after]))
        at = after
    return (tuple(headers) if at == end else ()), octets[end:]


def place_of(headers: Sequence[Header]) -> Place | None:
    """What a header says of concatenation; None when it says nothing that holds.

    Of several the last counts (TS 23.040, 9.2.3.24).
    """
    for header in reversed(headers):
        data = header.data
        if (header.identifier, len(data)) in ((IEI_CONCAT8, 3), (IEI_CONCAT16, 4)):
            return place(int.from_bytes(data[:-2], "big"), data[-2], data[-1])
    return None


def place(reference: int, total: int, number: int) -> Place | None:
    """A part's place, for SAR too; None for numbers that contradict themselves, which are to be
    ignored (TS 23.040, 9.2.3.24.1; SMPP 3.4, 5.3.2.22)."""
    return Place(reference, total, number) if 1 <= number <= total <= limits.PARTS else None


class Part(Struct, frozen=True):
    """One part of what a customer wrote."""

    sender: str
    recipient: str
    place: Place
    coding: Coding
    payload: bytes
    """Without header."""
    token: Any
    """Given back with the whole: how to confirm this part."""

    def __repr__(self) -> str:
        return f"Part({self.place.number}/{self.place.total}, {len(self.payload)} octets)"


class Whole(Struct, frozen=True):
    """Parts put together again."""

    sender: str
    recipient: str
    text: str
    """An ellipsis stands where parts are missing."""
    tokens: tuple[Any, ...]
    """Of every part in it and every repeat of one, in the order in which they came."""
    parts: int
    """How many there are."""
    total: int
    """How many there should be."""

    @property
    def complete(self) -> bool:
        return self.parts == self.total

    def __repr__(self) -> str:
        return f"Whole({self.parts}/{self.total})"


GAP = "…"
"""Stands for one or more missing parts in a row."""

_Key = tuple[str, str, int, int]


class _Open:
    """A message that waits for more parts."""

    def __init__(self, deadline_ms: int) -> None:
        self.deadline_ms = deadline_ms
        self.parts: dict[int, Part] = {}
        self.tokens: list[Any] = []
        self.octets = 0

    def whole(self) -> Whole:
        some = next(iter(self.parts.values()))
        return Whole(
            sender=some.sender,
            recipient=some.recipient,
            text=self._text(some.place.total),
            tokens=tuple(self.tokens),
            parts=len(self.parts),
            total=some.place.total,
        )

    def _text(self, total: int) -> str:
        """Neighbours are joined before they are decoded: many a sender cuts through characters."""
        pieces: list[str] = []
        run, coding = b"", None
        for number in range(1, total + 1):
            part = self.parts.get(number)
            if part is not None and part.coding is coding:
                run += part.payload
                continue
            if coding is not None:
                pieces.append(decode(run, coding))
            run, coding = (part.payload, part.coding) if part is not None else (b"", None)
            if part is None and pieces[-1:] != [GAP]:
                pieces.append(GAP)
        if coding is not None:
            pieces.append(decode(run, coding))
        return "".join(pieces)


class Reassembly:
    """Collects the parts of long inbound messages of one account.

    Pure: times are arguments (steady milliseconds). A whole is given out when it is complete, or
    as it is when its time is up or room is needed: an incomplete message beats a lost one. Nothing
    is remembered of what was given out, since whether it could be stored is not known here: parts
    that the other side repeats after that are a message again.
    """

    def __init__(
        self,
        *,
        age_ms: int = limits.REASSEMBLY_AGE_MS,
        messages: int = limits.REASSEMBLY_MESSAGES,
        octets: int = limits.REASSEMBLY_BYTES,
    ) -> None:
        self._age_ms = age_ms
        self._messages = messages
        self._most_octets = octets
        self._open: dict[_Key, _Open] = {}  # oldest first
        self._octets = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def deadline_ms(self) -> int | None:
        """When `expired` will have something to give; None while nothing waits."""
        return next((each.deadline_ms for each in self._open.values()), None)

    def add(self, part: Part, now_ms: int) -> list[Whole]:
        """Take a part. Returns what is done now: the message it completes, and any it displaces."""
        at = part.place
        key = (part.sender, part.recipient, at.reference, at.total)
        done = self.expired(now_ms)
        known = self._open.get(key)
        if known is not None and at.number in known.parts:
            before = known.parts[at.number]
            if (before.payload, before.coding) != (part.payload, part.coding):
                # The sender has come round to this reference again: another message.
                done.append(self._take(key))
                known = None
        if known is None:
            known = self._open[key] = _Open(now_ms + self._age_ms)
        cost = limits.PART_BYTES
        if at.number not in known.parts:
            known.parts[at.number] = part
            cost += len(part.payload)
        known.tokens.append(part.token)
        known.octets += cost
        self._octets += cost
        if len(known.parts) == at.total:
            done.append(self._take(key))
        while len(self._open) > self._messages or self._octets > self._most_octets:
            done.append(self._take(next(iter(self._open))))
        return done

    def expired(self, now_ms: int) -> list[Whole]:
        """Messages whose time is up, as they are."""
        done = []
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if oldest.deadline_ms > now_ms:
                break
            done.append(self._take(key))
        return done

    def flush(self) -> list[Whole]:
        """All that waits, as it is: for an account that stops and cannot have them repeated."""
        return [self._take(key) for key in list(self._open)]

    def _take(self, key: _Key) -> Whole:
        one = self._open.pop(key)
        self._octets -= one.octets
        return one.whole()
