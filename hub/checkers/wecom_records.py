"""What the checkers of WeCom's promises read: what happened at WeCom, beside what streams hold.

What happened there is read off the record of the fake (`seen_of`); any other stand-in may make the
same plain records. Times are Unix ms by the clock of the other side, and compared only with each
other: its clock may have been put forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from hub.checkers.account_records import Submit
from hub.checkers.records import Handed, Published, Told, Violation
from hub.contract.types import Delivery, Inbound, Receipt

WINDOWED: Final = "kf"
"""The kind of message that only a customer's message lets us write."""
CONFIRMED: Final = frozenset(("mass", "mass_group"))
"""Kinds that leave only when a member has confirmed them."""

Accounts = Mapping[tuple[str, str], str]
"""(corp id, open_kfid, userid or number of the application) to the account of ours."""


class Wrote(Struct, frozen=True, gc=False):
    """A message that somebody on the other side wrote, in the order WeCom has them."""

    at_ms: float
    account: str
    sender: str
    id: str
    """As the inbound message must have it."""
    text: str | None = None
    """None where it is none."""
    agent: str = ""
    """Who of ours wrote it to the sender, beside the hub."""
    ordered: bool = True
    """Whether WeCom tells these in their order."""


class Came(Struct, frozen=True, gc=False):
    """A customer came, and WeCom gave a code that is good for one answer."""

    at_ms: float
    account: str
    sender: str
    code: str
    until_ms: float


class Taken(Struct, frozen=True, gc=False):
    """A message of ours to one address that WeCom has taken."""

    at_ms: float
    kind: str
    """app, appchat, kf, kf_event, mass, mass_group, moment, welcome."""
    account: str
    to: str
    id: str
    text: str | None = None
    code: str = ""


class Seen(Struct, kw_only=True):
    """What WeCom has seen."""

    wrote: list[Wrote] = field(default_factory=list)
    came: list[Came] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    violations: dict[str, int] = field(default_factory=dict)
    """Documented limits that were not kept, and how often."""


class WecomHistory(Struct, kw_only=True, dict=True):
    """A run: all of it, from the first message to the end, with nothing under way any more."""

    seen: Seen
    published: list[Published]
    """INTAKE."""
    handed: list[Handed]
    """All deliveries of LEDGER."""
    outcomes: list[Told] = field(default_factory=list)
    welcoming: frozenset[str] = frozenset()
    """Accounts where a rule answers everybody who comes with a code."""
    window_ms: float = 48 * 3_600_000
    window_messages: int = 5
    """After a customer's message so many may follow, for so long."""
    allowed: frozenset[str] = frozenset()
    """Limits of `seen.violations` that the run breaks on purpose."""

    @cached_property
    def inbound(self) -> dict[tuple[str, str], list[Published]]:
        """(account, id) to what INTAKE has of it."""
        found: dict[tuple[str, str], list[Published]] = {}
        for each in self.published:
            if isinstance(message := each.message, Inbound):
                found.setdefault((message.account, message.id), []).append(each)
        return found

    @cached_property
    def told(self) -> dict[str, list[Receipt]]:
        """Delivery to its receipts, in the order of INTAKE."""
        found: dict[str, list[Receipt]] = {}
        for each in self.published:
            if isinstance(message := each.message, Receipt):
                found.setdefault(message.delivery, []).append(message)
        return found

    @cached_property
    def deliveries(self) -> list[Delivery]:
        """Each that an account was handed, once: the ledger may hold it again for another."""
        return list(
            {
                (each.delivery.account, each.delivery.id): each.delivery for each in self.handed
            }.values()
        )

    @cached_property
    def delivery_of(self) -> dict[Taken, Delivery]:
        """Which delivery each message was: by the id that its receipt names, else by what it says
        if no other delivery of the account says it to the same address."""
        by_id: dict[tuple[str, str], Delivery] = {}
        by_text: dict[tuple[str, str, str], list[Delivery]] = {}
        for delivery in self.deliveries:
            for receipt in self.told.get(delivery.id, ()):
                if receipt.provider_id:
                    by_id[delivery.account, receipt.provider_id] = delivery
            if (text := text_of(delivery.content)) is not None:
                by_text.setdefault((delivery.account, bare(delivery.to), text), []).append(delivery)
        found = {}
        for taken in self.seen.taken:
            known = by_id.get((taken.account, taken.id))
            if known is None and taken.text is not None:
                same = by_text.get((taken.account, bare(taken.to), taken.text), [])
                known = same[0] if len(same) == 1 else None
            if known is not None:
                found[taken] = known
        return found

    def submits(self) -> list[Submit]:
        """Every message whose delivery is known, for `hub.checkers.account_records`."""
        return [
            Submit(taken.at_ms, taken.account, delivery.id, delivery.app, taken.to)
            for taken, delivery in self.delivery_of.items()
        ]


