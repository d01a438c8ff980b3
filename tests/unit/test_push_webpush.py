"""Web Push without a network: addresses, encryption, signatures, answers, origins that rest."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import http_ece
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from channels.accounts import parse_accounts
from channels.http import HttpReply, NotSent
from channels.provider import Answer, Unsendable
from channels.push.content import collapse_id
from channels.push.guard import Guard
from channels.push.webpush.answers import understood
from channels.push.webpush.encryption import PLAIN_BYTES, RECORD_BYTES, Keys, encrypt
from channels.push.webpush.origins import (
    ANSWERED_S,
    BLIND_TRIES,
    ORIGINS,
    REST_MAX_S,
    THROTTLES,
    Origins,
)
from channels.push.webpush.provider import WebPushProvider, check
from channels.push.webpush.subscription import read_subscription
from channels.push.webpush.vapid import RENEW_S, VALID_S, Vapid, load_key
from hub.errors import ConfigError
from tests.support.push_webpush import (
    ADDRESS,
    AUTH,
    PEM,
    PUBLIC,
    SENDER,
    SUBJECT,
    UA_PRIVATE,
    UA_PUBLIC,
    config,
    delivery,
)
from tests.support.sms_web import NOW_MS, MovedClock, Told

ENDPOINT = json.loads(ADDRESS)["endpoint"]


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def made(**changes: Any) -> WebPushProvider:
    """A provider as it is by default, not started."""
    settings = config(**({"private_networks": False} | changes))
    return WebPushProvider(settings, None, Told(), MovedClock(), random.Random(1), account="web")


# ---- encryption --------------------------------------------------------------------------------

PLAIN = b"When I grow up, I want to be a watermelon"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6"
    "TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy"
    "4a-fN"
)
"""RFC 8291, appendix A."""


def read_by_browser(body: bytes) -> bytes:
    key = derive_private_key(int.from_bytes(decoded(UA_PRIVATE)), SECP256R1())
    plain: bytes = http_ece.decrypt(body, private_key=key, auth_secret=decoded(AUTH))
    return plain


def test_the_vector_of_the_rfc():
    private = int.from_bytes(decoded("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
    keys = Keys(derive_private_key(private, SECP256R1()), decoded("DGv6ra1nlYgDCS1FRnbzlw"))
    subscription = read_subscription(ADDRESS, Guard())
    assert encrypt(PLAIN, subscription, keys) == decoded(BODY)
    assert read_by_browser(decoded(BODY)) == PLAIN


def test_the_longest_text_fits_one_record_and_no_two_are_alike():
    subscription = read_subscription(ADDRESS, Guard())
    plain = b"x" * PLAIN_BYTES
    first, second = (encrypt(plain, subscription, Keys.fresh()) for _ in range(2))
    assert len(first) == RECORD_BYTES and read_by_browser(first) == plain
    assert first[:16] != second[:16] and first[21:86] != second[21:86]  # salt, key


# ---- addresses ---------------------------------------------------------------------------------


def address(**changes: Any) -> str:
    keys = {"p256dh": changes.pop("p256dh", UA_PUBLIC), "auth": changes.pop("auth", AUTH)}
    return json.dumps({"endpoint": ENDPOINT, "keys": keys} | changes)


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS,
        address(more={"x": 1}),
        address(p256dh=UA_PUBLIC + "=", auth=AUTH + "=="),
        address(p256dh=UA_PUBLIC.replace("-", "+").replace("_", "/")),
        address(endpoint="https://fcm.googleapis.com:443/fcm/send/abc:APA91b-_%3A"),
    ],
)
def test_addresses_of_browsers(text):
    found = read_subscription(text, Guard())
    assert (found.point, found.auth) == (decoded(UA_PUBLIC), decoded(AUTH))
    assert found.endpoint == json.loads(text)["endpoint"]
    assert "push" not in repr(found)


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        (ENDPOINT, "https://push.example.net"),
        ("https://fcm.googleapis.com:443/x", "https://fcm.googleapis.com"),
        ("HTTPS://FCM.GoogleAPIs.com/X", "https://fcm.googleapis.com"),
        ("https://push.example.net:8443/x", "https://push.example.net:8443"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]"),
    ],
)
def test_origins_are_spelled_as_signatures_want_them(endpoint, origin):
    assert read_subscription(address(endpoint=endpoint), Guard()).origin == origin


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "subscription-malformed"),
        ("{", "subscription-malformed"),
        ("[]", "subscription-malformed"),
        ("\ud800", "subscription-malformed"),
        (ENDPOINT, "subscription-malformed"),
        (json.dumps({"endpoint": ENDPOINT}), "subscription-malformed"),
        (address(keys={"p256dh": UA_PUBLIC}), "subscription-malformed"),
        (address(keys=None), "subscription-malformed"),
        (address(endpoint=7), "subscription-malformed"),
        (address(more="x" * 1_024), "subscription-malformed"),
        ("[" * 1_000, "subscription-malformed"),
        (address(endpoint="http://push.example.net/x"), "endpoint-scheme"),
        (address(endpoint="https://10.0.0.1/x"), "endpoint-private"),
        (address(endpoint="https://[::1]:8443/x"), "endpoint-private"),
        (address(endpoint="https://localhost/x"), "endpoint-private"),
        (address(endpoint="https://0x7f.1/x"), "endpoint-malformed"),
        (address(endpoint="https://u@push.example.net/x"), "endpoint-credentials"),
        (address(endpoint="https://push.example.net:22/x"), "endpoint-port"),
        (address(endpoint=""), "endpoint-malformed"),
        (address(p256dh=""), "p256dh-malformed"),
        (address(p256dh=UA_PUBLIC[:-4]), "p256dh-malformed"),
        (address(p256dh="BA" + "A" * 85), "p256dh-malformed"),  # not on the curve
        (address(p256dh="*" * 87), "p256dh-malformed"),
        (address(auth=AUTH[:-2]), "auth-malformed"),
        (address(auth="A"), "auth-malformed"),
        (address(auth=UA_PUBLIC), "auth-malformed"),
    ],
)
def test_addresses_that_are_none(text, code):
    with pytest.raises(Unsendable) as caught:
        made().prepare(delivery(to=text))
    assert (caught.value.failure, caught.value.provider_code) == ("dead_address", code)
    assert "example.net" not in str(caught.value)


def test_a_host_that_is_not_allowed_kills_no_address():
    with pytest.raises(Unsendable) as caught:
        made(hosts=["fcm.googleapis.com"]).prepare(delivery())
    assert (caught.value.failure, caught.value.provider_code) == ("config", "endpoint-host")


@given(
    st.text(max_size=200)
    | st.dictionaries(
        st.sampled_from(["endpoint", "keys"]),
        st.text(max_size=30)
        | st.dictionaries(st.sampled_from(["p256dh", "auth"]), st.text("AQ-_=é", max_size=90)),
    ).map(json.dumps)
)
def test_any_text_as_an_address(text):
    try:
        read_subscription(text, Guard())
    except Unsendable as error:
        assert error.failure == "dead_address" and error.provider_code


# ---- what is sent ------------------------------------------------------------------------------


def test_what_the_service_worker_reads():
    one = delivery(
        {
            "title": "Order 7",
            "text": "It is here",
            "data": {"order": 7, "gift": True},
            "image": "https://example.com/i.png",
            "link": "https://example.com/orders/7",
            "badge": 0,
            "webpush": {"icon": "/logo.png", "data": {"order": "seven"}, "image": None},
        },
        collapse_key="order-7",
        priority=7,
    )
    prepared = made().prepare(one)
    assert (prepared.recipient, prepared.units) == (ADDRESS, 1)
    (push,) = prepared.parts
    assert msgspec.json.decode(push.plain) == {
        "title": "Order 7",
        "body": "It is here",
        "data": {"order": "seven", "gift": "true"},
        "link": "https://example.com/orders/7",
        "badge": 0,
        "tag": collapse_id(one),
        "icon": "/logo.png",
    }
    assert (push.topic, push.urgency) == (collapse_id(one), "high")
    assert "here" not in repr(prepared) + repr(push)


def test_urgency_follows_the_priority():
    urgencies = [made().prepare(delivery(priority=n)).parts[0].urgency for n in range(10)]
    low = ["very-low", "very-low", "low", "low", "normal", "normal"]
    assert urgencies == low + ["high"] * 4


def test_a_payload_that_is_just_too_large():
    room = PLAIN_BYTES - len('{"body":""}')
    (push,) = made().prepare(delivery({"text": "é" * (room // 2) + "x" * (room % 2)})).parts
    assert len(push.plain) == PLAIN_BYTES
    with pytest.raises(Unsendable) as caught:
        made().prepare(delivery({"text": "é" * (room // 2) + "x" * (room % 2 + 1)}))
    assert caught.value.failure == "rejected_content"
    assert caught.value.provider_code == "payload-too-large"


# ---- who sends ---------------------------------------------------------------------------------


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> str:
    shut = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, shut).decode()


RAW = urlsafe_b64encode((20261122).to_bytes(32)).decode()


@pytest.mark.parametrize(
    "text", [PEM, pem(SENDER, PrivateFormat.TraditionalOpenSSL), RAW, RAW.rstrip("=") + "\n"]
)
def test_keys_in_every_form(text):
    assert load_key(text).private_numbers() == SENDER.private_numbers()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x", "cannot be read"),
        (PEM[:100], "cannot be read"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "cannot be read"),
        ("ключ", "cannot be read"),
        ("A" * 43, "cannot be read"),  # 0 is no key
        ("_" * 43, "cannot be read"),
        (PUBLIC, "cannot be read"),
        (pem(SENDER, password=b"secret"), "is encrypted"),
        (pem(generate_private_key(SECP384R1())), "P-256"),
        (pem(Ed25519PrivateKey.generate()), "P-256"),
    ],
)
def test_a_broken_key_is_found_and_not_quoted(text, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        check(config(private_key=text), None)
    assert text not in str(caught.value)
    assert "private_key" in str(caught.value)


def test_an_account_of_a_file(tmp_path):
    text = """
