"""Bugs planted in how what is urgent is taken ahead of its turn."""

from __future__ import annotations

from typing import Any

import pytest

from actors.account_intake import DeliveryIntake
from actors.account_partition import AccountPartition
from actors.account_state import ahead_key
from hub.ledger.port import IntakeMessage
from tests.support.account_model import DeliveryReader


def ahead_not_written(patch: pytest.MonkeyPatch) -> None:
    take_ahead = AccountPartition.take_ahead

    def forgetful(self: AccountPartition, channel: str, sequence: int) -> None:
        take_ahead(self, channel, sequence)
        del self.changed[ahead_key(channel, sequence)]

    patch.setattr(AccountPartition, "take_ahead", forgetful)


def ahead_written_in_the_next_turn(patch: pytest.MonkeyPatch) -> None:
    take_ahead, begin = AccountPartition.take_ahead, AccountPartition._begin
    late: list[tuple[AccountPartition, str]] = []

    def behind(self: AccountPartition, channel: str, sequence: int) -> None:
        take_ahead(self, channel, sequence)
        key = ahead_key(channel, sequence)
        del self.changed[key]
        late.append((self, key))

    def next_turn(self: AccountPartition) -> None:
        begin(self)
        for each, key in [one for one in late if one[0] is self]:
            late.remove((each, key))
            if key in self.states:
                self.store(key, b"")

    patch.setattr(AccountPartition, "take_ahead", behind)
    patch.setattr(AccountPartition, "_begin", next_turn)


def ahead_forgotten_on_recovery(patch: pytest.MonkeyPatch) -> None:
    begin = AccountPartition.begin

    def forgetful(self: AccountPartition) -> None:
        begin(self)
        self.ahead.clear()

    patch.setattr(AccountPartition, "begin", forgetful)


def ahead_not_dropped(patch: pytest.MonkeyPatch) -> None:
    def hoarding(self: AccountPartition, channel: str, sequence: int) -> None:
        self.checkpoint[channel] = sequence
        self.moved = True

    patch.setattr(AccountPartition, "passed", hoarding)


def taken_ahead_and_in_its_turn(patch: pytest.MonkeyPatch) -> None:
    def blind(self: AccountPartition, channel: str, sequence: int) -> bool:
        return sequence <= self.checkpoint.get(channel, 0)

    patch.setattr(AccountPartition, "has", blind)


def checkpoint_goes_ahead(patch: pytest.MonkeyPatch) -> None:
    take_ahead = AccountPartition.take_ahead

    def hasty(self: AccountPartition, channel: str, sequence: int) -> None:
        take_ahead(self, channel, sequence)
        self.passed(channel, sequence)

    patch.setattr(AccountPartition, "take_ahead", hasty)


def urgent_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """The newest first: one is left out where the bound is met."""
    urgent = DeliveryReader.urgent

    def newest(self: DeliveryReader, lane: str, most: int) -> list[IntakeMessage]:
        return urgent(self, lane, 1_000)[-most:]

    patch.setattr(DeliveryReader, "urgent", newest)


def one_that_only_says_so_is_urgent(patch: pytest.MonkeyPatch) -> None:
    take = DeliveryIntake._take_ahead

    def credulous(self: DeliveryIntake, message: IntakeMessage, now: int) -> str | None:
        payload = message.payload.replace(b'"urgent":true', b'"burgen":true', 1)
        if b'"urgent":true' not in payload:
            payload = payload[:-1] + b',"urgent":true}'
        message.payload, kept = payload, message.payload
        try:
            return take(self, message, now)
        finally:
            message.payload = kept

    patch.setattr(DeliveryIntake, "_take_ahead", credulous)


AHEAD_BUGS: dict[Any, tuple[int | range, str]] = {
    ahead_not_written: (10, "taken, and would be again after a crash"),
    ahead_written_in_the_next_turn: (10, "taken, and would be again after a crash"),
    ahead_forgotten_on_recovery: (30, "was taken ahead"),
    ahead_not_dropped: (10, "was taken ahead"),
    taken_ahead_and_in_its_turn: (20, "every-delivery-ends: told-backwards"),
    checkpoint_goes_ahead: (10, "every-delivery-ends: "),
    urgent_out_of_order: (range(40, 50), "leaves-in-order: left-before-its-predecessor"),
    one_that_only_says_so_is_urgent: (30, "leaves-in-order: left-before-its-predecessor"),
}
