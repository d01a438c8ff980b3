"""The plain connection: framing under any split of the bytes, login, TLS, and its end."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from hub.clock import SystemClock
from hub.contract.subjects import publish_subject
from hub.ledger.connection import connect
from hub.ledger.intake import StreamReader
from hub.ledger.lanes import parse_status
from hub.ledger.port import LedgerUnavailable
from hub.ledger.publishing import publish
from hub.ledger.streams import provision
from hub.ledger.wire import Wire, open_wire
from tests.support.ledger import SMALL, eventually, nats_server

Message = tuple[bytes, bytes, bytes, bytes]


class Pipe:
    """The transport under a wire: keeps what it writes."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def frame(message: Message, sid: int) -> bytes:
    subject, reply, headers, payload = message
    verb, sizes = b"MSG", b"%d" % len(payload)
    if headers:
        verb, sizes = b"HMSG", b"%d %d" % (len(headers), len(headers) + len(payload))
    parts = [verb, subject, b"%d" % sid, *([reply] if reply else []), sizes]
    return b" ".join(parts) + b"\r\n" + headers + payload + b"\r\n"


def random_message(chance: random.Random) -> Message:
    headers = b"NATS/1.0\r\nA: b\r\n\r\n" if chance.random() < 0.5 else b""
    reply = b"$JS.ACK.S.c.1.2.3.4.5" if chance.random() < 0.7 else b""
    payload = chance.choice([b"", b"\r\n", b"MSG a 1 0\r\n\r\n", chance.randbytes(300)])
    return b"hub.in.%d.normal.shop" % chance.randrange(9), reply, headers, payload


@pytest.mark.parametrize("seed", range(20))
async def test_any_split_of_the_bytes_gives_the_same_messages(seed):
    chance = random.Random(seed)
    wire, pipe, taken = Wire(lambda: None), Pipe(), []
    wire.connection_made(pipe)  # type: ignore[arg-type]
    wire.subscribe("in", lambda *message: taken.append(message))
    gone = wire.subscribe("gone", lambda *message: pytest.fail("was unsubscribed"))
    wire.unsubscribe(gone)
    expected, stream, pings = [], b"", 0
    for _ in range(60):
        message = random_message(chance)
        kind = chance.random()
        if kind < 0.8:
            expected.append(message)
            stream += frame(message, 1)
        elif kind < 0.9:
            stream += frame(message, 2)
        else:
            stream += chance.choice([b"PING\r\n", b"ping\r\n"])
            pings += 1
    start = 0
    while start < len(stream):
        size = chance.choice([1, 2, 3, 50, 1_000])
        wire.data_received(stream[start : start + size])
        start += size
    assert taken == expected
    assert pipe.written.count(b"PONG\r\n") == pings
    assert not pipe.aborted


async def test_an_error_of_the_server_ends_the_connection(capsys):
    wire, pipe = Wire(lambda: None), Pipe()
    wire.connection_made(pipe)  # type: ignore[arg-type]
    wire.data_received(b"-ERR 'Permissions Violation'\r\n")
    assert pipe.aborted
    assert "Permissions Violation" in capsys.readouterr().out


async def test_garbled_bytes_end_the_connection_and_are_not_logged(capsys):
    wire, pipe = Wire(lambda: None), Pipe()
    wire.connection_made(pipe)  # type: ignore[arg-type]
    wire.data_received(b"+8613800000000 likes tea\r\n")
    assert pipe.aborted
    assert "tea" not in capsys.readouterr().out


def test_statuses():
    block = b"NATS/1.0 409 Batch Completed\r\nNats-Pending-Messages: 0\r\n\r\n"
    assert parse_status(block) == ("409", "Batch Completed", {"Nats-Pending-Messages": "0"})
    assert parse_status(b"NATS/1.0 503\r\n\r\n") == ("503", "", {})


@pytest.mark.nats
async def test_the_end_is_told_once_and_a_dead_port_is_unavailable(tmp_path):
    ends: list[int] = []
    async with nats_server(tmp_path) as server:
        options = {"lang": "python", "version": "1", "protocol": 1, "verbose": False}
        wire = await open_wire("127.0.0.1", server.port, options, lambda: ends.append(1))
        closed = await open_wire("127.0.0.1", server.port, options, lambda: ends.append(2))
        closed.close()
        await server.kill()
        await eventually(lambda: wire.lost and closed.lost)
    assert ends == [1]
    wire.publish("to", "nobody", b"is not an error")
    with pytest.raises(LedgerUnavailable):
        await open_wire("127.0.0.1", server.port, options, lambda: None)


@pytest.mark.nats
async def test_a_wrong_login_is_unavailable(tmp_path):
    users = "authorization { users: [ {user: hub, password: right} ] }"
    async with nats_server(tmp_path, extra=users) as server:
        options = {"verbose": False, "user": "hub", "pass": "wrong", "protocol": 1}
        with pytest.raises(LedgerUnavailable):
            await open_wire("127.0.0.1", server.port, options, lambda: None)


def certificate(directory: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    make = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1"]
    make += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(make, check=True, capture_output=True)


@pytest.mark.nats
@pytest.mark.parametrize("where", ["options", "address"])
async def test_reading_over_tls_with_a_login(tmp_path, monkeypatch, where):
    certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    extra = (
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
        "authorization { users: [ {user: hub, password: right} ] }"
    )
    async with nats_server(tmp_path, extra=extra) as server:
        login = {"user": "hub", "password": "right"} if where == "options" else {}
        host = "127.0.0.1" if login else "hub:right@127.0.0.1"
        connection = await connect(
            f"tls://{host}:{server.port}", name="test", clock=SystemClock(), **login
        )
        await provision(connection, partitions=2, sizes=SMALL)
        await publish(connection, publish_subject("normal", "shop", "c1"), b"{}")
        reader = StreamReader(connection, 2)
        await reader.open({0: {}, 1: {}})
        await asyncio.wait_for(reader.wait(5), 6)
        assert [message.payload for message in reader.take("normal", 9)] == [b"{}"]
        await reader.close()
        await connection.close()
