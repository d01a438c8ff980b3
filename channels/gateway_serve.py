"""Sending side by side: a bounded number of calls, none of whose errors is lost."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from channels.gateway_deliveries import Deliveries
from channels.gateway_errors import GatewayError
from channels.gateway_parcels import Parcel

_log = structlog.get_logger(__name__)

Send = Callable[[Parcel], Awaitable[None]]


async def serve(reader: Deliveries, send: Send, most: int) -> None:
    """`Gateway.serve`: at most `most` calls of `send` at a time."""
    room = asyncio.Semaphore(most)  # a call may go on after its parcel is settled
    tasks: set[asyncio.Task[None]] = set()
    failure: GatewayError | None = None

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        room.release()

    try:
        try:
            async for parcel in reader:
                await room.acquire()
                task = asyncio.create_task(_send_one(send, parcel, reader))
                tasks.add(task)
                task.add_done_callback(ended)
        except GatewayError as error:
            failure = error
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failure is not None:
        raise failure


async def _send_one(send: Send, parcel: Parcel, reader: Deliveries) -> None:
    try:
        try:
            await send(parcel)
        except Exception as error:
            # Not its message, which may quote an address: its name, and where.
            _log.error(
                "gateway.send_raised",
                delivery=parcel.id,
                error=type(error).__name__,
                where=_place(error),
            )
            if not parcel.settled:
                await parcel.unknown(code=type(error).__name__)
        else:
            if not parcel.settled:
                await parcel.done()
    except GatewayError as error:
        reader.give_up(error)


def _place(error: BaseException) -> str:
    """File and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
