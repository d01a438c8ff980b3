"""JPush's push ids: fetched ahead, and each kept with its delivery before it is sent.

Documented (Jiguang's page "advanced features"): an id is valid for a day; a push under the id of
one that succeeded is answered with that one's result and not pushed again; an id "must be fetched
from the pool before it is used", at most 10 at once (1,000 by VIP apps). So none can be made up
from the delivery, and one that is only in memory would be lost in a crash: the account stores it
first, as a note. An unanswered delivery without a note has therefore never left.

Assumed: that the day begins when an id is fetched.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Final

import msgspec
from msgspec import Struct

from channels.provider import NOTES_MAX, Answer, Bundle
from channels.push.vendors.gateway import GatewayRefused
from channels.sending import Outcome
from hub.clock import Clock

LIFE_MS: Final = 23 * 3_600_000
"""After it was fetched: an hour less than it has, for the request itself and for clocks."""
FRESH_MS: Final = 12 * 3_600_000
"""One that waited longer in the pool is not begun with: half a day is left for tries."""
HELD_MAX: Final = NOTES_MAX - 100
"""Deliveries that have an id. More than are under way at once (256): those that wait to be tried
again keep theirs."""
HELD_MS: Final = 7 * 86_400_000
"""How long one is kept for a delivery that does not say when it expires."""
FORGOTTEN: Final = 100
"""Notes that one bundle takes away: it must fit a log record."""
FULL_MS: Final = 60_000
"""Before another try, when there are too many."""
LATE_MS: Final = 3_600_000
"""The same when an id has ended before it was known what became of its push: time only decides."""


class Held(Struct, array_like=True, frozen=True):
    """The id of a delivery."""

    cid: str
    fetched_ms: int
    until_ms: int
    """Its delivery may be tried again until then."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Held).decode


class Cids:
    """The ids of one account. `fetch` gives new ones, `store` says whether a bundle is stored."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[list[str]]],
        store: Callable[[Bundle], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._clock = clock
        self._fetching = asyncio.Lock()
        """Held by the one that fetches: the others find what it got."""
        self._pool: deque[tuple[str, int]] = deque()
        self._held: dict[str, Held] = {}
        self._gone: set[str] = set()
        """Keys of notes that nobody needs any more: forgotten with the next that is stored."""

    def recall(self, notes: Mapping[str, bytes]) -> None:
        """What was stored before, whoever stored it."""
        for key, packed in notes.items():
            try:
                self._held[key] = _unpack(packed)
            except msgspec.DecodeError:
                self._gone.add(key)  # of another version: it is of no use
        self._prune(self._clock.now_ms())

    async def of(self, delivery: str, expires_ms: int, *, again: bool) -> str:
        """The id to push this delivery under. Raises GatewayRefused, and what `fetch` raises."""
        key, now = _key(delivery), self._clock.now_ms()
        held = self._held.get(key)
        if held is not None and now < held.fetched_ms + LIFE_MS:
            return held.cid
        if held is not None and again:
            raise _refused("cid-ended", LATE_MS)
        if held is None and len(self._held) >= HELD_MAX:
            self._prune(now)
            if len(self._held) >= HELD_MAX:
                raise _refused("cids-full", FULL_MS)
        cid, fetched_ms = await self._taken()
        held = Held(cid, fetched_ms, expires_ms or now + HELD_MS)
        self._held[key] = held
        self._gone.discard(key)
        forgotten = self.forgotten()
        if not await self._store(Bundle(notes=forgotten | {key: _pack(held)})):
            self._gone.update(forgotten)
            if self._held.get(key) is held:
                del self._held[key]
                self._gone.add(key)  # it may be stored yet
            raise _refused("not-stored")
        return cid

    def done(self, delivery: str, answer: Answer) -> None:
        """The account has the answer: nothing is pushed for this delivery any more, unless it is
        tried again."""
        if answer.kind in ("accepted", "failed") and (key := _key(delivery)) in self._held:
            del self._held[key]
            self._gone.add(key)

    def forgotten(self) -> dict[str, bytes | None]:
        """Notes to take away with whatever is stored next."""
        keys = list(islice(self._gone, FORGOTTEN))
        self._gone.difference_update(keys)
        return dict.fromkeys(keys)

    async def _taken(self) -> tuple[str, int]:
        async with self._fetching:
            while self._pool and self._pool[0][1] + FRESH_MS < self._clock.now_ms():
                self._pool.popleft()
            if not self._pool:
                now = self._clock.now_ms()
                self._pool.extend((cid, now) for cid in await self._fetch())
            if not self._pool:
                raise _refused("no-cids")
            return self._pool.popleft()

    def _prune(self, now: int) -> None:
        """Deliveries that expired while they waited: nobody says so here."""
        late = [key for key, held in self._held.items() if held.until_ms < now]
        for key in late:
            del self._held[key]
        self._gone.update(late)


def _refused(code: str, retry_after_ms: int | None = None) -> GatewayRefused:
    answer = Answer("retry", code=code, retry_after_ms=retry_after_ms)
    return GatewayRefused(f"no push id: {code}", outcome=Outcome(answer))


def _key(delivery: str) -> str:
    return blake2b(delivery.encode("utf-8", "replace"), digest_size=16).hexdigest()
