"""What WeCom's codes and tables mean: outcomes, budgets, configuration. No network."""

from __future__ import annotations

import json
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.accounts import AccountConfig
from channels.http import HttpReply, Unanswered
from channels.wecom.budgets import BINS, Gate, Window
from channels.wecom.client import decoded, token_of
from channels.wecom.config import (
    AppConfig,
    KfConfig,
    MemberConfig,
    WecomConfig,
    check,
    filled,
    joined,
)
from channels.wecom.errors import VERDICTS, answer_of, refused, stop_of, verdict_of
from hub.errors import ConfigError
from tests.support.sms_web import NOW_MS, StillClock

# ---- budgets -----------------------------------------------------------------------------------


@given(
    st.lists(st.floats(min_value=0, max_value=40, allow_nan=False), min_size=1, max_size=120),
    st.integers(min_value=1, max_value=20),
)
def test_no_window_is_ever_over_its_limit_and_the_wait_is_right(
    gaps: list[float], limit: int
) -> None:
    window, at_s, calls = Window(60.0), 1_000.0, list[float]()
    for gap in gaps:
        at_s += gap
        wait_s = window.room_in(at_s, limit)
        if wait_s > 0:
            # Not longer than a window and a part, and then there is room.
            assert wait_s <= 60.0 + 60.0 / BINS + 0.001
            assert sum(1 for call in calls if call > at_s - 61.0) >= limit
            at_s += wait_s + 1e-6
            assert window.room_in(at_s, limit) == 0.0
        window.add(at_s)
        calls.append(at_s)
        assert sum(1 for call in calls if call > at_s - 60.0) <= limit


def test_a_gate_counts_nothing_while_it_is_shut() -> None:
    gate = Gate()
    assert [gate.enter(100.0, 2, 100) for _ in range(2)] == [0.0, 0.0]
    assert all(gate.enter(100.0, 2, 100) > 0 for _ in range(1_000))
    assert gate.enter(162.0, 2, 100) == 0.0
    assert [gate.enter(162.0 + 61 * n, 2, 4) > 0 for n in range(1, 4)] == [False, True, True]


# ---- what codes mean ---------------------------------------------------------------------------

CLASSES = {
    "retry": [-1, 45033, 41063],
    "refresh": [40014, 42001, 41001],
    "throttled": [45009],
    "stop": [42009, 40001, 40013, 40056, 48001, 48002, 48004, 50003, 60020, 301002, 301052, 45031],
    "config": [701008, 701016],
    "dead_address": [60111, 81013, 84061, 84084, 40096, 41048, 86001, 86003, 95000, 95004],
    "dead_address of a group": [40050, 86008],
    "window_closed": [95001, 95002, 95013, 95018],
    "expired": [41050, 41051, 41053, 41096],
    "rejected_content": [45002, 45001, 40007, 40058, 85002, 41064, 41065],
    "throttled for good": [41094],
    "provider": [701112, 95016],
    "done": [41093, 86215],
}


@pytest.mark.parametrize(
    ("meaning", "errcode"), [(name, code) for name, codes in CLASSES.items() for code in codes]
)
def test_every_documented_code_means_something(meaning: str, errcode: int) -> None:
    verdict, error = verdict_of(errcode), refused(errcode, api="message/send")
    answer = answer_of(error, StillClock())
    assert verdict.known
    assert bool(stop_of(error)) == (meaning == "stop")
    assert answer.code == str(errcode)
    kinds = {"retry": "retry", "refresh": "retry", "throttled": "throttled", "done": "accepted"}
    assert answer.kind == kinds.get(meaning, "failed")
    failures = {"stop": "config"}
    failure = failures.get(meaning, meaning.partition(" ")[0])
    assert answer.failure == (None if meaning in kinds else failure)


@given(st.one_of(st.integers(), st.sampled_from(sorted(VERDICTS))))
def test_any_code_has_an_answer_and_survives_a_process_border(errcode: int) -> None:
    error = refused(errcode, api="x", until_ms=NOW_MS + 5)
    again = pickle.loads(pickle.dumps(error))
    assert answer_of(again, StillClock()) == answer_of(error, StillClock())
    assert again.verdict == error.verdict
    assert (answer_of(error, StillClock()).kind == "failed") == (
        error.verdict.kind in ("failed", "window")
    )


_KEYS = st.sampled_from(["errcode", "errmsg", "access_token", "expires_in"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text()
_JSON = st.recursive(
    _LEAVES,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(_KEYS, each, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=100) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_reply_is_read_or_unanswered(body: bytes) -> None:
    try:
        said = decoded(HttpReply(200, {}, body))
        token_of(said)
    except Unanswered:
        return
    assert isinstance(said["errcode"], int)


# ---- configuration -----------------------------------------------------------------------------


WK = {"app": "x", "open_kfid": "wk"}


def test_an_account_without_credentials_has_those_of_its_application() -> None:
    app = AppConfig(corp_id="ww", agent_id=7, secret="s", callback_token="t", callback_key="k" * 43)
    kf = KfConfig(app="main", open_kfid="wk1", secret="own", connections=3)
    check(kf)
    full = filled(kf, app)
    assert isinstance(full, KfConfig)
    assert (full.corp_id, full.agent_id, full.secret, full.callback_token) == ("ww", 7, "own", "t")
    assert (full.open_kfid, full.connections) == ("wk1", 3)


def account(name: str, settings: WecomConfig) -> AccountConfig:
    return AccountConfig(name=name, channel="wecom", provider="wecom-kf", settings=settings)


def test_an_account_is_joined_with_an_application_and_with_nothing_else() -> None:
    app = account("main", AppConfig(corp_id="ww", agent_id=7, secret="s"))
    accounts = {"main": app, "kf": account("kf", KfConfig(**WK))}
    assert joined(app, accounts) is app
    ours = account("a", KfConfig(app="main", open_kfid="wk"))
    assert joined(ours, accounts).settings.corp_id == "ww"
    for wrong in ("kf", "nobody"):
        with pytest.raises(ConfigError, match="must name a wecom-app account"):
            joined(account("a", KfConfig(app=wrong, open_kfid="wk")), accounts)


@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("corp_id", AppConfig(secret="s", agent_id=1)),
        ("secret", AppConfig(corp_id="ww", agent_id=1)),
        ("agent_id", AppConfig(corp_id="ww", secret="s")),
        ("base_url", AppConfig(corp_id="ww", secret="s", agent_id=1, base_url="ftp://x")),
        ("app", AppConfig(app="x")),
        ("callback_key", KfConfig(app="x", open_kfid="wk", callback_token="t")),
        ("callback_key", KfConfig(**WK, callback_token="t", callback_key="short")),
        ("callback_token", KfConfig(**WK, callback_token="a b", callback_key="k" * 43)),
        ("collect", MemberConfig(app="x", userid="li", collect="soon")),
        ("poll", KfConfig(app="x", open_kfid="wk", poll="1 minute")),
        ("answer_s", MemberConfig(app="x", userid="li", answer_s=61.0)),
    ],
)
def test_a_table_that_cannot_work_names_its_key(key: str, config: WecomConfig) -> None:
    with pytest.raises(ConfigError) as wrong:
        check(config)
    assert key in wrong.value.message


def test_tables_are_strict() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `opne_kfid`"):
        msgspec.convert({"open_kfid": "wk", "opne_kfid": "wk"}, KfConfig)
