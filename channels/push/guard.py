"""Requests to addresses that others wrote (a browser's push endpoint, a receiver's webhook) stay
out of our own network.

Two checks, because neither is enough: of the URL, in the parts that aiohttp itself will use, since
an address in it is never looked up; and of every address that a name stands for, where the
connection is made, so that a name which points elsewhere by then passes no more than before.
`HttpClient` follows no redirects.

Sources: the IANA registries of special-purpose addresses (RFC 6890), RFC 1918, RFC 6598, RFC 4193,
RFC 6052 (NAT64), WHATWG URL ("ends in a number").
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from channels.http import HttpClient, NotAllowed
from channels.sending import HttpConfig
from hub.errors import ConfigError

PORT_FROM: Final = 1_024
"""From here services of one's own are; below are others (mail, names, shells) that no push service
and no webhook listens beside, but for 443."""
HOST_CHARS: Final = 253
"""RFC 1035, 2.3.4, as text without the last dot."""
LOOKUPS: Final = 2
"""Names looked up at once. Each takes one of the process's few threads (six with two cores) for as
long as a name server pleases, and every other account needs them too."""
LOOKUPS_ASKED: Final = 256
"""Lookups under way or waiting; more are refused, as names that are not known."""

_NOT_PUBLIC: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network: 0.0.0.0 is this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: metadata of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation, as two more below
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL: Final = IPv6Network("2000::/3")
"""All that is given out for the Internet. Loopback, link-local, ULA, multicast, mapped and
discard-only addresses are outside."""
_NOT_GLOBAL: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")

_URL: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+\Z")
"""RFC 3986. Anything else (a backslash, a line end, other scripts) is read in many ways."""
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER: Final = re.compile(r"([0-9]+|0[xX][0-9A-Fa-f]*)\Z")
_REASONS: Final = {
    "malformed": "it is not a URL that is read in one way only",
    "scheme": "it must be https",
    "credentials": "it has a user or a password",
    "port": f"its port must be 443, or from {PORT_FROM}",
    "host": "its host is not among those allowed",
    "private": "it is in a private network",
}


def is_public(address: str) -> bool:
    """Whether an IP address, in its usual spelling, is one of the Internet."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed in _NAT64:  # what networks without IPv4 put in place of an IPv4 address
            return _is_public4(IPv4Address(int(parsed) & 0xFFFF_FFFF))
        inside = parsed in _GLOBAL and parsed.scope_id is None
        return inside and not any(parsed in network for network in _NOT_GLOBAL)
    return _is_public4(parsed)


def _is_public4(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC)


class Guard(AbstractResolver):
    """Says where requests may go, and looks names up for them."""

    def __init__(
        self,
        *,
        private_networks: bool = False,
        hosts: Sequence[str] = (),
        names: AbstractResolver | None = None,
    ) -> None:
        """Private networks: any address, any port, and http as well. `hosts`: these and what is
        below them, or none to allow all. `names`: what looks names up, instead of the system."""
        self._private = private_networks
        self._hosts = tuple(checked_host(host) for host in hosts)
        self._names = names
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._asked = 0

    # ---- the URL -----------------------------------------------------------------------------

    def parsed(self, text: str) -> URL:
        """A URL as it will be used. Raises NotAllowed."""
        try:
            url = URL(text, encoded=True) if _URL.match(text) else None
        except (ValueError, IndexError):
            url = None
        if url is None:
            raise _refused("malformed")
        self.check(url)
        return url

    def check(self, url: URL) -> None:
        """Look at all that can be seen without a network. Raises NotAllowed."""
        try:
            host, port, authority = (url.raw_host or "").lower(), url.port, url.raw_authority
        except (ValueError, IndexError):  # yarl reads these parts late, and not all texts
            raise _refused("malformed") from None
        brackets = "[" in authority
        if not host or not _URL.match(str(url)) or brackets != (":" in host):
            raise _refused("malformed")
        if url.scheme != "https" and not (url.scheme == "http" and self._private):
            raise _refused("scheme")
        if "@" in authority:
            raise _refused("credentials")
        self._check_host(host)
        if not port or not (self._private or port == 443 or port >= PORT_FROM):
            raise _refused("port")

    def _check_host(self, host: str) -> None:
        name = host.removesuffix(".")
        literal = ":" in name or _NUMBER.match(name.rpartition(".")[2]) is not None
        if not (_is_canonical(host) if literal else _is_name(name)):
            raise _refused("malformed")
        host = name
        if self._hosts and not any(_below(host, allowed) for allowed in self._hosts):
            raise _refused("host")
        if self._private:
            return
        if (literal and not is_public(host)) or _below(host, "localhost"):
            raise _refused("private")

    # ---- names -------------------------------------------------------------------------------

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of a name. Raises OSError; NotAllowed if one of them is not public: who
        mixes them hopes that we take the other."""
        if self._names is None:
            self._names = aiohttp.ThreadedResolver()
        if self._asked >= LOOKUPS_ASKED:
            raise OSError("too many names are looked up")
        self._asked += 1
        try:
            async with self._lookups:
                found = await self._names.resolve(host, port, family)
        finally:
            self._asked -= 1
        if not found:
            raise OSError("no address")
        if not self._private and not all(is_public(each["host"]) for each in found):
            raise _refused("private")
        return found

    async def address(self, url: URL) -> str:
        """An address of a URL's host that may be connected to. Raises OSError, NotAllowed."""
        self.check(url)
        host = url.raw_host or ""
        if _is_canonical(host):
            return host
        found = await self.resolve(host, url.port or 0)
        return found[0]["host"]

    @property
    def resolver(self) -> AbstractResolver:
        """What looks up names for connections."""
        return self

    async def close(self) -> None:
        """Nothing is held."""


def guarded_client(
    config: HttpConfig, *, private_networks: bool = False, hosts: Sequence[str] = ()
) -> HttpClient:
    """The connections that an account's table describes, to where it may be. Raises ConfigError."""
    return HttpClient(
        connections=config.connections,
        connect_s=config.connect_s,
        answer_s=config.answer_s,
        guard=Guard(private_networks=private_networks, hosts=hosts),
    )


def checked_host(host: str) -> str:
    """A name or an address as it is compared. Raises ConfigError."""
    found = host.strip("[]").removesuffix(".").lower()
    if not (_is_canonical(found) or _is_name(found)):
        raise ConfigError("hosts: each must be the name of a host, or its address", key="hosts")
    return found


def _is_name(host: str) -> bool:
    labels = host.split(".")
    return len(host) <= HOST_CHARS and all(_LABEL.match(label) for label in labels)


def _is_canonical(host: str) -> bool:
    """Whether it is an address in the one spelling that everybody reads alike: no hex, no octal,
    no missing parts, no zone."""
    try:
        parsed = ip_address(host)
    except ValueError:
        return False
    return isinstance(parsed, IPv4Address) or parsed.scope_id is None


def _below(host: str, domain: str) -> bool:
    return host == domain or host.endswith("." + domain)


def _refused(reason: str) -> NotAllowed:
    return NotAllowed(f"no request goes there: {_REASONS[reason]}", reason=reason)
