"""Bugs planted in how a newer delivery replaces what waits."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors import account_admission
from actors.account import Account
from actors.account_state import Attempt
from hub.contract.types import Delivery


def older_leaves_all_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(account_admission, "_replaced", lambda *_: False)


def told_as_superseded_and_kept(patch: pytest.MonkeyPatch) -> None:
    refuse = Account.refuse

    def lenient(self: Account, delivery: str, failure: Any, code: str, now: int) -> None:
        if failure != "superseded":
            refuse(self, delivery, failure, code, now)
            return
        entry = self.queue.by_id[delivery]
        self.tell(delivery, entry.attempt, "failed", now, failure, code)

    patch.setattr(Account, "refuse", lenient)


def newer_dropped(patch: pytest.MonkeyPatch) -> None:
    def first_wins(account: Account, attempt: Attempt, now: int) -> bool:
        waits = account.queue.of(attempt.customer)
        return any(entry.attempt.collapse == attempt.collapse for entry in waits)

    patch.setattr(account_admission, "_replaced", first_wins)


def collapse_key_of_any_application(patch: pytest.MonkeyPatch) -> None:
    key = account_admission._key

    def blind(delivery: Delivery) -> bytes:
        return key(replace(delivery, app=""))

    patch.setattr(account_admission, "_key", blind)


def what_may_have_left_is_replaced(patch: pytest.MonkeyPatch) -> None:
    """And taken for gone."""
    replaced = account_admission._replaced

    def rash(account: Account, attempt: Attempt, now: int) -> bool:
        for entry in account.queue.of(attempt.customer):
            if entry.attempt.collapse == attempt.collapse:
                entry.attempt.unsure = False
        return replaced(account, attempt, now)

    patch.setattr(account_admission, "_replaced", rash)


COLLAPSE_BUGS: dict[Any, tuple[int | range, str]] = {
    older_leaves_all_the_same: (10, "newest-only: "),
    told_as_superseded_and_kept: (10, "every-delivery-ends: told-backwards"),
    newer_dropped: (10, "superseded by nothing"),
    collapse_key_of_any_application: (10, "superseded by nothing"),
    what_may_have_left_is_replaced: (30, "superseded, and it may have left"),
}
"""A planted bug, the seeds (or how many) within which it must be found, and as what."""
