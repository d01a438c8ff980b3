"""The policy document: TOML, strict. An error names the place and what is allowed there.

Semantics: docs/policy.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from hub import limits
from hub.contract.zones import zone_exists
from hub.errors import PolicyError
from hub.policy import talks
from hub.policy.files import policy_text, read_table
from hub.policy.parts import (
    Action,
    Blocking,
    Filter,
    Name,
    Named,
    check_channels,
    check_filter,
    date_ordinals,
    duration_ms,
    fail,
    time_of_day_ms,
)

Bypass = Literal["cap", "gap", "quiet", "presence", "dnd", "window"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

CALENDAR = ("day", "week", "month")
DAYS: tuple[str, ...] = get_args(Day)

Categories = Mapping[str, "Category"]


class Category(Struct, forbid_unknown_fields=True, kw_only=True):
    """A kind of message: its default route and priority, and the rule kinds it is exempt from."""

    route: list[str]
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    bypass: list[Bypass] = field(default_factory=list)
    fallback_after: str | UnsetType = UNSET
    """How long a dispatch may go without `delivered` before the next channel is tried. Not in the
    version of a document that does not say it: those had their versions before there was one."""


class Reserve(Struct, forbid_unknown_fields=True, kw_only=True):
    """The last `slots` of a cap are kept for intents of at least `priority`."""

    slots: Annotated[int, Meta(ge=1)]
    priority: Annotated[int, Meta(ge=0, le=9)]


class Cap(Blocking, kw_only=True):
    """At most `limit` dispatches in `window`."""

    limit: Annotated[int, Meta(ge=1, le=limits.CAP_LIMIT)]
    window: str
    per: Literal["customer", "channel", "account"] = "customer"
    reserve: Reserve | None = None


class Gap(Blocking, kw_only=True):
    """At least `min` between two dispatches."""

    min: str


class Quiet(Blocking, kw_only=True):
    """Nothing goes out inside a daily window, or on some dates, of the customer's local time."""

    from_: str | None = field(name="from", default=None)
    to: str | None = None
    days: list[Day] | None = None
    dates: list[str] | None = None
    spread: str | None = None


class Presence(Blocking, kw_only=True):
    """Nothing goes out while the customer is talking with us."""

    within: str


class Push(Struct, forbid_unknown_fields=True, kw_only=True):
    """How many of a customer's devices get a push, and how long after they were seen last."""

    devices: Annotated[int, Meta(ge=1, le=limits.DEVICES)] = 1
    seen_within: str | None = None


