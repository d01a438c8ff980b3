"""What `accounts.toml` says of an account at WeCom: one table `[accounts.wecom]`, of one type for
each provider, with the credentials of the application that speaks for it.

An account that names another as its `app` has that one's credentials: they are filled in when the
file is loaded (`filled`), so that a provider always finds them.

Sources: WeCom's pages 91039 (tokens), 90454 (rates), 91116 (callbacks), 92135 (mass messages).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from channels.http import ANSWER_S, CONNECT_S, CONNECTIONS, CONNECTIONS_MAX, checked_url
from channels.wecom.content import LIMITS, ContentLimits
from hub.errors import ConfigError, PolicyError
from hub.policy.document import duration_ms

if TYPE_CHECKING:
    from channels.accounts import AccountConfig

BASE_URL: Final = "https://qyapi.weixin.qq.com"
API_PER_MIN: Final = 5_000
API_PER_HOUR: Final = 75_000
"""Calls of one API for one corp by this process: half of what WeCom allows (10,000/min and
150,000/h), so that two hosts are within it."""
MEMBER_ANSWER_S: Final = 60.0
"""The most that `answer_s` may be of a member's account: what a call without an answer has made is
looked for 90 s after it, and the call must be over then."""
KEY_CHARS: Final = 43
"""Of an EncodingAESKey: 32 bytes in base64 without the last `=`."""

_CALLBACK_KEY = re.compile(r"[A-Za-z0-9+/]{43}\Z")
_CALLBACK_TOKEN = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_CREDENTIALS: Final = (
    "base_url",
    "corp_id",
    "agent_id",
    "secret",
    "callback_token",
    "callback_key",
)

Word = Annotated[str, Meta(max_length=128)]


class WecomConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What all accounts at WeCom have."""

    app: Word = ""
    """The wecom-app account whose credentials are this account's too."""
    base_url: str = BASE_URL
    corp_id: Word = ""
    agent_id: Annotated[int, Meta(ge=0)] = 0
    secret: Annotated[str, Meta(max_length=256)] = ""
    """Of the application."""
    callback_token: str = ""
    callback_key: str = ""
    """Token and EncodingAESKey of the application's "receive messages" settings. Empty: callbacks
    are refused."""
    api_per_min: Annotated[int, Meta(ge=1)] = API_PER_MIN
    api_per_hour: Annotated[int, Meta(ge=1)] = API_PER_HOUR
    content: ContentLimits = LIMITS
    """How long what is said may be: `[accounts.wecom.content]`."""
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return f"{type(self).__name__}(corp_id={self.corp_id!r}, agent_id={self.agent_id})"


