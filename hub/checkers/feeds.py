"""Promise of the live feed: all that is said is shown, once, as it was said and in its order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from hub.checkers.records import (
    Handed,
    History,
    Name,
    Published,
    Shown,
    Violation,
    about_delivery,
    about_published,
)
from hub.contract.times import parse_rfc3339
from hub.contract.types import Inbound, LiveMessage
from hub.policy.document import PolicyDocument


class LiveFeeds:
    """Every delivery and inbound message of an archived channel is in its account's feed, and
    nothing else is. Silent when the feeds were not read."""

    promise = "live-feed"

    def check(self, history: History) -> list[Violation]:
        if history.feeds is None:
            return []
        return [
            *self._deliveries(history, history.feeds),
            *self._inbound(history, history.feeds),
            *self._order(history, history.feeds),
        ]

    def _deliveries(self, history: History, feeds: Sequence[Shown]) -> Iterator[Violation]:
        shown: dict[tuple[str, str], list[Shown]] = defaultdict(list)
        for each in feeds:
            if each.message.author == "app":
                shown[each.message.id, each.message.customer].append(each)
        for handed in sorted((*history.deliveries, *history.copies), key=_stored):
            delivery = handed.delivery
            policies = [history.policy_of(delivery)]
            if not delivery.category:  # an operation: which policy was in force is not told
                policies = list(history.policies.values())
            archived = {_archived(policy, delivery.channel) for policy in policies}
            mine = shown.get((delivery.id, delivery.customer))
            if archived == {True} and not mine:
                yield about_delivery(self.promise, "delivery-not-shown", handed)
            if archived == {False} or not mine:
                continue
            one = mine.pop(0).message
            same = (one.account, one.channel, one.app, one.at, _read(one.content)) == (
                delivery.account,
                delivery.channel,
                delivery.app,
                delivery.at,
                _read(delivery.content),
            )
            if not same or one.delivery != delivery.id or one.direction != "out":
                yield about_delivery(self.promise, "shown-otherwise", handed)
        for several in shown.values():
            for each in several:
                yield self._about(each, "shown-and-not-handed-over")

    def _inbound(self, history: History, feeds: Sequence[Shown]) -> Iterator[Violation]:
        shown: dict[tuple[str, str, str], list[Shown]] = defaultdict(list)
        for line in feeds:
            if line.message.author != "app":
                shown[_place(line.message)].append(line)
        refused = {
            (told.outcome.intent, told.outcome.customer)
            for told in history.outcomes
            if told.outcome.state == "rejected"
        }
        for each, message in _heard(history):
            archived = {_archived(policy, message.channel) for policy in history.policies.values()}
            place = (message.account, message.customer, message.id)
            if shown[place]:
                if not _same(shown[place].pop(0).message, message):
                    name = Name(each.source, message.id, message.customer)
                    yield about_published(self.promise, "shown-otherwise", name, [each])
            elif archived == {True} and (message.id, message.customer) not in refused:
                name = Name(each.source, message.id, message.customer)
                yield about_published(self.promise, "inbound-not-shown", name, [each])
        for several in shown.values():
            for line in several:
                yield self._about(line, "shown-and-not-heard")

    def _order(self, history: History, feeds: Sequence[Shown]) -> Iterator[Violation]:
        """In one conversation: what came in as INTAKE has it, what went out by time."""
        heard: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
        for each, inbound in _heard(history):
            place = (inbound.account, inbound.customer, inbound.id)
            heard[place].append((each.sequence, each.index))
        often = Counter(_place(line.message) for line in feeds if line.message.author != "app")
        for place, times in often.items():
            if len(heard.get(place, ())) > times:  # which of the repeats are shown is not told
                del heard[place]
        newest: dict[tuple[str, str, bool], tuple[int, int]] = {}
        for line in feeds:
            message = line.message
            out = message.author == "app"
            if out:
                at = (parse_rfc3339(message.at), 0)
            elif heard.get(_place(message)):
                at = heard[_place(message)].pop(0)
            else:
                continue  # told of already, or not to be told
            key = message.account, message.customer, out
            if at < newest.get(key, at):
                yield self._about(line, "shown-out-of-order")
            newest[key] = at

    def _about(self, shown: Shown, kind: str) -> Violation:
        message = shown.message
        return Violation(
            promise=self.promise,
            kind=kind,
            customer=message.customer,
            delivery=message.delivery or "",
            channel=message.channel,
            sequences=(shown.sequence,),
        )


def _stored(handed: Handed) -> tuple[int, int]:
    return handed.sequence, handed.index


def _heard(history: History) -> Iterator[tuple[Published, Inbound]]:
    for each in history.published:
        if isinstance(message := each.message, Inbound):
            yield each, message


def _same(line: LiveMessage, heard: Inbound) -> bool:
    """Whether it is shown as it was heard: whose it is, which way it went, and what it says."""
    by = ("out", "agent", heard.agent) if heard.agent else ("in", "customer", None)
    said = {key: _read(value) for key, value in heard.content.items()}
    return (line.direction, line.author, line.agent) == by and _read(line.content) == said


def _place(message: LiveMessage) -> tuple[str, str, str]:
    return message.account, message.customer, message.id


def _archived(policy: PolicyDocument, channel: str) -> bool:
    return bool(policy.archive) and channel in policy.archive.channels  # type: ignore[union-attr]


def _read(content: msgspec.Raw) -> object:
    return msgspec.json.decode(content)
