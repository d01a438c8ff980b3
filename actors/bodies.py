"""Parked bodies a host needs again: the newest from memory, the others from the ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from hub import limits
from hub.ledger.port import Ledger

_decode_block = msgspec.msgpack.Decoder(list[bytes]).decode


class BodyCache:
    """The blocks a host has parked itself, and those it has read back, each newest first.

    A block decided a moment ago is not readable from the ledger before its commit; it is always
    here by then: what a host parks is kept apart from what it reads, in more room than two turns
    need.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._parked = _Blocks()
        self._read = _Blocks()

    def add(self, partition: int, name: str, bodies: list[bytes]) -> None:
        """Keep a block that is about to be parked."""
        self._parked.add((partition, name), bodies)

    async def get(self, partition: int, names: Iterable[str]) -> dict[str, list[bytes]]:
        """Blocks by name; one that is gone from the ledger is left out."""
        found, missing = {}, []
        for name in names:
            bodies = self._parked.get((partition, name)) or self._read.get((partition, name))
            if bodies is None:
                missing.append(name)
            else:
                found[name] = bodies
        for start in range(0, len(missing), limits.BODY_FETCH_SUBJECTS):
            some = missing[start : start + limits.BODY_FETCH_SUBJECTS]
            for name, payload in (await self._ledger.bodies(partition, some)).items():
                found[name] = _decode_block(payload)
                self._read.add((partition, name), found[name])
        return found


class _Blocks:
    """Blocks by (partition, name), the newest of them, up to BODY_CACHE_BYTES."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[int, str], list[bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, str]) -> list[bytes] | None:
        return self._blocks.get(key)

    def add(self, key: tuple[int, str], bodies: list[bytes]) -> None:
        self._blocks[key] = bodies
        self._bytes += _size(bodies)
        while self._bytes > limits.BODY_CACHE_BYTES and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(bodies: list[bytes]) -> int:
    return sum(map(len, bodies)) + 64 * len(bodies)
