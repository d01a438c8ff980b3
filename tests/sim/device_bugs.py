"""Bugs of devices that the simulation must find when they are planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from actors import conversation
from actors import devices as several
from actors.conversation import Conversation
from hub.policy import devices
from hub.policy.state import FAILED, ConversationState, Copies

Bug = Callable[[pytest.MonkeyPatch], None]


def every_device_counts(patch: pytest.MonkeyPatch) -> None:
    """A dispatch to three devices is three for the caps."""
    note = several.note

    def counting(state: ConversationState, *rest: Any) -> None:
        note(state, *rest)
        state.sends[:0] = [replace(state.sends[0], attempt=100) for _ in rest[-1]]

    patch.setattr(conversation, "note", counting)


def one_that_failed_is_all(patch: pytest.MonkeyPatch) -> None:
    """A dispatch has failed when any device has."""
    whole = several.whole

    def hasty(copies: Copies) -> int:
        return FAILED if FAILED in copies.status else whole(copies)

    patch.setattr(several, "whole", hasty)


def devices_speak_for_themselves(patch: pytest.MonkeyPatch) -> None:
    """What another device has said already is told again."""
    on_receipt = Conversation._on_receipt

    def forgetful(self: Conversation, receipt: Any, now: int) -> None:
        _, _, number = conversation.split_delivery_id(receipt.delivery)
        for send in self.state.sends if number > 100 else ():
            send.status = 0
        on_receipt(self, receipt, now)

    patch.setattr(Conversation, "_on_receipt", forgetful)


def only_the_first_speaks(patch: pytest.MonkeyPatch) -> None:
    """What further devices say is lost."""
    patch.setattr(conversation, "copies_of", lambda *_: None)


def the_dead_live_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conversation, "bury", lambda *_: False)


def seen_since_and_buried(patch: pytest.MonkeyPatch) -> None:
    """An address is forgotten though she was seen with it after it was said to be dead."""
    died = devices.died
    patch.setattr(several, "died", lambda state, account, to, _: died(state, account, to, 1 << 60))


def buried_whoever_reaches_it(patch: pytest.MonkeyPatch) -> None:
    """The same token at another account is forgotten with it."""

    def careless(state: ConversationState, account: str, token: str, since: int) -> None:
        left = [
            each
            for each in devices.known(state)
            if each.seen > since or devices.split_address(each.address)[1] != token
        ]
        devices._keep(state, left)

    patch.setattr(several, "died", careless)


def signed_out_and_still_pushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(devices, "forget", lambda *_: None)


def to_all_there_ever_were(patch: pytest.MonkeyPatch) -> None:
    """Neither the number nor the age of devices matters."""
    further = devices.further
    patch.setattr(several, "further", lambda state, most, since: further(state, 10, 0))


def taken_back_and_tried_elsewhere(patch: pytest.MonkeyPatch) -> None:
    """What an account has taken back for a newer message is sent by the next channel."""
    patch.setattr(conversation, "superseded", lambda *_: False)


def replaced_and_tried_elsewhere(patch: pytest.MonkeyPatch) -> None:
    """A newer message leaves the remaining channels of an older one that is in flight."""
    drop = Conversation._drop

    def sparing(self: Conversation, gone: list[Any], state: str, *rest: Any, **more: Any) -> None:
        if state == "superseded":
            gone = [held for held in gone if not held.in_flight]
        drop(self, gone, state, *rest, **more)

    patch.setattr(Conversation, "_drop", sparing)


DEVICE_BUGS: dict[Bug, tuple[int, str]] = {
    every_device_counts: (10, "devices: not counted once"),
    one_that_failed_is_all: (10, "devices: told otherwise"),
    devices_speak_for_themselves: (10, "final-is-final: receipt-moves-backwards"),
    only_the_first_speaks: (10, "nothing-lost: receipt-without-effect"),
    the_dead_live_on: (10, "devices: others are remembered"),
    seen_since_and_buried: (20, "devices: others are remembered"),
    buried_whoever_reaches_it: (30, "devices: others are remembered"),
    signed_out_and_still_pushed: (10, "devices: others are remembered"),
    to_all_there_ever_were: (10, "exactly-once: too-many-devices"),
    taken_back_and_tried_elsewhere: (20, "fallback: replaced-and-told-as-failed"),
    replaced_and_tried_elsewhere: (20, "fallback: tried-after-it-was-replaced"),
}
"""As BUGS, of the seeds with several devices."""
