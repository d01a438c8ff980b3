"""What the providers of both gateways share: a push on its way, and why there may be none."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from channels.sending import Outcome
from hub.errors import TactError


class VendorPush(Struct, frozen=True):
    """One push, but for its id, its device and how long it is kept."""

    body: dict[str, Any]

    def __repr__(self) -> str:
        return "VendorPush()"


class GatewayRefused(TactError):
    """No token, or no push id, is to be had: `outcome` is what that means for a push."""

    code = "push-refused"

    def __init__(self, message: str, *, outcome: Outcome, **facts: Any) -> None:
        super().__init__(message, outcome=outcome, **facts)

    @property
    def outcome(self) -> Outcome:
        return self.facts["outcome"]  # type: ignore[no-any-return]
