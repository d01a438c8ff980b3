"""What customers write, and what follows in the same turn: windows, replies, reminders, alerts, the
live feed, and commands that accounts carry out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.batch import Batch
from actors.partition import Partition
from actors.questions import describe
from actors.turn import Turn
from hub import limits
from hub.checkers import LiveFeeds, Shown, check_all
from hub.contract.subjects import partition_of
from hub.contract.times import rfc3339
from hub.ledger.port import Entry, IntakeMessage, PartitionImage
from hub.policy.document import parse_policy, policy_version
from hub.policy.policy import Policy
from hub.policy.state import unpack_state, window_key
from hub.service.simulate import simulate
from tests.support.histories import Recorder, kinds
from tests.support.messages import changed
from tests.unit.test_turn import NOW, PARTITIONS, keys_of

KEY = keys_of(1, 1)[0]
GROUP = next(k for k in map("~g{}".format, range(1_000)) if partition_of(k, PARTITIONS) == 1)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
TO = {"wecom": "w", "sms": "+1"}
BASE = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["wecom", "sms"]
[categories.answer]
route = ["wecom"]
bypass = ["cap", "gap", "quiet", "presence", "dnd"]
[[caps]]
name = "one-a-day"
categories = ["ad"]
limit = 9
window = "24h"
on = "drop"
"""
WINDOW = """
[[windows]]
name = "two-in-48h"
channels = ["wecom"]
categories = ["ad"]
limit = 2
within = "48h"
on = "hold"
"""
WORDS = """
[[words]]
name = "secret"
words = ["hidden"]
on = "drop"
alert = "guard"
"""
REPLIES = """
[[replies]]
name = "price"
match = ["price"]
answer = { text = "ten" }
category = "answer"
app = "bot"
every = "1h"
[[replies]]
name = "stop"
match = ["stop"]
how = "exact"
answer = { text = "bye" }
dnd = "all"
category = "answer"
app = "bot"
[[replies]]
name = "welcome"
event = "friend_added"
answer = { wecom = { text = { content = "hello" } } }
category = "answer"
app = "bot"
within = "20s"
"""
REMINDERS = """
[[reminders]]
name = "unanswered"
after = "15m"
again_after = "10m"
app = "desk"
manager = "chief"
"""
ARCHIVE = """
[archive]
channels = ["wecom"]
keep = "400d"
"""


def policy(*parts: str) -> Policy:
    return Policy(parse_policy("".join((BASE, *parts))))


class Hub:
    """One partition, a turn for each thing that happens; what they store, in order."""

    def __init__(self, *parts: str) -> None:
        self.policy = policy(*parts)
        self.partition = Partition(PartitionImage(1, 1, 7))
        self.now = NOW
        self.entries: list[Entry] = []
        self._sequence = 0

    def take(self, lane: str, *objects: dict[str, Any]) -> list[Entry]:
        self._sequence += 1
        payload = msgspec.json.encode(objects[0] if len(objects) == 1 else objects)
        source = objects[0].get("app", "accounts")
        turn = self._turn()
        message = IntakeMessage(1, lane, source, self._sequence, self.now, payload, False)
        turn.receive(message, self.now)
        return self._stored(turn)

    def wait(self, ms: int) -> list[Entry]:
        """Time passes; who is to be woken is, one after the other."""
        stored = []
        end = self.now + ms
        while (wake := self.partition.next_wake()) is not None and wake <= end:
            self.now = max(self.now, wake)
            for key in self.partition.due(self.now, 10):
                turn = self._turn()
                turn.wake(self.partition, key, self.now)
                stored += self._stored(turn)
        self.now = end
        return stored

    def restart(self) -> None:
        """Another owner, with what the ledger holds."""
        image = self.partition.copy()
        self.partition = Partition(image)

    def state(self, key: str = KEY) -> Any:
        return unpack_state(self.partition.states[key])

    def writes(self, text: str, name: str = "m", **fields: Any) -> list[Entry]:
        return self.take("inbound", inbound(name, {"text": text}, self.now, **fields))

    def _turn(self) -> Turn:
        return Turn({1: self.partition}, PARTITIONS, self.policy)

    def _stored(self, turn: Turn) -> list[Entry]:
        works = turn.close()
        for work in works:
            work.fill_bodies({block: self._block(block) for block in work.missing_blocks()})
        batch = Batch("h", works, self.policy.version)
        batch.committed(len(self.entries) + len(batch.entries))
        self.entries += batch.entries
        return batch.entries

    def _block(self, name: str) -> list[bytes]:
        (found,) = on(self.entries, f"hub.parked.1.{name}")
        return msgspec.msgpack.decode(found.payload, type=list[bytes])


