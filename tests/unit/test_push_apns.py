"""Apple's push service without a network: payloads, reasons, provider tokens, configuration."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from channels.accounts import parse_accounts
from channels.http import HttpReply
from channels.provider import Answer, Unsendable
from channels.push.apns.config import check
from channels.push.apns.errors import REASONS, reply_of, understood
from channels.push.apns.lines import Line
from channels.push.apns.payload import push_of
from channels.push.apns.provider import ApnsProvider
from channels.push.apns.token import Tokens
from channels.push.content import collapse_id
from hub.errors import ConfigError
from tests.support.push_apns import DEVICE, config, delivery, pem_of, private_key
from tests.support.sms_web import NOW_MS, StillClock, Told

# ---- what is sent ------------------------------------------------------------------------------


def sent(content: dict[str, Any], **change: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The headers and the payload that a delivery becomes."""
    settings = {key: change.pop(key) for key in ("push_type", "topic") if key in change}
    push = push_of(delivery(content, **change), config(**settings))
    headers = {name.decode(): value.decode() for name, value in push.headers}
    return headers, msgspec.json.decode(push.body)


def test_an_alert() -> None:
    headers, payload = sent(
        {
            "title": "Order",
            "text": "shipped",
            "data": {"order": 7},
            "sound": "default",
            "badge": 2,
            "link": "app://orders/7",
            "image": "https://img.example/7.png",
        },
        collapse_key="order-7",
    )
    assert headers.pop("apns-collapse-id") == collapse_id(delivery(collapse_key="order-7"))
    assert UUID(headers.pop("apns-id")).version == 5
    assert headers == {
        ":path": f"/3/device/{DEVICE}",
        "apns-topic": "com.example.app",
        "apns-push-type": "alert",
        "apns-priority": "5",
    }
    assert payload == {
        "aps": {
            "alert": {"title": "Order", "body": "shipped"},
            "sound": "default",
            "badge": 2,
            "mutable-content": 1,
        },
        "order": "7",
        "image": "https://img.example/7.png",
        "link": "app://orders/7",
    }


def test_the_id_is_of_the_delivery() -> None:
    """Stable for its tries, and another for another attempt."""

    def id_of(id: str) -> str:
        return sent({"text": "x"}, id=id)[0]["apns-id"]

    assert id_of("shop:a:1") == id_of("shop:a:1") != id_of("shop:a:2")


@pytest.mark.parametrize(
    ("content", "settings", "push_type", "priority", "topic"),
    [
        ({"text": "x"}, {"priority": 6}, "alert", "10", "com.example.app"),
        ({"text": "x"}, {"priority": 5}, "alert", "5", "com.example.app"),
        ({"silent": True}, {"priority": 9}, "background", "5", "com.example.app"),
        (
            {"text": "x", "apns": {"push_type": "background", "priority": 10}},
            {},
            "background",
            "5",
            "com.example.app",
        ),
        ({"text": "x", "apns": {"priority": 1}}, {"priority": 9}, "alert", "1", "com.example.app"),
        ({"text": "x", "apns": {"push_type": "voip"}}, {}, "voip", "5", "com.example.app.voip"),
        ({"silent": True}, {"push_type": "voip"}, "voip", "5", "com.example.app.voip"),
        (
            {"text": "x", "apns": {"push_type": "liveactivity", "topic": "com.example.other"}},
            {},
            "liveactivity",
            "5",
            "com.example.other.push-type.liveactivity",
        ),
        (
            {"text": "x", "apns": {"push_type": "voip"}},
            {"topic": "com.example.app.voip"},
            "voip",
            "5",
            "com.example.app.voip",
        ),
    ],
)
def test_push_types(
    content: dict[str, Any], settings: dict[str, Any], push_type: str, priority: str, topic: str
) -> None:
    headers, payload = sent(content, **settings)
    assert headers["apns-push-type"] == push_type
    assert headers["apns-priority"] == priority
    assert headers["apns-topic"] == topic
    if push_type == "background" or content.get("silent"):
        assert payload["aps"]["content-available"] == 1


