"""The rules, compiled: each can say of one question whether it blocks, and until when.

A rule is asked with `block(question, state, instant)` and answers None, or a `Block` with the
earliest moment at which this rule alone would no longer block. Source: docs/policy.md, "The rules".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from hub.contract.subjects import fnv1a_32
from hub.policy import document as doc
from hub.policy import talks
from hub.policy.devices import account_for
from hub.policy.localtime import (
    DAY_MS,
    UNIX_ORDINAL,
    advance,
    period,
    reading,
    weekday,
)
from hub.policy.state import FAILED, FOREVER, ConversationState, Send, label_parts, window_key

NEVER = 1 << 62
"""A ready time that does not come by itself."""
MINUTES_REMEMBERED = 4_096
"""Answers of one quiet rule kept for one zone."""
LABELS_REMEMBERED = 4_096
"""Answers of one rule's filter kept; a hub has that many apps, categories and channels or fewer."""


class Block(Struct, frozen=True, gc=False):
    """One rule that stands in the way; `ready` is an instant in Unix ms, or NEVER."""

    rule: str
    kind: str
    action: str
    ready: int


class Question(Struct, gc=False):
    """One intent (of a combined send: one channel of it), as it is asked for at some moment.

    The rules look at the first fields; the others are what an answer is told with. `channel`
    changes as the route is walked.
    """

    key: str
    app: str
    category: str
    asked: Mapping[str, Asked]
    """By channel: the rules for this app and category."""
    priority: int
    route: list[str]
    expires: int
    not_before: int
    zone: str
    sender: str | None
    """The account to send from: the one the intent states, else the customer's owner."""
    spread: dict[str, int] | None
    """Quiet rule to the moment until which it goes on blocking this intent."""
    intent: str = ""
    attempt: int = 1
    combined: bool = False
    trace: str | None = None
    collapse_key: str | None = None
    channel: str = ""
    words: tuple[Block, ...] = ()
    """The rules of words that its content breaks, found when it arrives: `Words.blocks`."""


class Rule:
    """What all rules share: a name, a filter and an action."""

    kind = ""

    def __init__(self, rule: doc.Blocking | talks.Window) -> None:
        self.name = rule.name
        self.action: str = rule.on
        self.categories = _names(rule.categories)
        self.channels = _names(rule.channels)
        self.apps = _names(rule.apps)
        self.lets_through = _Labels(self)

    def matches(self, category: str, channel: str, app: str) -> bool:
        """Whether the filter lets this (category, channel, app) through."""
        return (
            (self.categories is None or category in self.categories)
            and (self.channels is None or channel in self.channels)
            and (self.apps is None or app in self.apps)
        )

    def block(self, question: Question, state: ConversationState, instant: int) -> Block | None:
        raise TypeError(f"{type(self).__name__} cannot be asked")


