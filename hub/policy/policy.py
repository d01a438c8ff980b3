"""A policy document made ready to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from hub import limits
from hub.contract.subjects import CHANNELS
from hub.policy import document as doc
from hub.policy import talks
from hub.policy.replies import ReminderRule, ReplyRule
from hub.policy.rules import Asked, Cap, Gap, Presence, Quiet, Rule, Window
from hub.policy.state import ConversationState, label_of
from hub.policy.words import Words

APPS_REMEMBERED = 1_024
"""Applications whose rules are kept compiled, for each category they use."""

R = TypeVar("R", bound=Rule)


class Policy:
    """Compiled rules. Immutable; replacing the policy means making a new one.

    `version` names the document; every decision records it.
    """

    def __init__(self, document: doc.PolicyDocument) -> None:
        self.document = document
        self.version = doc.policy_version(document)
        self.timezone = document.timezone
        self.categories = document.categories
        self.hold_max_ms = doc.duration_ms(document.hold_max, "hold_max")
        self.caps = [Cap(rule) for rule in document.caps]
        self.gaps = [Gap(rule) for rule in document.gaps]
        self.quiet = [Quiet(rule) for rule in document.quiet]
        self.presence = [Presence(rule) for rule in document.presence]
        self.windows = [Window(rule) for rule in document.windows or ()]
        self.words = Words(document.words) if document.words else None
        """None when nothing is looked for: then no content is read."""
        self.replies = tuple(ReplyRule(rule) for rule in document.replies or ())
        self.reminders = tuple(ReminderRule(rule) for rule in document.reminders or ())
        self._with_windows = frozenset(
            channel for rule in document.windows or () for channel in rule.channels
        )
        self._archived = _archived(document)
        push = document.push or doc.Push()
        self.push_devices = push.devices
        """How many devices get a push."""
        self.push_within_ms = (
            0 if push.seen_within is None else doc.duration_ms(push.seen_within, "push")
        )
        """Since when they must have been seen, but for the one seen last; 0: it does not matter."""
        self.hears_devices = bool(document.push)
        """Whether a customer's message shows which device is in use."""
        self.send_memory_ms = max(
            [limits.SEND_MEMORY_MS, *(rule.memory_ms for rule in (*self.caps, *self.gaps))]
        )
        self._fallback_ms = {
            name: doc.duration_ms(category.fallback_after, name)
            for name, category in self.categories.items()
            if isinstance(category.fallback_after, str)
        }
        self._bypass = {name: frozenset(c.bypass) for name, c in self.categories.items()}
        self._asked: dict[str, dict[str, dict[str, Asked]]] = {}

    def asked(self, app: str, category: str) -> Mapping[str, Asked]:
        """By channel, the rules an intent is asked about: that match it and it does not bypass."""
        try:
            return self._asked[app][category]
        except KeyError:
            if len(self._asked) >= APPS_REMEMBERED:
                self._asked.clear()
            channels = {channel: self._compile(app, category, channel) for channel in CHANNELS}
            return self._asked.setdefault(app, {}).setdefault(category, channels)

    def _compile(self, app: str, category: str, channel: str) -> Asked:
        def matching(rules: Sequence[R]) -> list[R]:
            return [
                rule
                for rule in rules
                if not self.bypasses(category, rule.kind) and rule.matches(category, channel, app)
            ]

        return Asked(
            label_of(channel, app, category),
            matching(self.caps),
            matching(self.gaps),
            [*matching(self.quiet), *matching(self.presence)],
            matching(self.windows),
            dnd=not self.bypasses(category, "dnd"),
            may_wait=bool(self.windows),
        )

    def bypasses(self, category: str, kind: str) -> bool:
        return kind in self._bypass.get(category, ())

    def fallback_ms(self, category: str) -> int:
        """How long to wait for `delivered` before the next channel is tried; 0: for ever."""
        return self._fallback_ms.get(category, 0)

    def zone_of(self, state: ConversationState) -> str:
        """The zone in force for a conversation."""
        return state.zone or self.timezone

    # ---- what is said ------------------------------------------------------------------------

    def windows_on(self, channel: str) -> bool:
        """Whether the customer's messages on this channel open windows."""
        return channel in self._with_windows

    def archived(self, channel: str) -> int | None:
        """How long messages of this channel are kept (ms), in both directions; None: they are not
        kept for the archive."""
        return self._archived.get(channel)


def _archived(document: doc.PolicyDocument) -> dict[str, int]:
    if not document.archive:
        return {}
    keep_ms = doc.duration_ms(document.archive.keep, "archive.keep", most_days=talks.KEEP_DAYS)
    return dict.fromkeys(document.archive.channels, keep_ms)
