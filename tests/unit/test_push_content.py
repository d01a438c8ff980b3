"""What applications write for push: what is taken, what is refused, and in which words."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from channels.provider import Unsendable
from channels.push.content import Note, collapse_id, high, merged, read, ttl_s
from tests.support.push_fcm import delivery
from tests.support.sms_web import NOW_MS


def _read(content: Any, provider: str = "fcm") -> Note:
    return read(Raw(msgspec.json.encode(content)), provider)


def test_all_that_can_be_said() -> None:
    content = {
        "text": "Hello",
        "title": "Shop",
        "data": {"order": 7, "paid": True, "sum": 1.5, "name": "包裹"},
        "image": "https://example.com/a.png",
        "link": "app://order/7",
        "sound": "ding",
        "badge": 3,
        "silent": False,
        "fcm": {"android": {"restricted_package_name": "com.shop"}},
        "apns": {"topic": "com.shop"},
    }
    note = _read(content)
    assert note.data == {"order": "7", "paid": "true", "sum": "1.5", "name": "包裹"}
    assert (note.title, note.text, note.link, note.badge) == ("Shop", "Hello", "app://order/7", 3)
    assert note.own == content["fcm"]
    assert _read(content, "apns").own == content["apns"]
    assert _read(content, "webpush").own == _read(content, "apprise").own == {}
    assert "Hello" not in repr(note)


@pytest.mark.parametrize(
    "content",
    [
        {"silent": True},
        {"silent": True, "data": {"sync": "orders"}},
        {"fcm": {"notification": {"title_loc_key": "ORDER"}}},
    ],
)
def test_text_may_be_missing(content: dict[str, Any]) -> None:
    assert _read(content).text == ""


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        (b"{", "not JSON", "not-json"),
        (b'"text"', "Expected `object`", "wrong-type"),
        (b"{}", "must have text", "no-text"),
        (b'{"text": "  "}', "must have text", "no-text"),
        (b'{"apns": {"topic": "a"}}', "must have text", "no-text"),  # of another provider
        (b'{"fcm": {}}', "must have text", "no-text"),
        (b'{"text": 7}', "$.text", "wrong-type"),
        (b'{"text": "a", "hush-hush": 1}', "unknown key; allowed: text, title", "unknown-key"),
        (b'{"text": "a", "data": {"hush-hush": null}}', "$.data[...]", "wrong-type"),
        (b'{"text": "a", "data": {"k": 9223372036854775808}}', "$.data[...]", "wrong-type"),
        (b'{"text": "a", "badge": -1}', "$.badge", "wrong-type"),
        (b'{"text": "a", "fcm": []}', "fcm must be an object", "fcm-table"),
        (b'{"text": "a", "fcm": null}', "fcm must be an object", "fcm-table"),
        (
            b'{"text": "a", "fcm": ' + b'{"a":' * 17 + b"1" + b"}" * 17 + b"}",
            "16 levels",
            "fcm-table",
        ),
        (b'{"text": "\\ud83d"}', "not JSON", "not-json"),
        (b'{"text": "\xff"}', "not JSON", "not-json"),
    ],
)
def test_what_is_refused_says_why_and_quotes_nothing(content: bytes, words: str, code: str) -> None:
    with pytest.raises(Unsendable) as refused:
        read(Raw(content), "fcm")
    assert words in refused.value.message
    assert "hush" not in refused.value.message
    assert (refused.value.failure, refused.value.provider_code) == ("rejected_content", code)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(Unsendable):
        read(Raw(content), "fcm")


def test_a_collapse_id_is_short_and_says_nothing() -> None:
    one = collapse_id(delivery(collapse_key="order 7 of Zoë"))
    assert len(one) == 27
    assert one.isascii()
    assert one == collapse_id(delivery(collapse_key="order 7 of Zoë", id="shop:order-2:1"))
    assert one != collapse_id(delivery(collapse_key="order 8 of Zoë"))
    assert one != collapse_id(delivery(collapse_key="order 7 of Zoë", app="bank"))
    assert collapse_id(delivery()) == ""


def test_priorities_from_six_on_wake_a_device() -> None:
    assert [high(delivery(priority=one)) for one in (0, 5, 6, 9)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("expires_ms", "seconds"),
    [(NOW_MS + 90_999, 90), (NOW_MS + 999, 0), (NOW_MS - 5_000, 0), (NOW_MS * 2, 600), (0, 600)],
)
def test_a_time_to_live_is_never_negative_nor_more_than_is_allowed(
    expires_ms: int, seconds: int
) -> None:
    assert ttl_s(expires_ms, NOW_MS, 600) == seconds


def test_tables_are_merged_table_in_table() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": {"z": 3}, "c": 4}
    over = {"a": {"y": None, "w": {"v": 5}}, "b": None, "c": {"u": 6}}
    assert merged(base, over) == {"a": {"x": 1, "w": {"v": 5}}, "c": {"u": 6}}
    assert base["a"] == {"x": 1, "y": 2}
