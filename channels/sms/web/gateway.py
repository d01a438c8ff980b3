"""What a URL gateway wants and says, as configuration: templates of a request, how an acceptance
looks, what refusals mean, and the fields of its callbacks. `preset = "kannel"` fills all of it.

What Kannel itself must be told: in its group `sendsms-user` `concatenation = true` and
`max-messages` (else long texts are cut); in `smsbox` `http-request-retry` and `http-queue-delay`
(else a receipt that we could not store is not repeated) and `mo-recode = true` (else customers'
texts come as raw UTF-16); in `sms-service` `max-messages = 0` and, as `get-url`, the callback's URL
with `?token=<token>&from=%p&text=%a&id=%I`.

Sources: Kannel 1.4.5, user's guide (chapter 6 "Using SMS", chapter 9 "Delivery reports"), and what
its smsbox answers when it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from channels.http import ANSWER_S, CONNECT_S, CONNECTIONS, CONNECTIONS_MAX, checked_url
from channels.sms.smpp.status import CLASSES
from channels.sms.web.reports import check_token
from hub.contract.types import FailureClass, ReceiptStatus
from hub.errors import ConfigError

PLACEHOLDERS: Final = (
    "to",  # E.164 with its plus
    "digits",  # the same without it
    "text",
    "from",  # `sender`
    "user",
    "password",
    "coding",  # of `codings`
    "units",  # segments
    "delivery",
    "dlr_url",  # `callback_url` with token, delivery and `receipt_query`
    "validity_min",  # whole minutes until the message expires, at least 1
)
PARAMS: Final = 32
"""Fields of a request. Kannel's sendsms knows 29."""
FAILURES: Final = 64
"""Rules for refusals, tried in order."""
STATUSES: Final = 128
"""Words of a receipt's status or code that are known."""
MATCHED_CHARS: Final = 4_096
"""Characters of an answer that patterns see: they may be slow on more, and answers are short."""

_HOLE = re.compile(r"\{([^{}]*)\}")

Word = Annotated[str, Meta(min_length=1, max_length=64)]


