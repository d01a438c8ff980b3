"""The demo's parts, without processes: what the shop publishes, what is counted and printed."""

from __future__ import annotations

import dataclasses
import io
import signal
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from actors.account_state import ACCEPTED, DONE, OPEN, WAITING, Attempt, pack
from benchmarks.demo import (
    cdnow,
    centre,
    customers,
    facts,
    partitions,
    purchases,
    push,
    pushed,
    report,
    run,
    stage,
    talks,
)
from benchmarks.demo import sent as sending
from benchmarks.demo.attempts import AttemptLog
from benchmarks.demo.child import Child, ChildFailed
from channels.accounts import AccountConfig
from channels.sms.message import Sms
from hub.checkers import History, Published, Violation, all_checkers, check_all
from hub.checkers.accounts import account_checkers
from hub.checkers.push import push_checkers
from hub.checkers.wecom import wecom_checkers
from hub.contract.decode import Rejection, decode
from hub.contract.subjects import partition_of
from hub.contract.types import Delivery, Intent, ProfileSet
from hub.ledger.audit import NotWhole
from hub.ledger.port import LogRecord, Outbound
from hub.policy.document import load_policy
from tests.support.demo import AtPush, accounts, day_at_wecom
from tests.support.histories import MINUTE_MS, Recorder, intent

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LOG = """ customer_id  date number_of_cds  dollar_value
 00001 19970101  1   11.77
 00002 19970112  1   12.00
 00002 19970112  5   77.00
 00003 19970102  2   20.76
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "CDNOW_master.txt"
    path.write_text(LOG)
    return path


def many(count: int) -> list[cdnow.Purchase]:
    return [
        cdnow.Purchase(
            number,
            cdnow.known_as(f"{number % 97:05d}"),
            f"199701{1 + number // 400:02d}",
            1,
            "9.99",
        )
        for number in range(1, count + 1)
    ]


def decoded(one: purchases.Outgoing) -> list[object]:
    _, _, lane, source, _ = one.subject.split(".")
    packed = one.headers.get("Content-Type") == "application/msgpack"
    return list(decode(lane, source, one.payload, packed))


def test_the_log_is_read_in_the_order_of_its_days(log):
    assert [(p.number, p.customer, p.cds) for p in cdnow.read_log(log)] == [
        (1, "00001", 1),
        (2, "00003", 2),
        (3, "00002", 1),
        (4, "00002", 5),
    ]


def test_the_log_is_found_where_packages_are(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="make demo"):
        cdnow.find_log()
    (tmp_path / "lifetimes" / "datasets").mkdir(parents=True)
    (tmp_path / "lifetimes" / "datasets" / "CDNOW_master.txt").write_text(LOG)
    assert len(cdnow.read_log(cdnow.find_log())) == 4


def test_every_good_message_is_valid_and_the_same_every_time():
    policy = load_policy(stage.POLICY)
    made = list(purchases.messages(many(1_000), NOW, 16))
    assert made == list(purchases.messages(many(1_000), NOW, 16))
    kinds = {"sign-in", "purchase", "batch", "code", "repeat", "mistake"}
    assert {one.kind for one in made} == kinds
    for one in made:
        if one.kind == "mistake":
            continue
        found = decoded(one)
        assert len({partition_of(each.customer, 16) for each in found}) == 1
        if one.kind == "sign-in":
            assert all(isinstance(each, ProfileSet) for each in found)
            continue
        assert all(isinstance(each, Intent) for each in found)
        assert {each.category for each in found} <= policy.categories.keys()
        assert one.kind == "repeat" or [each.id for each in found] == one.ids
    assert sum(one.purchases for one in made) == 1_000
    named = [one.message_id for one in made if one.kind in ("purchase", "batch", "code")]
    assert len(set(named)) == len(named)


def test_every_mistake_is_one_and_there_is_every_kind():
    made = purchases.messages(many(purchases.MISTAKE_EVERY * 40), NOW, 16)
    found = [one for one in made if one.kind == "mistake"]
    reasons = set()
    for one in found:
        objects = decoded(one)
        bad = [each for each in objects if isinstance(each, Rejection)]
        reasons |= {each.reason.partition(":")[0] for each in bad}
        good = [each for each in objects if isinstance(each, Intent)]
        assert bad or good[0].category == "astrology" or good[0].customer.startswith("not-")
        assert len(good) == len(one.ids) or not one.ids
    assert len(reasons) > 12
    for word in ("not JSON", "wrong lane", "not MessagePack", "in an array of", "object of"):
        assert any(reason.startswith(word) for reason in reasons), word


def test_the_application_knows_the_partitions():
    for key in ("00001", "c", "~group", "z" * 64):
        assert partitions.partition_of(key, 16) == partition_of(key, 16)


def shopping() -> Recorder:
    """The shop's first 800 purchases, decided by the product under the demo's policy."""
    recorder = Recorder(load_policy(stage.POLICY))
    for one in purchases.messages(many(800), NOW, 16):
        recorder.now += 40
        _, _, lane, source, _ = one.subject.split(".")
        packed = one.headers.get("Content-Type") == "application/msgpack"
        recorder.take(lane, source, one.payload, packed)
    recorder.run_wakes(recorder.now)
    return recorder


@cache
def pushing() -> AtPush:
    """And pushes that FCM and the grid have answered, and SMS that have ended."""
    recorder = shopping()
    at_push = AtPush(recorder)
    at_push.takes()
    for handed in [handed for handed in recorder.handed if handed.delivery.channel == "sms"]:
        for status in ("sent", "delivered"):
            delivery = handed.delivery
            receipt = {
                "delivery": delivery.id,
                "customer": delivery.customer,
                "status": status,
                "at": delivery.at,
                "provider_id": f"centre-{delivery.id}",
            }
            recorder.publish("receipt", receipt, "accounts")
    return at_push


@cache
def demo_history() -> History:
    return pushing().recorder.history()


def test_counts_and_tables_agree_with_the_history():
    history = demo_history()
    assert check_all(history) == []
    found = facts.gather(history, history.end_ms)
    assert sum(found.dispatched.values()) == len(history.deliveries)
    assert sum(found.rejected.values()) == sum(
        told.outcome.state == "rejected" for told in history.outcomes
    )
    assert found.held["night"].count and found.held["night"].first_ms
    assert found.suppressed["address"] and found.ended["superseded"] and found.held_before
    text = printed(history, found, [])
    for count in (*found.dispatched.values(), found.held["night"].count, found.held_before):
        assert f"{count:,}" in text
    assert "inside quiet hours" in text and "quiet-hours: inside" not in text


def test_every_promise_has_a_place_in_the_table():
    checkers = [*all_checkers(), *account_checkers(), *wecom_checkers(), *push_checkers()]
    ours = {"refusals-obeyed", "takeover-holds"}
    assert set(report.PROMISES) == {checker.promise for checker in checkers} | ours


def test_violations_are_counted_and_shown():
    history = demo_history()
    violations = [
        Violation(promise="quiet-hours", kind="inside-quiet-hours", intent=f"i{n}")
        for n in range(7)
    ]
    text = printed(history, facts.gather(history, 0), violations)
    (line,) = [line for line in text.splitlines() if line.startswith("inside quiet hours")]
    assert " 7 of " in line
    assert "intent=i4" in text and "intent=i5" not in text and "2 more" in text


def printed(history: History, found: facts.Facts, violations: list[Violation]) -> str:
    kinds = {"purchase": 270, "batch": 32, "code": 11, "repeat": 3, "mistake": 4}
    words = {
        "messages": kinds,
        "purchases": 800,
        "intents": 1_611,
        "refused_repeats": 1,
        "seconds": 32.0,
    }
    seen = report.Run(
        published=words,
        complete=True,
        customers=facts.customers(history),
        deliveries=len(history.deliveries),
        outcomes=len(history.outcomes),
        killed=(1, 2, 3),
        silence_s=0.5,
        sms_silence_s=2.5,
        push_silence_s=2.0,
        end_ms=history.end_ms,
    )
    output = io.StringIO()
    sent = sent_of(history)
    sms = sending.count(sent, history)
    said, at_wecom = day_at_wecom().talks()
    spoken = talks.count(said, at_wecom, at_wecom.end_ms)
    console = Console(file=output, width=report.WIDTH)
    pushes = pushing().pushes()
    parts = report.Parts(sent, sms, said, spoken, pushes, pushed.count(pushes, history))
    report.show(console, seen, found, parts, violations)
    assert max(map(len, output.getvalue().splitlines())) <= report.WIDTH
    return output.getvalue()


# ---- push ----------------------------------------------------------------------------------------


def test_every_kind_of_customer_has_devices():
    names = accounts()
    assert {names[name].channel for name in (*push.ACCOUNTS, push.INBOX)} == {"push"}
    assert names[push.INBOX].provider == "gateway"
    assert names[push.PHONES].settings.id_key == pushed.ID_KEY
    everybody = [cdnow.known_as(f"{number:05d}") for number in range(4_000)]
    found = {customer: push.devices(customer) for customer in everybody}
    assert {len(addresses) for addresses in found.values()} == {0, 1, 2, 3}
    assert any(each.startswith("grid/gone-") for several in found.values() for each in several)
    came_by_wechat = [found[each] for each in everybody if each.startswith(cdnow.WECHAT)]
    stranded = [addresses for addresses in came_by_wechat if addresses]
    assert 0 < len(stranded) < len(came_by_wechat) / 10
    assert all(each.startswith("unregistered-") for (each,) in stranded)


def test_pushes_are_counted_and_held_against_the_streams():
    history, pushes = demo_history(), pushing().pushes()
    assert check_all(history) == pushed.check(pushes, history) == []
    counted = pushed.count(pushes, history)
    assert counted.handed == counted.dispatches + len(history.copies) > counted.dispatches
    gone = sum(line["fate"] == "UNREGISTERED" for line in pushes.at_fcm)
    in_inbox = counted.reported[push.INBOX].total()
    assert counted.taken + counted.once + gone + in_inbox == counted.handed
    assert counted.dead[push.PHONES] and counted.receipts["delivered"]
    assert counted.reported[push.INBOX].keys() >= {"delivered", "read"}

    def broken(**more: Any) -> set[str]:
        changed = dataclasses.replace(pushes, **more)
        return {each.kind for each in pushed.check(changed, history)}

    taken = next(line for line in pushes.at_fcm if line["id"])
    assert broken(at_fcm=[*pushes.at_fcm, taken]) == {"submitted-twice", "taken-twice"}
    without = [line for line in pushes.at_fcm if line is not taken]
    assert broken(at_fcm=without) == {"told-as-sent-and-not-taken"}
    posted = next(line for line in pushes.at_grid if line["kind"] == "posted")
    again = {**posted, "try": 2, "took": False}
    assert broken(at_grid=[*pushes.at_grid, again]) == set()
    stored = next(line for line in pushes.in_inbox if line["took"])
    assert "taken-twice" in broken(in_inbox=[*pushes.in_inbox, stored])
    without = [line for line in pushes.in_inbox if line is not stored]
    assert broken(in_inbox=without) == {"told-as-sent-and-not-taken"}
    other = again | {"id": "dlv_other"}
    assert broken(at_grid=[*pushes.at_grid, other]) == {"repeated-under-another-key"}


def test_who_has_lost_the_app_gets_it_by_what_is_left():
    everybody = (cdnow.known_as(f"{number:05d}") for number in range(4_000))
    stranded = next(key for key in everybody if key.startswith(cdnow.WECHAT) and push.devices(key))
    at_push = AtPush(Recorder(load_policy(stage.POLICY)))
    bought = [cdnow.Purchase(1, stranded, "19970101", 1, "9.99")]
    for one in purchases.messages(bought, NOW, 16):
        at_push.recorder.now += 6_000
        _, _, lane, source, _ = one.subject.split(".")
        at_push.recorder.take(lane, source, one.payload)
        at_push.takes()
    history = at_push.recorder.history()
    assert check_all(history) == pushed.check(at_push.pushes(), history) == []
    counted = pushed.count(at_push.pushes(), history)
    assert (counted.down, counted.dispatches, counted.dead[push.PHONES]) == (1, 2, 1)
    channels = [each.delivery.channel for each in history.deliveries]
    # A member's offer is for the app alone.
    assert Counter(channels) == {
        "push": 2,
        "sms": 1 if cdnow.in_club(stranded) else 2,
    }


# ---- the account ---------------------------------------------------------------------------------


def account() -> AccountConfig:
    config = accounts()[run.ACCOUNT]
    assert config.channel == run.CHANNEL
    return config


def line_of(delivery: Delivery, at_ms: int) -> dict[str, Any]:
    """What the centre writes down of a submission that it takes."""
    sms = Sms(account().sms)
    recipient, cut = sms.prepare(delivery)
    assert len(cut.segments) == 1, delivery.id
    return {
        "kind": "submit",
        "at": at_ms,
        "id": f"centre-{delivery.id}",
        "answer": "accept",
        "from": "10690001",
        "to": recipient.removeprefix("+"),
        "coding": 0,
        "part": 1,
        "udh": "",
        "content": cut.segments[0].payload.hex(),
    }


def sent_of(history: History, **more: Any) -> sending.Sent:
    """All SMS of a history, each submitted once, a second after the one before."""
    handed = [each for each in history.deliveries if each.delivery.channel == "sms"]
    written = {
        each.message.id: msgspec.json.decode(msgspec.json.encode(each.message.content))
        for each in history.published
        if isinstance(each.message, Intent)
    }
    lines = []
    for n, each in enumerate(handed):
        content = written[each.delivery.intent]  # of what was parked the recorder has no body
        body = msgspec.Raw(msgspec.json.encode(content.get("sms", content)))
        lines.append(line_of(msgspec.structs.replace(each.delivery, content=body), 2_000 * n))
    known: dict[str, Any] = {
        "account": account(),
        "lines": lines,
        "openings": [],
        "decided": [],
        "found_open": set(),
        "said": [],
        "last": max(each.sequence for each in handed),
        "throttled_s": 1.5,
    }
    return sending.Sent(**known | more)


def test_every_sms_names_its_intent_and_fits_one_part():
    history = demo_history()
    sent = sent_of(history)
    assert sending.check(sent, history) == []
    names = Counter(cdnow.marked(centre.text_of(line)) for line in sent.lines)
    assert len(names) == len(sent.lines) > 150 and None not in names
    kinds = {name.partition("-")[0] for name in names if name}
    assert kinds >= {"order", "offer", "code"}
    counted = sending.count(sent, history)
    assert counted.submitted == counted.reported["delivered"] == len(sent.lines)


def test_what_the_centre_saw_is_held_against_the_streams():
    history = demo_history()
    good = sent_of(history)

    def broken(sent: sending.Sent) -> set[str]:
        return {each.kind for each in sending.check(sent, history)}

    again = {**good.lines[7], "at": good.lines[-1]["at"] + 2_000}
    assert broken(sent_of(history, lines=[*good.lines, again])) == {"submitted-twice"}
    text = bytes.fromhex(good.lines[7]["content"]).replace(b"#", b"#x-").hex()
    stranger = {**again, "content": text}
    assert broken(sent_of(history, lines=[*good.lines, stranger])) == {"submitted-and-not-decided"}
    at_once = [{**line, "at": 1_000} for line in good.lines]
    assert "over-a-limit" in broken(sent_of(history, lines=at_once))
    said = [customers.Said(0, "+" + good.lines[7]["to"], "R")]
    assert broken(sent_of(history, said=said)) == {"confirmed-and-not-stored"}


def test_a_refusal_ends_marketing():
    recorder = Recorder(load_policy(stage.POLICY))
    to = {"sms": "+8613900000001"}
    recorder.publish("normal", intent("before", "c1", category="marketing", to=to))
    refusal = {"id": "r", "app": "accounts", "customer": "c1", "op": "dnd.set", "scope": "all"}
    recorder.publish("command", refusal, "accounts")
    recorder.now += 3_000
    recorder.publish("normal", intent("after", "c1", category="marketing"))
    recorder.publish("normal", intent("notice", "c1", category="service"))
    history = recorder.history()
    assert [each.delivery.intent for each in history.deliveries] == ["before", "notice"]
    assert sending.after_refusals(history) == []
    assert sending.count(sent_of(history, lines=[]), history).withheld == 1
    wrong = msgspec.structs.replace(history.deliveries[0].delivery, intent="after")
    history.deliveries[0] = msgspec.structs.replace(history.deliveries[0], delivery=wrong)
    assert [each.intent for each in sending.after_refusals(history)] == ["after"]


def test_what_receipts_say_follows_from_the_seed():
    plan = centre.Plan(centre.SEED, centre.ODDS)
    lines = []
    for n in range(3_000):
        text = f"text {n}".encode()
        fate = plan.fate(b"8613900000001\0" + text)
        lines.append(
            {
                "kind": "submit",
                "to": "8613900000001",
                "udh": "",
                "content": text.hex(),
                "id": f"{n}" if fate.taken else "",
                "delivered": fate.delivered,
            }
        )
    found = centre.receipts(lines)
    assert set(found.values()) == {"delivered", "failed"}
    taken = [line for line in lines if line["id"]]
    assert all((found[line["id"]] == "delivered") is line["delivered"] for line in taken)


def test_a_record_is_read_as_it_grows(tmp_path):
    record = centre.Record(tmp_path / "record.jsonl")
    assert record.read() == []
    (tmp_path / "record.jsonl").write_bytes(b'{"at":1}\n{"at":')
    assert record.read() == [{"at": 1}]
    with open(tmp_path / "record.jsonl", "ab") as stream:
        stream.write(b'2}\n{"at":3}\n')
    assert record.read() == [{"at": 2}, {"at": 3}]
    assert [line["at"] for line in record.lines] == [1, 2, 3]


async def test_customers_answer_an_offer_once(tmp_path):
    told: list[dict[str, Any]] = []

    async def tell(line: dict[str, Any]) -> None:
        told.append(line["mo"])

    people = customers.Customers(centre.Record(tmp_path / "none"), tell)
    for n in range(500):
        for word in ("order", "offer", "offer"):
            text = f"10% off. {cdnow.mark(f'{word}-{n}')} Reply R to stop."
            line = {"id": "1", "from": "10690001", "to": f"86139{n:08d}", "coding": 0}
            await people.get(line | {"content": text.encode().hex()})
    assert len(told) == len({mo["from"] for mo in told}) == len(people.said) > 10
    sms = Sms(account().sms)
    assert all(sms.is_opt_out(said.text) is said.refuses for said in people.said)
    assert {said.refuses for said in people.said} == {True, False}


def log_record(epoch: int, previous: int, **states: Any) -> bytes:
    packed = {key.replace("_", ":", 1): pack(value) for key, value in states.items()}
    return msgspec.msgpack.encode(LogRecord(1, "c", epoch, previous, 0, "", {}, packed))


def test_the_accounts_log_tells_what_was_open_at_the_kill():
    def attempt(state: int) -> Attempt:
        return Attempt("sms", "sms", "c1", "shop", 3, 1, 0, 0, state=state)

    log = AttemptLog(cast(Any, None), "sms", "sms", 16)
    log.take_deliveries(3, b'[{"id":"x","account":"sms"},{"id":"y","account":"sms"}]')
    log.take_record(5, log_record(1, 0))
    log.take_record(6, log_record(1, 5, a_x=attempt(WAITING), a_y=attempt(OPEN)))
    outbound = [Outbound("receipt", "c1", "m", b'{"delivery":"y","status":"sent","last":true}')]
    log.take_record(8, log_record(1, 6, a_x=attempt(OPEN), a_y=attempt(ACCEPTED), o_1=outbound))
    assert log.unfinished(2) == {} and log.unfinished(4) == {"not read": 1}
    assert log.unfinished(3) == {"open": 1, "accepted": 1}
    log.take_record(9, log_record(2, 8))
    log.take_record(11, log_record(2, 9, a_x=attempt(DONE), a_y=attempt(DONE)))
    assert log.found_open == {"x"} and log.decided == [("y", "sent")]
    assert not log.unfinished(3)
    shown = [(each.sequence, each.delivery, each.open) for each in log.openings]
    assert shown == [(6, "y", True), (8, "x", True), (8, "y", False), (11, "x", False)]
    other = Attempt("wecom", "wecom", "c1", "shop", 3, 1, 0, 0, state=OPEN)
    theirs = [Outbound("receipt", "c1", "m", b'{"delivery":"z","status":"sent"}')]
    log.take_record(12, log_record(2, 11, o_2=theirs, a_z=other))  # another account's: not ours
    assert len(log.openings) == 4 and len(log.decided) == 1
    log.take_record(13, log_record(2, 11))
    with pytest.raises(NotWhole):
        log.unfinished(3)


def test_fallbacks_are_counted_by_where_they_come_from():
    recorder = Recorder(load_policy(stage.POLICY))
    to = {"push": "p", "sms": "+8613900000001"}
    for name in ("a", "b", "c"):
        recorder.publish("normal", intent(name, name, category="service", to=to))

    def tell(delivery: str, status: str, **more: str) -> None:
        customer, at = delivery.split(":")[1], "2026-03-27T05:00:00Z"
        fields = {"delivery": delivery, "customer": customer, "status": status, "at": at}
        recorder.publish("receipt", fields | more, "accounts")

    tell("shop:a:1", "failed", **{"class": "provider"})
    tell("shop:b:1", "failed", **{"class": "provider"})
    recorder.now += MINUTE_MS
    recorder.run_wakes(recorder.now)
    tell("shop:a:2", "delivered")
    tell("shop:b:2", "failed", **{"class": "provider"})
    found = facts.gather(recorder.history(), recorder.now)
    assert {tuple(step): dict(became) for step, became in found.fallbacks.items()} == {
        ("push", "sms", "failed"): {"delivered": 1, "failed": 1},
        ("push", "sms", "waited"): {"": 1},
    }
    assert found.gave_up == 1 and found.dispatched == {"push": 3, "sms": 3}


def test_the_silence_after_a_kill_begins_with_it():
    recorder = Recorder(load_policy(stage.POLICY))
    killed_ms = recorder.now
    for after_ms in (-MINUTE_MS, -10, 300, 2_700, 4_000):
        recorder.now = killed_ms + after_ms
        recorder.publish("normal", intent(f"i{after_ms}", "c1"))
    assert facts.longest_silence_ms(recorder.history(), 16, killed_ms) == 2_400
    assert facts.longest_silence_ms(recorder.history(), 16, killed_ms + 5_000) == 0


def test_waits_are_measured_from_the_stored_times_of_both_streams():
    recorder = Recorder(load_policy(stage.POLICY))
    recorder.publish("urgent", intent("a", category="otp"))
    late = recorder.told[0]
    history = History(
        [Published("urgent", "shop", 1, recorder.now - 12.5, recorder.published[0].message)],
        [late],
        [],
        [load_policy(stage.POLICY)],
        recorder.now,
    )
    found = facts.gather(history, recorder.now + 1)
    assert dict(found.waits_ms) == dict(found.calm_ms) == {"urgent": [12.5]}
    assert dict(facts.gather(history, recorder.now).calm_ms) == {}
    assert found.seconds == 0.0125
    assert [facts.percentile([1, 2, 3, 4], share) for share in (0.25, 0.5, 0.99)] == [1, 2, 4]
    assert facts.percentile([], 0.5) == 0


STUBBORN = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"done": False}), flush=True)
print("what it was", file=sys.stderr, flush=True)
time.sleep(60)
"""


