"""The published schemas are sound, complete, and say what decoding does."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from hub.contract.decode import decode
from hub.contract.schema import asyncapi, json_schemas
from hub.contract.types import AnyCommand, Delivery, Event, LiveMessage, Outcome, RuleBlock
from tests.support.messages import BY_KIND, INTENT, LANE_OF, RECEIPT, changed, encode
from tests.support.schemas import accepted_by_decode, accepted_by_schema, validator

SCHEMAS = json_schemas()
PUBLISHED = ("intent", "receipt", "inbound", "command")
CONSUMED = ("delivery", "outcome", "event", "live")

OUTCOME = {
    "intent": "order-1",
    "app": "shop",
    "customer": "c-1",
    "state": "held",
    "at": "2026-11-21T08:00:00.000Z",
    "rules": [{"rule": "night", "kind": "quiet", "action": "hold"}],
    "next_eligible_at": "2026-11-22T08:00:00.000Z",
}
DELIVERY = {
    "id": "shop:order-1:1",
    "intent": "order-1",
    "app": "shop",
    "customer": "c-1",
    "category": "marketing",
    "priority": 3,
    "channel": "sms",
    "account": "main",
    "to": "+86",
    "content": {"text": "hello"},
    "attempt": 1,
    "at": "2026-11-21T08:00:00.000Z",
    "expires_at": "2026-11-22T08:00:00.000Z",
}
EVENT = {
    "id": "waiting-1",
    "kind": "waiting",
    "app": "shop",
    "customer": "c-1",
    "rule": "unanswered",
    "at": "2026-11-21T08:15:00.000Z",
    "channel": "wecom",
    "account": "sales-1",
    "since": "2026-11-21T08:00:00.000Z",
    "level": 1,
}
LIVE = {
    "id": "m-1",
    "account": "sales-1",
    "channel": "wecom",
    "customer": "c-1",
    "direction": "in",
    "author": "customer",
    "content": {"text": "hello"},
    "at": "2026-11-21T08:00:00.000Z",
}
SENT = {
    "delivery": (Delivery, DELIVERY),
    "outcome": (Outcome, OUTCOME),
    "event": (Event, EVENT),
    "live": (LiveMessage, LIVE),
}


def test_every_kind_of_message_has_a_schema() -> None:
    assert tuple(SCHEMAS) == (*PUBLISHED, *CONSUMED)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_sound_and_stand_alone(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    Draft7Validator.check_schema({k: v for k, v in schema.items() if k not in ("$schema", "$id")})
    references = set(re.findall(r'"\$ref":"#/\$defs/([A-Za-z]+)"', encode(schema).decode()))
    assert references == set(schema["$defs"])


def test_a_reference_to_nothing_would_be_found() -> None:
    """The check above must not pass for want of references."""
    assert set(SCHEMAS["outcome"]["$defs"]) == {"Outcome", "RuleBlock"}
    assert len(SCHEMAS["command"]["$defs"]) == 1 + len(get_args(AnyCommand))


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_types_are_closed_and_consumed_ones_open(name: str) -> None:
    for title, definition in SCHEMAS[name]["$defs"].items():
        if "properties" in definition:
            assert definition["additionalProperties"] is (name in CONSUMED), title


@pytest.mark.parametrize("name", CONSUMED)
def test_what_is_consumed_may_grow(name: str) -> None:
    kind, message = SENT[name]
    assert validator(name).is_valid(message)
    assert validator(name).is_valid([message, {**message, "new": {"in": "2030"}}])
    assert not validator(name).is_valid({**message, "at": "2026-11-21"})
    for field in message:
        needed = field in SCHEMAS[name]["$defs"][kind.__name__]["required"]
        assert validator(name).is_valid(changed(message, {field: ...})) is not needed, field


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, kind) for name, (kind, _) in SENT.items()), ("outcome", RuleBlock)]
)
def test_every_time_that_is_sent_is_described_as_one(name: str, kind: type[msgspec.Struct]) -> None:
    properties = SCHEMAS[name]["$defs"][kind.__name__]["properties"]
    times = {field for field in properties if field in ("at", "since") or field.endswith("_at")}
    assert times
    for field in times:
        inner = properties[field].get("anyOf", [properties[field]])[0]
        assert inner == {"type": "string", "format": "date-time"}


@pytest.mark.parametrize("kind", BY_KIND)
@pytest.mark.parametrize(("count", "valid"), [(0, False), (1, True), (256, True), (257, False)])
def test_arrays_are_bounded_as_decoding_bounds_them(kind: str, count: int, valid: bool) -> None:
    message = [BY_KIND[kind][0]] * count
    assert validator(kind).is_valid(message) is valid
    found = decode(LANE_OF[kind], "shop", encode(message))
    assert accepted_by_decode(found) is valid


# ---- agreement with decoding, case by case ---------------------------------------------------

TABLE: list[tuple[str, dict[str, Any]]] = [
    ("intent", change)
    for change in (
        {},
        *({name: ...} for name in INTENT),
        *({name: None} for name in (*INTENT, "priority", "route", "reach", "to", "trace")),
        {"id": "x" * 64}, {"id": "x" * 65}, {"id": ""}, {"id": "a b"}, {"id": "é"}, {"id": "~!"},
        {"customer": "~g"}, {"customer": "~"}, {"customer": "a.b"}, {"customer": "x" * 65},
        {"category": ""}, {"category": "x" * 64}, {"category": "x" * 65}, {"category": "类"},
        {"priority": 0}, {"priority": 9}, {"priority": 10}, {"priority": -1}, {"priority": True},
        {"priority": "1"}, {"priority": 1.5},
        {"route": []}, {"route": ["sms"]}, {"route": ["sms", "sms"]}, {"route": ["fax"]},
        {"route": "sms"},
        {"reach": "all"}, {"reach": "some"},
        {"to": {}}, {"to": {"sms": "1"}}, {"to": {"fax": "1"}}, {"to": {"sms": ""}},
        {"to": {"sms": "1" * 256}}, {"to": {"sms": "1" * 257}}, {"to": {"sms": None}}, {"to": []},
        {"account": ""}, {"account": "a"}, {"account": "a" * 65},
        {"not_before": "2026-11-21T08:00:00Z"}, {"not_before": "2026-11-21T08:00:00+08:00"},
        {"not_before": "2026-11-21T08:00:00"}, {"not_before": "2026-11-21"}, {"not_before": 1},
        {"expires_at": "2026-11-21t08:00:00.123456789z"}, {"expires_at": "2026-02-30T08:00:00Z"},
        {"expires_at": "2026-11-21T24:00:00Z"}, {"expires_at": "2026-11-21T08:00:00+24:00"},
        {"expires_at": "2026-11-21T08:00Z"}, {"expires_at": "2026-11-21T08:00:00.Z"},
        {"collapse_key": ""}, {"collapse_key": "x" * 128}, {"collapse_key": "x" * 129},
        {"timezone": "Asia/Shanghai"}, {"timezone": ""}, {"timezone": 8},
        {"trace": ""}, {"trace": "x" * 256}, {"trace": "x" * 257},
        {"content": {}}, {"content": {"text": ""}}, {"content": {"text": 1}},
        {"content": {"text": "x", "sms": {}}}, {"content": {"text": "x", "y": 1}},
        {"content": {"sms": {}}}, {"content": {"sms": {"text": [1]}, "*": {}}},
        {"content": {"sms": "x"}}, {"content": {"sms": []}}, {"content": {"fax": {}}},
        {"content": "x"}, {"content": []},
        {"colour": 1},
    )
] + [
    ("receipt", change)
    for change in (
        {},
        *({name: ...} for name in RECEIPT),
        *({"status": status} for status in ("sent", "read", "failed", "unknown", "lost", None)),
        {"status": "failed", "class": "expired"}, {"status": "failed", "class": "bad"},
        {"status": "sent", "class": "expired"}, {"status": "sent", "class": None},
        {"delivery": "shop:a"}, {"delivery": "shop:a:0"}, {"delivery": "shop:a:9999"},
        {"delivery": "shop:a:10000"}, {"delivery": "Shop:a:1"}, {"delivery": "shop:a:b:1"},
        {"delivery": "shop:" + "x" * 64 + ":1"}, {"delivery": "shop:" + "x" * 65 + ":1"},
        {"code": "x" * 64}, {"code": "x" * 65}, {"code": ""}, {"provider_id": "x" * 129},
        {"app": "shop"},
    )
] + [
    ("inbound", change)
    for change in (
        {},
        *({name: ...} for name in BY_KIND["inbound"][0]),
        {"id": ""}, {"id": "x" * 128}, {"id": "x" * 129}, {"channel": "fax"}, {"content": {}},
        {"content": {"any": [1, None]}}, {"content": None}, {"account": ""},
        {"agent": "li"}, {"agent": ""}, {"agent": "x" * 65}, {"sender": "x" * 256}, {"sender": ""},
    )
] + [
    ("command", {**fields, **change})
    for fields in BY_KIND["command"]
    for change in (
        {}, {"op": ...}, {"op": "dance"}, {"op": 1}, {"id": ...}, {"customer": "~"}, {"until": 1},
        {"until": "2026-12-01T00:00:00Z"}, {"scope": "all"}, {"scope": "category:"},
        {"scope": "channel:fax"}, {"scope": "category:" + "x" * 65}, {"scope": ""},
        {"intent": "a b"}, {"intent": "a"}, {"agent": ""}, {"owner": ""}, {"to": {"fax": "1"}},
        {"timezone": None}, {"customer": "~g"}, {"customer": "g"}, {"members": []}, {"account": ""},
        {"members": ["a"] * 2_001}, {"name": "x" * 51}, {"auto_create": 1}, {"left": "no"},
    )
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), TABLE)
def test_schema_and_decoding_agree(kind: str, change: dict[str, Any]) -> None:
    base = {} if kind == "command" else BY_KIND[kind][0]
    fields = changed(base, change)
    found = decode(LANE_OF[kind], "shop", encode(fields))
    assert accepted_by_schema(kind, fields) is accepted_by_decode(found), found


def test_the_table_holds_both_sides() -> None:
    """An agreement on refusing everything would prove nothing."""
    told = [
        (kind, accepted_by_schema(kind, changed({} if kind == "command" else BY_KIND[kind][0], c)))
        for kind, c in TABLE
    ]
    for kind in PUBLISHED:
        assert sum(k == kind and valid for k, valid in told) >= 4
        assert sum(k == kind and not valid for k, valid in told) >= 4


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("which app publishes is known from the subject", {"app": "bot"}),
        ("schemas hold no list of zones", {"timezone": "Mars/Base"}),
        ("JSON Schema calls 5.0 an integer", {"priority": 5.0}),
        ("Unix time has no leap second", {"not_before": "2016-12-31T23:59:60Z"}),
        ("moments must have a form in UTC", {"expires_at": "0001-01-01T00:00:00+14:00"}),
        ("and not be the epoch, which means none", {"expires_at": "1970-01-01T00:00:00Z"}),
    ],
)  # fmt: skip
def test_what_only_decoding_can_refuse(why: str, change: dict[str, Any]) -> None:
    fields = changed(INTENT, change)
    assert accepted_by_schema("intent", fields), why
    assert not accepted_by_decode(decode("normal", "shop", encode(fields))), why


@pytest.mark.parametrize("text", ["2026-11-21 08:00:00Z", "2026-11-21T08:00:00+0800"])
def test_times_that_decoding_forgives(text: str) -> None:
    """Not RFC 3339 to the letter, but unmistakable: ISO 8601 with an offset."""
    fields = changed(INTENT, {"expires_at": text})
    assert not accepted_by_schema("intent", fields)
    assert accepted_by_decode(decode("normal", "shop", encode(fields)))


# ---- AsyncAPI --------------------------------------------------------------------------------


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi()
    found = references(document)
    assert len(found) > 50
    for reference in found:
        assert resolve(document, reference)
    with pytest.raises(KeyError):
        resolve(document, "#/components/schemas/Nothing")


def test_channels_of_the_asyncapi_document() -> None:
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert {name: each["address"] for name, each in document["channels"].items()} == {
        "intents": "hub.to.{lane}.{source}.{key}",
        "receipts": "hub.to.receipt.{source}.{key}",
        "inbound": "hub.to.inbound.{source}.{key}",
        "commands": "hub.to.command.{source}.{key}",
        "deliveries": "hub.out.{channel}.{partition}",
        "outcomes": "hub.outcome.{app}",
        "events": "hub.event.{app}",
        "live": "hub.live.{account}",
    }
    for channel in document["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
    assert document["channels"]["intents"]["parameters"]["lane"]["enum"] == [
        "urgent",
        "normal",
        "bulk",
    ]


def test_operations_of_the_asyncapi_document() -> None:
    document = asyncapi()
    actions = {
        name: (each["action"], each["channel"]["$ref"].rpartition("/")[2])
        for name, each in document["operations"].items()
    }
    assert actions == {
        "receiveIntent": ("receive", "intents"),
        "receiveReceipt": ("receive", "receipts"),
        "receiveInbound": ("receive", "inbound"),
        "receiveCommand": ("receive", "commands"),
        "sendDelivery": ("send", "deliveries"),
        "sendOutcome": ("send", "outcomes"),
        "sendEvent": ("send", "events"),
        "sendLive": ("send", "live"),
    }
    for operation in document["operations"].values():
        channel = resolve(document, operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert resolve(document, message["$ref"]) in channel["messages"].values()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_messages_of_the_asyncapi_document(kind: str) -> None:
    """Same payload as the JSON Schema; both encodings for what the hub receives."""
    document = asyncapi()
    messages = document["components"]["messages"]
    payload = resolve(document, messages[kind]["payload"]["$ref"])
    schema = SCHEMAS[kind]
    assert len(payload["oneOf"]) == len(schema["oneOf"]) == 2
    for name, definition in schema["$defs"].items():
        expected = encode(definition).replace(b"#/$defs/", b"#/components/schemas/")
        assert encode(document["components"]["schemas"][name]) == expected
    assert messages[kind]["contentType"] == "application/json"
    assert (f"{kind}Packed" in messages) is (kind in PUBLISHED)
    if kind in PUBLISHED:
        packed = messages[f"{kind}Packed"]
        assert packed["contentType"] == "application/msgpack"
        assert packed["payload"] == messages[kind]["payload"]
        assert packed["headers"]["required"] == ["Content-Type"]
        for message in (packed, messages[kind]):
            headers = Draft7Validator(message["headers"])
            assert set(message["headers"]["properties"]) == {"Nats-Msg-Id", "Content-Type"}
            good = {"Content-Type": message["contentType"], "Nats-Msg-Id": "shop:order-1"}
            assert headers.is_valid(good)
            assert not headers.is_valid({**good, "Content-Type": "text/plain"})
