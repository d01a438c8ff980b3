"""The fake WeCom over HTTP: tokens, messages to members, customer service, callbacks, faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from channels.sms.fake.faults import Odds, Plan
from channels.wecom.fake.control import FakeError
from channels.wecom.fake.settings import Settings, Size
from tests.support.wecom import Api, Inbox, api_of, until, wecom, wecom_process

KF = "wk000001"


def text(to: str, said: str = "hello", **more: object) -> dict[str, object]:
    """A message of the application."""
    return {
        "touser": to,
        "agentid": 1_000_002,
        "msgtype": "text",
        "text": {"content": said},
        **more,
    }


def kf_text(to: str, said: str = "hello", **more: object) -> dict[str, object]:
    """A message of customer service."""
    body = {"touser": to, "open_kfid": KF, "msgtype": "text", "text": {"content": said}}
    return body | more


async def test_tokens_expire_die_early_and_are_blocked_when_asked_for_too_often() -> None:
    async with wecom(Settings(gettoken_per_min=3)) as fake, api_of(fake) as api:
        first = api.token
        assert (await api.log_in())["access_token"] == first
        assert (await api("message/send", **text("m1")))["errcode"] == 0
        fake.clock.advance(7_201)
        assert (await api("message/send", **text("m1")))["errcode"] == 42001
        assert (await api.log_in())["expires_in"] == 7_200
        assert api.token != first
        await fake.do("kill-token")
        assert (await api("message/send", **text("m1")))["errcode"] == 40014
        api.token = ""
        assert (await api("message/send", **text("m1")))["errcode"] == 41001
        asked = [
            await api.get("gettoken", corpid=corp, corpsecret=secret)
            for corp, secret in (
                ("nobody", "fake-secret"),
                ("wwfake0000000001", "wrong"),
                ("", "x"),
            )
        ]
        assert [answer["errcode"] for answer in asked] == [40013, 40001, 41002]
        assert [(await api.log_in())["errcode"] for _ in range(3)] == [0, 0, 45009]
        assert fake.world.book.violations == {"gettoken": 1}


async def test_messages_reach_who_is_there_and_say_who_is_not() -> None:
    async with wecom() as fake, api_of(fake) as api:
        await fake.do("member-leaves", userid="m3")
        await fake.do("unlicense", userid="m4")
        answer = await api("message/send", **text("m1|m2|nobody|m3|m4"))
        assert answer["errcode"] == 0
        assert (answer["invaliduser"], answer["unlicenseduser"]) == ("nobody|m3", "m4")
        assert fake.record()["sends"]["app"] == {"m1": 1, "m2": 1}
        refused = {
            81013: text("nobody|m3"),
            40035: text(""),
            40056: text("m1", agentid=7),
            40008: text("m1", msgtype="song"),
            45002: text("m1", "x" * 2_049),
            40007: text("m1", msgtype="image", image={"media_id": "none"}),
            40058: text("m1", msgtype="news", news={"articles": [{"url": "u"}]}),
        }
        for errcode, body in refused.items():
            assert (await api("message/send", **body))["errcode"] == errcode
        same = text("m1", "same", enable_duplicate_check=1)
        once, twice = await api("message/send", **same), await api("message/send", **same)
        assert once["msgid"] == twice["msgid"]
        assert fake.record()["sends"]["app"]["m1"] == 2
        everyone = await api("message/send", **text("@all"))
        assert everyone["errcode"] == 0
        assert len(fake.record()["sends"]["app"]) == 8


async def test_what_is_too_much_for_a_member_is_dropped_in_silence() -> None:
    async with wecom() as fake, api_of(fake) as api:
        for _ in range(35):
            assert (await api("message/send", **text("m1")))["errcode"] == 0
        record = fake.record()
        assert record["sends"]["app"] == {"m1": 30}
        assert record["violations"] == {"app_member": 5}
        fake.clock.advance(60)
        await api("message/send", **text("m1"))
        assert fake.record()["sends"]["app"] == {"m1": 31}


async def test_rates_block_for_as_long_as_their_period() -> None:
    settings = Settings(api_per_min=3, account_cap=1)
    async with wecom(settings, size=Size(members=150)) as fake, api_of(fake) as api:
        state = {"open_kfid": KF, "external_userid": "nobody"}
        codes = [(await api("kf/service_state/get", **state))["errcode"] for _ in range(4)]
        assert codes == [40096, 40096, 40096, 45009]
        fake.clock.advance(59)
        assert (await api("kf/service_state/get", **state))["errcode"] == 45009
        fake.clock.advance(1)
        assert (await api("kf/service_state/get", **state))["errcode"] == 40096
        # 200 person-times a day for each member that the corp may have: 150 pass, 300 do not
        assert (await api("message/send", **text("@all")))["errcode"] == 0
        assert (await api("message/send", **text("@all")))["errcode"] == 45009
        assert fake.world.book.violations == {"api_corp": 2, "app_person_times_day": 1}


async def test_the_window_of_customer_service() -> None:
    async with wecom() as fake, api_of(fake) as api:
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 40096
        await fake.do("customer-writes", external_userid="c1", text="hi")
        codes = [(await api("kf/send_msg", **kf_text("c1")))["errcode"] for _ in range(6)]
        assert codes == [0, 0, 0, 0, 0, 95001]
        await fake.do("customer-writes", external_userid="c1", text="more")
        assert (await api("kf/send_msg", **kf_text("c1", msgid="tact-1")))["msgid"] == "tact-1"
        repeated = await api("kf/send_msg", **kf_text("c1", msgid="tact-1"))
        assert repeated["errcode"] == fake.settings.kf_repeat_errcode
        link = {"msgtype": "link", "link": {"title": "t", "url": "u"}}  # without its picture
        assert (await api("kf/send_msg", **(kf_text("c1") | link)))["errcode"] == 40058
        assert (await api("kf/send_msg", **kf_text("c1", msgid="no spaces")))["errcode"] == 40058
        fake.clock.advance(48 * 3_600)
        await api.log_in()
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 95002
        record = fake.record()
        assert [sent["msgid"] for sent in record["kf"]].count("tact-1") == 1
        assert record["sends"]["kf"] == {"c1": 6}
        assert record["violations"] == {"kf_window_5": 1, "kf_window_48h": 1}


async def test_a_closed_window_may_be_told_by_an_event() -> None:
    async with wecom(Settings(late_window=1.0, short_pages=0.0)) as fake, api_of(fake) as api:
        await fake.do("customer-writes", external_userid="c1", text="hi")
        for number in range(6):
            answer = await api("kf/send_msg", **kf_text("c1", msgid=f"d{number}"))
            assert answer["errcode"] == 0
        await fake.do("advance", seconds=1)
        messages = (await api("kf/sync_msg", open_kfid=KF))["msg_list"]
        assert messages[-1]["event"] == {
            "event_type": "msg_send_fail",
            "open_kfid": KF,
            "external_userid": "c1",
            "fail_msgid": "d5",
            "fail_type": 6,
        }


async def test_a_message_that_was_taken_may_fail_later() -> None:
    plan = Plan(3, Odds(fail=0.5))
    async with wecom(plan=plan) as fake, api_of(fake) as api:
        await fake.do("customer-writes", external_userid="c1", text="hi")
        await fake.do("customer-rejects", external_userid="c2")
        await fake.do("customer-writes", external_userid="c2", text="hi")
        for number in range(5):
            await api("kf/send_msg", **kf_text("c1", msgid=f"a{number}"))
            await api("kf/send_msg", **kf_text("c2", msgid=f"b{number}"))
        events = [
            one["event"]
            for one in (await api("kf/sync_msg", open_kfid=KF))["msg_list"]
            if one["msgtype"] == "event"
        ]
        assert events[0]["event_type"] == "reject_customer_msg_switch_change"
        failed = {one["fail_msgid"]: one["fail_type"] for one in events[1:]}
        assert {name: failed[name] for name in failed if name[0] == "b"} == dict.fromkeys(
            ["b0", "b1", "b2", "b3", "b4"], 10
        )
        assert 0 < sum(name[0] == "a" for name in failed) < 5  # as the seed has it


async def test_she_may_be_welcomed_when_she_comes_in() -> None:
    async with wecom() as fake, api_of(fake) as api:
        entered = await fake.do("customer-enters", external_userid="c1", scene="poster")
        (event,) = (await api("kf/sync_msg", open_kfid=KF))["msg_list"]
        assert event["event"]["welcome_code"] == entered["welcome_code"]
        menu = {"head_content": "hello", "list": [{"type": "click", "click": {"content": "1"}}]}
        said = {"msgtype": "msgmenu", "msgmenu": menu}
        code = entered["welcome_code"]
        assert (await api("kf/send_msg_on_event", code=code, **said))["errcode"] == 0
        again = await fake.do("customer-enters", external_userid="c1")
        assert again["welcome_code"] is None  # welcomed within 48 h
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 95013
        assert fake.record()["sends"] == {"kf_event": {"c1": 1}}


async def test_corps_have_nothing_in_common() -> None:
    second = "wwfake0000000001-2"
    settings = Settings(api_per_min=1, ip_per_min=0)
    async with (
        wecom(settings, size=Size(corps=2)) as fake,
        api_of(fake) as api,
        api_of(fake, second) as other,
    ):
        assert other.token != api.token
        await fake.do("customer-writes", corp_id=second, external_userid="c1", text="hi")
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 40096
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 45009
        assert (await other("kf/send_msg", **kf_text("c1")))["errcode"] == 0
        assert fake.record()["kf"][0]["corp"] == second


async def test_sync_gives_pages_and_keeps_three_days() -> None:
    async with wecom(Settings(kf_pulls_per_min=0, short_pages=0.8)) as fake, api_of(fake) as api:
        await fake.do("customer-writes", external_userid="old", text="old")
        fake.clock.advance(3 * 24 * 3_600 + 1)
        await api.log_in()
        wanted = await fake.do("customer-writes", external_userid="c1", text="x", count=250)
        got, cursor, pages, more = [], "", 0, 1
        while more:
            body = {"open_kfid": KF, "cursor": cursor, "limit": 100}
            page = await api("kf/sync_msg", **body)
            got += [message["msgid"] for message in page["msg_list"]]
            cursor, more, pages = page["next_cursor"], page["has_more"], pages + 1
        assert got == wanted["msgids"]
        assert pages > 3
        assert fake.counts["kf_short_pages"] > 0
        again = await api("kf/sync_msg", open_kfid=KF, cursor=cursor)
        assert (again["msg_list"], again["next_cursor"], again["has_more"]) == ([], cursor, 0)
        assert (await api("kf/sync_msg", open_kfid=KF, cursor="made-up"))["errcode"] == 40058
        assert (await api("kf/sync_msg", open_kfid="none"))["errcode"] == 95004
        assert (await api("kf/sync_msg", open_kfid=KF, token="wrong"))["errcode"] == 95007


async def test_sessions_move_as_they_may() -> None:
    async with wecom() as fake, api_of(fake) as api:
        await fake.do("customer-writes", external_userid="c1", text="hi")
        who = {"open_kfid": KF, "external_userid": "c1"}

        async def move(state: int, **more: str) -> dict[str, object]:
            return await api("kf/service_state/trans", **who, service_state=state, **more)

        assert (await move(0))["errcode"] == 95016
        assert (await move(1))["errcode"] == 0
        assert (await move(3, servicer_userid="nobody"))["errcode"] == 95014
        code = (await move(3, servicer_userid="m1"))["msg_code"]
        assert (await move(1))["errcode"] == 95016
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 95018
        assert await api("kf/service_state/get", **who) == {
            "errcode": 0,
            "errmsg": "ok",
            "service_state": 3,
            "servicer_userid": "m1",
        }
        said = {"msgtype": "text", "text": {"content": "m1 is with you"}}
        assert (await api("kf/send_msg_on_event", code=code, **said))["errcode"] == 0
        assert (await api("kf/send_msg_on_event", code=code, **said))["errcode"] == 41051
        await fake.do("agent-writes", external_userid="c1", userid="m1", text="I am")
        code = (await move(4))["msg_code"]
        assert (await api("kf/send_msg", **kf_text("c1")))["errcode"] == 95013
        fake.clock.advance(20)
        assert (await api("kf/send_msg_on_event", code=code, **said))["errcode"] == 41050
        messages = (await api("kf/sync_msg", open_kfid=KF))["msg_list"]
        assert [(one["origin"], one.get("servicer_userid")) for one in messages] == [
            (3, None),
            (5, "m1"),
        ]


async def test_a_callback_is_repeated_until_it_is_answered_with_200() -> None:
    statuses = [503, 302, 200]
    async with Inbox() as inbox, wecom(Settings(callback_again_s=0.0)) as fake:
        inbox.answer = lambda heard: (statuses[len(inbox.heard) - 1], "")
        await fake.do("callback-url", url=inbox.url)
        await fake.do("customer-writes", external_userid="c1", text="hi")
        await until(lambda: fake.counts.get("callbacks_taken"))
        assert fake.counts["callbacks_sent"] == 3
        statuses += [500, 500, 500]
        await fake.do("customer-writes", external_userid="c1", text="hi")
        await until(lambda: fake.counts.get("callbacks_given_up"))
        assert len(inbox.heard) == 6


async def test_a_callback_that_is_answered_late_is_sent_again() -> None:
    settings = Settings(callback_timeout_s=0.2, callback_again_s=0.0)
    async with Inbox() as inbox, wecom(settings) as fake:
        inbox.open.clear()
        await fake.do("callback-url", url=inbox.url)
        await fake.do("customer-writes", external_userid="c1", text="hi")
        await until(lambda: fake.counts.get("callbacks_unanswered"))
        inbox.open.set()
        await until(lambda: fake.counts.get("callbacks_taken"))
        assert len(inbox.heard) >= 2


async def test_faults_last_for_a_while() -> None:
    async with wecom() as fake, api_of(fake) as api:
        await fake.do("fault", api="message/send", errcode=-1, seconds=60)
        assert (await api("message/send", **text("m1")))["errcode"] == -1
        fake.clock.advance(60)
        assert (await api("message/send", **text("m1")))["errcode"] == 0
        await fake.do("fault", api="message/send", kind="html", times=1, taken=True)
        status, kind, body = await api.raw("message/send", json.dumps(text("m1")).encode())
        assert (status, kind, body[:6]) == (200, "text/html", b"<html>")
        assert fake.record()["sends"]["app"] == {"m1": 2}
        await fake.do("fault", kind="http500", times=1)
        assert (await api.raw("message/send", b"{}"))[0] == 500
        assert json.loads((await api.raw("message/send", b"[]"))[2])["errcode"] == 47001
        assert (await api("no/such"))["errcode"] == 40066
        assert (await api.get("message/send"))["errcode"] == 43002


async def test_a_cursor_goes_back_when_it_is_bidden_to() -> None:
    async with wecom() as fake, api_of(fake) as api:
        await fake.do("customer-writes", external_userid="c1", text="x", count=80)
        await fake.do("fault", api="kf/sync_msg", kind="cursor_back", times=1)
        first = await api("kf/sync_msg", open_kfid=KF)
        assert len(first["msg_list"]) == 80
        again = await api("kf/sync_msg", open_kfid=KF, cursor=first["next_cursor"])
        assert again["msg_list"] == first["msg_list"][30:]


async def test_what_the_control_interface_does_not_know_is_told() -> None:
    async with wecom() as fake:
        for name, body, told in (
            ("no-such", {}, "customer-writes"),
            ("customer-writes", {"text": "hi"}, "external_userid"),
            ("fault", {"kind": "no-such"}, "no-such"),
            ("advance", {"corp_id": "no-such"}, "corp"),
            ("create-group", {"owner": "nobody"}, "nobody"),
            ("add-contact", {"userid": "nobody"}, "nobody"),
            ("agent", {"userid": "m1", "external_userid": "c1", "do": "dance"}, "dance"),
        ):
            with pytest.raises(FakeError, match=told):
                await fake.do(name, **body)
        await fake.hear(b'{"do": "customer-writes", "external_userid": "c1", "text": "hi"}')
        assert fake.counts == {"kf_happened": 1}


async def test_something_may_happen_at_a_rate() -> None:
    async with wecom() as fake, api_of(fake) as api:
        body = {"do": "customer-writes", "rate": 50, "seconds": 4, "customers": 7}
        assert await fake.do("repeat", **body, body={"text": "hi"}) == {"number": 200}
        await fake.do("advance", seconds=2)
        assert fake.counts == {"kf_happened": 101}
        await fake.do("advance", seconds=60)
        assert fake.counts == {"kf_happened": 200}
        fake.clock.advance(0.5)
        await api("kf/send_msg", **kf_text("c7"))
        assert fake.record()["times"]["kf_reply_ms"]["max"] == 500


async def test_odds_make_answers_fail_the_same_way_in_every_run() -> None:
    async def codes(seed: int) -> list[int]:
        plan = Plan(seed, Odds(busy=0.3, throttle=0.2))
        async with wecom(plan=plan, seed=seed) as fake, api_of(fake) as api:
            while not api.token:
                await api.log_in()
            return [(await api("message/send", **text("m1", str(n))))["errcode"] for n in range(40)]

    first = await codes(5)
    assert first == await codes(5)
    assert set(first) == {0, -1, 45033}


async def test_the_program_records_what_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "sends.jsonl"
    async with wecom_process("--record", str(path), "--members", "3", "--kf-accounts", "2") as fake:
        assert fake.ready["corps"][0]["kf_accounts"] == ["wk000001", "wk000002"]
        api = Api(fake.url)
        await api.log_in()
        await fake.do("customer-writes", external_userid="c1", open_kfid="wk000002", text="hi")
        await api("kf/send_msg", **kf_text("c1", "well?", open_kfid="wk000002", msgid="d1"))
        record = await fake.record()
        assert record["sends"] == {"kf": {"c1": 1}}
        await api.close()
        assert (await fake.stop())["counts"]["kf_happened"] == 1
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (line,) = [line for line in lines if line["kind"] == "kf"]
    assert (line["kind"], line["to"], line["msgid"], line["content"]) == ("kf", "c1", "d1", "well?")


async def test_the_program_takes_a_scene_from_a_file(tmp_path: Path) -> None:
    scene = tmp_path / "scene.json"
    app = {"agent_id": 7, "secret": "s", "permissions": ["message"]}
    corp = {"corp_id": "ww1", "apps": [app], "members": ["zhang"], "kf_accounts": ["wk1"]}
    scene.write_text(json.dumps({"corps": [corp]}))
    async with wecom_process("--scene", str(scene)) as fake:
        api = Api(fake.url, "ww1", "s")
        await api.log_in()
        body = {"touser": "zhang", "agentid": 7, "msgtype": "text", "text": {"content": "hi"}}
        assert (await api("message/send", **body))["errcode"] == 0
        assert (await api("kf/sync_msg", open_kfid="wk1"))["errcode"] == 48002
        await api.close()
