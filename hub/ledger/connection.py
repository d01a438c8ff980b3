"""One connection to NATS: reconnects for ever, says how it is, and raises only our errors.

Everything of the ledger goes through `Connection`, so that what nats-py raises is mapped in one
place and nothing is ever buffered for a server that is away: a publish while disconnected fails at
once with `LedgerUnavailable`, and whoever wanted it decides when to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlparse

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from hub import limits
from hub.clock import Clock, SystemClock
from hub.errors import ConfigError
from hub.ledger.port import LedgerError, LedgerUnavailable, ServerRefused, ServerUnfit
from hub.ledger.replies import Replies
from hub.ledger.wire import Wire, open_wire

_log = structlog.get_logger(__name__)

API = "$JS.API."
INBOX = "_HUB"
"""Not `_INBOX`: where applications may listen to that, they must not hear the hub's replies."""
_REPLY = msgspec.json.Decoder(dict[str, Any])
_NO_ANSWER = (
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
    OSError,
)


class Connection:
    """A NATS connection with a state for `/readyz`. Made by `connect`, ended by `close`."""

    def __init__(
        self, client: Client, clock: Clock, where: str, login: Mapping[str, str] | None = None
    ) -> None:
        self.client = client
        self.where = where
        """The address without credentials: fit for logs."""
        self.errors: Counter[str] = Counter()
        """What nats-py reported in the background, by the error's class."""
        self.last_error = "no answer"
        self._opened = False
        self._login = login or {}
        self._clock = clock
        self._down_since_s: float | None = clock.steady_s()
        self._listeners: list[Callable[[], None]] = []
        self._replies = Replies(client)

    @property
    def connected(self) -> bool:
        return self.client.is_connected and not self.client.is_closed

    @property
    def closed(self) -> bool:
        """True when it will never come back: `close` was called, or the server threw us out."""
        return self.client.is_closed

    @property
    def down_s(self) -> float:
        """Seconds since the connection was lost; 0 while it is up."""
        if self._down_since_s is None:
            return 0.0
        return self._clock.steady_s() - self._down_since_s

    @property
    def server_version(self) -> tuple[int, int, int]:
        """The connected server's version, as (2, 15, 1)."""
        version = self.client.connected_server_version
        return version.major, version.minor, version.patch

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after every reconnect; returns what ends that."""
        self._listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Msg:
        """One request, one reply; the time limit is COMMIT_TIMEOUT_S if none is given.

        Raises LedgerUnavailable when there is no reply, at once when the connection is lost.
        """
        self._check_up()
        if timeout_s is None:
            timeout_s = limits.COMMIT_TIMEOUT_S
        try:
            message = await self._replies.request(subject, payload, headers, timeout_s)
        except (nats.errors.Error, OSError) as error:
            raise _mapped(error, subject) from error
        if message.headers is not None and message.headers.get("Status") == "503":
            raise _mapped(nats.errors.NoRespondersError(), subject)
        return message

    async def publish(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send without waiting for anything. Raises LedgerUnavailable while disconnected."""
        self._check_up()
        try:
            await self.client.publish(subject, payload, reply, headers)
        except (nats.errors.Error, OSError) as error:
            raise _mapped(error, subject) from error

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        """A subscription that survives reconnects. The caller bounds what may arrive on it.

        nats-py's own limits (524,288 messages, 128 MiB) are far above what is ever asked for here
        (READ_AHEAD_MESSAGES a lane), so that a slow consumer cannot lose a message unseen.
        """
        try:
            return await self.client.subscribe(subject, cb=callback)
        except nats.errors.Error as error:
            raise _mapped(error, subject) from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; one that is gone, as after `close`, is fine."""
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()

    async def api(
        self, call: str, body: Any = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """A JetStream API call, as `STREAM.INFO.LEDGER`.

        Raises LedgerUnavailable without an answer, ServerRefused with the server's error code.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.request(API + call, payload, timeout_s=timeout_s)
        reply = _REPLY.decode(message.data)
        error = reply.get("error")
        if error is not None:
            raise ServerRefused(
                f"the NATS server refused {call}: {error.get('description', 'no reason given')}",
                err_code=error.get("err_code", 0),
                status=error.get("code", 0),
            )
        return reply

    async def open_wire(self, on_lost: Callable[[], None]) -> Wire:
        """A second connection, to the same server and with the same login, for reading masses.

        Raises LedgerUnavailable while this one is down, or when it cannot be made.
        """
        self._check_up()
        url = self.client.connected_url
        assert url is not None and url.hostname is not None
        options = {"lang": "python", "version": "tact", "protocol": 1, "verbose": False}
        options |= {"pedantic": False, "headers": True, "no_responders": True, "echo": False}
        if url.username:
            options |= {"user": url.username, "pass": url.password or ""}
        options |= self._login
        return await open_wire(
            url.hostname, url.port or 4222, options, on_lost, tls=url.scheme == "tls"
        )

    async def close(self) -> None:
        """End the connection. Safe to call twice."""
        if not self.client.is_closed:
            self._down_since_s = self._clock.steady_s()
            await self.client.close()

    async def _open(
        self, servers: list[str], wait_s: float, chance: random.Random, **who: Any
    ) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self.client.connect(
                    servers,
                    **who,
                    error_cb=self._failed,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    reconnect_to_server_handler=_backoff(chance),
                    reconnect_time_wait=0.1,  # between tries of the first connect only
                    max_reconnect_attempts=-1,
                    connect_timeout=2,
                    ping_interval=limits.PING_INTERVAL_S,
                    max_outstanding_pings=2,
                    pending_size=2 * limits.BATCH_BYTES,
                    flush_timeout=limits.COMMIT_TIMEOUT_S,
                )
                await self._replies.listen()
            self._opened = True
        except TimeoutError as error:
            raise LedgerUnavailable(
                f"no NATS server answered at {self.where} within {wait_s:g} s "
                f"({self.last_error}); is it running, and is the address right?",
                retry_after_ms=limits.BACKOFF_MAX_MS,
            ) from error
        finally:
            if not self._opened:
                await self.close()
        self._down_since_s = None

    def _check_up(self) -> None:
        # nats-py would buffer and send on reconnect what its caller has long given up.
        if not self.client.is_connected:
            raise LedgerUnavailable(
                f"not connected to NATS at {self.where}; it is tried again by itself",
                retry_after_ms=limits.BACKOFF_MAX_MS,
            )

    # ---- what nats-py tells us ---------------------------------------------------------------

    async def _disconnected(self) -> None:
        if self._down_since_s is None:
            self._down_since_s = self._clock.steady_s()
            _log.warning("ledger.disconnected", server=self.where)
        self._replies.fail_all(self._lost)

    def _lost(self) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"the connection to NATS at {self.where} was lost before the reply came",
            retry_after_ms=limits.BACKOFF_MAX_MS,
        )

    async def _reconnected(self) -> None:
        _log.info("ledger.reconnected", server=self.where, down_s=round(self.down_s, 3))
        self._down_since_s = None
        for listener in tuple(self._listeners):
            listener()

    async def _failed(self, error: Exception) -> None:
        self.last_error = type(error).__name__
        self.errors[self.last_error] += 1
        if not self._opened and "authorization" in str(error).lower():
            raise ServerUnfit(  # ends `open`: trying again cannot help
                f"NATS at {self.where} refuses these credentials; "
                "check the user and password, or the permissions of that user"
            ) from error


