"""The checkers of WeCom: silent about good histories, and each finds what is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from hub.checkers import Handed, Published, Told
from hub.checkers.wecom import check_wecom
from hub.checkers.wecom_records import Came, Seen, Taken, WecomHistory, Wrote, seen_of
from hub.contract.decode import decode
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery, Outcome
from tests.support.wecom import CORP, api_of, wecom

START_MS = parse_rfc3339("2026-03-27T05:00:00Z")
SECOND, HOUR = 1_000, 3_600_000


def handed(sequence: int, name: str, text: str, customer: str = "ann", **fields: Any) -> Handed:
    content = {"text": text} | ({"welcome_code": fields.pop("code")} if "code" in fields else {})
    values: dict[str, Any] = {
        "id": f"bot:{name}:1",
        "intent": name,
        "app": "bot",
        "customer": customer,
        "category": "answer",
        "priority": 5,
        "channel": "wecom",
        "account": "desk",
        "to": customer,
        "content": msgspec.Raw(msgspec.json.encode(content)),
        "attempt": 1,
        "at": rfc3339(START_MS),
        "expires_at": rfc3339(START_MS + HOUR),
    }
    return Handed(sequence, START_MS, Delivery(**values | fields))


def published(sequence: int, lane: str, **fields: Any) -> Published:
    (message,) = decode(lane, "accounts", msgspec.json.encode(fields), False)
    return Published(lane, "accounts", sequence, START_MS, message)


def inbound(sequence: int, id: str, customer: str = "ann", **content: Any) -> Published:
    known: dict[str, Any] = {"id": id, "channel": "wecom", "account": "desk", "customer": customer}
    known |= {"at": rfc3339(START_MS), "sender": customer}
    known |= {key: content.pop(key) for key in ("account", "agent") if key in content}
    return published(sequence, "inbound", content=content, **known)


def receipt(sequence: int, name: str, status: str = "sent", **fields: Any) -> Published:
    known = {"delivery": f"bot:{name}:1", "customer": "ann", "at": rfc3339(START_MS)}
    more = {"class": "expired"} if status == "failed" else {}
    return published(sequence, "receipt", **known | fields | more, status=status)


def unsent(customer: str, state: Any) -> Told:
    outcome = Outcome("reply-" + "0" * 32, "bot", customer, state, rfc3339(START_MS))
    return Told(9, START_MS, outcome)


def taken(at_ms: int, id: str, text: str, **fields: Any) -> Taken:
    known = {"kind": "kf", "account": "desk", "to": "ann"}
    return Taken(START_MS + at_ms, id=id, text=text, **known | fields)


def wrote(at_ms: int, id: str, text: str | None = None, **fields: Any) -> Wrote:
    known = {"account": "desk", "sender": "ann"}
    return Wrote(START_MS + at_ms, id=id, text=text, **known | fields)


def came(at_ms: int, who: str, code: str) -> Came:
    return Came(START_MS + at_ms, "mary", who, code, START_MS + at_ms + 20 * SECOND)


def good() -> WecomHistory:
    """Ann asks twice, a person answers once; two customers come, of whom one is welcomed in time; a
    mass message that its member has confirmed."""
    return WecomHistory(
        seen=Seen(
            wrote=[
                wrote(0, "m1", "hello"),
                wrote(500, "m2", None),
                wrote(900, "m3", "I shall see", agent="zoe"),
            ],
            came=[came(0, "bob", "w1"), came(0, "cyd", "w2"), came(0, "dan", "w3")],
            taken=[
                taken(1_000, "k1", "hi"),
                taken(2_000, "k2", "there"),
                taken(5_000, "", "welcome", kind="welcome", account="mary", to="bob", code="w1"),
                taken(9_000, "t1", "offer", kind="mass", account="mary", to="bob"),
            ],
            violations={"app_member": 0},
        ),
        published=[
            inbound(1, "m1", text="hello"),
            inbound(2, "m2", image={"media_id": "x"}),
            inbound(3, "m3", text="I shall see", agent="zoe"),
            inbound(4, "e1", "bob", account="mary", event="friend_added", welcome_code="w1"),
            inbound(4, "e2", "cyd", account="mary", event="friend_added", welcome_code="w2"),
            inbound(4, "e3", "dan", account="mary", event="friend_added", welcome_code="w3"),
            receipt(5, "a", provider_id="k1"),
            receipt(6, "b", provider_id="k2"),
            receipt(7, "c", customer="bob"),
            receipt(8, "d", "failed", customer="cyd"),
            receipt(9, "e", customer="bob", provider_id="own"),
        ],
        handed=[
            handed(1, "a", "hi"),
            handed(2, "b", "there"),
            handed(3, "c", "welcome", "bob", account="mary", code="w1"),
            handed(4, "d", "welcome", "cyd", account="mary", code="w2"),
            handed(5, "e", "offer", "bob", account="mary"),
        ],
        outcomes=[unsent("dan", "expired")],
        welcoming=frozenset(("mary",)),
    )


def kinds(history: WecomHistory) -> list[str]:
    return [f"{each.promise}: {each.kind}" for each in check_wecom(history)]


def test_a_good_history() -> None:
    assert kinds(good()) == []
    assert [(each.delivery, each.account) for each in good().submits()] == [
        ("bot:a:1", "desk"),
        ("bot:b:1", "desk"),
        ("bot:c:1", "mary"),
        ("bot:e:1", "mary"),
    ]


# ---- planted ---------------------------------------------------------------------------------


def lost(history: WecomHistory) -> None:
    del history.published[1]


def heard_twice(history: WecomHistory) -> None:
    history.published.append(replace(history.published[0], sequence=20))


def altered(history: WecomHistory) -> None:
    history.published[0] = inbound(1, "m1", text="hallo")


def of_another(history: WecomHistory) -> None:
    history.published[0] = inbound(1, "m1", "eve", text="hello")


def agent_forgotten(history: WecomHistory) -> None:
    history.published[2] = inbound(3, "m3", text="I shall see")


def overtaken(history: WecomHistory) -> None:
    history.published[0] = replace(history.published[0], sequence=2, index=1)


def invented(history: WecomHistory) -> None:
    history.published.append(inbound(20, "m9", text="never said"))


def repeated(history: WecomHistory) -> None:
    history.seen.taken.append(taken(3_000, "k1", "hi"))


def repeated_as_another(history: WecomHistory) -> None:
    history.seen.taken.append(taken(3_000, "k3", "hi"))


def repeated_and_told(history: WecomHistory) -> None:
    history.seen.taken.append(taken(3_000, "k3", "?", to="ann"))
    history.published.append(receipt(20, "a", "delivered", provider_id="k3"))


def undecided(history: WecomHistory) -> None:
    del history.handed[1]


def told_and_never_taken(history: WecomHistory) -> None:
    del history.seen.taken[1]


def told_and_not_confirmed(history: WecomHistory) -> None:
    history.seen.taken[-1] = replace(history.seen.taken[-1], to="cyd")


def event_lost(history: WecomHistory) -> None:
    del history.published[3]


def event_twice(history: WecomHistory) -> None:
    history.published.append(replace(history.published[3], sequence=20))


def welcomed_twice(history: WecomHistory) -> None:
    history.seen.taken.append(history.seen.taken[2])


def welcomed_late(history: WecomHistory) -> None:
    history.seen.taken[2] = replace(history.seen.taken[2], at_ms=START_MS + 20_001)


def never_told(history: WecomHistory) -> None:
    del history.published[9]


def not_answered(history: WecomHistory) -> None:
    history.outcomes[0] = unsent("dan", "dispatched")


def over_the_fakes_limit(history: WecomHistory) -> None:
    history.seen.violations["app_member"] = 1


def six_in_a_row(history: WecomHistory) -> None:
    history.seen.taken += [taken(3_000 + n, f"n{n}", f"{n}") for n in range(4)]


def two_days_later(history: WecomHistory) -> None:
    history.seen.taken[1] = replace(history.seen.taken[1], at_ms=START_MS + 500 + 48 * HOUR)


def to_a_stranger(history: WecomHistory) -> None:
    history.seen.taken.append(taken(3_000, "k9", "you?", to="eve"))


PLANTED: dict[Callable[[WecomHistory], None], str] = {
    lost: "everybody-is-heard: lost",
    heard_twice: "everybody-is-heard: published-twice",
    altered: "everybody-is-heard: published-otherwise",
    of_another: "everybody-is-heard: published-otherwise",
    agent_forgotten: "everybody-is-heard: published-otherwise",
    overtaken: "everybody-is-heard: out-of-order",
    invented: "everybody-is-heard: written-by-nobody",
    repeated: "written-once: taken-twice",
    repeated_as_another: "written-once: taken-more-often-than-decided",
    repeated_and_told: "written-once: delivery-taken-twice",
    undecided: "written-once: taken-more-often-than-decided",
    told_and_never_taken: "written-once: told-and-not-taken",
    told_and_not_confirmed: "written-once: told-and-not-taken",
    event_lost: "welcomed-in-time: not-heard",
    event_twice: "welcomed-in-time: heard-twice",
    welcomed_twice: "welcomed-in-time: welcomed-twice",
    welcomed_late: "welcomed-in-time: welcomed-too-late",
    never_told: "welcomed-in-time: neither-sent-nor-told",
    not_answered: "welcomed-in-time: not-answered",
    over_the_fakes_limit: "wecom-limits: over-a-limit",
    six_in_a_row: "wecom-limits: over-a-window",
    two_days_later: "wecom-limits: after-a-closed-window",
    to_a_stranger: "wecom-limits: after-a-closed-window",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_planted_is_found(plant: Callable[[WecomHistory], None]) -> None:
    history = good()
    plant(history)
    assert PLANTED[plant] in kinds(history)


def test_what_was_handed_over_was_sent_by_another() -> None:
    history = good()
    history.handed.append(handed(6, "f", "by SMS"))
    history.handed.append(handed(7, "f", "by SMS", account="sms", via="desk"))
    history.published.append(receipt(10, "f", provider_id="s1"))
    assert kinds(history) == []


def test_limits_that_are_broken_on_purpose() -> None:
    history = good()
    over_the_fakes_limit(history)
    history.allowed = frozenset(("app_member",))
    assert kinds(history) == []


def test_her_next_message_opens_the_window_again() -> None:
    history = good()
    six_in_a_row(history)
    history.handed += [handed(20 + n, f"n{n}", f"{n}") for n in range(4)]
    history.seen.wrote.append(wrote(3_002, "m4", "go on"))
    history.published.append(inbound(10, "m4", text="go on"))
    assert kinds(history) == []


# ---- reading the fake --------------------------------------------------------------------------


async def test_the_record_of_the_fake_is_read() -> None:
    """What it tells while it runs, with one application, one desk and one member of ours."""
    accounts = {(CORP, "wk000001"): "desk", (CORP, "m1"): "mary", (CORP, "1000002"): "staff"}
    async with wecom() as fake, api_of(fake) as api:
        asked = await fake.do("customer-writes", external_userid="c1", text="hello")
        await fake.do("agent-writes", external_userid="c1", userid="m3", text="one moment")
        await fake.do("member-writes", userid="M2", text="to the office")
        added = await fake.do("add-contact", userid="m1", external_userid="c2")
        await fake.do("add-contact", userid="m9", external_userid="c3")  # none of ours
        entered = await fake.do("customer-enters", external_userid="c4")
        kf = {"open_kfid": "wk000001", "touser": "c4", "msgtype": "text"}
        text = {"msgtype": "text", "text": {"content": "hi"}}
        await api("externalcontact/send_welcome_msg", welcome_code=added["welcome_code"], **text)
        await api("kf/send_msg_on_event", code=entered["welcome_code"], msgid="e1", **text)
        await fake.do("customer-writes", external_userid="c4", msgtype="image", data="png")
        assert (await api("kf/send_msg", msgid="k1", text={"content": "hi"}, **kf))["errcode"] == 0
        await api("message/send", agentid=1_000_002, touser="m2", **text)
        await api("appchat/create", chatid="g1", userlist=["m1", "m2"])
        await api("appchat/send", chatid="g1", **text)
        record = fake.record()
    lines = [*record["said"], *record["kf"], *record["sent"]]
    seen = seen_of(lines, accounts, record["violations"])
    assert [(one.account, one.sender, one.text, one.agent) for one in seen.wrote] == [
        ("desk", "c1", "hello", ""),
        ("desk", "c1", "one moment", "m3"),
        ("staff", "m2", "to the office", ""),
        ("desk", "c4", None, ""),
    ]
    assert seen.wrote[0].id == asked["msgids"][0]
    assert [(one.account, one.sender, one.code) for one in seen.came] == [
        ("mary", "c2", added["welcome_code"]),
        ("desk", "c4", entered["welcome_code"]),
    ]
    assert all(one.until_ms == one.at_ms + 20_000 for one in seen.came)
    assert [(one.kind, one.account, one.to, one.text, one.code) for one in seen.taken] == [
        ("kf", "desk", "c4", "hi", ""),
        ("welcome", "mary", "c2", "hi", added["welcome_code"]),
        ("kf_event", "desk", "c4", "hi", entered["welcome_code"]),
        ("app", "staff", "m2", "hi", ""),
        ("appchat", "staff", "g1", "hi", ""),
    ]
