"""The fake WeCom over HTTP: mass messages, moments, welcome messages, transfers, groups."""

from __future__ import annotations

from typing import Any

from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import AppScene, CorpScene, Scene, Settings, Size
from tests.support.wecom import CORP, NOW_MS, Api, api_of, wecom

EC = "externalcontact"
GROUP = "externalcontact/groupchat"
SAID: dict[str, Any] = {"text": {"content": "new in store"}}
SIZE = Size(members=2, customers=4)
"""m1 serves wm000001 and wm000003, m2 the others."""
SLOW = Settings(confirm_s=600.0, dispatching_s=10.0)


async def results(api: Api, msgid: str, userid: str) -> dict[str, int]:
    """Customer or group → status."""
    answer = await api(f"{EC}/get_groupmsg_send_result", msgid=msgid, userid=userid)
    assert answer["errcode"] == 0, answer
    return {
        one.get("external_userid") or one["chat_id"]: one["status"] for one in answer["send_list"]
    }


async def test_a_mass_message_is_a_task_that_members_confirm() -> None:
    async with wecom(SLOW, size=SIZE) as fake, api_of(fake) as api:
        everyone = ["wm000001", "wm000002", "wm000003", "nobody"]
        made = await api(f"{EC}/add_msg_template", external_userid=everyone, **SAID)
        msgid = made["msgid"]
        assert made["fail_list"] == ["nobody"]
        assert (await api(f"{EC}/get_groupmsg_task", msgid=msgid))["errcode"] == 41063
        fake.clock.advance(10)
        tasks = (await api(f"{EC}/get_groupmsg_task", msgid=msgid))["task_list"]
        assert tasks == [{"userid": "m1", "status": 0}, {"userid": "m2", "status": 0}]
        assert await results(api, msgid, "m1") == {"wm000001": 0, "wm000003": 0}
        assert fake.record()["sends"] == {}
        await fake.do("delete-contact", userid="m1", external_userid="wm000003")
        fake.clock.advance(900)
        assert await results(api, msgid, "m1") == {"wm000001": 1, "wm000003": 2}
        assert await results(api, msgid, "m2") == {"wm000002": 1}
        assert fake.record()["sends"] == {"mass": {"wm000001": 1, "wm000002": 1}}
        listed = await api(
            f"{EC}/get_groupmsg_list_v2",
            chat_type="single",
            start_time=NOW_MS // 1_000,
            end_time=NOW_MS // 1_000 + 86_400,
        )
        assert [one["msgid"] for one in listed["group_msg_list"]] == [msgid]


async def test_what_is_cancelled_is_not_sent_and_reminders_are_few() -> None:
    settings = Settings(confirm=0.0, dispatching_s=0.0)
    async with wecom(settings, size=SIZE) as fake, api_of(fake) as api:
        body = {"external_userid": ["wm000001"], "sender": "m1", **SAID}
        msgid = (await api(f"{EC}/add_msg_template", **body))["msgid"]
        codes = [
            (await api(f"{EC}/remind_groupmsg_send", msgid=msgid))["errcode"] for _ in range(4)
        ]
        assert codes == [0, 0, 0, 41094]
        fake.clock.advance(24 * 3_600)
        await api.log_in()
        assert (await api(f"{EC}/remind_groupmsg_send", msgid=msgid))["errcode"] == 0
        assert fake.world.book.violations == {"mass_reminders": 1}
    async with wecom(SLOW, size=SIZE) as fake, api_of(fake) as api:
        msgid = (await api(f"{EC}/add_msg_template", **body))["msgid"]
        fake.clock.advance(10)
        cancel = f"{EC}/cancel_groupmsg_send"
        codes = [(await api(cancel, msgid=msgid))["errcode"] for _ in range(2)]
        assert codes == [0, 41093]
        await fake.do("advance", seconds=3_600)
        assert (await fake.do("confirm-mass", userid="m1")) == {"confirmed": 0}
        assert await results(api, msgid, "m1") == {"wm000001": 0}
        assert fake.record()["sends"] == {}


