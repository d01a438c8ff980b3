"""The policy document: TOML, strict. An error names the place and what is allowed there.

Semantics: docs/policy.md.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct, field

from hub import limits
from hub.contract.subjects import CHANNELS
from hub.contract.zones import zone_exists
from hub.errors import PolicyError

Action = Literal["hold", "drop", "next"]
Bypass = Literal["cap", "gap", "quiet", "presence", "dnd"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Name = Annotated[str, Meta(min_length=1, max_length=64)]

CALENDAR = ("day", "week", "month")
DAYS: tuple[str, ...] = get_args(Day)

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([1-9][0-9]{0,9})(ms|s|m|h|d)\Z")
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_DATES = re.compile(r"(\d{4}-\d{2}-\d{2})(?:/(\d{4}-\d{2}-\d{2}))?\Z")


class Category(Struct, forbid_unknown_fields=True, kw_only=True):
    """A kind of message: its default route and priority, and the rule kinds it is exempt from."""

    route: list[str]
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    bypass: list[Bypass] = field(default_factory=list)


class Reserve(Struct, forbid_unknown_fields=True, kw_only=True):
    """The last `slots` of a cap are kept for intents of at least `priority`."""

    slots: Annotated[int, Meta(ge=1)]
    priority: Annotated[int, Meta(ge=0, le=9)]


class Filter(Struct, forbid_unknown_fields=True, kw_only=True):
    """Whom a rule is for; an omitted list means any."""

    name: Name
    categories: list[Name] | None = None
    channels: list[Name] | None = None
    apps: list[Name] | None = None
    on: Action


class Cap(Filter, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=limits.CAP_LIMIT)]
    window: str
    per: Literal["customer", "channel", "account"] = "customer"
    reserve: Reserve | None = None


class Gap(Filter, kw_only=True):
    min: str


class Quiet(Filter, kw_only=True):
    from_: str | None = field(name="from", default=None)
    to: str | None = None
    days: list[Day] | None = None
    dates: list[str] | None = None
    spread: str | None = None


class Presence(Filter, kw_only=True):
    within: str


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


def load_policy(path: Path) -> PolicyDocument:
    """The document in a file. Raises PolicyError naming file, key and what is allowed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}", place="") from error
    if len(data) > limits.POLICY_BYTES:
        raise PolicyError(f"{path}: larger than {limits.POLICY_BYTES} bytes", place="")
    try:
        return parse_policy(data.decode())
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: not UTF-8 at byte {error.start}", place="") from error
    except PolicyError as error:
        raise PolicyError(f"{path}: {error.message}", **error.facts) from error