class Accepted(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How an answer looks that says: taken."""

    statuses: Annotated[list[int], Meta(min_length=1, max_length=STATUSES)] = field(
        default_factory=lambda: [200, 202]
    )
    body: str | None = None
    """A pattern found in the body; its group `id`, if it has one, is the gateway's own id."""


class Refusal(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What an answer means that has this status and this pattern in its body."""

    status: int | None = None
    body: str | None = None
    answer: Literal["retry", "throttled", "failed", "unknown"] = "failed"
    failure: FailureClass = "provider"
    """Of `failed`."""
    stop: bool = False
    """Nothing can be sent until a person has changed something (a wrong password)."""


class ReceiptFields(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Fields of a callback that reports a status."""

    delivery: Word = "delivery"
    id: Word | None = None
    """The gateway's own id, by gateways that cannot echo ours."""
    status: Word = "status"
    statuses: Annotated[dict[Word, ReceiptStatus], Meta(max_length=STATUSES)]
    """What the values of `status` mean."""
    code: Word = "code"
    code_pattern: str = r"\A(?!.*[0-9]{7})([A-Za-z0-9_.:/-]{1,64})\Z"
    """Its groups are what is kept of `code`: some gateways put text or number in there."""
    codes: Annotated[dict[Word, FailureClass], Meta(max_length=STATUSES)] = field(
        default_factory=dict
    )
    """What failures with these codes (or codes that begin with these words) mean."""


class InboundFields(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Fields of a callback that brings a customer's message."""

    sender: Word = "from"
    text: Word = "text"
    id: Word | None = None


class UrlGatewayConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An account's gateway. What is left out, the preset fills."""

    preset: Literal["kannel"] | None = None
    url: str
    """With the preset `kannel` the path may be left out."""
    method: Literal["GET", "POST"] = "GET"
    """POST sends the fields as a form."""
    params: Annotated[dict[Word, str], Meta(max_length=PARAMS)] = field(default_factory=dict)
    """Fields of the request, with placeholders such as {to}. A field that comes out empty is left
    out; an empty template takes a field of the preset away."""
    user: str = ""
    password: str = ""
    sender: str = ""
    codings: dict[Literal["gsm7", "ucs2"], str] = field(
        default_factory=lambda: {"gsm7": "0", "ucs2": "2"}
    )
    """What {coding} is for a text of each alphabet."""
    accepted: Accepted | None = None
    failures: Annotated[list[Refusal], Meta(max_length=FAILURES)] = field(default_factory=list)
    """Tried in order, before those of the preset and the meaning of the status."""
    server_errors: Literal["unknown", "retry"] = "unknown"
    """What a 5xx other than 503 means: the message may have been taken before the error."""
    callback_url: str = ""
    """Where the gateway reaches the hub: https://hub.example/v1/callbacks/<account>."""
    callback_token: str = ""
    """Every callback must bring it as `token`."""
    receipt_query: str | None = None
    """Put behind the callback's URL as it is, for the gateway to fill in: status=%d&code=%A."""
    receipts: ReceiptFields | None = None
    inbound: InboundFields | None = None
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return f"UrlGatewayConfig(preset={self.preset!r})"


_KANNEL_PARAMS: Final = {
    "username": "{user}",
    "password": "{password}",
    "to": "{to}",
    "from": "{from}",
    "text": "{text}",
    "charset": "UTF-8",
    "coding": "{coding}",
    "validity": "{validity_min}",
}
_KANNEL_RECEIPT_PARAMS: Final = {"dlr-mask": "31", "dlr-url": "{dlr_url}"}
_KANNEL_FAILURES: Final = [
    Refusal(body="^Authorization failed", failure="config", stop=True),
    Refusal(body="^Sender missing", failure="config", stop=True),
    Refusal(body="^(Empty receiver|Garbage)", failure="dead_address"),
    Refusal(body="^(Charset or body|UDH field|Coding field)", failure="rejected_content"),
    # "Not routable. Do not try again.", and what its white and black lists refuse.
    Refusal(status=403, failure="provider"),
]
_KANNEL_RECEIPTS: Final = ReceiptFields(
    statuses={
        "1": "delivered",
        "2": "failed",
        "4": "sent",  # buffered by the SMSC
        "8": "sent",  # taken by the SMSC
        "16": "failed",  # refused by the SMSC
        "34": "failed",  # 2 and expired
        "66": "unknown",  # 2 and the SMSC does not know
    },
    # The SMSC's refusal (NACK/0x0000000b/Invalid Dest Addr), or the text of an SMPP receipt.
    code_pattern=r"\A(NACK/[0-9A-Fa-fx]{1,10})(?:/|\Z)|\bstat:([A-Z]{1,8})\b.{0,8}?\berr:(\w{1,4})",
    codes={
        "EXPIRED": "expired",
        **{
            f"NACK/{int(status):#010x}": meaning
            for status, meaning in CLASSES.items()
            if meaning in ("dead_address", "rejected_content", "config")
        },
    },
)


def with_preset(config: UrlGatewayConfig) -> UrlGatewayConfig:
    """The configuration with what its preset says where it says nothing."""
    if config.preset is None:
        return config
    params = _KANNEL_PARAMS | (_KANNEL_RECEIPT_PARAMS if config.callback_url else {})
    if config.method != "GET":
        raise _wrong("method", "Kannel takes GET: its POST has the fields in headers")
    path = urlsplit(config.url).path
    return replace(
        config,
        url=config.url.rstrip("/") + "/cgi-bin/sendsms" if path in ("", "/") else config.url,
        params={name: value for name, value in (params | config.params).items() if value},
        accepted=config.accepted or Accepted(statuses=[202], body=r"^[03]:"),
        failures=[*config.failures, *_KANNEL_FAILURES],
        receipt_query=config.receipt_query or "status=%d&code=%A",
        receipts=config.receipts or _KANNEL_RECEIPTS,
        inbound=config.inbound or InboundFields(id="id"),
    )


class Gateway:
    """A checked configuration, with its patterns compiled. Raises ConfigError, naming the key."""

    def __init__(self, config: UrlGatewayConfig) -> None:
        config = with_preset(config)
        self.config = config
        checked_url(config.url, "url")
        for key, template in config.params.items():
            _check_template(key, template)
        used = {name for each in config.params.values() for name in _HOLE.findall(each)}
        if not used & {"to", "digits"} or "text" not in used:
            raise _wrong("params", "some field must have {to} or {digits}, and some {text}")
        _check_callbacks(config)
        self.accepted = config.accepted or Accepted()
        self.accepted_body = _compiled("accepted.body", self.accepted.body)
        self.failures = [
            (rule, _compiled(f"failures[{number}].body", rule.body))
            for number, rule in enumerate(config.failures)
        ]
        for number, rule in enumerate(config.failures):
            if rule.status is None and rule.body is None:
                raise _wrong(f"failures[{number}]", "needs status, body or both")
        receipts = config.receipts
        self.code_pattern = _compiled("receipts.code_pattern", receipts and receipts.code_pattern)

    def fields(self, values: Mapping[str, str]) -> dict[str, str]:
        """The fields of a request; `values` has every one of PLACEHOLDERS."""
        filled = {
            name: _HOLE.sub(lambda hole: values[hole[1]], template)
            for name, template in self.config.params.items()
        }
        return {name: value for name, value in filled.items() if value}

    @property
    def reports(self) -> bool:
        """Whether a receipt will follow what is accepted. Without a preset a gateway may have its
        callback's URL from its own console."""
        config = self.config
        registered = config.preset is None and config.receipts and config.callback_token
        return bool(config.callback_url or registered)

    def is_accepted(self, status: int, body: str) -> tuple[bool, str]:
        """Whether an answer says that the message was taken, and the gateway's id of it or ""."""
        if status not in self.accepted.statuses:
            return False, ""
        if self.accepted_body is None:
            return True, ""
        match = self.accepted_body.search(body[:MATCHED_CHARS])
        return match is not None, (match and match.groupdict().get("id")) or ""

    def refusal(self, status: int, body: str) -> Refusal | None:
        """The first rule for such an answer."""
        for rule, pattern in self.failures:
            if rule.status in (None, status) and (
                pattern is None or pattern.search(body[:MATCHED_CHARS])
            ):
                return rule
        return None

    def code_of(self, said: str) -> tuple[str, FailureClass]:
        """What is kept of a receipt's code, and what a failure with it means."""
        receipts, pattern = self.config.receipts, self.code_pattern
        if receipts is None or pattern is None:
            return "", "provider"
        match = pattern.search(said[:MATCHED_CHARS])
        groups = [group for group in match.groups() if group] if match else []
        code = " ".join(groups)[:64]
        first = groups[0] if groups else ""
        return code, receipts.codes.get(code) or receipts.codes.get(first) or "provider"


def _check_template(key: str, template: str) -> None:
    for name in _HOLE.findall(template):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise _wrong(f"params.{key}", f"unknown placeholder {{{name}}}; known: {known}")
    if set("{}") & set(_HOLE.sub("", template)):
        raise _wrong(f"params.{key}", "a brace without its partner")


def _check_callbacks(config: UrlGatewayConfig) -> None:
    check_token(config.callback_token)
    if not config.callback_url:
        return
    checked_url(config.callback_url, "callback_url")
    if not config.callback_token:
        raise _wrong("callback_token", "needed with callback_url")
    if config.receipts is None:
        raise _wrong("receipts", "needed with callback_url")


def _compiled(key: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise _wrong(key, f"not a regular expression: {error}") from error


def _wrong(key: str, message: str, **facts: Any) -> ConfigError:
    return ConfigError(f"{key}: {message}", key=key, **facts)
