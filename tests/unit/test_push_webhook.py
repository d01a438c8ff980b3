"""Signed webhooks without a network: signatures, what is posted, what answers and posts mean."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from channels.accounts import parse_accounts
from channels.http import HttpReply
from channels.provider import Answer, Callback, Prepared, Submission, Unsendable
from channels.push.webhook.answers import JITTER, outcome_of, step_ms
from channels.push.webhook.config import check, headers_of, signer_of, steps_of, verifier_of
from channels.push.webhook.inbox import BODY_BYTES, CONTENT_BYTES, bundle_of
from channels.push.webhook.message import Posted, prepared, webhook_id
from channels.push.webhook.signing import Refused, Signer, Verifier, private_key_of, public_text
from hub.clock import SystemClock
from hub.contract.times import parse_rfc3339
from hub.errors import ConfigError
from tests.support.push_webhook import (
    OLD_SECRET,
    OTHER_SECRET,
    PRIVATE_KEY,
    SECRET,
    config,
    provider,
)
from tests.support.sms_web import NOW_MS, StillClock, Told, delivery

NOW_S = NOW_MS // 1_000
PUBLIC_KEY = public_text(private_key_of(PRIVATE_KEY, "private_key"))
BODY = b'{"test": 2432232314}'


def signer(**keys: str) -> Signer:
    return signer_of(config(**keys))


def verifier(**keys: Any) -> Verifier:
    return verifier_of(config(**keys))


# ---- signatures --------------------------------------------------------------------------------


def test_golden_signatures() -> None:
    """Those of the specification's own libraries: both kinds, for one message."""
    headers = signer(private_key=PRIVATE_KEY).headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= "
        "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==",
    }
    for keys in ({}, {"secret": OTHER_SECRET, "receive_public_keys": (PUBLIC_KEY,)}):
        assert verifier(**keys).verified(headers, BODY, 1614265330) == headers["webhook-id"]


def test_the_python_library_verifies_ours_and_we_its() -> None:
    now_s = SystemClock().now_ms() // 1_000
    body = '{"text": "验证码 🔑"}'
    theirs = standardwebhooks.Webhook(SECRET)
    ours = signer(old_secret=OLD_SECRET, private_key=PRIVATE_KEY).headers(
        "dlv_1", now_s, body.encode()
    )
    assert theirs.verify(body, ours) == json.loads(body)
    assert standardwebhooks.Webhook(OLD_SECRET).verify(body, ours) == json.loads(body)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(OTHER_SECRET).verify(body, ours)

    signature = theirs.sign("msg_1", datetime.fromtimestamp(now_s, UTC), body)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now_s),
        "webhook-signature": signature,
    }
    assert verifier().verified(headers, body.encode(), now_s) == "msg_1"


def test_keys_are_replaced_without_a_gap() -> None:
    """Before, while and after: whoever has one of the two keys verifies, in both directions."""
    before, after = {"secret": OLD_SECRET}, {"secret": SECRET}
    both = {"secret": SECRET, "old_secret": OLD_SECRET}
    for signs, verifies, holds in (
        (before, both, True),
        (both, before, True),
        (both, after, True),
        (after, both, True),
        (after, before, False),
    ):
        headers = signer(**signs).headers("m", NOW_S, BODY)
        if holds:
            assert verifier(**verifies).verified(headers, BODY, NOW_S) == "m"
        else:
            with pytest.raises(Refused):
                verifier(**verifies).verified(headers, BODY, NOW_S)


V1 = signer().headers("m1", NOW_S, BODY)["webhook-signature"]
V1A = signer(private_key=PRIVATE_KEY).headers("m1", NOW_S, BODY)["webhook-signature"].split(" ")[1]


