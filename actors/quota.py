"""The long limits of an account: rolling windows of more than ten seconds, dates and months.

They outlive the process, so the account writes them down in the turn that opens attempts, before
anything leaves (`dump`, `recipient_dump`). What is written then still says "open" of what leaves
afterwards, and after a crash everything open counts as having left at the restart: later than it
can have, so no window is ever fuller than its limit. Limits of ten seconds and less are the
pacer's.

Every `take` is followed by one `move` (it left) or one `give_back` (it did not). After a restart
nothing is open: what is sent again is asked for and taken again.

A limit that is new in the configuration counts from then on; one whose number has changed keeps
what was counted.
"""

from __future__ import annotations

from itertools import islice

import msgspec
from msgspec import Struct, field

from actors.window import (
    CalendarWindow,
    Kept,
    Limit,
    Per,
    Ready,
    Window,
    parse_limit,
    plan_of,
    window_of,
)
from hub.errors import TactError

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


class StateError(TactError):
    """What was written down of a quota cannot be read."""

    code = "quota-state-invalid"


class _State(Struct, array_like=True):
    """Packed by position: new fields go to the end."""

    account: list[Kept] = field(default_factory=list)
    apps: dict[str, list[Kept]] = field(default_factory=dict)


_Windows = list[Window | CalendarWindow]

_pack = msgspec.msgpack.Encoder().encode
_unpack_state = msgspec.msgpack.Decoder(_State).decode
_unpack_kept = msgspec.msgpack.Decoder(list[Kept]).decode


