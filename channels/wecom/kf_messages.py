"""What `kf/sync_msg` gives, as what the hub understands: table-driven, pure, never raises on
anything that was JSON.

- A message becomes inbound content: a text `{"text": …}`, any other type the provider's own object
  under its name, `{"image": {"media_id": …}}`; a type that is not known `{"unsupported": type}`.
- An event becomes what follows from it: an inbound `{"event": …}`, a receipt, a command.
- What concerns no customer (a member goes on or off duty) is counted and nothing else.

Sources: WeCom's page 94670 (messages and events of customer service), 94669 (session states).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from channels.provider import ProviderCommand, ProviderInbound, ProviderReceipt
from channels.sms.consent import is_opt_out_in_chat
from hub.contract.times import rfc3339
from hub.contract.types import FailureClass
from hub.errors import TactError

CUSTOMER, SYSTEM, EMPLOYEE = 3, 4, 5
"""`origin`: who it comes from."""
CONTENT_BYTES: Final = 16 * 1024
"""Of one message's content as JSON. A text has 2 KiB; what is longer are forwarded chats."""
DEPTH: Final = 8
"""Levels of a message's object. Real ones have three."""
CURSOR_CHARS: Final = 1_024
"""WeCom's cursors have up to 64 bytes."""
WELCOME_MS: Final = 20_000
"""A welcome code of an entered session is good for so long."""
TAKEOVER_MS: Final = 48 * 3_600_000
"""A session cannot outlive the customer's window by itself, and its quiet end is not told: a
takeover whose release never comes ends by then."""

TYPES: Final = frozenset(
    (
        "text",
        "image",
        "voice",
        "video",
        "file",
        "location",
        "link",
        "business_card",
        "miniprogram",
        "msgmenu",
        "channels",
        "channels_shop_product",
        "channels_shop_order",
        "merged_msg",
        "meeting",
        "schedule",
        "note",
    )
)
"""Types of messages that are passed on as they are. Media are fetched by their `media_id` within
three days."""

FAILURES: Final[dict[int, FailureClass]] = {
    0: "provider",  # not known
    1: "config",  # the account was deleted
    2: "config",  # the application was closed
    4: "window_closed",  # over 48 h
    5: "window_closed",  # the session is closed
    6: "window_closed",  # over 5 messages
    7: "config",  # no channel bound
    8: "config",  # the company is not verified
    9: "config",  # both
    10: "dead_address",  # the customer refuses
    11: "config",  # no member has ever logged in
    12: "rejected_content",  # a type that the component does not send
    13: "rejected_content",  # held back for safety
}
"""`fail_type` of msg_send_fail, and what it means."""
REFUSED: Final = 10
"""The `fail_type` of a customer who refuses our messages: an opt-out."""

ADDRESS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""An external_userid."""
_PLAIN_ID = re.compile(r"[!-~]{1,64}\Z")


class PageUnreadable(TactError):
    """A reply of sync_msg that is not what the interface promises."""

    code = "kf-page"


class Understood(Struct, frozen=True):
    """What one message or event of a page leads to."""

    id: str
    """WeCom's, or made of its content: the same for the same."""
    at_s: int
    """When it was sent, Unix s; never in the future."""
    receipts: tuple[ProviderReceipt, ...] = ()
    inbound: tuple[ProviderInbound, ...] = ()
    commands: tuple[ProviderCommand, ...] = ()
    counted: str = "kf_read"
    """What is added one to."""

    @property
    def things(self) -> int:
        return len(self.receipts) + len(self.inbound) + len(self.commands)


class Page(Struct, frozen=True):
    """One reply of sync_msg."""

    messages: tuple[Understood, ...]
    cursor: str
    """Where to go on; "" when WeCom told none."""
    more: bool


def page_of(reply: Mapping[str, Any], now_ms: int) -> Page:
    """A reply of sync_msg whose errcode was 0. Raises PageUnreadable."""
    listed = reply.get("msg_list", [])
    cursor = reply.get("next_cursor", "")
    if not isinstance(listed, list) or not isinstance(cursor, str) or len(cursor) > CURSOR_CHARS:
        raise PageUnreadable("sync_msg answers without a list of messages or with a wrong cursor")
    messages = tuple(understood(one, now_ms) for one in listed)
    return Page(messages, clean(cursor), reply.get("has_more") in (1, True))


