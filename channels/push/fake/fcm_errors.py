"""The errors of the fake, in the words of FCM.

Source: FCM's reference "ErrorCode" and page "FCM error codes"; google.rpc.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

_FCM: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_QUOTA: Final = "type.googleapis.com/google.rpc.QuotaFailure"


class Kind(NamedTuple):
    """One error."""

    http: int
    status: str
    message: str
    code: str = ""
    """`errorCode` of its details."""
    more: tuple[dict[str, Any], ...] = ()
    """Further details."""


def _violates(field: str, words: str) -> dict[str, Any]:
    return {"@type": _REQUEST, "fieldViolations": [{"field": field, "description": words}]}


_NOT_A_TOKEN: Final = "The registration token is not a valid FCM registration token"
_PLEASE_RETRY: Final = "Internal error encountered."

KINDS: Final[dict[str, Kind]] = {
    "UNREGISTERED": Kind(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"),
    "INVALID_TOKEN": Kind(
        400,
        "INVALID_ARGUMENT",
        _NOT_A_TOKEN,
        "INVALID_ARGUMENT",
        (_violates("message.token", _NOT_A_TOKEN),),
    ),
    "INVALID_ARGUMENT": Kind(
        400, "INVALID_ARGUMENT", "Request contains an invalid argument.", "INVALID_ARGUMENT"
    ),
    "SENDER_ID_MISMATCH": Kind(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"),
    "THIRD_PARTY_AUTH_ERROR": Kind(
        401,
        "UNAUTHENTICATED",
        "Request is missing required authentication credential.",
        "THIRD_PARTY_AUTH_ERROR",
    ),
    "QUOTA_EXCEEDED": Kind(
        429, "RESOURCE_EXHAUSTED", "Quota exceeded for messages per minute.", "QUOTA_EXCEEDED"
    ),
    "DEVICE_QUOTA_EXCEEDED": Kind(
        429,
        "RESOURCE_EXHAUSTED",
        "Device message rate exceeded.",
        "QUOTA_EXCEEDED",
        (
            {
                "@type": _QUOTA,
                "violations": [
                    {"subject": "device", "description": "Device message rate exceeded"}
                ],
            },
        ),
    ),
    "UNAVAILABLE": Kind(503, "UNAVAILABLE", "The service is unavailable.", "UNAVAILABLE"),
    "INTERNAL": Kind(500, "INTERNAL", _PLEASE_RETRY, "INTERNAL"),
    "UNAUTHENTICATED": Kind(
        401, "UNAUTHENTICATED", "Request had invalid authentication credentials."
    ),
    "PERMISSION_DENIED": Kind(
        403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource."
    ),
    "NOT_FOUND": Kind(404, "NOT_FOUND", "Requested entity was not found."),
    "BRAND_NEW": Kind(400, "FAILED_PRECONDITION", "Something new.", "BRAND_NEW"),
}
"""By the name under which a fault asks for them."""

PREFIXES: Final = {
    "unregistered": "UNREGISTERED",
    "malformed": "INVALID_TOKEN",
    "refused": "INVALID_ARGUMENT",
    "foreign": "SENDER_ID_MISMATCH",
    "unkeyed": "THIRD_PARTY_AUTH_ERROR",
    "crowded": "DEVICE_QUOTA_EXCEEDED",
    "busy": "UNAVAILABLE",
    "broken": "INTERNAL",
}
"""What a registration token that begins so, and with a -, always gets."""


def error_of(kind: Kind, retry_after_s: float | None = None) -> web.Response:
    """An error as FCM answers it."""
    details = [{"@type": _FCM, "errorCode": kind.code}] if kind.code else []
    headers = {"retry-after": str(int(retry_after_s))} if retry_after_s is not None else None
    return _said(kind, [*details, *kind.more], headers)


def wrong(field: str, words: str) -> web.Response:
    """A request of the wrong shape."""
    details = [_violates(field, words)] if field else []
    return _said(Kind(400, "INVALID_ARGUMENT", words), details)


def _said(
    kind: Kind, details: list[dict[str, Any]], headers: dict[str, str] | None = None
) -> web.Response:
    error: dict[str, Any] = {"code": kind.http, "message": kind.message, "status": kind.status}
    if details:
        error["details"] = details
    return web.Response(
        body=msgspec.json.encode({"error": error}),
        status=kind.http,
        content_type="application/json",
        headers=headers,
    )
