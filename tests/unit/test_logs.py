"""Logs: JSON on standard error, and nothing in them that identifies or quotes a customer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hub.service.logs import REDACTED, redact

SCRIPT = """
import logging, sys
import structlog
from hub.service import logs
logs.configure({level!r})
log = structlog.get_logger("tact")
{body}
"""


def logged(body: str, level: str = "info") -> list[dict]:
    """What a process of its own logs: configuring is for a whole process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(level=level, body=body)],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b""
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    "name", ["to", "content", "text", "address", "password", "customer", "key", "body", "token"]
)
def test_a_secret_is_struck_out_at_any_depth(name):
    event = redact(None, "info", {name: "+8613800000000", "more": [{"deep": {name: "x"}}]})
    assert event == {name: REDACTED, "more": [{"deep": {name: REDACTED}}]}


def test_what_is_not_secret_stays():
    event = {"event": "fence-lost", "partition": 3, "hosts": ["a"], "policy": {"version": "1"}}
    assert redact(None, "info", dict(event)) == event


def test_endless_nesting_ends():
    nested: dict = {}
    nested["again"] = nested
    assert REDACTED in json.dumps(redact(None, "info", {"a": nested}))


def test_structlog_and_the_standard_library_look_alike():
    ours, theirs = logged(
        "log.info('ready', customer='c-1', partition=3)\n"
        "logging.getLogger('nats.aio').warning('odd %s', 'thing')\n"
        "logging.getLogger('uvicorn.error').info('not told')\n"
        "log.debug('not told')"
    )
    assert (ours["event"], ours["level"], ours["customer"]) == ("ready", "info", REDACTED)
    assert ours["partition"] == 3
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "odd thing",
        "warning",
        "nats.aio",
    )
    assert ours["at"].endswith("Z") and theirs["at"].endswith("Z")


def test_an_exception_is_one_line():
    (line,) = logged("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('bad')")
    assert "ZeroDivisionError" in line["exception"]


def test_what_is_no_json_is_named_by_its_type_only():
    (line,) = logged(
        "class Address:\n    def __repr__(self): return '+86138'\nlog.info('x', odd=Address())"
    )
    assert line["odd"] == "<Address>"


def test_the_level_is_kept_for_both():
    lines = logged(
        "log.info('no')\nlog.error('yes')\nlogging.getLogger('anything').warning('no')",
        level="error",
    )
    assert [line["event"] for line in lines] == ["yes"]


def test_what_is_printed_becomes_a_log_line_and_json_passes():
    text, passed = logged(
        "with logs.capture_prints():\n"
        "    print('\\x1b[33m(raylet)\\x1b[0m a worker', end=' ')\n"
        "    print('died')\n"
        '    print(\'{"event": "host-up"}\', file=sys.stderr)'
    )
    assert (text["event"], text["line"]) == ("printed", "(raylet) a worker died")
    assert passed == {"event": "host-up"}
