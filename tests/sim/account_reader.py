"""Reads what a carrier keeps for an account, page by page, as the reader of customer service does.

A page is reported as a bundle with the cursor behind it; the next is asked for when it is stored,
the same again when it is not. A successor goes on from the cursor that was noted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from channels.provider import Bundle, Events
from tests.sim.account_carrier import Carrier, Report

CURSOR = "cursor"
"""The note."""
AGAIN_S = 1.0
"""Before a page that could not be stored is read again."""
PULL_S = 0.05


class ModelReader:
    """The reader of one host."""

    def __init__(
        self,
        carrier: Carrier,
        events: Events,
        alive: Callable[[], bool],
        context: Callable[[float, Callable[[], None]], None],
    ) -> None:
        """`context` calls something later, in this host."""
        self.busy = False
        self._carrier = carrier
        self._events = events
        self._alive = alive
        self._later = context
        self._cursor = 0

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Go on where the notes say."""
        self._cursor = int(notes.get(CURSOR, b"0"))
        self._carrier.happened["read on from a note"] += self._cursor > 0
        for report in self._carrier.kept[: self._cursor]:  # a former owner may have died of it
            if not report.confirmed:
                self._carrier.stored(report, True)
        self.hint()

    def hint(self) -> None:
        """There may be something."""
        if not self.busy:
            self.busy = True
            self._later(PULL_S, self._page)

    @property
    def done(self) -> bool:
        """Nothing is left to be read, nor being stored."""
        return not self.busy and self._cursor == len(self._carrier.kept)

    def _page(self) -> None:
        carrier = self._carrier
        page = carrier.kept[self._cursor : self._cursor + carrier.manner.page]
        if not (self._alive() and carrier.up and page):
            self.busy = False
            return
        after = self._cursor + len(page)
        bundle = Bundle(
            id=f"page-{self._cursor}-{after}" if carrier.manner.names else "",
            receipts=tuple(each.receipt for each in page if each.receipt is not None),
            inbound=tuple(each.inbound for each in page if each.inbound is not None),
            commands=tuple(each.command for each in page if each.command is not None),
            notes={CURSOR: str(after).encode()},
        )
        called: list[bool] = []
        self._events.bundle(bundle, partial(self._stored, page, after, called))

    def _stored(self, page: list[Report], after: int, called: list[bool], well: bool) -> None:
        called.append(well)
        if len(called) > 1:
            self._carrier.broken.append("stored() was called twice")
        if not well:
            self._carrier.happened["page not stored"] += 1
            self._later(AGAIN_S, self._page)
            return
        self._carrier.happened["page stored"] += 1
        self._cursor = after
        for report in page:
            self._carrier.stored(report, True)
        asyncio.get_running_loop().call_soon(self._page)