def inbound(name: str, content: dict[str, Any], now: int, **fields: Any) -> dict[str, Any]:
    given = {"id": name, "channel": "wecom", "account": "a1", "customer": KEY, "content": content}
    return given | {"at": rfc3339(now)} | fields


def intent(name: str, **fields: Any) -> dict[str, Any]:
    given = {"id": name, "app": "shop", "customer": KEY, "category": "ad", "account": "a1"}
    return given | {"content": {"text": name}, "to": TO, "route": ["wecom"]} | fields


def command(op: str, id: str = "k", customer: str = KEY, **fields: Any) -> dict[str, Any]:
    return {"id": id, "app": "shop", "customer": customer, "op": op} | fields


def on(entries: list[Entry], prefix: str) -> list[Entry]:
    return [entry for entry in entries if entry.subject.startswith(prefix)]


def objects(entries: list[Entry], prefix: str) -> list[dict[str, Any]]:
    found = [msgspec.json.decode(entry.payload) for entry in on(entries, prefix)]
    return [one for each in found for one in (each if isinstance(each, list) else [each])]


def told(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(each["intent"], each["state"]) for each in objects(entries, "hub.outcome.")]


# ---- windows -------------------------------------------------------------------------------------


def test_what_a_window_holds_goes_when_the_customer_writes_and_no_more_of_it():
    hub = Hub(WINDOW)
    held = hub.take("normal", intent("a", priority=1), intent("b", priority=5), intent("c"))
    assert told(held) == [("a", "held"), ("b", "held"), ("c", "held")]
    assert all("next_eligible_at" not in each for each in objects(held, "hub.outcome."))
    hub.now += 1
    wrote = inbound("m", {"text": "hi"}, NOW)
    went = hub.take("inbound", wrote)
    assert told(went) == [("b", "dispatched"), ("c", "dispatched"), ("a", "held")]
    assert [each["content"] for each in objects(went, "hub.out.")] == [{"text": "b"}, {"text": "c"}]
    assert told(hub.take("inbound", wrote)) == [("a", "held")], "a repeat opens nothing anew"
    hub.now += 1
    assert told(hub.writes("and?", "m3")) == [("a", "dispatched")]


@pytest.mark.parametrize(
    "more",
    [{"agent": "li"}, {"content": {"event": "session_opened"}}, {"account": "a2"}],
    ids=["agent", "event", "other account"],
)
def test_only_the_customer_s_own_message_to_that_account_opens_a_window(more: dict[str, Any]):
    hub = Hub(WINDOW)
    hub.take("normal", intent("a"))
    assert told(hub.take("inbound", inbound("m", {"text": "hi"}, NOW) | more)) == []
    assert (hub.state().inbound != 0) is ("account" in more)
    assert [held.id for held in hub.state().held] == ["a"]


# ---- replies -------------------------------------------------------------------------------------


def test_an_answer_leaves_in_the_turn_of_the_message_alone_and_to_whom_wrote():
    hub = Hub(REPLIES)
    stored = hub.writes("What is the PRICE?", sender="wm1")
    (delivery,) = objects(stored, "hub.out.")
    (entry,) = on(stored, "hub.out.")
    assert not entry.payload.startswith(b"[")
    assert delivery["content"] == {"text": "ten"}
    assert (delivery["account"], delivery["to"], delivery["app"]) == ("a1", "wm1", "bot")
    assert delivery["expires_at"] == rfc3339(NOW + 10 * MINUTE_MS)
    ((name, state),) = told(stored)
    assert (name[:6], state) == ("reply-", "dispatched")
    assert on(stored, "hub.outcome.bot")


def test_answers_are_given_once_in_a_while_and_repeats_are_duplicates():
    hub = Hub(REPLIES)
    assert len(told(hub.writes("price", "m1", sender="wm1"))) == 1
    hub.restart()
    assert told(hub.writes("price", "m2")) == []
    hub.now += HOUR_MS
    assert [state for _, state in told(hub.writes("price", "m1"))] == ["duplicate"]
    assert hub.state().replied == {"price": NOW}


