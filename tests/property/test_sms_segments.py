"""Segments: sizes of the specification, nothing cut through, nothing lost in either direction."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from channels.provider import Unsendable
from channels.sms.alphabet import Coding, Unwritable, decode, encode
from channels.sms.segments import (
    Concat,
    Header,
    Part,
    Place,
    Reassembly,
    Segmented,
    Whole,
    parse_udh,
    place_of,
    reference_of,
    segment,
)

CODINGS = [Coding.GSM7, Coding.UCS2]
EXTENDED = "^{}\\[~]|€\f"

awkward = st.sampled_from("aZ 0@é€^{}[]~|\\中文，。😀👍🏽`\u200d")
mixed = st.text(awkward | st.characters(codec="utf-8"), max_size=400)
short = st.text("ab€[é", min_size=1, max_size=400) | mixed.filter(bool)
concats = st.sampled_from(Concat)


def cut(
    text: str, coding: Coding = Coding.UCS2, concat: Concat = Concat.UDH8, most: int = 255
) -> Segmented:
    return segment(text, [coding], reference=0xA1B2, concat=concat, most=most)


def lengths(done: Segmented) -> list[int]:
    return [len(each.payload) // done.coding.sizes.unit for each in done.segments]


# ---- out -------------------------------------------------------------------------------------

SIZES = [
    (Coding.GSM7, "a", 160, 153, 152),
    (Coding.ASCII, "a", 159, 153, 152),
    (Coding.LATIN1, "é", 140, 134, 133),
    (Coding.UCS2, "中", 70, 67, 66),
    (Coding.GBK, "a", 140, 134, 133),
]


@pytest.mark.parametrize(("coding", "letter", "single", "part8", "part16"), SIZES)
def test_sizes(coding: Coding, letter: str, single: int, part8: int, part16: int) -> None:
    assert lengths(cut(letter * single, coding)) == [single]
    assert lengths(cut(letter * (single + 1), coding)) == [part8, single + 1 - part8]
    for concat, part in ((Concat.UDH8, part8), (Concat.SAR, part8), (Concat.UDH16, part16)):
        full = cut(letter * (3 * part), coding, concat)
        assert lengths(full) == [part] * 3
        one_more = cut(letter * (3 * part + 1), coding, concat)
        assert lengths(one_more) == [part, part, part, 1]


def test_headers() -> None:
    text = "中" * 71
    assert [each.udh.hex(" ") for each in cut(text).segments] == [
        "05 00 03 b2 02 01",
        "05 00 03 b2 02 02",
    ]
    assert [each.udh.hex(" ") for each in cut(text, concat=Concat.UDH16).segments] == [
        "06 08 04 a1 b2 02 01",
        "06 08 04 a1 b2 02 02",
    ]
    sar = cut(text, concat=Concat.SAR).segments
    assert [(each.udh, each.reference, each.number, each.total) for each in sar] == [
        (b"", 0xA1B2, 1, 2),
        (b"", 0xA1B2, 2, 2),
    ]
    (single,) = cut("中").segments
    assert (single.udh, single.number, single.total) == (b"", 1, 1)


CUTS = [
    (Coding.UCS2, "中" * 66 + "😀" + "中" * 5, [66, 7]),
    (Coding.UCS2, "中" * 65 + "😀" + "中" * 5, [67, 5]),
    (Coding.UCS2, "中" * 69 + "😀", [67, 4]),
    (Coding.UCS2, "中" * 68 + "😀", [70]),
    (Coding.GBK, "a" * 133 + "中" * 5, [133, 10]),
    (Coding.GBK, "a" * 132 + "中" * 5, [134, 8]),
    *((Coding.GSM7, "a" * 152 + one + "a" * 10, [152, 12]) for one in EXTENDED),
    *((Coding.GSM7, "a" * 151 + one + "a" * 10, [153, 10]) for one in EXTENDED),
    *((Coding.GSM7, "a" * 159 + one, [153, 8]) for one in EXTENDED),
    *((Coding.GSM7, "a" * 158 + one, [160]) for one in EXTENDED),
]


@pytest.mark.parametrize(("coding", "text", "expected"), CUTS)
def test_no_character_is_cut(coding: Coding, text: str, expected: list[int]) -> None:
    done = cut(text, coding)
    assert lengths(done) == expected
    assert "".join(decode(each.payload, coding) for each in done.segments) == text


@given(short, st.permutations(list(Coding)), concats, st.integers(0, 2**32))
@example("a" * 160 + "€", list(Coding), Concat.UDH16, 300)
def test_segments_together_are_the_text(
    text: str, codings: list[Coding], concat: Concat, reference: int
) -> None:
    done = segment(text, codings, reference=reference, concat=concat, most=255)
    assert done.coding is next(one for one in codings if writes(text, one))
    assert "".join(decode(each.payload, done.coding) for each in done.segments) == text
    sizes, alone = done.coding.sizes, len(done.segments) == 1
    part = sizes.part16 if concat is Concat.UDH16 else sizes.part8
    assert all(0 < length <= (sizes.single if alone else part) for length in lengths(done))
    assert alone == (done.coding.cost(text) <= sizes.single)
    assert [each.number for each in done.segments] == list(range(1, len(done.segments) + 1))
    for each in done.segments:
        if each.udh:
            headers, rest = parse_udh(each.udh + each.payload)
            assert rest == each.payload
            assert place_of(headers) == Place(each.reference, each.total, each.number)


def writes(text: str, coding: Coding) -> bool:
    try:
        return coding.cost(text) > 0
    except Unwritable:
        return False


def test_what_cannot_be_sent_is_refused_without_quoting_it() -> None:
    secret = "验证码4711"
    for text, codings, most, says in [
        ("", CODINGS, 10, "empty"),
        (secret, [Coding.GSM7, Coding.LATIN1], 10, "gsm7, latin1"),
        (secret + "\ud800", CODINGS, 10, "character 8"),
        (secret * 200, CODINGS, 10, "more than 10 segments"),
        ("😀" * 67, CODINGS, 2, "more than 2 segments"),
        ("中" * 300 * 67, CODINGS, 1000, "more than 255 segments"),
    ]:
        with pytest.raises(Unsendable) as caught:
            segment(text, codings, reference=1, most=most)
        assert caught.value.failure == "rejected_content"
        assert says in caught.value.message
        assert "验" not in repr(caught.value) and caught.value.__context__ is None


def test_a_text_that_is_far_too_long_costs_no_more_than_a_long_one() -> None:
    """Counted, not timed: it is refused before any of it is looked at."""

    class Watched(str):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("the text was read")

        def encode(self, *_: object) -> bytes:
            raise AssertionError("the text was encoded")

    with pytest.raises(Unsendable, match="more than 10 segments"):
        segment(Watched("a" * 1_000_000), [Coding.UCS2], reference=1, most=10)


def test_references() -> None:
    assert reference_of("shop:42:sms:1", 8) == reference_of("shop:42:sms:1", 8) < 256
    found = {reference_of(f"shop:{n}:sms:1", 8) for n in range(2000)}
    assert len(found) > 250, "references of neighbours must spread"
    assert len({reference_of(f"shop:{n}:sms:1", 16) for n in range(2000)}) > 1900


# ---- in --------------------------------------------------------------------------------------

UDH = [
    ("05 00 03 2a 02 01 61", [(0, "2a 02 01")], "61", Place(0x2A, 2, 1)),
    ("06 08 04 01 02 03 02 61", [(8, "01 02 03 02")], "61", Place(0x0102, 3, 2)),
    # Beside ports, and the last of two counts.
    ("0b 05 04 0b 84 23 f0 00 03 01 02 02", [(5, "0b 84 23 f0"), (0, "01 02 02")], "",
     Place(1, 2, 2)),
    ("0a 00 03 01 02 01 00 03 07 02 02 61", [(0, "01 02 01"), (0, "07 02 02")], "61",
     Place(7, 2, 2)),
    # Places that contradict themselves.
    ("05 00 03 2a 02 03 61", [(0, "2a 02 03")], "61", None),
    ("05 00 03 2a 02 00 61", [(0, "2a 02 00")], "61", None),
    ("05 00 03 2a 00 00", [(0, "2a 00 00")], "", None),
    ("04 00 02 2a 02", [(0, "2a 02")], "", None),
    # Headers that do.
    ("00 61", [], "61", None),
    ("05 00 04 2a 02 01 61", [], "61", None),
    ("07 00 03 2a 02 01 00 05 61", [], "61", None),
    ("03 00 03 2a 02 01", [], "02 01", None),
    ("01 00 61", [], "61", None),
    ("09 00 03 2a 02 01 61", [], "09 00 03 2a 02 01 61", None),
    ("ff", [], "ff", None),
    ("", [], "", None),
]  # fmt: skip


@pytest.mark.parametrize(("octets", "headers", "rest", "where"), UDH)
def test_user_data_headers(
    octets: str, headers: list[tuple[int, str]], rest: str, where: Place | None
) -> None:
    expected = tuple(Header(iei, bytes.fromhex(data)) for iei, data in headers)
    found, payload = parse_udh(bytes.fromhex(octets))
    assert (found, payload) == (expected, bytes.fromhex(rest))
    assert place_of(found) == where


@given(st.binary(max_size=300), st.sampled_from(Coding))
def test_octets_never_raise(octets: bytes, coding: Coding) -> None:
    headers, rest = parse_udh(octets)
    assert octets.endswith(rest)
    place_of(headers)
    assert isinstance(decode(octets, coding), str)


def parts_of(done: Segmented, sender: str = "+8613800000000") -> list[Part]:
    return [
        Part(
            sender, "1069", Place(one.reference, one.total, one.number), done.coding, one.payload, n
        )
        for n, one in enumerate(done.segments)
    ]


@given(st.data(), st.text("ab€中😀", min_size=80, max_size=400), st.sampled_from(CODINGS))
def test_any_order_and_repeats(data: st.DataObject, text: str, coding: Coding) -> None:
    parts = parts_of(segment(text, [coding, Coding.UCS2], reference=7, most=255))
    order = data.draw(st.permutations(parts))
    repeats = data.draw(st.lists(st.sampled_from(order[:-1] or order), max_size=5))
    if len(parts) == 1:
        repeats = []
    arriving = [*order[:-1], *repeats, order[-1]]
    collected = Reassembly()
    done = [whole for part in arriving for whole in collected.add(part, 0)]
    (whole,) = done
    assert whole.text == text and whole.complete
    assert whole.tokens == tuple(part.token for part in arriving), "each must be confirmed"
    assert (len(collected), collected.deadline_ms) == (0, None)


def test_a_character_cut_by_the_sender_is_whole_again() -> None:
    octets = encode("中😀€", Coding.UCS2)
    collected = Reassembly()
    for number, payload in ((2, octets[4:]), (1, octets[:4])):
        done = collected.add(
            Part("+86138", "1069", Place(1, 2, number), Coding.UCS2, payload, number), 0
        )
    assert done[0].text == "中😀€"


def some(number: int, payload: bytes = b"x", total: int = 5, **other: object) -> Part:
    fields = {"sender": "a", "recipient": "b", "reference": 1, "token": number} | other
    return Part(
        str(fields["sender"]),
        str(fields["recipient"]),
        Place(int(str(fields["reference"])), total, number),
        Coding.GSM7,
        payload,
        fields["token"],
    )


def told(wholes: list[Whole]) -> list[tuple[str, tuple[object, ...], int]]:
    return [(whole.text, whole.tokens, whole.parts) for whole in wholes]


def test_what_is_incomplete_comes_out_when_its_time_is_up() -> None:
    collected = Reassembly(age_ms=100)
    assert collected.add(some(5, b"e"), 0) == []
    assert collected.add(some(2, b"b"), 90) == []
    assert collected.deadline_ms == 100, "the first part's time counts"
    assert collected.expired(99) == []
    assert told(collected.expired(100)) == [("…b…e", (5, 2), 2)]
    assert collected.add(some(1, b"a"), 101) == [], "a part that is later still is another message"
    assert told(collected.add(some(1, b"z", sender="c"), 201)) == [("a…", (1,), 1)]
    assert told(collected.flush()) == [("z…", (1,), 1)]


def test_a_reference_used_again_is_another_message() -> None:
    collected = Reassembly()
    collected.add(some(1, b"a", total=2, token="old"), 0)
    assert told(collected.add(some(1, b"c", total=2, token="new"), 1)) == [("a…", ("old",), 1)]
    assert told(collected.add(some(2, b"d", total=2), 2)) == [("cd", ("new", 2), 2)]


@pytest.mark.parametrize("other", [{"sender": "c"}, {"recipient": "c"}, {"reference": 2}])
def test_messages_are_kept_apart(other: dict[str, object]) -> None:
    collected = Reassembly()
    assert collected.add(some(1, total=2), 0) == []
    assert collected.add(some(2, total=2, **other), 0) == []
    assert collected.add(some(2, total=3), 0) == []
    assert len(collected) == 3


def test_reassembly_is_bounded() -> None:
    few = Reassembly(messages=3)
    done = [whole for n in range(10) for whole in few.add(some(1, reference=n, token=n), 0)]
    assert [whole.tokens for whole in done] == [(n,) for n in range(7)], "oldest first"
    assert len(few) == 3
    small = Reassembly(octets=10_000)
    done = [whole for n in range(200) for whole in small.add(some(1, token=n), 0)]
    assert done and all(len(whole.tokens) < 50 for whole in done), "repeats count too"
    assert told(small.add(some(1, b"y" * 20_000, sender="z", token=0), 0))[-1][1] == (0,)
    assert len(small) == 0


def test_nothing_shown_quotes_content() -> None:
    done = cut("secret" * 40, Coding.GSM7)
    part = parts_of(done)[0]
    whole = Whole("+8613800000000", "1069", "secret", (), 1, 2)
    shown = repr([done, part, whole])
    assert "secret" not in shown and "138" not in shown
