"""The conversation actor: what one customer's intents, receipts, messages and commands lead to.

A pure state machine. Everything that leaves it goes to `Effects`; everything it remembers is in
`ConversationState`. The same class runs in a host's turn, in `tact simulate` and in the simulation.
Source: docs/policy.md, "Deciding an intent".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from hub import limits
from hub.contract.decode import Message, content_channels, content_for, split_delivery_id
from hub.contract.times import rfc3339, to_ms
from hub.contract.types import (
    AnyCommand,
    Cancel,
    Delivery,
    DndClear,
    DndSet,
    Forget,
    Inbound,
    Intent,
    Outcome,
    ProfileSet,
    Receipt,
    Release,
    RuleBlock,
    Takeover,
)
from hub.policy import seen
from hub.policy.decide import Verdict, decide
from hub.policy.policy import Policy
from hub.policy.rules import NEVER, Block, Question
from hub.policy.state import FOREVER, STATUS, ConversationState, Held, Send, intent_hash


class BodyRef(NamedTuple):
    """Where the content of a held intent is parked."""

    block: str
    index: int


class Effects(Protocol):
    """What a decision may cause. Nothing here happens before the turn is committed."""

    def outcome(self, outcome: Outcome, category: str) -> None:
        """Tell the application; `category` only labels metrics."""

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        """Hand a message to its channel. With `parked`, its content is still to be fetched."""

    def park(self, content: bytes, expires: int) -> BodyRef:
        """Keep the content (JSON) of a held intent until it is decided again."""

    def count(self, name: str, *labels: str) -> None:
        """Add one to a metric of `hub.metrics.TABLE`."""


_NO_CONTENT = msgspec.Raw(b"{}")


class Conversation:
    """One customer's conversation (or one group chat's), for the length of a turn."""

    __slots__ = ("effects", "key", "policy", "state")

    def __init__(
        self, key: str, state: ConversationState, policy: Policy, effects: Effects
    ) -> None:
        self.key = key
        self.state = state
        self.policy = policy
        self.effects = effects

    def receive(self, message: Message, accepted: int, now: int) -> None:
        """One message of any lane, accepted by the stream at `accepted`, decided at `now`."""
        if isinstance(message, Intent):
            self._on_intent(message, accepted, now)
        elif isinstance(message, Receipt):
            self._on_receipt(message, now)
        elif isinstance(message, Inbound):
            self._on_inbound(message, now)
        else:
            self._on_command(message, now)

    def wake(self, now: int) -> None:
        """Decide again what is due."""
        self._decide_again([held for held in self.state.held if held.wake <= now], now)

    # ---- intents ---------------------------------------------------------------------------

    def _on_intent(self, intent: Intent, accepted: int, now: int) -> None:
        state = self.state
        category = self.policy.categories.get(intent.category)
        if category is None:
            known = ", ".join(self.policy.categories)
            self._reject(intent, now, f"unknown category {intent.category!r}; known: {known}")
            return
        route = content_channels(intent.content, intent.route or category.route)
        if not route:
            self._reject(intent, now, "content has nothing for any channel of the route")
            return
        name = intent_hash(intent.app, intent.id)
        if self._remembers(intent, name):
            self._tell(intent.id, intent.app, intent.category, "duplicate", now)
            return
        if (reason := self._full(now)) is not None:
            self._reject(intent, now, reason)
            return
        if intent.to is not None:
            state.to.update(intent.to)
        if intent.timezone is not None:
            state.zone = intent.timezone
        if intent.collapse_key is not None and state.held:
            self._supersede(intent, now)
        self._decide_new(intent, route, name, accepted, now)

    def _decide_new(
        self, intent: Intent, route: list[str], name: int, accepted: int, now: int
    ) -> None:
        combined = intent.reach == "all"
        kept = False
        for index, channels in enumerate([[c] for c in route] if combined else [route]):
            question = self._question_of(intent, channels, accepted)
            verdict = decide(self.policy, question, self.state, now)
            label = channels[0] if combined else verdict.channel or None
            if verdict.state == "dispatched":
                content = content_for(intent.content, verdict.channel)
                self._dispatch(
                    question, intent.id, name, index + 1, verdict, content, now, intent.trace
                )
            elif verdict.state == "held":
                self._hold(intent, question, index + 1, combined, accepted, verdict, now)
            else:
                rules = _rules(verdict.blocks)
                self._tell(
                    intent.id,
                    intent.app,
                    intent.category,
                    verdict.state,
                    now,
                    channel=label if combined else None,
                    rules=rules,
                    decided=True,
                )
                continue
            kept = True
        if not kept:
            self.state.seen = seen.remember(self.state.seen, name, now)

    def _question_of(self, intent: Intent, route: list[str], accepted: int) -> Question:
        policy = self.policy
        stated = intent.expires_at
        return Question(
            self.key,
            intent.app,
            intent.category,
            policy.categories[intent.category].priority
            if intent.priority is None
            else intent.priority,
            route,
            accepted + policy.hold_max_ms if stated is None else to_ms(stated),
            policy.zone_of(self.state),
            0 if intent.not_before is None else to_ms(intent.not_before),
            intent.account,
        )

    def _hold(
        self,
        intent: Intent,
        question: Question,
        attempt: int,
        combined: bool,
        accepted: int,
        verdict: Verdict,
        now: int,
    ) -> None:
        parked = self.effects.park(msgspec.json.encode(intent.content), question.expires)
        held = Held(
            id=intent.id,
            app=intent.app,
            category=intent.category,
            priority=question.priority,
            route=question.route,
            attempt=attempt,
            combined=combined,
            accepted=accepted,
            expires=question.expires,
            expires_stated=intent.expires_at is not None,
            not_before=question.not_before,
            collapse_key=intent.collapse_key,
            account=intent.account,
            trace=intent.trace,
            block=parked.block,
            index=parked.index,
        )
        self.state.held.append(held)
        self._keep(held, question, verdict, now)

    # ---- held intents ----------------------------------------------------------------------

    def _decide_again(self, due: list[Held], now: int) -> None:
        """Step 7: everything is asked again, in the order of priority, expiry, acceptance."""
        for held in sorted(due, key=_release_order):
            question = self._question_of_held(held)
            verdict = decide(self.policy, question, self.state, now)
            if verdict.state == "held":
                self._keep(held, question, verdict, now)
                continue
            self.state.held.remove(held)
            name = intent_hash(held.app, held.id)
            if verdict.state == "dispatched":
                ref = BodyRef(held.block, held.index)
                self._dispatch(question, held.id, name, held.attempt, verdict, ref, now, held.trace)
            else:
                self._end(held, verdict.state, now, verdict.blocks)
        self._set_wake()

    def _question_of_held(self, held: Held) -> Question:
        return Question(
            self.key,
            held.app,
            held.category,
            held.priority,
            held.route,
            held.expires,
            self.policy.zone_of(self.state),
            held.not_before,
            held.account,
            held.spread,
        )

    def _keep(self, held: Held, question: Question, verdict: Verdict, now: int) -> None:
        held.spread = question.spread
        held.wake = held.expires if verdict.eligible == NEVER else verdict.eligible
        self._set_wake()
        self._tell(
            held.id,
            held.app,
            held.category,
            "held",
            now,
            channel=held.route[0] if held.combined else verdict.channel or None,
            rules=_rules(verdict.blocks),
            eligible=verdict.eligible,
            decided=True,
        )

    def _end(
        self,
        held: Held,
        state: str,
        now: int,
        blocks: Iterable[Block] = (),
        reason: str | None = None,
    ) -> None:
        """A held intent that will not be sent: say why, and go on remembering its id."""
        name = intent_hash(held.app, held.id)
        if not seen.remembers(self.state.seen, name):
            self.state.seen = seen.remember(self.state.seen, name, now)
        self._tell(
            held.id,
            held.app,
            held.category,
            state,
            now,
            channel=held.route[0] if held.combined else None,
            rules=_rules(blocks),
            reason=reason,
            decided=state in ("suppressed", "expired"),
        )

    def _drop_held(self, gone: list[Held], state: str, now: int, reason: str | None = None) -> None:
        for held in gone:
            self.state.held.remove(held)
            self._end(held, state, now, reason=reason)
        self._set_wake()

    def _supersede(self, intent: Intent, now: int) -> None:
        """Step 8: a newer intent of the same app and collapse key replaces what is still held."""
        old = [
            held
            for held in self.state.held
            if held.collapse_key == intent.collapse_key and held.app == intent.app
        ]
        self._drop_held(old, "superseded", now, reason=f"replaced by {intent.id}")

    def _set_wake(self) -> None:
        self.state.wake = min((held.wake for held in self.state.held), default=0)

    # ---- dispatch ----------------------------------------------------------------------------

    def _dispatch(
        self,
        question: Question,
        intent_id: str,
        name: int,
        attempt: int,
        verdict: Verdict,
        content: msgspec.Raw | BodyRef,
        now: int,
        trace: str | None,
    ) -> None:
        channel, app = verdict.channel, question.app
        state = self.state
        _trim_sends(state.sends, now - self.policy.send_memory_ms)
        state.sends.append(
            Send(now, question.category, channel, app, question.account, name, attempt)
        )
        delivery_id = f"{app}:{intent_id}:{attempt}"
        parked = content if isinstance(content, BodyRef) else None
        self.effects.deliver(
            Delivery(
                id=delivery_id,
                intent=intent_id,
                app=app,
                customer=self.key,
                category=question.category,
                priority=question.priority,
                channel=channel,
                account=question.account,
                to=state.to[channel],
                content=_NO_CONTENT if isinstance(content, BodyRef) else content,
                attempt=attempt,
                at=rfc3339(now),
                expires_at=rfc3339(question.expires),
                trace=trace,
            ),
            parked,
        )
        self._tell(
            intent_id,
            app,
            question.category,
            "dispatched",
            now,
            channel=channel,
            delivery=delivery_id,
            rules=_rules(verdict.blocks),
            decided=True,
        )

    # ---- receipts, inbound, commands ---------------------------------------------------------

    def _on_receipt(self, receipt: Receipt, now: int) -> None:
        app, intent, attempt = split_delivery_id(receipt.delivery)
        name = intent_hash(app, intent)
        for send in reversed(self.state.sends):
            if send.intent == name and send.attempt == attempt:
                break
        else:
            self.effects.count("tact_ignored_total", "receipt-unmatched")
            return
        status = STATUS[receipt.status]
        if status <= send.status:
            self.effects.count("tact_ignored_total", "receipt-behind")
            return
        send.status = status
        self.effects.count("tact_deliveries_total", send.channel, send.account, receipt.status)
        if receipt.status == "unknown":  # not an outcome: the application's last word still stands
            self.effects.count("tact_unknown_total", send.channel)
            return
        reason = None
        if receipt.status == "failed":
            reason = (
                " ".join(part for part in (receipt.failure, receipt.code) if part) or "provider"
            )
        self._tell(
            intent,
            app,
            send.category,
            receipt.status,
            now,
            channel=send.channel,
            delivery=receipt.delivery,
            reason=reason,
        )

    def _on_inbound(self, inbound: Inbound, now: int) -> None:
        self.state.inbound = max(self.state.inbound, min(to_ms(inbound.at), now))

    def _on_command(self, command: AnyCommand, now: int) -> None:
        before = self._consent()
        match command:
            case DndSet(scope=scope, until=until):
                if scope not in self.state.dnd and len(self.state.dnd) >= limits.DND_SCOPES:
                    self._reject(command, now, f"{limits.DND_SCOPES} DND scopes are set already")
                    return
                self.state.dnd[scope] = FOREVER if until is None else max(1, to_ms(until))
            case DndClear(scope=scope):
                self.state.dnd.pop(scope, None)
            case ProfileSet(timezone=zone, to=to, owner=owner):
                self.state.zone = zone or self.state.zone
                self.state.to.update(to or {})
                self.state.owner = owner or self.state.owner
            case Cancel(app=app, intent=intent):
                gone = [h for h in self.state.held if h.id == intent and h.app == app]
                self._drop_held(gone, "cancelled", now)
                if not gone:
                    self.effects.count("tact_ignored_total", "cancel-unmatched")
                return
            case Takeover(agent=agent, until=until):
                self.state.agent = agent
                self.state.takeover = FOREVER if until is None else max(1, to_ms(until))
            case Release():
                self.state.agent, self.state.takeover = None, FOREVER
            case Forget():
                self._forget(now)
                return
        if self.state.held and self._consent() != before:
            self._decide_again(list(self.state.held), now)

    def _consent(self) -> tuple[object, ...]:
        """What a command must change for held intents to be decided again (step 9)."""
        state = self.state
        return dict(state.dnd), state.zone, dict(state.to), state.agent, state.takeover

    def _forget(self, now: int) -> None:
        self._drop_held(
            list(self.state.held), "cancelled", now, reason="the customer was forgotten"
        )
        state = self.state
        state.to, state.zone, state.owner, state.inbound = {}, None, None, 0
        state.agent, state.takeover = None, FOREVER

    # ---- memory and words ----------------------------------------------------------------------

    def _remembers(self, intent: Intent, name: int) -> bool:
        state = self.state
        return (
            seen.remembers(state.seen, name)
            or any(send.intent == name for send in state.sends)
            or any(held.id == intent.id and held.app == intent.app for held in state.held)
        )

    def _full(self, now: int) -> str | None:
        """Why this conversation can take no more intents now, or None."""
        if len(self.state.held) >= limits.HELD_INTENTS:
            return f"{limits.HELD_INTENTS} intents are held for this customer already"
        if seen.count(self.state.seen) >= limits.REMEMBERED_IDS:
            self.state.seen = seen.forget(self.state.seen, now)
        if seen.count(self.state.seen) >= limits.REMEMBERED_IDS:
            return f"more than {limits.REMEMBERED_IDS} intents for this customer in 24 h"
        return None

    def _reject(self, message: Intent | AnyCommand, now: int, reason: str) -> None:
        category = message.category if isinstance(message, Intent) else ""
        known = category if category in self.policy.categories else ""
        self._tell(message.id, message.app, known, "rejected", now, reason=reason)

    def _tell(
        self,
        intent: str,
        app: str,
        category: str,
        state: str,
        now: int,
        *,
        channel: str | None = None,
        delivery: str | None = None,
        rules: list[RuleBlock] | None = None,
        eligible: int = NEVER,
        reason: str | None = None,
        decided: bool = False,
    ) -> None:
        self.effects.outcome(
            Outcome(
                intent,
                app,
                self.key,
                state,  # type: ignore[arg-type]
                rfc3339(now),
                channel,
                delivery,
                rules,
                None if eligible == NEVER else rfc3339(eligible),
                reason,
                self.policy.version if decided else None,
            ),
            category,
        )


def _rules(blocks: Iterable[Block]) -> list[RuleBlock] | None:
    return [
        RuleBlock(b.rule, b.kind, b.action, None if b.ready == NEVER else rfc3339(b.ready))  # type: ignore[arg-type]
        for b in blocks
    ] or None


def _release_order(held: Held) -> tuple[int, int, int]:
    return -held.priority, held.expires if held.expires_stated else NEVER, held.accepted


def _trim_sends(sends: list[Send], oldest: int) -> None:
    """Drop, from the front, what no rule and no receipt can ask for any more."""
    gone = max(0, len(sends) - limits.SENDS + 1)
    while gone < len(sends) and sends[gone].at < oldest:
        gone += 1
    if gone:
        del sends[:gone]