def test_the_own_table_is_laid_over() -> None:
    own = {"payload": {"aps": {"event": "end", "alert": {"body": "over"}}, "more": [1]}}
    _, payload = sent({"text": "x", "title": "t", "apns": own})
    assert payload == {
        "aps": {"alert": {"title": "t", "body": "over"}, "event": "end"},
        "more": [1],
    }
    headers, payload = sent({"apns": {"collapse_id": "mine", "payload": {"aps": {"badge": 0}}}})
    assert headers["apns-collapse-id"] == "mine"
    assert payload == {"aps": {"badge": 0}}


@pytest.mark.parametrize(
    "own",
    [
        {"push_type": "hush"},
        {"priority": 7},
        {"topic": "com example"},
        {"collapse_id": "x" * 65},
        {"collapse_id": "a\r\nb"},
        {"collapse_id": "äöü"},
        {"hush": 1},
        {"payload": []},
        {"expiration": 5},
    ],
)
def test_an_own_table_that_is_wrong(own: dict[str, Any]) -> None:
    with pytest.raises(Unsendable) as raised:
        sent({"text": "x", "apns": own})
    assert (raised.value.failure, raised.value.provider_code) == ("rejected_content", "apns-table")
    assert "hush" not in raised.value.message


def test_sizes() -> None:
    def of(size: int, **own: Any) -> int:
        rest = len(push_of(delivery({"text": "x", "apns": own}), config()).body)
        content = {"text": "x" * (size - rest + 1), "apns": own}
        return len(push_of(delivery(content), config()).body)

    assert of(4096) == 4096
    assert of(5120, push_type="voip") == 5120
    for size, own in ((4097, {}), (5121, {"push_type": "voip"})):
        with pytest.raises(Unsendable) as raised:
            of(size, **own)
        assert raised.value.failure == "rejected_content"
        assert raised.value.provider_code == "payload-too-large"


@pytest.mark.parametrize(
    "token", ["", "ab", "xyz" * 30, "ab" * 32 + "a", "ab" * 32 + "\n", "ab" * 101, "../" * 30, "é"]
)
def test_a_device_token_that_is_none(token: str) -> None:
    with pytest.raises(Unsendable) as raised:
        sent({"text": "x"}, to=token)
    assert raised.value.failure == "dead_address"
    assert not token or token not in raised.value.message


def test_data_cannot_be_the_payload() -> None:
    with pytest.raises(Unsendable):
        sent({"text": "x", "data": {"aps": "1"}})


# ---- what is answered --------------------------------------------------------------------------


def outcome(status: int, body: Any = b"", **headers: str) -> Any:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return understood(HttpReply(status, headers, data), NOW_MS)


