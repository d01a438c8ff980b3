"""Automatic answers and reminders, compiled. Source: docs/policy.md, "Replies and reminders"."""

from __future__ import annotations

from hub.policy import talks
from hub.policy.normal import normalised
from hub.policy.parts import duration_ms


class _ForAccounts:
    """What replies and reminders share: a name, an application, and the accounts they are for."""

    def __init__(self, rule: talks.Reply | talks.Reminder) -> None:
        self.name = rule.name
        self.app = rule.app
        self._channels = rule.channels
        self._accounts = rule.accounts

    def applies(self, channel: str, account: str) -> bool:
        """Whether the rule is for what comes in there."""
        return (self._channels is None or channel in self._channels) and (
            self._accounts is None or account in self._accounts
        )


class ReplyRule(_ForAccounts):
    """What is answered, or set, when a customer writes a word or something happens.

    `answer` is the content of an intent of `category`, None when nothing is answered; it is given
    at most once in `every_ms`, and expires after `within_ms`. `dnd` is the scope to set, or None.
    """

    def __init__(self, rule: talks.Reply) -> None:
        super().__init__(rule)
        self.event: str = rule.event or ""
        self.answer = rule.answer
        self.category = rule.category
        self.dnd = rule.dnd
        self.every_ms = duration_ms(rule.every, rule.name)
        self.within_ms = duration_ms(rule.within, rule.name)
        self._words = frozenset(normalised(word) for word in rule.match or ())
        self._exact = rule.how == "exact"

    def matches(self, channel: str, account: str, text: str, event: str = "") -> bool:
        """Whether it answers this: the text of a message, or the name of an event."""
        if not self.applies(channel, account):
            return False
        if event or self.event:
            return event == self.event
        said = normalised(text)
        if self._exact:
            return said in self._words
        return any(word in said for word in self._words)


class ReminderRule(_ForAccounts):
    """A customer has waited for `after_ms`: `app` is told; and once more `again_ms` later (None:
    never), for `manager` if there is one."""

    def __init__(self, rule: talks.Reminder) -> None:
        super().__init__(rule)
        self.after_ms = duration_ms(rule.after, rule.name)
        self.again_ms = (
            None if rule.again_after is None else duration_ms(rule.again_after, rule.name)
        )
        self.manager = rule.manager
