"""The ids a conversation remembers besides its dispatches and held intents: 12 bytes each.

A packed record is the 8 bytes of `intent_hash` and the minute (Unix) it was remembered, oldest
first. Scanning `bytes` is what Python does fastest, and a conversation at rest stays small.
"""

from __future__ import annotations

from functools import lru_cache

from hub import limits

RECORD_BYTES = 12
_FORGET_FROM_BYTES = 8 * RECORD_BYTES
"""Fewer are not worth looking at their times."""
_REMEMBER_MINUTES = -(-limits.REMEMBER_MS // 60_000) + 1  # rounded up: at least REMEMBER_MS


def remembers(seen: bytes, intent: bytes) -> bool:
    """Whether an intent's hash is among the records."""
    place = seen.find(intent)
    while place >= 0:
        if place % RECORD_BYTES == 0:
            return True
        place = seen.find(intent, place + 1)
    return False


def remember(seen: bytes, intent: bytes, now_ms: int) -> bytes:
    """The records with one more; once there are many, without those older than the memory."""
    minute, oldest = _minutes(now_ms)
    if len(seen) >= _FORGET_FROM_BYTES and seen[8:RECORD_BYTES] < oldest:
        seen = forget(seen, now_ms)
    return seen + intent + minute


def forget(seen: bytes, now_ms: int) -> bytes:
    """The records without those older than the memory."""
    _, oldest = _minutes(now_ms)
    start = 0
    while start < len(seen) and seen[start + 8 : start + RECORD_BYTES] < oldest:
        start += RECORD_BYTES
    return seen[start:] if start else seen


@lru_cache(maxsize=16)
def _minutes(now_ms: int) -> tuple[bytes, bytes]:
    """This minute and the oldest remembered, packed: big-endian, so ordered as the numbers are."""
    minute = now_ms // 60_000
    return minute.to_bytes(4, "big"), max(0, minute - _REMEMBER_MINUTES).to_bytes(4, "big")
