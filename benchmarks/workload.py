"""The work the benchmark gives the hub: a marketing policy, and intents of 175 bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime

from hub.contract.subjects import partition_of, publish_subject

INTENT_BYTES = 175
CUSTOMERS = 20_000
APP = "shop"

POLICY = """
version = 1
timezone = "{zone}"

[categories.marketing]
route = ["sms"]
priority = 3

[categories.otp]
route = ["sms"]
priority = 9
bypass = ["cap", "gap", "quiet", "presence", "dnd"]

[[caps]]
name = "three-a-day"
categories = ["marketing"]
limit = 3
window = "24h"
on = "hold"

[[caps]]
name = "ten-a-week"
categories = ["marketing"]
limit = 10
window = "7d"
on = "hold"

[[caps]]
name = "twenty-a-month"
categories = ["marketing"]
limit = 20
window = "month"
on = "hold"

[[gaps]]
name = "two-hours-apart"
categories = ["marketing"]
min = "2h"
on = "{gap}"

[[quiet]]
name = "night"
categories = ["marketing"]
from = "21:00"
to = "08:00"
on = "hold"
"""


def policy(gap: str) -> str:
    """The policy's text. `gap` is the action of its gap: what becomes of most intents here.

    The zone is one in which it is about noon now, so that the quiet hours are asked and do not end
    the measurement.
    """
    offset = 12 - datetime.now(UTC).hour
    return POLICY.format(zone=f"Etc/GMT{-offset:+d}" if offset else "Etc/UTC", gap=gap)


def customer(number: int) -> str:
    return f"c{number:07d}"


def intent(number: int, key: str, category: str = "marketing") -> bytes:
    """One intent of exactly INTENT_BYTES."""
    head = (
        f'{{"id":"o{number:08d}","app":"{APP}","customer":"{key}","category":"{category}",'
        f'"to":{{"sms":"+86138{number:08d}"}},"content":{{"text":"'
    )
    tail = '"}}'
    return f"{head}{'x' * (INTENT_BYTES - len(head) - len(tail))}{tail}".encode()


def messages(
    count: int, per_message: int, lane: str, partitions: int, first: int = 0, seed: int = 1
) -> Iterator[tuple[str, bytes]]:
    """(subject, payload) of `count` intents to random customers, `per_message` in an array.

    The keys of an array fall in one partition, as the contract asks.
    """
    chance = random.Random(seed)
    keys: list[list[str]] = [[] for _ in range(partitions)]
    for number in range(CUSTOMERS):
        key = customer(number)
        keys[partition_of(key, partitions)].append(key)
    for start in range(first, first + count, per_message):
        among = keys[partition_of(customer(chance.randrange(CUSTOMERS)), partitions)]
        chosen = [chance.choice(among) for _ in range(per_message)]
        intents = [intent(start + place, key) for place, key in enumerate(chosen)]
        payload = intents[0] if per_message == 1 else b"[" + b",".join(intents) + b"]"
        yield publish_subject(lane, APP, chosen[0]), payload
