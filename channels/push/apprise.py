"""Apprise as a catch-all: one account for any of its services (chat, mail, pagers, …), with the
extra `tact-hub[apprise]`. Nothing of it is loaded unless an account asks for it.

```toml
[accounts.apprise]
service_token = { env = "TEAM_CHAT" }     # tgram://<bot token>/{to}, mailto://u:p@host?to={to}, …
```

`{to}` in the URL is where a delivery's address goes, quoted, so that it can change nothing else of
the URL; without it all go to the one target that the URL names. Sent are title, text and link.

Apprise is synchronous, whatever the service: this is the one place of the hub where threads are
right. Each notification has one of its own, `connections` at most. One that does not come back in
`answer_s` is `unknown` and keeps its thread; when all are kept, nothing is sent until one is free.
They are daemons: a service that hangs does not keep the hub from ending.

At most once, unless the URL says `retry=`: Apprise knows no key, and says only yes or no. A no is
`failed`, although a service that took a message and then did not answer gives one too.

Source: Apprise 2.2 (AppriseResult, URL parameters cto, rto, redirect); docs/push.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import quote

from msgspec import Meta, Struct

from channels.http import NotSent, Unanswered
from channels.provider import Answer, Events, Prepared, Submission, Unsendable
from channels.push.content import read
from channels.sending import HttpProvider, Outcome
from hub.clock import Clock
from hub.contract.types import Delivery
from hub.errors import ConfigError

THREADS: Final = 4
"""Notifications under way at once, unless an account says otherwise: 20/s at 200 ms each, plenty
for what people write to a team."""
THREADS_MAX: Final = 32
ANSWER_S: Final = 30.0
"""Apprise gives a connection 4 s and each answer 4 s; some services need several requests."""
TO: Final = "{to}"

_SCHEMA = re.compile(r"([a-z][a-z0-9]{1,31})://\S+\Z")


class AppriseConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`[accounts.apprise]`."""

    service_token: str
    """The URL of one service as Apprise writes it; it holds the service's secrets."""
    connections: Annotated[int, Meta(ge=1, le=THREADS_MAX)] = THREADS
    """Threads."""
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return "AppriseConfig()"


class Notice(Struct, frozen=True):
    """One delivery, as the service is given it."""

    title: str
    body: str

    def __repr__(self) -> str:
        return "Notice()"


def check(settings: AppriseConfig, sms: Any = None) -> None:
    """What types cannot say. Raises ConfigError."""
    apprise = _library()
    match = _SCHEMA.match(settings.service_token)
    if match is None:
        raise ConfigError(
            "service_token must be the URL of one service, <schema>://…", key="service_token"
        )
    # With {to} in it, it is a URL only when the address is there, which none of ours may suit.
    whole = TO in settings.service_token
    known = _has_schema(match[1]) if whole else _service(apprise, settings.service_token)
    if not known:
        raise ConfigError(
            f"service_token: Apprise has no service {match[1]}://, or the URL lacks what it needs",
            key="service_token",
        )


class AppriseProvider(HttpProvider):
    """One service. Raises ConfigError when its configuration is not valid, or Apprise not there."""

    def __init__(
        self,
        settings: AppriseConfig,
        sms: object,
        events: Events,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
    ) -> None:
        check(settings)
        self._config = settings
        self._apprise = _library()
        self._threads = Threads(settings.connections, f"{account}-apprise")
        super().__init__(self._threads, "", settings.connections, events, chance, account)

    @property
    def idle(self) -> bool:
        """Not while a thread is kept: a new provider would not know of it."""
        return super().idle and not self._threads.busy

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: title and text. Raises Unsendable."""
        if not delivery.to.strip():
            raise Unsendable("the address is empty", failure="dead_address", code="address")
        note = read(delivery.content, "apprise")
        body = "\n".join(filter(None, (note.text, note.link)))
        if not body.strip():
            raise Unsendable("the content has no text", failure="rejected_content", code="no-text")
        return Prepared(delivery.to, units=1, parts=(Notice(note.title, body),))

    async def _send(self, submission: Submission) -> Outcome:
        """One notification. Raises NotSent, Unanswered."""
        prepared = submission.prepared
        notice: Notice = prepared.parts[0]
        url = self._config.service_token.replace(TO, quote(prepared.recipient, safe=""))
        try:
            took = await self._threads.call(
                lambda: _notified(self._apprise, url, notice), self._config.answer_s
            )
        except TimeoutError:
            raise Unanswered("the service did not answer in time") from None
        except (NotSent, asyncio.CancelledError):
            raise
        except Exception as error:  # a bug in one of 250 plug-ins; its text may quote the message
            self._count(f"apprise_{type(error).__name__}"[:64])
            return Outcome(Answer("unknown", code="exception"))
        return Outcome(took)


class Threads:
    """A thread for each call, a bounded number of them."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self.busy = 0
        """Calls that have not come back, waited for or not."""

    async def call(self, work: Callable[[], Answer], seconds: float) -> Answer:
        """What `work` returns or raises. Raises TimeoutError, and NotSent when all are busy."""
        await self.reach("")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Answer] = loop.create_future()

        def end(result: Answer | Exception) -> None:
            self.busy -= 1
            if done.done():  # nobody waits any more
                return
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

        def run() -> None:
            result: Answer | Exception
            try:
                result = work()
            except Exception as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the account with it
                loop.call_soon_threadsafe(end, result)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError:
            raise NotSent("the system gives no more threads") from None
        self.busy += 1  # before `end`, which the loop calls when this has come to wait
        async with asyncio.timeout(seconds):
            return await done

    async def reach(self, url: str) -> None:
        """Whether one is free. Raises NotSent."""
        if self.busy >= self._most:
            raise NotSent("every thread waits for a service that does not answer")

    async def close(self) -> None:
        """A thread cannot be ended: what is in one comes to its own end, heard by nobody."""


# ---- the library ---------------------------------------------------------------------------------


def _library() -> Any:
    """Apprise, imported now. Raises ConfigError when it is not installed."""
    try:
        import apprise
    except ImportError:
        raise ConfigError(
            "Apprise is not installed: pip install 'tact-hub[apprise]'", key="service_token"
        ) from None
    # It logs URLs and what services answer: none of that is for our logs.
    log = logging.getLogger("apprise")
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    return apprise


def _has_schema(schema: str) -> bool:
    from apprise.manager_plugins import NotificationManager

    return schema in NotificationManager()


def _service(apprise: Any, url: str) -> Any:
    """The service of a URL; None if there is none. It follows no redirects, and keeps no files."""
    asset = apprise.AppriseAsset(
        app_id="Tact",
        app_desc="Tact",
        async_mode=False,
        http_redirects=False,
        secure_logging=True,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    return apprise.Apprise.instantiate(url, asset=asset)


def _notified(apprise: Any, url: str, notice: Notice) -> Answer:
    """In a thread: what the service said."""
    service = _service(apprise, url)
    if service is None:
        # The schema is known, so it is the address, or the rest of the URL: not told apart.
        return Answer("failed", failure="provider", code="no-service")
    one = apprise.Apprise(asset=service.asset)
    one.add(service)
    result = one.notify(body=notice.body, title=notice.title, body_format=apprise.NotifyFormat.TEXT)
    status = getattr(result, "status", None)
    code = getattr(status, "name", "")
    if result:
        return Answer("accepted")
    if code == "TIMEOUT":  # the operator's own, in the URL
        return Answer("unknown", code=code)
    return Answer("failed", failure="provider", code=code or "FAILURE")
