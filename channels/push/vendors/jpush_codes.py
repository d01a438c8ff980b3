"""What JPush's codes mean for a push and its account. Pure.

Documented (Jiguang's pages "Push API v3", "HTTP status code", "REST API overview"): the codes and
their HTTP status; that every error has a status other than 200. Assumed: that 1003 whose text names
`registration_id` means the device, as the page's own example does; that 1011 for one device means
that it is no more.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from channels.provider import Answer
from hub.contract.types import FailureClass

RATE: Final = 2002
PARAMETER: Final = 1003
WINDOW_MS: Final = 60_000
"""Of the rate of calls. Its rest is told in `X-Rate-Limit-Reset`."""


class Meaning(NamedTuple):
    """What a code means: an answer's kind, why it failed, and whether all must stop."""

    kind: Literal["unknown", "throttled", "failed"]
    failure: FailureClass | None = None
    stop: bool = False

    def answer(self, code: int, retry_after_ms: int | None = None) -> Answer:
        """The answer of a push."""
        return Answer(
            self.kind, failure=self.failure, code=str(code), retry_after_ms=retry_after_ms
        )


_STOP: Final = Meaning("failed", "config", stop=True)
_CONTENT: Final = Meaning("failed", "rejected_content")
_DEAD: Final = Meaning("failed", "dead_address")
_UNKNOWN: Final = Meaning("unknown")
"""JPush broke inside: it may have been taken, and is sent again under its cid."""

CODES: Final[dict[int, Meaning]] = {
    1000: _UNKNOWN,
    1001: _STOP,  # not a POST: something between us changes it
    1002: _CONTENT,
    PARAMETER: _CONTENT,
    1004: _STOP,
    1005: _CONTENT,
    1008: _STOP,
    1009: _CONTENT,
    1011: _DEAD,
    1012: _CONTENT,  # too many slow pushes, which only a content's own table asks for
    1020: _STOP,
    1030: _UNKNOWN,  # a timeout inside
    1035: _CONTENT,
    RATE: Meaning("throttled"),
    2003: _STOP,
    2004: _STOP,
    2005: Meaning("failed", "throttled"),  # this device got more than is reasonable
    2006: _STOP,
    2007: _STOP,
}


def meaning_of(code: int, message: str) -> Meaning | None:
    """None of a code that is not documented: its HTTP status decides."""
    if code == PARAMETER and "registration_id" in message:
        return _DEAD
    return CODES.get(code)
