"""Moments (客户朋友圈): what is asked of WeCom, and what its answers mean. Pure.

A moment is made in three steps: WeCom takes a job, the job makes the moment, and each member who is
to publish it confirms that. Content of a delivery that wants one:
`{"op": "moment.create", "text": "…", "attachments": […], "visible_range": {…}}`.

Sources: WeCom's pages 95094 (creating), 95095 (jobs), 93333 (who published, who sees it), 97612
(cancelling).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from channels.provider import Unsendable
from channels.wecom.errors import verdict_of
from channels.wecom.task_results import Result, made_near
from channels.wecom.tasks import Head

TEXT_CHARS: Final = 2_000
IMAGES: Final = 9
"""Or one video, or one link."""
SENDERS: Final = 100_000
DEPARTMENTS: Final = 10_000
TAGS: Final = 100
"""Of a visible range: bounds against mistakes; WeCom's own check comes after."""

_FIELDS: Final = ("op", "text", "attachments", "visible_range")
_MEDIA: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "image": (("media_id",), ()),
    "video": (("media_id",), ()),
    "link": (("url",), ("title", "media_id")),
}
"""Of each attachment: what it must have, and what it may have."""


def moment_of(content: Mapping[str, Any], userid: str) -> dict[str, Any]:
    """The request for a moment; without a visible range it is the account's member who publishes it
    to all her customers. Raises Unsendable."""
    if any(name not in _FIELDS for name in content):
        _refuse(f"a moment has {', '.join(_FIELDS)}")
    made: dict[str, Any] = {}
    text = content.get("text")
    if isinstance(text, Mapping):
        text = text.get("content")
    if text is not None:
        if not isinstance(text, str) or not text.strip() or len(text) > TEXT_CHARS:
            _refuse(f"text must be 1 to {TEXT_CHARS} characters")
        made["text"] = {"content": text}
    attachments = content.get("attachments", [])
    if not isinstance(attachments, list):
        _refuse("attachments must be a list")
    if attachments:
        made["attachments"] = [_attachment(item) for item in attachments]
        kinds = {item["msgtype"] for item in made["attachments"]}
        if len(kinds) > 1 or len(attachments) > (IMAGES if kinds == {"image"} else 1):
            _refuse(f"a moment has up to {IMAGES} images, or one video, or one link")
    if not made:
        _refuse("a moment must have text or attachments")
    made["visible_range"] = _visible(content.get("visible_range"), userid)
    return made


def _refuse(problem: str) -> NoReturn:
    raise Unsendable(problem, failure="rejected_content", code="content")


def _attachment(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        _refuse("an attachment must be an object")
    names = [name for name in _MEDIA if name in item]
    if (
        len(names) != 1
        or set(item) - {"msgtype", *names}
        or item.get("msgtype") not in (None, *names)
    ):
        _refuse(f"an attachment must have one of {', '.join(_MEDIA)}")
    name = names[0]
    value = {"media_id": item[name]} if isinstance(item[name], str) else item[name]
    must, may = _MEDIA[name]
    if not isinstance(value, Mapping) or set(value) - {*must, *may} or not set(must) <= set(value):
        _refuse(
            f"{name} must have {', '.join(must)}" + (f", and may have {', '.join(may)}" * bool(may))
        )
    if not all(isinstance(part, str) and part for part in value.values()):
        _refuse(f"{name}: all of it are texts")
    return {"msgtype": name, name: dict(value)}


def _visible(given: Any, userid: str) -> dict[str, Any]:
    if given is None:
        return {"sender_list": {"user_list": [userid]}}
    if not isinstance(given, Mapping) or set(given) - {"sender_list", "external_contact_list"}:
        _refuse("visible_range has sender_list and external_contact_list")
    shown: dict[str, Any] = {}
    for name, lists in (
        ("sender_list", (("user_list", str, SENDERS), ("department_list", int, DEPARTMENTS))),
        ("external_contact_list", (("tag_list", str, TAGS),)),
    ):
        part = given.get(name)
        if part is None:
            continue
        allowed = {field: (kind, most) for field, kind, most in lists}
        if not isinstance(part, Mapping) or set(part) - set(allowed):
            _refuse(f"visible_range.{name} has {', '.join(allowed)}")
        for field, value in part.items():
            kind, most = allowed[field]
            good = isinstance(value, list) and len(value) <= most
            if not good or not all(type(one) is kind for one in value):
                _refuse(f"visible_range.{name}.{field} is a list of at most {most}")
        shown[name] = dict(part)
    shown.setdefault("sender_list", {"user_list": [userid]})
    return shown


def job_of(reply: Mapping[str, Any], now: int) -> str | Result:
    """What get_moment_task_result says: the id of the moment, "" while the job runs (status 1 and
    2; 3 is over), or why there is none."""
    if reply.get("status") != 3:
        return ""
    result = reply.get("result")
    result = result if isinstance(result, Mapping) else {}
    errcode, moment = result.get("errcode", 0), result.get("moment_id")
    if isinstance(moment, str) and moment and errcode == 0:
        return moment
    code = errcode if isinstance(errcode, int) else 0
    failure = (verdict_of(code).failure if code else None) or "provider"
    return Result("failed", now, failure, str(code or "no-moment"))


def published(task_list: Any) -> tuple[int, int]:
    """Of a page of get_moment_task: members who have published it, and members."""
    tasks = (
        [item for item in task_list if isinstance(item, Mapping)]
        if isinstance(task_list, list)
        else []
    )
    return sum(item.get("publish_status") == 1 for item in tasks), len(tasks)


def is_moment(item: Any, head: Head, text: str) -> bool:
    """Whether a moment of WeCom's list can be the one that a call without an answer has made."""
    if not isinstance(item, Mapping) or not isinstance(item.get("moment_id"), str):
        return False
    if not made_near(item.get("create_time"), head):
        return False
    said = item.get("text")
    return (said.get("content", "") if isinstance(said, Mapping) else "") == text