@pytest.mark.parametrize(
    ("change", "body", "now_s", "status"),
    [
        ({}, BODY, NOW_S, 200),
        ({"webhook-signature": f"v2,zzz v1 , v1,* v1,AAAA {V1}"}, BODY, NOW_S + 300, 200),
        ({"webhook-signature": V1.rstrip("=")}, BODY, NOW_S - 300, 200),
        ({}, BODY + b" ", NOW_S, 401),
        ({"webhook-id": "m2"}, BODY, NOW_S, 401),
        ({"webhook-timestamp": str(NOW_S + 1)}, BODY, NOW_S, 401),
        ({}, BODY, NOW_S + 301, 401),
        ({}, BODY, NOW_S - 301, 401),
        ({"webhook-signature": "v1a" + V1[2:]}, BODY, NOW_S, 401),
        ({"webhook-signature": V1A}, BODY, NOW_S, 401),  # by a key that is not in force
        ({"webhook-signature": "v1,"}, BODY, NOW_S, 401),
        ({"webhook-signature": " ".join(["v1,AAAA"] * 8 + [V1])}, BODY, NOW_S, 401),
        ({"webhook-signature": V1 + " " * 3_000}, BODY, NOW_S, 400),
        ({"webhook-id": f"m1.{NOW_S}"}, BODY, NOW_S, 400),
        ({"webhook-id": "m 1"}, BODY, NOW_S, 400),
        ({"webhook-id": "m" * 129}, BODY, NOW_S, 400),
        ({"webhook-timestamp": "1e9"}, BODY, NOW_S, 400),
        ({"webhook-timestamp": "-1"}, BODY, NOW_S, 400),
        ({"webhook-timestamp": "٣"}, BODY, NOW_S, 400),
        ({"webhook-timestamp": "9" * 40}, BODY, NOW_S, 400),
        ({"webhook-id": ""}, BODY, NOW_S, 401),
        ({"webhook-timestamp": ""}, BODY, NOW_S, 401),
        ({"webhook-signature": ""}, BODY, NOW_S, 401),
    ],
)
def test_what_holds(change: dict[str, str], body: bytes, now_s: int, status: int) -> None:
    headers = signer().headers("m1", NOW_S, BODY) | change
    if status == 200:
        assert verifier().verified(headers, body, now_s) == "m1"
        return
    with pytest.raises(Refused) as raised:
        verifier().verified(headers, body, now_s)
    assert raised.value.status == status


@given(
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()
    )
)
def test_any_headers_are_refused_in_words(headers: dict[str, str]) -> None:
    keys = verifier(receive_secret=SECRET, receive_public_keys=(PUBLIC_KEY,))
    with pytest.raises(Refused):
        keys.verified(headers, BODY, NOW_S)


def test_a_signature_cannot_be_moved_to_another_message() -> None:
    """Signed: id `a`, a body that begins like a timestamp. Read: id `a.<time>`, the rest."""
    body = b"%d.{}" % NOW_S
    headers = signer().headers("a", 7, body)
    moved = headers | {"webhook-id": "a.7", "webhook-timestamp": str(NOW_S)}
    with pytest.raises(Refused, match="no dots"):
        verifier().verified(moved, b"{}", NOW_S)


# ---- configuration -----------------------------------------------------------------------------


def _seed_and(public: bytes) -> str:
    seed = base64.b64decode(PRIVATE_KEY.removeprefix("whsk_"))
    return "whsk_" + base64.b64encode(seed + public).decode()


