"""ConversationHost: a Ray actor around a `HostRunner`, and nothing more.

One process that owns partitions and talks to NATS itself; the data path never makes a Ray call. The
calls here are the supervisor's: place, release, look. Source: docs/architecture.md, "The picture".
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from actors.questions import describe
from actors.runner import HostRunner
from actors.settings import HubSettings
from actors.shell import HostShell
from hub.contract.subjects import partition_of
from hub.ledger.jetstream import JetStreamLedger
from hub.metrics import Series, Snapshot
from hub.policy.document import parse_policy
from hub.policy.policy import Policy
from hub.policy.state import ConversationState, unpack_state


class ConversationHost(HostShell):
    """Methods are called by the supervisor through Ray. `open()` comes first."""

    def __init__(self, settings: HubSettings, name: str) -> None:
        super().__init__(settings, name, self._answer)
        self._policy = Policy(parse_policy(settings.policy))
        self.ledger: JetStreamLedger | None = None
        self._runner: HostRunner | None = None

    async def status(self) -> dict[str, Any]:
        """What the supervisor and `tact status` see. Opens the host when called first."""
        runner = await self._open()
        partitions = [p for p in runner.partitions.values() if not p.lost]
        await self._answer_for({p.number for p in partitions})
        assert self._connection is not None and self.ledger is not None
        return {
            "name": self._name,
            "incarnation": self.incarnation,
            "pid": os.getpid(),
            "partitions": sorted(p.number for p in partitions),
            "epochs": {p.number: p.epoch for p in partitions},
            "conversations": sum(len(p.states) for p in partitions),
            "held": sum(p.held for p in partitions),
            "pending": runner.pending(),
            "connected": self._connection.connected,
            "full": self.ledger.full,
            "policy": runner.policy.version,
        }

    async def assign(self, numbers: list[int]) -> list[int]:
        """Claim partitions; returns those won."""
        runner = await self._open()
        won = await runner.assign(numbers)
        await self._answer_for(set(runner.partitions))
        return won

    async def release(self, numbers: list[int]) -> None:
        runner = await self._open()
        await runner.release(numbers)
        await self._answer_for(set(runner.partitions))

    async def apply_policy(self, text: str) -> str:
        """Replace the policy from the next turn on; returns its version. Raises PolicyError."""
        self._policy = Policy(parse_policy(text))
        if self._runner is not None:
            await self._runner.apply_policy(self._policy)
        return self._policy.version

    async def metrics(self) -> tuple[str, Snapshot]:
        """Whose counters, and which. Ray may have begun this process since the caller last asked:
        under the name of the one before it, its zeros would replace what that one counted."""
        if self._runner is None or self.ledger is None:
            return self.incarnation, Snapshot()
        partitions = self._runner.partitions.values()
        gauges: dict[Series, float] = {
            ("tact_held", ()): sum(p.held for p in partitions),
            ("tact_conversations", ()): sum(len(p.states) for p in partitions),
            ("tact_partitions", ()): len(partitions),
        }
        positions = {p.number: dict(p.checkpoint) for p in partitions}
        for (partition, lane), count in (await self.ledger.lag(positions)).items():
            gauges["tact_lag", (str(partition), lane)] = count
        snapshot = self.counted.snapshot(gauges)
        for reply, count in self.ledger.replies.items():
            snapshot.counters["tact_commit_replies_total", (reply,)] = count
        return self.incarnation, snapshot

    async def stop(self) -> None:
        """Finish the turn, commit, disconnect."""
        if self._runner is not None:
            await self._answer_for(set())
            await self._runner.stop()
        await self._disconnect()

    async def _open(self) -> HostRunner:
        async with self._opening:
            if self._runner is None:
                self.ledger = JetStreamLedger(await self._connect(), self._settings.partitions)
                self._runner = HostRunner(
                    self.ledger, self._clock, self._policy, self.incarnation, self.counted
                )
                self._run(self._runner.run())
            return self._runner

    async def _answer(self, payload: bytes) -> bytes:
        question = msgspec.json.decode(payload, type=dict[str, str])
        key, op = question.get("key", ""), question.get("op")
        number = partition_of(key, self._settings.partitions)
        assert self._runner is not None
        partition = self._runner.partitions.get(number)
        if op != "customer" or partition is None:
            return msgspec.json.encode({"error": "not a question this owner can answer"})
        packed = partition.states.get(key)
        state = ConversationState() if packed is None else unpack_state(packed)
        answer = describe(key, state, self._runner.policy, self._clock.now_ms())
        answer |= {
            "known": packed is not None,
            "partition": number,
            "epoch": partition.epoch,
            "host": self._name,
        }
        return msgspec.json.encode(answer)