def test_a_refusal_is_answered_and_then_kept_to():
    hub = Hub(REPLIES)
    hub.take("normal", intent("later", not_before=rfc3339(NOW + HOUR_MS)))
    stored = hub.writes("  Stop! ", sender="wm1")
    assert [each["content"] for each in objects(stored, "hub.out.")] == [{"text": "bye"}]
    assert told(stored)[-1] == ("later", "suppressed")  # decided again: consent has changed
    assert hub.state().dnd == {"all": 0}
    assert told(hub.writes("please do not stop", "m2")) == []


@pytest.mark.parametrize(
    ("late_ms", "event", "state"),
    [
        (19_000, {}, "dispatched"),
        (20_000, {}, "expired"),
        (5_000, {"welcome_until": rfc3339(NOW + 5_000)}, "expired"),
    ],
)
def test_a_welcome_goes_out_with_its_code_or_not_at_all(late_ms: int, event: Any, state: str):
    hub = Hub(REPLIES)
    content = {"event": "friend_added", "welcome_code": "CODE"} | event
    happened = inbound("e1", content, NOW, sender="wm1")
    hub.now += late_ms
    stored = hub.take("inbound", happened)
    assert [each for _, each in told(stored)] == [state]
    sent = [each["content"] for each in objects(stored, "hub.out.")]
    welcome = {"text": {"content": "hello"}, "welcome_code": "CODE"}
    assert sent == ([welcome] if state == "dispatched" else [])
    assert len(hub.state().replied) == len(sent), "one that came too late is none"


def test_a_person_s_message_is_not_answered():
    assert told(Hub(REPLIES).writes("price", agent="li", sender="wm1")) == []


def test_an_answer_without_an_address_says_so():
    ((_, state),) = told(Hub(REPLIES).writes("price"))
    assert state == "suppressed"


# ---- reminders -----------------------------------------------------------------------------------


def test_who_waits_is_told_of_twice_also_by_another_owner():
    hub = Hub(REMINDERS)
    hub.writes("hello?")
    assert hub.wait(14 * MINUTE_MS) == []
    hub.writes("hello??", "m2")  # she waits since her first
    hub.restart()
    (first,) = objects(hub.wait(MINUTE_MS), "hub.event.desk")
    hub.restart()
    (second,) = objects(hub.wait(10 * MINUTE_MS), "hub.event.")
    assert (first["kind"], first["rule"], first["level"]) == ("waiting", "unanswered", 1)
    assert (second["level"], second["to"]) == (2, "chief")
    assert first["since"] == second["since"] == rfc3339(NOW)
    assert second["at"] == rfc3339(NOW + 25 * MINUTE_MS)
    assert first["id"] != second["id"]
    assert "hello" not in str((first, second))
    assert hub.wait(24 * HOUR_MS) == []


@pytest.mark.parametrize(
    ("lane", "answer"),
    [
        ("normal", intent("a", account="a2")),
        ("inbound", inbound("m9", {"text": "hi"}, NOW, agent="li", account="a3")),
        ("command", command("release")),
        ("command", command("forget")),
    ],
    ids=["dispatch", "agent", "release", "forget"],
)
def test_who_was_answered_waits_no_more(lane: str, answer: dict[str, Any]):
    hub = Hub(REMINDERS)
    hub.writes("hello?")
    hub.take(lane, answer)
    assert hub.wait(HOUR_MS) == []
    assert KEY not in hub.partition.states or not hub.state().waiting


def test_reminders_and_held_intents_wake_at_their_own_times():
    hub = Hub(REMINDERS)
    hub.take("normal", intent("a", not_before=rfc3339(NOW + 20 * MINUTE_MS), route=["sms"]))
    hub.writes("hello?")
    assert objects(hub.wait(15 * MINUTE_MS), "hub.event.")
    assert told(hub.wait(5 * MINUTE_MS)) == [("a", "dispatched")]  # by sms: she waits on wecom
    assert objects(hub.wait(5 * MINUTE_MS), "hub.event.")


def test_another_policy_does_not_repeat_a_reminder():
    """Which were given goes by their time: a new rule that is sooner shifts none of the others."""
    hub = Hub(REMINDERS)
    hub.writes("hello?")
    (first,) = objects(hub.wait(15 * MINUTE_MS), "hub.event.")
    sooner = '[[reminders]]\nname = "sooner"\nafter = "5m"\napp = "desk"\n'
    hub.policy = policy(REMINDERS, sooner)
    hub.writes("hello??", "m2")
    (second,) = objects(hub.wait(HOUR_MS), "hub.event.")
    assert [each["level"] for each in (first, second)] == [1, 2]
    assert second["at"] == rfc3339(NOW + 25 * MINUTE_MS)


