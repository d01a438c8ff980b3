"""Words that must not be sent, and words that somebody wants to hear of, found in one pass.

Source: docs/policy.md, "Words". An Aho-Corasick automaton: its time is that of reading the text,
however many words there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from ahocorasick_rs import AhoCorasick
from msgspec import Raw

from hub import limits
from hub.contract.decode import content_channels, content_for
from hub.policy.normal import normalised
from hub.policy.rules import NEVER, Block
from hub.policy.talks import Words as WordsTable

_UNSEEN = ("id", "url", "path", "key")
"""How the names of members end whose text no customer reads: a random id is not to hold a word."""

_read = msgspec.json.decode


class WordRule:
    """One rule of words, compiled."""

    def __init__(self, rule: WordsTable) -> None:
        self.name = rule.name
        self.drops = rule.on == "drop"
        self.alert = rule.alert
        """The application that gets an event when it is found; None: none does."""
        self.categories, self.channels, self.apps = rule.categories, rule.channels, rule.apps
        self.block = Block(rule.name, "words", "drop", NEVER)

    def matches(self, category: str, channel: str, app: str) -> bool:
        """Whether the filter lets this (category, channel, app) through."""
        return (
            (self.categories is None or category in self.categories)
            and (self.channels is None or channel in self.channels)
            and (self.apps is None or app in self.apps)
        )


class Words:
    """All rules of words of a policy."""

    def __init__(self, rules: Sequence[WordsTable]) -> None:
        self.rules = tuple(WordRule(rule) for rule in rules)
        words = _owners(rules)
        self._owners = list(words.values())
        """By number of a word: the rules it belongs to."""
        self._automaton = AhoCorasick(list(words))

    def found(self, text: str) -> tuple[WordRule, ...]:
        """Rules that have a word in this text, in the document's order."""
        return self._rules(self._search([normalised(text)]))

    def blocks(
        self, app: str, category: str, route: list[str], content: dict[str, Raw]
    ) -> tuple[Block, ...]:
        """What forbids an intent: rules with a word in what it would say on any of its channels."""
        if "text" in content:  # the same on all
            found = self._search(texts_in(content))
            broken = {
                index
                for index in found
                if any(self.rules[index].matches(category, channel, app) for channel in route)
            }
        else:
            broken = {
                index
                for channel in content_channels(content, route)
                for index in self._search(texts_in({channel: content_for(content, channel)}))
                if self.rules[index].matches(category, channel, app)
            }
        return tuple(rule.block for rule in self._rules(broken) if rule.drops)

    def alerts(self, channel: str, content: Mapping[str, Raw]) -> tuple[WordRule, ...]:
        """Rules that somebody is told of, for what a customer or one of us has written there. It
        has no category and no app: rules for some of them are about intents only."""
        return tuple(
            rule
            for rule in self._rules(self._search(texts_in(content)))
            if rule.alert is not None
            and rule.categories is None
            and rule.apps is None
            and (rule.channels is None or channel in rule.channels)
        )

    def _rules(self, found: set[int]) -> tuple[WordRule, ...]:
        return tuple(self.rules[index] for index in sorted(found))

    def _search(self, texts: Iterable[str]) -> set[int]:
        """Indices of the rules with a word in normalised texts; stops when it has them all."""
        found: set[int] = set()
        for piece in _pieces(texts):
            for word, _, _ in self._automaton.find_matches_as_indexes(piece, overlapping=True):
                found.update(self._owners[word])
            if len(found) == len(self.rules):
                break
        return found


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Texts in pieces that overlap by a word: all matches of one are found at once, and at each
    character as many words can end as words have lengths."""
    for text in texts:
        yield text[: limits.WORDS_PIECE_CHARS]
        for start in range(limits.WORDS_PIECE_CHARS, len(text), limits.WORDS_PIECE_CHARS):
            yield text[start - limits.WORD_CHARS : start + limits.WORDS_PIECE_CHARS]


def texts_in(content: Mapping[str, Raw]) -> list[str]:
    """All that a customer reads of a content, each string normalised."""
    return [
        normalised(text) for name, raw in content.items() for text in _strings({name: _read(raw)})
    ]


def _strings(value: Any) -> Iterator[str]:
    """The strings in JSON that decoding has bounded (NESTING), but for those nobody reads."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if not (isinstance(each, str) and name.lower().endswith(_UNSEEN)):
                yield from _strings(each)


def _owners(rules: Sequence[WordsTable]) -> dict[str, list[int]]:
    """Each word, normalised, with the indices of the rules it belongs to."""
    owners: dict[str, list[int]] = {}
    for index, rule in enumerate(rules):
        for word in {normalised(word) for word in rule.words or ()}:
            owners.setdefault(word, []).append(index)
    return owners
