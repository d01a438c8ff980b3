"""SMS through Aliyun (dysmsapi, version 2017-05-25): SendSms, and the reports it pushes.

The text is a template that Aliyun has approved; a delivery names it and fills its variables.
SendSms removes no repeats, so nothing unanswered is ever sent again; `OutId` carries our delivery
id and comes back in the receipt, even when the answer was lost.

Sources: Aliyun's pages SendSms, SmsReport and SmsUp.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct, field

from channels.http import (
    ANSWER_S,
    CALLBACK_BYTES,
    CONNECT_S,
    CONNECTIONS,
    CONNECTIONS_MAX,
    FORBIDDEN,
    MALFORMED,
    NOT_STORED,
    Confirmation,
    HttpReply,
    answer_of_status,
    checked_url,
    same_secret,
)
from channels.provider import (
    Answer,
    Callback,
    Events,
    Prepared,
    ProviderInbound,
    ProviderReceipt,
    Reply,
    Submission,
    Unsendable,
)
from channels.sending import HttpProvider, Outcome, client_of
from channels.sms.message import Sms, SmsConfig
from channels.sms.numbers import national, normalise, spelled
from channels.sms.web.aliyun_codes import ERRORS, OTHER, RECEIPT_FAILURES, is_code, throttled
from channels.sms.web.reports import check_token, is_delivery, is_inbound, is_provider_id
from channels.sms.web.signing import signature
from hub.clock import Clock
from hub.contract.types import Delivery

DEFAULT_LIMITS: Final[dict[str, list[str]]] = {
    "recipient": ["1/min", "5/h", "10/day"],
    "account": ["5000/s"],
}
"""Aliyun's own, of one-time codes (one signature to one number) and of one user. Notices and
marketing have 50/day for each signature and template: an account for them says so itself."""
REPORTS: Final = 1_000
"""Reports in one push; a larger one is refused: CALLBACK_BYTES hold about as many."""
PARAM_CHARS: Final = 1_000
"""All variables of a template as JSON. A text has some hundred characters."""
TEMPLATES: Final = 1_000

_CHINA = timezone(timedelta(hours=8))


class AliyunConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An account at Aliyun."""

    endpoint: str = "https://dysmsapi.aliyuncs.com"
    region_id: str = "cn-hangzhou"
    access_key_id: Annotated[str, Meta(min_length=1, max_length=128)]
    access_key_secret: Annotated[str, Meta(min_length=1, max_length=128)]
    sign_name: Annotated[str, Meta(min_length=1, max_length=64)]
    templates: Annotated[dict[str, str], Meta(min_length=1, max_length=TEMPLATES)]
    """What a delivery's content names as `template`, or its category, to the TemplateCode."""
    extend_code: str = ""
    """SmsUpExtendCode: the end of the sender's number, to tell accounts apart in replies."""
    callback_token: str = ""
    """The URLs registered with Aliyun must end in ?token=<this>. Empty: no reports are taken."""
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return f"AliyunConfig(endpoint={self.endpoint!r})"


class AliyunText(Struct, frozen=True):
    """One message as SendSms is given it."""

    phone: str
    template: str
    params: str
    """JSON, or ""."""

    def __repr__(self) -> str:
        return f"AliyunText({self.template})"


class _Content(Struct):
    template: str | None = None
    params: dict[str, str | int] = field(default_factory=dict)


class _Said(Struct, rename="pascal"):
    code: str = ""
    message: str = ""
    biz_id: str = ""


class _Report(Struct):
    """A receipt (SmsReport) or, when it has `content`, a customer's message (SmsUp)."""

    phone_number: str = ""
    out_id: str = ""
    biz_id: str = ""
    success: bool | None = None
    err_code: str = ""
    report_time: str = ""
    content: str | None = None
    send_time: str = ""
    sequence_id: str | int = ""


