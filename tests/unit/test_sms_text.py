"""What an SMS says, to whom, and what a customer's answer means."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gsm0338
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.provider import Unsendable
from channels.sms import numbers
from channels.sms.alphabet import Coding, Unwritable, decode, encode
from channels.sms.consent import is_opt_out, words
from channels.sms.message import Sms, SmsConfig
from channels.sms.segments import Concat
from hub.contract.types import Delivery
from hub.errors import ConfigError

# ---- alphabets -------------------------------------------------------------------------------


def test_gsm7_agrees_with_a_foreign_table() -> None:
    """Every character that either knows, and every code in both tables."""
    foreign = gsm0338.Codec()
    for number in (n for n in range(0x10000) if not 0xD800 <= n < 0xE000):
        character = chr(number)
        try:
            expected = foreign.encode(character)[0]
        except UnicodeEncodeError:
            expected = None
        if character == "\x1b":
            expected = None  # the foreign one writes an escape; alone it means nothing
        try:
            written = encode(character, Coding.GSM7)
        except Unwritable:
            written = None
        assert written == expected, hex(number)
        if written is not None:
            assert decode(written, Coding.GSM7) == foreign.decode(written)[0] == character


DECODED = [
    (Coding.GSM7, b"\x1b\x41", "A"),  # not in the extension table: as in the default alphabet
    (Coding.GSM7, b"\x1b\x1b\x65", " e"),
    (Coding.GSM7, b"\x1b", "\ufffd"),
    (Coding.GSM7, b"\x80\xff\x1b\xffA", "\ufffd\ufffd\ufffdA"),
    (Coding.UCS2, b"\x4e\x2d\x65", "中\ufffd"),
    (Coding.UCS2, b"\xd8\x3d\x00\x41", "\ufffdA"),
    (Coding.GBK, "中".encode("gbk") + b"\xd6", "中\ufffd"),
    (Coding.ASCII, b"a\xe9", "a\ufffd"),
]


@pytest.mark.parametrize(("coding", "octets", "text"), DECODED)
def test_decoding_is_total(coding: Coding, octets: bytes, text: str) -> None:
    assert decode(octets, coding) == text


WRITTEN = [
    (Coding.GSM7, "@€", b"\x00\x1b\x65", 3),
    (Coding.UCS2, "中😀", b"\x4e\x2d\xd8\x3d\xde\x00", 3),
    (Coding.GBK, "a中", b"a\xd6\xd0", 3),
    (Coding.LATIN1, "é", b"\xe9", 1),
    (Coding.GSM7, "ab`", 2, 0),
    (Coding.GSM7, "\x1b", 0, 0),
    (Coding.ASCII, "é", 0, 0),
    (Coding.LATIN1, "a€", 1, 0),
    (Coding.GBK, "中😀", 1, 0),
    (Coding.UCS2, "a\ud83d", 1, 0),
]
"""(.., octets, units), or (.., position of what cannot be written, 0)."""


@pytest.mark.parametrize(("coding", "text", "expected", "units"), WRITTEN)
def test_encoding(coding: Coding, text: str, expected: bytes | int, units: int) -> None:
    if isinstance(expected, bytes):
        assert (encode(text, coding), coding.cost(text)) == (expected, units)
        return
    with pytest.raises(Unwritable) as caught:
        encode(text, coding)
    assert caught.value.facts == {"position": expected}
    assert caught.value.__context__ is None, "the codec's own error holds the text"


# ---- what goes out -----------------------------------------------------------------------------

LINE = "拒收请回复R"
COMPOSED = [
    ({}, "您好", "service", "您好"),
    ({}, " 您好 ", "marketing", " 您好 "),
    ({"signature": "格物"}, "您好", "service", "【格物】您好"),
    ({"signature": "格物", "signature_at": "end"}, "您好", "service", "您好【格物】"),
    ({"signature": "格物"}, "【格物】您好", "service", "【格物】您好"),
    ({"signature": "格物"}, "您好【格物】 \n", "service", "您好【格物】"),
    ({"signature": "格物"}, "【别家】您好", "service", "【格物】【别家】您好"),
    ({"signature": "格物"}, "见【格物】官网", "service", "【格物】见【格物】官网"),
    ({"opt_out_line": LINE}, "大促", "marketing", "大促" + LINE),
    ({"opt_out_line": LINE}, "大促", "service", "大促"),
    ({"opt_out_line": LINE, "marketing": ["promo"]}, "大促", "marketing", "大促"),
    ({"opt_out_line": LINE, "marketing": ["promo"]}, "大促", "promo", "大促" + LINE),
    ({"opt_out_line": LINE}, f"大促{LINE}。", "marketing", f"大促{LINE}。"),
    ({"signature": "格物", "opt_out_line": LINE}, "大促", "marketing", f"【格物】大促{LINE}"),
    (
        {"signature": "格物", "opt_out_line": LINE, "signature_at": "end"},
        "大促",
        "marketing",
        f"大促{LINE}【格物】",
    ),
    (
        {"signature": "格物", "opt_out_line": LINE},
        "大促【格物】",
        "marketing",
        f"大促{LINE}【格物】",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "text", "category", "expected"), COMPOSED)
def test_signature_and_way_out(
    config: dict[str, Any], text: str, category: str, expected: str
) -> None:
    assert Sms(SmsConfig(**config)).compose(text, category) == expected


pieces = st.lists(
    st.sampled_from(["【格物】", LINE, "大促", " ", "\n", "【", "】", "a"]), max_size=8
)


@given(pieces.map("".join), st.sampled_from(["start", "end"]), st.sampled_from(["marketing", "x"]))
def test_composing_again_changes_nothing(text: str, place: Any, category: str) -> None:
    sms = Sms(SmsConfig(signature="格物", signature_at=place, opt_out_line=LINE))
    once = sms.compose(text, category)
    assert sms.compose(once, category) == once
    assert once.startswith("【格物】") or once.endswith("【格物】")
    assert category == "x" or LINE in once
    assert once.count("【格物】") <= max(1, text.count("【格物】") + 1)
    assert once.count(LINE) <= max(1, text.count(LINE))


WRONG = [
    ({"signature": "店"}, "sms.signature: 2 to 12"),
    ({"signature": "店" * 13}, "sms.signature: 2 to 12"),
    ({"signature": "【格物】"}, "sms.signature: write it without"),
    ({"signature": "格物 "}, "sms.signature: write it without"),
    ({"opt_out_line": ""}, "sms.opt_out_line: 4 to"),
    ({"opt_out_line": "回T"}, "sms.opt_out_line: 4 to"),
    ({"opt_out_line": "回复【R】"}, "sms.opt_out_line: write it without"),
    ({"region": "China"}, "sms.region"),
    ({"opt_out_words": ["stop", "!!"]}, "sms.opt_out_words"),
    ({"codings": ["gsm7"]}, "sms.codings: gsm7 is not of this protocol; allowed: gbk, ucs2"),
    ({"concat": "sar"}, "sms.concat: not of this protocol; allowed: udh8"),
]


@pytest.mark.parametrize(("table", "says"), WRONG)
def test_a_wrong_configuration_names_its_key(table: dict[str, Any], says: str) -> None:
    config = msgspec.convert(table, SmsConfig)
    with pytest.raises(ConfigError) as caught:
        Sms(config, codings=[Coding.GBK, Coding.UCS2], concats=[Concat.UDH8])
    assert caught.value.message.startswith(says)


@pytest.mark.parametrize(
    "table",
    [{"max_segments": 0}, {"max_segments": 256}, {"codings": []}, {"codings": ["utf8"]}, {"x": 1}],
)
def test_types_hold_the_rest_of_the_configuration(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, SmsConfig)


def delivery(
    content: bytes = b'{"text":"hi"}', to: str = "138 0013 8000", category: str = "service"
) -> Delivery:
    return Delivery(
        id="shop:42:1",
        intent="42",
        app="shop",
        customer="c1",
        category=category,
        priority=5,
        channel="sms",
        account="sms",
        to=to,
        content=msgspec.Raw(content),
        attempt=1,
        at="2026-11-21T00:00:00Z",
        expires_at="2026-11-22T00:00:00Z",
    )


def test_a_delivery_becomes_segments() -> None:
    sms = Sms(SmsConfig(signature="格物", opt_out_line=LINE))
    long = b'{"text":"' + ("中" * 61).encode() + b'","also":[1]}'
    recipient, done = sms.prepare(delivery(long, category="marketing"))
    assert recipient == "+8613800138000"
    text = "".join(decode(each.payload, done.coding) for each in done.segments)
    assert (text, done.coding, len(done.segments)) == (f"【格物】{'中' * 61}{LINE}", Coding.UCS2, 2)
    assert sms.prepare(delivery(long, category="marketing")) == (recipient, done)
    assert Sms(SmsConfig()).prepare(delivery())[1].coding is Coding.GSM7


def test_the_account_chooses_before_the_protocol() -> None:
    long = delivery(b'{"text":"' + b"a" * 300 + b'"}')
    own = {"concat": Concat.SAR, "codings": [Coding.ASCII, Coding.UCS2]}
    _, done = Sms(SmsConfig()).prepare(long, **own)
    assert (done.coding, done.segments[0].udh) == (Coding.ASCII, b"")
    config = msgspec.convert({"codings": ["ucs2"], "concat": "udh16"}, SmsConfig)
    _, done = Sms(config).prepare(long, **own)
    assert (done.coding, done.segments[0].udh[:3]) == (Coding.UCS2, b"\x06\x08\x04")


REFUSED = [
    ({"content": b"{}"}, "rejected_content", "field text"),
    ({"content": b'{"text":7}'}, "rejected_content", "field text"),
    ({"content": b'{"markdown":"SECRET"}'}, "rejected_content", "field text"),
    ({"content": b'["SECRET"]'}, "rejected_content", "field text"),
    ({"content": b"SECRET"}, "rejected_content", "field text"),
    ({"content": b'{"text":"\xff"}'}, "rejected_content", "field text"),
    ({"content": b'{"text":"\\ud800SECRET"}'}, "rejected_content", "field text"),
    ({"content": b'{"text":" \\n"}'}, "rejected_content", "empty"),
    ({"content": b'{"text":"' + b"SECRET" * 900 + b'"}'}, "rejected_content", "max_segments"),
    ({"to": "SECRET"}, "dead_address", "telephone number"),
    ({"to": "13800000"}, "dead_address", "telephone number"),
]


@pytest.mark.parametrize(("fields", "failure", "says"), REFUSED)
def test_what_cannot_be_sent_says_why(fields: dict[str, Any], failure: str, says: str) -> None:
    with pytest.raises(Unsendable) as caught:
        Sms(SmsConfig(signature="格物")).prepare(delivery(**fields))
    assert caught.value.failure == failure and says in caught.value.message
    shown = repr([caught.value, caught.value.__context__, caught.value.facts])
    assert "SECRET" not in shown and "138" not in shown


# ---- numbers -----------------------------------------------------------------------------------

NUMBERS = [
    ("13800138000", "CN", "+8613800138000"),
    ("138-0013 8000", "CN", "+8613800138000"),
    ("8613800138000", "CN", "+8613800138000"),
    ("008613800138000", "CN", "+8613800138000"),
    ("+8613800138000", "US", "+8613800138000"),
    ("tel:+86-138-0013-8000", "CN", "+8613800138000"),
    ("１３８００１３８０００", "CN", "+8613800138000"),
    ("16012345678", "CN", "+8616012345678"),  # of a prefix that is not given out yet
    ("(415) 555-0123", "US", "+14155550123"),
    ("+39 06 698 12345", "CN", "+390669812345"),
    ("", "CN", None),
    ("10086", "CN", None),
    ("1380013", "CN", None),
    ("1380013800", "CN", None),
    ("138001380001", "CN", None),
    ("010-12345678", "CN", None),  # a landline
    ("13800138000138001", "CN", None),
    ("13800138000 13900139000", "CN", None),
    ("+8613800138000;ext=5", "CN", None),
    ("1-800-FLOWERS", "US", None),
    ("call 13800138000", "CN", None),
    ("+999123456789", "CN", None),
    ("1380013" + " " * 40 + "8000", "CN", None),
    ("①②③", "CN", None),
]


@pytest.mark.parametrize(("text", "region", "expected"), NUMBERS)
def test_numbers(text: str, region: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Unsendable) as caught:
            numbers.normalise(text, region)
        assert caught.value.failure == "dead_address"
        assert numbers.spelled(text, region) == text
    else:
        assert numbers.normalise(text, region) == numbers.spelled(text, region) == expected
        assert numbers.normalise(expected, region) == expected


def test_national_numbers() -> None:
    assert numbers.national("+8613800138000", "CN") == "13800138000"
    assert numbers.national("+8613800138000", "US") == "8613800138000"
    assert numbers.national("+14155550123", "CN") == "14155550123"
    assert numbers.national("10086", "CN") == "10086"


def test_the_tables_of_numbers_wait_for_the_first_number() -> None:
    """They are slow to import, and every `tact` command imports the configuration."""
    code = "import sys, channels.sms.message; sys.exit('phonenumbers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# ---- consent -----------------------------------------------------------------------------------

SAID = [
    *((one, True) for one in ("R", "r", "r.", "Ｒ", " ｒ！", "T", "td", "T D", "N", "n~", "qx")),
    *((one, True) for one in ("退订", "退订！", "“退订”", "退 订", "拒收", "取消订阅。")),
    ("不要再发!!!", True),
    *((one, True) for one in ("R\u200b", "R\n", "\ufeffTD", "退订🙏")),
    *((one, False) for one in ("", "!", "请退订我", "no", "NO", "RR", "R2", "TDD", "退", "不退订")),
    *((one, False) for one in ("stop", "我要退订吗", "R" * 500, "退订" + "!" * 500)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "refuses"), SAID)
def test_opt_out(text: str, refuses: bool) -> None:
    assert is_opt_out(text) is refuses


def test_an_account_adds_words() -> None:
    sms = Sms(SmsConfig(opt_out_words=["Stop", "解绑！"]))
    assert [sms.is_opt_out(text) for text in ("STOP.", "ｓｔｏｐ", "解绑", "R", "go", "")] == [
        True, True, True, True, False, False
    ]  # fmt: skip
    assert is_opt_out("stop", words(["stop"]))
    assert not is_opt_out("?", words(["!"])), "a word of nothing would be every silence"
