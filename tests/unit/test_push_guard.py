"""Where requests may go: addresses in every spelling, names, and names that change their mind."""

from __future__ import annotations

import asyncio
import pickle
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from channels.http import HttpClient, NotAllowed, NotSent
from channels.push.guard import LOOKUPS, LOOKUPS_ASKED, Guard, is_public
from hub.errors import ConfigError, TactError
from tests.support.push_webpush import Names

PUBLIC = ("8.8.8.8", "223.5.5.5", "2400:3200::1", "2606:4700::1111", "64:ff9b::808:808")
PRIVATE = (
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.0.3",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
)


NAT64 = ip_network("64:ff9b::/96")


def reason(guard: Guard, text: str) -> str:
    """Why a URL is refused; "" when it is not."""
    try:
        guard.parsed(text)
    except NotAllowed as error:
        return error.reason
    return ""


# ---- addresses ---------------------------------------------------------------------------------


def test_addresses_are_told_apart():
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert [address for address in PRIVATE if is_public(address)] == []


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_never_public(address):
    """Its table is another one, made from the same registries; ours leaves out more."""
    if is_public(str(address)) and address.version == 4:
        assert address.is_global
    if is_public(str(address)) and address.version == 6 and address not in NAT64:
        assert address.is_global


@pytest.mark.parametrize("address", [*PUBLIC, *PRIVATE])
def test_an_address_in_a_url(address):
    host = f"[{address.replace('%', '%25')}]" if ":" in address else address
    expected = "malformed" if "%" in address else "" if address in PUBLIC else "private"
    assert reason(Guard(), f"https://{host}/push") == expected
    if "%" not in address:
        assert ip_address(address)
        assert reason(Guard(private_networks=True), f"http://{host}:8080/push") == ""


# ---- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://push.example.com/v2/abc", ""),
        ("https://push.example.com:443/v2/abc?x=1", ""),
        ("https://push.example.com:8443/", ""),
        ("HTTPS://PUSH.example.com./x", ""),
        ("https://xn--fsq270a.example/x", ""),
        ("https://my_host.example/x", ""),
        ("http://push.example.com/", "scheme"),
        ("ftp://push.example.com/", "scheme"),
        ("file:///etc/passwd", "malformed"),
        ("push.example.com/x", "malformed"),
        ("", "malformed"),
        ("https://", "malformed"),
        ("https:///x", "malformed"),
        ("https://u@push.example.com/", "credentials"),
        ("https://u:p@push.example.com/", "credentials"),
        ("https://:@push.example.com/", "credentials"),
        ("https://8.8.8.8@127.0.0.1/", "credentials"),
        ("https://push.example.com:25/", "port"),
        ("https://push.example.com:80/", "port"),
        ("https://push.example.com:0/", "port"),
        ("https://push.example.com:65536/", "malformed"),
        ("https://push.example.com:x/", "malformed"),
        ("https://localhost/", "private"),
        ("https://LOCALHOST./", "private"),
        ("https://a.localhost/", "private"),
        # Spellings of 127.0.0.1 that system libraries read.
        ("https://2130706433/", "malformed"),
        ("https://0x7f000001/", "malformed"),
        ("https://0x7f.1/", "malformed"),
        ("https://0177.0.0.1/", "malformed"),
        ("https://017700000001/", "malformed"),
        ("https://127.1/", "malformed"),
        ("https://127.0.0.1./", "malformed"),
        ("https://8.8.8.8./", "malformed"),
        ("https://127.0.0.01/", "malformed"),
        ("https://127.0.0.1.0x0/", "malformed"),
        ("https://%31%32%37.0.0.1/", "malformed"),
        ("https://１２７.0.0.1/", "malformed"),
        ("https://例子.example/", "malformed"),
        ("https://[::ffff:7f00:1]/", "private"),
        ("https://[0:0:0:0:0:0:0:1]/", "private"),
        ("https://[::1/", "malformed"),
        ("https://[v1.x]/", "malformed"),
        ("https://[]@/", "malformed"),  # yarl raises IndexError
        # What parsers disagree about.
        ("https://push.example.com\\@127.0.0.1/", "malformed"),
        ("https://127.0.0.1\\.example.com/", "malformed"),
        ("https://push.example.com /", "malformed"),
        ("https://push.example.com/\r\nHost: x", "malformed"),
        ("https://push.example.com\t/", "malformed"),
        ("https://push..example.com/", "malformed"),
        ("https://push.example.com../", "malformed"),
        ("https://-push.example.com/", "malformed"),
        (f"https://{'a' * 64}.example/", "malformed"),
        (f"https://{'a.' * 130}example/", "malformed"),
    ],
)
def test_a_url(url, expected):
    assert reason(Guard(), url) == expected


