"""Customers and customer groups of a member: what WeCom's events say of them, and what can be
ordered. Pure.

A customer who is added belongs to the member's account from then on; one who deletes the member
does not want to hear from us on this channel. There is no call that makes or ends a customer group:
members do that in their client; what can be made is a code by which customers join.

Sources: WeCom's pages 92130 (events), 92229 (join ways), 92125 and 94081 (transfers of customers),
94088 and 94082 (their results), 95703 and 92127 (transfers of groups).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, Protocol

from msgspec import Struct

from channels.provider import Bundle, ProviderCommand, ProviderInbound, Unsendable
from channels.wecom.errors import verdict_of
from channels.wecom.task_results import Result, time_of
from hub.contract.times import rfc3339

WELCOME_MS: Final = 20_000
"""A welcome code is good for so long after its event (page 92137)."""
FIELD_CHARS: Final = 128
"""Of a field of an event that is passed on."""
NAME_CHARS: Final = 64
"""Of ids of members, customers and groups."""
MESSAGE_CHARS: Final = 200
"""What a customer is told of a transfer."""
STATE_CHARS: Final = 30
"""Of a join way's `state` and `remark`."""

_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}\Z")


class Told(Protocol):
    """An event, as the application's account passes it on."""

    @property
    def id(self) -> str:
        """The same for a repeat."""

    @property
    def name(self) -> str: ...

    @property
    def change(self) -> str: ...

    @property
    def fields(self) -> Mapping[str, str]: ...

    @property
    def at_ms(self) -> int: ...


def is_id(text: Any) -> bool:
    """Whether it can be an id of a member, customer or group."""
    return isinstance(text, str) and _ID.match(text) is not None


def group_address(chat: str) -> str:
    """How a customer group is called as an address: with `~`, as its conversation is."""
    return f"~{chat}"


# ---- events ------------------------------------------------------------------------------------


def heard(event: Told, account: str) -> Bundle | None:
    """What an event means for the conversation of its customer or group; None: nothing, or it
    names nobody."""
    if event.name == "change_external_contact":
        return _of_customer(event, account)
    if event.name == "change_external_chat":
        return _of_group(event)
    sender = event.fields.get("ExternalUserID", "")
    if not is_id(sender):
        return None
    name = ".".join(filter(None, (event.name, event.change)))[:FIELD_CHARS]
    return _bundle(event, sender, {"event": "event_unknown", "name": name})


def _of_customer(event: Told, account: str) -> Bundle | None:
    sender, change = event.fields.get("ExternalUserID", ""), event.change
    if not is_id(sender):
        return None
    if change in ("add_external_contact", "add_half_external_contact"):
        content = {"event": "friend_added"}
        if state := event.fields.get("State", ""):
            content["state"] = state[:FIELD_CHARS]
        if code := event.fields.get("WelcomeCode", ""):
            content["welcome_code"] = code[:FIELD_CHARS]
            content["welcome_until"] = rfc3339(event.at_ms + WELCOME_MS)
        owns = ProviderCommand(f"{event.id}-owner", sender, "profile.set", {"owner": account})
        return _bundle(event, sender, content, owns)
    if change == "del_follow_user":
        stop = ProviderCommand(f"{event.id}-dnd", sender, "dnd.set", {"scope": "channel:wecom"})
        return _bundle(event, sender, {"event": "friend_deleted_us"}, stop)
    if change == "del_external_contact":
        content = {"event": "friend_deleted"}
        if event.fields.get("Source") == "DELETE_BY_TRANSFER":
            content["by"] = "transfer"
        return _bundle(event, sender, content)
    if change == "transfer_fail":
        reason = event.fields.get("FailReason", "")[:FIELD_CHARS]
        return _bundle(event, sender, {"event": "transfer_failed", "reason": reason})
    if change == "edit_external_contact":
        return None  # a remark or a tag: nothing of ours
    return _bundle(event, sender, {"event": "event_unknown", "name": change[:FIELD_CHARS]})


def _of_group(event: Told) -> Bundle | None:
    chat = event.fields.get("ChatId", "")
    if not is_id(chat):
        return None
    names = {"create": "group_created", "update": "group_changed", "dismiss": "group_dismissed"}
    content: dict[str, Any] = {"event": names.get(event.change, "event_unknown")}
    if event.change not in names:
        content["name"] = event.change[:FIELD_CHARS]
    if event.change == "update":
        content["what"] = event.fields.get("UpdateDetail", "")[:FIELD_CHARS]
        count = event.fields.get("MemChangeCnt", "")
        if count.isascii() and count.isdigit():
            content["members"] = int(count[:6])
    return _bundle(event, group_address(chat), content)


def _bundle(
    event: Told, sender: str, content: dict[str, Any], *commands: ProviderCommand
) -> Bundle:
    inbound = ProviderInbound(id=event.id, sender=sender, content=content, at_ms=event.at_ms)
    return Bundle(id=f"event-{event.id}", inbound=(inbound,), commands=commands)


