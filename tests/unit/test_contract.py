"""The contract at its border: what is valid passes whole, what is not gets a reason and its ids."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
import orjson
import pytest
from msgspec import Raw

from hub import limits
from hub.contract import reasons, types
from hub.contract.decode import (
    Rejection,
    content_channels,
    content_for,
    decode,
    split_delivery_id,
)
from hub.contract.subjects import (
    LANES,
    account_partition,
    event_subject,
    fnv1a_32,
    intake_subject,
    is_key,
    is_source,
    live_subject,
    partition_of,
    publish_subject,
)
from hub.contract.types import Intent, Receipt
from hub.contract.zones import zone, zone_exists, zone_names
from tests.support.messages import BY_KIND, INTENT, RECEIPT, VALID, encode, intent

SECRET = "+8613800000000"
OBJECT = limits.MESSAGE_OBJECT_BYTES
NO_IDS = {"id": "", "customer": ""}
TOO_LONG = "x" * (limits.REJECTED_ID_CHARS + 1)
DEEP = b"[" * 5_000 + b"]" * 5_000
SHALLOW = b'{"a":' * (limits.NESTING - 1) + b"{}" + b"}" * (limits.NESTING - 1)
"""Objects in one another, exactly as many as are allowed."""


def only(lane: str, payload: bytes, packed: bool = False, source: str = "shop") -> Rejection:
    """The one rejection that this message gives."""
    (found,) = decode(lane, source, payload, packed)
    assert isinstance(found, Rejection), found
    return found


# ---- what is valid ---------------------------------------------------------------------------


@pytest.mark.parametrize(("lane", "fields"), VALID)
@pytest.mark.parametrize("packed", [False, True])
def test_a_valid_message_passes_whole(lane: str, fields: dict[str, Any], packed: bool) -> None:
    encoder: Callable[[Any], bytes] = msgspec.msgpack.encode if packed else encode
    (alone,) = decode(lane, "shop", encoder(fields), packed)
    assert not isinstance(alone, Rejection), alone
    assert_same(alone, fields)
    several = decode(lane, "shop", encoder([fields] * 3), packed)
    assert len(several) == 3
    for message in several:
        assert_same(message, fields)


def assert_same(message: Any, fields: dict[str, Any]) -> None:
    """The message, written again, says what was sent; times are compared as moments."""
    written = orjson.loads(msgspec.json.encode(message))
    assert moments(written) == moments(fields)


def moments(fields: dict[str, Any]) -> dict[str, Any]:
    named = ("at", "until", "not_before", "expires_at", "dead_since")
    return {k: datetime.fromisoformat(v) if k in named else v for k, v in fields.items()}


@pytest.mark.parametrize("lane", ["urgent", "normal", "bulk"])
def test_every_intent_lane_takes_intents(lane: str) -> None:
    assert isinstance(decode(lane, "shop", encode(INTENT))[0], Intent)


@pytest.mark.parametrize("before", [b"", b" ", b"\n\t \r\n" * 40])
@pytest.mark.parametrize("after", [b"", b" \n"])
def test_blanks_around_are_ignored(before: bytes, after: bytes) -> None:
    (message,) = decode("normal", "shop", before + encode(INTENT) + after)
    assert isinstance(message, Intent)
    many = decode("normal", "shop", before + b"[ " + encode(INTENT) + b" ]" + after)
    assert [type(each) for each in many] == [Intent]


def test_the_last_of_repeated_fields_counts() -> None:
    payload = encode(INTENT).replace(b'"id":"order-1"', b'"id":"first","id":"second"')
    (message,) = decode("normal", "shop", payload)
    assert isinstance(message, Intent)
    assert message.id == "second"


@pytest.mark.parametrize("count", [1, 2, 255, 256])
def test_arrays_up_to_the_limit(count: int) -> None:
    found = decode("normal", "shop", encode([intent(id=f"i{n}") for n in range(count)]))
    assert [each.id for each in found] == [f"i{n}" for n in range(count)]
    assert all(isinstance(each, Intent) for each in found)


def test_an_array_may_be_larger_than_one_object() -> None:
    """The limit is of one object and must not be taken for that of the array."""
    text = "x" * (OBJECT // 100)
    found = decode("normal", "shop", encode([intent(content={"text": text})] * 200))
    assert [type(each) for each in found] == [Intent] * 200


def test_an_object_of_exactly_the_limit_is_taken() -> None:
    room = OBJECT - len(encode(intent(content={"text": ""})))
    for extra, kind in ((0, Intent), (1, Rejection)):
        payload = encode(intent(content={"text": "x" * (room + extra)}))
        assert len(payload) == OBJECT + extra
        assert [type(each) for each in decode("normal", "shop", payload)] == [kind]
        both = decode("normal", "shop", b"[" + payload + b"," + encode(INTENT) + b"]")
        assert [type(each) for each in both] == [kind, Intent]


@pytest.mark.parametrize("fill", [SHALLOW, SHALLOW.replace(b"{}", b"[]")])
def test_content_may_be_as_deep_as_the_limit(fill: bytes) -> None:
    for extra, kind in ((b"%s", Intent), (b"[%s]", Rejection)):
        body = b'{"sms":%s}' % fill if kind is Intent else b'{"sms":{"a":%s}}' % fill
        payload = encode(INTENT).replace(b'{"text":"hello"}', body)
        assert [type(each) for each in decode("normal", "shop", payload)] == [kind]
        inbound = encode(BY_KIND["inbound"][0]).replace(b'"hi"', extra % fill)
        (found,) = decode("inbound", "gw", inbound)
        assert isinstance(found, Rejection) is (kind is Rejection)


def test_messagepack_times_may_be_its_own() -> None:
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    (message,) = decode(
        "normal", "shop", msgspec.msgpack.encode(intent(expires_at=moment)), packed=True
    )
    assert isinstance(message, Intent)
    assert message.expires_at == moment


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("9999-12-31T23:59:59Z", True),
        ("9999-12-31T23:59:59.999999+00:00", True),
        ("9999-12-31T23:59:59-00:01", False),
        ("1970-01-01T00:00:00.001Z", True),
        ("1970-01-01T00:00:00Z", False),
        ("1970-01-01T00:00:00+08:00", False),
        ("0001-01-01T00:00:00+14:00", False),
    ],
)
def test_times_that_could_not_be_written_in_utc_are_refused(text: str, valid: bool) -> None:
    until = {"id": "k", "app": "shop", "customer": "c-1", "until": text}
    for lane, fields, name in (
        ("normal", intent(expires_at=text), "expires_at"),
        ("normal", intent(not_before=text), "not_before"),
        ("receipt", {**RECEIPT, "at": text}, "at"),
        ("receipt", {**RECEIPT, "dead_since": text}, "dead_since"),
        ("inbound", {**BY_KIND["inbound"][0], "at": text}, "at"),
        ("command", {**until, "op": "dnd.set", "scope": "all"}, "until"),
        ("command", {**until, "op": "takeover", "agent": "li"}, "until"),
    ):
        if valid:
            assert not isinstance(decode(lane, "shop", encode(fields))[0], Rejection)
        else:
            assert only(lane, encode(fields)).reason.startswith(f"{name}: must be after")


# ---- bad input -------------------------------------------------------------------------------


class Bad(NamedTuple):
    """One bad message that is one object: what is in the reason, and the ids that can be read."""

    name: str
    payload: bytes
    reason: str
    lane: str = "normal"
    id: str = "order-1"
    customer: str = "c-1"
    packed: bool = False


def bad(name: str, reason: str, lane: str = "normal", **changes: Any) -> Bad:
    """A bad intent, by what is changed in a good one."""
    ids = {key: "" for key in ("id", "customer") if not isinstance(changes.get(key, ""), str)}
    for key in ("id", "customer"):
        if isinstance(changes.get(key), str):
            ids[key] = changes[key]
    return Bad(name, encode(intent(**changes)), reason, lane, **ids)


def raw(name: str, old: bytes, new: bytes, reason: str, **rest: Any) -> Bad:
    """A bad intent, by a change to the bytes of a good one."""
    payload = encode(INTENT)
    assert old in payload
    return Bad(name, payload.replace(old, new), reason, **rest)


BAD = [
    Bad("nothing", b"", "not JSON: empty", **NO_IDS),
    Bad("blanks", b" \n ", "not JSON: empty", **NO_IDS),
    Bad("text", b"hello", "not JSON", **NO_IDS),
    Bad("binary", bytes(range(256)), "not JSON: not UTF-8 at byte 128", **NO_IDS),
    Bad("a number", b"7", "Expected `object`, got `int`", **NO_IDS),
    Bad("null", b"null", "Expected `object`, got `null`", **NO_IDS),
    Bad("a string", b'"x"', "Expected `object`, got `str`", **NO_IDS),
    Bad("byte order mark", b"\xef\xbb\xbf" + encode(INTENT), "byte order mark", **NO_IDS),
    Bad("UTF-16", encode(INTENT).decode().encode("utf-16"), "not JSON: not UTF-8", **NO_IDS),
    Bad("cut off", encode(INTENT)[:-12], "not JSON: unexpected end of data"),
    Bad("two objects", encode(INTENT) * 2, "not JSON"),
    Bad("an empty object", b"{}", "missing required field `id`", **NO_IDS),
    Bad("an empty array", b"[]", "an empty array", **NO_IDS),
    Bad("an array in an array", b"[[]]", "Expected `object`, got `array`", **NO_IDS),
    Bad("an open array", b"[" + encode(INTENT), "not JSON", **NO_IDS),
    bad("no id", "missing required field `id`", id=...),
    bad("no customer", "missing required field `customer`", customer=...),
    bad("no content", "missing required field `content`", content=...),
    bad("id of a wrong type", "id: Expected `str`, got `int`", id=5),
    bad("id with a space", "id: 1 to 64 printable ASCII", id="a b"),
    bad("id in another script", "id: 1 to 64 printable ASCII", id="订单"),
    bad("id with a line end", "id: 1 to 64 printable ASCII", id="a\n"),
    bad("an empty id", "id: 1 to 64 printable ASCII", id=""),
    bad("id of 65", "id: 1 to 64 printable ASCII", id="x" * 65),
    bad("customer with a dot", "customer: 1 to 64 of A-Z", customer="c.1"),
    bad("customer with a line end", "customer: 1 to 64 of A-Z", customer="c\n"),
    bad("customer of 65", "customer: 1 to 64 of A-Z", customer="x" * 65),
    bad("only a tilde", "customer: 1 to 64 of A-Z", customer="~"),
    bad("unknown field", "unknown field colour; known: id, app, customer", colour="red"),
    bad("unknown field that may be a name", "unknown field; known: id, app", **{SECRET: 1}),
    bad("another app", "app: not the source that the subject names", app="bot"),
    bad("priority out of range", "priority: Expected `int` <= 9", priority=10),
    bad("priority as text", "priority: Expected `int | null`, got `str`", priority="3"),
    bad("priority as a fraction", "priority: Expected `int | null`, got `float`", priority=5.0),
    bad("unknown channel in the route", "route[1]: not one of wecom, sms", route=["sms", "fax"]),
    bad("channel twice in the route", "route: names a channel twice", route=["sms", "sms"]),
    bad("an empty route", "route: Expected `array` of length >= 1", route=[]),
    bad("unknown reach", "reach: not one of first, all", reach="some"),
    bad("addresses swapped", "to: not one of wecom, sms, push", to={SECRET: "sms"}),
    bad("an empty address", "to.*: Expected `str` of length >= 1", to={"sms": ""}),
    bad("a long address", "to.*: Expected `str` of length <= 1024", to={"push": "9" * 1025}),
    bad("time without offset", "not_before: not an RFC 3339", not_before="2026-11-21T08:00:00"),
    bad("no time", "expires_at: not an RFC 3339 time with an offset", expires_at="soon"),
    bad("time as a number", "expires_at: Expected `datetime | null`, got `int`", expires_at=1),
    bad("31 February", "not_before: not an RFC 3339", not_before="2026-02-31T00:00:00Z"),
    bad("unknown zone", "timezone: not an IANA zone name", timezone="Asia/Bejing"),
    bad("zone of the machine", "timezone: not an IANA zone name", timezone="localtime"),
    bad("zone outside", "timezone: not an IANA zone name", timezone="../../etc/passwd"),
    bad("no content in it", "content: is empty", content={}),
    bad("content as text", "content: Expected `object`, got `str`", content=SECRET),
    bad("text that is none", "content.text: must be a string", content={"text": 5}),
    bad("text null", "content.text: must be a string", content={"text": None}),
    bad("text and channel", "content: text stands alone", content={"text": "x", "sms": {}}),
    bad("text and more", "content: text stands alone", content={"text": "x", SECRET: 1}),
    bad("unknown channel", "content: has either text alone, or any of", content={"fax": {}}),
    bad("channel as text", "content.sms: must be an object", content={"sms": "hello"}),
    bad("an intent as a receipt", "wrong lane: this looks like an intent, which", "receipt"),
    bad("an intent as a command", "wrong lane: this looks like an intent, which", "command"),
    bad("an intent as inbound", "wrong lane: this looks like an intent, which", "inbound"),
    bad("an id too long to repeat", "id: 1 to 64 printable", id=TOO_LONG)._replace(
        id=TOO_LONG[: limits.REJECTED_ID_CHARS - 1] + "…"
    ),
    raw("NaN", b'"hello"', b"NaN", "not JSON"),
    raw("NaN as priority", b'"content"', b'"priority":NaN,"content"', "not JSON"),
    raw("a huge integer", b'"content"', b'"priority":1' + b"0" * 999 + b',"content"', "priority"),
    raw("a huge float", b'"content"', b'"priority":1e999,"content"', "Number out of range"),
    raw("a number no double holds", b'{"text":"hello"}', b'{"sms":{"n":1e999}}', "fit a double"),
    raw("an integer no double holds", b'{"text":"hello"}', b'{"sms":{"n":%s}}' % (b"9" * 400),
        "content.sms: must be JSON in UTF-8 with numbers that fit a double"),
    raw("an integer beyond 4300 digits", b'{"text":"hello"}', b'{"sms":{"n":%s}}' % (b"9" * 5000),
        "content.sms: must be JSON in UTF-8 with numbers that fit a double"),
    raw("id not UTF-8", b"order-1", b"\xff\xfe", "not JSON: not UTF-8 at byte 7", id=""),
    raw("text not UTF-8", b"hello", b"hell\xff", "content.text: must be a string in UTF-8"),
    raw("content not UTF-8", b'{"text":"hello"}', b'{"sms":{"t":"\xc0\x80"}}', "JSON in UTF-8"),
    raw("half an emoji", b"hello", b"hello \\ud83d", "no low surrogate in string"),
    raw("a control character", b"hello", b"hel\x00lo", "not JSON"),
    raw("content too deep", b'{"text":"hello"}', b'{"sms":{"a":' + SHALLOW + b"}}",
        "content.sms: nested deeper than 32 levels"),
    raw("content far too deep", b'{"text":"hello"}', b'{"sms":{"a":%s}}' % DEEP,
        "nested deeper than 32 levels"),
    raw("an unknown field far too deep", b'"content"', b'"x":%s,"content"' % DEEP,
        "unknown field x; known"),
    raw("too large", b"hello", b"x" * OBJECT, f"at most {OBJECT}"),
    raw("too large and open", b'hello"}', b"x" * OBJECT, f"at most {OBJECT}"),
    Bad("message too large", b"[" + b" " * limits.MESSAGE_BYTES, "message of 1048577 bytes",
        **NO_IDS),
    Bad("receipt without status", encode({k: v for k, v in RECEIPT.items() if k != "status"}),
        "not a valid receipt: Object missing required field `status`", "receipt",
        "shop:order-1:1"),
    Bad("receipt as an intent", encode(RECEIPT), "wrong lane: this looks like a receipt",
        id="shop:order-1:1"),
    Bad("receipt of no delivery", encode({**RECEIPT, "delivery": "order-1"}),
        "delivery: <app>:<intent>:<attempt number>", "receipt"),
    Bad("receipt of attempt 0", encode({**RECEIPT, "delivery": "shop:order-1:0"}),
        "delivery: <app>:<intent>:<attempt number>", "receipt", "shop:order-1:0"),
    Bad("class without failure", encode({**RECEIPT, "class": "expired"}),
        "class: goes with status failed only", "receipt", "shop:order-1:1"),
    Bad("unknown class", encode({**RECEIPT, "class": SECRET}),
        "class: not one of dead_address, rejected_content", "receipt", "shop:order-1:1"),
    Bad("inbound on no channel", encode({**BY_KIND["inbound"][0], "channel": "fax"}),
        "channel: not one of wecom, sms, push", "inbound", "m-1", "~group-9"),
    Bad("inbound too deep", encode(BY_KIND["inbound"][0]).replace(b'"hi"', b"[%s]" % SHALLOW),
        "content: nested deeper than 32 levels", "inbound", "m-1", "~group-9"),
    Bad("unknown op", encode({**BY_KIND["command"][0], "op": SECRET}),
        "op: not one of dnd.set, dnd.clear, profile.set", "command", "k-1"),
    Bad("unknown scope", encode({**BY_KIND["command"][0], "scope": "sms"}),
        "scope: all, category:<name> or channel:<wecom|sms|push>", "command", "k-1"),
    Bad("cancels a bad id", encode({**BY_KIND["command"][5], "intent": "a b"}),
        "intent: 1 to 64 printable ASCII", "command", "k-1"),
    Bad("profile with no zone", encode({**BY_KIND["command"][3], "timezone": "Mars"}),
        "timezone: not an IANA zone name", "command", "k-1"),
    Bad("command of another app", encode({**BY_KIND["command"][0], "app": "bot"}),
        "app: not the source", "command", "k-1"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_input_gets_a_reason_and_its_ids(case: Bad) -> None:
    found = only(case.lane, case.payload, case.packed)
    assert case.reason in found.reason
    assert (found.id, found.customer) == (case.id, case.customer)
    assert_fit_to_print(found)


@pytest.mark.parametrize(
    "case",
    [case for case in BAD if case.payload[:1] == b"{" and case.name != "two objects"],
    ids=lambda case: case.name,
)
def test_a_bad_object_does_not_spoil_its_array(case: Bad) -> None:
    """Only what ends neither its strings nor its brackets takes the rest with it."""
    good = encode(BY_KIND["intent" if case.lane == "normal" else case.lane][0])
    payload = b"[" + good + b", " + case.payload + b" ," + good + b"]"
    found = decode(case.lane, "shop", payload)
    if case.name in ("cut off", "too large and open"):
        assert [type(each) for each in found] == [Rejection]
        assert found[0].reason.startswith("not JSON")
        return
    assert [isinstance(each, Rejection) for each in found] == [False, True, False]
    assert case.reason in found[1].reason
    assert (found[1].id, found[1].customer) == (case.id, case.customer)


def assert_fit_to_print(found: Rejection) -> None:
    assert 0 < len(found.reason) <= limits.REASON_CHARS
    assert found.reason.isprintable()
    assert SECRET not in found.reason
    assert max(len(found.id), len(found.customer)) <= limits.REJECTED_ID_CHARS
    msgspec.json.encode(found)


PACKED_BAD = [
    (b"\xc1", "not MessagePack: MessagePack data is malformed", ""),
    (b"", "not MessagePack", ""),
    (encode(INTENT), "not MessagePack", ""),
    (msgspec.msgpack.encode(INTENT)[:-3], "not MessagePack: Input data was truncated", ""),
    (msgspec.msgpack.encode(INTENT) + b"\x00", "not MessagePack", ""),
    (b"\x91" * 9000 + b"\xc0", "nested deeper than 32 levels", ""),
    (b"\xdd\xff\xff\xff\xff", "not MessagePack: Input data was truncated", ""),
    (b"\x81\xa2id\xa1\xff", "not MessagePack: a string is not UTF-8", ""),
    (msgspec.msgpack.encode(7), "Expected `object`, got `int`", ""),
    (msgspec.msgpack.encode([]), "an empty array", ""),
    (msgspec.msgpack.encode({1: 2}), "Dict key must be str", ""),
    (msgspec.msgpack.encode(intent(colour=1)), "unknown field colour", "order-1"),
    (msgspec.msgpack.encode(intent(content={"text": b"x"})), "without a JSON form", "order-1"),
    (msgspec.msgpack.encode(intent(id=b"x")), "without a JSON form", ""),
    (
        msgspec.msgpack.encode(intent(content={"sms": {"n": [1.0, float("nan")]}})),
        "a number is not finite",
        "order-1",
    ),
    (
        msgspec.msgpack.encode(intent(content={"sms": {"n": float("-inf")}})),
        "a number is not finite",
        "order-1",
    ),
    (
        msgspec.msgpack.encode(intent(content={"sms": msgspec.msgpack.Ext(9, b"x")})),
        "without a JSON form",
        "order-1",
    ),
    (
        msgspec.msgpack.encode(intent(content={"text": "x" * OBJECT})),
        f"at most {OBJECT}",
        "order-1",
    ),
]


@pytest.mark.parametrize(("payload", "reason", "name"), PACKED_BAD)
def test_bad_messagepack(payload: bytes, reason: str, name: str) -> None:
    found = only("normal", payload, packed=True)
    assert reason in found.reason
    assert found.id == name
    assert_fit_to_print(found)


def test_a_bad_object_does_not_spoil_its_messagepack_array() -> None:
    bads = [
        {1: 2},
        intent(id="b1", content={"text": b"x"}),
        intent(id="b2", content={"sms": {"n": float("nan")}}),
        intent(id="b3", colour=1),
        7,
    ]
    good = intent(content={"sms": {"n": None}})
    payload = msgspec.msgpack.encode([good, *bads, good])
    found = decode("normal", "shop", payload, packed=True)
    assert [isinstance(each, Rejection) for each in found] == [False, *[True] * 5, False]
    assert [each.id for each in found[1:-1]] == ["", "b1", "b2", "b3", ""]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("surplus", [1, 40])
def test_an_array_above_the_limit_is_refused_by_name(surplus: int, packed: bool) -> None:
    several = [intent(id=f"i{n}") for n in range(limits.ARRAY_OBJECTS + surplus)]
    payload = msgspec.msgpack.encode(several) if packed else encode(several)
    found = decode("normal", "shop", payload, packed)
    assert all(isinstance(each, Rejection) for each in found)
    assert [each.id for each in found[:-1]] == [f"i{n}" for n in range(limits.ARRAY_OBJECTS)]
    assert found[0].reason == f"in an array of {len(several)} objects, at most 256"
    assert found[-1].reason.startswith(f"{surplus} more objects in an array of")


@pytest.mark.parametrize("packed", [False, True])
def test_a_flood_of_tiny_objects_is_not_amplified(packed: bool) -> None:
    zeros = [0] * 500_000
    payload = msgspec.msgpack.encode(zeros) if packed else encode(zeros)
    assert len(decode("bulk", "shop", payload, packed)) == limits.ARRAY_OBJECTS + 1


@pytest.mark.parametrize("source", ["", "Shop", "a b", "x" * 33, "shop\n", "商店"])
def test_an_app_must_have_a_name_that_subjects_can_carry(source: str) -> None:
    for lane, kind in (("normal", "intent"), ("command", "command")):
        fields = {**BY_KIND[kind][0], "app": source}
        found = only(lane, encode(fields), source=source)
        assert found.reason.startswith("source: the subject must name it")
        assert found.id == fields["id"]


@pytest.mark.parametrize("lane", ["", "fast", "intent"])
def test_an_unknown_lane_is_refused(lane: str) -> None:
    assert only(lane, encode(INTENT)).reason.startswith("no such lane; known: urgent")


@pytest.mark.parametrize(("lane", "fields"), VALID)
def test_no_value_ever_gets_into_a_reason(lane: str, fields: dict[str, Any]) -> None:
    """A secret in place of every value, as a key, inside every list and object, and as a field."""
    shapes: list[Any] = [SECRET, [SECRET], {SECRET: SECRET}, {"sms": [SECRET]}, {"text": [SECRET]}]
    tried = 0
    for name in [*fields, SECRET, f"x` - at `$.{SECRET}", "class", "op", "to", "route", "reach"]:
        for shape in shapes:
            for found in decode(lane, "shop", encode({**fields, name: shape})):
                if isinstance(found, Rejection):
                    tried += 1
                    assert_fit_to_print(found)
    assert tried >= 3 * len(fields)


def test_reasons_know_every_list_of_values_of_the_contract() -> None:
    """A new Literal in the types must be explained with its values."""
    published = (types.Intent, types.Receipt, types.Inbound, *get_args(types.AnyCommand))
    for kind in published:
        for name, values in literals(kind).items():
            assert set(reasons.ALLOWED[name]) == values, f"{kind.__name__}.{name}"
    assert set(reasons.COMMANDS) == {each["op"] for each in BY_KIND["command"]}


def literals(kind: type[msgspec.Struct]) -> dict[str, set[Any]]:
    found = {}
    for field in msgspec.structs.fields(kind):
        values = literal_values(field.type)
        if values:
            found[field.encode_name] = values
    return found


def literal_values(hint: Any) -> set[Any]:
    if str(get_origin(hint)) == "typing.Literal":
        return set(get_args(hint))
    return {value for part in get_args(hint) for value in literal_values(part)}


# ---- parts of messages -----------------------------------------------------------------------


def test_delivery_ids_come_apart() -> None:
    assert split_delivery_id("shop:order:7:12") == ("shop", "order:7", 12)
    for text in ("shop:order", "shop:order:0", "shop:order:x", "Shop:order:1", "shop:order:1\n"):
        with pytest.raises(ValueError, match="not a delivery id"):
            split_delivery_id(text)


def test_content_of_a_channel() -> None:
    def content(value: Any) -> dict[str, Raw]:
        return msgspec.json.decode(encode(value), type=dict[str, Raw])

    text = content({"text": "hello"})
    assert content_channels(text, ["sms", "push"]) == ["sms", "push"]
    assert bytes(content_for(text, "push")) == b'{"text":"hello"}'
    some = content({"sms": {"a": 1}})
    assert content_channels(some, ["push", "sms"]) == ["sms"]
    assert bytes(content_for(some, "sms")) == b'{"a":1}'
    star = content({"sms": {"a": 1}, "*": {"b": 2}})
    assert content_channels(star, ["push", "sms"]) == ["push", "sms"]
    assert bytes(content_for(star, "push")) == b'{"b":2}'
    assert bytes(content_for(star, "sms")) == b'{"a":1}'


def test_a_receipt_names_its_class_as_the_contract_does() -> None:
    (receipt,) = decode("receipt", "gw", encode(BY_KIND["receipt"][1]))
    assert isinstance(receipt, Receipt)
    assert receipt.failure == "dead_address"


# ---- subjects, partitions, zones -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0x811C9DC5),
        ("a", 0xE40C292C),
        ("b", 0xE70C2DE5),
        ("c", 0xE60C2C52),
        ("fo", 0x6222E842),
        ("foo", 0xA9F37ED7),
        ("foob", 0x3F5076EF),
        ("fooba", 0x39AAA18A),
        ("foobar", 0xBF9CF968),
        ("chongo was here!\n", 0xD49930D5),
    ],
)
def test_fnv_1a_against_its_authors_vectors(text: str, value: int) -> None:
    """Vectors of Landon Curt Noll's test_fnv.c."""
    assert fnv1a_32(text) == value


