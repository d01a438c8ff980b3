"""The deciding half of a host: turns, what they put into a batch, and a partition's memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from actors.batch import Batch, arrays, halves
from actors.partition import Partition
from actors.questions import describe
from actors.turn import Turn
from hub import limits
from hub.contract.subjects import CHANNELS, partition_of
from hub.contract.types import Outcome
from hub.ledger.port import Entry, IntakeMessage, LogRecord, PartitionImage
from hub.policy.document import parse_policy
from hub.policy.policy import Policy
from hub.policy.state import pack_state, unpack_state

NOW = 1_793_000_000_000  # 2026-10-26T07:33:20Z
HOUR_MS = 3_600_000
PARTITIONS = 4
TEXT = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["sms"]
[categories.wide]
route = ["wecom", "sms", "push"]
[[quiet]]
name = "morning"
categories = ["ad"]
from = "07:00"
to = "08:00"
on = "hold"
"""
POLICY = Policy(parse_policy(TEXT))
WIDE = 'route = ["wecom", "sms", "push"]'
TIMED = Policy(parse_policy(TEXT.replace(WIDE, f'{WIDE}\nfallback_after = "10m"')))
TO = {"wecom": "w", "sms": "+1", "push": "t"}

decode_record = msgspec.msgpack.Decoder(LogRecord).decode


def keys_of(number: int, count: int, partitions: int = PARTITIONS) -> list[str]:
    """Customers that belong to a partition."""
    found = (key for key in map("c{}".format, range(100_000)))
    mine = (key for key in found if partition_of(key, partitions) == number)
    return [next(mine) for _ in range(count)]


KEY = keys_of(1, 1)[0]


def partition(number: int = 1, fence: int = 7, **image: Any) -> Partition:
    return Partition(PartitionImage(number, 1, fence, **image))


def intent(name: str, customer: str = KEY, **fields: Any) -> dict[str, Any]:
    given = {"id": name, "app": "shop", "customer": customer, "category": "wide"}
    return given | {"content": {"text": name}, "to": TO, "route": ["sms"]} | fields


def message(sequence: int, *objects: Any, lane: str = "normal", number: int = 1) -> IntakeMessage:
    payload = msgspec.json.encode(objects[0] if len(objects) == 1 else objects)
    source = objects[0].get("app", "shop")
    return IntakeMessage(number, lane, source, sequence, NOW, payload, False)


def turn_of(*partitions: Partition, count: int = PARTITIONS) -> Turn:
    return Turn({each.number: each for each in partitions}, count, POLICY)


def batch_of(turn: Turn) -> Batch:
    return Batch("host-1", turn.close(), POLICY.version)


def objects_of(entry: Entry) -> list[dict[str, Any]]:
    found = msgspec.json.decode(entry.payload)
    return found if isinstance(found, list) else [found]


def on(batch: Batch, prefix: str) -> list[Entry]:
    return [entry for entry in batch.entries if entry.subject.startswith(prefix)]


def states_told(batch: Batch) -> list[tuple[str, str]]:
    told = [each for entry in on(batch, "hub.outcome.") for each in objects_of(entry)]
    return [(each["intent"], each["state"]) for each in told]


# ---- arrays --------------------------------------------------------------------------------------


def outcomes(count: int, reason: str = "r") -> list[Outcome]:
    return [Outcome(f"i{n}", "shop", "c", "rejected", "t", reason=reason) for n in range(count)]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2]), (256, [256]), (257, [256, 1]), (600, [256, 256, 88])]
)
def test_an_array_holds_at_most_256_objects(count: int, sizes: list[int]):
    made = [msgspec.json.decode(payload) for payload in arrays(outcomes(count))]
    assert [len(each) if isinstance(each, list) else 1 for each in made] == sizes


def test_one_object_is_no_array():
    (payload,) = arrays(outcomes(1))
    assert msgspec.json.decode(payload)["intent"] == "i0"


