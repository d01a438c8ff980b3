"""The simulators of providers as a user starts them: programs of their own, seen from a test that
also runs a whole hub."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub.checkers.wecom_records import Seen, seen_of

PAGE = 10_000
"""Lines of its record that the fake WeCom tells at once."""


class Program:
    """A simulator: one line with its port when it is ready, commands on standard input."""

    def __init__(self, module: str, directory: Path, *options: str) -> None:
        name = module.rpartition("channels.")[2].replace(".", "-")
        self.record = directory / f"{name}.jsonl"
        with open(directory / f"{name}.log", "wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", module, "--port", "0"),
                    *("--record", str(self.record), *options),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.port: int = self.ready["port"]

    def stop(self) -> None:
        """End it as a person does."""
        self.process.terminate()
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class SmsProgram(Program):
    """A centre or a gateway for SMS: `smsc`, `ismg`, `urlgateway`, …"""

    def __init__(self, name: str, directory: Path, *options: str) -> None:
        super().__init__(f"channels.sms.fake.{name}", directory, *options)

    def says(self, **fields: str) -> None:
        """A customer writes."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"mo": fields}).encode() + b"\n")
        self.process.stdin.flush()

    def submitted(self, text: str = "") -> list[dict[str, Any]]:
        """What was submitted with this text in it."""
        lines = map(json.loads, self.record.read_text().splitlines())
        content = text.encode("utf-16-be").hex()
        return [each for each in lines if each["kind"] == "submit" and content in each["content"]]


class WecomProgram(Program):
    """WeCom."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__("channels.wecom.fake", directory, *options)
        self.url: str = self.ready["url"]
        self.corp: dict[str, Any] = self.ready["corps"][0]

    def do(self, name: str, /, **body: Any) -> dict[str, Any]:
        """Make something happen."""
        request = urllib.request.Request(
            f"{self.url}/fake/{name}", data=json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            told: dict[str, Any] = json.loads(answer.read())
            return told

    def told(self, since: int = 0) -> dict[str, Any]:
        """What it has seen: a page of it."""
        url = f"{self.url}/fake/record?since={since}&limit={PAGE}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            record: dict[str, Any] = json.loads(answer.read())
            return record

    def got(self, to: str, kind: str = "kf") -> list[str]:
        """The texts of the messages of ours to one address."""
        lines = [*(record := self.told())["kf"], *record["sent"]]
        return [_text(line) for line in lines if (line["kind"], line["to"]) == (kind, to)]

    def seen(self, accounts: Mapping[str, str]) -> Seen:
        """All it has seen of accounts: by open_kfid, userid or number of the application."""
        record = self.told()
        lines = list(record["sent"])
        for since in range(0, max(record["said_total"], record["kf_total"], 1), PAGE):
            page = self.told(since)
            lines += page["said"] + page["kf"]
        names = {(self.corp["corp_id"], key): name for key, name in accounts.items()}
        return seen_of(lines, names, record["violations"])


def _text(line: Mapping[str, Any]) -> str:
    text = line["content"] if line.get("type") == "text" else line.get("text")
    return str(text.get("content") if isinstance(text, Mapping) else text)
