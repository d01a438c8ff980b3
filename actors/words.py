"""Alerts: somebody wrote words that the policy looks for. They never say what was written.

Whether an intent may go is decided in `hub.policy`. Source: docs/policy.md, "Words".
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.reminders import event_id
from hub.contract.times import rfc3339
from hub.contract.types import Event, Inbound
from hub.policy.policy import Policy
from hub.policy.rules import Question


def alerts_of_inbound(inbound: Inbound, policy: Policy, now: int) -> Iterator[Event]:
    """Of what a customer wrote, or a person on our side; nobody writes the names of events."""
    if policy.words is None or "event" in inbound.content:
        return
    for rule in policy.words.alerts(inbound.channel, inbound.content):
        yield Event(
            event_id("words", inbound.customer, rule.name, inbound.account, inbound.id),
            "words",
            rule.alert or "",
            inbound.customer,
            rule.name,
            rfc3339(now),
            inbound.channel,
            inbound.account,
            inbound.id,
            "customer" if inbound.agent is None else "agent",
            policy=policy.version,
        )


def alerts_of_intents(questions: list[Question], policy: Policy, now: int) -> Iterator[Event]:
    """Of an intent (each channel of a combined send) that is not sent for the words in it."""
    found = {block.rule for question in questions for block in question.words}
    if policy.words is None or not found:
        return
    question = questions[0]
    about = f"{question.app}:{question.intent}"
    for rule in policy.words.rules:
        if rule.alert is not None and rule.name in found:
            yield Event(
                event_id("words", question.key, rule.name, about),
                "words",
                rule.alert,
                question.key,
                rule.name,
                rfc3339(now),
                about=about,
                author="app",
                policy=policy.version,
            )
