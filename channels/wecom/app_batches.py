"""Messages of the same content, collected into few requests; and never more requests under way than
there are connections.

What comes first leaves when the loop comes round, with all of the same content that came with it;
what follows within `collect_s` of a request is collected until then. So a message of its own is
never late, and a campaign goes out by the hundred.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from channels.provider import Answer
from channels.sending import Outcome

RECIPIENTS: Final = 1_000
"""Members that one message/send takes."""

_NOT_LEFT: Final = Outcome(Answer("retry"))


class Part(Protocol):
    """What goes into a request."""

    @property
    def recipient(self) -> str:
        """One request names each of its recipients once: WeCom would deliver once."""

    @property
    def key(self) -> bytes:
        """Parts of the same key may share a request; b"": it goes by itself."""


_One = tuple[Part, "asyncio.Future[Outcome]"]


class _Collected:
    """What waits of one content."""

    __slots__ = ("timer", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, _One] = {}
        """By recipient."""
        self.timer: asyncio.Handle | None = None

    def take(self) -> list[_One]:
        taken = list(self.waiting.values())
        self.waiting.clear()
        return taken


class Batches:
    """Puts parts into requests. `request` makes one: an outcome for each part, in their order; what
    it raises is the end of all of them.

    Bounded by the submissions under way: each is in one request at most.
    """

    def __init__(
        self,
        request: Callable[[Sequence[Part]], Awaitable[list[Outcome]]],
        *,
        requests: int,
        collect_s: float,
        recipients: int = RECIPIENTS,
    ) -> None:
        self._request = request
        self._requests = requests
        self._collect_s = collect_s
        self._recipients = recipients
        self._collecting: dict[bytes, _Collected] = {}
        self._queue: deque[list[_One]] = deque()
        """Requests that wait for a connection."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def send(self, part: Part) -> Outcome:
        """Send it. Raises what the request raised."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._stopped:
            return _NOT_LEFT
        if part.key:
            self._collect(part, future)
        else:
            self._leave([(part, future)])
        return await future

    async def stop(self) -> None:
        """Begin no more requests: what is not on the wire did not leave, and is said to."""
        self._stopped = True
        left = [one for batch in self._queue for one in batch]
        for found in self._collecting.values():
            left += found.take()
            if found.timer is not None:
                found.timer.cancel()
        self._queue.clear()
        self._collecting.clear()
        for _, future in left:
            if not future.done():
                future.set_result(_NOT_LEFT)
        await asyncio.sleep(0)  # those who wait for it go first

    async def close(self) -> None:
        """Cut what is under way."""
        tasks = set(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _collect(self, part: Part, future: asyncio.Future[Outcome]) -> None:
        found = self._collecting.get(part.key)
        if found is None:
            found = self._collecting[part.key] = _Collected()
            found.timer = asyncio.get_running_loop().call_soon(self._due, part.key)
        if part.recipient in found.waiting:
            self._leave(found.take())
        found.waiting[part.recipient] = part, future
        if len(found.waiting) >= self._recipients:
            self._leave(found.take())

    def _due(self, key: bytes) -> None:
        found = self._collecting[key]
        if found.waiting:
            self._leave(found.take())
        elif isinstance(found.timer, asyncio.TimerHandle):
            del self._collecting[key]  # nothing came since the last request
            return
        found.timer = asyncio.get_running_loop().call_later(self._collect_s, self._due, key)

    def _leave(self, batch: list[_One]) -> None:
        self._queue.append(batch)
        self._pump()

    def _pump(self) -> None:
        while self._queue and len(self._under_way) < self._requests:
            self._under_way.add(asyncio.create_task(self._work(self._queue.popleft())))

    async def _work(self, batch: list[_One]) -> None:
        try:
            outcomes = await self._request([part for part, _ in batch])
            told = zip(batch, outcomes, strict=True)
            # What went well last: a few refusals in a row would look like a WeCom that fails.
            for (_, future), outcome in sorted(told, key=_went_well):
                if not future.done():
                    future.set_result(outcome)
        except Exception as error:  # raised where each of them is waited for
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._under_way.discard(task)
            self._pump()


def _went_well(told: tuple[_One, Outcome]) -> bool:
    return told[1].answer.kind == "accepted"
