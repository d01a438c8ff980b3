"""Provisioning, what is refused and how it is said, and questions to owners."""

from __future__ import annotations

import random

import pytest

from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import partition_of, publish_subject
from hub.errors import TactError
from hub.ledger.connection import Connection, connect
from hub.ledger.port import DataVersionError, LedgerUnavailable, ServerUnfit
from hub.ledger.publishing import publish
from hub.ledger.questions import AskFailed, NoOwner, ask, serve
from hub.ledger.reading import last_message
from hub.ledger.server_errors import OUTCOMES, Action, outcome_of
from hub.ledger.streams import (
    INTAKE,
    LEDGER,
    SNAPSHOTS,
    StreamSizes,
    check_server,
    provision,
    read_sync,
    stored_partitions,
)
from tests.support.ledger import SMALL, NatsServer, connected, nats_server

pytestmark = pytest.mark.nats

ACCOUNTS = """
system_account: SYS
accounts {
  SYS: { users: [ { user: sys, password: sys } ] }
  HUB: { jetstream: enabled, users: [ { user: hub, password: hub } ] }
  BARE: { users: [ { user: bare, password: bare } ] }
}
"""


@pytest.fixture
async def server(tmp_path):
    async with nats_server(tmp_path, extra=ACCOUNTS) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer):
    connection = await login(server, "hub")
    yield connection
    await connection.close()


async def login(server: NatsServer, user: str) -> Connection:
    return await connect(server.url, name="test", clock=SystemClock(), user=user, password=user)


# ---- streams -------------------------------------------------------------------------------------


async def test_provisioning_twice_changes_nothing(connection):
    await provision(connection, partitions=4, sizes=SMALL)
    await publish(connection, publish_subject("normal", "shop", "c1"), b"{}")
    before = [await connection.api(f"STREAM.INFO.{s}") for s in (INTAKE, LEDGER, SNAPSHOTS)]
    await provision(connection, partitions=4, sizes=SMALL)
    after = [await connection.api(f"STREAM.INFO.{s}") for s in (INTAKE, LEDGER, SNAPSHOTS)]
    assert [s["config"] for s in before] == [s["config"] for s in after]
    assert after[0]["state"]["messages"] == 1


async def test_sizes_can_change(connection):
    await provision(connection, partitions=4, sizes=SMALL)
    await provision(connection, partitions=4, sizes=StreamSizes(10**6, 10**6, 10**6))
    config = (await connection.api(f"STREAM.INFO.{INTAKE}"))["config"]
    assert config["max_bytes"] == 10**6


async def test_a_setting_changed_by_hand_is_mended(connection):
    await provision(connection, partitions=4, sizes=SMALL)
    config = (await connection.api(f"STREAM.INFO.{INTAKE}"))["config"]
    await connection.api(f"STREAM.UPDATE.{INTAKE}", config | {"max_age": 10**12, "max_msgs": 5})
    await provision(connection, partitions=4, sizes=SMALL)
    config = (await connection.api(f"STREAM.INFO.{INTAKE}"))["config"]
    assert (config["max_age"], config["max_msgs"]) == (0, -1)


async def test_a_subject_that_is_new_is_added_to_streams_that_are_there(connection):
    """A data directory of a Tact without events and live conversations is taken over as it is."""
    await provision(connection, partitions=4, sizes=SMALL)
    config = (await connection.api(f"STREAM.INFO.{LEDGER}"))["config"]
    older = [one for one in config["subjects"] if one not in ("hub.event.*", "hub.live.*")]
    assert len(older) == 4
    await connection.api(f"STREAM.UPDATE.{LEDGER}", config | {"subjects": older})
    await publish(connection, "hub.outcome.shop", b"{}")
    with pytest.raises(LedgerUnavailable):
        await publish(connection, "hub.live.sales", b"{}")
    await provision(connection, partitions=4, sizes=SMALL)
    for subject in ("hub.live.sales", "hub.event.shop"):
        await publish(connection, subject, b"{}")
    state = (await connection.api(f"STREAM.INFO.{LEDGER}"))["state"]
    assert (state["first_seq"], state["messages"]) == (1, 3)


async def test_another_number_of_partitions_is_refused(connection):
    assert await stored_partitions(connection) is None
    await provision(connection, partitions=4, sizes=SMALL)
    assert await stored_partitions(connection) == 4
    with pytest.raises(DataVersionError, match="made for 4 partitions, 8 are configured"):
        await provision(connection, partitions=8, sizes=SMALL)
    with pytest.raises(DataVersionError, match="allowed are 1 to 256"):
        await provision(connection, partitions=257, sizes=SMALL)


async def test_another_layout_is_refused(connection, monkeypatch):
    await provision(connection, partitions=4, sizes=SMALL)
    monkeypatch.setattr("hub.ledger.streams.LAYOUT", "another")
    with pytest.raises(DataVersionError, match="has layout 2, this program writes layout another"):
        await provision(connection, partitions=4, sizes=SMALL)


async def test_a_stream_of_somebody_else_is_left_alone(connection):
    await connection.api(f"STREAM.CREATE.{LEDGER}", {"name": LEDGER, "subjects": ["x"]})
    with pytest.raises(DataVersionError, match="that Tact did not make"):
        await provision(connection, partitions=4, sizes=SMALL)


async def test_streams_larger_than_the_store_are_refused_by_name(tmp_path):
    async with nats_server(tmp_path) as server, connected(server) as connection:
        with pytest.raises(ServerUnfit, match=r"stream INTAKE.*max_file_store"):
            await provision(connection, sizes=StreamSizes(intake=1 << 60))