# ---- orders ------------------------------------------------------------------------------------


def _refuse(problem: str) -> NoReturn:
    raise Unsendable(problem, failure="rejected_content", code="content")


def _text(content: Mapping[str, Any], name: str, most: int) -> str:
    value = content.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        _refuse(f"{name} must be a text of at most {most} characters")
    return value


def _flag(content: Mapping[str, Any], name: str) -> bool:
    value = content.get(name, False)
    if not isinstance(value, bool):
        _refuse(f"{name} must be true or false")
    return value


def _member(content: Mapping[str, Any], *names: str) -> str:
    value = next((content[name] for name in names if name in content), None)
    if not isinstance(value, str) or not is_id(value):
        _refuse(f"{names[0]} must be the userid of a member")
    return value


NO_GROUPS: Final = (
    "WeCom has no API that makes, renames or dissolves a customer group: members do that in their "
    "client; group.invite makes a code by which customers join, group.update can change the owner"
)


def join_way_of(content: Mapping[str, Any], chat: str) -> dict[str, Any]:
    """The request for a join way of `{"op": "group.invite", …}`. Raises Unsendable."""
    made: dict[str, Any] = {
        "scene": 2,  # a QR code
        "chat_id_list": [chat],
        "auto_create_room": int(_flag(content, "auto_create")),
    }
    for name, field, most in (
        ("name", "room_base_name", 40),
        ("remark", "remark", STATE_CHARS),
        ("state", "state", STATE_CHARS),
    ):
        if value := _text(content, name, most):
            made[field] = value
    if "room_base_name" in made:
        made["room_base_id"] = 1
    return made


class Order(Struct, frozen=True):
    """A change of who serves a customer or a group."""

    body: dict[str, Any]
    left: bool
    """Whether the one who served has left the enterprise: another call then."""
    owner: str = ""
    """The account of the one who takes over, if the application told it."""

    def __repr__(self) -> str:
        return f"Order(left={self.left})"


def group_transfer_of(content: Mapping[str, Any], chat: str) -> Order:
    """`{"op": "group.update", "owner": …}` or `{"op": "group.transfer", …}` of a customer group.
    Raises Unsendable."""
    if any(name in content for name in ("name", "add", "remove")):
        raise Unsendable(NO_GROUPS, failure="rejected_content", code="no-api")
    owner = _member(content, "owner", "to", "to_member")
    return Order({"chat_id_list": [chat], "new_owner": owner}, _flag(content, "left"))


def transfer_of(content: Mapping[str, Any], customer: str, userid: str) -> Order:
    """`{"op": "customer.transfer", "to": …, "left"?, "message"?, "owner"?}`. Raises Unsendable."""
    body: dict[str, Any] = {
        "handover_userid": userid,
        "takeover_userid": _member(content, "to", "to_member"),
        "external_userid": [customer],
    }
    left = _flag(content, "left")
    message = _text(content, "message", MESSAGE_CHARS)
    if message and not left:  # the call for those who left has none
        body["transfer_success_msg"] = message
    return Order(body, left, _text(content, "owner", NAME_CHARS))


def refusal_in(listed: Any, key: str, of: str, now: int) -> Result | None:
    """What a list of refusals (`customer`, `failed_chat_list`) says of one; None: nothing.

    A refusal of several at once has errcode 0 as a whole, and a code for each.
    """
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping) and item.get(key) == of and item.get("errcode", 0) != 0:
            errcode = item["errcode"] if isinstance(item["errcode"], int) else 0
            return Result("failed", now, verdict_of(errcode).failure or "provider", str(errcode))
    return None


def is_under_way(listed: Any, customer: str) -> bool:
    """Whether a transfer of this customer to the same member waits for its end."""
    return any(
        isinstance(item, Mapping)
        and item.get("external_userid") == customer
        and item.get("status") == 2
        for item in (listed if isinstance(listed, list) else ())
    )


_TRANSFER: Final[dict[int, tuple[str, str]]] = {
    3: ("provider", "customer-refused"),
    4: ("provider", "customer-limit"),
    5: ("provider", "no-record"),
}


def transfer_result(listed: Any, customer: str, now: int) -> Result | None:
    """What a page of transfer results says of a customer; None: not there, or not decided yet."""
    for item in listed if isinstance(listed, list) else ():
        if not isinstance(item, Mapping) or item.get("external_userid") != customer:
            continue
        status = item.get("status")
        if status == 1:
            return Result("delivered", time_of(item.get("takeover_time"), now))
        if isinstance(status, int) and status in _TRANSFER:
            failure, code = _TRANSFER[status]
            return Result("failed", now, failure, code)  # type: ignore[arg-type]
    return None