def test_a_customer_s_page_says_where_she_waits_and_what_may_still_be_sent():
    hub = Hub(REMINDERS, WINDOW)
    hub.writes("hello?")
    hub.wait(15 * MINUTE_MS)
    page = describe(KEY, hub.state(), hub.policy, hub.now)
    at = {"channel": "wecom", "account": "a1"}
    assert page["waits_for_answer"] == [{**at, "since": rfc3339(NOW), "reminders": 1}]
    assert page["windows"] == [{**at, "last_inbound_at": rfc3339(NOW), "dispatches_since": 0}]


def test_accounts_a_customer_waits_for_are_bounded():
    hub = Hub(REMINDERS, WINDOW)
    for number in range(limits.CONVERSATION_ACCOUNTS + 1):
        hub.now += 1
        hub.writes("hello?", f"m{number}", account=f"a{number}")
    state = hub.state()
    assert len(state.waiting) == limits.CONVERSATION_ACCOUNTS
    assert window_key("wecom", "a0") not in state.waiting


# ---- words ---------------------------------------------------------------------------------------


def test_forbidden_words_stop_intents_and_raise_alerts_without_a_word_of_them():
    hub = Hub(WORDS)
    stored = hub.take("normal", intent("a", content={"text": "a H-I-D-D-E-N thing"}))
    assert told(stored) == [("a", "suppressed")]
    (alert,) = objects(stored, "hub.event.guard")
    assert (alert["kind"], alert["rule"], alert["about"]) == ("words", "secret", "shop:a")
    both = intent("b", content={"text": "hidden"}, route=["wecom", "sms"], reach="all")
    assert len(objects(hub.take("normal", both), "hub.event.guard")) == 1, "one for both channels"
    customer = objects(hub.writes("hidden!", "m1"), "hub.event.guard")
    agent = objects(hub.writes("hidden!", "m2", agent="li"), "hub.event.guard")
    assert [(each["author"], each["about"]) for each in (alert, *customer, *agent)] == [
        ("app", "shop:a"), ("customer", "m1"), ("agent", "m2"),
    ]  # fmt: skip
    assert "idden" not in str((alert, customer, agent))
    assert objects(hub.writes("nothing", "m3"), "hub.event.") == []
    event = inbound("e1", {"event": "something_hidden", "state": "hidden"}, hub.now)
    assert objects(hub.take("inbound", event), "hub.event.") == [], "nobody has written that"


# ---- live feed -----------------------------------------------------------------------------------


def test_a_feed_shows_both_directions_in_order_in_the_same_batch():
    hub = Hub(ARCHIVE, WINDOW, REPLIES)
    hub.take("normal", intent("held"))
    stored = hub.writes("price?", sender="wm1")
    (entry,) = on(stored, "hub.live.a1")
    assert entry.ttl_s == 400 * 24 * 3600
    assert stored.index(entry) < len(stored) - 1, "the log record is last"
    asked, answered, released = objects(stored, "hub.live.a1")
    assert (asked["direction"], asked["author"], asked["id"]) == ("in", "customer", "m")
    assert asked["content"] == {"text": "price?"}
    assert (answered["direction"], answered["author"], answered["app"]) == ("out", "app", "bot")
    assert released["delivery"] == "shop:held:1"
    assert released["content"] == {"text": "held"}, "as it was parked"
    (said,) = objects(hub.writes("on my way", "m2", agent="li"), "hub.live.a1")
    assert (said["direction"], said["author"], said["agent"]) == ("out", "agent", "li")


def test_a_body_that_is_lost_is_not_shown():
    hub = Hub(ARCHIVE, WINDOW)
    hub.take("normal", intent("held"))
    hub.entries.clear()
    turn = Turn({1: hub.partition}, PARTITIONS, hub.policy)
    payload = msgspec.json.encode(inbound("m", {"text": "hi"}, NOW))
    turn.receive(IntakeMessage(1, "inbound", "accounts", 9, NOW, payload, False), NOW)
    (work,) = turn.close()
    work.fill_bodies({})
    batch = Batch("h", [work], hub.policy.version)
    assert [each["id"] for each in objects(batch.entries, "hub.live.")] == ["m"]
    assert objects(batch.entries, "hub.out.") == []


def test_without_an_archive_nothing_is_shown_and_other_channels_are_not():
    hub = Hub()
    assert on([*hub.writes("hi"), *hub.take("normal", intent("a"))], "hub.live.") == []
    hub = Hub(ARCHIVE)
    assert on(hub.take("normal", intent("a", route=["sms"])), "hub.live.") == []


