"""CMPP byte for byte: golden PDUs, authenticators, Msg_Ids, reports, and streams in pieces.

The values are those of gocmpp's tests (Apache-2.0) where these have them; the bytes are written
down by the tables of QB-GF-028-2003.
"""

from __future__ import annotations

from datetime import datetime

import pytest
from msgspec.structs import replace

from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp import values
from channels.sms.cmpp.layout import MalformedError, UnencodableError
from channels.sms.cmpp.messages import V20, V21, V30
from channels.sms.cmpp.pdu import (
    PDU_BYTES,
    Frame,
    Framer,
    FramingError,
    UnknownCommandError,
    connect_resp_version,
    decode,
    encode,
)

SECRET = "888888"
SOURCE = bytes.fromhex("90d00c1d517abd0b4f65f6bcf8535d16")
MSG_ID = 12878564852733378560
SUBMIT = cmpp.Submit(
    msg_level=1,
    service_id="test",
    fee_terminal_id="13500002696",
    msg_fmt=8,
    msg_src="900001",
    fee_type="02",
    fee_code="10",
    valid_time="151105131555101+",
    src_id="900001",
    dest_terminal_ids=("13500002696",),
    content="测试gocmpp submit".encode("utf-16-be"),
)


def text(value: str, width: int) -> str:
    return value.encode().ljust(width, b"\0").hex()


def submit_golden(column: int) -> str:
    number, tail, total = ((21, 8, 0xBD), (32, 20, 0xE1))[column]
    kind = ("", "00")[column]
    return "".join(
        (
            f"{total:08x} 00000004 00000017 0000000000000000 01 01 01 01",
            text("test", 10),
            "02" + text("13500002696", number) + kind,
            "00 00 08" + text("900001", 6) + text("02", 2) + text("10", 6),
            text("151105131555101+", 17) + text("", 17) + text("900001", 21),
            "01" + text("13500002696", number) + kind,
            "1e 6d4b8bd50067006f0063006d00700070 0020007300750062006d00690074",
            text("", tail),
        )
    )


def deliver_golden(column: int) -> str:
    number, tail, total = ((21, 8, 0x67), (32, 20, 0x7F))[column]
    return "".join(
        (
            f"{total:08x} 00000005 00000001 b4c5530000010000",
            text("900001", 21) + text("", 10) + "000000",
            text("13412340000", number) + ("", "00")[column],
            "00 12" + b"This is a test MO.".hex() + text("", tail),
        )
    )


MO = cmpp.Deliver(
    msg_id=13025908756704198656,
    dest_id="900001",
    src_terminal_id="13412340000",
    content=b"This is a test MO.",
)
GOLDEN = [
    (
        "00000027 00000001 00000017 393030303031 90d00c1d517abd0b4f65f6bcf8535d16 21 3cdc73be",
        cmpp.Connect("900001", SOURCE, V21, 1021080510),
        V21,
    ),
    (
        "0000001e 80000001 00000017 00 6c0b846e25bab6daa4ed1c466e0f4bd8 21",
        cmpp.ConnectResp(0, bytes.fromhex("6c0b846e25bab6daa4ed1c466e0f4bd8"), V21),
        V21,
    ),
    (
        "00000021 80000001 00000017 00000000 7942977274098cf210ab0c16c367bc8d 30",
        cmpp.ConnectResp(0, bytes.fromhex("7942977274098cf210ab0c16c367bc8d"), V30),
        V30,
    ),
    ("0000000c 00000002 00000017", cmpp.Terminate(), V20),
    ("0000000c 80000002 00000017", cmpp.TerminateResp(), V20),
    (submit_golden(0), SUBMIT, V20),
    (submit_golden(1), SUBMIT, V30),
    ("00000015 80000004 00000017 b2b9da8000010000 08", cmpp.SubmitResp(MSG_ID, 8), V20),
    ("00000018 80000004 00000017 b2b9da8000010000 00000008", cmpp.SubmitResp(MSG_ID, 8), V30),
    (deliver_golden(0), MO, V20),
    (deliver_golden(1), MO, V30),
    ("00000015 80000005 00000001 b4c5530000010000 00", cmpp.DeliverResp(MO.msg_id), V20),
    ("00000018 80000005 00000001 b4c5530000010000 00000000", cmpp.DeliverResp(MO.msg_id), V30),
    (
        "00000027 00000006 00000001" + b"20261122".hex() + "01" + text("svc", 10) + text("", 8),
        cmpp.Query("20261122", 1, "svc"),
        V20,
    ),
    (
        "0000003f 80000006 00000001"
        + b"20261122".hex()
        + "01"
        + text("svc", 10)
        + "".join(f"{n:08x}" for n in range(1, 9)),
        cmpp.QueryResp("20261122", 1, "svc", 1, 2, 3, 4, 5, 6, 7, 8),
        V20,
    ),
    ("00000014 00000007 00000001 b2b9da8000010000", cmpp.Cancel(MSG_ID), V20),
    ("0000000d 80000007 00000001 01", cmpp.CancelResp(1), V20),
    ("00000010 80000007 00000001 00000001", cmpp.CancelResp(1), V30),
    ("0000000c 00000008 00000001", cmpp.ActiveTest(), V20),
    ("0000000d 80000008 00000001 00", cmpp.ActiveTestResp(), V30),
]