def test_an_array_keeps_within_its_bytes_and_its_order():
    many = outcomes(256, reason="x" * 5_000)
    made = list(arrays(many))
    assert max(map(len, made)) <= limits.ARRAY_BYTES < sum(map(len, made))
    found = [each["intent"] for payload in made for each in msgspec.json.decode(payload)]
    assert found == [outcome.intent for outcome in many]


def test_an_object_larger_than_an_array_may_be_goes_alone():
    first, large, last = outcomes(1), outcomes(1, "x" * (limits.ARRAY_BYTES + 1)), outcomes(1)
    made = [msgspec.json.decode(payload) for payload in arrays([*first, *large, *last])]
    assert [type(each) for each in made] == [dict, dict, dict]


# ---- turns ---------------------------------------------------------------------------------------


def test_urgent_deliveries_come_alone_and_others_in_arrays():
    turn = turn_of(partition())
    keys = keys_of(1, 3)
    turn.receive(message(1, *(intent(f"n{k}", k) for k in keys)), NOW)
    turn.receive(message(2, *(intent(f"u{k}", k) for k in keys), lane="urgent"), NOW)
    sent = [[each["intent"] for each in objects_of(e)] for e in on(batch_of(turn), "hub.out.")]
    assert sent == [*([f"u{k}"] for k in keys), [f"n{k}" for k in keys]]


def test_objects_of_an_array_stand_for_themselves():
    """One of another partition, one that is no intent, one of an unknown category, one good."""
    (foreign,) = keys_of(2, 1)
    bad = {"id": "b", "app": "shop", "customer": KEY}
    unknown = intent("u", category="nothing")
    turn = turn_of(partition())
    assert turn.receive(message(5, intent("f", foreign), bad, unknown, intent("g")), NOW) == 4
    batch = batch_of(turn)
    assert states_told(batch) == [
        ("f", "rejected"), ("b", "rejected"), ("u", "rejected"), ("g", "dispatched"),
    ]  # fmt: skip
    record = decode_record(batch.entries[-1].payload)
    assert record.checkpoint["normal"] == 5
    assert set(record.states) == {KEY}, "nothing is remembered of a customer that is not ours"


def test_what_was_decided_before_is_skipped_and_lanes_count_apart():
    owned = partition(checkpoint={"normal": 4, "urgent": 9})
    turn = turn_of(owned)
    assert turn.receive(message(4, intent("old")), NOW) == 0
    assert turn.receive(message(9, intent("older"), lane="urgent"), NOW) == 0
    assert turn.empty
    assert turn.receive(message(5, intent("a")), NOW) == 1
    assert turn.receive(message(5, intent("b"), lane="bulk"), NOW) == 1
    assert turn.receive(message(5, intent("a")), NOW) == 0, "redelivered within the turn"
    batch = batch_of(turn)
    assert states_told(batch) == [("a", "dispatched"), ("b", "dispatched")]
    record = decode_record(batch.entries[-1].payload)
    assert (record.checkpoint["normal"], record.checkpoint["bulk"]) == (5, 5)
    assert record.checkpoint["urgent"] == 9, "a record holds the checkpoints of all lanes"


def test_a_lost_or_foreign_partition_decides_nothing():
    lost = partition()
    lost.lost = True
    turn = turn_of(lost)
    assert turn.receive(message(1, intent("a")), NOW) == 0
    assert turn.receive(message(1, intent("a"), number=3), NOW) == 0
    assert turn.empty


def test_a_partition_s_time_never_goes_back():
    owned = partition(at_ms=NOW + 500)
    turn = turn_of(owned)
    turn.receive(message(1, intent("a")), NOW)
    batch = batch_of(turn)
    assert decode_record(batch.entries[-1].payload).at_ms == NOW + 500
    (delivery,) = objects_of(on(batch, "hub.out.")[0])
    assert delivery["at"] == "2026-10-26T07:33:20.500Z"


