"""The ids a conversation remembers besides its dispatches and held intents: 12 bytes each.

A packed record is the 8 bytes of `intent_hash` and the minute (Unix) it was remembered, oldest
first. Scanning `bytes` is what Python does fastest, and a conversation at rest stays small.
"""

from __future__ import annotations

from struct import Struct

from hub import limits

_RECORD = Struct(">QI")
_SIZE = _RECORD.size
_REMEMBER_MINUTES = -(-limits.REMEMBER_MS // 60_000) + 1  # rounded up: at least REMEMBER_MS


def remembers(seen: bytes, intent: int) -> bool:
    """Whether an intent's hash is among the records."""
    if not seen:
        return False
    needle = intent.to_bytes(8, "big")
    place = seen.find(needle)
    while place >= 0:
        if place % _SIZE == 0:
            return True
        place = seen.find(needle, place + 1)
    return False


def remember(seen: bytes, intent: int, now_ms: int) -> bytes:
    """The records with one more, and without those older than the memory."""
    minute = now_ms // 60_000
    return forget(seen, now_ms) + _RECORD.pack(intent, minute)


def forget(seen: bytes, now_ms: int) -> bytes:
    """The records without those older than the memory."""
    oldest = now_ms // 60_000 - _REMEMBER_MINUTES
    start = 0
    while start < len(seen) and int.from_bytes(seen[start + 8 : start + _SIZE], "big") < oldest:
        start += _SIZE
    return seen[start:] if start else seen


def count(seen: bytes) -> int:
    return len(seen) // _SIZE
