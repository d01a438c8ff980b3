"""Automatic replies: what a customer's message or an event at an account is answered with.

Pure: which rule answers, and the intent it becomes; the conversation decides it like any other.
Source: docs/policy.md, "Replies".
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Raw

from hub import limits
from hub.contract.decode import content_channels, content_for
from hub.contract.subjects import REPLY_PREFIX
from hub.contract.times import moment_of, parse_rfc3339, to_ms
from hub.contract.types import Channel, Inbound, Intent
from hub.policy.policy import Policy
from hub.policy.replies import ReplyRule
from hub.policy.state import ConversationState
from hub.policy.talks import content_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


def event_of(inbound: Inbound) -> str:
    """The name of the event that this is instead of a message, or ""."""
    return _text(inbound.content.get("event"))


def said(inbound: Inbound) -> str:
    """The text of a message, or ""."""
    return _text(inbound.content.get("text"))


def answering(policy: Policy, inbound: Inbound) -> list[ReplyRule]:
    """The rules that match, in the document's order."""
    text, event = said(inbound), event_of(inbound)
    if not text and not event:
        return []
    channel, account = inbound.channel, inbound.account
    return [rule for rule in policy.replies if rule.matches(channel, account, text, event)]


def may_answer(state: ConversationState, rule: ReplyRule, now: int) -> bool:
    """At most once in `every`."""
    last = state.replied.get(rule.name)
    return last is None or now - last >= rule.every_ms


def answered(state: ConversationState, rule: ReplyRule, now: int) -> None:
    """Its answer is sent, or held. What came too late or was stopped is none."""
    replied = state.talking().replied
    if rule.name not in replied and len(replied) >= limits.REPLIES_REMEMBERED:
        del replied[min(replied, key=replied.__getitem__)]
    replied[rule.name] = now


def answer(rule: ReplyRule, inbound: Inbound, now: int) -> Intent:
    """The answer as an intent to the account she wrote to. A repeat of the message has its id."""
    content = content_of(rule.answer or {})
    channel: Channel = inbound.channel
    expires = min(to_ms(inbound.at), now) + rule.within_ms
    code = inbound.content.get("welcome_code")
    if code is not None and content_channels(content, [channel]):
        # It is good for one answer, within seconds: the provider needs it with the answer.
        body = _decode(content_for(content, channel))
        content = {channel: Raw(_encode(body | {"welcome_code": code}))}
        expires = min(expires, _time(inbound.content.get("welcome_until"), expires))
    return Intent(
        id=_id_of(rule, inbound),
        app=rule.app,
        customer=inbound.customer,
        category=rule.category or "",
        content=content,
        route=[channel],
        account=inbound.account,
        expires_at=moment_of(expires),
    )


def _id_of(rule: ReplyRule, inbound: Inbound) -> str:
    named = "\n".join((rule.name, inbound.channel, inbound.account, inbound.id))
    return REPLY_PREFIX + hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def _text(raw: Raw | None) -> str:
    value = None if raw is None else _decode(raw)
    return value if isinstance(value, str) else ""


def _time(raw: Raw | None, otherwise: int) -> int:
    try:
        return parse_rfc3339(_text(raw))
    except ValueError:  # not told, or not in a form we know: the rule's own time holds
        return otherwise
