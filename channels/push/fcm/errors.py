"""What FCM's answers mean for a message and its account: one table. Pure.

By the `errorCode` in `error.details`, and only without one by `error.status`: FCM gives several
codes the same status. Its words may quote what was sent, and stay here.

Sources: FCM's reference "ErrorCode", its pages "FCM error codes" and "Throttling and quotas";
google.rpc (BadRequest, QuotaFailure).
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct, field

from channels.http import HttpReply, answer_of_status, retry_after_ms
from channels.provider import Answer
from hub.contract.types import FailureClass

QUOTA_PAUSE_MS: Final = 60_000
"""A quota's minute is not the clock's: a whole one is the longest that it can take. What FCM asks
to wait without a Retry-After."""
DETAILS: Final = 16
"""Of one error that are read; FCM gives two."""
WORDS_CHARS: Final = 1_000
"""Of a text that is searched for a word."""
ID_CHARS: Final = 128
"""Of a message id: real ones have 40."""

_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
_NOT_A_TOKEN: Final = "The registration token is not a valid FCM registration token"
"""Of an INVALID_ARGUMENT with nothing else in it, as the page on error codes shows it."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Meaning(Struct, frozen=True):
    """What a code means.

    - failed: refused for good; `failure` says why.
    - retry: not taken, and nothing is wrong with the message.
    - throttled: not taken, and more would not be.
    - token: not taken, since the access token was not.
    - unknown: it may have been taken.
    """

    kind: Literal["failed", "retry", "throttled", "token", "unknown"]
    failure: FailureClass | None = None
    stop: str = ""
    """Why nothing can be sent until a person changes something."""
    known: bool = True
    """False: a code that is in no table."""


_DEAD: Final = Meaning("failed", "dead_address")
_CONTENT: Final = Meaning("failed", "rejected_content")
_CONFIG: Final = Meaning("failed", "config")

CODES: Final[dict[str, Meaning]] = {
    "UNREGISTERED": _DEAD,
    "INVALID_ARGUMENT": _CONTENT,  # but for the token's own: see `meaning_of`
    # One token of another project, one platform whose key is missing: others can still be sent to.
    "SENDER_ID_MISMATCH": _CONFIG,
    "THIRD_PARTY_AUTH_ERROR": _CONFIG,
    "APNS_AUTH_ERROR": _CONFIG,  # its former name
    "QUOTA_EXCEEDED": Meaning("throttled"),
    "UNAVAILABLE": Meaning("retry"),
    "INTERNAL": Meaning("retry"),  # "retry the same request", as they say for both
}
"""By `errorCode`."""

STATUSES: Final[dict[str, Meaning]] = {
    "INVALID_ARGUMENT": _CONTENT,
    "RESOURCE_EXHAUSTED": Meaning("throttled"),
    "UNAVAILABLE": Meaning("retry"),
    "INTERNAL": Meaning("retry"),
    "DEADLINE_EXCEEDED": Meaning("unknown"),
    "UNAUTHENTICATED": Meaning("token"),
    "PERMISSION_DENIED": Meaning(
        "failed",
        "config",
        stop="FCM denies permission: the service account needs the role Firebase Cloud Messaging"
        " API Admin in this project, and the API must be enabled",
    ),
    # Without UNREGISTERED it is the project, or the address of the API, that is not there.
    "NOT_FOUND": _CONFIG,
}
"""By `status`, of errors without an `errorCode`."""

OTHER: Final = Meaning("failed", "provider", known=False)
"""Of a 4xx with a code that is in no table: it was not taken; why is not known, so that it is
neither repeated nor is the address given up."""
OTHER_5XX: Final = Meaning("unknown", known=False)


class Said(Struct, frozen=True):
    """What an answer that is no success says."""

    code: str
    """For people: `errorCode`, `status`, or `HTTP 502`."""
    meaning: Meaning | None
    """None: it is not FCM's JSON; only the status speaks."""
    device: bool = False
    """A quota is one device's."""

    def __repr__(self) -> str:
        return f"Said({self.code!r})"


class _Violation(Struct):
    field: str = ""
    subject: str = ""
    description: str = ""