def test_partitions() -> None:
    assert partition_of("foobar", 16) == 0xBF9CF968 % 16
    assert account_partition("foobar", 16) == partition_of("foobar", 16)
    assert {partition_of(f"c-{n}", 16) for n in range(1000)} == set(range(16))


def test_names_that_subjects_can_carry() -> None:
    assert all(map(is_source, ["a", "shop-2", "-", "x" * 32]))
    assert not any(map(is_source, ["", "A", "a.b", "a b", "*", ">", "x" * 33, "a\n", "é"]))
    assert all(map(is_key, ["a", "A_b-9", "~g", "x" * 64, "~" + "x" * 64]))
    assert not any(map(is_key, ["", "~", "a.b", "*", ">", "a~", "x" * 65, "a\n", "é", "~~a"]))


def test_subjects() -> None:
    assert publish_subject("urgent", "shop", "c-1") == "hub.to.urgent.shop.c-1"
    assert intake_subject(3, "bulk") == "hub.in.3.bulk.*"
    assert event_subject("shop") == "hub.event.shop"
    assert live_subject("sales-1") == "hub.live.sales-1"
    assert live_subject("a b.*>~客") == "hub.live.a%20b%2E%2A%3E%7E%E5%AE%A2"
    assert set(LANES) == {"urgent", "normal", "bulk", "receipt", "inbound", "command"}


def test_zones_are_those_of_the_pinned_package() -> None:
    """Not the machine's: hosts of one hub must read the same clock."""
    assert {"Asia/Shanghai", "America/Argentina/Ushuaia", "UTC"} <= zone_names()
    shanghai = zone("Asia/Shanghai")
    assert shanghai is not None
    assert shanghai.utcoffset(datetime(2026, 11, 21)).total_seconds() == 8 * 3600  # noqa: DTZ001
    for name in ("", ".", "..", "\0", "localtime", "right/UTC", "posix/UTC", "asia/shanghai", "x/"):
        assert not zone_exists(name)
        assert zone(name) is None
    assert all(zone(name) is not None for name in zone_names())
