"""SMPP 3.4: golden bytes, faults in bytes, statuses, and receipts in vendors' spellings."""

from __future__ import annotations

import pickle

import msgspec
import pytest
import smpp34

from channels.sms.alphabet import Coding
from channels.sms.message import SmsConfig
from channels.sms.smpp.codec import Framer, decode, encode
from channels.sms.smpp.config import SmppConfig
from channels.sms.smpp.pdu import (
    PDU_BYTES_MAX,
    BadBody,
    BadLength,
    Bind,
    BindResp,
    Command,
    Message,
    MessageResp,
    PduError,
    Plain,
    Tag,
    Unencodable,
    UnknownCommand,
    number,
)
from channels.sms.smpp.provider import check
from channels.sms.smpp.receipts import (
    ReceiptText,
    answer_id,
    is_receipt,
    parse_text,
    receipt_id,
    receipt_of,
    status_of,
)
from channels.sms.smpp.status import CLASSES, Status, name_of, verdict_of
from hub.errors import ConfigError

SUBMIT = Message(
    command=Command.SUBMIT_SM,
    sequence=2,
    source_ton=5,
    source="Tact",
    dest_ton=1,
    dest_npi=1,
    dest="8613800138000",
    esm_class=0x40,
    validity="261122120000000+",
    registered=1,
    data_coding=8,
    short_message=bytes.fromhex("050003070201") + "你好".encode("utf-16-be"),
    tlvs={0x1400: b"vendor", Tag.SAR_TOTAL_SEGMENTS: b"\2"},
)

GOLDEN = {
    # SMPP 3.4 issue 1.2, section 3.2.2: the specification's own example
    "0000002f000000020000000000000001534d505033544553540073656372657430380053"
    "55424d4954310000010100": Bind(
        command=Command.BIND_TRANSMITTER,
        sequence=1,
        system_id="SMPP3TEST",
        password="secret08",
        system_type="SUBMIT1",
        version=0,
        addr_ton=1,
        addr_npi=1,
    ),
    "00000010000000150000000000000007": Plain(
        command=Command.ENQUIRE_LINK, status=0, sequence=7
    ),
    "00000010800000000000000300000009": Plain(
        command=Command.GENERIC_NACK, status=Status.RINVCMDID, sequence=9
    ),
    "0000001080000004000000580000000a": MessageResp(
        command=Command.SUBMIT_SM_RESP, status=Status.RTHROTTLED, sequence=10
    ),
    "000000138000000400000000000000026e3100": MessageResp(
        command=Command.SUBMIT_SM_RESP, status=0, sequence=2, message_id="n1"
    ),
    "0000001a80000009000000000000000173000210000134": None,  # cut: its length is wrong
    "00000017800000090000000000000001730002100001": None,
    "000000178000000900000000000000017300" + "0210000134": BindResp(
        command=Command.BIND_TRANSCEIVER_RESP,
        status=0,
        sequence=1,
        system_id="s",
        tlvs={Tag.SC_INTERFACE_VERSION: b"\x34"},
    ),
    "0000003f000000040000000000000002" + "00" + "0500" + "5461637400" + "0101"
    + "3836313338303031333830303000" + "400000" + "00" + "00" + "01000800"
    + "0c" + "050003070201" + "4f60597d00": None,  # one octet too much
}  # fmt: skip


@pytest.mark.parametrize(("octets", "pdu"), GOLDEN.items())
def test_golden_bytes(octets: str, pdu: object) -> None:
    frame = bytes.fromhex(octets)
    if pdu is None:
        with pytest.raises(PduError):
            decode(frame)
        return
    assert decode(frame) == pdu
    assert encode(pdu) == frame  # type: ignore[arg-type]


def test_a_submission_octet_by_octet() -> None:
    """Field by field from the table of 4.4.1."""
    body = b"".join(
        (
            b"\0",  # service_type
            b"\x05\x00Tact\0",
            b"\x01\x018613800138000\0",
            b"\x40\x00\x00",  # esm_class, protocol_id, priority_flag
            b"\0",  # schedule_delivery_time
            b"261122120000000+\0",
            b"\x01\x00\x08\x00",  # registered, replace, data_coding, default message
            b"\x0a\x05\x00\x03\x07\x02\x01\x4f\x60\x59\x7d",
            b"\x14\x00\x00\x06vendor",
            b"\x02\x0e\x00\x01\x02",
        )
    )
    frame = (16 + len(body)).to_bytes(4, "big") + b"\0\0\0\4\0\0\0\0\0\0\0\2" + body
    assert encode(SUBMIT) == frame
    assert decode(frame) == SUBMIT


