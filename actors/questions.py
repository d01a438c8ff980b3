"""What the owner of a partition answers about one conversation, from the state it decides with."""

from __future__ import annotations

from typing import Any

from actors.fallback import question_of_held, reason_of
from hub.contract.times import rfc3339
from hub.policy.decide import decide
from hub.policy.devices import known
from hub.policy.policy import Policy
from hub.policy.rules import NEVER, Question
from hub.policy.state import FOREVER, ConversationState, Held

_STATUS = ("dispatched", "unknown", "sent", "failed", "delivered", "read")


def describe(key: str, state: ConversationState, policy: Policy, now: int) -> dict[str, Any]:
    """A conversation in words: profile, DND, counts against each cap, what is held or in flight."""
    return {
        "key": key,
        "zone": policy.zone_of(state),
        "owner": state.owner,
        "to": state.to,
        "devices": [
            {"to": device.address, "last_seen_at": rfc3339(device.seen) if device.seen else None}
            for device in known(state)
        ],
        "dnd": {scope: _until(until) for scope, until in state.dnd.items()},
        "takeover": None
        if state.agent is None
        else {"agent": state.agent, "until": _until(state.takeover)},
        "last_inbound_at": rfc3339(state.inbound) if state.inbound else None,
        "waits_for_answer": [
            {**_place(place), "since": rfc3339(waits[0]), "reminders": waits[1]}
            for place, waits in state.waiting.items()
        ],
        "windows": [
            {**_place(place), "last_inbound_at": rfc3339(wrote), "dispatches_since": count}
            for place, (wrote, count) in state.windows.items()
        ],
        "caps": _caps(key, state, policy, now),
        "held": [_held(key, held, state, policy, now) for held in state.held if not held.in_flight],
        "in_flight": [_in_flight(held) for held in state.held if held.in_flight],
        "dispatches": [
            {
                "at": rfc3339(send.at),
                "category": send.category,
                "channel": send.channel,
                "account": send.account,
                "app": send.app,
                "status": _STATUS[send.status],
            }
            for send in reversed(state.sends)
        ],
        "policy": policy.version,
    }


def _place(place: str) -> dict[str, str]:
    channel, _, account = place.partition(" ")
    return {"channel": channel, "account": account}


def _until(until: int) -> str | None:
    return None if until == FOREVER else rfc3339(until)


def _caps(key: str, state: ConversationState, policy: Policy, now: int) -> list[dict[str, Any]]:
    """Count and limit of every cap, for each category and channel it can be asked for."""
    rows = []
    for cap in policy.caps:
        for name, category in policy.categories.items():
            if policy.bypasses(name, "cap"):
                continue
            for channel in category.route:
                # An app filter is left out: the row is for any app the cap names.
                app = min(cap.apps) if cap.apps else ""
                if not cap.matches(name, channel, app):
                    continue
                question = Question(
                    key,
                    app,
                    name,
                    policy.asked(app, name),
                    category.priority,
                    [channel],
                    expires=NEVER,
                    not_before=0,
                    zone=policy.zone_of(state),
                    sender=state.owner,
                    spread=None,
                    channel=channel,
                )
                block = cap.block(question, state, now)
                row = {
                    "rule": cap.name,
                    "category": name,
                    "channel": channel,
                    "count": cap.used(question, state, now),
                    "limit": cap.limit_for(category.priority),
                }
                if block is not None:
                    row["ready_at"] = rfc3339(block.ready)
                rows.append(row)
    return rows


def _held(
    key: str, held: Held, state: ConversationState, policy: Policy, now: int
) -> dict[str, Any]:
    """A held intent, with the rules that would block it if it were asked now."""
    question = question_of_held(key, held, state, policy)
    verdict = decide(question, state, now)
    return {
        "intent": held.id,
        "app": held.app,
        "category": held.category,
        "route": held.route,
        "accepted_at": rfc3339(held.accepted),
        "expires_at": rfc3339(held.expires),
        "next_eligible_at": rfc3339(held.wake) if held.wake < held.expires else None,
        "reason": reason_of(held),
        "rules": [
            {
                "rule": block.rule,
                "kind": block.kind,
                "action": block.action,
                "ready_at": None if block.ready == NEVER else rfc3339(block.ready),
            }
            for block in verdict.blocks
        ],
    }


def _in_flight(held: Held) -> dict[str, Any]:
    """What has been dispatched and may still go by another channel."""
    return {
        "intent": held.id,
        "app": held.app,
        "category": held.category,
        "channel": held.before,
        "attempt": held.attempt - 1,
        "route_left": held.route,
        "accepted_at": rfc3339(held.accepted),
        "expires_at": rfc3339(held.expires),
        "falls_back_at": rfc3339(held.wake) if held.timed else None,
    }