version = 1
[[accounts]]
name = "web"
channel = "push"
provider = "webpush"
[accounts.webpush]
private_key = { file = "vapid.pem" }
subject = "mailto:ops@example.com"
"""
    (tmp_path / "vapid.pem").write_text(PEM)
    (account,) = parse_accounts(text, tmp_path)
    assert Vapid(account.settings.private_key, SUBJECT).public_key == PUBLIC
    assert "BEGIN" not in repr(account) + repr(account.settings)
    (tmp_path / "vapid.pem").write_text(PEM[:60])
    with pytest.raises(ConfigError, match="account web: private_key cannot be read"):
        parse_accounts(text, tmp_path)
    (tmp_path / "vapid.pem").write_text(PEM)
    with pytest.raises(ConfigError, match="account web: hosts"):
        parse_accounts(text + 'hosts = ["https://push.example"]', tmp_path)


@pytest.mark.parametrize("subject", ["", "ops@example.com", "mailto:", "http://example.com", "x"])
def test_a_subject_that_nobody_can_write_to(subject):
    with pytest.raises(ConfigError, match="subject"):
        check(config(subject=subject), None)
    check(config(subject="https://example.com/contact"), None)


def test_signatures_are_kept_and_renewed_in_time():
    vapid, clock = Vapid(PEM, SUBJECT), MovedClock()

    def header(origin: str = "https://push.example.net") -> str:
        return vapid.header(origin, clock.now_ms())

    first = header()
    assert first.startswith("vapid t=") and first.endswith(f", k={PUBLIC}")
    token = first.removeprefix("vapid t=").partition(",")[0]
    options: Any = {"verify_exp": False}
    claims = jwt.decode(
        token, SENDER.public_key(), ["ES256"], audience="https://push.example.net", options=options
    )
    assert claims == {
        "aud": "https://push.example.net",
        "exp": NOW_MS // 1_000 + VALID_S,
        "sub": SUBJECT,
    }
    clock.seconds = RENEW_S - 1
    assert header() == first != header("https://other.example")
    clock.seconds = RENEW_S
    renewed = header()
    assert renewed != first
    clock.seconds = RENEW_S - 600  # somebody put the clock right
    assert header() != renewed
    for number in range(300):
        header(f"https://{number}.example")
    assert len(vapid._signed) == 256
    assert "example" not in repr(vapid)


# ---- answers -----------------------------------------------------------------------------------


def throttled(code: str, wait_ms: int | None) -> Answer:
    return Answer("throttled", code=code, retry_after_ms=wait_ms, scope="recipient")


def failed(code: str, failure: Any) -> Answer:
    return Answer("failed", failure=failure, code=code)


HEADERS = st.sampled_from(["location", "retry-after"])
HTML = "<HTML><TITLE>UnauthorizedRegistration</TITLE></HTML>"
MOVED = {"location": "http://127.0.0.1/"}
LATER = {"retry-after": "120"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (201, {"location": "https://x.example/m/abc-1"}, "", Answer("accepted", ("abc-1",))),
        (201, {"location": "/m/abc-1/?a=b"}, "", Answer("accepted", ("abc-1",))),
        (201, {"location": "https://[/" + "x" * 200}, "", Answer("accepted")),
        (201, {"location": "/" + "x" * 129}, "", Answer("accepted")),
        (201, {}, "", Answer("accepted")),
        (200, {}, "<html>", Answer("accepted")),
        (202, {}, "", Answer("accepted")),
        (204, {}, "", Answer("accepted")),
        (206, {}, "", Answer("unknown", code="HTTP 206")),
        (301, MOVED, "", failed("HTTP 301", "provider")),
        (302, MOVED, "", failed("HTTP 302", "provider")),
        (307, MOVED, "", failed("HTTP 307", "provider")),
        (400, {}, HTML, failed("HTTP 400", "config")),
        (400, {}, '{"reason":"VapidPkHashMismatch"}', failed("HTTP 400", "config")),
        (400, {}, '{"reason":"BadWebPushTopic"}', failed("HTTP 400", "rejected_content")),
        (400, {}, "", failed("HTTP 400", "rejected_content")),
        (400, {}, "\xff" * 9_000 + "vapid", failed("HTTP 400", "rejected_content")),
        (401, {}, '{"errno":109}', failed("HTTP 401", "config")),
        (403, {}, '{"reason":"BadJwtToken"}', failed("HTTP 403", "config")),
        (404, {}, '{"errno":102}', failed("HTTP 404", "dead_address")),
        (405, {}, "", failed("HTTP 405", "provider")),
        (408, {}, "", Answer("retry", code="HTTP 408")),
        (410, {}, "", failed("HTTP 410", "dead_address")),
        (413, {}, "", failed("HTTP 413", "rejected_content")),
        (418, {}, "", failed("HTTP 418", "provider")),
        (429, {}, "", throttled("HTTP 429", None)),
        (429, LATER, "", throttled("HTTP 429", 120_000)),
        (500, {}, "", Answer("retry", code="HTTP 500")),
        (502, {}, "<html>", Answer("unknown", code="HTTP 502")),
        (503, {}, "", throttled("HTTP 503", None)),
        (503, LATER, "", throttled("HTTP 503", 120_000)),
        (504, {}, "", Answer("unknown", code="HTTP 504")),
        (599, {}, "", Answer("retry", code="HTTP 599")),
    ],
)
def test_what_answers_mean(status, headers, body, expected):
    answer = understood(HttpReply(status, headers, body.encode("latin-1")), NOW_MS)
    assert answer == expected
    assert not answer.receipts


@given(st.integers(100, 999), st.dictionaries(HEADERS, st.text(max_size=40)), st.binary())
def test_any_answer_means_something(status, headers, body):
    answer = understood(HttpReply(status, headers, body), NOW_MS)
    assert (answer.kind == "failed") == (answer.failure is not None)


# ---- origins -----------------------------------------------------------------------------------

A, B = "https://a.example", "https://b.example"


class Line:
    """A network with some origins up."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.tried: list[str] = []

    async def reach(self, url: str) -> None:
        self.tried.append(url)
        if url not in self.up:
            raise NotSent("no connection")

    async def close(self) -> None: ...


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def origins(line: Line, clock: MovedClock) -> Origins:
    return Origins(line, clock, random.Random(1))


