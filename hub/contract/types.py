"""Every message of the contract as a msgspec type: the one source of JSON, MessagePack and schemas.

Types with `forbid_unknown_fields` are what the world publishes; the others are what it consumes and
may grow. Times are aware datetimes in what comes in and RFC 3339 strings (UTC) in what goes out.
Formats that msgspec would check with a regular expression a message are checked by
`hub.contract.decode`, and only described here for the schema.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field

from hub import limits

Time = Annotated[datetime, Meta(tz=True)]
"""RFC 3339 with an offset."""

Channel = Literal["wecom", "sms", "push"]
AppName = Annotated[str, Meta(extra_json_schema={"pattern": "^[a-z0-9-]{1,32}$"})]
CustomerKey = Annotated[str, Meta(extra_json_schema={"pattern": "^~?[A-Za-z0-9_-]{1,64}$"})]
MessageId = Annotated[str, Meta(extra_json_schema={"pattern": "^[!-~]{1,64}$"})]
GroupKey = Annotated[str, Meta(extra_json_schema={"pattern": "^~[A-Za-z0-9_-]{1,64}$"})]
Address = Annotated[str, Meta(min_length=1, max_length=limits.ADDRESS_CHARS)]
AccountName = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARS)]
Priority = Annotated[int, Meta(ge=0, le=9)]
ZoneName = Annotated[str, Meta(min_length=1, max_length=64, description="IANA zone name")]
Route = Annotated[list[Channel], Meta(min_length=1, max_length=limits.ROUTE_CHANNELS)]
Trace = Annotated[str, Meta(max_length=limits.TRACE_CHARS, description="W3C traceparent")]


# ---- published -------------------------------------------------------------------------------


class Intent(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, gc=False):
    """What an application wants to say to one customer."""

    id: MessageId
    app: AppName
    customer: CustomerKey
    category: Annotated[str, Meta(min_length=1, max_length=64)]
    content: dict[str, Raw]
    priority: Priority | None = None
    route: Route | None = None
    reach: Literal["first", "all"] = "first"
    to: dict[Channel, Address] | None = None
    account: AccountName | None = None
    not_before: Time | None = None
    expires_at: Time | None = None
    collapse_key: (
        Annotated[str, Meta(min_length=1, max_length=limits.COLLAPSE_KEY_CHARS)] | None
    ) = None
    timezone: ZoneName | None = None
    trace: Trace | None = None


ReceiptStatus = Literal["sent", "delivered", "read", "failed", "unknown"]
FailureClass = Literal[
    "dead_address",
    "rejected_content",
    "window_closed",
    "throttled",
    "config",
    "expired",
    "provider",
    "superseded",
]


class Receipt(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What became of a delivery, told by a gateway."""

    delivery: Annotated[str, Meta(min_length=5, max_length=110)]
    customer: CustomerKey
    status: ReceiptStatus
    at: Time
    failure: FailureClass | None = field(name="class", default=None)
    code: Annotated[str, Meta(max_length=64)] | None = None
    provider_id: Annotated[str, Meta(max_length=128)] | None = None
    last: bool = False
    """With `sent`: this channel tells no `delivered`, so nobody waits for it."""
    to: Address | None = None
    """With class `dead_address`: the delivery's address, for the conversation to forget."""
    dead_since: Time | None = None
    """Since when that is known, if not since `at`: an address seen later lives on."""


Agent = Annotated[str, Meta(min_length=1, max_length=64)]


