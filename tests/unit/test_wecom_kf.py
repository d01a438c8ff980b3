"""A customer service account: what it sends, and what answers mean; against a scripted WeCom."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from channels.http import NotSent, Unanswered
from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Link,
    ProviderInbound,
    ProviderReceipt,
    Stored,
    Submission,
    Unsendable,
)
from channels.wecom.callbacks import Event
from channels.wecom.config import KfConfig
from channels.wecom.errors import refused
from channels.wecom.kf import KfProvider, msgid_of
from channels.wecom.kf_messages import TAKEOVER_MS
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from tests.support.virtual_loop import VirtualClock, VirtualLoop, run

START_MS = 1_790_000_000_000
CUSTOMER = "wmAbc-1"
DELIVERY = "shop:order-7:1"
CONFIG = KfConfig(corp_id="c", secret="s", open_kfid="wk1")


def delivery(content: Any, to: str = CUSTOMER) -> Delivery:
    raw = msgspec.Raw(content if isinstance(content, bytes) else json.dumps(content).encode())
    return Delivery(
        id=DELIVERY, intent="order-7", app="shop", customer="c1", category="note", priority=5,
        channel="wecom", account="a", to=to, content=raw, attempt=1, at="", expires_at="",
    )  # fmt: skip


class Client:
    """WeCom: answers by endpoint, in the order given."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.closed = False
        self.unreadable: Exception | None = None

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        if name == "kf/sync_msg":
            if self.unreadable is not None:
                raise self.unreadable
            return {"msg_list": [], "next_cursor": ""}
        self.calls.append((name, dict(body or {})))
        answer = self.answers.get(name, [{}]).pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return {"errcode": 0, **answer}

    async def reach(self, url: str = "") -> None:
        """It is there."""

    async def close(self) -> None:
        self.closed = True


