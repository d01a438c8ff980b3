"""Readiness, status and counters as the hub tells them, with a supervisor that is played."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from channels.accounts import AccountConfig
from hub.metrics import Snapshot
from hub.policy.document import parse_policy, policy_version
from hub.service import watch as module
from hub.service.config import default_policy
from hub.service.watch import HubLost, Watch

OTHER_POLICY = "version = 1\ntimezone = 'UTC'\n[categories.a]\nroute = ['sms']\n"


def version(text: str) -> str:
    return policy_version(parse_policy(text))


class Call:
    """What `handle.method` of a Ray actor is: `remote()` gives something to await."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    async def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        answer = self.answer(*arguments) if callable(self.answer) else self.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer


class PlayedSupervisor:
    """Says what the test wants, and notes what it is asked."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {
            "ready": True,
            "reason": "",
            "hosts": [host("tact-host-0", [0, 1], normal=3), host("tact-host-1", [2], bulk=4)],
            "unowned": [],
            "policy": version(default_policy()),
        }
        self.counts: dict[str, Snapshot] = {}
        self.status = Call(lambda: self.told)
        self.metrics = Call(lambda: dict(self.counts))
        self.start = Call(None)
        self.apply_policy = Call(version)


def host(name: str, partitions: list[int], **pending: int) -> dict[str, Any]:
    return {
        "name": name,
        "incarnation": f"{name}-a",
        "pid": 100 + len(name),
        "alive": True,
        "partitions": partitions,
        "conversations": 5,
        "held": 1,
        "pending": pending,
        "connected": True,
        "full": False,
    }


class PlayedConnection:
    where = "nats://127.0.0.1:4222"
    connected = True
    down_s = 0.0


class PlayedClock:
    def __init__(self) -> None:
        self.ms = 1_795_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def steady_s(self) -> float:
        return self.ms / 1000


class World:
    def __init__(self) -> None:
        self.clock = PlayedClock()
        self.supervisor = PlayedSupervisor()
        self.watch = Watch(self.clock)
        self.watch.policy = default_policy()
        self.watch.supervisor = self.supervisor
        self.watch.connection = PlayedConnection()  # type: ignore[assignment]
        self.watch.phase = "serving"

    def later(self, seconds: float = 1.0) -> None:
        self.clock.ms += int(seconds * 1000)


@pytest.fixture
def world() -> World:
    return World()


def intents(text: bytes) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == "tact_intents_total"
    )


async def test_ready_when_all_is_well(world):
    assert await world.watch.reasons() == []


async def test_not_ready_before_anything_is_started():
    assert await Watch(PlayedClock()).reasons() == ["starting"]


async def test_not_ready_while_stopping(world):
    world.watch.phase = "stopping"
    assert await world.watch.reasons() == ["stopping"]


async def test_a_dead_server_is_named_with_the_time_it_went(world):
    world.watch.connection.connected = False
    world.watch.connection.down_s = 2.5
    world.clock.ms = 1_795_000_002_500
    (reason,) = await world.watch.reasons()
    assert "nats://127.0.0.1:4222" in reason
    assert reason.endswith("since 2026-11-18T11:06:40.000Z")


async def test_what_the_supervisor_says_is_passed_on(world):
    world.supervisor.told["reason"] = "3 partitions without an owner"
    assert await world.watch.reasons() == ["3 partitions without an owner"]


async def test_a_silent_supervisor_is_a_reason(world, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_S", 0.01)
    world.supervisor.status.remote = asyncio.Event().wait
    assert await world.watch.reasons() == ["the supervisor does not answer"]


async def test_questions_at_the_same_moment_cost_one_look(world):
    await asyncio.gather(*(world.watch.reasons() for _ in range(20)))
    assert len(world.supervisor.status.calls) == 1
    world.later()
    await world.watch.reasons()
    assert len(world.supervisor.status.calls) == 2


async def test_a_restarted_supervisor_is_started_again_and_told_the_policy_in_force(world):
    await world.watch.apply_policy(OTHER_POLICY)
    world.supervisor.told |= {"hosts": [], "reason": "all gone"}  # and it knows the old policy only
    world.later()
    await world.watch.reasons()
    assert world.supervisor.start.calls == [()]
    assert world.supervisor.apply_policy.calls == [(OTHER_POLICY,), (OTHER_POLICY,)]


async def test_a_healthy_supervisor_is_left_alone(world):
    await world.watch.reasons()
    assert world.supervisor.start.calls == []
    assert world.supervisor.apply_policy.calls == []


async def test_a_supervisor_that_is_gone_for_ever_ends_the_hub(world):
    from ray.exceptions import ActorDiedError

    world.supervisor.status.answer = ActorDiedError()
    with pytest.raises(HubLost):
        await world.watch.run()


async def test_status_sums_what_is_not_decided_yet(world):
    status = await world.watch.status()
    assert status["ready"] is True
    assert status["lag"] == {"normal": 3, "bulk": 4}
    assert status["partitions"] == 3
    assert status["policy"] == version(default_policy())
    assert [h["name"] for h in status["hosts"]] == ["tact-host-0", "tact-host-1"]
    assert status["rates"] is None


async def test_settled_when_all_hosts_share_evenly(world):
    assert not world.watch.settled(2, 0)  # nobody has looked yet
    await world.watch.reasons()
    assert world.watch.settled(2, 0)
    assert not world.watch.settled(3, 0)
    assert not world.watch.settled(2, 1)  # a host that sends is missing
    world.supervisor.told["account_hosts"] = [{"alive": True, "partitions": [0, 1, 2]}]
    await world.watch.reasons()
    assert world.watch.settled(2, 1)
    world.supervisor.told["hosts"][0]["partitions"] = [0, 1, 3]
    assert not world.watch.settled(2, 1)


def counted(number: float) -> Snapshot:
    return Snapshot(counters={("tact_intents_total", ("shop", "normal")): number})


async def test_metrics_sum_over_hosts_and_remember_the_dead(world):
    world.supervisor.counts = {"tact-host-0-a": counted(5), "tact-host-1-a": counted(2)}
    assert intents(await world.watch.metrics()) == 7
    world.supervisor.counts = {"tact-host-1-a": counted(3)}
    world.supervisor.told["hosts"].pop(0)
    world.later()
    assert intents(await world.watch.metrics()) == 8


async def test_a_host_too_slow_for_one_scrape_is_not_counted_twice_afterwards(world):
    world.supervisor.counts = {"tact-host-0-a": counted(5), "tact-host-1-a": counted(2)}
    await world.watch.metrics()
    world.supervisor.counts = {"tact-host-1-a": counted(2)}  # but host 0 is listed still
    assert intents(await world.watch.metrics()) == 7
    world.supervisor.counts = {"tact-host-0-a": counted(6), "tact-host-1-a": counted(2)}
    assert intents(await world.watch.metrics()) == 8


async def test_rates_are_over_the_time_between_samples(world, monkeypatch):
    looks = 0

    async def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        world.later(seconds)
        world.supervisor.counts = {"tact-host-0-a": counted(looks * 10)}
        if looks > 2 * module.SAMPLE_LOOKS:
            raise asyncio.CancelledError

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await world.watch.run()
    rates = (await world.watch.status())["rates"]
    assert rates == {"intents": 10.0, "outcomes": 0.0, "over_s": 2.0 * module.SAMPLE_LOOKS}


# ---- conversations -------------------------------------------------------------------------------


def test_whether_an_account_is_archived_is_the_policys_word(world):
    watch = world.watch
    account = AccountConfig(name="sales", channel="wecom", provider="wecom-app")
    watch.accounts = (account,)
    watch.policy = OTHER_POLICY
    assert watch.archive("sales") == {"channel": "wecom", "archived": {}}
    watch.policy = OTHER_POLICY + '[archive]\nchannels = ["wecom", "sms"]\nkeep = "400d"\n'
    kept = {"wecom": 400 * 86_400_000, "sms": 400 * 86_400_000}
    assert watch.archive("sales") == {"channel": "wecom", "archived": kept}
    assert watch.archive("nobody") == {"channel": None, "archived": kept}
