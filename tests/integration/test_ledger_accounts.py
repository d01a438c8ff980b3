"""What accounts tell INTAKE is there once, also when another owner tells it again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hub.clock import SystemClock
from hub.ledger.accounts import AccountStreams
from hub.ledger.audit import read_all
from hub.ledger.connection import Connection
from hub.ledger.port import Outbound
from hub.ledger.streams import provision
from tests.support.ledger import SMALL, connected, nats_server

pytestmark = pytest.mark.nats

PARTITIONS = 2
NUMBERS = range(40)


def outbound(lane: str, number: int) -> Outbound:
    at = '"at":"2026-11-22T07:00:00Z"'
    fields = {
        "inbound": '"channel":"wecom","account":"wecom","content":{"text":"hello"},' + at,
        "command": '"app":"accounts","op":"release"',
    }[lane]
    payload = f'{{"id":"m{number}","customer":"c{number % 3}",{fields}}}'
    return Outbound(lane, f"c{number % 3}", f"wecom/{lane}/m{number}", payload.encode())


async def told(connection: Connection, *turns: list[Outbound]) -> None:
    """As one owner tells it."""
    ledger = AccountStreams(connection, PARTITIONS, clock=SystemClock(), chance=random.Random(0))
    for turn in turns:
        await ledger.tell(turn)
    await ledger.close()


@pytest.mark.parametrize("lane", ["inbound", "command"])
async def test_what_a_new_owner_tells_again_is_stored_once(tmp_path: Path, lane: str):
    everything = [outbound(lane, number) for number in NUMBERS]
    async with nats_server(tmp_path) as server, connected(server) as connection:
        await provision(connection, partitions=PARTITIONS, sizes=SMALL)
        await told(connection, *([one] for one in everything))  # turn by turn
        await told(connection, everything)  # all that was not settled, at once
        published = (await read_all(connection)).published
    names = [each.message.id for each in published]  # type: ignore[union-attr]
    assert sorted(names) == sorted(f"m{number}" for number in NUMBERS)
