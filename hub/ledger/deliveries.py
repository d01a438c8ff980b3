"""The durable consumer of a gateway: as that of an application, and it can give a message back."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from hub.ledger.consumer import DurableConsumer, Taken
from hub.ledger.port import LedgerUnavailable

_BACK: Final = b"-NAK "
_NS: Final = 1_000_000_000


class DeliveryConsumer(DurableConsumer):
    """Reads `hub.out.<channel>.*` for a gateway; see `DurableConsumer` for how it heals."""

    async def give_back(self, taken: Taken, after_s: float) -> None:
        """Not done with: the server gives it out again, to anyone, `after_s` seconds from now."""
        if self._held.pop(taken.sequence, None) is not None:
            word = _BACK + msgspec.json.encode({"delay": int(after_s * _NS)})
            with contextlib.suppress(LedgerUnavailable):  # then after its ack wait
                await self._connection.publish(taken.reply, word)
        if self._owed <= 0:
            self._look.set()


def times_given(taken: Taken) -> int:
    """How often the server has given this message out, to anyone: 1 the first time.

    From its acknowledgement subject, `$JS.ACK.<stream>.<consumer>.<delivered>.…`, or with domain
    and account after `ACK` (nats-server, ADR-15).
    """
    tokens = taken.reply.split(".")
    return int(tokens[4] if len(tokens) == 9 else tokens[6])
