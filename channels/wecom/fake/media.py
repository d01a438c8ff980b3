"""Files that were uploaded. They live three days; media/get gives them back.

Source: WeCom's pages 90253 and 90254.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from msgspec import Struct

from channels.wecom.fake.world import Corp, Refused, World

LIFE_MS: Final = 3 * 24 * 3_600_000
HELD_BYTES: Final = 64 * 1_024 * 1_024
"""Of all files; the oldest go."""
KINDS: Final = ("image", "voice", "video", "file")
LEAST_BYTES: Final = 5
"""What is smaller is refused, as by the real one."""


class File(Struct):
    """A file."""

    corp: str
    name: str
    content: bytes
    until_ms: int


class Media:
    """All files."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._files: OrderedDict[str, File] = OrderedDict()
        self._bytes = 0

    def upload(self, corp: Corp, kind: str, name: str, content: bytes) -> dict[str, Any]:
        """`media/upload`. Raises Refused."""
        if kind not in KINDS:
            raise Refused(40004)
        if len(content) < LEAST_BYTES:
            raise Refused(40006)
        now_ms = self._world.clock.now_ms()
        media_id = self._world.new_id("fakemedia")
        self._files[media_id] = File(corp.id, name, content, now_ms + LIFE_MS)
        self._bytes += len(content)
        while self._bytes > HELD_BYTES and len(self._files) > 1:
            self._bytes -= len(self._files.popitem(last=False)[1].content)
        return {"type": kind, "media_id": media_id, "created_at": str(now_ms // 1_000)}

    def get(self, corp: Corp, media_id: str) -> File:
        """`media/get`. Raises Refused(40007)."""
        self.checked(corp, media_id, self._world.clock.now_ms())
        return self._files[media_id]

    def put(self, corp: Corp, name: str, content: bytes) -> str:
        """A file that a customer has sent; gives its id."""
        media_id: str = self.upload(corp, "file", name, content.ljust(LEAST_BYTES))["media_id"]
        return media_id

    def checked(self, corp: Corp, media_id: Any, now_ms: int) -> None:
        """Raises Refused(40007) unless the corp has the file."""
        file = self._files.get(media_id) if isinstance(media_id, str) else None
        if file is None or file.corp != corp.id or file.until_ms <= now_ms:
            raise Refused(40007)