def test_what_is_due_goes_before_an_arrival_for_the_same_customer():
    owned = partition()
    turn = turn_of(owned)
    turn.receive(message(1, intent("held", category="ad")), NOW)
    (work,) = turn.close()
    eight = owned.next_wake()
    assert eight == NOW - NOW % HOUR_MS + HOUR_MS
    later = turn_of(owned)
    later.receive(message(2, intent("new")), eight)
    (after,) = later.close()
    after.fill_bodies({f"{work.block}-0": work.parked[0]})
    batch = Batch("host-2", [after], POLICY.version)
    assert states_told(batch) == [("held", "dispatched"), ("new", "dispatched")]
    (entry,) = on(batch, "hub.out.")
    assert [each["content"]["text"] for each in objects_of(entry)] == ["held", "new"]
    assert owned.due(eight, 10) == [], "the heap knows that it has been woken"


def test_a_body_that_is_gone_is_a_failure_with_a_reason():
    owned = partition()
    turn = turn_of(owned)
    turn.receive(message(1, intent("held", category="ad")), NOW)
    turn.close()
    later = turn_of(owned)
    wake = owned.next_wake()
    later.wake(owned, *owned.due(wake, 1), wake)
    (work,) = later.close()
    assert work.missing_blocks() == {"1-1-0"}
    work.fill_bodies({})
    batch = Batch("host-2", [work], POLICY.version)
    assert states_told(batch) == [("held", "dispatched"), ("held", "failed")]
    assert on(batch, "hub.out.") == []


# ---- fallback ------------------------------------------------------------------------------------


def receipt(sequence: int, name: str, attempt: int, status: str = "failed") -> IntakeMessage:
    fields = {"delivery": f"shop:{name}:{attempt}", "customer": KEY, "status": status}
    return message(sequence, fields | {"at": "2026-10-26T07:33:20Z"}, lane="receipt")


@pytest.mark.parametrize("lane", ["normal", "urgent"])
def test_a_fallback_has_the_content_of_its_channel_and_its_lane(lane: str):
    owned = partition()
    turn = turn_of(owned)
    content = {"wecom": {"title": "w"}, "*": {"title": "any"}}
    wide = intent("a", route=["wecom", "sms"], content=content)
    turn.receive(message(1, wide, intent("b"), intent("c"), lane=lane), NOW)
    (work,) = turn.close()
    batch = Batch("host-1", [work], POLICY.version)
    assert [msgspec.json.decode(body) for body in work.parked[0]] == [content], (
        "b and c have no rest"
    )
    after = turn_of(owned)
    after.receive(receipt(1, "a", 1), NOW)
    after.receive(message(4, intent("d"), lane="normal"), NOW)
    (work,) = after.close()
    work.fill_bodies({f"{work.partition.epoch}-1-0": [msgspec.json.encode(content)]})
    batch = Batch("host-2", [work], POLICY.version)
    out = [objects_of(entry) for entry in on(batch, "hub.out.")]
    assert [[each["id"] for each in objects] for objects in out] == (
        [["shop:a:2"], ["shop:d:1"]] if lane == "urgent" else [["shop:a:2", "shop:d:1"]]
    )
    assert out[0][0]["content"] == {"title": "any"}
    assert (out[0][0]["channel"], out[0][0]["attempt"], out[0][0]["to"]) == ("sms", 2, "+1")


def test_what_is_in_flight_wakes_nobody_but_its_end_and_leaves_nothing():
    owned = partition()
    turn = turn_of(owned)
    turn.receive(message(1, intent("a", route=["wecom", "sms"])), NOW)
    turn.receive(message(2, intent("b", route=["wecom", "sms"])), NOW)
    turn.close()
    assert owned.next_wake() == NOW + 72 * HOUR_MS, "when it expires"
    after = turn_of(owned)
    after.receive(receipt(1, "a", 1, "delivered"), NOW)
    assert [held.id for held in unpack_state(owned.states[KEY]).held] == ["b"]
    (work,) = after.close()
    end = turn_of(owned)
    end.wake(owned, *owned.due(NOW + 72 * HOUR_MS, 1), NOW + 72 * HOUR_MS)
    (work,) = end.close()
    state = unpack_state(owned.states[KEY])
    assert (state.held, state.wake, owned.held, work.told) == ([], 0, 0, [])


