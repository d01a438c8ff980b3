"""Tables of the policy document about what is said: windows, words, replies, reminders, archive.

Their types and checks; hub.policy.document reads them. Semantics: docs/policy.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from hub import limits
from hub.contract.decode import check_intent
from hub.contract.subjects import CHANNELS
from hub.contract.types import Intent
from hub.policy.normal import normalised
from hub.policy.parts import (
    Filter,
    Name,
    Named,
    check_app,
    check_category,
    check_channels,
    check_filled,
    duration_ms,
    fail,
)

Event = Literal[
    "friend_added",
    "friend_deleted_us",
    "friend_deleted",
    "transfer_failed",
    "session_opened",
    "session_changed",
    "group_created",
    "group_changed",
    "group_dismissed",
    "group_join_way",
    "moment_published",
    "message_recalled",
    "rejected_by_customer",
    "entered",
    "subscribed",
    "unsubscribed",
    "menu_clicked",
    "link_opened",
    "card_answered",
    "card_menu_clicked",
    "event_unknown",
]
"""What an inbound that is no message can be: docs/contract.md, "Events at an account"."""
EVENTS: tuple[str, ...] = get_args(Event)

KEEP_DAYS = 3_660
"""The longest `keep` of the archive: ten years."""


class Window(Filter, kw_only=True):
    """After the customer's message, `limit` dispatches `within` a time, and no more."""

    channels: list[Name]
    limit: Annotated[int, Meta(ge=1, le=limits.CAP_LIMIT)] = 5
    within: str = "48h"
    on: Literal["hold", "next"]


class Words(Filter, kw_only=True):
    """Words that must not be sent (`on`), or that somebody wants to hear of (`alert`)."""

    words: list[str] | None = None
    file: Annotated[str, Meta(min_length=1, max_length=limits.WORDS_FILE_CHARS)] | None = None
    """Relative to the policy file; gone once the document is read."""
    on: Literal["drop"] | None = None
    alert: Name | None = None
    """The application that gets the event."""


class Reply(Named, kw_only=True):
    """What is answered, or set, when a customer writes a word or something happens."""

    match: list[str] | None = None
    how: Literal["contains", "exact"] = "contains"
    event: Event | None = None
    answer: dict[str, Any] | None = None
    """Content, as of an intent."""
    dnd: str | None = None
    """The scope that is set, without an end."""
    category: Name | None = None
    app: Name
    every: str = "24h"
    within: str = "10m"
    channels: list[Name] | None = None
    accounts: list[Name] | None = None


class Reminder(Named, kw_only=True):
    """An event for an application when a customer has waited for an answer."""

    after: str
    app: Name
    again_after: str | None = None
    manager: Name | None = None
    """Whom the second event is for, in words of the application."""
    channels: list[Name] | None = None
    accounts: list[Name] | None = None