@given(st.text(max_size=80) | st.text("htps:/.[]@%0x17f#?\\", max_size=40).map("https://".__add__))
def test_any_text_is_allowed_or_refused(text):
    assert reason(Guard(), text) in {
        "",
        "malformed",
        "scheme",
        "credentials",
        "port",
        "host",
        "private",
    }


def test_hosts_that_are_allowed():
    guard = Guard(hosts=["fcm.googleapis.com", "Notify.Windows.com.", "9.9.9.9"])
    allowed = ("fcm.googleapis.com", "db5.notify.windows.com", "notify.windows.com.", "9.9.9.9")
    refused = ("googleapis.com", "evilnotify.windows.com", "notify.windows.com.evil.example")
    assert [reason(guard, f"https://{host}/x") for host in allowed] == [""] * 4
    assert [reason(guard, f"https://{host}/x") for host in refused] == ["host"] * 3
    with pytest.raises(ConfigError, match="hosts"):
        Guard(hosts=["https://fcm.googleapis.com"])


# ---- names, where the connection is made -------------------------------------------------------


@pytest.fixture
async def server():
    """A server on loopback, and the requests it got."""
    got: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        got.append(request.path)
        if request.path == "/moved":
            raise web.HTTPFound("http://127.0.0.1/secret")
        return web.Response(text="secret")

    runner = web.AppRunner(_app(handle), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1], got
    await runner.cleanup()


def _app(handle):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


async def test_a_name_of_a_private_address_is_refused_where_it_is_connected(server):
    port, got = server
    names = Names(
        evil_example=[("127.0.0.1",)],
        mixed_example=[("8.8.8.8", "127.0.0.1")],
        six_example=[("::ffff:127.0.0.1",)],
        empty_example=[()],
    )
    client = HttpClient(guard=Guard(names=names), connect_s=2)
    for host in ("evil.example", "mixed.example", "six.example", "evil.example."):
        with pytest.raises(NotAllowed) as caught:
            await client.request("POST", f"https://{host}:{port}/x", body=b"{}")
        assert caught.value.reason == "private"
        with pytest.raises(NotAllowed):
            await client.reach(f"https://{host}:{port}/x")
    for host in ("empty.example", "unknown.example"):
        with pytest.raises(NotSent) as unknown:
            await client.request("POST", f"https://{host}:{port}/x", body=b"{}")
        assert not isinstance(unknown.value, NotAllowed)
    for host in ("127.0.0.1", "0.0.0.0", "[::1]", "localhost", "2130706433"):
        with pytest.raises(NotAllowed):
            await client.request("GET", f"https://{host}:{port}/x")
    together = [client.request("GET", f"https://evil.example:{port}/{n}") for n in range(9)]
    answers = await asyncio.gather(*together, return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotAllowed] * 9
    assert got == []
    await client.close()


async def test_a_name_that_changes_its_mind_is_asked_again_and_refused(server):
    """DNS rebinding: public when it is looked at, private when it is connected to."""
    port, got = server
    guard = Guard(names=Names(rebind_example=[("8.8.8.8",), ("127.0.0.1",)]))
    url = f"https://rebind.example:{port}/x"
    assert await guard.address(URL(url)) == "8.8.8.8"
    client = HttpClient(guard=guard, connect_s=2)
    with pytest.raises(NotAllowed):
        await client.request("GET", url)
    assert got == []
    await client.close()


async def test_name_servers_that_do_not_answer_take_few_threads():
    class Slow(Names):
        open = most = 0
        go_on = asyncio.Event()

        async def resolve(self, *arguments: Any) -> list[ResolveResult]:
            self.open += 1
            self.most = max(self.most, self.open)
            await self.go_on.wait()
            self.open -= 1
            return await super().resolve(*arguments)

    names = Slow(ok_example=[("8.8.8.8",)])
    guard = Guard(names=names)
    asked = [asyncio.create_task(guard.resolve("ok.example")) for _ in range(LOOKUPS_ASKED)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many"):
        await guard.resolve("ok.example")
    names.go_on.set()
    found = await asyncio.gather(*asked)
    assert {each[0]["host"] for each in found} == {"8.8.8.8"}
    assert names.most == LOOKUPS
    assert await guard.resolve("ok.example")


async def test_private_networks_may_be_allowed_and_redirects_lead_nowhere(server):
    port, got = server
    names = Names(own_example=[("127.0.0.1",)])
    client = HttpClient(guard=Guard(private_networks=True, names=names))
    for host in ("own.example", "127.0.0.1"):
        reply = await client.request("GET", f"http://{host}:{port}/moved")
        assert reply.status == 302
        await client.reach(f"http://{host}:{port}/")
    assert got == ["/moved", "/moved"]
    await client.close()


def test_a_refusal_survives_pickling_and_quotes_nothing():
    with pytest.raises(NotAllowed) as caught:
        Guard().parsed("https://10.1.2.3/token")
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, TactError) and again.reason == "private"
    assert "10.1" not in repr(again) and "token" not in str(again)