class PolicyDocument(Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole document as written."""

    version: Literal[1]
    timezone: str
    categories: dict[Name, Category]
    hold_max: str = "72h"
    caps: list[Cap] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    quiet: list[Quiet] = field(default_factory=list)
    presence: list[Presence] = field(default_factory=list)
    # Tables that came later are not in the version of a document without them.
    windows: list[talks.Window] | UnsetType = UNSET
    words: list[talks.Words] | UnsetType = UNSET
    replies: list[talks.Reply] | UnsetType = UNSET
    reminders: list[talks.Reminder] | UnsetType = UNSET
    archive: talks.Archive | UnsetType = UNSET
    push: Push | UnsetType = UNSET
    files: dict[str, list[str]] | UnsetType = UNSET
    """Words files by name, where a policy is carried along without its files. Not in a document
    that has been read: its rules have the words."""


def load_policy(path: Path) -> PolicyDocument:
    """The document in a file. Raises PolicyError naming file, key and what is allowed."""
    text = policy_text(path)
    try:
        return parse_policy(text)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error.message}", **error.facts) from error


def parse_policy(text: str) -> PolicyDocument:
    """The document in a TOML text that names no files, or carries them. Raises PolicyError."""
    return convert_policy(read_table(text))


def convert_policy(table: dict[str, Any]) -> PolicyDocument:
    """The document in a parsed table. Raises PolicyError, with the place as `facts["place"]`."""
    try:
        document = msgspec.convert(table, PolicyDocument, strict=True)
        if document.words or document.files:
            talks.take_words(document.words or [], document.files or {})
            document.files = UNSET
        _check(document)
    except msgspec.ValidationError as error:
        place, problem = _explain(str(error), table)
    except PolicyError as error:
        place, problem = error.facts["place"], error.facts["problem"]
    else:
        return document
    raise PolicyError(f"{_said(place, table)}{problem}", place=place, problem=problem)


def policy_version(document: PolicyDocument) -> str:
    """Twelve hexadecimal digits that name this document; every decision records them."""
    canonical = msgspec.json.encode(document, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:12]


# ---- checks beyond types ------------------------------------------------------------------------


def _check(document: PolicyDocument) -> None:
    if not zone_exists(document.timezone):
        fail("timezone", f"{document.timezone!r} is not an IANA zone")
    duration_ms(document.hold_max, "hold_max")
    if not document.categories:
        fail("categories", "at least one category is needed")
    for name, category in document.categories.items():
        place = _category_place(name)
        if not name.isprintable():
            fail(place, "a name is one line of printable characters")
        _check_route(category.route, f"{place}.route")
        if len(set(category.bypass)) != len(category.bypass):
            fail(f"{place}.bypass", "names a kind twice")
        if isinstance(category.fallback_after, str):
            _check_fallback(category.fallback_after, f"{place}.fallback_after")
    names: dict[str, str] = {}
    rules = 0
    for kind, check in _RULE_CHECKS.items():
        for index, rule in enumerate(getattr(document, kind) or ()):
            place = f"{kind}[{index}]"
            _check_name(rule, place, names)
            if isinstance(rule, Filter):
                check_filter(rule, document.categories, place)
            check(rule, document.categories, place)
            rules += 1
    if rules > limits.POLICY_RULES:
        fail("", f"{rules} rules, at most {limits.POLICY_RULES}")
    talks.check_all_words(document.words or [])
    if document.archive:
        talks.check_archive(document.archive, "archive")
    if document.push and document.push.seen_within is not None:
        duration_ms(document.push.seen_within, "push.seen_within")


def _check_name(rule: Named, place: str, names: dict[str, str]) -> None:
    """`names`: those of the rules before, each with its place."""
    if not rule.name.isprintable():
        fail(f"{place}.name", "a name is one line of printable characters")
    if rule.name in names:
        fail(f"{place}.name", f"{rule.name!r} is already the name of {names[rule.name]}")
    names[rule.name] = place


def _check_route(route: list[str], place: str) -> None:
    if not route:
        fail(place, "at least one channel is needed")
    check_channels(route, place)
    if len(set(route)) != len(route):
        fail(place, "names a channel twice")


def _check_fallback(text: str, place: str) -> None:
    if duration_ms(text, place) > limits.SEND_MEMORY_MS:
        fail(place, f"{text!r} is longer than 7d, after which a dispatch is given no more receipts")


def _check_cap(cap: Cap, _: Categories, place: str) -> None:
    if cap.window not in CALENDAR:
        duration_ms(cap.window, f"{place}.window")
    if cap.reserve is not None and cap.reserve.slots >= cap.limit:
        fail(f"{place}.reserve.slots", f"must be below the limit of {cap.limit}")


def _check_gap(gap: Gap, _: Categories, place: str) -> None:
    duration_ms(gap.min, f"{place}.min")


def _check_presence(presence: Presence, _: Categories, place: str) -> None:
    duration_ms(presence.within, f"{place}.within")


def _check_quiet(quiet: Quiet, _: Categories, place: str) -> None:
    if quiet.dates is not None:
        for key, value in (("from", quiet.from_), ("to", quiet.to), ("days", quiet.days)):
            if value is not None:
                fail(f"{place}.{key}", "a rule has either dates or a daily window, not both")
        if not quiet.dates:
            fail(f"{place}.dates", "is empty")
        for index, text in enumerate(quiet.dates):
            date_ordinals(text, f"{place}.dates[{index}]")
    else:
        if quiet.from_ is None or quiet.to is None:
            fail(place, "needs from and to, or dates")
        start = time_of_day_ms(quiet.from_, f"{place}.from")
        if start == time_of_day_ms(quiet.to, f"{place}.to"):
            fail(place, "from and to are the same: an empty window")
        if quiet.days is not None and (not quiet.days or len(set(quiet.days)) != len(quiet.days)):
            fail(f"{place}.days", "needs at least one day, each once")
    if quiet.spread is not None:
        duration_ms(quiet.spread, f"{place}.spread")
        if quiet.on == "drop":
            fail(f"{place}.spread", "contradicts on = drop: nothing is released")


_RULE_CHECKS: dict[str, Callable[[Any, Categories, str], None]] = {
    "caps": _check_cap,
    "gaps": _check_gap,
    "quiet": _check_quiet,
    "presence": _check_presence,
    "windows": talks.check_window,
    "words": talks.check_words,
    "replies": talks.check_reply,
    "reminders": talks.check_reminder,
}


# ---- errors --------------------------------------------------------------------------------------


_AT = re.compile(r"(.*?)(?: - at `(key` in `)?\$\.?(.*)`)?\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`\Z")
_RULE = re.compile(rf"({'|'.join(_RULE_CHECKS)})\[(\d+)\]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_TABLES: dict[str, type[Struct]] = {
    "": PolicyDocument,
    "caps": Cap,
    "gaps": Gap,
    "quiet": Quiet,
    "presence": Presence,
    "windows": talks.Window,
    "words": talks.Words,
    "replies": talks.Reply,
    "reminders": talks.Reminder,
    "archive": talks.Archive,
    "push": Push,
    "categories": Category,
    "reserve": Reserve,
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "on": get_args(Action),
    "windows.on": ("hold", "next"),
    "words.on": ("drop",),
    "how": ("contains", "exact"),
    "event": talks.EVENTS,
    "bypass": get_args(Bypass),
    "days": DAYS,
    "per": ("customer", "channel", "account"),
    "version": (1,),
}
_IN_QUOTES = ("datetime", "date", "time")
"""Types that TOML has and the document writes as text."""


def _explain(error: str, table: dict[str, Any]) -> tuple[str, str]:
    """Place and problem in words of the document, from msgspec's message."""
    match = _AT.match(error)
    problem, is_key, path = (match[1], match[2], match[3] or "") if match else (error, None, "")
    steps = re.findall(r"[a-z_]+", path)
    if is_key:
        return path, "the name of a category has 1 to 64 characters"
    place = path
    if path.startswith("categories[...]"):
        place = path.replace("categories[...]", _bad_category(table), 1)
    if (unknown := _UNKNOWN.match(problem)) is not None:
        owner = next((step for step in reversed(steps) if step in _TABLES), "")
        return _inside(place, unknown[1]), _unknown_key(unknown[1], owner)
    if (missing := _MISSING.match(problem)) is not None:
        return _inside(place, missing[1]), "is missing"
    if problem.startswith("Invalid enum value"):
        allowed = _CHOICES.get(".".join(steps)) or _CHOICES.get(steps[-1] if steps else "", ())
        return place, f"{problem.lower()}; allowed: {', '.join(map(str, allowed))}"
    problem = problem.replace(" | null", "").replace("Expected", "expected")
    if problem.endswith(tuple(f"got `{name}`" for name in _IN_QUOTES)):
        problem += "; write it in quotes"
    return place, problem


def _unknown_key(key: str, owner: str) -> str:
    allowed = [field.encode_name for field in msgspec.structs.fields(_TABLES[owner])]
    close = get_close_matches(key, allowed, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown key{hint}; allowed: {', '.join(allowed)}"


def _inside(place: str, key: str) -> str:
    key = key if _BARE_KEY.match(key) else msgspec.json.encode(key).decode()
    return f"{place}.{key}" if place else key


def _category_place(name: str) -> str:
    return _inside("categories", name)


def _bad_category(table: dict[str, Any]) -> str:
    """The place of the first category that is not valid: msgspec does not name it."""
    for name, category in table["categories"].items():
        try:
            msgspec.convert(category, Category, strict=True)
        except msgspec.ValidationError:
            return _category_place(name)
    return "categories"


def _said(place: str, table: dict[str, Any]) -> str:
    """The place for a person: an index says little, so the name of the rule goes with it."""
    match = _RULE.match(place)
    if match is None:
        return f"{place}: " if place else ""
    rule = table[match[1]][int(match[2])]
    name = rule.get("name") if isinstance(rule, dict) else None
    return f"{place} ({name}): " if isinstance(name, str) and name else f"{place}: "