@pytest.mark.parametrize("command", [Command.SUBMIT_SM, Command.DELIVER_SM])
def test_a_foreign_codec_reads_and_writes_the_same(command: Command) -> None:
    ours = msgspec.structs.replace(SUBMIT, command=command)
    theirs = smpp34.decode(encode(ours))
    make = smpp34.SubmitSm if command == Command.SUBMIT_SM else smpp34.DeliverSm
    assert isinstance(theirs, make)
    same = {
        "service_type": ours.service_type,
        "source_addr_ton": ours.source_ton,
        "source_addr_npi": ours.source_npi,
        "source_addr": ours.source,
        "dest_addr_ton": ours.dest_ton,
        "dest_addr_npi": ours.dest_npi,
        "destination_addr": ours.dest,
        "esm_class": ours.esm_class,
        "protocol_id": ours.protocol_id,
        "priority_flag": ours.priority,
        "schedule_delivery_time": ours.schedule,
        "validity_period": ours.validity,
        "registered_delivery": ours.registered,
        "replace_if_present_flag": ours.replace,
        "data_coding": ours.data_coding,
        "sm_default_msg_id": ours.default_message,
        "short_message": ours.short_message,
        "sequence_number": ours.sequence,
    }
    assert {name: getattr(theirs, name) for name in same} == same
    assert {tlv.tag: tlv.value for tlv in theirs.tlvs} == ours.tlvs
    tlvs = [smpp34.Tlv(tag, value) for tag, value in ours.tlvs.items()]
    assert decode(make(tlvs=tlvs, **same).encode()) == ours


def _frame(command: int, body: bytes, sequence: int = 5) -> bytes:
    head = (16 + len(body), command, 0, sequence)
    return b"".join(each.to_bytes(4, "big") for each in head) + body


_MESSAGE = encode(SUBMIT)[16:]

WRONG = {
    "unknown command": (_frame(0x77, b""), UnknownCommand, Status.RINVCMDID),
    "no end of a text": (_frame(Command.SUBMIT_SM, b"abc"), BadBody, Status.RINVCMDLEN),
    "text of 300": (_frame(Command.SUBMIT_SM, b"x" * 300), BadBody, Status.RINVCMDLEN),
    "ends within a field": (_frame(Command.SUBMIT_SM, _MESSAGE[:30]), BadBody, Status.RINVCMDLEN),
    "sm_length beyond": (_frame(Command.SUBMIT_SM, _MESSAGE[:50]), BadBody, None),
    "TLV head cut": (_frame(Command.SUBMIT_SM, _MESSAGE + b"\1"), BadBody, Status.RINVOPTPARSTREAM),
    "TLV cut": (
        _frame(Command.DELIVER_SM, _MESSAGE + b"\4\x24\xff\xffxx"),
        BadBody,
        Status.RINVOPTPARSTREAM,
    ),
    "empty bind": (_frame(Command.BIND_TRANSCEIVER, b""), BadBody, Status.RINVCMDLEN),
    "too short": (b"\0\0\0\x10", BadLength, Status.RINVCMDLEN),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_bytes(name: str) -> None:
    frame, kind, status = WRONG[name]
    with pytest.raises(kind) as caught:
        decode(frame)
    error = caught.value
    assert status is None or error.status == status
    assert error.sequence == (0 if len(frame) < 16 else 5)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.status, again.sequence) == (kind, error.status, error.sequence)


@pytest.mark.parametrize("length", [0, 15, PDU_BYTES_MAX + 1, 0xFFFFFFFF])
def test_after_a_senseless_length_nothing_is_read(length: int) -> None:
    framer = Framer()
    good = encode(Plain(command=Command.ENQUIRE_LINK, status=0, sequence=1))
    told = framer.feed(good + length.to_bytes(4, "big") + bytes(8) + b"\0\0\0\x09" + good)
    assert told[0] == decode(good)
    assert isinstance(told[1], BadLength) and told[1].fatal and told[1].sequence == 9
    assert len(told) == 2 and framer.feed(good) == [] and framer.held == 0


