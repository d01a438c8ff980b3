"""Callbacks, from a request to the accounts that it concerns: forged, damaged, old and hostile ones
are refused, and no bytes whatever raise anything."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from channels.accounts import AccountConfig
from channels.provider import Callback, Reply
from channels.wecom.callbacks import (
    AGE_S,
    BODY_BYTES,
    ELEMENTS_MAX,
    Directory,
    Event,
    answer,
    event_of,
    fields_of,
)
from channels.wecom.config import AppConfig, KfConfig, MemberConfig, WecomConfig
from channels.wecom.crypto import CallbackRefused, Crypto

NOW_MS = 1_795_000_000_000
NOW_S = NOW_MS // 1_000
CREDENTIALS = {
    "corp_id": "wwcorp",
    "secret": "s",
    "callback_token": "tok3n",
    "callback_key": "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
}
APP = AppConfig(agent_id=1_000_002, **CREDENTIALS)
CRYPTO = Crypto(APP.callback_token, APP.callback_key, APP.corp_id)


def event_xml(name: str = "change_external_contact", **fields: str) -> str:
    inner = "".join(f"<{key}><![CDATA[{value}]]></{key}>" for key, value in fields.items())
    return (
        "<xml><ToUserName><![CDATA[wwcorp]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>"
        f"<CreateTime>{NOW_S - 1}</CreateTime><MsgType><![CDATA[event]]></MsgType>"
        f"<Event><![CDATA[{name}]]></Event>{inner}</xml>"
    )


def posted(
    message: str | bytes,
    *,
    crypto: Crypto = CRYPTO,
    at_s: int | str = NOW_S,
    salt: bytes = bytes(16),
    **changed: str,
) -> Callback:
    """As WeCom posts it; `changed` replaces what the query says."""
    message = message.encode() if isinstance(message, str) else message
    encrypted = crypto.encrypt(message, salt)
    body = (
        "<xml><ToUserName><![CDATA[wwcorp]]></ToUserName>"
        f"<AgentID><![CDATA[1000002]]></AgentID><Encrypt><![CDATA[{encrypted}]]></Encrypt></xml>"
    )
    query = {"timestamp": str(at_s), "nonce": "n0nce"}
    query["msg_signature"] = crypto.sign(query["timestamp"], "n0nce", encrypted)
    return Callback("POST", query | changed, {}, body.encode())


def checked(echo: str, **changed: str) -> Callback:
    """As WeCom checks a URL."""
    encrypted = CRYPTO.encrypt(echo.encode(), bytes(16))
    query = {"timestamp": str(NOW_S), "nonce": "n0nce", "echostr": encrypted}
    query["msg_signature"] = CRYPTO.sign(query["timestamp"], "n0nce", encrypted)
    return Callback("GET", query | changed, {}, b"")


def told(callback: Callback, config: WecomConfig = APP) -> Event:
    event = answer(config, callback, NOW_MS)
    assert isinstance(event, Event), event
    return event


def status(callback: Callback, config: WecomConfig = APP) -> int:
    reply = answer(config, callback, NOW_MS)
    assert isinstance(reply, Reply), reply
    return reply.status


def test_the_check_of_a_url_is_answered_with_the_plain_text() -> None:
    assert answer(APP, checked("1616140317555161061"), NOW_MS) == Reply(body=b"1616140317555161061")


def test_a_plus_that_was_not_quoted_is_one_all_the_same() -> None:
    callback = checked("x" * 60)
    assert "+" in callback.query["echostr"]
    unquoted = {name: value.replace("+", " ") for name, value in callback.query.items()}
    assert answer(APP, Callback("GET", unquoted, {}, b""), NOW_MS) == Reply(body=b"x" * 60)


def test_an_event_is_told_with_all_that_it_says() -> None:
    fields = {
        "ChangeType": "add_external_contact",
        "UserID": "li",
        "WelcomeCode": "W-1",
        "State": "a&b",
    }
    event = told(posted(event_xml(**fields)))
    assert (event.name, event.change) == ("change_external_contact", "add_external_contact")
    assert event.at_ms == (NOW_S - 1) * 1_000
    assert fields.items() <= event.fields.items()
    assert Event.decode(event.encode()) == event
    assert "li" not in repr(event) and "W-1" not in repr(event)


def test_what_a_member_wrote_is_known_by_its_own_id() -> None:
    message = event_xml().replace("event]", "text]", 1).replace("</xml>", "<MsgId>77</MsgId></xml>")
    event = told(posted(message))
    assert (event.name, event.change, event.id) == ("message", "text", "message-77")


def test_a_repeat_has_the_id_of_the_first_and_nothing_else_has() -> None:
    first = told(posted(event_xml("kf_msg_or_event", Token="T1", OpenKfId="wk1")))
    again = told(posted(event_xml("kf_msg_or_event", Token="T1", OpenKfId="wk1"), salt=b"1" * 16))
    other = told(posted(event_xml("kf_msg_or_event", Token="T2", OpenKfId="wk1")))
    assert first.id == again.id != other.id
    assert len(first.id) <= 128


def test_lists_are_told_too_and_no_time_is_later_than_now() -> None:
    message = event_xml("change_external_chat", ChatId="wr1").replace(
        "</xml>",
        "<MemChangeList><Item>a</Item><Item>b</Item></MemChangeList></xml>",
    )
    event = event_of(message.replace(str(NOW_S - 1), str(NOW_S + 99)).encode(), NOW_MS)
    assert event.fields["MemChangeList.Item"] == "a\nb"
    assert event.at_ms == NOW_MS


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
OTHER_KEY = Crypto(APP.callback_token, APP.callback_key[::-1], APP.corp_id)
OTHER_CORP = Crypto(APP.callback_token, APP.callback_key, "ww2")
GOOD = posted(event_xml())
CUT_OFF = GOOD.body.replace(b"]]></Encrypt>", b"x]]></Encrypt>")
STRANGE = b'<?xml version="1.0" encoding="x"?><xml/>'


@pytest.mark.parametrize(
    ("what", "callback", "expected"),
    [
        ("no signature", posted(event_xml(), msg_signature=""), 403),
        ("a forged signature", posted(event_xml(), msg_signature="0" * 40), 403),
        ("another nonce", posted(event_xml(), nonce="other"), 403),
        ("another time", posted(event_xml(), timestamp=str(NOW_S - 1)), 403),
        ("no query", Callback("POST", {}, {}, GOOD.body), 403),
        ("a replay", posted(event_xml(), at_s=NOW_S - AGE_S - 1), 403),
        ("from the future", posted(event_xml(), at_s=NOW_S + AGE_S + 1), 403),
        ("a time that is none", posted(event_xml(), at_s="now"), 403),
        ("a time of digits of another script", posted(event_xml(), at_s="١٧٩٥٠٠٠٠٠٠"), 403),
        ("a signed time beyond all", posted(event_xml(), at_s="9" * 5_000), 403),
        (
            "another receiver",
            posted(event_xml(), crypto=Crypto("tok3n", APP.callback_key, "ww2")),
            403,
        ),
        ("another key", posted(event_xml(), crypto=OTHER_KEY), 400),
        ("entities outside", replace(GOOD, body=ENTITIES.encode() + GOOD.body), 400),
        ("entities inside", posted(ENTITIES + event_xml(UserID="x")), 400),
        ("a file inside", posted(FILE + "<xml><Event>&a;</Event></xml>"), 400),
        ("a document type alone", posted("<!DOCTYPE x>" + event_xml()), 400),
        (
            "base64 cut off",
            replace(GOOD, body=CUT_OFF),
            403,
        ),
        ("no XML", replace(GOOD, body=b"{}"), 400),
        ("nothing", replace(GOOD, body=b""), 400),
        ("XML cut off", replace(GOOD, body=GOOD.body[:-5]), 400),
        ("not UTF-8", replace(GOOD, body=b"<xml>\xff</xml>"), 400),
        (
            "an unknown encoding",
            replace(GOOD, body=STRANGE),
            403,
        ),
        ("too long", replace(GOOD, body=GOOD.body + b" " * BODY_BYTES), 413),
        ("too deep", replace(GOOD, body=b"<a>" * 9_000 + b"</a>" * 9_000), 400),
        ("too many elements", replace(GOOD, body=b"<a>" + b"<b/>" * ELEMENTS_MAX + b"</a>"), 400),
        ("no event inside", posted("<xml><MsgType>event</MsgType></xml>"), 400),
        ("no XML inside", posted(b"\xff\xfe"), 400),
        ("another method", Callback("EVENT", {}, {}, b"{}"), 405),
        ("a check without a text", Callback("GET", {}, {}, b""), 403),
        ("a check that is forged", checked("1", echostr="AAAA"), 403),
    ],
)
def test_what_wecom_did_not_send_is_refused(what: str, callback: Callback, expected: int) -> None:
    assert status(callback) == expected


def test_an_account_without_a_key_has_no_callbacks() -> None:
    bare = AppConfig(corp_id="wwcorp", secret="s", agent_id=1)
    assert status(GOOD, bare) == 404


@given(st.binary(max_size=300))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for read in (fields_of, Event.decode, lambda each: event_of(each, NOW_MS)):
        try:
            read(body)
        except CallbackRefused:
            continue  # refused as it should be
    assert isinstance(answer(APP, replace(GOOD, body=body), NOW_MS), Reply)


_WORDS = "<xml> </xml> <a> </a> <a/> <![CDATA[ ]]> <!-- --> &lt; &a; <?p?> \x00 中 x"
_TAGS = "<Event> </Event> <MsgType>event</MsgType> <!DOCTYPE><CreateTime>9</CreateTime>"
_MARKUP = st.lists(st.sampled_from(f"{_WORDS} {_TAGS}".split()), max_size=30).map("".join)


@given(_MARKUP)
def test_any_markup_that_is_signed_is_an_event_or_refused(message: str) -> None:
    assert isinstance(answer(APP, posted(message), NOW_MS), Reply | Event)


@given(
    st.dictionaries(st.sampled_from(["msg_signature", "timestamp", "nonce", "echostr"]), st.text())
)
def test_any_query_is_answered(query: Mapping[str, str]) -> None:
    for method in ("GET", "POST"):
        assert status(Callback(method, query, {}, GOOD.body)) in (400, 403)


# ---- whom it concerns --------------------------------------------------------------------------


def account(name: str, provider: str, settings: WecomConfig) -> AccountConfig:
    return AccountConfig(name=name, channel="wecom", provider=provider, settings=settings)


STRANGERS = {**CREDENTIALS, "corp_id": "ww2"}
ACCOUNTS = {
    each.name: each
    for each in (
        account("app", "wecom-app", APP),
        account("kf", "wecom-kf", KfConfig(app="app", open_kfid="wk1", **CREDENTIALS)),
        account("li", "wecom-member", MemberConfig(app="app", userid="li", **CREDENTIALS)),
        account(
            "stranger",
            "wecom-member",
            MemberConfig(userid="li", **{**CREDENTIALS, "corp_id": "ww2"}),
        ),
    )
}


@pytest.mark.parametrize(
    ("event", "fields", "by", "expected"),
    [
        ("kf_msg_or_event", {"OpenKfId": "wk1", "Token": "t"}, "app", ["kf"]),
        ("kf_msg_or_event", {"OpenKfId": "wk9", "Token": "t"}, "app", []),
        (
            "change_external_contact",
            {"UserID": "li", "ChangeType": "del_follow_user"},
            "app",
            ["li"],
        ),
        ("change_external_contact", {"UserID": "Li", "ChangeType": "x"}, "app", ["li"]),
        ("change_external_contact", {"UserID": "wang", "ChangeType": "x"}, "app", []),
        ("change_external_chat", {"ChatId": "wr1", "Owner": "li"}, "app", ["li"]),
        ("change_external_chat", {"ChatId": "wr1", "Owner": "wang"}, "app", ["app"]),
        ("change_external_chat", {"ChatId": "wr1"}, "kf", ["app"]),
        ("an_event_of_tomorrow", {}, "app", ["app"]),
        ("an_event_of_tomorrow", {}, "stranger", ["stranger"]),
    ],
)
def test_an_event_goes_to_the_account_that_it_concerns(
    event: str, fields: dict[str, str], by: str, expected: list[str]
) -> None:
    config = ACCOUNTS[by].settings
    crypto = Crypto(config.callback_token, config.callback_key, config.corp_id)
    callback = posted(event_xml(event, **fields), crypto=crypto)
    concerned = Directory(ACCOUNTS).targets(ACCOUNTS[by], callback, NOW_MS)
    assert isinstance(concerned, list)
    assert [name for name, _ in concerned] == expected
    for _, callback in concerned:
        assert callback.method == "EVENT"
        assert Event.decode(callback.body).name == event


def test_a_reply_goes_to_nobody() -> None:
    directory = Directory(ACCOUNTS)
    assert directory.targets(ACCOUNTS["app"], checked("7"), NOW_MS) == Reply(body=b"7")
    refused = directory.targets(ACCOUNTS["app"], posted(event_xml(), nonce="x"), NOW_MS)
    assert isinstance(refused, Reply) and refused.status == 403
