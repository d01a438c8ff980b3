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
    closes: bool = False
    """A used-up long limit per recipient is `failed`, class `window_closed`, at once: its
    conversation goes on by another channel, or waits by the policy's rule."""
    window: Window | None = None
    """What may be sent to a customer after a message of hers."""
    joined: str = ""
    """Function of the module: `(account, accounts by name) -> account`, completed by the others."""
    targets: str = ""
    """Function of the module: whom a provider's request concerns; see `channels.provider.Callback`.
    Without one: the account it names."""

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

    def function(self, name: str) -> Any:
        """A function of the provider's module."""
        return getattr(import_module(self.module), name)

    def make(
        self, account: AccountConfig, events: Events, clock: Clock, chance: random.Random
    ) -> Provider:
        """A provider for one account; not started. Raises ConfigError."""
        made: Callable[..., Provider] = getattr(import_module(self.module), self.provider_name)
        named = {"account": account.name} if self.named else {}
        return made(account.settings, account.sms, events, clock, chance, **named)


_ONCE: Final = "at most once: an unanswered submission is never repeated"

PROVIDERS: Final[dict[str, Kind]] = {
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
}
