"""Health, readiness, metrics and status over HTTP: Litestar on uvicorn, in the hub's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
import uvicorn
from litestar import Litestar, MediaType, Request, Response, get, route
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from prometheus_client import CONTENT_TYPE_LATEST

from channels.provider import Callback, Reply
from hub.errors import ConfigError, TactError
from hub.service.watch import Watch

_log = structlog.get_logger(__name__)

TakeCallback = Callable[[str, Callback], Awaitable[Reply]]

CALLBACK_BYTES = 1024 * 1024
"""Body of a provider's request."""
_GRACE_S = 2
"""Requests under way may take this long when the hub stops."""


class HttpPortInUse(TactError):
    """Something else listens there."""

    code = "http-port-in-use"


async def no_accounts(_account: str, _callback: Callback) -> Reply:
    """The answer of a hub without accounts."""
    return Reply(404)


def make_app(watch: Watch, callback: TakeCallback = no_accounts) -> Litestar:
    """The routes. Errors are JSON: `{"status_code": …, "detail": …}`."""

    @route("/v1/callbacks/{account:str}", http_method=["GET", "POST"])
    async def callbacks(account: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
        """What providers tell an account: receipts and messages of customers."""
        asked = Callback(
            request.method,
            dict(request.query_params),
            {name.lower(): value for name, value in request.headers.items()},
            await request.body(),
        )
        reply = await callback(account, asked)
        return Response(
            reply.body, status_code=reply.status, headers={"content-type": reply.content_type}
        )

    @get("/healthz", media_type=MediaType.JSON)
    async def healthz() -> dict[str, Any]:
        """The process is alive: its loop answers."""
        return {"alive": True}

    @get("/readyz", media_type=MediaType.JSON)
    async def readyz() -> Response[dict[str, Any]]:
        """Whether intents are being decided; if not, why."""
        reasons = await watch.reasons()
        return Response(
            {"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200
        )

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        """Every process of the hub in one, in the Prometheus text format."""
        return Response(await watch.metrics(), headers={"content-type": CONTENT_TYPE_LATEST})

    @get("/status", media_type=MediaType.JSON)
    async def status() -> dict[str, Any]:
        """Hosts, partitions, lag and rates."""
        return await watch.status()

    return Litestar(
        [healthz, readyz, metrics, status, callbacks],
        request_max_body_size=CALLBACK_BYTES,
        after_exception=[_report],
        openapi_config=None,
        logging_config=None,
    )


async def _report(error: Exception, scope: Any) -> None:
    """A bug in a handler is answered with 500, and must be seen."""
    if not isinstance(error, HTTPException):
        _log.error("http.failed", path=scope["path"], exc_info=error)


class HttpServer:
    """The server of one app. Bound when made, so that the port is known and surely ours."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = _bind(host, port)
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self, app: Litestar) -> asyncio.Task[None]:
        """Serve; the task ends only after `stop()`."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="tact-http")
        return self._task

    async def stop(self) -> None:
        """Finish what is under way, and close. Safe to call when never started."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task])
        self._socket.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the hub's matter: it has more to stop than this."""
        yield


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f"http.host: {host!r} is not an address of this machine") from error
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Here and not in uvicorn: two may bind one port, but only one can listen on it.
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise HttpPortInUse(
                f"port {port} on {host} is in use. Choose another with --http-port.", port=port
            ) from error
        raise ConfigError(f"HTTP cannot listen on {host}:{port}: {error.strerror}") from error
    return bound
