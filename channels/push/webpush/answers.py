"""What a push service's answer means. Pure.

Sources: RFC 8030 (5, 7.3, 8.4), RFC 8292 (4.2), and what the services document or say: Mozilla's
autopush ("Error Codes"), Apple ("Sending web push notifications"), FCM's answers to web-push.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from channels.http import HttpReply, answer_of_status, retry_after_ms
from channels.provider import Answer

ACCEPTED: Final = (200, 201, 202, 204)
"""201 by the RFC; 200, 202 and 204 are seen."""
UNANSWERED: Final = (502, 504)
"""A gateway's words: the push service behind it has not answered, and may have taken it."""
BODY_CHARS: Final = 1_024
"""Looked at for what a 400 is about."""

_ID: Final = re.compile(r"[!-~]{1,128}\Z")
_ABOUT_KEY: Final = re.compile(
    r"vapid|jwt|unauthori[sz]ed|authori[sz]ation|authentication|credential|crypto-?key", re.I
)
"""In a 400: FCM's `UnauthorizedRegistration`, autopush's "Invalid … Authorization", and likes."""


def understood(reply: HttpReply, now_ms: int) -> Answer:
    """What an answer means. Its words stay here: they may quote the endpoint."""
    status, code = reply.status, f"HTTP {reply.status}"
    if status in ACCEPTED:
        return Answer("accepted", provider_ids=_ids(reply))
    if status in (404, 410):
        return Answer("failed", failure="dead_address", code=code)
    if status in (401, 403) or (status == 400 and _ABOUT_KEY.search(reply.text[:BODY_CHARS])):
        return Answer("failed", failure="config", code=code)
    if status in (429, 503):
        wait_ms = retry_after_ms(reply, now_ms)
        return Answer("throttled", code=code, retry_after_ms=wait_ms, scope="recipient")
    if status in (400, 413):
        return Answer("failed", failure="rejected_content", code=code)
    if 300 <= status <= 399 or status in (405, 407):  # not a push service, or a proxy
        return Answer("failed", failure="provider", code=code)
    if status in UNANSWERED:
        return Answer("unknown", code=code)
    return answer_of_status(reply, now_ms, server_errors="retry")


def _ids(reply: HttpReply) -> tuple[str, ...]:
    """The end of the message's URL, if it has one."""
    try:
        path = urlsplit(reply.headers.get("location", "")).path
    except ValueError:
        return ()
    last = path.rstrip("/").rpartition("/")[2]
    return (last,) if _ID.match(last) else ()
