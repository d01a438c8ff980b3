"""SMPP under any bytes: nothing untyped is raised, nothing is lost, nothing grows."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from channels.sms.smpp.codec import HEADER_BYTES, TEXT_OCTETS, Framer, decode, encode
from channels.sms.smpp.pdu import (
    PDU_BYTES_MAX,
    Bind,
    BindResp,
    Command,
    Message,
    MessageResp,
    PduError,
    Plain,
)
from channels.sms.smpp.receipts import answer_id, is_receipt, receipt_id, receipt_of
from channels.sms.smpp.status import verdict_of

OCTET = st.integers(0, 255)
SEQUENCE = st.integers(0, 0xFFFFFFFF)
LATIN = st.characters(min_codepoint=1, max_codepoint=255)
TLVS = st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=20), max_size=4)


def text(name: str) -> st.SearchStrategy[str]:
    return st.text(LATIN, max_size=TEXT_OCTETS[name])


MESSAGES = st.builds(
    Message,
    command=st.sampled_from([Command.SUBMIT_SM, Command.DELIVER_SM]),
    sequence=SEQUENCE,
    service_type=text("service_type"),
    source_ton=OCTET,
    source_npi=OCTET,
    source=text("source"),
    dest_ton=OCTET,
    dest_npi=OCTET,
    dest=text("dest"),
    esm_class=OCTET,
    protocol_id=OCTET,
    priority=OCTET,
    schedule=text("schedule"),
    validity=text("validity"),
    registered=OCTET,
    replace=OCTET,
    data_coding=OCTET,
    default_message=OCTET,
    short_message=st.binary(max_size=254),
    tlvs=TLVS,
)
DATA = st.builds(
    Message,
    command=st.just(Command.DATA_SM),
    sequence=SEQUENCE,
    source=text("source"),
    dest=text("dest"),
    esm_class=OCTET,
    registered=OCTET,
    data_coding=OCTET,
    tlvs=TLVS,
)
BINDS = st.builds(
    Bind,
    command=st.sampled_from([Command.BIND_TRANSMITTER, Command.BIND_TRANSCEIVER]),
    sequence=SEQUENCE,
    system_id=text("system_id"),
    password=text("password"),
    system_type=text("system_type"),
    version=OCTET,
    addr_ton=OCTET,
    addr_npi=OCTET,
    address_range=text("address_range"),
)
BIND_RESPS = st.builds(
    BindResp,
    command=st.just(Command.BIND_TRANSCEIVER_RESP),
    status=SEQUENCE,
    sequence=SEQUENCE,
    system_id=text("system_id"),
    tlvs=TLVS,
)
MESSAGE_RESPS = st.builds(
    MessageResp,
    command=st.sampled_from([Command.SUBMIT_SM_RESP, Command.DELIVER_SM_RESP]),
    status=SEQUENCE,
    sequence=SEQUENCE,
    message_id=text("message_id"),
    tlvs=TLVS,
)
PLAINS = st.builds(
    Plain,
    command=st.sampled_from([Command.ENQUIRE_LINK, Command.UNBIND_RESP, Command.GENERIC_NACK]),
    status=SEQUENCE,
    sequence=SEQUENCE,
)
PDUS = st.one_of(MESSAGES, DATA, BINDS, BIND_RESPS, MESSAGE_RESPS, PLAINS)


@st.composite
def pieces(draw: st.DrawFn, octets: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(octets)), max_size=12)))
    edges = [0, *cuts, len(octets)]
    return [octets[a:b] for a, b in pairwise(edges)]


@given(st.data(), st.lists(PDUS, max_size=6))
def test_pdus_come_back_however_they_are_cut(data: st.DataObject, pdus: list) -> None:
    octets = b"".join(encode(pdu) for pdu in pdus)
    framer = Framer()
    told = [pdu for piece in data.draw(pieces(octets)) for pdu in framer.feed(piece)]
    assert told == pdus
    assert framer.held == 0


@given(st.data(), PDUS, st.lists(st.tuples(st.integers(0, 400), OCTET), max_size=4))
def test_changed_octets_are_a_pdu_or_a_typed_error(
    data: st.DataObject, pdu: object, changes: list[tuple[int, int]]
) -> None:
    octets = bytearray(encode(pdu))  # type: ignore[arg-type]
    for place, value in changes:
        octets[place % len(octets)] = value
    framer = Framer()
    for piece in data.draw(pieces(bytes(octets))):
        for told in framer.feed(piece):
            if isinstance(told, PduError):
                assert 0 < told.status <= 0xFF
            else:
                # what was read can be told again, and says the same
                _reports(told)


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_any_bytes(chunks: list[bytes]) -> None:
    framer = Framer()
    for chunk in chunks:
        for told in framer.feed(chunk):
            _reports(told)
        assert framer.held <= PDU_BYTES_MAX + 300


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=200))
def test_any_body_under_any_command(command: int, body: bytes) -> None:
    known = [*Command, command]
    for one in known:
        head = (HEADER_BYTES + len(body), one, 0, 77)
        frame = b"".join(each.to_bytes(4, "big") for each in head) + body
        try:
            _reports(decode(frame))
        except PduError as error:
            assert error.sequence == 77 and not error.fatal


@given(st.text(max_size=200), st.sampled_from(["none", "hex2dec", "dec2hex", "strip_zeros"]))
def test_any_id(name: str, form: str) -> None:
    for found in (answer_id(name, form), receipt_id(name, form)):  # type: ignore[arg-type]
        assert len(found) <= 128 and bool(found) == bool(name)


@given(st.integers(0, 0xFFFFFFFF))
def test_any_status(status: int) -> None:
    verdict = verdict_of(status)
    assert (verdict.kind == "accepted") == (status == 0)
    assert (verdict.kind == "failed") == (verdict.failure is not None)


def _reports(told: object) -> None:
    """Receipts are total over every message that can be read."""
    assert isinstance(told, Bind | BindResp | Message | MessageResp | Plain | PduError)
    if isinstance(told, Message):
        is_receipt(told)
        found = receipt_of(told)
        assert found is None or (found.id and len(found.id) <= 128 and len(found.code) <= 64)
