"""Reads what happened at one customer service account: one task, one page at a time.

A page is reported as bundles whose notes are the place behind them, so that messages and cursor are
stored together; the next page is asked for when the last bundle is stored. What is not stored is
asked for again. A process that ends at any step leaves a place and the messages before it, and its
successor goes on from there.

Woken by WeCom's callback, which says only that there is something to read and gives a token that
spares the call the heavy throttle; at the start; and every `poll` in case a callback was lost.
Whatever fails (no token, -1, HTML, no connection) is tried again with growing pauses, for ever.

Source: WeCom's page 94670.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog

from channels.http import Confirmation, Unanswered
from channels.provider import BUNDLE_BYTES, BUNDLE_THINGS, Bundle, Events
from channels.wecom.config import KfConfig, ms
from channels.wecom.errors import WecomError
from channels.wecom.kf_messages import PageUnreadable, Understood, page_of
from channels.wecom.kf_place import CURSOR_NOTE, Place, place_of
from hub.clock import Clock
from hub.errors import TactError

PAGE: Final = 200
"""Messages asked for at once with a token: mostly one bundle, so that little is read twice after a
stop."""
PAGE_UNTOLD: Final = 1_000
"""And without one, when calls are few: the most that WeCom gives."""
UNTOLD_S: Final = 10.0
"""Between two calls without a token. WeCom says only that they are throttled heavily; six a minute
stay below any limit that was seen."""
APART_S: Final = 0.05
"""Between two readings of one account: under many customers each call would else bring one message,
and cost as much as one that brings twenty."""
ROOM_BYTES: Final = BUNDLE_BYTES // 2
"""Of contents in one bundle: the rest is for addresses, ids, and the notes."""
TOKEN_S: Final = 9 * 60.0
"""A callback's token is good for ten minutes; one that might end on the way is not used."""
TOKEN_REFUSED: Final = 95007
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
"""Between two tries after something failed; each is drawn from the upper half."""
PAUSE_MAX_S: Final = 600.0
"""A pause that WeCom asks for is kept up to here: a limit of a day is asked about again sooner."""
CURSOR_TRIES: Final = 3
"""So often in a row a page is refused for good until its cursor is taken to be the reason, and
reading begins anew."""

_log = structlog.get_logger(__name__)
_size = msgspec.json.Encoder().encode


class Caller(Protocol):
    """What is needed of WecomClient."""

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]: ...


