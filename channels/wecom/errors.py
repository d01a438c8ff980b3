"""What WeCom's `errcode` means for a message and its account: one table, and the answer to the
account that follows from it. Pure.

Never by `errmsg`: WeCom says that it may change, and it may quote what was sent.

Sources: WeCom's pages 90313 (global codes), 90454 (rates), 92137 (welcome messages), 94670 (kf).
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from channels.http import NotSent, Unanswered
from channels.provider import Answer
from hub.clock import Clock
from hub.contract.types import FailureClass
from hub.errors import TactError

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS

FREQUENT: Final = 45009
"""Called too often. The block lasts as long as the period of the limit, which is not told."""
REFRESH: Final = (40014, 42001, 41001)
"""The access token is no good (any more)."""


class Verdict(Struct, frozen=True):
    """What a code means.

    - retry: not done, and nothing is wrong with the request: again after `retry_after_ms`.
    - throttled: not done, and this API must rest.
    - failed: refused for good; `failure` says why.
    - refresh: not done, since the token was bad, also after a new one.
    - window: not done, the conversation is closed until the customer writes.
    - done: it already is as it was asked to be.
    """

    kind: Literal["retry", "throttled", "failed", "refresh", "window", "done"]
    failure: FailureClass | None = None
    retry_after_ms: int | None = None
    known: bool = True
    """False: a code that is not in the table; it is counted (`unknown_errcode`)."""
    stop: bool = False
    """Nothing of this account will work until a person changes something."""


_RETRY: Final = Verdict("retry")
_SOON: Final = Verdict("retry", retry_after_ms=2 * SECOND_MS)
_DISPATCHING: Final = Verdict("retry", retry_after_ms=30 * SECOND_MS)
_REFRESH: Final = Verdict("refresh", retry_after_ms=5 * SECOND_MS)
_THROTTLED: Final = Verdict("throttled", retry_after_ms=MINUTE_MS)
_STOP: Final = Verdict("failed", "config", stop=True)
_CONFIG: Final = Verdict("failed", "config")
_DEAD: Final = Verdict("failed", "dead_address")
_CONTENT: Final = Verdict("failed", "rejected_content")
_EXPIRED: Final = Verdict("failed", "expired")
_QUOTA: Final = Verdict("failed", "throttled")
_PROVIDER: Final = Verdict("failed", "provider")
_WINDOW: Final = Verdict("window", "window_closed")
_DONE: Final = Verdict("done")

UNKNOWN: Final = Verdict("failed", "provider", known=False)
"""Of a code that is not in the table. WeCom answers with a code only when it did not do what it was
asked; why is not known, so it is neither repeated nor is the address given up."""


def _codes(verdict: Verdict, *codes: int) -> dict[int, Verdict]:
    return dict.fromkeys(codes, verdict)


VERDICTS: Final[dict[int, Verdict]] = {
    # Busy, a version that moved meanwhile; WeCom asks for at most three tries of these.
    **_codes(_RETRY, -1, 6000, 81026, 301022, 301064),
    # Too many calls of one API at a time.
    **_codes(_SOON, 45033, 301096),
    # A mass message, or a moment, is being handed out; too many moments are.
    **_codes(_DISPATCHING, 41063, 41078, 41079),
    **_codes(_REFRESH, *REFRESH),
    **_codes(_THROTTLED, FREQUENT),
    # Secret, suite token, corp, application: wrong, disabled, not permitted, not from this address.
    **_codes(_STOP, 40001, 40013, 40056, 40091, 41002, 41004, 42009, 45031),
    **_codes(_STOP, 48001, 48002, 48004, 48005, 48006, 48007, 50003, 60020, 301002, 301042),
    # Customer service: of another edition, switched off, not verified.
    **_codes(_STOP, 95003, 95011, 95012, 95017, 95023),
    # The session archive: expired, not switched on.
    **_codes(_STOP, 301052, 301053),
    # Licences of one recipient; members outside what the application may see; no agentid.
    **_codes(_CONFIG, 701008, 701016, 50002, 60011, 60021, 41011, 43009, 40098, 84073, 84074),
    # Mini-programs that are not connected with the corp.
    **_codes(_CONFIG, 90206, 90207, 90208),
    # Members, customers, groups and kf accounts that are not (or not ours) any more.
    **_codes(_DEAD, 40003, 40031, 46004, 60111, 81013, 86005, 86007, 86216, 301021, 82001),
    **_codes(_DEAD, 40096, 41048, 41056, 84061, 84084, 610004),
    **_codes(_DEAD, 40050, 49008, 86001, 86003, 86008, 90501, 90509, 95000, 95004),
    # What it says: type, length, words, media (gone after 3 days), attachments.
    **_codes(_CONTENT, 40004, 40005, 40006, 40007, 40008, 40009, 40011, 40033, 40035, 40039),
    **_codes(_CONTENT, 40058, 40063, 40074, 40094, 40123, 40201, 41006, 41010, 41016, 41033),
    **_codes(_CONTENT, 41064, 41065, 41072, 41080, 41081, 41082, 41088, 41089, 41090),
    **_codes(_CONTENT, *range(42027, 42052), 44001, 44004, 45001, 45002, 45007, 45008, 45032),
    **_codes(_CONTENT, 45034, 82004, 85002, 86004, 86214, 86220, *range(90200, 90205)),
    **_codes(_CONTENT, 95008, 95009, 95022, 301015, 301016, 301017, 301019),
    # 5 messages, 48 hours, ended, in a state that forbids it.
    **_codes(_WINDOW, 95001, 95002, 95013, 95018),
    # Codes that work once and briefly: welcome, chat begun, no consent, already being sent (by
    # another application: we never send twice), response_code, recall after 24 h.
    **_codes(_EXPIRED, 41050, 41051, 41053, 41096, 42052, 60140),
    # Reminders of a task, transfers of a customer, join ways.
    **_codes(_QUOTA, 41094, 40128, 41045, 41091, 84055),
    # A task that is cancelled, a group that is made: asked for again, it is as it should be.
    **_codes(_DONE, 41093, 86215),
    # Known, and nothing to do but tell: tasks and moments that are not there, transfers under way,
    # members who are not staff of a kf account or are away, moves of a session that are not
    # allowed, cursors and msgtokens that are too old.
    **_codes(_PROVIDER, 41046, 41047, 41059, 41060, 41061, 41062, 41067, 41052, 41049),
    **_codes(_PROVIDER, 40097, 40099, 40100, 40129, 40130, 40131, 40143, 41054, 84083),
    **_codes(_PROVIDER, 95014, 95016, 95019, 95007, 50100, 40032, 41035, 42014, 42015, 42016),
    **_codes(_PROVIDER, 86006, 86201, 86202, 86203, 86204, 86205, 86206, 86207, 86217, 86224),
    **_codes(_PROVIDER, 90500, 90502, 90503, 90504, 90507, 90508, 86101, 82002, 82003),
    **_codes(_PROVIDER, 40088, 40089, 43012, 301048),
    # An industry discount that ran out: of no concern to sending.
    **_codes(_PROVIDER, 701112),
}


def verdict_of(errcode: int) -> Verdict:
    """What a code other than 0 means."""
    return VERDICTS.get(errcode, UNKNOWN)


class WecomError(TactError):
    """WeCom refused a call, or would: `errcode`, and what it means."""

    code = "wecom"

    def __init__(
        self, message: str, *, errcode: int = -1, retry_after_ms: int | None = None, **facts: Any
    ) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms, errcode=errcode, **facts)

    @property
    def errcode(self) -> int:
        return self.facts["errcode"]  # type: ignore[no-any-return]

    @property
    def verdict(self) -> Verdict:
        """With the pause that is known here, if one is."""
        found = verdict_of(self.errcode)
        if self.retry_after_ms is None:
            return found
        return Verdict(
            found.kind, found.failure, self.retry_after_ms, known=found.known, stop=found.stop
        )


def refused(
    errcode: int, *, api: str = "", hint: str = "", until_ms: int | None = None
) -> WecomError:
    """The error of a code. `hint`: WeCom's own id of the failure, for its support; `until_ms`: Unix
    time at which the pause of a throttled API is over."""
    known = {"hint": hint} if hint else {}
    if until_ms is not None:
        known |= {"until_ms": until_ms}
    return WecomError(f"WeCom answers {errcode} to {api}", errcode=errcode, api=api, **known)


def answer_of(error: TactError, clock: Clock) -> Answer:
    """The answer to a submission whose call ended so; for NotSent and Unanswered as well."""
    if isinstance(error, NotSent):
        return Answer("retry", retry_after_ms=error.retry_after_ms)  # no code: it never left
    if isinstance(error, Unanswered) or not isinstance(error, WecomError):
        return Answer("unknown", code=error.code)
    verdict, code = error.verdict, str(error.errcode)
    until_ms = error.facts.get("until_ms")
    pause_ms = verdict.retry_after_ms
    if until_ms is not None:
        pause_ms = max(until_ms - clock.now_ms(), 0)
    if verdict.kind == "throttled":
        return Answer("throttled", code=code, retry_after_ms=pause_ms)
    if verdict.kind in ("retry", "refresh"):
        return Answer("retry", code=code, retry_after_ms=pause_ms)
    if verdict.kind == "done":
        return Answer("accepted", code=code)
    return Answer("failed", failure=verdict.failure, code=code)


STOPS: Final[dict[int, str]] = {
    40001: "the secret is wrong",
    40013: "corp_id is wrong",
    48002: "the application may not call this API",
    60020: "this host's IP address is not among the application's trusted ones",
}
"""What is wrong, for the codes that are met most."""


def stop_of(error: TactError) -> str:
    """Why nothing of this account will work until a person acts, for `Outcome.stop`; else ""."""
    if isinstance(error, WecomError) and error.verdict.stop:
        return f"WeCom refuses with {error.errcode}: {STOPS.get(error.errcode, 'see its console')}"
    return ""