class _Detail(Struct, rename="camel"):
    error_code: str = ""
    field_violations: list[_Violation] = field(default_factory=list)
    """Of BadRequest."""
    violations: list[_Violation] = field(default_factory=list)
    """Of QuotaFailure."""


class _Error(Struct):
    status: str = ""
    message: str = ""
    details: list[Raw] = field(default_factory=list)


class _Refused(Struct):
    error: _Error


class _Sent(Struct):
    name: str


_REFUSED: Final = msgspec.json.Decoder(_Refused)
_DETAIL: Final = msgspec.json.Decoder(_Detail)
_SENT: Final = msgspec.json.Decoder(_Sent)


def sent_id(body: bytes) -> str | None:
    """The id in the answer to a message that was taken; None when it is no such answer."""
    try:
        name = _SENT.decode(body).name
    except _UNREADABLE:
        return None
    head, _, last = name.rpartition("/messages/")
    return last[:ID_CHARS] if head and last else None


def said(reply: HttpReply) -> Said:
    """What an answer other than 200 says."""
    try:
        error = _REFUSED.decode(reply.body).error
    except _UNREADABLE:
        return Said(f"HTTP {reply.status}", None)
    details = [found for raw in error.details[:DETAILS] if (found := _detail(raw))]
    code = next((one.error_code for one in details if _CODE.match(one.error_code)), "")
    status = error.status if _CODE.match(error.status) else ""
    quotas = [one for detail in details for one in detail.violations]
    device = any(map(_of_device, [*quotas, _Violation(description=error.message)]))
    if code == "INVALID_ARGUMENT" or (not code and status == "INVALID_ARGUMENT"):
        fields = {one.field for detail in details for one in detail.field_violations}
        dead = _is_token(fields) or (not fields and error.message == _NOT_A_TOKEN)
        return Said("INVALID_ARGUMENT", _DEAD if dead else _CONTENT)
    if code == "UNSPECIFIED_ERROR":
        code = ""
    meaning = CODES.get(code) if code else STATUSES.get(status)
    return Said(code or status or f"HTTP {reply.status}", meaning or _other(reply), device)


def _detail(raw: Raw) -> _Detail | None:
    try:
        return _DETAIL.decode(raw)
    except _UNREADABLE:
        return None


def _is_token(fields: set[str]) -> bool:
    """Nothing is wrong but the token."""
    return bool(fields) and fields <= {"message.token"}


def _of_device(violation: _Violation) -> bool:
    """As in "Device message rate exceeded", what ErrorCode calls the quota of one device."""
    return "device" in f"{violation.subject} {violation.description}"[:WORDS_CHARS].lower()


def _other(reply: HttpReply) -> Meaning:
    if reply.status == 429:
        return msgspec.structs.replace(CODES["QUOTA_EXCEEDED"], known=False)
    if reply.status == 503:
        return msgspec.structs.replace(CODES["UNAVAILABLE"], known=False)
    return OTHER_5XX if reply.status >= 500 else OTHER


def answer_of(what: Said, reply: HttpReply, now_ms: int) -> Answer:
    """The answer to the account, of an answer other than 200."""
    meaning = what.meaning
    after_ms = retry_after_ms(reply, now_ms)
    if meaning is None:
        answer = answer_of_status(reply, now_ms)
        if reply.status == 503:  # not FCM's own words; whatever stood there did not take it
            return Answer("retry", code=what.code, retry_after_ms=after_ms)
        if answer.kind == "throttled":
            return _throttled(what, after_ms)
        return answer
    if meaning.kind == "throttled":
        return _throttled(what, after_ms)
    if meaning.kind in ("retry", "token"):
        return Answer("retry", code=what.code, retry_after_ms=after_ms)
    kind: Any = meaning.kind
    return Answer(kind, failure=meaning.failure, code=what.code)


def _throttled(what: Said, after_ms: int | None) -> Answer:
    return Answer(
        "throttled",
        code=what.code,
        retry_after_ms=after_ms or QUOTA_PAUSE_MS,  # a pause of nothing would be no pause
        scope="recipient" if what.device else "account",
    )
