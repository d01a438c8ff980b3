"""JSON Schema (2020-12) of every message, and the AsyncAPI 3.0 document of the hub.

Generated from `hub.contract.types`; what decoding checks beyond the types is added here. Not
expressible, and so left to decoding: that `app` is the subject's source, that a zone or category
exists, sizes in bytes, nesting and number range of free-form content, that urgent deliveries come
alone.

The schemas use nothing that draft-07 lacks but `$defs`, because that draft is what AsyncAPI tools
read; in the AsyncAPI document they are components.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, get_args

import msgspec

from hub import limits
from hub.contract.decode import MSGPACK
from hub.contract.subjects import CHANNELS, INTENT_LANES
from hub.contract.types import (
    AnyCommand,
    Delivery,
    Event,
    Inbound,
    Intent,
    LiveMessage,
    Outcome,
    Receipt,
)

CONTRACT_VERSION: Final = "1.2.0"
"""Of docs/contract.md. Its first number changes when an existing program could break."""

Schema = dict[str, Any]

JSON: Final = "application/json"

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_CONSUMED: Final = ("Delivery", "Outcome", "RuleBlock", "Event", "LiveMessage")
_DELIVERY_ID: Final = "^[a-z0-9-]{1,32}:[!-~]{1,64}:[1-9][0-9]{0,3}$"


class _Kind(NamedTuple):
    """One kind of message: its root type, where it goes, and who puts it there."""

    type: str
    channel: str
    address: str
    parameters: tuple[str, ...]
    received: bool
    """By the hub; else sent by it."""
    title: str


_KINDS: Final = {
    "intent": _Kind(
        "Intent",
        "intents",
        "hub.to.{lane}.{source}.{key}",
        ("lane", "source", "key"),
        True,
        "Send intents of an application",
    ),
    "receipt": _Kind(
        "Receipt",
        "receipts",
        "hub.to.receipt.{source}.{key}",
        ("source", "key"),
        True,
        "What became of deliveries, told by a gateway",
    ),
    "inbound": _Kind(
        "Inbound",
        "inbound",
        "hub.to.inbound.{source}.{key}",
        ("source", "key"),
        True,
        "What customers said, told by a gateway",
    ),
    "command": _Kind(
        "Command",
        "commands",
        "hub.to.command.{source}.{key}",
        ("source", "key"),
        True,
        "Orders to a conversation",
    ),
    "delivery": _Kind(
        "Delivery",
        "deliveries",
        "hub.out.{channel}.{partition}",
        ("channel", "partition"),
        False,
        "Messages for a gateway to send; urgent ones come alone, others also in arrays",
    ),
    "outcome": _Kind(
        "Outcome",
        "outcomes",
        "hub.outcome.{app}",
        ("app",),
        False,
        "What became of an application's intents",
    ),
    "event": _Kind(
        "Event",
        "events",
        "hub.event.{app}",
        ("app",),
        False,
        "What an application should know beside outcomes: who waits for an answer, forbidden words",
    ),
    "live": _Kind(
        "LiveMessage",
        "live",
        "hub.live.{account}",
        ("account",),
        False,
        "The conversations of an account as they happen, both directions",
    ),
}

_PARAMETERS: Final[dict[str, Schema]] = {
    "lane": {
        "enum": list(INTENT_LANES),
        "default": "normal",
        "description": "How urgent the intent is: a one-time code never waits behind a campaign.",
    },
    "source": {
        "description": "Name of the publishing application or gateway: 1 to 32 of a-z 0-9 -.",
        "examples": ["shop"],
    },
    "key": {
        "description": "The conversation: a customer id, 1 to 64 of A-Z a-z 0-9 _ -, or ~ and a"
        " group chat's id. An array goes to the key of any one of its objects; all their keys must"
        " fall in one partition.",
        "examples": ["c-10293", "~sales-group-7"],
    },
    "channel": {"enum": list(CHANNELS), "description": "The channel of the gateway."},
    "partition": {
        "description": "FNV-1a 32 of the account, modulo the number of partitions.",
        "examples": ["0"],
    },
    "app": {"description": "Name of the application.", "examples": ["shop"]},
    "account": {
        "description": "Name of the account; characters but A-Z a-z 0-9 _ - are percent-encoded.",
        "examples": ["sales-1"],
    },
}


def json_schemas() -> dict[str, Schema]:
    """A complete schema for each kind of message: one object, or an array of 1 to 256 of them.

    The keys are intent, receipt, inbound, command, delivery, outcome, event and live.
    """
    definitions = _definitions("#/$defs/{name}")
    return {
        name: {
            "$schema": _DIALECT,
            "$id": f"urn:tact:contract:{CONTRACT_VERSION}:{name}",
            "title": kind.title,
            **_one_or_many(f"#/$defs/{kind.type}"),
            "$defs": _reachable(kind.type, definitions),
        }
        for name, kind in _KINDS.items()
    }


def asyncapi() -> Schema:
    """The AsyncAPI 3.0 document: the hub receives what the world publishes, and sends the rest."""
    reference = "#/components/schemas/{name}"
    schemas = _definitions(reference)
    for name, kind in _KINDS.items():
        schemas[f"{name}Message"] = _one_or_many(reference.format(name=kind.type))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tact",
            "version": CONTRACT_VERSION,
            "description": "Decides for each customer, exactly once, whether, when and by which"
            " channel a message goes out. Publish to JetStream and wait for its acknowledgement;"
            " consume with a durable consumer and explicit acknowledgement.",
        },
        "defaultContentType": JSON,
        "servers": {
            "nats": {
                "host": "{host}",
                "protocol": "nats",
                "variables": {"host": {"default": "127.0.0.1:4222"}},
            }
        },
        "channels": {kind.channel: _channel(name, kind) for name, kind in _KINDS.items()},
        "operations": {
            ("receive" if kind.received else "send") + name.capitalize(): _operation(name, kind)
            for name, kind in _KINDS.items()
        },
        "components": {
            "schemas": schemas,
            "messages": {
                message: _message(name, kind, message)
                for name, kind in _KINDS.items()
                for message in _message_names(name, kind)
            },
        },
    }


# ---- schemas ---------------------------------------------------------------------------------


def _definitions(reference: str) -> dict[str, Schema]:
    """Every type by name; `reference` says how one refers to another."""
    commands = get_args(AnyCommand)
    types = (Intent, Receipt, Inbound, *commands, Delivery, Outcome, Event, LiveMessage)
    _, found = msgspec.json.schema_components(types, ref_template=reference)
    definitions: dict[str, Schema] = dict(found)
    names = [kind.__name__ for kind in commands]
    definitions["Command"] = {
        "title": "Command",
        "description": "An order to a conversation; `op` says which.",
        "oneOf": [{"$ref": reference.format(name=name)} for name in names],
    }
    for name in ("Intent", "ProfileSet"):
        _value(definitions[name], "to")["propertyNames"] = {"enum": list(CHANNELS)}
    _value(definitions["Intent"], "route")["uniqueItems"] = True
    definitions["Intent"]["properties"]["content"] = _content()
    _refine_receipt(definitions["Receipt"])
    for name in ("Delivery", "LiveMessage"):
        definitions[name]["properties"]["content"] = {
            "type": "object",
            "description": "The channel's own content.",
        }
    for name in _CONSUMED:
        _refine_consumed(definitions[name])
    return definitions


def _content() -> Schema:
    channels = {channel: {"type": "object"} for channel in CHANNELS}
    return {
        "oneOf": [
            {
                "type": "object",
                "description": "The same text on every channel.",
                "properties": {"text": {"type": "string"}},
                "required": ["text"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "description": "Each channel's own content; `*` serves any other channel.",
                "properties": {**channels, "*": {"type": "object"}},
                "minProperties": 1,
                "additionalProperties": False,
            },
        ]
    }


def _refine_receipt(receipt: Schema) -> None:
    receipt["properties"]["delivery"]["pattern"] = _DELIVERY_ID
    receipt["if"] = {"properties": {"class": {"type": "string"}}, "required": ["class"]}
    receipt["then"] = {"properties": {"status": {"const": "failed"}}}


def _refine_consumed(schema: Schema) -> None:
    """What is consumed may grow, and its times are strings in our types."""
    schema["additionalProperties"] = True
    for name in schema["properties"]:
        if name in ("at", "since") or name.endswith("_at"):
            _value(schema, name)["format"] = "date-time"


def _value(schema: Schema, name: str) -> Schema:
    """The schema of a field when it is not null."""
    field: Schema = schema["properties"][name]
    return field["anyOf"][0] if "anyOf" in field else field


def _one_or_many(reference: str) -> Schema:
    one = {"$ref": reference}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": limits.ARRAY_OBJECTS}
    return {"oneOf": [one, many]}


def _reachable(name: str, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """The definition and all that it refers to."""
    found: dict[str, Schema] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = definitions[name]
            waiting.extend(_references(definitions[name]))
    return found


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"].rpartition("/")[2]] if isinstance(node.get("$ref"), str) else []
        return here + [name for child in node.values() for name in _references(child)]
    if isinstance(node, list):
        return [name for child in node for name in _references(child)]
    return []


# ---- AsyncAPI --------------------------------------------------------------------------------


def _message_names(name: str, kind: _Kind) -> list[str]:
    """What the hub receives it reads in two encodings; what it sends is JSON."""
    return [name, f"{name}Packed"] if kind.received else [name]


def _channel(name: str, kind: _Kind) -> Schema:
    return {
        "address": kind.address,
        "title": kind.title,
        "parameters": {parameter: _PARAMETERS[parameter] for parameter in kind.parameters},
        "messages": {
            message: {"$ref": f"#/components/messages/{message}"}
            for message in _message_names(name, kind)
        },
    }


def _operation(name: str, kind: _Kind) -> Schema:
    channel = f"#/channels/{kind.channel}"
    return {
        "action": "receive" if kind.received else "send",
        "channel": {"$ref": channel},
        "summary": kind.title,
        "messages": [
            {"$ref": f"{channel}/messages/{message}"} for message in _message_names(name, kind)
        ],
    }


def _message(name: str, kind: _Kind, message: str) -> Schema:
    packed = message != name
    described: Schema = {
        "name": message,
        "title": kind.title + (" (MessagePack)" if packed else ""),
        "contentType": MSGPACK if packed else JSON,
        "payload": {"$ref": f"#/components/schemas/{name}Message"},
    }
    if kind.received:
        described["headers"] = _headers(name, packed)
    return described


def _headers(name: str, packed: bool) -> Schema:
    what = "<app>:<intent id>, for a single intent" if name == "intent" else "unique to the message"
    content_type = {"const": MSGPACK} if packed else {"enum": [JSON]}
    return {
        "type": "object",
        "properties": {
            "Nats-Msg-Id": {
                "type": "string",
                "description": f"A repeat is refused by the server already: {what}.",
            },
            "Content-Type": {"type": "string", **content_type},
        },
        "required": ["Content-Type"] if packed else [],
    }