def test_a_wrong_body_does_not_stop_what_follows() -> None:
    good = encode(SUBMIT)
    told = Framer().feed(_frame(Command.SUBMIT_SM, b"abc") + _frame(0x77, b"") + good)
    assert [type(each) for each in told] == [BadBody, UnknownCommand, Message]


@pytest.mark.parametrize(
    "changes",
    [{"dest": "1" * 21}, {"dest": "汉"}, {"dest": "1\x002"}, {"short_message": bytes(255)},
     {"tlvs": {0x424: bytes(65_536)}}, {"validity": "x" * 17}],
)  # fmt: skip
def test_what_does_not_fit_is_not_written_and_not_quoted(changes: dict[str, object]) -> None:
    with pytest.raises(Unencodable) as caught:
        encode(msgspec.structs.replace(SUBMIT, **changes))
    assert "汉" not in str(caught.value)


def test_nothing_of_a_message_is_in_its_repr() -> None:
    assert repr(SUBMIT) == "Message(command=0x4, sequence=2)"
    bind = Bind(command=2, sequence=1, system_id="tact", password="hunter2")
    assert "hunter2" not in repr(bind)
    assert "hunter2" not in repr(SmppConfig(host="h", system_id="s", password="hunter2"))


@pytest.mark.parametrize(
    ("value", "found"), [(b"\2", 2), (b"\1\0", 256), (b"", None), (bytes(5), None)]
)
def test_numbers_of_any_width(value: bytes, found: int | None) -> None:
    assert number({7: value}, 7) == found
    assert number({}, 7) is None


# ---- statuses --------------------------------------------------------------------------------


def test_every_status_has_a_meaning_and_an_unknown_one_the_safe_one() -> None:
    assert set(CLASSES) == set(Status) - {Status.ROK}
    expected = {
        Status.ROK: ("accepted", None),
        Status.RTHROTTLED: ("throttled", None),
        Status.RMSGQFUL: ("throttled", None),
        Status.RSYSERR: ("retry", None),
        Status.RX_T_APPN: ("retry", None),
        Status.RINVDSTADR: ("failed", "dead_address"),
        Status.RINVSRCADR: ("failed", "config"),
        Status.RINVMSGLEN: ("failed", "rejected_content"),
        0x4FF: ("failed", "provider"),
        0xFFFFFFFF: ("failed", "provider"),
    }
    for status, meaning in expected.items():
        verdict = verdict_of(status)
        assert (verdict.kind, verdict.failure) == meaning
    assert not verdict_of(0x4FF).known and verdict_of(Status.RUNKNOWNERR).known
    assert verdict_of(0x400, {0x400: "throttled"}).kind == "throttled"
    assert (name_of(0x58), name_of(0x400)) == ("ESME_RTHROTTLED", "0x00000400")


@pytest.mark.parametrize(
    ("key", "value"),
    [("password", "ninechars"), ("system_id", ""), ("source", "短信"), ("statuses", {"1": "maybe"}),
     ("statuses", {"x": "retry"}), ("data_coding", {"klingon": 1}), ("reconnect_max_s", 0.5),
     ("tls_ca", "/no/such/file")],
)  # fmt: skip
def test_a_wrong_configuration_names_its_key_and_quotes_nothing(key: str, value: object) -> None:
    values = {"host": "h", "system_id": "s", "password": "p", "tls": True} | {key: value}
    with pytest.raises((ConfigError, msgspec.ValidationError)) as caught:
        check(msgspec.convert(values, SmppConfig), SmsConfig())
    assert key in str(caught.value) and "ninechars" not in str(caught.value)


def test_alphabets_are_those_that_the_centre_has_a_number_for() -> None:
    values = {"host": "h", "system_id": "s", "password": "p"}
    gbk = SmsConfig(codings=[Coding.GBK])
    with pytest.raises(ConfigError):
        check(msgspec.convert(values, SmppConfig), gbk)
    check(msgspec.convert(values | {"data_coding": {"gbk": 15}}, SmppConfig), gbk)


