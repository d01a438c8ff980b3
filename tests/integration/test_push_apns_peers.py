"""The APNs fake is Apple enough for a sender that is not ours, and runs as a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support import peers
from tests.support.push_apns import Apns, certificate, device, pem_key, running


def push(apns: Apns, ca: Path, devices: list[str], **change: Any) -> dict[str, Any]:
    """What @parse/node-apn says of a push to these devices."""
    options = {
        "port": urlsplit(apns.fake.url).port,
        "key": str(apns.key),
        "key_id": apns.fake.ready["key_id"],
        "team_id": apns.fake.ready["team_id"],
        "topic": apns.fake.ready["topic"],
        "ca": str(ca),
        "devices": devices,
    }
    with peers.node("apn.js", options | change) as (_, first):
        return first


async def test_node_apn_drives_the_fake(tmp_path: Path) -> None:
    peers.npm_packages()  # skips before anything is started
    files = certificate(tmp_path / "tls")
    async with running(tmp_path, tls_cert=files.cert, tls_key=files.key) as apns:
        await apns.fake.order("device", token=device(1), status=410, reason="Unregistered")
        said = push(apns, files.cert, [device(0), device(1), "zz"])
        assert said["sent"] == [device(0)]
        assert {(one["status"], one["reason"]) for one in said["failed"]} == {
            (410, "Unregistered"),
            (400, "BadDeviceToken"),
        }
        (taken,) = await apns.fake.order("record")
        assert (taken["device"], taken["topic"]) == (device(0), "com.example.app")
        assert (taken["type"], taken["priority"], taken["collapse"]) == ("alert", "10", "order-7")

        wrong = tmp_path / "other.p8"
        wrong.write_text(pem_key())
        for change, reason in (
            ({"key": str(wrong)}, "InvalidProviderToken"),
            ({"team_id": "OTHER12345"}, "InvalidProviderToken"),
            ({"topic": "com.elsewhere"}, "TopicDisallowed"),
            ({"size": 4_096}, "PayloadTooLarge"),
        ):
            said = push(apns, files.cert, [device(0)], **change)
            assert [one["reason"] for one in said["failed"]] == [reason]


def test_the_command(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        peers.missing("no node on this machine")
    key = tmp_path / "AuthKey.p8"
    command = [sys.executable, "-m", "channels.push.fake.apns", "--key-out", str(key)]
    with peers.running(command) as (peer, first):
        assert first["url"].startswith("http://127.0.0.1:")
        assert key.stat().st_mode & 0o077 == 0
        assert "PRIVATE KEY" in key.read_text()
        assert peer.all("port") == []


def test_the_command_without_node(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "channels.push.fake.apns"]
    environment = os.environ | {"PATH": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 2
    assert "node" in ended.stderr
