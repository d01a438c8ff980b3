"""What Apple's answers mean. Pure.

Source: Apple, "Handling notification responses from APNs" (status codes, reasons, what may be sent
again); the reasons of broadcasts are in "Sending broadcast push notification requests to APNs".
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from channels.http import HttpReply, behind_ms, retry_after_ms
from channels.provider import Answer
from channels.sending import Outcome
from hub.contract.types import FailureClass

EXPIRED_PROVIDER_TOKEN: Final = "ExpiredProviderToken"
BAD_DEVICE_TOKEN: Final = "BadDeviceToken"
UPDATES_PAUSE_MS: Final = 60_000
"""After TooManyProviderTokenUpdates, where Apple names no time: the token must get older."""
DEVICE_PAUSE_MS: Final = 60_000
"""After TooManyRequests: one device has had more than it may, the others have not."""
SERVICE_PAUSE_MS: Final = 5_000
"""After ServiceUnavailable, where Apple names no time. Each pause costs one push a try that is not
counted, so a quarter of an hour of it ends nothing."""
SKEW_MS: Final = 60_000
"""A clock that differs so much from Apple's is named as the cause."""
TIMESTAMP_MS_MAX: Final = 253_402_300_799_999
"""9999-12-31, as everywhere in the contract."""


class Meaning(Struct, frozen=True):
    """What one reason leads to."""

    kind: Literal["retry", "throttled", "failed"]
    failure: FailureClass | None = None
    scope: Literal["account", "recipient"] = "account"
    stop: str = ""
    """What a person must change."""
    retry_after_ms: int | None = None


def _failed(failure: FailureClass, stop: str = "") -> Meaning:
    return Meaning("failed", failure, stop=stop)


_TOO_MANY: Final = Meaning("throttled", scope="recipient", retry_after_ms=DEVICE_PAUSE_MS)
_UNAVAILABLE: Final = Meaning("throttled", retry_after_ms=SERVICE_PAUSE_MS)
_TOPIC: Final = "check `topic` (the app's bundle id) and that the key may be used for it"
_KEY: Final = "check `private_key`, `key_id` and `team_id` in the developer account"
_ENVIRONMENT: Final = "the key is of another environment than base_url (production, sandbox)"

REASONS: Final[dict[str, Meaning]] = {
    # 400
    "BadCollapseId": _failed("rejected_content"),
    BAD_DEVICE_TOKEN: _failed("dead_address"),
    "BadExpirationDate": _failed("provider"),
    "BadMessageId": _failed("provider"),
    "BadPriority": _failed("rejected_content"),
    "BadTopic": _failed("config", _TOPIC),
    # Of another app of ours, or the topic is wrong: nothing that is known to be dead.
    "DeviceTokenNotForTopic": _failed("config"),
    "DuplicateHeaders": _failed("provider"),
    "IdleTimeout": Meaning("retry"),
    "InvalidPushType": _failed("rejected_content"),
    "MissingDeviceToken": _failed("provider"),
    "MissingTopic": _failed("config", _TOPIC),
    "PayloadEmpty": _failed("rejected_content"),
    "TopicDisallowed": _failed("config", _TOPIC),
    # 403
    "BadCertificate": _failed("config", _KEY),
    "BadCertificateEnvironment": _failed("config", _ENVIRONMENT),
    "BadEnvironmentKeyIdInToken": _failed("config", _ENVIRONMENT),
    "BadEnvironmentKeyInToken": _failed("config", _ENVIRONMENT),
    EXPIRED_PROVIDER_TOKEN: Meaning("retry"),
    "Forbidden": _failed("config", _KEY),
    "InvalidProviderToken": _failed("config", _KEY),
    "MissingProviderToken": _failed("config", _KEY),
    "UnrelatedKeyIdInToken": _failed("config", _KEY),
    # 404, 405
    "BadPath": _failed("provider"),
    "MethodNotAllowed": _failed("provider"),
    # 410
    "ExpiredToken": _failed("dead_address"),
    "Unregistered": _failed("dead_address"),
    # 413
    "PayloadTooLarge": _failed("rejected_content"),
    # 429
    "TooManyProviderTokenUpdates": Meaning("throttled", retry_after_ms=UPDATES_PAUSE_MS),
    "TooManyRequests": _TOO_MANY,
    # 5xx: "you can retry"
    "InternalServerError": Meaning("retry"),
    "ServiceUnavailable": _UNAVAILABLE,
    "Shutdown": Meaning("retry"),
    # of broadcasts, which a content's own table can ask for
    "BadChannelId": _failed("rejected_content"),
    "BadRequestParams": _failed("rejected_content"),
    "BadRequestPayload": _failed("rejected_content"),
    "CannotCreateChannelConfig": _failed("config"),
    "ChannelNotRegistered": _failed("config"),
    "FeatureNotEnabled": _failed("config"),
    "MissingChannelId": _failed("rejected_content"),
    "MissingPushType": _failed("rejected_content"),
    "TopicMismatch": _failed("config", _TOPIC),
}