async def test_a_child_that_does_not_end_is_ended_and_says_why(tmp_path):
    child = await Child.start("child", [sys.executable, "-c", STUBBORN], tmp_path)
    assert await child.line(20) == {"done": False}
    with pytest.raises(ChildFailed, match="child said nothing for 0 s"):
        await child.line(0.1)
    await child.clear_away(0.1)
    assert child.process.returncode == -signal.SIGKILL
    with pytest.raises(ChildFailed, match=r"exit code -9.*\nwhat it was"):
        child.terminate()
    await child.clear_away(0)


async def test_a_child_that_listens_is_told(tmp_path):
    code = "import sys; sys.stdout.write(sys.stdin.readline())"
    child = await Child.start("child", [sys.executable, "-c", code], tmp_path, listens=True)
    await child.tell({"said": 1})
    assert await child.line(20) == {"said": 1}
    assert await child.ended(20) == 0


async def test_lines_end_with_the_one_that_is_done(tmp_path):
    code = 'print(\'{"done": false}\\n{"done": true}\\n{"done": false}\')'
    child = await Child.start("child", [sys.executable, "-c", code], tmp_path)
    assert [line["done"] async for line in child.lines(20)] == [False, True]
    assert await child.line(20) == {"done": False}
    with pytest.raises(ChildFailed, match="ended with exit code 0"):
        await child.line(20)
