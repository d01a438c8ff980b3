"""What the hub promises of WeCom: everybody is heard, once and in order; nothing is written twice,
too late, unasked or beyond a documented limit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Protocol

from hub.checkers.records import Published, Violation
from hub.checkers.wecom_records import (
    CONFIRMED,
    WINDOWED,
    Came,
    Taken,
    WecomHistory,
    about_taken,
    about_wrote,
    bare,
    code_of,
    text_of,
)
from hub.contract.subjects import REPLY_PREFIX
from hub.contract.types import Delivery, Inbound

ENDED_UNSENT = frozenset(("expired", "suppressed", "failed", "cancelled"))
"""Outcomes that say of an answer that it did not leave."""


class WecomChecker(Protocol):
    """One promise about WeCom."""

    promise: str

    def check(self, history: WecomHistory) -> list[Violation]:
        """Every violation found; none when the promise was kept."""


class EverybodyIsHeard:
    """Every message is in INTAKE: once, as it was written, and each sender's in their order."""

    promise = "everybody-is-heard"

    def check(self, history: WecomHistory) -> list[Violation]:
        found = list(self._each(history))
        found.extend(self._order(history))
        found.extend(self._of_nobody(history))
        return found

    def _each(self, history: WecomHistory) -> Iterator[Violation]:
        for wrote in history.seen.wrote:
            stored = history.inbound.get((wrote.account, wrote.id), [])
            if not stored:
                yield about_wrote(self.promise, "lost", wrote)
                continue
            if len(stored) > 1:
                yield about_wrote(self.promise, "published-twice", wrote, *stored)
            message = _inbound(stored[0])
            same = (message.sender or message.customer) == wrote.sender
            same &= (message.agent or "") == wrote.agent
            if not same or (wrote.text is not None and text_of(message.content) != wrote.text):
                yield about_wrote(self.promise, "published-otherwise", wrote, *stored)

    def _order(self, history: WecomHistory) -> Iterator[Violation]:
        newest: dict[tuple[str, str], tuple[int, int]] = {}
        for wrote in history.seen.wrote:
            stored = history.inbound.get((wrote.account, wrote.id), []) if wrote.ordered else []
            for each in stored[:1]:
                place, at = (wrote.account, wrote.sender), (each.sequence, each.index)
                if at < newest.get(place, at):
                    yield about_wrote(self.promise, "out-of-order", wrote, each)
                newest[place] = max(at, newest.get(place, at))

    def _of_nobody(self, history: WecomHistory) -> Iterator[Violation]:
        known = {(each.account, each.id) for each in history.seen.wrote}
        watched = {each.account for each in history.seen.wrote}
        for (account, id), stored in history.inbound.items():
            message = _inbound(stored[0])
            if account in watched and "event" not in message.content and (account, id) not in known:
                yield Violation(
                    promise=self.promise,
                    kind="written-by-nobody",
                    intent=id,
                    customer=message.customer,
                    rule=account,
                    sequences=tuple(each.sequence for each in stored),
                )


class WrittenOnce:
    """WeCom takes no message twice, none that was not decided, and all that are told as sent."""

    promise = "written-once"

    def check(self, history: WecomHistory) -> list[Violation]:
        found = list(self._by_id(history))
        found.extend(self._by_delivery(history))
        found.extend(self._by_text(history))
        found.extend(self._told(history))
        return found

    def _by_id(self, history: WecomHistory) -> Iterator[Violation]:
        """An id is of one message to one address."""
        known = set()
        for taken in history.seen.taken:
            key = taken.account, taken.kind, bare(taken.to), taken.id
            if taken.id and key in known:
                yield about_taken(self.promise, "taken-twice", taken)
            known.add(key)

    def _by_delivery(self, history: WecomHistory) -> Iterator[Violation]:
        """Whatever ids it had."""
        known: dict[str, Taken] = {}
        for taken, delivery in history.delivery_of.items():
            before = known.setdefault(delivery.id, taken)
            if before is not taken and before.id != taken.id:
                yield about_taken(self.promise, "delivery-taken-twice", taken, delivery.id)

    def _by_text(self, history: WecomHistory) -> Iterator[Violation]:
        """The same words no more often than decided, which needs no ids at all."""
        decided = Counter(
            (delivery.account, bare(delivery.to), text)
            for delivery in history.deliveries
            if (text := text_of(delivery.content)) is not None
        )
        for taken in history.seen.taken:
            if taken.text is None:
                continue
            key = taken.account, bare(taken.to), taken.text
            decided[key] -= 1
            if decided[key] < 0:
                yield about_taken(self.promise, "taken-more-often-than-decided", taken)

    def _told(self, history: WecomHistory) -> Iterator[Violation]:
        """What is told as sent was taken; and by a member's task, after the member confirmed."""
        ids = {(taken.account, taken.id) for taken in history.seen.taken}
        members = {taken.account for taken in history.seen.taken if taken.kind in CONFIRMED}
        taken_texts = Counter((one.account, bare(one.to), one.text) for one in history.seen.taken)
        answering = {each.account for each in history.seen.wrote if each.ordered}
        newest = {each.delivery.id: each.delivery for each in history.handed}
        for delivery in newest.values():  # whoever it was handed over to
            told = [each for each in history.told.get(delivery.id, ()) if each.status == "sent"]
            text = text_of(delivery.content)
            if not told:
                continue
            key = delivery.account, bare(delivery.to), text
            if delivery.account in members and text is not None:
                taken_texts[key] -= 1
                if taken_texts[key] < 0:
                    yield self._about("told-and-not-taken", delivery)
                continue
            id = told[0].provider_id
            if id and delivery.account in answering and (delivery.account, id) not in ids:
                yield self._about("told-and-not-taken", delivery)

    def _about(self, kind: str, delivery: Delivery) -> Violation:
        return Violation(
            promise=self.promise,
            kind=kind,
            app=delivery.app,
            customer=delivery.customer,
            delivery=delivery.id,
            rule=delivery.account,
        )


