"""What is served over HTTP, on a real socket, with a watch that is played."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from hub.errors import ConfigError
from hub.service.http import HttpPortInUse, HttpServer, make_app


class PlayedWatch:
    def __init__(self) -> None:
        self.why: list[str] = []

    async def reasons(self) -> list[str]:
        return self.why

    async def status(self) -> dict[str, Any]:
        raise RuntimeError("a bug, with the address +8613800000000 in it")

    async def metrics(self) -> bytes:
        return b"# HELP tact_held Held\n# TYPE tact_held gauge\ntact_held 1.0\n"


@pytest.fixture
def watch() -> PlayedWatch:
    return PlayedWatch()


@pytest.fixture
async def client(watch: PlayedWatch) -> AsyncIterator[httpx.AsyncClient]:
    server = HttpServer("127.0.0.1", 0)
    server.start(make_app(watch))  # type: ignore[arg-type]
    async with httpx.AsyncClient(base_url=server.url) as client:
        yield client
    await server.stop()


async def test_healthy_while_the_loop_answers(client, watch):
    watch.why = ["NATS is down"]
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})


async def test_readiness_says_why_not(client, watch):
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})
    watch.why = ["NATS is down", "2 partitions without an owner"]
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": watch.why}


async def test_metrics_are_prometheus_text(client):
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "tact_held 1.0" in answer.text


async def test_errors_are_json_and_tell_no_secrets(client):
    answer = await client.get("/nothing")
    assert (answer.status_code, answer.json()["status_code"]) == (404, 404)
    with capture_logs() as logs:
        answer = await client.get("/status")  # the bug
    assert answer.status_code == 500
    assert answer.json()["detail"] == "Internal Server Error"
    assert "+86" not in answer.text
    assert [(line["event"], line["path"]) for line in logs] == [("http.failed", "/status")]


async def test_a_port_in_use_is_an_error_with_advice(client):
    port = client.base_url.port
    with pytest.raises(HttpPortInUse, match="--http-port") as caught:
        HttpServer("127.0.0.1", port)
    assert str(port) in str(caught.value)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.77"])
def test_an_address_that_is_not_ours_is_a_wrong_configuration(host):
    with pytest.raises(ConfigError, match=host):
        HttpServer(host, 0)


async def test_signals_stay_with_the_hub(watch):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    server = HttpServer("127.0.0.1", 0)
    server.start(make_app(watch))
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    await server.stop()


async def test_a_stopped_server_gives_its_port_back():
    server = HttpServer("127.0.0.1", 0)
    server.start(make_app(PlayedWatch()))  # type: ignore[arg-type]
    url = httpx.URL(server.url)
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/healthz")).status_code == 200
    await server.stop()
    assert url.port is not None
    again = HttpServer("127.0.0.1", url.port)
    await again.stop()


async def test_all_interfaces_are_reached_by_loopback():
    server = HttpServer("0.0.0.0", 0)
    assert server.url.startswith("http://127.0.0.1:")
    await server.stop()