async def test_the_rule_of_the_corp_ends_mass_messages_to_a_customer() -> None:
    settings = Settings(rule="daily_1", confirm_s=1.0, dispatching_s=0.0)
    async with wecom(settings, size=SIZE) as fake, api_of(fake) as api:
        statuses = []
        for _ in range(3):
            body = {"external_userid": ["wm000001"], "sender": "m1", **SAID}
            msgid = (await api(f"{EC}/add_msg_template", **body))["msgid"]
            fake.clock.advance(2)
            statuses.append((await results(api, msgid, "m1"))["wm000001"])
            fake.clock.advance(5 * 3_600)  # 15:00, 20:00, 01:00 of the next day
            await api.log_in()
        assert statuses == [1, 3, 1]
        assert fake.world.book.violations == {"mass_rule": 1}


async def test_bad_mass_messages() -> None:
    async with wecom(size=SIZE) as fake, api_of(fake) as api:
        link = {"msgtype": "link", "link": {"title": "t", "url": "u"}}
        program = {"title": "t", "appid": "wx", "page": "p", "pic_media_id": "gone"}
        to = {"external_userid": ["wm000001"]}
        refused = [
            (41048, {"external_userid": ["nobody"], **SAID}),
            (41048, {"external_userid": ["wm000002"], "sender": "m1", **SAID}),
            (60111, {**to, "sender": "nobody", **SAID}),
            (40063, {**to}),
            (45002, {**to, "text": {"content": "x" * 4_001}}),
            (41064, {**to, "attachments": [link] * 10}),
            (41065, {**to, "attachments": [{"msgtype": "song"}]}),
            (40058, {**to, "attachments": [{"msgtype": "link", "link": {"title": "t"}}]}),
            (40007, {**to, "attachments": [{"msgtype": "miniprogram", "miniprogram": program}]}),
            (40058, {"external_userid": ["x"] * 10_001, **SAID}),
            (40058, {"chat_type": "group", **SAID}),
        ]
        for errcode, body in refused:
            assert (await api(f"{EC}/add_msg_template", **body))["errcode"] == errcode


async def test_a_welcome_code_is_good_once_for_20_s() -> None:
    async with wecom(size=SIZE) as fake, api_of(fake) as api:
        new = await fake.do("add-contact", userid="m1", state="poster")
        code = new["welcome_code"]
        assert (await api(f"{EC}/send_welcome_msg", welcome_code=code, **SAID))["errcode"] == 0
        assert (await api(f"{EC}/send_welcome_msg", welcome_code=code, **SAID))["errcode"] == 41051
        assert fake.record()["sends"] == {"welcome": {new["external_userid"]: 1}}
        code = (await fake.do("add-contact", userid="m1"))["welcome_code"]
        fake.clock.advance(20)
        assert (await api(f"{EC}/send_welcome_msg", welcome_code=code, **SAID))["errcode"] == 41050
        assert (await api(f"{EC}/send_welcome_msg", welcome_code="x", **SAID))["errcode"] == 41050
        details = await api.get(f"{EC}/get", external_userid=new["external_userid"])
        assert details["follow_user"][0]["state"] == "poster"
        known = {"userid": "m1", "external_userid": new["external_userid"]}
        assert (await fake.do("add-contact", **known))["welcome_code"] is None
        await fake.do("delete-contact", by="member", **known)
        answer = await api.get(f"{EC}/get", external_userid=new["external_userid"])
        assert answer["errcode"] == 84061


async def transfer(api: Api, api_name: str = "transfer_customer") -> list[int]:
    """m1's customers to m2: the errcode of each."""
    answer = await api(
        f"{EC}/{api_name}",
        handover_userid="m1",
        takeover_userid="m2",
        external_userid=["wm000001", "wm000002", "wm000003", "nobody"],
    )
    return [answer["errcode"], *[one["errcode"] for one in answer.get("customer", [])]]


async def statuses(api: Api, api_name: str = "transfer_result") -> dict[str, int]:
    """Customer → what became of her transfer."""
    who = {"handover_userid": "m1", "takeover_userid": "m2"}
    answer = await api(f"{EC}/{api_name}", **who)
    return {one["external_userid"]: one["status"] for one in answer["customer"]}


