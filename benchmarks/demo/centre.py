"""The SMS centre of the demo: how the simulator is started, and the record that it keeps.

`channels.sms.fake.smsc` runs as a process of its own and delivers nothing. What becomes of each
message is drawn from a seed, so that its record says what it answered, and the seed what it
reported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from channels.sms.fake.faults import Odds, Plan

SEED = 7
ODDS = Odds(
    latency_ms=40.0,
    throttle=0.0001,
    lose_answers=0.0008,
    receipt_ms=300.0,
    late_receipts=0.02,
    late_ms=5_000.0,
    early_receipts=0.01,
    duplicate_receipts=0.02,
    fail=0.02,
)
"""A throttle halves the account's rate for a while, hence the few."""
UCS2 = 8
"""data_coding of texts in UTF-16; all others here are ASCII by their first half."""

_parse = msgspec.json.Decoder(dict[str, Any]).decode


def command(record: Path) -> list[str]:
    """What starts the centre."""
    odds = [
        part
        for name, value in msgspec.structs.asdict(ODDS).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    module = "channels.sms.fake.smsc"
    return [sys.executable, "-m", module, "--seed", str(SEED), "--record", str(record), *odds]


class Record:
    """What the centre has seen so far, read from its file as it grows."""

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """The lines that have come since the last time."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as stream:
            stream.seek(self._offset)
            whole, _, _ = stream.read().rpartition(b"\n")
        if not whole:
            return []
        self._offset += len(whole) + 1
        lines = [_parse(line) for line in whole.split(b"\n")]
        self.lines.extend(lines)
        return lines


def text_of(line: dict[str, Any]) -> str:
    """What a submission says; all texts of the demo fit one part."""
    content = bytes.fromhex(line["content"])
    return content.decode("utf-16-be" if line["coding"] == UCS2 else "latin-1")


def taken(line: dict[str, Any]) -> bool:
    """Whether the centre has accepted it, whatever became of the answer."""
    return bool(line["id"])


def receipts(lines: list[dict[str, Any]]) -> dict[str, str]:
    """The centre's id of each message it has accepted to what its receipts say of it."""
    plan, found = Plan(SEED, ODDS), {}
    for line in lines:
        if line["kind"] == "submit":
            key = line["to"].encode() + b"\0" + bytes.fromhex(line["udh"] + line["content"])
            fate = plan.fate(key)
            if taken(line):
                found[line["id"]] = "delivered" if fate.delivered else "failed"
    return found
