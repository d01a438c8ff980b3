"""Commands that an account carries out: groups, customer service sessions, transfers of customers.

Each becomes a delivery whose content is the operation, `{"op": "group.create", …}`, so that it
takes the way of a message, in the order of its conversation, with outcomes under the command's id.
It is none: no rule is asked, and no cap or gap counts it. Source: docs/contract.md, "Commands that
an account carries out".
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from hub.contract.times import rfc3339
from hub.contract.types import AccountOrder, Channel, Delivery, GroupCreate, GroupOrder
from hub.policy.state import ConversationState, label_of

CHANNEL: Channel = "wecom"
"""The only channel that has groups, sessions and owners."""
NO_CATEGORY = ""
"""Of the dispatch of an operation: no policy can name it, so that no rule counts it."""
PRIORITY = 9
"""Before what is to be said: a message to a group needs the group."""
_COMMON = frozenset(("id", "app", "customer", "account"))

_encode = msgspec.json.Encoder().encode


def label(app: str) -> str:
    """What remembers the dispatch of an operation, for its receipts."""
    return label_of(CHANNEL, app, NO_CATEGORY)


def account_of(command: AccountOrder, state: ConversationState) -> str:
    """Who carries it out."""
    return command.account or state.owner or CHANNEL


def get_ready(command: AccountOrder, state: ConversationState) -> str | None:
    """What a group's conversation is to know before anything is sent there; why it cannot be."""
    if isinstance(command, GroupOrder):
        state.to.setdefault(CHANNEL, command.customer[1:])
        if isinstance(command, GroupCreate) and command.account is not None:
            state.owner = command.account  # whoever makes a group is whom it hears from
    elif CHANNEL not in state.to:
        return f"no address is known for this customer on {CHANNEL}"
    return None


def delivery_of(
    command: AccountOrder, state: ConversationState, now: int, expires: int
) -> Delivery:
    """The operation on its way to the account."""
    return Delivery(
        f"{command.app}:{command.id}:1",
        command.id,
        command.app,
        command.customer,
        NO_CATEGORY,
        PRIORITY,
        CHANNEL,
        account_of(command, state),
        state.to[CHANNEL],
        Raw(_encode(operation(command))),
        1,
        rfc3339(now),
        rfc3339(expires),
    )


def operation(command: AccountOrder) -> dict[str, object]:
    """`op` and its own fields, without those that every command has."""
    fields: dict[str, object] = msgspec.to_builtins(command)
    return {name: value for name, value in fields.items() if name not in _COMMON}
