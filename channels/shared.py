"""What all accounts of a process share, by what they have in common: an application's token, the
budget of an API. One of each for every event loop: what is waited for belongs to the loop that
waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

K = TypeVar("K")
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Things by their key, made when they are asked for; at most `most`, and the one not used
    longest goes."""

    def __init__(self, make: Callable[[], V], most: int) -> None:
        self._make = make
        self._most = most
        self._kept: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[K, V]] = WeakKeyDictionary()

    def of(self, key: K) -> V:
        """The thing of this key, on the loop that runs."""
        kept = self._kept.setdefault(asyncio.get_running_loop(), {})
        found = kept.pop(key, None)
        if found is None:
            found = self._make()
            if len(kept) >= self._most:
                del kept[next(iter(kept))]
        kept[key] = found  # the last to go
        return found
