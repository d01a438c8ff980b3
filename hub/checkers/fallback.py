"""A further channel is tried only for a cause, and an intent fails only when none is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hub import limits
from hub.checkers.records import (
    FAILED,
    Attempts,
    History,
    Line,
    Told,
    Violation,
    about_outcomes,
    channels_of,
    expiry_of,
    follows,
)
from hub.contract.types import Cancel, Forget, Intent
from hub.policy.document import PolicyDocument, duration_ms

_SUPERSEDED = "failed: superseded"


class Fallback:
    """After a dispatch comes another only when it has failed, or `fallback_after` has passed.

    Channels follow in the order of the route. `failed` is said of the newest attempt, and not while
    the route has a channel that could have been asked. No other channel is tried for what a newer
    message of its collapse key has replaced.
    """

    promise = "fallback"

    def check(self, history: History) -> list[Violation]:
        ended = {
            each.message.customer
            for each in history.published
            if isinstance(each.message, Cancel | Forget)
        }
        keys = Counter(
            (each.message.app, each.message.collapse_key, each.message.customer)
            for each in history.published
            if isinstance(each.message, Intent) and each.message.collapse_key is not None
        )
        ended |= {customer for (_, _, customer), times in keys.items() if times > 1}
        found: list[Violation] = []
        replacing = _replacing(history)
        for attempts in history.attempts:
            newer = [at for key in _keys(attempts.line) for at in replacing.get(key, ())]
            for newest, told in attempts.after():
                if follows(told.outcome) and _between(newest, newer, told):
                    kind = "tried-after-it-was-replaced"
                    found.append(about_outcomes(self.promise, kind, [newest, told]))
                if _SUPERSEDED in f"failed: {told.outcome.reason}":
                    kind = "replaced-and-told-as-failed"
                    found.append(about_outcomes(self.promise, kind, [newest, told]))
                if follows(told.outcome):
                    found.extend(self._of_next(history, attempts.line, newest, told))
                elif told.outcome.state == "failed":
                    calm = attempts.name.customer not in ended
                    found.extend(self._of_failed(history, attempts, newest, told, calm))
        return found

    def _of_next(
        self, history: History, line: Line, newest: Told, told: Told
    ) -> Iterator[Violation]:
        """One more attempt, made or held."""
        key = (newest.outcome.delivery or "", newest.outcome.customer)
        if follows(told.outcome) == FAILED:
            caused = any(at <= told.stored_ms for at in history.failures.get(key, ()))
        else:
            wait = min(_waits(history.policy(newest.outcome.policy), line), default=None)
            caused = wait is not None and told.at_ms >= newest.at_ms + wait
        if not caused:
            yield about_outcomes(self.promise, "next-channel-without-a-cause", [newest, told])
        places = _places(history, line, newest)
        channel = told.outcome.channel
        if channel is not None and not any(channel in left for left in places):
            yield about_outcomes(self.promise, "not-a-channel-that-is-left", [newest, told])

    def _of_failed(
        self, history: History, attempts: Attempts, newest: Told, told: Told, calm: bool
    ) -> Iterator[Violation]:
        """The end: is it of the newest attempt, and was what is left asked?"""
        if told.outcome.delivery != newest.outcome.delivery:
            yield about_outcomes(self.promise, "failed-by-an-older-attempt", [newest, told])
            return
        line, policy = attempts.line, history.policy(newest.outcome.policy)
        asked = told.outcome.policy is not None or any(_waits(policy, line))
        reported = (newest.outcome.delivery or "", newest.outcome.customer) in history.failures
        if asked or not calm or not reported:  # what was left may have been asked, or given up
            return
        if not line.intents:  # a command: it has no route
            return
        hold_max_ms = duration_ms(policy.hold_max, "hold_max")
        until = min(expiry_of(each, hold_max_ms) for each in line.intents)
        if told.at_ms < min(until, newest.at_ms + limits.SEND_MEMORY_MS) and all(
            _places(history, line, newest)
        ):
            yield about_outcomes(self.promise, "failed-with-a-channel-left", [newest, told])


def _keys(line: Line) -> set[tuple[str, str, str]]:
    """Customer, app and collapse key of an intent, if it has one: of repeats that differ in it, any
    may be what was decided."""
    keys = {
        (each.message.customer, each.message.app, each.message.collapse_key)  # type: ignore[union-attr]
        for each in line.intents
    }
    return keys if len(keys) == 1 and None not in next(iter(keys)) else set()


def _replacing(history: History) -> dict[tuple[str, str, str], list[tuple[int, int]]]:
    """By customer, app and collapse key: where an intent with it was decided first."""
    found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for name, lives in history.lives.items():
        for key in _keys(history.lines[name]):
            for life in lives.values():
                found.setdefault(key, []).extend((t[0].sequence, t[0].index) for t in life)
    return found


def _between(newest: Told, newer: list[tuple[int, int]], told: Told) -> bool:
    """Whether another was decided after a dispatch and before what follows it."""
    first, last = (newest.sequence, newest.index), (told.sequence, told.index)
    return any(first < at < last for at in newer)


def _waits(policy: PolicyDocument, line: Line) -> list[int]:
    """The `fallback_after` of an intent, in ms; of repeats, those of all their categories."""
    found = []
    for name in {each.message.category for each in line.intents}:  # type: ignore[union-attr]
        category = policy.categories.get(name)
        if category is not None and isinstance(category.fallback_after, str):
            found.append(duration_ms(category.fallback_after, name))
    return found


def _places(history: History, line: Line, newest: Told) -> list[list[str]]:
    """The channels behind that of a dispatch, for each of the repeats that may be what was sent."""
    found = []
    for each in line.intents:
        assert isinstance(each.message, Intent)
        route = channels_of(each.message, history.policy(newest.outcome.policy))
        channel = newest.outcome.channel
        found.append(route[route.index(channel) + 1 :] if channel in route else [])
    return found
