"""Promise 1: an intent the hub acknowledged is decided exactly once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from hub.checkers.records import (
    FINAL,
    Handed,
    History,
    Line,
    Name,
    Told,
    Violation,
    about_delivery,
    about_outcomes,
    channels_of,
    name_of,
)
from hub.contract.decode import DEVICE_STEP
from hub.contract.subjects import REPLY_PREFIX
from hub.contract.types import Receipt


class ExactlyOnce:
    """No second end or answer, no attempt twice; every dispatch has its delivery, and conversely.

    An intent that falls back has attempts 1, 2 and so on, each for its cause (`Fallback`).
    A repeat may be decided as new once its id is no longer remembered (`limits.REMEMBER_MS`).
    """

    promise = "exactly-once"

    def check(self, history: History) -> list[Violation]:
        found = list(self._of_nobody(history))
        for name, line in history.lines.items():
            if line.told:
                found.extend(self._of_line(history, name, line))
        found.extend(self._pairs(history))
        found.extend(self._devices(history))
        return found

    def _of_nobody(self, history: History) -> Iterator[Violation]:
        for told in history.outcomes:
            name = name_of(told.outcome)
            if history.knows(name) or name in history.orders:
                continue
            if name.intent.startswith(REPLY_PREFIX):
                continue
            if told.outcome.state != "rejected" or name not in history.others:
                yield about_outcomes(self.promise, "outcome-of-an-unknown-intent", [told])

    def _of_line(self, history: History, name: Name, line: Line) -> Iterator[Violation]:
        decided = history.lives[name]
        answers = line.answers("rejected") + line.answers("duplicate")
        answers += max(map(len, decided.values()), default=0)
        if answers > line.objects and name not in history.others:
            yield about_outcomes(self.promise, "answered-more-often-than-published", line.told)
        for channel, lives in decided.items():
            for life in lives:
                yield from self._of_life(history, line, channel, life)

    def _of_life(
        self, history: History, line: Line, channel: str, life: list[Told]
    ) -> Iterator[Violation]:
        if len(life) == 1 and life[0].outcome.state != "dispatched":
            return
        dispatched = [told for told in life if told.outcome.state == "dispatched"]
        ids = {told.outcome.delivery for told in dispatched}
        if len(dispatched) > (1 if channel else len(ids)):
            yield about_outcomes(self.promise, "dispatched-twice", dispatched)
        ended = [told for told in life if told.outcome.state in FINAL]
        if len(ended) > 1:
            yield about_outcomes(self.promise, "ended-twice", ended)
        before: set[str | None] = set()
        for told in dispatched:
            right = before | self._delivery_ids(history, line, channel, told, len(before))
            if told.outcome.delivery not in right:
                yield about_outcomes(self.promise, "wrong-delivery-id", [told])
            before.add(told.outcome.delivery)

    @staticmethod
    def _delivery_ids(
        history: History, line: Line, channel: str, told: Told, before: int
    ) -> set[str]:
        """What it may be called: the next attempt, or by the channel's place in the route."""
        name = f"{told.outcome.app}:{told.outcome.intent}"
        if not channel:
            return {f"{name}:{before + 1}"}
        ids = set()
        for each in line.intents:
            route = channels_of(each.message, history.policy(told.outcome.policy))  # type: ignore[arg-type]
            if channel in route:
                ids.add(f"{name}:{1 + route.index(channel)}")
        return ids

    def _pairs(self, history: History) -> Iterator[Violation]:
        told_of: dict[tuple[str, str], list[Told]] = defaultdict(list)
        handed_of: dict[tuple[str, str], list[Handed]] = defaultdict(list)
        for told in history.outcomes:
            if told.outcome.state == "dispatched":
                told_of[told.outcome.delivery or "", told.outcome.customer].append(told)
        for handed in history.deliveries:
            handed_of[handed.delivery.id, handed.delivery.customer].append(handed)
        for key, several in handed_of.items():
            dispatches = told_of.get(key, ())
            for handed in several[len(dispatches) :]:
                yield about_delivery(self.promise, "delivery-without-outcome", handed)
            for handed, told in zip(several, dispatches, strict=False):
                if not _same(handed, told):
                    yield about_delivery(self.promise, "delivery-differs-from-outcome", handed)
        for key, dispatches in told_of.items():
            missing = dispatches[len(handed_of.get(key, ())) :]
            if missing and not self._said_lost(history, key):
                yield about_outcomes(self.promise, "outcome-without-delivery", missing)

    @staticmethod
    def _devices(history: History) -> Iterator[Violation]:
        """A dispatch to several devices: the same to each of them, once, and to no more than the
        policy says."""
        firsts = {(each.delivery.id, each.delivery.customer): each for each in history.deliveries}
        for key, copies in history.copies_of.items():
            first = firsts.get(key)
            if first is None:
                yield about_delivery(ExactlyOnce.promise, "device-without-a-dispatch", copies[0])
                continue
            push = history.policy_of(first.delivery).push
            if len(copies) >= (push.devices if push else 1):
                yield about_delivery(ExactlyOnce.promise, "too-many-devices", copies[-1])
            numbers = [each.delivery.attempt // DEVICE_STEP for each in copies]
            if sorted(numbers) != list(range(1, len(copies) + 1)):
                yield about_delivery(ExactlyOnce.promise, "wrong-delivery-id", copies[-1])
            devices = {(each.delivery.account, each.delivery.to) for each in (first, *copies)}
            if len(devices) <= len(copies):
                yield about_delivery(ExactlyOnce.promise, "a-device-twice", copies[-1])
            for each in copies:
                if _without_device(each) != _without_device(first):
                    yield about_delivery(ExactlyOnce.promise, "devices-get-different-things", each)

    @staticmethod
    def _said_lost(history: History, key: tuple[str, str]) -> bool:
        """Whether the hub itself said `failed`: a parked body was gone, so nothing was handed out.

        Not so when a gateway had reported it: then there must have been a delivery.
        """
        said = any(
            told.outcome.state == "failed" and (told.outcome.delivery, told.outcome.customer) == key
            for told in history.outcomes
        )
        return said and not any(
            isinstance(message := each.message, Receipt)
            and (message.delivery, message.customer) == key
            for each in history.published
        )


def _without_device(handed: Handed) -> bytes:
    """What all devices get."""
    same = replace(handed.delivery, id="", account="", to="", attempt=0)
    return msgspec.json.encode(same)


def _same(handed: Handed, told: Told) -> bool:
    delivery, outcome = handed.delivery, told.outcome
    return (delivery.app, delivery.intent, delivery.channel, delivery.at) == (
        outcome.app,
        outcome.intent,
        outcome.channel,
        outcome.at,
    )
