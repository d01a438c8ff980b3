"""What a system's answer to a webhook means. Pure: time and chance are arguments.

| status | means |
| --- | --- |
| 2xx | accepted |
| 410 | the endpoint wants nothing more: `failed` config, and nothing is sent any more |
| 3xx 401 403 404 405 407 | `failed` config; the account pauses until a person changes something |
| 400 411 413 414 415 422 431 | `failed` rejected_content |
| 408 425 | `retry`, by the schedule |
| 429 503 | `throttled`, for `Retry-After` or a step of the schedule |
| 502 504 | the same; and a failure for the account's circuit |
| other 5xx | `retry`, by the schedule; and a failure for the account's circuit |
| other 4xx, 1xx | `failed` provider |
| none | `unknown`, and at once again; not answered again: `retry`, by the schedule |

Source: Standard Webhooks 1.0.0, "Delivery success and failure"; RFC 9110, 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from channels.http import HttpReply, retry_after_ms
from channels.provider import Answer, Submission
from channels.sending import Outcome
from hub.contract.types import FailureClass

GONE: Final = 410
CONFIG: Final = frozenset((401, 403, 404, 405, 407))
CONTENT: Final = frozenset((400, 411, 413, 414, 415, 422, 431))
LATER: Final = frozenset((408, 425))
SLOWER: Final = frozenset((429, 502, 503, 504))
ASKED: Final = frozenset((429, 503))
"""Said by a system that works; the two others by something before it that does not reach it."""
JITTER: Final = 0.2
"""Of a step, half to each side: what failed together does not come back together."""


def outcome_of(reply: HttpReply, taken: Answer, wait_ms: int, now_ms: int) -> Outcome:
    """The outcome of one request; `taken` is the answer to one that was accepted, `wait_ms` the
    step of the schedule."""
    status = reply.status
    code = f"HTTP {status}"
    if 200 <= status <= 299:
        return Outcome(taken)
    if status == GONE:
        return Outcome(Answer("failed", failure="config", code=code))
    if status in CONFIG or 300 <= status <= 399:
        refused = Answer("failed", failure="config", code=code)
        return Outcome(refused, stop=_stop(status, code))
    if status in CONTENT:
        return Outcome(Answer("failed", failure="rejected_content", code=code))
    if status in LATER:
        return Outcome(Answer("retry", code=code, retry_after_ms=wait_ms))
    if status in SLOWER:
        # A pause of nothing would be no pause.
        pause_ms = retry_after_ms(reply, now_ms) or wait_ms
        failure: FailureClass | None = None if status in ASKED else "provider"
        return Outcome(Answer("throttled", failure=failure, code=code, retry_after_ms=pause_ms))
    if 500 <= status <= 599:
        again = Answer("retry", failure="provider", code=code, retry_after_ms=wait_ms)
        return Outcome(again)
    return Outcome(Answer("failed", failure="provider", code=code))


def _stop(status: int, code: str) -> str:
    if 300 <= status <= 399:
        return f"the endpoint answers {code}, a redirect: put where it leads into url"
    if status in (401, 403, 407):
        return f"the endpoint refuses with {code}: check secret, private_key and bearer_token"
    return f"the endpoint answers {code}: check url"


def step_ms(steps: Sequence[int], submission: Submission, drawn: float) -> int:
    """Before the next try of a submission; `drawn` is from 0 to below 1. One that was not answered
    was repeated at once, which is no step."""
    step = steps[min(max(submission.tries - submission.again, 0), len(steps) - 1)]
    return round(step * (1 - JITTER / 2 + JITTER * drawn))


def unanswered(wait_ms: int) -> Outcome:
    """No answer, again. The account knows already that it may have arrived, so it will not be told
    as `failed` when tries or time are over."""
    answer = Answer("retry", failure="provider", code="no-answer", retry_after_ms=wait_ms)
    return Outcome(answer)
