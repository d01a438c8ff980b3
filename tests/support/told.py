"""Small words for tests of decisions: events in, one line an outcome out.

Times are UTC in 2026, written `MM-DD hh:mm` or `MM-DD hh:mm:ss.mmm`. `by_both` runs a test with the
reference and with the product, so that a table of hand-computed cases holds both.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from actors.conversation import BodyRef
from hub.contract.types import Delivery
from hub.policy.document import convert_policy
from hub.service.simulate import _read_line, _Simulation
from hub.service.simulate import simulate as simulate_product
from tests.support.reference import Reference
from tests.support.reference import simulate as simulate_reference

Told = Callable[..., list[str]]

CATEGORIES = """
version = 1
timezone = "UTC"
[categories.ad]
route = ["sms"]
priority = 3
[categories.note]
route = ["sms"]
priority = 6
[categories.otp]
route = ["sms"]
priority = 9
bypass = ["cap", "gap", "quiet", "presence", "dnd"]
[categories.wide]
route = ["wecom", "push", "sms"]
"""
NIGHT = """
[[quiet]]
name = "night"
categories = ["ad"]
from = "21:00"
to = "08:00"
on = "hold"
"""
GAP_2H = """
[[gaps]]
name = "apart"
min = "2h"
on = "hold"
"""
TALK = """
[[presence]]
name = "talk"
within = "30m"
on = "hold"
"""
ALL_TO = {"wecom": "w", "push": "p", "sms": "s"}


def cap(limit: int, window: str, more: str = "", on: str = "hold") -> str:
    return f'[[caps]]\nname = "cap"\nlimit = {limit}\nwindow = "{window}"\non = "{on}"\n{more}\n'


def window(start: str, end: str, more: str = "") -> str:
    return f'[[quiet]]\nname = "q"\nfrom = "{start}"\nto = "{end}"\non = "hold"\n{more}\n'


# ---- events ------------------------------------------------------------------------------------

_TIMES = ("until", "not_before", "expires_at")


def full(short: str) -> str:
    """RFC 3339 of a short time; what is already long stays."""
    if short.endswith("Z"):
        return short
    return f"2026-{short[:5]}T{short[6:]}{':00' if len(short) == 11 else ''}Z"


def event(kind: str, at: str, **fields: Any) -> dict[str, Any]:
    fields = {name: full(v) if name in _TIMES else v for name, v in fields.items()}
    return {"at": full(at), "type": kind, "customer": "c"} | fields


def intent(at: str, name: str, category: str = "ad", **fields: Any) -> dict[str, Any]:
    given = {"id": name, "app": "shop", "category": category, "content": {"text": "x"}}
    return event("intent", at, **(given | {"to": {"sms": "+1"}} | fields))


def command(at: str, op: str, **fields: Any) -> dict[str, Any]:
    return event("command", at, **({"op": op, "id": "k", "app": "shop"} | fields))


def receipt(at: str, name: str, status: str, attempt: int = 1, **more: Any) -> dict[str, Any]:
    return event("receipt", at, delivery=f"shop:{name}:{attempt}", status=status, **more)


def inbound(at: str) -> dict[str, Any]:
    return event("inbound", at, id="m", channel="sms", account="a", content={"text": "hi"})


# ---- outcomes ----------------------------------------------------------------------------------

REASONED = ("held", "dispatched", "failed")
"""States whose reasons both sides say alike."""


def short(time: str) -> str:
    text = time.removeprefix("2026-").replace("T", " ").removesuffix("Z").removesuffix(".000")
    return text.removesuffix(":00") if text.count(":") == 2 else text


def line(outcome: dict[str, Any]) -> str:
    """`at intent state channel as delivery [rule action ready, …] > next_eligible_at (reason)`.

    Absent parts are left out, and so are the delivery when it is the first attempt and a reason
    that goes without saying.
    """
    said = f"{short(outcome['at'])} {outcome['intent']} {outcome['state']}"
    if "channel" in outcome:
        said += f" {outcome['channel']}"
    if outcome.get("delivery") not in (None, f"{outcome['app']}:{outcome['intent']}:1"):
        said += f" as {outcome['delivery']}"
    if "rules" in outcome:
        blocks = [
            f"{block['rule']} {block['action']} {short(block.get('ready_at', 'never'))}"
            for block in outcome["rules"]
        ]
        said += f" [{', '.join(blocks)}]"
    if "next_eligible_at" in outcome:
        said += f" > {short(outcome['next_eligible_at'])}"
    if outcome["state"] in REASONED and outcome.get("reason") not in (None, "provider"):
        said += f" ({outcome['reason']})"
    return said


def reference_outcomes(policy: dict[str, Any], events: list[dict[str, Any]]) -> list[Any]:
    return simulate_reference(policy, events)


def product_outcomes(policy: dict[str, Any], events: list[dict[str, Any]]) -> list[Any]:
    lines = [json.dumps(event).encode() for event in events]
    return [json.loads(out) for out in simulate_product(convert_policy(policy), lines)]


def reference_handed(policy: dict[str, Any], events: list[dict[str, Any]]) -> list[Any]:
    """(delivery, account, address) of everything handed over, customer by customer."""
    hub = Reference(policy)
    for event in events:
        hub.arrive(event)
    hub.run_wakes(None)
    return sorted(
        (key, each.delivery, each.account, each.token)
        for key, customer in hub.customers.items()
        for sent in customer.dispatches
        for each in sent.copies
    )


class _Handing(_Simulation):
    """Keeps what is handed over, too."""

    def __init__(self, policy: dict[str, Any]) -> None:
        super().__init__(convert_policy(policy))
        self.handed: list[Delivery] = []

    def deliver(self, delivery: Delivery, parked: BodyRef | None) -> None:
        self.handed.append(delivery)


def product_deliveries(policy: dict[str, Any], events: list[dict[str, Any]]) -> list[Delivery]:
    """In the order decided."""
    simulation = _Handing(policy)
    for event in events:
        _, at, fields = _read_line(json.dumps(event).encode(), 1)
        simulation.run_wakes(at)
        simulation.receive(event["type"], fields, at)
    simulation.run_wakes(None)
    return simulation.handed


def product_handed(policy: dict[str, Any], events: list[dict[str, Any]]) -> list[Any]:
    """As `reference_handed`."""
    return sorted(
        (each.customer, each.id, each.account, each.to)
        for each in product_deliveries(policy, events)
    )


Side = Callable[[dict[str, Any], list[dict[str, Any]]], list[Any]]


def _teller(side: Side) -> Told:
    def told(rules: str, *events: dict[str, Any], head: str = CATEGORIES) -> list[str]:
        return [line(outcome) for outcome in side(tomllib.loads(head + rules), list(events))]

    return told


by_both = pytest.mark.parametrize(
    "told",
    [
        pytest.param(_teller(reference_outcomes), id="reference"),
        pytest.param(_teller(product_outcomes), id="product"),
    ],
)
"""Gives a test `told(rules, *events, head=CATEGORIES)`: the lines of one side or the other."""