def understood(message: Any, now_ms: int) -> Understood:
    """What one item of a page leads to; `now_ms` bounds the time it claims. Never raises."""
    if not isinstance(message, Mapping):
        return Understood(_digest(message), now_ms // 1_000, counted="kf_unreadable")
    source = _Source.of(message, now_ms)
    if source.type == "event":
        return _event(source)
    if not source.sender:
        return source.nothing("kf_unreadable")
    content = _content(source)
    employee = message.get("origin") == EMPLOYEE
    return source.leads(
        ProviderInbound(
            id=source.id,
            sender=source.sender,
            content=content,
            at_ms=source.at_ms,
            opt_out=not employee and is_opt_out_in_chat(content.get("text", "")),
            agent=_word(message, "servicer_userid") or "?" if employee else "",
        ),
        counted="kf_message" if "unsupported" not in content else "kf_unsupported",
    )


class _Source(Struct, frozen=True):
    """What every item has, read once."""

    id: str
    at_ms: int
    sender: str
    """The customer's external_userid; "" for none, or none that is one."""
    type: str
    body: Mapping[str, Any]
    """The object named by the type."""

    @classmethod
    def of(cls, message: Mapping[str, Any], now_ms: int) -> _Source:
        kind = _word(message, "msgtype")
        body = message.get(kind)
        body = body if isinstance(body, Mapping) else {}
        sender = _word(message, "external_userid") or (
            _word(body, "external_userid") if kind == "event" else ""
        )
        sent_s = message.get("send_time")
        valid = isinstance(sent_s, int) and not isinstance(sent_s, bool) and sent_s > 0
        return cls(
            id=plain_id(message.get("msgid")) or _digest(message),
            at_ms=min(sent_s * 1_000, now_ms) if valid else now_ms,
            sender=sender if ADDRESS.match(sender) else "",
            type=kind,
            body=body,
        )

    def leads(
        self, *to: ProviderReceipt | ProviderInbound | ProviderCommand, counted: str
    ) -> Understood:
        """What follows from it."""
        return Understood(
            id=self.id,
            at_s=self.at_ms // 1_000,
            receipts=tuple(one for one in to if isinstance(one, ProviderReceipt)),
            inbound=tuple(one for one in to if isinstance(one, ProviderInbound)),
            commands=tuple(one for one in to if isinstance(one, ProviderCommand)),
            counted=counted,
        )

    def nothing(self, counted: str) -> Understood:
        """Nothing follows from it."""
        return self.leads(counted=counted)

    def told(self, event: str, /, *, opt_out: bool = False, **facts: Any) -> ProviderInbound:
        """The event for the conversation, with those facts that are not empty."""
        content = {"event": event} | {
            key: one for key, one in facts.items() if one not in ("", None)
        }
        return ProviderInbound(self.id, self.sender, content, self.at_ms, opt_out=opt_out)

    def command(self, op: Any, **fields: Any) -> ProviderCommand:
        """The command for the conversation."""
        return ProviderCommand(self.id, self.sender, op, fields)


# ---- messages ----------------------------------------------------------------------------------


def _content(source: _Source) -> dict[str, Any]:
    kind = source.type
    if kind not in TYPES or not source.body:
        return {"unsupported": kind[:64]}
    if kind == "text":
        content: dict[str, Any] = {"text": _word(source.body, "content", CONTENT_BYTES)}
        menu = _word(source.body, "menu_id", 128)
        return content | ({"menu_id": menu} if menu else {})
    body = copied(source.body)
    if body is None or len(json.dumps(body).encode()) > CONTENT_BYTES:
        return {"unsupported": kind, "reason": "too large"}
    return {kind: body}


def copied(value: Any, depth: int = DEPTH) -> Any:
    """JSON that every decoder reads: valid Unicode, finite numbers of 64 bits, not too deep (what
    lies deeper becomes None). None for what is no JSON."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        inner = value.items()
        return {clean(str(key)): copied(one, depth - 1) for key, one in inner} if depth else None
    if isinstance(value, list):
        return [copied(one, depth - 1) for one in value] if depth else None
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)[:64]
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return None


def clean(text: str) -> str:
    """The text; halves of surrogate pairs, which no UTF-8 can hold, become question marks."""
    return text.encode("utf-8", "replace").decode()


# ---- events ------------------------------------------------------------------------------------


def _event(source: _Source) -> Understood:
    name = _word(source.body, "event_type")
    if name in EVENTS_OF_NOBODY:
        return source.nothing(f"kf_{name}")
    if name == "msg_send_fail":  # its message is known without the customer
        return _send_failed(source)
    if not source.sender:
        return source.nothing("kf_unreadable")
    known = EVENTS.get(name)
    if known is None:
        return source.leads(source.told("event_unknown", name=name[:64]), counted="kf_unknown")
    return known(source)


def _entered(source: _Source) -> Understood:
    body = source.body
    code = _word(body, "welcome_code", 256)
    opened = source.told(
        "session_opened",
        welcome_code=code,
        welcome_until=rfc3339(source.at_ms + WELCOME_MS) if code else "",
        scene=_word(body, "scene", 256),
        scene_param=_word(body, "scene_param", 1_024),
    )
    return source.leads(opened, counted="kf_event")


def _send_failed(source: _Source) -> Understood:
    """What looked sent was not: the receipt that corrects it, and the customer's refusal."""
    reason = source.body.get("fail_type")
    reason = reason if isinstance(reason, int) else 0
    leads: list[ProviderReceipt | ProviderInbound] = []
    msgid = plain_id(source.body.get("fail_msgid"))
    if msgid:
        leads.append(
            ProviderReceipt(
                status="failed",
                at_ms=source.at_ms,
                provider_id=msgid,
                failure=FAILURES.get(reason, "provider"),
                code=f"fail_type {reason}"[:64],
            )
        )
    if reason == REFUSED and source.sender:
        leads.append(source.told("rejected_by_customer", opt_out=True, rejected=True))
    return source.leads(*leads, counted="kf_send_failed" if leads else "kf_unreadable")


CHANGES: Final = {1: "accepted", 2: "transferred", 3: "ended", 4: "reopened"}
"""`change_type` of session_status_change, all by a member in the client: taken from the queue,
given to another member, ended, taken up again."""


def _session_changed(source: _Source) -> Understood:
    body = source.body
    number = body.get("change_type")
    change = CHANGES.get(number) if isinstance(number, int) else None
    agent = _word(body, "new_servicer_userid", 64)
    told = source.told(
        "session_changed",
        state="ended" if change == "ended" else "human" if agent else "unknown",
        change=change,
        agent=agent,
        from_agent=_word(body, "old_servicer_userid", 64),
        code=_word(body, "msg_code", 256),
    )
    if change == "ended":
        return source.leads(told, source.command("release"), counted="kf_event")
    if change is not None and agent:
        takeover = source.command(
            "takeover", agent=agent, until=rfc3339(source.at_ms + TAKEOVER_MS)
        )
        return source.leads(told, takeover, counted="kf_event")
    return source.leads(told, counted="kf_event")


def _recalled(source: _Source) -> Understood:
    body = source.body
    told = source.told(
        "message_recalled",
        message=plain_id(body.get("recall_msgid")),
        agent=_word(body, "servicer_userid", 64),
    )
    return source.leads(told, counted="kf_event")


def _rejected(source: _Source) -> Understood:
    """No more messages between a member and this customer. Its end (0) is told, and lifts nothing:
    an opt-out is taken back by an explicit act only."""
    rejected = source.body.get("reject_switch") == 1
    told = source.told(
        "rejected_by_customer",
        opt_out=rejected,
        rejected=rejected,
        agent=_word(source.body, "servicer_userid", 64),
    )
    return source.leads(told, counted="kf_event")


EVENTS: Final[dict[str, Callable[[_Source], Understood]]] = {
    "enter_session": _entered,
    "session_status_change": _session_changed,
    "user_recall_msg": _recalled,
    "servicer_recall_msg": _recalled,
    "reject_customer_msg_switch_change": _rejected,
}
EVENTS_OF_NOBODY: Final = frozenset(("servicer_status_change",))
"""Events without a customer: a member begins or stops to serve."""


# ---- reading -----------------------------------------------------------------------------------


def plain_id(value: Any) -> str:
    """An id of WeCom as it is; a longer or stranger one as its digest; "" for none."""
    if not isinstance(value, str) or not value:
        return ""
    return value if _PLAIN_ID.match(value) else _digest(value)


def _digest(value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True)  # ASCII, whatever strings are in it
    except RecursionError:
        text = "nested too deep"  # never seen; two such are taken for one
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _word(fields: Mapping[str, Any], key: str, most: int = 128) -> str:
    """A text of at most `most` characters; "" for anything else."""
    value = fields.get(key)
    return clean(value[:most]) if isinstance(value, str) else ""