def seen_of(
    lines: Iterable[Mapping[str, Any]],
    accounts: Accounts,
    violations: Mapping[str, int] | None = None,
) -> Seen:
    """The lines of the fake's record, of its file or of what it tells while it runs (then its
    lists, in any order but each in its own). What concerns none of the accounts is left out."""
    seen = Seen(violations=dict(violations or {}))
    for line in lines:
        account = _account_of(line, accounts)
        if account is None:
            continue
        match line["kind"]:
            case "wrote":
                seen.wrote.append(_wrote(line, account))
            case "came":
                seen.came.append(
                    Came(line["at"], account, line["from"], line["code"], line["until"])
                )
            case kind:
                seen.taken.append(
                    Taken(
                        line["at"],
                        kind,
                        account,
                        line["to"],
                        str(line.get("msgid", "")),
                        _said(line),
                        line.get("code", ""),
                    )
                )
    return seen


def _account_of(line: Mapping[str, Any], accounts: Accounts) -> str | None:
    for key in ("open_kfid", "userid", "agent"):
        if key in line:
            return accounts.get((line["corp"], str(line[key])))
    return None


def _wrote(line: Mapping[str, Any], account: str) -> Wrote:
    application = "agent" in line
    return Wrote(
        at_ms=line["at"],
        account=account,
        sender=line["from"].lower() if application else line["from"],
        id=f"message-{line['msgid']}" if application else line["msgid"],
        text=_said(line),
        agent=line.get("by", ""),
        ordered=not application,  # each is a callback of its own, and they overtake each other
    )


def _said(line: Mapping[str, Any]) -> str | None:
    """The text of a message; None when it is another kind of message."""
    if line.get("type") == "text":
        content = line.get("content")
        return content if isinstance(content, str) else None
    text = line.get("text")
    if isinstance(text, Mapping) and not line.get("attachments"):
        return text.get("content")
    return None


Content = msgspec.Raw | bytes | Mapping[str, msgspec.Raw]
"""Of a delivery, or of an inbound message."""

_BESIDE_TEXT: Final = {"text", "msgtype", "menu_id", "welcome_code", "welcome_until", "code"}


def text_of(content: Content) -> str | None:
    """The text of a content; None when it is no text, or more."""
    fields = _fields(content)
    text = _read(fields, "text") if fields.keys() <= _BESIDE_TEXT else None
    if isinstance(text, dict):
        text = text.get("content")
    return text if isinstance(text, str) else None


def code_of(content: Content) -> str:
    """The welcome code in a content, "" for none."""
    code = _read(_fields(content), "welcome_code")
    return code if isinstance(code, str) else ""


def _read(fields: Mapping[str, msgspec.Raw], key: str) -> object:
    return msgspec.json.decode(fields[key]) if key in fields else None


def _fields(content: Content) -> Mapping[str, msgspec.Raw]:
    if isinstance(content, Mapping):
        return content
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:  # no object
        return {}


def bare(address: str) -> str:
    """An address without the mark of a group."""
    return address.removeprefix("~").lower()


def about_wrote(promise: str, kind: str, wrote: Wrote, *shown: Published) -> Violation:
    """A violation that a message of the other side shows; its `rule` is the account."""
    return Violation(
        promise=promise,
        kind=kind,
        intent=wrote.id,
        rule=wrote.account,
        at_ms=int(wrote.at_ms),
        sequences=tuple(each.sequence for each in shown),
    )


def about_taken(promise: str, kind: str, taken: Taken, delivery: str = "") -> Violation:
    """A violation that a message of ours shows; its `rule` is the account."""
    return Violation(
        promise=promise,
        kind=kind,
        intent=taken.id,
        delivery=delivery,
        rule=taken.account,
        at_ms=int(taken.at_ms),
    )
