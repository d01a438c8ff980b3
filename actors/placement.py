"""Which host should own which partition: a pure function of what is observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Moves:
    """What to ask of the hosts now. What is released becomes unowned and is assigned next time."""

    assign: dict[str, list[int]] = field(default_factory=dict)
    release: dict[str, list[int]] = field(default_factory=dict)


def outdated(epochs: Mapping[str, Mapping[int, int]]) -> dict[str, list[int]]:
    """Partitions that a host holds although another has claimed them since, by host.

    `epochs`: for every host, the epoch of each partition it holds. The fence would tell such an
    owner at its next commit; a quiet partition has none, and questions to it would be answered
    from an old state.
    """
    newest: dict[int, int] = {}
    for held in epochs.values():
        for number, epoch in held.items():
            newest[number] = max(epoch, newest.get(number, 0))
    found = {
        host: sorted(number for number, epoch in held.items() if epoch < newest[number])
        for host, held in epochs.items()
    }
    return {host: numbers for host, numbers in found.items() if numbers}


def plan(partitions: int, owned: Mapping[str, Iterable[int]]) -> Moves:
    """The next moves towards every partition owned and all hosts within one of each other.

    `owned`: for every host that answers, the partitions it holds or is claiming. A partition that
    two hosts hold (one was thought dead) is left alone: the fence decides, and the loser drops it.
    """
    moves = Moves()
    if not owned:
        return moves
    load = {host: set(numbers) for host, numbers in sorted(owned.items())}
    taken = set().union(*load.values())
    for number in range(partitions):
        if number not in taken:
            host = min(load, key=lambda name: (len(load[name]), name))
            load[host].add(number)
            moves.assign.setdefault(host, []).append(number)
    if moves.assign:
        return moves  # first everything has an owner, then the loads are made even
    while True:
        most = max(load, key=lambda name: (len(load[name]), name))
        least = min(load, key=lambda name: (len(load[name]), name))
        if len(load[most]) - len(load[least]) <= 1:
            return moves
        number = max(load[most])
        load[most].remove(number)
        load[least].add(number)
        moves.release.setdefault(most, []).append(number)
