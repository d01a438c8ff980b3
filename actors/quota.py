"""The long limits of an account: rolling windows of more than ten seconds, dates and months.

They outlive the process, so the account writes them down in the turn that opens attempts, before
anything leaves (`dump`, `recipient_dump`). What is written then still says "open" of what leaves
afterwards, and after a crash everything open counts as having left at the restart: later than it
can have, so no window is ever fuller than its limit. A recipient's value may be read back much
later, restarts after the one that ended its attempts: the moments of the restarts are remembered
too. Limits of ten seconds and less are the pacer's.

Every `take` is followed by one `move` (it left) or one `give_back` (it did not), a `move` by one
`withdraw` if the provider did not take it. What it may have taken, and removes as a repeat if it
did, is counted once: it is taken again with the moment it left at before (`before`), and counts
from then on as leaving later. After a restart nothing is open: what is sent again is asked for and
taken again.

A limit that is new in the configuration counts from then on; one whose number has changed keeps
what was counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from actors.window import (
    CalendarWindow,
    Kept,
    Limit,
    Number,
    Per,
    Ready,
    Window,
    parse_limit,
    plan_of,
    window_of,
)
from hub.errors import TactError
from hub.policy.localtime import DAY_MS

__all__ = ["Limit", "Quota", "Ready", "StateError", "Window", "parse_limit"]

RECIPIENTS = 1_000_000
"""Recipients one account remembers; about 250 bytes each. Who is not among them then waits until
one is forgotten: nobody is sent too much. Only accounts with limits per recipient remember any."""
APPS = 1_024
"""Applications one account counts for; the next waits likewise."""
FULL_WAIT_MS = 1_000
"""How soon to ask again when no more can be remembered."""
FORGET_AT_ONCE = 1_000
"""Recipients looked at in one `forget_idle`: some milliseconds. Once a second keeps up."""


RESTARTS = 32
"""Restarts of an account remembered. Of more the one with the next soonest after it is dropped:
what was open at it counts as having left at that next one."""


LONGEST_MS = 32 * DAY_MS
"""Longer than any window."""

_T = TypeVar("_T")


class StateError(TactError):
    """What was written down of a quota cannot be read."""

    code = "quota-state-invalid"


class _State(Struct, array_like=True):
    """What is written down of an account. Packed by position: new fields go to the end."""

    account: list[Kept] = field(default_factory=list)
    apps: dict[str, list[Kept]] = field(default_factory=dict)
    restarts: list[Number] = field(default_factory=list)
    """When it was loaded, rising."""


class _Recipient(Struct, array_like=True, gc=False):
    """What is written down of a recipient."""

    opened_ms: Number
    """When something was opened last, if anything is open."""
    windows: list[Kept]


_Windows = list[Window | CalendarWindow]

_pack = msgspec.msgpack.Encoder().encode
_unpack_state = msgspec.msgpack.Decoder(_State).decode
_unpack_recipient = msgspec.msgpack.Decoder(_Recipient).decode


class Quota:
    """What an account may open, by its long limits. Small while nothing is counted."""

    __slots__ = ("_account", "_apps", "_known_ms", "_plan", "_recipients", "_restarts", "_zone")

    def __init__(self, limits: tuple[Limit, ...], zone: str) -> None:
        """`zone`: IANA name of the zone whose dates count."""
        self._plan = plan_of(limits, False)
        self._zone = zone
        self._restarts: tuple[int, ...] = ()
        """When what had been written down was loaded, rising."""
        self._known_ms = 0.0
        """What left before, some of these windows may never have counted."""
        self._account: _Windows | None = None
        self._apps: dict[str, _Windows] | None = None
        self._recipients: dict[str, bytes] | None = None
        """In the order in which they were last counted for; packed, as they are written down."""

    def configured(self, limits: tuple[Limit, ...], zone: str, now: float) -> Quota:
        """With other limits from now on: what is counted and open stays so."""
        quota = Quota(limits, zone)
        quota._restarts, quota._known_ms = self._restarts, now + 1  # `now` may be of whole ms
        quota._account = self._account and quota._restored("account", _kept(self._account, now))
        quota._apps = self._apps and {
            app: quota._restored("app", _kept(windows, now)) for app, windows in self._apps.items()
        }
        quota._recipients = self._recipients
        return quota

    # ---- asking and counting ---------------------------------------------------------------------

    def ready(self, app: str, recipient: str, units: int, now: float, before: float = 0.0) -> Ready:
        """When an attempt of so many units may be opened; inf when it is more than a limit.

        `recipient` "", here and below: no limit per recipient counts it. `before`: it left at this
        moment and is the same once more; 0 for another.
        """
        at, scope, text = now, "", ""
        before = self._still_known(before)
        for per, windows in self._asked(app, recipient):
            if windows is None:
                full = self._full_ms(per, now)
                if full > at:
                    at, scope, text = full, per, "full"
                windows = self._new(per)
            for window in windows:
                if before and window.holds(units, before, now):
                    continue  # no fuller by it
                earliest = window.ready_ms(units, now)
                if earliest > at:
                    at, scope, text = earliest, per, window.limit.text
        return Ready(at, scope, text)  # type: ignore[arg-type]

    def take(self, app: str, recipient: str, units: int, at: float, before: float = 0.0) -> None:
        """An attempt is opened now, which is `at` (not when it is meant to leave)."""
        before = self._still_known(before)
        for windows in self._counted(app):
            _claim(windows, units, before, at)
        if self._plan.recipient and recipient:
            _, windows = self._recipient(recipient) or (0, self._new("recipient"))
            _claim(windows, units, before, at)
            self._remember(recipient, int(at), windows, at)

    def move(self, app: str, recipient: str, units: int, from_at: float, to_at: float) -> None:
        """What was opened at `from_at` left at `to_at`."""
        opened = from_at >= self._loaded_ms
        for windows in self._counted(app):
            _left(windows, units, to_at, opened)
        if self._plan.recipient and recipient:
            opened_ms, windows = self._recipient(recipient) or (0, self._new("recipient"))
            _left(windows, units, to_at, opened)
            self._remember(recipient, opened_ms, windows, to_at)

    def give_back(self, app: str, recipient: str, units: int, at: float) -> None:
        """What was opened at `at` will not leave."""
        if at < self._loaded_ms:
            return
        for windows in self._counted(app):
            for window in windows:
                window.give_back(units)
        known = self._recipient(recipient)
        if known is not None:
            for window in known[1]:
                window.give_back(units)
            self._remember(recipient, *known, at)

    def withdraw(self, app: str, recipient: str, units: int, left_at: float, now: float) -> None:
        """What left at that moment was not taken."""
        if not self._still_known(left_at):
            return
        for windows in self._counted(app):
            for window in windows:
                window.withdraw(units, left_at, now)
        known = self._recipient(recipient)
        if known is not None:
            for window in known[1]:
                window.withdraw(units, left_at, now)
            self._remember(recipient, *known, now)

    # ---- what is written down --------------------------------------------------------------------

    def dump(self, now: float) -> bytes:
        """The account's and the applications' windows: a few hundred bytes for each."""
        apps = {app: _kept(windows, now) for app, windows in (self._apps or {}).items()}
        return _pack(
            _State(
                _kept(self._account or [], now),
                {app: kept for app, kept in apps.items() if kept},
                list(self._restarts),
            )
        )

    def load(self, data: bytes, now: float) -> None:
        """After a restart, before anything is asked: what `dump` gave last. Raises StateError."""
        state = _decoded(_unpack_state, data)
        self._restarts = _thinned([*state.restarts, int(now)], now)
        if state.account:
            self._account = self._restored("account", state.account, now)
            _all_left(self._account, now)
        if state.apps:
            self._apps = {app: self._restored("app", kept, now) for app, kept in state.apps.items()}
            for windows in self._apps.values():
                _all_left(windows, now)

    def rest(self, now: float) -> None:
        """Nothing is open, and what was written of recipients before had left by now: it leaves
        memory, maybe for days."""
        self._restarts = _thinned([*self._restarts, int(now)], now)

    def recipient_dump(self, recipient: str) -> bytes | None:
        """One recipient's windows, some tens of bytes; None when nothing is counted for it, and a
        value written down earlier may be deleted."""
        return None if self._recipients is None else self._recipients.get(recipient)

    def recipient_load(self, recipient: str, data: bytes, now: float) -> bool:
        """What `recipient_dump` gave last, before this recipient is asked for: at any time after
        `load`, and also when it has been forgotten since. Raises StateError.

        False when nothing of it counts any more, and the value may be deleted.
        """
        if self.recipient_dump(recipient) is None:
            kept = _decoded(_unpack_recipient, data)
            # All that was open was opened by one process, and left before the next was there; if
            # by this one, it was moved and forgotten, and does not count whatever stands here.
            ends = (at for at in self._restarts if at > kept.opened_ms)
            windows = self._restored("recipient", kept.windows, now)
            _all_left(windows, min(next(ends, kept.opened_ms), now))
            self._remember(recipient, 0, windows, now)
        return self.recipient_dump(recipient) is not None

    def forget_idle(self, now: float) -> list[str]:
        """Drop what does not count any more; the recipients dropped, whose values may be deleted.

        Looks at FORGET_AT_ONCE recipients at most: call it from time to time.
        """
        if self._account and _empty_ms(self._account) <= now:
            self._account = None
        if self._apps:
            for app in [app for app, windows in self._apps.items() if _empty_ms(windows) <= now]:
                del self._apps[app]
        return self._forget_recipients(now)

    # ---- windows ---------------------------------------------------------------------------------

    def _asked(self, app: str, recipient: str) -> list[tuple[Per, _Windows | None]]:
        """All windows that say something about an attempt; None for those not there yet."""
        found: list[tuple[Per, _Windows | None]] = []
        if self._plan.account:
            found.append(("account", self._account))
        if self._plan.app:
            found.append(("app", self._apps.get(app) if self._apps else None))
        if self._plan.recipient and recipient:
            known = self._recipient(recipient)
            found.append(("recipient", known and known[1]))
        return found

    def _counted(self, app: str) -> list[_Windows]:
        """The account's and the application's windows, made if need be."""
        found = []
        if self._plan.account:
            if self._account is None:
                self._account = self._new("account")
            found.append(self._account)
        if self._plan.app:
            if self._apps is None:
                self._apps = {}
            windows = self._apps.get(app)
            if windows is None:
                windows = self._apps[app] = self._new("app")
            found.append(windows)
        return found

    def _new(self, per: Per) -> _Windows:
        return [window_of(limit, self._zone) for limit in getattr(self._plan, per)]

    def _restored(self, per: Per, kept: list[Kept], latest: float = math.inf) -> _Windows:
        windows = self._new(per)
        for window in windows:
            key = window.limit.key
            for one in kept:
                if one.key == key:
                    window.load(one, latest)
        return windows

    @property
    def _loaded_ms(self) -> float:
        """What was taken before is not open any more."""
        return self._restarts[-1] if self._restarts else 0

    def _still_known(self, left_at: float) -> float:
        """The same if all windows have counted what left then, else 0."""
        return left_at if left_at >= max(self._known_ms, self._loaded_ms) else 0.0

    def _full_ms(self, per: Per, now: float) -> float:
        """When a new application or recipient can be remembered, as far as known."""
        known, most = (self._recipients, RECIPIENTS) if per == "recipient" else (self._apps, APPS)
        return now if per == "account" or len(known or ()) < most else now + FULL_WAIT_MS

    # ---- recipients ------------------------------------------------------------------------------

    def _recipient(self, recipient: str) -> tuple[int, _Windows] | None:
        """When something was opened for it last, and its windows."""
        data = self.recipient_dump(recipient)
        if data is None:
            return None
        kept = _unpack_recipient(data)
        return kept.opened_ms, self._restored("recipient", kept.windows)

    def _remember(self, recipient: str, opened_ms: int, windows: _Windows, now: float) -> None:
        if self._recipients is None:
            self._recipients = {}
        self._recipients.pop(recipient, None)
        kept = _kept(windows, now)
        if kept:
            is_open = any(one.open for one in kept)
            self._recipients[recipient] = _pack(_Recipient(opened_ms if is_open else 0, kept))

    def _forget_recipients(self, now: float) -> list[str]:
        known = self._recipients
        if not known:
            return []
        forgotten = []
        for recipient in list(islice(known, FORGET_AT_ONCE)):
            one = self._recipient(recipient)
            empty = _empty_ms(one[1]) if one else 0.0
            if empty <= now:
                del known[recipient]
                forgotten.append(recipient)
            elif empty == float("inf"):
                known[recipient] = known.pop(recipient)  # is open: look at those behind it
            else:
                break
        return forgotten


def _claim(windows: _Windows, units: int, before: float, now: float) -> None:
    for window in windows:
        if before and window.holds(units, before, now):
            window.withdraw(units, before, now)
        window.claim(units)


def _left(windows: _Windows, units: int, at: float, opened: bool) -> None:
    for window in windows:
        if opened:
            window.move(units, at)
        else:
            window.take(units, at)


def _all_left(windows: _Windows, at: float) -> None:
    """What is open left at `at` or before."""
    for window in windows:
        if window.open:
            window.move(window.open, at)


def _kept(windows: _Windows, now: float) -> list[Kept]:
    return [kept for window in windows if (kept := window.dump(now)) is not None]


def _empty_ms(windows: _Windows) -> float:
    return max((window.empty_ms() for window in windows), default=0.0)


def _decoded(decode: Callable[[bytes], _T], data: bytes) -> _T:
    try:
        return decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StateError("what was counted of an account's limits cannot be read") from error


def _thinned(restarts: list[int], now: float) -> tuple[int, ...]:
    """Of those that are out of every window the last, and RESTARTS at most of the others."""
    old = sum(at < now - LONGEST_MS for at in restarts)
    kept = restarts[max(0, old - 1) :]
    while len(kept) > RESTARTS:
        gaps = [later - earlier for earlier, later in pairwise(kept)]
        del kept[gaps.index(min(gaps))]
    return tuple(kept)