def test_feeds_of_many_accounts_still_fit_a_batch():
    keys = keys_of(1, limits.ARRAY_OBJECTS)
    every = BASE + '[archive]\nchannels = ["wecom", "sms", "push"]\n'
    partition = Partition(PartitionImage(1, 1, 7))
    turn = Turn({1: partition}, PARTITIONS, Policy(parse_policy(every)))
    to = {"wecom": "w", "sms": "s", "push": "p"}
    sends = [
        intent(f"i{n}", customer=key, account=f"a{n}", to=to, route=list(to), reach="all")
        for n, key in enumerate(keys)
    ]
    for sequence in range(1, 100):
        if turn.full:
            break
        one = msgspec.json.encode(intent(f"u{sequence}", account=f"b{sequence}"))
        turn.receive(IntakeMessage(1, "urgent", "shop", sequence, NOW, one, False), NOW)
    payload = msgspec.json.encode(sends)
    turn.receive(IntakeMessage(1, "urgent", "shop", 1_000, NOW, payload, False), NOW)
    batch = Batch("h", turn.close(), "v")
    assert len(batch.entries) <= limits.BATCH_MESSAGES
    states = [state for _, state in told(batch.entries)]
    assert states.count("dispatched") > 3 * 150
    assert states[-1] == "rejected"


# ---- commands of accounts ------------------------------------------------------------------------


def test_a_group_is_made_written_to_and_counted_by_nothing():
    hub = Hub('[[caps]]\nname = "one"\nlimit = 1\nwindow = "1h"\non = "drop"\n')
    key = GROUP
    made = command("group.create", "k1", key, name="Tea", members=["li", "wu"], account="app-1")
    stored = hub.take("command", made)
    assert told(stored) == [("k1", "dispatched")]
    (delivery,) = objects(stored, "hub.out.wecom.")
    assert delivery["content"] == {"op": "group.create", "name": "Tea", "members": ["li", "wu"]}
    assert (delivery["account"], delivery["to"]) == ("app-1", key[1:])
    assert (delivery["id"], delivery["category"]) == ("shop:k1:1", "")
    assert told(hub.take("command", made)) == [("k1", "duplicate")]
    receipt = {"delivery": "shop:k1:1", "customer": key, "status": "sent", "at": rfc3339(NOW)}
    assert told(hub.take("receipt", receipt)) == [("k1", "sent")]
    spoken = changed(intent("a", customer=key), {"to": ..., "account": ...})
    stored = hub.take("normal", spoken)
    assert told(stored) == [("a", "dispatched")], "the cap of one counts no operation"
    (message,) = objects(stored, "hub.out.")
    assert (message["account"], message["to"]) == ("app-1", key[1:])
    failed = receipt | {"delivery": "shop:k2:1", "status": "failed", "class": "provider"}
    hub.take("command", command("group.dissolve", "k2", key))
    assert told(hub.take("receipt", failed)) == [("k2", "failed")]


def test_operations_on_a_customer_need_an_address_and_mind_no_rule():
    hub = Hub(WINDOW, REMINDERS)
    transfer = command("customer.transfer", "k1", to="wu", account="m-1")
    assert told(hub.take("command", transfer)) == [("k1", "rejected")]
    hub.take("command", command("profile.set", "k2", to={"wecom": "wm1"}))
    hub.take("command", command("dnd.set", "k3", scope="all"))
    hub.writes("hello?", account="m-1")
    stored = hub.take("command", transfer)
    assert told(stored) == [("k1", "dispatched")]
    (delivery,) = objects(stored, "hub.out.")
    assert delivery["content"] == {"op": "customer.transfer", "to": "wu"}
    assert (delivery["account"], delivery["to"]) == ("m-1", "wm1")
    place = window_key("wecom", "m-1")
    assert (hub.state().windows, hub.state().waiting) == ({place: [NOW, 0]}, {place: [NOW, 0]})


# ---- the same class elsewhere --------------------------------------------------------------------


def test_simulate_runs_all_of_it():
    document = policy(WINDOW, WORDS, REPLIES, REMINDERS, ARCHIVE).document
    lines = [
        {"type": "intent", "at": rfc3339(NOW), **intent("a")},
        {"type": "inbound", **inbound("m1", {"text": "price"}, NOW + 1)},
        {"type": "inbound", **inbound("m2", {"text": "well?"}, NOW + HOUR_MS)},
        {"type": "command", "at": rfc3339(NOW + HOUR_MS), **command("kf.release")},
    ]
    found = [
        msgspec.json.decode(each) for each in simulate(document, map(msgspec.json.encode, lines))
    ]
    assert [each["state"] for each in found] == ["held", "dispatched", "dispatched", "dispatched"]
    assert found[1]["app"] == "bot"


