"""A push for which there is nothing to make a request with."""

from __future__ import annotations

from typing import Any

from channels.sending import Outcome
from hub.errors import TactError


class Refused(TactError):
    """No token, or no push id, is to be had: `outcome` is what that means for a push."""

    code = "push-refused"

    def __init__(self, message: str, *, outcome: Outcome, **facts: Any) -> None:
        super().__init__(message, outcome=outcome, **facts)

    @property
    def outcome(self) -> Outcome:
        return self.facts["outcome"]  # type: ignore[no-any-return]
