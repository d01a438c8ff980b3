"""Push through getui and JPush, without a network: what is asked, what answers mean, quotas."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.accounts import parse_accounts
from channels.provider import Answer, Unsendable
from channels.push.vendors import getui_codes, getui_tokens, jpush_codes, quotas
from channels.push.vendors.gateway import GatewayRefused
from channels.push.vendors.getui import GetuiConfig, check, request_id
from channels.push.vendors.getui_content import TABLE as GETUI_TABLE
from channels.push.vendors.jpush import JpushConfig, JpushProvider
from channels.push.vendors.settings import Labels
from hub.errors import ConfigError
from tests.support.push_vendors import (
    CID,
    REGISTRATION,
    SECRET,
    delivery,
    getui,
    jpush,
    reply,
    submission,
)
from tests.support.sms_web import NOW_MS

BIG = "x" * 5_000


def asked(provider: Any, to: str, content: dict[str, Any] | None = None, **more: Any) -> Any:
    """The request of a delivery."""
    prepared = provider.prepare(delivery(to, content, **more))
    arguments = ("key-cid",) if isinstance(provider, JpushProvider) else ()
    return provider._request(submission(prepared), *arguments)


# ---- requests ------------------------------------------------------------------------------------


def test_getui_is_asked_as_its_page_says() -> None:
    content = {
        "title": "Parcel",
        "text": "It is here",
        "data": {"order": 7},
        "badge": 3,
        "getui": {
            "group_name": "parcels",
            "request_id": "mine",
            "settings": {"strategy": {"a": 1}},
        },
    }
    said = asked(getui(), CID, content, collapse_key="o7")
    shown = {"title": "Parcel", "body": "It is here"}
    touched = {"click_type": "payload", "payload": '{"order":"7"}'}
    number = said["push_message"]["notification"].pop("notify_id")
    assert 0 <= number < 2**31
    assert said["push_channel"]["android"]["ups"]["notification"].pop("notify_id") == number
    assert len(said["push_channel"]["ios"].pop("apns-collapse-id")) == 27
    assert said == {
        "request_id": request_id("shop:order-1:1"),
        "group_name": "parcels",
        "audience": {"cid": [CID]},
        "settings": {"strategy": {"a": 1}, "ttl": 90_000},
        "push_message": {"notification": shown | touched},
        "push_channel": {
            "android": {
                "ups": {
                    "notification": shown | touched,
                    "options": {
                        "HO": {"/android/notification/importance": "NORMAL"},
                        "VV": {"/classification": 1},
                    },
                }
            },
            "ios": {
                "type": "notify",
                "aps": {"alert": shown, "sound": "default"},
                "auto_badge": "3",
                "payload": '{"order":"7"}',
            },
        },
    }
    assert 10 <= len(said["request_id"]) <= 32


def test_jpush_is_asked_as_its_page_says() -> None:
    content = {"text": "It is here", "data": {"order": 7}, "jpush": {"cid": "mine", "sms": 1}}
    assert asked(jpush(apns_production=False), REGISTRATION, content) == {
        "cid": "key-cid",
        "platform": "all",
        "audience": {"registration_id": [REGISTRATION]},
        "notification": {
            "alert": "It is here",
            "android": {"alert": "It is here", "extras": {"order": "7"}},
            "ios": {"alert": "It is here", "sound": "default", "extras": {"order": "7"}},
        },
        "options": {
            "classification": 1,
            "apns_production": False,
            "third_party_channel": {"honor": {"importance": "NORMAL"}},
            "time_to_live": 90,
        },
        "sms": 1,
    }


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://a.example/1", {"click_type": "url", "url": "https://a.example/1"}),
        ("intent:#Intent;end", {"click_type": "intent", "intent": "intent:#Intent;end"}),
        ("app://o/1", {"click_type": "payload", "payload": '{"link":"app://o/1"}'}),
        ("", {"click_type": "startapp"}),
    ],
)
def test_what_touching_a_notification_does(link: str, expected: dict[str, str]) -> None:
    said = asked(getui(), CID, {"title": "t", "text": "x", "link": link})
    assert said["push_message"]["notification"].items() >= expected.items()


def test_a_silent_push_shows_nothing() -> None:
    content = {"silent": True, "data": {"sync": True}}
    said = asked(getui(), CID, content)
    assert said["push_message"] == {"transmission": '{"sync":"true"}'}
    assert said["push_channel"]["ios"]["aps"] == {"content-available": 1}
    said = asked(jpush(), REGISTRATION, content)
    assert said["message"] == {"msg_content": '{"sync":"true"}', "extras": {"sync": "true"}}
    assert set(said["notification"]) == {"ios"}


@pytest.mark.parametrize(
    ("expires_ms", "getui_ms", "jpush_s"),
    [
        (NOW_MS + 90_500, 90_500, 90),
        (NOW_MS + 30 * 86_400_000, 3 * 86_400_000, 3 * 86_400),
        (NOW_MS - 1, -1, 0),
        (0, 3 * 86_400_000, 3 * 86_400),
    ],
)
def test_nothing_is_kept_for_longer_than_it_is_worth(
    expires_ms: int, getui_ms: int, jpush_s: int
) -> None:
    one, other = getui(), jpush()
    sent = submission(one.prepare(delivery(CID)), expires_ms=expires_ms)
    assert one._request(sent)["settings"] == {"ttl": getui_ms}
    sent = submission(other.prepare(delivery(REGISTRATION)), expires_ms=expires_ms)
    assert other._request(sent, "c")["options"]["time_to_live"] == jpush_s


@pytest.mark.parametrize("make", [getui, jpush])
@pytest.mark.parametrize(
    ("content", "to", "failure", "code"),
    [
        ({"title": "t", "text": BIG}, None, "rejected_content", "payload-too-large"),
        ({"title": "t", "text": "x", "data": {"d": BIG}}, None, "rejected_content", None),
        ({"silent": True, "data": {"d": BIG}}, None, "rejected_content", "payload-too-large"),
        ({"getui": {"a": 1}, "jpush": {"a": 1}}, None, "rejected_content", None),
        ({"txt": "x"}, None, "rejected_content", "unknown-key"),
        (None, "no device!", "dead_address", "malformed"),
        (None, "", "dead_address", "malformed"),
    ],
)
def test_what_cannot_be_pushed_is_known_before(
    make: Any, content: Any, to: str | None, failure: str, code: str | None
) -> None:
    provider = make()
    good = CID if make is getui else REGISTRATION
    with pytest.raises(Unsendable) as caught:
        provider.prepare(delivery(good if to is None else to, content))
    assert caught.value.failure == failure
    assert code is None or caught.value.provider_code == code
    assert BIG not in str(caught.value)


def test_getui_needs_a_title() -> None:
    with pytest.raises(Unsendable, match="title"):
        getui().prepare(delivery(CID, {"text": "x"}))
    said = asked(getui(title="Shop"), CID, {"text": "x"})
    assert said["push_message"]["notification"]["title"] == "Shop"


# ---- categories and quotas -----------------------------------------------------------------------

_VENDORS = {
    "huawei": Labels(service="EXPRESS"),
    "xiaomi": Labels(marketing="100", service="200"),
    "oppo": Labels(service={"/channel_id": "orders", "/notify_level": 2}),
    "meizu": Labels(marketing={"/notice_msg_type": 0}),
}


def test_every_vendor_is_told_the_class_in_its_own_words() -> None:
    provider = getui(marketing=("ad",), vendors=_VENDORS)

    def options(category: str) -> Any:
        return asked(provider, CID, category=category)["push_channel"]["android"]["ups"]["options"]

    assert options("order") == {
        "HW": {"/message/android/category": "EXPRESS"},
        "HO": {"/android/notification/importance": "NORMAL"},
        "XM": {"/extra.channel_id": "200"},
        "OP": {"/channel_id": "orders", "/notify_level": 2},
        "VV": {"/classification": 1},
    }
    assert options("ad") == {
        "HW": {"/message/android/category": "MARKETING"},
        "HO": {"/android/notification/importance": "LOW"},
        "XM": {"/extra.channel_id": "100"},
        "VV": {"/classification": 0},
        "MZ": {"/notice_msg_type": 0},
    }


def test_jpush_tells_vendors_the_class() -> None:
    words = {"xiaomi": Labels(marketing="100"), "vivo": Labels(marketing="MARKETING")}
    options = asked(jpush(vendors=words), REGISTRATION, category="marketing")["options"]
    assert options["classification"] == 0
    assert options["third_party_channel"] == {
        "huawei": {"category": "MARKETING"},
        "honor": {"importance": "LOW"},
        "xiaomi": {"channel_id": "100"},
        "vivo": {"category": "MARKETING"},
    }
    own = {"vendor": "xiaomi", "vendors": {"xiaomi": Labels(marketing="100")}}
    options = asked(jpush(**own), REGISTRATION, category="marketing")["options"]
    assert options["third_party_channel"] == {"xiaomi": {"channel_id": "100"}}


_ACCOUNTS = """version = 1
[[accounts]]
name = "huawei"
channel = "push"
provider = "getui"
[accounts.getui]
app_id = "app"
app_key = "key"
master_secret = { env = "SECRET" }
vendor = "huawei"
marketing = ["ad", "news"]
[accounts.getui.vendors.huawei]
service = "EXPRESS"
[[accounts]]
name = "phones"
channel = "push"
provider = "jpush"
[accounts.jpush]
app_key = "key"
master_secret = { env = "SECRET" }
[accounts.jpush.vendors]
xiaomi = { marketing = "100", service = { channel_id = "200", skip_quota = 1 } }
[accounts.limits]
recipient = []
"""


def test_accounts_are_written_so() -> None:
    one, other = parse_accounts(_ACCOUNTS, Path(), {"SECRET": SECRET})
    assert one.settings.vendors["huawei"].service == "EXPRESS"
    assert one.limits_of("recipient") == ["2/day"] and one.timezone == "Asia/Shanghai"
    assert one.limits_of("account") == ["2500000/day"]
    assert other.limits_of("recipient") == [] and other.limits_of("account") == ["540/min"]
    for wrong in (
        _ACCOUNTS.replace('"huawei"\nmark', '"nokia"\nmark'),
        _ACCOUNTS.replace("skip_quota = 1", "skip_quota = []"),
        _ACCOUNTS.replace('{ env = "SECRET" }', f'"{SECRET}"'),
        _ACCOUNTS.replace("vendors.huawei", "vendors.oppo"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_accounts(wrong, Path(), {"SECRET": SECRET})
        assert SECRET not in caught.value.message


@pytest.mark.parametrize("make", [getui, jpush])
def test_marketing_alone_is_counted(make: Any) -> None:
    provider, to = make(marketing=("ad", "news")), CID if make is getui else REGISTRATION
    for category, counted in (("ad", True), ("news", True), ("otp", False)):
        prepared = provider.prepare(delivery(to, category=category))
        assert prepared.uncounted == (not counted)
    assert provider.prepare(delivery(to)).recipient == to


@pytest.mark.parametrize(
    ("vendor", "ordinary", "news"),
    [
        ("", 2, 5),
        ("huawei", 2, 5),
        ("honor", 2, 5),
        ("oppo", 2, 5),
        ("vivo", 2, 5),
        ("xiaomi", 5, 8),
        ("meizu", 3, 5),
    ],
)
def test_quotas_are_the_vendors(vendor: Any, ordinary: int, news: int) -> None:
    known = {"app_key": "k", "master_secret": "s", "vendor": vendor}
    for is_news, most in ((False, ordinary), (True, news)):
        config = JpushConfig(**known, news=is_news)
        assert quotas.documented(config) == {"recipient": (f"{most}/day",), "account": ("540/min",)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "ftp://x"}, "base_url"),
        ({"vendors": {"meizu": Labels(service="x")}}, "vendors.meizu.service"),
        ({"vendor": "oppo", "vendors": {"vivo": Labels(service="x")}}, "vendors.vivo"),
    ],
)
def test_a_table_that_makes_no_sense_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(GetuiConfig(app_id="a", app_key="k", master_secret=SECRET, **fields))
    assert said in caught.value.message
    assert set(GETUI_TABLE) == set(quotas.QUOTAS)


def test_nothing_secret_is_shown() -> None:
    prepared = getui().prepare(delivery(CID))
    shown = repr([getui()._config, jpush()._config, prepared, prepared.parts, submission(prepared)])
    assert SECRET not in shown and "hush" not in shown and CID not in shown


# ---- answers -------------------------------------------------------------------------------------

_TARGET = "target user is invalid"


@pytest.mark.parametrize(
    ("status", "code", "msg", "kind", "failure", "pause_ms", "stops"),
    [
        (200, 1, "fail", "failed", "provider", None, False),
        (200, 2, "starting", "retry", None, 5_000, False),
        (200, 301, "domain", "failed", "config", None, True),
        (404, 404, "url error", "failed", "config", None, True),
        (405, 405, "method", "failed", "config", None, True),
        (401, 10001, "token", "retry", None, 5_000, False),
        (401, 10002, "black list", "failed", "config", None, True),
        (401, 10003, "auth rate", "throttled", None, 60_000, False),
        (401, 10004, "permission", "failed", "config", None, False),
        (401, 10005, "rate", "throttled", None, 60_000, False),
        (400, 20001, "title size over limit", "failed", "rejected_content", None, False),
        (400, 20001, _TARGET, "failed", "dead_address", None, False),
        (400, 20001, "permission required by x", "failed", "config", None, False),
        (400, 20001, "request_id cannot be repeat", "failed", "rejected_content", None, False),
        (403, 30001, "over the quota", "failed", "config", None, True),
        (400, 77777, "new", "failed", "provider", None, False),
        (500, 77777, "new", "unknown", None, None, False),
    ],
)
def test_codes_of_getui(
    status: int, code: int, msg: str, kind: str, failure: Any, pause_ms: Any, stops: bool
) -> None:
    provider = getui()
    sent = submission(provider.prepare(delivery(CID)))
    outcome = provider.understood(reply(status, {"code": code, "msg": msg}), sent)
    answer = outcome.answer
    assert (answer.kind, answer.failure, answer.retry_after_ms) == (kind, failure, pause_ms)
    assert answer.code == str(code)
    assert bool(outcome.stop) == stops and msg not in outcome.stop


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"t1": {CID: "successed_online"}}, Answer("accepted", ("t1",), code="successed_online")),
        ({"t1": {CID: "successed_offline"}}, Answer("accepted", ("t1",), code="successed_offline")),
        (
            {"t1": {CID: "successed_ignore"}},
            Answer("failed", failure="dead_address", code="successed_ignore"),
        ),
        ({"t1": {CID: "new status"}}, Answer("accepted", ("t1",))),
        ({}, Answer("accepted")),
        ([1], Answer("accepted")),
    ],
)
def test_a_device_has_a_status_of_its_own(data: Any, expected: Answer) -> None:
    provider = getui()
    sent = submission(provider.prepare(delivery(CID)))
    body = {"code": 0, "msg": "", "data": data}
    assert provider.understood(reply(200, body), sent).answer == expected


def test_a_repeat_that_getui_names_was_taken_before() -> None:
    provider = getui()
    sent = submission(provider.prepare(delivery(CID)), again=True)
    for msg in ("request_id cannot be repeat.", "contains duplicate request_id"):
        body = {"code": 20001, "msg": msg}
        assert provider.understood(reply(400, body), sent).answer == Answer("accepted")


_JPUSH = [
    (500, 1000, "", "unknown", None, False),
    (405, 1001, "", "failed", "config", True),
    (400, 1002, "", "failed", "rejected_content", False),
    (400, 1003, "alert is invalid", "failed", "rejected_content", False),
    (400, 1003, "registration_id is invalid", "failed", "dead_address", False),
    (401, 1004, "Authen failed", "failed", "config", True),
    (400, 1005, "", "failed", "rejected_content", False),
    (400, 1008, "", "failed", "config", True),
    (400, 1009, "", "failed", "rejected_content", False),
    (400, 1011, "", "failed", "dead_address", False),
    (400, 1012, "", "failed", "rejected_content", False),
    (404, 1020, "", "failed", "config", True),
    (503, 1030, "", "unknown", None, False),
    (400, 1035, "", "failed", "rejected_content", False),
    (429, 2002, "Rate limit exceeded", "throttled", None, False),
    (403, 2003, "", "failed", "config", True),
    (403, 2004, "", "failed", "config", True),
    (403, 2005, "", "failed", "throttled", False),
    (403, 2006, "", "failed", "config", True),
    (403, 2007, "", "failed", "config", True),
]


@pytest.mark.parametrize(("status", "code", "msg", "kind", "failure", "stops"), _JPUSH)
def test_codes_of_jpush(
    status: int, code: int, msg: str, kind: str, failure: Any, stops: bool
) -> None:
    body = {"error": {"code": code, "message": msg}}
    outcome = jpush().understood(reply(status, body, x_rate_limit_reset="7"))
    answer = outcome.answer
    assert (answer.kind, answer.failure, answer.code) == (kind, failure, str(code))
    assert answer.retry_after_ms == (7_000 if code == 2002 else None)
    assert bool(outcome.stop) == stops


def test_the_tables_hold_every_code() -> None:
    assert set(jpush_codes.CODES) == {row[1] for row in _JPUSH}
    assert set(getui_codes.CODES) == {1, 2, 301, 404, 405, *range(10001, 10006)}


@pytest.mark.parametrize(
    ("status", "headers", "kind", "failure", "pause_ms"),
    [
        (200, {}, "unknown", None, None),
        (302, {}, "failed", "config", None),
        (400, {}, "failed", "provider", None),
        (404, {}, "failed", "config", None),
        (429, {"retry_after": "3"}, "throttled", None, 3_000),
        (500, {}, "unknown", None, None),
        (502, {}, "unknown", None, None),
    ],
)
def test_html_is_understood_by_its_status(
    status: int, headers: dict[str, str], kind: str, failure: Any, pause_ms: Any
) -> None:
    html = reply(status, b"<html>", **headers)
    one = getui()
    for answer in (
        one.understood(html, submission(one.prepare(delivery(CID)))).answer,
        jpush().understood(html).answer,
    ):
        assert (answer.kind, answer.failure, answer.retry_after_ms) == (kind, failure, pause_ms)
        assert answer.code == f"HTTP {status}"


def test_a_429_without_a_word_waits_for_the_next_minute() -> None:
    for headers, pause_ms in (({}, 60_000), ({"x_rate_limit_reset": "0"}, 1_000)):
        answer = jpush().understood(reply(429, b"", **headers)).answer
        assert (answer.kind, answer.retry_after_ms) == ("throttled", pause_ms)


_KEYS = ["code", "msg", "data", "error", "message", "msg_id", "token", CID]
_SOME = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(_KEYS),
                inner,
            )
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode()),
)


@given(body=_SOME, status=st.sampled_from([200, 400, 401, 500]))
def test_no_answer_is_too_odd(body: bytes, status: int) -> None:
    one = getui()
    one.understood(reply(status, body), submission(one.prepare(delivery(CID))))
    jpush().understood(reply(status, body))
    with contextlib.suppress(GatewayRefused, getui_tokens.NotSent):  # the two that are foreseen
        getui_tokens.understood(reply(status, body), NOW_MS)


def test_ids_are_the_same_everywhere() -> None:
    """By b2sum -l 128."""
    assert request_id("shop:order-1:1") == "650c10124d6037a4f900dd90707dc10f"
    assert request_id("shop:order-1:1") != request_id("shop:order-1:2")
