"""HTTP/1.1 as a client, for every provider that is asked over it: one pool of connections, every
wait and size bounded, and each failure one of two: it never left, or nobody knows.

A request is sent at most once. aiohttp repeats a GET by itself when a reused connection ends before
the answer; a gateway would take the message twice, so that is turned off here (`_once`).

Nothing of a request or an answer is in an error or a log: URLs hold passwords, numbers and texts.

Sources: ADR 7; RFC 9110 (15 status codes, 10.2.3 Retry-After), RFC 9112 (9.3 persistence).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Protocol
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import aiohttp
from aiohttp import ClientConnectorError, ClientOSError, ServerDisconnectedError
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from channels.provider import Answer, Callback, Reply, Stored
from hub.errors import ConfigError, TactError

CONNECT_S: Final = 5.0
"""Until a connection is open: name, TCP and TLS. Two lost SYNs (1 s + 2 s) still pass."""
ANSWER_S: Final = 30.0
"""From the request to the last byte of its answer. Gateways that wait for a carrier take seconds;
what takes longer than the usual 30 s of proxies is cut by one of them anyway."""
KEEPALIVE_S: Final = 4.0
"""An idle connection is kept so long: below the 5 s after which common servers close it. A request
that meets a closing connection is `unknown`, and would be so for nothing."""
BODY_BYTES: Final = 64 * 1024
"""Read of one answer; what is longer is cut off. Real answers have some hundred bytes."""
CONNECTIONS: Final = 32
"""Requests under way at once, unless an account says otherwise: 320/s at 100 ms each."""
CONNECTIONS_MAX: Final = 256
"""One account may not use up the file descriptors of its process (1,024 by custom)."""
DNS_CACHE_S: Final = 30
"""A gateway that moves is found again after so long."""
RETRY_AFTER_MAX_MS: Final = 3_600_000
"""A `Retry-After` is believed up to here: a wrong date must not stop an account for a year."""
STORED_S: Final = 4.0
"""How long a callback waits for the account to store what it brought, then it answers 503 and the
other side repeats. Below the 5 s that the most impatient caller (WeCom) waits."""
CALLBACK_BYTES: Final = 256 * 1024
"""The body of one callback: 500 reports of Aliyun."""
FORM_FIELDS: Final = 64
"""Fields of a callback sent as a form."""

_DIGITS = re.compile(r"[0-9]{1,9}\Z")


class NotSent(TactError):
    """The request never left: no name, no connection, no TLS. It may be sent again at once."""

    code = "http-not-sent"
    retryable = True


class NotAllowed(NotSent):
    """The request never left, because none may go there (`channels.push.guard`), now or later."""

    code = "http-not-allowed"
    retryable = False

    def __init__(self, message: str, *, reason: str, **facts: Any) -> None:
        super().__init__(message, reason=reason, **facts)

    @property
    def reason(self) -> str:
        """In one word."""
        return str(self.facts["reason"])


class Unanswered(TactError):
    """The request left, wholly or partly, and no whole answer came: it may have been taken."""

    code = "http-unanswered"


class HttpReply(Struct, frozen=True):
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """The first `body_bytes` of it."""

    def __repr__(self) -> str:
        return f"HttpReply({self.status}, {len(self.body)} bytes)"

    @property
    def text(self) -> str:
        """The body; what is not UTF-8 becomes U+FFFD."""
        return self.body.decode("utf-8", "replace")


class Guards(Protocol):
    """What says where requests may go whose URLs come from others. Also an aiohttp resolver."""

    def check(self, url: URL) -> None:
        """Look at a URL. Raises NotAllowed."""

    async def address(self, url: URL) -> str:
        """An address of its host that may be connected to. Raises OSError, NotAllowed."""

    @property
    def resolver(self) -> AbstractResolver:
        """What looks up names for connections."""


class HttpClient:
    """A pool of connections to one provider. Redirects are not followed: a moved gateway is a
    matter for a person, and would get the password."""

    def __init__(
        self,
        *,
        connections: int = CONNECTIONS,
        connect_s: float = CONNECT_S,
        answer_s: float = ANSWER_S,
        body_bytes: int = BODY_BYTES,
        tls: ssl.SSLContext | None = None,
        guard: Guards | None = None,
    ) -> None:
        self._connections = min(connections, CONNECTIONS_MAX)
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._body_bytes = body_bytes
        self._tls = tls
        self._guard = guard
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Send it once, and give the answer whatever its status. Raises NotSent (NotAllowed),
        Unanswered."""
        sent = {"accept-encoding": "identity", **(headers or {})}
        if form is not None:
            body = encode_form(form).encode()
            sent["content-type"] = "application/x-www-form-urlencoded"
        failure: TactError
        try:
            target = URL(_with_query(url, query), encoded=True)
            if self._guard is not None:
                self._guard.check(target)
            session = self._open()
            async with session.request(
                method, target, data=body, headers=sent, allow_redirects=False
            ) as response:
                content = await self._read(response.content)
                names = {name.lower(): value for name, value in response.headers.items()}
                return HttpReply(response.status, names, content)
        except NotAllowed as error:
            failure = NotAllowed(error.message, **error.facts)
        except (
            ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
            aiohttp.NonHttpUrlClientError,
        ) as error:
            failure = NotSent(f"no connection: {_kind(error)}")
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            failure = Unanswered(f"no whole answer: {_kind(error)}")
        # Raised here, so that no traceback shows aiohttp's own: it has the URL in it.
        raise failure

    async def reach(self, url: str) -> None:
        """Try whether something listens there, without sending anything. Raises NotSent."""
        target = URL(url, encoded=True)
        host, port = target.raw_host, target.port
        try:
            async with asyncio.timeout(self._connect_s):
                if self._guard is not None:
                    host = await self._guard.address(target)
                _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise NotSent(f"no connection: {_kind(error)}") from None
        writer.close()
        with contextlib.suppress(OSError):  # it was open, which is all that was asked
            await writer.wait_closed()

    async def close(self) -> None:
        """Close all connections. What is under way is cut."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections,
                    keepalive_timeout=KEEPALIVE_S,
                    ttl_dns_cache=DNS_CACHE_S,
                    ssl=self._tls or True,
                    resolver=None if self._guard is None else self._guard.resolver,
                ),
                timeout=aiohttp.ClientTimeout(
                    total=self._connect_s + self._answer_s, connect=self._connect_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                middlewares=(_once,),
                headers={"user-agent": "tact"},
            )
        return self._session

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        got = bytearray()
        while len(got) < self._body_bytes and not content.at_eof():
            got += await content.read(self._body_bytes - len(got))
        return bytes(got)


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request again: it does so for errors of these two kinds only."""
    try:
        return await handler(request)
    except (ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (ClientOSError, ServerDisconnectedError) as error:
        raise Unanswered(f"no whole answer: {_kind(error)}") from None


def _kind(error: BaseException) -> str:
    """A plain word for an error of the network: its own text has hosts and URLs in it."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name is not known"
    if isinstance(error, TimeoutError):
        return "timed out"
    cause = error.os_error if isinstance(error, ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    return type(error).__name__


def _with_query(url: str, query: Mapping[str, str] | None) -> str:
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{encode_form(query)}"


def encode_form(fields: Mapping[str, str]) -> str:
    """`a=b&c=d`, UTF-8, a space as %20: understood in a query as in a form."""
    return urlencode(fields, quote_via=quote, safe="")


def checked_url(url: str, key: str) -> str:
    """An http(s) URL without credentials, query or fragment. Raises ConfigError naming the key."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # Other scripts are written as they are sent (xn--, %E4): what is checked is what is used.
        valid = valid and url.isascii() and url.isprintable() and " " not in url
        (parts.hostname or "").encode("idna")  # as whoever looks the name up will
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{key} must be a URL: http:// or https://, a host, a path", key=key)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"{key} must have no credentials, no ? and no #", key=key)
    return url


# ---- what a status means -----------------------------------------------------------------------


def answer_of_status(
    reply: HttpReply, now_ms: int, *, server_errors: Literal["unknown", "retry"] = "unknown"
) -> Answer:
    """What an answer means when nothing but its status is understood.

    A 5xx other than 503 may have come after the message was taken: `unknown` unless the account
    says that its gateway does not do that. A 2xx that was expected to say more is `unknown` too.
    """
    status = reply.status
    code = f"HTTP {status}"
    if status in (429, 503):
        return Answer("throttled", code=code, retry_after_ms=retry_after_ms(reply, now_ms))
    if status == 408:
        return Answer("retry", code=code)
    if 500 <= status <= 599:
        return Answer(server_errors, code=code)
    if status in (401, 403, 404, 405, 407) or 300 <= status <= 399:
        return Answer("failed", failure="config", code=code)
    if status in (413, 414, 422):
        return Answer("failed", failure="rejected_content", code=code)
    if 400 <= status <= 499:
        return Answer("failed", failure="provider", code=code)
    return Answer("unknown", code=code)


def retry_after_ms(reply: HttpReply, now_ms: int) -> int | None:
    """`Retry-After` in ms from now, 0 to RETRY_AFTER_MAX_MS; None when there is none to read."""
    value = reply.headers.get("retry-after", "").strip()
    if _DIGITS.match(value):
        return min(int(value) * 1_000, RETRY_AFTER_MAX_MS)
    at_ms = _date_ms(value)
    return None if at_ms is None else min(max(at_ms - now_ms, 0), RETRY_AFTER_MAX_MS)


def behind_ms(reply: HttpReply, now_ms: int) -> int | None:
    """How far our clock is behind that of whoever answered, by its `Date`; below 0: ahead of it.
    None without one."""
    at_ms = _date_ms(reply.headers.get("date", ""))
    return None if at_ms is None else at_ms - now_ms


def _date_ms(value: str) -> int | None:
    """A date of a header as Unix ms."""
    try:
        return int(parsedate_to_datetime(value).timestamp() * 1_000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# ---- being called ------------------------------------------------------------------------------


class Confirmation:
    """Waits until the account has stored everything that one callback brought."""

    def __init__(self) -> None:
        self._answers: list[asyncio.Future[bool]] = []

    def expect(self) -> Stored:
        """One more report; give what this returns to `Events.receipt` or `Events.inbound`."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)

        def stored(well: bool) -> None:
            if not answer.done():
                answer.set_result(well)

        return stored

    async def all_stored(self, seconds: float | None = STORED_S) -> bool:
        """Whether all were stored, and in time; None: however long it takes."""
        if not self._answers:
            return True
        _, pending = await asyncio.wait(self._answers, timeout=seconds)
        return not pending and all(answer.result() for answer in self._answers)


NOT_STORED: Final = Reply(status=503, body=b"not stored, repeat later")
FORBIDDEN: Final = Reply(status=403, body=b"wrong token")
MALFORMED: Final = Reply(status=400, body=b"not understood")


def same_secret(given: str, secret: str) -> bool:
    """Compare in constant time. An empty secret equals nothing."""
    return bool(secret) and hmac.compare_digest(
        given.encode("utf-8", "replace"), secret.encode("utf-8", "replace")
    )


def form_of(request: Callback) -> dict[str, str]:
    """The fields of a callback: of its query, and of its body if that is a form.

    Of a field that comes twice the first counts. A body that is not UTF-8 or has too many fields
    gives none.
    """
    fields = dict(request.query)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded" and len(request.body) <= CALLBACK_BYTES:
        try:
            pairs = parse_qsl(
                request.body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS
            )
        except ValueError:  # also of decoding
            return fields
        for name, value in pairs:
            fields.setdefault(name, value)
    return fields
