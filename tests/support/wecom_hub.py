"""A whole hub with accounts at WeCom and at an SMSC, which run beside it as programs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from hub.limits import AUDIT_MESSAGES
from tests.support.hub import Hub
from tests.support.programs import SmsProgram, WecomProgram


def write_policy(directory: Path, policy: str) -> None:
    """The hub's policy; it is told to keep all that the checkers will read."""
    (directory / "policy.toml").write_text(policy)
    (directory / "tact.toml").write_text(f"[limits]\nreplay_messages = {AUDIT_MESSAGES}\n")


@contextlib.contextmanager
def running_hub(
    directory: Path, port: int, wecom: WecomProgram, smsc: SmsProgram, accounts: str
) -> Iterator[Hub]:
    """A hub with the accounts `office` (the application) and `sms`, and further `accounts`: the
    text of their tables. WeCom calls it back."""
    app = wecom.corp["apps"][0]
    ours = _OFFICE_AND_SMS.format(
        wecom=wecom.url, corp=wecom.corp["corp_id"], agent=app["agent_id"], smsc=smsc.port
    )
    (directory / "accounts.toml").write_text("version = 1\n" + ours + accounts)
    os.environ |= {
        "SMSC_PASSWORD": "secret",
        "WECOM_SECRET": app["secret"],
        "WECOM_TOKEN": app["callback_token"],
        "WECOM_KEY": app["callback_key"],
    }
    files = ["--config", "tact.toml", "--policy", "policy.toml", "--accounts", "accounts.toml"]
    hub = Hub(directory, [*files, "--http-port", str(port)])
    try:
        hub.start()
        url = f"http://127.0.0.1:{port}/v1/callbacks/office"
        assert wecom.do("callback-url", url=url, verify=True) == {"verified": True}
        yield hub
    finally:
        hub.stop(signal.SIGKILL)


_OFFICE_AND_SMS = """
[[accounts]]
name = "office"
channel = "wecom"
provider = "wecom-app"
[accounts.wecom]
base_url = "{wecom}"
corp_id = "{corp}"
agent_id = {agent}
secret = {{ env = "WECOM_SECRET" }}
callback_token = {{ env = "WECOM_TOKEN" }}
callback_key = {{ env = "WECOM_KEY" }}
[[accounts]]
name = "sms"
channel = "sms"
provider = "smpp"
[accounts.limits]
[accounts.smpp]
host = "127.0.0.1"
port = {smsc}
system_id = "tact"
password = {{ env = "SMSC_PASSWORD" }}
"""