class Inbound(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a customer said to one of our accounts, or what happened there.

    Content with `event` is no message: somebody became a friend, a group was dissolved. With
    `agent` it is what a person on our side wrote to the customer, beside the hub.
    """

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    channel: Channel
    account: AccountName
    customer: CustomerKey
    content: dict[str, Raw]
    at: Time
    agent: Agent | None = None
    sender: Address | None = None
    """The customer's address on the channel: remembered if none is known."""


Scope = Annotated[
    str,
    Meta(
        max_length=80,
        extra_json_schema={"pattern": "^(all|category:.{1,64}|channel:(wecom|sms|push))$"},
    ),
]


class Command(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    """Common part of all commands: an order to a conversation."""

    id: MessageId
    app: AppName
    customer: CustomerKey


class DndSet(Command, tag="dnd.set", omit_defaults=True):
    """Do not disturb: for everything, one category or one channel; for ever or until a time."""

    scope: Scope
    until: Time | None = None


class DndClear(Command, tag="dnd.clear"):
    """Ends a do not disturb of the same scope."""

    scope: Scope


class ProfileSet(Command, tag="profile.set", omit_defaults=True):
    """What is remembered of the customer: zone, addresses, the account that owns the customer."""

    timezone: ZoneName | None = None
    to: dict[Channel, Address] | None = None
    owner: AccountName | None = None


class DeviceForget(Command, tag="device.forget"):
    """Ends pushes to an address: the customer has signed out there."""

    to: Address


class Cancel(Command, tag="cancel"):
    """Take back a held intent of the same app."""

    intent: MessageId


class Takeover(Command, tag="takeover", omit_defaults=True):
    """A person has taken the conversation; presence rules block until `until` or `release`."""

    agent: Agent
    until: Time | None = None


class Release(Command, tag="release"):
    """Ends a takeover."""


class Forget(Command, tag="forget"):
    """Erase what is personal: addresses, zone, owner, held intents. Consent and counts stay."""


GroupName = Annotated[str, Meta(min_length=1, max_length=limits.GROUP_NAME_CHARS)]
Members = Annotated[list[Address], Meta(min_length=1, max_length=limits.GROUP_MEMBERS)]


class AccountOrder(Command, kw_only=True):
    """Common part of commands that an account carries out: each becomes a delivery whose content is
    the operation, with outcomes under the command's id."""

    account: AccountName | None = None
    """Default: the owner of the conversation, then the channel's."""


class GroupOrder(AccountOrder, kw_only=True):
    """About a group chat, whose key begins with `~`."""

    customer: GroupKey


class GroupCreate(GroupOrder, tag="group.create", kw_only=True, omit_defaults=True):
    """Makes the group chat that this key names, with these members of ours."""

    name: GroupName
    members: Members
    owner: Address | None = None


class GroupUpdate(GroupOrder, tag="group.update", kw_only=True, omit_defaults=True):
    """Changes name, owner or members of a group chat."""

    name: GroupName | None = None
    owner: Address | None = None
    add: Members | None = None
    remove: Members | None = None
    left: bool = False
    """Whether the owner until now has left the enterprise."""


class GroupDissolve(GroupOrder, tag="group.dissolve", kw_only=True, omit_defaults=True):
    """Ends a group chat."""


class GroupInvite(GroupOrder, tag="group.invite", kw_only=True, omit_defaults=True):
    """Makes a way for customers to join a group chat by themselves; or, with `members`, adds
    members of ours."""

    members: Members | None = None
    state: Annotated[str, Meta(min_length=1, max_length=30)] | None = None
    """Named in the events of those who come this way."""
    remark: Annotated[str, Meta(min_length=1, max_length=30)] | None = None
    auto_create: bool = False
    """Whether a full group is followed by a new one, of the name `name` and a number."""
    name: GroupName | None = None


class KfTransfer(AccountOrder, tag="kf.transfer", kw_only=True, omit_defaults=True):
    """Gives a customer service session to a person, to `queue`, or to whom the account's settings
    name."""

    to: Address | None = None


class KfRelease(AccountOrder, tag="kf.release", kw_only=True, omit_defaults=True):
    """Ends a customer service session; the customer's next message begins another."""


class CustomerTransfer(AccountOrder, tag="customer.transfer", kw_only=True, omit_defaults=True):
    """Gives a customer from the account's member to another."""

    to: Address
    """The member who takes over."""
    left: bool = False
    """Whether the account's member has left the enterprise."""
    message: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """What the customer is told of it."""
    owner: AccountName | None = None
    """The account of that member: who the conversation then belongs to."""


AnyCommand = (
    DndSet
    | DndClear
    | ProfileSet
    | DeviceForget
    | Cancel
    | Takeover
    | Release
    | Forget
    | GroupCreate
    | GroupUpdate
    | GroupDissolve
    | GroupInvite
    | KfTransfer
    | KfRelease
    | CustomerTransfer
)


# ---- consumed --------------------------------------------------------------------------------


class RuleBlock(Struct, omit_defaults=True, gc=False):
    """One rule that stood in the way."""

    rule: str
    kind: Literal[
        "cap", "gap", "quiet", "presence", "dnd", "window", "words", "address", "schedule"
    ]
    action: Literal["hold", "drop", "next"]
    ready_at: str | None = None


OutcomeState = Literal[
    "rejected",
    "duplicate",
    "held",
    "suppressed",
    "expired",
    "superseded",
    "cancelled",
    "dispatched",
    "sent",
    "delivered",
    "read",
    "failed",
]


class Outcome(Struct, omit_defaults=True, gc=False):
    """What became of an intent, for the application that sent it."""

    intent: str
    app: str
    customer: str
    state: OutcomeState
    at: str
    channel: str | None = None
    delivery: str | None = None
    rules: list[RuleBlock] | None = None
    next_eligible_at: str | None = None
    reason: str | None = None
    policy: str | None = None


class Delivery(Struct, omit_defaults=True, gc=False):
    """One message for a gateway to send."""

    id: str
    intent: str
    app: str
    customer: str
    category: str
    priority: int
    channel: str
    account: str
    to: str
    content: Raw
    attempt: int
    at: str
    expires_at: str
    trace: str | None = None
    via: str | None = None
    """The account that was to send it and handed it over, because it could not work."""
    collapse_key: str | None = None
    """Of the intent: a newer message of this app and key replaces an older one, where a channel
    can."""
    urgent: bool = False
    """It came on the urgent lane, or answers a customer: it comes alone in its message, and passes
    what is not urgent."""


class Event(Struct, omit_defaults=True, gc=False):
    """What an application should know of a conversation, beside the outcomes of its intents.

    Never what was written. `waiting`: the customer waits for an answer. `words`: somebody wrote
    words that the policy forbids.
    """

    id: str
    kind: Literal["waiting", "words"]
    app: str
    customer: str
    rule: str
    at: str
    channel: str | None = None
    account: str | None = None
    about: str | None = None
    """Id of the inbound message, or `<app>:<intent>`."""
    author: Literal["customer", "agent", "app"] | None = None
    """Who wrote it."""
    since: str | None = None
    """Since when she waits."""
    level: int | None = None
    """2 for the second reminder, which goes `to` the manager."""
    to: str | None = None
    policy: str | None = None


class LiveMessage(Struct, omit_defaults=True, gc=False):
    """One message of a conversation, in either direction, as it was heard or handed over."""

    id: str
    """Of the inbound message, or of the delivery."""
    account: str
    channel: str
    customer: str
    direction: Literal["in", "out"]
    author: Literal["customer", "agent", "app"]
    content: Raw
    at: str
    agent: str | None = None
    app: str | None = None
    delivery: str | None = None


__all__ = [
    "AccountOrder",
    "AnyCommand",
    "Cancel",
    "Command",
    "CustomerTransfer",
    "Delivery",
    "DeviceForget",
    "DndClear",
    "DndSet",
    "Event",
    "Forget",
    "GroupCreate",
    "GroupDissolve",
    "GroupInvite",
    "GroupOrder",
    "GroupUpdate",
    "Inbound",
    "Intent",
    "KfRelease",
    "KfTransfer",
    "LiveMessage",
    "Outcome",
    "ProfileSet",
    "Receipt",
    "Release",
    "RuleBlock",
    "Takeover",
]
