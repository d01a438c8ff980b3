"""Subjects, lanes and partitions: where a message goes. Source: docs/contract.md, "Subjects"."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

from hub import limits

INTENT_LANES = ("urgent", "normal", "bulk")
LANES = ("urgent", "command", "receipt", "inbound", "normal", "bulk")
"""All lanes, in the order a turn serves them: urgent first, bulk last."""
CHANNELS = ("wecom", "sms", "push")

REPLY_PREFIX = "reply-"
"""How the ids of the hub's own intents begin: answers by rule, which nobody has published."""

_SOURCE = re.compile(r"[a-z0-9-]{1,32}\Z")
_KEY = re.compile(r"~?[A-Za-z0-9_-]{1,64}\Z")

_FNV_OFFSET = 2166136261
_FNV_PRIME = 16777619


def fnv1a_32(text: str) -> int:
    """FNV-1a, 32 bits, of the UTF-8 bytes: the hash of the server's `partition()` transform."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value


def partition_of(key: str, partitions: int) -> int:
    """The partition that owns a conversation key (or an account), 0 <= p < partitions."""
    return fnv1a_32(key) % partitions


@lru_cache(maxsize=4096)
def account_partition(account: str, partitions: int) -> int:
    """`partition_of` for accounts, of which there are few and which every delivery asks for."""
    return partition_of(account, partitions)


def is_source(text: str) -> bool:
    """Whether `text` can name an application or gateway."""
    return _SOURCE.match(text) is not None


def is_key(text: str) -> bool:
    """Whether `text` can be a conversation key: a customer id, or `~` and a group chat's id."""
    # Most keys need no regular expression to be seen as good.
    if text.isalnum() and text.isascii() and len(text) <= limits.ID_CHARS:
        return True
    return _KEY.match(text) is not None


def is_id(text: str) -> bool:
    """Whether `text` can be the id of an intent or command: 1 to 64 of the printable ASCII
    characters, without spaces."""
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and 0 < len(text) <= limits.ID_CHARS


def publish_subject(lane: str, source: str, key: str) -> str:
    """Where the world publishes."""
    return f"hub.to.{lane}.{source}.{key}"


def intake_subject(partition: int | str, lane: str, source: str = "*") -> str:
    """What INTAKE stores: the key has become its partition."""
    return f"hub.in.{partition}.{lane}.{source}"


def delivery_subject(channel: str, partition: int | str) -> str:
    """Deliveries for a gateway; `partition` is the account's."""
    return f"hub.out.{channel}.{partition}"


def outcome_subject(app: str) -> str:
    """What became of an application's intents."""
    return f"hub.outcome.{app}"


def event_subject(app: str) -> str:
    """What an application should know beside outcomes: customers who wait, forbidden words."""
    return f"hub.event.{app}"


@lru_cache(maxsize=4096)
def live_subject(account: str) -> str:
    """The conversations of an account as they happen, both directions.

    A name may have characters that a subject may not: all but A-Z a-z 0-9 _ - are percent-encoded.
    """
    return f"hub.live.{quote(account, safe='').replace('.', '%2E').replace('~', '%7E')}"


def parked_subject(partition: int, block: str) -> str:
    """Bodies of held intents: those that one turn parked for one partition."""
    return f"hub.parked.{partition}.{block}"


def account_log(partition: int, partitions: int) -> int:
    """The number under which a partition of accounts keeps its log, snapshot and fence.

    One numbering for all that has a log: 0 to N-1 are conversations, N to 2N-1 accounts.
    """
    return partitions + partition


def log_subject(partition: int) -> str:
    """Fence, checkpoint and state changes of a partition, one record a commit."""
    return f"hub.log.{partition}"


def snapshot_subject(partition: int, part: str) -> str:
    """A part of the copy of a partition's state that replaces the log behind it."""
    return f"hub.snap.{partition}.{part}"


def ask_subject(partition: int) -> str:
    """Where the owner of a partition answers questions."""
    return f"hub.ask.{partition}"
