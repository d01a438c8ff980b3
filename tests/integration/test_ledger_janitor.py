"""The janitor against a real server: what is not decided is never purged, what is goes."""

from __future__ import annotations

import random

import pytest

from hub.contract.subjects import LANES, partition_of, publish_subject
from hub.ledger.connection import Connection
from hub.ledger.janitor import Janitor
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.port import PartitionImage
from hub.ledger.reading import read_subject
from hub.ledger.streams import INTAKE, provision
from tests.support.ledger import SMALL, NatsServer, commit_one, connected, nats_server

pytestmark = pytest.mark.nats

PARTITIONS = 3


@pytest.fixture
async def server(tmp_path):
    async with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer):
    async with connected(server) as connection:
        await provision(connection, partitions=PARTITIONS, sizes=SMALL)
        yield connection


class World:
    """Publishes, decides and remembers what must still be there."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.chance = random.Random(seed)
        self.connection = connection
        self.ledger = JetStreamLedger(connection, PARTITIONS)
        self.stored: list[tuple[int, int, str]] = []
        """(sequence, partition, lane) of every message ever stored."""
        self.images: dict[int, PartitionImage] = {}
        self.decided: dict[tuple[int, str], int] = {}

    async def publish(self) -> None:
        lane, key = self.chance.choice(LANES), f"c{self.chance.randrange(40)}"
        ack = await self.ledger.publish(publish_subject(lane, "shop", key), b"{}")
        self.stored.append((ack.sequence, partition_of(key, PARTITIONS), lane))

    async def decide(self) -> None:
        """Move one partition's checkpoint in some lanes, sometimes to the very end."""
        partition = self.chance.randrange(PARTITIONS)
        if partition not in self.images:
            self.images[partition] = await self.ledger.claim(partition, "host", 1_000)
        image = self.images[partition]
        checkpoint = dict(image.checkpoint)
        for lane in LANES:
            of_lane = [s for s, p, one in self.stored if (p, one) == (partition, lane)]
            ahead = [s for s in of_lane if s > checkpoint.get(lane, 0)]
            if ahead and self.chance.random() < 0.7:
                checkpoint[lane] = self.chance.choice([ahead[0], ahead[-1], ahead[-1]])
                self.decided[partition, lane] = checkpoint[lane]
        await commit_one(self.ledger, image, f"c{self.chance.random()}", {}, checkpoint)

    def undecided(self) -> set[int]:
        return {s for s, p, lane in self.stored if s > self.decided.get((p, lane), 0)}

    async def present(self) -> set[int]:
        return {m.sequence async for m in read_subject(self.connection, INTAKE, ">", 10_000)}


@pytest.mark.parametrize("seed", range(5))
async def test_no_undecided_message_is_ever_purged(connection, seed):
    world, purged = World(connection, seed), 0
    janitor = Janitor(connection, PARTITIONS)
    for _ in range(90):
        step = world.chance.random()
        if step < 0.6:
            await world.publish()
        elif step < 0.85:
            await world.decide()
        else:
            purged += (await janitor.sweep()).purged
            missing = world.undecided() - await world.present()
            assert not missing
    for _ in range(12):  # in the end nearly all is decided, and goes
        await world.decide()
    await janitor.sweep()
    await janitor.sweep()
    left, undecided = await world.present(), world.undecided()
    assert undecided <= left
    assert left == {s for s, _, _ in world.stored if s >= min(undecided, default=s + 1)}
    assert purged < len(world.stored)


async def test_a_partition_never_claimed_keeps_everything_from_its_first_message(connection):
    world = World(connection, 1)
    for _ in range(30):
        await world.publish()
    first_of_last = min(s for s, p, _ in world.stored if p == PARTITIONS - 1)
    for partition in range(PARTITIONS - 1):
        image = await world.ledger.claim(partition, "host", 1_000)
        await commit_one(world.ledger, image, f"c{partition}", {}, dict.fromkeys(LANES, 30))
    janitor = Janitor(connection, PARTITIONS)
    await janitor.sweep()
    sweep = await janitor.sweep()
    assert sweep.low == first_of_last
    assert await world.present() == set(range(first_of_last, 31))


async def test_what_is_published_during_a_sweep_stays(connection, monkeypatch):
    """All was decided when the sweep began; then messages come between its reads, and before it
    purges."""
    world = World(connection, 2)
    for _ in range(20):
        await world.publish()
    for partition in range(PARTITIONS):
        image = await world.ledger.claim(partition, "host", 1_000)
        await commit_one(world.ledger, image, f"c{partition}", {}, dict.fromkeys(LANES, 20))
    janitor = Janitor(connection, PARTITIONS)
    await janitor.sweep()
    api, calls = connection.api, 0

    async def late(call: str, *rest: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 3 == 0 or call.startswith("STREAM.PURGE"):
            await world.publish()
        return await api(call, *rest, **options)

    monkeypatch.setattr(connection, "api", late)
    assert (await janitor.sweep()).purged == 20
    monkeypatch.undo()
    assert len(world.stored) > 25
    assert await world.present() == set(range(21, len(world.stored) + 1))


async def test_the_horizon_stays(connection):
    world = World(connection, 3)
    for _ in range(20):
        await world.publish()
    for partition in range(PARTITIONS):
        image = await world.ledger.claim(partition, "host", 1_000)
        await commit_one(world.ledger, image, f"c{partition}", {}, dict.fromkeys(LANES, 20))
    janitor = Janitor(connection, PARTITIONS, horizon=5)
    await janitor.sweep()
    assert (await janitor.sweep()).low == 21
    assert await world.present() == set(range(16, 21))