@pytest.mark.parametrize(("golden", "message", "version"), GOLDEN)
def test_golden_bytes_both_ways(golden: str, message: cmpp.Message, version: int) -> None:
    octets = bytes.fromhex(golden)
    sequence = int.from_bytes(octets[8:12], "big")
    assert encode(message, sequence, version).hex() == octets.hex()
    framer = Framer()
    framer.feed(octets)
    frame = framer.take()
    assert frame is not None
    assert frame.sequence == sequence
    assert decode(frame, version) == message
    assert framer.take() is None


def test_lengths_of_the_specification() -> None:
    twelve = replace(SUBMIT, content=bytes(12))
    assert len(encode(twelve, 1, V20)) == 171
    assert len(encode(twelve, 1, V20)) == 138 + 21 + 12
    assert len(encode(twelve, 1, V30)) == 163 + 32 + 12
    assert len(encode(MO, 1, V20)) == 85 + 18 - 12 + 12
    assert len(encode(MO, 1, V30)) == 109 + 18
    most = replace(SUBMIT, dest_terminal_ids=("13500002696",) * 99, content=bytes(255))
    assert len(encode(most, 1, V30)) <= PDU_BYTES


def test_authenticators() -> None:
    source = values.authenticator_source("900001", SECRET, 1021080510)
    assert source == SOURCE
    two = values.authenticator_ismg(0, source, SECRET, V21)
    three = values.authenticator_ismg(0, source, SECRET, V30)
    assert two.hex() == "6c0b846e25bab6daa4ed1c466e0f4bd8"
    assert three.hex() == "7942977274098cf210ab0c16c367bc8d"
    assert not values.same(two, three)


def test_a_timestamp_of_january_keeps_its_zero() -> None:
    at = int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=values.CHINA).timestamp() * 1000)
    assert values.timestamp(at) == 102030405
    assert (
        values.authenticator_source("a", "b", 102030405)
        == values.hashlib.md5(b"a" + bytes(9) + b"b" + b"0102030405").digest()
    )


def test_msg_id() -> None:
    parts = values.unpack_msg_id(MSG_ID)
    assert parts == values.MsgId(11, 5, 14, 29, 42, gateway=1, serial=0)
    assert values.pack_msg_id(parts) == MSG_ID
    with pytest.raises(values.CmppError):
        values.pack_msg_id(parts._replace(month=16))


REPORT = values.Report(
    13025908756704198656, "DELIVRD", "1511120955", "1511120957", "13412340000", 0x12345678
)


@pytest.mark.parametrize(("version", "width", "total"), [(V20, 21, 60), (V30, 32, 71)])
def test_report_bodies(version: int, width: int, total: int) -> None:
    golden = (
        "b4c5530000010000"
        + b"DELIVRD15111209551511120957".hex()
        + text("13412340000", width)
        + "12345678"
    )
    body = values.encode_report(REPORT, version)
    assert body.hex() == golden
    assert len(body) == total
    assert values.decode_report(body) == REPORT
    with pytest.raises(MalformedError):
        values.decode_report(body + b"\0")


