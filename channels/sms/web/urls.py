"""SMS through a gateway that takes a message as a URL, and calls a URL with receipts: Kannel's
sendsms and its many likes. The gateway splits long texts itself; we count its segments.

Kannel's receipts come in any order: the handset's `delivered` before the SMSC's `sent` is usual.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from channels.http import (
    FORBIDDEN,
    MALFORMED,
    NOT_STORED,
    Confirmation,
    HttpReply,
    answer_of_status,
    form_of,
    retry_after_ms,
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
    Stored,
    Submission,
)
from channels.sending import HttpProvider, Outcome, client_of
from channels.sms.alphabet import Coding
from channels.sms.message import Sms, SmsConfig, text_of
from channels.sms.numbers import spelled
from channels.sms.web.gateway import Gateway, UrlGatewayConfig
from channels.sms.web.reports import ID_CHARS, is_delivery, is_inbound, is_provider_id
from hub.clock import Clock
from hub.contract.types import Delivery

CODINGS: Final = (Coding.GSM7, Coding.UCS2)
"""What gateways are told of alphabets: seven bits or Unicode."""
DEFAULT_LIMITS: Final[dict[str, list[str]]] = {}
"""A gateway of one's own has none."""


class UrlText(Struct, frozen=True):
    """One message, as gateways are given it."""

    text: str
    coding: Coding

    def __repr__(self) -> str:
        return f"UrlText({self.coding.value})"


class UrlGatewayProvider(HttpProvider):
    """One account's gateway. Raises ConfigError when its configuration is not valid."""

    def __init__(
        self,
        config: UrlGatewayConfig,
        sms_config: SmsConfig,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
    ) -> None:
        self._gateway = Gateway(config)
        self._config = config = self._gateway.config
        self._sms = Sms(sms_config, codings=CODINGS)
        self._client = client_of(config)
        super().__init__(self._client, config.url, config.connections, events, chance, account)
        self._clock = clock

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: number, text, and the segments that the gateway will make of it."""
        recipient, segmented = self._sms.prepare(delivery, codings=CODINGS)
        text = self._sms.compose(text_of(delivery), delivery.category)
        part = UrlText(text, segmented.coding)
        return Prepared(recipient, units=len(segmented.segments), parts=(part,))

    # ---- sending -------------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        fields = self._gateway.fields(self._values(submission))
        if self._config.method == "GET":
            reply = await self._client.request("GET", self._config.url, query=fields)
        else:
            reply = await self._client.request("POST", self._config.url, form=fields)
        return self.understood(reply)

    def _values(self, submission: Submission) -> dict[str, str]:
        prepared, config = submission.prepared, self._config
        part: UrlText = prepared.parts[0]
        minutes = -((self._clock.now_ms() - submission.expires_ms) // 60_000)
        return {
            "to": prepared.recipient,
            "digits": prepared.recipient.removeprefix("+"),
            "text": part.text,
            "from": config.sender,
            "user": config.user,
            "password": config.password,
            "coding": config.codings.get(part.coding.value, ""),  # type: ignore[call-overload]
            "units": str(prepared.units),
            "delivery": submission.delivery,
            "dlr_url": self._receipt_url(submission.delivery),
            "validity_min": str(max(minutes, 1)),
        }

    def _receipt_url(self, delivery: str) -> str:
        config = self._config
        if not config.callback_url or config.receipts is None:
            return ""
        # Kannel fills in %d and its likes in all of it. What quoting gives for the printable ASCII
        # of an id (%21 to %7E) is none of them.
        url = f"{config.callback_url}?token={config.callback_token}"
        url += f"&{quote(config.receipts.delivery)}={quote(delivery, safe='')}"
        return f"{url}&{config.receipt_query}" if config.receipt_query else url

    def understood(self, reply: HttpReply) -> Outcome:
        """What the gateway meant. Its words stay here: they may quote number and text."""
        body = reply.text
        taken, provider_id = self._gateway.is_accepted(reply.status, body)
        if taken:
            ids = (provider_id[:ID_CHARS],) if provider_id else ()
            receipts = int(self._gateway.reports)
            return Outcome(Answer("accepted", provider_ids=ids, receipts=receipts))
        now_ms, code = self._clock.now_ms(), f"HTTP {reply.status}"
        rule = self._gateway.refusal(reply.status, body)
        if rule is None:
            answer = answer_of_status(reply, now_ms, server_errors=self._config.server_errors)
            stop = answer.failure == "config"
        else:
            answer = Answer(
                rule.answer,
                failure=rule.failure if rule.answer == "failed" else None,
                code=code,
                retry_after_ms=retry_after_ms(reply, now_ms) if rule.answer != "failed" else None,
            )
            stop = rule.stop
        reason = f"the gateway refuses with {code}: check url, user, password and sender"
        return Outcome(answer, stop=reason if stop else "")

    # ---- being called --------------------------------------------------------------------------

    async def callback(self, request: Callback) -> Reply:
        """A receipt or a customer's message: 200 once it is stored, 503 to have it repeated."""
        fields = form_of(request)
        if not same_secret(fields.get("token", ""), self._config.callback_token):
            self._count("callback_refused")
            return FORBIDDEN
        confirmation = Confirmation()
        if not self._report(fields, confirmation.expect()):
            self._count("callback_malformed")
            return MALFORMED
        if not await confirmation.all_stored():
            self._count("not_stored")
            return NOT_STORED
        return Reply()

    def _report(self, fields: Mapping[str, str], stored: Stored) -> bool:
        receipts, inbound = self._config.receipts, self._config.inbound
        if receipts is not None and receipts.status in fields:
            return self._receipt(fields, stored)
        if inbound is not None and inbound.sender in fields and inbound.text in fields:
            return self._inbound(fields, stored)
        return False

    def _receipt(self, fields: Mapping[str, str], stored: Stored) -> bool:
        names = self._config.receipts
        assert names is not None
        delivery = fields.get(names.delivery, "")
        provider_id = fields.get(names.id, "") if names.id else ""
        if not (is_delivery(delivery) or is_provider_id(provider_id)):
            return False
        status = names.statuses.get(fields[names.status])
        if status is None:
            # A hole in `receipts.statuses`: repeating it would not help, the counter tells.
            self._count("receipt_status_unknown")
            stored(True)
            return True
        code, failure = self._gateway.code_of(fields.get(names.code, ""))
        self._count("receipt")
        self._events.receipt(
            ProviderReceipt(
                status=status,
                at_ms=self._clock.now_ms(),
                provider_id=provider_id if is_provider_id(provider_id) else "",
                delivery=delivery if is_delivery(delivery) else "",
                failure=failure if status == "failed" else None,
                code=code,
            ),
            stored,
        )
        return True

    def _inbound(self, fields: Mapping[str, str], stored: Stored) -> bool:
        names = self._config.inbound
        assert names is not None
        sender, text = fields[names.sender], fields[names.text]
        own_id = fields.get(names.id, "") if names.id else ""
        if not is_inbound(sender, text, own_id):
            return False
        self._count("inbound")
        self._events.inbound(
            ProviderInbound(
                id=own_id,
                sender=spelled(sender, self._sms.config.region),
                content={"text": text},
                at_ms=self._clock.now_ms(),
                opt_out=self._sms.is_opt_out(text),
            ),
            stored,
        )
        return True
