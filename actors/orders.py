"""What a runner is asked to do between two turns, with nothing half decided."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from hub.errors import TactError

Order = Callable[[], Awaitable[None]]


class Orders:
    """Orders in the order they came. `look` tells the loop that there is one."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._waiting: deque[tuple[Order, asyncio.Future[None]]] = deque()
        self._ended = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def give(self, order: Order) -> None:
        """Returns when it is carried out. Raises its TactError; cancelled when the loop is left."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._ended:
            done.cancel()
        self._waiting.append((order, done))
        self._look()
        await done

    async def carry_out(self) -> None:
        """All there are: called by the loop, between two turns."""
        while self._waiting:
            order, done = self._waiting.popleft()
            try:
                await order()
            except TactError as error:
                if not done.done():  # nobody waits for it any more
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(None)

    def end(self) -> None:
        """The loop is left: whoever waits, or comes later, is told."""
        self._ended = True
        for _, done in self._waiting:
            done.cancel()