class KfReader:
    """The reader of one account. `start` once, `stop` once."""

    def __init__(
        self,
        config: KfConfig,
        client: Caller,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
        *,
        failed: Callable[[TactError], None] = lambda error: None,
    ) -> None:
        """`failed` is told of each try that failed."""
        self._config = config
        self._client = client
        self._failed = failed
        self._events = events
        self._clock = clock
        self._chance = chance
        self._account = account
        self._poll_s = ms(config, "poll") / 1_000
        self._place = Place()
        self._token = ""
        self._token_until_s = 0.0
        self._something = asyncio.Event()
        self._limit = PAGE_UNTOLD
        self._untold_s = -UNTOLD_S
        """When it was last asked without a token, by the steady clock."""
        self._refused = 0
        self._failing = ""
        self._task: asyncio.Task[None] | None = None

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Read on from where the notes say."""
        self._place = place_of(notes)
        if CURSOR_NOTE in notes and self._place == Place():
            _log.error("kf.notes-unreadable", account=self._account)
        self._task = asyncio.create_task(self._run(), name=f"{self._account}-kf-reader")

    def hint(self, token: str) -> None:
        """WeCom says that there is something to read."""
        if token:
            self._token, self._token_until_s = token, self._clock.steady_s() + TOKEN_S
        self._something.set()

    async def stop(self) -> None:
        """Read no more. A page that is being stored may still be: the notes tell."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # ---- the task ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._something.clear()  # first: what is announced while reading is read again
            begun_s = self._clock.steady_s()
            await self._read_on()
            try:
                async with asyncio.timeout(self._poll_s * (0.75 + self._chance.random() / 2)):
                    await self._something.wait()
            except TimeoutError:
                self._count("kf_polled")
            # Who writes alone is read at once; what many write is read together.
            await asyncio.sleep(max(0.0, begun_s + APART_S - self._clock.steady_s()))

    async def _read_on(self) -> None:
        """Until there is no more; each failure after a longer pause."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                more = await self._page()
            except TactError as error:
                await self._pause(error, backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            except Exception as error:
                # A bug must not end the reading for good. Its text may quote a message: not told.
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{frame.filename}:{frame.lineno}"
                _log.error("kf.bug", account=self._account, error=type(error).__name__, at=place)
                await self._pause(_Bug(type(error).__name__), backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            backoff_s = BACKOFF_FIRST_S
            self._works()
            if not more:
                return

    async def _page(self) -> bool:
        """One page, stored. Whether there is more. Raises TactError."""
        place = self._place
        page = page_of(await self._fetch(place.cursor), self._clock.now_ms())
        self._limit = min(self._limit * 2, PAGE_UNTOLD)
        cursor = page.cursor or place.cursor
        fresh = place.fresh(page.messages)
        parts = _parts(fresh) or [[]]
        for number, part in enumerate(parts):
            after = self._place.after(part)
            if number == len(parts) - 1:
                after = after.at(cursor, more=page.more)
            if after != self._place:
                await self._store(part, after)
        for message in fresh:
            self._count(message.counted)
        for _ in range(len(page.messages) - len(fresh)):
            self._count("kf_repeated")
        if page.more and cursor == place.cursor:
            raise PageUnreadable("sync_msg says that there is more, and not where")
        return page.more

    async def _fetch(self, cursor: str) -> dict[str, Any]:
        token = await self._told()
        body: dict[str, Any] = {
            "open_kfid": self._config.open_kfid,
            "limit": min(self._limit, PAGE if token else PAGE_UNTOLD),
            "voice_format": 1 if self._config.voice_format == "silk" else 0,
        }
        if cursor:
            body["cursor"] = cursor
        if token:
            body["token"] = token
        try:
            reply = await self._client.call("kf/sync_msg", body)
        except WecomError as error:
            self._heed(error, token)
            raise
        except Unanswered:
            self._limit = max(self._limit // 2, 1)  # it may be the length of the answer
            raise
        self._refused = 0
        return reply

    async def _told(self) -> str:
        """A token that is good, or "" when it is time to ask without one."""
        wait_s = self._untold_s + UNTOLD_S - self._clock.steady_s()
        if wait_s > 0 and not self._good_token():
            self._something.clear()
            with contextlib.suppress(TimeoutError):  # then it is time
                async with asyncio.timeout(wait_s):
                    await self._something.wait()
        token = self._good_token()
        if not token:
            self._untold_s = self._clock.steady_s()
        return token

    def _good_token(self) -> str:
        return self._token if self._clock.steady_s() < self._token_until_s else ""

    def _heed(self, error: WecomError, token: str) -> None:
        """What a refusal says of token and cursor."""
        if error.errcode == TOKEN_REFUSED and token:
            if self._token == token:
                self._token = ""
            return
        verdict = error.verdict
        ours = verdict.failure in ("config", "dead_address")  # not the cursor's fault
        if verdict.kind != "failed" or ours or not self._place.cursor:
            return
        self._refused += 1
        if self._refused >= CURSOR_TRIES:
            self._refused = 0
            self._place = self._place.from_the_beginning()
            _log.error("kf.cursor-refused", account=self._account, errcode=error.errcode)
            self._count("kf_cursor_refused")

    async def _store(self, part: list[Understood], after: Place) -> None:
        """Report a part with the place behind it. Raises NotStored."""
        confirmation = Confirmation()
        bundle = Bundle(
            receipts=tuple(one for message in part for one in message.receipts),
            inbound=tuple(one for message in part for one in message.inbound),
            commands=tuple(one for message in part for one in message.commands),
            notes=after.notes(self._place),
        )
        self._events.bundle(bundle, confirmation.expect())
        if not await confirmation.all_stored(None):
            self._count("not_stored")
            raise NotStored("the account could not store what was read")
        self._place = after

    # ---- when it does not work -----------------------------------------------------------------

    async def _pause(self, error: TactError, backoff_s: float) -> None:
        code = str(error.facts.get("errcode", error.code))
        if code != self._failing:  # once for each reason, not for each try
            self._failing = code
            _log.warning("kf.reading-fails", account=self._account, reason=code)
        self._count("kf_failed")
        self._failed(error)
        wait_s = backoff_s * (0.5 + self._chance.random() / 2)
        told_ms = error.retry_after_ms or 0
        if isinstance(error, WecomError):
            told_ms = error.verdict.retry_after_ms or 0
        if (until_ms := error.facts.get("until_ms")) is not None:
            told_ms = until_ms - self._clock.now_ms()
        self._something.clear()
        least_s = max(min(wait_s, BACKOFF_FIRST_S), min(told_ms / 1_000, PAUSE_MAX_S))
        await asyncio.sleep(least_s)
        with contextlib.suppress(TimeoutError):  # a hint in the rest of it says that WeCom is back
            async with asyncio.timeout(wait_s - least_s):
                await self._something.wait()

    def _works(self) -> None:
        if self._failing:
            self._failing = ""
            _log.info("kf.reading-works", account=self._account)

    def _count(self, what: str) -> None:
        self._events.counted("tact_provider_total", self._account, what)


class NotStored(TactError):
    """What was read could not be stored: it is read again."""

    code = "kf-not-stored"
    retryable = True


class _Bug(TactError):
    """Something that was not foreseen."""

    code = "internal"


def _parts(fresh: list[Understood]) -> list[list[Understood]]:
    """The messages in their order, in parts that fit a bundle."""
    parts: list[list[Understood]] = []
    things = size = 0
    for message in fresh:
        own = sum(len(_size(one.content)) for one in message.inbound)
        if not parts or things + message.things > BUNDLE_THINGS or size + own > ROOM_BYTES:
            parts.append([])
            things = size = 0
        parts[-1].append(message)
        things, size = things + message.things, size + own
    return parts