RETRY = ("retry", None)
TABLE = {
    (400, "BadCollapseId"): ("failed", "rejected_content"),
    (400, "BadDeviceToken"): ("failed", "dead_address"),
    (400, "BadExpirationDate"): ("failed", "provider"),
    (400, "BadMessageId"): ("failed", "provider"),
    (400, "BadPriority"): ("failed", "rejected_content"),
    (400, "BadTopic"): ("failed", "config"),
    (400, "DeviceTokenNotForTopic"): ("failed", "config"),
    (400, "DuplicateHeaders"): ("failed", "provider"),
    (400, "IdleTimeout"): RETRY,
    (400, "InvalidPushType"): ("failed", "rejected_content"),
    (400, "MissingDeviceToken"): ("failed", "provider"),
    (400, "MissingTopic"): ("failed", "config"),
    (400, "PayloadEmpty"): ("failed", "rejected_content"),
    (400, "TopicDisallowed"): ("failed", "config"),
    (403, "BadCertificate"): ("failed", "config"),
    (403, "BadCertificateEnvironment"): ("failed", "config"),
    (403, "BadEnvironmentKeyIdInToken"): ("failed", "config"),
    (403, "BadEnvironmentKeyInToken"): ("failed", "config"),
    (403, "ExpiredProviderToken"): RETRY,
    (403, "Forbidden"): ("failed", "config"),
    (403, "InvalidProviderToken"): ("failed", "config"),
    (403, "MissingProviderToken"): ("failed", "config"),
    (403, "UnrelatedKeyIdInToken"): ("failed", "config"),
    (404, "BadPath"): ("failed", "provider"),
    (405, "MethodNotAllowed"): ("failed", "provider"),
    (410, "ExpiredToken"): ("failed", "dead_address"),
    (410, "Unregistered"): ("failed", "dead_address"),
    (413, "PayloadTooLarge"): ("failed", "rejected_content"),
    (429, "TooManyProviderTokenUpdates"): ("throttled", None),
    (429, "TooManyRequests"): ("throttled", None),
    (500, "InternalServerError"): RETRY,
    (503, "ServiceUnavailable"): ("throttled", None),
    (503, "Shutdown"): RETRY,
    (400, "BadChannelId"): ("failed", "rejected_content"),
    (400, "BadRequestParams"): ("failed", "rejected_content"),
    (400, "BadRequestPayload"): ("failed", "rejected_content"),
    (400, "CannotCreateChannelConfig"): ("failed", "config"),
    (400, "ChannelNotRegistered"): ("failed", "config"),
    (403, "FeatureNotEnabled"): ("failed", "config"),
    (400, "MissingChannelId"): ("failed", "rejected_content"),
    (400, "MissingPushType"): ("failed", "rejected_content"),
    (400, "TopicMismatch"): ("failed", "config"),
}
STOPS = {
    "BadTopic",
    "MissingTopic",
    "TopicDisallowed",
    "TopicMismatch",
    "BadCertificate",
    "BadCertificateEnvironment",
    "BadEnvironmentKeyIdInToken",
    "BadEnvironmentKeyInToken",
    "Forbidden",
    "InvalidProviderToken",
    "MissingProviderToken",
    "UnrelatedKeyIdInToken",
}


def test_the_table_has_every_reason() -> None:
    assert {reason for _, reason in TABLE} == set(REASONS)


@pytest.mark.parametrize(("status", "reason"), TABLE)
def test_reasons(status: int, reason: str) -> None:
    found = outcome(status, {"reason": reason})
    answer = found.answer
    assert (answer.kind, answer.failure) == TABLE[status, reason]
    assert answer.code == reason
    assert bool(found.stop) == (reason in STOPS)
    assert answer.scope == ("recipient" if reason == "TooManyRequests" else "account")
    assert answer.dead_since_ms == 0


