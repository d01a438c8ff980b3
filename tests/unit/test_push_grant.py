"""Service accounts and their tokens: key files, assertions, the endpoint's words, who asks when."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode, b64encode
from collections import Counter
from email.utils import formatdate
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from channels.http import HttpReply, NotSent, Unanswered
from channels.push.fcm.provider import FcmConfig, check
from channels.push.grant import Grant
from channels.push.service_account import (
    GrantRefused,
    assertion,
    granted,
    parse_service_account,
)
from channels.sms.message import SmsConfig
from hub.errors import ConfigError, TactError
from tests.support.push_fcm import key, key_file
from tests.support.sms_web import NOW_MS, MovedClock

NOW_S = NOW_MS // 1_000

# ---- key files ---------------------------------------------------------------------------------


def _pem(made: Any) -> str:
    pem: bytes = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def _altered(pem: str) -> str:
    """The same with a bit of its modulus turned: still the shape of a key."""
    head, *lines, last = pem.splitlines()
    der = bytearray(b64decode("".join(lines)))
    der[100] ^= 1
    return "\n".join([head, b64encode(der).decode(), last])


_WHOLE = json.loads(key_file())["private_key"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not the JSON"),
        ("-----BEGIN PRIVATE KEY-----\nMII", "not the JSON"),
        ('{"type": 7}', "not the JSON"),
        (key_file(type="authorized_user"), "something else"),
        ('{"project_info": {}}', "something else"),
        (key_file(client_email=""), "client_email is missing"),
        (key_file(project_id=""), "project_id is missing"),
        (key_file(project_id="../x"), "project_id is not the id"),
        (key_file(token_uri=""), "token_uri is missing"),
        (key_file(token_uri="oauth2.googleapis.com"), "token_uri must be a URL"),
        (key_file(private_key=_WHOLE[:900]), "broken or cut off"),
        (key_file(private_key=_WHOLE.replace("\n", "\\n")), "broken or cut off"),
        (key_file(private_key="A" * 1_600), "broken or cut off"),
        (key_file(private_key=_altered(_WHOLE)), "broken or cut off"),
        (key_file(private_key=_pem(ec.generate_private_key(ec.SECP256R1()))), "not an RSA key"),
        (
            key_file(private_key=_pem(rsa.generate_private_key(65_537, 1_024))),
            "fewer than 2048 bits",
        ),
    ],
)
def test_a_broken_key_file_says_what_is_wrong_and_quotes_nothing(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(FcmConfig(credentials=text), SmsConfig())
    assert words in refused.value.message
    assert "MII" not in refused.value.message
    assert "tact@" not in refused.value.message


def test_a_good_one_is_taken_and_shown_nowhere() -> None:
    config = FcmConfig(credentials=key_file())
    check(config, SmsConfig())
    account = parse_service_account(config.credentials)
    assert account.project == "tact-fake"
    assert "PRIVATE" not in repr(config) + repr(account)
    for changes in ({"project": "My App"}, {"base_url": "fcm.googleapis.com"}):
        with pytest.raises(ConfigError):
            check(FcmConfig(credentials=key_file(), **changes), SmsConfig())


def test_the_assertion() -> None:
    """The claims of Google's page, and nothing more."""
    made = assertion(parse_service_account(key_file()), "https://scope", NOW_MS)
    assert jwt.get_unverified_header(made) == {"alg": "RS256", "typ": "JWT", "kid": "0123abc"}
    claims = jwt.decode(
        made,
        key().public_key(),
        algorithms=["RS256"],
        options={"verify_exp": False, "verify_aud": False, "verify_iat": False},
    )
    assert claims == {
        "iss": "tact@tact-fake.iam.gserviceaccount.com",
        "scope": "https://scope",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": NOW_S,
        "exp": NOW_S + 3_600,
    }


# ---- what the token endpoint says ------------------------------------------------------------


def _said(status: int, body: Any, late_s: float | None = None) -> HttpReply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    date = {} if late_s is None else {"date": formatdate(NOW_S + late_s, usegmt=True)}
    return HttpReply(status, date, raw)