def test_checkers_know_whose_outcomes_answers_and_operations_are():
    recorder = Recorder(policy(WINDOW, REPLIES, ARCHIVE).document)
    recorder.now = NOW
    recorder.publish("normal", intent("a"))
    recorder.publish("inbound", inbound("m1", {"text": "price"}, NOW), "accounts")
    recorder.publish("command", command("kf.transfer", "k1"))
    receipt = {"delivery": "shop:k1:1", "customer": KEY, "status": "sent", "at": rfc3339(NOW)}
    recorder.publish("receipt", receipt, "accounts")
    assert [each.outcome.state for each in recorder.told][-2:] == ["dispatched", "sent"]
    assert check_all(recorder.history()) == []


def talking() -> Recorder:
    """A customer asks, is answered by rule, by an application and by a person, all in the feed."""
    recorder = Recorder(policy(WINDOW, REPLIES, ARCHIVE).document)
    recorder.now = NOW
    recorder.publish("inbound", inbound("m1", {"text": "price"}, NOW, sender="wm1"), "accounts")
    recorder.now += 1
    recorder.publish("normal", [intent("a"), intent("b", route=["sms"])])
    recorder.now += 1
    recorder.publish("inbound", inbound("m2", {"text": "I see"}, recorder.now, agent="li"), "gw")
    recorder.publish("inbound", inbound("m3", {"text": "thanks"}, recorder.now), "accounts")
    assert len(recorder.shown) == 5
    return recorder


def test_the_checker_of_feeds_is_silent_and_finds_every_line_that_is_wrong():
    recorder = talking()
    right = recorder.shown
    assert check_all(recorder.history()) == []
    for place, one in enumerate(right):
        recorder.shown = right[:place] + right[place + 1 :]
        missing = "inbound-not-shown" if one.message.author != "app" else "delivery-not-shown"
        assert kinds(LiveFeeds(), recorder.history()) == {missing}
        recorder.shown = [*right, one]
        twice = (
            "shown-and-not-heard" if one.message.author != "app" else "shown-and-not-handed-over"
        )
        assert twice in kinds(LiveFeeds(), recorder.history())
    for kind in ("customer", "app"):
        first, last = [each for each in right if each.message.author == kind]
        swapped = {id(first): last, id(last): first}
        recorder.shown = [swapped.get(id(each), each) for each in right]
        assert "shown-out-of-order" in kinds(LiveFeeds(), recorder.history())
    other = msgspec.structs.replace(right[1].message, content=msgspec.Raw(b"{}"))
    recorder.shown = [right[0], Shown(2, other), *right[2:]]
    assert kinds(LiveFeeds(), recorder.history()) == {"shown-otherwise"}
    for wrong in ({"content": msgspec.Raw(b"{}")}, {"direction": "out"}, {"agent": "li"}):
        other = msgspec.structs.replace(right[0].message, **wrong)
        recorder.shown = [Shown(1, other), *right[1:]]
        assert kinds(LiveFeeds(), recorder.history()) == {"shown-otherwise"}


def test_the_checker_of_feeds_knows_not_under_which_policy_an_operation_left():
    recorder = talking()
    recorder.publish("command", command("kf.transfer", "k1"))
    history, other = recorder.history(), policy().document
    history.policies = {**history.policies, policy_version(other): other}
    assert check_all(history) == []


def test_the_checker_of_feeds_knows_not_which_of_a_message_s_repeats_is_shown():
    """The first came while its channel was not archived."""
    recorder = talking()
    recorder.publish("inbound", inbound("m1", {"text": "price"}, NOW), "accounts")
    recorder.shown = recorder.shown[1:]
    history, other = recorder.history(), policy().document
    history.policies = {**history.policies, policy_version(other): other}
    assert LiveFeeds().check(history) == []


def test_a_conversation_that_uses_none_of_it_keeps_nothing_of_it():
    hub = Hub(WINDOW, WORDS, REPLIES, REMINDERS, ARCHIVE)
    hub.take("normal", intent("a", route=["sms"]))
    state = hub.state()
    assert (state.windows, state.replied, state.waiting) == ({}, {}, {})
    assert state.talks is None
