"""The demo's part at WeCom, without processes: what is counted, and held against the streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.demo import people, stage, talks, wecom
from benchmarks.demo.ear import Ear
from hub.checkers import check_all
from hub.contract.types import Release
from hub.policy.document import load_policy
from hub.policy.policy import Policy
from tests.support.demo import AtWecom, accounts, day_at_wecom


def test_accounts_policy_and_the_corp_of_the_fake_name_the_same():
    names = accounts()
    (corp,) = wecom.scene().corps
    assert set(wecom.ACCOUNTS.values()) == {
        name for name, account in names.items() if account.channel == "wecom"
    }
    for (corp_id, who), name in wecom.ACCOUNTS.items():
        settings = names[name].settings
        assert settings.corp_id == corp_id == corp.corp_id
        assert who in {str(settings.agent_id), *corp.kf_accounts, *corp.members}
    settings = names["office"].settings
    (app,) = corp.apps
    assert (settings.secret, settings.callback_token) == (app.secret, app.callback_token)
    assert settings.callback_key == app.callback_key
    policy = load_policy(stage.POLICY)
    assert {rule.app for rule in policy.replies or ()} == {talks.BOT}
    for text in people.PRICES:
        assert Policy(policy).replies[0].matches("wecom", talks.SERVICE, text, "")
    for text in (*people.OTHERS, people.WANT_PERSON, people.THANKS):
        assert not Policy(policy).replies[0].matches("wecom", talks.SERVICE, text, "")


def test_what_happened_at_wecom_is_counted():
    found, history = day_at_wecom().talks()
    assert check_all(history) == talks.check(found, history) == []
    counted = talks.count(found, history, history.end_ms)
    assert (counted.messages, counted.customers, counted.waits_ms) == (2, 2, [100])
    assert (counted.taken_over, counted.held, counted.released) == (1, 1, {"wecom": 1})
    # Of five within the window one was the answer.
    assert (counted.in_window, counted.closed, counted.refused) == (4, 4, {})
    assert (counted.came, counted.welcomes_ms) == (1, [100])
    assert (counted.mass, counted.confirmed, counted.tasks) == (1, {"anna": 1}, 1)
    assert counted.shown == len(history.feeds or ()) > 8
    assert talks.longest_talk(history)[0] == "wm2"


def test_what_wecom_saw_is_held_against_the_streams():
    def broken(change: Callable[[AtWecom], None]) -> set[str]:
        scene = day_at_wecom()
        change(scene)
        return {each.promise for each in talks.check(*scene.talks())}

    assert broken(lambda scene: None) == set()
    assert "written-once" in broken(lambda scene: scene.lines.append(dict(scene.lines[-1])))
    lost = {"at": 1, "kind": "wrote", "from": "wm9", "corp": wecom.CORP, "msgid": "m9"}
    lost |= {"open_kfid": wecom.SERVICE, "type": "text", "content": "hello?"}
    assert broken(lambda scene: scene.lines.append(lost)) == {"everybody-is-heard"}


def test_a_campaign_during_a_takeover_is_found():
    _, history = day_at_wecom().talks()
    assert talks.during_takeovers(history) == []
    history.published[:] = [
        each for each in history.published if not isinstance(each.message, Release)
    ]
    assert [each.intent for each in talks.during_takeovers(history)] == ["campaign-1"]


async def test_the_desk_hears_what_it_waits_for():
    ear = Ear()
    ear.take_told("crm", {"intent": "campaign-1", "state": "held"})
    said = {"customer": "wm1", "content": {"event": "session_changed", "state": "human"}}
    ear.take_said(said)
    ear.take_said({"customer": "wm2", "content": {"text": "hello"}})
    await ear.until(lambda: "held" in ear.states["crm", "campaign-1"], 0)
    assert ear.sessions == {"wm1": "human"}
    with pytest.raises(TimeoutError):
        await ear.until(lambda: "wm2" in ear.sessions, 0)
