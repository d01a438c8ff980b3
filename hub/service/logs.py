"""Logs: one JSON object a line on standard error, without addresses, contents or customers.

Everything that logs ends here: structlog of our own code, and the standard library's loggers of
nats-py, Ray, uvicorn and Litestar.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

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
    for name in _NOISY:  # what libraries report as information is of use to their authors
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(number, logging.WARNING))


def configure_command() -> None:
    """Logs of a command that a person runs: only what is wrong."""
    configure("error")


def configure_worker() -> None:
    """Runs first in every process that Ray starts for the hub; what is printed is a log too."""
    os.dup2(2, 1)
    configure(os.environ.get(LEVEL_VARIABLE, "info"))


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
