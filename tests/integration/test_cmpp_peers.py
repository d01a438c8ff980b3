"""The ISMG simulator and the codec against pycmpp: another reading of the specification."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp.pdu import encode
from channels.sms.fake.ismg import Ismg
from tests.support.peers import PEERS, missing

PACKAGE = "pycmpp==2.0.2"
PIP_S = 120
LONG = "尊敬的客户，您的订单已经发货。" * 10


def packages() -> str:
    """Where pycmpp is: outside of the environment, because the product must not import it."""
    found, reason = _installed()
    if not found:
        missing(reason)
    return found


@cache
def _installed() -> tuple[str, str]:
    directory = Path(tempfile.gettempdir()) / f"tact-peers-{os.getuid()}-{PACKAGE}"
    directory.mkdir(mode=0o700, exist_ok=True)
    target, done = directory / "packages", directory / "done"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with (directory / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two runs of the suite install once
        if done.exists():
            return str(target), ""
        try:
            ended = subprocess.run(
                [*pip, "--no-deps", "--target", str(target), PACKAGE],
                capture_output=True,
                text=True,
                timeout=PIP_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "", f"pip took more than {PIP_S} s for {PACKAGE}"
        if ended.returncode:
            return "", f"{PACKAGE} cannot be installed: {ended.stderr.strip()[-200:]}"
        done.touch()
    return str(target), ""


async def run(options: dict[str, Any]) -> list[dict[str, Any]]:
    """What pycmpp tells, line by line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PEERS / "pycmpp_client.py"),
        json.dumps({"packages": packages(), **options}),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


async def test_pycmpp_logs_in_and_sends() -> None:
    ismg = Ismg()
    await ismg.start()
    login, short, *long, alive = await run(
        {"port": ismg.port, "secret": "888888", "texts": ["验证码 1234", LONG]}
    )
    assert login["status"] == 0
    assert [answer["result"] for answer in (short, *long)] == [0, 0, 0, 0]
    assert len({answer["id"] for answer in (short, *long)}) == 4
    assert alive == {"alive": 13}
    first, *parts = ismg.submits
    assert first.content.decode("utf-16-be") == "验证码 1234"
    assert first.dest_terminal_ids == ("13800138000",)
    assert [(part.pk_number, part.pk_total, part.tp_udhi) for part in parts] == [
        (number, 3, 1) for number in (1, 2, 3)
    ]
    assert b"".join(part.content[6:] for part in parts).decode("utf-16-be") == LONG
    assert ismg.counts["terminated"] == 1
    await ismg.stop()


async def test_pycmpp_with_a_wrong_secret() -> None:
    ismg = Ismg()
    await ismg.start()
    (login,) = await run({"port": ismg.port, "secret": "other", "texts": []})
    assert login["status"] == 3
    await ismg.stop()


async def test_pycmpp_reads_our_submit() -> None:
    submit = cmpp.Submit(
        pk_total=2,
        pk_number=1,
        service_id="svc",
        tp_udhi=1,
        msg_fmt=8,
        msg_src="900001",
        valid_time="261122093059732+",
        src_id="10690001",
        dest_terminal_ids=("13800138000",),
        content=bytes((5, 0, 3, 7, 2, 1)) + "你好".encode("utf-16-be"),
    )
    (read,) = await run({"decode": encode(submit, 7, cmpp.V20).hex()})
    texts = {key: value.rstrip("\0") for key, value in read.items() if isinstance(value, str)}
    assert (read["seq_id"], read["pk_total"], read["pk_number"]) == (7, 2, 1)
    assert (read["register_delivery"], read["tp_udhi"], read["msg_fmt"]) == (1, 1, 8)
    assert (read["fee_usertype"], texts["fee_type"], texts["fee_code"]) == (2, "01", "000000")
    assert (texts["service_id"], texts["msg_src"], texts["src_id"]) == ("svc", "900001", "10690001")
    assert (texts["valid_time"], texts["at_time"]) == ("261122093059732+", "")
    assert (texts["dest_terminal_id"], texts["msg_content"]) == ("13800138000", "你好")
    assert texts["msg_head"].encode("latin-1") == submit.content[:6]
    assert texts["reserve"] == ""
