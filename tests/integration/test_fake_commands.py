"""The fakes as programs: what they say, what they hear, and how they end."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

import pytest

FAKES = ("smsc", "ismg", "urlgateway", "aliyun")


async def started(fake: str, stdin: int) -> Process:
    command = (sys.executable, "-m", f"channels.sms.fake.{fake}")
    return await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=PIPE)


async def line(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())  # type: ignore[no-any-return]


@pytest.mark.parametrize("fake", FAKES)
async def test_without_standard_input(fake: str) -> None:
    """In the background, of a shell or of a service; the loop cannot wait for /dev/null."""
    process = await started(fake, DEVNULL)
    try:
        assert (await line(process))["port"] > 0
    finally:
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out) == {"counts": {}}


@pytest.mark.parametrize("fake", FAKES)
async def test_a_line_that_is_wrong_does_not_end_it(fake: str) -> None:
    said = {"from": "+8613800138000", "text": "R"}
    if fake in ("smsc", "ismg"):
        said["to"] = "10690001"
    lines = ("{", '{"mo": {"text": "R"}}', json.dumps({"mo": said}), "{")
    process = await started(fake, PIPE)
    assert process.stdin is not None
    try:
        assert (await line(process))["port"] > 0
        process.stdin.write("\n".join(lines).encode())
        process.stdin.close()  # the last line has no end, and is told when all before it are heard
        errors = [(await line(process))["error"].rpartition(" ")[2] for _ in range(3)]
        assert errors == ["DecodeError", "ValidationError", "DecodeError"]
    finally:
        process.terminate()
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out) == {"counts": {} if "to" in said else {"mo": 1}}
