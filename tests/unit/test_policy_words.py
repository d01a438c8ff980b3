"""Normalised text, words in it, and what a conversation remembers for its windows."""

from __future__ import annotations

import sys
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from hub import limits
from hub.policy import windows
from hub.policy.document import parse_policy
from hub.policy.normal import normalised
from hub.policy.policy import Policy
from hub.policy.state import ConversationState, Send, pack_state, unpack_state, window_key
from hub.policy.talks import Words as Table
from hub.policy.words import Words
from tests.support.reference_parts import bare
from tests.support.strategies import PIECES, SPELLINGS

NOW = 1_792_900_000_000


# ---- normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Casino", "casino"),
        ("C.a-s_i n\to", "casino"),
        ("ＣＡＳＩＮＯ", "casino"),
        ("c\u200ba\u2060s\ufeffi\u00adn\u034fo", "casino"),
        ("赌\u3000博、赌｜博", "赌博赌博"),
        ("Straße", "strasse"),
        ("e\u0301", "é"),
        ("e\ufe0f\u0301", "é"),
        ("①²½", "1212"),
        ("$1+1=2€", "112"),
        ("🎰\ufe0f!", "🎰"),
        ("ก็", "ก็"),
        ("\u3164\uffa0\u115f", ""),
        ("...", ""),
    ],
)
def test_what_is_left_of_a_text(text: str, left: str) -> None:
    assert normalised(text) == left


@given(st.text(max_size=40))
def test_normalising_is_what_the_manual_says_and_twice_is_once(text: str) -> None:
    assert normalised(text) == bare(text)
    assert normalised(normalised(text)) == normalised(text)


def test_every_character_alone_is_normalised_as_the_manual_says() -> None:
    different = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs", "Lo")
        and normalised(chr(code)) != bare(chr(code))
    ]
    assert different == []


# ---- words ---------------------------------------------------------------------------------------


def found_in(rules: list[list[str]], text: str) -> list[str]:
    tables = [Table(name=str(index), words=listed, on="drop") for index, listed in enumerate(rules)]
    return [rule.name for rule in Words(tables).found(text)]


PROSE = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
LISTS = st.lists(
    st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=5), min_size=1, max_size=4
)


@given(LISTS, PROSE)
def test_one_pass_finds_what_looking_for_each_word_finds(rules: list[list[str]], text: str) -> None:
    wanted = [
        str(index)
        for index, listed in enumerate(rules)
        if any(bare(word) in bare(text) for word in listed)
    ]
    assert found_in(rules, text) == wanted


@given(
    st.lists(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1), min_size=1, max_size=3),
    st.text("ab", max_size=12),
)
def test_words_inside_words_hide_nothing(rules: list[list[str]], text: str) -> None:
    wanted = [str(i) for i, listed in enumerate(rules) if any(word in text for word in listed)]
    assert found_in(rules, text) == wanted


@pytest.mark.parametrize("before", [0, 4_090, 4_093, 4_096, 8_190, 9_000])
def test_a_word_is_found_wherever_it_lies_in_a_long_text(before: int) -> None:
    rules = [["casino"], ["never said"], ["x" * limits.WORD_CHARS]]
    assert found_in(rules, "y" * before + "casino" + "y" * 5_000) == ["0"]
    assert found_in(rules, "y" * before + "x" * limits.WORD_CHARS + "y" * 5_000) == ["2"]


def test_alerts_are_of_rules_for_everybody_on_that_channel() -> None:
    tables = [
        Table(name="all", words=["a"], alert="quality"),
        Table(name="silent", words=["a"], on="drop"),
        Table(name="sms", words=["a"], alert="quality", channels=["sms"]),
        Table(name="ads", words=["a"], alert="quality", categories=["ad"]),
        Table(name="shop", words=["a"], alert="quality", apps=["shop"]),
        Table(name="b", words=["b"], alert="quality"),
    ]
    content = {"text": Raw(b'"A"'), "voice": Raw(b'{"media_id": "b", "n": [1, null, true]}')}
    assert [rule.name for rule in Words(tables).alerts("wecom", content)] == ["all"]
    assert [rule.name for rule in Words(tables).alerts("sms", content)] == ["all", "sms"]


def test_a_rule_that_only_alerts_stops_nothing() -> None:
    words = Words([Table(name="x", words=["a"], alert="quality")])
    assert words.blocks("shop", "ad", ["sms"], {"text": Raw(b'"a"')}) == ()
    assert [rule.name for rule in words.found("a")] == ["x"]


# ---- windows -------------------------------------------------------------------------------------

POLICY = Policy(
    parse_policy(
        """
version = 1
timezone = "UTC"
[categories.note]
route = ["wecom"]
[[windows]]
name = "win"
channels = ["wecom"]
on = "hold"
"""
    )
)
HERE = window_key("wecom", "ann")


def send(at: int, channel: str = "wecom", account: str = "ann") -> Send:
    return Send(at, f"{channel} shop note", account, b"8 bytes.")


def test_a_message_that_comes_late_is_followed_by_what_was_sent_after_it() -> None:
    operation = Send(NOW - 5, "wecom shop ", "ann", b"8 bytes.")
    other = send(NOW - 20, account="bob")
    state = ConversationState(sends=[operation, send(NOW - 10), other, send(NOW - 50)])
    windows.wrote(POLICY, state, "wecom", "ann", NOW - 50, NOW)
    assert state.windows == {HERE: [NOW - 50, 1]}
    windows.wrote(POLICY, state, "wecom", "ann", NOW - 60, NOW)  # older than what is known
    assert state.windows == {HERE: [NOW - 50, 1]}
    windows.sent(state, "wecom", "ann")
    windows.sent(state, "wecom", "bob")
    assert state.windows == {HERE: [NOW - 50, 2]}
    windows.wrote(POLICY, state, "wecom", "ann", NOW + 10, NOW)  # a provider's clock may be fast
    assert state.windows == {HERE: [NOW, 0]}


def test_nothing_is_remembered_for_channels_without_windows() -> None:
    state = ConversationState()
    windows.wrote(POLICY, state, "sms", "ann", NOW, NOW)
    assert state == ConversationState()


def test_of_many_accounts_those_written_to_last_are_remembered() -> None:
    state = ConversationState()
    for number in range(limits.CONVERSATION_ACCOUNTS + 1):
        windows.wrote(POLICY, state, "wecom", f"a{number}", NOW + number, NOW + number)
    windows.wrote(POLICY, state, "wecom", "a1", NOW + 99, NOW + 99)
    assert len(state.windows) == limits.CONVERSATION_ACCOUNTS
    assert "wecom a0" not in state.windows


# ---- at rest -------------------------------------------------------------------------------------


def test_what_is_not_used_takes_one_byte_at_rest() -> None:
    state = ConversationState(zone="UTC", to={"sms": "+1"}, sends=[send(NOW)])
    assert pack_state(state)[-1:] == msgspec.msgpack.encode(None)
    assert unpack_state(pack_state(state)) == state


@pytest.mark.parametrize("field", ["windows", "replied", "waiting"])
def test_what_is_used_is_kept(field: str) -> None:
    used = {"replied": {"price": NOW}}.get(field, {HERE: [NOW, 1]})
    state = ConversationState()
    getattr(state.talking(), field).update(used)
    assert unpack_state(pack_state(state)) == state
    getattr(state, field).clear()
    state.talked()
    assert state == ConversationState()