_STATUSES: Final[dict[int, Meaning]] = {
    401: _failed("config", _KEY),
    403: _failed("config", _KEY),
    407: _failed("config", "a proxy on the way wants to know who we are"),
    408: Meaning("retry"),
    413: _failed("rejected_content"),
    429: _TOO_MANY,
    503: _UNAVAILABLE,
}
"""Of a reason that is not known, or of an answer that is not Apple's (a proxy's page): a device is
never called dead by it."""


class _Said(Struct):
    reason: str = ""
    timestamp: int | float | None = None


_DECODER: Final = msgspec.json.Decoder(_Said)


def reply_of(status: int, headers: Any, body: bytes) -> HttpReply:
    """An answer with its headers by name; names and values that are no text are left out."""
    named: dict[str, str] = {}
    for name, value in headers:
        if name.isascii() and value.isascii():
            named.setdefault(name.decode().lower(), value.decode())
    return HttpReply(status, named, body)


def accepted(reply: HttpReply) -> Answer:
    """Apple has taken it; it never tells more. What has a body is not Apple's answer."""
    if reply.body:
        return Answer("unknown", code="HTTP 200 with a body")
    own_id = reply.headers.get("apns-id", "")
    return Answer("accepted", provider_ids=(own_id,) if 0 < len(own_id) <= 64 else (), receipts=0)


def understood(reply: HttpReply, now_ms: int) -> Outcome:
    """What an answer means. Apple's words other than its reasons stay here."""
    if reply.status == 200:
        return Outcome(accepted(reply))
    said = _said(reply.body)
    known = REASONS.get(said.reason)
    meaning = known or _of_status(reply.status)
    code = said.reason if _is_word(said.reason) else f"HTTP {reply.status}"
    if meaning is None:
        return Outcome(Answer("unknown", code=code))
    wait_ms = None
    if meaning.kind != "failed":
        wait_ms = retry_after_ms(reply, now_ms) or meaning.retry_after_ms
    answer = Answer(
        meaning.kind,
        failure=meaning.failure,
        code=code,
        retry_after_ms=wait_ms,
        scope=meaning.scope,
        dead_since_ms=_since(said, now_ms) if meaning.failure == "dead_address" else 0,
    )
    return Outcome(answer, stop=_stop(code, meaning.stop, reply, now_ms))


def _said(body: bytes) -> _Said:
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()


def _is_word(reason: str) -> bool:
    return 0 < len(reason) <= 64 and reason.isascii() and reason.isalnum()


def _of_status(status: int) -> Meaning | None:
    """None: it may have been taken."""
    if status in _STATUSES:
        return _STATUSES[status]
    if 500 <= status <= 599:
        return Meaning("retry")
    if 400 <= status <= 499:
        return _failed("provider")
    return None


def _since(said: _Said, now_ms: int) -> int:
    """Apple's time in ms, of a device that is gone; 0 for none."""
    at = said.timestamp
    if at is None or not 0 < at <= TIMESTAMP_MS_MAX:
        return 0
    return min(int(at), now_ms)


def _stop(code: str, advice: str, reply: HttpReply, now_ms: int) -> str:
    if not advice:
        return ""
    if code == "InvalidProviderToken":
        advice += f"; {clock_advice(reply, now_ms)}"
    return f"Apple refuses with {code}: {advice}"


def clock_advice(reply: HttpReply, now_ms: int) -> str:
    """Whether it may be this machine's clock: a token says when it was signed."""
    skew_ms = behind_ms(reply, now_ms)
    if skew_ms is None:
        return "or it is this machine's clock, if that is minutes off"
    if abs(skew_ms) < SKEW_MS:
        return "this machine's clock agrees with Apple's"
    where = "behind" if skew_ms > 0 else "ahead"
    return f"this machine's clock is {abs(skew_ms) // 1_000} s {where}"
