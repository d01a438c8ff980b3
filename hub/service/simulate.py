"""`tact simulate`: the hub's own decisions in virtual time, without servers.

Input: one JSON object a line in time order, `{"at": time, "type": …, …the message's fields}`.
Output: one outcome a line in the order decided. Same policy and input give the same bytes.
Source: docs/contract.md, "Simulation".
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

import msgspec

from actors.conversation import BodyRef, Conversation
from hub.contract.decode import Rejection, decode
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery, Event, LiveMessage, Outcome
from hub.errors import InputError
from hub.policy.document import PolicyDocument
from hub.policy.policy import Policy
from hub.policy.state import ConversationState

_LANES = {"intent": "normal", "receipt": "receipt", "inbound": "inbound", "command": "command"}
_SOURCELESS = ("receipt", "inbound")


class _Simulation:
    """All conversations in memory, with the effects of decisions collected in order."""

    def __init__(self, document: PolicyDocument) -> None:
        self.policy = Policy(document)
        self.states: dict[str, ConversationState] = {}
        self.wakes: list[tuple[int, str]] = []
        self.outcomes: list[bytes] = []
        self.urgent = False

    # Effects: outcomes are the result, bodies need no keeping, and the rest goes nowhere.

    def outcome(self, outcome: Outcome, category: str) -> None:
        self.outcomes.append(msgspec.json.encode(outcome))

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        pass

    def park(self, content: bytes, expires: int) -> BodyRef:
        return BodyRef("", 0)

    def event(self, event: Event) -> None:
        pass

    def live(self, message: LiveMessage, keep_ms: int, parked: BodyRef | None = None) -> None:
        pass

    def count(self, name: str, *labels: str) -> None:
        pass

    def run_wakes(self, until: int | None) -> None:
        """Decide what is due, each at its time, up to `until`; None: until nothing waits."""
        while self.wakes and (until is None or self.wakes[0][0] <= until):
            at, key = heapq.heappop(self.wakes)
            if self.states[key].wake != at:
                continue  # decided since, and put into the heap anew
            self._conversation(key).wake(at)
            self._schedule(key, at)

    def receive(self, kind: str, fields: dict[str, object], at: int) -> None:
        source = str(fields.get("app", ""))
        (message,) = decode(_LANES[kind], source, msgspec.json.encode(fields))
        if isinstance(message, Rejection):
            rejected = Outcome(
                message.id,
                source,
                message.customer,
                "rejected",
                rfc3339(at),
                reason=message.reason,
            )
            self.outcome(rejected, "")
            return
        key = message.customer
        conversation = self._conversation(key)
        before = conversation.state.wake
        conversation.receive(message, at, at)
        if conversation.state.wake != before:
            self._schedule(key, at)

    def _conversation(self, key: str) -> Conversation:
        return Conversation(
            key, self.states.setdefault(key, ConversationState()), self.policy, self
        )

    def _schedule(self, key: str, now: int) -> None:
        wake = self.states[key].wake
        if wake:
            heapq.heappush(self.wakes, (wake, key))


def simulate(document: PolicyDocument, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Outcomes of a policy over recorded or invented traffic, one JSON object each.

    An invalid message becomes a `rejected` outcome, as in the hub. Raises InputError, naming the
    line, for one that is not JSON, has no time or type, or goes back in time.
    """
    simulation = _Simulation(document)
    now: int | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        kind, at, fields = _read_line(line, number)
        if now is not None and at < now:
            raise InputError(f"line {number}: goes back in time", line=number)
        now = at
        simulation.run_wakes(at)
        simulation.receive(kind, fields, at)
        yield from _drain(simulation.outcomes)
    simulation.run_wakes(None)
    yield from _drain(simulation.outcomes)


def _drain(outcomes: list[bytes]) -> Iterator[bytes]:
    yield from outcomes
    outcomes.clear()


def _read_line(line: bytes, number: int) -> tuple[str, int, dict[str, object]]:
    try:
        fields = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise InputError(f"line {number}: not JSON: {error}", line=number) from error
    if not isinstance(fields, dict):
        raise InputError(f"line {number}: not a JSON object", line=number)
    kind = fields.pop("type", None)
    if kind not in _LANES:
        raise InputError(f"line {number}: type must be one of {', '.join(_LANES)}", line=number)
    try:
        at = parse_rfc3339(str(fields["at"]))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"line {number}: at must be an RFC 3339 time with an offset", line=number
        ) from error
    if kind not in _SOURCELESS:
        del fields["at"]
    return kind, at, fields