def test_times_are_chinese() -> None:
    at = int(datetime(2026, 11, 22, 9, 30, 59, 700_000, tzinfo=values.CHINA).timestamp() * 1000)
    assert values.minute_text(at) == "2611220930"
    assert values.minute_ms("2611220930") == at - 59_700
    assert values.valid_time(at) == "261122093059" + "7" + "32" + "+"
    for nonsense in ("", "2613220930", "261122093", "26112209３0", "abcdefghij"):
        assert values.minute_ms(nonsense) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"service_id": "x" * 11}, "service_id"),
        ({"src_id": "短"}, "src_id"),
        ({"src_id": "1\0002"}, "src_id"),
        ({"dest_terminal_ids": ()}, "dest_terminal_ids"),
        ({"dest_terminal_ids": ("1",) * 100}, "dest_terminal_ids"),
        ({"dest_terminal_ids": ("1" * 22,)}, "dest_terminal_ids"),
        ({"content": bytes(256)}, "content"),
        ({"pk_total": 256}, "pk_total"),
        ({"msg_id": -1}, "msg_id"),
    ],
)
def test_what_does_not_fit_is_named_and_not_shown(change: dict[str, object], field: str) -> None:
    with pytest.raises(UnencodableError) as caught:
        encode(replace(SUBMIT, **change), 1, V20)
    assert field in caught.value.facts["field"]
    for value in change.values():
        assert not (isinstance(value, str) and value in str(caught.value))


def test_an_ismg_of_2_refuses_3_in_its_own_layout() -> None:
    refusal = encode(cmpp.ConnectResp(4, bytes(16), V20), 1, V20)
    frame = Frame(cmpp.Command.CONNECT_RESP, 1, refusal[12:])
    assert connect_resp_version(frame) == V20
    assert decode(frame, V30) == cmpp.ConnectResp(4, bytes(16), V20)


def test_an_active_test_resp_without_its_reserved_byte() -> None:
    assert decode(Frame(cmpp.Command.ACTIVE_TEST_RESP, 1, b""), V20) == cmpp.ActiveTestResp()


@pytest.mark.parametrize(("golden", "message", "version"), GOLDEN)
def test_a_body_has_its_length_and_no_other(
    golden: str, message: cmpp.Message, version: int
) -> None:
    octets = bytes.fromhex(golden)
    command, body = int.from_bytes(octets[4:8], "big"), octets[12:]
    for other in (body + b"\0", body[:-1]):
        if other == body or (isinstance(message, cmpp.ActiveTestResp) and not other):
            continue
        with pytest.raises(MalformedError):
            decode(Frame(command, 1, other), version)


def test_a_body_of_the_other_version_is_refused() -> None:
    body = encode(SUBMIT, 1, V20)[12:]
    with pytest.raises(MalformedError):
        decode(Frame(cmpp.Command.SUBMIT, 1, body), V30)
    with pytest.raises(UnknownCommandError):
        decode(Frame(9, 1, body), V20)


def test_a_stream_in_single_bytes() -> None:
    stream = b"".join(encode(message, n, V30) for n, message in enumerate((SUBMIT, MO, SUBMIT)))
    framer = Framer()
    taken = []
    for place in range(len(stream)):
        framer.feed(stream[place : place + 1])
        while (frame := framer.take()) is not None:
            taken.append((frame.sequence, decode(frame, V30)))
    assert taken == [(0, SUBMIT), (1, MO), (2, SUBMIT)]


@pytest.mark.parametrize("length", [0, 11, PDU_BYTES + 1, 0xFFFF_FFFF])
def test_a_length_no_pdu_has(length: int) -> None:
    framer = Framer()
    framer.feed(encode(cmpp.ActiveTest(), 5, V20) + length.to_bytes(4, "big") + bytes(8))
    assert framer.take() == Frame(cmpp.Command.ACTIVE_TEST, 5, b"")
    for _ in range(2):
        with pytest.raises(FramingError):
            framer.take()


def test_nothing_of_a_customer_is_shown() -> None:
    for message in (SUBMIT, MO, REPORT, Frame(5, 1, b"13412340000")):
        shown = f"{message!r} {message}"
        assert "13412340000" not in shown
        assert "13500002696" not in shown
