"""The client at the fake WeCom, which keeps its own rules: tokens through a day, callbacks that the
fake encrypts by itself."""

from __future__ import annotations

import random

import pytest

from channels.http import Unanswered
from channels.provider import Callback, Reply
from channels.wecom.callbacks import Event, answer
from channels.wecom.client import WecomClient
from channels.wecom.config import AppConfig
from channels.wecom.errors import WecomError
from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import AGENT_ID, CALLBACK_KEY, CALLBACK_TOKEN, SECRET, Settings
from tests.support.callbacks import CallbackServer
from tests.support.wecom import CORP, until, wecom


class FakesClock:
    """The fake's time, also for what is measured."""

    def __init__(self, fake: FakeWecom) -> None:
        self._fake = fake

    def now_ms(self) -> int:
        return self._fake.clock.now_ms()

    def steady_s(self) -> float:
        return self._fake.clock.now_ms() / 1_000


def config_of(fake: FakeWecom) -> AppConfig:
    return AppConfig(
        base_url=fake.url,
        corp_id=CORP,
        agent_id=AGENT_ID,
        secret=SECRET,
        callback_token=CALLBACK_TOKEN,
        callback_key=CALLBACK_KEY,
    )


def text(to: str) -> dict[str, object]:
    """A message of the application."""
    return {"touser": to, "agentid": AGENT_ID, "msgtype": "text", "text": {"content": "中"}}


async def test_a_day_of_tokens_that_expire_and_die_early_is_not_noticed() -> None:
    async with wecom() as fake:
        client = WecomClient(config_of(fake), FakesClock(fake), random.Random(1))
        try:
            for minute in range(24 * 60):
                await client.call("message/send", text(f"m{1 + minute % 10}"))
                fake.clock.advance(60)
                if minute % 97 == 0:
                    await fake.do("kill-token")
        finally:
            await client.close()
        assert sum(fake.record()["sends"]["app"].values()) == 24 * 60
        assert fake.world.book.violations == {}


async def test_faults_are_what_they_are() -> None:
    async with wecom(Settings(api_per_min=3)) as fake:
        client = WecomClient(config_of(fake), FakesClock(fake), random.Random(1))
        try:
            await fake.do("fault", api="message/send", kind="html", times=1, taken=True)
            with pytest.raises(Unanswered):
                await client.call("message/send", text("m1"))
            assert fake.record()["sends"]["app"] == {"m1": 1}
            await fake.do("fault", api="kf/account/list", kind="http500", times=1)
            assert (await client.call("kf/account/list", {}))["account_list"]
            with pytest.raises(WecomError) as error:
                for _ in range(3):
                    await client.call("kf/account/list", {})
            assert error.value.verdict.kind == "throttled"
            fake.clock.advance(60)
            await client.call("kf/account/list", {})
        finally:
            await client.close()


class Endpoint:
    """Understands callbacks as the hub's does."""

    def __init__(self, fake: FakeWecom) -> None:
        self._fake = fake
        self.events: list[Event] = []

    async def callback(self, request: Callback) -> Reply:
        said = answer(config_of(self._fake), request, self._fake.clock.now_ms())
        if isinstance(said, Reply):
            return said
        self.events.append(said)
        return Reply()


async def test_callbacks_of_the_fake_are_believed_and_repeats_are_known() -> None:
    server = CallbackServer()
    await server.start()
    try:
        async with wecom(Settings(repeat_callbacks=1.0)) as fake:
            endpoint = server.provider = Endpoint(fake)
            told = await fake.do("callback-url", url=server.url, verify=True)
            assert told["verified"] is True
            await fake.do("customer-writes", external_userid="c1", text="hi")
            await fake.do("add-contact", external_userid="c2", userid="m1", state="expo")
            await until(lambda: fake.counts.get("callbacks_taken") == 4)
            by_id = {event.id: event for event in endpoint.events}
            assert len(endpoint.events) == 4 and len(by_id) == 2
            hint, added = sorted(by_id.values(), key=lambda event: event.name, reverse=True)
            assert (hint.name, hint.fields["OpenKfId"]) == ("kf_msg_or_event", "wk000001")
            assert (added.change, added.fields["State"]) == ("add_external_contact", "expo")
            assert added.fields["WelcomeCode"]
    finally:
        await server.stop()
