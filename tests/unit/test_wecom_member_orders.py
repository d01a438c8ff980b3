"""What a member's account is asked to do at once, and what it is told: welcome messages, groups,
what cannot leave, events. Against a scripted WeCom, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from channels.http import NotSent
from channels.provider import Callback, Unsendable
from channels.wecom.callbacks import Event
from channels.wecom.errors import refused
from hub.contract.times import rfc3339
from tests.support.wecom_member import (
    START_MS,
    Scene,
    delivery,
    scene,
    submitted,
    until,
)

# ---- orders ----------------------------------------------------------------------------------


def welcome(until_s: float = 20, text: str = "hi") -> dict[str, Any]:
    until_ms = START_MS + int(until_s * 1_000)
    return {"text": text, "welcome_code": "W", "welcome_until": rfc3339(until_ms)}


WELCOMES = [
    ([], 0, ("accepted", None, ""), 1),
    ([], 21, ("failed", "expired", "welcome-late"), 0),
    ([refused(41051)], 0, ("failed", "expired", "41051"), 1),
    ([refused(41050)], 0, ("failed", "expired", "41050"), 1),
    ([refused(-1), refused(41096)], 0, ("accepted", None, ""), 3),
    (["lost", refused(41051)], 0, ("accepted", None, "41051"), 2),
    ([NotSent("no connection")] * 9, 18.6, ("failed", "expired", "welcome-late"), 3),
]


@pytest.mark.parametrize(("problems", "after_s", "said", "calls"), WELCOMES)
def test_a_welcome_message_goes_out_in_its_20_seconds_or_not_at_all(
    problems: Any, after_s: float, said: Any, calls: int
) -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["send_welcome_msg"] = list(problems)
        await asyncio.sleep(after_s)
        s.host.submit(delivery(1, welcome()))
        await s.until_over()

    s = scene(play)
    answer = s.account.answers["shop:i1:1"]
    assert (answer.kind, answer.failure, answer.code) == said
    assert answer.receipts == 0 and answer.status == "sent"
    sent = s.wecom.named("send_welcome_msg")
    assert len(sent) == calls and all(at < 20 for at, _ in sent)
    for _, body in sent:
        assert body == {"welcome_code": "W", "text": {"content": "hi"}}


@pytest.mark.parametrize("before", [[], [refused(-1)]])
def test_a_welcome_without_an_answer_in_its_time_may_have_been_sent(before: Any) -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["send_welcome_msg"] = ["lost", *before]
        await asyncio.sleep(19.7 - 0.6 * len(before))
        s.host.submit(delivery(1, welcome()))
        await until(lambda: "shop:i1:1" in s.account.answers, s.loop)

    answer = scene(play).account.answers["shop:i1:1"]
    assert (answer.kind, answer.status, answer.receipts) == ("accepted", None, 1)


def test_a_welcome_that_an_earlier_host_sent_is_not_taken_for_late() -> None:
    async def play(s: Scene) -> None:
        s.wecom.problems["send_welcome_msg"] = [refused(41051)]
        submitted(s.account, s.host.provider, delivery(1, welcome()))
        s.host.submit_again("shop:i1:1")
        await s.until_over()

    assert scene(play).account.answers["shop:i1:1"].kind == "accepted"


def test_an_account_without_tasks_may_leave_memory() -> None:
    idle: list[bool] = []

    async def play(s: Scene) -> None:
        idle.append(s.host.provider.idle)
        s.host.submit(delivery(1))
        idle.append(s.host.provider.idle)
        await asyncio.sleep(60)
        idle.append(s.host.provider.idle)
        await s.until_over()
        idle.append(s.host.provider.idle)

    scene(play)
    assert idle == [True, False, False, True]


def test_a_join_way_is_told_as_an_event_of_the_group() -> None:
    async def play(s: Scene) -> None:
        s.wecom.answers["add_join_way"] = lambda body: {"config_id": "cfg"}
        s.wecom.answers["get_join_way"] = lambda body: {"join_way": {"qr_code": "https://qr"}}
        content = {"op": "group.invite", "state": "s1", "auto_create": True}
        s.host.submit(delivery(1, content, customer="~wr1", to="wr1"))
        await s.until_over()

    s = scene(play)
    (inbound,) = s.account.inbound
    assert inbound.sender == "~wr1" and inbound.content == {
        "event": "group_join_way",
        "config": "cfg",
        "state": "s1",
        "qr_code": "https://qr",
    }


@pytest.mark.parametrize(
    ("failed", "owner", "kind"),
    [([], "", "accepted"), ([1], "u2", "accepted"), ([1], "u1", "failed")],
)
def test_a_group_gets_another_owner_or_has_it_already(failed: Any, owner: str, kind: str) -> None:
    async def play(s: Scene) -> None:
        listed = [{"chat_id": "wr1", "errcode": 90501} for _ in failed]
        s.wecom.answers["onjob_transfer"] = lambda body: {"failed_chat_list": listed}
        s.wecom.answers["get"] = lambda body: {"group_chat": {"owner": owner}}
        content = {"op": "group.update", "owner": "u2"}
        s.host.submit(delivery(1, content, customer="~wr1", to="wr1"))
        await s.until_over()

    assert scene(play).account.answers["shop:i1:1"].kind == kind


@pytest.mark.parametrize(
    ("content", "fields", "code"),
    [
        ({"op": "group.create", "name": "n", "members": ["u"]}, {"customer": "~w"}, "no-api"),
        ({"op": "group.dissolve"}, {"customer": "~w"}, "no-api"),
        ({"op": "group.update", "name": "n"}, {"customer": "~w"}, "no-api"),
        ({"op": "group.invite"}, {}, "content"),
        ({"op": "moment.create", "text": "x"}, {"customer": "~w"}, "content"),
        ({"op": "what"}, {}, "content"),
        ({"op": "mass.cancel"}, {}, "content"),
        ({"text": "x", "welcome_code": ""}, {}, "content"),
        ({"text": "x", "welcome_code": "W", "welcome_until": 7}, {}, "content"),
        ({"text": "x", "welcome_code": "W"}, {"customer": "~w"}, "content"),
        ({"text": "x"}, {"to": "not an id"}, "address"),
        ({"text": "x" * 5_000}, {}, "content"),
    ],
)
def test_what_cannot_leave_says_why(content: Any, fields: Any, code: str) -> None:
    async def play(s: Scene) -> None:
        with pytest.raises(Unsendable) as raised:
            s.host.provider.prepare(delivery(1, content, **fields))
        assert raised.value.provider_code == code

    scene(play)


# ---- being called ----------------------------------------------------------------------------


def test_an_event_is_confirmed_when_it_is_stored() -> None:
    told = Event("change_external_contact", "del_follow_user", {"ExternalUserID": "wm1"}, 7, "e1")

    def request(body: bytes, method: str = "EVENT") -> Callback:
        return Callback(method, {}, {}, body)

    statuses: list[int] = []

    async def play(s: Scene) -> None:
        called: list[Coroutine[Any, Any, Any]] = [
            s.host.provider.callback(request(told.encode())),
            s.host.provider.callback(request(b"\xff{")),
            s.host.provider.callback(request(b"", "GET")),
        ]
        statuses.extend([(await one).status for one in called])
        s.host.lost = True
        statuses.append((await s.host.provider.callback(request(told.encode()))).status)

    s = scene(play)
    assert statuses == [200, 400, 404, 503]
    assert [one.op for one in s.account.commands] == ["dnd.set"]
    assert msgspec.json.encode(s.account.inbound[0].content) == b'{"event":"friend_deleted_us"}'
