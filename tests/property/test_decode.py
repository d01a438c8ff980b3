"""Decoding is total: any bytes give messages or reasons for every object; nothing is raised."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub import limits
from hub.contract.decode import Rejection, decode
from hub.contract.salvage import members
from hub.contract.subjects import LANES, fnv1a_32, is_key, is_source
from hub.contract.types import Command, Inbound, Intent, Receipt
from tests.support.examples import examples
from tests.support.messages import BY_KIND, LANE_OF, VALID, encode

SETTINGS = examples(80)
MARK = "S3CRET-13800000000"
"""Stands where addresses and contents are; must not get into a reason."""

lanes = st.sampled_from(LANES)
sources = st.sampled_from(["shop", "", "Shop", "gw-1"]) | st.text(max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([MARK, "sms", "*", "2026-11-21T08:00:00Z", "", "~g"])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = sorted({name for _, fields in VALID for name in fields} | {MARK, "text", "class"})


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """(lane, object): a valid message with up to three fields changed, added or taken away."""
    lane, fields = draw(st.sampled_from(VALID))
    fields = dict(fields)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(FIELDS) | st.text(max_size=6))
        if draw(st.booleans()):
            fields.pop(name, None)
        else:
            fields[name] = draw(json_values)
    return lane, fields


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """The bytes of valid messages, cut, joined, and with bytes changed, put in and taken out."""
    several = [encode(fields) for _, fields in draw(st.lists(st.sampled_from(VALID), max_size=3))]
    payload = bytearray(draw(st.sampled_from([b"", b"["])) + b",".join(several))
    if payload[:1] == b"[":
        payload += b"]"
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(payload)))
        size = draw(st.integers(0, 8))
        piece = draw(
            st.binary(max_size=3) | st.sampled_from([b"[", b"}", b'"', b"\\", b",", b"\\ud83d"])
        )
        payload[at : at + size] = piece
    return bytes(payload)


def check_total(lane: str, source: str, payload: bytes, packed: bool) -> list[Any]:
    found = decode(lane, source, payload, packed)
    assert found
    assert len(found) <= limits.ARRAY_OBJECTS + 1
    for each in found:
        msgspec.json.encode(each)  # it goes on into the ledger
        if isinstance(each, Rejection):
            assert 0 < len(each.reason) <= limits.REASON_CHARS
            assert max(len(each.id), len(each.customer)) <= limits.REJECTED_ID_CHARS
        else:
            check_form(lane, source, each)
    return found


def check_form(lane: str, source: str, message: Any) -> None:
    """What the parts behind decoding take for granted."""
    assert isinstance(message, (Intent, Receipt, Inbound, Command))
    assert is_key(message.customer)
    if isinstance(message, Intent | Command):
        assert message.app == source
        assert is_source(source)
        assert 1 <= len(message.id) <= 64
        assert message.id.isascii()
        assert " " not in message.id
    if isinstance(message, Intent | Inbound):
        orjson.loads(msgspec.json.encode(message.content))


@given(lanes, sources, st.binary(max_size=200), st.booleans())
@example("normal", "shop", b"[" * 100_000, False)
@example("normal", "shop", b'["' + b"\\" * 100_001, False)
@example("receipt", "", b"\x91" * 100_000, True)
@example("normal", "shop", b"[" + b'"a",' * 100_000, False)
@SETTINGS
def test_any_bytes(lane: str, source: str, payload: bytes, packed: bool) -> None:
    check_total(lane, source, payload, packed)


@given(lanes, broken())
@SETTINGS
def test_broken_json(lane: str, payload: bytes) -> None:
    check_total(lane, "shop", payload, packed=False)


@given(st.sampled_from(VALID), st.data())
@SETTINGS
def test_broken_messagepack(valid: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    lane, fields = valid
    payload = bytearray(msgspec.msgpack.encode([fields, fields]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2))
    check_total(lane, "shop", bytes(payload), packed=True)


@given(mutants())
@SETTINGS
def test_reasons_quote_no_values(mutant: tuple[str, dict[str, Any]]) -> None:
    lane, fields = mutant
    for each in check_total(lane, "shop", encode(fields), packed=False):
        if isinstance(each, Rejection):
            assert MARK not in each.reason
            assert each.reason.isprintable()


@given(st.lists(mutants(), min_size=1, max_size=4), lanes)
@SETTINGS
def test_json_and_messagepack_decode_to_equal_messages(
    several: list[tuple[str, dict[str, Any]]], lane: str
) -> None:
    objects = [fields for _, fields in several]
    one = decode(lane, "shop", encode(objects))
    other = decode(lane, "shop", msgspec.msgpack.encode(objects), packed=True)
    assert list(map(written, one)) == list(map(written, other))


def written(item: Any) -> tuple[type, bytes]:
    return type(item), msgspec.json.encode(item)


@given(st.lists(st.tuples(mutants(), st.booleans()), min_size=1, max_size=6))
@SETTINGS
def test_each_object_of_an_array_stands_for_itself(several: list[Any]) -> None:
    """An array gives exactly what its objects give alone, also beside one that is no JSON."""
    lane = several[0][0][0]
    payloads = [encode(fields) for (_, fields), _ in several]
    alone = [decode(lane, "shop", payload) for payload in payloads]
    expected = [written(each) for found in alone for each in found]
    assert [written(each) for each in decode(lane, "shop", joined(payloads))] == expected
    spoilt = [*payloads, b'{"id":"half","content":{"text":"\\ud83d"}}']
    found = decode(lane, "shop", joined(spoilt))
    assert [written(each) for each in found[:-1]] == expected
    assert isinstance(found[-1], Rejection)
    assert found[-1].id == "half"


def joined(payloads: list[bytes]) -> bytes:
    return b"[" + b",".join(payloads) + b"]"


@given(st.lists(json_values, min_size=1, max_size=6))
@SETTINGS
def test_members_are_split_where_a_decoder_splits_them(values: list[Any]) -> None:
    found, whole = members(orjson.dumps(values))
    assert whole
    assert found == [orjson.dumps(value) for value in values]


@pytest.mark.parametrize("kind", BY_KIND)
@given(data=st.data())
@examples(30)
def test_a_changed_byte_never_changes_a_neighbour(kind: str, data: st.DataObject) -> None:
    """Of three objects the middle one is damaged inside its text; the others pass unchanged."""
    fields = BY_KIND[kind][0]
    good = encode(fields)
    middle = bytearray(good)
    at = data.draw(st.integers(good.index(b":") + 2, good.index(b",") - 2))
    middle[at] = data.draw(st.sampled_from([0x00, 0x0A, 0x80, 0xFF, 0x7B, 0x5B, 0x2C]))
    found = decode(LANE_OF[kind], "shop", joined([good, bytes(middle), good]))
    whole = decode(LANE_OF[kind], "shop", good)
    assert [written(found[0]), written(found[2])] == [written(whole[0])] * 2


@given(st.text(max_size=40))
@SETTINGS
def test_fnv_1a_against_its_definition(text: str) -> None:
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    assert fnv1a_32(text) == value
