"""CMPP of any bytes: decoders raise their own errors only, and what is written is read again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from channels.sms.cmpp import layout, values
from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp.config import CmppConfig
from channels.sms.cmpp.layout import CmppError
from channels.sms.cmpp.pdu import Frame, Framer, decode, encode
from channels.sms.cmpp.session import Session
from hub.clock import SystemClock
from tests.support.cmpp import Owner, Wire, welcome
from tests.support.examples import examples

VERSIONS = st.sampled_from([cmpp.V20, cmpp.V21, cmpp.V30])
_NUMBER = {layout.U8: (1 << 8) - 1, layout.U32: (1 << 32) - 1, layout.U64: (1 << 64) - 1}


def texts(width: int) -> st.SearchStrategy[str]:
    """What a field of this width gives back as it was: no NUL, no space at its end."""
    letters = st.characters(min_codepoint=1, max_codepoint=255)
    return st.text(letters, max_size=width).map(lambda text: text.rstrip(" "))


def field(spec: layout.Spec, number_width: int) -> st.SearchStrategy[Any]:
    if isinstance(spec, int):
        return texts(spec)
    if spec == layout.AUTHENTICATOR:
        return st.binary(min_size=16, max_size=16)
    if spec == layout.CONTENT:
        return st.binary(max_size=255)
    if spec == layout.NUMBERS:
        return st.lists(texts(number_width), min_size=1, max_size=5).map(tuple)
    return st.integers(0, _NUMBER[spec])


@st.composite
def any_message(draw: st.DrawFn, version: int) -> cmpp.Message:
    kind, rows = cmpp.TABLE[draw(st.sampled_from(cmpp.Command))]
    column = int(version >= cmpp.V30)
    width = layout.NUMBER_WIDTHS[column]
    there = [(row[0], row[1 + column]) for row in rows if row[1 + column] != layout.NONE]
    fields = {name: draw(field(spec, width)) for name, spec in there}
    return kind(**fields)


@given(st.data(), VERSIONS, st.integers(0, (1 << 32) - 1))
def test_what_is_written_is_read(data: st.DataObject, version: int, sequence: int) -> None:
    message = data.draw(any_message(version))
    framer = Framer()
    framer.feed(encode(message, sequence, version))
    frame = framer.take()
    assert frame is not None
    assert frame.sequence == sequence
    assert decode(frame, version) == message


@given(
    st.one_of(st.sampled_from(cmpp.Command).map(int), st.integers(0, (1 << 32) - 1)),
    st.binary(max_size=300),
    VERSIONS,
)
@examples(400)
def test_any_body(command: int, body: bytes, version: int) -> None:
    with contextlib.suppress(CmppError):
        message = decode(Frame(command, 1, body), version)
        encode(message, 1, version)


@given(st.data(), VERSIONS)
def test_a_broken_pdu(data: st.DataObject, version: int) -> None:
    """A real PDU with some bytes changed and its end cut off."""
    octets = bytearray(encode(data.draw(any_message(version)), 1, version))
    places = st.integers(0, len(octets) - 1)
    for place, value in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=4)).items():
        octets[place] = value
    framer = Framer()
    framer.feed(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
    with contextlib.suppress(CmppError):
        while (frame := framer.take()) is not None:
            decode(frame, version)


@given(st.lists(st.binary(max_size=40), max_size=40))
def test_any_stream(pieces: list[bytes]) -> None:
    framer = Framer()
    with contextlib.suppress(CmppError):
        for piece in pieces:
            framer.feed(piece)
            while framer.take() is not None:
                pass


@given(st.one_of(st.binary(max_size=100), st.binary(min_size=60, max_size=60)))
def test_any_report(content: bytes) -> None:
    with contextlib.suppress(CmppError):
        report = values.decode_report(content)
        values.minute_ms(report.done_time)


@given(st.integers(0, (1 << 64) - 1))
def test_any_number_is_a_msg_id(number: int) -> None:
    assert values.pack_msg_id(values.unpack_msg_id(number)) == number


# ---- a whole connection --------------------------------------------------------------------------

CONFIG = CmppConfig(host="h", sp_id="900001", secret="888888", window=4)
SUBMITS = 6


@st.composite
def said_by_an_ismg(draw: st.DrawFn) -> bytes:
    """Sensible PDUs with sequences that may be ours, and nonsense."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=30))
    return encode(draw(any_message(cmpp.V30)), draw(st.integers(0, 12)), cmpp.V30)


@given(st.lists(said_by_an_ismg(), max_size=12), st.integers(1, 60), st.booleans())
def test_any_ismg(said: list[bytes], piece: int, let_in: bool) -> None:
    """Whatever an ISMG says after the login, each SUBMIT comes back exactly once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        owner = Owner()
        session = Session(CONFIG, cmpp.V30, owner, SystemClock(), loop)
        wire = Wire(session)
        await asyncio.sleep(0)
        if let_in:
            session.data_received(welcome(wire))
            assert session.opened.result() is None
        for number in range(SUBMITS):
            session.submit(cmpp.Submit(dest_terminal_ids=("1",)), number)
        await asyncio.sleep(0)
        stream = b"".join(said)
        for place in range(0, len(stream), piece):
            if wire.open:
                session.data_received(stream[place : place + piece])
            await asyncio.sleep(0)
        wire.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert session.closed.done()
        assert owner.back == Counter(range(SUBMITS))

    asyncio.run(main())
