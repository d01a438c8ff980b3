"""Logs: one JSON object a line on standard error, without addresses, contents or customers.

Everything that logs ends here: structlog of our own code, and the standard library's loggers of
nats-py, Ray, uvicorn and Litestar.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, BinaryIO, Final

import orjson
import structlog

from hub.clock import SystemClock
from hub.contract.times import rfc3339

LEVELS: Final = ("debug", "info", "warning", "error")
LEVEL_VARIABLE: Final = "TACT_LOG_LEVEL"
"""Tells the level to the processes of the hub that Ray starts."""
REDACTED: Final = "[redacted]"

_SECRET: Final = frozenset(
    {"to", "content", "text", "body", "payload", "address", "addresses", "customer", "key"}
    | {"collapse_key", "password", "passwords", "secret", "token", "auth", "credentials"}
)
_DEPTH: Final = 8
_COLOUR: Final = re.compile("\x1b\\[[0-9;]*m")
_PRINT_CHARS: Final = 64 * 1024
_NOISY: Final = ("ray", "uvicorn", "nats", "litestar", "asyncio")
_clock = SystemClock()


def configure(level: str = "info") -> None:
    """Send all logs of this process to standard error from `level` on. Safe to call again."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _timestamp,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _render_text,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    quieten()


def quieten() -> None:
    """Of libraries only warnings, in our format: the rest is of use to their authors."""
    for name in _NOISY:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    # It warns that it leaves SIGTERM to us, which is what we want.
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)


def configure_command() -> None:
    """Logs of a command that a person runs: only what is wrong."""
    configure("error")


def configure_worker() -> None:
    """Runs first in every process that Ray starts for the hub; what is printed is a log too."""
    os.dup2(2, 1)
    configure(os.environ.get(LEVEL_VARIABLE, "info"))


@contextlib.contextmanager
def capture_prints() -> Iterator[None]:
    """Make a log line of whatever this process still prints, as Ray does of its workers' output.

    Lines that are JSON already come from our own processes and pass as they are.
    """
    prints = _Prints(sys.stderr.buffer)
    with contextlib.redirect_stdout(prints), contextlib.redirect_stderr(prints):
        yield


class _Prints(io.TextIOBase):
    """Standard output and error of a process whose output is logs."""

    def __init__(self, sink: BinaryIO) -> None:
        self.buffer = sink
        """For whoever writes bytes."""
        self._parts: dict[int, str] = {}
        """By thread, what its line is so far."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        *lines, rest = (self._parts.pop(thread, "") + text).split("\n")
        if rest:
            self._parts[thread] = rest[-_PRINT_CHARS:]
        for line in filter(None, lines):
            if line.startswith("{"):
                self.buffer.write(line.encode("utf-8", "replace") + b"\n")
            else:
                structlog.get_logger("print").info("printed", line=_COLOUR.sub("", line))
        return len(text)

    def flush(self) -> None:
        self.buffer.flush()


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that strikes out what must not be in a log, at any depth."""
    for name, value in event.items():
        event[name] = REDACTED if name in _SECRET else _redacted(value, _DEPTH)
    return event


def _redacted(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        if depth == 0:
            return REDACTED
        return {
            name: REDACTED if name in _SECRET else _redacted(inner, depth - 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner, depth - 1) for inner in value] if depth else REDACTED
    return value


def _timestamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["at"] = rfc3339(_clock.now_ms())
    return event


def _render(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
    # A type's name for what is no JSON: a repr could hold what was struck out.
    return orjson.dumps(
        event, default=lambda value: f"<{type(value).__name__}>", option=orjson.OPT_NON_STR_KEYS
    )


def _render_text(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return _render(logger, method, event).decode()