def test_a_flight_without_end_ends_with_the_time_of_receipts():
    owned = partition()
    turn = turn_of(owned)
    never = "9999-12-31T23:59:59Z"
    turn.receive(message(1, intent("a", route=["wecom", "sms"], expires_at=never)), NOW)
    assert owned.next_wake() == NOW + limits.SEND_MEMORY_MS


def test_what_could_not_fall_back_is_refused_and_one_channel_goes_on(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(limits, "HELD_BYTES", 20)  # a content has 12
    turn = turn_of(partition())
    for sequence, name in enumerate(("a", "b", "c"), start=1):
        turn.receive(message(sequence, intent(name, route=["wecom", "sms"])), NOW)
    turn.receive(message(4, intent("d")), NOW)
    told = turn.works[1].outcomes["shop"]
    words = ["dispatched", "dispatched", "rejected", "dispatched"]
    assert [outcome.state for outcome in told] == words
    assert told[2].reason == "20 bytes are held for this customer or in flight"
    delivered = [each.id for some in turn.works[1].deliveries.values() for each in some]
    assert delivered == ["shop:a:1", "shop:b:1", "shop:d:1"]


def test_a_state_that_was_packed_before_there_were_fallbacks_is_read():
    owned = partition()
    turn = turn_of(owned)
    turn.receive(message(1, intent("a"), intent("held", category="ad")), NOW)
    state = msgspec.msgpack.decode(owned.states[KEY])
    assert [len(send) for send in state[8]] == [7]
    assert [len(held) for held in state[10]] == [24]
    before = [*state[:8], [state[8][0][:6]], state[9], [state[10][0][:20]]]
    read = unpack_state(msgspec.msgpack.encode(before))
    read.devices = unpack_state(owned.states[KEY]).devices
    assert pack_state(read) == owned.states[KEY]


def test_a_customer_s_page_tells_what_is_in_flight_from_what_is_held():
    owned = partition()
    turn = Turn({1: owned}, PARTITIONS, TIMED)
    turn.receive(message(1, intent("a", route=["wecom", "sms"]), intent("b", category="ad")), NOW)
    page = describe(KEY, unpack_state(owned.states[KEY]), TIMED, NOW)
    assert [held["intent"] for held in page["held"]] == ["b"]
    (flight,) = page["in_flight"]
    assert flight == {
        "intent": "a",
        "app": "shop",
        "category": "wide",
        "channel": "wecom",
        "attempt": 1,
        "route_left": ["sms"],
        "accepted_at": "2026-10-26T07:33:20.000Z",
        "expires_at": "2026-10-29T07:33:20.000Z",
        "falls_back_at": "2026-10-26T07:43:20.000Z",
    }


# ---- bounds --------------------------------------------------------------------------------------


def test_a_turn_is_full_by_objects_payload_and_urgent_deliveries(
    monkeypatch: pytest.MonkeyPatch,
):
    bounds = {
        "TURN_INTENTS": 3,
        "TURN_PAYLOAD_BYTES": 400,
        "TURN_URGENT": 3,
    }
    for name, value in bounds.items():
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, value)
            turn = turn_of(partition())
            lane = "urgent" if name == "TURN_URGENT" else "normal"
            taken = 0
            while not turn.full:
                taken += 1
                turn.receive(message(taken, intent(f"i{taken}"), lane=lane), NOW)
            assert taken == 3, name


