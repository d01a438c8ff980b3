"""What docs/policy.md says of devices, once more and by brute force.

`DeviceRules` looks at the decisions of all conversations one after the other, as the ledger has
them, and remembers for itself which devices a customer has and what was said of each. It asks none
of the code that decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from hub import limits
from hub.contract.times import to_ms
from hub.contract.types import (
    Delivery,
    DeviceForget,
    Forget,
    Inbound,
    Intent,
    Outcome,
    ProfileSet,
    Receipt,
)
from hub.policy.document import duration_ms
from hub.policy.state import ConversationState
from tests.sim.step_rules import Said, Step, StepRules

RANKS = {"unknown": 0, "sent": 1, "failed": 2, "delivered": 3, "read": 4}
REFUSED = ("duplicate", "rejected")


@dataclass
class _Dispatch:
    """One dispatch on push: what was said of each of its devices, and of the whole."""

    accounts: dict[str, str] = field(default_factory=dict)
    """By delivery."""
    words: dict[str, str] = field(default_factory=dict)
    told: str = ""


@dataclass
class _Customer:
    devices: list[tuple[str, int]] = field(default_factory=list)
    """Address and when it was seen, the last one first."""
    dispatches: dict[str, _Dispatch] = field(default_factory=dict)
    """By the id of the first delivery."""


class DeviceRules(StepRules):
    """Which devices there are, who gets a message, and what is said of it."""

    def __init__(self) -> None:
        super().__init__()
        self._customers: dict[str, _Customer] = defaultdict(_Customer)

    def before(self, step: Step, state: ConversationState) -> None:
        """Note what is counted already."""
        self._step = step
        self._sends = {(send.intent, send.attempt, send.at) for send in state.sends}

    def after(self, step: Step, state: ConversationState, said: list[Said]) -> None:
        """Complain of what it should not have led to."""
        customer, item = self._customers[step.key], step.item
        outcomes = [each for each in said if isinstance(each, Outcome)]
        receipt = self._word(customer, item) if isinstance(item, Receipt) else None
        self._learn(customer, step, outcomes)
        self._memory(customer, state)
        self._deliveries(customer, step, said)
        counted = [s for s in state.sends if (s.intent, s.attempt, s.at) not in self._sends]
        if len(counted) != sum(each.state == "dispatched" for each in outcomes):
            self._complain("not counted once", f"{len(counted)} dispatches")
        if receipt is not None:
            self._told(receipt, customer.dispatches[receipt], outcomes)

    def _complain(self, kind: str, about: object) -> None:
        self.broken.append(f"devices: {kind}: {self._step}: {about}")

    # ---- which there are -------------------------------------------------------------------------

    def _learn(self, customer: _Customer, step: Step, outcomes: list[Outcome]) -> None:
        """What a message says of her devices."""
        item, accepted = step.item, step.accepted
        if isinstance(item, Intent):
            name = item.app, item.id
            mine = [each.state for each in outcomes if (each.app, each.intent) == name]
            if mine[-1:] and mine[-1] not in REFUSED and item.to:
                self._tell(customer, item.to.get("push"), accepted)
        elif isinstance(item, ProfileSet) and item.to:
            self._tell(customer, item.to.get("push"), accepted)
        elif isinstance(item, DeviceForget):
            customer.devices = [
                each for each in customer.devices if item.to not in (each[0], _split(each[0])[1])
            ]
        elif isinstance(item, Forget):
            customer.devices = []
        elif isinstance(item, Inbound) and item.channel == "push" and item.agent is None:
            matters = step.policy.push or not customer.devices
            if item.sender and matters:
                self._hear(customer, item.sender.removeprefix("~"), min(to_ms(item.at), step.now))

    @staticmethod
    def _tell(customer: _Customer, address: str | None, at: int) -> None:
        if address is not None:
            seen = max([at, *(each[1] for each in customer.devices if each[0] == address)])
            others = [each for each in customer.devices if each[0] != address]
            customer.devices = [(address, seen), *others][: limits.DEVICES]

    def _hear(self, customer: _Customer, address: str, at: int) -> None:
        """As told, but that what comes late goes behind what was seen since."""
        devices = customer.devices
        if not devices or devices[0][0] == address or devices[0][1] <= at:
            self._tell(customer, address, at)
            return
        seen = max([at, *(each[1] for each in devices if each[0] == address)])
        others = [each for each in devices if each[0] != address]
        behind = [each for each in others if each[1] <= seen]
        place = others.index(behind[0]) if behind else len(others)
        others.insert(place, (address, seen))
        customer.devices = others[: limits.DEVICES]

    def _memory(self, customer: _Customer, state: ConversationState) -> None:
        known = [] if state.devices is None else state.devices.known
        found = [(device.address or state.to.get("push"), device.seen) for device in known]
        if found != customer.devices:
            self._complain("others are remembered", f"{found}, not {customer.devices}")
        first = customer.devices[0][0] if customer.devices else None
        if state.to.get("push") != first:
            self._complain("another is the one seen last", f"{state.to.get('push')}, not {first}")

    # ---- who gets it -----------------------------------------------------------------------------

    def _deliveries(self, customer: _Customer, step: Step, said: list[Said]) -> None:
        """What goes out on push goes to every device that is to have it, once."""
        pushed = [each for each in said if isinstance(each, Delivery) and each.channel == "push"]
        firsts = [each for each in pushed if each.attempt < 100]
        for first in firsts:
            group = [first, *(each for each in pushed if _of(each, first))]
            found = [(each.attempt // 100, each.account, each.to) for each in group]
            # The account of a device without one is as for any channel: seen by `windows` and caps.
            accounts = {"push", *(a for _, a, to in found if to in dict(customer.devices))}
            expected = [list(self._targets(customer, step, each)) for each in sorted(accounts)]
            if found not in expected:
                self._complain("not to the devices there are", f"{found}, none of {expected}")
            if len({bytes(each.content) for each in group}) > 1:
                self._complain("devices get different things", first.id)
            by_id = {each.id: each.account for each in group}
            customer.dispatches[first.id] = _Dispatch(by_id, dict.fromkeys(by_id, ""))
        if len(pushed) != sum(1 + sum(_of(e, f) for e in pushed) for f in firsts):
            self._complain("a device without a dispatch", [each.id for each in pushed])

    @staticmethod
    def _targets(customer: _Customer, step: Step, stated: str) -> Iterator[tuple[int, str, str]]:
        push, found = step.policy.push, []
        most = push.devices if push else 1
        for place, (address, seen) in enumerate(customer.devices):
            within = push.seen_within if push else None
            if place and within is not None and step.now - seen > duration_ms(within, ""):
                continue
            if most == 0:
                break
            most -= 1
            account, token = _split(address)
            if (account or stated, token) not in found:
                found.append((account or stated, token))
        return ((number, *each) for number, each in enumerate(found))

    # ---- what is said of it ----------------------------------------------------------------------

    def _word(self, customer: _Customer, receipt: Receipt) -> str | None:
        """Note what is said of a device; the dispatch, when this is news. A dead one goes."""
        for name, dispatch in customer.dispatches.items():
            word = dispatch.words.get(receipt.delivery)
            if word is None:
                continue
            if RANKS[receipt.status] <= RANKS.get(word, -1):
                return None
            dispatch.words[receipt.delivery] = receipt.status
            if receipt.failure == "dead_address" and receipt.to is not None:
                since = to_ms(receipt.dead_since or receipt.at)
                account = dispatch.accounts[receipt.delivery]
                customer.devices = [
                    (address, seen)
                    for address, seen in customer.devices
                    if seen > since
                    or _split(address)[1] != receipt.to
                    or _split(address)[0] not in (None, account)
                ]
            return name
        return None

    def _told(self, name: str, dispatch: _Dispatch, outcomes: list[Outcome]) -> None:
        """Of the whole: the best that a device says, `failed` only when all have failed, and
        nothing twice."""
        told = [each.state for each in outcomes if each.delivery == name and each.state in RANKS]
        replaced = [e for e in outcomes if e.delivery == name and e.state == "superseded"]
        told += ["failed"] * len(replaced)
        words = list(dispatch.words.values())
        best = max((word for word in words if word != "failed"), key=lambda w: RANKS.get(w, -1),
                   default="failed")  # fmt: skip
        for state in told:
            if state != best:
                self._complain("told otherwise", f"{name} {state}, not {best} of {words}")
            if RANKS[state] <= RANKS.get(dispatch.told, -1):
                self._complain("told twice", f"{name} {state} after {dispatch.told}")
            dispatch.told = state
        if len(told) > 1:
            self._complain("told twice", f"{name} {told}")


def _of(each: Delivery, first: Delivery) -> bool:
    """Whether it is for a further device of that dispatch."""
    same = (each.app, each.intent, each.attempt % 100) == (first.app, first.intent, first.attempt)
    return same and each.attempt > 100


def _split(address: str) -> tuple[str | None, str]:
    """Account and token; no token of these scenes has a slash but a URL."""
    account, slash, token = address.partition("/")
    return (account, token) if slash and ":" not in account else (None, address)