def _names(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


class _Labels(dict[str, bool]):
    """Label of a dispatch to whether a rule's filter lets it through, worked out once for each."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, label: str) -> bool:
        if len(self) >= LABELS_REMEMBERED:
            self.clear()
        channel, app, category = label_parts(label)
        # Without a category it is no message but an operation: a group made, a customer passed on.
        found = self[label] = bool(category) and self._rule.matches(category, channel, app)
        return found


class Cap(Rule):
    """At most `limit` dispatches in a window, rolling or of the local calendar."""

    kind = "cap"

    def __init__(self, rule: doc.Cap) -> None:
        super().__init__(rule)
        self.limit = rule.limit
        reserve = rule.reserve
        self.reserve_priority = 0 if reserve is None else reserve.priority
        self.limit_below_reserve = rule.limit if reserve is None else rule.limit - reserve.slots
        self.calendar = rule.window if rule.window in doc.CALENDAR else None
        self.window_ms = 0 if self.calendar else doc.duration_ms(rule.window, rule.name)
        self.per = rule.per

    @property
    def memory_ms(self) -> int:
        """How long a dispatch can matter to this cap."""
        longest = {"day": 2, "week": 8, "month": 32}
        return longest[self.calendar] * DAY_MS if self.calendar else self.window_ms

    def limit_for(self, priority: int) -> int:
        """The limit in force for an intent of this priority."""
        return self.limit if priority >= self.reserve_priority else self.limit_below_reserve

    def block(self, question: Question, state: ConversationState, instant: int) -> Block | None:
        limit = self.limit_for(question.priority)
        sends = state.sends
        if len(sends) < limit:
            return None
        if self.calendar is None:
            oldest, following = instant - self.window_ms + 1, 0
        else:
            oldest, following = period(question.zone, self.calendar, instant)
        lets_through, for_all = self.lets_through, self.per == "customer"
        mine = "" if for_all else self._mine(question, state)
        for send in sends:
            if send.at < oldest:
                return None
            if (
                lets_through[send.label]
                and send.status != FAILED
                and (for_all or self._part(send) == mine)
            ):
                limit -= 1
                if limit == 0:  # the limit-th most recent: when it leaves the window, one may go
                    ready = following or send.at + self.window_ms
                    return Block(self.name, "cap", self.action, ready)
        return None

    def used(self, question: Question, state: ConversationState, instant: int) -> int:
        """How many dispatches count at an instant, for people who ask."""
        oldest = (
            instant - self.window_ms + 1
            if self.calendar is None
            else period(question.zone, self.calendar, instant)[0]
        )
        mine = self._mine(question, state)
        return sum(
            send.at >= oldest
            and self.lets_through[send.label]
            and send.status != FAILED
            and self._part(send) == mine
            for send in state.sends
        )

    def _part(self, send: Send) -> str:
        """What the dispatch is counted together with."""
        if self.per == "customer":
            return ""
        return send.channel if self.per == "channel" else send.account

    def _mine(self, question: Question, state: ConversationState) -> str:
        """The same of what is asked for."""
        if self.per != "account":
            return question.channel if self.per == "channel" else ""
        return account_for(state, question.sender, question.channel)


class Gap(Rule):
    """At least `min` between two matching dispatches."""

    kind = "gap"

    def __init__(self, rule: doc.Gap) -> None:
        super().__init__(rule)
        self.min_ms = doc.duration_ms(rule.min, rule.name)

    @property
    def memory_ms(self) -> int:
        return self.min_ms

    def block(self, question: Question, state: ConversationState, instant: int) -> Block | None:
        oldest, lets_through = instant - self.min_ms, self.lets_through
        for send in state.sends:
            if send.at <= oldest:
                return None
            if lets_through[send.label] and send.status != FAILED:
                return Block(self.name, "gap", self.action, send.at + self.min_ms)
        return None


class Quiet(Rule):
    """Blocks while the local reading lies in a daily window, or the local date in `dates`."""

    kind = "quiet"

    def __init__(self, rule: doc.Quiet) -> None:
        super().__init__(rule)
        self.dates: frozenset[int] = frozenset()
        self.start = self.end = 0
        if rule.dates is None:
            self.start = doc.time_of_day_ms(rule.from_ or "", rule.name)
            self.end = doc.time_of_day_ms(rule.to or "", rule.name)
        else:
            self.dates = frozenset(
                ordinal - UNIX_ORDINAL
                for text in rule.dates
                for ordinal in doc.date_ordinals(text, rule.name)
            )
        self.days = frozenset(doc.DAYS.index(day) for day in rule.days or doc.DAYS)
        self.spread_ms = 0 if rule.spread is None else doc.duration_ms(rule.spread, rule.name)
        self._by_minute: dict[str, dict[int, int | None]] = {}

    def block(self, question: Question, state: ConversationState, instant: int) -> Block | None:
        # Windows begin and end, and zones change, on whole minutes: one answer serves a minute.
        minute = instant // 60_000
        try:
            ready = self._by_minute[question.zone][minute]
        except KeyError:
            ready = self._ask_clock(question.zone, minute)
        if self.spread_ms:
            ready = self._spread(question, ready, instant)
        return None if ready is None else Block(self.name, "quiet", self.action, ready)

    def _ask_clock(self, zone: str, minute: int) -> int | None:
        minutes = self._by_minute.setdefault(zone, {})
        if len(minutes) >= MINUTES_REMEMBERED:
            minutes.clear()
        ready = minutes[minute] = self.outside_at(zone, minute * 60_000)
        return ready

    def outside_at(self, zone: str, instant: int) -> int | None:
        """None when the reading at `instant` is outside; else the first instant at which it is."""
        end = self._window_end(reading(zone, instant))
        if end is None:
            return None
        while end is not None:  # a change of clocks can end a window early or prolong it
            instant = advance(zone, instant, end)
            end = self._window_end(reading(zone, instant))
        return instant

    def _window_end(self, local: int) -> int | None:
        """The reading at which the window that holds this reading ends, or None outside."""
        day, time_of_day = divmod(local, DAY_MS)
        if self.dates:
            return (day + 1) * DAY_MS if day in self.dates else None
        if self.start < self.end:
            inside = self.start <= time_of_day < self.end and weekday(day) in self.days
            return day * DAY_MS + self.end if inside else None
        if time_of_day >= self.start and weekday(day) in self.days:
            return (day + 1) * DAY_MS + self.end
        if time_of_day < self.end and weekday(day - 1) in self.days:
            return day * DAY_MS + self.end
        return None

    def _spread(self, question: Question, ready: int | None, instant: int) -> int | None:
        """Each conversation's own moment after the window; remembered once the rule has blocked."""
        until = 0 if question.spread is None else question.spread.get(self.name, 0)
        if ready is not None:
            until = max(until, ready + fnv1a_32(question.key) % self.spread_ms)
            question.spread = {**(question.spread or {}), self.name: until}
        return until if until > instant else None


class Presence(Rule):
    """Blocks while the customer talks with us: a recent inbound message, or a takeover."""

    kind = "presence"

    def __init__(self, rule: doc.Presence) -> None:
        super().__init__(rule)
        self.within_ms = doc.duration_ms(rule.within, rule.name)

    def block(self, question: Question, state: ConversationState, instant: int) -> Block | None:
        ready = 0
        if state.inbound and instant - state.inbound < self.within_ms:
            ready = state.inbound + self.within_ms
        if state.agent is not None:
            if state.takeover == FOREVER:
                ready = NEVER
            elif state.takeover > instant:
                ready = max(ready, state.takeover)
        return Block(self.name, "presence", self.action, ready) if ready else None


class Window(Rule):
    """Blocks on an account unless the customer has written there of late, and been sent little
    since. It opens with her next message only."""

    kind = "window"

    def __init__(self, rule: talks.Window) -> None:
        super().__init__(rule)
        self.limit = rule.limit
        self.within_ms = doc.duration_ms(rule.within, rule.name)
        self._closed = Block(self.name, "window", self.action, NEVER)

    def block(self, question: Question, state: ConversationState, instant: int) -> Block | None:
        account = account_for(state, question.sender, question.channel)
        wrote = state.windows.get(window_key(question.channel, account))
        return None if self.open_at(wrote, instant) else self._closed

    def open_at(self, wrote: Sequence[int] | None, instant: int) -> bool:
        """`wrote`: when the customer last wrote there, and the dispatches since."""
        return wrote is not None and wrote[1] < self.limit and instant - wrote[0] < self.within_ms


class Asked:
    """The rules that one (category, channel, app) is asked about, in the document's order.

    Most customers have had few messages lately: without any no gap can block (`never_sent`), and
    with fewer than the smallest limit of a cap, `fewest`, no cap (`rarely_sent`). `may_wait`: the
    policy has windows, for whichever channel.
    """

    __slots__ = (
        *("all", "dnd", "fewest", "label", "may_wait", "never_sent", "rarely_sent", "windows"),
    )

    def __init__(
        self,
        label: str,
        caps: Sequence[Cap],
        gaps: Sequence[Gap],
        others: Sequence[Rule],
        windows: Sequence[Window],
        *,
        dnd: bool,
        may_wait: bool,
    ) -> None:
        self.label = label
        self.may_wait = may_wait
        self.windows = tuple(windows)
        self.never_sent = (*others, *windows)
        self.rarely_sent = (*gaps, *self.never_sent)
        self.all = (*caps, *self.rarely_sent)
        self.fewest = min((cap.limit_below_reserve for cap in caps), default=0)
        self.dnd = dnd


def dnd_blocks(question: Question, state: ConversationState, instant: int) -> list[Block]:
    """Do not disturb, for everything, the category or the channel. For ever acts as `next`."""
    blocks = []
    for scope in ("all", f"category:{question.category}", f"channel:{question.channel}"):
        until = state.dnd.get(scope)
        if until is None:
            continue
        if until == FOREVER:
            blocks.append(Block(f"dnd:{scope}", "dnd", "next", NEVER))
        elif until > instant:
            blocks.append(Block(f"dnd:{scope}", "dnd", "hold", until))
    return blocks