def test_an_origin_that_is_gone_rests_alone_and_is_tried_by_one(origins, clock):
    rests = []
    for _ in range(10):
        assert origins.enter(A) == 0
        assert origins.enter(B) == 0
        rests.append(origins.unreached(A))
        origins.leave(A)
        origins.answered(B)
        origins.leave(B)
        assert 0 < origins.enter(A) <= rests[-1]
        assert origins.enter(B) == 0
        clock.seconds += rests[-1] / 1_000
    assert 250 <= rests[0] <= 501 and REST_MAX_S * 500 <= rests[-1] <= REST_MAX_S * 1_000 + 1
    assert sorted(rests[:6]) == rests[:6]
    assert origins.enter(A) == 0  # it tries, and the others wait for it
    assert origins.enter(A) > 0
    origins.answered(A)
    assert origins.enter(A) == 0 and origins.enter(A) == 0


def test_a_try_that_ends_without_a_word_makes_room(origins, clock):
    origins.enter(A)
    clock.seconds += origins.unreached(A) / 1_000
    assert origins.enter(A) == 0
    origins.leave(A)
    assert origins.enter(A) == 0


def test_one_answer_that_is_missing_is_nothing_and_two_in_a_row_are_a_rest(origins):
    for _ in range(3):
        origins.enter(A)
        origins.unanswered(A)
        assert origins.enter(A) == 0
        origins.answered(A)
    origins.unanswered(A)
    origins.unanswered(A)
    assert origins.enter(A) > 0 and origins.enter(B) == 0