PUBLIC_BYTES = base64.b64decode(PUBLIC_KEY.removeprefix("whpk_"))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, ""),
        ({"secret": "", "private_key": PRIVATE_KEY + "\n"}, ""),
        ({"private_key": _seed_and(PUBLIC_BYTES)}, ""),
        ({"url": "http://127.0.0.1:80/x"}, ""),
        ({"url": "http://127.0.0.1/x", "private_networks": False}, "private_networks = true"),
        ({"url": "https://10.0.0.1/x"}, "private_networks = true"),
        ({"url": "https://[::1]/x"}, "private_networks = true"),
        ({"url": "https://localhost/x"}, "private_networks = true"),
        ({"url": "http://grid.example.com/x"}, "private_networks = true"),
        ({"url": "https://u:p@grid.example.com/x"}, "url"),
        ({"url": "ftp://grid.example.com"}, "url"),
        ({"secret": ""}, "private_key"),
        ({"secret": SECRET[6:]}, "whsec_"),
        ({"secret": SECRET + "%"}, "whsec_"),
        ({"secret": "whsec_" + base64.b64encode(b"s" * 23).decode()}, "24 to 64"),
        ({"secret": "whsec_" + base64.b64encode(b"s" * 65).decode()}, "24 to 64"),
        ({"secret": "", "old_secret": OLD_SECRET, "private_key": PRIVATE_KEY}, "old_secret"),
        ({"old_private_key": PRIVATE_KEY}, "old_private_key"),
        ({"private_key": "whsk_AAAA"}, "private_key"),
        ({"private_key": _seed_and(b"x" * 32)}, "private_key"),
        ({"private_key": PUBLIC_KEY}, "private_key"),
        ({"receive_public_keys": (PRIVATE_KEY,)}, "receive_public_keys"),
        ({"receive_old_secret": OLD_SECRET}, "receive_secret"),
        ({"schedule": ("5s", "soon")}, "schedule"),
        ({"schedule": ("400d",)}, "schedule"),
        ({"headers": {"x-tenant": "7"}}, ""),
        ({"headers": {"X-Tenant": "7"}}, "headers"),
        ({"headers": {"x-tenant": "7\r\nhost: a"}}, "x-tenant"),
        ({"headers": {"webhook-id": "7"}}, "headers"),
        ({"headers": {"content-length": "7"}}, "headers"),
        ({"headers": {"authorization": "Bearer 7"}}, "bearer_token"),
        ({"headers": {"x-api-key": "7"}}, "bearer_token"),
        ({"bearer_token": "a b"}, "bearer_token"),
        ({"token_header": "webhook-id"}, "token_header"),
    ],
)
def test_the_table_is_checked(fields: dict[str, Any], named: str) -> None:
    settings = config(**fields)
    if not named:
        check(settings)
        return
    with pytest.raises(ConfigError) as raised:
        check(settings)
    message = raised.value.message
    assert named in message
    for value in fields.values():  # what a person wrote may be a key
        assert not isinstance(value, str) or len(value) < 10 or value not in message
    assert SECRET not in repr(settings) and "example" not in repr(settings)


def test_every_request_has_the_headers_of_the_table() -> None:
    json_type = {"content-type": "application/json"}
    bearer = config(bearer_token="t", headers={"x-tenant": "7"})
    assert headers_of(bearer) == json_type | {"x-tenant": "7", "authorization": "Bearer t"}
    assert headers_of(config(bearer_token="t", token_header="x-api-key")) == json_type | {
        "x-api-key": "t"
    }


def test_the_table_is_read_from_accounts_toml() -> None:
    text = """
    version = 1
    [[accounts]]
    name = "grid"
    channel = "push"
    provider = "webhook"
    [accounts.webhook]
    url = "https://grid.example.com/push"
    secret = { env = "NEW" }
    old_secret = { env = "OLD" }
    receive_public_keys = ["%s"]
    headers = { x-tenant = "7" }
    schedule = ["1s", "1m"]
    """
    keys = {"NEW": SECRET, "OLD": OLD_SECRET}
    (account,) = parse_accounts(text % PUBLIC_KEY, Path(), keys)
    assert (account.settings.secret, steps_of(account.settings)) == (SECRET, (1_000, 60_000))
    with pytest.raises(ConfigError, match=r"account grid: .*receive_public_keys must be whpk_"):
        parse_accounts(text % PRIVATE_KEY, Path(), keys)
    with pytest.raises(ConfigError, match="a secret is not written here"):
        parse_accounts(text.replace('{ env = "OLD" }', '"whsec_x"') % PUBLIC_KEY, Path(), keys)


# ---- what is posted ----------------------------------------------------------------------------


