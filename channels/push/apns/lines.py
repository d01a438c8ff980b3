"""Keeps one connection to Apple up: connects, waits until it takes nothing more, and connects
again, slower each time. The old one may still answer meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Final, Protocol
from urllib.parse import urlsplit

from channels.push.apns.config import ApnsConfig
from channels.push.apns.connection import Connection, Owner, Timing
from channels.sending import BACKOFF_FIRST_S, BACKOFF_MAX_S, CONFIG_PAUSE_S
from hub.clock import Clock

CLOSE_S: Final = 2.0
"""How long a connection that is closed in order may take: all else is settled by then."""


class Keeper(Owner, Protocol):
    """Who the lines belong to: what connections tell, and that a line has news."""

    def changed(self) -> None:
        """A line is down, for another reason than before."""


class Line:
    """One of the account's connections, and its successors."""

    def __init__(
        self,
        config: ApnsConfig,
        tls: ssl.SSLContext | None,
        keeper: Keeper,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._config = config
        self._tls = tls
        self._keeper = keeper
        self._clock = clock
        self._chance = chance
        parts = urlsplit(config.base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._task: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        """The present one: opening, or open."""
        self._over = asyncio.Event()
        self._delay_s = BACKOFF_FIRST_S
        self._up_at: float | None = None
        self.reason = ""
        """Why it is down; "" while it is up or has not been tried."""
        self.config_fault = False

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._keep())

    def up(self) -> None:
        """Requests can leave."""
        self.reason, self.config_fault = "", False
        self._up_at = self._clock.steady_s()

    def down(self, reason: str, *, config_fault: bool = False) -> None:
        """Nothing more leaves by this connection; the next is opened after a pause."""
        self.reason, self.config_fault = reason, config_fault
        self.connection = None
        self._over.set()

    async def stop(self) -> None:
        """Close, and connect no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        connection = self.connection
        if connection is not None and connection.connected:
            connection.close("stopped")
            await asyncio.wait([connection.ended], timeout=CLOSE_S)

    async def _keep(self) -> None:
        while True:
            self._over.clear()
            await self._connect()
            await self._over.wait()
            await asyncio.sleep(self._pause_s())

    async def _connect(self) -> None:
        config = self._config
        loop = asyncio.get_running_loop()
        config_fault = False
        try:
            async with asyncio.timeout(config.connect_s):
                await loop.create_connection(
                    self._begin,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
            return
        except TimeoutError:
            reason = "no connection in time"
        except ssl.SSLCertVerificationError as error:
            reason, config_fault = f"TLS: {error.verify_message}", True
        except ssl.SSLError as error:
            reason = f"TLS failed: {error.reason}"
        except UnicodeError:
            reason, config_fault = "base_url: its host is no name", True
        except OSError as error:
            reason = f"no connection: {error.strerror or type(error).__name__}"
        self.down(reason, config_fault=config_fault)
        self._keeper.changed()

    def _begin(self) -> Connection:
        config = self._config
        timing = Timing(config.connect_s, config.answer_s, config.ping_s)
        self.connection = Connection(timing, self._keeper)
        return self.connection

    def _pause_s(self) -> float:
        """How long to wait now: twice as long each time, until a connection has lasted. Apple takes
        many that come and go for an attack."""
        up_at, self._up_at = self._up_at, None
        if up_at is not None and self._clock.steady_s() - up_at > BACKOFF_MAX_S:
            self._delay_s = BACKOFF_FIRST_S
        delay_s = CONFIG_PAUSE_S if self.config_fault else self._delay_s
        self._delay_s = min(2 * self._delay_s, BACKOFF_MAX_S)
        return delay_s * (0.5 + self._chance.random() / 2)