def test_a_turn_is_full_by_the_states_its_log_record_would_carry(monkeypatch: pytest.MonkeyPatch):
    turn = turn_of(partition())
    turn.receive(message(1, intent("a")), NOW)
    (one,) = turn.works[1].states.values()
    turn.receive(message(2, intent("b")), NOW)
    (both,) = turn.works[1].states.values()
    assert turn.works[1].state_bytes == len(both) > len(one)  # rewritten twice, carried once
    assert not turn.full
    monkeypatch.setattr(limits, "TURN_STATE_BYTES", len(both) + 1)
    turn.receive(message(3, intent("c")), NOW)
    assert turn.full


def test_an_array_with_more_state_than_a_record_holds_is_refused_from_there_on(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(limits, "RECORD_STATE_BYTES", 0)
    turn = turn_of(partition())
    turn.receive(message(1, intent("a"), intent("b"), intent("c")), NOW)
    states = [outcome.state for outcome in turn.works[1].outcomes["shop"]]
    assert states == ["dispatched", "rejected", "rejected"]


def test_a_conversation_that_is_full_takes_no_more_intents(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "CONVERSATION_FULL_BYTES", 1)
    turn = turn_of(partition())
    turn.receive(message(1, intent("a"), intent("b")), NOW)
    first, second = turn.works[1].outcomes["shop"]
    assert (first.state, second.state) == ("dispatched", "rejected")
    assert "held for this customer" in second.reason


def test_a_decision_is_never_earlier_than_the_one_before(monkeypatch: pytest.MonkeyPatch):
    turn = turn_of(partition())
    turn.receive(message(1, intent("a")), NOW)
    turn.receive(message(2, intent("b")), NOW - 5_000)
    first, second = turn.works[1].outcomes["shop"]
    assert first.at == second.at


@pytest.mark.parametrize("count", [limits.PARTITIONS, limits.PARTITIONS_MAX])
@pytest.mark.parametrize("bulk", [limits.TURN_BULK_BESIDE_URGENT, limits.TURN_INTENTS])
def test_the_worst_message_still_fits_a_batch(count: int, bulk: int):
    """Bulk for many accounts, codes, then a full array of urgent combined sends on 3 channels."""
    keys = keys_of(1, 256, count)
    turn = turn_of(partition(), count=count)
    sequence = 0
    while not turn.full and sequence < bulk:
        sequence += 1
        fields = intent(f"b{sequence}", keys[sequence % 256], app=f"app-{sequence % 30}")
        fields |= {"account": f"account-{sequence}", "route": [CHANNELS[sequence % 3]]}
        turn.receive(message(sequence, fields), NOW)
    last = message(1_000, *(intent(f"a{k}", k, reach="all", route=list(CHANNELS)) for k in keys),
                   lane="urgent")  # fmt: skip
    for sequence in range(1, limits.TURN_URGENT):
        if turn.full:
            break
        before = turn.works[1].entries
        turn.receive(message(sequence, intent(f"u{sequence}", keys[0]), lane="urgent"), NOW)
        assert turn.works[1].entries > before
    # The runner asks before each message: what made it full must leave room for one more.
    turn.receive(last, NOW)
    batch = batch_of(turn)
    assert sum(len(objects_of(entry)) == 1 for entry in on(batch, "hub.out.")) >= 3 * 256
    assert len(batch.entries) <= limits.BATCH_MESSAGES


def test_many_applications_fill_a_turn():
    """Anyone may publish under any source: each is an outcome subject of its own."""
    turn = turn_of(partition())
    taken = 0
    while not turn.full:
        taken += 1
        turn.receive(message(taken, intent(f"i{taken}", app=f"app-{taken}")), NOW)
    assert taken == limits.TURN_MESSAGES - 5  # a delivery subject, and 4 arrays' worth of objects
    assert len(batch_of(turn).entries) < limits.BATCH_MESSAGES


def test_a_batch_too_large_is_halved_by_partition(monkeypatch: pytest.MonkeyPatch):
    owned = [partition(number, fence=10 + number) for number in range(4)]
    turn = turn_of(*owned)
    for each in owned:
        key = keys_of(each.number, 1)[0]
        turn.receive(message(1, intent(f"i{each.number}", key), number=each.number), NOW)
    works = turn.close()
    whole = Batch("h-1", works, POLICY.version)
    assert not whole.too_large
    monkeypatch.setattr(limits, "BATCH_MESSAGES", len(whole.entries) - 1)
    assert Batch("h-1", works, POLICY.version).too_large
    parts = [Batch(f"h-{n}", some, POLICY.version) for n, some in enumerate(halves(works))]
    assert [part.fences for part in parts] == [{0: 10, 1: 11}, {2: 12, 3: 13}]
    told = [each for part in parts for each in states_told(part)]
    assert told == states_told(whole)
    assert not Batch("h-9", works[:1], POLICY.version).too_large, "one partition is never split"


def test_a_body_for_an_intent_that_never_expires_has_a_lifetime_the_server_can_count():
    turn = turn_of(partition())
    never = intent("held", category="ad", expires_at="9999-12-31T23:59:59Z")
    turn.receive(message(1, never), NOW)
    (entry,) = on(batch_of(turn), "hub.parked.")
    assert entry.ttl_s is not None
    assert entry.ttl_s > 366 * 24 * 3600
    assert NOW * 10**6 + entry.ttl_s * 10**9 < 2**63


def test_parked_blocks_are_bounded_and_live_as_long_as_their_last_intent(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(limits, "PARKED_BLOCK_BYTES", 40)
    turn = turn_of(partition())
    for name, hours in (("a", 3), ("b", 9), ("c", 5)):
        expires = f"2026-10-26T{7 + hours:02d}:33:20Z"
        turn.receive(
            message(ord(name), intent(name, category="ad", expires_at=expires)), NOW
        )  # 12 bytes of content each, {"text":"a"}
    entries = on(batch_of(turn), "hub.parked.")
    blocks = [msgspec.msgpack.decode(entry.payload) for entry in entries]
    assert [[bytes(body) for body in block] for block in blocks] == [
        [b'{"text":"a"}', b'{"text":"b"}', b'{"text":"c"}']
    ]
    assert [entry.ttl_s for entry in entries] == [9 * 3600 + limits.PARKED_GRACE_S]
    monkeypatch.setattr(limits, "PARKED_BLOCK_BYTES", 30)
    turn = turn_of(partition())
    for sequence in range(1, 4):
        turn.receive(message(sequence, intent(f"{sequence}", category="ad")), NOW)
    (work,) = turn.close()
    assert [len(block) for block in work.parked] == [2, 1]
    state = unpack_state(work.partition.states[KEY])
    places = [(held.block, held.index) for held in state.held]
    assert places == [("1-1-0", 0), ("1-1-0", 1), ("1-1-1", 0)]


# ---- batches and fences --------------------------------------------------------------------------


def test_fences_move_to_the_log_records_and_the_next_batch_carries_them():
    owned = [partition(number, fence=10 + number) for number in (0, 2)]
    turn = turn_of(*owned)
    for each in owned:
        key = keys_of(each.number, 1)[0]
        turn.receive(message(1, intent("a", key), number=each.number), NOW)
    batch = batch_of(turn)
    logs = batch.entries[-2:]
    assert [(entry.subject, entry.expected) for entry in logs] == [
        ("hub.log.0", 10), ("hub.log.2", 12),
    ]  # fmt: skip
    assert [decode_record(entry.payload).previous for entry in logs] == [10, 12]
    assert [entry.expected for entry in batch.entries[:-2]] == [None] * (len(batch.entries) - 2)
    batch.committed(500)
    assert [each.fence for each in owned] == [499, 500]
    assert [each.log_bytes for each in owned] == [len(entry.payload) for entry in logs]
    turn = turn_of(*owned)
    turn.receive(message(2, intent("b", keys_of(0, 1)[0]), number=0), NOW)
    assert batch_of(turn).fences == {0: 499}


def test_only_what_changed_is_logged_and_what_is_empty_again_is_removed():
    owned = partition()
    turn = turn_of(owned)
    dnd = {"id": "k", "app": "shop", "customer": KEY, "op": "dnd.set", "scope": "all"}
    turn.receive(message(1, dnd, lane="command"), NOW)
    assert set(decode_record(batch_of(turn).entries[-1].payload).states) == {KEY}
    turn = turn_of(owned)
    turn.receive(message(2, dnd, lane="command"), NOW)
    assert decode_record(batch_of(turn).entries[-1].payload).states == {}
    turn = turn_of(owned)
    turn.receive(message(3, dnd | {"op": "dnd.clear"}, lane="command"), NOW)
    assert decode_record(batch_of(turn).entries[-1].payload).states == {KEY: None}
    assert owned.states == {}


# ---- a partition's memory ------------------------------------------------------------------------


def held_at(*wakes: int) -> Partition:
    """A partition with one conversation for each wake: `k0`, `k1`, …"""
    pack = msgspec.msgpack.encode
    return partition(states={f"k{n}": pack([wake]) for n, wake in enumerate(wakes)})


def reschedule(owned: Partition, key: str, before: int, after: int) -> None:
    owned.states[key] = msgspec.msgpack.encode([after])
    owned.schedule(key, before, after)


def test_recovery_finds_every_wake():
    owned = held_at(30, 0, 10, 20)
    assert (owned.held, owned.next_wake()) == (3, 10)
    assert owned.due(20, 10) == ["k2", "k3"]
    assert owned.due(20, 10) == []
    assert owned.next_wake() == 30


def test_stale_heap_entries_wake_nobody():
    owned = held_at(10, 10)
    reschedule(owned, "k0", 10, 50)
    assert owned.due(49, 10) == ["k1"]
    reschedule(owned, "k0", 50, 0)
    assert (owned.due(99, 10), owned.held) == ([], 1)
    assert owned.next_wake() is None


def test_a_wake_that_comes_back_to_an_earlier_time_is_due_once():
    owned = held_at(10)
    reschedule(owned, "k0", 10, 50)
    reschedule(owned, "k0", 50, 10)
    assert owned.due(60, 10) == ["k0"]


def test_due_takes_no_more_than_asked_and_leaves_the_rest():
    owned = held_at(1, 2, 3)
    assert owned.due(9, 2) == ["k0", "k1"]
    assert owned.due(9, 2) == ["k2"]


def test_a_heap_of_stale_entries_stays_bounded():
    owned = held_at(1)
    for wake in range(1, 1_000):
        reschedule(owned, "k0", wake, wake + 1)
    assert len(owned.wakes) <= 64 + 4 * owned.held + 1
    assert owned.due(2_000, 10) == ["k0"]


def test_a_snapshot_s_copy_does_not_follow_the_partition():
    owned = held_at(10)
    copy = owned.copy()
    turn = turn_of(owned)
    turn.receive(message(3, intent("a")), NOW)
    turn.close()
    assert set(owned.states) == {"k0", KEY}
    assert (set(copy.states), copy.checkpoint["normal"]) == ({"k0"}, 0)


def test_metrics_are_counted_once_for_what_is_committed():
    turn = turn_of(partition())
    turn.receive(message(1, intent("a"), intent("a"), {"id": "bad"}), NOW)
    (work,) = turn.close()
    counted = Counter(work.counted)
    assert Counter(work.told)["dispatched", "wide", "sms"] == 1
    assert Counter(work.told)["duplicate", "wide", ""] == 1
    assert counted["tact_rejected_total", ("normal",)] == 1
    assert work.inputs == {("normal", "shop"): [NOW] * 3}
