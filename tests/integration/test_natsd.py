"""The embedded server and the data directory: life, death, and what a person is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import msgspec
import nats
import nats.errors
import pytest
from nats.aio.client import Client

from hub import limits
from hub.service.datadir import LAYOUT, DataDir, DataDirInUse, DataDirUnknown
from hub.service.natsd import Login, NatsExited, NatsPortInUse, NatsServer
from tests.support.ledger import eventually

pytestmark = pytest.mark.nats


async def connect(server: NatsServer, login: Login | None = None) -> Client:
    who = {} if login is None else {"user": login.user, "password": login.password}
    return await nats.connect(server.url, allow_reconnect=False, **who)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"  # dead, and not yet collected by its parent


async def test_starts_stores_and_continues_on_the_same_port(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    try:
        port, pid = server.port, server.pid
        client = await connect(server, server.hub)
        js = client.jetstream()
        await js.add_stream(name="INTAKE", subjects=["hub.to.>"], max_bytes=limits.INTAKE_BYTES)
        await js.add_stream(name="LEDGER", subjects=["hub.out.>"], max_bytes=limits.LEDGER_BYTES)
        await js.publish("hub.out.sms.0", b"kept")
        await client.close()

        server.kill()
        assert server.pid is None
        assert await server.wait() == -signal.SIGKILL
        await server.start()
        assert (server.port, server.pid == pid) == (port, False)

        client = await connect(server, server.hub)
        kept = await client.jetstream().get_last_msg("LEDGER", "hub.out.sms.0")
        assert kept.data == b"kept"
        await client.close()
    finally:
        await server.stop()
    assert await server.wait() == 0  # SIGTERM was enough


async def test_acknowledges_after_the_fsync_only(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        client = await connect(server, server.system)
        reply = await client.request("$SYS.REQ.SERVER.PING.JSZ", b"", timeout=2)
        config = msgspec.json.decode(reply.data)["data"]["config"]
        assert config["sync_always"] is True
        await client.close()


async def test_max_payload_leaves_room_for_headers(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        hub, app = await connect(server, server.hub), await connect(server)
        await hub.jetstream().add_stream(name="INTAKE", subjects=["hub.to.>"])
        ack = await app.jetstream().publish(
            "hub.to.normal.shop.c1",
            b"x" * limits.MESSAGE_BYTES,
            headers={"Nats-Msg-Id": "h" * (limits.MESSAGE_HEADER_BYTES // 2)},
        )
        assert ack.seq == 1
        await hub.close()
        await app.close()


async def test_a_taken_port_names_the_option(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = NatsServer(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(NatsPortInUse, match="--nats-port"):
            await server.start()
        assert server.pid is None
    await server.start()  # the directory was let go, and the port is free now
    await server.stop()


async def test_a_server_that_cannot_start_is_quoted_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "nats").write_text("a file where the store should be")
    server = NatsServer(tmp_path)
    with pytest.raises(NatsExited, match="not a directory") as caught:
        await server.start()
    assert server.hub.password not in caught.value.message


def command_line(pid: int | None) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_passwords_are_private_and_kept(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        first = server.hub
        assert first.password not in repr(first)
        assert first.password not in command_line(server.pid)
        assert first.password not in (tmp_path / "nats.conf").read_text()
    assert stat.S_IMODE((tmp_path / "nats-passwords.json").stat().st_mode) == 0o600
    assert NatsServer(tmp_path).hub == first


async def test_wrong_password_is_refused(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        client = Client()
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await client.connect(server.url, user="hub", password="guess", allow_reconnect=False)
        await client.close()


async def test_keep_alive_restarts_until_stopped(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    keeper = asyncio.create_task(server.keep_alive())
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: server.pid not in (None, first))
    await eventually(lambda: can_connect(server))
    await server.stop()
    async with asyncio.timeout(5):
        await keeper
    assert server.pid is None


async def test_keep_alive_gives_up_on_a_server_that_never_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NATS_RESTARTS", 2)
    server = NatsServer(tmp_path)
    await server.start()
    monkeypatch.setattr(server, "_render", lambda: "nonsense {")
    server.kill()
    async with asyncio.timeout(10):
        with pytest.raises(NatsExited):
            await server.keep_alive()
    await server.stop()


def can_connect(server: NatsServer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


async def test_a_server_that_outlived_its_hub_is_ended_by_its_lock(tmp_path: Path) -> None:
    directory = DataDir(tmp_path).open()
    old = NatsServer(directory)
    await old.start()
    directory.close()  # as the kernel does when a hub dies
    new = NatsServer(tmp_path, port=old.port)
    await new.start()
    try:
        assert old.pid is None
        assert await old.wait() == 0
    finally:
        await new.stop()


_HUB = """
import asyncio, sys
from hub.service.natsd import NatsServer
async def main():
    server = NatsServer(sys.argv[1])
    await server.start()
    print(server.pid, flush=True)
    await server.wait()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="parent death signals are Linux's")
async def test_the_server_ends_with_a_killed_hub(tmp_path: Path) -> None:
    hub = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HUB, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert hub.stdout is not None
    pid = int(await hub.stdout.readline())
    assert alive(pid)
    hub.kill()
    await hub.wait()
    await eventually(lambda: not alive(pid))


def test_one_hub_per_directory(tmp_path: Path) -> None:
    with DataDir(tmp_path), pytest.raises(DataDirInUse, match=str(os.getpid())):
        DataDir(tmp_path).open()
    DataDir(tmp_path).open().close()


@pytest.mark.parametrize("content", [b'{"layout":999}', b"{", b"[]"])
def test_an_unknown_layout_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tact.json").write_bytes(content)
    for _ in range(2):  # the lock was given back after the first
        with pytest.raises(DataDirUnknown, match=r"tact\.json|layout 999"):
            DataDir(tmp_path).open()
    assert (tmp_path / "tact.json").read_bytes() == content


def test_a_new_directory_gets_its_version(tmp_path: Path) -> None:
    DataDir(tmp_path / "new" / "hub").open().close()
    version = msgspec.json.decode((tmp_path / "new" / "hub" / "tact.json").read_bytes())
    assert version == {"layout": LAYOUT}


def test_a_path_that_cannot_be_a_directory_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirUnknown, match="--data-dir"):
        DataDir(tmp_path / "file").open()
