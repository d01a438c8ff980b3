"""`accounts.toml`: the managed accounts of a hub, strict, with their secrets kept elsewhere.

An unknown key is an error that names it and what is allowed. A secret is never written here: it is
`{ env = "NAME" }` or `{ file = "path" }`, and read when the file is. Source: docs/operations.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta, Struct, field

from channels.registry import PROVIDERS, found
from channels.sms.message import SmsConfig
from hub.contract.types import Channel
from hub.errors import ConfigError, PolicyError
from hub.policy.document import duration_ms

ACCOUNTS_MAX: Final = 20_000
"""Accounts of one hub. Ten thousand idle ones fit 100 MB; a file of twice that is a mistake."""
ACCOUNTS_BYTES: Final = 32 * 1024 * 1024
"""Size of the file."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SECRET_KEYS: Final = ("password", "secret", "token", "callback_key", "credentials", "private_key")
_WHOLE_FILES: Final = ("credentials", "private_key")
"""Secrets of several lines: the whole file."""
SECRET_BYTES: Final = 64 * 1024
"""Of a file with a secret."""


class LimitsTable(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`[accounts.limits]`: each a list like `["50/s", "3000/min", "100000/day"]`; `[]` for no
    limit, left out for what the provider documents."""

    account: list[str] | None = None
    app: list[str] | None = None
    """For each application by itself."""
    recipient: list[str] | None = None
    """For each customer address by itself."""


class BreakerTable(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`[accounts.breaker]`: when an account that fails is left alone for a while."""

    failures: Annotated[int, Meta(ge=1, le=1_000)] = 5
    """Unanswered or failed submissions in a row that open it."""
    open: str = "10s"
    open_max: str = "5m"
    """It doubles up to this while probes fail."""
    link: str = "5s"
    """A connection lost for longer opens it as well."""


class OptOutTable(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`[accounts.opt_out]`: what a customer's refusal leads to."""

    scope: Literal["channel", "all"] = "channel"
    reply: str | None = None
    """Sent once; no reply without it."""


class AccountConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One `[[accounts]]`."""

    name: str
    """The account of this name; one named like its channel takes what names no account."""
    channel: Channel
    provider: str
    failover: str | None = None
    """Another account of the channel that takes over what waits while this one cannot work."""
    duplicates: Literal["never", "allow"] = "never"
    """What an unanswered submission becomes at its deadline: `unknown`, or is sent again."""
    unknown_after: str = "10m"
    """How long an unanswered submission waits for a receipt."""
    receipts_for: str = ""
    """How long receipts are waited for; by the provider when it is not given."""
    tries: Annotated[int, Meta(ge=1, le=100)] = 10
    """Submissions of one delivery that the provider refuses for the moment."""
    timezone: str = "Asia/Shanghai"
    """Of natural days and months in the limits."""
    limits: LimitsTable = LimitsTable()
    breaker: BreakerTable = field(default_factory=BreakerTable)
    opt_out: OptOutTable = field(default_factory=OptOutTable)
    sms: SmsConfig = field(default_factory=SmsConfig)
    settings: Any = None
    """The table named after the provider, as its own type."""

    def __repr__(self) -> str:
        return f"AccountConfig({self.name!r}, {self.provider!r})"

    def ms(self, key: str) -> int:
        """A duration of this table in milliseconds: `unknown_after`, `breaker.open`, …"""
        value: Any = self
        for step in key.split("."):
            value = getattr(value, step)
        if key == "receipts_for":
            value = value or PROVIDERS[self.provider].receipts_for
        return _duration(value, f"{self.name}.{key}")

    def limits_of(self, per: str) -> list[str]:
        """The limits in force, `per` account, app or recipient: its own, else the documented."""
        own: list[str] | None = getattr(self.limits, per)
        return list(PROVIDERS[self.provider].documented(self, per)) if own is None else own


def load_accounts(path: Path, environment: Mapping[str, str] = os.environ) -> list[AccountConfig]:
    """The accounts in a file. Raises ConfigError naming file, key and what is allowed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > ACCOUNTS_BYTES:
        raise ConfigError(f"{path}: larger than {ACCOUNTS_BYTES} bytes")
    try:
        return parse_accounts(data.decode("utf-8-sig"), path.parent, environment)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from error


def parse_accounts(
    text: str, directory: Path, environment: Mapping[str, str] = os.environ
) -> list[AccountConfig]:
    """The accounts in a TOML text; secret files are relative to `directory`. Raises ConfigError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}") from error
    version, entries = table.pop("version", None), table.pop("accounts", [])
    if version != 1:
        raise ConfigError("version: must be 1")
    if table:
        raise ConfigError(f"{next(iter(table))}: unknown key; allowed: version, accounts")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("accounts: write each as [[accounts]]")
    if len(entries) > ACCOUNTS_MAX:
        raise ConfigError(f"accounts: {len(entries)}, at most {ACCOUNTS_MAX}")
    accounts = [
        _account(entry, f"accounts[{index}]", directory, environment)
        for index, entry in enumerate(entries)
    ]
    return _checked_together(accounts)


def _account(
    entry: dict[str, Any], place: str, directory: Path, environment: Mapping[str, str]
) -> AccountConfig:
    entry = dict(entry)
    name = entry.get("name")
    if isinstance(name, str):
        place = f"account {name}"
    provider = entry.get("provider")
    if provider not in PROVIDERS:
        raise ConfigError(f"{place}: provider: known are {', '.join(sorted(PROVIDERS))}")
    kind = PROVIDERS[provider]
    own = entry.pop(kind.table, {})
    if not isinstance(own, dict):
        raise ConfigError(f"{place}: {kind.table} must be a table, [accounts.{kind.table}]")
    if "settings" in entry:
        raise ConfigError(f"{place}: settings: unknown key; write [accounts.{kind.table}]")
    resolved = {
        key: _resolved(key, value, f"{place}: {kind.table}.{key}", directory, environment)
        for key, value in own.items()
    }
    account = _convert(entry, AccountConfig, place, also=kind.table)
    settings = _convert(resolved, kind.config(), f"{place}: {kind.table}")
    account = msgspec.structs.replace(account, settings=settings)
    _check(account, place)
    return account


def _resolved(
    key: str, value: Any, place: str, directory: Path, environment: Mapping[str, str]
) -> Any:
    """A secret from where it is kept; anything else as it is."""
    if key.endswith(_SECRET_KEYS) and isinstance(value, str):
        raise ConfigError(
            f'{place}: a secret is not written here; give {{ env = "NAME" }} or {{ file = "path" }}'
        )
    if not isinstance(value, dict) or not set(value) <= {"env", "file"} or len(value) != 1:
        return value
    if "env" in value:
        found = environment.get(str(value["env"]))
        if not found:
            raise ConfigError(f"{place}: the variable {value['env']} is not set")
        return found
    path = directory / str(value["file"])
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{place}: {path} cannot be read: {reason}") from error
    if len(text) > SECRET_BYTES:
        raise ConfigError(f"{place}: {path}: larger than {SECRET_BYTES} bytes")
    if key.endswith(_WHOLE_FILES) and text.strip():
        return text
    lines = text.splitlines()
    if not lines or not lines[0].strip():
        raise ConfigError(f"{place}: {path}: its first line must be the secret, and is empty")
    return lines[0].strip()


_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`\Z")


def _convert(table: dict[str, Any], kind: type, place: str, also: str = "") -> Any:
    try:
        return msgspec.convert(table, kind, strict=True)
    except msgspec.ValidationError as error:
        problem = str(error)
    at = _AT.search(problem)
    inside = at[1] if at else ""
    problem = problem[: at.start()] if at else problem
    unknown = _UNKNOWN.match(problem)
    if unknown is None:
        if problem.startswith("Invalid enum value") and (words := get_args(_at(kind, inside))):
            problem += f"; allowed: {', '.join(map(str, words))}"
        raise ConfigError(f"{place}: {inside}: {problem}" if inside else f"{place}: {problem}")
    kind = _at(kind, inside)
    allowed = [f.encode_name for f in msgspec.structs.fields(kind) if f.encode_name != "settings"]
    near = get_close_matches(unknown[1], allowed, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    key = f"{inside}.{unknown[1]}" if inside else unknown[1]
    listed = ", ".join(filter(None, [*allowed, also]))
    raise ConfigError(f"{place}: {key}: unknown key{hint}; allowed: {listed}")


def _at(kind: Any, inside: str) -> Any:
    """The type of a key within tables; None for one within a list."""
    for step in filter(None, inside.split(".")):
        if not _is_struct(kind):
            return None
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.encode_name == step), None)
        kind = next((k for k in (*getattr(kind, "__args__", ()), kind) if _is_struct(k)), kind)
    return kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _duration(text: str, place: str) -> int:
    try:
        return duration_ms(text, place)
    except PolicyError as error:
        raise ConfigError(f"{place}: {error.facts.get('problem', error.message)}") from error


def _check(account: AccountConfig, place: str) -> None:
    """What types cannot say of one account."""
    if _NAME.match(account.name) is None:
        raise ConfigError(f"{place}: name: 1 to 64 of A-Z a-z 0-9 _ -")
    for key in (
        "unknown_after",
        "receipts_for",
        "breaker.open",
        "breaker.open_max",
        "breaker.link",
    ):
        account.ms(key)
    if account.timezone not in available_timezones():
        raise ConfigError(f"{place}: timezone: {account.timezone!r} is not an IANA zone")
    kind = PROVIDERS[account.provider]
    if kind.channel and account.channel != kind.channel:
        raise ConfigError(f"{place}: provider {account.provider} serves channel {kind.channel}")
    try:
        kind.check(account)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}") from error
    if kind.outside:
        _check_outside(account, place)


def _check_outside(account: AccountConfig, place: str) -> None:
    """Nothing is said of an account that somebody else sends by, but that it is there."""
    if account.name == account.channel:
        raise ConfigError(
            f"{place}: name: one that is named like its channel takes what names no account, and "
            "this one a gateway serves; name the gateway's accounts otherwise"
        )
    bare = AccountConfig(name=account.name, channel=account.channel, provider=account.provider)
    for key in AccountConfig.__struct_fields__:
        if key != "settings" and getattr(account, key) != getattr(bare, key):
            raise ConfigError(f"{place}: {key}: the gateway sends by this account, not the hub")


def _checked_together(accounts: list[AccountConfig]) -> list[AccountConfig]:
    """What one account cannot say alone; each completed by what it takes from others."""
    by_name: dict[str, AccountConfig] = {}
    for account in accounts:
        if account.name in by_name:
            raise ConfigError(f"account {account.name}: there are two of this name")
        by_name[account.name] = account
    for account in accounts:
        if account.failover is None:
            continue
        other = by_name.get(account.failover)
        if other is None or other is account or other.channel != account.channel:
            raise ConfigError(
                f"account {account.name}: failover: must name another account of its channel"
            )
        if PROVIDERS[other.provider].outside:
            raise ConfigError(
                f"account {account.name}: failover: the hub does not send by {other.name}"
            )
    joins = ((account, PROVIDERS[account.provider].joined) for account in accounts)
    whole = [found(join)(account, by_name) if join else account for account, join in joins]
    _check_identities(whole)
    return whole


def _check_identities(accounts: list[AccountConfig]) -> None:
    """No two accounts are the same at their provider."""
    taken: dict[tuple[str, ...], str] = {}
    for account in accounts:
        identity = PROVIDERS[account.provider].identity
        if identity:
            other = taken.setdefault(found(identity)(account.settings), account.name)
            if other != account.name:
                raise ConfigError(f"account {account.name}: account {other} is the same already")
