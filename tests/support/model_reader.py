"""Reading INTAKE in the model: lanes in stream order, and gaps after which they are read anew."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hub.contract.subjects import LANES
from hub.ledger.port import IntakeMessage, LedgerUnavailable
from tests.support.network import Network

if TYPE_CHECKING:
    from tests.support.model import Streams


class ModelReader:
    """`hub.ledger.port.IntakeReader`: an ordered consumer a lane, fed by the server.

    Messages of one lane arrive in order, each some time after it was stored. A gap drops what is
    buffered and on its way; then the lane is read anew, from what was last taken or, as after the
    loss of a consumer, from the positions it was opened at: messages come again, never out of
    order.
    """

    def __init__(self, streams: Streams, network: Network, chance: random.Random) -> None:
        self._streams = streams
        self._network = network
        self._chance = chance
        self._positions: dict[int, dict[str, int]] = {}
        self._lanes: dict[str, deque[IntakeMessage]] = {lane: deque() for lane in LANES}
        self._taken: dict[str, int] = {}
        self._clear_s: dict[str, float] = dict.fromkeys(LANES, 0.0)
        """Loop time at which the last message under way in a lane arrives."""
        self._generation: dict[str, int] = dict.fromkeys(LANES, 0)
        """What is under way from an earlier one is lost."""
        self._recovering: set[str] = set()
        self._arrived = asyncio.Event()
        self._open = False

    async def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        self._stop()
        while True:
            try:
                await self._network.request("open", lambda: None)
                break
            except LedgerUnavailable:
                await asyncio.sleep(self._chance.uniform(0.01, 0.5))
        self._stop()  # another open() may have come between
        self._positions = {number: dict(lanes) for number, lanes in positions.items()}
        self._taken = dict.fromkeys(LANES, 0)
        self._open = True
        self._streams.intake_listeners.append(self._stored)
        for lane in LANES:
            self._read_anew(lane, 0)

    def _stop(self) -> None:
        self._open = False
        if self._stored in self._streams.intake_listeners:
            self._streams.intake_listeners.remove(self._stored)
        for lane in LANES:
            self._lanes[lane].clear()
            self._generation[lane] += 1

    # ---- what arrives ----------------------------------------------------------------------------

    def _stored(self, message: IntakeMessage) -> None:
        """INTAKE has one more. A lane that is being read anew comes across it by itself."""
        if message.lane not in self._recovering:
            self._send(message)

    def _send(self, message: IntakeMessage) -> None:
        """The server sends it, after what is under way in its lane already."""
        lanes = self._positions.get(message.partition)
        lane = message.lane
        if lanes is None or message.sequence <= lanes.get(lane, 0):
            return
        now_s = self._network.loop.time()
        # Timers of one and the same moment go off in any order, messages of a lane must not.
        arrives_s = max(self._clear_s[lane] + 1e-7, now_s + self._network.latency_s())
        self._clear_s[lane] = arrives_s
        self._network.later(arrives_s - now_s, self._arrive, message, self._generation[lane])

    def _arrive(self, message: IntakeMessage, generation: int) -> None:
        lane = message.lane
        if generation != self._generation[lane]:
            return
        if self._network.down:  # what is buffered stays, what is under way is sent again
            self._recover_later(lane, (self._newest(lane),))
        elif self._network.faults.draw("read") == "gap":
            self.lose(lane)
        else:
            self._lanes[lane].append(message)
            self._arrived.set()

    def _newest(self, lane: str) -> int:
        buffered = self._lanes[lane]
        return buffered[-1].sequence if buffered else self._taken[lane]

    def lose(self, lane: str) -> None:
        """A gap: what is buffered and under way is lost, and read again a moment later."""
        if self._open:
            self._lanes[lane].clear()
            self._recover_later(lane, (0, self._taken[lane]))

    def _recover_later(self, lane: str, after: tuple[int, ...]) -> None:
        self._generation[lane] += 1
        self._recovering.add(lane)
        delay_s = self._chance.uniform(0.01, 3.0)
        self._network.later(
            delay_s, self._recover, lane, self._generation[lane], self._chance.choice(after)
        )

    def _recover(self, lane: str, generation: int, after: int) -> None:
        if not self._open or generation != self._generation[lane]:
            return
        if self._network.down:
            self._recover_later(lane, (after,))
            return
        self._read_anew(lane, after)

    def _read_anew(self, lane: str, after: int) -> None:
        self._recovering.discard(lane)
        self._clear_s[lane] = 0.0
        for message in self._streams.intake:
            if message.lane == lane and message.sequence > after:
                self._send(message)

    # ---- the port --------------------------------------------------------------------------------

    def take(self, lane: str, most: int) -> list[IntakeMessage]:
        buffered = self._lanes[lane]
        taken = [buffered.popleft() for _ in range(min(most, len(buffered)))]
        if taken:
            self._taken[lane] = taken[-1].sequence
        return taken

    def buffered(self, lane: str) -> int:
        return len(self._lanes[lane])

    async def wait(self, timeout_s: float, lanes: Iterable[str] = LANES) -> bool:
        lanes = tuple(lanes)
        try:
            async with asyncio.timeout(timeout_s):
                while not any(self._lanes[lane] for lane in lanes):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    def pending(self, lane: str) -> int:
        return len(self._lanes[lane])

    async def close(self) -> None:
        self._stop()