_CONTENT_DECODER = msgspec.json.Decoder(_Content)
_SAID_DECODER = msgspec.json.Decoder(_Said)
_REPORTS_DECODER = msgspec.json.Decoder(list[Raw])
_REPORT_DECODER = msgspec.json.Decoder(_Report, strict=False)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class AliyunProvider(HttpProvider):
    """One account at Aliyun. Raises ConfigError when its configuration is not valid."""

    def __init__(
        self,
        config: AliyunConfig,
        sms_config: SmsConfig,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
    ) -> None:
        checked_url(config.endpoint, "endpoint")
        check_token(config.callback_token)
        self._config = config
        self._sms = Sms(sms_config)
        self._client = client_of(config)
        super().__init__(self._client, config.endpoint, config.connections, events, chance, account)
        self._clock = clock
        self._chance = chance

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: `{"template": name, "params": {…}}`; without `template` the category's. One unit:
        only Aliyun knows the text, and counts its segments."""
        recipient = normalise(delivery.to, self._sms.config.region)
        try:
            content = _CONTENT_DECODER.decode(delivery.content)
        except _UNREADABLE:
            content = None
        if content is None:
            raise Unsendable(
                "the content must have template (a name) and params (names to strings)",
                failure="rejected_content",
            )
        name = delivery.category if content.template is None else content.template
        template = self._config.templates.get(name)
        if template is None:
            what = "its category" if content.template is None else "such a template"
            raise Unsendable(f"the account's `templates` has not {what}", failure="config")
        # Aliyun takes strings only (isv.INVALID_JSON_PARAM).
        params = {key: str(value) for key, value in content.params.items()}
        text = msgspec.json.encode(params).decode() if params else ""
        if len(text) > PARAM_CHARS:
            raise Unsendable(
                f"params have more than {PARAM_CHARS} characters", failure="rejected_content"
            )
        part = AliyunText(national(recipient, "CN"), template, text)
        return Prepared(recipient, units=1, parts=(part,))

    # ---- sending -------------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        # A form and not a query: queries end up in the logs of proxies.
        fields = self._fields(submission)
        fields["Signature"] = signature("POST", fields, self._config.access_key_secret)
        reply = await self._client.request("POST", self._config.endpoint, form=fields)
        return self.understood(reply)

    def _fields(self, submission: Submission) -> dict[str, str]:
        config, part = self._config, submission.prepared.parts[0]
        now = datetime.fromtimestamp(self._clock.now_ms() / 1_000, UTC)
        fields = {
            "AccessKeyId": config.access_key_id,
            "Action": "SendSms",
            "Format": "JSON",
            "OutId": submission.delivery,
            "PhoneNumbers": part.phone,
            "RegionId": config.region_id,
            "SignName": config.sign_name,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureNonce": f"{self._chance.getrandbits(128):032x}",
            "SignatureVersion": "1.0",
            "SmsUpExtendCode": config.extend_code,
            "TemplateCode": part.template,
            "TemplateParam": part.params,
            "Timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Version": "2017-05-25",
        }
        return {name: value for name, value in fields.items() if value}

    def understood(self, reply: HttpReply) -> Outcome:
        """What Aliyun meant. Its words stay here: they may quote number and text."""
        try:
            said = _SAID_DECODER.decode(reply.body)
        except _UNREADABLE:
            said = _Said()
        if said.code == "OK":
            # Without BizId the receipt is still known by OutId.
            ids = (said.biz_id,) if is_provider_id(said.biz_id) else ()
            return Outcome(Answer("accepted", provider_ids=ids, receipts=1))
        code = said.code if is_code(said.code) else ""
        if pause := throttled(code, said.message):
            return Outcome(pause)
        meaning = ERRORS.get(code)
        if meaning is None and code.startswith("isv."):
            meaning = OTHER  # a new code of the family "the caller is wrong"
        if meaning is None:
            answer = answer_of_status(reply, self._clock.now_ms())
            stop = answer.failure == "config"
            answer = msgspec.structs.replace(answer, code=code or answer.code)
        else:
            answer = Answer(meaning.kind, failure=meaning.failure, code=code)
            stop = meaning.stop
        reason = f"Aliyun refuses with {answer.code}: see its console"
        return Outcome(answer, stop=reason if stop else "")

    # ---- being called --------------------------------------------------------------------------

    async def callback(self, request: Callback) -> Reply:
        """A push of receipts or of customers' messages: confirmed once all are stored."""
        if not same_secret(request.query.get("token", ""), self._config.callback_token):
            self._count("callback_refused")
            return FORBIDDEN
        reports = _reports(request.body)
        if reports is None:
            self._count("callback_malformed")
            return MALFORMED
        confirmation = Confirmation()
        for report in reports:
            if report is not None and (event := self._receipt(report) or self._inbound(report)):
                stored = confirmation.expect()
                if isinstance(event, ProviderReceipt):
                    self._count("receipt")
                    self._events.receipt(event, stored)
                else:
                    self._count("inbound")
                    self._events.inbound(event, stored)
            else:
                # One that cannot be read does not hold up the others: repeating would not help.
                self._count("report_malformed")
        if not await confirmation.all_stored():
            self._count("not_stored")
            return NOT_STORED
        body = '{"code":0,"msg":"成功"}'.encode()
        return Reply(body=body, content_type="application/json; charset=utf-8")

    def _receipt(self, report: _Report) -> ProviderReceipt | None:
        if report.success is None or not (
            is_delivery(report.out_id) or is_provider_id(report.biz_id)
        ):
            return None
        code = report.err_code if is_code(report.err_code) else ""
        return ProviderReceipt(
            status="delivered" if report.success else "failed",
            at_ms=self._time(report.report_time),
            provider_id=report.biz_id if is_provider_id(report.biz_id) else "",
            delivery=report.out_id if is_delivery(report.out_id) else "",
            failure=None if report.success else RECEIPT_FAILURES.get(code, "provider"),
            code=code,
        )

    def _inbound(self, report: _Report) -> ProviderInbound | None:
        own_id = str(report.sequence_id)
        if report.content is None or not is_inbound(report.phone_number, report.content, own_id):
            return None
        return ProviderInbound(
            id=own_id,
            sender=spelled(report.phone_number, self._sms.config.region),
            content={"text": report.content},
            at_ms=self._time(report.send_time),
            opt_out=self._sms.is_opt_out(report.content),
        )

    def _time(self, text: str) -> int:
        """Aliyun's `2017-01-01 00:00:00`, in China's time; now, when it is none."""
        try:
            at = datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=_CHINA)
        except ValueError:
            return self._clock.now_ms()
        return min(max(int(at.timestamp() * 1_000), 0), self._clock.now_ms())


def _reports(body: bytes) -> list[_Report | None] | None:
    """The reports of a push, None for each that is not one; None when it is no push."""
    if len(body) > CALLBACK_BYTES:
        return None
    try:
        raws = _REPORTS_DECODER.decode(body)
    except _UNREADABLE:
        return None
    if len(raws) > REPORTS:
        return None
    return [_report(raw) for raw in raws]


def _report(raw: Raw) -> _Report | None:
    try:
        return _REPORT_DECODER.decode(raw)
    except _UNREADABLE:
        return None