def test_a_throttled_device_is_not_its_push_service(origins):
    for _ in range(THROTTLES - 1):
        origins.enter(A)
        origins.answered(A, throttled=True, rest_ms=5_000)
        assert origins.enter(A) == 0
    origins.answered(A, throttled=True, rest_ms=5_000)
    assert origins.enter(A) == 5_001
    origins.answered(A)
    origins.answered(A, rest_ms=3_600_000)  # 503
    assert origins.enter(A) == 60_001


async def test_the_network_is_lost_when_nothing_answers(origins, line, clock):
    origins.enter(A)
    origins.answered(B)
    origins.enter(B)
    clock.seconds = ANSWERED_S
    origins.unreached(A)
    assert not origins.lost
    clock.seconds += 1
    assert origins.lost
    with pytest.raises(NotSent):
        await origins.reach("")
    assert line.tried == [B, A]
    line.up = {A}
    await origins.reach("")
    assert not origins.lost and origins.enter(A) == 0


async def test_one_invented_endpoint_cannot_keep_an_account_down(origins):
    """Nothing else is known yet: after a few tries messages are let out, to others as well."""
    origins.enter(A)
    for _ in range(BLIND_TRIES - 1):
        with pytest.raises(NotSent):
            await origins.reach("")
    await origins.reach("")
    with pytest.raises(NotSent):
        await origins.reach("")


async def test_invented_endpoints_take_no_memory(origins, line):
    for number in range(ORIGINS + 50):
        origins.enter(f"https://{number}.example")
        origins.unreached(f"https://{number}.example")
    assert len(origins._known) == ORIGINS
    origins.unreached(A)  # forgotten, or never heard of
    origins.leave(A)
    with pytest.raises(NotSent):
        await origins.reach("")
    assert len(line.tried) == 4
