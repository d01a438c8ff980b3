"""The live feed of an account: what is said in its conversations, as it is heard or handed over.

Pure: a message of the contract becomes a `LiveMessage`; whether there is a feed the policy says
(`[archive]`), and the turn stores it in the batch of the decision. Source: docs/contract.md, "Live
feed".
"""

from __future__ import annotations

import msgspec

from hub.contract.times import rfc3339, to_ms
from hub.contract.types import Delivery, Inbound, LiveMessage

_encode = msgspec.json.Encoder().encode


def heard(inbound: Inbound) -> LiveMessage:
    """What the customer wrote, or a person on our side to the customer."""
    ours = inbound.agent is not None
    return LiveMessage(
        inbound.id,
        inbound.account,
        inbound.channel,
        inbound.customer,
        "out" if ours else "in",
        "agent" if ours else "customer",
        msgspec.Raw(_encode(inbound.content)),
        rfc3339(to_ms(inbound.at)),
        inbound.agent,
    )


def handed(delivery: Delivery) -> LiveMessage:
    """What an application says. Its content may still be to be fetched: see `Work.live`."""
    return LiveMessage(
        delivery.id,
        delivery.account,
        delivery.channel,
        delivery.customer,
        "out",
        "app",
        delivery.content,
        delivery.at,
        app=delivery.app,
        delivery=delivery.id,
    )
