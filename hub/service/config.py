"""How a hub is set up: `tact.toml` and the options of `tact up`. Option over file over default.

Strict like the policy: an unknown key is an error that names it and what is allowed, because a
misspelt `password_file` must not start a hub that nobody meant.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct, field

from hub import limits
from hub.errors import ConfigError

NATS_PORT: Final = 4222
HTTP_PORT: Final = 4280
PASSWORD_VARIABLE: Final = "TACT_NATS_PASSWORD"
SYSTEM_PASSWORD_VARIABLE: Final = "TACT_NATS_SYSTEM_PASSWORD"
HOSTS_MAX: Final = 64
"""Conversation hosts of one hub: more than any machine has use for."""
_LEAST_BYTES: Final = 16 * limits.MIB

Port = Annotated[int, Meta(ge=0, le=65_535)]
Bytes = Annotated[int, Meta(ge=_LEAST_BYTES)]
LogLevel = Literal["debug", "info", "warning", "error"]


class NatsConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which NATS server. Without `url` an embedded one on `port`."""

    url: str | None = None
    port: Port = NATS_PORT
    """Of the embedded server; 0 for any free one."""
    user: str | None = None
    password_file: str | None = None
    """Or the variable TACT_NATS_PASSWORD, which is taken first."""
    system_user: str | None = None
    """Of the server's system account, to read whether it syncs before it acknowledges."""
    system_password_file: str | None = None
    """Or the variable TACT_NATS_SYSTEM_PASSWORD."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    allow_lazy_sync: bool = False
    """Accept a server that acknowledges before its disk has it: power loss then loses messages."""


class HttpConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Where health, status and metrics are served."""

    host: str = "127.0.0.1"
    port: Port = HTTP_PORT
    """0 for any free one."""


class LimitsConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Sizes of the streams, in bytes. Full means that publishers are refused."""

    intake_bytes: Bytes = limits.INTAKE_BYTES
    ledger_bytes: Bytes = limits.LEDGER_BYTES
    replay_messages: Annotated[int, Meta(ge=0)] = 0
    """Decided messages that stay in INTAKE, for replays. Their bytes count towards its size."""


class HubConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Everything `tact up` needs to know. Paths in a file are relative to the file."""

    data_dir: str = "tact-data"
    policy: str | None = None
    """A policy file. Without it: the one applied last, else the built-in one."""
    accounts: str | None = None
    """An accounts file; without it deliveries wait for foreign gateways."""
    hosts: Annotated[int, Meta(ge=1, le=HOSTS_MAX)] = 2
    """Processes that decide."""
    account_hosts: Annotated[int, Meta(ge=1, le=HOSTS_MAX)] = 2
    """Processes that send, if there are accounts."""
    partitions: Annotated[int, Meta(ge=1, le=limits.PARTITIONS_MAX)] | None = None
    """Fixed when the streams are made; unset means: as they were made, else the default."""
    ray_address: str | None = None
    """A running Ray cluster; without it a local one."""
    log_level: LogLevel = "info"
    nats: NatsConfig = field(default_factory=NatsConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)


_PATHS: Final = (
    ("data_dir",),
    ("policy",),
    ("accounts",),
    ("nats", "password_file"),
    ("nats", "system_password_file"),
)
_TABLES: Final = {"nats": NatsConfig, "http": HttpConfig, "limits": LimitsConfig, "": HubConfig}


def load_config(path: Path | None, options: Mapping[str, Any]) -> HubConfig:
    """The configuration of a file, if any, with `options` (dotted name to value) over it.

    Options that are None were not given. Raises ConfigError naming file, key and what is allowed.
    """
    table: dict[str, Any] = {} if path is None else _read(path)
    for name, value in options.items():
        if value is None:
            continue
        *above, last = name.split(".")
        inner = table
        for step in above:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path}: {step} must be a table, written [{step}]", key=step)
        inner[last] = value
    try:
        return msgspec.convert(table, HubConfig, strict=True)
    except msgspec.ValidationError as error:
        raise _explained(str(error), path) from error


def read_password(variable: str, file: str | None) -> str | None:
    """The password in an environment variable, else the first line of a file, else None.

    Raises ConfigError when the file cannot be read or is empty.
    """
    value = os.environ.get(variable)
    if value:
        return value
    if file is None:
        return None
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{file}: the password cannot be read: {reason}") from error
    if not lines or not lines[0].strip():
        raise ConfigError(f"{file}: its first line must be the password, and is empty")
    return lines[0].strip()


def default_policy() -> str:
    """The built-in policy document, TOML text."""
    return resources.files("hub.service").joinpath("default_policy.toml").read_text("utf-8")


# ---- reading -------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    for steps in _PATHS:
        _anchor(table, steps, path.parent)
    return table


def _anchor(table: Any, steps: tuple[str, ...], directory: Path) -> None:
    """Make a path in the file relative to the file."""
    *above, last = steps
    for step in above:
        table = table.get(step)
        if not isinstance(table, dict):
            return
    if isinstance(table.get(last), str):
        table[last] = str(directory / table[last])


_AT: Final = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?\Z", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")


def _explained(error: str, path: Path | None) -> ConfigError:
    """msgspec's message with the key in the words of the file, and what is allowed there."""
    match = _AT.match(error)
    problem, key = (match[1], match[2] or "") if match else (error, "")
    unknown = _UNKNOWN.match(problem)
    if unknown is not None:
        allowed = ", ".join(f.encode_name for f in msgspec.structs.fields(_TABLES[key]))
        key = f"{key}.{unknown[1]}" if key else unknown[1]
        problem = f"unknown key; allowed: {allowed}"
    elif problem.startswith("Invalid enum value"):
        problem += f"; allowed: {', '.join(get_args(LogLevel))}"
    place = ": ".join(filter(None, [str(path) if path else "", key]))
    return ConfigError(f"{place}: {problem}" if place else problem, key=key)
