"""Placement: everything gets an owner, loads become even, and a plan that is followed settles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.placement import outdated, plan


def settle(partitions: int, owned: dict[str, set[int]]) -> int:
    """Follow the plans until nothing moves; returns how many were followed."""
    for steps in range(100):
        moves = plan(partitions, owned)
        if not moves.assign and not moves.release:
            return steps
        for host, numbers in moves.release.items():
            owned[host] -= set(numbers)
        for host, numbers in moves.assign.items():
            owned[host] |= set(numbers)
    raise AssertionError("placement does not settle")


def test_no_host_no_moves():
    assert plan(16, {}).assign == {}


def test_first_everything_gets_an_owner_then_loads_are_evened():
    moves = plan(4, {"a": {0, 1, 2}, "b": set()})
    assert moves.assign == {"b": [3]}
    assert moves.release == {}
    assert plan(4, {"a": {0, 1, 2}, "b": {3}}).release == {"a": [2]}


def test_a_partition_that_two_hosts_hold_is_left_to_the_fence():
    moves = plan(2, {"a": {0, 1}, "b": {1}})
    assert moves.assign == {}
    assert moves.release == {}


@given(
    st.integers(1, 64),
    st.lists(st.sets(st.integers(0, 63), max_size=64), min_size=1, max_size=6),
)
def test_any_start_settles_with_every_partition_owned_and_even_loads(partitions, sets):
    seen: set[int] = set()
    owned = {}
    for index, numbers in enumerate(sets):
        owned[f"h{index}"] = {n for n in numbers if n < partitions} - seen
        seen |= owned[f"h{index}"]
    assert settle(partitions, owned) <= 3
    assert sorted(n for numbers in owned.values() for n in numbers) == list(range(partitions))
    loads = [len(numbers) for numbers in owned.values()]
    assert max(loads) - min(loads) <= 1


def test_of_two_owners_the_one_with_the_older_claim_is_outdated():
    assert outdated({"a": {0: 3, 1: 5}, "b": {1: 6}, "c": {}}) == {"a": [1]}
    assert outdated({"a": {0: 1}, "b": {1: 1}}) == {}