# ---- receipts --------------------------------------------------------------------------------

TEXTS = {
    "id:n1 sub:001 dlvrd:001 submit date:2611211200 done date:2611211201 stat:DELIVRD err:000 "
    "text:": ReceiptText("n1", "DELIVRD", "000"),
    "ID:1A2B SUB:1 STAT:UNDELIV ERR:011": ReceiptText("1A2B", "UNDELIV", "011"),
    "stat:EXPIRED id:77": ReceiptText("77", "EXPIRED", ""),
    "id: 77 status: Rejected error: 5": ReceiptText("77", "Rejected", "5"),
    "id:77 stat:DELIVRD err:0 text:id:66 stat:UNDELIV": ReceiptText("77", "DELIVRD", "0"),
    "text:hello id:77 stat:DELIVRD": ReceiptText("77", "DELIVRD", ""),
    "submitdate:1 donedate:2 id:0009 stat:ACCEPTD": ReceiptText("0009", "ACCEPTD", ""),
    "nothing of the kind": ReceiptText(),
    "": ReceiptText(),
    "id:" + "9" * 400: ReceiptText("9" * 128),
}


@pytest.mark.parametrize(("text", "found"), TEXTS.items())
def test_receipts_in_any_spelling(text: str, found: ReceiptText) -> None:
    assert parse_text(text) == found


def test_optional_parameters_count_before_the_text() -> None:
    message = Message(
        command=Command.DELIVER_SM,
        sequence=1,
        esm_class=0x04,
        short_message=b"id:text stat:ENROUTE",
        tlvs={
            Tag.RECEIPTED_MESSAGE_ID: b"tlv\0",
            Tag.MESSAGE_STATE: b"\5",
            Tag.NETWORK_ERROR_CODE: b"\3\0\x0b",
        },
    )
    found = receipt_of(message)
    assert found is not None
    assert (found.id, found.status, found.code) == ("tlv", "failed", "UNDELIV:011")
    without = msgspec.structs.replace(message, tlvs={Tag.MESSAGE_STATE: b"", 0x1E: b"\0"})
    found = receipt_of(without)
    assert found is not None and (found.id, found.status) == ("text", "sent")
    nameless = msgspec.structs.replace(without, short_message=b"stat:DELIVRD")
    assert receipt_of(nameless) is None


def test_a_customer_cannot_write_a_receipt() -> None:
    text = b"id:1 stat:DELIVRD"
    written = Message(command=Command.DELIVER_SM, sequence=1, short_message=text)
    assert not is_receipt(written)
    assert is_receipt(msgspec.structs.replace(written, esm_class=0x04))
    assert is_receipt(msgspec.structs.replace(written, esm_class=0x20))
    assert not is_receipt(msgspec.structs.replace(written, esm_class=0x40))


@pytest.mark.parametrize(
    ("stat", "status", "failure"),
    [("DELIVRD", "delivered", None), ("delivered", "delivered", None),
     ("EXPIRED", "failed", "expired"), ("UNDELIV", "failed", "provider"),
     ("REJECTD", "failed", "provider"), ("DELETED", "failed", "provider"),
     ("ACCEPTD", "sent", None), ("ENROUTE", "sent", None), ("UNKNOWN", "unknown", None),
     ("MA:0001", "unknown", None), ("", "unknown", None)],
)  # fmt: skip
def test_what_stat_means(stat: str, status: str, failure: str | None) -> None:
    assert status_of(stat) == (status, failure)


@pytest.mark.parametrize(
    ("form", "answer", "receipt"),
    [("none", "0aB", "0aB"), ("hex2dec", "255", "FF"), ("hex2dec", "0255", "00ff"),
     ("dec2hex", "00FF", "255"), ("dec2hex", "ff", "0255"), ("strip_zeros", "0012", "12"),
     ("hex2dec", "not-hex", "not-hex"), ("dec2hex", "x1", "x1"), ("strip_zeros", "000", "0")],
)  # fmt: skip
def test_ids_of_answer_and_receipt_become_one(form: str, answer: str, receipt: str) -> None:
    assert answer_id(answer, form) == receipt_id(receipt, form)  # type: ignore[arg-type]
