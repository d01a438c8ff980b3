"""Clients that others wrote use the fake WeCom, and read its callbacks: wechatpy and wecomkit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import CALLBACK_KEY, CALLBACK_TOKEN, Settings, Size
from tests.support.peers import missing
from tests.support.wecom import CORP, Heard, Inbox, until, wecom

AGENT = 1_000_002
KF = "wk000001"
SIZE = Size(members=3, customers=3)
T = TypeVar("T")


@pytest.fixture
async def fake() -> AsyncIterator[FakeWecom]:
    settings = Settings(dispatching_s=0.0, confirm_s=1.0, short_pages=0.0)
    async with wecom(settings, size=SIZE) as fake:
        yield fake


def wechatpy_client(fake: FakeWecom) -> Any:
    """A client of wechatpy that talks to the fake."""
    try:
        from wechatpy.work import WeChatClient
    except ImportError as error:
        missing(f"wechatpy is not installed: {error}")

    class Client(WeChatClient):  # type: ignore[misc]
        API_BASE_URL = f"{fake.url}/cgi-bin/"

        def fetch_access_token(self) -> Any:
            params = {"corpid": self.corp_id, "corpsecret": self.secret}
            return self._fetch_access_token(url=f"{fake.url}/cgi-bin/gettoken", params=params)

    return Client(CORP, "fake-secret")


async def of_wechatpy(fake: FakeWecom, work: Callable[[Any], T]) -> T:
    """Let its client, which blocks, do something."""
    client = wechatpy_client(fake)
    try:
        return await asyncio.to_thread(work, client)
    finally:
        client._http.close()


async def test_wechatpy_sends_to_members_and_asks_for_a_new_token_when_its_own_dies(
    fake: FakeWecom, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG....")

    def first(client: Any) -> dict[str, Any]:
        sent: dict[str, Any] = client.message.send_text(AGENT, "m1|nobody", "hello")
        with picture.open("rb") as file:
            media = client.media.upload("image", file)
        client.message.send_image(AGENT, ["m1", "m2"], media["media_id"])
        got = client.get("media/get", params={"media_id": media["media_id"]})
        assert got.content == b"\x89PNG...."
        asyncio.run_coroutine_threadsafe(fake.do("kill-token"), loop).result(20)
        client.message.send_markdown(AGENT, "m2", "**hello**")
        assert client.user.get("m1")["userid"] == "m1"
        return sent

    loop = asyncio.get_running_loop()
    assert (await of_wechatpy(fake, first))["invaliduser"] == "nobody"
    record = fake.record()
    assert record["sends"]["app"] == {"m1": 2, "m2": 2}
    assert record["errors"] == {"message/send 40014": 1}


async def test_wechatpy_makes_a_group_and_writes_to_it(fake: FakeWecom) -> None:
    def work(client: Any) -> Any:
        chat = client.appchat.create(name="sales", owner="m1", user_list=["m1", "m2"])["chatid"]
        client.appchat.update(chat, name="support", add_user_list=["m3"])
        client.appchat.send_text(chat, "hello")
        return client.appchat.get(chat)

    chat = await of_wechatpy(fake, work)
    assert chat["name"] == "support"
    assert chat["userlist"] == ["m1", "m2", "m3"]
    assert await fake.do("appchats")


async def test_wechatpy_serves_a_customer(fake: FakeWecom) -> None:
    await fake.do("customer-writes", external_userid="c1", text="hi")

    def work(client: Any) -> Any:
        accounts = client.kf.get_account_list()["account_list"]
        assert [one["open_kfid"] for one in accounts] == [KF]
        page = client.kf.sync_msg("")
        assert client.kf.sync_msg("", cursor=page["next_cursor"])["msg_list"] == []
        customer = page["msg_list"][0]["external_userid"]
        client.kf_message.send_text(customer, KF, "what can I do for you?", msgid="d1")
        assert client.kf.get_service_state(KF, customer)["service_state"] == 0
        assert client.kf.trans_service_state(KF, customer, 3, "m1")["msg_code"]
        assert client.kf.get_servicer_list(KF)["servicer_list"][0] == {"userid": "m1", "status": 0}
        from wechatpy.exceptions import WeChatClientException

        with pytest.raises(WeChatClientException) as refused:
            client.kf_message.send_text(customer, KF, "still there?")
        return refused.value.errcode

    assert await of_wechatpy(fake, work) == 95018
    assert fake.record()["sends"] == {"kf": {"c1": 1}}


async def test_wechatpy_reads_customers_and_makes_a_mass_message(fake: FakeWecom) -> None:
    code = (await fake.do("add-contact", userid="m1", external_userid="wmnew"))["welcome_code"]
    chat = (await fake.do("create-group", owner="m1", name="vip"))["chat_id"]

    def work(client: Any) -> Any:
        contacts = client.external_contact
        assert contacts.get_follow_user_list()["follow_user"] == ["m1", "m2", "m3"]
        assert contacts.list("m1")["external_userid"] == ["wm000001", "wmnew"]
        assert len(list(contacts.gen_all_by_user("m1", limit=1))) == 2
        assert contacts.get("wmnew")["follow_user"][0]["userid"] == "m1"
        contacts.send_welcome_msg({"welcome_code": code, "text": {"content": "welcome"}})
        groups = client.external_contact_group_chat
        assert groups.list_all(limit=1) == [{"chat_id": chat, "status": 0}]
        assert groups.get(chat)["group_chat"]["owner"] == "m1"
        body = {"external_userid": ["wmnew"], "sender": "m1", "text": {"content": "new"}}
        return contacts.add_msg_template(body)["msgid"]

    msgid = await of_wechatpy(fake, work)
    await fake.do("advance", seconds=2)
    record = fake.record()
    assert record["sends"] == {"welcome": {"wmnew": 1}, "mass": {"wmnew": 1}}
    assert record["sent"][-1]["msgid"] == msgid


def opened(heard: Heard) -> Any:
    """What a callback says, as wechatpy reads it."""
    from wechatpy.work.crypto import WeChatCrypto
    from wechatpy.work.parser import parse_message

    crypto = WeChatCrypto(CALLBACK_TOKEN, CALLBACK_KEY, CORP)
    query = heard.query
    plain = crypto.decrypt_message(
        heard.body, query["msg_signature"], query["timestamp"], query["nonce"]
    )
    return parse_message(plain)


def echo(heard: Heard) -> tuple[int, str]:
    """The answer to a verification of the URL, by wechatpy."""
    from wechatpy.work.crypto import WeChatCrypto

    crypto = WeChatCrypto(CALLBACK_TOKEN, CALLBACK_KEY, CORP)
    query = heard.query
    said = crypto.check_signature(
        query["msg_signature"], query["timestamp"], query["nonce"], query["echostr"]
    )
    return 200, said


async def test_wechatpy_reads_the_callbacks(fake: FakeWecom) -> None:
    wechatpy_client(fake)._http.close()  # skips when there is no wechatpy
    async with Inbox() as inbox:
        inbox.answer = echo
        assert (await fake.do("callback-url", url=inbox.url, verify=True))["verified"] is True
        inbox.heard.clear()
        inbox.answer = lambda heard: (200, "")
        await fake.do("customer-writes", external_userid="c1", text="hi")
        await fake.do("add-contact", userid="m1", external_userid="wmnew", state="a&b<c>]]>d")
        await fake.do("member-writes", userid="m1", text="你好 & hi")
        await until(lambda: fake.counts.get("callbacks_taken") == 3)
        messages = [opened(heard) for heard in inbox.heard]
        told = {getattr(message, "event", "") or message.type: message for message in messages}
        assert told["text"].content == "你好 & hi"
        assert told["text"].agent == AGENT
        hint = told["kf_msg_or_event"]
        assert hint._data["OpenKfId"] == KF
        added = told["change_external_contact"]
        assert (added.change_type, added.external_user_id) == ("add_external_contact", "wmnew")
        assert added._data["State"] == "a&b<c>]]>d"
        chat = (await fake.do("create-group", owner="m1", members=["m2", "wmnew"]))["chat_id"]
        await until(lambda: fake.counts.get("callbacks_taken") == 6)
        joined = [opened(heard)._data for heard in inbox.heard[3:]]
        assert {one["ChatId"] for one in joined} == {chat}
        changes = {one.get("MemChangeList", {}).get("Item") for one in joined}
        assert changes == {None, "m2", "wmnew"}
        client = wechatpy_client(fake)
        page = await asyncio.to_thread(client.kf.sync_msg, hint.token)
        client._http.close()
        assert page["msg_list"][0]["text"] == {"content": "hi"}


async def test_wecomkit_sends_to_members(fake: FakeWecom, tmp_path: Path) -> None:
    try:
        from wecomkit import AsyncWeComClient, WeComConfig
        from wecomkit.exceptions import WeComAPIError, WeComRateLimitError
    except ImportError as error:
        missing(f"wecomkit is not installed: {error}")
    file = tmp_path / "a.txt"
    file.write_text("a file of some length")
    config = WeComConfig(corp_id=CORP, corp_secret="fake-secret", base_url=fake.url)
    async with AsyncWeComClient(config) as client:
        sent = await client.messages.send_text(AGENT, "hello", to_user="m1|nobody")
        assert sent["invaliduser"] == "nobody"
        media = await client.media.upload(str(file), "file")
        await client.messages.send_file(AGENT, media["media_id"], to_user="m1")
        card = {"card_type": "button_interaction", "main_title": {"title": "t"}}
        answer = await client.messages.send_template_card(AGENT, card, to_user="m1")
        assert answer["response_code"]
        with pytest.raises(WeComAPIError) as refused:
            await client.messages.send_text(AGENT, "hello", to_user="nobody")
        assert refused.value.errcode == 81013
        await fake.do("fault", api="user/get", errcode=45009, times=1)
        with pytest.raises(WeComRateLimitError):
            await client.users.get("m1")
        assert (await client.users.get("m1"))["userid"] == "m1"
    assert fake.record()["sends"] == {"app": {"m1": 3}}
    assert fake.record()["apis"]["gettoken"] == 1
