"""`tact trace` and `tact send` on a real ledger: the right outcomes, few or many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.ledger.connection import Connection
from hub.ledger.publishing import publish
from hub.ledger.streams import StreamSizes, provision
from hub.limits import MIB
from hub.service.outcomes import all_outcomes, first_outcome, last_sequence
from tests.support.ledger import connected, nats_server

pytestmark = pytest.mark.nats


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    async with nats_server(tmp_path) as server, connected(server) as connection:
        sizes = StreamSizes(16 * MIB, 64 * MIB, 16 * MIB)
        await provision(connection, partitions=2, sizes=sizes)
        yield connection


async def tell(connection: Connection, app: str, *intents: str, state: str = "held") -> None:
    """One message of outcomes, as a host writes it: one object, or an array."""
    outcomes = [{"intent": intent, "app": app, "state": state} for intent in intents]
    payload = json.dumps(outcomes if len(outcomes) > 1 else outcomes[0])
    await publish(connection, f"hub.outcome.{app}", payload.encode())


async def test_an_intent_is_found_alone_and_in_arrays(connection):
    await tell(connection, "shop", "a")
    await tell(connection, "shop", "b", "a", "ab", state="dispatched")
    await tell(connection, "crm", "a", state="expired")
    found, complete = await all_outcomes(connection, "shop", "a")
    assert [outcome["state"] for outcome in found] == ["held", "dispatched"]
    assert complete


async def test_an_id_that_json_escapes_is_found_too(connection):
    await tell(connection, "shop", 'say"hi"\\')
    found, _ = await all_outcomes(connection, "shop", 'say"hi"\\')
    assert len(found) == 1


async def test_nothing_is_found_of_nothing(connection):
    assert await all_outcomes(connection, "shop", "a") == ([], True)


@pytest.mark.parametrize("most", [1, 7, 30, 59, 60, 61])
async def test_of_many_messages_the_newest_are_read(connection, most):
    for number in range(60):
        await tell(connection, "shop", f"i-{number}", "every")
        await tell(connection, "crm", "every")  # between ours, so that sequences are not counts
    found, complete = await all_outcomes(connection, "shop", "every", most)
    assert len(found) == min(most, 60)
    assert complete is (most >= 60)
    newest, _ = await all_outcomes(connection, "shop", "i-59", most)
    assert len(newest) == 1


async def test_the_first_outcome_after_a_publish_is_waited_for(connection):
    await tell(connection, "shop", "a", state="held")
    after = await last_sequence(connection)
    waiting = asyncio.create_task(first_outcome(connection, "shop", "a", after=after, wait_s=10))
    await tell(connection, "shop", "b")
    await tell(connection, "shop", "c", "a", state="dispatched")
    outcome = await waiting
    assert outcome is not None
    assert outcome["state"] == "dispatched"


async def test_no_outcome_in_time_is_none(connection):
    assert await first_outcome(connection, "shop", "a", after=0, wait_s=0.05) is None
