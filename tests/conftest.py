"""What every test leaves as it was."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests.support.examples import examples

settings.register_profile("tact", examples())
settings.load_profile("tact")


def pytest_configure() -> None:
    """A suite that is run in the background ignores Ctrl-C, and so would the commands it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that runs inside a test sends all logs to that test's own standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
