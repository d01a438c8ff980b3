"""What sync_msg gives, item by item, as what the hub understands; and any JSON whatever."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.wecom.kf_messages import (
    CONTENT_BYTES,
    TYPES,
    PageUnreadable,
    Understood,
    page_of,
    understood,
)
from hub.contract.times import rfc3339

NOW_MS = 1_790_000_000_000
SENT_S = NOW_MS // 1_000 - 60
AT_MS = SENT_S * 1_000
CUSTOMER = "wmAbc_-1"


def message(kind: str, body: Any, **more: Any) -> dict[str, Any]:
    given = {"msgid": "m1", "open_kfid": "wk1", "external_userid": CUSTOMER, "send_time": SENT_S}
    return given | {"origin": 3, "msgtype": kind, kind: body} | more


def event(name: str, customer: str = CUSTOMER, **fields: Any) -> dict[str, Any]:
    body = {"event_type": name, "open_kfid": "wk1", "external_userid": customer, **fields}
    return {"msgid": "e1", "send_time": SENT_S, "origin": 4, "msgtype": "event", "event": body}


def read(item: Any) -> Understood:
    return understood(item, NOW_MS)


@pytest.mark.parametrize(
    ("item", "content"),
    [
        (message("text", {"content": "你好"}), {"text": "你好"}),
        (message("text", {"content": "Yes", "menu_id": "7"}), {"text": "Yes", "menu_id": "7"}),
        (message("image", {"media_id": "M"}), {"image": {"media_id": "M"}}),
        (message("voice", {"media_id": "M"}), {"voice": {"media_id": "M"}}),
        (message("video", {"media_id": "M"}), {"video": {"media_id": "M"}}),
        (message("file", {"media_id": "M"}), {"file": {"media_id": "M"}}),
        (
            message(
                "location", {"latitude": 23.1, "longitude": 113.3, "name": "n", "address": "a"}
            ),
            {"location": {"latitude": 23.1, "longitude": 113.3, "name": "n", "address": "a"}},
        ),
        (message("link", {"title": "t", "url": "u"}), {"link": {"title": "t", "url": "u"}}),
        (message("business_card", {"userid": "zhang"}), {"business_card": {"userid": "zhang"}}),
        (message("miniprogram", {"appid": "wx"}), {"miniprogram": {"appid": "wx"}}),
        (
            message("msgmenu", {"head_content": "h", "list": [{"type": "click"}]}),
            {"msgmenu": {"head_content": "h", "list": [{"type": "click"}]}},
        ),
        (
            message("merged_msg", {"title": "t", "item": [{"msgtype": "text"}]}),
            {"merged_msg": {"title": "t", "item": [{"msgtype": "text"}]}},
        ),
        (message("channels", {"sub_type": 1}), {"channels": {"sub_type": 1}}),
        (message("hologram", {"media_id": "M"}), {"unsupported": "hologram"}),
        (message("image", "M"), {"unsupported": "image"}),
        (
            message("merged_msg", {"title": "x" * CONTENT_BYTES}),
            {"unsupported": "merged_msg", "reason": "too large"},
        ),
        (message("text", {"content": "a\ud83d"}), {"text": "a?"}),
    ],
    ids=lambda value: value.get("msgtype") if isinstance(value, dict) else None,
)
def test_a_message_becomes_content(item: dict[str, Any], content: dict[str, Any]) -> None:
    (inbound,) = read(item).inbound
    assert inbound.content == content
    assert (inbound.id, inbound.sender, inbound.at_ms) == ("m1", CUSTOMER, AT_MS)
    assert inbound.agent == ""


@pytest.mark.parametrize("kind", sorted(TYPES - {"text"}))
def test_every_type_is_passed_on_as_it_is(kind: str) -> None:
    assert read(message(kind, {"k": [1, {"a": None}]})).inbound[0].content == {
        kind: {"k": [1, {"a": None}]}
    }


def test_a_member_who_writes_is_named_and_refuses_nothing() -> None:
    said = read(message("text", {"content": "退订"}, origin=5, servicer_userid="li"))
    assert (said.inbound[0].agent, said.inbound[0].opt_out) == ("li", False)
    # Whoever it was, it was not the customer.
    assert read(message("text", {"content": "hi"}, origin=5)).inbound[0].agent


@pytest.mark.parametrize(
    ("text", "refusal"),
    [("退订", True), (" t d ", True), ("N", False), ("我不想退订", False), ("", False)],
)
def test_words_of_refusal(text: str, refusal: bool) -> None:
    assert read(message("text", {"content": text})).inbound[0].opt_out is refusal


UNTIL = rfc3339(AT_MS + 48 * 3_600_000)


@pytest.mark.parametrize(
    ("item", "content", "command"),
    [
        (
            event("enter_session", scene="123", scene_param="a=b", welcome_code="WC"),
            {
                "event": "session_opened",
                "scene": "123",
                "scene_param": "a=b",
                "welcome_code": "WC",
                "welcome_until": rfc3339(AT_MS + 20_000),
            },
            None,
        ),
        (event("enter_session", scene=""), {"event": "session_opened"}, None),
        (
            event("session_status_change", change_type=1, new_servicer_userid="li", msg_code="C"),
            {
                "event": "session_changed",
                "state": "human",
                "change": "accepted",
                "agent": "li",
                "code": "C",
            },
            ("takeover", {"agent": "li", "until": UNTIL}),
        ),
        (
            event(
                "session_status_change",
                change_type=2,
                old_servicer_userid="li",
                new_servicer_userid="wu",
            ),
            {
                "event": "session_changed",
                "state": "human",
                "change": "transferred",
                "agent": "wu",
                "from_agent": "li",
            },
            ("takeover", {"agent": "wu", "until": UNTIL}),
        ),
        (
            event("session_status_change", change_type=3, old_servicer_userid="wu", msg_code="E"),
            {
                "event": "session_changed",
                "state": "ended",
                "change": "ended",
                "from_agent": "wu",
                "code": "E",
            },
            ("release", {}),
        ),
        (
            event("session_status_change", change_type=4, new_servicer_userid="wu"),
            {"event": "session_changed", "state": "human", "change": "reopened", "agent": "wu"},
            ("takeover", {"agent": "wu", "until": UNTIL}),
        ),
        (
            event("session_status_change", change_type=99),
            {"event": "session_changed", "state": "unknown"},
            None,
        ),
        (
            event("user_recall_msg", recall_msgid="m0"),
            {"event": "message_recalled", "message": "m0"},
            None,
        ),
        (
            event("servicer_recall_msg", recall_msgid="m0", servicer_userid="li"),
            {"event": "message_recalled", "message": "m0", "agent": "li"},
            None,
        ),
        (event("moon_landing", x=1), {"event": "event_unknown", "name": "moon_landing"}, None),
    ],
)
def test_an_event_becomes_what_follows_from_it(
    item: dict[str, Any], content: dict[str, Any], command: tuple[str, dict[str, Any]] | None
) -> None:
    lead = read(item)
    assert lead.inbound[0].content == content
    assert not lead.inbound[0].opt_out
    assert [(one.op, one.fields) for one in lead.commands] == ([command] if command else [])
    assert all(one.sender == CUSTOMER for one in (*lead.inbound, *lead.commands))
    assert not lead.receipts


@pytest.mark.parametrize(("switch", "opt_out"), [(1, True), (0, False)])
def test_a_refusal_is_an_opt_out_and_its_end_lifts_nothing(switch: int, opt_out: bool) -> None:
    lead = read(event("reject_customer_msg_switch_change", reject_switch=switch))
    (told,) = lead.inbound
    assert (told.content["event"], told.content["rejected"]) == ("rejected_by_customer", opt_out)
    assert told.opt_out is opt_out
    assert not lead.commands


@pytest.mark.parametrize(
    ("fail_type", "failure"),
    [
        (0, "provider"),
        (1, "config"),
        (2, "config"),
        (4, "window_closed"),
        (5, "window_closed"),
        (6, "window_closed"),
        (8, "config"),
        (10, "dead_address"),
        (12, "rejected_content"),
        (13, "rejected_content"),
        (77, "provider"),
        ("6", "provider"),
    ],
)
def test_a_failed_message_gets_its_receipt(fail_type: Any, failure: str) -> None:
    lead = read(event("msg_send_fail", fail_msgid="abc", fail_type=fail_type))
    (receipt,) = lead.receipts
    assert (receipt.status, receipt.provider_id, receipt.failure) == ("failed", "abc", failure)
    assert receipt.at_ms == AT_MS
    assert [one.opt_out for one in lead.inbound] == ([True] if fail_type == 10 else [])


@pytest.mark.parametrize(
    ("item", "counted"),
    [
        (event("servicer_status_change", "", servicer_userid="li"), "kf_servicer_status_change"),
        (event("enter_session", ""), "kf_unreadable"),
        (event("enter_session", "~group"), "kf_unreadable"),
        (message("text", {"content": "x"}, external_userid="a b"), "kf_unreadable"),
        (message("text", {"content": "x"}, external_userid=None), "kf_unreadable"),
        (event("msg_send_fail", fail_type=4), "kf_unreadable"),
        (None, "kf_unreadable"),
        ([], "kf_unreadable"),
        ({}, "kf_unreadable"),
    ],
)
def test_what_concerns_nobody_is_counted(item: Any, counted: str) -> None:
    lead = read(item)
    assert (lead.things, lead.counted) == (0, counted)


@pytest.mark.parametrize("sent", [None, 0, -5, True, "1", SENT_S * 1_000])
def test_a_time_that_is_none_or_to_come_is_now(sent: Any) -> None:
    assert read(message("text", {"content": "x"}, send_time=sent)).inbound[0].at_ms == NOW_MS


def test_ids_are_plain_and_the_same_for_the_same() -> None:
    long = message("text", {"content": "x"}, msgid="x" * 65)
    strange = message("text", {"content": "x"}, msgid="a b")
    without = message("text", {"content": "x"}, msgid=None)
    ids = [read(item).id for item in (long, strange, without)]
    assert ids == [read(item).id for item in (long, strange, without)]
    assert len(set(ids)) == 3
    assert all(len(one) == 32 for one in ids)
    assert read(message("text", {"content": "y"}, msgid=None)).id != ids[2]


@pytest.mark.parametrize(
    "reply",
    [{"msg_list": {}}, {"msg_list": [], "next_cursor": 5}, {"next_cursor": "x" * 2_000}],
)
def test_a_page_that_is_none_is_an_error(reply: dict[str, Any]) -> None:
    with pytest.raises(PageUnreadable):
        page_of(reply, NOW_MS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NAMES = (
    *("msgid", "msgtype", "event", "text", "image", "external_userid", "send_time", "origin"),
    *("event_type", "change_type", "fail_type", "fail_msgid", "new_servicer_userid", "content"),
)
KEYS = st.sampled_from(NAMES)
WORDS = st.sampled_from(
    ["event", "text", "image", "msg_send_fail", "session_status_change", "enter_session", CUSTOMER]
)
ITEMS = st.dictionaries(KEYS, st.dictionaries(KEYS, WORDS | JSON, max_size=6) | WORDS | JSON)


@given(st.lists(ITEMS | JSON, max_size=3))
def test_any_json_is_understood_and_can_be_written(items: list[Any]) -> None:
    page = page_of({"msg_list": items, "next_cursor": "c", "has_more": 1}, NOW_MS)
    assert page.more
    for lead in page.messages:
        assert lead.things <= 2
        assert 0 < lead.at_s <= NOW_MS // 1_000
        for inbound in lead.inbound:
            assert len(msgspec.json.encode(inbound.content)) < 2 * CONTENT_BYTES
            msgspec.msgpack.encode(inbound.content)
