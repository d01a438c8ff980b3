"""What getui's codes mean for a push and its account. Pure.

Documented (page "return codes" of RestAPI v2): codes, their HTTP status, the texts of 20001.
Assumed: that a code from 30000 on (403, "about the plan") is mended by a person only; that a
repeated `request_id`, which is documented to be dropped, may be answered with 20001 and its name.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from channels.provider import Answer
from hub.contract.types import FailureClass

STALE: Final = 10001
"""The token is wrong, or not valid any more."""
AUTH_RATE: Final = 10003
"""Over 100 authentications a minute (or 100,000 a day)."""
PARAMETER: Final = 20001
MINUTE_MS: Final = 60_000
STARTING_MS: Final = 5_000
"""Before a service that "is starting" is asked again."""


class Meaning(NamedTuple):
    """What a code means: an answer's kind, why it failed, and whether all must stop."""

    kind: Literal["retry", "throttled", "failed"]
    failure: FailureClass | None = None
    retry_after_ms: int | None = None
    stop: bool = False

    def answer(self, code: int) -> Answer:
        """The answer of a push."""
        return Answer(
            self.kind, failure=self.failure, code=str(code), retry_after_ms=self.retry_after_ms
        )


STOP: Final = Meaning("failed", "config", stop=True)
CONFIG: Final = Meaning("failed", "config")
CONTENT: Final = Meaning("failed", "rejected_content")
DEAD: Final = Meaning("failed", "dead_address")
_RATE: Final = Meaning("throttled", retry_after_ms=MINUTE_MS)

CODES: Final[dict[int, Meaning]] = {
    1: Meaning("failed", "provider"),  # "not JSON": ours always is
    2: Meaning("retry", retry_after_ms=STARTING_MS),  # the service is starting
    301: STOP,  # this app is served by another host
    404: STOP,
    405: STOP,
    STALE: Meaning("retry", retry_after_ms=STARTING_MS),  # a new token was not taken either
    10002: STOP,  # the app, or our address, is on a black list
    AUTH_RATE: _RATE,
    10004: CONFIG,  # a permission that must be asked for
    10005: _RATE,
}
PLAN_FROM, PLAN_TO = 30_000, 39_999

_INVALID_TARGET: Final = "target user is invalid"
_NO_PERMISSION: Final = "permission required"
_REQUEST_ID: Final = "request_id"
_REPEATED: Final = ("repeat", "duplicate")


def meaning_of(code: int, message: str) -> Meaning | None:
    """Of a code other than 0; None of one that is not documented: its HTTP status decides."""
    if code == PARAMETER:
        # One code for everything wrong with a request: only its documented texts tell them apart.
        text = message.lower()
        if _INVALID_TARGET in text:
            return DEAD
        return CONFIG if _NO_PERMISSION in text else CONTENT
    return STOP if PLAN_FROM <= code <= PLAN_TO else CODES.get(code)


def is_repeat(code: int, message: str) -> bool:
    """Whether getui says that it has this `request_id` already."""
    text = message.lower()
    return code == PARAMETER and _REQUEST_ID in text and any(word in text for word in _REPEATED)
