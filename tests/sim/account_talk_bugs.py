"""Bugs planted in how accounts listen, remember, ask again and leave memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from actors import account as account_module
from actors import account_customers, account_receipts, account_runner
from actors.account import Account
from actors.account_io import RETRY_S, Outbox
from actors.account_partition import AccountPartition
from actors.account_queue import Entry
from actors.account_runner import AccountRunner
from actors.account_state import ACCEPTED, Attempt, pack
from channels.provider import Bundle
from hub.errors import TactError


def cursor_noted_in_the_next_turn(patch: pytest.MonkeyPatch) -> None:
    take, gather = account_runner.take_bundle, AccountRunner._gather
    late: list[tuple[Any, str, Mapping[str, bytes | None]]] = []

    def apart(effects: Any, heard: Any, account: Account, bundle: Bundle, now: int) -> None:
        take(effects, heard, account, replace(bundle, notes={}), now)
        late.append((heard, account.name, bundle.notes))

    async def behind(self: AccountRunner) -> None:
        noted, late[:] = list(late), []
        for heard, name, notes in noted:
            for key, value in notes.items():
                heard.note(name, key, value)
        await gather(self)

    patch.setattr(account_runner, "take_bundle", apart)
    patch.setattr(AccountRunner, "_gather", behind)


def notes_lost_on_recovery(patch: pytest.MonkeyPatch) -> None:
    begin = AccountPartition.begin

    def forgetful(self: AccountPartition) -> None:
        begin(self)
        self.notes.clear()

    patch.setattr(AccountPartition, "begin", forgetful)


def bundle_id_not_remembered(patch: pytest.MonkeyPatch) -> None:
    taken = account_receipts._taken

    def forgetful(effects: Any, account: Account, id: str, now: int) -> bool:
        return not id.startswith("both") and taken(effects, account, id, now)

    patch.setattr(account_receipts, "_taken", forgetful)


def what_follows_a_message_is_not_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(account_customers, "pack", lambda peer: pack(replace(peer, followed=[])))


def a_closed_window_is_not_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(account_module, "closed", lambda *_: None)


def again_is_false_for_what_may_have_been_sent(patch: pytest.MonkeyPatch) -> None:
    repeat = Account._repeat

    def blank(self: Account, entry: Entry, now: int) -> None:
        repeat(self, entry, now)
        entry.attempt.unsure = False

    patch.setattr(Account, "_repeat", blank)


def told_as_failed_though_it_may_have_arrived(patch: pytest.MonkeyPatch) -> None:
    end = Account._end

    def sure(self: Account, delivery: str, attempt: Attempt, *rest: Any) -> None:
        unsure, attempt.unsure = attempt.unsure, False
        end(self, delivery, attempt, *rest)
        attempt.unsure = unsure

    patch.setattr(Account, "_end", sure)


def what_nobody_confirms_is_never_told(patch: pytest.MonkeyPatch) -> None:
    give_up = Account.give_up_waiting

    def silent(self: Account, delivery: str, attempt: Attempt, now: int) -> None:
        if attempt.state == ACCEPTED:
            self._linger(delivery, attempt, now)
        else:
            give_up(self, delivery, attempt, now)

    patch.setattr(Account, "give_up_waiting", silent)


def put_away_with_something_waiting(patch: pytest.MonkeyPatch) -> None:
    def idle(self: Account, now: int) -> bool:
        return not self.open and now - self.touched_ms >= account_module.IDLE_MS

    patch.setattr(Account, "idle", idle)


def what_is_put_away_is_taken_for_gone(patch: pytest.MonkeyPatch) -> None:
    due = AccountPartition.due

    def narrow(self: AccountPartition, now: int, most: int, _: Any) -> None:
        due(self, now, most, self.accounts.get)

    patch.setattr(AccountPartition, "due", narrow)


def turns_are_told_side_by_side(patch: pytest.MonkeyPatch) -> None:
    """One that fails is repeated when later ones are in INTAKE."""

    async def tell(self: Outbox, partition: AccountPartition, key: str) -> None:
        while key in partition.unsent and not partition.lost:
            try:
                await self._ledger.tell(partition.unsent[key])
            except TactError:
                await asyncio.sleep(RETRY_S)
                continue
            partition.settled(key)
            self._look()

    def send(self: Outbox, partition: AccountPartition) -> None:
        begun = self.__dict__.setdefault("begun", set())
        for key in partition.unsent:
            if (partition, key) not in begun:
                begun.add((partition, key))
                self._start(tell(self, partition, key))

    patch.setattr(Outbox, "send", send)


TALK_BUGS: dict[Any, tuple[int | range, str]] = {
    cursor_noted_in_the_next_turn: (10, "cursor "),
    notes_lost_on_recovery: (60, " times: "),
    bundle_id_not_remembered: (30, " times: "),
    what_follows_a_message_is_not_stored: (60, "sent into a closed window"),
    a_closed_window_is_not_believed: (60, "sent into a closed window"),
    again_is_false_for_what_may_have_been_sent: (30, "a repeat that is not said to be one"),
    told_as_failed_though_it_may_have_arrived: (60, "told as failed, and it was taken"),
    what_nobody_confirms_is_never_told: (30, "every-delivery-ends: never-told"),
    put_away_with_something_waiting: (30, "not quiet after"),
    what_is_put_away_is_taken_for_gone: (30, " is known: "),
    turns_are_told_side_by_side: (range(60, 100), "everybody-is-heard: out-of-order"),
}
"""A planted bug, the seeds (or how many) within which it must be found, and as what."""