def test_a_token_that_is_granted() -> None:
    said = {"access_token": "ya29.x", "expires_in": 3_599, "token_type": "Bearer"}
    assert granted(_said(200, said), NOW_MS) == ("ya29.x", 3_599.0)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (_said(200, b"<html>"), "not OAuth's"),
        (_said(200, {"access_token": 7}), "not OAuth's"),
        (_said(200, {"access_token": "a\r\nb", "expires_in": 60}), "has none"),
        (_said(200, {"access_token": "", "expires_in": 60}), "has none"),
        (_said(200, {"access_token": "a", "expires_in": 0}), "has none"),
        (_said(200, {"access_token": "a", "expires_in": "soon"}), "not OAuth's"),
        (_said(500, b"<html>"), "HTTP 500"),
        (_said(429, {"error": "rate_limit_exceeded"}), "HTTP 429"),
        (_said(302, b""), "HTTP 302"),
    ],
)
def test_an_endpoint_that_fails_for_a_while(reply: HttpReply, words: str) -> None:
    with pytest.raises(NotSent) as failed:
        granted(reply, NOW_MS)
    assert words in failed.value.message


_SHORT_LIVED = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            _said(400, {"error": "invalid_grant", "error_description": _SHORT_LIVED}, 600),
            "the clock of this machine is 10 min 0 s behind the endpoint's",
        ),
        (
            _said(400, {"error": "invalid_grant", "error_description": _SHORT_LIVED}, -7_265),
            "the clock of this machine is 2 h 1 min ahead of the endpoint's",
        ),
        (_said(400, {"error": "invalid_grant", "error_description": _SHORT_LIVED}), "clock"),
        (
            _said(
                400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 2
            ),
            "make a new key file",
        ),
        (
            _said(400, {"error": "invalid_grant", "error_description": "account not found: hush"}),
            "disabled, deleted",
        ),
        (_said(401, {"error": "invalid_client"}), "invalid_client"),
        (_said(404, b"<html>"), "is it the right one?"),
        (_said(400, {"error": "the hush is +86139"}), "no OAuth error"),
    ],
)
def test_a_refusal_tells_what_to_do(reply: HttpReply, words: str) -> None:
    with pytest.raises(GrantRefused) as refused:
        granted(reply, NOW_MS)
    assert words in refused.value.message
    assert "hush" not in refused.value.message


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


_ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(max_size=9) | st.integers() | st.floats() | st.none()
        for name in ("access_token", "expires_in", "error", "error_description")
    },
)


@given(st.integers(100, 599), st.binary(max_size=100) | _ANSWERS.map(_encoded))
def test_any_answer_is_a_token_or_a_typed_error(status: int, body: bytes) -> None:
    try:
        token, life_s = granted(HttpReply(status, {}, body), NOW_MS)
    except (NotSent, GrantRefused):
        return
    assert token
    assert life_s > 0


# ---- who asks, and when ------------------------------------------------------------------------


class Endpoint:
    """Answers requests when it is bidden to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: HttpReply | TactError | None = None
        """None: not yet."""
        self._news = asyncio.Event()

    async def request(self, method: str, url: str, **_: Any) -> HttpReply:
        assert (method, url) == ("POST", "https://oauth2.googleapis.com/token")
        self.asked += 1
        while self.answer is None:
            await self._news.wait()
        if isinstance(self.answer, TactError):
            raise self.answer
        return self.answer

    def says(self, answer: HttpReply | TactError) -> None:
        self.answer = answer
        self._news.set()

    def gives(self, token: str, life_s: int = 3_600) -> None:
        self.says(_said(200, {"access_token": token, "expires_in": life_s}))


class Bench:
    """Accounts of one service account, and its endpoint."""

    def __init__(self) -> None:
        self.endpoint = Endpoint()
        self.clock = MovedClock()
        self.counts: Counter[str] = Counter()

    def grant(self, **changes: Any) -> Grant:
        return Grant(
            parse_service_account(key_file(**changes)),
            "https://scope",
            self.endpoint,  # type: ignore[arg-type]
            self.clock,
            random.Random(1),
            account="acc",
            counted=lambda what: self.counts.update([what]),
        )

    async def token(self, grant: Grant) -> str:
        return (await grant.token()).headers["authorization"]


async def _turns() -> None:
    """All that can be done without anybody else is done."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_asks_and_all_wait_for_it() -> None:
    bench = Bench()
    grants = [bench.grant(), bench.grant()]
    waiting = [asyncio.create_task(bench.token(one)) for one in grants * 5]
    await asyncio.sleep(0)
    bench.endpoint.gives("one")
    assert set(await asyncio.gather(*waiting)) == {"Bearer one"}
    assert bench.endpoint.asked == 1
    bench.endpoint.gives("two")
    other = bench.grant(client_email="another@tact-fake.iam.gserviceaccount.com")
    assert await bench.token(other) == "Bearer two"  # nothing is shared with others