@pytest.mark.parametrize(
    ("status", "kind", "failure", "stops"),
    [
        (400, "failed", "provider", False),
        (401, "failed", "config", True),
        (403, "failed", "config", True),
        (407, "failed", "config", True),
        (408, "retry", None, False),
        (410, "failed", "provider", False),  # a proxy's page kills no device
        (413, "failed", "rejected_content", False),
        (429, "throttled", None, False),
        (500, "retry", None, False),
        (502, "retry", None, False),
        (503, "throttled", None, False),
        (204, "unknown", None, False),
        (302, "unknown", None, False),
        (0, "unknown", None, False),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", {"reason": "New"}, {"reason": "b\nad"}])
def test_what_is_not_known(
    status: int, kind: str, failure: str | None, stops: bool, body: Any
) -> None:
    found = outcome(status, body)
    assert (found.answer.kind, found.answer.failure) == (kind, failure)
    assert bool(found.stop) == stops
    assert found.answer.code in ("New", f"HTTP {status}")


def test_accepted_is_the_last_word() -> None:
    id = "11111111-2222-3333-4444-555555555555"
    found = understood(reply_of(200, [(b"apns-id", id.encode())], b""), NOW_MS)
    assert found.answer == Answer("accepted", provider_ids=(id,), receipts=0)
    assert outcome(200, b"<html>log in</html>").answer.kind == "unknown"


@pytest.mark.parametrize(
    ("timestamp", "since"),
    [
        (NOW_MS - 5_000, NOW_MS - 5_000),
        (NOW_MS + 5_000, NOW_MS),
        (float(NOW_MS - 1), NOW_MS - 1),
        (0, 0),
        (-1, 0),
        (1e300, 0),
        (None, 0),
        ("1", 0),
    ],
)
def test_since_when_a_device_is_gone(timestamp: Any, since: int) -> None:
    answer = outcome(410, {"reason": "Unregistered", "timestamp": timestamp}).answer
    assert answer.dead_since_ms == since


def test_how_long_to_wait() -> None:
    def wait(status: int, reason: str, **headers: str) -> int | None:
        return outcome(status, {"reason": reason}, **headers).answer.retry_after_ms

    retry_after = {"retry-after": "7"}
    assert wait(429, "TooManyRequests") == 60_000
    assert wait(429, "New") == 60_000
    assert wait(429, "TooManyRequests", **retry_after) == 7_000
    assert wait(429, "TooManyProviderTokenUpdates") == 60_000
    assert wait(500, "InternalServerError") is None
    assert wait(503, "ServiceUnavailable") == 5_000
    assert wait(503, "ServiceUnavailable", **retry_after) == 7_000


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("", "or it is this machine's clock"),
        ("soon", "or it is this machine's clock"),
        ("Tue, 18 Nov 2026 10:26:40 GMT", "s ahead"),
        ("Sun, 22 Nov 2026 10:26:40 GMT", "s behind"),
        ("Wed, 18 Nov 2026 11:06:50 GMT", "agrees with Apple's"),
    ],
)
def test_a_refused_token_may_be_the_clock(date: str, said: str) -> None:
    found = outcome(403, {"reason": "InvalidProviderToken"}, date=date)
    assert said in found.stop


@given(st.integers(0, 999), st.binary(max_size=200), st.binary(max_size=20), st.binary(max_size=40))
def test_any_answer_has_a_meaning(status: int, body: bytes, name: bytes, value: bytes) -> None:
    found = understood(reply_of(status, [(name, value), (b"date", value)], body), NOW_MS)
    assert found.answer.kind in ("accepted", "retry", "throttled", "failed", "unknown")
    assert len(found.answer.code) <= 64


# ---- provider tokens ---------------------------------------------------------------------------


class MovingClock:
    """Two clocks that are moved by hand: the wall's can be set."""

    def __init__(self) -> None:
        self.wall_ms = NOW_MS
        self.s = 1_000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def steady_s(self) -> float:
        return self.s

    def go(self, seconds: float) -> None:
        self.s += seconds
        self.wall_ms += int(seconds * 1_000)


