"""The providers by the name `accounts.toml` calls them, and what an account must know of each.

What a provider needs is imported when an account uses it: a hub with SMPP alone loads no HTTP.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from channels.provider import Events, Provider
from hub.clock import Clock

if TYPE_CHECKING:
    from channels.accounts import AccountConfig


class Window(NamedTuple):
    """Messages that may follow a customer's last one, and for how long."""

    messages: int
    within_ms: int


@dataclass(frozen=True)
class Kind:
    """One sort of provider."""

    channel: str
    """Empty: any."""
    table: str
    """Its table in `accounts.toml`."""
    module: str
    config_name: str
    provider_name: str
    guarantee: str
    """What is promised about repeats, for docs and `tact status`."""
    limits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Documented limits of the provider, in force unless the account has its own."""
    connects: bool = False
    """Whether it must be connected to hear receipts and customers, sending or not."""
    named: bool = False
    """Whether the provider is told the account's name (it is part of its callback's address)."""
    receipts_for: str = "48h"
    """How long receipts are waited for, unless the account says otherwise."""
    linger_ms: int = 120_000
    """How long the end of a delivery is remembered for receipts that contradict it."""
    peers: bool = True
    """Whether customers can be heard by their addresses, so that it is remembered whose each is."""
    closes: bool = False
    """A used-up long limit per recipient is `failed`, class `window_closed`, at once: its
    conversation goes on by another channel, or waits by the policy's rule."""
    supersedes: bool = False
    """What waits in the account is replaced by a newer delivery of the same application, address
    and collapse key."""
    window: Window | None = None
    """What may be sent to a customer after a message of hers."""
    joined: str = ""
    """`module:function` of `(account, accounts by name)`: the account, completed by the others.
    Raises ConfigError."""
    identity: str = ""
    """`module:function` of the account's table: what only one account can be, for a provider that
    tells by it which account a request concerns."""
    directory: str = ""
    """`module:class` of `(accounts by name)`: its `targets(account, callback, now_ms)` says whom a
    provider's request concerns, or is the reply. Without one: the account it names."""
    limits_of: str = ""
    """`module:function` of the account's table: documented limits that depend on it."""
    outside: bool = False
    """A gateway of the user's own sends what is for it: the hub reads past that."""

    def config(self) -> type:
        """The type of its table."""
        return getattr(import_module(self.module), self.config_name)  # type: ignore[no-any-return]

    def check(self, account: AccountConfig) -> None:
        """What the types of the table cannot say. Raises ConfigError."""
        check: Callable[[Any, Any], None] | None = getattr(
            import_module(self.module), "check", None
        )
        if check is not None:
            check(account.settings, account.sms)

    def documented(self, account: AccountConfig, per: str) -> tuple[str, ...]:
        """The provider's documented limits for an account."""
        limits = self.limits
        if self.limits_of:
            limits = found(self.limits_of)(account.settings)
        return limits.get(per, ())

    def make(
        self, account: AccountConfig, events: Events, clock: Clock, chance: random.Random
    ) -> Provider:
        """A provider for one account; not started. Raises ConfigError."""
        made: Callable[..., Provider] = getattr(import_module(self.module), self.provider_name)
        named = {"account": account.name} if self.named else {}
        return made(account.settings, account.sms, events, clock, chance, **named)


