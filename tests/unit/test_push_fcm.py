"""FCM without a network: its messages and its errors, and the fake's idea of both."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.http import HttpReply
from channels.provider import Answer, Unsendable
from channels.push.content import collapse_id, read
from channels.push.fake import fcm_shape
from channels.push.fcm.errors import QUOTA_PAUSE_MS, answer_of, said, sent_id
from channels.push.fcm.message import PAYLOAD_BYTES, TTL_MAX_S, body_of, template_of
from tests.support.push_fcm import TEXT, TITLE, TOKEN, delivery
from tests.support.sms_web import NOW_MS

NOW_S = NOW_MS // 1_000


def _template(content: dict[str, Any] | None = None, **changes: Any) -> bytes:
    made = delivery(content, **changes)
    return template_of(made, read(made.content, "fcm"), "orders")


def _message(content: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """What leaves, expiring in 90 s; the fake must take it too."""
    body = body_of(_template(content, **changes), NOW_MS + 90_000, NOW_MS)
    fcm_shape.request_of(body)
    message: dict[str, Any] = json.loads(body)["message"]
    return message


# ---- messages ----------------------------------------------------------------------------------


def test_a_message_that_says_everything() -> None:
    content = {
        "title": TITLE,
        "text": TEXT,
        "data": {"order": 7},
        "image": "https://example.com/a.png",
        "link": "https://example.com/order/7",
        "sound": "ding",
        "badge": 3,
    }
    collapse = collapse_id(delivery(collapse_key="order 7"))
    assert _message(content, priority=6, collapse_key="order 7") == {
        "token": TOKEN,
        "data": {"order": "7", "link": "https://example.com/order/7"},
        "notification": {"title": TITLE, "body": TEXT, "image": "https://example.com/a.png"},
        "android": {
            "priority": "HIGH",
            "ttl": "90s",
            "collapse_key": collapse,
            "notification": {
                "channel_id": "orders",
                "sound": "ding",
                "tag": collapse,
                "notification_count": 3,
            },
        },
        "apns": {
            "headers": {
                "apns-priority": "10",
                "apns-push-type": "alert",
                "apns-expiration": str(NOW_S + 90),
                "apns-collapse-id": collapse,
            },
            "payload": {"aps": {"badge": 3, "sound": "ding", "mutable-content": 1}},
        },
        "webpush": {
            "headers": {"TTL": "90", "Urgency": "high", "Topic": collapse},
            "fcm_options": {"link": "https://example.com/order/7"},
            "notification": {"tag": collapse},
        },
    }


def test_a_silent_message_is_data_only() -> None:
    message = _message({"silent": True, "text": "unseen", "data": {"sync": "1"}}, priority=9)
    assert "notification" not in message
    assert "notification" not in message["android"]
    assert message["android"]["priority"] == "HIGH"
    assert message["apns"]["headers"]["apns-priority"] == "5"
    assert message["apns"]["headers"]["apns-push-type"] == "background"
    assert message["apns"]["payload"] == {"aps": {"content-available": 1}}
    assert message["data"] == {"sync": "1"}


@pytest.mark.parametrize(
    ("priority", "android", "apns", "web"),
    [(0, "NORMAL", "5", "normal"), (5, "NORMAL", "5", "normal"), (6, "HIGH", "10", "high")],
)
def test_priorities(priority: int, android: str, apns: str, web: str) -> None:
    message = _message(priority=priority)
    assert message["android"]["priority"] == android
    assert message["apns"]["headers"]["apns-priority"] == apns
    assert message["webpush"]["headers"]["Urgency"] == web


@pytest.mark.parametrize(
    ("expires_ms", "ttl", "until"),
    [
        (NOW_MS + 90_500, 90, NOW_S + 90),
        (NOW_MS + 400, 0, 0),  # now or never
        (NOW_MS - 60_000, 0, 0),
        (NOW_MS + 90 * 86_400_000, TTL_MAX_S, NOW_S + TTL_MAX_S),
    ],
)
def test_times_to_live(expires_ms: int, ttl: int, until: int) -> None:
    message = json.loads(body_of(_template(), expires_ms, NOW_MS))["message"]
    assert message["android"]["ttl"] == f"{ttl}s"
    assert message["apns"]["headers"]["apns-expiration"] == str(until)
    assert message["webpush"]["headers"]["TTL"] == str(ttl)


def test_the_applications_own_table_wins_in_either_spelling() -> None:
    own = {
        "android": {
            "ttl": "3.5s",
            "collapseKey": "mine",
            "notification": {"channelId": "vip", "color": "#ff0000"},
        },
        "apns": {"payload": {"aps": {"interruption-level": "time-sensitive"}, "orderId": 7}},
        "webpush": {"notification": {"requireInteraction": True}},
        "fcmOptions": {"analytics_label": "a"},
        "data": {"extra": "1"},
    }
    message = _message({"text": TEXT, "fcm": own}, collapse_key="k")
    assert message["android"]["ttl"] == "3.5s"
    assert message["android"]["collapse_key"] == "mine"
    assert message["android"]["notification"]["channel_id"] == "vip"
    assert message["apns"]["payload"] == own["apns"]["payload"]  # passed on as it is
    assert message["webpush"]["notification"]["requireInteraction"] is True
    assert message["fcm_options"] == {"analytics_label": "a"}
    assert message["data"] == {"extra": "1"}
    assert message["notification"] == {"body": TEXT}


def test_marks_in_a_text_are_only_text() -> None:
    message = _message({"text": "a\x01b\x02c", "data": {"k\x01": "\x02"}})
    assert message["notification"]["body"] == "a\x01b\x02c"
    assert message["data"] == {"k\x01": "\x02"}


def test_the_app_is_told_the_deliverys_id_when_it_is_configured() -> None:
    made = delivery()
    template = template_of(made, read(made.content, "fcm"), id_key="delivery")
    assert json.loads(body_of(template, 0, NOW_MS))["message"]["data"] == {"delivery": made.id}


@pytest.mark.parametrize(
    ("content", "failure", "code"),
    [
        ({"text": "x" * 4_097}, "rejected_content", "payload-too-large"),
        ({"text": "包" * 1_366}, "rejected_content", "payload-too-large"),
        (
            {"text": "x" * 2_000, "data": {"k": "y" * 2_100}},
            "rejected_content",
            "payload-too-large",
        ),
        (
            {"text": "x" * 3_000, "fcm": {"apns": {"payload": {"k": "y" * 1_100}}}},
            "rejected_content",
            "payload-too-large",
        ),
        ({"text": "a", "data": {"from": "1"}}, "rejected_content", "data-key"),
        ({"text": "a", "data": {"google.c": "1"}}, "rejected_content", "data-key"),
        ({"text": "a", "fcm": {"data": {"n": 1}}}, "rejected_content", "fcm-table"),
        ({"text": "a", "fcm": {"android": []}}, "rejected_content", "fcm-table"),
        ({"text": "a", "fcm": {"topic": "everybody"}}, "rejected_content", "fcm-table"),
        ({"text": "a", "fcm": {"token": "another's-token"}}, "rejected_content", "fcm-table"),
    ],
)
def test_contents_that_cannot_be_sent(content: dict[str, Any], failure: str, code: str) -> None:
    with pytest.raises(Unsendable) as refused:
        _template(content)
    assert (refused.value.failure, refused.value.provider_code) == (failure, code)


def test_the_limit_counts_names_too() -> None:
    most = PAYLOAD_BYTES - len("body" + "channel_id" + "orders")
    _message({"text": "x" * most})  # and the fake counts the same
    with pytest.raises(Unsendable):
        _template({"text": "x" * (most + 1)})


@pytest.mark.parametrize("to", ["", "short", "a b" * 20, "x" * 3_000, "tokén" * 20, "a\n" * 50])
def test_a_malformed_token_is_a_dead_address(to: str) -> None:
    with pytest.raises(Unsendable) as refused:
        _template(to=to)
    assert refused.value.failure == "dead_address"
    assert refused.value.provider_code == "malformed-token"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["android", "apns", "webpush", "notification", "data", "headers", "ttl"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["android", "apns", "webpush", "data"]), _JSON))
def test_any_table_of_the_application_gives_json_or_is_refused(own: dict[str, Any]) -> None:
    try:
        body = body_of(_template({"text": "a", "fcm": own}), NOW_MS + 1, NOW_MS)
    except Unsendable:
        return
    assert json.loads(body)["message"]["token"] == TOKEN


# ---- errors ------------------------------------------------------------------------------------

_FCM = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"


def _reply(
    http: int,
    status: str = "",
    code: str = "",
    *,
    message: str = "",
    more: Any = (),
    **headers: str,
) -> HttpReply:
    details = [{"@type": _FCM, "errorCode": code}] if code else []
    error = {"code": http, "message": message, "status": status, "details": [*details, *more]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpReply(http, named, msgspec.json.encode({"error": error}))


def _violation(field: str) -> dict[str, Any]:
    return {"@type": _REQUEST, "fieldViolations": [{"field": field, "description": "hush"}]}


def _failed(failure: Any, code: str) -> Answer:
    return Answer("failed", failure=failure, code=code)


def _throttled(after_ms: int = QUOTA_PAUSE_MS, scope: Any = "account", code: str = "") -> Answer:
    return Answer("throttled", retry_after_ms=after_ms, scope=scope, code=code or "QUOTA_EXCEEDED")


_BAD = "INVALID_ARGUMENT"
_FULL = "RESOURCE_EXHAUSTED"
_WRONG_TOKEN = "The registration token is not a valid FCM registration token"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (_reply(404, "NOT_FOUND", "UNREGISTERED"), _failed("dead_address", "UNREGISTERED")),
        # The token alone, as the details say, or as the page on error codes has it.
        (
            _reply(400, _BAD, _BAD, more=[_violation("message.token")]),
            _failed("dead_address", _BAD),
        ),
        (_reply(400, _BAD, more=[_violation("message.token")]), _failed("dead_address", _BAD)),
        (_reply(400, _BAD, _BAD, message=_WRONG_TOKEN), _failed("dead_address", _BAD)),
        # Something else, or that too.
        (_reply(400, _BAD, _BAD), _failed("rejected_content", _BAD)),
        (_reply(400, _BAD, more=[_violation("message.data")]), _failed("rejected_content", _BAD)),
        (
            _reply(400, _BAD, more=[_violation("message.token"), _violation("message.data")]),
            _failed("rejected_content", _BAD),
        ),
        (
            _reply(400, _BAD, message=_WRONG_TOKEN, more=[_violation("message.android")]),
            _failed("rejected_content", _BAD),
        ),
        (
            _reply(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
            _failed("config", "SENDER_ID_MISMATCH"),
        ),
        (
            _reply(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
            _failed("config", "THIRD_PARTY_AUTH_ERROR"),
        ),
        (_reply(404, "NOT_FOUND"), _failed("config", "NOT_FOUND")),
        (_reply(403, "PERMISSION_DENIED"), _failed("config", "PERMISSION_DENIED")),
        (_reply(429, _FULL, "QUOTA_EXCEEDED"), _throttled()),
        (_reply(429, _FULL, "QUOTA_EXCEEDED", retry_after="17"), _throttled(17_000)),
        (_reply(429, _FULL, "QUOTA_EXCEEDED", retry_after="0"), _throttled(60_000)),
        (
            _reply(429, _FULL, "QUOTA_EXCEEDED", message="Device message rate exceeded."),
            _throttled(scope="recipient"),
        ),
        (
            _reply(
                429,
                _FULL,
                "QUOTA_EXCEEDED",
                more=[{"@type": _QUOTA, "violations": [{"subject": "device:x"}]}],
            ),
            _throttled(scope="recipient"),
        ),
        (_reply(429, _FULL), _throttled(code=_FULL)),
        (_reply(429, "NEW", "NEWER"), _throttled(code="NEWER")),
        (HttpReply(429, {}, b"<html>"), _throttled(code="HTTP 429")),
        (_reply(503, "UNAVAILABLE", "UNAVAILABLE"), Answer("retry", code="UNAVAILABLE")),
        (
            _reply(503, "UNAVAILABLE", "UNAVAILABLE", retry_after="5"),
            Answer("retry", code="UNAVAILABLE", retry_after_ms=5_000),
        ),
        (HttpReply(503, {}, b"<html>"), Answer("retry", code="HTTP 503")),
        (_reply(500, "INTERNAL", "INTERNAL"), Answer("retry", code="INTERNAL")),
        (_reply(500, "INTERNAL"), Answer("retry", code="INTERNAL")),
        # Who knows whether FCM ever saw it, or took it?
        (HttpReply(500, {}, b"<html>"), Answer("unknown", code="HTTP 500")),
        (HttpReply(502, {}, b"<html>"), Answer("unknown", code="HTTP 502")),
        (_reply(504, "DEADLINE_EXCEEDED"), Answer("unknown", code="DEADLINE_EXCEEDED")),
        (_reply(500, "NEW", "NEWER"), Answer("unknown", code="NEWER")),
        (_reply(400, "FAILED_PRECONDITION", "NEW"), _failed("provider", "NEW")),
        (_reply(400, "FAILED_PRECONDITION"), _failed("provider", "FAILED_PRECONDITION")),
        (_reply(404, "NOT_FOUND", "UNSPECIFIED_ERROR"), _failed("config", "NOT_FOUND")),
        (_reply(400, "the phone is +86139", "and so on"), _failed("provider", "HTTP 400")),
        (HttpReply(404, {}, b"<html>"), _failed("config", "HTTP 404")),
        (HttpReply(301, {}, b""), _failed("config", "HTTP 301")),
        (HttpReply(413, {}, b""), _failed("rejected_content", "HTTP 413")),
        (
            HttpReply(400, {}, b'{"error": {"details": [7, {"errorCode": 8}]}}'),
            _failed("provider", "HTTP 400"),
        ),
    ],
)
def test_what_an_answer_means(reply: HttpReply, answer: Answer) -> None:
    assert answer_of(said(reply), reply, NOW_MS) == answer


def test_only_what_stops_everything_stops_the_account() -> None:
    assert said(_reply(403, "PERMISSION_DENIED")).meaning.stop  # type: ignore[union-attr]
    for one in (
        _reply(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        _reply(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
        _reply(404, "NOT_FOUND"),
    ):
        assert said(one).meaning.stop == ""  # type: ignore[union-attr]


def test_the_id_of_what_was_taken() -> None:
    assert sent_id(b'{"name": "projects/p/messages/0:12%ab"}') == "0:12%ab"
    for body in (
        b"",
        b"<html>",
        b"{}",
        b'{"name": 7}',
        b'{"name": "x"}',
        b'{"name": "p/messages/"}',
    ):
        assert sent_id(body) is None


@given(st.integers(100, 599), st.binary(max_size=100) | _JSON.map(msgspec.json.encode))
def test_any_answer_means_something(status: int, body: bytes) -> None:
    reply = HttpReply(status, {}, body)
    sent_id(body)
    assert answer_of(said(reply), reply, NOW_MS).kind in (
        "retry",
        "throttled",
        "failed",
        "unknown",
    )


# ---- the fake's idea of a message --------------------------------------------------------------

_NAMES = {
    "SendMessageRequest": "message validate_only",
    "Message": (
        "android android_v2 apns condition data fcm_options fid name notification token "
        "topic webpush"
    ),
    "Notification": "body image title",
    "AndroidConfig": (
        "bandwidth_constrained_ok collapse_key data direct_boot_ok fcm_options "
        "notification priority restricted_package_name restricted_satellite_ok ttl"
    ),
    "AndroidNotification": (
        "body body_loc_args body_loc_key bypass_proxy_notification channel_id "
        "click_action color default_light_settings default_sound default_vibrate_timings "
        "event_time icon image light_settings local_only notification_count "
        "notification_priority proxy sound sticky tag ticker title title_loc_args "
        "title_loc_key vibrate_timings visibility"
    ),
    "LightSettings": "color light_off_duration light_on_duration",
    "Color": "alpha blue green red",
    "ApnsConfig": "fcm_options headers live_activity_token payload",
    "WebpushConfig": "data fcm_options headers notification",
    "FcmOptions": "analytics_label",
    "ApnsFcmOptions": "analytics_label image",
    "WebpushFcmOptions": "analytics_label link",
}
"""Of Google's own description of the API (fcm v1, revision 20261023)."""


