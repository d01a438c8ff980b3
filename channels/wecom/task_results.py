"""What became of the deliveries in a member's task, as WeCom's lists say it, and how it is told: a
part of the task at a time, with the note that it is told in the same bundle. Pure.

Sources: WeCom's pages 92135 (`fail_list`), 93338 (lists of tasks and of results).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from channels.provider import Bundle, ProviderCommand, ProviderInbound, ProviderReceipt
from channels.wecom.tasks import (
    FOUND_AFTER_MS,
    PART,
    Entry,
    Head,
    Task,
    head_key,
    pack_part,
    part_key,
    provider_id,
)
from hub.contract.types import FailureClass, ReceiptStatus


class Result(Struct, frozen=True):
    """The last word on one delivery of a task."""

    status: ReceiptStatus
    at_ms: int
    failure: FailureClass | None = None
    code: str = ""


COLLAPSED: Final = "collapse-key"
"""Code of what a newer delivery has replaced."""

SENT: Final = 1
_SEND_STATUS: Final[dict[int, tuple[ReceiptStatus, FailureClass | None, str]]] = {
    SENT: ("sent", None, ""),
    2: ("failed", "dead_address", "not-a-friend"),
    3: ("failed", "window_closed", "had-another"),
}
"""`status` in get_groupmsg_send_result; 0: not sent yet."""


def send_results(send_list: Any, now: int) -> dict[str, Result]:
    """The last words in a page of results, by customer or group; what is not understood is none."""
    found: dict[str, Result] = {}
    for item in send_list if isinstance(send_list, list) else ():
        if not isinstance(item, Mapping):
            continue
        to = item.get("external_userid") or item.get("chat_id")
        status = item.get("status")
        if not isinstance(to, str) or not isinstance(status, int) or status not in _SEND_STATUS:
            continue
        word, failure, code = _SEND_STATUS[status]
        found[to] = Result(word, time_of(item.get("send_time"), now), failure, code)
    return found


def time_of(seconds: Any, now: int) -> int:
    """A time of WeCom in Unix ms; now when there is none that has passed."""
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 0 < seconds * 1_000 <= now:
        return seconds * 1_000
    return now


def made_near(seconds: Any, head: Head) -> bool:
    """Whether a time of WeCom's lists (a number, in some of them as a text) is that of the call."""
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds[:12])
    if not isinstance(seconds, int):
        return False
    return abs(seconds * 1_000 - head.called_ms) <= FOUND_AFTER_MS


def refused_list(fail_list: Any, now: int) -> dict[str, Result]:
    """Those that WeCom would not take into a task."""
    listed = fail_list if isinstance(fail_list, list) else []
    result = Result("failed", now, "dead_address", "fail-list")
    return {to: result for to in listed if isinstance(to, str)}


def is_it(item: Any, head: Head, known: Collection[str]) -> bool:
    """Whether a task of WeCom's list can be the one that a call without an answer has made."""
    if not isinstance(item, Mapping):
        return False
    msgid = item.get("msgid")
    if not isinstance(msgid, str) or not msgid or msgid in known:
        return False
    if not made_near(item.get("create_time"), head):
        return False
    body = msgspec.json.decode(head.body)
    text = item.get("text")
    said = text.get("content", "") if isinstance(text, Mapping) else ""
    attached = item.get("attachments") or []
    return (
        said == body.get("text", {}).get("content", "")
        and isinstance(attached, list)
        and len(attached) == len(body.get("attachments", []))
    )


class Settled(Struct, frozen=True):
    """What is told of one part, and how it stands when that is stored."""

    part: int
    bundle: Bundle
    left: list[Entry] | None
    """None: everything is told."""


def settle(
    task: Task,
    part: int,
    results: Mapping[str, Result],
    *,
    superseded_ms: int | None = None,
    inbound: tuple[ProviderInbound, ...] = (),
    commands: tuple[ProviderCommand, ...] = (),
) -> Settled | None:
    """Tell the last words on those of a part that have none yet; None: there is nothing new.

    What is superseded never fails for another reason, or another channel would be tried for it.
    `superseded_ms`: WeCom has none of it, and since when: it is told of all that is superseded.
    """
    receipts: list[ProviderReceipt] = []
    left: list[Entry] = []
    for index, entry in enumerate(task.parts[part]):
        number = part * PART + index
        result = None if entry.told else results.get(entry.to)
        if not entry.told and task.is_superseded(number):
            if superseded_ms is not None:
                result = Result("failed", superseded_ms, "superseded", COLLAPSED)
            elif result is not None and result.status == "failed":
                result = Result("failed", result.at_ms, "superseded", COLLAPSED)
        if result is not None:
            name = provider_id(task.head.id, number)
            receipts.append(
                ProviderReceipt(
                    result.status,
                    result.at_ms,
                    name,
                    failure=result.failure,
                    code=result.code,
                    last=result.status == "sent",
                )
            )
            entry = Entry(entry.to, entry.name, True)
        left.append(entry)
    if not receipts:
        return None
    over = all(entry.told for entry in left)
    notes: dict[str, bytes | None] = {part_key(task, part): None if over else pack_part(left)}
    if over and set(task.parts) == {part}:
        notes[head_key(task)] = None
    bundle = Bundle(receipts=tuple(receipts), inbound=inbound, commands=commands, notes=notes)
    return Settled(part, bundle, None if over else left)
