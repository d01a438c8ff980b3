"""What a message for WeCom may say, and what WeCom is then given."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.provider import Unsendable
from channels.wecom.content import ContentLimits, Kind, asks, is_command, render

URL = "https://example.com/a"
KINDS: tuple[Kind, ...] = get_args(Kind)
ARTICLE = {"title": "t", "url": URL}
CARD = {"card_type": "text_notice", "main_title": {"title": "t"}, "card_action": {"type": 1}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_text_works_everywhere(kind: Kind) -> None:
    sent = render({"text": "您好"}, kind)
    assert sent["text"] == {"content": "您好"}
    assert sent.get("msgtype") == (None if kind == "external" else "text")
    assert sent == render({"text": {"content": "您好"}}, kind)
    assert sent == render({"msgtype": "text", "text": "您好"}, kind)


@pytest.mark.parametrize(
    ("kind", "content", "sent"),
    [
        ("app", {"markdown": "**b**"}, {"markdown": {"content": "**b**"}}),
        ("app", {"image": "M"}, {"image": {"media_id": "M"}}),
        ("app", {"file": {"media_id": "M"}}, {"file": {"media_id": "M"}}),
        ("app", {"news": [ARTICLE]}, {"news": {"articles": [ARTICLE]}}),
        (
            "app",
            {"news": {"articles": [{"title": "t", "appid": "wx", "pagepath": "p"}]}},
            {"news": {"articles": [{"title": "t", "appid": "wx", "pagepath": "p"}]}},
        ),
        (
            "app",
            {
                "miniprogram_notice": {
                    "appid": "wx",
                    "title": "订单状态",
                    "emphasis_first_item": True,
                    "content_item": [{"key": "k", "value": "v"}],
                }
            },
            {
                "miniprogram_notice": {
                    "appid": "wx",
                    "title": "订单状态",
                    "emphasis_first_item": 1,
                    "content_item": [{"key": "k", "value": "v"}],
                }
            },
        ),
        ("app", {"template_card": CARD}, {"template_card": CARD}),
        ("app", {"text": "t", "safe": 1}, {"text": {"content": "t"}, "safe": 1}),
        (
            "app",
            {"text": "t", "duplicate_check": 60},
            {
                "text": {"content": "t"},
                "enable_duplicate_check": 1,
                "duplicate_check_interval": 60,
            },
        ),
        ("kf", {"location": {"latitude": 1.5, "longitude": -2}}, None),
        (
            "kf",
            {"msgmenu": [{"click": {"id": "1", "content": "yes"}}, {"text": "or not"}]},
            {
                "msgmenu": {
                    "list": [
                        {"type": "click", "click": {"id": "1", "content": "yes"}},
                        {"type": "text", "text": {"content": "or not"}},
                    ]
                }
            },
        ),
        ("kf", {"link": {"title": "t", "url": URL, "thumb_media_id": "M"}}, None),
        ("event", {"msgmenu": {"head_content": "?", "list": [{"text": "a"}]}}, "msgmenu"),
    ],
)
def test_messages_are_given_as_wecom_wants_them(
    kind: Kind, content: dict[str, Any], sent: Any
) -> None:
    found = render(content, kind)
    name = found.pop("msgtype")
    assert name in content
    if isinstance(sent, dict):
        assert found == sent
    elif sent is None:
        assert found == content


def test_mass_messages_have_a_text_and_attachments_in_either_spelling() -> None:
    link = {"title": "t", "url": URL}
    whole = {
        "text": {"content": "hi"},
        "attachments": [
            {"msgtype": "image", "image": {"media_id": "M"}},
            {"msgtype": "link", "link": link},
        ],
    }
    assert render(whole, "external") == whole
    assert render({"text": "hi", "image": "M", "link": link}, "external") == whole
    assert render({"text": "hi", "attachments": [{"image": "M"}, {"link": link}]}, "external") == (
        whole
    )
    assert render({"image": {"pic_url": URL}}, "external") == {
        "attachments": [{"msgtype": "image", "image": {"pic_url": URL}}]
    }


@pytest.mark.parametrize(
    ("kind", "content", "problem"),
    [
        ("app", {}, "must have one of"),
        ("app", {"text": "a", "image": "M"}, "must have one of"),
        ("app", {"text": " \n"}, "not empty"),
        ("app", {"text": "汉" * 683}, "longer than 2048 bytes"),
        ("kf", {"text": "汉" * 683}, "longer than 2048 bytes"),
        ("external", {"text": "汉" * 1_334}, "longer than 4000 bytes"),
        ("external", {"text": "汉" * 683}, ""),
        ("app", {"text": "\ud800"}, "not valid Unicode"),
        ("app", {"text": "t", "colour": "red"}, "not known"),
        ("app", {"msgtype": "image", "text": "t"}, "msgtype"),
        ("app", {"op": "group.create"}, "command"),
        ("app", {"news": [ARTICLE] * 9}, "1 to 8"),
        ("app", {"news": [{"title": "t"}]}, "url or appid and pagepath"),
        ("app", {"news": [{"title": "t", "url": "javascript:x"}]}, "http"),
        ("app", {"template_card": {"card_type": "other"}}, "card_type"),
        ("app", {"template_card": {**CARD, "task_id": "a b"}}, "task_id"),
        ("app", {"text": "t", "duplicate_check": 14_401}, "14400"),
        ("app", {"msgmenu": [{"text": "a"}]}, "not known"),
        ("appchat", {"template_card": CARD}, "not known"),
        ("appchat", {"text": "t", "duplicate_check": 60}, "not known"),
        ("event", {"image": "M"}, "not known"),
        ("kf", {"msgmenu": [{"text": "a"}] * 11}, "1 to 10"),
        ("kf", {"msgmenu": [{"type": "view", "text": "a"}]}, "type its name"),
        ("kf", {"location": {"latitude": 91, "longitude": 0}}, "-90 to 90"),
        ("kf", {"location": {"latitude": float("nan"), "longitude": 0}}, "-90 to 90"),
        ("kf", {"image": {"media_id": 5}}, "must be a text"),
        ("external", {"attachments": [{"image": "M"}] * 10}, "more than 9"),
        ("external", {"image": {}}, "media_id or pic_url"),
        ("external", {"markdown": "m"}, "not known"),
        ("external", {"attachments": []}, "text or attachments"),
    ],
)
def test_what_wecom_would_refuse_or_cut_is_not_sent(
    kind: Kind, content: dict[str, Any], problem: str
) -> None:
    if not problem:
        assert render(content, kind)
        return
    with pytest.raises(Unsendable, match=problem) as caught:
        render(content, kind)
    assert caught.value.failure == "rejected_content"


def test_limits_are_configuration() -> None:
    limits = ContentLimits(text=4, articles=1)
    assert render({"text": "abcd"}, "app", limits)
    for content in ({"text": "abcde"}, {"news": [ARTICLE, ARTICLE]}):
        with pytest.raises(Unsendable):
            render(content, "app", limits)


def test_cards_that_members_answer_and_commands_are_told_apart() -> None:
    asking = {**CARD, "card_type": "button_interaction"}
    assert asks(render({"template_card": asking}, "app"))
    assert not asks(render({"template_card": CARD}, "app"))
    assert not asks(render({"text": "t"}, "app"))
    assert is_command({"op": "group.dissolve"})


_NAMES = (
    *("text", "content", "image", "media_id", "news", "articles", "title", "url", "op", "safe"),
    *("template_card", "card_type", "msgmenu", "list", "click", "attachments", "link", "latitude"),
    *("location", "x"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "text",
                    "content",
                    "image",
                    "media_id",
                    "news",
                    "articles",
                    "title",
                    "url",
                    "template_card",
                    "card_type",
                    "msgmenu",
                    "list",
                    "click",
                    "attachments",
                    "link",
                    "op",
                    "safe",
                    "location",
                    "latitude",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(content=_JSON, kind=st.sampled_from(KINDS))
def test_any_content_is_rendered_or_refused_without_a_word_of_it(content: Any, kind: Kind) -> None:
    try:
        sent = render(content, kind)
    except Unsendable as error:
        assert error.failure == "rejected_content"
    else:
        assert msgspec.json.decode(msgspec.json.encode(sent)) == sent


def test_refusals_do_not_quote() -> None:
    for content in ({"secret-key": 1}, {"text": "secret" * 500}, {"image": {"secret-key": "s"}}):
        with pytest.raises(Unsendable) as caught:
            render(content, "app")
        assert "secret" not in str(caught.value)