class Archive(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Channels of which every message is kept, and how long."""

    channels: list[Name]
    keep: str = "400d"


# ---- windows -----------------------------------------------------------------------------------


def check_window(window: Window, _: Mapping[str, Any], place: str) -> None:
    """Raises PolicyError."""
    duration_ms(window.within, f"{place}.within")


# ---- words -------------------------------------------------------------------------------------


def take_words(rules: list[Words], files: Mapping[str, list[str]]) -> None:
    """Put the words of files into the rules that name them. Raises PolicyError."""
    unused = set(files)
    for index, rule in enumerate(rules):
        place = f"words[{index}]"
        if rule.file is None:
            if rule.words is None:
                fail(place, "needs words or file")
            continue
        if rule.words is not None:
            fail(f"{place}.file", "a rule has either words or a file, not both")
        if rule.file not in files:
            fail(f"{place}.file", f"{rule.file!r} is not carried along: load the policy as a file")
        unused.discard(rule.file)
        rule.words, rule.file = list(files[rule.file]), None
        _check_each(rule.words, f"{place}.file", numbered=True)
    if unused:
        fail("files", f"no rule of words names {min(unused)!r}")


def check_words(rule: Words, categories: Mapping[str, Any], place: str) -> None:
    """Raises PolicyError."""
    if not rule.words:
        fail(f"{place}.words", "is empty")
    _check_each(rule.words, f"{place}.words")
    if rule.on is None and rule.alert is None:
        fail(place, "does nothing: needs on, alert or both")
    if rule.alert is not None:
        check_app(rule.alert, f"{place}.alert")


def check_all_words(rules: list[Words]) -> None:
    """Whether all words together stay inside their bound. Raises PolicyError."""
    count = sum(len(rule.words or ()) for rule in rules)
    if count > limits.POLICY_WORDS:
        fail("words", f"{count} words, at most {limits.POLICY_WORDS}")


def _check_each(words: list[str], place: str, numbered: bool = False) -> None:
    """`numbered`: the place is a file, so that a word is told by its number, from 1."""
    for index, word in enumerate(words):
        where = place if numbered else f"{place}[{index}]"
        which = f"word {index + 1}, {word[:64]!r}," if numbered else repr(word[:64])
        length = len(normalised(word))
        if not length:
            fail(where, f"{which} has no letter, digit or picture: nothing to look for")
        if length > limits.WORD_CHARS:
            fail(where, f"{which} has {length} characters, at most {limits.WORD_CHARS}")


# ---- replies, reminders, archive -----------------------------------------------------------------


def check_reply(rule: Reply, categories: Mapping[str, Any], place: str) -> None:
    """Raises PolicyError."""
    if (rule.match is None) == (rule.event is None):
        fail(place, "needs match or event, and not both")
    if rule.match is not None:
        if not rule.match:
            fail(f"{place}.match", "is empty")
        if len(rule.match) > limits.REPLY_WORDS:
            fail(f"{place}.match", f"{len(rule.match)} words, at most {limits.REPLY_WORDS}")
        _check_each(rule.match, f"{place}.match")
    elif rule.how != "contains":
        fail(f"{place}.how", "goes with match")
    check_app(rule.app, f"{place}.app")
    if rule.answer is None and rule.dnd is None:
        fail(place, "does nothing: needs answer, dnd or both")
    if rule.answer is not None:
        if rule.category is None:
            fail(f"{place}.category", "is missing: an answer is an intent of a category")
        check_category(rule.category, categories, f"{place}.category")
        _check_answer(rule.answer, rule.app, f"{place}.answer")
    elif rule.category is not None:
        fail(f"{place}.category", "goes with answer")
    if rule.dnd is not None:
        _check_scope(rule.dnd, categories, f"{place}.dnd")
    duration_ms(rule.every, f"{place}.every")
    duration_ms(rule.within, f"{place}.within")
    _check_accounts(rule, place)


def content_of(answer: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    """The answer of a reply as the content of an intent."""
    return {name: msgspec.Raw(msgspec.json.encode(part)) for name, part in answer.items()}


def _check_answer(answer: dict[str, Any], app: str, place: str) -> None:
    intent = Intent(id="x", app=app, customer="x", category="x", content=content_of(answer))
    problem = check_intent(intent, app)
    if problem is not None:
        fail(place, problem.removeprefix("content: ").removeprefix("content."))
    size = len(msgspec.json.encode(answer))
    if size > limits.REPLY_BYTES:
        fail(place, f"{size} bytes, at most {limits.REPLY_BYTES}")


def _check_scope(scope: str, categories: Mapping[str, Any], place: str) -> None:
    kind, colon, name = scope.partition(":")
    if kind == "category" and colon:
        check_category(name, categories, place)
    elif kind == "channel" and colon:
        check_channels([name], place)
    elif scope != "all":
        allowed = f"all, category:<name> or channel:<{'|'.join(CHANNELS)}>"
        fail(place, f"{scope!r} is no scope; allowed: {allowed}")


def check_reminder(rule: Reminder, _: Mapping[str, Any], place: str) -> None:
    """Raises PolicyError."""
    duration_ms(rule.after, f"{place}.after")
    check_app(rule.app, f"{place}.app")
    if rule.again_after is not None:
        duration_ms(rule.again_after, f"{place}.again_after")
    if rule.manager is not None and rule.again_after is None:
        fail(f"{place}.manager", "is for the second reminder: goes with again_after")
    _check_accounts(rule, place)


def _check_accounts(rule: Reply | Reminder, place: str) -> None:
    check_filled(rule.channels, f"{place}.channels")
    check_filled(rule.accounts, f"{place}.accounts")
    check_channels(rule.channels or (), f"{place}.channels")


def check_archive(archive: Archive, place: str) -> None:
    """Raises PolicyError."""
    check_filled(archive.channels, f"{place}.channels")
    check_channels(archive.channels, f"{place}.channels")
    duration_ms(archive.keep, f"{place}.keep", most_days=KEEP_DAYS)