def parse_policy(text: str) -> PolicyDocument:
    """The document in a TOML text. Raises PolicyError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"not TOML: {error}", place="") from error
    return convert_policy(table)


def convert_policy(table: dict[str, Any]) -> PolicyDocument:
    """The document in a parsed table. Raises PolicyError."""
    try:
        document = msgspec.convert(table, PolicyDocument, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error
    _check(document)
    return document


def policy_version(document: PolicyDocument) -> str:
    """Twelve hexadecimal digits that name this document; every decision records them."""
    canonical = msgspec.json.encode(document, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:12]


# ---- units -------------------------------------------------------------------------------------


def duration_ms(text: str, place: str) -> int:
    """`"90m"` in milliseconds: a whole number of ms, s, m, h or d. Raises PolicyError."""
    match = _DURATION.match(text)
    if match is None:
        _fail(place, f"{text!r} is not a duration; write a number and a unit, as 30m, 24h or 7d")
    value = int(match[1]) * _UNIT_MS[match[2]]
    if value > limits.WINDOW_MS:
        _fail(place, f"{text!r} is longer than 366d")
    return value


def time_of_day_ms(text: str, place: str) -> int:
    """`"21:00"` in milliseconds after local midnight. Raises PolicyError."""
    match = _TIME_OF_DAY.match(text)
    if match is None:
        _fail(place, f"{text!r} is not a time of day; write HH:MM, 00:00 to 23:59")
    return int(match[1]) * 3_600_000 + int(match[2]) * 60_000


def date_ordinals(text: str, place: str) -> range:
    """`"2026-10-01/2026-10-07"` (or one date) as proleptic ordinals, both ends included."""
    match = _DATES.match(text)
    if match is None:
        _fail(place, f"{text!r} is not a date or range; write 2026-10-01 or 2026-10-01/2026-10-07")
    try:
        first = date.fromisoformat(match[1])
        last = date.fromisoformat(match[2] or match[1])
    except ValueError as error:
        _fail(place, f"{text!r}: {error}")
    if last < first:
        _fail(place, f"{text!r} ends before it begins")
    if last - first > timedelta(days=366):
        _fail(place, f"{text!r} is longer than 366 days")
    return range(first.toordinal(), last.toordinal() + 1)


# ---- checks beyond types ------------------------------------------------------------------------


def _check(document: PolicyDocument) -> None:
    if not zone_exists(document.timezone):
        _fail("timezone", f"{document.timezone!r} is not an IANA zone")
    duration_ms(document.hold_max, "hold_max")
    if not document.categories:
        _fail("categories", "at least one category is needed")
    for name, category in document.categories.items():
        _check_route(category.route, f"categories.{name}.route")
        if len(set(category.bypass)) != len(category.bypass):
            _fail(f"categories.{name}.bypass", "names a kind twice")
    names: dict[str, str] = {}
    rules = 0
    for kind in ("caps", "gaps", "quiet", "presence"):
        for index, rule in enumerate(getattr(document, kind)):
            place = f"{kind}[{index}]"
            _check_filter(document, rule, place)
            if rule.name in names:
                _fail(f"{place}.name", f"{rule.name!r} is already the name of {names[rule.name]}")
            names[rule.name] = place
            _RULE_CHECKS[type(rule)](rule, place)
            rules += 1
    if rules > limits.POLICY_RULES:
        _fail("", f"{rules} rules, at most {limits.POLICY_RULES}")


def _check_route(route: list[str], place: str) -> None:
    if not route:
        _fail(place, "at least one channel is needed")
    for channel in route:
        if channel not in CHANNELS:
            _fail(place, f"unknown channel {channel!r}; known: {', '.join(CHANNELS)}")
    if len(set(route)) != len(route):
        _fail(place, "names a channel twice")


def _check_filter(document: PolicyDocument, rule: Filter, place: str) -> None:
    for key in ("categories", "channels", "apps"):
        values = getattr(rule, key)
        if values is not None and not values:
            _fail(f"{place}.{key}", "is empty and would match nothing; omit it to match any")
    for name in rule.categories or ():
        if name not in document.categories:
            known = ", ".join(document.categories)
            _fail(f"{place}.categories", f"unknown category {name!r}; known: {known}")
    for channel in rule.channels or ():
        if channel not in CHANNELS:
            known = ", ".join(CHANNELS)
            _fail(f"{place}.channels", f"unknown channel {channel!r}; known: {known}")


def _check_cap(cap: Cap, place: str) -> None:
    if cap.window not in CALENDAR:
        duration_ms(cap.window, f"{place}.window")
    if cap.reserve is not None and cap.reserve.slots >= cap.limit:
        _fail(f"{place}.reserve.slots", f"must be below the limit of {cap.limit}")


def _check_gap(gap: Gap, place: str) -> None:
    duration_ms(gap.min, f"{place}.min")


def _check_presence(presence: Presence, place: str) -> None:
    duration_ms(presence.within, f"{place}.within")


def _check_quiet(quiet: Quiet, place: str) -> None:
    if quiet.dates is not None:
        for key, value in (("from", quiet.from_), ("to", quiet.to), ("days", quiet.days)):
            if value is not None:
                _fail(f"{place}.{key}", "a rule has either dates or a daily window, not both")
        if not quiet.dates:
            _fail(f"{place}.dates", "is empty")
        for index, text in enumerate(quiet.dates):
            date_ordinals(text, f"{place}.dates[{index}]")
    else:
        if quiet.from_ is None or quiet.to is None:
            _fail(place, "needs from and to, or dates")
        start = time_of_day_ms(quiet.from_, f"{place}.from")
        if start == time_of_day_ms(quiet.to, f"{place}.to"):
            _fail(place, "from and to are the same: an empty window")
        if quiet.days is not None and (not quiet.days or len(set(quiet.days)) != len(quiet.days)):
            _fail(f"{place}.days", "needs at least one day, each once")
    if quiet.spread is not None:
        duration_ms(quiet.spread, f"{place}.spread")
        if quiet.on == "drop":
            _fail(f"{place}.spread", "contradicts on = drop: nothing is released")


_RULE_CHECKS: dict[type, Any] = {
    Cap: _check_cap,
    Gap: _check_gap,
    Quiet: _check_quiet,
    Presence: _check_presence,
}


# ---- errors --------------------------------------------------------------------------------------


def _fail(place: str, problem: str) -> Any:
    raise PolicyError(f"{place}: {problem}" if place else problem, place=place)


_AT = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_TABLES: dict[str, type[Struct]] = {
    "": PolicyDocument,
    "caps": Cap,
    "gaps": Gap,
    "quiet": Quiet,
    "presence": Presence,
    "categories": Category,
    "reserve": Reserve,
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "on": get_args(Action),
    "bypass": get_args(Bypass),
    "days": DAYS,
    "per": ("customer", "channel", "account"),
    "version": (1,),
}


def _explain(error: str) -> PolicyError:
    """msgspec's message with the place in the words of the document, and the keys allowed there."""
    match = _AT.match(error)
    problem, path = (match[1], match[2] or "") if match else (error, "")
    place = path.removeprefix(".").replace("[...]", ".*")
    unknown = _UNKNOWN.match(problem)
    if unknown is not None:
        steps = [step for step in re.split(r"[.\[\]0-9*]+", place) if step in _TABLES and step]
        table = steps[-1] if steps else ""
        allowed = ", ".join(f.encode_name for f in msgspec.structs.fields(_TABLES[table]))
        problem = f"unknown key {unknown[1]!r}; allowed: {allowed}"
    elif problem.startswith("Invalid enum value"):
        key = re.split(r"[.\[]", place.rstrip("]0123456789["))[-1]
        problem += f"; allowed: {', '.join(map(str, _CHOICES.get(key, ())))}"
    return PolicyError(f"{place}: {problem}" if place else problem, place=place)