class AppConfig(WecomConfig, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A self-built application: writes to members, and makes internal groups."""

    collect: str = "100ms"
    """Deliveries of the same content are collected for so long into one request (0s: not)."""
    duplicate_check: str = "30m"
    """Of cards that a member answers WeCom drops a repeat within this time (0s: it does not; at
    most 4h). Other messages may be meant twice."""
    group_per_min: Annotated[int, Meta(ge=1)] = 20_000
    group_per_hour: Annotated[int, Meta(ge=1)] = 150_000
    """Person-times of all groups together: a message counts once for each member. 150,000 is what a
    corp has that is small or not verified; others have 350,000 and more."""
    group_member_per_min: Annotated[int, Meta(ge=1, le=10_000)] = 200
    """Group messages to one member: WeCom drops what is over it, and over 10,000 a day (seven a
    minute all day), without a word."""


class KfConfig(WecomConfig, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A customer service account."""

    open_kfid: Annotated[str, Meta(min_length=1, max_length=64)]
    poll: str = "60s"
    """Messages are pulled so often also when no callback announced any: a callback may be lost.
    Pulls without a callback's token are throttled heavily by WeCom."""
    voice_format: Literal["amr", "silk"] = "amr"
    servicers: Annotated[tuple[Word, ...], Meta(max_length=500)] = ()
    """Members who take over when a command names none of them."""


class MemberConfig(WecomConfig, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A member who serves customers."""

    userid: Annotated[str, Meta(min_length=1, max_length=64)]
    rule: Literal["monthly_days", "weekly_7", "daily_1"] = "monthly_days"
    """Mass messages to one customer, as the corp's console says: as many a month as it has days,
    7 a week, or 1 a day."""
    collect: str = "10s"
    """Mass messages of the same content are collected for so long into one task."""
    remind: str = "4h"
    """The member is reminded of a task that waits for so long (0s: never), at most 3 times in
    24 h."""
    give_up: str = "72h"
    """A task that was not confirmed for so long is cancelled, and what waits in it expired."""


class ArchiveConfig(WecomConfig, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What members and customers said to each other, from a file that another program writes."""

    path: Annotated[str, Meta(min_length=1, max_length=4_096)]
    """JSON lines, or a folder of such files in the order of their names."""
    poll: str = "1s"
    """The file is looked at so often for new lines."""


DURATIONS: Final = ("collect", "duplicate_check", "poll", "remind", "give_up")
"""Keys that are a time: a number and a unit."""
NOT_ZERO: Final = ("poll", "give_up")


def ms(config: WecomConfig, key: str) -> int:
    """A duration of the table in milliseconds. Raises ConfigError naming the key."""
    text: str = getattr(config, key)
    if text == "0s":
        return 0
    try:
        return duration_ms(text, key)
    except PolicyError as error:
        raise ConfigError(f"{key}: {error.facts.get('problem', error.message)}") from error


def filled(config: WecomConfig, app: WecomConfig) -> WecomConfig:
    """The configuration with the credentials of its `app`; what it says itself stays."""
    own = {
        key: value
        for key, default in ((key, _default(key)) for key in _CREDENTIALS)
        if (value := getattr(config, key)) != default
    }
    return replace(config, **{key: getattr(app, key) for key in _CREDENTIALS} | own)


def joined(account: AccountConfig, accounts: Mapping[str, AccountConfig]) -> AccountConfig:
    """An account with the credentials of its `app`. Raises ConfigError naming the account."""
    settings: WecomConfig = account.settings
    if isinstance(settings, MemberConfig):
        _check_patience(account, settings)
    if not settings.app:
        return account
    app = accounts.get(settings.app)
    if app is None or not isinstance(app.settings, AppConfig):
        raise ConfigError(f"account {account.name}: wecom.app: must name a wecom-app account")
    return replace(account, settings=filled(settings, app.settings))


def _check_patience(account: AccountConfig, settings: MemberConfig) -> None:
    if account.ms("receipts_for") <= ms(settings, "give_up"):
        raise ConfigError(
            f"account {account.name}: receipts_for: must be longer than wecom.give_up, or what a "
            "member confirms late is not told"
        )


def identity(settings: KfConfig | MemberConfig) -> tuple[str, ...]:
    """Who an account is at WeCom: callbacks tell by it whom they concern."""
    if isinstance(settings, KfConfig):
        return "kf", settings.corp_id, settings.open_kfid
    return "member", settings.corp_id, settings.userid.lower()


def member_limits(settings: MemberConfig) -> dict[str, tuple[str, ...]]:
    """How many mass messages a customer may get, by the rule of the corp's console (92135)."""
    rules = {"monthly_days": "days/month", "weekly_7": "7/week", "daily_1": "1/day"}
    return {"recipient": (rules[settings.rule],)}


def check(config: WecomConfig, sms: Any = None) -> None:
    """What types cannot say of a table. Raises ConfigError naming the key.

    Credentials may be missing while `app` names who has them, and in an archive. `sms` is not
    looked at: the registry gives it to the checks of all providers.
    """
    checked_url(config.base_url, "base_url")
    for key in DURATIONS:
        if hasattr(config, key) and ms(config, key) == 0 and key in NOT_ZERO:
            raise ConfigError(f"{key}: more than 0s", key=key)
    if isinstance(config, MemberConfig) and config.answer_s > MEMBER_ANSWER_S:
        raise ConfigError(f"answer_s: at most {MEMBER_ANSWER_S:g}", key="answer_s")
    if bool(config.callback_token) != bool(config.callback_key):
        raise ConfigError("callback_token and callback_key: one needs the other")
    if config.callback_token and _CALLBACK_TOKEN.match(config.callback_token) is None:
        raise ConfigError("callback_token: 1 to 32 letters and digits", key="callback_token")
    if config.callback_key and _CALLBACK_KEY.match(config.callback_key) is None:
        raise ConfigError(
            f"callback_key: the EncodingAESKey, {KEY_CHARS} characters", key="callback_key"
        )
    if isinstance(config, AppConfig) and config.app:
        raise ConfigError("app: an application has credentials of its own", key="app")
    if config.app or isinstance(config, ArchiveConfig):
        return
    for key in ("corp_id", "secret"):
        if not getattr(config, key):
            raise ConfigError(f"{key}: needed, or `app`, the account that has it", key=key)
    if isinstance(config, AppConfig) and not config.agent_id:
        raise ConfigError("agent_id: needed, the number of the application", key="agent_id")


def _default(key: str) -> Any:
    return BASE_URL if key == "base_url" else 0 if key == "agent_id" else ""
