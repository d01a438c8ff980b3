"""`tact watch` and `tact export` on a real ledger: everything said, in order, once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from hub import limits
from hub.clock import SystemClock
from hub.contract.subjects import live_subject
from hub.contract.times import parse_rfc3339, rfc3339
from hub.ledger.connection import Connection
from hub.ledger.port import LedgerUnavailable
from hub.ledger.publishing import publish
from hub.ledger.reading import last_message
from hub.ledger.streams import LEDGER, provision
from hub.service import operator
from hub.service.live import Said, follow, read
from tests.support.hub import TACT, tact
from tests.support.ledger import SMALL, NatsServer, connected, eventually, nats_server

pytestmark = pytest.mark.nats

DAY_MS = 86_400_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer) -> AsyncIterator[Connection]:
    async with connected(server) as connection:
        await provision(connection, partitions=2, sizes=SMALL)
        yield connection


def message(text: str, account: str = "sales", **more: Any) -> dict[str, Any]:
    """A LiveMessage."""
    return {
        "id": f"id-{text}",
        "account": account,
        "channel": "wecom",
        "customer": "c-1",
        "direction": "in",
        "author": "customer",
        "content": {"text": text},
        "at": "2026-11-22T08:00:00.000Z",
    } | more


async def say(connection: Connection, *texts: str, account: str = "sales", **more: Any) -> None:
    """One message of the ledger: one object, or an array."""
    said = [message(text, account, **more) for text in texts]
    payload = json.dumps(said if len(said) > 1 else said[0])
    await publish(connection, live_subject(account), payload.encode())


async def everything(connection: Connection, account: str | None, **times: int) -> list[str]:
    window = {"since_ms": 0, "until_ms": 2 * SystemClock().now_ms()} | times
    pages = [page async for page in read(connection, account, **window)]
    return [said.message["content"]["text"] for page in pages for said in page]


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 1_000])
async def test_all_of_a_time_is_read_in_order_in_pages(connection, monkeypatch, page):
    monkeypatch.setattr(limits, "READ_PAGE_MESSAGES", page)
    assert await everything(connection, None) == []
    await say(connection, "a", "b")
    await say(connection, "x", account="boss")
    await publish(connection, "hub.outcome.shop", b"{}")
    await say(connection, "c")
    assert await everything(connection, None) == ["a", "b", "x", "c"]
    assert await everything(connection, "sales") == ["a", "b", "c"]
    assert await everything(connection, "nobody") == []


async def test_a_time_begins_with_its_first_and_ends_before_its_last_moment(connection):
    stored = []
    for text in "abc":
        await say(connection, text)
        found = await last_message(connection, LEDGER, "hub.live.*")
        assert found is not None
        stored.append(found.stored_ms)
        await eventually(lambda: SystemClock().now_ms() > stored[-1] + 1)
    assert await everything(connection, None, since_ms=stored[1]) == ["b", "c"]
    assert await everything(connection, None, until_ms=stored[1]) == ["a"]
    assert await everything(connection, None, since_ms=stored[1], until_ms=stored[2]) == ["b"]
    assert await everything(connection, None, since_ms=stored[2] + DAY_MS) == []


async def test_an_account_of_any_name_is_read(connection):
    for account in ("a.b", "a b*>", "客服"):
        await say(connection, account, account=account)
        assert await everything(connection, account) == [account]


async def test_following_survives_the_server(connection, server):
    await say(connection, "before")
    said: list[Said] = []
    problems: list[LedgerUnavailable] = []

    async def listen(since_ms: int | None) -> None:
        pages = follow(connection, "sales", since_ms=since_ms, problem=problems.append)
        async with aclosing(pages):
            async for page in pages:
                said.extend(page)

    def texts() -> list[str]:
        return [one.message["content"]["text"] for one in said]

    listening = asyncio.create_task(listen(0))
    try:
        await eventually(lambda: texts() == ["before"])
        await say(connection, "1", "2")
        await eventually(lambda: texts() == ["before", "1", "2"])
        await server.kill()
        await eventually(lambda: problems)
        await server.start()
        await eventually(lambda: connection.connected)
        await say(connection, "3")
        await eventually(lambda: texts() == ["before", "1", "2", "3"])
        assert len(problems) == 1
    finally:
        listening.cancel()
        await asyncio.wait([listening])


# ---- tact watch ----------------------------------------------------------------------------------


class Watching:
    """`tact watch` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, server: NatsServer, *arguments: str) -> Watching:
        return cls(
            await asyncio.create_subprocess_exec(
                *(TACT, "watch", *arguments),
                env=os.environ | {"TACT_NATS_URL": server.url, "TZ": "UTC"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode()

    async def end(self) -> tuple[int, str]:
        """As Ctrl-C does; returns exit code and what was said about problems."""
        self.process.send_signal(signal.SIGINT)
        _, problems = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, problems.decode()


async def answer_archive(connection: Connection, **answers: Any) -> None:
    async def answer(_: bytes) -> dict[str, Any]:
        return answers

    await operator.serve(connection, operator.ARCHIVE, answer)


async def test_watch_shows_both_directions_until_ctrl_c(connection, server):
    await answer_archive(connection, channel="wecom", archived={"wecom": DAY_MS})
    await say(connection, "hello\n\x1b[2Jthere")
    watching = await Watching.start(server, "sales", "--since", "1h")
    first = await watching.line()
    await say(connection, "hi", direction="out", author="agent", agent="li")
    second = await watching.line()
    assert first.split(maxsplit=2)[2].rstrip() == "c-1              ← customer     hello⏎ [2Jthere"
    assert second.split(maxsplit=2)[2].rstrip() == "c-1              → li           hi"
    assert await watching.end() == (0, "")


async def test_watch_as_json_lines_is_all_of_it(connection, server):
    await answer_archive(connection, channel="wecom", archived={"wecom": DAY_MS})
    await say(connection, "old")
    watching = await Watching.start(server, "sales", "--json", "--since", "1h")
    assert json.loads(await watching.line())["content"] == {"text": "old"}
    await say(connection, "a", "b", direction="out", author="app", app="shop")
    first, second = json.loads(await watching.line()), json.loads(await watching.line())
    assert first["sequence"] == second["sequence"] == 2
    assert parse_rfc3339(first.pop("stored_at")) <= SystemClock().now_ms()
    del first["sequence"]
    assert first == message("a", direction="out", author="app", app="shop")
    assert (await watching.end())[0] == 0


async def test_watch_says_when_nothing_is_archived(connection, server):
    async def watched(*arguments: str) -> tuple[int, str]:
        watching = await Watching.start(server, "sales", *arguments)
        _, problems = await watching.process.communicate()
        assert watching.process.returncode is not None
        return watching.process.returncode, problems.decode()

    await answer_archive(connection, channel="sms", archived={"wecom": DAY_MS})
    code, problems = await watched()
    assert (code, problems.count("\n")) == (1, 1)
    assert "sales has no archive switched on: its channel is sms, archived is wecom" in problems
    # What was archived before is still shown.
    await say(connection, "old")
    watching = await Watching.start(server, "sales", "--since", "2h")
    assert "old" in await watching.line()
    code, problems = await watching.end()
    assert code == 0
    assert "no archive switched on" in problems


async def test_watch_without_a_hub_shows_what_is_stored(connection, server):
    await say(connection, "old")
    watching = await Watching.start(server, "sales", "--since", "2026-01-01T00:00:00+08:00")
    assert "old" in await watching.line()
    assert "not known" in (await watching.end())[1]


# ---- tact export ---------------------------------------------------------------------------------


async def exported(server: NatsServer, *arguments: str | Path) -> Any:
    environment = os.environ | {"TACT_NATS_URL": server.url}
    return await asyncio.to_thread(tact, "export", *arguments, env=environment)


async def test_export_as_json_lines_to_a_file_or_standard_output(connection, server, tmp_path):
    await say(connection, "a", "b")
    await say(connection, "x", account="boss")
    target = tmp_path / "out.jsonl"
    target.write_text("what was there")
    done = await exported(server, "--since", "1h", "--output", target)
    assert (done.returncode, done.stdout) == (0, "")
    assert "messages: 3, accounts: 2 in " in done.stderr
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["content"]["text"] for line in lines] == ["a", "b", "x"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.glob("*out*")} == {"out.jsonl"}

    done = await exported(server, "--since", "1h", "--account", "boss")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["account"] == "boss"


async def test_an_export_that_fails_leaves_what_was_there(connection, server, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("what was there")
    await publish(connection, live_subject("sales"), b"not JSON")
    done = await exported(server, "--since", "1h", "--output", target)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "message 1 of LEDGER is none of a conversation" in done.stderr
    assert target.read_text() == "what was there"
    assert {path.name for path in tmp_path.glob("*out*")} == {"out.jsonl"}
    done = await exported(server, "--since", "1h", "--output", tmp_path / "no" / "out.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "write a time ago"),
        (("--since", "2026-11-22T08:00:00"), "write a time ago"),
        (("--since", "1h", "--until", "2h"), "must be after --since"),
        (("--since", "1h", "--format", "csv"), "csv"),
        (("--since", "1h", "--format", "parquet"), "parquet needs a file"),
        ((), "--since"),
    ],
)
def test_a_wrong_call_is_told(arguments, said):
    done = tact("export", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


async def test_export_as_parquet(connection, server, tmp_path):
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    import pyarrow.parquet

    await say(connection, "a", "b")
    await say(connection, "c", direction="out", author="agent", agent="li", newer={"x": 1})
    target = tmp_path / "out.parquet"
    done = await exported(server, "--since", "1h", "--format", "parquet", "--output", target)
    assert done.returncode == 0, done.stderr
    rows = pyarrow.parquet.read_table(target).to_pylist()
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    assert [(row["sequence"], row["index"]) for row in rows] == [(1, 0), (1, 1), (2, 0)]
    assert (rows[2]["agent"], rows[0]["agent"]) == ("li", None)
    assert json.loads(rows[2]["more"]) == {"newer": {"x": 1}}
    assert json.loads(rows[0]["content"]) == {"text": "a"}
    assert rfc3339(int(rows[0]["at"].timestamp() * 1000)) == "2026-11-22T08:00:00.000Z"
    assert target.stat().st_mode & 0o777 == 0o600


def test_parquet_without_pyarrow_says_what_to_install(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    arguments = ("--since", "1h", "--format", "parquet", "--output", str(tmp_path / "f"))
    done = tact("export", *arguments, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 2
    assert "pip install 'tact-hub[parquet]'" in done.stderr
