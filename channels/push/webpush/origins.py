"""Push services by their origin, each with troubles of its own.

Endpoints of one account lead to Google, Mozilla, Apple, Microsoft, and wherever somebody's browser
says. One of them that cannot be reached, or does not answer, rests for a while, and then one
message tries it; the others go on. Only when nothing at all has answered for ANSWERED_S is it the
account's connection that is lost.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Final

from msgspec import Struct

from channels.http import NotSent
from channels.sending import Reachable
from hub.clock import Clock

ORIGINS: Final = 256
"""Origins remembered, the ones used last; there are about five, but anybody can invent more."""
REST_FIRST_S: Final = 0.5
REST_MAX_S: Final = 30.0
"""An origin rests so long after its failures, doubled by each in a row and drawn from the upper
half: half a minute after it is back, its messages leave again."""
RETRY_AFTER_MAX_S: Final = 60.0
"""What one message is told to wait binds its origin up to here, and the message itself longer."""
TRYING_MS: Final = 1_000
"""Messages that meet one which tries their origin come back after so long."""
SILENT: Final = 2
"""Requests in a row without an answer until an origin rests. One is a connection that was closed
in the wrong moment; five would open the account's circuit."""
THROTTLES: Final = 3
"""Messages in a row that are throttled until it is the origin, not a device, that is asked too
much."""
ANSWERED_S: Final = 60.0
"""While any origin has answered within this time, the network is well."""
TRIED: Final = 4
"""Origins that are tried at once for whether the network is back, the ones used last."""
BLIND_TRIES: Final = 3
"""After so many in vain messages are let out all the same: a service never heard of may answer
where those that are remembered do not. About ten seconds at first."""


class _Origin(Struct):
    silent: int = 0
    """Requests in a row that were not answered."""
    rests: int = 0
    """Rests in a row."""
    until_s: float = 0.0
    """Steady; above 0 until it answers: it rests, or may be tried by one message."""
    trying: bool = False
    throttles: int = 0


class Origins:
    """What is known of each; also what an `HttpSender` asks whether the network is back."""

    def __init__(self, client: Reachable, clock: Clock, chance: random.Random) -> None:
        self._client = client
        self._clock = clock
        self._chance = chance
        self._known: OrderedDict[str, _Origin] = OrderedDict()
        """The one used last at the end."""
        self._answered_s = clock.steady_s()
        self._blind = 0

    @property
    def lost(self) -> bool:
        """Nothing has answered for so long that it is not about one of them."""
        return self._clock.steady_s() - self._answered_s > ANSWERED_S

    def enter(self, origin: str) -> int:
        """A message is to go there: 0, or the ms that it waits before it comes again. After 0
        one of the next four is told, and `leave`."""
        state = self._known.pop(origin, None) or _Origin()
        self._known[origin] = state
        if len(self._known) > ORIGINS:
            self._known.popitem(last=False)
        if not state.until_s:
            return 0
        rest_s = state.until_s - self._clock.steady_s()
        if rest_s > 0:
            return int(rest_s * 1_000) + 1
        if state.trying:
            return TRYING_MS
        state.trying = True
        return 0

    def leave(self, origin: str) -> None:
        """The message has come to its end, whatever it was."""
        self._state(origin).trying = False

    def answered(self, origin: str, *, throttled: bool = False, rest_ms: int | None = None) -> None:
        """It works; `throttled`: for others, or with `rest_ms` for nobody until then."""
        state = self._state(origin)
        state.silent = state.rests = 0
        state.until_s = 0.0
        state.throttles = state.throttles + 1 if throttled else 0
        self._answered_s, self._blind = self._clock.steady_s(), 0
        if rest_ms is not None and (not throttled or state.throttles >= THROTTLES):
            rest_s = min(rest_ms / 1_000, RETRY_AFTER_MAX_S)
            state.until_s = self._clock.steady_s() + rest_s

    def unreached(self, origin: str) -> int:
        """A request could not leave. Gives the ms for which it rests."""
        return self._rest(self._state(origin))

    def unanswered(self, origin: str) -> None:
        """A request left and was not answered, or with nonsense."""
        state = self._state(origin)
        state.silent += 1
        if state.silent >= SILENT:
            self._rest(state)

    def _rest(self, state: _Origin) -> int:
        longest_s = min(REST_FIRST_S * 2**state.rests, REST_MAX_S)
        rest_s = longest_s * (0.5 + self._chance.random() / 2)
        state.rests = min(state.rests + 1, 16)
        state.until_s = self._clock.steady_s() + rest_s
        return int(rest_s * 1_000) + 1

    def _state(self, origin: str) -> _Origin:
        """Of one that may have been forgotten meanwhile: then of none."""
        return self._known.get(origin) or _Origin()

    # ---- the network as a whole --------------------------------------------------------------

    async def reach(self, url: str) -> None:
        """Try whether requests could leave now, to any that is known. Raises NotSent."""
        for origin in list(reversed(self._known))[:TRIED]:
            try:
                await self._client.reach(origin)
            except NotSent:
                continue  # one that answers is enough
            self.answered(origin)
            return
        self._blind += 1
        if self._blind < BLIND_TRIES:
            raise NotSent("no connection to any push service")
        self._blind = 0

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
