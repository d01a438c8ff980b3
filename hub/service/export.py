"""Conversations into a file for BI: JSON lines, or Parquet through pyarrow (an optional extra).

Whoever reads the file sees a whole one or none: it is written under another name in the same folder
and renamed at the end. Only its owner may read it: it holds what customers wrote.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from hub.contract.times import parse_rfc3339
from hub.contract.types import LiveMessage
from hub.errors import ConfigError, TactError
from hub.service.live import Said

GROUP_ROWS: Final = 10_000
GROUP_BYTES: Final = 32 * 1024 * 1024
"""Rows, and bytes of content, of one row group of Parquet: what is held in memory."""

_KNOWN: Final = frozenset(field.encode_name for field in msgspec.structs.fields(LiveMessage))
_TEXTS: Final = ("id", "account", "channel", "customer", "direction", "author")
_PERHAPS: Final = ("agent", "app", "delivery")


class NotWritten(TactError):
    """The file could not be written, and there is none."""

    code = "export-not-written"


class Writer(Protocol):
    """Takes pages of messages in order."""

    def write(self, page: Sequence[Said]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One object a line, as `tact watch --json` shows them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, page: Sequence[Said]) -> None:
        self._file.writelines(said.line() + b"\n" for said in page)

    def close(self) -> None:
        self._file.flush()


def check_parquet() -> None:
    """Raises ConfigError when pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "parquet needs pyarrow, which is not installed: pip install 'tact-hub[parquet]', "
            "or take --format jsonl"
        ) from error


class Parquet:
    """Columns of text and time; `content` and what this version does not know (`more`) as JSON.

    Needs pyarrow: see `check_parquet`.
    """

    def __init__(self, file: BinaryIO) -> None:
        import pyarrow
        import pyarrow.parquet

        text, time = pyarrow.string(), pyarrow.timestamp("ms", tz="UTC")
        columns = [
            pyarrow.field("sequence", pyarrow.int64(), nullable=False),
            pyarrow.field("index", pyarrow.int32(), nullable=False),
            pyarrow.field("stored_at", time, nullable=False),
            pyarrow.field("at", time),
            *(pyarrow.field(name, text) for name in (*_TEXTS, *_PERHAPS)),
            pyarrow.field("text", text),
            pyarrow.field("content", text),
            pyarrow.field("more", text),
        ]
        self._schema = pyarrow.schema(columns)
        self._table = pyarrow.Table
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, page: Sequence[Said]) -> None:
        for said in page:
            row = _row(said)
            self._rows.append(row)
            self._bytes += len(row["content"] or "")
            if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


FORMATS: Final = {"jsonl": JsonLines, "parquet": Parquet}


def _row(said: Said) -> dict[str, Any]:
    message = said.message
    content = message.get("content")
    more = {name: value for name, value in message.items() if name not in _KNOWN}
    text = content.get("text") if isinstance(content, dict) else None
    return {
        "sequence": said.sequence,
        "index": said.index,
        "stored_at": said.stored_ms,
        "at": _ms(message.get("at")),
        **{name: _text(message.get(name)) for name in (*_TEXTS, *_PERHAPS)},
        "text": text if isinstance(text, str) else None,
        "content": None if content is None else _json(content),
        "more": _json(more) if more else None,
    }


def _ms(at: Any) -> int | None:
    try:
        return parse_rfc3339(at)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def export(pages: AsyncIterable[Sequence[Said]], writer: Writer) -> tuple[int, int]:
    """Write all pages; returns how many messages of how many accounts they were."""
    count, accounts = 0, set()
    try:
        async for page in pages:
            writer.write(page)
            count += len(page)
            accounts |= {str(said.message.get("account")) for said in page}
    finally:
        writer.close()
    return count, len(accounts)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when everything is in it and on disk; without, nothing is left.

    Raises NotWritten.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NotWritten(f"{path} cannot be written: {error.strerror}") from error