async def test_customers_go_over_to_another_member() -> None:
    async with wecom(size=SIZE) as fake, api_of(fake) as api:
        assert await transfer(api, "resigned/transfer_customer") == [40099]
        assert await transfer(api) == [0, 0, 40097, 0, 40096]
        assert await transfer(api) == [0, 40129, 40097, 40129, 40096]
        await fake.do("refuse-transfer", external_userid="wm000003")
        assert await statuses(api) == {"wm000001": 2, "wm000003": 3}
        await fake.do("advance", seconds=24 * 3_600)
        await api.log_in()
        assert await statuses(api) == {"wm000001": 1, "wm000003": 3}
        assert (await api.get(f"{EC}/list", userid="m1"))["external_userid"] == ["wm000003"]
        await fake.do("member-leaves", userid="m1")
        assert await transfer(api) == [40097]
        waiting = await api(f"{EC}/get_unassigned_list")
        assert [one["external_userid"] for one in waiting["info"]] == ["wm000003"]
        assert (await transfer(api, "resigned/transfer_customer"))[3] == 0
        await fake.do("advance", seconds=24 * 3_600)
        await api.log_in()
        assert (await statuses(api, "resigned/transfer_result"))["wm000003"] == 1


async def test_moments_are_jobs_that_members_confirm() -> None:
    async with wecom(SLOW, size=SIZE) as fake, api_of(fake) as api:
        senders = {"sender_list": {"user_list": ["m1", "nobody"]}}
        job = await api(f"{EC}/add_moment_task", visible_range=senders, **SAID)
        done = await api.get(f"{EC}/get_moment_task_result", jobid=job["jobid"])
        assert done["status"] == 2
        fake.clock.advance(10)
        done = await api.get(f"{EC}/get_moment_task_result", jobid=job["jobid"])
        assert done["result"]["invalid_sender_list"]["user_list"] == ["nobody"]
        moment = {"moment_id": done["result"]["moment_id"]}
        tasks = await api(f"{EC}/get_moment_task", **moment)
        assert tasks["task_list"] == [{"userid": "m1", "publish_status": 0}]
        fake.clock.advance(900)
        tasks = await api(f"{EC}/get_moment_task", **moment)
        assert tasks["task_list"] == [{"userid": "m1", "publish_status": 1}]
        seen = await api(f"{EC}/get_moment_send_result", userid="m1", **moment)
        assert [one["external_userid"] for one in seen["customer_list"]] == ["wm000001", "wm000003"]
        await fake.do("comment-moment", userid="m1", external_userid="wm000001", **moment)
        said = await api(f"{EC}/get_moment_comments", userid="m1", **moment)
        assert said["comment_list"][0]["external_userid"] == "wm000001"


def two_apps() -> Scene:
    """A corp with two applications."""
    apps = (AppScene(), AppScene(agent_id=2, secret="other", permissions=("message", "appchat")))
    members = tuple(f"m{number}" for number in range(1, 6))
    return Scene(corps=(CorpScene(corp_id=CORP, apps=apps, members=members),))


async def test_groups_of_members_belong_to_their_application() -> None:
    async with wecom(scene=two_apps()) as fake, api_of(fake) as api:
        body = {"name": "sales", "owner": "m1", "userlist": ["m1", "m2"], "chatid": "tact1"}
        assert (await api("appchat/create", **body))["chatid"] == "tact1"
        refused = {
            86215: body,
            86006: {**body, "userlist": ["m1"]},
            86007: {**body, "userlist": ["m1", "nobody"]},
            86207: {**body, "owner": "m3", "chatid": "x"},
            86001: {**body, "chatid": "tact-1"},
        }
        for errcode, bad in refused.items():
            assert (await api("appchat/create", **bad))["errcode"] == errcode
        assert await fake.do("appchats") == {}  # nobody sees it before its first message
        said = {"chatid": "tact1", "msgtype": "text", "text": {"content": "hello"}}
        assert (await api("appchat/send", **said))["errcode"] == 0
        change = {"chatid": "tact1", "add_user_list": ["m3"], "del_user_list": ["m1"]}
        assert (await api("appchat/update", **change))["errcode"] == 86207
        assert (await api("appchat/update", **change, owner="m2"))["errcode"] == 0
        seen = {"tact1": {"name": "sales", "owner": "m2", "userlist": ["m2", "m3"]}}
        assert await fake.do("appchats") == seen
        other = Api(fake.url, CORP, "other")
        await other.log_in()
        assert (await other("appchat/send", **said))["errcode"] == 86008
        assert (await other(f"{GROUP}/list"))["errcode"] == 48002
        await other.close()
        await fake.do("dismiss-group", chat_id="tact1")
        assert (await api("appchat/send", **said))["errcode"] == 86003


