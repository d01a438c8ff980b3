"""One root for every error of the hub. Whether it may be retried, and after what, is data on it."""

from __future__ import annotations

from typing import Any


class TactError(Exception):
    """Root of all errors raised by Tact.

    `code` is stable and fit for logs and metrics; `message` tells a person what to do; `facts` are
    small structured details (never customer content). Survives pickling between processes.
    """

    code = "error"
    retryable = False

    def __init__(self, message: str, *, retry_after_ms: int | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.retry_after_ms, self.facts)

    def __str__(self) -> str:
        return self.message


def _rebuild(
    kind: type[TactError], message: str, retry_after_ms: int | None, facts: dict[str, Any]
) -> TactError:
    return kind(message, retry_after_ms=retry_after_ms, **facts)


class PolicyError(TactError):
    """A policy document that is not valid. `facts["place"]` names the key."""

    code = "policy-invalid"


class ConfigError(TactError):
    """A configuration file or option that is not valid."""

    code = "config-invalid"


class InputError(TactError):
    """A file given to a command that cannot be read as what it should be."""

    code = "input-invalid"
