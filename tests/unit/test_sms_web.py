"""SMS over HTTP, without a network: signatures, templates, what answers and callbacks mean."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.http import (
    CALLBACK_BYTES,
    RETRY_AFTER_MAX_MS,
    HttpReply,
    answer_of_status,
    form_of,
    retry_after_ms,
    same_secret,
)
from channels.provider import Answer, Callback, ProviderReceipt, Unsendable
from channels.sms.message import SmsConfig
from channels.sms.web import aliyun_codes
from channels.sms.web.aliyun import AliyunConfig, AliyunProvider
from channels.sms.web.gateway import Gateway, ReceiptFields, Refusal, UrlGatewayConfig
from channels.sms.web.signing import percent, signature, string_to_sign
from channels.sms.web.urls import UrlGatewayProvider
from hub.errors import ConfigError
from tests.support.sms_web import NOW_MS, NUMBER, TEXT, TOKEN, StillClock, Told, delivery

# ---- signatures --------------------------------------------------------------------------------

_SEND_SMS = {
    "AccessKeyId": "testId",
    "Action": "SendSms",
    "Format": "XML",
    "OutId": "123",
    "PhoneNumbers": "15300000001",
    "RegionId": "cn-hangzhou",
    "SignName": "阿里云短信测试专用",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureNonce": "45e25e9b-0a6f-4070-8c85-2956eda1b466",
    "SignatureVersion": "1.0",
    "TemplateCode": "SMS_71390007",
    "TemplateParam": '{"customer":"test"}',
    "Timestamp": "2017-07-12T02:42:19Z",
    "Version": "2017-05-25",
}
_DESCRIBE_REGIONS = {
    "Format": "XML",
    "AccessKeyId": "testid",
    "Action": "DescribeRegions",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
    "SignatureVersion": "1.0",
    "Version": "2014-05-26",
    "Timestamp": "2016-02-23T12:46:24Z",
}


@pytest.mark.parametrize(
    ("fields", "secret", "expected"),
    [
        (_SEND_SMS, "testSecret", "zJDF+Lrzhj/ThnlvIToysFRq6t4="),
        ({**_SEND_SMS, "Signature": "old"}, "testSecret", "zJDF+Lrzhj/ThnlvIToysFRq6t4="),
        (_DESCRIBE_REGIONS, "testsecret", "OLeaidS1JvxuMvnyHOwuJ+uX5qY="),
    ],
)
def test_signatures_are_those_that_aliyun_publishes(
    fields: dict[str, str], secret: str, expected: str
) -> None:
    assert signature("GET", fields, secret) == expected


def test_percent_encoding_is_of_rfc_3986() -> None:
    assert percent("a b+c*d~e/=&%中") == "a%20b%2Bc%2Ad~e%2F%3D%26%25%E4%B8%AD"
    assert string_to_sign("POST", {"b": "2*", "a": "1 "}) == "POST&%2F&a%3D1%2520%26b%3D2%252A"


# ---- what a status means -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "failure"),
    [
        (200, "unknown", None),
        (301, "failed", "config"),
        (400, "failed", "provider"),
        (401, "failed", "config"),
        (403, "failed", "config"),
        (404, "failed", "config"),
        (408, "retry", None),
        (413, "failed", "rejected_content"),
        (429, "throttled", None),
        (500, "unknown", None),
        (502, "unknown", None),
        (503, "throttled", None),
        (999, "unknown", None),
    ],
)
def test_a_status_alone(status: int, kind: str, failure: str | None) -> None:
    answer = answer_of_status(HttpReply(status, {}, b""), NOW_MS)
    assert (answer.kind, answer.failure, answer.retry_after_ms) == (kind, failure, None)
    assert answer.scope == "account"


def test_a_5xx_is_sent_again_only_where_the_account_says_so() -> None:
    reply = HttpReply(500, {}, b"")
    assert answer_of_status(reply, NOW_MS, server_errors="retry").kind == "retry"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        (" 7 ", 7_000),
        ("999999999", RETRY_AFTER_MAX_MS),
        ("Wed, 18 Nov 2026 11:07:20 GMT", 40_000),
        ("Wed, 18 Nov 1996 11:07:20 GMT", 0),
        ("Wed, 18 Nov 2096 11:07:20 GMT", RETRY_AFTER_MAX_MS),
        ("", None),
        ("-3", None),
        ("soon", None),
    ],
)
def test_retry_after(value: str, expected: int | None) -> None:
    assert retry_after_ms(HttpReply(429, {"retry-after": value}, b""), NOW_MS) == expected


@given(
    st.text(max_size=60) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ \S*", fullmatch=True)
)
def test_no_retry_after_is_an_error(value: str) -> None:
    found = retry_after_ms(HttpReply(429, {"retry-after": value}, b""), NOW_MS)
    assert found is None or 0 <= found <= RETRY_AFTER_MAX_MS


def test_secrets_are_compared_whole() -> None:
    assert same_secret(TOKEN, TOKEN)
    assert not same_secret(TOKEN[:-1], TOKEN)
    assert not same_secret("", "")
    assert not same_secret("\udcff", TOKEN)


# ---- the gateway's configuration ---------------------------------------------------------------

_KANNEL: dict[str, Any] = {
    "preset": "kannel",
    "url": "http://gw:13013",
    "user": "tact",
    "password": "s3cret-password",
    "sender": "10690000",
    "callback_url": "https://hub.example/v1/callbacks/a",
    "callback_token": TOKEN,
}
_RECEIPTS = ReceiptFields(statuses={"ok": "delivered"})
_PLAIN: dict[str, Any] = {"url": "http://gw/send", "params": {"n": "{to}", "t": "{text}"}}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"params": {"n": "{to}", "t": "{text}", "x": "{phone}"}}, "params.x"),
        ({"params": {"n": "{to}", "t": "{text"}}, "params.t"),
        ({"params": {"n": "{to}"}}, "params"),
        ({"params": {}}, "params"),
        ({"url": "ftp://gw/send"}, "url"),
        ({"url": "http://user:pass@gw/send"}, "url"),
        ({"url": "http://gw/send?user=x"}, "url"),
        ({"url": "http://[gw"}, "url"),
        ({"url": "http://gw/a b"}, "url"),
        ({"url": "http://gw:70000/"}, "url"),
        ({"callback_url": "https://hub/x", "receipts": _RECEIPTS}, "callback_token"),
        ({"callback_token": "short"}, "callback_token"),
        ({"callback_url": "https://hub/x", "callback_token": TOKEN}, "receipts"),
        ({"failures": [Refusal(body="(")]}, "failures[0].body"),
        ({"failures": [Refusal()]}, "failures[0]"),
        ({"preset": "kannel", "method": "POST"}, "method"),
    ],
)
def test_a_wrong_configuration_names_its_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Gateway(UrlGatewayConfig(**(_PLAIN | change)))
    assert raised.value.facts["key"] == key
    assert ":pass@" not in raised.value.message


def _provider(told: Told, **change: Any) -> UrlGatewayProvider:
    config = UrlGatewayConfig(**(_KANNEL | change))
    return UrlGatewayProvider(
        config, SmsConfig(signature="测试"), told, StillClock(), random.Random(1), "a"
    )


def test_templates_are_filled_once_and_empty_fields_left_out() -> None:
    params = {"n": "{digits}", "t": "<{text}>", "s": "{from}", "fixed": "1"}
    gateway = Gateway(UrlGatewayConfig(url="http://gw/send", params=params))
    values = {"digits": "86139", "text": "{password}", "from": "", "password": "x"}
    assert gateway.fields(values) == {"n": "86139", "t": "<{password}>", "fixed": "1"}


async def test_a_prepared_message_counts_segments_and_shows_nothing() -> None:
    provider = _provider(Told())
    prepared = provider.prepare(delivery({"text": "长" * 100}, to="139 1234 5678"))
    assert (prepared.recipient, prepared.units, len(prepared.parts)) == (NUMBER, 2, 1)
    assert prepared.parts[0].text.startswith("【测试】长")
    assert "长" not in repr(prepared)
    for content in ({"text": ""}, {"words": "x"}):
        with pytest.raises(Unsendable):
            provider.prepare(delivery(content))


def test_no_configuration_shows_its_secrets() -> None:
    shown = repr(UrlGatewayConfig(**_KANNEL)) + repr(_aliyun_config())
    assert not [secret for secret in ("s3cret-password", TOKEN, "k3y-secret") if secret in shown]


# ---- callbacks of a gateway --------------------------------------------------------------------


def _get(query: dict[str, str]) -> Callback:
    return Callback(method="GET", query=query, headers={}, body=b"")


async def test_receipts_of_kannel_as_they_come() -> None:
    """In the order they came, contradictions too: the account decides, by rank."""
    told = Told()
    provider = _provider(told)
    bad = "id:7 sub:001 dlvrd:000 done date:2611211201 stat:UNDELIV err:012 text:您的验证码 482913"
    gone = "id:7 sub:001 dlvrd:000 done date:2611211201 stat:EXPIRED err:000 text:"
    for status, said in [
        ("1", "id:7 sub:001 stat:DELIVRD err:000 text:hush"),
        ("8", "ACK/"),
        ("8", "ACK/"),
        ("2", bad),
        ("34", gone),
        ("16", "NACK/0x0000000b/Invalid Destination Address"),
        ("4", ""),
    ]:
        query = {"token": TOKEN, "delivery": "shop:o:1", "status": status, "code": said}
        reply = await provider.callback(_get(query))
        assert (reply.status, reply.body) == (200, b"")
    seen = [(each.status, each.failure, each.code) for each in told.receipts]
    assert seen == [
        ("delivered", None, "DELIVRD 000"),
        ("sent", None, ""),
        ("sent", None, ""),
        ("failed", "provider", "UNDELIV 012"),
        ("failed", "expired", "EXPIRED 000"),
        ("failed", "dead_address", "NACK/0x0000000b"),
        ("sent", None, ""),
    ]
    assert {each.delivery for each in told.receipts} == {"shop:o:1"}


@pytest.mark.parametrize(
    ("query", "status", "count"),
    [
        ({"delivery": "shop:o:1", "status": "1"}, 403, "callback_refused"),
        ({"token": "wrong", "delivery": "shop:o:1", "status": "1"}, 403, "callback_refused"),
        ({"token": TOKEN}, 400, "callback_malformed"),
        ({"token": TOKEN, "status": "1"}, 400, "callback_malformed"),
        ({"token": TOKEN, "delivery": "x" * 111, "status": "1"}, 400, "callback_malformed"),
        ({"token": TOKEN, "from": "", "text": "R"}, 400, "callback_malformed"),
        ({"token": TOKEN, "from": "1", "text": "x" * 41_000}, 400, "callback_malformed"),
        ({"token": TOKEN, "delivery": "shop:o:1", "status": "7"}, 200, "receipt_status_unknown"),
    ],
)
async def test_callbacks_that_bring_nothing(query: dict[str, str], status: int, count: str) -> None:
    told = Told()
    reply = await _provider(told).callback(_get(query))
    assert (reply.status, told.counts) == (status, {count: 1})
    assert not told.receipts and not told.inbounds


async def test_without_a_token_no_callback_is_taken() -> None:
    provider = _provider(Told(), callback_url="", callback_token="")
    reply = await provider.callback(_get({"token": "", "delivery": "shop:o:1", "status": "1"}))
    assert reply.status == 403


async def test_what_is_not_stored_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    provider = _provider(told)
    query = {"token": TOKEN, "delivery": "shop:o:1", "status": "1"}
    told.store = False
    assert (await provider.callback(_get(query))).status == 503
    told.store = None
    monkeypatch.setattr("channels.http.Confirmation.all_stored.__defaults__", (0.01,))
    assert (await provider.callback(_get(query))).status == 503
    assert told.counts["not_stored"] == 2


async def test_a_customers_message_and_an_opt_out() -> None:
    told = Told()
    provider = _provider(told)
    for text in ("hello there", " r。"):
        query = {"token": TOKEN, "from": "13912345678", "text": text, "id": "mo-1"}
        assert (await provider.callback(_get(query))).status == 200
    first, second = told.inbounds
    assert (first.sender, first.content, first.id) == (NUMBER, {"text": "hello there"}, "mo-1")
    assert (first.opt_out, second.opt_out) == (False, True)


async def test_a_callback_as_a_form() -> None:
    told = Told()
    body = b"delivery=shop%3Ao%3A1&status=1&code=\xe4\xbd\xa0"
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    request = Callback(method="POST", query={"token": TOKEN}, headers=headers, body=body)
    assert (await _provider(told).callback(request)).status == 200
    assert told.receipts[0].delivery == "shop:o:1"


@given(st.binary(max_size=300) | st.just(b"a=1&" * 65))
def test_no_form_is_an_error(body: bytes) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = Callback(method="POST", query={"a": "q"}, headers=headers, body=body)
    assert form_of(request)["a"] == "q"


# ---- Aliyun ------------------------------------------------------------------------------------


def _aliyun_config(**change: Any) -> AliyunConfig:
    fields: dict[str, Any] = {
        "access_key_id": "testId",
        "access_key_secret": "k3y-secret",
        "sign_name": "阿里云短信测试专用",
        "templates": {"notice": "SMS_1", "code": "SMS_2"},
        "callback_token": TOKEN,
    }
    return AliyunConfig(**(fields | change))


def _aliyun(told: Told, **change: Any) -> AliyunProvider:
    clock, chance = StillClock(), random.Random(1)
    return AliyunProvider(_aliyun_config(**change), SmsConfig(), told, clock, chance, "a")


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("isv.MOBILE_NUMBER_ILLEGAL", "", Answer("failed", failure="dead_address")),
        ("isv.BLACK_KEY_CONTROL_LIMIT", "", Answer("failed", failure="rejected_content")),
        ("isv.SMS_TEMPLATE_ILLEGAL", "", Answer("failed", failure="config")),
        ("isv.AMOUNT_NOT_ENOUGH", "", Answer("failed", failure="config")),
        ("isv.SOMETHING_NEW", "", Answer("failed", failure="provider")),
        ("isp.SYSTEM_ERROR", "", Answer("retry")),
        ("isp.SOMETHING_NEW", "", Answer("unknown")),
        ("Throttling.User", "", Answer("throttled")),
        ("isv.DAY_LIMIT_CONTROL", "", Answer("throttled", retry_after_ms=3_600_000)),
        *(
            (
                "isv.BUSINESS_LIMIT_CONTROL",
                message,
                Answer("throttled", scope="recipient", retry_after_ms=pause),
            )
            for message, pause in [
                ("触发分钟级流控Permits:1", 60_000),
                ("触发小时级流控Permits:5", 3_600_000),
                ("触发天级流控Permits:10", 86_400_000),
                ("flow control", None),
            ]
        ),
    ],
)
async def test_codes_of_aliyun(code: str, message: str, expected: Answer) -> None:
    body = json.dumps({"Code": code, "Message": message, "RequestId": "r"}).encode()
    outcome = _aliyun(Told()).understood(HttpReply(200, {}, body))
    assert outcome.answer == msgspec.structs.replace(expected, code=code)
    assert bool(outcome.stop) == (code == "isv.AMOUNT_NOT_ENOUGH")


@given(st.binary(max_size=200) | st.just(b'{"x":' + b"[" * 5_000))
async def test_no_answer_of_aliyun_is_an_error(body: bytes) -> None:
    outcome = _aliyun(Told()).understood(HttpReply(200, {}, body))
    assert outcome.answer == Answer("unknown", code="HTTP 200")


async def test_a_template_is_found_by_name_or_category() -> None:
    provider = _aliyun(Told())
    content = {"template": "code", "params": {"n": 482913, "name": "王"}}
    prepared = provider.prepare(delivery(content, to="+86 139 1234 5678"))
    (part,) = prepared.parts
    assert (prepared.recipient, prepared.units) == (NUMBER, 1)
    assert (part.phone, part.template) == ("13912345678", "SMS_2")
    assert part.params == '{"n":"482913","name":"王"}'
    assert "王" not in repr(prepared)
    assert provider.prepare(delivery({"params": {}})).parts[0].template == "SMS_1"


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        ({"template": "other"}, "config"),
        ({"params": {"a": ["x"]}}, "rejected_content"),
        ({"params": {"a": "x" * 1_000}}, "rejected_content"),
        ({"template": 1}, "rejected_content"),
    ],
)
async def test_content_that_aliyun_cannot_take(content: dict[str, Any], failure: str) -> None:
    with pytest.raises(Unsendable) as raised:
        _aliyun(Told()).prepare(delivery(content))
    assert raised.value.failure == failure


def _post(body: bytes, token: str = TOKEN) -> Callback:
    headers = {"content-type": "application/json"}
    return Callback(method="POST", query={"token": token}, headers=headers, body=body)


_REPORT = {
    "phone_number": "13912345678",
    "send_time": "2017-01-01 00:00:00",
    "report_time": "2017-01-01 08:00:00",
    "success": True,
    "err_code": "DELIVERED",
    "err_msg": "用户接收成功",
    "sms_size": "1",
    "biz_id": "900619746936498440^0",
    "out_id": "shop:o:1",
}


async def test_a_push_of_aliyun_is_confirmed_when_all_of_it_is_stored() -> None:
    told = Told()
    failed = _REPORT | {"success": False, "err_code": "MOBILE_NOT_ON_SERVICE", "report_time": "?"}
    strange = _REPORT | {"success": False, "err_code": "13912345678"}
    inbound = {"phone_number": "13912345678", "content": "TD", "sequence_id": 17}
    body = json.dumps([_REPORT, failed, {"out_id": 7}, 3, {}, strange, inbound]).encode()
    reply = await _aliyun(told).callback(_post(body))
    assert json.loads(reply.body) == {"code": 0, "msg": "成功"}
    assert reply.content_type.startswith("application/json")
    biz_id = "900619746936498440^0"
    assert told.receipts == [
        ProviderReceipt("delivered", 1_483_228_800_000, biz_id, "shop:o:1", None, "DELIVERED"),
        ProviderReceipt(
            "failed", NOW_MS, biz_id, "shop:o:1", "dead_address", "MOBILE_NOT_ON_SERVICE"
        ),
        ProviderReceipt("failed", 1_483_228_800_000, biz_id, "shop:o:1", "provider", ""),
    ]
    (message,) = told.inbounds
    assert (message.id, message.sender, message.opt_out) == ("17", NUMBER, True)
    assert told.counts["report_malformed"] == 3
    told.store = False
    assert (await _aliyun(told).callback(_post(body))).status == 503


@pytest.mark.parametrize(
    ("body", "token", "status"),
    [
        (b"[]", TOKEN, 200),
        (b"{}", TOKEN, 400),
        (b"\xff", TOKEN, 400),
        (b"[" + b"1," * 1_000 + b"1]", TOKEN, 400),
        (b"[" + b" " * CALLBACK_BYTES + b"]", TOKEN, 400),
        (b"[]", "wrong", 403),
    ],
)
async def test_pushes_that_bring_nothing(body: bytes, token: str, status: int) -> None:
    assert (await _aliyun(Told()).callback(_post(body, token))).status == status


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(_REPORT)), inner),
        max_leaves=20,
    ).map(lambda value: json.dumps([value]).encode())
)
async def test_no_push_is_an_error(body: bytes) -> None:
    reply = await _aliyun(Told()).callback(_post(body))
    assert reply.status in (200, 400)


def test_no_code_is_a_telephone_number() -> None:
    assert aliyun_codes.is_code("isv.BUSINESS_LIMIT_CONTROL")
    assert not aliyun_codes.is_code("13912345678")
    assert not aliyun_codes.is_code(TEXT)
