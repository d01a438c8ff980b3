"""Bugs of talk that the simulation must find when they are planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from actors import reminders, replies, turn
from actors.conversation import Conversation
from actors.partition import Partition
from hub.ledger.port import Entry, LedgerUnavailable
from hub.policy import windows
from hub.policy.rules import NEVER
from hub.policy.state import unpack_state, window_key
from hub.policy.words import Words
from tests.support.model import ModelLedger
from tests.support.network import Refused

Bug = Callable[[pytest.MonkeyPatch], None]


def reminders_lost_on_recovery(patch: pytest.MonkeyPatch) -> None:
    """A new owner wakes only those for whom something is held."""
    init = Partition.__init__

    def sleepy(self: Partition, image: Any) -> None:
        init(self, image)
        self.wakes = [wake for wake in self.wakes if unpack_state(self.states[wake[1]]).held]

    patch.setattr(Partition, "__init__", sleepy)


def reminders_not_scheduled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reminders, "next_due", lambda *_: NEVER)


def answered_and_still_reminded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Conversation, "_answered", lambda *_: None)


def replies_every_time(patch: pytest.MonkeyPatch) -> None:
    """When a rule has answered is not stored."""
    patch.setattr(replies, "answered", lambda *_: None)


def refusal_not_kept_to(patch: pytest.MonkeyPatch) -> None:
    """A rule without an answer does nothing."""
    answering = replies.answering

    def with_answer(*args: Any) -> list[Any]:
        return [rule for rule in answering(*args) if rule.answer is not None]

    patch.setattr(replies, "answering", with_answer)


def words_are_said(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Words, "blocks", lambda *_: ())


def windows_do_not_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(windows, "sent", lambda *_: None)


def windows_stay_used_up(patch: pytest.MonkeyPatch) -> None:
    """Her message does not set the count back."""
    wrote = windows.wrote

    def counting_on(policy: Any, state: Any, channel: str, account: str, *times: int) -> Any:
        key = window_key(channel, account)
        used = state.windows.get(key, (0, 0))[1]
        opened = wrote(policy, state, channel, account, *times)
        if used:
            state.windows[key][1] = used
        return opened

    patch.setattr(windows, "wrote", counting_on)


def she_writes_and_nothing_goes(patch: pytest.MonkeyPatch) -> None:
    """What a window holds is not decided again."""
    wrote = windows.wrote
    patch.setattr(windows, "wrote", lambda *args: wrote(*args) and [])


def feeds_outside_the_batch(patch: pytest.MonkeyPatch) -> None:
    _store_apart(patch, "hub.live.")


def events_outside_the_batch(patch: pytest.MonkeyPatch) -> None:
    _store_apart(patch, "hub.event.")


def _store_apart(patch: pytest.MonkeyPatch, subjects: str) -> None:
    """Some of a commit is stored before it: it stays there whatever becomes of the commit."""
    commit = ModelLedger.commit

    async def in_two(
        self: ModelLedger, commit_id: str, entries: Sequence[Entry], fences: Mapping[int, int]
    ) -> int:
        apart = [entry for entry in entries if entry.subject.startswith(subjects)]
        if apart:
            with suppress(LedgerUnavailable, Refused):  # nobody looks
                await self.network.request("commit", partial(self.streams.store, apart))
        rest = [entry for entry in entries if not entry.subject.startswith(subjects)]
        return await commit(self, commit_id, rest, fences)

    patch.setattr(ModelLedger, "commit", in_two)


def feeds_by_account_only(patch: pytest.MonkeyPatch) -> None:
    """What the accounts of a turn say is sorted, and no longer as it was said."""
    close = turn.Work.close

    def sorted_by_name(self: turn.Work) -> None:
        close(self)
        for said in self.feeds.values():
            said.sort(key=lambda message: message.direction)

    patch.setattr(turn.Work, "close", sorted_by_name)


TALK_BUGS: dict[Bug, tuple[int, str]] = {
    reminders_lost_on_recovery: (20, "reminders: given late"),
    reminders_not_scheduled: (10, "reminders: forgotten"),
    answered_and_still_reminded: (10, "reminders: not those that are due"),
    replies_every_time: (10, "replies: not what the rules say"),
    refusal_not_kept_to: (20, "replies: dnd not set"),
    words_are_said: (20, "words: words-"),
    windows_do_not_count: (20, "windows: over-a-window"),
    windows_stay_used_up: (30, "is open and named"),
    she_writes_and_nothing_goes: (10, "windows: not decided again"),
    feeds_outside_the_batch: (10, "live-feed: shown-and-not-"),
    events_outside_the_batch: (20, "events on hub.event."),
    feeds_by_account_only: (10, "feeds on hub.live."),
}
"""As BUGS, of the seeds with talk."""
