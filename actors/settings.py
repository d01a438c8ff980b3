"""What a host or the supervisor is told when it starts: plain data that crosses processes."""

from __future__ import annotations

from dataclasses import dataclass

from channels.accounts import AccountConfig


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Everything the actors need; secrets are passed to processes, never logged."""

    nats_url: str
    policy: str
    """The policy document, TOML text."""
    user: str | None = None
    password: str | None = None
    partitions: int = 16
    """Conversation partitions, as provisioned."""
    hosts: int = 1
    """ConversationHost actors to keep running."""
    accounts: tuple[AccountConfig, ...] = ()
    """The managed accounts, with their secrets."""
    account_hosts: int = 1
    """AccountHost actors to keep running, if there are accounts."""
    silent_s: float = 5.0
    """A host that does not answer for this long is replaced; its fences are taken over."""

    def __repr__(self) -> str:
        return f"HubSettings({self.nats_url!r}, {self.partitions} partitions, {self.hosts} hosts)"
