"""How much internal groups may be told: what WeCom drops in silence is not sent.

A message to a group counts once for each of its members. WeCom refuses what is over the corp's
person-times, and drops without a word what one member would get too much of from one application,
in all groups together. Pure: times are seconds of a steady clock, and arguments.

Source: WeCom's page 90248.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

PARTS: Final = 60
"""A period is counted in so many parts, whole ones only: never more than it is taken for."""
KNOWN_S: Final = 600.0
"""How long the members of a group are taken to be the same: they let others in by themselves."""
KNOWN_MEMBERS: Final = 200_000
"""Of all groups together: 20 MB. The groups not written to longest are asked for again."""


class _Period:
    """Person-times within one period."""

    __slots__ = ("_limit", "_part_s", "_parts", "_total")

    def __init__(self, limit: int, length_s: float) -> None:
        self._limit = limit
        self._part_s = length_s / PARTS
        self._parts: deque[list[int]] = deque()
        """[number of the part, person-times], the oldest first."""
        self._total = 0

    def wait_s(self, number: int, at_s: float) -> float:
        now = int(at_s / self._part_s)
        while self._parts and self._parts[0][0] < now - PARTS:
            self._total -= self._parts.popleft()[1]
        left = self._total + number - self._limit
        for part, count in self._parts:
            if left <= 0:
                break
            left -= count
            if left <= 0:
                return (part + PARTS + 1) * self._part_s - at_s
        return 0.0

    def add(self, number: int, at_s: float) -> None:
        now = int(at_s / self._part_s)
        if self._parts and self._parts[-1][0] == now:
            self._parts[-1][1] += number
        else:
            self._parts.append([now, number])
        self._total += number


class GroupRates:
    """What the groups of one application were told lately."""

    def __init__(self, *, per_min: int, per_hour: int, member_per_min: int) -> None:
        """`per_min` and `per_hour` are person-times of the corp."""
        self._periods = (_Period(per_min, 60.0), _Period(per_hour, 3_600.0))
        self._member_per_min = member_per_min
        self._members: dict[str, deque[float]] = {}
        """When each was told something within the last minute: no more than its person-times."""
        self._tidied_s = 0.0

    def wait_s(self, members: Sequence[str], at_s: float) -> float:
        """Seconds until a message to these members is within the limits; 0.0: now."""
        self._tidy(at_s)
        wait_s = max(period.wait_s(len(members), at_s) for period in self._periods)
        for member in members:
            times = self._members.get(member)
            if times is not None and len(times) >= self._member_per_min:
                wait_s = max(wait_s, times[-self._member_per_min] + 60.0 - at_s)
        return max(wait_s, 0.0)

    def add(self, members: Sequence[str], at_s: float) -> None:
        """They are told something now."""
        for period in self._periods:
            period.add(len(members), at_s)
        for member in members:
            times = self._members.get(member)
            if times is None:
                times = self._members[member] = deque(maxlen=self._member_per_min)
            times.append(at_s)

    def _tidy(self, at_s: float) -> None:
        if at_s - self._tidied_s >= 60.0:
            self._tidied_s = at_s
            old = [name for name, times in self._members.items() if times[-1] <= at_s - 60.0]
            for name in old:
                del self._members[name]


class KnownMembers:
    """Who is in which group, as appchat/get said not long ago."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()
        self._members = 0

    def get(self, chat: str, at_s: float) -> tuple[str, ...] | None:
        """The members; None when they must be asked for."""
        found = self._groups.get(chat)
        if found is None or found[0] <= at_s:
            return None
        self._groups.move_to_end(chat)
        return found[1]

    def learn(self, chat: str, reply: Mapping[str, Any], at_s: float) -> tuple[str, ...]:
        """What appchat/get has said of the group."""
        self.forget(chat)
        info = reply.get("chat_info")
        listed = info.get("userlist") if isinstance(info, Mapping) else None
        users = listed if isinstance(listed, list) else []
        found = tuple(one for one in users if isinstance(one, str))
        self._groups[chat] = at_s + KNOWN_S, found
        self._members += len(found) + 1
        while self._members > KNOWN_MEMBERS and len(self._groups) > 1:
            self.forget(next(iter(self._groups)))
        return found

    def forget(self, chat: str) -> None:
        """The group has changed."""
        found = self._groups.pop(chat, None)
        if found is not None:
            self._members -= len(found[1]) + 1