async def connect(
    url: str,
    *,
    name: str,
    clock: Clock | None = None,
    user: str | None = None,
    password: str | None = None,
    chance: random.Random | None = None,
    wait_s: float = 10.0,
    inbox_prefix: str = INBOX,
) -> Connection:
    """Connect to one NATS server or, comma separated, to the servers of one cluster.

    `name` is shown in the server's monitoring. `chance` spreads the reconnects of many processes.
    Applications whose user may listen to `_INBOX.>` only give that as `inbox_prefix`.
    Raises LedgerUnavailable when no server answers within `wait_s`, ServerUnfit when the server
    does not take the credentials, ConfigError for what is no address.
    """
    login = {"name": name}
    if user is not None and password is not None:
        login |= {"user": user, "pass": password}
    connection = Connection(Client(), clock or SystemClock(), _without_credentials(url), login)
    await connection._open(
        url.split(","),
        wait_s,
        chance or random.Random(),
        name=name,
        user=user,
        password=password,
        inbox_prefix=inbox_prefix,
    )
    return connection


def _backoff(
    chance: random.Random,
) -> Callable[[list[Server], dict[str, Any]], tuple[Server, float]]:
    """The least tried server, after a wait that doubles with its tries up to BACKOFF_MAX_MS."""

    def choose(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        server = min(servers, key=lambda server: server.reconnects)
        return server, backoff_ms(server.reconnects, chance) / 1000

    return choose


def backoff_ms(tries: int, chance: random.Random) -> float:
    """Wait before try number `tries` + 1: doubling, bounded, between half of it and all of it."""
    whole = min(limits.BACKOFF_FIRST_MS * 2 ** min(tries, 16), limits.BACKOFF_MAX_MS)
    return whole * (0.5 + 0.5 * chance.random())


def _mapped(error: Exception, subject: str) -> LedgerError:
    """What nats-py raised, as ours."""
    about = about_subject(subject)
    if isinstance(error, nats.errors.NoRespondersError):
        return LedgerUnavailable(
            f"nobody answers {about}: the stream is missing or has no leader right now",
            retry_after_ms=limits.BACKOFF_MAX_MS,
            no_responders=True,
        )
    if isinstance(error, _NO_ANSWER):
        return LedgerUnavailable(
            f"no answer from NATS to {about} ({type(error).__name__})",
            retry_after_ms=limits.BACKOFF_MAX_MS,
        )
    if isinstance(error, nats.errors.MaxPayloadError):
        return LedgerError(
            f"a message to {about} is larger than the server's max_payload; "
            f"set max_payload to at least {limits.MESSAGE_BYTES} and send less at once"
        )
    return LedgerError(f"NATS: {about}: {type(error).__name__}")


def about_subject(subject: str) -> str:
    """The first tokens of a subject: they say what it was about, the last ones about whom."""
    return ".".join(subject.split(".")[:3])


def _without_credentials(url: str) -> str:
    places = []
    for one in url.split(","):
        parsed = urlparse(one if "://" in one else f"nats://{one}")
        if not parsed.hostname:
            raise ConfigError("not an address of NATS; write it as nats://host:4222")
        port = f":{parsed.port}" if parsed.port else ""
        places.append(f"{parsed.scheme}://{parsed.hostname}{port}")
    return ",".join(places)
