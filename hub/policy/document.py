"""The policy document: TOML, strict. An error names the place and what is allowed there.

Semantics: docs/policy.md.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from datetime import date, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from hub import limits
from hub.contract.subjects import CHANNELS, is_source
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
    fallback_after: str | UnsetType = UNSET
    """How long a dispatch may go without `delivered` before the next channel is tried. Not in the
    version of a document that does not say it: those had their versions before there was one."""


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
    """At most `limit` dispatches in `window`."""

    limit: Annotated[int, Meta(ge=1, le=limits.CAP_LIMIT)]
    window: str
    per: Literal["customer", "channel", "account"] = "customer"
    reserve: Reserve | None = None


class Gap(Filter, kw_only=True):
    """At least `min` between two dispatches."""

    min: str


class Quiet(Filter, kw_only=True):
    """Nothing goes out inside a daily window, or on some dates, of the customer's local time."""

    from_: str | None = field(name="from", default=None)
    to: str | None = None
    days: list[Day] | None = None
    dates: list[str] | None = None
    spread: str | None = None


class Presence(Filter, kw_only=True):
    """Nothing goes out while the customer is talking with us."""

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
        with path.open("rb") as file:
            data = file.read(limits.POLICY_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}", place="") from error
    if len(data) > limits.POLICY_BYTES:
        raise PolicyError(f"{path}: larger than {limits.POLICY_BYTES} bytes", place="")
    try:
        return parse_policy(data.decode("utf-8-sig"))  # some editors put a byte order mark
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: not UTF-8 at byte {error.start}", place="") from error
    except PolicyError as error:
        raise PolicyError(f"{path}: {error.message}", **error.facts) from error


def parse_policy(text: str) -> PolicyDocument:
    """The document in a TOML text. Raises PolicyError."""
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise PolicyError("not TOML: nested too deeply", place="") from error
    except ValueError as error:  # TOMLDecodeError, and what int() says of 5000 digits
        raise PolicyError(f"not TOML: {error}", place="") from error
    return convert_policy(table)


def convert_policy(table: dict[str, Any]) -> PolicyDocument:
    """The document in a parsed table. Raises PolicyError, with the place as `facts["place"]`."""
    try:
        document = msgspec.convert(table, PolicyDocument, strict=True)
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
        place = _category_place(name)
        if not name.isprintable():
            _fail(place, "a name is one line of printable characters")
        _check_route(category.route, f"{place}.route")
        if len(set(category.bypass)) != len(category.bypass):
            _fail(f"{place}.bypass", "names a kind twice")
        if isinstance(category.fallback_after, str):
            _check_fallback(category.fallback_after, f"{place}.fallback_after")
    names: dict[str, str] = {}
    rules = 0
    for kind in ("caps", "gaps", "quiet", "presence"):
        for index, rule in enumerate(getattr(document, kind)):
            place = f"{kind}[{index}]"
            _check_filter(document, rule, place)
            if not rule.name.isprintable():
                _fail(f"{place}.name", "a name is one line of printable characters")
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


def _check_fallback(text: str, place: str) -> None:
    if duration_ms(text, place) > limits.SEND_MEMORY_MS:
        _fail(
            place, f"{text!r} is longer than 7d, after which a dispatch is given no more receipts"
        )


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
    for app in rule.apps or ():
        if not is_source(app):
            _fail(f"{place}.apps", f"{app!r} cannot be an app: 1 to 32 of a-z 0-9 -")


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


def _fail(place: str, problem: str) -> NoReturn:
    message = f"{place}: {problem}" if place else problem
    raise PolicyError(message, place=place, problem=problem)


_AT = re.compile(r"(.*?)(?: - at `(key` in `)?\$\.?(.*)`)?\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`\Z")
_RULE = re.compile(r"(caps|gaps|quiet|presence)\[(\d+)\]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
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
        allowed = _CHOICES.get(steps[-1] if steps else "", ())
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