def found(place: str) -> Any:
    """What `module:name` says, imported now."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


_ONCE: Final = "at most once: an unanswered submission is never repeated"
_REPLACED: Final = _ONCE + "; a collapse key replaces what the device still shows"

_WECOM_JOINED: Final = "channels.wecom.config:joined"
_WECOM_IDENTITY: Final = "channels.wecom.config:identity"
_WECOM_DIRECTORY: Final = "channels.wecom.callbacks:Directory"

PROVIDERS: Final[dict[str, Kind]] = {
    "gateway": Kind(
        "",
        "gateway",
        "channels.outside",
        "OutsideConfig",
        "",
        "the gateway's own",
        outside=True,
    ),
    "smpp": Kind(
        "sms",
        "smpp",
        "channels.sms.smpp.provider",
        "SmppConfig",
        "SmppProvider",
        _ONCE,
        connects=True,
    ),
    "cmpp": Kind(
        "sms",
        "cmpp",
        "channels.sms.cmpp.provider",
        "CmppConfig",
        "CmppProvider",
        _ONCE,
        connects=True,
    ),
    "url": Kind(
        "sms",
        "url",
        "channels.sms.web.urls",
        "UrlGatewayConfig",
        "UrlGatewayProvider",
        _ONCE,
        named=True,
    ),
    "aliyun": Kind(
        "sms",
        "aliyun",
        "channels.sms.web.aliyun",
        "AliyunConfig",
        "AliyunProvider",
        _ONCE,
        limits={
            "account": ("5000/s",),
            "recipient": ("1/min", "5/h", "10/day"),
        },
        named=True,
    ),
    "wecom-app": Kind(
        "wecom",
        "wecom",
        "channels.wecom.app",
        "AppConfig",
        "AppProvider",
        _ONCE,
        limits={"recipient": ("30/min", "1000/h")},  # WeCom drops what is beyond without a word
        named=True,
        joined=_WECOM_JOINED,
        directory=_WECOM_DIRECTORY,
    ),
    "wecom-kf": Kind(
        "wecom",
        "wecom",
        "channels.wecom.kf",
        "KfConfig",
        "KfProvider",
        "once: an unanswered message is sent again under its id, by which WeCom drops repeats",
        connects=True,
        named=True,
        window=Window(5, 48 * 3_600_000),
        linger_ms=600_000,  # that a message could not be delivered is told later, when pulled
        joined=_WECOM_JOINED,
        identity=_WECOM_IDENTITY,
        directory=_WECOM_DIRECTORY,
    ),
    "wecom-member": Kind(
        "wecom",
        "wecom",
        "channels.wecom.member",
        "MemberConfig",
        "MemberProvider",
        "once: a task whose creation was not answered is looked for before it is created again",
        named=True,
        receipts_for="96h",  # a member confirms when he likes
        closes=True,
        supersedes=True,
        limits_of="channels.wecom.config:member_limits",
        joined=_WECOM_JOINED,
        identity=_WECOM_IDENTITY,
        directory=_WECOM_DIRECTORY,
    ),
    "wecom-archive": Kind(
        "wecom",
        "wecom",
        "channels.wecom.archive",
        "ArchiveConfig",
        "WecomArchiveProvider",
        "sends nothing",
        connects=True,
        named=True,
        joined=_WECOM_JOINED,
        directory=_WECOM_DIRECTORY,
    ),
    "fcm": Kind(
        "push",
        "fcm",
        "channels.push.fcm.provider",
        "FcmConfig",
        "FcmProvider",
        _REPLACED,
        limits={"account": ("600000/min",)},
        named=True,
        supersedes=True,
        peers=False,
    ),
    "apns": Kind(
        "push",
        "apns",
        "channels.push.apns.provider",
        "ApnsConfig",
        "ApnsProvider",
        _REPLACED,
        named=True,
        supersedes=True,
        peers=False,
    ),
    "getui": Kind(
        "push",
        "getui",
        "channels.push.vendors.getui",
        "GetuiConfig",
        "GetuiProvider",
        "once: an unanswered push is sent again under its id, by which getui drops repeats",
        named=True,
        supersedes=True,
        peers=False,
        closes=True,  # a device's marketing messages of the day are used up: the route goes on
        limits_of="channels.push.vendors.quotas:documented",
    ),
    "jpush": Kind(
        "push",
        "jpush",
        "channels.push.vendors.jpush",
        "JpushConfig",
        "JpushProvider",
        "once: an unanswered push is sent again under its id, by which JPush drops repeats",
        named=True,
        supersedes=True,
        peers=False,
        closes=True,
        limits_of="channels.push.vendors.quotas:documented",
    ),
    "webhook": Kind(
        "push",
        "webhook",
        "channels.push.webhook.provider",
        "WebhookConfig",
        "WebhookProvider",
        "at least once: repeated under one `webhook-id` until it is answered",
        named=True,
        supersedes=True,
    ),
    "apprise": Kind(
        "push",
        "apprise",
        "channels.push.apprise",
        "AppriseConfig",
        "AppriseProvider",
        _ONCE,
        named=True,
        supersedes=True,
        peers=False,
    ),
    "webpush": Kind(
        "push",
        "webpush",
        "channels.push.webpush.provider",
        "WebPushConfig",
        "WebPushProvider",
        _REPLACED,
        named=True,
        supersedes=True,
        peers=False,
    ),
}
