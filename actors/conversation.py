"""The conversation actor: what one customer's intents, receipts, messages and commands lead to.

A pure state machine. Everything that leaves it goes to `Effects`; everything it remembers is in
`ConversationState`. The same class runs in a host's turn, in `tact simulate` and in the simulation.
Source: docs/policy.md, "Deciding an intent".
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from actors import commands, fallback, groups, live, reminders, replies, words
from actors.devices import (
    SUPERSEDED,
    bury,
    copies_of,
    copies_to,
    heard,
    heard_from,
    note,
    superseded,
    targets,
)
from actors.effects import BodyRef
from actors.fallback import held_of, question_of_held, question_of_intent, release_order
from actors.outcomes import outcome_of
from hub import limits
from hub.contract.decode import (
    Message,
    content_channels,
    content_for,
    split_delivery_id,
    split_number,
)
from hub.contract.times import rfc3339, to_ms
from hub.contract.types import (
    AccountOrder,
    AnyCommand,
    Cancel,
    Delivery,
    Forget,
    Inbound,
    Intent,
    Outcome,
    Receipt,
    Release,
)
from hub.policy import devices, seen, windows
from hub.policy.decide import Verdict, decide
from hub.policy.policy import Policy
from hub.policy.rules import NEVER, Block, Question
from hub.policy.state import (
    DELIVERED,
    DISPATCHED,
    FAILED,
    FOREVER,
    STATUS,
    UNKNOWN,
    ConversationState,
    Held,
    Send,
    intent_hash,
    window_key,
)

PUSH = devices.CHANNEL
_SEEN_BYTES = limits.REMEMBERED_IDS * seen.RECORD_BYTES
_encode = msgspec.json.Encoder().encode
_NO_CONTENT = msgspec.Raw(b"{}")


class Conversation(Struct, gc=False):
    """One customer's conversation (or one group chat's), for the length of a turn."""

    key: str
    state: ConversationState
    policy: Policy
    effects: Any
    """`Effects`."""
    wake_before: int = 0
    """When it was to be woken before the turn opened it."""
    packed: bytes = b""
    """The state when it was opened."""

    def receive(self, message: Message, accepted: int, now: int) -> None:
        """One message of any lane, accepted by the stream at `accepted`, decided at `now`."""
        if type(message) is Intent:
            self._on_intent(message, accepted, now)
        elif isinstance(message, Receipt):
            self._on_receipt(message, now)
        elif isinstance(message, Inbound):
            self._on_inbound(message, now)
        elif isinstance(message, AccountOrder):
            self._on_order(message, accepted, now)
        else:
            self._on_command(message, accepted, now)

    def wake(self, now: int) -> None:
        """Decide again what is due, and remind of a customer who waits."""
        if self.state.waiting:
            for event in reminders.due_events(self.key, self.state, self.policy, now):
                self.effects.event(event)
        self._decide_again([held for held in self.state.held if held.wake <= now], now)

    # ---- intents ---------------------------------------------------------------------------

    def _on_intent(self, intent: Intent, accepted: int, now: int) -> bool:
        """Step 1, and the rest for each channel of a combined send, or once for the route. Whether
        it is sent or held."""
        state = self.state
        category = self.policy.categories.get(intent.category)
        if category is None:
            known = ", ".join(self.policy.categories)
            self._reject(intent, now, f"unknown category {intent.category!r}; known: {known}")
            return False
        route = intent.route or category.route
        if "text" not in intent.content:  # it differs by channel
            route = content_channels(intent.content, route)
        if not route:
            self._reject(intent, now, "content has nothing for any channel of the route")
            return False
        name = intent_hash(intent.app, intent.id)
        if self._remembers(intent, name):
            self._tell(intent.app, intent.id, intent.category, "duplicate", now)
            return False
        if len(self.packed) >= limits.CONVERSATION_FULL_BYTES or len(state.seen) >= _SEEN_BYTES:
            reason = self._full(now)
            if reason is not None:
                self._reject(intent, now, reason)
                return False
        if intent.to is not None:
            devices.remember(state, intent.to, accepted)
        if intent.timezone is not None:
            state.zone = intent.timezone
        if intent.collapse_key is not None and state.held:
            self._supersede(intent, now)
        question = question_of_intent(self.key, intent, route, accepted, state, self.policy)
        questions = [question]
        if intent.reach != "first":
            questions = [
                replace(question, route=[channel], attempt=attempt, combined=True)
                for attempt, channel in enumerate(route, start=1)
            ]
        if self.policy.words is not None:
            self._look_for_words(intent, questions, now)
        going = False
        for one in questions:
            going = self._decide_new(intent, one, name, accepted, now) or going
        if not going:
            state.seen = seen.remember(state.seen, name, now)
        return going

    def _decide_new(
        self, intent: Intent, question: Question, name: bytes, accepted: int, now: int
    ) -> bool:
        """Decide what has just arrived. True when it is sent or held, and so remembered as that."""
        verdict = decide(question, self.state, now)
        decided = verdict.state
        waits = decided == "held"
        if decided == "dispatched":
            waits = question.route[-1] != verdict.channel  # with channels to fall back on
        elif not waits:
            self._tell_decision(question, decided, now, verdict.blocks)
            return False
        if waits:
            if sum([held.size for held in self.state.held]) >= limits.HELD_BYTES:
                reason = f"{limits.HELD_BYTES} bytes are held for this customer or in flight"
                self._reject(intent, now, reason)
                return False
            held = self._park(intent, question, accepted)
            if decided == "held":
                self._keep(held, question, verdict, now)
                return True
            self._take_off(held, question, verdict.channel, now)
            self._set_wake()
        content = content_for(intent.content, verdict.channel)
        self._dispatch(question, name, verdict, content, None, now)
        return True

    def _look_for_words(self, intent: Intent, questions: list[Question], now: int) -> None:
        """Only now: what waits is parked. With forbidden words it is suppressed, if not expired."""
        rules = self.policy.words
        assert rules is not None
        for one in questions:
            one.words = rules.blocks(one.app, one.category, one.route, intent.content)
        if questions[0].expires > now:
            for event in words.alerts_of_intents(questions, self.policy, now):
                self.effects.event(event)

    # ---- what waits: held, or in flight ------------------------------------------------------

    def _park(self, intent: Intent, question: Question, accepted: int) -> Held:
        parked = self.effects.park(_encode(intent.content), question.expires)
        held = held_of(intent, question, accepted, parked)
        self.state.held.append(held)
        return held

    def _take_off(self, held: Held, question: Question, channel: str, now: int) -> None:
        """It leaves on a channel: what is left of its route waits, if anything is."""
        fallback_ms = self.policy.fallback_ms(held.category)
        if not fallback.take_off(held, question, channel, now, fallback_ms):
            self.state.held.remove(held)

    def _keep(self, held: Held, question: Question, verdict: Verdict, now: int) -> None:
        """Hold until next_eligible_at; or until a command releases it, or it expires."""
        held.in_flight = held.timed = False
        held.spread = question.spread
        held.wake = held.expires if verdict.ready == NEVER else verdict.ready
        self._set_wake()
        self._tell_decision(
            question,
            "held",
            now,
            verdict.blocks,
            verdict.channel or None,
            ready=verdict.ready,
            reason=fallback.reason_of(held),
        )

    def _decide_again(self, due: list[Held], now: int) -> None:
        """Step 7: everything is asked again, in the order of priority, expiry, acceptance."""
        released = fallback.Released(now)
        for held in sorted(due, key=release_order):
            if released.puts_off(held):
                continue
            if held.in_flight and not held.timed and held.failure is None:
                self.state.held.remove(held)  # the flight is over: its dispatch's word stands
                continue
            question = question_of_held(self.key, held, self.state, self.policy)
            verdict = decide(question, self.state, now)
            if verdict.state == "held":
                self._keep(held, question, verdict, now)
            elif verdict.state == "dispatched":
                name = intent_hash(held.app, held.id)
                parked = BodyRef(held.block, held.index, held.size, held.urgent)
                reason = fallback.reason_of(held)
                self._take_off(held, question, verdict.channel, now)
                sent = self._dispatch(question, name, verdict, _NO_CONTENT, parked, now, reason)
                released.add(held, sent)
            else:
                self.state.held.remove(held)
                self._end(held, question, verdict, now)
        self._set_wake()

    def _end(self, held: Held, question: Question, verdict: Verdict, now: int) -> None:
        """It will not be sent: suppressed or expired, unless it has been on its way before."""
        if held.before is None:
            self._remember_ended(held, now)
            self._tell_decision(question, verdict.state, now, verdict.blocks)
        elif held.failure is not None:  # no channel is left
            delivery = f"{held.app}:{held.id}:{held.attempt - 1}"
            self._tell_decision(
                question, "failed", now, verdict.blocks, held.before, delivery, reason=held.failure
            )

    def _drop(self, gone: list[Held], state: str, now: int, reason: str | None = None) -> None:
        """What waits will not be sent because somebody said so."""
        for held in gone:
            self.state.held.remove(held)
            if fallback.ends_in_silence(held):
                continue
            if held.before is None:
                self._remember_ended(held, now)
            channel = held.route[0] if held.combined else None
            self._tell(held.app, held.id, held.category, state, now, channel, reason=reason)
        self._set_wake()

    def _remember_ended(self, held: Held, now: int) -> None:
        """An intent that was dispatched is remembered as that."""
        name = intent_hash(held.app, held.id)
        if not seen.remembers(self.state.seen, name):
            self.state.seen = seen.remember(self.state.seen, name, now)

    def _supersede(self, intent: Intent, now: int) -> None:
        """Step 8: a newer intent of the same app and collapse key replaces what is still held, and
        the channels that are left of what is in flight."""
        old = [
            held
            for held in self.state.held
            if held.collapse_key == intent.collapse_key and held.app == intent.app
        ]
        self._drop(old, "superseded", now, reason=f"replaced by {intent.id}")

    def _set_wake(self) -> None:
        waiting = self.state.held
        if len(waiting) > 1:
            self.state.wake = min([held.wake for held in waiting])
        else:
            self.state.wake = waiting[0].wake if waiting else 0
        if self.state.talks is not None:
            due = reminders.next_due(self.state, self.policy)
            if due != NEVER:
                self.state.wake = min(self.state.wake or due, due)

    # ---- dispatch ----------------------------------------------------------------------------

    def _dispatch(
        self,
        question: Question,
        name: bytes,
        verdict: Verdict,
        content: msgspec.Raw,
        parked: BodyRef | None,
        now: int,
        reason: str | None = None,
    ) -> int:
        """Hand over to the channel and count it; both are in the same commit. How many deliveries.

        `reason`: why an intent that was dispatched before goes out by another channel.
        """
        state, channel = self.state, verdict.channel
        app, account, to = question.app, question.sender or channel, state.to[channel]
        others = None
        if channel == PUSH:
            (account, to), *others = targets(question, state, self.policy, now)
        if state.sends:
            fallback.trim_sends(state.sends, now - self.policy.send_memory_ms)
        label = question.asked[channel].label
        again = reason is not None
        state.sends.insert(0, Send(now, label, account, name, question.attempt, DISPATCHED, again))
        delivery = f"{app}:{question.intent}:{question.attempt}"
        first = Delivery(
            delivery,
            question.intent,
            app,
            self.key,
            question.category,
            question.priority,
            channel,
            account,
            to,
            content,
            question.attempt,
            rfc3339(now),
            rfc3339(question.expires),
            question.trace,
            None,
            question.collapse_key,
        )
        self._hand_over(first, parked)
        if others:
            note(state, now, name, first, others)
            for copy in copies_to(first, others):
                self._copy(copy, parked)
        self._tell_decision(
            question, "dispatched", now, verdict.blocks, channel, delivery, reason=reason
        )
        return 1 + len(others) if others else 1

    def _hand_over(self, delivery: Delivery, parked: BodyRef | None) -> None:
        """Store it, show it, and count it where the customer's messages count."""
        state, channel = self.state, delivery.channel
        self.effects.deliver(delivery, parked)
        if state.talks is not None and delivery.category != groups.NO_CATEGORY:
            windows.sent(state, channel, delivery.account)  # an operation says nothing to her
            if state.waiting:
                self._answered(channel)
        keep_ms = self.policy.archived(channel)
        if keep_ms is not None:
            self.effects.live(live.handed(delivery), keep_ms, parked)

    def _copy(self, delivery: Delivery, parked: BodyRef | None) -> None:
        """The same for a further device: the first one's is counted."""
        self.effects.deliver(delivery, parked)
        keep_ms = self.policy.archived(PUSH)
        if keep_ms is not None:
            self.effects.live(live.handed(delivery), keep_ms, parked)

    def _answered(self, channel: str) -> None:
        """The customer has heard from us there: she waits no more."""
        reminders.answered(self.state, channel)
        self._set_wake()

    def _on_order(self, command: AccountOrder, accepted: int, now: int) -> None:
        """A command that an account carries out: dispatched as it is, whatever the policy says."""
        state, app = self.state, command.app
        name = intent_hash(app, command.id)
        if self._remembers(command, name):
            self._tell(app, command.id, "", "duplicate", now)
            return
        problem = groups.get_ready(command, state)
        if problem is not None:
            self._reject(command, now, problem)
            return
        delivery = groups.delivery_of(command, state, now, accepted + self.policy.hold_max_ms)
        if state.sends:
            fallback.trim_sends(state.sends, now - self.policy.send_memory_ms)
        state.sends.insert(0, Send(now, groups.label(app), delivery.account, name))
        self._hand_over(delivery, None)
        self._tell(app, command.id, "", "dispatched", now, delivery.channel, delivery.id)

    # ---- receipts, inbound, commands ---------------------------------------------------------

    def _on_receipt(self, receipt: Receipt, now: int) -> None:
        """What a gateway says of a delivery: of a dispatch, or of one device of it."""
        app, intent, number = split_delivery_id(receipt.delivery)
        attempt, device = split_number(number)
        state, name = self.state, intent_hash(app, intent)
        sends = [send for send in state.sends if send.intent == name]
        for send in sends:
            if send.attempt == attempt:
                break
        else:
            self.effects.count("tact_ignored_total", "receipt-unmatched")
            return
        account, before, said = send.account, send.status, STATUS[receipt.status]
        copies = None if state.devices is None else copies_of(state, send)
        if copies is not None and device < len(copies.status):
            account, before = copies.accounts[device], copies.status[device]
        elif device:
            self.effects.count("tact_ignored_total", "receipt-unmatched")
            return
        if said <= before:
            self.effects.count("tact_ignored_total", "receipt-behind")
            return
        self.effects.count("tact_deliveries_total", send.channel, account, receipt.status)
        status = said if copies is None else heard(copies, device, said, receipt)
        news = status > send.status
        if news:
            send.status = status
        if said == UNKNOWN:  # not an outcome: the application's last word still stands
            self.effects.count("tact_unknown_total", send.channel)
            return
        moved = bury(state, send, account, receipt)
        again: list[Held] = []
        if status >= DELIVERED or not fallback.outdone(send, sends):
            held = fallback.waiting(state, app, intent)
            if held is not None and receipt.last and fallback.only_failure_counts(held, now, said):
                self._set_wake()
            if news:
                replaced = status == FAILED and superseded(copies, receipt)
                again = self._on_word(receipt, send, held, replaced, now)
        if moved:
            again += [held for held in self._held() if held not in again]
        if again:
            self._decide_again(again, now)

    def _on_word(
        self, receipt: Receipt, send: Send, held: Held | None, replaced: bool, now: int
    ) -> list[Held]:
        """The provider's word of a whole dispatch. Returns what goes on because of it; else it is
        told, by the dispatch's id. `replaced`: its account sends something newer instead."""
        state, failed = receipt.status, send.status == FAILED
        reason = fallback.failure_of(receipt) if failed else None
        if failed and held is not None and not replaced:
            held.failure = reason
            return [held]
        if held is not None and (failed or send.status >= DELIVERED):
            self.state.held.remove(held)
            self._set_wake()
        app, intent, _ = split_delivery_id(receipt.delivery)
        delivery = f"{app}:{intent}:{send.attempt}"
        said, why = ("superseded", SUPERSEDED) if replaced else (state, reason)
        self._tell(app, intent, send.category, said, now, send.channel, delivery, why)
        return []

    def _on_inbound(self, inbound: Inbound, now: int) -> None:
        """A message of the customer; or, with `agent`, of a person on our side; or an event."""
        state, policy = self.state, self.policy
        before = commands.consent(state) if state.held else None
        keep_ms = policy.archived(inbound.channel)
        if keep_ms is not None:
            self.effects.live(live.heard(inbound), keep_ms)
        for event in words.alerts_of_inbound(inbound, policy, now):
            self.effects.event(event)
        if inbound.agent is not None:
            self._answered(inbound.channel)
            return
        if inbound.sender is not None:
            heard_from(state, inbound, inbound.sender.removeprefix("~"), policy, now)
        opened: list[Held] = []
        if "event" not in inbound.content:
            at = min(to_ms(inbound.at), now)
            state.inbound = max(state.inbound, at)
            opened = windows.wrote(policy, state, inbound.channel, inbound.account, at, now)
            if policy.reminders:
                reminders.written(state, policy, window_key(inbound.channel, inbound.account), at)
                self._set_wake()
        if policy.replies:
            self._reply(inbound, now)
        if before is not None and commands.consent(state) != before:
            opened = self._held()
        if opened:
            self._decide_again(opened, now)

    def _reply(self, inbound: Inbound, now: int) -> None:
        """Answer by the first rule that matches; all that do may set do not disturb."""
        rules = replies.answering(self.policy, inbound)
        answering = [rule for rule in rules if rule.answer is not None][:1]
        for rule in answering:
            if replies.may_answer(self.state, rule, now):
                self.effects.urgent = True
                if self._on_intent(replies.answer(rule, inbound, now), now, now):
                    replies.answered(self.state, rule, now)
                self.effects.urgent = False
        for rule in rules:  # after the answer, which may say so
            if rule.dnd is not None:
                commands.set_dnd(self.state, rule.dnd, FOREVER)

    def _on_command(self, command: AnyCommand, accepted: int, now: int) -> None:
        state = self.state
        if isinstance(command, Cancel):
            app, name = command.app, command.intent
            gone = [held for held in state.held if held.id == name and held.app == app]
            self._drop(gone, "cancelled", now)
            if not gone:
                self.effects.count("tact_ignored_total", "cancel-unmatched")
            return
        if isinstance(command, Forget):
            self._drop(list(state.held), "cancelled", now, reason="the customer was forgotten")
            commands.forget_person(state)
            self._set_wake()
            return
        before = commands.consent(state)
        problem = commands.carry_out(command, state, accepted)
        if problem is not None:
            self._reject(command, now, problem)
            return
        if isinstance(command, Release) and state.waiting:
            state.waiting.clear()
            state.talked()
            self._set_wake()
        if state.held and commands.consent(state) != before:
            self._decide_again(self._held(), now)

    def _held(self) -> list[Held]:
        """What a change of consent or addresses lets be decided again."""
        return [held for held in self.state.held if not held.in_flight]

    # ---- memory and words ----------------------------------------------------------------------

    def _remembers(self, intent: Intent | AccountOrder, name: bytes) -> bool:
        state = self.state
        for send in state.sends:
            if send.intent == name:
                return True
        for held in state.held:
            if held.id == intent.id and held.app == intent.app:
                return True
        return seen.remembers(state.seen, name)

    def _full(self, now: int) -> str | None:
        """Why this conversation can take no more intents now, or None."""
        state = self.state
        state.seen = seen.forget(state.seen, now)
        if len(state.seen) >= _SEEN_BYTES:
            return f"more than {limits.REMEMBERED_IDS} intents for this customer in 24 h"
        if len(self.packed) >= limits.CONVERSATION_FULL_BYTES:
            return f"{len(state.held)} intents are held for this customer or in flight already"
        return None

    def _reject(self, message: Intent | AnyCommand | AccountOrder, now: int, reason: str) -> None:
        category = message.category if isinstance(message, Intent) else ""
        known = category if category in self.policy.categories else ""
        self._tell(message.app, message.id, known, "rejected", now, reason=reason)

    def _tell_decision(
        self,
        question: Question,
        state: str,
        now: int,
        blocks: tuple[Block, ...],
        channel: str | None = None,
        delivery: str | None = None,
        ready: int = NEVER,
        reason: str | None = None,
    ) -> None:
        """The outcome of asking the policy: with the rules that blocked, and its version."""
        self.effects.outcome(
            outcome_of(
                question, self.policy.version, state, now, blocks, channel, delivery, ready, reason
            ),
            question.category,
        )

    def _tell(
        self,
        app: str,
        intent: str,
        category: str,
        state: str,
        now: int,
        channel: str | None = None,
        delivery: str | None = None,
        reason: str | None = None,
    ) -> None:
        """An outcome that no rule has decided."""
        at = rfc3339(now)
        self.effects.outcome(
            Outcome(intent, app, self.key, state, at, channel, delivery, reason=reason),  # type: ignore[arg-type]
            category,
        )