class Quota:
    """What an account may open, by its long limits. Small while nothing is counted."""

    __slots__ = ("_account", "_apps", "_loaded_ms", "_plan", "_recipients", "_zone")

    def __init__(self, limits: tuple[Limit, ...], zone: str) -> None:
        """`zone`: IANA name of the zone whose dates count."""
        self._plan = plan_of(limits, False)
        self._zone = zone
        self._loaded_ms = 0.0
        """What was taken before is not open any more."""
        self._account: _Windows | None = None
        self._apps: dict[str, _Windows] | None = None
        self._recipients: dict[str, bytes] | None = None
        """In the order in which they were last counted for; packed, as they are written down."""

    # ---- asking and counting ---------------------------------------------------------------------

    def ready(self, app: str, recipient: str, units: int, now: float) -> Ready:
        """When an attempt of so many units may be opened; inf when it is more than a limit."""
        at, scope, text = now, "", ""
        for per, windows in self._asked(app, recipient):
            if windows is None:
                full = self._full_ms(per, now)
                if full > at:
                    at, scope, text = full, per, "full"
                windows = self._new(per)
            for window in windows:
                earliest = window.ready_ms(units, now)
                if earliest > at:
                    at, scope, text = earliest, per, window.limit.text
        return Ready(at, scope, text)  # type: ignore[arg-type]

    def take(self, app: str, recipient: str, units: int, at: float) -> None:
        """An attempt is opened now, which is `at` (not when it is meant to leave)."""
        for windows in self._counted(app):
            for window in windows:
                window.claim(units)
        if self._plan.recipient:
            windows = self._recipient(recipient) or self._new("recipient")
            for window in windows:
                window.claim(units)
            self._remember(recipient, windows, at)

    def move(self, app: str, recipient: str, units: int, from_at: float, to_at: float) -> None:
        """What was opened at `from_at` left at `to_at`."""
        opened = from_at >= self._loaded_ms
        for windows in self._counted(app):
            _left(windows, units, to_at, opened)
        if self._plan.recipient:
            windows = self._recipient(recipient) or self._new("recipient")
            _left(windows, units, to_at, opened)
            self._remember(recipient, windows, to_at)

    def give_back(self, app: str, recipient: str, units: int, at: float) -> None:
        """What was opened at `at` will not leave."""
        if at < self._loaded_ms:
            return
        for windows in self._counted(app):
            for window in windows:
                window.give_back(units)
        windows = self._recipient(recipient)
        if windows is not None:
            for window in windows:
                window.give_back(units)
            self._remember(recipient, windows, at)

    # ---- what is written down --------------------------------------------------------------------

    def dump(self, now: float) -> bytes:
        """The account's and the applications' windows: a few hundred bytes for each."""
        apps = {app: _kept(windows, now) for app, windows in (self._apps or {}).items()}
        return _pack(
            _State(
                _kept(self._account or [], now),
                {app: kept for app, kept in apps.items() if kept},
            )
        )

    def load(self, data: bytes, now: float) -> None:
        """After a restart, before anything is taken: what `dump` gave last. Raises StateError."""
        try:
            state = _unpack_state(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StateError("the counts of an account cannot be read") from error
        self._loaded_ms = now
        if state.account:
            self._account = self._restored("account", state.account, now)
        for app, kept in state.apps.items():
            if self._apps is None:
                self._apps = {}
            self._apps[app] = self._restored("app", kept, now)

    def recipient_dump(self, recipient: str) -> bytes | None:
        """One recipient's windows, some tens of bytes; None when nothing is counted for it, and a
        value written down earlier may be deleted."""
        return None if self._recipients is None else self._recipients.get(recipient)

    def recipient_load(self, recipient: str, data: bytes, now: float) -> bool:
        """After a restart, before this recipient is asked for: what `recipient_dump` gave last.
        Raises StateError.

        False when nothing of it counts any more, and the value may be deleted.
        """
        windows = self._restored("recipient", _unpack_recipient(data), now)
        self._remember(recipient, windows, now)
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
        if self._plan.recipient:
            found.append(("recipient", self._recipient(recipient)))
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

    def _restored(self, per: Per, kept: list[Kept], now: float) -> _Windows:
        windows = self._new(per)
        by_key = {one.key: one for one in kept}
        for window in windows:
            if window.limit.key in by_key:
                window.load(by_key[window.limit.key], now)
        return windows

    def _full_ms(self, per: Per, now: float) -> float:
        """When a new application or recipient can be remembered, as far as known."""
        known, most = (self._recipients, RECIPIENTS) if per == "recipient" else (self._apps, APPS)
        return now if per == "account" or len(known or ()) < most else now + FULL_WAIT_MS

    # ---- recipients ------------------------------------------------------------------------------

    def _recipient(self, recipient: str) -> _Windows | None:
        data = self.recipient_dump(recipient)
        if data is None:
            return None
        windows = self._new("recipient")
        kept = {one.key: one for one in _unpack_recipient(data)}
        for window in windows:
            one = kept.get(window.limit.key)
            if one is not None:
                window.load(one)
        return windows

    def _remember(self, recipient: str, windows: _Windows, now: float) -> None:
        if self._recipients is None:
            self._recipients = {}
        self._recipients.pop(recipient, None)
        kept = _kept(windows, now)
        if kept:
            self._recipients[recipient] = _pack(kept)

    def _forget_recipients(self, now: float) -> list[str]:
        known = self._recipients
        if not known:
            return []
        forgotten = []
        for recipient in list(islice(known, FORGET_AT_ONCE)):
            empty = _empty_ms(self._recipient(recipient) or [])
            if empty <= now:
                del known[recipient]
                forgotten.append(recipient)
            elif empty == float("inf"):
                known[recipient] = known.pop(recipient)  # is open: look at those behind it
            else:
                break
        return forgotten


def _left(windows: _Windows, units: int, at: float, opened: bool) -> None:
    for window in windows:
        if opened:
            window.move(units, at)
        else:
            window.take(units, at)


def _kept(windows: _Windows, now: float) -> list[Kept]:
    return [kept for window in windows if (kept := window.dump(now)) is not None]


def _empty_ms(windows: _Windows) -> float:
    return max((window.empty_ms() for window in windows), default=0.0)


def _unpack_recipient(data: bytes) -> list[Kept]:
    try:
        return _unpack_kept(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StateError("the counts of a recipient cannot be read") from error