async def test_the_servers_partitions_are_ours(connection):
    await provision(connection, partitions=16, sizes=SMALL)
    chance, alphabet = random.Random(1), "abcdefghijklmnopqrstuvwxyzABCXYZ0189_-"
    for number in range(60):
        key = "".join(chance.choices(alphabet, k=chance.randrange(1, 65)))
        key = f"~{key}" if number % 5 == 0 else key
        await publish(connection, publish_subject("bulk", "shop", key), b"{}")
        stored = await last_message(connection, INTAKE, "hub.in.>")
        assert stored is not None
        assert stored.subject == f"hub.in.{partition_of(key, 16)}.bulk.shop"


@pytest.mark.parametrize(
    "subject", ["hub.to.slow.shop.c1", "hub.to.normal.shop", "hub.to.normal.shop.c1.x"]
)
async def test_what_no_lane_reads_is_not_taken(connection, subject):
    await provision(connection, partitions=4, sizes=SMALL)
    with pytest.raises(LedgerUnavailable):
        await publish(connection, subject, b"{}")


# ---- the server ----------------------------------------------------------------------------------


async def test_a_good_server_passes_with_the_system_login(server, connection):
    system = await login(server, "sys")
    await check_server(connection, system=system)
    assert list((await read_sync(system)).values()) == [True]
    await system.close()


async def test_an_unreadable_setting_is_refused_and_says_what_to_give(connection, capsys):
    with pytest.raises(ServerUnfit, match=r"cannot be read with this login.*system account"):
        await check_server(connection)
    capsys.readouterr()
    await check_server(connection, allow_lazy_sync=True)
    assert "lazy_sync_allowed" in capsys.readouterr().out


async def test_a_lazy_server_is_refused_by_the_settings_name(tmp_path):
    async with nats_server(tmp_path, sync="2m", extra=ACCOUNTS) as server:
        hub, system = await login(server, "hub"), await login(server, "sys")
        with pytest.raises(ServerUnfit, match="sync_interval is not `always`"):
            await check_server(hub, system=system)
        await check_server(hub, system=system, allow_lazy_sync=True)
        await hub.close()
        await system.close()


async def test_a_server_without_jetstream_is_refused(tmp_path):
    async with nats_server(tmp_path, jetstream=False) as server, connected(server) as connection:
        with pytest.raises(ServerUnfit, match="JetStream is off"):
            await check_server(connection, allow_lazy_sync=True)


async def test_an_account_without_jetstream_is_refused(server):
    bare = await login(server, "bare")
    with pytest.raises(ServerUnfit, match="jetstream: enabled"):
        await check_server(bare, allow_lazy_sync=True)
    await bare.close()


async def test_an_old_server_is_refused_by_version(connection, monkeypatch):
    monkeypatch.setattr(Connection, "server_version", (2, 14, 7))
    with pytest.raises(ServerUnfit, match=r"nats-server 2\.14\.7 is too old; version 2\.15\.1"):
        await check_server(connection, allow_lazy_sync=True)


async def test_small_payloads_are_refused(connection, monkeypatch):
    monkeypatch.setattr(limits, "MESSAGE_BYTES", 64 * limits.MIB)
    with pytest.raises(ServerUnfit, match="max_payload"):
        await check_server(connection, allow_lazy_sync=True)


# ---- questions -----------------------------------------------------------------------------------


class Puzzled(TactError):
    code = "puzzled"


async def test_the_owner_answers(connection):
    async def echo(question: bytes) -> bytes:
        return b"you said " + question

    served = await serve(connection, 3, echo)
    assert await ask(connection, 3, b"hello") == b"you said hello"
    await served.unsubscribe()
    with pytest.raises(NoOwner) as caught:
        await ask(connection, 3, b"hello")
    assert caught.value.retryable


async def test_errors_of_the_owner_are_typed(connection):
    async def fail(question: bytes) -> bytes:
        if question == b"typed":
            raise Puzzled("that is not known here")
        raise ValueError("secret of a customer")

    await serve(connection, 3, fail)
    with pytest.raises(AskFailed, match="that is not known here") as caught:
        await ask(connection, 3, b"typed")
    assert caught.value.facts["reason"] == "puzzled"
    with pytest.raises(AskFailed, match="not a question") as caught:
        await ask(connection, 3, b"untyped")
    assert caught.value.facts["reason"] == "bad-question"


async def test_an_owner_that_says_nothing_is_unavailable(connection):
    async def never(_question: bytes) -> bytes:
        raise RuntimeError

    await serve(connection, 3, never)
    with pytest.raises(LedgerUnavailable):
        await ask(connection, 3, b"hello", timeout_s=0.1)


# ---- outcomes ------------------------------------------------------------------------------------


def test_every_known_reply_has_one_name_and_an_unknown_one_is_read_back():
    names = [outcome.name for outcome in OUTCOMES.values()]
    assert {name for name in names if names.count(name) > 1} == {"stream-offline"}
    assert outcome_of({"seq": 7}).action is Action.DONE
    assert outcome_of({"error": {"err_code": 10071}}).action is Action.READ_BACK
    assert outcome_of({"error": {"err_code": 99999}}).action is Action.READ_BACK
    assert outcome_of({"error": {}}).action is Action.READ_BACK
    assert outcome_of({}).action is Action.READ_BACK
    assert Action.DONE not in {outcome.action for outcome in OUTCOMES.values()}