class Ear:
    """What is reported."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.bundles: list[Bundle] = []
        self.counts: list[str] = []
        self.links: list[Link] = []
        self.stores = True

    def answered(self, delivery: str, answer: Answer) -> None:
        assert delivery == DELIVERY
        self.answers.append(answer)

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        raise AssertionError

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        raise AssertionError

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        if self.stores:
            self.bundles.append(bundle)
        stored(self.stores)

    def link(self, link: Link) -> None:
        self.links.append(link)

    def counted(self, name: str, *labels: str) -> None:
        self.counts.append(labels[-1])


class Scene:
    """One provider that has been started."""

    def __init__(self, loop: VirtualLoop, config: KfConfig = CONFIG) -> None:
        self.client: Any = Client()
        self.ear: Any = Ear()
        self.provider = KfProvider(
            config,
            None,
            self.ear,
            VirtualClock(loop, START_MS),
            random.Random(1),
            account="a",
            client=self.client,
        )
        self.provider.start({})

    async def send(self, content: Any, *, again: bool = False, **answers: Any) -> Answer:
        for name, answer in answers.items():
            self.client.answers[f"kf/{name.replace('state_', 'state/')}"] = list(answer)
        prepared = self.provider.prepare(delivery(content))
        self.provider.submit(Submission(DELIVERY, prepared, START_MS + 3_600_000, again=again))
        before = len(self.ear.answers)
        await asyncio.sleep(1)
        assert len(self.ear.answers) == before + 1
        return self.ear.answers[-1]  # type: ignore[no-any-return]


def sent(content: Any, config: KfConfig = CONFIG, after_s: float = 0.0, **answers: Any) -> Any:
    """(answer, calls, ear) of one delivery."""

    async def main(loop: VirtualLoop) -> Any:
        scene = Scene(loop, config)
        await asyncio.sleep(after_s)
        answer = await scene.send(content, **answers)
        await scene.provider.stop(1.0)
        assert scene.client.closed
        return answer, scene.client.calls, scene.ear

    return run(main)


# ---- messages ------------------------------------------------------------------------------------


def test_a_message_carries_the_deliverys_own_id() -> None:
    answer, calls, _ = sent({"text": "您好"})
    msgid = msgid_of(DELIVERY)
    assert calls == [
        (
            "kf/send_msg",
            {
                "msgid": msgid,
                "msgtype": "text",
                "text": {"content": "您好"},
                "touser": CUSTOMER,
                "open_kfid": "wk1",
            },
        )
    ]
    assert answer == Answer("accepted", provider_ids=(msgid,), receipts=0)
    assert re.fullmatch(r"[0-9a-zA-Z_-]{1,32}", msgid)
    assert (
        msgid == "ff074dabe76d709d268b8feb7ef216e0"
    )  # another id would send again what is open now
    assert len({msgid_of(f"shop:order-{n}:1") for n in range(1_000)}) == 1_000


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (refused(95001), Answer("failed", failure="window_closed", code="95001")),
        (refused(95002), Answer("failed", failure="window_closed", code="95002")),
        (refused(95013), Answer("failed", failure="window_closed", code="95013")),
        (refused(95018), Answer("failed", failure="window_closed", code="95018")),
        (refused(40096), Answer("failed", failure="dead_address", code="40096")),
        (refused(95004), Answer("failed", failure="config", code="95004")),
        (refused(40007), Answer("failed", failure="rejected_content", code="40007")),
        (refused(-1), Answer("retry", code="-1")),
        (NotSent("no connection"), Answer("retry")),  # no code: no try is used up
        (Unanswered("HTML"), Answer("unknown", code="http-unanswered")),
        (
            refused(45009, until_ms=START_MS + 61_000),
            Answer("throttled", code="45009", retry_after_ms=60_990),
        ),
        (refused(95033), Answer("accepted", provider_ids=(msgid_of(DELIVERY),))),
    ],
)
def test_what_a_refusal_means(problem: Exception, answer: Answer) -> None:
    assert sent({"text": "x"}, send_msg=[problem])[0] == answer


def test_of_what_may_have_been_sent_a_refusal_of_the_id_says_that_it_had_arrived() -> None:
    arrived = Answer("accepted", provider_ids=(msgid_of(DELIVERY),))

    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        first = await scene.send({"text": "x"}, send_msg=[refused(40058)])
        assert first.failure == "rejected_content"  # it means what it says
        for code in (40058, 41051, 99_999):
            again = await scene.send({"text": "x"}, again=True, send_msg=[refused(code)])
            assert again == arrived
        full = await scene.send({"text": "x"}, again=True, send_msg=[refused(95001)])
        assert full.failure == "window_closed"
        await scene.provider.stop(1.0)

    run(main)


@pytest.mark.parametrize("key", ["welcome_code", "code"])
def test_an_answer_to_an_event_is_sent_with_its_code(key: str) -> None:
    until = rfc3339(START_MS + 20_000)
    content = {key: "CODE", "text": "欢迎", "welcome_until": until}
    answer, calls, _ = sent(content)
    body = {"code": "CODE", "msgtype": "text", "text": {"content": "欢迎"}}
    assert calls == [("kf/send_msg_on_event", {"msgid": msgid_of(DELIVERY), **body})]
    assert answer.kind == "accepted"
    late, calls, _ = sent(content, after_s=20.0)
    assert late == Answer("failed", failure="expired", code="code-expired")
    assert calls == []


def test_only_messages_count_among_those_that_may_follow_a_customers() -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        free = {
            name: scene.provider.prepare(delivery(content)).free
            for name, content in {
                "text": {"text": "x"},
                "code": {"code": "c", "text": "x"},
                "transfer": {"op": "kf.transfer", "to": "li"},
                "release": {"op": "kf.release"},
            }.items()
        }
        assert free == {"text": False, "code": True, "transfer": True, "release": True}
        await scene.provider.stop(0.0)

    run(main)


@pytest.mark.parametrize(
    ("content", "to", "failure"),
    [
        ({"text": "x"}, "~group", "dead_address"),
        ({"text": "x"}, "", "dead_address"),
        (b"[1]", CUSTOMER, "rejected_content"),
        (b"{", CUSTOMER, "rejected_content"),
        (b'{"text":' + b"[" * 100_000, CUSTOMER, "rejected_content"),
        ({"markdown": "x"}, CUSTOMER, "rejected_content"),
        ({"op": "kf.dance"}, CUSTOMER, "rejected_content"),
        ({"op": "kf.transfer", "to": 5}, CUSTOMER, "rejected_content"),
        ({"op": "kf.transfer", "to": "a b"}, CUSTOMER, "rejected_content"),
        ({"code": "", "text": "x"}, CUSTOMER, "rejected_content"),
        ({"code": "a", "welcome_code": "b", "text": "x"}, CUSTOMER, "rejected_content"),
        ({"code": "a", "image": {"media_id": "m"}}, CUSTOMER, "rejected_content"),
        ({"code": "a", "text": "x", "welcome_until": "soon"}, CUSTOMER, "rejected_content"),
        ({"code": "a", "text": "x", "welcome_until": 5}, CUSTOMER, "rejected_content"),
    ],
)
def test_what_cannot_be_sent_is_said_before(content: Any, to: str, failure: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        with pytest.raises(Unsendable) as error:
            scene.provider.prepare(delivery(content, to))
        assert error.value.failure == failure
        assert "x" not in error.value.message.split()
        await scene.provider.stop(0.0)

    run(main)


@pytest.mark.parametrize(
    ("problem", "reason", "config"),
    [
        (refused(40001), "WeCom refuses with 40001: the secret is wrong", True),
        (NotSent("no connection: refused"), "no connection: refused", False),
    ],
)
def test_what_only_the_reader_meets_is_told_of_the_account(
    problem: Exception, reason: str, config: bool
) -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        scene.client.unreadable = problem
        await asyncio.sleep(0.1)
        assert scene.ear.links[-1] == Link(window=0, reason=reason, config=config)
        await scene.provider.stop(0.0)

    run(main)


# ---- sessions ------------------------------------------------------------------------------------

SESSION = {"open_kfid": "wk1", "external_userid": CUSTOMER}
TRANS, STATE = "kf/service_state/trans", "kf/service_state/get"


def told(ear: Ear) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """The event and the commands that the conversation was told."""
    (bundle,) = ear.bundles
    assert all(one.sender == CUSTOMER for one in (*bundle.inbound, *bundle.commands))
    return bundle.inbound[0].content, [(one.op, one.fields) for one in bundle.commands]


def test_a_transfer_is_a_takeover_and_tells_the_code_for_an_answer() -> None:
    answer, calls, ear = sent(
        {"op": "kf.transfer", "to": "li"}, service_state_trans=[{"msg_code": "MC"}]
    )
    assert answer == Answer("accepted")
    assert calls == [(TRANS, SESSION | {"service_state": 3, "servicer_userid": "li"})]
    event, ((op, fields),) = told(ear)
    assert event == {"event": "session_changed", "state": "human", "agent": "li", "code": "MC"}
    assert (op, fields["agent"]) == ("takeover", "li")
    assert fields["until"] == rfc3339(START_MS + TAKEOVER_MS + 10)


def test_a_transfer_to_the_queue_is_no_takeover_yet() -> None:
    answer, calls, ear = sent({"op": "kf.transfer", "to": "queue"}, service_state_trans=[{}])
    assert answer == Answer("accepted")
    assert calls == [(TRANS, SESSION | {"service_state": 2})]
    assert told(ear) == ({"event": "session_changed", "state": "queued"}, [])


def test_without_a_name_one_of_those_configured_takes_over() -> None:
    config = KfConfig(corp_id="c", secret="s", open_kfid="wk1", servicers=("li", "wu"))
    _, ((_, body),), _ = sent({"op": "kf.transfer"}, config, service_state_trans=[{}])
    assert body["servicer_userid"] in ("li", "wu")
    assert sent({"op": "kf.transfer"}, config, service_state_trans=[{}])[1][0][1] == body
    _, ((_, body),), _ = sent({"op": "kf.transfer"}, service_state_trans=[{}])
    assert body["service_state"] == 2


@pytest.mark.parametrize(
    ("to", "state", "answer"),
    [
        ("li", {"service_state": 3, "servicer_userid": "li"}, Answer("accepted")),
        ("queue", {"service_state": 2}, Answer("accepted")),
        ("queue", {"service_state": 3, "servicer_userid": "wu"}, Answer("accepted")),
        ("li", {"service_state": 2}, Answer("failed", failure="provider", code="95016")),
        (
            "li",
            {"service_state": 3, "servicer_userid": "wu"},
            Answer("failed", failure="provider", code="95016"),
        ),
        ("li", {"service_state": 4}, Answer("failed", failure="window_closed", code="95016")),
        ("li", {"service_state": "?"}, Answer("failed", failure="provider", code="95016")),
    ],
)
def test_a_wrong_move_is_no_failure_when_it_is_so_already(
    to: str, state: dict[str, Any], answer: Answer
) -> None:
    content = {"op": "kf.transfer", "to": to}
    got, calls, _ = sent(content, service_state_trans=[refused(95016)], service_state_get=[state])
    assert got == answer
    assert [name for name, _ in calls] == [TRANS, STATE]


@pytest.mark.parametrize(
    ("state", "moves", "after"),
    [(0, 0, "program"), (1, 0, "program"), (2, 1, "ended"), (3, 1, "ended"), (4, 0, "ended")],
)
def test_a_release_ends_what_a_person_has_and_nothing_else(
    state: int, moves: int, after: str
) -> None:
    answer, calls, ear = sent(
        {"op": "kf.release"},
        service_state_get=[{"service_state": state}],
        service_state_trans=[{"msg_code": "END"}],
    )
    assert answer == Answer("accepted")
    assert calls[1:] == [(TRANS, SESSION | {"service_state": 4})] * moves
    event, commands = told(ear)
    assert event["state"] == after
    assert commands == [("release", {})]


def test_a_change_that_is_not_stored_is_asked_for_again() -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        scene.ear.stores = False
        answer = await scene.send({"op": "kf.transfer", "to": "li"}, service_state_trans=[{}])
        assert answer.kind == "unknown"
        scene.ear.stores = True
        answer = await scene.send(
            {"op": "kf.transfer", "to": "li"},
            service_state_trans=[refused(95016)],
            service_state_get=[{"service_state": 3, "servicer_userid": "li"}],
        )
        assert answer == Answer("accepted")
        assert told(scene.ear)[1][0][0] == "takeover"
        await scene.provider.stop(0.0)

    run(main)


# ---- being called --------------------------------------------------------------------------------


def hint(**fields: str) -> Callback:
    event = Event("kf_msg_or_event", "", {"OpenKfId": "wk1", "Token": "T"} | fields, START_MS, "id")
    return Callback(method="EVENT", query={}, headers={}, body=event.encode())


@pytest.mark.parametrize(
    ("request_", "status", "what"),
    [
        (hint(), 200, "kf_hint"),
        (hint(OpenKfId="other"), 200, "callback_ignored"),
        (Callback("EVENT", {}, {}, b"<xml/>"), 400, "callback_malformed"),
        (
            Callback("EVENT", {}, {}, Event("subscribe", "", {}, START_MS, "i").encode()),
            200,
            "callback_ignored",
        ),
    ],
)
def test_a_hint_is_acknowledged_at_once(request_: Callback, status: int, what: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        at_s = loop.time()
        reply = await scene.provider.callback(request_)
        assert (reply.status, loop.time()) == (status, at_s)
        assert scene.ear.counts == [what]
        await scene.provider.stop(0.0)

    run(main)


def test_what_is_under_way_when_it_stops_is_unknown() -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        prepared = scene.provider.prepare(delivery({"text": "x"}))
        scene.provider.submit(Submission(DELIVERY, prepared, START_MS + 3_600_000))
        await asyncio.sleep(0)
        await scene.provider.stop(0.0)
        assert [one.kind for one in scene.ear.answers] == ["unknown"]

    run(main)
