"""The ledger as a host of accounts sees it: deliveries in, receipts and inbound messages out."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Iterable, Sequence
from typing import Final

from hub import limits
from hub.clock import Clock
from hub.contract.subjects import partition_of, publish_subject
from hub.errors import TactError
from hub.ledger.connection import Connection
from hub.ledger.intake import StreamReader
from hub.ledger.jetstream import JetStreamLedger
from hub.ledger.lanes import deliveries
from hub.ledger.port import Outbound, ServerRefused
from hub.ledger.publisher import Outgoing, Publisher, sender
from hub.ledger.reading import NO_MESSAGE
from hub.ledger.streams import LEDGER

ACCOUNTS: Final = "accounts"
"""The source under which accounts publish to INTAKE."""


class AccountStreams(JetStreamLedger):
    """`actors.account_runner.AccountLedger` on a real server. `close()` at the end."""

    def __init__(
        self,
        connection: Connection,
        partitions: int = limits.PARTITIONS,
        *,
        clock: Clock,
        chance: random.Random | None = None,
    ) -> None:
        super().__init__(connection, partitions, chance=chance)
        self._publisher = Publisher(sender(connection), clock=clock, chance=self._chance)

    def deliveries(self, channels: Iterable[str]) -> StreamReader:
        """A reader whose lanes are channels."""
        return self.reader(deliveries(channels))

    async def stored(self, sequence: int) -> bytes | None:
        """The payload of one LEDGER message, from the leader; None when it is gone."""
        try:
            reply = await self.connection.api(f"STREAM.MSG.GET.{LEDGER}", {"seq": sequence})
        except ServerRefused as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise
        return base64.b64decode(reply["message"].get("data", ""))

    async def tell(self, outbound: Sequence[Outbound]) -> None:
        """Store objects in INTAKE, those of one conversation in order; returns when all are.

        Raises the first TactError of any; the others may be stored.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed: list[TactError] = []
        left = len(outbound)

        def settle(result: int | TactError) -> None:
            nonlocal left
            left -= 1
            if isinstance(result, TactError):
                failed.append(result)
            if not left and not done.done():
                done.set_result(None)

        for one in outbound:
            await self._publisher.room()
            group = one.lane, partition_of(one.customer, self.partitions)
            subject = publish_subject(one.lane, ACCOUNTS, one.customer)
            # What customers say goes alone, under its own id: a new owner tells again what the one
            # before may have told, and an array of other company would be another message. And what
            # failed may release a body for the next channel: an array of them would release more
            # than one turn takes. Of other receipts a repeat changes nothing.
            alone = one.lane != "receipt" or one.message_id.endswith("/failed")
            self._publisher.put(
                group, Outgoing(subject, one.payload, one.message_id, settle, alone)
            )
        if outbound:
            await done
        if failed:
            raise failed[0]

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._publisher.close()