def tokens(clock: MovingClock) -> Tokens:
    key = load_pem_private_key(private_key().encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Tokens(key, "KEY1234567", "TEAM123456", clock)


def test_a_token_says_who_we_are() -> None:
    scheme, token = tokens(MovingClock()).header().decode().split(" ")
    assert scheme == "bearer"
    head = jwt.get_unverified_header(token)
    assert (head["alg"], head["kid"]) == ("ES256", "KEY1234567")
    public = load_pem_private_key(private_key().encode(), None).public_key()
    options: Any = {"verify_iat": False}
    claims = jwt.decode(token, public, ["ES256"], options=options)  # type: ignore[arg-type]
    assert claims == {"iss": "TEAM123456", "iat": NOW_MS // 1_000}


def test_a_token_is_signed_anew_when_it_is_forty_minutes_old() -> None:
    clock = MovingClock()
    made = tokens(clock)
    first = made.header()
    clock.go(40 * 60)
    assert made.header() == first
    clock.go(1)
    assert made.header() != first


def test_an_expired_token_is_replaced_once_in_twenty_minutes() -> None:
    clock = MovingClock()
    made = tokens(clock)
    first = made.header()
    clock.go(19 * 60)
    assert not made.expired(first)
    assert made.header() == first
    clock.go(61)
    assert made.expired(first)
    second = made.header()
    assert second != first
    assert made.expired(first)  # others in flight had the old one as well
    assert made.header() == second
    assert not made.expired(second)


def test_a_clock_that_was_set_makes_a_new_token() -> None:
    clock = MovingClock()
    made = tokens(clock)
    first = made.header()
    clock.wall_ms += 30_000
    assert made.header() == first
    clock.wall_ms -= 600_000
    assert made.header() != first


# ---- connections -------------------------------------------------------------------------------


def test_pauses_grow_until_a_connection_has_lasted() -> None:
    clock = MovingClock()
    line = Line(config(), None, Told(), clock, random.Random(1))  # type: ignore[arg-type]
    pauses = [line._pause_s() for _ in range(8)]
    for pause, most in zip(pauses, (0.5, 1, 2, 4, 8, 16, 30, 30), strict=True):
        assert most / 2 <= pause <= most
    line.up()
    clock.go(29)
    assert line._pause_s() >= 15
    line.up()
    clock.go(31)
    assert line._pause_s() <= 0.5
    line.down("refused", config_fault=True)
    assert line._pause_s() >= 150


# ---- configuration -----------------------------------------------------------------------------


def broken_keys() -> dict[str, str]:
    whole = private_key()
    return {
        "nothing": "nothing",
        "cut off": whole[: len(whole) // 2],
        "RSA": pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "P-384": pem_of(ec.generate_private_key(ec.SECP384R1())),
        "JSON": '{"type": "service_account"}',
    }


@pytest.mark.parametrize("name", broken_keys())
def test_a_broken_key_file(name: str) -> None:
    text = broken_keys()[name]
    with pytest.raises(ConfigError) as raised:
        check(config(private_key=text))
    assert raised.value.message.startswith("private_key:")
    assert "AuthKey_" in raised.value.message
    assert text[:40] not in raised.value.message


ACCOUNT = """
version = 1
[[accounts]]
name = "push"
channel = "push"
provider = "apns"
[accounts.apns]
private_key = { file = "AuthKey_ABC123DEFG.p8" }
key_id = "ABC123DEFG"
team_id = "TEAM123456"
topic = "com.example.app"
"""


def test_an_account(tmp_path: Path) -> None:
    file = tmp_path / "AuthKey_ABC123DEFG.p8"
    file.write_text(private_key())
    (account,) = parse_accounts(ACCOUNT, tmp_path)
    assert account.settings == config(key_id="ABC123DEFG")
    assert (account.settings.connections, account.settings.push_type) == (2, "alert")
    assert account.settings.base_url == "https://api.push.apple.com"
    file.write_text("-----BEGIN PRIVATE KEY-----\noops\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="account push: private_key: is no PEM file"):
        parse_accounts(ACCOUNT, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "ftp://x"},
        {"base_url": "https://api.push.apple.com/3/device"},
        {"base_url": "https://user:pass@api.push.apple.com"},
        {"ca_file": "/nowhere.pem"},
    ],
)
def test_a_table_that_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check(config(**change))


def test_secrets_are_not_shown() -> None:
    settings = config()
    assert private_key()[40:60] not in repr(settings)
    provider = ApnsProvider(settings, None, Told(), StillClock(), random.Random(1), "acc")
    prepared = provider.prepare(delivery({"text": "hush!"}))
    assert prepared.recipient == DEVICE
    shown = repr(prepared) + repr(prepared.parts[0])
    assert "hush" not in shown and DEVICE not in shown