def test_a_delivery_is_posted_in_the_words_of_the_contract() -> None:
    ready = prepared(delivery({"text": "hi"}, to="till-7"))
    part: Posted = ready.parts[0]
    assert ready == Prepared("till-7", units=1, parts=(part,))
    assert part.id == webhook_id("shop:order-1:1")
    assert json.loads(part.body) == {
        "type": "delivery",
        "timestamp": "2026-11-22T00:00:00Z",
        "data": {
            "id": "shop:order-1:1",
            "intent": "order-1",
            "app": "shop",
            "customer": "c1",
            "category": "notice",
            "priority": 5,
            "channel": "sms",
            "account": "a",
            "to": "till-7",
            "content": {"text": "hi"},
            "attempt": 1,
            "at": "2026-11-22T00:00:00Z",
            "expires_at": "2026-11-23T00:00:00Z",
        },
    }
    assert "hi" not in repr(ready) + repr(part)


@pytest.mark.parametrize(
    ("content", "passed_on"),
    [
        (b'{"text":"a",  "own":{"n":1.0}}', b'{"text":"a",  "own":{"n":1.0}}'),
        (b'{"text":"a","fcm":{"x":1},"jpush":{}}', b'{"text":"a"}'),
        (
            b'{"n":12345678901234567890123,"a":{"b":1,"c":2},"webhook":{"a":{"b":null,"d":3},"e":4}}',
            b'{"n":12345678901234567890123,"a":{"c":2,"d":3},"e":4}',
        ),
        (b'{"webhook":{}}', b"{}"),
        (b'{"text":"a","webhook":7}', None),
        (b'"a"', None),
        (b'{"webhook":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}", None),
        (b"\xff", None),
    ],
)
def test_contents_are_passed_on_as_they_are_written(
    content: bytes, passed_on: bytes | None
) -> None:
    given_one = msgspec.structs.replace(delivery(), content=msgspec.Raw(content))
    if passed_on is None:
        with pytest.raises(Unsendable) as raised:
            prepared(given_one)
        assert raised.value.failure == "rejected_content"
    else:
        assert b'"content":' + passed_on + b"," in prepared(given_one).parts[0].body


def test_an_id_is_the_deliverys_own_for_ever_and_has_no_dots() -> None:
    assert webhook_id("shop:order.1:1") == "dlv_RG-uRz__1RmZeYw8YV5QRqov"
    assert len({webhook_id(f"shop:order.{n}:1") for n in range(1_000)}) == 1_000
    with pytest.raises(Unsendable) as raised:
        prepared(delivery(to=" "))
    assert raised.value.failure == "dead_address"


# ---- what answers mean -------------------------------------------------------------------------

STEP_MS = 5_000
TAKEN = Answer("accepted")


@pytest.mark.parametrize(
    ("status", "headers", "kind", "failure", "retry_ms", "stop"),
    [
        (200, {}, "accepted", None, None, False),
        (204, {}, "accepted", None, None, False),
        (299, {}, "accepted", None, None, False),
        (301, {"location": "http://10.0.0.1/"}, "failed", "config", None, True),
        (307, {}, "failed", "config", None, True),
        (400, {}, "failed", "rejected_content", None, False),
        (401, {}, "failed", "config", None, True),
        (403, {}, "failed", "config", None, True),
        (404, {}, "failed", "config", None, True),
        (408, {}, "retry", None, STEP_MS, False),
        (409, {}, "failed", "provider", None, False),
        (410, {}, "failed", "config", None, False),
        (413, {}, "failed", "rejected_content", None, False),
        (422, {}, "failed", "rejected_content", None, False),
        (425, {}, "retry", None, STEP_MS, False),
        (429, {}, "throttled", None, STEP_MS, False),
        (429, {"retry_after": "7"}, "throttled", None, 7_000, False),
        (429, {"retry_after": "0"}, "throttled", None, STEP_MS, False),
        (429, {"retry_after": "soon"}, "throttled", None, STEP_MS, False),
        (
            503,
            {"retry_after": "Sun, 06 Dec 2099 08:49:37 GMT"},
            "throttled",
            None,
            3_600_000,
            False,
        ),
        (502, {}, "throttled", "provider", STEP_MS, False),
        (504, {"retry_after": "2"}, "throttled", "provider", 2_000, False),
        (500, {}, "retry", "provider", STEP_MS, False),
        (501, {}, "retry", "provider", STEP_MS, False),
        (599, {}, "retry", "provider", STEP_MS, False),
        (100, {}, "failed", "provider", None, False),
        (700, {}, "failed", "provider", None, False),
    ],
)
def test_every_status(
    status: int,
    headers: dict[str, str],
    kind: str,
    failure: str | None,
    retry_ms: int | None,
    stop: bool,
) -> None:
    reply = HttpReply(status, {k.replace("_", "-"): v for k, v in headers.items()}, b"<html>")
    outcome = outcome_of(reply, TAKEN, STEP_MS, NOW_MS)
    answer = outcome.answer
    assert (answer.kind, answer.failure, answer.retry_after_ms) == (kind, failure, retry_ms)
    assert answer.code == ("" if kind == "accepted" else f"HTTP {status}")
    assert bool(outcome.stop) is stop


def test_the_schedule_is_walked_with_jitter() -> None:
    steps = steps_of(config())
    assert [ms // 1_000 for ms in steps] == [
        5,
        300,
        1_800,
        7_200,
        18_000,
        36_000,
        50_400,
        72_000,
        86_400,
    ]

    def step(tries: int, again: bool = False, drawn: float = 0.5) -> int:
        ready = Prepared("t", units=1, parts=())
        return step_ms(steps, Submission("d", ready, 0, again=again, tries=tries), drawn)

    assert [step(n) for n in range(10)] == [*steps, steps[-1]]
    assert step(2, again=True) == steps[1]  # what was repeated at once was no step
    assert step(0, again=True) == steps[0]
    assert step(0, drawn=0.0) == 4_500 and step(0, drawn=0.9999) <= 5_000 * (1 + JITTER / 2)


# ---- what is posted to the hub -----------------------------------------------------------------

RECEIPT = {"delivery": "shop:order-1:1", "status": "delivered", "at": "2026-11-18T09:46:39Z"}
INBOUND = {"id": "m-1", "from": "till-7", "content": {"text": "hello"}}


def opened(type: str, data: Any) -> Any:
    return bundle_of(
        "w1", json.dumps({"type": type, "data": data, "timestamp": "x"}).encode(), NOW_MS
    )


def test_receipts_and_messages_become_one_bundle() -> None:
    failed = {"id": "dlv_x", "status": "failed", "class": "dead_address", "code": "GONE"}
    told = {"delivery": "shop:order-2:1", "status": "failed"}
    things = [
        {"type": "receipt", "data": RECEIPT},
        {"type": "receipt", "data": [failed, told]},
        {"type": "inbound", "data": INBOUND | {"at": "2999-01-01T00:00:00Z"}},
        {"type": "inbound", "data": INBOUND | {"id": "m-2", "content": "R", "opt_out": True}},
    ]
    bundle = opened("batch", things)
    assert [(r.delivery, r.provider_id, r.status, r.failure, r.code) for r in bundle.receipts] == [
        ("shop:order-1:1", "", "delivered", None, ""),
        ("", "dlv_x", "failed", "dead_address", "GONE"),
        ("shop:order-2:1", "", "failed", "provider", ""),
    ]
    assert bundle.receipts[0].at_ms == parse_rfc3339(RECEIPT["at"])
    assert [(i.id, i.sender, i.content, i.at_ms, i.opt_out) for i in bundle.inbound] == [
        ("m-1", "till-7", {"text": "hello"}, NOW_MS, False),
        ("m-2", "till-7", {"text": "R"}, NOW_MS, True),
    ]
    assert " " in bundle.id and bundle.id.endswith("w1")  # no message has such an id


@pytest.mark.parametrize(
    ("type", "data", "problem"),
    [
        ("delivery", {"id": "a"}, "type"),  # what we sent, played back
        ("receipt", {}, "data: "),
        ("receipt", {"status": "delivered"}, "delivery or id"),
        ("receipt", RECEIPT | {"status": "unknown"}, "not allowed - at `$.status`"),
        ("receipt", RECEIPT | {"at": "2026-11-18T09:46:39"}, "data.at"),
        ("receipt", RECEIPT | {"at": "soon"}, "data.at"),
        ("receipt", RECEIPT | {"secret-word": 1}, "not known"),
        ("receipt", RECEIPT | {"code": "x" * 65}, "data"),
        ("receipt", [RECEIPT, RECEIPT | {"delivery": "x"}], "data[1]"),
        ("inbound", INBOUND | {"id": ""}, "data"),
        ("inbound", INBOUND | {"id": "a b"}, "data"),
        ("inbound", INBOUND | {"from": "x" * 1_025}, "data"),
        ("inbound", INBOUND | {"content": 7}, "data"),
        ("inbound", {"id": "m-1", "from": "a"}, "content"),
        ("batch", RECEIPT, "body"),
        ("batch", [{"type": "receipt", "data": RECEIPT}, {"type": "receipt"}], "body"),
        ("batch", [{"type": "batch", "data": []}], "batch in a batch"),
    ],
)
def test_a_request_is_refused_whole_and_says_where(type: str, data: Any, problem: str) -> None:
    with pytest.raises(Refused) as raised:
        opened(type, data)
    assert raised.value.status == 400
    assert problem in raised.value.message and "secret-word" not in raised.value.message


def test_a_request_is_bounded() -> None:
    assert len(opened("receipt", [RECEIPT] * 200).receipts) == 200
    deep = INBOUND | {"content": json.loads('{"a":' * 40 + "1" + "}" * 40)}
    for problem, call in (
        ("more than 200", lambda: opened("receipt", [RECEIPT] * 201)),
        ("content", lambda: opened("inbound", INBOUND | {"content": "x" * CONTENT_BYTES})),
        ("content", lambda: opened("inbound", INBOUND | {"content": {"a": [1e15] * 2_000}})),
        ("too deep", lambda: opened("inbound", INBOUND | {"content": {"a": 10**400}})),
        ("too deep", lambda: opened("inbound", deep)),
        ("bytes", lambda: bundle_of("w", b" " * (BODY_BYTES + 1), NOW_MS)),
    ):
        with pytest.raises(Refused, match=problem) as raised:
            call()
        assert raised.value.status == (400 if problem == "too deep" else 413)
    assert opened("batch", []).receipts == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([RECEIPT, INBOUND]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["type", "data", "at", "id"]), inner)
    ),
)