class WelcomedInTime:
    """Who comes is heard once; her welcome leaves before its code ends, or is told as not sent."""

    promise = "welcomed-in-time"

    def check(self, history: WecomHistory) -> list[Violation]:
        heard: dict[str, list[Published]] = defaultdict(list)
        for stored in history.inbound.values():
            for each in stored:
                if code := code_of(_inbound(each).content):
                    heard[code].append(each)
        decided: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
        for delivery in history.deliveries:
            if code := code_of(delivery.content):
                decided[delivery.account, code].append(delivery)
        taken: dict[str, list[Taken]] = defaultdict(list)
        for one in history.seen.taken:
            if one.code:
                taken[one.code].append(one)
        unsent = Counter(
            told.outcome.customer
            for told in history.outcomes
            if told.outcome.state in ENDED_UNSENT
            and told.outcome.delivery is None
            and told.outcome.intent.startswith(REPLY_PREFIX)
        )
        found = []
        for came in history.seen.came:
            events, sent = heard[came.code], taken[came.code]
            if not events:
                found.append(self._about("not-heard", came))
                continue
            if len(events) > 1:
                found.append(self._about("heard-twice", came))
            if len(sent) > 1:
                found.append(self._about("welcomed-twice", came))
            if any(each.at_ms > came.until_ms for each in sent):
                found.append(self._about("welcomed-too-late", came))
            if sent:
                continue
            ends = decided[came.account, came.code]
            customer = _inbound(events[0]).customer
            if any(not self._told_unsent(history, delivery) for delivery in ends):
                found.append(self._about("neither-sent-nor-told", came))
            elif not ends and came.account in history.welcoming:
                unsent[customer] -= 1
                if unsent[customer] < 0:
                    found.append(self._about("not-answered", came))
        return found

    @staticmethod
    def _told_unsent(history: WecomHistory, delivery: Delivery) -> bool:
        told = [each.status for each in history.told.get(delivery.id, ())]
        return bool(told) and told[-1] in ("failed", "unknown")

    def _about(self, kind: str, came: Came) -> Violation:
        return Violation(
            promise=self.promise,
            kind=kind,
            intent=came.code,
            rule=came.account,
            at_ms=int(came.at_ms),
        )


class WithinWecomLimits:
    """No limit that WeCom documents is met: by its own count, and after a customer's message by
    counting anew."""

    promise = "wecom-limits"

    def check(self, history: WecomHistory) -> list[Violation]:
        found = [
            Violation(promise=self.promise, kind="over-a-limit", rule=f"{name} {number} times")
            for name, number in sorted(history.seen.violations.items())
            if number and name not in history.allowed
        ]
        found.extend(self._windows(history))
        return found

    def _windows(self, history: WecomHistory) -> Iterator[Violation]:
        """What comes at the same moment as her message is taken to come after it."""
        said: list[tuple[float, int, str, str, Taken | None]] = [
            (each.at_ms, 0, each.account, each.sender, None)
            for each in history.seen.wrote
            if not each.agent
        ]
        said += [
            (each.at_ms, 1, each.account, each.to, each)
            for each in history.seen.taken
            if each.kind == WINDOWED
        ]
        newest: dict[tuple[str, str], float] = {}
        followed: Counter[tuple[str, str]] = Counter()
        for at_ms, _, account, who, taken in sorted(said, key=lambda each: each[:2]):
            place = account, who
            if taken is None:
                newest[place], followed[place] = at_ms, 0
                continue
            followed[place] += 1
            if place not in newest or at_ms - newest[place] >= history.window_ms:
                yield about_taken(self.promise, "after-a-closed-window", taken)
            elif followed[place] > history.window_messages:
                yield about_taken(self.promise, "over-a-window", taken)


def wecom_checkers() -> list[WecomChecker]:
    """One checker for each promise."""
    return [EverybodyIsHeard(), WrittenOnce(), WelcomedInTime(), WithinWecomLimits()]


def check_wecom(history: WecomHistory) -> list[Violation]:
    """Every violation of every promise."""
    return [found for checker in wecom_checkers() for found in checker.check(history)]


def _inbound(each: Published) -> Inbound:
    assert isinstance(each.message, Inbound)
    return each.message
