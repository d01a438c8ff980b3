"""Whom a rule is for."""

from __future__ import annotations

from hub.policy.document import Filter, PolicyDocument


def matches(rule: Filter, category: str, channel: str, app: str) -> bool:
    """Whether the rule's lists name this category, channel and app; an omitted list names all.

    Without a category it is the operation of a command, which no rule counts.
    """
    return (
        category != ""
        and (rule.categories is None or category in rule.categories)
        and (rule.channels is None or channel in rule.channels)
        and (rule.apps is None or app in rule.apps)
    )


def bypasses(policy: PolicyDocument, category: str, kind: str) -> bool:
    """Whether a category is exempt from a kind of rule."""
    found = policy.categories.get(category)
    return found is not None and kind in found.bypass