async def test_the_next_one_is_asked_for_while_the_old_one_serves() -> None:
    bench = Bench()
    grant = bench.grant()
    bench.endpoint.gives("one")
    assert await bench.token(grant) == "Bearer one"
    bench.clock.seconds += 0.9 * 3_600 - 1
    assert await bench.token(grant) == "Bearer one"
    assert bench.endpoint.asked == 1
    bench.clock.seconds += 2
    bench.endpoint.answer = None
    for _ in range(3):
        assert await bench.token(grant) == "Bearer one"  # nobody waits
    bench.endpoint.gives("two")
    await _turns()
    assert await bench.token(grant) == "Bearer two"
    assert bench.endpoint.asked == 2


async def test_an_endpoint_that_fails_is_left_alone_for_longer_and_longer() -> None:
    bench = Bench()
    grant = bench.grant()
    bench.endpoint.says(Unanswered("no whole answer: timed out"))
    pauses = []
    for _ in range(9):
        with pytest.raises(NotSent) as failed:
            await grant.token()
        assert "no access token" in failed.value.message
        asked = bench.endpoint.asked
        with pytest.raises(NotSent):
            await grant.token()
        assert bench.endpoint.asked == asked  # told at once
        pauses.append(failed.value.retry_after_ms or 0)
        bench.clock.seconds += pauses[-1] / 1_000 + 0.01
    assert all(500 <= pause <= 60_000 for pause in pauses)
    assert pauses[0] <= 1_000
    assert pauses[-1] > 30_000
    bench.endpoint.gives("one")
    assert await bench.token(grant) == "Bearer one"
    assert bench.counts == {"token_asked": 10, "token_failed": 9}


async def test_a_refusal_is_told_to_all_and_tried_again_after_minutes() -> None:
    bench = Bench()
    grants = [bench.grant(), bench.grant()]
    bench.endpoint.says(_said(400, {"error": "invalid_grant"}))
    for grant in grants:
        with pytest.raises(GrantRefused):
            await grant.token()
    assert bench.endpoint.asked == 1
    bench.endpoint.gives("one")
    bench.clock.seconds += 241
    assert await bench.token(grants[1]) == "Bearer one"


async def test_a_token_that_is_not_taken_is_replaced_once() -> None:
    bench = Bench()
    grant = bench.grant()
    bench.endpoint.gives("one")
    old = await grant.token()
    bench.endpoint.gives("two")
    grant.spoil(old)
    new = await grant.token()
    grant.spoil(old)  # by one that was on its way with the old one
    assert await grant.token() is new
    assert bench.endpoint.asked == 2
    assert "Bearer" not in repr(new)


async def test_when_the_account_that_asks_ends_another_one_asks() -> None:
    bench = Bench()
    first, second = bench.grant(), bench.grant()
    waiting = [asyncio.create_task(bench.token(one)) for one in (first, second)]
    await _turns()
    await first.close()
    bench.endpoint.gives("one")
    assert await waiting[1] == "Bearer one"
    with pytest.raises(NotSent):
        await waiting[0]
    assert bench.endpoint.asked == 2
    await second.close()


async def test_whoever_waits_may_give_up_and_the_others_get_what_was_asked_for() -> None:
    bench = Bench()
    grant = bench.grant()
    first, second = [asyncio.create_task(bench.token(grant)) for _ in range(2)]
    await _turns()
    first.cancel()
    await _turns()
    bench.endpoint.gives("one")
    assert await second == "Bearer one"
    assert first.cancelled()
    assert bench.endpoint.asked == 1


async def test_new_tokens_that_are_not_taken_either_are_not_asked_for_without_end() -> None:
    bench = Bench()
    grant = bench.grant()
    bench.endpoint.gives("one")
    token = await grant.token()
    grant.worked(token)
    grant.spoil(token)  # it ended early: that alone is nothing
    token = await grant.token()
    grant.spoil(token)
    for _ in range(100):
        with pytest.raises(GrantRefused, match="not even a new one"):
            await grant.token()
        bench.clock.seconds += 2
    assert bench.endpoint.asked == 2
    bench.clock.seconds += 41
    grant.worked(await grant.token())
    assert bench.counts["token_refused"] == 2


async def test_a_token_without_a_life_is_used_for_a_second() -> None:
    bench = Bench()
    grant = bench.grant()
    bench.endpoint.gives("one", life_s=1e-9)  # type: ignore[arg-type]
    assert [await bench.token(grant) for _ in range(3)] == ["Bearer one"] * 3
    assert bench.endpoint.asked == 1
