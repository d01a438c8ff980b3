"""A policy document made ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence

from hub import limits
from hub.policy import document as doc
from hub.policy.rules import Cap, Gap, Presence, Quiet, Rule
from hub.policy.state import ConversationState

APPS_REMEMBERED = 1_024
"""Applications whose rules are kept compiled; each has one entry a category and channel."""


class Asked:
    """The rules that one (category, channel, app) is asked about, in the document's order.

    Most customers have had few messages lately: without any no gap can block, and with fewer than
    the smallest limit no cap.
    """

    __slots__ = ("all", "dnd", "fewest", "never_sent", "rarely_sent")

    def __init__(self, policy: Policy, category: str, channel: str, app: str) -> None:
        def matching(rules: Sequence[Rule]) -> tuple[Rule, ...]:
            return tuple(
                rule
                for rule in rules
                if not policy.bypasses(category, rule.kind) and rule.matches(category, channel, app)
            )

        calendar = matching([*policy.quiet, *policy.presence])
        gaps = matching(policy.gaps)
        self.never_sent = calendar
        self.rarely_sent = gaps + calendar
        self.all = matching(policy.caps) + gaps + calendar
        self.fewest = min((cap.limit_below_reserve for cap in policy.caps), default=0)
        self.dnd = not policy.bypasses(category, "dnd")

    def rules(self, sends: int) -> tuple[Rule, ...]:
        """Those that can block a conversation with so many remembered dispatches."""
        if not sends:
            return self.never_sent
        return self.rarely_sent if sends < self.fewest else self.all


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
        self.send_memory_ms = max(
            [limits.SEND_MEMORY_MS, *(rule.memory_ms for rule in (*self.caps, *self.gaps))]
        )
        self._bypass = {name: frozenset(c.bypass) for name, c in self.categories.items()}
        self._asked: dict[str, dict[str, dict[str, Asked]]] = {}

    def asked(self, category: str, channel: str, app: str) -> Asked:
        """The rules asked of an intent: those that match it and that it does not bypass."""
        try:
            return self._asked[app][category][channel]
        except KeyError:
            if len(self._asked) >= APPS_REMEMBERED:
                self._asked.clear()
            channels = self._asked.setdefault(app, {}).setdefault(category, {})
            asked = channels[channel] = Asked(self, category, channel, app)
            return asked

    def bypasses(self, category: str, kind: str) -> bool:
        return kind in self._bypass.get(category, ())

    def zone_of(self, state: ConversationState) -> str:
        """The zone in force for a conversation."""
        return state.zone or self.timezone