async def test_limits_of_groups_of_members() -> None:
    settings = Settings(group_member_per_min=2, group_per_min=8, chats_per_day=1)
    async with wecom(settings) as fake, api_of(fake) as api:
        body = {"userlist": ["m1", "m2"]}
        chatid = (await api("appchat/create", **body))["chatid"]
        assert (await api("appchat/create", **body))["errcode"] == 45009
        said = {"chatid": chatid, "msgtype": "text", "text": {"content": "hello"}}
        codes = [(await api("appchat/send", **said))["errcode"] for _ in range(5)]
        assert codes == [0, 0, 0, 0, 45009]
        assert fake.world.book.violations == {
            "chats_per_day": 1,
            "group_member": 4,
            "group_person_times": 1,
        }


async def joined(fake: FakeWecom, way: str, *customers: str) -> list[str]:
    """The group that each comes into by a join way."""
    return [
        (await fake.do("join-group", config_id=way, external_userid=name))["chat_id"]
        for name in customers
    ]


async def test_groups_of_customers() -> None:
    settings = Settings(group_size=3, confirm_s=1.0, dispatching_s=0.0)
    async with wecom(settings, size=SIZE) as fake, api_of(fake) as api:
        chat = (await fake.do("create-group", owner="m1", name="vip"))["chat_id"]
        way = await api(f"{GROUP}/add_join_way", scene=2, chat_id_list=[chat], room_base_name="vip")
        chats = await joined(fake, way["config_id"], "wm000001", "wm000002", "wm000003")
        assert chats[:2] == [chat, chat]
        assert chats[2] != chat
        details = (await api(f"{GROUP}/get", chat_id=chats[2]))["group_chat"]
        assert (details["owner"], details["name"], len(details["member_list"])) == ("m1", "vip1", 2)
        await fake.do("leave-group", external_userid="wm000003", chat_id=chats[2])
        await fake.do("change-group", chat_id=chats[2], name="vip two")
        details = (await api(f"{GROUP}/get", chat_id=chats[2]))["group_chat"]
        assert [one["userid"] for one in details["member_list"]] == ["m1"]
        assert details["name"] == "vip two"
        body = {"chat_type": "group", "sender": "m1", **SAID}
        msgid = (await api(f"{EC}/add_msg_template", **body))["msgid"]
        await fake.do("dismiss-group", chat_id=chat)
        fake.clock.advance(2)
        assert await results(api, msgid, "m1") == {chat: 2, chats[2]: 1}
        assert fake.record()["sends"] == {"mass_group": {chats[2]: 1}}
        move = {"chat_id_list": [chats[2]], "new_owner": "m2"}
        failed = (await api(f"{GROUP}/transfer", **move))["failed_chat_list"]
        assert [one["errcode"] for one in failed] == [90500]
        codes = []
        for owner in ("m2", "m1", "m2"):
            told = await api(f"{GROUP}/onjob_transfer", chat_id_list=[chats[2]], new_owner=owner)
            codes.append([one["errcode"] for one in told["failed_chat_list"]])
        assert codes == [[], [], [90507]]
        await fake.do("member-leaves", userid="m1")
        listed = await api(f"{GROUP}/list", status_filter=1)
        assert listed["group_chat_list"] == [{"chat_id": chats[2], "status": 1}]
        assert (await api(f"{GROUP}/transfer", **move))["failed_chat_list"] == []