@given(st.binary() | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_bundle_or_refused(body: bytes) -> None:
    for whole in (
        body,
        b'{"type":"batch","data":' + body + b"}",
        b'{"type":"inbound","data":' + body + b"}",
    ):
        try:
            bundle_of("w", whole, NOW_MS)
        except Refused as error:
            assert error.status in (400, 413)


# ---- the callback ------------------------------------------------------------------------------


async def called(heard: Told, body: bytes, method: str = "POST", **keys: Any) -> Any:
    settings = config(**keys)
    headers = signer().headers("w1", NOW_S, body)
    reply = await provider(heard, settings, StillClock()).callback(
        Callback(method, {}, headers, body)
    )
    return reply.status, reply.body


async def test_a_callback_is_answered_when_it_is_stored() -> None:
    heard = Told()
    body = json.dumps({"type": "receipt", "data": RECEIPT}).encode()
    assert await called(heard, body) == (200, b'{"stored":1}')
    assert heard.bundles[0].receipts[0].delivery == "shop:order-1:1"
    heard.store = False
    assert (await called(heard, body))[0] == 503
    assert heard.counts == {"receipt": 1, "not_stored": 1}


async def test_a_callback_is_refused_in_words() -> None:
    heard = Told()
    assert (await called(heard, b"{}", "GET"))[0] == 405
    assert (await called(heard, b"{}"))[0] == 400
    assert (await called(heard, b"x" * (BODY_BYTES + 1)))[0] == 413
    assert (await called(heard, b"{}", receive_secret=OTHER_SECRET))[0] == 401
    status, reason = await called(heard, b"{}", secret="", private_key=PRIVATE_KEY)
    assert status == 404 and b"receive_secret" in reason  # only we can sign
    assert heard.bundles == [] and heard.counts == {"callback_malformed": 4, "callback_refused": 1}