@pytest.mark.parametrize(
    ("kind", "name", "missing"),
    [
        (fcm_shape.Request, "SendMessageRequest", set()),
        # Said by FCM itself; and a new shape for Android, in preview.
        (fcm_shape.Message, "Message", {"name", "android_v2"}),
        (fcm_shape.Notification, "Notification", set()),
        (fcm_shape.Android, "AndroidConfig", set()),
        (fcm_shape.AndroidNotification, "AndroidNotification", set()),
        (fcm_shape.Lights, "LightSettings", set()),
        (fcm_shape.Color, "Color", set()),
        (fcm_shape.Apns, "ApnsConfig", set()),
        (fcm_shape.Webpush, "WebpushConfig", set()),
        (fcm_shape.FcmOptions, "FcmOptions", set()),
        (fcm_shape.ApnsOptions, "ApnsFcmOptions", set()),
        (fcm_shape.WebpushOptions, "WebpushFcmOptions", set()),
    ],
)
def test_the_fake_knows_the_names_that_google_does(
    kind: type[msgspec.Struct], name: str, missing: set[str]
) -> None:
    assert set(kind.__struct_fields__) == set(_NAMES[name].split()) - missing


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"notification": {"boddy": "a"}}, "message.notification"),
        ({"data": {"n": 7}}, "message.data"),
        ({"android": {"ttl": 60}}, "message.android.ttl"),
        ({"android": {"ttl": "2419201s"}}, "message.android.ttl"),
        ({"android": {"priority": "urgent"}}, "message.android.priority"),
        ({"apns": {"headers": {"apns-expiration": "soon"}}}, "message.apns.headers"),
        ({"webpush": {"fcm_options": {"link": "app://x"}}}, "message.webpush.fcm_options.link"),
        ({"topic": "too"}, "message"),
        ({"notification": {"body": "x" * 4_097}}, "message"),
    ],
)
def test_the_fake_refuses_what_fcm_does(message: dict[str, Any], field: str) -> None:
    with pytest.raises(fcm_shape.Wrong) as refused:
        fcm_shape.request_of(msgspec.json.encode({"message": {"token": TOKEN, **message}}))
    assert refused.value.facts["field"].partition("[")[0] == field
