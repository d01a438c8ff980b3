"""How a process that is no part of the hub comes in: an application, or a gateway.

It may do little more than publish to its own subjects and read what is meant for it, so it asks
for nothing else: a connection with an inbox it may listen to, and the number of partitions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable
from typing import Final

from hub.clock import Clock
from hub.errors import TactError
from hub.ledger.connection import Connection, connect
from hub.ledger.port import LedgerUnavailable
from hub.ledger.publisher import Outgoing, Publisher
from hub.ledger.streams import stored_partitions

_INBOX: Final = "_INBOX"
"""Where replies go: NATS' own default, which the users of applications may listen to."""


async def visit(
    url: str,
    *,
    name: str,
    user: str | None,
    password: str | None,
    clock: Clock,
    chance: random.Random,
    wait_s: float,
) -> tuple[Connection, int]:
    """A connection, and the number of partitions of the hub it leads to.

    `name` is shown in the server's monitoring. Raises what `connect` and `stored_partitions` do,
    and LedgerUnavailable when the hub has no streams yet; then nothing is left open.
    """
    connection = await connect(
        url,
        name=name,
        user=user,
        password=password,
        clock=clock,
        chance=chance,
        wait_s=wait_s,
        inbox_prefix=_INBOX,
    )
    try:
        partitions = await stored_partitions(connection)
        if partitions is None:
            raise LedgerUnavailable("the hub has not made its streams yet: start `tact up` first")
    except BaseException:
        await connection.close()
        raise
    return connection, partitions


async def store(publisher: Publisher, group: Hashable, outgoing: Outgoing) -> int | TactError:
    """Publish one object and wait; the sequence of its message, or why there is none.

    The error is returned: it may be the same one for many that went together. Sets `settle`.
    """
    await publisher.room()
    done: asyncio.Future[int | TactError] = asyncio.get_running_loop().create_future()
    outgoing.settle = lambda result: None if done.done() else done.set_result(result)
    publisher.put(group, outgoing)
    return await done


def unsettled(_: int | TactError) -> None:
    """The `settle` of an object for which nobody has said yet whom to tell."""
    raise AssertionError("put without being told whom to tell")
